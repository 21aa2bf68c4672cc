/* The records that weights.cl reads, for one row. The formats of 32 columns lie in GGUF as the
 * kernels want them. The K formats, in super-blocks of 256, pack scales into odd bits and spread a
 * column's code over arrays of the whole super-block: their scales become bytes, and their codes
 * follow them, 32 columns at a time. Sources: the block structs of ggml-common.h and the
 * dequantizers of ggml-quants.c (llama.cpp) define what the bits mean. */
#include "image.h"

#include <string.h>

#define SUB    32 /* columns of a record */
#define SUPER  256
#define N_SUBS (SUPER / SUB)

/* ---- codes ---- */

/* Low four bits of column b and of column b + 16 in byte b. */
static void put_nibbles(unsigned char *to, const unsigned char codes[SUB]) {
  for (uint32_t b = 0; b < 16; b++)
    to[b] = (unsigned char)((codes[b] & 15) | (codes[b + 16] & 15) << 4);
}

/* Bit `bit` of column 8 c + t as bit t of byte c. */
static void put_bits(unsigned char *to, const unsigned char codes[SUB], uint32_t bit) {
  memset(to, 0, 4);
  for (uint32_t j = 0; j < SUB; j++)
    to[j / 8] = (unsigned char)(to[j / 8] | (codes[j] >> bit & 1) << j % 8);
}

/* Two bits from `bit` on of column e + 8 s at bits 2 s of byte e. */
static void put_pairs(unsigned char *to, const unsigned char codes[SUB], uint32_t bit) {
  memset(to, 0, 8);
  for (uint32_t j = 0; j < SUB; j++)
    to[j % 8] = (unsigned char)(to[j % 8] | (codes[j] >> bit & 3) << 2 * (j / 8));
}

/* ---- super-blocks; `sub` counts records, `to` is the record of that one ---- */

typedef void (*head_fn)(unsigned char *to, const unsigned char *block);
typedef void (*record_fn)(unsigned char *to, const unsigned char *block, uint32_t sub);

/* Q4_K and Q5_K: eight 6-bit scales and minima in 12 bytes. */
static void put_scale_and_minimum(unsigned char *to, const unsigned char *packed, uint32_t sub) {
  if (sub < 4) {
    to[0] = packed[sub] & 63;
    to[1] = packed[sub + 4] & 63;
  } else {
    to[0] = (unsigned char)((packed[sub + 4] & 15) | packed[sub - 4] >> 6 << 4);
    to[1] = (unsigned char)(packed[sub + 4] >> 4 | packed[sub] >> 6 << 4);
  }
}

static void head_first_4(unsigned char *to, const unsigned char *block) {
  memcpy(to, block, 4);
}

/* d, dmin, 12 bytes of scales, 128 of nibbles: 64 columns share 32 bytes. */
static void record_q4_k(unsigned char *to, const unsigned char *block, uint32_t sub) {
  const unsigned char *nibbles = block + 16 + sub / 2 * 32;
  unsigned char codes[SUB];
  for (uint32_t j = 0; j < SUB; j++)
    codes[j] = nibbles[j] >> sub % 2 * 4 & 15;
  put_scale_and_minimum(to, block + 4, sub);
  put_nibbles(to + 2, codes);
}

/* d, dmin, 12 bytes of scales, 32 of fifth bits, 128 of nibbles. */
static void record_q5_k(unsigned char *to, const unsigned char *block, uint32_t sub) {
  const unsigned char *high = block + 16, *nibbles = block + 48 + sub / 2 * 32;
  unsigned char codes[SUB];
  for (uint32_t j = 0; j < SUB; j++)
    codes[j] = (unsigned char)((nibbles[j] >> sub % 2 * 4 & 15) | (high[j] >> sub & 1) << 4);
  put_scale_and_minimum(to, block + 4, sub);
  put_bits(to + 2, codes, 4);
  put_nibbles(to + 6, codes);
}

/* 128 bytes of nibbles, 64 of bit pairs, 16 int8 scales, d: twice 128 columns. */
static void head_q6_k(unsigned char *to, const unsigned char *block) {
  memcpy(to, block + 208, 2);
}

static void record_q6_k(unsigned char *to, const unsigned char *block, uint32_t sub) {
  const uint32_t part = sub % 4;
  const unsigned char *nibbles = block + sub / 4 * 64 + part % 2 * 32;
  const unsigned char *pairs = block + 128 + sub / 4 * 32;
  unsigned char codes[SUB];
  for (uint32_t j = 0; j < SUB; j++)
    codes[j] = (unsigned char)((nibbles[j] >> part / 2 * 4 & 15) | (pairs[j] >> 2 * part & 3) << 4);
  memcpy(to, block + 192 + 2 * sub, 2);
  put_pairs(to + 2, codes, 4);
  put_nibbles(to + 10, codes);
}

/* The bit pairs of Q2_K and Q3_K: 128 columns share 32 bytes. */
static void read_pairs(unsigned char codes[SUB], const unsigned char *pairs, uint32_t sub) {
  for (uint32_t j = 0; j < SUB; j++)
    codes[j] = pairs[sub / 4 * 32 + j] >> sub % 4 * 2 & 3;
}

/* 16 bytes of a scale and a minimum each, 64 of bit pairs, d, dmin. */
static void head_q2_k(unsigned char *to, const unsigned char *block) {
  memcpy(to, block + 80, 4);
}

static void record_q2_k(unsigned char *to, const unsigned char *block, uint32_t sub) {
  unsigned char codes[SUB];
  read_pairs(codes, block + 16, sub);
  memcpy(to, block + 2 * sub, 2);
  put_pairs(to + 2, codes, 0);
}

/* 32 bytes of third bits, 64 of bit pairs, sixteen 6-bit scales in 12 bytes, d. */
static void head_q3_k(unsigned char *to, const unsigned char *block) {
  memcpy(to, block + 108, 2);
}

static unsigned char scale_q3_k(const unsigned char *packed, uint32_t i) {
  const uint32_t low = i < 8 ? packed[i] & 15u : packed[i - 8] >> 4;
  const uint32_t high = packed[8 + i % 4] >> 2 * (i / 4) & 3u;
  return (unsigned char)((low | high << 4) - 32); /* an int8 */
}

static void record_q3_k(unsigned char *to, const unsigned char *block, uint32_t sub) {
  unsigned char codes[SUB];
  read_pairs(codes, block + 32, sub);
  for (uint32_t j = 0; j < SUB; j++)
    codes[j] = (unsigned char)(codes[j] | (block[j] >> sub & 1) << 2);
  to[0] = scale_q3_k(block + 96, 2 * sub);
  to[1] = scale_q3_k(block + 96, 2 * sub + 1);
  put_bits(to + 2, codes, 2);
  put_pairs(to + 6, codes, 0);
}

/* d, 16 bits of the scales' upper halves, 4 bytes of their lower ones, 128 bytes of nibbles. */
static void head_iq4_xs(unsigned char *to, const unsigned char *block) {
  memcpy(to, block, 2);
}

static void record_iq4_xs(unsigned char *to, const unsigned char *block, uint32_t sub) {
  const uint32_t upper = block[2] | (uint32_t)block[3] << 8;
  const uint32_t scale = (block[4 + sub / 2] >> sub % 2 * 4 & 15u) | (upper >> 2 * sub & 3u) << 4;
  to[0] = (unsigned char)(scale - 32); /* an int8 */
  memcpy(to + 1, block + 8 + 16 * sub, 16);
}

/* ---- formats ---- */

typedef struct k_format {
  clc_format format;
  head_fn head;
  record_fn record;
} k_format;

static const k_format k_formats[] = {
    {{CS_DTYPE_Q2_K, SUPER, 4, 10, 2, 0}, head_q2_k, record_q2_k},
    {{CS_DTYPE_Q3_K, SUPER, 2, 14, 1, 0}, head_q3_k, record_q3_k},
    {{CS_DTYPE_Q4_K, SUPER, 4, 18, 2, 0}, head_first_4, record_q4_k},
    {{CS_DTYPE_Q5_K, SUPER, 4, 22, 2, 0}, head_first_4, record_q5_k},
    {{CS_DTYPE_Q6_K, SUPER, 2, 26, 1, 0}, head_q6_k, record_q6_k},
    {{CS_DTYPE_IQ4_XS, SUPER, 2, 17, 1, 0}, head_iq4_xs, record_iq4_xs},
};

static const clc_format plain_formats[] = {
    {CS_DTYPE_F32, 1, 0, 4, 0, 0},       {CS_DTYPE_F16, 1, 0, 2, 0, 1},
    {CS_DTYPE_BF16, 1, 0, 2, 0, 1},      {CS_DTYPE_Q8_0, SUB, 0, 34, 0, 1},
    {CS_DTYPE_Q4_0, SUB, 0, 18, 0, 1},   {CS_DTYPE_Q4_1, SUB, 0, 20, 0, 2},
    {CS_DTYPE_Q5_0, SUB, 0, 22, 0, 1},   {CS_DTYPE_Q5_1, SUB, 0, 24, 0, 2},
    {CS_DTYPE_IQ4_NL, SUB, 0, 18, 0, 1},
};

static const k_format *find_k(uint32_t dtype) {
  for (size_t i = 0; i < sizeof k_formats / sizeof k_formats[0]; i++)
    if (k_formats[i].format.dtype == dtype) return &k_formats[i];
  return NULL;
}

const clc_format *clc_format_of(uint32_t dtype) {
  for (size_t i = 0; i < sizeof plain_formats / sizeof plain_formats[0]; i++)
    if (plain_formats[i].dtype == dtype) return &plain_formats[i];
  const k_format *k = find_k(dtype);
  return k ? &k->format : NULL;
}

uint64_t clc_image_bytes(const clc_format *format, uint64_t n_columns) {
  const uint64_t records = format->block == 1 ? n_columns : n_columns / SUB;
  return n_columns / format->block * format->head_bytes + records * format->record_bytes;
}

void clc_image_block(const clc_format *format, unsigned char *to, const unsigned char *block) {
  const k_format *k = find_k(format->dtype);
  if (!k) {
    memcpy(to, block, format->record_bytes);
    return;
  }
  k->head(to, block);
  for (uint32_t sub = 0; sub < N_SUBS; sub++)
    k->record(to + format->head_bytes + sub * format->record_bytes, block, sub);
}
