/* GGUF's block formats, each dequantized by its definition, one function a format. The shapes of
 * the blocks are those of the table in types.h; a super-block of the K formats holds 256 weights in
 * sub-blocks of 16 or 32 with scales of their own. Written to be read beside the definition. */
#include "format.h"

#include <math.h>
#include <string.h>

#include "consort/half.h"
#include "consort/types.h"

typedef struct format_info {
  uint32_t dtype;
  const char *name;
  uint32_t block_elements;
  uint32_t block_bytes;
  uint32_t scale_at[2]; /* byte offsets of the f16 scales in a block */
  uint32_t n_scales;
  float magnitude; /* of the largest stored integer, times the largest sub-scale */
} format_info;

static const format_info formats[] = {
    {CS_DTYPE_F32, "f32", 1, 4, {0}, 0, 0},
    {CS_DTYPE_F16, "f16", 1, 2, {0}, 0, 0},
    {CS_DTYPE_BF16, "bf16", 1, 2, {0}, 0, 0},
    {CS_DTYPE_I8, "i8", 1, 1, {0}, 0, 0},
    {CS_DTYPE_U8, "u8", 1, 1, {0}, 0, 0},
    {CS_DTYPE_I32, "i32", 1, 4, {0}, 0, 0},
    {CS_DTYPE_U64, "u64", 1, 8, {0}, 0, 0},
    {CS_DTYPE_F8_E4M3, "f8_e4m3", 1, 1, {0}, 0, 0},
    {CS_DTYPE_Q8_0, "q8_0", 32, 34, {0}, 1, 127},
    {CS_DTYPE_Q4_0, "q4_0", 32, 18, {0}, 1, 8},
    {CS_DTYPE_Q4_1, "q4_1", 32, 20, {0, 2}, 2, 15},
    {CS_DTYPE_Q5_0, "q5_0", 32, 22, {0}, 1, 16},
    {CS_DTYPE_Q5_1, "q5_1", 32, 24, {0, 2}, 2, 31},
    {CS_DTYPE_Q2_K, "q2_k", 256, 84, {80, 82}, 2, 3 * 15},
    {CS_DTYPE_Q3_K, "q3_k", 256, 110, {108}, 1, 4 * 32},
    {CS_DTYPE_Q4_K, "q4_k", 256, 144, {0, 2}, 2, 15 * 63},
    {CS_DTYPE_Q5_K, "q5_k", 256, 176, {0, 2}, 2, 31 * 63},
    {CS_DTYPE_Q6_K, "q6_k", 256, 210, {208}, 1, 32 * 127},
    {CS_DTYPE_IQ4_NL, "iq4_nl", 32, 18, {0}, 1, 127},
    {CS_DTYPE_IQ4_XS, "iq4_xs", 256, 136, {0}, 1, 127 * 32},
};

static const format_info *find(uint32_t dtype) {
  for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
    if (formats[i].dtype == dtype) return &formats[i];
  return NULL;
}

const char *format_name(uint32_t dtype) {
  const format_info *info = find(dtype);
  return info ? info->name : "?";
}

uint32_t format_block_elements(uint32_t dtype) {
  const format_info *info = find(dtype);
  return info ? info->block_elements : 1;
}

size_t format_bytes(uint32_t dtype, uint64_t n_elements) {
  const format_info *info = find(dtype);
  return info ? (size_t)(n_elements / info->block_elements * info->block_bytes) : 0;
}

/* ---- plain numbers ---- */

static uint16_t read_u16(const unsigned char *from) {
  return (uint16_t)(from[0] | from[1] << 8);
}

/* E4M3 (OCP 8-bit floating point, 2023): bias 7, no infinity, NaN where all other bits are set. */
static double decode_e4m3(uint8_t bits) {
  const double sign = bits & 0x80 ? -1 : 1;
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  if ((bits & 0x7f) == 0x7f) return NAN;
  if (exponent == 0) return sign * ldexp(fraction, -9);
  return sign * ldexp(8 + fraction, exponent - 10);
}

/* To the nearest multiple of the step that numbers of this size have; 448 at most. */
static uint8_t encode_e4m3(double value) {
  const uint8_t sign = signbit(value) ? 0x80 : 0;
  if (isnan(value)) return sign | 0x7f;
  int exponent;
  const double magnitude = fmin(fabs(value), 448);
  frexp(magnitude, &exponent);
  const double step = ldexp(1, (exponent - 1 > -6 ? exponent - 1 : -6) - 3);
  const double rounded = fmin(nearbyint(magnitude / step) * step, 448);
  if (rounded < 0x1p-6) return sign | (uint8_t)(rounded * 0x1p9);
  const double fraction = frexp(rounded, &exponent);
  return (uint8_t)(sign | (exponent + 6) << 3 | (int)(fraction * 16 - 8));
}

double format_decode(uint32_t dtype, const void *from) {
  float f32;
  int32_t i32;
  uint16_t u16;
  double bits;
  switch (dtype) {
  case CS_DTYPE_F32:
    memcpy(&f32, from, sizeof f32);
    return f32;
  case CS_DTYPE_F16:
    memcpy(&u16, from, sizeof u16);
    return cs_f32_from_f16(u16);
  case CS_DTYPE_BF16:
    memcpy(&u16, from, sizeof u16);
    return cs_f32_from_bf16(u16);
  case CS_DTYPE_I8:
    return *(const int8_t *)from;
  case CS_DTYPE_F8_E4M3:
    return decode_e4m3(*(const uint8_t *)from);
  case CS_DTYPE_U8:
    return *(const uint8_t *)from;
  case CS_DTYPE_I32:
    memcpy(&i32, from, sizeof i32);
    return i32;
  case CS_DTYPE_U64:
    memcpy(&bits, from, sizeof bits);
    return bits;
  default:
    return 0;
  }
}

void format_encode(uint32_t dtype, void *to, double value) {
  const float f32 = (float)value;
  switch (dtype) {
  case CS_DTYPE_F32:
    memcpy(to, &f32, sizeof f32);
    break;
  case CS_DTYPE_F16:
    memcpy(to, &(uint16_t){cs_f16_from_f32(f32)}, sizeof(uint16_t));
    break;
  case CS_DTYPE_BF16:
    memcpy(to, &(uint16_t){cs_bf16_from_f32(f32)}, sizeof(uint16_t));
    break;
  case CS_DTYPE_F8_E4M3:
    *(uint8_t *)to = encode_e4m3(f32);
    break;
  case CS_DTYPE_I8:
    memcpy(to, &(int8_t){(int8_t)value}, sizeof(int8_t));
    break;
  case CS_DTYPE_U8:
    memcpy(to, &(uint8_t){(uint8_t)value}, sizeof(uint8_t));
    break;
  case CS_DTYPE_I32:
    memcpy(to, &(int32_t){(int32_t)value}, sizeof(int32_t));
    break;
  case CS_DTYPE_U64:
    memcpy(to, &value, sizeof value);
    break;
  default:
    break;
  }
}

/* ---- block formats ---- */

void format_random_blocks(uint32_t dtype, kit_rng *rng, void *to, uint64_t n_elements) {
  const format_info *info = find(dtype);
  unsigned char *block = to;
  for (uint64_t i = 0; i < n_elements / info->block_elements; i++, block += info->block_bytes) {
    for (uint32_t j = 0; j < info->block_bytes; j++)
      block[j] = (unsigned char)rng_u64(rng);
    for (uint32_t j = 0; j < info->n_scales; j++) {
      double scale = rng_uniform(rng, 0.5, 1.5) / info->magnitude;
      if (rng_below(rng, 16) == 0) scale = -scale;
      if (rng_below(rng, 64) == 0) scale = 0;
      format_encode(CS_DTYPE_F16, block + info->scale_at[j], scale);
    }
  }
}

void format_scale_blocks(uint32_t dtype, void *blocks, uint64_t n_elements, double factor) {
  const format_info *info = find(dtype);
  unsigned char *block = blocks;
  for (uint64_t i = 0; i < n_elements / info->block_elements; i++, block += info->block_bytes)
    for (uint32_t j = 0; j < info->n_scales; j++) {
      unsigned char *scale = block + info->scale_at[j];
      format_encode(CS_DTYPE_F16, scale, factor * format_decode(CS_DTYPE_F16, scale));
    }
}

static double scale_at(const unsigned char *block, size_t offset) {
  return cs_f32_from_f16(read_u16(block + offset));
}

static void dequantize_q8_0(const unsigned char *block, double *out) {
  const double d = scale_at(block, 0);
  for (int i = 0; i < 32; i++)
    out[i] = d * (int8_t)block[2 + i];
}

/* The nibble formats of 32: weight i is the low nibble of byte i, weight i + 16 the high one. */
static int nibble(const unsigned char *quants, int i) {
  return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4;
}

static void dequantize_q4_0(const unsigned char *block, double *out) {
  const double d = scale_at(block, 0);
  for (int i = 0; i < 32; i++)
    out[i] = d * (nibble(block + 2, i) - 8);
}

static void dequantize_q4_1(const unsigned char *block, double *out) {
  const double d = scale_at(block, 0), m = scale_at(block, 2);
  for (int i = 0; i < 32; i++)
    out[i] = d * nibble(block + 4, i) + m;
}

/* Bit i of the little-endian word is the fifth bit of weight i. */
static int fifth_bit(const unsigned char *word, int i) {
  return (word[i / 8] >> (i % 8) & 1) << 4;
}

static void dequantize_q5_0(const unsigned char *block, double *out) {
  const double d = scale_at(block, 0);
  for (int i = 0; i < 32; i++)
    out[i] = d * ((nibble(block + 6, i) | fifth_bit(block + 2, i)) - 16);
}

static void dequantize_q5_1(const unsigned char *block, double *out) {
  const double d = scale_at(block, 0), m = scale_at(block, 2);
  for (int i = 0; i < 32; i++)
    out[i] = d * (nibble(block + 8, i) | fifth_bit(block + 4, i)) + m;
}

/* Two-bit quants of Q2_K and Q3_K: 128 weights share 32 bytes, 32 of them a bit pair. */
static int bit_pair(const unsigned char *quants, int i) {
  return quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

static void dequantize_q2_k(const unsigned char *block, double *out) {
  const unsigned char *scales = block, *quants = block + 16;
  const double d = scale_at(block, 80), min = scale_at(block, 82);
  for (int i = 0; i < 256; i++) {
    const int sub = i / 16;
    out[i] = d * (scales[sub] & 15) * bit_pair(quants, i) - min * (scales[sub] >> 4);
  }
}

/* Sixteen 6-bit scales in 12 bytes: low nibbles in the first 8, high bit pairs in the last 4. */
static int q3_k_scale(const unsigned char *scales, int sub) {
  const int low = sub < 8 ? scales[sub] & 15 : scales[sub - 8] >> 4;
  const int high = scales[8 + sub % 4] >> (2 * (sub / 4)) & 3;
  return (low | high << 4) - 32;
}

static void dequantize_q3_k(const unsigned char *block, double *out) {
  const unsigned char *high = block, *quants = block + 32, *scales = block + 96;
  const double d = scale_at(block, 108);
  for (int i = 0; i < 256; i++) {
    const int is_high = high[i % 32] >> (i / 32) & 1;
    out[i] = d * q3_k_scale(scales, i / 16) * (bit_pair(quants, i) - (is_high ? 0 : 4));
  }
}

/* Eight 6-bit scales and eight 6-bit minima in 12 bytes (Q4_K and Q5_K). */
static void q4_k_scale(const unsigned char *s, int sub, int *scale, int *min) {
  if (sub < 4) {
    *scale = s[sub] & 63;
    *min = s[sub + 4] & 63;
  } else {
    *scale = (s[sub + 4] & 15) | (s[sub - 4] >> 6) << 4;
    *min = (s[sub + 4] >> 4) | (s[sub] >> 6) << 4;
  }
}

/* 64 weights share 32 bytes: the first 32 are low nibbles, the next 32 high ones. */
static int k_nibble(const unsigned char *quants, int i) {
  const int byte = quants[i / 64 * 32 + i % 32];
  return i % 64 < 32 ? byte & 15 : byte >> 4;
}

static void dequantize_q4_k(const unsigned char *block, double *out) {
  const double d = scale_at(block, 0), dmin = scale_at(block, 2);
  for (int i = 0; i < 256; i++) {
    int scale, min;
    q4_k_scale(block + 4, i / 32, &scale, &min);
    out[i] = d * scale * k_nibble(block + 16, i) - dmin * min;
  }
}

static void dequantize_q5_k(const unsigned char *block, double *out) {
  const unsigned char *high = block + 16, *quants = block + 48;
  const double d = scale_at(block, 0), dmin = scale_at(block, 2);
  for (int i = 0; i < 256; i++) {
    int scale, min;
    q4_k_scale(block + 4, i / 32, &scale, &min);
    const int fifth = (high[i % 32] >> (i / 32) & 1) << 4;
    out[i] = d * scale * (k_nibble(quants, i) | fifth) - dmin * min;
  }
}

/* 128 weights share 64 bytes of low nibbles and 32 bytes of high bit pairs. */
static void dequantize_q6_k(const unsigned char *block, double *out) {
  const unsigned char *low = block, *high = block + 128, *scales = block + 192;
  const double d = scale_at(block, 208);
  for (int i = 0; i < 256; i++) {
    const int half = i / 128, at = i % 128;
    const int byte = low[half * 64 + at % 64];
    const int bits = at < 64 ? byte & 15 : byte >> 4;
    const int pair = high[half * 32 + at % 32] >> (at / 32 * 2) & 3;
    out[i] = d * (int8_t)scales[i / 16] * ((bits | pair << 4) - 32);
  }
}

/* The sixteen values of the non-linear 4-bit formats. */
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

static void dequantize_iq4_nl(const unsigned char *block, double *out) {
  const double d = scale_at(block, 0);
  for (int i = 0; i < 32; i++)
    out[i] = d * iq4_values[nibble(block + 2, i)];
}

static void dequantize_iq4_xs(const unsigned char *block, double *out) {
  const double d = scale_at(block, 0);
  const uint16_t high = read_u16(block + 2);
  const unsigned char *low = block + 4, *quants = block + 8;
  for (int sub = 0; sub < 8; sub++) {
    const int scale = (low[sub / 2] >> (sub % 2 * 4) & 15) | (high >> (2 * sub) & 3) << 4;
    for (int i = 0; i < 32; i++)
      out[sub * 32 + i] = d * (scale - 32) * iq4_values[nibble(quants + sub * 16, i)];
  }
}

static void dequantize_block(uint32_t dtype, const unsigned char *block, double *out) {
  switch (dtype) {
  case CS_DTYPE_Q8_0:
    dequantize_q8_0(block, out);
    break;
  case CS_DTYPE_Q4_0:
    dequantize_q4_0(block, out);
    break;
  case CS_DTYPE_Q4_1:
    dequantize_q4_1(block, out);
    break;
  case CS_DTYPE_Q5_0:
    dequantize_q5_0(block, out);
    break;
  case CS_DTYPE_Q5_1:
    dequantize_q5_1(block, out);
    break;
  case CS_DTYPE_Q2_K:
    dequantize_q2_k(block, out);
    break;
  case CS_DTYPE_Q3_K:
    dequantize_q3_k(block, out);
    break;
  case CS_DTYPE_Q4_K:
    dequantize_q4_k(block, out);
    break;
  case CS_DTYPE_Q5_K:
    dequantize_q5_k(block, out);
    break;
  case CS_DTYPE_Q6_K:
    dequantize_q6_k(block, out);
    break;
  case CS_DTYPE_IQ4_NL:
    dequantize_iq4_nl(block, out);
    break;
  case CS_DTYPE_IQ4_XS:
    dequantize_iq4_xs(block, out);
    break;
  default:
    *out = format_decode(dtype, block);
    break;
  }
}

void format_dequantize(uint32_t dtype, const void *from, double *to, uint64_t n_elements) {
  const format_info *info = find(dtype);
  const unsigned char *block = from;
  for (uint64_t i = 0; i < n_elements; i += info->block_elements, block += info->block_bytes)
    dequantize_block(dtype, block, to + i);
}
