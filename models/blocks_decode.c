/* Written for one purpose, equal bits: no loop is reordered and no product is fused (the file is
 * compiled without contraction), because a weight that differs in its last bit between two readers
 * makes every comparison of models doubtful. */
#include <string.h>

#include "consort/half.h"
#include "core/dtype.h"
#include "models/blocks.h"

#define SMALL 32  /* elements of a legacy block */
#define SUPER 256 /* of a K block */

static float half_at(const uint8_t *from) {
  uint16_t bits;
  memcpy(&bits, from, sizeof bits);
  return cs_f32_from_f16(bits);
}

static void decode_q8_0(const uint8_t *b, float *to) {
  const float d = half_at(b);
  for (int i = 0; i < SMALL; i++)
    to[i] = (float)(int8_t)b[2 + i] * d;
}

/* Element i of a block of nibbles: the low halves first. */
static int nibble(const uint8_t *bytes, int i) {
  return i < SMALL / 2 ? bytes[i] & 15 : bytes[i - SMALL / 2] >> 4;
}

static int fifth_bit(const uint8_t *from, int i) {
  return from[i / 8] >> i % 8 & 1;
}

static void decode_q4_0(const uint8_t *b, float *to) {
  const float d = half_at(b);
  for (int i = 0; i < SMALL; i++)
    to[i] = (float)(nibble(b + 2, i) - 8) * d;
}

static void decode_q4_1(const uint8_t *b, float *to) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int i = 0; i < SMALL; i++)
    to[i] = (float)nibble(b + 4, i) * d + m;
}

static void decode_q5_0(const uint8_t *b, float *to) {
  const float d = half_at(b);
  for (int i = 0; i < SMALL; i++)
    to[i] = (float)((nibble(b + 6, i) | fifth_bit(b + 2, i) << 4) - 16) * d;
}

static void decode_q5_1(const uint8_t *b, float *to) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int i = 0; i < SMALL; i++)
    to[i] = (float)(nibble(b + 8, i) | fifth_bit(b + 4, i) << 4) * d + m;
}

static void decode_q2_k(const uint8_t *b, float *to) {
  const uint8_t *scales = b, *quants = b + 16;
  const float d = half_at(b + 80), d_min = half_at(b + 82);
  for (int i = 0; i < SUPER; i++) {
    const int in_half = i % 128;
    const int quant = quants[i / 128 * 32 + in_half % 32] >> in_half / 32 * 2 & 3;
    const uint8_t scale = scales[i / 16];
    to[i] = d * (float)(scale & 15) * (float)quant - d_min * (float)(scale >> 4);
  }
}

/* Sixteen six-bit scales: low nibbles in bytes 0 to 7, upper bits in bytes 8 to 11. */
static int q3_k_scale(const uint8_t *packed, int i) {
  const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
  return (low | (packed[8 + i % 4] >> i / 4 * 2 & 3) << 4) - 32;
}

static void decode_q3_k(const uint8_t *b, float *to) {
  const uint8_t *upper = b, *quants = b + 32, *scales = b + 96;
  const float d = half_at(b + 108);
  for (int i = 0; i < SUPER; i++) {
    const int in_half = i % 128;
    const int low = quants[i / 128 * 32 + in_half % 32] >> in_half / 32 * 2 & 3;
    const int high = upper[i % 32] >> i / 32 & 1;
    to[i] = d * (float)q3_k_scale(scales, i / 16) * (float)(low - (high ? 0 : 4));
  }
}

void cs_blocks_unpack_scales(const uint8_t packed[12], uint8_t scales[8], uint8_t minima[8]) {
  for (int i = 0; i < 4; i++) {
    scales[i] = packed[i] & 63;
    minima[i] = packed[4 + i] & 63;
    scales[4 + i] = (uint8_t)((packed[8 + i] & 15) | packed[i] >> 6 << 4);
    minima[4 + i] = (uint8_t)(packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4);
  }
}

/* Q4_K, and Q5_K with its upper bits. */
static void decode_k(const uint8_t *b, const uint8_t *upper, const uint8_t *quants, float *to) {
  uint8_t scales[8], minima[8];
  const float d = half_at(b), d_min = half_at(b + 2);
  cs_blocks_unpack_scales(b + 4, scales, minima);
  for (int i = 0; i < SUPER; i++) {
    const int block = i / 32;
    const uint8_t byte = quants[block / 2 * 32 + i % 32];
    int quant = block % 2 ? byte >> 4 : byte & 15;
    if (upper) quant |= (upper[i % 32] >> block & 1) << 4;
    to[i] = d * (float)scales[block] * (float)quant - d_min * (float)minima[block];
  }
}

static void decode_q4_k(const uint8_t *b, float *to) {
  decode_k(b, NULL, b + 16, to);
}

static void decode_q5_k(const uint8_t *b, float *to) {
  decode_k(b, b + 16, b + 48, to);
}

static void decode_q6_k(const uint8_t *b, float *to) {
  const uint8_t *low = b, *upper = b + 128;
  const int8_t *scales = (const int8_t *)(b + 192);
  const float d = half_at(b + 208);
  for (int i = 0; i < SUPER; i++) {
    const int half = i / 128, quarter = i % 128 / 32, at = i % 32;
    const uint8_t byte = low[half * 64 + quarter % 2 * 32 + at];
    const int quant =
        (quarter < 2 ? byte & 15 : byte >> 4) | (upper[half * 32 + at] >> quarter * 2 & 3) << 4;
    to[i] = d * (float)scales[i / 16] * (float)(quant - 32);
  }
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

static void decode_iq4_nl(const uint8_t *b, float *to) {
  const float d = half_at(b);
  for (int i = 0; i < SMALL; i++)
    to[i] = d * (float)iq4_values[nibble(b + 2, i)];
}

static void decode_iq4_xs(const uint8_t *b, float *to) {
  const float d = half_at(b);
  const unsigned upper = b[2] | (unsigned)b[3] << 8;
  for (int block = 0; block < 8; block++) {
    const int low = b[4 + block / 2] >> block % 2 * 4 & 15;
    const int scale = (low | (int)(upper >> block * 2 & 3) << 4) - 32;
    for (int i = 0; i < 32; i++)
      to[block * 32 + i] = d * (float)scale * (float)iq4_values[nibble(b + 8 + block * 16, i)];
  }
}

typedef void (*decode_fn)(const uint8_t *block, float *to);

static const decode_fn decoders[CS_DTYPE_LIMIT] = {
    [CS_DTYPE_Q8_0] = decode_q8_0,     [CS_DTYPE_Q4_0] = decode_q4_0,
    [CS_DTYPE_Q4_1] = decode_q4_1,     [CS_DTYPE_Q5_0] = decode_q5_0,
    [CS_DTYPE_Q5_1] = decode_q5_1,     [CS_DTYPE_Q2_K] = decode_q2_k,
    [CS_DTYPE_Q3_K] = decode_q3_k,     [CS_DTYPE_Q4_K] = decode_q4_k,
    [CS_DTYPE_Q5_K] = decode_q5_k,     [CS_DTYPE_Q6_K] = decode_q6_k,
    [CS_DTYPE_IQ4_NL] = decode_iq4_nl, [CS_DTYPE_IQ4_XS] = decode_iq4_xs,
};

cs_status cs_blocks_decode(uint32_t dtype, const void *from, size_t n, float *to) {
  const cs_dtype_info *info = cs_dtype_find(dtype);
  if (info && info->block_elements == 1) return cs_dtype_convert(CS_DTYPE_F32, to, dtype, from, n);
  if (!info || !decoders[dtype]) return CS_UNSUPPORTED;
  const uint8_t *block = from;
  for (size_t i = 0; i < n; i += info->block_elements, block += info->block_bytes)
    decoders[dtype](block, to + i);
  return CS_OK;
}
