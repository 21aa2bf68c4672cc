/* AVX-512. A matmul tile keeps its 12 x 16 sums in registers. */
#include "kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "avx512.h"
#include "formats.h"
#include "transpose_avx.h"

/* As f16 an e4m3 number has 8 less in its exponent; what would be infinity is NaN. */
INLINE __m512 widen_f8(__m128i bytes) {
  const __m256i bits = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
  const __m256i half = _mm256_and_si256(bits, _mm256_set1_epi16((short)0xbfff));
  const __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256));
  const __m128i magnitude = _mm_and_si128(bytes, _mm_set1_epi8(0x7f));
  const __mmask16 nan = _mm_cmpeq_epi8_mask(magnitude, _mm_set1_epi8(0x7f));
  return _mm512_mask_mov_ps(value, nan, _mm512_set1_ps(NAN));
}

/* 16 elements from index i on; those not in the mask are zero. */
INLINE __m512 load16(const int format, const void *from, size_t i, __mmask16 mask) {
  if (format == F32) return _mm512_maskz_loadu_ps(mask, (const float *)from + i);
  if (format >= F8) {
    const __m128i bytes = _mm_maskz_loadu_epi8(mask, (const uint8_t *)from + i);
    return format == F8 ? widen_f8(bytes) : _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }
  const __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)from + i);
  if (format == F16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE __mmask16 tail_mask(size_t n) {
  return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

/* ---- matmul of floats ---- */

/* Even and odd elements have their own sums, which halves both the chains' length and the error. */
INLINE void float_rows(const int rows, const int format, const float *panel, const void *weights,
                       size_t n, float *out) {
  __m512 even[CPU_PANEL_ROWS], odd[CPU_PANEL_ROWS];
  UNROLL for (int r = 0; r < rows; r++) even[r] = odd[r] = _mm512_setzero_ps();
  size_t i = 0;
  for (; i + 2 <= n; i += 2, panel += 2 * rows) {
    const __m512 first = load16(format, weights, 16 * i, 0xffff);
    const __m512 second = load16(format, weights, 16 * i + 16, 0xffff);
    UNROLL for (int r = 0; r < rows; r++) {
      even[r] = _mm512_fmadd_ps(first, _mm512_set1_ps(panel[r]), even[r]);
      odd[r] = _mm512_fmadd_ps(second, _mm512_set1_ps(panel[rows + r]), odd[r]);
    }
  }
  if (i < n) {
    const __m512 last = load16(format, weights, 16 * i, 0xffff);
    UNROLL for (int r = 0; r < rows; r++) even[r] =
        _mm512_fmadd_ps(last, _mm512_set1_ps(panel[r]), even[r]);
  }
  UNROLL for (int r = 0; r < rows; r++) _mm512_storeu_ps(
      out + 16 * r, _mm512_add_ps(_mm512_loadu_ps(out + 16 * r), _mm512_add_ps(even[r], odd[r])));
}

INLINE void float_tile(const int format, uint32_t rows, const float *panel, const void *weights,
                       size_t n, float *out){
#define FLOAT_ROWS(constant) float_rows(constant, format, panel, weights, n, out)
    PANEL_CASES(FLOAT_ROWS)
#undef FLOAT_ROWS
}

/* ---- scores ---- */

/* The sums of four vectors as one. */
INLINE __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 low = _mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0));
  const __m512 high = _mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2));
  const __m512 abcd = _mm512_add_ps(low, high);
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

INLINE void score_step(const int rows, const int format, const float *const *x, const char *w,
                       size_t w_stride, size_t i, __mmask16 mask, __m512 sums[CPU_SCORE_ROWS][4]) {
  __m512 columns[4];
  UNROLL for (int c = 0; c < 4; c++) columns[c] = load16(format, w + c * w_stride, i, mask);
  UNROLL for (int r = 0; r < rows; r++) {
    const __m512 row = load16(F32, x[r], i, mask);
    UNROLL for (int c = 0; c < 4; c++) sums[r][c] = _mm512_fmadd_ps(row, columns[c], sums[r][c]);
  }
}

INLINE void score_rows(const int rows, const int format, const float *const *x, const void *w,
                       size_t w_stride, size_t n, float *out) {
  __m512 sums[CPU_SCORE_ROWS][4];
  const float *pointers[CPU_SCORE_ROWS];
  UNROLL for (int r = 0; r < rows; r++) {
    pointers[r] = x[r];
    UNROLL for (int c = 0; c < 4; c++) sums[r][c] = _mm512_setzero_ps();
  }
  size_t i = 0;
  for (; i + 16 <= n; i += 16)
    score_step(rows, format, pointers, w, w_stride, i, 0xffff, sums);
  if (i < n) score_step(rows, format, pointers, w, w_stride, i, tail_mask(n - i), sums);
  UNROLL for (int r = 0; r < rows; r++)
      _mm_storeu_ps(out + 4 * r, sum4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
}

INLINE void score_tile(const int format, uint32_t rows, const float *const *x, const void *w,
                       size_t w_stride, size_t n, float *out) {
  switch (rows) {
  case 1:
    score_rows(1, format, x, w, w_stride, n, out);
    break;
  case 2:
    score_rows(2, format, x, w, w_stride, n, out);
    break;
  case 3:
    score_rows(3, format, x, w, w_stride, n, out);
    break;
  case 4:
    score_rows(4, format, x, w, w_stride, n, out);
    break;
  case 5:
    score_rows(5, format, x, w, w_stride, n, out);
    break;
  default:
    score_rows(6, format, x, w, w_stride, n, out);
  }
}

/* ---- attention ---- */

/* Columns j to j + 16 * vectors of `rows` outputs; the mask bounds the last vector. */
INLINE void mix_columns(const int rows, const int vectors, const int format, const float *p,
                        size_t p_stride, size_t n_tokens, const char *v, size_t v_stride, size_t j,
                        __mmask16 mask, float *out, size_t out_stride) {
  __m512 sums[CPU_MIX_ROWS][4];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < vectors; k++) sums[r][k] =
      _mm512_maskz_loadu_ps(k == vectors - 1 ? mask : 0xffff, out + r * out_stride + j + 16 * k);
  for (size_t t = 0; t < n_tokens; t++) {
    __m512 row[4];
    UNROLL for (int k = 0; k < vectors; k++) row[k] =
        load16(format, v + t * v_stride, j + 16 * k, k == vectors - 1 ? mask : (__mmask16)0xffff);
    UNROLL for (int r = 0; r < rows; r++) {
      const __m512 weight = _mm512_set1_ps(p[r * p_stride + t]);
      UNROLL for (int k = 0; k < vectors; k++) sums[r][k] =
          _mm512_fmadd_ps(weight, row[k], sums[r][k]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < vectors; k++)
      _mm512_mask_storeu_ps(out + r * out_stride + j + 16 * k,
                            k == vectors - 1 ? mask : (__mmask16)0xffff, sums[r][k]);
}

INLINE void mix_rows(const int rows, const int format, const float *p, size_t p_stride,
                     size_t n_tokens, const void *v, size_t v_stride, size_t width, float *out,
                     size_t out_stride) {
  size_t j = 0;
  for (; j + 64 <= width; j += 64)
    mix_columns(rows, 4, format, p, p_stride, n_tokens, v, v_stride, j, 0xffff, out, out_stride);
  for (; j < width; j += 16)
    mix_columns(rows, 1, format, p, p_stride, n_tokens, v, v_stride, j, tail_mask(width - j), out,
                out_stride);
}

INLINE void mix_tile(const int format, uint32_t rows, const float *p, size_t p_stride,
                     size_t n_tokens, const void *v, size_t v_stride, size_t width, float *out,
                     size_t out_stride) {
  switch (rows) {
  case 1:
    mix_rows(1, format, p, p_stride, n_tokens, v, v_stride, width, out, out_stride);
    break;
  case 2:
    mix_rows(2, format, p, p_stride, n_tokens, v, v_stride, width, out, out_stride);
    break;
  case 3:
    mix_rows(3, format, p, p_stride, n_tokens, v, v_stride, width, out, out_stride);
    break;
  default:
    mix_rows(4, format, p, p_stride, n_tokens, v, v_stride, width, out, out_stride);
  }
}

/* ---- formats ---- */

INLINE void to_f32(const int format, float *out, const void *x, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    _mm512_mask_storeu_ps(out + i, mask, load16(format, x, i, mask));
  }
}

/* As cs_bf16_from_f32: half of the last place is added, and one when the last bit kept is set. */
INLINE __m256i bf16_of(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i top = _mm512_srli_epi32(bits, 16);
  const __m512i last = _mm512_and_si512(top, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(
      _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i half =
      _mm512_mask_or_epi32(rounded, nan, top, _mm512_set1_epi32(0x40)); /* quiet NaN */
  return _mm512_cvtepi32_epi16(half);
}

INLINE void from_f32(const int format, void *out, const float *x, size_t n) {
  size_t i = 0;
  for (; format != F8 && i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
    _mm256_mask_storeu_epi16((uint16_t *)out + i, mask,
                             format == F16 ? _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT)
                                           : bf16_of(value));
  }
  store_rest(format, out, x, i, n);
}

/* ---- rows ---- */

/* exp by 2^n * exp(r), |r| <= ln(2) / 2, with the Taylor polynomial of degree 7: relative error
 * below 2e-7. Clamping keeps infinities away from the reduction; NaN passes. */
INLINE __m512 exp16(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-150), _mm512_min_ps(_mm512_set1_ps(150), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
  __m512 sum = _mm512_set1_ps(1.0f / 5040);
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 720));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 120));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 24));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 6));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.5f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1));
  return _mm512_scalef_ps(sum, n);
}

static float exp_sum(float *x, size_t n, float shift) {
  __m512 sum = _mm512_setzero_ps();
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 shifted = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(shift));
    const __m512 y = exp16(shifted);
    _mm512_mask_storeu_ps(x + i, mask, y);
    sum = _mm512_mask_add_ps(sum, mask, sum, y);
  }
  return _mm512_reduce_add_ps(sum);
}

static void transpose8(const float *x, size_t stride, size_t n, float *out) {
  cpu_transpose8_avx(x, stride, n, out);
}

static void silu_mul(float *out, const float *gate, const float *up, size_t n) {
  const __m512 one = _mm512_set1_ps(1);
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
    const __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), g));
    const __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
    _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i)));
  }
}

static void add(float *out, const float *a, const float *b, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    _mm512_mask_storeu_ps(
        out + i, mask,
        _mm512_add_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i)));
  }
}

static double sum_squares(const float *x, size_t n) {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
  for (size_t i = 0; i < n; i += 16) {
    const __m512 value = _mm512_maskz_loadu_ps(tail_mask(n - i), x + i);
    const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(value));
    const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1));
    low = _mm512_fmadd_pd(a, a, low);
    high = _mm512_fmadd_pd(b, b, high);
  }
  return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}

static void scale_mul(float *out, const float *x, float scale, const float *weight, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(scale));
    _mm512_mask_storeu_ps(out + i, mask,
                          _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, weight + i)));
  }
}

#include "kernels_table.h"

const cpu_kernels cpu_kernels_avx512 = {.name = "avx512",
                                        .blocks = &cpu_blocks_avx512,
                                        .bf16_tile = {cpu_bf16_tile_f16, cpu_bf16_tile_bf16},
                                        .bf16_attention = &cpu_bf16_attention,
                                        KERNELS_TABLE};
