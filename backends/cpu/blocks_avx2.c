/* Blocks with AVX2, 3 rows x 8 columns at a time. vpmaddubsw multiplies unsigned by signed and
 * saturates at 16 bits: for 8-bit weights the sign moves from weight to activation,
 * |w| * (x * sign(w)), whose pairs stay within 2 * 128 * 127; shorter quants are small enough as
 * they are. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

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
                         cpu_x_extra extra, int32_t offset, void *panel) {
  const __m256 sign = _mm256_set1_ps(-0.0f), infinity = _mm256_set1_ps(INFINITY);
  char *block = panel;
  for (size_t b = 0; b < n_blocks; b++, x += CPU_BLOCK, block += cpu_x_block_bytes(extra, rows)) {
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
    /* packing works on halves: the permutation restores the order */
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256(
        (__m256i *)(block + (size_t)row * CPU_BLOCK),
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    cpu_x_finish(block, row, rows, scale, is_broken ? 0 : sum8(_mm256_add_epi32(q[0], q[1])),
                 is_broken ? 0 : sum8(_mm256_add_epi32(q[2], q[3])), extra, offset);
  }
}

INLINE __m256i word(const char *from) {
  int32_t bits;
  memcpy(&bits, from, sizeof bits);
  return _mm256_set1_epi32(bits);
}

INLINE __m256 broadcast(const char *from) {
  float value;
  memcpy(&value, from, sizeof value);
  return _mm256_set1_ps(value);
}

INLINE __m256i load(const char *from) {
  return _mm256_loadu_si256((const __m256i *)from);
}

INLINE __m256i shifted(__m256i v, int left) {
  return left >= 0 ? _mm256_slli_epi16(v, left) : _mm256_srli_epi16(v, -left);
}

/* Word j of the 8 columns that `block` points at; unsigned. */
INLINE __m256i quant_word(const uint32_t bits, const char *block, const int j) {
  if (bits == 8) return load(block + 64 * j);
  const __m256i pair = load(block + 64 * (j % 4));
  const __m256i nibble =
      _mm256_and_si256(j < 4 ? pair : _mm256_srli_epi16(pair, 4), _mm256_set1_epi8(15));
  if (bits == 4) return nibble;
  const __m256i upper = load(block + 256 + (bits == 6 ? j / 4 * 64 : 0));
  const __m256i placed = shifted(upper, bits == 6 ? 4 - 2 * (j % 4) : 4 - j);
  return _mm256_or_si256(nibble,
                         _mm256_and_si256(placed, _mm256_set1_epi8(bits == 6 ? 0x30 : 0x10)));
}

/* Dot products of four elements of 8 columns. */
INLINE __m256i dots_of(const uint32_t bits, __m256i w, __m256i x) {
  __m256i pairs;
  if (bits == 8) {
    const __m256i weight = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
    pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x, weight));
  } else {
    pairs = _mm256_maddubs_epi16(w, x);
  }
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

INLINE __m256 halves(const char *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

/* Scales and minima of block b of a group; columns 8 * side on. */
INLINE __m256 scale_of(const cpu_scales kind, const char *scales, size_t b, int half, int side) {
  if (kind == CPU_SCALES_F16 || kind == CPU_SCALES_F16_MIN)
    return halves(scales + 32 * b + 16 * side);
  const __m256 d = halves(scales + 16 * side);
  const char *at = scales + 8 * side;
  at += kind == CPU_SCALES_K ? 64 + 16 * b : 32 + 16 * (2 * b + (size_t)half);
  const __m128i bytes = _mm_loadl_epi64((const __m128i *)at);
  const __m256i whole =
      kind == CPU_SCALES_K ? _mm256_cvtepu8_epi32(bytes) : _mm256_cvtepi8_epi32(bytes);
  return _mm256_mul_ps(d, _mm256_cvtepi32_ps(whole));
}

INLINE __m256 min_of(const cpu_scales kind, const char *scales, size_t b, int side) {
  const __m256 min = halves(scales + 32 + 16 * side);
  if (kind == CPU_SCALES_F16_MIN) return min;
  const __m128i bytes = _mm_loadl_epi64((const __m128i *)(scales + 192 + 16 * b + 8 * side));
  const __m256 product = _mm256_mul_ps(min, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
  return _mm256_sub_ps(_mm256_setzero_ps(), product);
}

/* `rows` rows of a panel of panel_rows, from row `first` on, against 8 columns of a block. */
INLINE void block_step(const int rows, const uint32_t bits, const cpu_scales kind, uint32_t first,
                       uint32_t panel_rows, int side, const char *block, const char *weights,
                       const char *scales, size_t b, __m256 sums[3]) {
  const cpu_x_extra extra = cpu_x_extra_of(kind);
  const char *x = block + first * CPU_BLOCK;
  const char *x_scales = block + panel_rows * CPU_BLOCK + 4 * first;
  const char *extras = x_scales + 4 * panel_rows;
  const int parts = extra == CPU_X_STARTS ? 2 : 1, words = 8 / parts;
  UNROLL for (int part = 0; part < parts; part++) {
    __m256i dots[3];
    UNROLL for (int r = 0; r < rows; r++) dots[r] =
        extra == CPU_X_SUM ? _mm256_setzero_si256()
                           : word(extras + 4 * ((uint32_t)part * panel_rows + (uint32_t)r));
    UNROLL for (int j = part * words; j < (part + 1) * words; j++) {
      const __m256i w = quant_word(bits, weights, j);
      UNROLL for (int r = 0; r < rows; r++) dots[r] =
          _mm256_add_epi32(dots[r], dots_of(bits, w, word(x + CPU_BLOCK * r + 4 * j)));
    }
    const __m256 w_scale = scale_of(kind, scales, b, part, side);
    UNROLL for (int r = 0; r < rows; r++) {
      const __m256 scale = _mm256_mul_ps(w_scale, broadcast(x_scales + 4 * r));
      sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), scale, sums[r]);
    }
  }
  if (extra != CPU_X_SUM) return;
  const __m256 min = min_of(kind, scales, b, side);
  UNROLL for (int r = 0; r < rows; r++) sums[r] =
      _mm256_fmadd_ps(min, broadcast(extras + 4 * r), sums[r]);
}

INLINE void block_rows(const int rows, const uint32_t bits, const cpu_scales kind, uint32_t first,
                       uint32_t panel_rows, int side, const char *x, const char *weights,
                       size_t n_blocks, float *out) {
  __m256 sums[3];
  float *const to = out + CPU_PANEL_COLUMNS * first + 8 * side;
  UNROLL for (int r = 0; r < rows; r++) sums[r] = _mm256_loadu_ps(to + CPU_PANEL_COLUMNS * r);
  const size_t group = cpu_group_blocks(kind), quant_bytes = cpu_quant_bytes(bits);
  while (n_blocks > 0) {
    const char *scales = weights + group * quant_bytes;
    const size_t n = n_blocks < group ? n_blocks : group;
    for (size_t b = 0; b < n; b++) {
      block_step(rows, bits, kind, first, panel_rows, side, x,
                 weights + b * quant_bytes + 32 * side, scales, b, sums);
      x += cpu_x_block_bytes(cpu_x_extra_of(kind), panel_rows);
    }
    weights = scales + cpu_scale_bytes(kind);
    n_blocks -= n;
  }
  UNROLL for (int r = 0; r < rows; r++) _mm256_storeu_ps(to + CPU_PANEL_COLUMNS * r, sums[r]);
}

INLINE void block_tile(const uint32_t bits, const cpu_scales kind, uint32_t rows, const void *panel,
                       const void *weights, size_t n_blocks, float *out) {
  for (int side = 0; side < 2; side++) {
    uint32_t r = 0;
    for (; r + 3 <= rows; r += 3)
      block_rows(3, bits, kind, r, rows, side, panel, weights, n_blocks, out);
    if (rows - r == 2) block_rows(2, bits, kind, r, rows, side, panel, weights, n_blocks, out);
    if (rows - r == 1) block_rows(1, bits, kind, r, rows, side, panel, weights, n_blocks, out);
  }
}

/* Values of 8 columns of one block: the bytes of a word are four elements. */
INLINE void block_floats(const uint32_t bits, const cpu_scales kind, int32_t zero, int side,
                         const char *weights, const char *scales, size_t b, float *out) {
  const bool has_min = cpu_x_extra_of(kind) == CPU_X_SUM;
  const __m256 min = has_min ? min_of(kind, scales, b, side) : _mm256_setzero_ps();
  UNROLL for (int j = 0; j < 8; j++) {
    const __m256 scale = scale_of(kind, scales, b, j / 4, side);
    const __m256i quants = quant_word(bits, weights, j);
    UNROLL for (int k = 0; k < 4; k++, out += CPU_PANEL_COLUMNS) {
      const __m256i byte =
          _mm256_and_si256(_mm256_srli_epi32(quants, 8 * k), _mm256_set1_epi32(255));
      const __m256 value =
          _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(byte, _mm256_set1_epi32(zero))), scale);
      _mm256_storeu_ps(out, has_min ? _mm256_add_ps(value, min) : value);
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
      for (int side = 0; side < 2; side++)
        block_floats(bits, kind, zero, side, weights + b * quant_bytes + 32 * side, scales, b,
                     out + 8 * side);
    weights = scales + cpu_scale_bytes(kind);
    n_blocks -= n;
  }
}

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

const cpu_block_kernels cpu_blocks_avx2 = {
    .offset = {[CPU_Q4_0] = 8, [CPU_Q5_0] = 16, [CPU_Q6_K] = 32},
    .quantize_row = quantize_row,
    .tile = {CPU_BLOCK_TABLE(TILE)},
    .floats = {CPU_BLOCK_TABLE(FLOATS)},
};
