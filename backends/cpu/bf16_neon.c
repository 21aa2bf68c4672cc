/* Products of bf16 pairs with Armv8.6's bfdot. Weights keep their layout, in which two neighbouring
 * elements of 16 columns are 64 bytes; four interleavings, shared by all rows of the tile, bring
 * the two elements of a column side by side. f16 weights are rounded to bf16. */
#include <arm_neon.h>

#include "kernels.h"
#include "vector.h"

#define VECTORS (CPU_PANEL_COLUMNS / 4)

/* Of 8 columns, from two neighbouring elements. f16 is put in order before it is rounded: clang 14
 * cannot interleave what bfcvtn returns. */
INLINE void pairs_of(const int is_f16, const uint16_t *weights, bfloat16x8_t w[2]) {
  const uint16_t *next = weights + CPU_PANEL_COLUMNS;
  if (!is_f16) {
    const uint16x8_t first = vld1q_u16(weights), second = vld1q_u16(next);
    w[0] = vreinterpretq_bf16_u16(vzip1q_u16(first, second));
    w[1] = vreinterpretq_bf16_u16(vzip2q_u16(first, second));
    return;
  }
  UNROLL for (int k = 0; k < 2; k++) {
    const float32x4_t first = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(weights + 4 * k)));
    const float32x4_t second = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(next + 4 * k)));
    w[k] = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(vzip1q_f32(first, second)),
                               vzip2q_f32(first, second));
  }
}

INLINE void half_rows(const int rows, const int is_f16, uint32_t panel_rows, const uint32_t *panel,
                      const uint16_t *weights, size_t n_pairs, float *out) {
  float32x4_t sums[6][VECTORS];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < VECTORS; k++) sums[r][k] =
      vld1q_f32(out + CPU_PANEL_COLUMNS * r + 4 * k);
  for (size_t i = 0; i < n_pairs; i++, panel += panel_rows, weights += 2 * CPU_PANEL_COLUMNS) {
    bfloat16x8_t w[VECTORS];
    UNROLL for (int k = 0; k < VECTORS; k += 2) pairs_of(is_f16, weights + 4 * k, w + k);
    UNROLL for (int r = 0; r < rows; r++) {
      const bfloat16x8_t x = vreinterpretq_bf16_u32(vdupq_n_u32(panel[r]));
      UNROLL for (int k = 0; k < VECTORS; k++) sums[r][k] = vbfdotq_f32(sums[r][k], w[k], x);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < VECTORS; k++)
      vst1q_f32(out + CPU_PANEL_COLUMNS * r + 4 * k, sums[r][k]);
}

INLINE void half_tile(const int is_f16, uint32_t rows, const uint32_t *panel,
                      const uint16_t *weights, size_t n_pairs, float *out) {
  uint32_t r = 0;
  for (; r + 6 <= rows; r += 6)
    half_rows(6, is_f16, rows, panel + r, weights, n_pairs, out + CPU_PANEL_COLUMNS * r);
  for (; r + 3 <= rows; r += 3)
    half_rows(3, is_f16, rows, panel + r, weights, n_pairs, out + CPU_PANEL_COLUMNS * r);
  for (; r < rows; r++)
    half_rows(1, is_f16, rows, panel + r, weights, n_pairs, out + CPU_PANEL_COLUMNS * r);
}

#include "bf16_table.h"
