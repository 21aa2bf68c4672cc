/* The GGUF reader: what was written is read, and what is wrong is refused in one line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_builder.h"
#include "models/gguf.h"

/* Over a copy that ends where the file ends, so that reading past it is seen. */
static cs_status open_copy(const void *data, size_t n, cs_gguf **out, void **copy,
                           cs_error *error) {
  *copy = malloc(n ? n : 1);
  assert_non_null(*copy);
  memcpy(*copy, data, n);
  return cs_gguf_open_memory("file.gguf", *copy, n, out, error);
}

static void assert_one_line(const cs_error *error) {
  assert_int_equal(strncmp(error->message, "file.gguf: ", 11), 0);
  for (const char *c = error->message; *c; c++)
    assert_true((unsigned char)*c >= 0x20);
}

/* Opens, demands `status` and that the message says `reason`. Consumes the builder. */
static void assert_refused(gguf_builder *g, cs_status status, const char *reason) {
  const bytes file = finish_gguf(g);
  cs_error error = CS_ERROR_INIT;
  cs_gguf *gguf = (cs_gguf *)&error;
  void *copy;
  assert_int_equal(open_copy(file.data, file.n, &gguf, &copy, &error), status);
  assert_null(gguf);
  assert_int_equal(error.code, status);
  assert_one_line(&error);
  if (!strstr(error.message, reason)) fail_msg("\"%s\" lacks \"%s\"", error.message, reason);
  free(copy);
  free(file.data);
}

static bytes tiny_file(void) {
  gguf_builder g = {0};
  const tiny_options options = {0};
  add_tiny(&g, &options);
  return finish_gguf(&g);
}

static void all_kinds_are_read_back(void **state) {
  (void)state;
  gguf_builder g = {0};
  const uint64_t big = UINT64_C(1) << 40;
  const double precise = 0.1;
  const int8_t negative = -1;
  const uint16_t small = 60000;
  add_key(&g, "u64", 10, &big, 8);
  add_key(&g, "f64", 12, &precise, 8);
  add_key(&g, "i8", 1, &negative, 1);
  add_key(&g, "u16", 2, &small, 2);
  add_f32(&g, "f32", 0.5f);
  add_bool(&g, "bool", 1);
  add_text(&g, "text", "hello");
  add_array(&g, "texts", 8, 2);
  put_text(&g.keys, "");
  put_text(&g.keys, "two");
  add_array(&g, "nested", 9, 1);
  put_u32(&g.keys, 4);
  put_u64(&g.keys, 1);
  put_u32(&g.keys, 7);
  add_array(&g, "empty", 8, 0);
  const bytes file = finish_gguf(&g);
  cs_gguf *gguf;
  assert_int_equal(cs_gguf_open_memory("f", file.data, file.n, &gguf, NULL), CS_OK);
  uint64_t u;
  double d;
  bool b;
  cs_gguf_string s;
  assert_true(cs_gguf_get_u64(gguf, "u64", &u) && u == big);
  assert_true(cs_gguf_get_f64(gguf, "f64", &d) && d == precise);
  assert_false(cs_gguf_get_u64(gguf, "i8", &u));
  assert_true(cs_gguf_get_u64(gguf, "u16", &u) && u == small);
  assert_true(cs_gguf_get_f64(gguf, "f32", &d) && d == 0.5);
  assert_false(cs_gguf_get_u64(gguf, "f32", &u));
  assert_true(cs_gguf_get_bool(gguf, "bool", &b) && b);
  assert_true(cs_gguf_get_string(gguf, "text", &s) && s.bytes == 5);
  assert_int_equal(cs_gguf_array_length(gguf, "texts"), 2);
  assert_true(cs_gguf_array_string(gguf, "texts", 0, &s) && s.bytes == 0);
  assert_true(cs_gguf_array_string(gguf, "texts", 1, &s) && memcmp(s.data, "two", 3) == 0);
  assert_false(cs_gguf_array_string(gguf, "texts", 2, &s));
  assert_false(cs_gguf_array_u64(gguf, "nested", 0, &u));
  assert_int_equal(cs_gguf_array_length(gguf, "empty"), 0);
  assert_true(cs_gguf_has(gguf, "nested"));
  assert_false(cs_gguf_has(gguf, "absent"));
  cs_gguf_close(gguf);
  free(file.data);
}

static void tensors_have_their_outermost_dimension_first(void **state) {
  (void)state;
  gguf_builder g = {.alignment = 64};
  const uint64_t dims[] = {32, 3};
  const uint8_t blocks[3 * 34] = {1, 2, 3};
  add_u32(&g, "general.alignment", 64);
  add_tensor(&g, "a", Q8_0_TYPE, 2, dims, blocks, sizeof blocks);
  add_tensor(&g, "b", Q8_0_TYPE, 2, dims, blocks, sizeof blocks);
  const bytes file = finish_gguf(&g);
  cs_gguf *gguf;
  assert_int_equal(cs_gguf_open_memory("f", file.data, file.n, &gguf, NULL), CS_OK);
  const cs_gguf_tensor *b = cs_gguf_find_tensor(gguf, "b");
  assert_non_null(b);
  assert_ptr_equal(b, cs_gguf_tensor_at(gguf, 1));
  assert_int_equal(b->dtype, CS_DTYPE_Q8_0);
  assert_int_equal(b->dims[0], 3);
  assert_int_equal(b->dims[1], 32);
  assert_int_equal(b->bytes, sizeof blocks);
  assert_ptr_equal(b->data, file.data + file.n - sizeof blocks);
  assert_memory_equal(b->data, blocks, sizeof blocks);
  assert_null(cs_gguf_find_tensor(gguf, "c"));
  assert_null(cs_gguf_tensor_at(gguf, 2));
  cs_gguf_close(gguf);
  free(file.data);
}

static void an_unknown_tensor_type_has_no_data(void **state) {
  (void)state;
  gguf_builder g = {0};
  const uint64_t dims[] = {7};
  describe_tensor(&g, "t", 9999, 1, dims, 0);
  const bytes file = finish_gguf(&g);
  cs_gguf *gguf;
  assert_int_equal(cs_gguf_open_memory("f", file.data, file.n, &gguf, NULL), CS_OK);
  const cs_gguf_tensor *t = cs_gguf_find_tensor(gguf, "t");
  assert_int_equal(t->dtype, CS_DTYPE_NONE);
  assert_int_equal(t->file_type, 9999);
  assert_null(t->data);
  assert_string_equal(cs_gguf_type_name(9999), "unknown");
  assert_string_equal(cs_gguf_type_name(12), "q4_k");
  cs_gguf_close(gguf);
  free(file.data);
}

static void a_file_cut_anywhere_is_refused(void **state) {
  (void)state;
  const bytes file = tiny_file();
  for (size_t n = 0; n < file.n; n += n < 16384 ? 1 : 97) {
    cs_error error = CS_ERROR_INIT;
    cs_gguf *gguf;
    void *copy;
    const cs_status status = open_copy(file.data, n, &gguf, &copy, &error);
    if (status != CS_CORRUPT) fail_msg("cut at %zu: status %d", n, status);
    assert_one_line(&error);
    free(copy);
  }
  free(file.data);
}

/* Everything that can be asked for, so that a sanitizer sees any pointer that leaves the file. */
static uint64_t touch_everything(const cs_gguf *gguf) {
  uint64_t sum = 0;
  cs_gguf_string s;
  for (size_t i = 0; i < cs_gguf_n_tensors(gguf); i++) {
    const cs_gguf_tensor *t = cs_gguf_tensor_at(gguf, i);
    if (t->data) sum += ((const uint8_t *)t->data)[0] + ((const uint8_t *)t->data)[t->bytes - 1];
  }
  const uint64_t n = cs_gguf_array_length(gguf, "tokenizer.ggml.tokens");
  for (uint64_t i = 0; i < n; i++)
    if (cs_gguf_array_string(gguf, "tokenizer.ggml.tokens", i, &s) && s.bytes)
      sum += (uint8_t)s.data[s.bytes - 1];
  return sum;
}

static void a_changed_byte_never_leads_outside_the_file(void **state) {
  (void)state;
  static const uint8_t masks[] = {0x01, 0x80, 0xff};
  const bytes file = tiny_file();
  uint64_t sum = 0;
  for (size_t at = 0; at < file.n && at < 12000; at += at < 1000 || at > 9000 ? 1 : 13) {
    for (size_t i = 0; i < sizeof masks; i++) {
      cs_error error = CS_ERROR_INIT;
      cs_gguf *gguf;
      file.data[at] ^= masks[i];
      if (cs_gguf_open_memory("file.gguf", file.data, file.n, &gguf, &error) == CS_OK)
        sum += touch_everything(gguf);
      else
        assert_one_line(&error);
      cs_gguf_close(gguf);
      file.data[at] ^= masks[i];
    }
  }
  assert_true(sum > 0);
  free(file.data);
}

static void a_wrong_header_is_refused(void **state) {
  (void)state;
  bytes file = tiny_file();
  cs_error error = CS_ERROR_INIT;
  cs_gguf *gguf;
  assert_int_equal(cs_gguf_open_memory("file.gguf", file.data, 0, &gguf, &error), CS_CORRUPT);
  assert_non_null(strstr(error.message, "empty"));
  file.data[0] = 'X';
  assert_int_equal(cs_gguf_open_memory("file.gguf", file.data, file.n, &gguf, &error), CS_CORRUPT);
  assert_non_null(strstr(error.message, "magic"));
  free(file.data);
  gguf_builder old = {.version = 1};
  assert_refused(&old, CS_UNSUPPORTED, "version 1");
  gguf_builder future = {.version = 4};
  assert_refused(&future, CS_UNSUPPORTED, "version 4");
  gguf_builder swapped = {.version = 0x03000000};
  assert_refused(&swapped, CS_UNSUPPORTED, "big-endian");
}

static void counts_beyond_the_file_are_refused(void **state) {
  (void)state;
  static const uint64_t counts[] = {1, 1000, UINT64_C(1) << 32, UINT64_MAX / 48, UINT64_MAX};
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    gguf_builder keys = {.n_keys = counts[i]};
    assert_refused(&keys, CS_CORRUPT, i ? "do not fit" : "");
    gguf_builder tensors = {.n_tensors = counts[i]};
    assert_refused(&tensors, CS_CORRUPT, "do not fit");
    gguf_builder texts = {0};
    add_array(&texts, "key", 8, counts[i]);
    assert_refused(&texts, CS_CORRUPT, "leaves the file");
    gguf_builder numbers = {0};
    add_array(&numbers, "key", 10, counts[i]);
    assert_refused(&numbers, CS_CORRUPT, "leaves the file");
    gguf_builder text = {0};
    add_key(&text, "key", 8, &counts[i], 8);
    assert_refused(&text, CS_CORRUPT, "leaves the file");
  }
  gguf_builder wide = {0}; /* fewer elements than bytes are left, but of eight bytes each */
  add_array(&wide, "key", 10, 20);
  for (int i = 0; i < 5; i++)
    put_u64(&wide.keys, 0);
  assert_refused(&wide, CS_CORRUPT, "an array of 20 elements leaves the file");
}

static void wrong_values_are_refused(void **state) {
  (void)state;
  gguf_builder twice = {0};
  add_u32(&twice, "same", 1);
  add_u32(&twice, "same", 1);
  assert_refused(&twice, CS_CORRUPT, "\"same\" appears twice");
  gguf_builder boolean = {0};
  add_bool(&boolean, "flag", 2);
  assert_refused(&boolean, CS_CORRUPT, "neither true nor false");
  gguf_builder kind = {0};
  add_key(&kind, "k", 13, NULL, 0);
  put_u64(&kind.keys, 0);
  assert_refused(&kind, CS_CORRUPT, "unknown kind");
  gguf_builder line = {0};
  add_bool(&line, "two\nlines\x1b", 2);
  assert_refused(&line, CS_CORRUPT, "two?lines?");
  gguf_builder deep = {0};
  add_array(&deep, "deep", 9, 1);
  for (int i = 0; i < 40; i++) {
    put_u32(&deep.keys, 9);
    put_u64(&deep.keys, 1);
  }
  assert_refused(&deep, CS_CORRUPT, "unknown kind of array");
  static const uint32_t alignments[] = {0, 1, 4, 33, 48};
  for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
    gguf_builder aligned = {0};
    add_u32(&aligned, "general.alignment", alignments[i]);
    assert_refused(&aligned, CS_CORRUPT, "general.alignment");
  }
}

static void assert_tensor_refused(uint32_t type, uint32_t rank, const uint64_t *dims,
                                  uint64_t offset, const char *reason) {
  gguf_builder g = {0};
  const uint8_t data[256] = {0};
  describe_tensor(&g, "t", type, rank, dims, offset);
  put(&g.weights, data, sizeof data);
  assert_refused(&g, CS_CORRUPT, reason);
}

static void wrong_tensors_are_refused(void **state) {
  (void)state;
  const uint64_t ok[] = {32, 1, 1, 1, 1};
  assert_tensor_refused(F32_TYPE, 0, ok, 0, "rank 0");
  assert_tensor_refused(F32_TYPE, 5, ok, 0, "rank 5");
  assert_tensor_refused(F32_TYPE, 2, (uint64_t[]){4, 0}, 0, "dimension is 0");
  assert_tensor_refused(F32_TYPE, 2, (uint64_t[]){UINT64_C(1) << 33, UINT64_C(1) << 33}, 0,
                        "overflows");
  assert_tensor_refused(F32_TYPE, 1, (uint64_t[]){UINT64_C(1) << 62}, 0, "overflows");
  assert_tensor_refused(F32_TYPE, 1, (uint64_t[]){65}, 0, "leave the file");
  assert_tensor_refused(F32_TYPE, 1, ok, 160, "leave the file");
  assert_tensor_refused(F32_TYPE, 1, ok, 288, "leave the file");
  assert_tensor_refused(F32_TYPE, 1, ok, UINT64_MAX - 31, "leave the file");
  assert_tensor_refused(F32_TYPE, 1, ok, 4, "not a multiple");
  assert_tensor_refused(Q8_0_TYPE, 2, (uint64_t[]){16, 2}, 0, "whole q8_0 blocks");
  gguf_builder twice = {0};
  describe_tensor(&twice, "t", 9999, 1, ok, 0);
  describe_tensor(&twice, "t", 9999, 1, ok, 0);
  assert_refused(&twice, CS_CORRUPT, "\"t\" appears twice");
}

static void assert_copy(const char *from, size_t n, size_t capacity, const char *expected) {
  char to[16];
  cs_gguf_copy_string(to, capacity, (cs_gguf_string){from, n});
  assert_string_equal(to, expected);
}

static void copied_strings_are_whole_characters(void **state) {
  (void)state;
  assert_copy("abc", 3, 4, "abc");
  assert_copy("abc", 3, 3, "ab");
  assert_copy("a\xc3\xa9", 3, 4, "a\xc3\xa9");
  assert_copy("a\xc3\xa9", 3, 3, "a");
  assert_copy("a\n\xff\xc3", 4, 16, "a???");
  assert_copy("", 0, 1, "");
}

static void files_that_cannot_be_mapped_are_named(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_gguf *gguf;
  assert_int_equal(cs_gguf_open("/nonexistent/x.gguf", &gguf, &error), CS_NOT_FOUND);
  assert_string_equal(error.message, "/nonexistent/x.gguf: no such file");
  assert_int_equal(cs_gguf_open("/", &gguf, &error), CS_IO);
  assert_string_equal(error.message, "/: not a regular file");
  char path[600];
  memset(path, 'x', sizeof path);
  memcpy(path + sizeof path - 8, "/a.gguf", 8);
  assert_int_not_equal(cs_gguf_open(path, &gguf, &error), CS_OK);
  assert_non_null(strstr(error.message, "/a.gguf: "));
}

static void a_real_file_cut_at_200_places_is_refused(void **state) {
  (void)state;
  const char *folder = getenv("CONSORT_TEST_DATA");
  if (!folder) {
    print_message("skipped: CONSORT_TEST_DATA is not set\n");
    skip();
  }
  char path[512];
  snprintf(path, sizeof path, "%s/models/stories260K.gguf", folder);
  FILE *from = fopen(path, "rb");
  if (!from) {
    print_message("skipped: no %s\n", path);
    skip();
  }
  bytes file = {0};
  uint8_t piece[4096];
  for (size_t n; (n = fread(piece, 1, sizeof piece, from)) > 0;)
    put(&file, piece, n);
  fclose(from);
  cs_gguf *gguf;
  for (size_t i = 0; i < 200; i++) {
    void *copy;
    cs_error error = CS_ERROR_INIT;
    assert_int_equal(open_copy(file.data, file.n * i / 200, &gguf, &copy, &error), CS_CORRUPT);
    assert_one_line(&error);
    free(copy);
  }
  assert_int_equal(cs_gguf_open_memory("f", file.data, file.n, &gguf, NULL), CS_OK);
  assert_int_equal(cs_gguf_n_tensors(gguf), 48);
  cs_gguf_close(gguf);
  free(file.data);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_kinds_are_read_back),
      cmocka_unit_test(tensors_have_their_outermost_dimension_first),
      cmocka_unit_test(an_unknown_tensor_type_has_no_data),
      cmocka_unit_test(a_file_cut_anywhere_is_refused),
      cmocka_unit_test(a_changed_byte_never_leads_outside_the_file),
      cmocka_unit_test(a_wrong_header_is_refused),
      cmocka_unit_test(counts_beyond_the_file_are_refused),
      cmocka_unit_test(wrong_values_are_refused),
      cmocka_unit_test(wrong_tensors_are_refused),
      cmocka_unit_test(copied_strings_are_whole_characters),
      cmocka_unit_test(files_that_cannot_be_mapped_are_named),
      cmocka_unit_test(a_real_file_cut_at_200_places_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
