/* What lanes.h and blocks_lanes.h ask of AVX2 with FMA and F16C. */
#ifndef CPU_AVX2_H
#define CPU_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "formats.h"

typedef __m256 lanes;
#define N_LANES 8

/* As f16 an e4m3 number has 8 less in its exponent; what would be infinity is NaN. */
INLINE lanes widen_f8(__m128i bytes) {
  const __m128i bits = _mm_cvtepi8_epi16(bytes);
  const __m128i half = _mm_and_si128(_mm_slli_epi16(bits, 7), _mm_set1_epi16((short)0xbfff));
  const __m256i magnitude = _mm256_and_si256(_mm256_cvtepi8_epi32(bytes), _mm256_set1_epi32(0x7f));
  const __m256i nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
  const __m256 value = _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256));
  return _mm256_or_ps(value, _mm256_castsi256_ps(nan));
}

INLINE lanes load_lanes(const int format, const void *from, size_t i) {
  if (format == F32) return _mm256_loadu_ps((const float *)from + i);
  if (format >= F8) {
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)((const uint8_t *)from + i));
    return format == F8 ? widen_f8(bytes) : _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  }
  const __m128i half = _mm_loadu_si128((const __m128i *)((const uint16_t *)from + i));
  if (format == F16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE void lanes_store(float *to, lanes v) {
  _mm256_storeu_ps(to, v);
}

INLINE lanes lanes_set(float x) {
  return _mm256_set1_ps(x);
}

INLINE lanes lanes_fma(lanes a, lanes b, lanes c) {
  return _mm256_fmadd_ps(a, b, c);
}

/* ---- blocks ---- */

typedef __m256i ints;

INLINE ints ints_load(const char *from) {
  return _mm256_loadu_si256((const __m256i *)from);
}

INLINE ints ints_set8(int x) {
  return _mm256_set1_epi8((char)x);
}

INLINE ints ints_word(const char *from) {
  int32_t bits;
  memcpy(&bits, from, sizeof bits);
  return _mm256_set1_epi32(bits);
}

INLINE ints ints_shift(ints v, int left) {
  return left >= 0 ? _mm256_slli_epi16(v, left) : _mm256_srli_epi16(v, -left);
}

INLINE ints ints_nibble(ints v, int is_high) {
  return (is_high ? _mm256_srli_epi16(v, 4) : v) & ints_set8(15);
}

INLINE ints ints_byte(ints v, int k) {
  return _mm256_and_si256(_mm256_srli_epi32(v, 8 * k), _mm256_set1_epi32(255));
}

INLINE lanes lanes_of(ints v) {
  return _mm256_cvtepi32_ps(v);
}

INLINE lanes lanes_word(const char *from) {
  return _mm256_castsi256_ps(ints_word(from));
}

INLINE lanes lanes_bytes(const char *from, int is_signed) {
  const __m128i bytes = _mm_loadl_epi64((const __m128i *)from);
  return lanes_of(is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
}

#endif
