/* Blocks with AVX2, 8 columns at a time. The including file says how four products of a lane are
 * summed: weight_word(bits, w) makes of a word what dot(bits, sums, w, x) takes, with x a word of
 * one row in every lane. It defines SIDE_ROWS and Q8_OFFSET too; see blocks_lanes.h. */
#ifndef CPU_BLOCKS_AVX2_H
#define CPU_BLOCKS_AVX2_H

#include <math.h>

#include "avx2.h"
#include "blocks_quants.h"

#define SIDE_VECTORS 1

INLINE float largest8(__m256 v) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

INLINE int32_t sum8(__m256i v) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
  return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 1)));
}

static void quantize_row(const float *x, size_t n_blocks, uint32_t row, uint32_t rows,
                         cpu_x_extra extra, int32_t offset, void *panel) {
  const __m256 sign = _mm256_set1_ps(-0.0f), infinity = _mm256_set1_ps(INFINITY);
  char *block = panel;
  for (size_t b = 0; b < n_blocks; b++, x += CPU_BLOCK, block += cpu_x_block_bytes(extra, rows)) {
    __m256 largest = _mm256_setzero_ps(), broken = _mm256_setzero_ps();
    for (int i = 0; i < CPU_BLOCK; i += 8) {
      const __m256 magnitude = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
      largest = _mm256_max_ps(largest, magnitude);
      broken = _mm256_or_ps(broken, _mm256_cmp_ps(magnitude, infinity, _CMP_NLT_UQ));
    }
    const int is_broken = _mm256_movemask_ps(broken) != 0;
    const float scale = is_broken ? NAN : largest8(largest) / 127;
    const __m256 inverse = _mm256_set1_ps(scale > 0x1p-126f ? 1 / scale : 0);
    __m256i q[4];
    for (int i = 0; i < 4; i++)
      q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
    /* packing works on halves: the permutation restores the order */
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256(
        (__m256i *)(block + (size_t)row * CPU_BLOCK),
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    cpu_x_finish(block, row, rows, scale, is_broken ? 0 : sum8(_mm256_add_epi32(q[0], q[1])),
                 is_broken ? 0 : sum8(_mm256_add_epi32(q[2], q[3])), extra, offset);
  }
}

INLINE void part_dots(const int rows, const uint32_t bits, const char *x, const char *weights,
                      const int half, const int n_halves, ints dots[SIDE_ROWS][SIDE_VECTORS]) {
  UNROLL for (int j = 4 * half; j < 4 * (half + n_halves); j++) {
    const ints w = weight_word(bits, quant_word(bits, weights, j));
    UNROLL for (int r = 0; r < rows; r++) dots[r][0] =
        dot(bits, dots[r][0], w, ints_word(x + CPU_BLOCK * r + 4 * j));
  }
}

#include "blocks_lanes.h"

#endif
