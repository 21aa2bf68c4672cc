/* The inside of cs_gguf: what opening builds and what lookups read. */
#ifndef MODELS_GGUF_INTERNAL_H
#define MODELS_GGUF_INTERNAL_H

#include "models/gguf.h"

#define CS_GGUF_LABEL_BYTES 104

/* GGUF's own numbers for the kinds of metadata. */
enum {
  CS_GGUF_KIND_U8,
  CS_GGUF_KIND_I8,
  CS_GGUF_KIND_U16,
  CS_GGUF_KIND_I16,
  CS_GGUF_KIND_U32,
  CS_GGUF_KIND_I32,
  CS_GGUF_KIND_F32,
  CS_GGUF_KIND_BOOL,
  CS_GGUF_KIND_STRING,
  CS_GGUF_KIND_ARRAY,
  CS_GGUF_KIND_U64,
  CS_GGUF_KIND_I64,
  CS_GGUF_KIND_F64,
  CS_GGUF_KIND_LIMIT
};

/* 0: not of fixed size. */
uint32_t cs_gguf_kind_bytes(uint32_t kind);

int cs_gguf_compare_strings(cs_gguf_string a, cs_gguf_string b);

typedef struct cs_gguf_entry {
  cs_gguf_string key;
  uint32_t kind;
  uint32_t element_kind;  /* of an array */
  uint64_t length;        /* of an array */
  const uint8_t *payload; /* the value, or an array's first element */
  uint64_t *offsets;      /* of an array of strings: where each one's length field stands, owned */
} cs_gguf_entry;

struct cs_gguf {
  char *path;
  char label[CS_GGUF_LABEL_BYTES]; /* the path as errors show it */
  const uint8_t *data;
  size_t bytes;
  bool mapped;
  cs_gguf_entry *entries; /* sorted by key */
  size_t n_entries;
  cs_gguf_tensor *tensors; /* in the file's order */
  size_t n_tensors;
  const cs_gguf_tensor **by_name;
};

/* CS_DTYPE_NONE for a tensor type that is not known. */
uint32_t cs_gguf_type_dtype(uint32_t file_type);

/* Replaces control characters, so that text from a file stays on one line. */
void cs_gguf_make_printable(char *text);

#endif
