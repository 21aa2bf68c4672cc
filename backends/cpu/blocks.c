/* From the blocks of a file to a panel's and back. A file block is first taken apart into one byte
 * a weight and into scales, then laid out: the one place that knows the file formats, whose bytes
 * are described at github.com/ggml-org/ggml (ggml-common.h, ggml-quants.c). */
#include "blocks.h"

#include <string.h>

#include "consort/half.h"
#include "consort/types.h"

const cpu_block_format cpu_block_formats[CPU_N_BLOCK_FORMATS] = {
    [CPU_Q8_0] = {CS_DTYPE_Q8_0, 8, CPU_SCALES_F16, 1},
    [CPU_Q4_0] = {CS_DTYPE_Q4_0, 4, CPU_SCALES_F16, 1},
    [CPU_Q4_1] = {CS_DTYPE_Q4_1, 4, CPU_SCALES_F16_MIN, 1},
    [CPU_Q5_0] = {CS_DTYPE_Q5_0, 5, CPU_SCALES_F16, 1},
    [CPU_Q5_1] = {CS_DTYPE_Q5_1, 5, CPU_SCALES_F16_MIN, 1},
    [CPU_Q4_K] = {CS_DTYPE_Q4_K, 4, CPU_SCALES_K, CPU_SUPER},
    [CPU_Q5_K] = {CS_DTYPE_Q5_K, 5, CPU_SCALES_K, CPU_SUPER},
    [CPU_Q6_K] = {CS_DTYPE_Q6_K, 6, CPU_SCALES_HALVES, CPU_SUPER},
};

uint32_t cpu_block_index(uint32_t dtype) {
  uint32_t i = 0;
  while (i < CPU_N_BLOCK_FORMATS && cpu_block_formats[i].dtype != dtype)
    i++;
  return i;
}

/* ---- file blocks ---- */

/* One byte a weight, unsigned, and the scales as the panel holds them. */
typedef struct file_block {
  uint8_t quants[CPU_SUPER * CPU_BLOCK];
  uint16_t d;
  uint16_t min;
  uint8_t s[2 * CPU_SUPER];
  uint8_t m[CPU_SUPER];
} file_block;

static void read_nibbles(const unsigned char *from, uint32_t fifth_bits, uint8_t *quants) {
  for (uint32_t i = 0; i < 16; i++) {
    quants[i] = (uint8_t)((from[i] & 15) | (fifth_bits >> i & 1) << 4);
    quants[i + 16] = (uint8_t)(from[i] >> 4 | (fifth_bits >> (i + 16) & 1) << 4);
  }
}

/* Q8_0, Q4_0, Q4_1, Q5_0, Q5_1: scale, [min], [32 fifth bits], quants. */
static void read_plain(const cpu_block_format *format, const unsigned char *from, file_block *to) {
  memcpy(&to->d, from, 2);
  from += 2;
  if (format->scales == CPU_SCALES_F16_MIN) {
    memcpy(&to->min, from, 2);
    from += 2;
  }
  uint32_t fifth_bits = 0;
  if (format->bits == 5) {
    fifth_bits =
        from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
    from += 4;
  }
  if (format->bits != 8) {
    read_nibbles(from, fifth_bits, to->quants);
    return;
  }
  for (uint32_t i = 0; i < CPU_BLOCK; i++)
    to->quants[i] = from[i] ^ 0x80;
}

/* Q4_K and Q5_K: d, d_min, 12 bytes with eight 6-bit scales and minima, [fifth bits], nibbles of
 * two blocks in 32 bytes. */
static void read_k(const cpu_block_format *format, const unsigned char *from, file_block *to) {
  memcpy(&to->d, from, 2);
  memcpy(&to->min, from + 2, 2);
  const unsigned char *s = from + 4, *fifth_bits = from + 16;
  const unsigned char *nibbles = format->bits == 5 ? from + 48 : from + 16;
  for (uint32_t b = 0; b < CPU_SUPER; b++) {
    to->s[b] = (uint8_t)(b < 4 ? s[b] & 63 : (s[b + 4] & 15) | s[b - 4] >> 6 << 4);
    to->m[b] = (uint8_t)(b < 4 ? s[b + 4] & 63 : s[b + 4] >> 4 | s[b] >> 6 << 4);
    for (uint32_t i = 0; i < CPU_BLOCK; i++) {
      const unsigned byte = nibbles[b / 2 * 32 + i], nibble = b % 2 ? byte >> 4 : byte & 15;
      const unsigned fifth = format->bits == 5 ? fifth_bits[i] >> b & 1u : 0;
      to->quants[b * CPU_BLOCK + i] = (uint8_t)(nibble | fifth << 4);
    }
  }
}

/* Q6_K: 128 bytes of nibbles, 64 of upper bit pairs, 16 signed scales, d. */
static void read_6k(const unsigned char *from, file_block *to) {
  memcpy(to->s, from + 192, sizeof to->s);
  memcpy(&to->d, from + 208, 2);
  for (uint32_t b = 0; b < CPU_SUPER; b++)
    for (uint32_t i = 0; i < CPU_BLOCK; i++) {
      const unsigned byte = from[b / 4 * 64 + b % 2 * 32 + i];
      const unsigned nibble = b % 4 >= 2 ? byte >> 4 : byte & 15;
      const unsigned upper = from[128 + b / 4 * 32 + i] >> 2 * (b % 4) & 3u;
      to->quants[b * CPU_BLOCK + i] = (uint8_t)(nibble | upper << 4);
    }
}

/* ---- panels ---- */

/* One block of one column. Four quants are moved at a time; no sum here carries into a neighbour.
 */
static void store_quants(uint32_t bits, const uint8_t *from, uint32_t c, unsigned char *quants) {
  const uint32_t nibbles = UINT32_C(0x0f0f0f0f);
  uint32_t words[8], upper[2] = {0, 0};
  memcpy(words, from, sizeof words);
  unsigned char *at = quants + (size_t)c * 4;
  if (bits == 8) {
    for (uint32_t j = 0; j < 8; j++)
      memcpy(at + j * 64, &words[j], 4);
    return;
  }
  for (uint32_t j = 0; j < 4; j++) {
    const uint32_t pair = (words[j] & nibbles) | (words[j + 4] & nibbles) << 4;
    memcpy(at + j * 64, &pair, 4);
  }
  for (uint32_t j = 0; bits != 4 && j < 8; j++)
    upper[bits == 6 ? j / 4 : 0] |= (words[j] >> 4 & nibbles) << (bits == 6 ? 2 * (j % 4) : j);
  if (bits != 4) memcpy(at + 256, &upper[0], 4);
  if (bits == 6) memcpy(at + 320, &upper[1], 4);
}

static void store_half(unsigned char *at, uint32_t c, uint16_t half) {
  memcpy(at + 2 * c, &half, sizeof half);
}

static void store_scales(cpu_scales kind, const file_block *from, uint32_t c, unsigned char *at) {
  store_half(at, c, from->d);
  if (kind == CPU_SCALES_F16_MIN || kind == CPU_SCALES_K) store_half(at + 32, c, from->min);
  for (uint32_t b = 0; kind == CPU_SCALES_K && b < CPU_SUPER; b++) {
    at[64 + 16 * b + c] = from->s[b];
    at[192 + 16 * b + c] = from->m[b];
  }
  for (uint32_t b = 0; kind == CPU_SCALES_HALVES && b < 2 * CPU_SUPER; b++)
    at[32 + 16 * b + c] = from->s[b];
}

void cpu_block_pack(const cpu_block_format *format, const unsigned char *from, size_t first,
                    uint32_t c, unsigned char *panel) {
  file_block block;
  if (format->scales == CPU_SCALES_K)
    read_k(format, from, &block);
  else if (format->scales == CPU_SCALES_HALVES)
    read_6k(from, &block);
  else
    read_plain(format, from, &block);
  const size_t in_group = first % cpu_group_blocks(format->scales);
  unsigned char *group = panel + cpu_blocks_bytes(format->bits, format->scales, first - in_group);
  for (size_t b = 0; b < format->file_blocks; b++)
    store_quants(format->bits, block.quants + b * CPU_BLOCK, c,
                 group + (in_group + b) * cpu_quant_bytes(format->bits));
  store_scales(format->scales, &block, c,
               group + cpu_group_scales(format->bits, format->scales) + 32 * in_group);
}

int32_t cpu_block_quant(uint32_t bits, const unsigned char *quants, uint32_t c, uint32_t i) {
  const uint32_t j = i / 4, at = c * 4 + i % 4;
  if (bits == 8) return quants[j * 64 + at];
  const unsigned byte = quants[j % 4 * 64 + at], nibble = j < 4 ? byte & 15 : byte >> 4;
  if (bits == 5) return (int32_t)(nibble | (quants[256 + at] >> j & 1u) << 4);
  if (bits == 6)
    return (int32_t)(nibble | (quants[256 + j / 4 * 64 + at] >> 2 * (j % 4) & 3u) << 4);
  return (int32_t)nibble;
}

static float load_half(const unsigned char *at, uint32_t c) {
  uint16_t half;
  memcpy(&half, at + 2 * c, sizeof half);
  return cs_f32_from_f16(half);
}

float cpu_block_scale(cpu_scales kind, const unsigned char *scales, size_t b, uint32_t c,
                      uint32_t half) {
  if (kind == CPU_SCALES_F16) return load_half(scales + 32 * b, c);
  const float d = load_half(scales, c);
  if (kind == CPU_SCALES_F16_MIN) return d;
  if (kind == CPU_SCALES_K) return d * (float)scales[64 + 16 * b + c];
  return d * (float)(int8_t)scales[32 + 16 * (2 * b + half) + c];
}

float cpu_block_min(cpu_scales kind, const unsigned char *scales, size_t b, uint32_t c) {
  if (kind == CPU_SCALES_F16_MIN) return load_half(scales + 32, c);
  if (kind != CPU_SCALES_K) return 0;
  return -load_half(scales + 32, c) * (float)scales[192 + 16 * b + c];
}

void cpu_block_column(uint32_t bits, cpu_scales kind, const void *quants, const void *scales,
                      size_t b, uint32_t c, float *out) {
  const float min = cpu_block_min(kind, scales, b, c);
  for (uint32_t i = 0; i < CPU_BLOCK; i++) {
    const float scale = cpu_block_scale(kind, scales, b, c, i / 16);
    const int32_t quant = cpu_block_quant(bits, quants, c, i) - cpu_block_zero(bits, kind);
    out[i] = scale * (float)quant + min;
  }
}

void cpu_block_values(const cpu_block_format *format, const unsigned char *panel, size_t b,
                      uint32_t c, float *out) {
  const size_t in_group = b % cpu_group_blocks(format->scales);
  const unsigned char *group = panel + cpu_blocks_bytes(format->bits, format->scales, b - in_group);
  cpu_block_column(format->bits, format->scales, group + in_group * cpu_quant_bytes(format->bits),
                   group + cpu_group_scales(format->bits, format->scales), in_group, c, out);
}
