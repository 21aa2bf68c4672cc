/* The float loops of a table whose vectors have no masks: one text for every width. The including
 * file compiles it for its instructions, and defines before:
 *
 *   lanes, N_LANES                 a vector of floats with + - * /, and how many it holds
 *   load_lanes(format, from, i)    N_LANES elements from index i on, made floats: formats.h
 *   lanes_store(to, v), lanes_store_f16(to, v)
 *   lanes_set(x)                   x in every lane
 *   lanes_fma(a, b, c)             a * b + c
 *   lanes_sums(v, out)             the sums of the four vectors v[4], to out[4]
 *   lanes_clamp(v, most)           -most to most; NaN stays NaN
 *   lanes_round(v)                 to whole numbers
 *   lanes_scale(v, n)              v * 2^n for whole n within +-220
 *
 * and transpose8 and sum_squares of cpu_kernels. */
#ifndef CPU_LANES_H
#define CPU_LANES_H

#include <math.h>

#include "formats.h"
#include "kernels.h"
#include "vector.h"

#define COLUMN_VECTORS (CPU_PANEL_COLUMNS / N_LANES)

/* ---- matmul of floats ---- */

/* The first of `rows` is row 0 of what panel points at; elements lie panel_rows apart. */
INLINE void float_rows(const int rows, const int format, uint32_t panel_rows, const float *panel,
                       const void *weights, size_t n, float *out) {
  lanes sums[6][COLUMN_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < COLUMN_VECTORS; k++) sums[r][k] =
      lanes_set(0);
  for (size_t i = 0; i < n; i++, panel += panel_rows) {
    lanes w[COLUMN_VECTORS];
    UNROLL for (int k = 0; k < COLUMN_VECTORS; k++) w[k] =
        load_lanes(format, weights, CPU_PANEL_COLUMNS * i + (size_t)(N_LANES * k));
    UNROLL for (int r = 0; r < rows; r++) {
      const lanes x = lanes_set(panel[r]);
      UNROLL for (int k = 0; k < COLUMN_VECTORS; k++) sums[r][k] = lanes_fma(x, w[k], sums[r][k]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < COLUMN_VECTORS; k++) {
    float *at = out + CPU_PANEL_COLUMNS * r + N_LANES * k;
    lanes_store(at, load_lanes(F32, at, 0) + sums[r][k]);
  }
}

INLINE void float_tile(const int format, uint32_t rows, const float *panel, const void *weights,
                       size_t n, float *out) {
  uint32_t r = 0;
  for (; r + 6 <= rows; r += 6)
    float_rows(6, format, rows, panel + r, weights, n, out + CPU_PANEL_COLUMNS * r);
  for (; r + 3 <= rows; r += 3)
    float_rows(3, format, rows, panel + r, weights, n, out + CPU_PANEL_COLUMNS * r);
  for (; r < rows; r++)
    float_rows(1, format, rows, panel + r, weights, n, out + CPU_PANEL_COLUMNS * r);
}

/* ---- scores ---- */

INLINE void score_rows(const int rows, const int format, const float *const *x, const void *w,
                       size_t w_stride, size_t n, float *out) {
  lanes sums[3][4];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < 4; c++) sums[r][c] =
      lanes_set(0);
  size_t i = 0;
  for (; i + N_LANES <= n; i += N_LANES) {
    lanes row[3];
    UNROLL for (int r = 0; r < rows; r++) row[r] = load_lanes(F32, x[r], i);
    UNROLL for (int c = 0; c < 4; c++) {
      const lanes column = load_lanes(format, (const char *)w + c * w_stride, i);
      UNROLL for (int r = 0; r < rows; r++) sums[r][c] = lanes_fma(row[r], column, sums[r][c]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) lanes_sums(sums[r], out + 4 * r);
  for (; i < n; i++)
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < 4; c++)
        out[4 * r + c] += x[r][i] * load_one(format, (const char *)w + c * w_stride, i);
}

INLINE void score_tile(const int format, uint32_t rows, const float *const *x, const void *w,
                       size_t w_stride, size_t n, float *out) {
  for (; rows >= 3; rows -= 3, x += 3, out += 12)
    score_rows(3, format, x, w, w_stride, n, out);
  if (rows == 2) score_rows(2, format, x, w, w_stride, n, out);
  if (rows == 1) score_rows(1, format, x, w, w_stride, n, out);
}

/* ---- attention ---- */

INLINE void mix_rows(const int rows, const int format, const float *p, size_t p_stride,
                     size_t n_tokens, const void *v, size_t v_stride, size_t width, float *out,
                     size_t out_stride) {
  size_t j = 0;
  for (; j + CPU_PANEL_COLUMNS <= width; j += CPU_PANEL_COLUMNS) {
    lanes sums[CPU_MIX_ROWS][COLUMN_VECTORS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < COLUMN_VECTORS; k++)
        sums[r][k] = load_lanes(F32, out + r * out_stride, j + (size_t)(N_LANES * k));
    for (size_t t = 0; t < n_tokens; t++) {
      const char *from = (const char *)v + t * v_stride;
      lanes row[COLUMN_VECTORS];
      UNROLL for (int k = 0; k < COLUMN_VECTORS; k++) row[k] =
          load_lanes(format, from, j + (size_t)(N_LANES * k));
      UNROLL for (int r = 0; r < rows; r++) {
        const lanes weight = lanes_set(p[r * p_stride + t]);
        UNROLL for (int k = 0; k < COLUMN_VECTORS; k++) sums[r][k] =
            lanes_fma(weight, row[k], sums[r][k]);
      }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < COLUMN_VECTORS; k++)
        lanes_store(out + r * out_stride + j + N_LANES * k, sums[r][k]);
  }
  for (; j < width; j++)
    for (int r = 0; r < rows; r++)
      for (size_t t = 0; t < n_tokens; t++)
        out[r * out_stride + j] +=
            p[r * p_stride + t] * load_one(format, (const char *)v + t * v_stride, j);
}

INLINE void mix_tile(const int format, uint32_t rows, const float *p, size_t p_stride,
                     size_t n_tokens, const void *v, size_t v_stride, size_t width, float *out,
                     size_t out_stride) {
  if (rows >= 4) {
    mix_rows(4, format, p, p_stride, n_tokens, v, v_stride, width, out, out_stride);
    return;
  }
  for (uint32_t r = 0; r < rows; r++)
    mix_rows(1, format, p + r * p_stride, p_stride, n_tokens, v, v_stride, width,
             out + r * out_stride, out_stride);
}

/* ---- formats ---- */

INLINE void to_f32(const int format, float *out, const void *x, size_t n) {
  size_t i = 0;
  for (; i + N_LANES <= n; i += N_LANES)
    lanes_store(out + i, load_lanes(format, x, i));
  for (; i < n; i++)
    out[i] = load_one(format, x, i);
}

INLINE void from_f32(const int format, void *out, const float *x, size_t n) {
  size_t i = 0;
  for (; format == F16 && i + N_LANES <= n; i += N_LANES)
    lanes_store_f16((uint16_t *)out + i, load_lanes(F32, x, i));
  store_rest(format, out, x, i, n);
}

/* ---- rows ---- */

/* As in the AVX-512 table. */
INLINE lanes exp_lanes(lanes x) {
  x = lanes_clamp(x, 150);
  const lanes n = lanes_round(x * lanes_set(0x1.715476p+0f));
  lanes r = lanes_fma(n, lanes_set(-0x1.62e4p-1f), x);
  r = lanes_fma(n, lanes_set(-0x1.7f7d1cp-20f), r);
  lanes sum = lanes_set(1.0f / 5040);
  sum = lanes_fma(sum, r, lanes_set(1.0f / 720));
  sum = lanes_fma(sum, r, lanes_set(1.0f / 120));
  sum = lanes_fma(sum, r, lanes_set(1.0f / 24));
  sum = lanes_fma(sum, r, lanes_set(1.0f / 6));
  sum = lanes_fma(sum, r, lanes_set(0.5f));
  sum = lanes_fma(sum, r, lanes_set(1));
  sum = lanes_fma(sum, r, lanes_set(1));
  return lanes_scale(sum, n);
}

/* Kept whole: GCC 12 warns of the rest's loop where it is copied for a constant n without a rest.
 */
static __attribute__((noinline)) float exp_sum(float *x, size_t n, float shift) {
  lanes sums[4] = {lanes_set(0), lanes_set(0), lanes_set(0), lanes_set(0)};
  size_t i = 0;
  for (; i + N_LANES <= n; i += N_LANES) {
    const lanes y = exp_lanes(load_lanes(F32, x, i) - lanes_set(shift));
    lanes_store(x + i, y);
    sums[0] += y;
  }
  float sum[4];
  lanes_sums(sums, sum);
  for (; i < n; i++) {
    x[i] = expf(x[i] - shift);
    sum[0] += x[i];
  }
  return sum[0];
}

static void silu_mul(float *out, const float *gate, const float *up, size_t n) {
  size_t i = 0;
  for (; i + N_LANES <= n; i += N_LANES) {
    const lanes g = load_lanes(F32, gate, i);
    const lanes silu = g / (lanes_set(1) + exp_lanes(lanes_set(0) - g));
    lanes_store(out + i, silu * load_lanes(F32, up, i));
  }
  for (; i < n; i++)
    out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void add(float *out, const float *a, const float *b, size_t n) {
  size_t i = 0;
  for (; i + N_LANES <= n; i += N_LANES)
    lanes_store(out + i, load_lanes(F32, a, i) + load_lanes(F32, b, i));
  for (; i < n; i++)
    out[i] = a[i] + b[i];
}

static void scale_mul(float *out, const float *x, float scale, const float *weight, size_t n) {
  size_t i = 0;
  for (; i + N_LANES <= n; i += N_LANES)
    lanes_store(out + i, load_lanes(F32, x, i) * lanes_set(scale) * load_lanes(F32, weight, i));
  for (; i < n; i++)
    out[i] = x[i] * scale * weight[i];
}

#include "kernels_table.h"

#endif
