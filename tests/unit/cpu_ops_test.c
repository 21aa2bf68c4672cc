/* The CPU plugin's ops other than matmul against plain float64 loops, on every kernel table that
 * this machine can run. */
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

#define NONE                                                                                       \
  { .struct_size = sizeof(cs_tensor) }

/* Calls body(&h) once a kernel table. */
static void on_every_kernel(void (*body)(cpu_harness *h)) {
  for (size_t k = 0; k < HARNESS_N_KERNELS; k++) {
    cpu_harness h;
    if (!harness_open(&h, harness_kernels[k], k % 2 ? "2" : "3")) continue;
    body(&h);
    harness_close(&h);
  }
}

static cs_tensor matrix(cpu_harness *h, const float *data, uint64_t pad, uint64_t n, uint64_t d) {
  return harness_tensor(h, CS_DTYPE_F32, data, pad, 2, (uint64_t[]){n, d});
}

static cs_tensor integers(cpu_harness *h, const int32_t *data, uint64_t n) {
  return harness_tensor(h, CS_DTYPE_I32, data, 0, 1, &n);
}

static float *random_floats(uint64_t n) {
  float *x = malloc((n + 1) * sizeof *x);
  harness_fill(x, n);
  return x;
}

static void assert_close(cpu_harness *h, const cs_tensor *got, const double *want) {
  const uint64_t rows = cs_sdk_tensor_rows(got), columns = cs_sdk_tensor_columns(got);
  float *dense = malloc((rows * columns + 1) * sizeof *dense);
  for (uint64_t i = 0; i < rows; i++)
    memcpy(dense + i * columns, harness_row(h, got, i), columns * sizeof *dense);
  const double nmse = harness_nmse(want, dense, rows * columns);
  if (!(nmse <= CS_NMSE_LIMIT_F32)) fail_msg("NMSE %g", nmse);
  free(dense);
}

/* ---- rms_norm ---- */

static void check_norm(cpu_harness *h, uint64_t n, uint64_t d, uint32_t kind, bool residual) {
  float *x = random_floats(n * d), *weight = random_floats(d), *add = random_floats(n * d);
  for (uint64_t i = 0; i < n * d; i++)
    x[i] *= 1e-3f; /* small enough that epsilon shows */
  double *want = malloc(n * d * sizeof *want);
  const double epsilon = (float)1e-5f;
  for (uint64_t i = 0; i < n; i++) {
    double mean = 0, power = 0;
    for (uint64_t j = 0; j < d; j++)
      mean += (x[i * d + j] + (residual ? (double)add[i * d + j] : 0)) / (double)d;
    if (kind == CS_NORM_RMS) mean = 0;
    for (uint64_t j = 0; j < d; j++) {
      const double s = x[i * d + j] + (residual ? (double)add[i * d + j] : 0) - mean;
      power += s * s;
    }
    for (uint64_t j = 0; j < d; j++) {
      const double s = x[i * d + j] + (residual ? (double)add[i * d + j] : 0) - mean;
      want[i * d + j] = s / sqrt(power / (double)d + epsilon) * weight[j];
    }
  }
  cs_tensor operands[5] = {matrix(h, NULL, 0, n, d), matrix(h, x, 20, n, d),
                           harness_tensor(h, CS_DTYPE_F32, weight, 0, 1, &d), NONE, NONE};
  if (residual) {
    operands[3] = matrix(h, add, 4, n, d);
    operands[4] = operands[1]; /* sum in place of x */
  }
  const cs_rms_norm_params params = {
      .struct_size = sizeof params, .kind = kind, .epsilon = (float)epsilon};
  assert_int_equal(harness_run(h, CS_OP_RMS_NORM, operands, 5, &params, NULL), CS_OK);
  assert_close(h, &operands[0], want);
  for (uint64_t i = 0; residual && i < n; i++)
    for (uint64_t j = 0; j < d; j++)
      assert_true(((float *)harness_row(h, &operands[4], i))[j] == x[i * d + j] + add[i * d + j]);
  operands[4].memory = NULL;
  harness_free(h, operands, 5);
  free(x);
  free(weight);
  free(add);
  free(want);
}

static void norms(cpu_harness *h) {
  for (uint32_t kind = CS_NORM_RMS; kind <= CS_NORM_LAYER; kind++) {
    check_norm(h, 1, 3, kind, false);
    check_norm(h, 3, 65, kind, true);
    check_norm(h, 200, 128, kind, true);
    check_norm(h, 5, 2048, kind, false);
  }
}

/* ---- rope ---- */

static void check_rope(cpu_harness *h, uint32_t mode, uint32_t n_rot, bool in_place) {
  const uint64_t n = 5, heads = 3, dim = 20;
  const int32_t positions[5] = {0, 1, 7, 4095, 100000};
  float *x = random_floats(n * heads * dim), inv_freq[10];
  for (uint32_t i = 0; i < n_rot / 2; i++)
    inv_freq[i] = (float)pow(10000, -2.0 * i / n_rot);
  double *want = malloc(n * heads * dim * sizeof *want);
  for (uint64_t t = 0; t < n; t++)
    for (uint64_t head = 0; head < heads; head++) {
      const float *from = x + (t * heads + head) * dim;
      double *to = want + (t * heads + head) * dim;
      for (uint64_t j = 0; j < dim; j++)
        to[j] = from[j];
      for (uint32_t i = 0; i < n_rot / 2; i++) {
        const uint32_t a = mode == CS_ROPE_INTERLEAVED ? 2 * i : i;
        const uint32_t b = mode == CS_ROPE_INTERLEAVED ? 2 * i + 1 : i + n_rot / 2;
        const double angle = (double)positions[t] * inv_freq[i];
        to[a] = 1.25 * (from[a] * cos(angle) - from[b] * sin(angle));
        to[b] = 1.25 * (from[a] * sin(angle) + from[b] * cos(angle));
      }
    }
  const uint64_t half = n_rot / 2, dims[3] = {n, heads, dim};
  cs_tensor operands[4] = {harness_tensor(h, CS_DTYPE_F32, NULL, 8, 3, dims),
                           harness_tensor(h, CS_DTYPE_F32, x, 16, 3, dims),
                           integers(h, positions, n),
                           harness_tensor(h, CS_DTYPE_F32, inv_freq, 0, 1, &half)};
  cs_tensor unused = operands[0];
  if (in_place) operands[0] = operands[1];
  const cs_rope_params params = {
      .struct_size = sizeof params, .mode = mode, .n_rot = n_rot, .magnitude = 1.25f};
  assert_int_equal(harness_run(h, CS_OP_ROPE, operands, 4, &params, NULL), CS_OK);
  assert_close(h, &operands[0], want);
  if (in_place) operands[0] = unused;
  harness_free(h, operands, 4);
  free(x);
  free(want);
}

static void ropes(cpu_harness *h) {
  for (uint32_t mode = 0; mode < 2; mode++)
    for (uint32_t n_rot = 2; n_rot <= 20; n_rot += 6)
      check_rope(h, mode, n_rot, n_rot == 8);
}

/* ---- elementwise ---- */

static void check_binary(cpu_harness *h, uint32_t id, uint64_t n, uint64_t d) {
  float *a = random_floats(n * d), *b = random_floats(n * d);
  double *want = malloc(n * d * sizeof *want);
  for (uint64_t i = 0; i < n * d; i++) {
    a[i] *= id == CS_OP_GELU_MUL ? 3 : 20;
    const double g = a[i];
    want[i] = id == CS_OP_ADD ? g + b[i]
              : id == CS_OP_SILU_MUL
                  ? g / (1 + exp(-g)) * b[i]
                  : 0.5 * g *
                        (1 + tanh(sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g))) *
                        b[i];
  }
  cs_tensor operands[3] = {matrix(h, NULL, 0, n, d), matrix(h, a, 4, n, d), matrix(h, b, 12, n, d)};
  assert_int_equal(harness_run(h, id, operands, 3, NULL, NULL), CS_OK);
  assert_close(h, &operands[0], want);
  cs_tensor in_place[3] = {operands[1], operands[1], operands[2]};
  assert_int_equal(harness_run(h, id, in_place, 3, NULL, NULL), CS_OK);
  assert_close(h, &in_place[0], want);
  harness_free(h, operands, 3);
  free(a);
  free(b);
  free(want);
}

static void elementwise(cpu_harness *h) {
  static const uint32_t ids[] = {CS_OP_ADD, CS_OP_SILU_MUL, CS_OP_GELU_MUL};
  for (size_t i = 0; i < 3; i++) {
    check_binary(h, ids[i], 1, 1);
    check_binary(h, ids[i], 7, 33);
    check_binary(h, ids[i], 40, 1024);
  }
  const float gates[4] = {-1000, 1000, -INFINITY, NAN}, up[4] = {1, 1, 1, 1};
  cs_tensor operands[3] = {matrix(h, NULL, 0, 1, 4), matrix(h, gates, 0, 1, 4),
                           matrix(h, up, 0, 1, 4)};
  assert_int_equal(harness_run(h, CS_OP_SILU_MUL, operands, 3, NULL, NULL), CS_OK);
  const float *out = harness_row(h, &operands[0], 0);
  assert_true(fabsf(out[0]) < 1e-30f && out[1] == 1000 && isnan(out[2]) && isnan(out[3]));
  harness_free(h, operands, 3);
}

/* ---- copy and cast ---- */

static void casts(cpu_harness *h) {
  const uint64_t n = 3, d = 301, dims[2] = {n, d};
  float *x = random_floats(n * d);
  x[0] = 65519.9f;
  x[1] = 1e-7f;
  x[2] = -0.0f;
  x[3] = INFINITY;
  x[4] = 6e-8f;
  for (uint32_t to = CS_DTYPE_F32; to <= CS_DTYPE_BF16; to++) {
    cs_tensor there[2] = {harness_tensor(h, to, NULL, 2 * 4, 2, dims), matrix(h, x, 4, n, d)};
    assert_int_equal(harness_run(h, CS_OP_CAST, there, 2, NULL, NULL), CS_OK);
    cs_tensor back[2] = {matrix(h, NULL, 0, n, d), there[0]};
    assert_int_equal(harness_run(h, CS_OP_CAST, back, 2, NULL, NULL), CS_OK);
    for (uint64_t i = 0; i < n * d; i++) {
      const float want = to == CS_DTYPE_F32   ? x[i]
                         : to == CS_DTYPE_F16 ? cs_f32_from_f16(cs_f16_from_f32(x[i]))
                                              : cs_f32_from_bf16(cs_bf16_from_f32(x[i]));
      const float got = ((float *)harness_row(h, &back[0], i / d))[i % d];
      assert_memory_equal(&got, &want, sizeof got);
    }
    harness_free(h, there, 2);
    harness_free(h, back, 1);
  }
  const uint32_t dtypes[] = {CS_DTYPE_I32, CS_DTYPE_F16, CS_DTYPE_U64, CS_DTYPE_I8};
  for (size_t i = 0; i < 4; i++) {
    const uint64_t narrow[2] = {3, 100};
    cs_tensor pair[2] = {harness_tensor(h, dtypes[i], NULL, 16, 2, narrow),
                         harness_tensor(h, dtypes[i], x, 8, 2, narrow)};
    assert_int_equal(harness_run(h, CS_OP_COPY, pair, 2, NULL, NULL), CS_OK);
    for (uint64_t row = 0; row < 3; row++)
      assert_memory_equal(harness_row(h, &pair[0], row), harness_row(h, &pair[1], row),
                          cs_sdk_dtype_bytes(dtypes[i], 100));
    harness_free(h, pair, 2);
  }
  free(x);
}

/* ---- argmax, top_k, moe ---- */

static void selections(cpu_harness *h) {
  const float x[5][6] = {{1, 3, 3, 2, 0, -1},
                         {NAN, -5, NAN, -5, NAN, -6},
                         {NAN, NAN, NAN, NAN, NAN, NAN},
                         {-INFINITY, NAN, -INFINITY, INFINITY, 0, INFINITY},
                         {0, 0, 0, 0, 0, 0}};
  const int32_t best[5] = {1, 1, 0, 3, 0};
  const int32_t top[5][3] = {{1, 2, 3}, {1, 3, 5}, {0, 1, 2}, {3, 5, 4}, {0, 1, 2}};
  cs_tensor input = matrix(h, &x[0][0], 8, 5, 6);
  cs_tensor argmax[2] = {integers(h, NULL, 5), input};
  assert_int_equal(harness_run(h, CS_OP_ARGMAX, argmax, 2, NULL, NULL), CS_OK);
  assert_memory_equal(harness_row(h, &argmax[0], 0), best, sizeof best);
  cs_tensor top_k[3] = {matrix(h, NULL, 4, 5, 3),
                        harness_tensor(h, CS_DTYPE_I32, NULL, 4, 2, (uint64_t[]){5, 3}), input};
  assert_int_equal(harness_run(h, CS_OP_TOP_K, top_k, 3, NULL, NULL), CS_OK);
  for (uint64_t i = 0; i < 5; i++) {
    assert_memory_equal(harness_row(h, &top_k[1], i), top[i], sizeof top[i]);
    const float *values = harness_row(h, &top_k[0], i);
    for (int j = 0; j < 3; j++)
      assert_memory_equal(&values[j], &x[i][top[i][j]], sizeof(float));
  }
  harness_free(h, argmax, 2);
  harness_free(h, top_k, 2);
}

static void check_route(cpu_harness *h, uint32_t scoring, bool normalize, bool biased) {
  const uint64_t n = 9, n_experts = 8, k = 3;
  float *logits = random_floats(n * n_experts), *bias = random_floats(n_experts);
  cs_tensor operands[4] = {harness_tensor(h, CS_DTYPE_I32, NULL, 0, 2, (uint64_t[]){n, k}),
                           matrix(h, NULL, 0, n, k), matrix(h, logits, 4, n, n_experts), NONE};
  if (biased) operands[3] = harness_tensor(h, CS_DTYPE_F32, bias, 0, 1, &n_experts);
  const cs_moe_route_params params = {
      .struct_size = sizeof params, .scoring = scoring, .normalize = normalize, .scale = 1.5f};
  assert_int_equal(harness_run(h, CS_OP_MOE_ROUTE, operands, 4, &params, NULL), CS_OK);
  for (uint64_t i = 0; i < n; i++) {
    double p[8], total = 0, chosen = 0;
    for (uint64_t e = 0; e < n_experts; e++)
      total += exp(logits[i * n_experts + e]);
    for (uint64_t e = 0; e < n_experts; e++)
      p[e] = scoring == CS_MOE_SOFTMAX ? exp(logits[i * n_experts + e]) / total
                                       : 1 / (1 + exp(-logits[i * n_experts + e]));
    const int32_t *ids = harness_row(h, &operands[0], i);
    const float *weights = harness_row(h, &operands[1], i);
    for (uint64_t j = 0; j < k; j++)
      chosen += p[ids[j]];
    for (uint64_t j = 0; j < k; j++) {
      uint64_t ahead = 0;
      for (uint64_t e = 0; e < n_experts; e++)
        ahead +=
            p[e] + (biased ? (double)bias[e] : 0) > p[ids[j]] + (biased ? (double)bias[ids[j]] : 0);
      assert_int_equal(ahead, j);
      assert_true(fabs(weights[j] - 1.5 * p[ids[j]] / (normalize ? chosen : 1)) < 1e-6);
    }
  }
  harness_free(h, operands, 4);
  free(logits);
  free(bias);
}

static void routes(cpu_harness *h) {
  for (uint32_t i = 0; i < 8; i++)
    check_route(h, i & 1, i & 2, i & 4);
  const uint64_t n = 6, k = 2, d = 50;
  float *x = random_floats(n * k * d), *weights = random_floats(n * k);
  float *residual = random_floats(n * d);
  double *want = malloc(n * d * sizeof *want);
  for (uint64_t i = 0; i < n * d; i++) {
    want[i] = residual[i];
    for (uint64_t j = 0; j < k; j++)
      want[i] += (double)weights[i / d * k + j] * x[(i / d * k + j) * d + i % d];
  }
  cs_tensor operands[4] = {matrix(h, NULL, 0, n, d), matrix(h, x, 0, n * k, d),
                           matrix(h, weights, 0, n, k), matrix(h, residual, 4, n, d)};
  assert_int_equal(harness_run(h, CS_OP_MOE_COMBINE, operands, 4, NULL, NULL), CS_OK);
  assert_close(h, &operands[0], want);
  harness_free(h, operands, 4);
  free(x);
  free(weights);
  free(residual);
  free(want);
}

/* ---- what is not served ---- */

static void refusals(cpu_harness *h) {
  cs_op_answer answer;
  cs_tensor halves[3];
  for (int i = 0; i < 3; i++)
    halves[i] = harness_tensor(h, CS_DTYPE_F16, NULL, 0, 2, (uint64_t[]){2, 4});
  assert_false(harness_allows(h, CS_OP_ADD, halves, 3, NULL, &answer));
  assert_true(strlen(answer.reason) > 0);
  assert_false(harness_allows(h, 63, halves, 3, NULL, &answer));
  assert_false(harness_allows(h, CS_OP_ADD, halves, 2, NULL, &answer));
  const cs_op op = {.struct_size = sizeof op,
                    .id = CS_OP_ADD,
                    .n_operands = 3,
                    .operand_stride = sizeof(cs_tensor),
                    .operands = halves};
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(h->eager->ops_enqueue(h->stream, &op, 1, sizeof op, NULL, &error),
                   CS_UNSUPPORTED);
  assert_int_equal(error.op_index, 0);
  for (int i = 0; i < 3; i++) {
    halves[i].dtype = CS_DTYPE_F32;
    halves[i].dims[0] = 100; /* past the end of its memory */
  }
  assert_int_equal(h->eager->ops_enqueue(h->stream, &op, 1, sizeof op, NULL, &error),
                   CS_OUT_OF_RANGE);
  halves[0].dims[0] = UINT64_MAX / 2;
  assert_false(harness_allows(h, CS_OP_ADD, halves, 3, NULL, &answer));
  harness_free(h, halves, 3);
}

/* The last row, a row of zeros for -1, and the row behind the last. */
static void gather_stays_within_the_table(void **state) {
  (void)state;
  const float table[6] = {1, 2, 3, 4, 5, 6}, want[4] = {5, 6, 0, 0};
  for (int32_t behind = 0; behind < 2; behind++) {
    cpu_harness h;
    assert_true(harness_open(&h, "generic", "1"));
    const int32_t ids[2] = {2 + behind, -1};
    cs_tensor operands[3] = {matrix(&h, NULL, 0, 2, 2), matrix(&h, table, 0, 3, 2),
                             integers(&h, ids, 2)};
    const cs_gather_rows_params params = {.struct_size = sizeof params, .scale = 1};
    assert_int_equal(harness_run(&h, CS_OP_GATHER_ROWS, operands, 3, &params, NULL),
                     behind ? CS_OUT_OF_RANGE : CS_OK);
    if (!behind) assert_memory_equal(harness_row(&h, &operands[0], 0), want, sizeof want);
    harness_free(&h, operands, 3);
    harness_close(&h);
  }
}

/* ---- programs ---- */

static void programs(cpu_harness *h) {
  const float ones[4] = {1, 1, 1, 1};
  cs_tensor operands[3] = {matrix(h, ones, 0, 1, 4), matrix(h, NULL, 0, 1, 4),
                           matrix(h, ones, 0, 1, 4)};
  cs_tensor in_place[3] = {operands[0], operands[0], operands[2]};
  const cs_op op = {.struct_size = sizeof op,
                    .id = CS_OP_ADD,
                    .n_operands = 3,
                    .operand_stride = sizeof(cs_tensor),
                    .operands = in_place};
  cs_plugin_program *program;
  assert_int_equal(h->program->program_create(h->device, &op, 1, sizeof op, NULL, &program, NULL),
                   CS_OK);
  for (int i = 0; i < 1000; i++)
    assert_int_equal(h->program->program_launch(h->stream, program, NULL), CS_OK);
  h->streams->stream_signal(h->stream, h->semaphore, ++h->signalled, NULL);
  assert_int_equal(h->semaphores->semaphore_wait(h->semaphore, h->signalled, 60000000, NULL),
                   CS_OK);
  assert_true(((float *)harness_row(h, &operands[0], 0))[3] == 1001);
  h->program->program_destroy(program);
  harness_free(h, operands, 3);
}

#define KERNEL_TEST(name, body)                                                                    \
  static void name(void **state) {                                                                 \
    (void)state;                                                                                   \
    on_every_kernel(body);                                                                         \
  }

KERNEL_TEST(norms_agree_with_float64, norms)
KERNEL_TEST(rope_turns_pairs_by_the_position, ropes)
KERNEL_TEST(elementwise_ops_agree_with_float64, elementwise)
KERNEL_TEST(casts_round_to_nearest_even_and_copies_keep_bits, casts)
KERNEL_TEST(the_largest_comes_first_and_nan_last, selections)
KERNEL_TEST(routing_and_combining_agree_with_float64, routes)
KERNEL_TEST(what_is_not_served_is_refused_with_a_reason, refusals)
KERNEL_TEST(a_program_replays_its_ops, programs)

int main(void) {
  const char *seed = getenv("CONSORT_TEST_SEED");
  harness_seed = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
  printf("seed %llu\n", (unsigned long long)harness_seed);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(norms_agree_with_float64),
      cmocka_unit_test(rope_turns_pairs_by_the_position),
      cmocka_unit_test(elementwise_ops_agree_with_float64),
      cmocka_unit_test(casts_round_to_nearest_even_and_copies_keep_bits),
      cmocka_unit_test(the_largest_comes_first_and_nan_last),
      cmocka_unit_test(routing_and_combining_agree_with_float64),
      cmocka_unit_test(what_is_not_served_is_refused_with_a_reason),
      cmocka_unit_test(gather_stays_within_the_table),
      cmocka_unit_test(a_program_replays_its_ops),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
