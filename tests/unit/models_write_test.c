/* A shape written as a file is the same model when it is opened again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "models/model_write.h"
#include "models/tokenizer.h"

typedef struct scratch {
  char folder[32];
  char path[64];
} scratch;

static void make_scratch(scratch *s) {
  snprintf(s->folder, sizeof s->folder, "/tmp/consort-write-XXXXXX");
  assert_non_null(mkdtemp(s->folder));
  snprintf(s->path, sizeof s->path, "%s/tiny.gguf", s->folder);
}

/* rmdir fails when a partial file was left. */
static void remove_scratch(const scratch *s) {
  unlink(s->path);
  assert_int_equal(rmdir(s->folder), 0);
}

static void expect_same_weights(const cs_model *a, const cs_model *b) {
  assert_int_equal(cs_model_n_weights(a), cs_model_n_weights(b));
  for (size_t i = 0; i < cs_model_n_weights(a); i++) {
    const cs_model_weight *x = cs_model_weight_at(a, i), *y = cs_model_weight_at(b, i);
    assert_string_equal(x->name, y->name);
    assert_int_equal(x->dtype, y->dtype);
    assert_int_equal(x->bytes, y->bytes);
    assert_memory_equal(x->data, y->data, x->bytes);
  }
}

static void a_written_shape_is_the_same_model(void **state) {
  (void)state;
  static const uint32_t formats[][2] = {{CS_DTYPE_Q8_0, CS_DTYPE_Q8_0},
                                        {CS_DTYPE_Q4_K, CS_DTYPE_Q6_K},
                                        {CS_DTYPE_BF16, CS_DTYPE_BF16}};
  scratch s;
  make_scratch(&s);
  for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
    cs_error error = CS_ERROR_INIT;
    cs_model *made, *read;
    assert_int_equal(
        cs_model_open_mixed_shape("llama-tiny", formats[i][0], formats[i][1], 7, &made, &error),
        CS_OK);
    assert_int_equal(cs_model_write(made, s.path, NULL, NULL, &error), CS_OK);
    assert_int_equal(cs_model_open(s.path, &read, &error), CS_OK);
    assert_true(cs_model_fingerprint(made) == cs_model_fingerprint(read));
    assert_string_equal(cs_model_get_config(read)->name, "llama-tiny");
    assert_int_equal(cs_model_get_config(read)->n_context, cs_model_get_config(made)->n_context);
    expect_same_weights(made, read);
    cs_model_release(made);
    cs_model_release(read);
  }
  remove_scratch(&s);
}

/* Words whose beginnings are words: letters merge, other bytes have tokens of their own. */
static void its_tokenizer_encodes_any_text(void **state) {
  (void)state;
  static const char text[] = "ab \xc3\xa9";
  scratch s;
  make_scratch(&s);
  cs_model *made, *read;
  assert_int_equal(cs_model_open_shape("llama-tiny", CS_DTYPE_Q4_0, 1, &made, NULL), CS_OK);
  assert_int_equal(cs_model_write(made, s.path, NULL, NULL, NULL), CS_OK);
  assert_int_equal(cs_model_open(s.path, &read, NULL), CS_OK);
  const cs_tokenizer *tokenizer;
  assert_int_equal(cs_model_need_tokenizer(read, &tokenizer, NULL), CS_OK);
  int32_t *ids;
  size_t n_ids;
  assert_int_equal(cs_tokenizer_encode(tokenizer, text, strlen(text), 1, &ids, &n_ids, NULL),
                   CS_OK);
  /* BOS, space, "ab" (behind 26 letters and "aa"), space, two bytes */
  const int32_t expected[] = {1, 259, 260 + 27, 259, 3 + 0xc3, 3 + 0xa9};
  assert_int_equal(n_ids, 6);
  assert_memory_equal(ids, expected, sizeof expected);
  assert_string_equal(cs_tokenizer_piece(tokenizer, 1023), "acj"); /* 763 = 26 * 26 + 26 + 61 */
  free(ids);
  cs_model_release(made);
  cs_model_release(read);
  remove_scratch(&s);
}

typedef struct seen {
  uint64_t done;
  uint64_t total;
  int calls;
} seen;

static void take_progress(void *user, uint64_t bytes_done, uint64_t bytes_total) {
  seen *s = user;
  assert_true(bytes_done > s->done);
  *s = (seen){bytes_done, bytes_total, s->calls + 1};
}

static void progress_ends_with_all_bytes(void **state) {
  (void)state;
  scratch s;
  make_scratch(&s);
  cs_model *made;
  seen progress = {0};
  assert_int_equal(cs_model_open_shape("llama-tiny", CS_DTYPE_Q8_0, 1, &made, NULL), CS_OK);
  assert_int_equal(cs_model_write(made, s.path, take_progress, &progress, NULL), CS_OK);
  assert_true(progress.done == progress.total);
  assert_int_equal(progress.calls, cs_model_n_weights(made));
  cs_model_release(made);
  remove_scratch(&s);
}

static void what_cannot_be_written_is_named(void **state) {
  (void)state;
  scratch s;
  make_scratch(&s);
  cs_error error = CS_ERROR_INIT;
  cs_model *made, *read;
  assert_int_equal(cs_model_open_shape("llama-tiny", CS_DTYPE_Q8_0, 1, &made, NULL), CS_OK);
  assert_int_equal(cs_model_write(made, "/nowhere/tiny.gguf", NULL, NULL, &error), CS_IO);
  assert_non_null(strstr(error.message, "/nowhere/tiny.gguf"));
  assert_int_equal(mkdir(s.path, 0700), 0); /* a folder has the name: the partial file goes again */
  assert_int_equal(cs_model_write(made, s.path, NULL, NULL, &error), CS_IO);
  assert_non_null(strstr(error.message, s.path));
  assert_int_equal(rmdir(s.path), 0);
  assert_int_equal(cs_model_write(made, s.path, NULL, NULL, NULL), CS_OK);
  assert_int_equal(cs_model_open(s.path, &read, NULL), CS_OK);
  assert_int_equal(cs_model_write(read, s.path, NULL, NULL, &error), CS_INVALID_ARGUMENT);
  cs_model_release(made);
  cs_model_release(read);
  remove_scratch(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_written_shape_is_the_same_model),
      cmocka_unit_test(its_tokenizer_encodes_any_text),
      cmocka_unit_test(progress_ends_with_all_bytes),
      cmocka_unit_test(what_cannot_be_written_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
