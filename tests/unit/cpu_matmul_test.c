/* The CPU plugin's weights: matmul, matmul by experts and gather against float64 sums, on every
 * kernel table that this machine can run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "consort/half.h"
#include "cpu_harness.h"

static const uint32_t weight_dtypes[] = {CS_DTYPE_F32,  CS_DTYPE_F16,  CS_DTYPE_BF16, CS_DTYPE_Q8_0,
                                         CS_DTYPE_Q4_0, CS_DTYPE_Q4_1, CS_DTYPE_Q5_0, CS_DTYPE_Q5_1,
                                         CS_DTYPE_Q4_K, CS_DTYPE_Q5_K, CS_DTYPE_Q6_K};

/* n_in made a whole number of blocks. */
static uint64_t whole_blocks(uint32_t dtype, uint64_t n_in) {
  const uint64_t elements = harness_block_elements(dtype);
  return (n_in + elements - 1) / elements * elements;
}
static const char *const roundings[] = {"always", "never"};

/* Opens variant v of the kernels and of rounding; false when this machine has no such kernels. */
static bool open_variant(cpu_harness *h, size_t v, const char *threads) {
  return harness_open_rounding(h, harness_kernels[v / 2], threads, roundings[v % 2]);
}

#define N_VARIANTS (2 * HARNESS_N_KERNELS)

static double limit_of(uint32_t error_class) {
  if (error_class == CS_ERROR_HALF) return CS_NMSE_LIMIT_HALF;
  return error_class == CS_ERROR_INT8 ? CS_NMSE_LIMIT_INT8 : CS_NMSE_LIMIT_F32;
}

typedef struct weights {
  uint64_t n_in;
  uint64_t n;
  uint32_t dtype;
  uint64_t bytes;
  void *data;
  double *values;
} weights;

static weights make_weights(uint32_t dtype, uint64_t rows, uint64_t n_in) {
  weights made = {.n_in = n_in, .n = rows * n_in, .dtype = dtype};
  made.bytes = cs_sdk_dtype_bytes(dtype, made.n);
  made.data = malloc(made.bytes);
  made.values = malloc(made.n * sizeof *made.values);
  harness_weights(dtype, made.data, made.values, made.n);
  return made;
}

static void free_weights(weights *made) {
  free(made->data);
  free(made->values);
}

static double dot(const weights *w, uint64_t row, const float *x) {
  double sum = 0;
  for (uint64_t i = 0; i < w->n_in; i++)
    sum += w->values[row * w->n_in + i] * x[i];
  return sum;
}

/* ---- matmul ---- */

static void check_matmul(cpu_harness *h, uint32_t dtype, uint64_t n, uint64_t n_out, uint64_t n_in,
                         bool extras) {
  weights w = make_weights(dtype, n_out, n_in);
  float *x = malloc(n * n_in * sizeof *x), *bias = malloc(n_out * sizeof *bias);
  float *residual = malloc(n * n_out * sizeof *residual);
  harness_fill(x, n * n_in);
  harness_fill(bias, n_out);
  harness_fill(residual, n * n_out);
  const float cap = extras ? 30.0f : 0; /* above most sums: tanh far out magnifies errors */
  cs_tensor operands[5] = {
      harness_tensor(h, CS_DTYPE_F32, residual, 12, 2, (uint64_t[]){n, n_out}),
      harness_tensor(h, CS_DTYPE_F32, x, 4, 2, (uint64_t[]){n, n_in}),
      harness_packed(h, dtype, CS_USAGE_MATMUL, w.data, w.bytes, 2, (uint64_t[]){n_out, n_in}),
      {.struct_size = sizeof(cs_tensor)},
      {.struct_size = sizeof(cs_tensor)}};
  if (extras) {
    operands[3] = harness_tensor(h, CS_DTYPE_F32, bias, 0, 1, &n_out);
    operands[4] = operands[0]; /* in place */
  }
  cs_matmul_params params = {.struct_size = sizeof params, .soft_cap = cap};
  cs_op_answer answer;
  assert_true(harness_allows(h, CS_OP_MATMUL, operands, 5, &params, &answer));
  assert_int_equal(harness_run(h, CS_OP_MATMUL, operands, 5, &params, NULL), CS_OK);
  double error = 0, power = 0;
  for (uint64_t i = 0; i < n; i++) {
    const float *out = harness_row(h, &operands[0], i);
    for (uint64_t c = 0; c < n_out; c++) {
      double want = dot(&w, c, x + i * n_in);
      if (extras) want = cap * tanh((want + bias[c]) / cap) + residual[i * n_out + c];
      error += (out[c] - want) * (out[c] - want);
      power += want * want;
    }
    assert_memory_equal(&out[n_out], "\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5", 12);
  }
  if (!(error <= limit_of(answer.error_class) * power))
    fail_msg("dtype %u, (%u, %u, %u): NMSE %g", dtype, (unsigned)n, (unsigned)n_out, (unsigned)n_in,
             error / power);
  operands[4].memory = NULL;
  harness_free(h, operands, 5);
  free(x);
  free(bias);
  free(residual);
  free_weights(&w);
}

static void matmul_agrees_with_float64(void **state) {
  (void)state;
  static const uint64_t shapes[][3] = {
      {20, 1, 32},  {1, 80, 64},   {2, 81, 96},    {5, 95, 32},   {6, 97, 160},   {7, 64, 32},
      {12, 79, 64}, {13, 112, 96}, {25, 100, 64},  {100, 72, 96}, {1, 300, 2080}, {3, 69, 1120},
      {4, 66, 64},  {8, 67, 320},  {9, 130, 1280}, {10, 68, 96},  {11, 65, 64}};
  for (size_t v = 0; v < N_VARIANTS; v++) {
    cpu_harness h;
    if (!open_variant(&h, v, "3")) continue;
    for (size_t d = 0; d < sizeof weight_dtypes / sizeof *weight_dtypes; d++)
      for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        check_matmul(&h, weight_dtypes[d], shapes[s][0], shapes[s][1],
                     whole_blocks(weight_dtypes[d], shapes[s][2]), s % 2);
    for (uint32_t d = CS_DTYPE_F32; d <= CS_DTYPE_BF16; d++)
      for (uint64_t n_in = 1; n_in < 40; n_in += 6)
        check_matmul(&h, d, 4, 9, n_in, true);
    harness_close(&h);
  }
}

static uint32_t class_of(const char *rounding, uint64_t n_out, uint64_t n_in) {
  cpu_harness h;
  assert_true(harness_open_rounding(&h, "generic", "1", rounding));
  weights w = make_weights(CS_DTYPE_Q8_0, n_out, n_in);
  cs_tensor operands[5] = {
      harness_tensor(&h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){1, n_out}),
      harness_tensor(&h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){1, n_in}),
      harness_packed(&h, w.dtype, CS_USAGE_MATMUL, w.data, w.bytes, 2, (uint64_t[]){n_out, n_in}),
      {.struct_size = sizeof(cs_tensor)},
      {.struct_size = sizeof(cs_tensor)}};
  cs_matmul_params params = {.struct_size = sizeof params};
  cs_op_answer answer;
  assert_true(harness_allows(&h, CS_OP_MATMUL, operands, 5, &params, &answer));
  harness_free(&h, operands, 5);
  free_weights(&w);
  harness_close(&h);
  return answer.error_class;
}

static void only_large_matrices_round_activations(void **state) {
  (void)state;
  assert_int_equal(class_of("auto", 1024, 992), CS_ERROR_F32);
  assert_int_equal(class_of("auto", 1024, 1024), CS_ERROR_INT8);
  assert_int_equal(class_of("always", 64, 32), CS_ERROR_INT8);
  assert_int_equal(class_of("never", 1024, 1024), CS_ERROR_F32);
}

/* One result that is near zero by chance may have any error. */
static void few_columns_round_no_activations(void **state) {
  (void)state;
  assert_int_equal(class_of("always", 63, 32), CS_ERROR_F32);
  assert_int_equal(class_of("always", 1, 4096), CS_ERROR_F32);
  assert_int_equal(class_of("auto", 16, 65536), CS_ERROR_F32);
}

static void infinity_in_a_row_stays_in_that_row(void **state) {
  (void)state;
  const uint64_t n_out = 68;
  for (size_t v = 0; v < N_VARIANTS; v++) {
    cpu_harness h;
    if (!open_variant(&h, v, "1")) continue;
    for (size_t d = 0; d < sizeof weight_dtypes / sizeof *weight_dtypes; d++) {
      const uint64_t n_in = whole_blocks(weight_dtypes[d], 64);
      weights w = make_weights(weight_dtypes[d], n_out, n_in);
      float x[3 * 256];
      harness_fill(x, 3 * n_in);
      x[n_in + 7] = d % 2 ? INFINITY : NAN;
      cs_tensor operands[5] = {harness_tensor(&h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){3, n_out}),
                               harness_tensor(&h, CS_DTYPE_F32, x, 0, 2, (uint64_t[]){3, n_in}),
                               harness_packed(&h, w.dtype, CS_USAGE_MATMUL, w.data, w.bytes, 2,
                                              (uint64_t[]){n_out, n_in}),
                               {.struct_size = sizeof(cs_tensor)},
                               {.struct_size = sizeof(cs_tensor)}};
      cs_matmul_params params = {.struct_size = sizeof params};
      assert_int_equal(harness_run(&h, CS_OP_MATMUL, operands, 5, &params, NULL), CS_OK);
      const float *out = harness_row(&h, &operands[0], 0);
      for (uint64_t i = 0; i < 3 * n_out; i++)
        assert_int_equal(isfinite(out[i]) != 0, i / n_out != 1);
      harness_free(&h, operands, 5);
      free_weights(&w);
    }
    harness_close(&h);
  }
}

/* A row of x with a single one picks a column of the weights: float arithmetic returns it to the
 * last bit, whatever the instruction set. */
static void float_arithmetic_meets_exact_weights(void **state) {
  (void)state;
  const uint64_t n_out = 19, n_in = 512;
  float *x = calloc(n_in * n_in, sizeof *x);
  for (uint64_t i = 0; i < n_in; i++)
    x[i * n_in + i] = 1;
  for (size_t k = 0; k < HARNESS_N_KERNELS; k++) {
    cpu_harness h;
    if (!harness_open_rounding(&h, harness_kernels[k], "2", "never")) continue;
    for (size_t d = 0; d < sizeof weight_dtypes / sizeof *weight_dtypes; d++) {
      weights w = make_weights(weight_dtypes[d], n_out, n_in);
      cs_tensor operands[5] = {
          harness_tensor(&h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){n_in, n_out}),
          harness_tensor(&h, CS_DTYPE_F32, x, 0, 2, (uint64_t[]){n_in, n_in}),
          harness_packed(&h, w.dtype, CS_USAGE_MATMUL, w.data, w.bytes, 2,
                         (uint64_t[]){n_out, n_in}),
          {.struct_size = sizeof(cs_tensor)},
          {.struct_size = sizeof(cs_tensor)}};
      cs_matmul_params params = {.struct_size = sizeof params};
      assert_int_equal(harness_run(&h, CS_OP_MATMUL, operands, 5, &params, NULL), CS_OK);
      for (uint64_t i = 0; i < n_in; i++)
        for (uint64_t c = 0; c < n_out; c++)
          assert_true(((const float *)harness_row(&h, &operands[0], i))[c] ==
                      (float)w.values[c * n_in + i]);
      harness_free(&h, operands, 5);
      free_weights(&w);
    }
    harness_close(&h);
  }
  free(x);
}

/* ---- lists of matmuls ---- */

/* Three matmuls of one x, in one list or each in its own. The second may add what the first gave.
 */
static void run_three(cpu_harness *h, const cs_tensor *x, const cs_tensor *weight,
                      const cs_tensor out[3], bool chained, bool one_list) {
  const cs_tensor none = {.struct_size = sizeof none};
  cs_matmul_params params = {.struct_size = sizeof params};
  cs_tensor operands[3][5];
  cs_op ops[3];
  for (int i = 0; i < 3; i++) {
    const cs_tensor own[5] = {out[i], *x, weight[i], none, chained && i == 1 ? out[0] : none};
    memcpy(operands[i], own, sizeof own);
    ops[i] = (cs_op){.struct_size = sizeof ops[i],
                     .id = CS_OP_MATMUL,
                     .n_operands = 5,
                     .operand_stride = sizeof own[0],
                     .operands = operands[i],
                     .params = &params};
    if (!one_list) assert_int_equal(harness_run(h, CS_OP_MATMUL, own, 5, &params, NULL), CS_OK);
  }
  if (!one_list) return; /* a first run so has grown the workspace */
  assert_int_equal(h->eager->ops_enqueue(h->stream, ops, 3, sizeof ops[0], h->workspace, NULL),
                   CS_OK);
  h->streams->stream_signal(h->stream, h->semaphore, ++h->signalled, NULL);
  assert_int_equal(h->semaphores->semaphore_wait(h->semaphore, h->signalled, 60000000, NULL),
                   CS_OK);
}

static void check_three(cpu_harness *h, uint32_t dtype, uint64_t n, bool chained) {
  static const uint64_t n_out[3] = {70, 70, 33};
  const uint64_t n_in = 96;
  float *x_data = malloc(n * n_in * sizeof *x_data);
  harness_fill(x_data, n * n_in);
  cs_tensor x = harness_tensor(h, CS_DTYPE_F32, x_data, 0, 2, (uint64_t[]){n, n_in});
  cs_tensor weight[3], out[2][3];
  for (int i = 0; i < 3; i++) {
    weights w = make_weights(dtype, n_out[i], n_in);
    weight[i] =
        harness_packed(h, dtype, CS_USAGE_MATMUL, w.data, w.bytes, 2, (uint64_t[]){n_out[i], n_in});
    free_weights(&w);
    for (int run = 0; run < 2; run++)
      out[run][i] = harness_tensor(h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){n, n_out[i]});
  }
  for (int run = 0; run < 2; run++)
    run_three(h, &x, weight, out[run], chained, run);
  for (int i = 0; i < 3; i++)
    assert_memory_equal(harness_row(h, &out[0][i], 0), harness_row(h, &out[1][i], 0),
                        n * n_out[i] * sizeof(float));
  for (int run = 0; run < 2; run++)
    harness_free(h, out[run], 3);
  harness_free(h, weight, 3);
  harness_free(h, &x, 1);
  free(x_data);
}

static void matmuls_of_one_x_run_as_one_by_one(void **state) {
  (void)state;
  for (size_t v = 0; v < N_VARIANTS; v++) {
    cpu_harness h;
    if (!open_variant(&h, v, "3")) continue;
    for (int chained = 0; chained < 2; chained++)
      for (uint64_t n = 1; n < 70; n += 23) {
        check_three(&h, CS_DTYPE_Q8_0, n, chained);
        check_three(&h, CS_DTYPE_F16, n, chained);
      }
    harness_close(&h);
  }
}

/* Normally distributed, variance 1: twelve uniform numbers of variance 1/3, added (Irwin-Hall). */
static float normal_number(void) {
  double sum = 0;
  for (int i = 0; i < 12; i++)
    sum += harness_uniform();
  return (float)(sum / 2);
}

static double nmse_of_f16(cpu_harness *h, uint64_t n, uint64_t n_out, uint64_t n_in) {
  weights w = {.n_in = n_in, .n = n_out * n_in, .dtype = CS_DTYPE_F16, .bytes = n_out * n_in * 2};
  w.data = malloc(w.bytes);
  w.values = malloc(w.n * sizeof *w.values);
  float *x = malloc(n * n_in * sizeof *x);
  double *want = malloc(n * n_out * sizeof *want);
  for (uint64_t i = 0; i < w.n; i++) {
    ((uint16_t *)w.data)[i] = cs_f16_from_f32(normal_number());
    w.values[i] = cs_f32_from_f16(((uint16_t *)w.data)[i]);
  }
  for (uint64_t i = 0; i < n * n_in; i++)
    x[i] = normal_number();
  cs_tensor operands[5] = {
      harness_tensor(h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){n, n_out}),
      harness_tensor(h, CS_DTYPE_F32, x, 0, 2, (uint64_t[]){n, n_in}),
      harness_packed(h, w.dtype, CS_USAGE_MATMUL, w.data, w.bytes, 2, (uint64_t[]){n_out, n_in}),
      {.struct_size = sizeof(cs_tensor)},
      {.struct_size = sizeof(cs_tensor)}};
  cs_matmul_params params = {.struct_size = sizeof params};
  assert_int_equal(harness_run(h, CS_OP_MATMUL, operands, 5, &params, NULL), CS_OK);
  for (uint64_t i = 0; i < n * n_out; i++)
    want[i] = dot(&w, i % n_out, x + i / n_out * n_in);
  const double nmse = harness_nmse(want, harness_row(h, &operands[0], 0), n * n_out);
  harness_free(h, operands, 5);
  free(x);
  free(want);
  free_weights(&w);
  return nmse;
}

static void f16_weights_keep_an_nmse_of_1e_5(void **state) {
  (void)state;
  for (size_t k = 0; k < HARNESS_N_KERNELS; k++) {
    cpu_harness h;
    if (!harness_open(&h, harness_kernels[k], "2")) continue;
    const double few = nmse_of_f16(&h, 3, 1024, 1027), many = nmse_of_f16(&h, 50, 1027, 1025);
    printf("%s: F16 matmul, NMSE %.2g for few rows, %.2g for many\n", harness_kernels[k], few,
           many);
    assert_true(few <= 1e-5 && many <= 1e-5);
    harness_close(&h);
  }
}

/* ---- moe_matmul ---- */

static void check_moe(cpu_harness *h, uint32_t dtype, uint64_t n, uint64_t k, uint64_t n_experts,
                      bool shared) {
  const uint64_t n_out = 72, n_in = whole_blocks(dtype, 64), x_rows = shared ? n : n * k;
  weights w = make_weights(dtype, n_experts * n_out, n_in);
  float *x = malloc(x_rows * n_in * sizeof *x);
  int32_t *ids = malloc(n * k * sizeof *ids);
  double *want = malloc(n * k * n_out * sizeof *want);
  harness_fill(x, x_rows * n_in);
  for (uint64_t i = 0; i < n * k; i++) {
    ids[i] = (int32_t)((harness_uniform() + 1) / 2 * (double)n_experts);
    if (i % 7 == 3) ids[i] = -1;
    for (uint64_t c = 0; c < n_out; c++)
      want[i * n_out + c] =
          ids[i] < 0 ? 0 : dot(&w, (uint64_t)ids[i] * n_out + c, x + (shared ? i / k : i) * n_in);
  }
  cs_tensor operands[4] = {harness_tensor(h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){n * k, n_out}),
                           harness_tensor(h, CS_DTYPE_F32, x, 8, 2, (uint64_t[]){x_rows, n_in}),
                           harness_packed(h, dtype, CS_USAGE_MATMUL, w.data, w.bytes, 3,
                                          (uint64_t[]){n_experts, n_out, n_in}),
                           harness_tensor(h, CS_DTYPE_I32, ids, 0, 2, (uint64_t[]){n, k})};
  assert_int_equal(harness_run(h, CS_OP_MOE_MATMUL, operands, 4, NULL, NULL), CS_OK);
  const double nmse = harness_nmse(want, harness_row(h, &operands[0], 0), n * k * n_out);
  cs_op_answer answer;
  assert_true(harness_allows(h, CS_OP_MOE_MATMUL, operands, 4, NULL, &answer));
  assert_true(nmse <= limit_of(answer.error_class));
  harness_free(h, operands, 4);
  free(x);
  free(ids);
  free(want);
  free_weights(&w);
}

static void every_row_meets_its_own_expert(void **state) {
  (void)state;
  for (size_t v = 0; v < N_VARIANTS; v++) {
    cpu_harness h;
    if (!open_variant(&h, v, "2")) continue;
    for (size_t d = 0; d < sizeof weight_dtypes / sizeof *weight_dtypes; d++) {
      check_moe(&h, weight_dtypes[d], 1, 2, 4, true);
      check_moe(&h, weight_dtypes[d], 40, 2, 4, true);
      check_moe(&h, weight_dtypes[d], 17, 3, 9, false);
      check_moe(&h, weight_dtypes[d], 5, 1, 1, true);
    }
    harness_close(&h);
  }
}

static void an_unknown_expert_poisons_the_stream(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "1"));
  weights w = make_weights(CS_DTYPE_F32, 8, 8);
  const int32_t id = 2;
  cs_tensor operands[4] = {
      harness_tensor(&h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){1, 4}),
      harness_tensor(&h, CS_DTYPE_F32, w.data, 0, 2, (uint64_t[]){1, 8}),
      harness_packed(&h, CS_DTYPE_F32, CS_USAGE_MATMUL, w.data, w.bytes, 3, (uint64_t[]){2, 4, 8}),
      harness_tensor(&h, CS_DTYPE_I32, &id, 0, 2, (uint64_t[]){1, 1})};
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(harness_run(&h, CS_OP_MOE_MATMUL, operands, 4, NULL, &error), CS_OUT_OF_RANGE);
  assert_int_equal(error.op_index, 0);
  assert_non_null(strstr(error.message, "expert 2"));
  harness_free(&h, operands, 4);
  free_weights(&w);
  harness_close(&h);
}

/* ---- gather_rows ---- */

static void gather_reads_packed_rows_back(void **state) {
  (void)state;
  const uint64_t v = 37;
  const int32_t ids[5] = {36, 0, -1, 17, 16};
  for (size_t k = 0; k < HARNESS_N_KERNELS; k++) {
    cpu_harness h;
    if (!harness_open(&h, harness_kernels[k], "1")) continue;
    for (size_t t = 0; t < sizeof weight_dtypes / sizeof *weight_dtypes; t++) {
      const uint64_t d = whole_blocks(weight_dtypes[t], 96);
      weights w = make_weights(weight_dtypes[t], v, d);
      cs_tensor operands[3] = {harness_tensor(&h, CS_DTYPE_F32, NULL, 0, 2, (uint64_t[]){5, d}),
                               harness_packed(&h, w.dtype, CS_USAGE_MATMUL | CS_USAGE_GATHER,
                                              w.data, w.bytes, 2, (uint64_t[]){v, d}),
                               harness_tensor(&h, CS_DTYPE_I32, ids, 0, 1, (uint64_t[]){5})};
      cs_gather_rows_params params = {.struct_size = sizeof params, .scale = t % 2 ? 2.5f : 1};
      assert_int_equal(harness_run(&h, CS_OP_GATHER_ROWS, operands, 3, &params, NULL), CS_OK);
      for (uint64_t i = 0; i < 5; i++)
        for (uint64_t j = 0; j < d; j++) {
          const float value = ids[i] < 0 ? 0 : (float)w.values[(uint64_t)ids[i] * d + j];
          const float got = ((const float *)harness_row(&h, &operands[0], i))[j];
          assert_true(got == value * params.scale);
        }
      harness_free(&h, operands, 3);
      free_weights(&w);
    }
    harness_close(&h);
  }
}

int main(void) {
  const char *seed = getenv("CONSORT_TEST_SEED");
  harness_seed = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
  printf("seed %llu\n", (unsigned long long)harness_seed);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(matmul_agrees_with_float64),
      cmocka_unit_test(only_large_matrices_round_activations),
      cmocka_unit_test(few_columns_round_no_activations),
      cmocka_unit_test(matmuls_of_one_x_run_as_one_by_one),
      cmocka_unit_test(f16_weights_keep_an_nmse_of_1e_5),
      cmocka_unit_test(infinity_in_a_row_stays_in_that_row),
      cmocka_unit_test(float_arithmetic_meets_exact_weights),
      cmocka_unit_test(every_row_meets_its_own_expert),
      cmocka_unit_test(an_unknown_expert_poisons_the_stream),
      cmocka_unit_test(gather_reads_packed_rows_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
