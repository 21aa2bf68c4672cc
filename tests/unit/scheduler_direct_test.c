/* KV that goes from device to device: by the same checks, to the same tokens, and through host
 * memory whenever the short way fails. */
#include "scheduler_harness.h"

#define N_PROMPT 100
#define N_OUTPUT 8

static consort_runtime *runtime;
static consort_model *model;
static int32_t tokens[N_PROMPT];
static int32_t expected[N_OUTPUT]; /* of cpu:0 alone */

typedef struct outcome {
  cs_status status;
  uint64_t n_pieces, n_direct;
  uint32_t path;
  int32_t tokens[N_OUTPUT];
  char message[CS_ERROR_MESSAGE_BYTES];
} outcome;

static outcome generate(consort_session *session) {
  outcome out = {0};
  cs_error error = CS_ERROR_INIT;
  consort_generate_options options = harness_greedy(N_OUTPUT);
  consort_generate_result result = {.struct_size = sizeof result};
  out.status = consort_generate_from_tokens(session, tokens, N_PROMPT, &options, &result, &error);
  memcpy(out.message, error.message, sizeof out.message);
  if (out.status) return out;
  assert_int_equal(result.n_tokens, N_OUTPUT);
  memcpy(out.tokens, result.tokens, sizeof out.tokens);
  out.n_pieces = result.kv_pieces;
  out.n_direct = result.kv_direct;
  out.path = result.kv_path;
  if (result.kv_pieces > 0) assert_int_equal(result.kv_verified, 1);
  consort_free(result.tokens);
  consort_free(result.text);
  return out;
}

static consort_session *open_session(const char *prefill, const char *decode, bool staged) {
  const consort_session_options options = harness_options(prefill, decode);
  const cs_session_tuning tuning = {.staged = staged};
  return harness_session(runtime, model, &options, &tuning);
}

static int open_all(void **state) {
  (void)state;
  char plugins[4096];
  snprintf(plugins, sizeof plugins, "%s:%s", getenv("CONSORT_TEST_PLUGINS"), LAME_PEER_PLUGINS);
  setenv("CONSORT_TEST_PLUGINS", plugins, 1);
  setenv("LAME_PEER_TARGET", CPU_PLUGIN, 1);
  runtime = harness_runtime();
  model = harness_tiny(runtime);
  harness_tokens(tokens, N_PROMPT, 9);
  consort_session *const alone = open_session("cpu:0", "cpu:0", false);
  const outcome out = generate(alone);
  assert_int_equal(out.status, CS_OK);
  memcpy(expected, out.tokens, sizeof expected);
  consort_session_destroy(alone);
  return 0;
}

static int close_all(void **state) {
  (void)state;
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return 0;
}

static void expect(consort_session *session, uint64_t n_direct_of_4, uint32_t path) {
  const outcome out = generate(session);
  if (out.status) fail_msg("%s", out.message);
  assert_memory_equal(out.tokens, expected, sizeof expected);
  assert_int_equal(out.n_pieces, 4); /* two layers, two chunks of 64 */
  assert_int_equal(out.n_direct, n_direct_of_4);
  assert_int_equal(out.path, path);
  harness_expect_no_blocks_taken(session);
}

static void devices_of_one_plugin_copy_to_each_other(void **state) {
  (void)state;
  consort_session *const session = open_session("cpu:0", "cpu:1", false);
  for (int i = 0; i < 5; i++) /* more pieces than berths */
    expect(session, 4, CONSORT_KV_PEER);
  consort_session_destroy(session);
  consort_session *const staged = open_session("cpu:0", "cpu:1", true);
  expect(staged, 0, CONSORT_KV_STAGED);
  consort_session_destroy(staged);
}

static void two_plugins_share_memory(void **state) {
  (void)state;
  static const char *const pairs[][2] = {{"cpu:0", "npu-sim:0"}, {"npu-sim:0", "cpu:0"}};
  for (int pair = 0; pair < 2; pair++) {
    consort_session *const session = open_session(pairs[pair][0], pairs[pair][1], false);
    for (int i = 0; i < 3; i++)
      expect(session, 4, CONSORT_KV_SHARED);
    consort_session_destroy(session);
  }
}

static void two_plugins_that_share_nothing_are_staged(void **state) {
  (void)state;
  consort_session *const session = open_session("cpu:0", "lame-peer:0", false);
  setenv("LAME_PEER", "alone", 1);
  expect(session, 0, CONSORT_KV_STAGED);
  unsetenv("LAME_PEER");
  consort_session_destroy(session);
}

/* Tokens are right at once; the pair is not asked again. */
static void a_failing_copy_falls_back_to_staging(void **state) {
  (void)state;
  static const char *const ways[] = {"refuse", "poison"};
  for (size_t i = 0; i < 2; i++) {
    setenv("LAME_PEER", ways[i], 1);
    consort_session *const session = open_session("lame-peer:0", "lame-peer:1", false);
    expect(session, 0, CONSORT_KV_STAGED);
    unsetenv("LAME_PEER");
    expect(session, 0, CONSORT_KV_STAGED);
    consort_session_destroy(session);
  }
}

static void a_copy_that_lost_bytes_is_refused_and_the_next_is_staged(void **state) {
  (void)state;
  setenv("LAME_PEER", "short", 1);
  consort_session *const session = open_session("lame-peer:0", "lame-peer:1", false);
  const outcome out = generate(session);
  assert_int_equal(out.status, CS_CORRUPT);
  assert_non_null(strstr(out.message, "checksum"));
  expect(session, 0, CONSORT_KV_STAGED);
  unsetenv("LAME_PEER");
  consort_session_destroy(session);
}

static void a_damaged_or_repeated_message_frees_its_berth(void **state) {
  (void)state;
  static const harness_harm harms[] = {HARM_FLIP_LAYER, HARM_REPEAT};
  consort_session *const session = open_session("cpu:0", "cpu:1", false);
  harness_link harmful;
  harness_link_install(&harmful, session);
  for (size_t i = 0; i < 12; i++) {
    harness_link_set(&harmful, harms[i % 2], CS_MESSAGE_KV_PIECE, (int)(i % 3));
    assert_int_equal(generate(session).status, CS_CORRUPT);
  }
  harness_link_set(&harmful, HARM_NONE, CS_MESSAGE_KV_PIECE, 0);
  expect(session, 4, CONSORT_KV_PEER);
  consort_session_destroy(session);
}

static void a_place_is_good_once(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  consort_session *const session = open_session("cpu:0", "cpu:1", false);
  cs_dock *const dock = cs_worker_dock(session->decode);
  cs_device *const from = cs_engine_device(cs_worker_engine(session->prefill), 0);
  cs_berth berth, again;
  cs_buffer *buffer;
  uint32_t path;
  harness_expect_ok(cs_dock_take(dock, from, 1, 64, &berth, &error), &error);
  assert_int_equal(cs_dock_claim(dock, berth.place, 0, &buffer, &path, &error), CS_CORRUPT);
  assert_int_equal(cs_dock_claim(dock, berth.place, 1, &buffer, &path, &error), CS_OK);
  assert_int_equal(cs_dock_claim(dock, berth.place, 1, &buffer, &path, &error), CS_CORRUPT);
  cs_dock_give(dock, berth.place);
  harness_expect_ok(cs_dock_take(dock, from, 1, 64, &again, &error), &error);
  assert_int_not_equal(again.place, berth.place);
  assert_int_equal(cs_dock_claim(dock, berth.place, 1, &buffer, &path, &error), CS_CORRUPT);
  assert_int_equal(cs_dock_claim(dock, 0, 1, &buffer, &path, &error), CS_CORRUPT);
  assert_int_equal(cs_dock_claim(dock, UINT32_MAX, 1, &buffer, &path, &error), CS_CORRUPT);
  cs_dock_give(dock, again.place);
  cs_berth taken[CS_DOCK_BERTHS];
  for (int i = 0; i < CS_DOCK_BERTHS; i++)
    harness_expect_ok(cs_dock_take(dock, from, 1, 64, &taken[i], &error), &error);
  assert_int_equal(cs_dock_take(dock, from, 1, 64, &again, &error), CS_EXHAUSTED);
  cs_dock_give(dock, taken[3].place);
  harness_expect_ok(cs_dock_take(dock, from, 1, 64, &again, &error), &error);
  cs_dock_fail(dock, again.place);
  cs_dock_give(dock, again.place);
  assert_int_equal(cs_dock_take(dock, from, 1, 64, &again, &error), CS_UNSUPPORTED);
  consort_session_destroy(session);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(devices_of_one_plugin_copy_to_each_other),
      cmocka_unit_test(two_plugins_share_memory),
      cmocka_unit_test(two_plugins_that_share_nothing_are_staged),
      cmocka_unit_test(a_failing_copy_falls_back_to_staging),
      cmocka_unit_test(a_copy_that_lost_bytes_is_refused_and_the_next_is_staged),
      cmocka_unit_test(a_damaged_or_repeated_message_frees_its_berth),
      cmocka_unit_test(a_place_is_good_once),
  };
  return cmocka_run_group_tests(tests, open_all, close_all);
}
