/* The ends of a transfer: the device's own gather and scatter and those of the host agree to the
 * bit, and what was scattered is gathered again, at any place in a block. */
#include "scheduler_harness.h"

#include "scheduler/transfer_port.h"
#include "scheduler/wire.h"

#define N_TOKENS   60
#define TIMEOUT_US 10000000

static consort_runtime *runtime;
static consort_model *model;
static cs_device *device;
static cs_engine *engine; /* holds the KV of N_TOKENS in `filled`, and room in `empty` */
static cs_kv_sequence filled, empty;
static cs_semaphore *now; /* at 1 */

static int open_all(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  runtime = harness_runtime();
  model = harness_tiny(runtime);
  const char *const name = getenv("CONSORT_TEST_DEVICE");
  harness_expect_ok(cs_device_open(runtime->core, name ? name : "cpu:0", &device, &error), &error);
  const cs_engine_options options = {.model = model->model,
                                     .primary = device,
                                     .policy = CS_FALLBACK_STRICT,
                                     .kv_dtype = CS_DTYPE_F32,
                                     .n_context = 2 * N_TOKENS,
                                     .n_sequences = 2,
                                     .n_batch = N_TOKENS};
  harness_expect_ok(cs_engine_create(&options, &engine, &error), &error);
  harness_expect_ok(cs_engine_load(engine, NULL, NULL, &error), &error);
  cs_kv_pool *const pool = cs_engine_pool(engine);
  harness_expect_ok(cs_kv_sequence_reserve(pool, &filled, N_TOKENS, &error), &error);
  harness_expect_ok(cs_kv_sequence_reserve(pool, &empty, N_TOKENS, &error), &error);
  int32_t tokens[N_TOKENS];
  harness_tokens(tokens, N_TOKENS, 50);
  const cs_batch_sequence sequence = {tokens, N_TOKENS, 0, 0, &filled};
  const cs_batch batch = {&sequence, 1, CS_FORWARD_KV, false};
  harness_expect_ok(cs_engine_run(engine, &batch, NULL, NULL, &error), &error);
  harness_expect_ok(cs_engine_wait(engine, NULL, NULL, &error), &error);
  harness_expect_ok(cs_semaphore_create(device, 1, &now, &error), &error);
  return 0;
}

static int close_all(void **state) {
  (void)state;
  cs_semaphore_release(now);
  cs_kv_sequence_release(cs_engine_pool(engine), &filled);
  cs_kv_sequence_release(cs_engine_pool(engine), &empty);
  cs_engine_destroy(engine);
  cs_device_release(device);
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return 0;
}

static cs_port *open_port(uint32_t op, uint32_t wire_dtype, bool on_host) {
  cs_error error = CS_ERROR_INIT;
  const cs_port_options options = {.cache = cs_engine_cache(engine),
                                   .device = device,
                                   .op = op,
                                   .wire_dtype = wire_dtype,
                                   .max_tokens = N_TOKENS,
                                   .max_blocks = cs_engine_max_blocks(engine),
                                   .on_host = on_host};
  cs_port *port;
  harness_expect_ok(cs_port_create(&options, &port, &error), &error);
  return port;
}

typedef struct wire_piece {
  uint8_t *wire; /* owned */
  uint64_t bytes;
  uint64_t sum;
} wire_piece;

static cs_port_range range_of(const cs_kv_sequence *sequence, uint32_t layer, uint32_t first,
                              uint32_t n) {
  return (cs_port_range){sequence->blocks, sequence->n_blocks, layer, first, n};
}

static wire_piece gather(const cs_kv_sequence *sequence, uint32_t first, uint32_t n,
                         uint32_t wire_dtype, bool on_host) {
  cs_error error = CS_ERROR_INIT;
  cs_port *const port = open_port(CS_OP_KV_GATHER, wire_dtype, on_host);
  const cs_port_range range = range_of(sequence, 1, first, n);
  const void *wire;
  wire_piece piece;
  harness_expect_ok(cs_port_gather(port, 0, &range, now, 1, NULL, &error), &error);
  harness_expect_ok(cs_port_finish_gather(port, 0, TIMEOUT_US, &wire, &piece.sum, &error), &error);
  cs_kv_wire form = cs_kv_cache_form(cs_engine_cache(engine))->wire;
  form.dtype = wire_dtype;
  assert_int_equal(cs_wire_bytes(&form, n, &piece.bytes), CS_OK);
  piece.wire = malloc(piece.bytes);
  memcpy(piece.wire, wire, piece.bytes);
  cs_port_destroy(port);
  return piece;
}

static void expect_equal(const wire_piece *a, const wire_piece *b) {
  assert_true(a->bytes == b->bytes);
  assert_memory_equal(a->wire, b->wire, a->bytes);
  assert_true(a->sum == b->sum);
}

static const uint32_t ranges[][2] = {{0, 60}, {0, 1}, {15, 2}, {16, 16}, {7, 40}, {59, 1}};
static const uint32_t dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16};

static void device_and_host_gather_the_same_bytes(void **state) {
  (void)state;
  for (size_t d = 0; d < 3; d++)
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
      wire_piece a = gather(&filled, ranges[i][0], ranges[i][1], dtypes[d], false);
      wire_piece b = gather(&filled, ranges[i][0], ranges[i][1], dtypes[d], true);
      expect_equal(&a, &b);
      assert_true(a.sum == cs_wire_sum(a.wire, a.bytes));
      free(a.wire);
      free(b.wire);
    }
}

static void scatter(const wire_piece *piece, uint32_t first, uint32_t n, uint32_t wire_dtype,
                    bool on_host) {
  cs_error error = CS_ERROR_INIT;
  cs_port *const port = open_port(CS_OP_KV_SCATTER, wire_dtype, on_host);
  const cs_port_range range = range_of(&empty, 1, first, n);
  uint64_t sum;
  harness_expect_ok(cs_port_scatter(port, 1, &range, piece->wire, NULL, TIMEOUT_US, &error),
                    &error);
  harness_expect_ok(cs_port_finish_scatter(port, 1, TIMEOUT_US, &sum, &error), &error);
  assert_true(sum == piece->sum);
  cs_port_destroy(port);
}

static void what_was_scattered_is_gathered_again(void **state) {
  (void)state;
  for (int on_host = 0; on_host < 2; on_host++)
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
      const uint32_t first = ranges[i][0], n = ranges[i][1];
      wire_piece sent = gather(&filled, first, n, CS_DTYPE_F32, false);
      scatter(&sent, first, n, CS_DTYPE_F32, on_host);
      wire_piece back = gather(&empty, first, n, CS_DTYPE_F32, false);
      expect_equal(&sent, &back);
      free(sent.wire);
      free(back.wire);
    }
}

static void scattering_leaves_the_neighbours_alone(void **state) {
  (void)state;
  for (int on_host = 0; on_host < 2; on_host++) {
    wire_piece all = gather(&filled, 0, N_TOKENS, CS_DTYPE_F32, false);
    scatter(&all, 0, N_TOKENS, CS_DTYPE_F32, false);
    wire_piece part = gather(&filled, 21, 3, CS_DTYPE_F32, false);
    scatter(&part, 21, 3, CS_DTYPE_F32, on_host);
    wire_piece back = gather(&empty, 0, N_TOKENS, CS_DTYPE_F32, false);
    expect_equal(&all, &back);
    free(all.wire);
    free(part.wire);
    free(back.wire);
  }
}

static void ranges_outside_are_refused(void **state) {
  (void)state;
  cs_port *const port = open_port(CS_OP_KV_GATHER, CS_DTYPE_F32, false);
  const cs_port_range cases[] = {range_of(&filled, 0, 0, 0), range_of(&filled, 0, 0, 61),
                                 range_of(&filled, 0, 40, 60), range_of(&filled, 0, UINT32_MAX, 2)};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    assert_int_equal(cs_port_gather(port, 0, &cases[i], now, 1, NULL, NULL), CS_OUT_OF_RANGE);
  cs_port_destroy(port);
}

static void a_port_serves_again_after_a_failure(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_error reason = CS_ERROR_INIT;
  cs_semaphore *never;
  const void *wire;
  uint64_t sum;
  cs_port *const port = open_port(CS_OP_KV_GATHER, CS_DTYPE_F32, false);
  const cs_port_range range = range_of(&filled, 0, 0, 20);
  harness_expect_ok(cs_semaphore_create(device, 0, &never, &error), &error);
  harness_expect_ok(cs_port_gather(port, 0, &range, never, 1, NULL, &error), &error);
  reason.code = CS_FAILED;
  strcpy(reason.message, "the prefill failed");
  harness_expect_ok(cs_semaphore_fail(never, &reason, &error), &error);
  assert_int_equal(cs_port_finish_gather(port, 0, TIMEOUT_US, &wire, &sum, &error), CS_FAILED);
  assert_non_null(strstr(error.message, "the prefill failed"));
  harness_expect_ok(cs_port_gather(port, 1, &range, now, 1, NULL, &error), &error);
  harness_expect_ok(cs_port_finish_gather(port, 1, TIMEOUT_US, &wire, &sum, &error), &error);
  cs_port_destroy(port);
  cs_semaphore_release(never);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(device_and_host_gather_the_same_bytes),
      cmocka_unit_test(what_was_scattered_is_gathered_again),
      cmocka_unit_test(scattering_leaves_the_neighbours_alone),
      cmocka_unit_test(ranges_outside_are_refused),
      cmocka_unit_test(a_port_serves_again_after_a_failure),
  };
  return cmocka_run_group_tests_name("port", tests, open_all, close_all);
}
