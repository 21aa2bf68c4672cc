/* The portable table: plain C, written as the reference for the others. */
#include "kernels.h"

#include <math.h>

#include "formats.h"

/* ---- matmul ---- */

INLINE void float_tile(const int format, uint32_t rows, const float *panel, const void *weights,
                       size_t n, float *out) {
  for (uint32_t r = 0; r < rows; r++) {
    float sums[CPU_PANEL_COLUMNS] = {0};
    for (size_t i = 0; i < n; i++)
      for (size_t c = 0; c < CPU_PANEL_COLUMNS; c++)
        sums[c] += panel[i * rows + r] * load_one(format, weights, i * CPU_PANEL_COLUMNS + c);
    for (size_t c = 0; c < CPU_PANEL_COLUMNS; c++)
      out[r * CPU_PANEL_COLUMNS + c] += sums[c];
  }
}

/* ---- attention ---- */

INLINE void score_tile(const int format, uint32_t rows, const float *const *q, const void *k,
                       size_t k_stride_bytes, size_t n, float *out) {
  for (uint32_t r = 0; r < rows; r++)
    for (uint32_t c = 0; c < CPU_SCORE_KEYS; c++) {
      const char *key = (const char *)k + c * k_stride_bytes;
      float sums[8] = {0};
      for (size_t i = 0; i < n; i++)
        sums[i % 8] += q[r][i] * load_one(format, key, i);
      out[r * CPU_SCORE_KEYS + c] =
          ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
    }
}

INLINE void mix_tile(const int format, uint32_t rows, const float *p, size_t p_stride,
                     size_t n_tokens, const void *v, size_t v_stride_bytes, size_t width,
                     float *out, size_t out_stride) {
  for (uint32_t r = 0; r < rows; r++)
    for (size_t t = 0; t < n_tokens; t++) {
      const char *row = (const char *)v + t * v_stride_bytes;
      for (size_t j = 0; j < width; j++)
        out[r * out_stride + j] += p[r * p_stride + t] * load_one(format, row, j);
    }
}

/* ---- formats ---- */

INLINE void to_f32(const int format, float *out, const void *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    out[i] = load_one(format, x, i);
}

INLINE void from_f32(const int format, void *out, const float *x, size_t n) {
  store_rest(format, out, x, 0, n);
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

#include "kernels_table.h"

const cpu_kernels cpu_kernels_generic = {
    .name = "generic", .blocks = &cpu_blocks_generic, KERNELS_TABLE};
