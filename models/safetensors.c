/* The format's rules leave no room for surprises, and all of them are held to: the header fits the
 * file, each tensor's bytes are its shape's, tensors follow each other without gap or overlap and
 * end with the file. A cut file, a wrong shape or two names for the same bytes are then all told by
 * arithmetic on the header alone. Source: the format's description in github.com/huggingface/
 * safetensors. */
#include "models/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "models/json.h"
#include "models/mapped_file.h"

#define MAX_HEADER_BYTES (UINT64_C(100) << 20) /* the format's own limit */

struct cs_safetensors {
  char label[CS_FILE_LABEL_BYTES];
  cs_mapped_file file;
  bool mapped;
  json_t *header; /* owns the names */
  const uint8_t *data;
  uint64_t data_bytes;
  cs_safetensor *tensors;
  size_t n_tensors;
};

typedef struct element_type {
  const char *name;
  uint32_t bytes;
  uint32_t dtype;
} element_type;

static const element_type types[] = {
    {"F32", 4, CS_DTYPE_F32},     {"F16", 2, CS_DTYPE_F16},      {"BF16", 2, CS_DTYPE_BF16},
    {"F64", 8, CS_DTYPE_NONE},    {"F8_E4M3", 1, CS_DTYPE_NONE}, {"F8_E5M2", 1, CS_DTYPE_NONE},
    {"I64", 8, CS_DTYPE_NONE},    {"I32", 4, CS_DTYPE_NONE},     {"I16", 2, CS_DTYPE_NONE},
    {"I8", 1, CS_DTYPE_NONE},     {"U64", 8, CS_DTYPE_NONE},     {"U32", 4, CS_DTYPE_NONE},
    {"U16", 2, CS_DTYPE_NONE},    {"U8", 1, CS_DTYPE_NONE},      {"BOOL", 1, CS_DTYPE_NONE},
    {"F8_E8M0", 1, CS_DTYPE_NONE}};

/* `name` is the file's: at most 64 bytes of it are shown. */
static cs_status fail_tensor(const cs_safetensors *file, cs_error *error, const char *name,
                             const char *reason) {
  char shown[65];
  strncpy(shown, name, sizeof shown - 1);
  shown[sizeof shown - 1] = '\0';
  cs_text_make_printable(shown);
  return cs_error_set(error, CS_CORRUPT, "%s: tensor \"%s\": %s", file->label, shown, reason);
}

static const element_type *find_type(const json_t *name) {
  const char *wanted = json_string_value(name);
  for (size_t i = 0; wanted && i < sizeof types / sizeof types[0]; i++)
    if (strcmp(types[i].name, wanted) == 0) return &types[i];
  return NULL;
}

/* A whole number of at least 0. */
static bool read_size(const json_t *value, uint64_t *size) {
  if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
  *size = (uint64_t)json_integer_value(value);
  return true;
}

/* Fills rank and dims; false when the shape is none or its product overflows. */
static bool read_shape(const json_t *shape, cs_safetensor *tensor, uint64_t *n_elements) {
  const size_t rank = json_array_size(shape);
  if (!json_is_array(shape) || rank > CS_MAX_RANK) return false;
  *n_elements = 1;
  tensor->rank = rank ? (uint32_t)rank : 1;
  tensor->dims[0] = 1;
  for (size_t i = 0; i < rank; i++) {
    if (!read_size(json_array_get(shape, i), &tensor->dims[i])) return false;
    if (__builtin_mul_overflow(*n_elements, tensor->dims[i], n_elements)) return false;
  }
  return true;
}

static cs_status read_tensor(cs_safetensors *file, const char *name, const json_t *entry,
                             cs_error *error) {
  cs_safetensor *tensor = &file->tensors[file->n_tensors];
  uint64_t n_elements, begin, end, bytes;
  tensor->name = name;
  const element_type *type = find_type(json_object_get(entry, "dtype"));
  if (!type) return fail_tensor(file, error, name, "\"dtype\" is missing or unknown");
  tensor->dtype = type->dtype;
  if (!read_shape(json_object_get(entry, "shape"), tensor, &n_elements))
    return fail_tensor(file, error, name, "\"shape\" is no list of up to 4 sizes");
  const json_t *offsets = json_object_get(entry, "data_offsets");
  if (json_array_size(offsets) != 2 || !read_size(json_array_get(offsets, 0), &begin) ||
      !read_size(json_array_get(offsets, 1), &end) || begin > end)
    return fail_tensor(file, error, name, "\"data_offsets\" are no begin and end");
  if (end > file->data_bytes) return fail_tensor(file, error, name, "its data leave the file");
  if (__builtin_mul_overflow(n_elements, type->bytes, &bytes) || bytes != end - begin)
    return fail_tensor(file, error, name, "\"data_offsets\" do not fit \"shape\" and \"dtype\"");
  tensor->bytes = bytes;
  tensor->data = file->data + begin;
  if (((uintptr_t)tensor->data & (type->bytes - 1)) != 0)
    return fail_tensor(file, error, name, "its data are not aligned to their type");
  file->n_tensors++;
  return CS_OK;
}

static int compare_places(const void *a, const void *b) {
  const cs_safetensor *x = a, *y = b;
  if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
  return strcmp(x->name, y->name);
}

static cs_status check_places(cs_safetensors *file, cs_error *error) {
  qsort(file->tensors, file->n_tensors, sizeof *file->tensors, compare_places);
  const uint8_t *expected = file->data;
  for (size_t i = 0; i < file->n_tensors; i++) {
    const cs_safetensor *tensor = &file->tensors[i];
    const uint8_t *begin = tensor->data;
    if (begin < expected)
      return fail_tensor(file, error, tensor->name, "its data overlap another tensor's");
    if (begin > expected)
      return fail_tensor(file, error, tensor->name, "a gap stands before its data");
    expected = begin + tensor->bytes;
  }
  const uint64_t used = (uint64_t)(expected - file->data);
  if (used == file->data_bytes) return CS_OK;
  return cs_error_set(error, CS_CORRUPT, "%s: %" PRIu64 " bytes after the last tensor", file->label,
                      file->data_bytes - used);
}

static cs_status parse_header(cs_safetensors *file, cs_error *error) {
  uint64_t header_bytes;
  if (file->file.bytes < sizeof header_bytes)
    return cs_error_set(error, CS_CORRUPT, "%s: too short for a safetensors file", file->label);
  memcpy(&header_bytes, file->file.data, sizeof header_bytes);
  const uint64_t rest = file->file.bytes - sizeof header_bytes;
  if (header_bytes > rest || header_bytes > MAX_HEADER_BYTES)
    return cs_error_set(error, CS_CORRUPT,
                        "%s: a header of %" PRIu64 " bytes: not a safetensors file, or cut",
                        file->label, header_bytes);
  const uint8_t *header = file->file.data + sizeof header_bytes;
  file->data = header + header_bytes;
  file->data_bytes = rest - header_bytes;
  return cs_json_parse(file->label, header, (size_t)header_bytes, &file->header, error);
}

static cs_status parse(cs_safetensors *file, cs_error *error) {
  cs_status status = parse_header(file, error);
  if (status != CS_OK) return status;
  file->tensors = calloc(json_object_size(file->header) + 1, sizeof *file->tensors);
  if (!file->tensors) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const char *name;
  json_t *entry;
  json_object_foreach(file->header, name, entry) {
    if (strcmp(name, "__metadata__") == 0) continue;
    status = read_tensor(file, name, entry, error);
    if (status != CS_OK) return status;
  }
  return check_places(file, error);
}

static cs_safetensors *create(const char *path) {
  cs_safetensors *file = calloc(1, sizeof *file);
  if (file) cs_file_label(path, file->label);
  return file;
}

static cs_status finish_open(cs_safetensors *file, cs_status status, cs_safetensors **out,
                             cs_error *error) {
  if (status == CS_OK) status = parse(file, error);
  if (status != CS_OK) {
    cs_safetensors_close(file);
    return status;
  }
  *out = file;
  return CS_OK;
}

cs_status cs_safetensors_open(const char *path, cs_safetensors **out, cs_error *error) {
  *out = NULL;
  cs_safetensors *file = create(path);
  if (!file) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const cs_status status = cs_mapped_file_open(path, file->label, &file->file, error);
  file->mapped = true;
  return finish_open(file, status, out, error);
}

cs_status cs_safetensors_open_memory(const char *name, const void *data, size_t bytes,
                                     cs_safetensors **out, cs_error *error) {
  *out = NULL;
  cs_safetensors *file = create(name);
  if (!file) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  file->file = (cs_mapped_file){.data = data, .bytes = bytes};
  return finish_open(file, CS_OK, out, error);
}

void cs_safetensors_close(cs_safetensors *file) {
  if (!file) return;
  json_decref(file->header);
  free(file->tensors);
  if (file->mapped) cs_mapped_file_close(&file->file);
  free(file);
}

const char *cs_safetensors_label(const cs_safetensors *file) {
  return file->label;
}

uint64_t cs_safetensors_bytes(const cs_safetensors *file) {
  return file->file.bytes;
}

size_t cs_safetensors_n_tensors(const cs_safetensors *file) {
  return file->n_tensors;
}

const cs_safetensor *cs_safetensors_at(const cs_safetensors *file, size_t index) {
  return index < file->n_tensors ? &file->tensors[index] : NULL;
}
