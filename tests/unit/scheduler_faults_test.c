/* The fault plugin under whole sessions: a fault in any launch of loading or generating comes back
 * as one error, within the deadline, that names the op it happened in. Nothing crashes, nothing
 * hangs, and the process can open the next session. */
#include "scheduler_harness.h"

#include <time.h>

#define STEP_MS     1000
#define N_TOKENS    4
#define MAX_LAUNCH  9 /* beyond the launches of the shortest session: padding, prefill, decode */
#define DEADLINE_MS 20000 /* a step's own deadline, streams that are given up, a slow machine */
#define PROMPT      20

static consort_runtime *runtime;
static consort_model *model;

static int open_all(void **state) {
  (void)state;
  char path[1024], target[1024];
  const char *plugins = getenv("CONSORT_TEST_PLUGINS");
  cs_error error = CS_ERROR_INIT;
  snprintf(path, sizeof path, "%s:%s-development", plugins, plugins);
  snprintf(target, sizeof target, "%s/consort-cpu.so", plugins);
  setenv("CONSORT_PLUGIN_PATH", path, 1);
  setenv("CONSORT_FAULT_TARGET", target, 1);
  unsetenv("CONSORT_FAULT");
  harness_expect_ok(consort_runtime_create(NULL, &runtime, &error), &error);
  model = harness_tiny(runtime);
  return 0;
}

static int close_all(void **state) {
  (void)state;
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return 0;
}

typedef struct outcome {
  cs_status status;
  cs_error error;
  double ms;
  int32_t tokens[N_TOKENS];
} outcome;

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

/* A session made, used and destroyed. */
static outcome attempt(const char *prefill, const char *decode) {
  outcome o = {.error = CS_ERROR_INIT};
  const consort_session_options options = harness_options(prefill, decode);
  const cs_session_tuning tuning = {.step_timeout_us = STEP_MS * 1000,
                                    .transfer_us = STEP_MS * 1000,
                                    .silence_us = 4 * STEP_MS * 1000};
  const consort_generate_options greedy = harness_greedy(N_TOKENS);
  consort_generate_result result = {.struct_size = sizeof result};
  consort_session *session;
  int32_t tokens[PROMPT];
  harness_tokens(tokens, PROMPT, 3);
  const double begin = now_ms();
  o.status = cs_session_create(runtime, model, &options, &tuning, &session, &o.error);
  if (!o.status) {
    o.status = consort_generate_from_tokens(session, tokens, PROMPT, &greedy, &result, &o.error);
    consort_session_destroy(session);
  }
  o.ms = now_ms() - begin;
  if (!o.status) memcpy(o.tokens, result.tokens, sizeof o.tokens);
  consort_free(result.tokens);
  consort_free(result.text);
  return o;
}

static outcome attempt_with(const char *fault, bool split) {
  char name[96];
  snprintf(name, sizeof name, "fault:0?fault=%s", fault);
  return attempt(name, split ? "cpu:0" : name);
}

/* One line that names the device, in time. */
static void expect_told(const outcome *o, const char *fault, const char *words) {
  if (o->ms > DEADLINE_MS) fail_msg("%s: %.0f ms", fault, o->ms);
  if (!strstr(o->error.message, words) || strchr(o->error.message, '\n'))
    fail_msg("%s: status %d: %s", fault, o->status, o->error.message);
}

/* Every launch of a session fails once; launches that are not reached change no token. */
static void each_launch(const char *kind, const char *argument, cs_status status, bool split,
                        const char *words) {
  const outcome right = attempt("cpu:0", "cpu:0");
  uint32_t n_failed = 0;
  assert_int_equal(right.status, CS_OK);
  for (int launch = 1; launch <= MAX_LAUNCH; launch++) {
    char fault[64];
    snprintf(fault, sizeof fault, "%s:%d%s", kind, launch, argument);
    const outcome o = attempt_with(fault, split);
    if (o.status == CS_OK) {
      assert_memory_equal(o.tokens, right.tokens, sizeof right.tokens);
      continue;
    }
    n_failed++;
    if (o.status != status) fail_msg("%s: status %d: %s", fault, o.status, o.error.message);
    expect_told(&o, fault, words);
  }
  assert_true(n_failed > 0);
}

static void a_failed_launch_names_its_op(void **state) {
  (void)state;
  each_launch("launch", ":6", CS_FAILED, false, "op ");
  each_launch("launch", ":6", CS_FAILED, true, ""); /* an op, or the KV gather between them */
}

static void no_memory_in_a_launch_names_its_op(void **state) {
  (void)state;
  each_launch("launch", ":4", CS_OUT_OF_MEMORY, false, "op ");
}

static void a_lost_device_names_the_ops_under_way(void **state) {
  (void)state;
  each_launch("lost", "", CS_DEVICE_LOST, false, "op");
}

static void a_device_lost_among_several_is_named(void **state) {
  (void)state;
  each_launch("lost", "", CS_DEVICE_LOST, true, "fault:0");
}

static void a_hung_launch_ends_by_its_deadline_and_names_its_ops(void **state) {
  (void)state;
  for (int split = 0; split < 2; split++)
    for (int launch = 1; launch <= 3; launch++) {
      char fault[32];
      snprintf(fault, sizeof fault, "hang:%d", launch);
      const outcome o = attempt_with(fault, split);
      assert_int_equal(o.status, CS_TIMEOUT);
      expect_told(&o, fault, split ? "" : "were under way");
    }
}

static void no_memory_is_told_for_every_allocation(void **state) {
  (void)state;
  uint32_t n_failed = 0;
  for (int number = 1; number <= 60; number++) {
    char fault[32];
    snprintf(fault, sizeof fault, "alloc:%d", number);
    const outcome o = attempt_with(fault, number % 2);
    if (o.status == CS_OK) continue;
    n_failed++;
    if (o.status != CS_OUT_OF_MEMORY) fail_msg("%s: %d: %s", fault, o.status, o.error.message);
    expect_told(&o, fault, "fault:0");
  }
  assert_true(n_failed > 10);
}

static void slow_and_reordered_completion_changes_no_token(void **state) {
  (void)state;
  const outcome right = attempt("cpu:0", "cpu:0");
  static const char *const faults[] = {"slow:500", "reorder", "slow:200,reorder"};
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
    for (int split = 0; split < 2; split++) {
      const outcome o = attempt_with(faults[i], split);
      harness_expect_ok(o.status, &o.error);
      assert_memory_equal(o.tokens, right.tokens, sizeof right.tokens);
    }
}

static void corrupted_kv_is_refused(void **state) {
  (void)state;
  const outcome o = attempt_with("corrupt-kv", true);
  assert_int_equal(o.status, CS_CORRUPT);
  expect_told(&o, "corrupt-kv", "checksum");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_failed_launch_names_its_op),
      cmocka_unit_test(no_memory_in_a_launch_names_its_op),
      cmocka_unit_test(a_lost_device_names_the_ops_under_way),
      cmocka_unit_test(a_device_lost_among_several_is_named),
      cmocka_unit_test(a_hung_launch_ends_by_its_deadline_and_names_its_ops),
      cmocka_unit_test(no_memory_is_told_for_every_allocation),
      cmocka_unit_test(slow_and_reordered_completion_changes_no_token),
      cmocka_unit_test(corrupted_kv_is_refused),
  };
  return cmocka_run_group_tests(tests, open_all, close_all);
}
