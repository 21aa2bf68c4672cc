/* Products of bf16 pairs with AVX512-BF16: twice the float rate. Weights keep their layout, in
 * which two neighbouring elements of 16 columns are 64 bytes; one permutation, shared by all rows
 * of the tile, brings the two elements of a column side by side. f16 weights are rounded to bf16
 * first. */
#include <immintrin.h>

#include "avx512.h"
#include "kernels.h"

/* Elements 2i and 2i + 1 of column c become halves of lane c. */
INLINE __m512i pairs_of(const int is_f16, const uint16_t *weights, __m512i order) {
  if (!is_f16) return _mm512_permutexvar_epi16(order, _mm512_loadu_si512(weights));
  const __m512 first = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)weights));
  const __m512 second = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(weights + 16)));
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

INLINE void half_rows(const int rows, const int is_f16, const uint32_t *panel,
                      const uint16_t *weights, size_t n_pairs, float *out) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512 sums[CPU_PANEL_ROWS];
  UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm512_loadu_ps(out + CPU_PANEL_COLUMNS * r);
  for (size_t i = 0; i < n_pairs; i++, panel += rows, weights += 2 * CPU_PANEL_COLUMNS) {
    const __m512bh w = (__m512bh)pairs_of(is_f16, weights, order);
    UNROLL for (int r = 0; r < rows; r++) sums[r] =
        _mm512_dpbf16_ps(sums[r], w, (__m512bh)_mm512_set1_epi32((int)panel[r]));
  }
  UNROLL for (int r = 0; r < rows; r++) _mm512_storeu_ps(out + CPU_PANEL_COLUMNS * r, sums[r]);
}

#define HALF_ROWS(constant) half_rows(constant, is_f16, panel, weights, n_pairs, out)
INLINE void half_tile(const int is_f16, uint32_t rows, const uint32_t *panel,
                      const uint16_t *weights, size_t n_pairs, float *out) {
  PANEL_CASES(HALF_ROWS)
}
#undef HALF_ROWS

#include "bf16_table.h"
