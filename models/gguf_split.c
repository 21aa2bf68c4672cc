/* A large model comes as several files, each a whole GGUF file with some of the tensors; keys
 * "split.*" of each say which of how many it is, and names follow one pattern, so that the others
 * are found from any one of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/gguf_internal.h"

#define SUFFIX_FORMAT "-%05llu-of-%05llu.gguf"
#define SUFFIX_BYTES  48

typedef struct split {
  uint64_t number; /* from 0 */
  uint64_t count;  /* 1: all in one file */
} split;

static split read_split(const cs_gguf *gguf) {
  split s = {0, 1};
  if (!cs_gguf_get_u64(gguf, "split.count", &s.count) || s.count == 0) s.count = 1;
  cs_gguf_get_u64(gguf, "split.no", &s.number);
  return s;
}

/* The path of file `number` of a model, beside `path`, which is that of file s; to be freed. */
static cs_status part_path(const cs_gguf *gguf, split s, uint64_t number, char **out,
                           cs_error *error) {
  char suffix[SUFFIX_BYTES];
  const int length = snprintf(suffix, sizeof suffix, SUFFIX_FORMAT,
                              (unsigned long long)s.number + 1, (unsigned long long)s.count);
  const size_t n = strlen(gguf->path);
  if (s.count > UINT16_MAX || s.number >= s.count)
    return cs_gguf_fail(gguf, error, CS_CORRUPT, "key \"split.no\": part %llu of %llu",
                        (unsigned long long)s.number, (unsigned long long)s.count);
  if (n < (size_t)length || strcmp(gguf->path + n - length, suffix) != 0)
    return cs_gguf_fail(gguf, error, CS_CORRUPT,
                        "key \"split.count\": one file of %llu, whose name does not end in \"%s\"",
                        (unsigned long long)s.count, suffix);
  *out = strdup(gguf->path);
  if (!*out) return cs_gguf_fail(gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  snprintf(*out + n - length, (size_t)length + 1, SUFFIX_FORMAT, (unsigned long long)number + 1,
           (unsigned long long)s.count);
  return CS_OK;
}

static cs_status open_part(cs_gguf *first, split s, uint64_t number, cs_error *error) {
  char *path;
  cs_status status = part_path(first, s, number, &path, error);
  if (status != CS_OK) return status;
  cs_gguf **part = &first->parts[first->n_parts];
  status = cs_gguf_open_one(path, part, error);
  free(path);
  if (status != CS_OK) return status;
  first->n_parts++;
  const split found = read_split(*part);
  if (found.number == number && found.count == s.count) return CS_OK;
  return cs_gguf_fail(*part, error, CS_CORRUPT, "key \"split.no\": part %llu of %llu, not %llu",
                      (unsigned long long)found.number, (unsigned long long)found.count,
                      (unsigned long long)number);
}

/* One list of all tensors, in the order of the files. */
static cs_status join_tensors(cs_gguf *first, cs_error *error) {
  size_t n = first->n_tensors;
  for (size_t i = 0; i < first->n_parts; i++)
    n += first->parts[i]->n_tensors;
  cs_gguf_tensor *tensors = calloc(n + 1, sizeof *tensors);
  const cs_gguf_tensor **by_name = calloc(n + 1, sizeof *by_name);
  if (!tensors || !by_name) {
    free(tensors);
    free(by_name);
    return cs_gguf_fail(first, error, CS_OUT_OF_MEMORY, "out of memory");
  }
  size_t at = 0;
  for (size_t i = 0; i <= first->n_parts; i++) {
    const cs_gguf *from = i == 0 ? first : first->parts[i - 1];
    memcpy(tensors + at, from->tensors, from->n_tensors * sizeof *tensors);
    at += from->n_tensors;
  }
  free(first->tensors);
  free(first->by_name);
  first->tensors = tensors;
  first->by_name = by_name;
  first->n_tensors = n;
  return cs_gguf_sort_tensors(first, error);
}

static cs_status check_count(const cs_gguf *first, cs_error *error) {
  uint64_t wanted;
  if (!cs_gguf_get_u64(first, "split.tensors.count", &wanted) || wanted == first->n_tensors)
    return CS_OK;
  return cs_gguf_fail(first, error, CS_CORRUPT,
                      "key \"split.tensors.count\": %llu, but the files hold %zu tensors",
                      (unsigned long long)wanted, first->n_tensors);
}

static cs_status open_parts(cs_gguf *first, cs_error *error) {
  const split s = read_split(first);
  first->parts = calloc((size_t)s.count, sizeof(cs_gguf *));
  if (!first->parts) return cs_gguf_fail(first, error, CS_OUT_OF_MEMORY, "out of memory");
  for (uint64_t number = 1; number < s.count; number++) {
    const cs_status status = open_part(first, s, number, error);
    if (status != CS_OK) return status;
  }
  const cs_status status = join_tensors(first, error);
  return status == CS_OK ? check_count(first, error) : status;
}

/* Any file of the model leads to the first. */
static cs_status open_first(cs_gguf **gguf, split s, cs_error *error) {
  char *path;
  cs_status status = part_path(*gguf, s, 0, &path, error);
  if (status != CS_OK) return status;
  if (s.number > 0) {
    cs_gguf_close(*gguf);
    status = cs_gguf_open_one(path, gguf, error);
  }
  free(path);
  if (status != CS_OK) return status;
  const split first = read_split(*gguf);
  if (first.number == 0 && first.count == s.count) return open_parts(*gguf, error);
  return cs_gguf_fail(*gguf, error, CS_CORRUPT, "key \"split.no\": not the first of %llu files",
                      (unsigned long long)s.count);
}

cs_status cs_gguf_open(const char *path, cs_gguf **out, cs_error *error) {
  cs_status status = cs_gguf_open_one(path, out, error);
  if (status != CS_OK) return status;
  const split s = read_split(*out);
  if (s.count == 1) return CS_OK;
  status = open_first(out, s, error);
  if (status == CS_OK) return CS_OK;
  cs_gguf_close(*out);
  *out = NULL;
  return status;
}
