/* The float loops for AVX2 with FMA and F16C: what lanes.h asks for beside avx2.h. There are 16
 * registers, which a tile of 6 rows x 16 columns fills. The tables differ in their blocks alone. */
#include "avx2.h"
#include "transpose_avx.h"

INLINE void lanes_store_f16(uint16_t *to, lanes v) {
  _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

INLINE void lanes_sums(const lanes v[4], float out[4]) {
  const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

/* min and max return their second operand where one is NaN. */
INLINE lanes lanes_clamp(lanes v, float most) {
  return _mm256_max_ps(_mm256_set1_ps(-most), _mm256_min_ps(_mm256_set1_ps(most), v));
}

INLINE lanes lanes_round(lanes v) {
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE __m256 power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* In two halves, each of which is a normal number. */
INLINE lanes lanes_scale(lanes v, lanes n) {
  const __m256i whole = _mm256_cvtps_epi32(n), first = _mm256_srai_epi32(whole, 1);
  return v * power_of_two(first) * power_of_two(_mm256_sub_epi32(whole, first));
}

static void transpose8(const float *x, size_t stride, size_t n, float *out) {
  cpu_transpose8_avx(x, stride, n, out);
}

static double sum_squares(const float *x, size_t n) {
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(x + i));
    const __m256d b = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4));
    low = _mm256_fmadd_pd(a, a, low);
    high = _mm256_fmadd_pd(b, b, high);
  }
  double parts[4];
  _mm256_storeu_pd(parts, _mm256_add_pd(low, high));
  double sum = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  for (; i < n; i++)
    sum += (double)x[i] * (double)x[i];
  return sum;
}

#include "lanes.h"

const cpu_kernels cpu_kernels_avx2 = {.name = "avx2", .blocks = &cpu_blocks_avx2, KERNELS_TABLE};
const cpu_kernels cpu_kernels_avx2vnni = {
    .name = "avx2vnni", .blocks = &cpu_blocks_avx2vnni, KERNELS_TABLE};
const cpu_kernels cpu_kernels_avx2vnni_evex = {
    .name = "avx2vnni", .blocks = &cpu_blocks_avx2vnni_evex, KERNELS_TABLE};
