/* Two growing buffers, metadata and tensor table, are joined behind the header once their counts
 * are known. */
#include "models/gguf_writer.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/gguf_internal.h"

typedef struct buffer {
  uint8_t *data;
  size_t bytes;
  size_t capacity;
} buffer;

struct cs_gguf_writer {
  buffer entries;
  buffer tensors;
  uint64_t n_entries;
  uint64_t n_tensors;
  uint64_t offset; /* of the next tensor's data */
  bool failed;
};

static void put(cs_gguf_writer *writer, buffer *b, const void *from, size_t bytes) {
  if (writer->failed || bytes == 0) return;
  if (b->capacity - b->bytes < bytes) {
    const size_t capacity = (b->capacity + bytes) * 2;
    uint8_t *larger = realloc(b->data, capacity);
    if (!larger) {
      writer->failed = true;
      return;
    }
    b->data = larger;
    b->capacity = capacity;
  }
  memcpy(b->data + b->bytes, from, bytes);
  b->bytes += bytes;
}

static void put_u32(cs_gguf_writer *writer, buffer *b, uint32_t value) {
  put(writer, b, &value, sizeof value);
}

static void put_u64(cs_gguf_writer *writer, buffer *b, uint64_t value) {
  put(writer, b, &value, sizeof value);
}

static void put_text(cs_gguf_writer *writer, buffer *b, const char *text, size_t bytes) {
  put_u64(writer, b, bytes);
  put(writer, b, text, bytes);
}

static void put_entry(cs_gguf_writer *writer, cs_gguf_string key, uint32_t kind, const void *value,
                      size_t bytes) {
  put_text(writer, &writer->entries, key.data, key.bytes);
  put_u32(writer, &writer->entries, kind);
  put(writer, &writer->entries, value, bytes);
  writer->n_entries++;
}

static cs_gguf_string text(const char *string) {
  return (cs_gguf_string){string, strlen(string)};
}

cs_gguf_writer *cs_gguf_writer_create(void) {
  return calloc(1, sizeof(cs_gguf_writer));
}

void cs_gguf_writer_destroy(cs_gguf_writer *writer) {
  if (!writer) return;
  free(writer->entries.data);
  free(writer->tensors.data);
  free(writer);
}

void cs_gguf_write_u32(cs_gguf_writer *writer, const char *key, uint32_t value) {
  put_entry(writer, text(key), CS_GGUF_KIND_U32, &value, sizeof value);
}

void cs_gguf_write_f32(cs_gguf_writer *writer, const char *key, float value) {
  put_entry(writer, text(key), CS_GGUF_KIND_F32, &value, sizeof value);
}

void cs_gguf_write_bool(cs_gguf_writer *writer, const char *key, bool value) {
  const uint8_t byte = value;
  put_entry(writer, text(key), CS_GGUF_KIND_BOOL, &byte, sizeof byte);
}

void cs_gguf_write_string(cs_gguf_writer *writer, const char *key, const char *value) {
  put_entry(writer, text(key), CS_GGUF_KIND_STRING, NULL, 0);
  put_text(writer, &writer->entries, value, strlen(value));
}

void cs_gguf_write_array(cs_gguf_writer *writer, const char *key, uint32_t kind, uint64_t n) {
  put_entry(writer, text(key), CS_GGUF_KIND_ARRAY, &kind, sizeof kind);
  put_u64(writer, &writer->entries, n);
}

void cs_gguf_write_elements(cs_gguf_writer *writer, const void *data, size_t bytes) {
  put(writer, &writer->entries, data, bytes);
}

void cs_gguf_write_string_element(cs_gguf_writer *writer, const char *data, size_t bytes) {
  put_text(writer, &writer->entries, data, bytes);
}

void cs_gguf_write_metadata_of(cs_gguf_writer *writer, const cs_gguf *from,
                               bool (*skip)(void *user, cs_gguf_string key), void *user) {
  for (size_t i = 0; i < from->n_entries; i++) {
    const cs_gguf_entry *e = &from->entries[i];
    if (!skip || !skip(user, e->key)) put_entry(writer, e->key, e->kind, e->raw, e->raw_bytes);
  }
}

static uint64_t round_up(uint64_t n) {
  return (n + CS_GGUF_ALIGNMENT - 1) / CS_GGUF_ALIGNMENT * CS_GGUF_ALIGNMENT;
}

void cs_gguf_write_tensor(cs_gguf_writer *writer, cs_gguf_string name, uint32_t file_type,
                          uint32_t rank, const uint64_t *dims, uint64_t bytes) {
  buffer *b = &writer->tensors;
  put_text(writer, b, name.data, name.bytes);
  put_u32(writer, b, rank);
  for (uint32_t i = rank; i-- > 0;)
    put_u64(writer, b, dims[i]);
  put_u32(writer, b, file_type);
  put_u64(writer, b, writer->offset);
  writer->offset += round_up(bytes);
  writer->n_tensors++;
}

cs_status cs_gguf_writer_finish(cs_gguf_writer *writer, void **head, size_t *head_bytes,
                                cs_error *error) {
  *head = NULL;
  buffer all = {0};
  put(writer, &all, "GGUF", 4);
  put_u32(writer, &all, 3);
  put_u64(writer, &all, writer->n_tensors);
  put_u64(writer, &all, writer->n_entries);
  put(writer, &all, writer->entries.data, writer->entries.bytes);
  put(writer, &all, writer->tensors.data, writer->tensors.bytes);
  static const uint8_t zeros[CS_GGUF_ALIGNMENT];
  put(writer, &all, zeros, (size_t)(round_up(all.bytes) - all.bytes));
  if (writer->failed) {
    free(all.data);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  }
  *head = all.data;
  *head_bytes = all.bytes;
  return CS_OK;
}
