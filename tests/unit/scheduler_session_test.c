/* Sessions on the CPU plugin, its cores divided into two devices: the same answers from one device
 * and from two, one by one and in a batch. */
#include "scheduler_harness.h"

#include <math.h>
#include <time.h>

static consort_runtime *runtime;
static consort_model *model;

static int open_all(void **state) {
  (void)state;
  runtime = harness_runtime();
  model = harness_tiny(runtime);
  return 0;
}

static int close_all(void **state) {
  (void)state;
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return 0;
}

static consort_session *open_pair(const char *prefill, const char *decode) {
  const consort_session_options options = harness_options(prefill, decode);
  return harness_session(runtime, model, &options, NULL);
}

static consort_generate_result generate(consort_session *session, const int32_t *tokens, size_t n,
                                        const consort_generate_options *options) {
  cs_error error = CS_ERROR_INIT;
  consort_generate_result result = {.struct_size = sizeof result};
  harness_expect_ok(consort_generate_from_tokens(session, tokens, n, options, &result, &error),
                    &error);
  return result;
}

static void forget(consort_generate_result *result) {
  consort_free(result->tokens);
  consort_free(result->text);
  consort_free(result->logprobs);
}

static void expect_same_tokens(const consort_generate_result *a, const consort_generate_result *b) {
  assert_int_equal(a->n_tokens, b->n_tokens);
  assert_memory_equal(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens);
}

static void two_devices_answer_as_one_does(void **state) {
  (void)state;
  static const size_t lengths[] = {1, 2, 15, 16, 17, 64, 65, 66, 300};
  consort_session *const one = open_pair("cpu:0", "cpu:0");
  consort_session *const two = open_pair("cpu:0", "cpu:1");
  assert_null(one->prefill);
  assert_non_null(two->prefill);
  const consort_generate_options options = harness_greedy(12);
  int32_t tokens[300];
  harness_tokens(tokens, 300, 1);
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    const size_t n = lengths[i];
    consort_generate_result a = generate(one, tokens, n, &options);
    consort_generate_result b = generate(two, tokens, n, &options);
    expect_same_tokens(&a, &b);
    assert_int_equal(a.n_tokens, 12);
    assert_int_equal(a.kv_pieces, 0);
    assert_int_equal(a.kv_verified, 0);
    const uint64_t n_chunks = (n - 1 + 63) / 64;
    assert_int_equal(b.kv_pieces, 2 * n_chunks);             /* 2 layers */
    assert_true(b.kv_bytes == (n - 1) * 2 * 2 * 4 * 32 * 4); /* layers, K and V, heads, width */
    assert_int_equal(b.kv_verified, n > 1);
    forget(&a);
    forget(&b);
  }
  harness_expect_no_blocks_taken(two);
  consort_session_destroy(one);
  consort_session_destroy(two);
}

static void sampling_depends_on_the_seed_alone(void **state) {
  (void)state;
  consort_session *const one = open_pair("cpu:0", "cpu:0");
  consort_session *const two = open_pair("cpu:1", "cpu:0");
  consort_generate_options options = harness_greedy(20);
  options.temperature = 0.9f;
  options.top_k = 40;
  options.seed = 11;
  int32_t tokens[20];
  harness_tokens(tokens, 20, 2);
  consort_generate_result a = generate(one, tokens, 20, &options);
  consort_generate_result b = generate(two, tokens, 20, &options);
  options.seed = 12;
  consort_generate_result c = generate(one, tokens, 20, &options);
  expect_same_tokens(&a, &b);
  assert_memory_not_equal(a.tokens, c.tokens, 20 * sizeof *a.tokens);
  forget(&a);
  forget(&b);
  forget(&c);
  consort_session_destroy(one);
  consort_session_destroy(two);
}

/* Penalties and biases are carried to the worker that samples, wherever it is. */
static void penalties_and_biases_hold_on_every_placement(void **state) {
  (void)state;
  consort_session *const one = open_pair("cpu:0", "cpu:0");
  consort_session *const two = open_pair("cpu:1", "cpu:0");
  int32_t tokens[20];
  harness_tokens(tokens, 20, 2);
  const consort_generate_options greedy = harness_greedy(20);
  consort_generate_result plain = generate(one, tokens, 20, &greedy);
  assert_null(plain.logprobs);

  consort_generate_options options = greedy;
  const consort_logit_bias bans[] = {{plain.tokens[0], -INFINITY}, {plain.tokens[1], -1000}};
  options.logit_biases = bans;
  options.n_logit_biases = 2;
  options.presence_penalty = 100; /* no token comes twice */
  options.n_logprobs = 3;
  consort_generate_result a = generate(one, tokens, 20, &options);
  consort_generate_result b = generate(two, tokens, 20, &options);
  expect_same_tokens(&a, &b);
  assert_int_equal(a.n_tokens, 20);
  for (uint32_t i = 0; i < 20; i++) {
    assert_int_not_equal(a.tokens[i], bans[0].token);
    assert_int_not_equal(a.tokens[i], bans[1].token);
    for (uint32_t k = 0; k < i; k++)
      assert_int_not_equal(a.tokens[i], a.tokens[k]);
    const consort_token_logprob *const row = a.logprobs + (size_t)i * 3;
    assert_int_equal(row[0].token, a.tokens[i]);
    assert_true(row[0].logprob <= row[1].logprob && row[1].logprob >= row[2].logprob);
    assert_true(row[1].logprob < 0);
  }
  assert_int_equal(a.logprobs[1].token, plain.tokens[0]); /* the model's own, bans apart */
  forget(&plain);
  forget(&a);
  forget(&b);
  consort_session_destroy(one);
  consort_session_destroy(two);
}

static void a_bias_outside_the_vocabulary_is_refused(void **state) {
  (void)state;
  consort_session *const session = open_pair("cpu:0", "cpu:0");
  consort_generate_options options = harness_greedy(4);
  const consort_logit_bias bias = {INT32_MAX, 1};
  options.logit_biases = &bias;
  options.n_logit_biases = 1;
  cs_error error = CS_ERROR_INIT;
  consort_generate_result result = {.struct_size = sizeof result};
  assert_int_equal(
      consort_generate_from_tokens(session, (int32_t[]){1}, 1, &options, &result, &error),
      CS_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "outside the vocabulary"));
  consort_session_destroy(session);
}

static double nmse(const float *a, const float *b, size_t n) {
  double difference = 0, power = 0;
  for (size_t i = 0; i < n; i++) {
    difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    power += (double)b[i] * b[i];
  }
  return difference / power;
}

static void split_logits_are_those_of_one_device(void **state) {
  (void)state;
  enum { N = 70, VOCAB = 1024 };
  static const size_t splits[] = {0, 1, 15, 16, 17, 64, N - 1, N};
  consort_session *const one = open_pair("cpu:0", "cpu:0");
  consort_session *const two = open_pair("cpu:0", "cpu:1");
  float *const expected = malloc(sizeof(float) * N * VOCAB);
  float *const rows = malloc(sizeof(float) * N * VOCAB);
  int32_t tokens[N];
  cs_error error = CS_ERROR_INIT;
  harness_tokens(tokens, N, 3);
  harness_expect_ok(consort_logits(one, tokens, N, 0, expected, &error), &error);
  for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
    memset(rows, 0xff, sizeof(float) * N * VOCAB);
    harness_expect_ok(consort_logits(two, tokens, N, splits[i], rows, &error), &error);
    const double worst = nmse(rows, expected, (size_t)N * VOCAB);
    if (!(worst < 1e-10)) fail_msg("split %zu: NMSE %g", splits[i], worst);
  }
  harness_expect_no_blocks_taken(two);
  free(expected);
  free(rows);
  consort_session_destroy(one);
  consort_session_destroy(two);
}

enum { BATCH = 3, BATCH_TOKENS = 25, BATCH_ROUNDS = 20 };

/* Generates all prompts together; how many steps that took on both devices. */
static uint64_t generate_together(consort_session *session, const cs_session_prompt *prompts,
                                  consort_generate_result *results) {
  cs_error error = CS_ERROR_INIT;
  cs_stats_message before, after;
  harness_expect_ok(cs_router_stats(session->router, false, 5000000, &before, &error), &error);
  harness_expect_ok(cs_session_generate(session, prompts, BATCH, results, &error), &error);
  harness_expect_ok(cs_router_stats(session->router, false, 5000000, &after, &error), &error);
  return after.n_steps - before.n_steps;
}

/* Whether sequences meet in a step depends on how fast each KV arrives: some round shows it. */
static void a_batch_answers_as_its_parts_do(void **state) {
  (void)state;
  consort_session_options options = harness_options("cpu:0", "cpu:1");
  options.n_sequences = BATCH;
  consort_session *const session = harness_session(runtime, model, &options, NULL);
  const consort_generate_options greedy = harness_greedy(BATCH_TOKENS);
  int32_t tokens[BATCH][90];
  cs_session_prompt prompts[BATCH];
  consort_generate_result alone[BATCH], together[BATCH];
  for (unsigned i = 0; i < BATCH; i++) {
    harness_tokens(tokens[i], 90, 10 + i);
    prompts[i] = (cs_session_prompt){tokens[i], 20 + 35 * i, &greedy};
    alone[i] = generate(session, tokens[i], prompts[i].n_tokens, &greedy);
  }
  bool shared = false;
  for (unsigned round = 0; round < BATCH_ROUNDS && !shared; round++) {
    shared = generate_together(session, prompts, together) < BATCH * BATCH_TOKENS;
    for (unsigned i = 0; i < BATCH; i++) {
      expect_same_tokens(&together[i], &alone[i]);
      forget(&together[i]);
    }
  }
  assert_true(shared);
  for (unsigned i = 0; i < BATCH; i++)
    forget(&alone[i]);
  harness_expect_no_blocks_taken(session);
  consort_session_destroy(session);
}

static void deterministic_results_do_not_depend_on_the_batch(void **state) {
  (void)state;
  consort_session_options options = harness_options("cpu:0", "cpu:0");
  options.n_sequences = 2;
  options.deterministic = 1;
  consort_session *const session = harness_session(runtime, model, &options, NULL);
  consort_generate_options sampled = harness_greedy(20);
  sampled.temperature = 1.5f;
  int32_t tokens[2][80];
  cs_session_prompt prompts[2];
  for (unsigned i = 0; i < 2; i++) {
    harness_tokens(tokens[i], 80, 20 + i);
    prompts[i] = (cs_session_prompt){tokens[i], 80 - 7 * i, &sampled};
  }
  consort_generate_result together[2];
  cs_error error = CS_ERROR_INIT;
  harness_expect_ok(cs_session_generate(session, prompts, 2, together, &error), &error);
  for (unsigned i = 0; i < 2; i++) {
    consort_generate_result alone = generate(session, tokens[i], prompts[i].n_tokens, &sampled);
    expect_same_tokens(&together[i], &alone);
    forget(&alone);
    forget(&together[i]);
  }
  consort_session_destroy(session);
}

static void more_prompts_than_sequences_wait_their_turn(void **state) {
  (void)state;
  enum { N = 5 };
  consort_session_options options = harness_options("cpu:0", "cpu:1");
  options.n_sequences = 2;
  consort_session *const session = harness_session(runtime, model, &options, NULL);
  const consort_generate_options greedy = harness_greedy(8);
  int32_t tokens[30];
  harness_tokens(tokens, 30, 4);
  cs_session_prompt prompts[N];
  for (int i = 0; i < N; i++)
    prompts[i] = (cs_session_prompt){tokens, 30, &greedy};
  consort_generate_result results[N];
  cs_error error = CS_ERROR_INIT;
  harness_expect_ok(cs_session_generate(session, prompts, N, results, &error), &error);
  for (int i = 0; i < N; i++) {
    expect_same_tokens(&results[i], &results[0]);
    if (i > 0) forget(&results[i]);
  }
  forget(&results[0]);
  harness_expect_no_blocks_taken(session);
  consort_session_destroy(session);
}

static void an_answer_ends_where_the_context_does(void **state) {
  (void)state;
  consort_session_options options = harness_options("cpu:0", "cpu:1");
  options.n_context = 40;
  consort_session *const session = harness_session(runtime, model, &options, NULL);
  const consort_generate_options greedy = harness_greedy(100);
  int32_t tokens[40];
  harness_tokens(tokens, 40, 5);
  consort_generate_result result = generate(session, tokens, 30, &greedy);
  assert_int_equal(result.n_tokens, 11); /* positions 30 to 39, and the one after the last */
  forget(&result);
  result = generate(session, tokens, 40, &greedy);
  assert_int_equal(result.n_tokens, 1);
  forget(&result);
  consort_session_destroy(session);
}

static void expect_refused(consort_session *session, const int32_t *tokens, size_t n,
                           cs_status status, const char *word) {
  const consort_generate_options greedy = harness_greedy(4);
  cs_error error = CS_ERROR_INIT;
  consort_generate_result result = {.struct_size = sizeof result};
  assert_int_equal(consort_generate_from_tokens(session, tokens, n, &greedy, &result, &error),
                   status);
  assert_null(result.tokens);
  assert_null(result.text);
  if (!strstr(error.message, word)) fail_msg("'%s' is not in '%s'", word, error.message);
}

static void bad_prompts_are_refused(void **state) {
  (void)state;
  consort_session *const session = open_pair("cpu:0", "cpu:1");
  int32_t tokens[513] = {0};
  expect_refused(session, tokens, 513, CS_OUT_OF_RANGE,
                 "prompt has 513 tokens but the context holds 512 (raise --ctx)");
  expect_refused(session, tokens, 0, CS_INVALID_ARGUMENT, "no tokens");
  tokens[3] = 1024;
  expect_refused(session, tokens, 10, CS_OUT_OF_RANGE, "token 1024 at position 3");
  tokens[3] = -1;
  expect_refused(session, tokens, 10, CS_OUT_OF_RANGE, "vocabulary");
  harness_expect_no_blocks_taken(session);
  consort_session_destroy(session);
}

/* Options of a newer program: what this library does not know may be zero and nothing else. */
static void options_from_a_newer_program_are_taken_when_zero(void **state) {
  (void)state;
  struct {
    consort_session_options known;
    uint64_t later;
  } newer = {.known = harness_options("cpu:0", "cpu:0")};
  newer.known.struct_size = sizeof newer;
  cs_error error = CS_ERROR_INIT;
  consort_session *session;
  harness_expect_ok(consort_session_create(runtime, model, &newer.known, &session, &error), &error);
  consort_session_destroy(session);
  newer.later = 1;
  assert_int_equal(consort_session_create(runtime, model, &newer.known, &session, &error),
                   CS_UNSUPPORTED);
  assert_non_null(strstr(error.message, "not known here"));
  assert_null(session);
}

static void expect_no_session(const consort_session_options *options, cs_status status,
                              const char *word) {
  cs_error error = CS_ERROR_INIT;
  consort_session *session;
  assert_int_equal(consort_session_create(runtime, model, options, &session, &error), status);
  assert_null(session);
  if (!strstr(error.message, word)) fail_msg("'%s' is not in '%s'", word, error.message);
  assert_null(strchr(error.message, '\n'));
}

static void sessions_that_cannot_be_are_refused(void **state) {
  (void)state;
  consort_session_options options = harness_options("cpu:0", "nosuch:0");
  expect_no_session(&options, CS_NOT_FOUND, "nosuch");
  options = harness_options("cpu:0", "cpu:1");
  options.n_context = 100000000;
  expect_no_session(&options, CS_OUT_OF_MEMORY, "MiB");
  options.n_context = UINT32_MAX;
  expect_no_session(&options, CS_OUT_OF_RANGE, "too many");
  options = harness_options("cpu:0", "cpu:1");
  options.kv_dtype = "q8_0";
  expect_no_session(&options, CS_INVALID_ARGUMENT, "q8_0");
  options = harness_options("cpu:0", "cpu:1");
  options.n_sequences = 100000;
  expect_no_session(&options, CS_INVALID_ARGUMENT, "sequences");
}

static int stop_after_three(void *user, int32_t token, const char *text, size_t text_bytes) {
  (void)token;
  assert_non_null(text);
  assert_int_equal(strlen(text), text_bytes);
  return ++*(int *)user == 3;
}

static void a_callback_ends_the_answer_and_frees_blocks(void **state) {
  (void)state;
  consort_session *const session = open_pair("cpu:0", "cpu:1");
  consort_generate_options options = harness_greedy(400);
  int count = 0;
  options.on_token = stop_after_three;
  options.user = &count;
  int32_t tokens[20];
  harness_tokens(tokens, 20, 6);
  consort_generate_result result = generate(session, tokens, 20, &options);
  assert_int_equal(result.n_tokens, 3);
  assert_int_equal(count, 3);
  forget(&result);
  harness_expect_no_blocks_taken(session);
  consort_session_destroy(session);
}

static int dawdle(void *user, int32_t token, const char *text, size_t text_bytes) {
  (void)token, (void)text, (void)text_bytes;
  struct timespec pause = {.tv_nsec = 20000000};
  nanosleep(&pause, user);
  return 0;
}

static void a_request_that_takes_too_long_is_ended(void **state) {
  (void)state;
  consort_session *const session = open_pair("cpu:0", "cpu:1");
  consort_generate_options options = harness_greedy(400);
  options.timeout_ms = 60;
  options.on_token = dawdle;
  cs_error error = CS_ERROR_INIT;
  consort_generate_result result = {.struct_size = sizeof result};
  int32_t tokens[20];
  harness_tokens(tokens, 20, 6);
  assert_int_equal(consort_generate_from_tokens(session, tokens, 20, &options, &result, &error),
                   CS_TIMEOUT);
  assert_non_null(strstr(error.message, "60 ms"));
  harness_expect_no_blocks_taken(session);
  consort_session_destroy(session);
}

static void the_dtype_of_the_cache_is_the_callers(void **state) {
  (void)state;
  static const struct {
    const char *name;
    uint64_t row_bytes;
  } dtypes[] = {{NULL, 32 * 2},   {"f16", 32 * 2}, {"f32", 32 * 4},
                {"bf16", 32 * 2}, {"fp8", 32},     {"int8", 32 + 4}};
  int32_t tokens[30];
  harness_tokens(tokens, 30, 7);
  const consort_generate_options greedy = harness_greedy(5);
  for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
    consort_session_options options = harness_options("cpu:0", "cpu:1");
    options.kv_dtype = dtypes[i].name;
    consort_session *const session = harness_session(runtime, model, &options, NULL);
    consort_generate_result result = generate(session, tokens, 30, &greedy);
    assert_true(result.kv_bytes == 29 * 2 * 2 * 4 * dtypes[i].row_bytes);
    forget(&result);
    consort_session_destroy(session);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(two_devices_answer_as_one_does),
      cmocka_unit_test(sampling_depends_on_the_seed_alone),
      cmocka_unit_test(penalties_and_biases_hold_on_every_placement),
      cmocka_unit_test(a_bias_outside_the_vocabulary_is_refused),
      cmocka_unit_test(split_logits_are_those_of_one_device),
      cmocka_unit_test(a_batch_answers_as_its_parts_do),
      cmocka_unit_test(deterministic_results_do_not_depend_on_the_batch),
      cmocka_unit_test(more_prompts_than_sequences_wait_their_turn),
      cmocka_unit_test(an_answer_ends_where_the_context_does),
      cmocka_unit_test(bad_prompts_are_refused),
      cmocka_unit_test(options_from_a_newer_program_are_taken_when_zero),
      cmocka_unit_test(sessions_that_cannot_be_are_refused),
      cmocka_unit_test(a_callback_ends_the_answer_and_frees_blocks),
      cmocka_unit_test(a_request_that_takes_too_long_is_ended),
      cmocka_unit_test(the_dtype_of_the_cache_is_the_callers),
  };
  return cmocka_run_group_tests_name("session", tests, open_all, close_all);
}
