/* AVX2 with FMA and F16C. There are 16 registers, so matmul tiles go 6 rows x 16 columns (floats)
 * or 3 rows x 8 columns (blocks) at a time. vpmaddubsw multiplies unsigned by signed and saturates
 * at 16 bits: for 8-bit weights the sign moves from weight to activation, |w| * (x * sign(w)),
 * whose pairs stay within 2 * 128 * 127; nibbles are small enough as they are. */
#include "kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "consort/half.h"
#include "soften.h"
#include "transpose_avx.h"
#include "word_sum.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { F32, F16, BF16 };

INLINE __m256 load8(const int format, const void *from, size_t i) {
  if (format == F32) return _mm256_loadu_ps((const float *)from + i);
  const __m128i half = _mm_loadu_si128((const __m128i *)((const uint16_t *)from + i));
  if (format == F16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE float load1(const int format, const void *from, size_t i) {
  if (format == F32) return ((const float *)from)[i];
  const uint16_t half = ((const uint16_t *)from)[i];
  return format == F16 ? _cvtsh_ss(half) : cs_f32_from_bf16(half);
}

/* ---- matmul of floats ---- */

/* The first of `rows` is row 0 of what panel points at; elements lie panel_rows apart. */
INLINE void float_rows(const int rows, const int format, uint32_t panel_rows, const float *panel,
                       const void *weights, size_t n, float *out) {
  __m256 low[6], high[6];
  UNROLL for (int r = 0; r < rows; r++) low[r] = high[r] = _mm256_setzero_ps();
  for (size_t i = 0; i < n; i++, panel += panel_rows) {
    const __m256 w_low = load8(format, weights, 16 * i),
                 w_high = load8(format, weights, 16 * i + 8);
    UNROLL for (int r = 0; r < rows; r++) {
      const __m256 x = _mm256_set1_ps(panel[r]);
      low[r] = _mm256_fmadd_ps(x, w_low, low[r]);
      high[r] = _mm256_fmadd_ps(x, w_high, high[r]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    float *at = out + CPU_PANEL_COLUMNS * r;
    _mm256_storeu_ps(at, _mm256_add_ps(_mm256_loadu_ps(at), low[r]));
    _mm256_storeu_ps(at + 8, _mm256_add_ps(_mm256_loadu_ps(at + 8), high[r]));
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

/* The sums of four vectors as one. */
INLINE __m128 sum4(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

INLINE void score_rows(const int rows, const int format, const float *const *x, const void *w,
                       size_t w_stride, size_t n, float *out) {
  __m256 sums[3][4];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < 4; c++) sums[r][c] =
      _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 row[3];
    UNROLL for (int r = 0; r < rows; r++) row[r] = _mm256_loadu_ps(x[r] + i);
    UNROLL for (int c = 0; c < 4; c++) {
      const __m256 column = load8(format, (const char *)w + c * w_stride, i);
      UNROLL for (int r = 0; r < rows; r++) sums[r][c] =
          _mm256_fmadd_ps(row[r], column, sums[r][c]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
      _mm_storeu_ps(out + 4 * r, sum4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
  for (; i < n; i++)
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < 4; c++)
        out[4 * r + c] += x[r][i] * load1(format, (const char *)w + c * w_stride, i);
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
  for (; j + 16 <= width; j += 16) {
    __m256 sums[CPU_MIX_ROWS][2];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < 2; k++) sums[r][k] =
        _mm256_loadu_ps(out + r * out_stride + j + 8 * k);
    for (size_t t = 0; t < n_tokens; t++) {
      const char *row = (const char *)v + t * v_stride;
      const __m256 low = load8(format, row, j), high = load8(format, row, j + 8);
      UNROLL for (int r = 0; r < rows; r++) {
        const __m256 weight = _mm256_set1_ps(p[r * p_stride + t]);
        sums[r][0] = _mm256_fmadd_ps(weight, low, sums[r][0]);
        sums[r][1] = _mm256_fmadd_ps(weight, high, sums[r][1]);
      }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int k = 0; k < 2; k++)
        _mm256_storeu_ps(out + r * out_stride + j + 8 * k, sums[r][k]);
  }
  for (; j < width; j++)
    for (int r = 0; r < rows; r++)
      for (size_t t = 0; t < n_tokens; t++)
        out[r * out_stride + j] +=
            p[r * p_stride + t] * load1(format, (const char *)v + t * v_stride, j);
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

#define FLOAT_KERNELS(name, format)                                                                \
  static void float_tile_##name(uint32_t rows, const float *panel, const void *weights, size_t n,  \
                                float *out) {                                                      \
    float_tile(format, rows, panel, weights, n, out);                                              \
  }                                                                                                \
  static void score_tile_##name(uint32_t rows, const float *const *x, const void *w,               \
                                size_t w_stride, size_t n, float *out) {                           \
    score_tile(format, rows, x, w, w_stride, n, out);                                              \
  }                                                                                                \
  static void mix_tile_##name(uint32_t rows, const float *p, size_t p_stride, size_t n_tokens,     \
                              const void *v, size_t v_stride, size_t width, float *out,            \
                              size_t out_stride) {                                                 \
    mix_tile(format, rows, p, p_stride, n_tokens, v, v_stride, width, out, out_stride);            \
  }                                                                                                \
  static void to_f32_##name(float *out, const void *x, size_t n) {                                 \
    size_t i = 0;                                                                                  \
    for (; i + 8 <= n; i += 8)                                                                     \
      _mm256_storeu_ps(out + i, load8(format, x, i));                                              \
    for (; i < n; i++)                                                                             \
      out[i] = load1(format, x, i);                                                                \
  }

FLOAT_KERNELS(f32, F32)
FLOAT_KERNELS(f16, F16)
FLOAT_KERNELS(bf16, BF16)

static void from_f32_f32(void *out, const float *x, size_t n) {
  memmove(out, x, n * sizeof *x);
}

static void from_f32_f16(void *out, const float *x, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i *)((uint16_t *)out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; i++)
    ((uint16_t *)out)[i] = cs_f16_from_f32(x[i]);
}

static void from_f32_bf16(void *out, const float *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    ((uint16_t *)out)[i] = cs_bf16_from_f32(x[i]);
}

/* ---- rows ---- */

INLINE __m256 power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* As in the AVX-512 table; 2^n is applied in two halves, each of which is a normal number. */
INLINE __m256 exp8(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(-150), _mm256_min_ps(_mm256_set1_ps(150), x));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
  __m256 sum = _mm256_set1_ps(1.0f / 5040);
  sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 720));
  sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 120));
  sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 24));
  sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 6));
  sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(0.5f));
  sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1));
  sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1));
  const __m256i whole = _mm256_cvtps_epi32(n), first = _mm256_srai_epi32(whole, 1);
  sum = _mm256_mul_ps(sum, power_of_two(first));
  return _mm256_mul_ps(sum, power_of_two(_mm256_sub_epi32(whole, first)));
}

/* Kept whole: GCC 12 warns of the rest's loop where it is copied for a constant n without a rest.
 */
static __attribute__((noinline)) float exp_sum(float *x, size_t n, float shift) {
  __m256 sums = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 y = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(shift)));
    _mm256_storeu_ps(x + i, y);
    sums = _mm256_add_ps(sums, y);
  }
  float sum = _mm_cvtss_f32(sum4(sums, sums, sums, sums));
  for (; i < n; i++) {
    x[i] = expf(x[i] - shift);
    sum += x[i];
  }
  return sum;
}

static void transpose8(const float *x, size_t stride, size_t n, float *out) {
  cpu_transpose8_avx(x, stride, n, out);
}

static void soften(float *scores, size_t n, float *largest, float *total, float *shrink) {
  cpu_soften(scores, n, largest, total, shrink, exp_sum);
}

static uint64_t word_sum(const unsigned char *bytes, uint64_t first, size_t n) {
  return cpu_word_sum(bytes, first, n);
}

static void silu_mul(float *out, const float *gate, const float *up, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 g = _mm256_loadu_ps(gate + i);
    const __m256 e = exp8(_mm256_sub_ps(_mm256_setzero_ps(), g));
    const __m256 silu = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1), e));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(silu, _mm256_loadu_ps(up + i)));
  }
  for (; i < n; i++)
    out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void add(float *out, const float *a, const float *b, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
  for (; i < n; i++)
    out[i] = a[i] + b[i];
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

static void scale_mul(float *out, const float *x, float scale, const float *weight, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i,
                     _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale)),
                                   _mm256_loadu_ps(weight + i)));
  for (; i < n; i++)
    out[i] = x[i] * scale * weight[i];
}

const cpu_kernels cpu_kernels_avx2 = {
    .name = "avx2",
    .blocks = &cpu_blocks_avx2,
    .float_tile = {float_tile_f32, float_tile_f16, float_tile_bf16},
    .score_tile = {score_tile_f32, score_tile_f16, score_tile_bf16},
    .mix_tile = {mix_tile_f32, mix_tile_f16, mix_tile_bf16},
    .transpose8 = transpose8,
    .soften = soften,
    .word_sum = word_sum,
    .exp_sum = exp_sum,
    .silu_mul = silu_mul,
    .add = add,
    .sum_squares = sum_squares,
    .scale_mul = scale_mul,
    .to_f32 = {to_f32_f32, to_f32_f16, to_f32_bf16},
    .from_f32 = {from_f32_f32, from_f32_f16, from_f32_bf16},
};
