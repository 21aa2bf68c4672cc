/* A real trained model (CONSORT_TEST_DATA/models/stories260K.gguf, float32) tells the same story
 * from every placement of the devices present. */
#include "scheduler_harness.h"

static const char story[] =
    ", there was a little girl named Lily. She loved to play outside in the "
    "park. One day, she saw a big, red ball.";

static consort_runtime *runtime;
static consort_model *model;

static bool is_present(const char *name) {
  cs_error error = CS_ERROR_INIT;
  cs_device *device;
  if (cs_device_open(runtime->core, name, &device, &error)) {
    printf("without %s: %s\n", name, error.message);
    return false;
  }
  cs_device_release(device);
  return true;
}

typedef struct heard {
  char text[4096];
  size_t bytes;
} heard;

static int listen(void *user, int32_t token, const char *text, size_t text_bytes) {
  heard *const all = user;
  (void)token;
  assert_true(all->bytes + text_bytes < sizeof all->text);
  memcpy(all->text + all->bytes, text, text_bytes + 1);
  all->bytes += text_bytes;
  return 0;
}

static void expect_story(const char *prefill, const char *decode) {
  consort_session_options options = harness_options(prefill, decode);
  options.kv_dtype = NULL;
  consort_session *const session = harness_session(runtime, model, &options, NULL);
  heard all = {.bytes = 0};
  const consort_generate_options greedy = {
      .struct_size = sizeof greedy, .n_tokens = 60, .on_token = listen, .user = &all};
  cs_error error = CS_ERROR_INIT;
  consort_generate_result result = {.struct_size = sizeof result};
  harness_expect_ok(consort_generate(session, "Once upon a time", &greedy, &result, &error),
                    &error);
  if (strncmp(result.text, story, strlen(story)) != 0)
    fail_msg("%s to %s told: %s", prefill, decode, result.text);
  assert_string_equal(all.text, result.text);
  assert_int_equal(strlen(result.text), result.text_bytes);
  assert_true(result.ttft_ms > 0 && result.tpot_ms > 0);
  assert_int_equal(result.kv_verified, strcmp(prefill, decode) != 0);
  consort_free(result.tokens);
  consort_free(result.text);
  consort_session_destroy(session);
}

static void every_placement_tells_the_same_story(void **state) {
  (void)state;
  static const char *const names[] = {"cpu:0", "cpu:1", "opencl:0"};
  for (size_t a = 0; a < 3; a++)
    for (size_t b = 0; b < 3 && is_present(names[a]); b++)
      if (is_present(names[b])) expect_story(names[a], names[b]);
}

static consort_session *open_f32(const char *prefill, const char *decode) {
  const consort_session_options options = harness_options(prefill, decode);
  return harness_session(runtime, model, &options, NULL);
}

static double nmse(const float *a, const float *b, size_t n) {
  double difference = 0, power = 0;
  for (size_t i = 0; i < n; i++) {
    difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    power += (double)b[i] * b[i];
  }
  return difference / power;
}

/* Rows of either device on the other's KV are those that one device computes by itself. */
static void expect_split_logits(const char *prefill, const char *decode, const int32_t *tokens,
                                size_t n, const float *expected) {
  const size_t n_vocab = cs_model_get_config(model->model)->n_vocab;
  const size_t splits[] = {1, 15, 16, 17, n - 1};
  float *const rows = malloc(n * n_vocab * sizeof *rows);
  cs_error error = CS_ERROR_INIT;
  consort_session *const session = open_f32(prefill, decode);
  for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
    harness_expect_ok(consort_logits(session, tokens, n, splits[i], rows, &error), &error);
    const double off = nmse(rows, expected, n * n_vocab);
    if (!(off <= 1e-6)) fail_msg("%s to %s at %zu: NMSE %g", prefill, decode, splits[i], off);
  }
  consort_session_destroy(session);
  free(rows);
}

static void logits_do_not_depend_on_the_split(void **state) {
  (void)state;
  static const char *const names[] = {"cpu:0", "cpu:1", "opencl:0"};
  enum { N = 40 };
  const size_t n_vocab = cs_model_get_config(model->model)->n_vocab;
  float *const expected = malloc(N * n_vocab * sizeof *expected);
  int32_t tokens[N];
  unsigned seed = 60;
  for (size_t i = 0; i < N; i++)
    tokens[i] = (int32_t)(i == 0 ? 1 : (unsigned)rand_r(&seed) % n_vocab);
  cs_error error = CS_ERROR_INIT;
  consort_session *const one = open_f32("cpu:0", "cpu:0");
  harness_expect_ok(consort_logits(one, tokens, N, 0, expected, &error), &error);
  consort_session_destroy(one);
  for (size_t a = 0; a < 3; a++)
    for (size_t b = 0; b < 3 && is_present(names[a]); b++)
      if (is_present(names[b])) expect_split_logits(names[a], names[b], tokens, N, expected);
  free(expected);
}

int main(void) {
  const char *const data = getenv("CONSORT_TEST_DATA");
  if (!data) {
    printf("skipped: CONSORT_TEST_DATA is not set\n");
    return 77;
  }
  char path[4096];
  snprintf(path, sizeof path, "%s/models/stories260K.gguf", data);
  runtime = harness_runtime();
  cs_error error = CS_ERROR_INIT;
  if (consort_model_open(runtime, path, &model, &error)) {
    printf("skipped: %s\n", error.message);
    consort_runtime_destroy(runtime);
    return 77;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_placement_tells_the_same_story),
                                     cmocka_unit_test(logits_do_not_depend_on_the_split)};
  const int failed = cmocka_run_group_tests_name("story", tests, NULL, NULL);
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return failed;
}
