/* The head of a GGUF file, version 3: metadata and the table of tensors. */
#ifndef MODELS_GGUF_WRITER_H
#define MODELS_GGUF_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/gguf.h"

#define CS_GGUF_ALIGNMENT 32 /* of tensor data, in files that are written here */

/* Running out of memory is remembered and told by cs_gguf_writer_finish. Keys are copied. */
typedef struct cs_gguf_writer cs_gguf_writer;

cs_gguf_writer *cs_gguf_writer_create(void); /* NULL when out of memory */
void cs_gguf_writer_destroy(cs_gguf_writer *writer);

void cs_gguf_write_u32(cs_gguf_writer *writer, const char *key, uint32_t value);
void cs_gguf_write_f32(cs_gguf_writer *writer, const char *key, float value);
void cs_gguf_write_bool(cs_gguf_writer *writer, const char *key, bool value);
void cs_gguf_write_string(cs_gguf_writer *writer, const char *key, const char *value);

/* Begins an array of n elements of a CS_GGUF_KIND_*; they follow, as bytes or one string a call. */
void cs_gguf_write_array(cs_gguf_writer *writer, const char *key, uint32_t kind, uint64_t n);
void cs_gguf_write_elements(cs_gguf_writer *writer, const void *data, size_t bytes);
void cs_gguf_write_string_element(cs_gguf_writer *writer, const char *data, size_t bytes);

/* Copies all metadata of `from` but the keys that `skip` (may be NULL) says yes to. */
void cs_gguf_write_metadata_of(cs_gguf_writer *writer, const cs_gguf *from,
                               bool (*skip)(void *user, cs_gguf_string key), void *user);

/* Adds a tensor of `bytes` bytes; dims outermost first. Data follow in the order of these calls,
 * each padded to CS_GGUF_ALIGNMENT. */
void cs_gguf_write_tensor(cs_gguf_writer *writer, cs_gguf_string name, uint32_t file_type,
                          uint32_t rank, const uint64_t *dims, uint64_t bytes);

/* All bytes before the first tensor's data, padding included; *head is to be freed by the caller.
 * CS_OUT_OF_MEMORY. */
cs_status cs_gguf_writer_finish(cs_gguf_writer *writer, void **head, size_t *head_bytes,
                                cs_error *error);

#endif
