/* AVX2 with FMA and F16C. There are 16 registers, so matmul tiles go 6 rows x 16 columns (floats)
 * or 3 rows x 8 columns (blocks) at a time. vpmaddubsw multiplies unsigned by signed and saturates
 * at 16 bits: for 8-bit weights the sign moves from weight to activation, |w| * (x * sign(w)),
 * whose pairs stay within 2 * 128 * 127; nibbles are small enough as they are. */
#include "kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "consort/half.h"

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

/* ---- block tiles ---- */

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
                         int32_t offset, void *panel) {
  const __m256 sign = _mm256_set1_ps(-0.0f), infinity = _mm256_set1_ps(INFINITY);
  char *block = panel;
  for (size_t b = 0; b < n_blocks; b++, x += CPU_BLOCK, block += CPU_PANEL_BLOCK_BYTES(rows)) {
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
    const __m256i sum =
        _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    /* packing works on halves: the permutation restores the order */
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256(
        (__m256i *)(block + (size_t)row * CPU_BLOCK),
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    const int32_t start = is_broken ? 0 : -offset * sum8(sum);
    memcpy(block + (size_t)rows * CPU_BLOCK + row * sizeof scale, &scale, sizeof scale);
    memcpy(block + (size_t)rows * (CPU_BLOCK + 4) + row * sizeof start, &start, sizeof start);
  }
}

INLINE __m256i word(const char *from) {
  int32_t bits;
  memcpy(&bits, from, sizeof bits);
  return _mm256_set1_epi32(bits);
}

/* The first of `rows` is row `first` of a panel of panel_rows; columns 8 * half to 8 * half + 7. */
INLINE void block_rows(const int rows, const int nibbles, uint32_t first, uint32_t panel_rows,
                       int half, const void *panel, const void *quants, const uint16_t *scales,
                       size_t n_blocks, float *out) {
  const __m256i ones = _mm256_set1_epi16(1), low_bits = _mm256_set1_epi8(15);
  const __m256i flip = _mm256_set1_epi8((char)0x80);
  __m256 sums[3];
  UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm256_setzero_ps();
  const char *block = panel, *weights = (const char *)quants + 32 * half;
  for (size_t b = 0; b < n_blocks; b++) {
    const char *x = block + first * CPU_BLOCK;
    const char *x_scales = block + panel_rows * CPU_BLOCK + 4 * first;
    const char *starts = x_scales + 4 * panel_rows;
    __m256i dots[3];
    UNROLL for (int r = 0; r < rows; r++) dots[r] = word(starts + 4 * r);
    for (int j = 0; j < (nibbles ? 4 : 8); j++) {
      const __m256i loaded = _mm256_loadu_si256((const __m256i *)(weights + 64 * j));
      if (nibbles) {
        const __m256i low = _mm256_and_si256(loaded, low_bits);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(loaded, 4), low_bits);
        UNROLL for (int r = 0; r < rows; r++) {
          const char *at = x + CPU_BLOCK * r + 4 * j;
          const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, word(at)),
                                                 _mm256_maddubs_epi16(high, word(at + 16)));
          dots[r] = _mm256_add_epi32(dots[r], _mm256_madd_epi16(pairs, ones));
        }
      } else {
        const __m256i w = _mm256_xor_si256(loaded, flip), magnitude = _mm256_abs_epi8(w);
        UNROLL for (int r = 0; r < rows; r++) {
          const __m256i turned = _mm256_sign_epi8(word(x + CPU_BLOCK * r + 4 * j), w);
          dots[r] = _mm256_add_epi32(
              dots[r], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, turned), ones));
        }
      }
    }
    const __m256 w_scales = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scales + 8 * half)));
    UNROLL for (int r = 0; r < rows; r++) {
      float x_scale;
      memcpy(&x_scale, x_scales + 4 * r, sizeof x_scale);
      const __m256 scale = _mm256_mul_ps(w_scales, _mm256_set1_ps(x_scale));
      sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), scale, sums[r]);
    }
    block += CPU_PANEL_BLOCK_BYTES(panel_rows);
    weights += nibbles ? 256 : 512;
    scales += CPU_PANEL_COLUMNS;
  }
  UNROLL for (int r = 0; r < rows; r++)
      _mm256_storeu_ps(out + CPU_PANEL_COLUMNS * (first + r) + 8 * half, sums[r]);
}

INLINE void block_tile(const int nibbles, uint32_t rows, const void *panel, const void *quants,
                       const uint16_t *scales, size_t n_blocks, float *out) {
  for (int half = 0; half < 2; half++) {
    uint32_t r = 0;
    for (; r + 3 <= rows; r += 3)
      block_rows(3, nibbles, r, rows, half, panel, quants, scales, n_blocks, out);
    if (rows - r == 2) block_rows(2, nibbles, r, rows, half, panel, quants, scales, n_blocks, out);
    if (rows - r == 1) block_rows(1, nibbles, r, rows, half, panel, quants, scales, n_blocks, out);
  }
}

static void q8_tile(uint32_t rows, const void *panel, const void *quants, const uint16_t *scales,
                    size_t n_blocks, float *out) {
  block_tile(0, rows, panel, quants, scales, n_blocks, out);
}

static void q4_tile(uint32_t rows, const void *panel, const void *quants, const uint16_t *scales,
                    size_t n_blocks, float *out) {
  block_tile(1, rows, panel, quants, scales, n_blocks, out);
}

/* Values of four elements of 8 columns, whose quants are the bytes of the words in q. */
INLINE void word_floats(__m256i q, int32_t zero, __m256 scale, float *out) {
  UNROLL for (int k = 0; k < 4; k++) {
    const __m256i byte = _mm256_and_si256(_mm256_srli_epi32(q, 8 * k), _mm256_set1_epi32(255));
    const __m256i value = _mm256_sub_epi32(byte, _mm256_set1_epi32(zero));
    _mm256_storeu_ps(out + CPU_PANEL_COLUMNS * k, _mm256_mul_ps(_mm256_cvtepi32_ps(value), scale));
  }
}

INLINE __m256 half_scales(const uint16_t *scales, int half) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scales + 8 * half)));
}

static void q8_floats(const void *quants, const uint16_t *scales, size_t n_blocks, float *out) {
  const char *weights = quants;
  for (size_t b = 0; b < n_blocks; b++, scales += CPU_PANEL_COLUMNS)
    for (int j = 0; j < 8; j++, weights += 64, out += 4 * CPU_PANEL_COLUMNS)
      for (int half = 0; half < 2; half++)
        word_floats(_mm256_loadu_si256((const __m256i *)(weights + 32 * half)), 128,
                    half_scales(scales, half), out + 8 * half);
}

static void q4_floats(const void *quants, const uint16_t *scales, size_t n_blocks, float *out) {
  const __m256i low_bits = _mm256_set1_epi8(15);
  const char *weights = quants;
  for (size_t b = 0; b < n_blocks; b++, scales += CPU_PANEL_COLUMNS) {
    for (int j = 0; j < 4; j++, weights += 64, out += 4 * CPU_PANEL_COLUMNS)
      for (int half = 0; half < 2; half++) {
        const __m256i loaded = _mm256_loadu_si256((const __m256i *)(weights + 32 * half));
        const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(loaded, 4), low_bits);
        const __m256 scale = half_scales(scales, half);
        word_floats(_mm256_and_si256(loaded, low_bits), 8, scale, out + 8 * half);
        word_floats(upper, 8, scale, out + 8 * half + 16 * CPU_PANEL_COLUMNS);
      }
    out += 16 * CPU_PANEL_COLUMNS;
  }
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

static float exp_sum(float *x, size_t n, float shift) {
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
    .q8_offset = 0,
    .q4_offset = 8,
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
