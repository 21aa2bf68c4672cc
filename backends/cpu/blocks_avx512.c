/* Blocks with AVX-512 VNNI. A weight vector holds 4 elements of each of 16 columns and meets an
 * activation word broadcast from memory; vpdpbusd wants one side unsigned, which the weights are,
 * and the sums start at what their offset adds, negated. The arithmetic of a block is 8 vpdpbusd a
 * row; its scales cost a conversion, a product and a multiply-add. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "avx512.h"
#include "kernels.h"

#define PREFETCH_BYTES 6144
#define PREFETCH_ROWS  4

static void quantize_row(const float *x, size_t n_blocks, uint32_t row, uint32_t rows,
                         cpu_x_extra extra, int32_t offset, void *panel) {
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

/* Of block b of a group. */
INLINE __m512 scale_of(const cpu_scales kind, const char *scales, size_t b, int half) {
  if (kind == CPU_SCALES_F16 || kind == CPU_SCALES_F16_MIN) return halves(scales + 32 * b);
  const char *at = scales + (kind == CPU_SCALES_K ? 64 + 16 * b : 32 + 16 * (2 * b + (size_t)half));
  const __m128i bytes = _mm_loadu_si128((const __m128i *)at);
  const __m512i whole =
      kind == CPU_SCALES_K ? _mm512_cvtepu8_epi32(bytes) : _mm512_cvtepi8_epi32(bytes);
  return _mm512_mul_ps(halves(scales), _mm512_cvtepi32_ps(whole));
}

INLINE __m512 min_of(const cpu_scales kind, const char *scales, size_t b) {
  if (kind == CPU_SCALES_F16_MIN) return halves(scales + 32);
  const __m128i bytes = _mm_loadu_si128((const __m128i *)(scales + 192 + 16 * b));
  const __m512 product =
      _mm512_mul_ps(halves(scales + 32), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
  return _mm512_sub_ps(_mm512_setzero_ps(), product);
}

/* One block: panel (rows, 32) times weights (32, 16) into sums. */
INLINE void block_step(const int rows, const uint32_t bits, const cpu_scales kind, const char *x,
                       const char *weights, const char *scales, size_t b,
                       __m512 sums[CPU_PANEL_ROWS]) {
  const cpu_x_extra extra = cpu_x_extra_of(kind);
  const char *x_scales = x + rows * CPU_BLOCK, *extras = x_scales + rows * 4;
  const int parts = extra == CPU_X_STARTS ? 2 : 1, words = 8 / parts;
  UNROLL for (int part = 0; part < parts; part++) {
    __m512i dots[CPU_PANEL_ROWS];
    UNROLL for (int r = 0; r < rows; r++) dots[r] =
        extra == CPU_X_SUM ? _mm512_setzero_si512() : word(extras + 4 * (part * rows + r));
    UNROLL for (int j = part * words; j < (part + 1) * words; j++) {
      const __m512i w = quant_word(bits, weights, j);
      UNROLL for (int r = 0; r < rows; r++) dots[r] =
          _mm512_dpbusd_epi32(dots[r], w, word(x + CPU_BLOCK * r + 4 * j));
    }
    const __m512 w_scale = scale_of(kind, scales, b, part);
    UNROLL for (int r = 0; r < rows; r++) {
      const __m512 scale = _mm512_mul_ps(w_scale, broadcast(x_scales + 4 * r));
      sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
    }
  }
  if (extra != CPU_X_SUM) return;
  const __m512 min = min_of(kind, scales, b);
  UNROLL for (int r = 0; r < rows; r++) sums[r] =
      _mm512_fmadd_ps(min, broadcast(extras + 4 * r), sums[r]);
}

/* Few rows wait for memory. The processor's own prefetcher stops at pages and does not look as far
 * ahead as a core can have lines on their way; this fetches into the second-level cache. */
INLINE void prefetch_ahead(const int rows, const char *at, size_t bytes) {
  if (rows > PREFETCH_ROWS) return;
  UNROLL for (size_t line = 0; line < bytes; line += 64)
      _mm_prefetch(at + PREFETCH_BYTES + line, _MM_HINT_T1);
}

INLINE void block_rows(const int rows, const uint32_t bits, const cpu_scales kind,
                       const void *panel, const char *weights, size_t n_blocks, float *out) {
  __m512 sums[CPU_PANEL_ROWS];
  UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm512_loadu_ps(out + CPU_PANEL_COLUMNS * r);
  const char *x = panel;
  const size_t group = cpu_group_blocks(kind), quant_bytes = cpu_quant_bytes(bits);
  while (n_blocks > 0) {
    const char *scales = weights + group * quant_bytes;
    const size_t n = n_blocks < group ? n_blocks : group;
    for (size_t b = 0; b < n; b++, weights += quant_bytes) {
      prefetch_ahead(rows, weights, quant_bytes);
      block_step(rows, bits, kind, x, weights, scales, b, sums);
      x += cpu_x_block_bytes(cpu_x_extra_of(kind), (size_t)rows);
    }
    prefetch_ahead(rows, scales, cpu_scale_bytes(kind));
    weights = scales + cpu_scale_bytes(kind);
    n_blocks -= n;
  }
  UNROLL for (int r = 0; r < rows; r++) _mm512_storeu_ps(out + CPU_PANEL_COLUMNS * r, sums[r]);
}

/* Values of one block: the bytes of a word are four elements. */
INLINE void block_floats(const uint32_t bits, const cpu_scales kind, int32_t zero,
                         const char *weights, const char *scales, size_t b, float *out) {
  const bool has_min = cpu_x_extra_of(kind) == CPU_X_SUM;
  const __m512 min = has_min ? min_of(kind, scales, b) : _mm512_setzero_ps();
  UNROLL for (int j = 0; j < 8; j++) {
    const __m512 scale = scale_of(kind, scales, b, j / 4);
    const __m512i quants = quant_word(bits, weights, j);
    UNROLL for (int k = 0; k < 4; k++, out += CPU_PANEL_COLUMNS) {
      const __m512i byte =
          _mm512_and_si512(_mm512_srli_epi32(quants, (unsigned)(8 * k)), _mm512_set1_epi32(255));
      const __m512 value =
          _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(byte, _mm512_set1_epi32(zero))), scale);
      _mm512_storeu_ps(out, has_min ? _mm512_add_ps(value, min) : value);
    }
  }
}

INLINE void panel_floats(const uint32_t bits, const cpu_scales kind, int32_t zero,
                         const char *weights, size_t n_blocks, float *out) {
  const size_t group = cpu_group_blocks(kind), quant_bytes = cpu_quant_bytes(bits);
  while (n_blocks > 0) {
    const char *scales = weights + group * quant_bytes;
    const size_t n = n_blocks < group ? n_blocks : group;
    for (size_t b = 0; b < n; b++, out += CPU_BLOCK * CPU_PANEL_COLUMNS)
      block_floats(bits, kind, zero, weights + b * quant_bytes, scales, b, out);
    weights = scales + cpu_scale_bytes(kind);
    n_blocks -= n;
  }
}

#define BLOCK_ROWS(constant) block_rows(constant, bits, kind, panel, weights, n_blocks, out)
INLINE void block_tile(const uint32_t bits, const cpu_scales kind, uint32_t rows, const void *panel,
                       const void *weights, size_t n_blocks, float *out){PANEL_CASES(BLOCK_ROWS)}
#undef BLOCK_ROWS

#define BLOCK_KERNELS(name, index, bits, kind)                                                     \
  static void tile_##name(uint32_t rows, const void *panel, const void *weights, size_t n_blocks,  \
                          float *out) {                                                            \
    block_tile(bits, kind, rows, panel, weights, n_blocks, out);                                   \
  }                                                                                                \
  static void floats_##name(const void *weights, size_t n_blocks, float *out) {                    \
    panel_floats(bits, kind, cpu_block_formats[index].zero, weights, n_blocks, out);               \
  }

CPU_BLOCK_TABLE(BLOCK_KERNELS)

#define TILE(name, index, bits, kind)   [index] = tile_##name,
#define FLOATS(name, index, bits, kind) [index] = floats_##name,

    const cpu_block_kernels cpu_blocks_avx512 = {
        .offset = {[CPU_Q8_0] = 128, [CPU_Q4_0] = 8, [CPU_Q5_0] = 16, [CPU_Q6_K] = 32},
        .quantize_row = quantize_row,
        .tile = {CPU_BLOCK_TABLE(TILE)},
        .floats = {CPU_BLOCK_TABLE(FLOATS)},
};
