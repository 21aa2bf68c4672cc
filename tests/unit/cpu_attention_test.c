/* The CPU plugin's KV cache ops and attention against plain float64 loops: every layout, KV format
 * and kernel table. */
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
#define N_BLOCKS 24

static float rounded(uint32_t dtype, float x) {
  if (dtype == CS_DTYPE_F16) return cs_f32_from_f16(cs_f16_from_f32(x));
  return dtype == CS_DTYPE_BF16 ? cs_f32_from_bf16(cs_bf16_from_f32(x)) : x;
}

static cs_tensor integers(cpu_harness *h, const int32_t *data, uint64_t n) {
  return harness_tensor(h, CS_DTYPE_I32, data, 0, 1, &n);
}

static cs_tensor cache_plane(cpu_harness *h, uint32_t dtype, uint32_t layout, uint64_t block_tokens,
                             uint64_t n_heads, uint64_t width) {
  cs_tensor plane =
      harness_tensor(h, dtype, NULL, 64, 4, (uint64_t[]){N_BLOCKS, block_tokens, n_heads, width});
  plane.layout = layout;
  return plane;
}

/* A cache with the tokens of two sequences, whose blocks are scattered, written by kv_write. */
typedef struct cached {
  uint32_t dtype;
  uint64_t block_tokens;
  uint64_t n_heads;
  uint64_t k_width;
  uint64_t v_width;
  uint64_t lengths[2];
  uint64_t table_columns;
  int32_t table[2][N_BLOCKS];
  float *k[2]; /* (length, n_heads, width), as float32 before rounding */
  float *v[2];
  cs_tensor planes[2];
} cached;

static int32_t slot_of(const cached *c, uint64_t s, uint64_t position) {
  return c->table[s][position / c->block_tokens] * (int32_t)c->block_tokens +
         (int32_t)(position % c->block_tokens);
}

static void fill_sequence(cpu_harness *h, cached *c, uint64_t s) {
  const uint64_t n = c->lengths[s];
  int32_t *slots = malloc((n + 1) * sizeof *slots);
  for (uint64_t i = 0; i < n; i++)
    slots[i] = slot_of(c, s, i);
  slots[n] = -1;
  c->k[s] = malloc((n + 1) * c->n_heads * c->k_width * sizeof(float));
  c->v[s] = malloc((n + 1) * c->n_heads * c->v_width * sizeof(float));
  harness_fill(c->k[s], (n + 1) * c->n_heads * c->k_width);
  harness_fill(c->v[s], (n + 1) * c->n_heads * c->v_width);
  cs_tensor operands[5] = {
      harness_tensor(h, CS_DTYPE_F32, c->k[s], 8, 3, (uint64_t[]){n + 1, c->n_heads, c->k_width}),
      harness_tensor(h, CS_DTYPE_F32, c->v[s], 0, 3, (uint64_t[]){n + 1, c->n_heads, c->v_width}),
      c->planes[0], c->planes[1], integers(h, slots, n + 1)};
  assert_int_equal(harness_run(h, CS_OP_KV_WRITE, operands, 5, NULL, NULL), CS_OK);
  operands[2].memory = operands[3].memory = NULL;
  harness_free(h, operands, 5);
  free(slots);
}

static cached make_cache(cpu_harness *h, uint32_t dtype, uint32_t layout, uint64_t block_tokens,
                         uint64_t n_heads, uint64_t k_width, uint64_t v_width, uint64_t length_0,
                         uint64_t length_1) {
  cached c = {.dtype = dtype,
              .block_tokens = block_tokens,
              .n_heads = n_heads,
              .k_width = k_width,
              .v_width = v_width,
              .lengths = {length_0, length_1},
              .table_columns = N_BLOCKS};
  c.planes[0] = cache_plane(h, dtype, layout, block_tokens, n_heads, k_width);
  c.planes[1] = cache_plane(h, dtype, layout, block_tokens, n_heads, v_width);
  int32_t next = 0;
  for (uint64_t s = 0; s < 2; s++)
    for (uint64_t b = 0; b < N_BLOCKS; b++)
      c.table[s][b] = b * block_tokens < c.lengths[s] ? next++ * 7 % N_BLOCKS : -1;
  for (uint64_t s = 0; s < 2; s++)
    fill_sequence(h, &c, s);
  return c;
}

static void free_cache(cpu_harness *h, cached *c) {
  harness_free(h, c->planes, 2);
  for (int s = 0; s < 2; s++) {
    free(c->k[s]);
    free(c->v[s]);
  }
}

/* ---- attention ---- */

typedef struct attention_case {
  uint64_t rows[2];
  uint64_t group;
  cs_attention_params params;
  bool with_sinks;
} attention_case;

/* One query vector against its sequence, in float64. */
static void attend(const cached *c, const attention_case *a, uint64_t s, uint64_t position,
                   uint64_t kv_head, const float *q, const float *sink, double *out) {
  const uint64_t window = a->params.window;
  const uint64_t begin = window && position + 1 > window ? position + 1 - window : 0;
  double scores[N_BLOCKS * 128], largest = sink ? *sink : -INFINITY, total = 0;
  for (uint64_t t = begin; t <= position; t++) {
    double score = 0;
    for (uint64_t j = 0; j < c->k_width; j++)
      score +=
          (double)q[j] * rounded(c->dtype, c->k[s][(t * c->n_heads + kv_head) * c->k_width + j]);
    score *= a->params.scale;
    if (a->params.soft_cap != 0) score = a->params.soft_cap * tanh(score / a->params.soft_cap);
    scores[t] = score;
    largest = fmax(largest, score);
  }
  if (sink) total = exp(*sink - largest);
  memset(out, 0, c->v_width * sizeof *out);
  for (uint64_t t = begin; t <= position; t++) {
    const double p = exp(scores[t] - largest);
    total += p;
    for (uint64_t j = 0; j < c->v_width; j++)
      out[j] += p * rounded(c->dtype, c->v[s][(t * c->n_heads + kv_head) * c->v_width + j]);
  }
  for (uint64_t j = 0; j < c->v_width; j++)
    out[j] /= total;
}

static void check_attention(cpu_harness *h, cached *c, const attention_case *a,
                            uint32_t error_class) {
  const uint64_t n_heads = c->n_heads * a->group, n = a->rows[0] + a->rows[1] + 2;
  float *q = malloc(n * n_heads * c->k_width * sizeof *q), sinks[64];
  double *want = malloc(n * n_heads * c->v_width * sizeof *want);
  harness_fill(q, n * n_heads * c->k_width);
  harness_fill(sinks, n_heads);
  /* a third sequence of length 0 owns the last two rows: padding */
  const int32_t offsets[4] = {0, (int32_t)a->rows[0], (int32_t)n - 2, (int32_t)n};
  const int32_t lengths[3] = {(int32_t)c->lengths[0], (int32_t)c->lengths[1], 0};
  int32_t table[3 * N_BLOCKS];
  memset(table, 0xff, sizeof table);
  memcpy(table, c->table, sizeof c->table);
  cs_tensor operands[8] = {
      harness_tensor(h, CS_DTYPE_F32, NULL, 0, 3, (uint64_t[]){n, n_heads, c->v_width}),
      harness_tensor(h, CS_DTYPE_F32, q, 16, 3, (uint64_t[]){n, n_heads, c->k_width}),
      c->planes[0],
      c->planes[1],
      harness_tensor(h, CS_DTYPE_I32, table, 4, 2, (uint64_t[]){3, N_BLOCKS}),
      integers(h, offsets, 4),
      integers(h, lengths, 3),
      NONE};
  if (a->with_sinks) operands[7] = harness_tensor(h, CS_DTYPE_F32, sinks, 0, 1, &n_heads);
  cs_op_answer answer;
  assert_true(harness_allows(h, CS_OP_ATTENTION_PAGED, operands, 8, &a->params, &answer));
  assert_int_equal(answer.error_class, error_class);
  cs_error error = CS_ERROR_INIT;
  if (harness_run(h, CS_OP_ATTENTION_PAGED, operands, 8, &a->params, &error) != CS_OK)
    fail_msg("%s", error.message);
  for (uint64_t i = 0; i < n - 2; i++)
    for (uint64_t head = 0; head < n_heads; head++) {
      const uint64_t s = i >= a->rows[0], row = s ? i - a->rows[0] : i;
      attend(c, a, s, c->lengths[s] - a->rows[s] + row, head / a->group,
             q + (i * n_heads + head) * c->k_width, a->with_sinks ? &sinks[head] : NULL,
             want + (i * n_heads + head) * c->v_width);
    }
  const float *out = harness_row(h, &operands[0], 0);
  const double nmse = harness_nmse(want, out, (n - 2) * n_heads * c->v_width);
  const double limit = answer.error_class == CS_ERROR_HALF ? CS_NMSE_LIMIT_HALF : CS_NMSE_LIMIT_F32;
  if (!(nmse <= limit))
    fail_msg("NMSE %g, %llu rows of %llu wide heads", nmse, (unsigned long long)n,
             (unsigned long long)c->k_width);
  const unsigned char *padding = harness_row(h, &operands[0], n - 2);
  for (uint64_t i = 0; i < 2 * n_heads * c->v_width * 4; i++)
    assert_int_equal(padding[i], 0xa5);
  operands[2].memory = operands[3].memory = NULL;
  harness_free(h, operands, 8);
  free(q);
  free(want);
}

static void check_attention_cases(cpu_harness *h, uint32_t dtype, uint32_t layout) {
  static const struct {
    uint64_t block_tokens, n_heads, k_width, v_width, lengths[2];
    attention_case attention;
  } cases[] = {
      {16, 1, 8, 8, {1, 1}, {{1, 1}, 1, {.scale = 0.5f}, false}},
      {16, 2, 64, 64, {17, 40}, {{17, 1}, 4, {.scale = 0.125f}, false}},
      {16, 3, 20, 12, {33, 130}, {{5, 130}, 2, {.scale = 0.3f, .window = 24}, true}},
      {32, 1, 80, 256, {100, 64}, {{1, 3}, 8, {.scale = 2, .soft_cap = 3}, false}},
      {128, 2, 16, 16, {1, 300}, {{1, 90}, 3, {.scale = 1, .window = 1}, false}},
      {1, 2, 9, 7, {11, 13}, {{2, 13}, 1, {.scale = 1}, true}},
      /* contexts long enough to be cut into pieces for two threads */
      {128, 2, 16, 16, {1500, 1025}, {{1, 3}, 4, {.scale = 2}, true}},
      {128, 5, 24, 8, {777, 1281}, {{4, 1}, 2, {.scale = 1, .window = 700}, false}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    attention_case a = cases[i].attention;
    a.params.struct_size = sizeof a.params;
    cached c =
        make_cache(h, dtype, layout, cases[i].block_tokens, cases[i].n_heads, cases[i].k_width,
                   cases[i].v_width, cases[i].lengths[0], cases[i].lengths[1]);
    check_attention(h, &c, &a, CS_ERROR_F32);
    free_cache(h, &c);
  }
}

static void attention_agrees_with_float64(void **state) {
  (void)state;
  for (size_t k = 0; k < HARNESS_N_KERNELS; k++) {
    cpu_harness h;
    if (!harness_open(&h, harness_kernels[k], "2")) continue;
    for (uint32_t dtype = CS_DTYPE_F32; dtype <= CS_DTYPE_BF16; dtype++)
      for (uint32_t layout = CS_LAYOUT_KV_TOKEN_MAJOR; layout <= CS_LAYOUT_KV_HEAD_MINOR; layout++)
        check_attention_cases(&h, dtype, layout);
    harness_close(&h);
  }
}

/* What bf16 arithmetic serves: many queries on caches of 16 bits. The last case is wide enough for
 * `auto` and has a long context; the others are not. */
static void check_half_cases(cpu_harness *h, uint32_t dtype, bool always) {
  static const struct {
    uint64_t block_tokens, n_heads, k_width, v_width, lengths[2];
    attention_case attention;
  } cases[] = {
      {16, 2, 8, 8, {70, 40}, {{70, 1}, 1, {.scale = 0.5f}, false}},
      {16, 1, 64, 64, {17, 150}, {{17, 97}, 4, {.scale = 0.5f}, true}},
      {32, 2, 33, 40, {130, 70}, {{130, 33}, 2, {.scale = 0.2f, .window = 24}, true}},
      {16, 2, 80, 96, {33, 130}, {{5, 130}, 3, {.scale = 0.25f, .soft_cap = 3}, false}},
      {16, 1, 128, 128, {1, 200}, {{1, 90}, 2, {.scale = 0.1f}, false}},
      {16, 1, 256, 256, {1, 100}, {{1, 65}, 1, {.scale = 0.06f, .window = 40}, false}},
      {128, 2, 64, 64, {1500, 1025}, {{37, 20}, 8, {.scale = 0.5f}, false}},
  };
  const size_t n = sizeof cases / sizeof *cases;
  for (size_t i = 0; i < n; i++) {
    attention_case a = cases[i].attention;
    a.params.struct_size = sizeof a.params;
    const uint32_t error_class =
        dtype != CS_DTYPE_F32 && (always || i == n - 1) ? CS_ERROR_HALF : CS_ERROR_F32;
    cached c = make_cache(h, dtype, CS_LAYOUT_KV_TOKEN_MAJOR + (uint32_t)i % 3,
                          cases[i].block_tokens, cases[i].n_heads, cases[i].k_width,
                          cases[i].v_width, cases[i].lengths[0], cases[i].lengths[1]);
    check_attention(h, &c, &a, error_class);
    free_cache(h, &c);
  }
}

static void many_queries_in_bf16_stay_within_their_class(void **state) {
  (void)state;
  if (!harness_processor_has("avx512_bf16")) skip();
  for (int always = 0; always < 2; always++) {
    cpu_harness h;
    assert_true(harness_open_rounding(&h, "avx512", "2", always ? "always" : "auto"));
    for (uint32_t dtype = CS_DTYPE_F32; dtype <= CS_DTYPE_BF16; dtype++)
      check_half_cases(&h, dtype, always);
    harness_close(&h);
  }
}

/* n rows of one sequence; NaN is in K and V of the last position. */
static void check_nan(cpu_harness *h, uint32_t dtype, uint64_t n) {
  cached c = make_cache(h, dtype, CS_LAYOUT_KV_HEAD_MAJOR, 16, 1, 16, 16, n, 1);
  const uint64_t bytes = 16 * cs_sdk_dtype_bytes(dtype, 1);
  const uint64_t last =
      (uint64_t)c.table[0][(n - 1) / 16] * (16 * bytes + 64) + (n - 1) % 16 * bytes;
  for (int plane = 0; plane < 2; plane++)
    memset((char *)harness_row(h, &c.planes[plane], 0) + last, 0xff, bytes);
  float *q = malloc(n * 16 * sizeof *q);
  assert_non_null(q);
  harness_fill(q, n * 16);
  const int32_t offsets[2] = {0, (int32_t)n}, length = (int32_t)n;
  cs_tensor operands[8] = {
      harness_tensor(h, CS_DTYPE_F32, NULL, 0, 3, (uint64_t[]){n, 1, 16}),
      harness_tensor(h, CS_DTYPE_F32, q, 0, 3, (uint64_t[]){n, 1, 16}),
      c.planes[0],
      c.planes[1],
      harness_tensor(h, CS_DTYPE_I32, c.table[0], 0, 2, (uint64_t[]){1, N_BLOCKS}),
      integers(h, offsets, 2),
      integers(h, &length, 1),
      NONE};
  const cs_attention_params params = {.struct_size = sizeof params, .scale = 1};
  assert_int_equal(harness_run(h, CS_OP_ATTENTION_PAGED, operands, 8, &params, NULL), CS_OK);
  const float *out = harness_row(h, &operands[0], 0);
  for (uint64_t i = 0; i < n * 16; i++)
    assert_int_equal(isnan(out[i]) != 0, i >= (n - 1) * 16);
  operands[2].memory = operands[3].memory = NULL;
  harness_free(h, operands, 8);
  free_cache(h, &c);
  free(q);
}

static void nan_at_a_later_position_reaches_nobody(void **state) {
  (void)state;
  for (size_t k = 0; k < HARNESS_N_KERNELS; k++) {
    cpu_harness h;
    if (!harness_open_rounding(&h, harness_kernels[k], "1", "always")) continue;
    for (uint32_t dtype = CS_DTYPE_F32; dtype <= CS_DTYPE_BF16; dtype++) {
      check_nan(&h, dtype, 20);
      check_nan(&h, dtype, 115); /* enough queries for the way of many */
    }
    harness_close(&h);
  }
}

static void a_block_outside_the_cache_is_refused(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "1"));
  cached c = make_cache(&h, CS_DTYPE_F32, CS_LAYOUT_KV_HEAD_MAJOR, 16, 1, 16, 16, 20, 1);
  c.table[0][1] = N_BLOCKS;
  float q[16] = {0};
  const int32_t offsets[2] = {0, 1}, length = 20;
  cs_tensor operands[8] = {
      harness_tensor(&h, CS_DTYPE_F32, NULL, 0, 3, (uint64_t[]){1, 1, 16}),
      harness_tensor(&h, CS_DTYPE_F32, q, 0, 3, (uint64_t[]){1, 1, 16}),
      c.planes[0],
      c.planes[1],
      harness_tensor(&h, CS_DTYPE_I32, c.table[0], 0, 2, (uint64_t[]){1, N_BLOCKS}),
      integers(&h, offsets, 2),
      integers(&h, &length, 1),
      NONE};
  const cs_attention_params params = {.struct_size = sizeof params, .scale = 1};
  assert_int_equal(harness_run(&h, CS_OP_ATTENTION_PAGED, operands, 8, &params, NULL),
                   CS_OUT_OF_RANGE);
  operands[2].memory = operands[3].memory = NULL;
  harness_free(&h, operands, 8);
  free_cache(&h, &c);
  harness_close(&h);
}

/* ---- the wire ---- */

static uint64_t wire_sum(const unsigned char *wire, uint64_t bytes) {
  uint64_t sum = 0;
  for (uint64_t i = 0; 4 * i < bytes; i++) {
    uint64_t word = 0;
    for (uint64_t j = 0; j < 4 && 4 * i + j < bytes; j++)
      word |= (uint64_t)wire[4 * i + j] << (8 * j);
    uint64_t z = (i << 32 | word) + UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    sum += z ^ z >> 31;
  }
  return sum;
}

static void check_wire(cpu_harness *h, uint32_t dtype, uint32_t wire_dtype, uint32_t from_layout,
                       uint32_t to_layout, uint64_t from_tokens, uint64_t to_tokens) {
  const uint64_t heads = 3, k_width = 5, v_width = 7, first = 6, n = 21;
  cached c = make_cache(h, dtype, from_layout, from_tokens, heads, k_width, v_width, first + n, 1);
  const uint64_t elements = heads * n * (k_width + v_width), one = 1, columns = N_BLOCKS;
  const uint64_t wire_elements = elements + 10;
  const int32_t range[2] = {(int32_t)first, (int32_t)n};
  cs_tensor wire = harness_tensor(h, wire_dtype, NULL, 0, 1, &wire_elements);
  cs_tensor operands[6] = {
      wire,
      harness_tensor(h, CS_DTYPE_U64, NULL, 0, 1, &one),
      c.planes[0],
      c.planes[1],
      harness_tensor(h, CS_DTYPE_I32, c.table[0], 0, 2, (uint64_t[]){1, columns}),
      integers(h, range, 2)};
  assert_int_equal(harness_run(h, CS_OP_KV_GATHER, operands, 6, NULL, NULL), CS_OK);
  const unsigned char *bytes = harness_row(h, &wire, 0);
  const uint64_t used = cs_sdk_dtype_bytes(wire_dtype, elements);
  uint64_t sum;
  memcpy(&sum, harness_row(h, &operands[1], 0), sizeof sum);
  assert_true(sum == wire_sum(bytes, used));
  assert_int_equal(bytes[used], 0xa5);
  for (uint64_t head = 0; head < heads; head++)
    for (uint64_t t = 0; t < n; t++)
      for (uint64_t j = 0; j < v_width; j++) {
        const uint64_t at = heads * n * k_width + (head * n + t) * v_width + j;
        const float x = rounded(dtype, c.v[0][((first + t) * heads + head) * v_width + j]);
        const float got = wire_dtype == CS_DTYPE_F32   ? ((const float *)bytes)[at]
                          : wire_dtype == CS_DTYPE_F16 ? cs_f32_from_f16(((uint16_t *)bytes)[at])
                                                       : cs_f32_from_bf16(((uint16_t *)bytes)[at]);
        assert_true(got == rounded(wire_dtype, x));
      }
  cached other = make_cache(h, dtype, to_layout, to_tokens, heads, k_width, v_width, first + n, 1);
  operands[2] = other.planes[0];
  operands[3] = other.planes[1];
  memcpy(harness_row(h, &operands[4], 0), other.table[0], sizeof other.table[0]);
  assert_int_equal(harness_run(h, CS_OP_KV_SCATTER, operands, 6, NULL, NULL), CS_OK);
  assert_memory_equal(harness_row(h, &operands[1], 0), &sum, sizeof sum);
  unsigned char *copy = malloc(used);
  memcpy(copy, bytes, used);
  memset(harness_row(h, &wire, 0), 0, used);
  assert_int_equal(harness_run(h, CS_OP_KV_GATHER, operands, 6, NULL, NULL), CS_OK);
  assert_memory_equal(harness_row(h, &wire, 0), copy, used);
  free(copy);
  operands[2].memory = operands[3].memory = NULL;
  harness_free(h, operands, 6);
  free_cache(h, &c);
  free_cache(h, &other);
}

static void the_wire_round_trips_between_layouts(void **state) {
  (void)state;
  for (size_t k = 0; k < HARNESS_N_KERNELS; k++) {
    cpu_harness h;
    if (!harness_open(&h, harness_kernels[k], "2")) continue;
    for (uint32_t from = CS_LAYOUT_KV_TOKEN_MAJOR; from <= CS_LAYOUT_KV_HEAD_MINOR; from++)
      for (uint32_t to = CS_LAYOUT_KV_TOKEN_MAJOR; to <= CS_LAYOUT_KV_HEAD_MINOR; to++)
        for (uint32_t dtype = CS_DTYPE_F32; dtype <= CS_DTYPE_BF16; dtype++)
          check_wire(&h, dtype, dtype, from, to, from == to ? 4 : 16, 128);
    check_wire(&h, CS_DTYPE_F32, CS_DTYPE_F16, CS_LAYOUT_KV_HEAD_MINOR, CS_LAYOUT_KV_HEAD_MAJOR, 16,
               32);
    check_wire(&h, CS_DTYPE_BF16, CS_DTYPE_F32, CS_LAYOUT_KV_HEAD_MAJOR, CS_LAYOUT_KV_TOKEN_MAJOR,
               16, 32);
    harness_close(&h);
  }
}

static void blocks_are_copied_whole(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "2"));
  cached c = make_cache(&h, CS_DTYPE_F16, CS_LAYOUT_KV_HEAD_MAJOR, 16, 2, 8, 8, 40, 30);
  const int32_t pairs[3][2] = {{c.table[0][0], 20}, {-1, 3}, {c.table[1][1], 21}};
  cs_tensor operands[3] = {c.planes[0], c.planes[1],
                           harness_tensor(&h, CS_DTYPE_I32, pairs, 0, 2, (uint64_t[]){3, 2})};
  assert_int_equal(harness_run(&h, CS_OP_KV_COPY_BLOCKS, operands, 3, NULL, NULL), CS_OK);
  for (int plane = 0; plane < 2; plane++)
    for (int i = 0; i < 3; i += 2)
      assert_memory_equal(harness_row(&h, &c.planes[plane], (uint64_t)pairs[i][1]),
                          harness_row(&h, &c.planes[plane], (uint64_t)pairs[i][0]), 16 * 2 * 8 * 2);
  harness_free(&h, &operands[2], 1);
  free_cache(&h, &c);
  harness_close(&h);
}

int main(void) {
  const char *seed = getenv("CONSORT_TEST_SEED");
  harness_seed = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
  printf("seed %llu\n", (unsigned long long)harness_seed);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(attention_agrees_with_float64),
      cmocka_unit_test(many_queries_in_bf16_stay_within_their_class),
      cmocka_unit_test(nan_at_a_later_position_reaches_nobody),
      cmocka_unit_test(a_block_outside_the_cache_is_refused),
      cmocka_unit_test(the_wire_round_trips_between_layouts),
      cmocka_unit_test(blocks_are_copied_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
