/* Blocks with Armv8's vectors, 4 rows x 8 columns at a time. All products are signed by signed:
 * 8-bit weights lose their offset first, and shorter quants are small enough to be signed. This
 * file is built three times: for any processor, whose pairs of products stay within 16 bits, for
 * those with dot products of four, and for those that multiply 2 x 8 by 8 x 2 elements at once. */
#include <math.h>

#include "neon.h"

#include "blocks_quants.h"

#define SIDE_VECTORS 2
#define SIDE_ROWS    4
#define Q8_OFFSET    0

static void quantize_row(const float *x, size_t n_blocks, uint32_t row, uint32_t rows,
                         cpu_x_extra extra, int32_t offset, void *panel) {
  char *block = panel;
  for (size_t b = 0; b < n_blocks; b++, x += CPU_BLOCK, block += cpu_x_block_bytes(extra, rows)) {
    float32x4_t largest = vdupq_n_f32(0);
    for (int i = 0; i < CPU_BLOCK; i += 4)
      largest = vmaxq_f32(largest, vabsq_f32(vld1q_f32(x + i))); /* NaN stays NaN */
    const float most = vmaxvq_f32(largest);
    const bool is_broken = !(most < INFINITY);
    const float scale = is_broken ? NAN : most / 127;
    const float inverse = scale > 0x1p-126f ? 1 / scale : 0;
    int8_t *q = (int8_t *)block + (size_t)row * CPU_BLOCK;
    int32_t sums[2];
    for (int half = 0; half < 2; half++) {
      int32x4_t whole[4];
      for (int i = 0; i < 4; i++)
        whole[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * half + 4 * i), inverse));
      const int16x8_t low = vcombine_s16(vqmovn_s32(whole[0]), vqmovn_s32(whole[1]));
      const int16x8_t high = vcombine_s16(vqmovn_s32(whole[2]), vqmovn_s32(whole[3]));
      vst1q_s8(q + 16 * half, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
      sums[half] = is_broken ? 0 : vaddlvq_s16(vaddq_s16(low, high));
    }
    cpu_x_finish(block, row, rows, scale, sums[0], sums[1], extra, offset);
  }
}

/* ---- products ---- */

/* Word j of a vector of weights. */
INLINE int8x16_t weight_word(const uint32_t bits, const char *weights, const int j) {
  const ints w = quant_word(bits, weights, j);
  return vreinterpretq_s8_s32(bits == 8 ? veorq_s32(w, ints_set8(0x80)) : w);
}

/* 16 elements of a row of x: four words. */
INLINE int8x16_t x_words(const char *x, int r, int half) {
  return vld1q_s8((const int8_t *)x + CPU_BLOCK * r + 16 * half);
}

#ifdef __ARM_FEATURE_DOTPROD

/* Adds the four products of each lane of w with word j of x. */
INLINE int32x4_t dot(int32x4_t sums, int8x16_t w, int8x16_t x, int j) {
  if (j == 0) return vdotq_laneq_s32(sums, w, x, 0);
  if (j == 1) return vdotq_laneq_s32(sums, w, x, 1);
  return j == 2 ? vdotq_laneq_s32(sums, w, x, 2) : vdotq_laneq_s32(sums, w, x, 3);
}

#else

INLINE int8x16_t lane_of(int8x16_t x, int j) {
  const int32x4_t words = vreinterpretq_s32_s8(x);
  if (j == 0) return vreinterpretq_s8_s32(vdupq_laneq_s32(words, 0));
  if (j == 1) return vreinterpretq_s8_s32(vdupq_laneq_s32(words, 1));
  return vreinterpretq_s8_s32(j == 2 ? vdupq_laneq_s32(words, 2) : vdupq_laneq_s32(words, 3));
}

/* Likewise; a pair of products is at most 2 * 128 * 127. */
INLINE int32x4_t dot(int32x4_t sums, int8x16_t w, int8x16_t x, int j) {
  const int8x16_t word = lane_of(x, j);
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(word));
  return vpadalq_s16(sums, vpaddq_s16(low, vmull_high_s8(w, word)));
}

#endif

INLINE void word_dots(const int rows, const uint32_t bits, const char *x, const char *weights,
                      const int half, const int n_halves, ints dots[][SIDE_VECTORS]) {
  UNROLL for (int h = half; h < half + n_halves; h++) {
    int8x16_t words[SIDE_ROWS];
    UNROLL for (int r = 0; r < rows; r++) words[r] = x_words(x, r, h);
    UNROLL for (int j = 0; j < 4; j++) UNROLL for (int v = 0; v < SIDE_VECTORS; v++) {
      const int8x16_t w = weight_word(bits, weights + 16 * v, 4 * h + j);
      UNROLL for (int r = 0; r < rows; r++) dots[r][v] = dot(dots[r][v], w, words[r], j);
    }
  }
}

#ifdef __ARM_FEATURE_MATMUL_INT8

/* Sums of 2 rows x 4 columns, to and from two tiles of 2 rows x 2 columns. */
INLINE void turn(ints *a, ints *b) {
  const int64x2_t first = vreinterpretq_s64_s32(*a), second = vreinterpretq_s64_s32(*b);
  *a = vreinterpretq_s32_s64(vzip1q_s64(first, second));
  *b = vreinterpretq_s32_s64(vzip2q_s64(first, second));
}

INLINE void turn_pairs(const int pairs, ints dots[][SIDE_VECTORS]) {
  UNROLL for (int p = 0; p < pairs; p++) UNROLL for (int v = 0; v < SIDE_VECTORS; v++)
      turn(&dots[2 * p][v], &dots[2 * p + 1][v]);
}

/* Words 2k and 2k + 1 of two rows or two columns side by side are what an instruction takes. */
INLINE void pair_dots(const int pairs, const uint32_t bits, const char *x, const char *weights,
                      const int h, ints dots[][SIDE_VECTORS]) {
  ints words[SIDE_ROWS];
  UNROLL for (int r = 0; r < 2 * pairs; r++) words[r] = vreinterpretq_s32_s8(x_words(x, r, h));
  UNROLL for (int p = 0; p < pairs; p++) turn(&words[2 * p], &words[2 * p + 1]);
  UNROLL for (int k = 0; k < 2; k++) UNROLL for (int v = 0; v < SIDE_VECTORS; v++) {
    const int j = 4 * h + 2 * k;
    const ints first = vreinterpretq_s32_s8(weight_word(bits, weights + 16 * v, j));
    const ints second = vreinterpretq_s32_s8(weight_word(bits, weights + 16 * v, j + 1));
    const int8x16_t low = vreinterpretq_s8_s32(vzip1q_s32(first, second));
    const int8x16_t high = vreinterpretq_s8_s32(vzip2q_s32(first, second));
    UNROLL for (int p = 0; p < pairs; p++) {
      const int8x16_t rows = vreinterpretq_s8_s32(words[2 * p + k]);
      dots[2 * p][v] = vmmlaq_s32(dots[2 * p][v], rows, low);
      dots[2 * p + 1][v] = vmmlaq_s32(dots[2 * p + 1][v], rows, high);
    }
  }
}

INLINE void part_dots(const int rows, const uint32_t bits, const char *x, const char *weights,
                      const int half, const int n_halves, ints dots[][SIDE_VECTORS]) {
  const int pairs = rows / 2, odd = rows - 1;
  turn_pairs(pairs, dots);
  UNROLL for (int h = half; h < half + n_halves; h++) pair_dots(pairs, bits, x, weights, h, dots);
  turn_pairs(pairs, dots);
  if (rows % 2 == 1) word_dots(1, bits, x + CPU_BLOCK * odd, weights, half, n_halves, dots + odd);
}

#else
#define part_dots word_dots
#endif

#include "blocks_lanes.h"

#if defined __ARM_FEATURE_MATMUL_INT8
const cpu_block_kernels cpu_blocks_neon_i8mm = {BLOCKS_OFFSETS, BLOCKS_TABLE};
#elif defined __ARM_FEATURE_DOTPROD
const cpu_block_kernels cpu_blocks_neon_dotprod = {BLOCKS_OFFSETS, BLOCKS_TABLE};
#else
const cpu_block_kernels cpu_blocks_neon = {BLOCKS_OFFSETS, BLOCKS_TABLE};
#endif
