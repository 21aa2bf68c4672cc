/* The portable table: plain C, written as the reference for the others. */
#include "kernels.h"

#include <math.h>
#include <string.h>

#include "consort/half.h"

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

/* One definition a format of everything that reads it. */
#define FLOAT_KERNELS(format)                                                                      \
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
  }                                                                                                \
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

FLOAT_KERNELS(f32)
FLOAT_KERNELS(f16)
FLOAT_KERNELS(bf16)

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

/* ---- block formats ---- */

static void quantize_row(const float *x, size_t n_blocks, uint32_t row, uint32_t rows,
                         int32_t offset, void *panel) {
  for (size_t b = 0; b < n_blocks; b++, x += CPU_BLOCK) {
    char *block = (char *)panel + b * CPU_PANEL_BLOCK_BYTES(rows);
    int8_t *q = (int8_t *)block + (size_t)row * CPU_BLOCK;
    float largest = 0;
    int finite = 1;
    for (size_t i = 0; i < CPU_BLOCK; i++) {
      if (!isfinite(x[i])) finite = 0;
      largest = fmaxf(largest, fabsf(x[i]));
    }
    float scale = largest / 127;
    const float inverse = finite && scale > 0x1p-126f ? 1 / scale : 0;
    int32_t sum = 0;
    for (size_t i = 0; i < CPU_BLOCK; i++) {
      q[i] = inverse != 0 ? (int8_t)lrintf(x[i] * inverse) : 0;
      sum += q[i];
    }
    if (!finite) scale = NAN;
    const int32_t start = -offset * sum;
    memcpy(block + (size_t)rows * CPU_BLOCK + row * sizeof scale, &scale, sizeof scale);
    memcpy(block + (size_t)rows * (CPU_BLOCK + 4) + row * sizeof start, &start, sizeof start);
  }
}

/* weight(quants, c, i) is element i of column c of the block. */
static inline int32_t q8_weight(const unsigned char *quants, size_t c, size_t i) {
  return (int32_t)quants[(i / 4 * CPU_PANEL_COLUMNS + c) * 4 + i % 4] - 128;
}

static inline int32_t q4_weight(const unsigned char *quants, size_t c, size_t i) {
  const unsigned char pair = quants[(i % 16 / 4 * CPU_PANEL_COLUMNS + c) * 4 + i % 4];
  return (int32_t)(i < 16 ? pair & 15 : pair >> 4) - 8;
}

#define BLOCK_TILE(format, block_bytes)                                                            \
  static void format##_tile(uint32_t rows, const void *panel, const void *quants,                  \
                            const uint16_t *scales, size_t n_blocks, float *out) {                 \
    memset(out, 0, rows *CPU_PANEL_COLUMNS * sizeof *out);                                         \
    for (size_t b = 0; b < n_blocks; b++) {                                                        \
      const char *block = (const char *)panel + b * CPU_PANEL_BLOCK_BYTES(rows);                   \
      const float *x_scales = (const float *)(block + (size_t)rows * CPU_BLOCK);                   \
      const unsigned char *weights = (const unsigned char *)quants + b * (block_bytes);            \
      for (uint32_t r = 0; r < rows; r++) {                                                        \
        const int8_t *q = (const int8_t *)block + (size_t)r * CPU_BLOCK;                           \
        for (size_t c = 0; c < CPU_PANEL_COLUMNS; c++) {                                           \
          int32_t sum = 0;                                                                         \
          for (size_t i = 0; i < CPU_BLOCK; i++)                                                   \
            sum += q[i] * format##_weight(weights, c, i);                                          \
          const float scale = x_scales[r] * cs_f32_from_f16(scales[b * CPU_PANEL_COLUMNS + c]);    \
          out[r * CPU_PANEL_COLUMNS + c] += scale * (float)sum;                                    \
        }                                                                                          \
      }                                                                                            \
    }                                                                                              \
  }

BLOCK_TILE(q8, 512)
BLOCK_TILE(q4, 256)

#define BLOCK_FLOATS(format, block_bytes)                                                          \
  static void format##_floats(const void *quants, const uint16_t *scales, size_t n_blocks,         \
                              float *out) {                                                        \
    for (size_t i = 0; i < n_blocks * CPU_BLOCK; i++)                                              \
      for (size_t c = 0; c < CPU_PANEL_COLUMNS; c++) {                                             \
        const size_t b = i / CPU_BLOCK;                                                            \
        const int32_t weight =                                                                     \
            format##_weight((const unsigned char *)quants + b * (block_bytes), c, i % CPU_BLOCK);  \
        out[i * CPU_PANEL_COLUMNS + c] =                                                           \
            cs_f32_from_f16(scales[b * CPU_PANEL_COLUMNS + c]) * (float)weight;                    \
      }                                                                                            \
  }

BLOCK_FLOATS(q8, 512)
BLOCK_FLOATS(q4, 256)

/* ---- rows ---- */

static float exp_sum(float *x, size_t n, float shift) {
  float sum = 0;
  for (size_t i = 0; i < n; i++) {
    x[i] = expf(x[i] - shift);
    sum += x[i];
  }
  return sum;
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
    .q8_offset = 0,
    .q4_offset = 0,
    .float_tile = {float_tile_f32, float_tile_f16, float_tile_bf16},
    .score_tile = {score_tile_f32, score_tile_f16, score_tile_bf16},
    .quantize_row = quantize_row,
    .q8_tile = q8_tile,
    .q4_tile = q4_tile,
    .q8_floats = q8_floats,
    .q4_floats = q4_floats,
    .mix_tile = {mix_tile_f32, mix_tile_f16, mix_tile_bf16},
    .exp_sum = exp_sum,
    .silu_mul = silu_mul,
    .add = add,
    .sum_squares = sum_squares,
    .scale_mul = scale_mul,
    .to_f32 = {to_f32_f32, to_f32_f16, to_f32_bf16},
    .from_f32 = {from_f32_f32, from_f32_f16, from_f32_bf16},
};
