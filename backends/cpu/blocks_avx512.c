/* Blocks with AVX-512 VNNI. A weight vector holds 4 elements of each of 16 columns and meets an
 * activation word broadcast from memory; vpdpbusd wants one side unsigned, which the weights are,
 * and the sums start at what their offset adds, negated. The arithmetic of a block is 8 vpdpbusd a
 * row; its scales cost a conversion, a product and a multiply-add. In a K format x has one scale
 * for 8 blocks, so that the products of the two factors are left to the end of all 8. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "avx512.h"
#include "kernels.h"

#define PREFETCH_ROWS 4
#define Q8_OFFSET     128

/* Rounds up or down some of the quants that lie in between, until their sum is that of `exact`:
 * weights of a block with minima have a mean far from zero, and it meets the sum of all errors. An
 * element at the bound of int8 has no error to give, so it stays. */
static void keep_sum(const __m512 exact[2], __m512i q[2]) {
  __m512 rest[2];
  for (int i = 0; i < 2; i++)
    rest[i] = _mm512_sub_ps(exact[i], _mm512_cvtepi32_ps(q[i]));
  const float sum = _mm512_reduce_add_ps(_mm512_add_ps(rest[0], rest[1]));
  const int step = sum < 0 ? -1 : 1;
  const __m512 float_step = _mm512_set1_ps((float)step);
  for (int missing = _mm_cvtss_si32(_mm_set_ss(sum)); missing != 0; missing -= step) {
    const __m512 larger =
        _mm512_max_ps(_mm512_mul_ps(rest[0], float_step), _mm512_mul_ps(rest[1], float_step));
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(larger) * (float)step);
    uint32_t found = _mm512_cmp_ps_mask(rest[0], largest, _CMP_EQ_OQ) |
                     (uint32_t)_mm512_cmp_ps_mask(rest[1], largest, _CMP_EQ_OQ) << 16;
    found &= -found;
    for (int i = 0; i < 2; i++, found >>= 16) {
      q[i] = _mm512_mask_add_epi32(q[i], (__mmask16)found, q[i], _mm512_set1_epi32(step));
      rest[i] = _mm512_mask_sub_ps(rest[i], (__mmask16)found, rest[i], float_step);
    }
  }
}

/* 8 blocks under one scale. */
static void quantize_super(const float *x, uint32_t row, uint32_t rows, cpu_x_extra extra,
                           int32_t offset, char *panel) {
  const __m512 infinity = _mm512_set1_ps(INFINITY);
  __m512 largest = _mm512_setzero_ps();
  int broken = 0;
  for (int i = 0; i < CPU_SUPER * CPU_BLOCK; i += 16) {
    const __m512 magnitude = _mm512_abs_ps(_mm512_loadu_ps(x + i));
    largest = _mm512_max_ps(largest, magnitude);
    broken |= _mm512_cmp_ps_mask(magnitude, infinity, _CMP_NLT_UQ);
  }
  const float scale = broken ? NAN : _mm512_reduce_max_ps(largest) / 127;
  const __m512 inverse = _mm512_set1_ps(scale > 0x1p-126f ? 1 / scale : 0);
  char *const scales = panel + (size_t)rows * CPU_SUPER * CPU_BLOCK;
  char *const extras = scales + (size_t)rows * 4;
  memcpy(scales + (size_t)row * 4, &scale, 4);
  for (uint32_t b = 0; b < CPU_SUPER; b++, x += CPU_BLOCK) {
    const __m512 exact[2] = {_mm512_mul_ps(_mm512_loadu_ps(x), inverse),
                             _mm512_mul_ps(_mm512_loadu_ps(x + 16), inverse)};
    __m512i q[2] = {_mm512_cvtps_epi32(exact[0]), _mm512_cvtps_epi32(exact[1])};
    if (extra == CPU_X_SUPER_SUMS && !broken) keep_sum(exact, q);
    char *const to = panel + ((size_t)b * rows + row) * CPU_BLOCK;
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(q[0]));
    _mm_storeu_si128((__m128i *)(to + 16), _mm512_cvtepi32_epi8(q[1]));
    if (extra == CPU_X_SUPER_SUMS) {
      const int32_t sum = broken ? 0 : _mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1]));
      const int16_t narrow = (int16_t)sum; /* at most 32 * 127 */
      memcpy(extras + ((size_t)b / 2 * rows + row) * 4 + b % 2 * 2, &narrow, 2);
    } else {
      const int32_t starts[2] = {broken ? 0 : -offset * _mm512_reduce_add_epi32(q[0]),
                                 broken ? 0 : -offset * _mm512_reduce_add_epi32(q[1])};
      memcpy(extras + ((size_t)b * 2 * rows + row) * 4, &starts[0], 4);
      memcpy(extras + ((size_t)(b * 2 + 1) * rows + row) * 4, &starts[1], 4);
    }
  }
}

static void quantize_row(const float *x, size_t n_blocks, uint32_t row, uint32_t rows,
                         cpu_x_extra extra, int32_t offset, void *panel) {
  if (cpu_x_is_super(extra)) {
    for (size_t b = 0; b < n_blocks; b += CPU_SUPER)
      quantize_super(x + b * CPU_BLOCK, row, rows, extra, offset,
                     (char *)panel + cpu_x_bytes(extra, rows, b));
    return;
  }
  const __m512 infinity = _mm512_set1_ps(INFINITY);
  char *block = panel;
  for (size_t b = 0; b < n_blocks; b++, x += CPU_BLOCK, block += cpu_x_block_bytes(extra, rows)) {
    const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
    const __m512 largest = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
    const int broken = _mm512_cmp_ps_mask(_mm512_abs_ps(low), infinity, _CMP_NLT_UQ) |
                       _mm512_cmp_ps_mask(_mm512_abs_ps(high), infinity, _CMP_NLT_UQ);
    const float scale = broken ? NAN : _mm512_reduce_max_ps(largest) / 127;
    const __m512 inverse = _mm512_set1_ps(scale > 0x1p-126f ? 1 / scale : 0);
    const __m512i q_low = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
    const __m512i q_high = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
    int8_t *q = (int8_t *)block + (size_t)row * CPU_BLOCK;
    _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8(q_low));
    _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtepi32_epi8(q_high));
    cpu_x_finish(block, row, rows, scale, broken ? 0 : _mm512_reduce_add_epi32(q_low),
                 broken ? 0 : _mm512_reduce_add_epi32(q_high), extra, offset);
  }
}

INLINE __m512i word(const char *from) {
  int32_t bits;
  memcpy(&bits, from, sizeof bits);
  return _mm512_set1_epi32(bits);
}

INLINE __m512 broadcast(const char *from) {
  float value;
  memcpy(&value, from, sizeof value);
  return _mm512_set1_ps(value);
}

INLINE __m512i shifted(__m512i v, int left) {
  return left >= 0 ? _mm512_slli_epi16(v, (unsigned)left) : _mm512_srli_epi16(v, (unsigned)-left);
}

/* Word j of all columns of a block. */
INLINE __m512i quant_word(const uint32_t bits, const char *block, const int j) {
  if (bits == 8) return _mm512_loadu_si512(block + 64 * j);
  const __m512i pair = _mm512_loadu_si512(block + 64 * (j % 4)), low_bits = _mm512_set1_epi8(15);
  const __m512i nibble = _mm512_and_si512(j < 4 ? pair : _mm512_srli_epi16(pair, 4), low_bits);
  if (bits == 4) return nibble;
  const __m512i upper = _mm512_loadu_si512(block + 256 + (bits == 6 ? j / 4 * 64 : 0));
  const __m512i placed = shifted(upper, bits == 6 ? 4 - 2 * (j % 4) : 4 - j);
  const __m512i mask = _mm512_set1_epi8(bits == 6 ? 0x30 : 0x10);
  return _mm512_ternarylogic_epi32(nibble, placed, mask, 0xf8); /* nibble | placed & mask */
}

INLINE __m512 halves(const char *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

/* The whole part of the scale of block b (or of a half of it) of a K format. */
INLINE __m512 whole_scale(const cpu_scales kind, const char *scales, size_t b, int half) {
  const char *at = scales + (kind == CPU_SCALES_K ? 64 + 16 * b : 32 + 16 * (2 * b + (size_t)half));
  const __m128i bytes = _mm_loadu_si128((const __m128i *)at);
  return _mm512_cvtepi32_ps(kind == CPU_SCALES_K ? _mm512_cvtepu8_epi32(bytes)
                                                 : _mm512_cvtepi8_epi32(bytes));
}

/* Of block b of a group. */
INLINE __m512 scale_of(const cpu_scales kind, const char *scales, size_t b, int half) {
  if (kind == CPU_SCALES_F16 || kind == CPU_SCALES_F16_MIN) return halves(scales + 32 * b);
  return _mm512_mul_ps(halves(scales), whole_scale(kind, scales, b, half));
}

INLINE __m512 min_of(const cpu_scales kind, const char *scales, size_t b) {
  if (kind == CPU_SCALES_F16_MIN) return halves(scales + 32);
  const __m128i bytes = _mm_loadu_si128((const __m128i *)(scales + 192 + 16 * b));
  const __m512 product =
      _mm512_mul_ps(halves(scales + 32), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
  return _mm512_sub_ps(_mm512_setzero_ps(), product);
}

/* Adds to dots the products of n words of x (rows, 32) and of weights, from word `first` on. */
INLINE void dot_words(const int rows, const uint32_t bits, const char *x, const char *weights,
                      const int first, const int n, __m512i dots[CPU_PANEL_ROWS]) {
  UNROLL for (int j = first; j < first + n; j++) {
    const __m512i w = quant_word(bits, weights, j);
    UNROLL for (int r = 0; r < rows; r++) dots[r] =
        _mm512_dpbusd_epi32(dots[r], w, word(x + CPU_BLOCK * r + 4 * j));
  }
}

/* One block: panel (rows, 32) times weights (32, 16) into sums. */
INLINE void block_step(const int rows, const uint32_t bits, const cpu_scales kind, const char *x,
                       const char *weights, const char *scales, size_t b,
                       __m512 sums[CPU_PANEL_ROWS]) {
  const cpu_x_extra extra = cpu_x_extra_of(kind);
  const char *x_scales = x + rows * CPU_BLOCK, *extras = x_scales + rows * 4;
  __m512i dots[CPU_PANEL_ROWS];
  UNROLL for (int r = 0; r < rows; r++) dots[r] =
      extra == CPU_X_SUM ? _mm512_setzero_si512() : word(extras + 4 * r);
  dot_words(rows, bits, x, weights, 0, 8, dots);
  const __m512 w_scale = scale_of(kind, scales, b, 0);
  UNROLL for (int r = 0; r < rows; r++) {
    const __m512 scale = _mm512_mul_ps(w_scale, broadcast(x_scales + 4 * r));
    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
  }
  if (extra != CPU_X_SUM) return;
  const __m512 min = min_of(kind, scales, b);
  UNROLL for (int r = 0; r < rows; r++) sums[r] =
      _mm512_fmadd_ps(min, broadcast(extras + 4 * r), sums[r]);
}

/* Few rows wait for memory. The processor's own prefetcher stops at pages and does not look as far
 * ahead as a core can have lines on their way; this fetches into the second-level cache. The
 * distances are the best of those that docs/cpu.md tells. */
INLINE void prefetch_ahead(const int rows, const uint32_t bits, const char *at, size_t bytes) {
  const size_t distance = bits == 8 ? 2048 : 6144;
  if (rows > PREFETCH_ROWS) return;
  UNROLL for (size_t line = 0; line < bytes; line += 64)
      _mm_prefetch(at + distance + line, _MM_HINT_T1);
}

/* Block b of a group: its dots times the whole parts of its scales into sums. */
INLINE void super_block(const int rows, const uint32_t bits, const cpu_scales kind, const char *x,
                        const char *starts, const char *weights, const char *scales, size_t b,
                        __m512 sums[CPU_PANEL_ROWS]) {
  const int parts = kind == CPU_SCALES_HALVES ? 2 : 1, words = 8 / parts;
  UNROLL for (int part = 0; part < parts; part++) {
    __m512i dots[CPU_PANEL_ROWS];
    UNROLL for (int r = 0; r < rows; r++) dots[r] =
        parts == 1 ? _mm512_setzero_si512() : word(starts + 4 * (part * rows + r));
    dot_words(rows, bits, x, weights, part * words, words, dots);
    const __m512 scale = whole_scale(kind, scales, b, part);
    UNROLL for (int r = 0; r < rows; r++) sums[r] =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
  }
}

/* Whole minima of blocks 2p and 2p + 1, side by side as the sums of x are. */
INLINE __m512i pair_of_minima(const char *scales, size_t p) {
  const char *at = scales + 192 + 32 * p;
  const __m512i even = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at));
  const __m512i odd = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(at + 16)));
  return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

/* out -= d_min * x scale * (minima times the sums of x) */
INLINE void subtract_minima(const int rows, const char *x_scales, const char *scales, float *out) {
  const char *sums_of_x = x_scales + rows * 4;
  __m512i minima[CPU_PANEL_ROWS];
  UNROLL for (int r = 0; r < rows; r++) minima[r] = _mm512_setzero_si512();
  UNROLL for (int p = 0; p < CPU_SUPER / 2; p++) {
    const __m512i pair = pair_of_minima(scales, (size_t)p);
    UNROLL for (int r = 0; r < rows; r++) minima[r] =
        _mm512_dpwssd_epi32(minima[r], pair, word(sums_of_x + 4 * (p * rows + r)));
  }
  const __m512 d_min = halves(scales + 32);
  UNROLL for (int r = 0; r < rows; r++) {
    float *at = out + CPU_PANEL_COLUMNS * r;
    const __m512 scale = _mm512_mul_ps(d_min, broadcast(x_scales + 4 * r));
    _mm512_storeu_ps(at,
                     _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima[r]), scale, _mm512_loadu_ps(at)));
  }
}

/* Groups of a K format: panel (8, rows, 32) times weights (8, 32, 16) each. */
INLINE void super_rows(const int rows, const uint32_t bits, const cpu_scales kind,
                       const void *panel, const char *weights, size_t n_blocks, float *out) {
  const cpu_x_extra extra = kind == CPU_SCALES_K ? CPU_X_SUPER_SUMS : CPU_X_SUPER_STARTS;
  const size_t quant_bytes = cpu_quant_bytes(bits);
  const char *x = panel;
  for (; n_blocks >= CPU_SUPER; n_blocks -= CPU_SUPER) {
    const char *scales = weights + CPU_SUPER * quant_bytes;
    const char *x_scales = x + rows * CPU_SUPER * CPU_BLOCK, *extras = x_scales + rows * 4;
    __m512 sums[CPU_PANEL_ROWS];
    if (kind == CPU_SCALES_K) subtract_minima(rows, x_scales, scales, out);
    UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < CPU_SUPER; b++, weights += quant_bytes) {
      prefetch_ahead(rows, bits, weights, quant_bytes);
      super_block(rows, bits, kind, x + b * CPU_BLOCK * rows, extras + b * 8 * rows, weights,
                  scales, b, sums);
    }
    const __m512 d = halves(scales);
    UNROLL for (int r = 0; r < rows; r++) {
      float *at = out + CPU_PANEL_COLUMNS * r;
      const __m512 scale = _mm512_mul_ps(d, broadcast(x_scales + 4 * r));
      _mm512_storeu_ps(at, _mm512_fmadd_ps(sums[r], scale, _mm512_loadu_ps(at)));
    }
    prefetch_ahead(rows, bits, scales, cpu_scale_bytes(kind));
    weights = scales + cpu_scale_bytes(kind);
    x += cpu_x_super_bytes(extra, (size_t)rows);
  }
}

INLINE void block_rows(const int rows, const uint32_t bits, const cpu_scales kind,
                       const void *panel, const char *weights, size_t n_blocks, float *out) {
  if (kind == CPU_SCALES_K || kind == CPU_SCALES_HALVES) {
    super_rows(rows, bits, kind, panel, weights, n_blocks, out);
    return;
  }
  __m512 sums[CPU_PANEL_ROWS];
  UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm512_loadu_ps(out + CPU_PANEL_COLUMNS * r);
  const char *x = panel;
  const size_t group = cpu_group_blocks(kind), quant_bytes = cpu_quant_bytes(bits);
  while (n_blocks > 0) {
    const char *scales = weights + group * quant_bytes;
    const size_t n = n_blocks < group ? n_blocks : group;
    for (size_t b = 0; b < n; b++, weights += quant_bytes) {
      prefetch_ahead(rows, bits, weights, quant_bytes);
      block_step(rows, bits, kind, x, weights, scales, b, sums);
      x += cpu_x_block_bytes(cpu_x_extra_of(kind), (size_t)rows);
    }
    prefetch_ahead(rows, bits, scales, cpu_scale_bytes(kind));
    weights = scales + cpu_scale_bytes(kind);
    n_blocks -= n;
  }
  UNROLL for (int r = 0; r < rows; r++) _mm512_storeu_ps(out + CPU_PANEL_COLUMNS * r, sums[r]);
}

/* Values of one block: the bytes of a word are four elements. */
INLINE void block_floats(const uint32_t bits, const cpu_scales kind, const char *weights,
                         const char *scales, size_t b, float *out) {
  const bool has_min = cpu_x_extra_of(kind) == CPU_X_SUM;
  const __m512i zero = _mm512_set1_epi32(cpu_block_zero(bits, kind));
  const __m512 min = has_min ? min_of(kind, scales, b) : _mm512_setzero_ps();
  UNROLL for (int j = 0; j < 8; j++) {
    const __m512 scale = scale_of(kind, scales, b, j / 4);
    const __m512i quants = quant_word(bits, weights, j);
    UNROLL for (int k = 0; k < 4; k++, out += CPU_PANEL_COLUMNS) {
      const __m512i byte =
          _mm512_and_si512(_mm512_srli_epi32(quants, (unsigned)(8 * k)), _mm512_set1_epi32(255));
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(byte, zero)), scale);
      _mm512_storeu_ps(out, has_min ? _mm512_add_ps(value, min) : value);
    }
  }
}

#define BLOCK_ROWS(constant) block_rows(constant, bits, kind, panel, weights, n_blocks, out)
INLINE void block_tile(const uint32_t bits, const cpu_scales kind, uint32_t rows, const void *panel,
                       const void *weights, size_t n_blocks, float *out) {
  PANEL_CASES(BLOCK_ROWS)
}
#undef BLOCK_ROWS

#include "blocks_table.h"

const cpu_block_kernels cpu_blocks_avx512 = {BLOCKS_OFFSETS, .has_super = true, BLOCKS_TABLE};
