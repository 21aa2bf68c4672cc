/* GGUF files (version 2 and 3): metadata and tensors of a memory-mapped file. Every count, size and
 * offset is checked when the file is opened, so that nothing read later can leave the mapping. */
#ifndef MODELS_GGUF_H
#define MODELS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"
#include "consort/types.h"

typedef struct cs_gguf cs_gguf;

typedef struct cs_gguf_string { /* not NUL-terminated; borrowed from the mapping */
  const char *data;
  size_t bytes;
} cs_gguf_string;

typedef struct cs_gguf_tensor {
  cs_gguf_string name;
  uint32_t dtype;     /* CS_DTYPE_*; CS_DTYPE_NONE for a type that this version does not know */
  uint32_t file_type; /* GGUF's own number */
  uint32_t rank;
  uint64_t dims[CS_MAX_RANK]; /* outermost first: the reverse of the file's order */
  const void *data;           /* borrowed from the mapping; NULL when dtype is CS_DTYPE_NONE */
  uint64_t bytes;
  const void *const *parts; /* NULL, or the n_parts equal pieces that stand in place of data: one
                               for each index of dims[0] */
  uint64_t n_parts;
} cs_gguf_tensor;

/* Maps `path`, and the other files where it is one of several ("NAME-00001-of-00003.gguf", any of
 * them): the metadata is the first one's, the tensors are all files'. Errors name the file, the
 * field and the reason: CS_NOT_FOUND, CS_IO, CS_CORRUPT, CS_UNSUPPORTED (version, byte order),
 * CS_OUT_OF_MEMORY. */
cs_status cs_gguf_open(const char *path, cs_gguf **out, cs_error *error);

/* The same over memory that outlives the result and is aligned as malloc does it (tests and
 * fuzzing); `name` stands for the path. */
cs_status cs_gguf_open_memory(const char *name, const void *data, size_t bytes, cs_gguf **out,
                              cs_error *error);
void cs_gguf_close(cs_gguf *gguf);

/* Fills *error (may be NULL) with "FILE: " and a printf-style reason, on one line whatever the
 * file's own strings hold. Returns code. */
cs_status cs_gguf_fail(const cs_gguf *gguf, cs_error *error, cs_status code, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));

const char *cs_gguf_path(const cs_gguf *gguf);
/* Whether RoPE's pairs are the halves of a head, (i, i + n_rot / 2), whatever the architecture's
 * converter would have made of them: true for the transformers library's folders. */
bool cs_gguf_has_split_heads(const cs_gguf *gguf);
uint64_t cs_gguf_bytes(const cs_gguf *gguf); /* size of the file */
size_t cs_gguf_n_tensors(const cs_gguf *gguf);
const cs_gguf_tensor *cs_gguf_tensor_at(const cs_gguf *gguf, size_t index);
/* "q2_k" for a GGUF tensor type, "unknown" for a number that has no name here. */
const char *cs_gguf_type_name(uint32_t file_type);
/* NULL when absent. */
const cs_gguf_tensor *cs_gguf_find_tensor(const cs_gguf *gguf, const char *name);

/* Metadata. false when the key is absent or of another kind; integers convert between widths when
 * the value fits, floats between f32 and f64. */
bool cs_gguf_get_u64(const cs_gguf *gguf, const char *key, uint64_t *value);
bool cs_gguf_get_f64(const cs_gguf *gguf, const char *key, double *value);
bool cs_gguf_get_bool(const cs_gguf *gguf, const char *key, bool *value);
bool cs_gguf_get_string(const cs_gguf *gguf, const char *key, cs_gguf_string *value);
bool cs_gguf_has(const cs_gguf *gguf, const char *key);

/* Copies as many whole characters as fit `capacity` bytes with the terminating NUL. Control
 * characters and bytes that are not UTF-8 become '?', so that the result can be shown anywhere. */
void cs_gguf_copy_string(char *to, size_t capacity, cs_gguf_string from);

/* Arrays. The length, or 0 when the key is absent or no array. */
uint64_t cs_gguf_array_length(const cs_gguf *gguf, const char *key);
bool cs_gguf_array_string(const cs_gguf *gguf, const char *key, uint64_t index,
                          cs_gguf_string *value);
bool cs_gguf_array_f64(const cs_gguf *gguf, const char *key, uint64_t index, double *value);
bool cs_gguf_array_u64(const cs_gguf *gguf, const char *key, uint64_t index, uint64_t *value);
/* The first n elements of an array of 8-bit integers of either sign. */
bool cs_gguf_array_bytes(const cs_gguf *gguf, const char *key, char *to, size_t n);

#endif
