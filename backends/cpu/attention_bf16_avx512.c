/* Attention of many queries in products of bf16 pairs, twice the float rate. Queries, weights and V
 * are rounded to bf16; K is not: where it is not bf16 already, a key is the sum of its upper 8 bits
 * of significand and of the rest. Rounding K, too, costs more than the error class allows once
 * scores spread by 2 (NMSE 3.3e-5 over 4,096 keys with F16 caches, 1.5e-5 without). The rest adds
 * less than 1 / 128 of a product, so that 8 bits of it, and of the query that it meets, are enough:
 * vpdpbusd takes four of them where vdpbf16ps takes two. Scores, sums and the softmax are float32.
 *
 * Everything is in words of two neighbouring elements, or of four bytes: of a key's width for
 * scores, of keys for V. Sixteen keys, or sixteen columns of V, are broadcast to the lanes of a
 * group of queries. vpdpbusd wants one side unsigned, which the bytes of queries are, by an offset
 * of 128; sums start at what that adds, negated. */
#include <immintrin.h>
#include <math.h>

#include "avx512.h"
#include "kernels.h"

#define ROWS 16 /* of a panel: keys, or columns of V */
#define HALF_PAIRS                                                                                 \
  _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, \
                   5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0)

INLINE __mmask16 first_lanes(size_t n) {
  return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

INLINE size_t words_of(size_t width) {
  return (width + 1) / 2;
}

INLINE size_t fours_of(size_t width) {
  return (width + 3) / 4;
}

/* Words of a panel of keys, each 16 wide: pairs, and of what they leave bytes, scales, starts. */
INLINE size_t key_words(size_t width) {
  return words_of(width) + fours_of(width) + 2;
}

/* ---- packing ---- */

/* Lane c of out[r] <- lane r of in[c]. */
INLINE void transpose16(const __m512i in[16], __m512i out[16]) {
  __m512i pairs[16], fours[16], eights[16];
  UNROLL for (int r = 0; r < 16; r += 2) {
    pairs[r] = _mm512_unpacklo_epi32(in[r], in[r + 1]);
    pairs[r + 1] = _mm512_unpackhi_epi32(in[r], in[r + 1]);
  }
  UNROLL for (int r = 0; r < 16; r += 4) UNROLL for (int k = 0; k < 2; k++) {
    fours[r + 2 * k] = _mm512_unpacklo_epi64(pairs[r + k], pairs[r + 2 + k]);
    fours[r + 2 * k + 1] = _mm512_unpackhi_epi64(pairs[r + k], pairs[r + 2 + k]);
  }
  /* 128-bit quarter i of fours[4g + k] holds word 4i + k of rows 4g to 4g + 3 */
  UNROLL for (int k = 0; k < 4; k++) {
    eights[k] = _mm512_shuffle_i32x4(fours[k], fours[4 + k], 0x88);
    eights[4 + k] = _mm512_shuffle_i32x4(fours[k], fours[4 + k], 0xdd);
    eights[8 + k] = _mm512_shuffle_i32x4(fours[8 + k], fours[12 + k], 0x88);
    eights[12 + k] = _mm512_shuffle_i32x4(fours[8 + k], fours[12 + k], 0xdd);
  }
  UNROLL for (int k = 0; k < 4; k++) {
    out[k] = _mm512_shuffle_i32x4(eights[k], eights[8 + k], 0x88);
    out[8 + k] = _mm512_shuffle_i32x4(eights[k], eights[8 + k], 0xdd);
    out[4 + k] = _mm512_shuffle_i32x4(eights[4 + k], eights[12 + k], 0x88);
    out[12 + k] = _mm512_shuffle_i32x4(eights[4 + k], eights[12 + k], 0xdd);
  }
}

/* Words i to i + 15 of 16 rows, `left` elements from i on; word j of row r to out[j * 16 + r]. */
INLINE void store_words(const __m512i rows[16], size_t left, uint32_t *out) {
  __m512i words[16];
  transpose16(rows, words);
  const size_t n = words_of(left) < 16 ? words_of(left) : 16;
  for (size_t j = 0; j < n; j++)
    _mm512_storeu_si512(out + j * 16, words[j]);
}

INLINE __m512 upper_half(__m512 x) {
  return _mm512_and_ps(x, _mm512_castsi512_ps(_mm512_set1_epi32((int)0xffff0000)));
}

/* What the upper halves leave; of infinities and NaN nothing. */
INLINE __m512 rest_of(__m512 x) {
  const int not_finite = 0x99; /* both NaN, both infinities */
  return _mm512_maskz_sub_ps((__mmask16)~_mm512_fpclass_ps_mask(x, not_finite), x, upper_half(x));
}

/* 16 numbers of a row, `left` elements before its end; of_rest: what their upper halves leave. */
INLINE __m512 load_numbers(const int of_rest, const float *from, size_t left) {
  const __m512 x = _mm512_maskz_loadu_ps(first_lanes(left), from);
  return of_rest ? rest_of(x) : x;
}

/* What a byte of a row counts; 0: the row's bytes are zero. */
INLINE float byte_scale(const int of_rest, const float *row, size_t width) {
  __m512 largest = _mm512_setzero_ps();
  for (size_t i = 0; i < width; i += 16)
    largest = _mm512_max_ps(largest, _mm512_abs_ps(load_numbers(of_rest, row + i, width - i)));
  const float top = _mm512_reduce_max_ps(largest);
  return top > 0x1p-100f && top < INFINITY ? top / 127 : 0;
}

/* 64 elements of a row, `left` before its end. */
INLINE __m512i bytes_of(const int of_rest, const float *from, size_t left, float scale) {
  const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1 / scale : 0);
  __m128i quarters[4];
  UNROLL for (size_t k = 0; k < 4; k++) {
    const __m512 x =
        left > 16 * k ? load_numbers(of_rest, from + 16 * k, left - 16 * k) : _mm512_setzero_ps();
    quarters[k] = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)));
  }
  const __m256i low = _mm256_set_m128i(quarters[1], quarters[0]);
  const __m256i high = _mm256_set_m128i(quarters[3], quarters[2]);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* Rows (n, width), n <= 16, as bytes, four a word: (fours, 16), then 16 scales, then, of the rest
 * of keys, where the sums with a query's bytes start; the bytes of queries have the offset. */
INLINE void pack_bytes(const int of_rest, const float *rows, size_t n, size_t width,
                       uint32_t *out) {
  float scales[16];
  __m512i sums = _mm512_setzero_si512();
  for (size_t r = 0; r < 16; r++)
    scales[r] = r < n ? byte_scale(of_rest, rows + r * width, width) : 0;
  for (size_t i = 0; i < width; i += 64) {
    __m512i bytes[16], words[16];
    for (size_t r = 0; r < 16; r++)
      bytes[r] = r < n ? bytes_of(of_rest, rows + r * width + i, width - i, scales[r])
                       : _mm512_setzero_si512();
    transpose16(bytes, words);
    const size_t left = fours_of(width - i), n_words = left < 16 ? left : 16;
    for (size_t j = 0; j < n_words; j++, out += 16) {
      sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), words[j]);
      const __m512i moved = _mm512_xor_si512(words[j], _mm512_set1_epi8((char)0x80));
      _mm512_storeu_si512(out, of_rest ? words[j] : moved);
    }
  }
  _mm512_storeu_ps(out, _mm512_loadu_ps(scales));
  if (!of_rest) return;
  const __m512i starts = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), sums), 7);
  _mm512_storeu_si512(out + 16, starts);
}

/* Rows (n, width), n <= 16, as pairs: (words, 16). `whole`: rounded; else their upper halves. */
INLINE void pack_pairs(const int whole, const float *rows, size_t n, size_t width, uint32_t *out) {
  for (size_t i = 0; i < width; i += 32) {
    __m512i words[16];
    for (size_t r = 0; r < 16; r++) {
      const float *row = rows + r * width + i;
      const __mmask16 mask_a = r < n ? first_lanes(width - i) : 0;
      const __mmask16 mask_b = r < n && width - i > 16 ? first_lanes(width - i - 16) : 0;
      const __m512 a = _mm512_maskz_loadu_ps(mask_a, row);
      const __m512 b = _mm512_maskz_loadu_ps(mask_b, row + 16);
      words[r] = whole ? (__m512i)_mm512_cvtne2ps_pbh(b, a)
                       : (__m512i)_mm512_cvtne2ps_pbh(upper_half(b), upper_half(a));
    }
    store_words(words, width - i, out + i / 2 * 16);
  }
}

/* (words, 16) pairs and, unless keys are exact, (fours, 16) bytes, 16 scales of these. */
static void pack_queries(const float *rows, size_t n, size_t width, bool exact, float *out) {
  uint32_t *to = (uint32_t *)(void *)out;
  pack_pairs(1, rows, n, width, to);
  if (!exact) pack_bytes(0, rows, n, width, to + words_of(width) * 16);
}

/* A panel of 16 keys is (words, 16) pairs and, unless these are exact, what pack_bytes makes of the
 * rest. */
static void pack_keys(const cpu_kernels *kernels, const float *rows, size_t n, size_t width,
                      bool exact, float *out) {
  (void)kernels;
  uint32_t *to = (uint32_t *)(void *)out;
  for (size_t t = 0; t < n; t += ROWS, rows += ROWS * width, to += ROWS * key_words(width)) {
    if (exact) {
      pack_pairs(1, rows, ROWS, width, to);
      continue;
    }
    pack_pairs(0, rows, ROWS, width, to);
    pack_bytes(1, rows, ROWS, width, to + words_of(width) * ROWS);
  }
}

/* A panel of 16 columns is (CPU_FORM_TILE / 2, 16). */
static void pack_values(const float *rows, size_t n, size_t width, float *out) {
  uint32_t *to = (uint32_t *)(void *)out;
  const __m512i order = HALF_PAIRS;
  for (size_t j = 0; j < width; j += ROWS, to += CPU_FORM_TILE / 2 * ROWS) {
    const __mmask16 mask = first_lanes(width - j);
    for (size_t t = 0; t < n; t += 2) {
      const __m512 first = _mm512_maskz_loadu_ps(mask, rows + t * width + j);
      const __m512 second = _mm512_maskz_loadu_ps(mask, rows + (t + 1) * width + j);
      _mm512_storeu_si512(
          to + t / 2 * ROWS,
          _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first)));
    }
  }
}

/* ---- scores ---- */

INLINE __m512 dot(__m512 sum, __m512i a, uint32_t b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)_mm512_set1_epi32((int)b));
}

/* What the rest of the first `rows` keys of a panel adds. */
INLINE void score_rest(const int rows, const uint32_t *q, const uint32_t *keys, size_t n_fours,
                       __m512 sums[ROWS]) {
  const uint32_t *scales = keys + n_fours * ROWS, *starts = scales + ROWS;
  const __m512 q_scales = _mm512_loadu_ps(q + n_fours * 16);
  __m512i dots[ROWS];
  UNROLL for (int r = 0; r < rows; r++) dots[r] = _mm512_set1_epi32((int)starts[r]);
  for (size_t i = 0; i < n_fours; i++, q += 16, keys += ROWS) {
    const __m512i four = _mm512_loadu_si512(q);
    UNROLL for (int r = 0; r < rows; r++) dots[r] =
        _mm512_dpbusd_epi32(dots[r], four, _mm512_set1_epi32((int)keys[r]));
  }
  UNROLL for (int r = 0; r < rows; r++) {
    const __m512 scale = _mm512_castsi512_ps(_mm512_set1_epi32((int)scales[r]));
    sums[r] = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[r]), _mm512_mul_ps(q_scales, scale));
  }
}

/* The first `rows` keys of a panel. */
INLINE void score_panel(const int rows, const int exact, const uint32_t *q, const uint32_t *keys,
                        size_t width, float *scores) {
  const size_t n_words = words_of(width);
  __m512 sums[ROWS];
  if (exact)
    UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
  else
    score_rest(rows, q + n_words * 16, keys + n_words * ROWS, fours_of(width), sums);
  for (size_t i = 0; i < n_words; i++, q += 16, keys += ROWS) {
    const __m512i pair = _mm512_loadu_si512(q);
    UNROLL for (int r = 0; r < rows; r++) sums[r] = dot(sums[r], pair, keys[r]);
  }
  UNROLL for (int r = 0; r < rows; r++) _mm512_storeu_ps(scores + 16 * r, sums[r]);
}

INLINE void score_panels(const int exact, const uint32_t *q, const uint32_t *keys, size_t n,
                         size_t width, float *scores) {
  size_t t = 0;
  for (; t + ROWS <= n; t += ROWS, keys += ROWS * key_words(width))
    score_panel(ROWS, exact, q, keys, width, scores + t * 16);
  if (t < n) score_panel(CPU_FORM_KEYS, exact, q, keys, width, scores + t * 16);
}

static void score(const cpu_kernels *kernels, const float *q, const float *keys, size_t n,
                  size_t width, bool exact, float *scores) {
  (void)kernels;
  const uint32_t *pairs = (const uint32_t *)(const void *)q;
  const uint32_t *words = (const uint32_t *)(const void *)keys;
  if (exact)
    score_panels(1, pairs, words, n, width, scores);
  else
    score_panels(0, pairs, words, n, width, scores);
}

/* ---- softmax ---- */

/* 2^x as 2^floor(x) * 2^(x - floor(x)), the latter by the polynomial of degree 4 whose largest
 * relative error on [0, 1) is least (2.6e-6; found by Remez' exchange). */
INLINE __m512 exp2_16(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 sum = _mm512_set1_ps(0x1.bb7cd4p-7f);
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0x1.aa13fp-5f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0x1.ee798ap-3f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0x1.62d166p-1f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0x1.00002cp+0f));
  return _mm512_scalef_ps(sum, x);
}

/* The weights relative to another number than the largest score are the same after division by
 * their total, so a query's reference only moves when a score passes it by more than 8: weights
 * stay below 2^8, and sums are rarely scaled. */
static bool soften(const cpu_kernels *kernels, float *scores, size_t n, float *largest,
                   float *total, float *shrink) {
  (void)kernels;
  const __m512 before = _mm512_loadu_ps(largest), none = _mm512_set1_ps(-INFINITY);
  __m512 top = none, sum = _mm512_setzero_ps();
  for (size_t t = 0; t < n; t++)
    top = _mm512_max_ps(top, _mm512_loadu_ps(scores + t * 16));
  const __mmask16 raised =
      _mm512_cmp_ps_mask(top, _mm512_add_ps(before, _mm512_set1_ps(8)), _CMP_GT_OQ);
  const __m512 after = _mm512_mask_mov_ps(before, raised, top);
  /* a query that has seen nothing yet */
  const __mmask16 unseen = _mm512_cmp_ps_mask(after, none, _CMP_EQ_OQ);
  const __m512 shift = _mm512_mask_mov_ps(after, unseen, _mm512_setzero_ps());
  const __m512i order = HALF_PAIRS;
  uint32_t *weights = (uint32_t *)(void *)scores;
  for (size_t t = 0; t < n; t += 2) {
    const __m512 first = exp2_16(_mm512_sub_ps(_mm512_loadu_ps(scores + t * 16), shift));
    const __m512 second = exp2_16(_mm512_sub_ps(_mm512_loadu_ps(scores + t * 16 + 16), shift));
    sum = _mm512_add_ps(sum, _mm512_add_ps(first, second));
    _mm512_storeu_si512(
        weights + t / 2 * 16,
        _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first)));
  }
  const __m512 factor =
      _mm512_mask_mov_ps(_mm512_set1_ps(1), raised, exp2_16(_mm512_sub_ps(before, shift)));
  _mm512_storeu_ps(shrink, factor);
  _mm512_storeu_ps(largest, after);
  _mm512_storeu_ps(total, _mm512_fmadd_ps(_mm512_loadu_ps(total), factor, sum));
  return raised != 0;
}

static float weight(const float *scores, size_t key, size_t lane) {
  const uint32_t *words = (const uint32_t *)(const void *)scores;
  const uint32_t pair = words[key / 2 * 16 + lane];
  const uint32_t bits = key % 2 ? pair & 0xffff0000 : pair << 16;
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)bits)));
}

/* ---- V ---- */

static void mix(const cpu_kernels *kernels, const float *values, const float *scores, size_t n,
                size_t width, float *sums) {
  (void)kernels;
  const uint32_t *panel = (const uint32_t *)(const void *)values;
  const uint32_t *weights = (const uint32_t *)(const void *)scores;
  for (size_t j = 0; j < width; j += ROWS, panel += CPU_FORM_TILE / 2 * ROWS, sums += ROWS * 16) {
    __m512 columns[ROWS];
    UNROLL for (int c = 0; c < ROWS; c++) columns[c] = _mm512_loadu_ps(sums + 16 * c);
    for (size_t t = 0; t < n / 2; t++) {
      const __m512i pair = _mm512_loadu_si512(weights + t * 16);
      UNROLL for (int c = 0; c < ROWS; c++) columns[c] =
          dot(columns[c], pair, panel[t * ROWS + (size_t)c]);
    }
    UNROLL for (int c = 0; c < ROWS; c++) _mm512_storeu_ps(sums + 16 * c, columns[c]);
  }
}

const cpu_attention_form cpu_bf16_attention = {
    .unit = 0x1.715476p+0f,
    .pack_queries = pack_queries,
    .pack_keys = pack_keys,
    .pack_values = pack_values,
    .score = score,
    .soften = soften,
    .weight = weight,
    .mix = mix,
};
