/* The engine alone: batches of several sequences, padded or not, give each sequence what it gets
 * by itself. */
#include "scheduler_harness.h"

#include <math.h>

#define N_VOCAB 1024

static consort_runtime *runtime;
static consort_model *model;
static cs_device *device;

static int open_all(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  runtime = harness_runtime();
  model = harness_tiny(runtime);
  harness_expect_ok(cs_device_open(runtime->core, "cpu:0", &device, &error), &error);
  return 0;
}

static int close_all(void **state) {
  (void)state;
  cs_device_release(device);
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return 0;
}

static cs_engine *open_engine(bool pad_shapes) {
  cs_error error = CS_ERROR_INIT;
  const cs_engine_options options = {.model = model->model,
                                     .primary = device,
                                     .policy = CS_FALLBACK_STRICT,
                                     .kv_dtype = CS_DTYPE_F32,
                                     .n_context = 100,
                                     .n_sequences = 3,
                                     .n_batch = 40,
                                     .pad_shapes = pad_shapes};
  cs_engine *engine;
  harness_expect_ok(cs_engine_create(&options, &engine, &error), &error);
  harness_expect_ok(cs_engine_load(engine, NULL, NULL, &error), &error);
  return engine;
}

/* Runs a batch and copies the logits (rows, N_VOCAB). */
static void run(cs_engine *engine, const cs_batch_sequence *sequences, uint32_t n, size_t n_rows,
                float *out) {
  const cs_batch batch = {sequences, n, CS_FORWARD_ARGMAX, true};
  cs_error error = CS_ERROR_INIT;
  const float *logits = NULL;
  const int32_t *argmax = NULL;
  harness_expect_ok(cs_engine_run(engine, &batch, NULL, NULL, &error), &error);
  harness_expect_ok(cs_engine_wait(engine, &logits, &argmax, &error), &error);
  memcpy(out, logits, n_rows * N_VOCAB * sizeof *out);
  for (size_t i = 0; i < n_rows; i++)
    for (size_t k = 0; k < N_VOCAB; k++)
      assert_true(logits[i * N_VOCAB + k] <= logits[i * N_VOCAB + (size_t)argmax[i]]);
}

static void expect_close(const float *a, const float *b, size_t n) {
  double difference = 0, power = 0;
  for (size_t i = 0; i < n; i++) {
    difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    power += (double)b[i] * b[i];
  }
  if (!(difference / power < 1e-11)) fail_msg("NMSE %g", difference / power);
}

/* Two prompts in one batch with all rows, then one token of each: once together, once alone. */
static void compare_together_and_alone(cs_engine *engine) {
  static float together[30 * N_VOCAB], alone[30 * N_VOCAB];
  cs_error error = CS_ERROR_INIT;
  int32_t tokens[2][20];
  const uint32_t lengths[2] = {19, 6};
  cs_kv_sequence blocks[4] = {{0}};
  cs_batch_sequence sequences[2];
  for (unsigned i = 0; i < 2; i++)
    harness_tokens(tokens[i], 20, 30 + i);
  for (int i = 0; i < 4; i++)
    harness_expect_ok(cs_kv_sequence_reserve(cs_engine_pool(engine), &blocks[i], 20, &error),
                      &error);
  for (int i = 0; i < 2; i++)
    sequences[i] = (cs_batch_sequence){tokens[i], lengths[i], 0, lengths[i], &blocks[i]};
  run(engine, sequences, 2, 25, together);
  for (int i = 0; i < 2; i++) {
    sequences[i].blocks = &blocks[2 + i];
    run(engine, &sequences[i], 1, lengths[i], alone + (i ? lengths[0] * N_VOCAB : 0));
  }
  expect_close(together, alone, 25 * N_VOCAB);
  for (int i = 0; i < 2; i++)
    sequences[i] = (cs_batch_sequence){tokens[i] + lengths[i], 1, lengths[i], 1, &blocks[i]};
  run(engine, sequences, 2, 2, together);
  for (int i = 0; i < 2; i++) {
    sequences[i].blocks = &blocks[2 + i];
    run(engine, &sequences[i], 1, 1, alone + i * N_VOCAB);
  }
  expect_close(together, alone, 2 * N_VOCAB);
  for (int i = 0; i < 4; i++)
    cs_kv_sequence_release(cs_engine_pool(engine), &blocks[i]);
}

static void sequences_of_a_batch_do_not_see_each_other(void **state) {
  (void)state;
  cs_engine *const engine = open_engine(false);
  compare_together_and_alone(engine);
  cs_engine_destroy(engine);
}

static void padding_changes_nothing(void **state) {
  (void)state;
  cs_engine *const engine = open_engine(true);
  compare_together_and_alone(engine);
  cs_engine_destroy(engine);
}

static void padded_shapes_are_few(void **state) {
  (void)state;
  cs_engine *const padded = open_engine(true);
  cs_engine *const exact = open_engine(false);
  cs_engine *const engines[] = {padded, exact};
  static float logits[N_VOCAB];
  int32_t tokens[40];
  cs_error error = CS_ERROR_INIT;
  harness_tokens(tokens, 40, 40);
  for (int i = 0; i < 2; i++)
    for (uint32_t n = 17; n <= 40; n++) { /* 32 rows, or 40: the most there can be */
      cs_kv_sequence blocks = {0};
      harness_expect_ok(cs_kv_sequence_reserve(cs_engine_pool(engines[i]), &blocks, n, &error),
                        &error);
      const cs_batch_sequence sequence = {tokens, n, 0, 1, &blocks};
      run(engines[i], &sequence, 1, 1, logits);
      cs_kv_sequence_release(cs_engine_pool(engines[i]), &blocks);
    }
  assert_int_equal(cs_engine_n_steps_cached(padded), 2);
  assert_int_equal(cs_engine_n_steps_cached(exact), 16); /* the most that are kept */
  cs_engine_destroy(padded);
  cs_engine_destroy(exact);
}

static void needs_are_told_before_loading(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  const cs_engine_options options = {.model = model->model,
                                     .primary = device,
                                     .policy = CS_FALLBACK_STRICT,
                                     .kv_dtype = CS_DTYPE_F16,
                                     .n_context = 160,
                                     .n_sequences = 2,
                                     .n_batch = 16};
  cs_engine *engine;
  harness_expect_ok(cs_engine_create(&options, &engine, &error), &error);
  const cs_repacking own_formats = {0};
  const uint64_t kv_bytes = 2 * cs_model_kv_bytes_per_token(model->model, CS_DTYPE_F16) * 160;
  const uint64_t needed = cs_engine_needed_bytes(engine, 0);
  assert_true(needed == kv_bytes + cs_weights_bytes(model->model, cs_engine_placement(engine),
                                                    own_formats, 0));
  assert_true(needed > kv_bytes + 1000000);
  assert_true(cs_engine_needed_bytes(engine, 1) == 0);
  cs_engine_destroy(engine);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sequences_of_a_batch_do_not_see_each_other),
      cmocka_unit_test(padding_changes_nothing),
      cmocka_unit_test(padded_shapes_are_few),
      cmocka_unit_test(needs_are_told_before_loading),
  };
  return cmocka_run_group_tests_name("engine", tests, open_all, close_all);
}
