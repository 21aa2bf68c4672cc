/* Attention of many queries in products of bf16 pairs, twice the float rate. Queries, weights and V
 * are rounded to bf16; K is not: where it is not bf16 already, a key is the sum of its upper 8 bits
 * of significand and of the rest, and both meet the query. Rounding K, too, costs more than the
 * error class allows once scores spread by 2 (NMSE 3.3e-5 over 4,096 keys with F16
 * caches, 1.5e-5 without). Scores, sums and the softmax are float32.
 *
 * Everything is in words of two neighbouring elements: of a key's width for scores, of keys for V.
 * Sixteen keys, or sixteen columns of V, are broadcast to the lanes of a group of queries. */
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

/* Words i to i + 15 of 16 rows, `left` elements from i on; word j of row r to out[j * stride + r].
 */
INLINE void store_words(const __m512i rows[16], size_t left, size_t stride, uint32_t *out) {
  __m512i words[16];
  transpose16(rows, words);
  const size_t n = words_of(left) < 16 ? words_of(left) : 16;
  for (size_t j = 0; j < n; j++)
    _mm512_storeu_si512(out + j * stride, words[j]);
}

static void pack_queries(const float *rows, size_t n, size_t width, float *out) {
  uint32_t *to = (uint32_t *)(void *)out;
  for (size_t i = 0; i < width; i += 32) {
    __m512i words[16];
    for (size_t r = 0; r < 16; r++) {
      const float *row = rows + r * width + i;
      const __mmask16 low = r < n ? first_lanes(width - i) : 0;
      const __mmask16 high = r < n && width - i > 16 ? first_lanes(width - i - 16) : 0;
      words[r] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, row + 16),
                                              _mm512_maskz_loadu_ps(low, row));
    }
    store_words(words, width - i, 16, to + i / 2 * 16);
  }
}

/* The upper half of 32 floats, and in `rest` what it leaves, both bf16. Of infinities and NaN
 * nothing is left. */
INLINE __m512i split(__m512 low, __m512 high, __m512i *rest) {
  const __m512 upper = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xffff0000));
  const __m512 a = _mm512_and_ps(low, upper), b = _mm512_and_ps(high, upper);
  const int not_finite = 0x99; /* both NaN, both infinities */
  const __mmask16 odd_a = _mm512_fpclass_ps_mask(a, not_finite);
  const __mmask16 odd_b = _mm512_fpclass_ps_mask(b, not_finite);
  *rest = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_sub_ps((__mmask16)~odd_b, high, b),
                                       _mm512_maskz_sub_ps((__mmask16)~odd_a, low, a));
  return (__m512i)_mm512_cvtne2ps_pbh(b, a);
}

/* A panel of 16 keys is (words, 16), or (words, 2, 16) with what the upper halves leave. */
INLINE void pack_panel(const int exact, const float *rows, size_t width, uint32_t *out) {
  for (size_t i = 0; i < width; i += 32) {
    __m512i words[16], rest[16];
    const __mmask16 low = first_lanes(width - i);
    const __mmask16 high = width - i > 16 ? first_lanes(width - i - 16) : 0;
    for (size_t r = 0; r < 16; r++) {
      const __m512 a = _mm512_maskz_loadu_ps(low, rows + r * width + i);
      const __m512 b = _mm512_maskz_loadu_ps(high, rows + r * width + i + 16);
      words[r] = exact ? (__m512i)_mm512_cvtne2ps_pbh(b, a) : split(a, b, &rest[r]);
    }
    uint32_t *to = out + i / 2 * 16 * (exact ? 1 : 2);
    store_words(words, width - i, exact ? 16 : 32, to);
    if (!exact) store_words(rest, width - i, 32, to + 16);
  }
}

static void pack_keys(const cpu_kernels *kernels, const float *rows, size_t n, size_t width,
                      bool exact, float *out) {
  (void)kernels;
  uint32_t *to = (uint32_t *)(void *)out;
  for (size_t t = 0; t < n; t += ROWS, rows += ROWS * width, to += ROWS * 2 * words_of(width))
    if (exact)
      pack_panel(1, rows, width, to);
    else
      pack_panel(0, rows, width, to);
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

/* The first `rows` keys of a panel. */
INLINE void score_panel(const int rows, const int exact, const uint32_t *q, const uint32_t *keys,
                        size_t n_words, float *scores) {
  __m512 sums[ROWS];
  UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
  for (size_t i = 0; i < n_words; i++, q += 16) {
    const __m512i pair = _mm512_loadu_si512(q);
    UNROLL for (int r = 0; r < rows; r++) sums[r] = dot(sums[r], pair, keys[r]);
    keys += ROWS;
    if (exact) continue;
    UNROLL for (int r = 0; r < rows; r++) sums[r] = dot(sums[r], pair, keys[r]);
    keys += ROWS;
  }
  UNROLL for (int r = 0; r < rows; r++) _mm512_storeu_ps(scores + 16 * r, sums[r]);
}

INLINE void score_panels(const int exact, const uint32_t *q, const uint32_t *keys, size_t n,
                         size_t width, float *scores) {
  const size_t n_words = words_of(width);
  size_t t = 0;
  for (; t + ROWS <= n; t += ROWS, keys += ROWS * 2 * n_words)
    score_panel(ROWS, exact, q, keys, n_words, scores + t * 16);
  if (t < n) score_panel(CPU_FORM_KEYS, exact, q, keys, n_words, scores + t * 16);
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
