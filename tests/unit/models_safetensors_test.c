/* Headers of safetensors files: what is whole opens, and what is not is told by tensor and reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "models/safetensors.h"

/* A file of `header` and n bytes of data, in memory of exactly its size; to be freed. */
static uint8_t *build(const char *header, size_t n_data, size_t *bytes) {
  const uint64_t header_bytes = (strlen(header) + 7) / 8 * 8;
  *bytes = 8 + header_bytes + n_data;
  uint8_t *file = malloc(*bytes);
  assert_non_null(file);
  memset(file, ' ', *bytes);
  memcpy(file, &header_bytes, 8);
  memcpy(file + 8, header, strlen(header));
  for (size_t i = 0; i < n_data; i++)
    file[8 + header_bytes + i] = (uint8_t)i;
  return file;
}

static void assert_refused(const char *header, size_t n_data, const char *reason) {
  size_t bytes;
  uint8_t *data = build(header, n_data, &bytes);
  cs_error error = CS_ERROR_INIT;
  cs_safetensors *file;
  assert_int_equal(cs_safetensors_open_memory("f", data, bytes, &file, &error), CS_CORRUPT);
  assert_null(file);
  if (!strstr(error.message, reason)) fail_msg("\"%s\" lacks \"%s\"", error.message, reason);
  free(data);
}

static void tensors_are_listed_by_place(void **state) {
  (void)state;
  size_t bytes;
  uint8_t *data = build("{\"__metadata__\":{\"a\":\"b\"},"
                        "\"y\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[12,20]},"
                        "\"x\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
                        "\"s\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[20,24]}}",
                        24, &bytes);
  cs_error error = CS_ERROR_INIT;
  cs_safetensors *file;
  if (cs_safetensors_open_memory("f", data, bytes, &file, &error)) fail_msg("%s", error.message);
  assert_int_equal(cs_safetensors_n_tensors(file), 3);
  const cs_safetensor *x = cs_safetensors_at(file, 0), *y = cs_safetensors_at(file, 1);
  assert_string_equal(x->name, "x");
  assert_int_equal(x->dtype, CS_DTYPE_F32);
  assert_int_equal(((const uint8_t *)y->data)[0], 12);
  assert_int_equal(y->rank, 2);
  assert_int_equal(y->bytes, 8);
  assert_int_equal(cs_safetensors_at(file, 2)->dtype, CS_DTYPE_NONE);
  assert_null(cs_safetensors_at(file, 3));
  cs_safetensors_close(file);
  free(data);
}

static void headers_that_contradict_the_file_are_refused(void **state) {
  (void)state;
#define ONE(dtype, shape, offsets)                                                                 \
  "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(a, b)                                                                                  \
  "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" a                                    \
  "},\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" b "}}"
  assert_refused(ONE("F32", "[4]", "[0,16]"), 15, "leave the file");
  assert_refused(ONE("F32", "[4]", "[0,16]"), 17, "1 bytes after the last tensor");
  assert_refused(ONE("F32", "[4]", "[0,12]"), 12, "do not fit");
  assert_refused(ONE("F16", "[4]", "[0,16]"), 16, "do not fit");
  assert_refused(ONE("F32", "[4611686018427387904,4]", "[0,0]"), 0, "shape");
  assert_refused(ONE("F32", "[4611686018427387904]", "[0,0]"), 0, "do not fit");
  assert_refused(ONE("F32", "[1,1,1,1,1]", "[0,4]"), 4, "shape");
  assert_refused(ONE("F32", "[-1]", "[0,4]"), 4, "shape");
  assert_refused(ONE("F32", "[1.5]", "[0,6]"), 6, "shape");
  assert_refused(ONE("F33", "[1]", "[0,4]"), 4, "dtype");
  assert_refused(ONE("F32", "[1]", "[4,0]"), 4, "data_offsets");
  assert_refused(ONE("F32", "[1]", "[0]"), 4, "data_offsets");
  assert_refused(TWO("[0,8]", "[0,8]"), 8, "overlap");
  assert_refused(TWO("[0,8]", "[4,12]"), 12, "overlap");
  assert_refused(TWO("[0,8]", "[12,20]"), 20, "gap");
  assert_refused(TWO("[0,8]", "[8,16]") "x", 16, "line 1");
  assert_refused("[]", 0, "not a JSON object");
  assert_refused("{\"t\":1}", 0, "dtype");
  assert_refused("{\"t\":{},\"t\":{}}", 0, "duplicate");
  assert_refused("{\"h\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                 "\"t\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[1,3]}}",
                 3, "aligned");
}

static void a_header_longer_than_the_file_is_refused(void **state) {
  (void)state;
  uint64_t words[2] = {9, 0x7d7b}; /* "{}" */
  cs_error error = CS_ERROR_INIT;
  cs_safetensors *file;
  for (int i = 0; i < 3; i++) {
    assert_int_equal(cs_safetensors_open_memory("f", words, sizeof words, &file, &error),
                     CS_CORRUPT);
    assert_non_null(strstr(error.message, "header"));
    words[0] = UINT64_MAX - (uint64_t)i * 8;
  }
  assert_int_equal(cs_safetensors_open_memory("f", words, 7, &file, &error), CS_CORRUPT);
  assert_int_equal(cs_safetensors_open("/nonexistent/x.safetensors", &file, &error), CS_NOT_FOUND);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tensors_are_listed_by_place),
      cmocka_unit_test(headers_that_contradict_the_file_are_refused),
      cmocka_unit_test(a_header_longer_than_the_file_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
