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
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_placement_tells_the_same_story)};
  const int failed = cmocka_run_group_tests_name("story", tests, NULL, NULL);
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return failed;
}
