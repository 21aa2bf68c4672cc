/* The inside of cs_gguf: what opening builds and what lookups read. */
#ifndef MODELS_GGUF_INTERNAL_H
#define MODELS_GGUF_INTERNAL_H

#include "models/gguf.h"
#include "models/mapped_file.h"

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
  const uint8_t *raw;     /* all of the value as the file has it, an array's header included */
  size_t raw_bytes;
} cs_gguf_entry;

struct cs_gguf {
  char *path;
  char label[CS_FILE_LABEL_BYTES];
  cs_mapped_file file;
  bool mapped;            /* file is this object's to close */
  cs_gguf_entry *entries; /* sorted by key */
  size_t n_entries;
  cs_gguf_tensor *tensors; /* in the file's order */
  size_t n_tensors;
  const cs_gguf_tensor **by_name;
  cs_gguf **parts; /* the further files of a model in several, owned */
  size_t n_parts;
  bool split_heads;
  void *source; /* what the tensors point into when it is no GGUF file, owned */
  void (*source_destroy)(void *source);
  uint64_t source_bytes; /* of its files */
};

/* Sorts tensors by name; CS_CORRUPT names one that appears twice. */
cs_status cs_gguf_sort_tensors(cs_gguf *gguf, cs_error *error);

/* One file, whatever it says of others. */
cs_status cs_gguf_open_one(const char *path, cs_gguf **out, cs_error *error);

/* CS_DTYPE_NONE for a tensor type that is not known. */
uint32_t cs_gguf_type_dtype(uint32_t file_type);
/* The other way; UINT32_MAX for a dtype that no GGUF tensor has. */
uint32_t cs_gguf_type_of(uint32_t dtype);

#endif
