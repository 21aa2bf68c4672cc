/* Formats of 4 to 6 bits, as pack.c lays them out. All keep 16 nibbles in 16 bytes twice over: the
 * low nibbles are one run of 16 elements that follow each other, the high nibbles another. A piece
 * is such 16 bytes with what its two runs need: further bits, and for each run a scale and an
 * offset, value = (quant - less) * scale + offset.
 *
 *   format  elements of a block   row            beside the rows, a block
 *   Q4_0     32                   quants 16      f16 d                       less 8
 *   Q4_1     32                   quants 16      f16 d, f16 m                offset m
 *   Q5_0     32                   quants 16      bits 4, f16 d, 2 unused     less 16
 *   Q5_1     32                   quants 16      bits 4, f16 d, f16 m        offset m
 *   Q4_K    256                   f16 d, f16 m, 12 bytes of 6-bit scales, quants 128
 *   Q5_K    256                   the same head, bits 32, quants 128
 *   Q6_K    256                   quants 128, bits 64, 16 int8 scales;       f16 d, less 32
 *
 * The order of elements is GGUF's (ggml's block structs). */
#ifndef CUDA_KERNELS_QUANTS_CUH
#define CUDA_KERNELS_QUANTS_CUH

#include "common.cuh"

template <int FORMAT> struct quants {
  static const bool nibbles = FORMAT >= CUDA_Q4_0;
  static const bool super = FORMAT >= CUDA_Q4_K; /* blocks of 256 */
  /* Elements from the first run of a piece to the second. */
  static const int distance = FORMAT == CUDA_Q6_K ? 64 : super ? 32 : 16;
  /* Subtracted from every quant; such formats have no offset. */
  static const int less = FORMAT == CUDA_Q4_0   ? 8
                          : FORMAT == CUDA_Q5_0 ? 16
                          : FORMAT == CUDA_Q6_K ? 32
                                                : 0;
  static const int scale_bytes = CUDA_SCALE_BYTES(FORMAT);
};

struct quant_piece {
  uint4 raw, bits;
  float scale[2], offset[2];
  uint32_t shift; /* of the first run's bits */
};

DEVICE uint32_t word_of(const uint4 &v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* The first element of piece p. */
template <int FORMAT> DEVICE uint32_t piece_start(uint32_t p) {
  if (FORMAT == CUDA_Q6_K) return p / 4 * 128 + p % 4 * 16;
  if (quants<FORMAT>::super) return p / 2 * 64 + p % 2 * 16;
  return p * 32;
}

/* The piece that holds run u, elements 16 u to 16 u + 15, and which of its two runs that is. */
template <int FORMAT> DEVICE uint32_t piece_of_run(uint32_t u, uint32_t &which) {
  if (FORMAT == CUDA_Q6_K) {
    which = u / 4 % 2;
    return u / 8 * 4 + u % 4;
  }
  if (quants<FORMAT>::super) {
    which = u / 2 % 2;
    return u / 4 * 2 + u % 2;
  }
  which = u % 2;
  return u / 2;
}

DEVICE float half_of(uint32_t word, int i) {
  return f16_value((uint16_t)(word >> 16 * i));
}

/* Scale and offset i of 8 from the head of a Q4_K or Q5_K block: 6 bits each, in the order of
 * ggml's get_scale_min_k4. */
DEVICE void k_scale(const uint4 &head, uint32_t i, float &scale, float &offset) {
  const uint32_t by = i % 4 * 8;
  uint32_t s = head.y >> by, m = head.z >> by;
  if (i >= 4) {
    const uint32_t low = head.w >> by;
    s = (low & 15u) | (s >> 6 & 3u) << 4;
    m = (low >> 4 & 15u) | (m >> 6 & 3u) << 4;
  }
  scale = half_of(head.x, 0) * (float)(s & 63u);
  offset = -half_of(head.x, 1) * (float)(m & 63u);
}

/* Piece p of a row; `beside`: what the row has beside the rows. */
template <int FORMAT>
DEVICE void fetch_piece(quant_piece &to, const char *row, const char *beside, uint32_t p) {
  to.bits = make_uint4(0, 0, 0, 0);
  to.shift = 0;
  if (FORMAT == CUDA_Q4_K || FORMAT == CUDA_Q5_K) {
    const char *block = row + (uint64_t)(p / 8) * (FORMAT == CUDA_Q4_K ? 144 : 176);
    const uint4 head = *(const uint4 *)block;
    to.raw = __ldcs((const uint4 *)(block + (FORMAT == CUDA_Q4_K ? 16 : 48) + p % 8 * 16));
    to.shift = p % 8 / 2 * 2;
    if (FORMAT == CUDA_Q5_K) to.bits = *(const uint4 *)(block + 16 + p % 2 * 16);
    k_scale(head, to.shift, to.scale[0], to.offset[0]);
    k_scale(head, to.shift + 1, to.scale[1], to.offset[1]);
  } else if (FORMAT == CUDA_Q6_K) {
    const char *block = row + (uint64_t)(p / 8) * 208;
    const float d = f16_value(((const uint16_t *)beside)[p / 8]);
    const int8_t *scales = (const int8_t *)(block + 192) + p % 8 / 4 * 8 + p % 4;
    to.raw = __ldcs((const uint4 *)(block + p % 8 * 16));
    to.bits = *(const uint4 *)(block + 128 + p % 8 / 4 * 32 + p % 2 * 16);
    to.shift = p % 4 / 2 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++)
      to.scale[i] = d * (float)scales[4 * i];
    to.offset[0] = to.offset[1] = 0.0f;
  } else {
    to.raw = __ldcs((const uint4 *)(row + (uint64_t)p * 16));
    const char *block = beside + (uint64_t)p * quants<FORMAT>::scale_bytes;
    if (FORMAT == CUDA_Q4_0) {
      to.scale[0] = f16_value(*(const uint16_t *)block);
      to.offset[0] = 0.0f;
    } else {
      if (FORMAT != CUDA_Q4_1) to.bits.x = *(const uint32_t *)block;
      const uint32_t pair = *(const uint32_t *)(block + (FORMAT == CUDA_Q4_1 ? 0 : 4));
      to.scale[0] = half_of(pair, 0);
      to.offset[0] = half_of(pair, 1);
    }
    to.scale[1] = to.scale[0];
    to.offset[1] = to.offset[0];
  }
}

/* Byte i of a word as a float, less `less`: by way of the mantissa of 2^23, because conversions run
 * at a quarter of the rate of additions. */
DEVICE float byte_value(uint32_t word, int i, float less = 0.0f) {
  const uint32_t bits = __byte_perm(word, 0x4b000000u, 0x7540u + (uint32_t)i);
  return __uint_as_float(bits) - (8388608.0f + less);
}

/* Elements 4 part to 4 part + 3 of run `which` of a piece. */
template <int FORMAT>
DEVICE void unpack_run(float to[4], const uint4 &raw, const uint4 &more, uint32_t shift,
                       uint32_t which, float scale, float offset, int part) {
  const float less = (float)quants<FORMAT>::less;
  uint32_t q = word_of(raw, part) >> 4 * which & 0x0f0f0f0fu;
  if (FORMAT == CUDA_Q5_0 || FORMAT == CUDA_Q5_1) { /* four bits to the four bytes */
    const uint32_t bits = more.x >> (16 * which + 4 * (uint32_t)part) & 15u;
    q |= (bits * 0x00204081u & 0x01010101u) << 4;
  } else if (FORMAT == CUDA_Q5_K) {
    q |= (word_of(more, part) >> (shift + which) & 0x01010101u) << 4;
  } else if (FORMAT == CUDA_Q6_K) {
    q |= (word_of(more, part) >> (shift + 4 * which) & 0x03030303u) << 4;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    to[i] = less > 0 ? byte_value(q, i, less) * scale : fmaf(byte_value(q, i), scale, offset);
}

#endif
