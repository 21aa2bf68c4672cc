/* What can be asked of an open file. The entries are sorted by key and the payloads were checked
 * when the file was opened, so that a lookup is a binary search and a copy. Values are copied out
 * with memcpy because nothing in the file is aligned but tensor data. */
#include <stdlib.h>
#include <string.h>

#include "models/gguf_internal.h"
#include "models/mapped_file.h"
#include "models/utf8.h"

typedef struct tensor_type {
  const char *name;
  uint32_t dtype;
} tensor_type;

static const tensor_type tensor_types[] = {
    [0] = {"f32", CS_DTYPE_F32},        [1] = {"f16", CS_DTYPE_F16},
    [2] = {"q4_0", CS_DTYPE_Q4_0},      [3] = {"q4_1", CS_DTYPE_Q4_1},
    [6] = {"q5_0", CS_DTYPE_Q5_0},      [7] = {"q5_1", CS_DTYPE_Q5_1},
    [8] = {"q8_0", CS_DTYPE_Q8_0},      [9] = {"q8_1", CS_DTYPE_NONE},
    [10] = {"q2_k", CS_DTYPE_Q2_K},     [11] = {"q3_k", CS_DTYPE_Q3_K},
    [12] = {"q4_k", CS_DTYPE_Q4_K},     [13] = {"q5_k", CS_DTYPE_Q5_K},
    [14] = {"q6_k", CS_DTYPE_Q6_K},     [15] = {"q8_k", CS_DTYPE_NONE},
    [16] = {"iq2_xxs", CS_DTYPE_NONE},  [17] = {"iq2_xs", CS_DTYPE_NONE},
    [18] = {"iq3_xxs", CS_DTYPE_NONE},  [19] = {"iq1_s", CS_DTYPE_NONE},
    [20] = {"iq4_nl", CS_DTYPE_IQ4_NL}, [21] = {"iq3_s", CS_DTYPE_NONE},
    [22] = {"iq2_s", CS_DTYPE_NONE},    [23] = {"iq4_xs", CS_DTYPE_IQ4_XS},
    [24] = {"i8", CS_DTYPE_I8},         [25] = {"i16", CS_DTYPE_NONE},
    [26] = {"i32", CS_DTYPE_I32},       [27] = {"i64", CS_DTYPE_NONE},
    [28] = {"f64", CS_DTYPE_NONE},      [29] = {"iq1_m", CS_DTYPE_NONE},
    [30] = {"bf16", CS_DTYPE_BF16},     [34] = {"tq1_0", CS_DTYPE_NONE},
    [35] = {"tq2_0", CS_DTYPE_NONE},    [39] = {"mxfp4", CS_DTYPE_NONE},
};

static const tensor_type *find_tensor_type(uint32_t file_type) {
  static const tensor_type unknown = {"unknown", CS_DTYPE_NONE};
  if (file_type >= sizeof tensor_types / sizeof tensor_types[0]) return &unknown;
  return tensor_types[file_type].name ? &tensor_types[file_type] : &unknown;
}

uint32_t cs_gguf_type_dtype(uint32_t file_type) {
  return find_tensor_type(file_type)->dtype;
}

uint32_t cs_gguf_type_of(uint32_t dtype) {
  for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++)
    if (tensor_types[i].dtype == dtype) return (uint32_t)i;
  return UINT32_MAX;
}

const char *cs_gguf_type_name(uint32_t file_type) {
  return find_tensor_type(file_type)->name;
}

uint32_t cs_gguf_kind_bytes(uint32_t kind) {
  static const uint8_t bytes[CS_GGUF_KIND_LIMIT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return bytes[kind];
}

int cs_gguf_compare_strings(cs_gguf_string a, cs_gguf_string b) {
  const size_t common = a.bytes < b.bytes ? a.bytes : b.bytes;
  const int order = common ? memcmp(a.data, b.data, common) : 0;
  if (order != 0) return order;
  return a.bytes < b.bytes ? -1 : a.bytes > b.bytes;
}

const char *cs_gguf_path(const cs_gguf *gguf) {
  return gguf->path;
}

bool cs_gguf_has_split_heads(const cs_gguf *gguf) {
  return gguf->split_heads;
}

uint64_t cs_gguf_bytes(const cs_gguf *gguf) {
  uint64_t bytes = gguf->source ? gguf->source_bytes : gguf->file.bytes;
  for (size_t i = 0; i < gguf->n_parts; i++)
    bytes += gguf->parts[i]->file.bytes;
  return bytes;
}

size_t cs_gguf_n_tensors(const cs_gguf *gguf) {
  return gguf->n_tensors;
}

const cs_gguf_tensor *cs_gguf_tensor_at(const cs_gguf *gguf, size_t index) {
  return index < gguf->n_tensors ? &gguf->tensors[index] : NULL;
}

static int compare_tensors(const void *name, const void *tensor) {
  return cs_gguf_compare_strings(*(const cs_gguf_string *)name,
                                 (*(const cs_gguf_tensor *const *)tensor)->name);
}

const cs_gguf_tensor *cs_gguf_find_tensor(const cs_gguf *gguf, const char *name) {
  const cs_gguf_string wanted = {name, strlen(name)};
  const cs_gguf_tensor **found =
      bsearch(&wanted, gguf->by_name, gguf->n_tensors, sizeof *gguf->by_name, compare_tensors);
  return found ? *found : NULL;
}

static int compare_entries(const void *key, const void *entry) {
  return cs_gguf_compare_strings(*(const cs_gguf_string *)key, ((const cs_gguf_entry *)entry)->key);
}

static const cs_gguf_entry *find_entry(const cs_gguf *gguf, const char *key) {
  const cs_gguf_string wanted = {key, strlen(key)};
  return bsearch(&wanted, gguf->entries, gguf->n_entries, sizeof *gguf->entries, compare_entries);
}

/* A non-negative integer of any width. */
static bool decode_u64(uint32_t kind, const uint8_t *from, uint64_t *value) {
  if (kind >= CS_GGUF_KIND_LIMIT || kind == CS_GGUF_KIND_F32 || kind == CS_GGUF_KIND_F64 ||
      kind == CS_GGUF_KIND_BOOL)
    return false;
  const uint32_t bytes = cs_gguf_kind_bytes(kind);
  if (bytes == 0) return false;
  uint64_t raw = 0;
  memcpy(&raw, from, bytes);
  const bool is_signed = kind == CS_GGUF_KIND_I8 || kind == CS_GGUF_KIND_I16 ||
                         kind == CS_GGUF_KIND_I32 || kind == CS_GGUF_KIND_I64;
  if (is_signed && (raw >> (8 * bytes - 1) & 1)) return false;
  *value = raw;
  return true;
}

static bool decode_f64(uint32_t kind, const uint8_t *from, double *value) {
  float narrow;
  if (kind == CS_GGUF_KIND_F64) {
    memcpy(value, from, sizeof *value);
  } else if (kind == CS_GGUF_KIND_F32) {
    memcpy(&narrow, from, sizeof narrow);
    *value = narrow;
  } else {
    return false;
  }
  return true;
}

static cs_gguf_string decode_string(const uint8_t *from) {
  uint64_t bytes;
  memcpy(&bytes, from, sizeof bytes);
  return (cs_gguf_string){(const char *)from + sizeof bytes, (size_t)bytes};
}

bool cs_gguf_has(const cs_gguf *gguf, const char *key) {
  return find_entry(gguf, key) != NULL;
}

bool cs_gguf_get_u64(const cs_gguf *gguf, const char *key, uint64_t *value) {
  const cs_gguf_entry *e = find_entry(gguf, key);
  return e && decode_u64(e->kind, e->payload, value);
}

bool cs_gguf_get_f64(const cs_gguf *gguf, const char *key, double *value) {
  const cs_gguf_entry *e = find_entry(gguf, key);
  return e && decode_f64(e->kind, e->payload, value);
}

bool cs_gguf_get_bool(const cs_gguf *gguf, const char *key, bool *value) {
  const cs_gguf_entry *e = find_entry(gguf, key);
  if (!e || e->kind != CS_GGUF_KIND_BOOL) return false;
  *value = *e->payload != 0;
  return true;
}

bool cs_gguf_get_string(const cs_gguf *gguf, const char *key, cs_gguf_string *value) {
  const cs_gguf_entry *e = find_entry(gguf, key);
  if (!e || e->kind != CS_GGUF_KIND_STRING) return false;
  *value = decode_string(e->payload);
  return true;
}

void cs_gguf_copy_string(char *to, size_t capacity, cs_gguf_string from) {
  size_t n = 0;
  for (size_t at = 0; at < from.bytes;) {
    const int length = cs_utf8_character((const uint8_t *)from.data + at, from.bytes - at);
    const size_t taken = length > 0 ? (size_t)length : 1;
    if (n + taken >= capacity) break;
    memcpy(to + n, length > 0 ? from.data + at : "?", taken);
    at += taken;
    n += taken;
  }
  to[n] = '\0';
  cs_text_make_printable(to);
}

uint64_t cs_gguf_array_length(const cs_gguf *gguf, const char *key) {
  const cs_gguf_entry *e = find_entry(gguf, key);
  return e && e->kind == CS_GGUF_KIND_ARRAY ? e->length : 0;
}

static const cs_gguf_entry *find_element(const cs_gguf *gguf, const char *key, uint64_t index) {
  const cs_gguf_entry *e = find_entry(gguf, key);
  return e && e->kind == CS_GGUF_KIND_ARRAY && index < e->length ? e : NULL;
}

bool cs_gguf_array_string(const cs_gguf *gguf, const char *key, uint64_t index,
                          cs_gguf_string *value) {
  const cs_gguf_entry *e = find_element(gguf, key, index);
  if (!e || e->element_kind != CS_GGUF_KIND_STRING) return false;
  *value = decode_string(gguf->file.data + e->offsets[index]);
  return true;
}

bool cs_gguf_array_f64(const cs_gguf *gguf, const char *key, uint64_t index, double *value) {
  const cs_gguf_entry *e = find_element(gguf, key, index);
  return e && decode_f64(e->element_kind, e->payload + index * cs_gguf_kind_bytes(e->element_kind),
                         value);
}

bool cs_gguf_array_u64(const cs_gguf *gguf, const char *key, uint64_t index, uint64_t *value) {
  const cs_gguf_entry *e = find_element(gguf, key, index);
  return e && decode_u64(e->element_kind, e->payload + index * cs_gguf_kind_bytes(e->element_kind),
                         value);
}

bool cs_gguf_array_bytes(const cs_gguf *gguf, const char *key, char *to, size_t n) {
  const cs_gguf_entry *e = n > 0 ? find_element(gguf, key, n - 1) : NULL;
  if (!e || cs_gguf_kind_bytes(e->element_kind) != 1) return false;
  memcpy(to, e->payload, n);
  return true;
}
