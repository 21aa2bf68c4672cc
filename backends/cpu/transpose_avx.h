/* Turning 8 rows of floats, for both tables that have AVX. */
#ifndef CPU_TRANSPOSE_AVX_H
#define CPU_TRANSPOSE_AVX_H

#include <immintrin.h>
#include <stddef.h>

/* See cpu_kernels.transpose8. */
static inline void cpu_transpose8_avx(const float *x, size_t stride, size_t n, float *out) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 rows[8], pairs[8], fours[8];
    for (int r = 0; r < 8; r++)
      rows[r] = _mm256_loadu_ps(x + (size_t)r * stride + i);
    for (int r = 0; r < 8; r += 2) {
      pairs[r] = _mm256_unpacklo_ps(rows[r], rows[r + 1]);
      pairs[r + 1] = _mm256_unpackhi_ps(rows[r], rows[r + 1]);
    }
    for (int r = 0; r < 8; r += 4)
      for (int k = 0; k < 2; k++) {
        fours[r + 2 * k] = _mm256_shuffle_ps(pairs[r + k], pairs[r + 2 + k], 0x44);
        fours[r + 2 * k + 1] = _mm256_shuffle_ps(pairs[r + k], pairs[r + 2 + k], 0xee);
      }
    for (int r = 0; r < 4; r++) {
      _mm256_storeu_ps(out + (i + (size_t)r) * 8,
                       _mm256_permute2f128_ps(fours[r], fours[r + 4], 0x20));
      _mm256_storeu_ps(out + (i + (size_t)r + 4) * 8,
                       _mm256_permute2f128_ps(fours[r], fours[r + 4], 0x31));
    }
  }
  for (; i < n; i++)
    for (size_t r = 0; r < 8; r++)
      out[i * 8 + r] = x[r * stride + i];
}

#endif
