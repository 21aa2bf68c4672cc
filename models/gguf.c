/* A GGUF file is a header, `n` metadata entries, `m` tensor descriptions, padding, and tensor data.
 * One cursor walks it once, front to back; each step first compares what it wants with what is
 * left, so no arithmetic on sizes from the file can wrap, and no count is believed before the
 * bytes that it would need have been seen to exist. After that pass every payload pointer stands
 * for bytes that are there, and lookups need no further checks. */
#include "models/gguf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "models/gguf_internal.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF is read in place: the machine must be little-endian"
#endif

#define ALIGNMENT_DEFAULT 32
#define MIN_ALIGNMENT     8
#define MIN_ENTRY_BYTES   13 /* key length, type, one byte of value */
#define MIN_TENSOR_BYTES  32 /* name length, rank, one dimension, type, offset */
#define MAX_NESTING       4  /* arrays in arrays */

typedef struct cursor {
  const uint8_t *data;
  size_t bytes;
  size_t at;
} cursor;

cs_status cs_gguf_fail(const cs_gguf *gguf, cs_error *error, cs_status code, const char *format,
                       ...) {
  char reason[CS_ERROR_MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  cs_text_make_printable(reason);
  return cs_error_set(error, code, "%s: %s", gguf->label, reason);
}

/* How much of a name from the file goes into a message. */
static int shown(cs_gguf_string string) {
  return string.bytes > 64 ? 64 : (int)string.bytes;
}

static cs_status fail_cut(const cs_gguf *gguf, cs_error *error, const char *where, uint64_t index) {
  return cs_gguf_fail(gguf, error, CS_CORRUPT, "%s %llu: the file ends too early, at byte %zu",
                      where, (unsigned long long)index, gguf->file.bytes);
}

/* ---- cursor ------------------------------------------------------------------------------ */

static uint64_t left(const cursor *c) {
  return c->bytes - c->at;
}

/* The next n bytes; NULL when fewer are left. */
static const uint8_t *take(cursor *c, uint64_t n) {
  if (n > left(c)) return NULL;
  const uint8_t *taken = c->data + c->at;
  c->at += (size_t)n;
  return taken;
}

static bool take_u32(cursor *c, uint32_t *value) {
  const uint8_t *from = take(c, sizeof *value);
  if (from) memcpy(value, from, sizeof *value);
  return from != NULL;
}

static bool take_u64(cursor *c, uint64_t *value) {
  const uint8_t *from = take(c, sizeof *value);
  if (from) memcpy(value, from, sizeof *value);
  return from != NULL;
}

static bool take_string(cursor *c, cs_gguf_string *string) {
  uint64_t bytes;
  if (!take_u64(c, &bytes)) return false;
  string->data = (const char *)take(c, bytes);
  string->bytes = (size_t)bytes;
  return string->data != NULL;
}

/* ---- metadata ---------------------------------------------------------------------------- */

static cs_status parse_array(cs_gguf *gguf, cursor *c, cs_gguf_entry *e, uint32_t nesting,
                             cs_error *error);

static cs_status parse_value(cs_gguf *gguf, cursor *c, cs_gguf_entry *e, uint32_t nesting,
                             cs_error *error) {
  if (e->kind >= CS_GGUF_KIND_LIMIT)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"%.*s\": unknown kind of value, %u",
                        shown(e->key), e->key.data, e->kind);
  if (e->kind == CS_GGUF_KIND_ARRAY) return parse_array(gguf, c, e, nesting, error);
  e->payload = c->data + c->at;
  cs_gguf_string string;
  const bool complete = e->kind == CS_GGUF_KIND_STRING
                            ? take_string(c, &string)
                            : take(c, cs_gguf_kind_bytes(e->kind)) != NULL;
  if (!complete)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"%.*s\": the value leaves the file",
                        shown(e->key), e->key.data);
  if (e->kind == CS_GGUF_KIND_BOOL && *e->payload > 1)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"%.*s\": neither true nor false",
                        shown(e->key), e->key.data);
  return CS_OK;
}

/* Strings differ in length, so that their places are written down. */
static bool parse_strings(cursor *c, cs_gguf_entry *e) {
  for (uint64_t i = 0; i < e->length; i++) {
    cs_gguf_string string;
    e->offsets[i] = c->at;
    if (!take_string(c, &string)) return false;
  }
  return true;
}

static cs_status parse_arrays(cs_gguf *gguf, cursor *c, const cs_gguf_entry *e, uint32_t nesting,
                              cs_error *error) {
  for (uint64_t i = 0; i < e->length; i++) {
    cs_gguf_entry element = {.key = e->key, .kind = CS_GGUF_KIND_ARRAY};
    const cs_status status = parse_array(gguf, c, &element, nesting + 1, error);
    free(element.offsets);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

static cs_status parse_array(cs_gguf *gguf, cursor *c, cs_gguf_entry *e, uint32_t nesting,
                             cs_error *error) {
  const char *key = e->key.data;
  if (!take_u32(c, &e->element_kind) || !take_u64(c, &e->length))
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"%.*s\": the array leaves the file",
                        shown(e->key), key);
  if (e->element_kind >= CS_GGUF_KIND_LIMIT || nesting >= MAX_NESTING)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"%.*s\": unknown kind of array, %u",
                        shown(e->key), key, e->element_kind);
  const uint32_t fixed = cs_gguf_kind_bytes(e->element_kind);
  const uint32_t smallest = fixed ? fixed : e->element_kind == CS_GGUF_KIND_STRING ? 8 : 12;
  if (e->length > left(c) / smallest)
    return cs_gguf_fail(gguf, error, CS_CORRUPT,
                        "key \"%.*s\": an array of %llu elements leaves the file", shown(e->key),
                        key, (unsigned long long)e->length);
  e->payload = c->data + c->at;
  if (fixed) {
    take(c, e->length * fixed);
    return CS_OK;
  }
  if (e->element_kind == CS_GGUF_KIND_ARRAY) return parse_arrays(gguf, c, e, nesting, error);
  e->offsets = malloc((e->length ? e->length : 1) * sizeof *e->offsets);
  if (!e->offsets) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  if (!parse_strings(c, e))
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"%.*s\": a string leaves the file",
                        shown(e->key), key);
  return CS_OK;
}

static int compare_entries(const void *a, const void *b) {
  return cs_gguf_compare_strings(((const cs_gguf_entry *)a)->key, ((const cs_gguf_entry *)b)->key);
}

static cs_status parse_entries(cs_gguf *gguf, cursor *c, uint64_t n, cs_error *error) {
  if (n > left(c) / MIN_ENTRY_BYTES)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "header: %llu metadata keys do not fit the file",
                        (unsigned long long)n);
  gguf->entries = calloc(n ? n : 1, sizeof *gguf->entries);
  if (!gguf->entries) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  for (uint64_t i = 0; i < n; i++) {
    cs_gguf_entry *e = &gguf->entries[i];
    gguf->n_entries++;
    if (!take_string(c, &e->key) || !take_u32(c, &e->kind))
      return fail_cut(gguf, error, "metadata key", i);
    e->raw = c->data + c->at;
    const cs_status status = parse_value(gguf, c, e, 0, error);
    if (status != CS_OK) return status;
    e->raw_bytes = (size_t)(c->data + c->at - e->raw);
  }
  qsort(gguf->entries, gguf->n_entries, sizeof *gguf->entries, compare_entries);
  for (size_t i = 1; i < gguf->n_entries; i++) {
    const cs_gguf_string key = gguf->entries[i].key;
    if (cs_gguf_compare_strings(gguf->entries[i - 1].key, key) == 0)
      return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"%.*s\" appears twice", shown(key),
                          key.data);
  }
  return CS_OK;
}

/* ---- tensors ----------------------------------------------------------------------------- */

static cs_status parse_dims(cs_gguf *gguf, cursor *c, cs_gguf_tensor *t, cs_error *error) {
  if (t->rank == 0 || t->rank > CS_MAX_RANK)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "tensor \"%.*s\": rank %u is not 1 to %d",
                        shown(t->name), t->name.data, t->rank, CS_MAX_RANK);
  for (uint32_t i = t->rank; i-- > 0;) {
    if (!take_u64(c, &t->dims[i]))
      return cs_gguf_fail(gguf, error, CS_CORRUPT, "tensor \"%.*s\": the file ends in its shape",
                          shown(t->name), t->name.data);
    if (t->dims[i] == 0)
      return cs_gguf_fail(gguf, error, CS_CORRUPT, "tensor \"%.*s\": a dimension is 0",
                          shown(t->name), t->name.data);
  }
  return CS_OK;
}

static cs_status size_tensor(const cs_gguf *gguf, cs_gguf_tensor *t, cs_error *error) {
  uint64_t n_elements = 1;
  bool fits = true;
  for (uint32_t i = 0; i < t->rank; i++)
    fits = fits && !__builtin_mul_overflow(n_elements, t->dims[i], &n_elements);
  if (!fits)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "tensor \"%.*s\": its size overflows",
                        shown(t->name), t->name.data);
  t->dtype = cs_gguf_type_dtype(t->file_type);
  if (t->dtype == CS_DTYPE_NONE) return CS_OK;
  const uint32_t block = cs_dtype_find(t->dtype)->block_elements;
  if (t->dims[t->rank - 1] % block != 0)
    return cs_gguf_fail(gguf, error, CS_CORRUPT,
                        "tensor \"%.*s\": rows of %llu elements are not whole %s blocks of %u",
                        shown(t->name), t->name.data, (unsigned long long)t->dims[t->rank - 1],
                        cs_gguf_type_name(t->file_type), block);
  if (cs_dtype_bytes(t->dtype, n_elements, &t->bytes) != CS_OK)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "tensor \"%.*s\": its size overflows",
                        shown(t->name), t->name.data);
  return CS_OK;
}

static int compare_tensors(const void *a, const void *b) {
  return cs_gguf_compare_strings((*(const cs_gguf_tensor *const *)a)->name,
                                 (*(const cs_gguf_tensor *const *)b)->name);
}

cs_status cs_gguf_sort_tensors(cs_gguf *gguf, cs_error *error) {
  for (size_t i = 0; i < gguf->n_tensors; i++)
    gguf->by_name[i] = &gguf->tensors[i];
  qsort(gguf->by_name, gguf->n_tensors, sizeof *gguf->by_name, compare_tensors);
  for (size_t i = 1; i < gguf->n_tensors; i++) {
    const cs_gguf_string name = gguf->by_name[i]->name;
    if (cs_gguf_compare_strings(gguf->by_name[i - 1]->name, name) == 0)
      return cs_gguf_fail(gguf, error, CS_CORRUPT, "tensor \"%.*s\" appears twice", shown(name),
                          name.data);
  }
  return CS_OK;
}

/* Leaves each tensor's offset within the data section in `offsets`. */
static cs_status parse_tensors(cs_gguf *gguf, cursor *c, uint64_t *offsets, cs_error *error) {
  for (size_t i = 0; i < gguf->n_tensors; i++) {
    cs_gguf_tensor *t = &gguf->tensors[i];
    if (!take_string(c, &t->name) || !take_u32(c, &t->rank))
      return fail_cut(gguf, error, "tensor", i);
    cs_status status = parse_dims(gguf, c, t, error);
    if (status != CS_OK) return status;
    if (!take_u32(c, &t->file_type) || !take_u64(c, &offsets[i]))
      return fail_cut(gguf, error, "tensor", i);
    status = size_tensor(gguf, t, error);
    if (status != CS_OK) return status;
  }
  return cs_gguf_sort_tensors(gguf, error);
}

static cs_status read_alignment(const cs_gguf *gguf, uint64_t *alignment, cs_error *error) {
  *alignment = ALIGNMENT_DEFAULT;
  if (!cs_gguf_has(gguf, "general.alignment")) return CS_OK;
  if (!cs_gguf_get_u64(gguf, "general.alignment", alignment) || *alignment < MIN_ALIGNMENT ||
      *alignment > UINT32_MAX || (*alignment & (*alignment - 1)) != 0)
    return cs_gguf_fail(gguf, error, CS_CORRUPT,
                        "key \"general.alignment\": not a power of two of at least %d",
                        MIN_ALIGNMENT);
  return CS_OK;
}

/* The data section begins at the next multiple of the alignment after the descriptions. */
static cs_status place_tensors(cs_gguf *gguf, const cursor *c, const uint64_t *offsets,
                               cs_error *error) {
  uint64_t alignment;
  const cs_status status = read_alignment(gguf, &alignment, error);
  if (status != CS_OK) return status;
  const uint64_t padding = (alignment - c->at % alignment) % alignment;
  const uint64_t space = padding > left(c) ? 0 : left(c) - padding;
  for (size_t i = 0; i < gguf->n_tensors; i++) {
    cs_gguf_tensor *t = &gguf->tensors[i];
    if (offsets[i] % alignment != 0)
      return cs_gguf_fail(gguf, error, CS_CORRUPT,
                          "tensor \"%.*s\": offset %llu is not a multiple of %llu", shown(t->name),
                          t->name.data, (unsigned long long)offsets[i],
                          (unsigned long long)alignment);
    if (offsets[i] > space || t->bytes > space - offsets[i])
      return cs_gguf_fail(gguf, error, CS_CORRUPT,
                          "tensor \"%.*s\": %llu bytes at offset %llu leave the file",
                          shown(t->name), t->name.data, (unsigned long long)t->bytes,
                          (unsigned long long)offsets[i]);
    if (t->dtype != CS_DTYPE_NONE) t->data = c->data + c->at + padding + offsets[i];
  }
  return CS_OK;
}

/* ---- opening ----------------------------------------------------------------------------- */

static cs_status parse_header(cs_gguf *gguf, cursor *c, uint64_t *n_tensors, uint64_t *n_entries,
                              cs_error *error) {
  if (gguf->file.bytes == 0) return cs_gguf_fail(gguf, error, CS_CORRUPT, "the file is empty");
  const uint8_t *magic = take(c, 4);
  if (!magic || memcmp(magic, "GGUF", 4) != 0)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "not a GGUF file (wrong magic)");
  uint32_t version;
  if (!take_u32(c, &version))
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "header: the file ends too early");
  if ((version & 0xffff) == 0 && version != 0)
    return cs_gguf_fail(gguf, error, CS_UNSUPPORTED, "header: big-endian files are not supported");
  if (version != 2 && version != 3)
    return cs_gguf_fail(gguf, error, CS_UNSUPPORTED,
                        "header: GGUF version %u is not supported (2 and 3 are)", version);
  if (!take_u64(c, n_tensors) || !take_u64(c, n_entries))
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "header: the file ends too early");
  return CS_OK;
}

static cs_status parse_file(cs_gguf *gguf, cs_error *error) {
  cursor c = {.data = gguf->file.data, .bytes = gguf->file.bytes};
  uint64_t n_tensors = 0;
  uint64_t n_entries = 0;
  cs_status status = parse_header(gguf, &c, &n_tensors, &n_entries, error);
  if (status != CS_OK) return status;
  status = parse_entries(gguf, &c, n_entries, error);
  if (status != CS_OK) return status;
  if (n_tensors > left(&c) / MIN_TENSOR_BYTES)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "header: %llu tensors do not fit the file",
                        (unsigned long long)n_tensors);
  gguf->n_tensors = (size_t)n_tensors;
  const size_t n_slots = gguf->n_tensors ? gguf->n_tensors : 1;
  gguf->tensors = calloc(n_slots, sizeof *gguf->tensors);
  gguf->by_name = calloc(n_slots, sizeof *gguf->by_name);
  uint64_t *offsets = calloc(n_slots, sizeof *offsets);
  if (!gguf->tensors || !gguf->by_name || !offsets)
    status = cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  if (status == CS_OK) status = parse_tensors(gguf, &c, offsets, error);
  if (status == CS_OK) status = place_tensors(gguf, &c, offsets, error);
  free(offsets);
  return status;
}

/* An object that knows its name, so that everything after can say which file is meant. */
static cs_gguf *create_named(const char *path) {
  cs_gguf *gguf = calloc(1, sizeof *gguf);
  if (!gguf) return NULL;
  gguf->path = strdup(path);
  if (!gguf->path) {
    free(gguf);
    return NULL;
  }
  cs_file_label(path, gguf->label);
  return gguf;
}

static cs_status finish_open(cs_gguf *gguf, cs_status status, cs_gguf **out, cs_error *error) {
  if (status == CS_OK) status = parse_file(gguf, error);
  if (status != CS_OK) {
    cs_gguf_close(gguf);
    return status;
  }
  *out = gguf;
  return CS_OK;
}

cs_status cs_gguf_open_one(const char *path, cs_gguf **out, cs_error *error) {
  *out = NULL;
  cs_gguf *gguf = create_named(path);
  if (!gguf) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const cs_status status = cs_mapped_file_open(path, gguf->label, &gguf->file, error);
  gguf->mapped = true;
  return finish_open(gguf, status, out, error);
}

cs_status cs_gguf_open_memory(const char *name, const void *data, size_t bytes, cs_gguf **out,
                              cs_error *error) {
  *out = NULL;
  cs_gguf *gguf = create_named(name);
  if (!gguf) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  gguf->file = (cs_mapped_file){.data = data, .bytes = bytes};
  return finish_open(gguf, CS_OK, out, error);
}

void cs_gguf_close(cs_gguf *gguf) {
  if (!gguf) return;
  for (size_t i = 0; i < gguf->n_entries; i++)
    free(gguf->entries[i].offsets);
  free(gguf->entries);
  free(gguf->tensors);
  free(gguf->by_name);
  for (size_t i = 0; i < gguf->n_parts; i++)
    cs_gguf_close(gguf->parts[i]);
  free(gguf->parts);
  if (gguf->source_destroy) gguf->source_destroy(gguf->source);
  if (gguf->mapped) cs_mapped_file_close(&gguf->file);
  free(gguf->path);
  free(gguf);
}
