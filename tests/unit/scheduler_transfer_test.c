/* KV transfer that goes wrong: whatever happens to a piece in flight, the request ends with one
 * clear error, nothing is continued on doubtful KV, and the next request is served. */
#include "scheduler/wire.h"
#include "scheduler_harness.h"

#define N_PROMPT 100

static consort_runtime *runtime;
static consort_model *model;
static consort_session *session;
static harness_link harmful;
static int32_t tokens[N_PROMPT];

static int open_all(void **state) {
  (void)state;
  runtime = harness_runtime();
  model = harness_tiny(runtime);
  const consort_session_options options = harness_options("cpu:0", "cpu:1");
  const cs_session_tuning tuning = {.transfer_us = 400000, .staged = 1};
  session = harness_session(runtime, model, &options, &tuning);
  harness_link_install(&harmful, session);
  harness_tokens(tokens, N_PROMPT, 9);
  return 0;
}

static int close_all(void **state) {
  (void)state;
  consort_session_destroy(session);
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return 0;
}

static int count_tokens(void *user, int32_t token, const char *text, size_t text_bytes) {
  (void)token, (void)text, (void)text_bytes;
  ++*(int *)user;
  return 0;
}

static cs_status generate(cs_error *error, int *n_delivered) {
  consort_generate_options options = harness_greedy(4);
  options.on_token = count_tokens;
  options.user = n_delivered;
  *n_delivered = 0;
  consort_generate_result result = {.struct_size = sizeof result};
  const cs_status status =
      consort_generate_from_tokens(session, tokens, N_PROMPT, &options, &result, error);
  if (!status) assert_int_equal(result.kv_verified, 1);
  consort_free(result.tokens);
  consort_free(result.text);
  return status;
}

static void expect_failure(harness_harm harm, cs_message_kind kind, int nth, cs_status expected,
                           const char *word) {
  cs_error error = CS_ERROR_INIT;
  int n_delivered;
  harness_link_set(&harmful, harm, kind, nth);
  assert_int_equal(generate(&error, &n_delivered), expected);
  assert_int_equal(n_delivered, 0);
  assert_non_null(strstr(error.message, "KV piece of request"));
  if (!strstr(error.message, word)) fail_msg("'%s' is not in '%s'", word, error.message);
  harness_expect_no_blocks_taken(session);

  harness_link_set(&harmful, HARM_NONE, kind, nth);
  harness_expect_ok(generate(&error, &n_delivered), &error);
  assert_int_equal(n_delivered, 4);
}

/* 99 positions in chunks of 64 over 2 layers: pieces (0, 0-63), (1, 0-63), (0, 64-98), (1, ...) */

static void transfer_with_a_flipped_byte_is_refused(void **state) {
  (void)state;
  expect_failure(HARM_FLIP_PAYLOAD, CS_MESSAGE_KV_PIECE, 0, CS_CORRUPT, "layer 0, tokens 0 to 63");
  expect_failure(HARM_FLIP_PAYLOAD, CS_MESSAGE_KV_PIECE, 3, CS_CORRUPT, "layer 1, tokens 64 to 98");
  expect_failure(HARM_FLIP_PAYLOAD, CS_MESSAGE_KV_PIECE, 3, CS_CORRUPT, "checksum");
}

static void a_piece_for_the_wrong_layer_is_refused(void **state) {
  (void)state;
  expect_failure(HARM_FLIP_LAYER, CS_MESSAGE_KV_PIECE, 2, CS_CORRUPT, "layer 1");
}

static void a_lost_piece_is_missed(void **state) {
  (void)state;
  expect_failure(HARM_DROP, CS_MESSAGE_KV_PIECE, 3, CS_CORRUPT, "missing");
  expect_failure(HARM_DROP, CS_MESSAGE_KV_PIECE, 0, CS_CORRUPT, "layer 0, tokens 64 to 98");
}

static void a_repeated_piece_is_refused(void **state) {
  (void)state;
  expect_failure(HARM_REPEAT, CS_MESSAGE_KV_PIECE, 1, CS_CORRUPT, "not the next one");
}

static void a_lost_end_runs_into_the_deadline(void **state) {
  (void)state;
  expect_failure(HARM_DROP, CS_MESSAGE_KV_END, 0, CS_TIMEOUT, "did not come within 0.4 s");
}

static void the_prefill_side_that_never_begins_runs_into_the_deadline(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  /* A decode request that waits for KV nobody sends. */
  const cs_message message = {.kind = CS_MESSAGE_DECODE,
                              .request = 1000000,
                              .epoch = 1,
                              .decode = {.n_cached = 10,
                                         .n_output = 1,
                                         .n_prompt = 20,
                                         .sampler = CS_SAMPLER_GREEDY,
                                         .wait_us = 100000,
                                         .tokens = {tokens, 20 * sizeof tokens[0]}}};
  harness_expect_ok(
      cs_link_send_message(cs_worker_link(session->decode), &message, 1000000, &error), &error);
  for (int i = 0; i < 100; i++) {
    cs_frame *frame;
    cs_message answer;
    if (cs_mailbox_receive(session->inbox, 5000000, &frame)) break;
    harness_expect_ok(cs_message_decode(frame->data, frame->bytes, &answer, &error), &error);
    const bool failed = answer.kind == CS_MESSAGE_ERROR && answer.error.status == CS_TIMEOUT;
    cs_frame_destroy(frame);
    if (failed) {
      harness_expect_no_blocks_taken(session);
      return;
    }
  }
  fail_msg("no error came");
}

/* Another model on the other side: refused before anything is computed. */
static void a_pair_that_cannot_be_converted_is_refused_before_prefill(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_stats_message before, after;
  harness_expect_ok(cs_router_stats(session->router, true, 5000000, &before, &error), &error);
  const cs_message message = {.kind = CS_MESSAGE_PREFILL,
                              .request = 1000001,
                              .epoch = 1,
                              .prefill = {.wire = {.fingerprint = 1,
                                                   .dtype = CS_DTYPE_F32,
                                                   .n_layers = 2,
                                                   .n_kv_heads = 4,
                                                   .k_width = 32,
                                                   .v_width = 32},
                                          .wait_us = 100000,
                                          .tokens = {tokens, 20 * sizeof tokens[0]}}};
  harness_expect_ok(
      cs_link_send_message(cs_worker_link(session->prefill), &message, 1000000, &error), &error);
  cs_frame *frame;
  cs_message answer;
  assert_int_equal(cs_mailbox_receive(session->inbox, 5000000, &frame), CS_OK);
  harness_expect_ok(cs_message_decode(frame->data, frame->bytes, &answer, &error), &error);
  assert_int_equal(answer.kind, CS_MESSAGE_ERROR);
  assert_int_equal(answer.error.status, CS_UNSUPPORTED);
  cs_frame_destroy(frame);
  harness_expect_ok(cs_router_stats(session->router, true, 5000000, &after, &error), &error);
  assert_true(after.n_steps == before.n_steps);
}

/* ---- two workers by hand, whose caches differ ---- */

typedef struct worker_pair {
  cs_device *devices[2];
  cs_worker *workers[2]; /* prefill, decode */
  cs_mailbox *inbox;
  cs_router *router;
} worker_pair;

static void pair_open(worker_pair *pair, const uint32_t kv_dtypes[2]) {
  static const char *const names[] = {"cpu:0", "cpu:1"};
  cs_error error = CS_ERROR_INIT;
  harness_expect_ok(cs_mailbox_create(1u << 20, &pair->inbox, &error), &error);
  for (int i = 0; i < 2; i++) {
    harness_expect_ok(cs_device_open(runtime->core, names[i], &pair->devices[i], &error), &error);
    const cs_worker_options options = {.engine = {.model = model->model,
                                                  .primary = pair->devices[i],
                                                  .policy = CS_FALLBACK_STRICT,
                                                  .kv_dtype = kv_dtypes[i],
                                                  .n_context = 200,
                                                  .n_sequences = 1,
                                                  .n_batch = i == 0 ? 48 : 16},
                                       .number = (uint32_t)i + 1};
    harness_expect_ok(cs_worker_create(&options, &pair->workers[i], &error), &error);
    harness_expect_ok(
        cs_worker_start(pair->workers[i], cs_mailbox_link(pair->inbox), NULL, NULL, &error),
        &error);
  }
  cs_worker_connect(pair->workers[0], 3, cs_worker_link(pair->workers[1]), NULL);
  const cs_router_options options = {.inbox = pair->inbox,
                                     .prefill = cs_worker_link(pair->workers[0]),
                                     .decode = cs_worker_link(pair->workers[1]),
                                     .prefill_number = 1,
                                     .decode_number = 2,
                                     .decode_peer = 3};
  harness_expect_ok(cs_router_create(&options, &pair->router, &error), &error);
}

static void pair_close(worker_pair *pair) {
  cs_mailbox_close(pair->inbox);
  for (int i = 0; i < 2; i++) {
    cs_worker_destroy(pair->workers[i]);
    cs_device_release(pair->devices[i]);
  }
  cs_router_destroy(pair->router);
  cs_mailbox_destroy(pair->inbox);
}

static void caches_of_two_dtypes_are_converted_on_the_way(void **state) {
  (void)state;
  static const uint32_t cases[][2] = {
      {CS_DTYPE_F32, CS_DTYPE_F16},     {CS_DTYPE_F16, CS_DTYPE_F32},
      {CS_DTYPE_BF16, CS_DTYPE_F32},    {CS_DTYPE_F16, CS_DTYPE_I8},
      {CS_DTYPE_I8, CS_DTYPE_F16},      {CS_DTYPE_F8_E4M3, CS_DTYPE_I8},
      {CS_DTYPE_BF16, CS_DTYPE_F8_E4M3}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    worker_pair pair;
    pair_open(&pair, cases[i]);
    const cs_router_request request = {
        .tokens = tokens, .n_tokens = N_PROMPT, .n_output = 5, .sampler = CS_SAMPLER_GREEDY};
    cs_error error = CS_ERROR_INIT;
    cs_router_event event;
    uint64_t id;
    int n_tokens = 0;
    harness_expect_ok(cs_router_submit(pair.router, &request, &id, &error), &error);
    do {
      assert_int_equal(cs_router_next(pair.router, 20000000, &event), CS_OK);
      n_tokens += event.kind == CS_ROUTER_TOKEN;
      if (event.kind == CS_ROUTER_FAILED) fail_msg("%s", event.error.message);
    } while (event.kind != CS_ROUTER_FINISHED);
    assert_int_equal(n_tokens, 5);
    assert_true(event.report.transferred);
    const uint64_t row_bytes = cs_wire_row_bytes(cases[i][1], 32); /* as the decode side has it */
    assert_true(event.report.transfer.bytes == (N_PROMPT - 1) * 2 * 2 * 4 * row_bytes);
    pair_close(&pair);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(transfer_with_a_flipped_byte_is_refused),
      cmocka_unit_test(a_piece_for_the_wrong_layer_is_refused),
      cmocka_unit_test(a_lost_piece_is_missed),
      cmocka_unit_test(a_repeated_piece_is_refused),
      cmocka_unit_test(a_lost_end_runs_into_the_deadline),
      cmocka_unit_test(the_prefill_side_that_never_begins_runs_into_the_deadline),
      cmocka_unit_test(a_pair_that_cannot_be_converted_is_refused_before_prefill),
      cmocka_unit_test(caches_of_two_dtypes_are_converted_on_the_way),
  };
  return cmocka_run_group_tests_name("transfer", tests, open_all, close_all);
}
