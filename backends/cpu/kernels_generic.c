/* The portable table: plain C, written as the reference for the others. */
#include "kernels.h"

#include <math.h>
#include <string.h>

#include "consort/half.h"
#include "soften.h"
#include "word_sum.h"

/* ---- float formats ---- */

static inline float load_f32(const void *from, size_t i) {
  return ((const float *)from)[i];
}

static inline float load_f16(const void *from, size_t i) {
  return cs_f32_from_f16(((const uint16_t *)from)[i]);
}

static inline float load_bf16(const void *from, size_t i) {
  return cs_f32_from_bf16(((const uint16_t *)from)[i]);
}

static inline float load_f8(const void *from, size_t i) {
  return cs_f32_from_e4m3(((const uint8_t *)from)[i]);
}

static inline float load_i8(const void *from, size_t i) {
  return ((const int8_t *)from)[i];
}

/* One definition a format of everything that reads it: of matmul tiles, ... */
#define FLOAT_TILE(format)                                                                         \
  static void float_tile_##format(uint32_t rows, const float *panel, const void *weights,          \
                                  size_t n, float *out) {                                          \
    for (uint32_t r = 0; r < rows; r++) {                                                          \
      float sums[CPU_PANEL_COLUMNS] = {0};                                                         \
      for (size_t i = 0; i < n; i++)                                                               \
        for (size_t c = 0; c < CPU_PANEL_COLUMNS; c++)                                             \
          sums[c] += panel[i * rows + r] * load_##format(weights, i * CPU_PANEL_COLUMNS + c);      \
      for (size_t c = 0; c < CPU_PANEL_COLUMNS; c++)                                               \
        out[r * CPU_PANEL_COLUMNS + c] += sums[c];                                                 \
    }                                                                                              \
  }

/* ... and of KV. */
#define KV_KERNELS(format)                                                                         \
  static void score_tile_##format(uint32_t rows, const float *const *q, const void *k,             \
                                  size_t k_stride_bytes, size_t n, float *out) {                   \
    for (uint32_t r = 0; r < rows; r++)                                                            \
      for (uint32_t c = 0; c < CPU_SCORE_KEYS; c++) {                                              \
        const char *key = (const char *)k + c * k_stride_bytes;                                    \
        float sums[8] = {0};                                                                       \
        for (size_t i = 0; i < n; i++)                                                             \
          sums[i % 8] += q[r][i] * load_##format(key, i);                                          \
        out[r * CPU_SCORE_KEYS + c] = ((sums[0] + sums[4]) + (sums[1] + sums[5])) +                \
                                      ((sums[2] + sums[6]) + (sums[3] + sums[7]));                 \
      }                                                                                            \
  }                                                                                                \
  static void mix_tile_##format(uint32_t rows, const float *p, size_t p_stride, size_t n_tokens,   \
                                const void *v, size_t v_stride_bytes, size_t width, float *out,    \
                                size_t out_stride) {                                               \
    for (uint32_t r = 0; r < rows; r++)                                                            \
      for (size_t t = 0; t < n_tokens; t++) {                                                      \
        const char *row = (const char *)v + t * v_stride_bytes;                                    \
        for (size_t j = 0; j < width; j++)                                                         \
          out[r * out_stride + j] += p[r * p_stride + t] * load_##format(row, j);                  \
      }                                                                                            \
  }                                                                                                \
  static void to_f32_##format(float *out, const void *x, size_t n) {                               \
    for (size_t i = 0; i < n; i++)                                                                 \
      out[i] = load_##format(x, i);                                                                \
  }

FLOAT_TILE(f32)
FLOAT_TILE(f16)
FLOAT_TILE(bf16)
KV_KERNELS(f32)
KV_KERNELS(f16)
KV_KERNELS(bf16)
KV_KERNELS(f8)
KV_KERNELS(i8)

static void from_f32_f32(void *out, const float *x, size_t n) {
  memmove(out, x, n * sizeof *x);
}

static void from_f32_f16(void *out, const float *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    ((uint16_t *)out)[i] = cs_f16_from_f32(x[i]);
}

static void from_f32_bf16(void *out, const float *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    ((uint16_t *)out)[i] = cs_bf16_from_f32(x[i]);
}

static void from_f32_f8(void *out, const float *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    ((uint8_t *)out)[i] = cs_e4m3_from_f32(x[i]);
}

/* ---- rows ---- */

static float exp_sum(float *x, size_t n, float shift) {
  float sum = 0;
  for (size_t i = 0; i < n; i++) {
    x[i] = expf(x[i] - shift);
    sum += x[i];
  }
  return sum;
}

static void transpose8(const float *x, size_t stride, size_t n, float *out) {
  for (size_t i = 0; i < n; i++)
    for (size_t r = 0; r < 8; r++)
      out[i * 8 + r] = x[r * stride + i];
}

static bool soften(float *scores, size_t n, float *largest, float *total, float *shrink) {
  return cpu_soften(scores, n, largest, total, shrink, exp_sum);
}

static uint64_t word_sum(const unsigned char *bytes, uint64_t first, size_t n) {
  return cpu_word_sum(bytes, first, n);
}

static void silu_mul(float *out, const float *gate, const float *up, size_t n) {
  for (size_t i = 0; i < n; i++)
    out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void add(float *out, const float *a, const float *b, size_t n) {
  for (size_t i = 0; i < n; i++)
    out[i] = a[i] + b[i];
}

static double sum_squares(const float *x, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++)
    sum += (double)x[i] * (double)x[i];
  return sum;
}

static void scale_mul(float *out, const float *x, float scale, const float *weight, size_t n) {
  for (size_t i = 0; i < n; i++)
    out[i] = x[i] * scale * weight[i];
}

const cpu_kernels cpu_kernels_generic = {
    .name = "generic",
    .blocks = &cpu_blocks_generic,
    .float_tile = {float_tile_f32, float_tile_f16, float_tile_bf16},
    .score_tile = {score_tile_f32, score_tile_f16, score_tile_bf16, score_tile_f8, score_tile_i8},
    .mix_tile = {mix_tile_f32, mix_tile_f16, mix_tile_bf16, mix_tile_f8, mix_tile_i8},
    .transpose8 = transpose8,
    .soften = soften,
    .word_sum = word_sum,
    .exp_sum = exp_sum,
    .silu_mul = silu_mul,
    .add = add,
    .sum_squares = sum_squares,
    .scale_mul = scale_mul,
    .to_f32 = {to_f32_f32, to_f32_f16, to_f32_bf16, to_f32_f8, to_f32_i8},
    .from_f32 = {from_f32_f32, from_f32_f16, from_f32_bf16, from_f32_f8},
};
