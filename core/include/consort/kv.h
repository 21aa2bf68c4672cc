/* The KV formats of 8 bits. Header-only, so that host, plugins and the kit agree.
 *
 * CS_DTYPE_F8_E4M3 is a float like the others, without a scale: see half.h.
 *
 * CS_DTYPE_I8 gives each row, the `width` elements of one token and one head, a float32 scale:
 *   scale = max |x| / 127        q = x / scale, rounded to nearest even        x' = q * scale
 * so that |x - x'| <= scale / 2: at most 1/254 of the row's largest element. Largest elements
 * become 127 or -127, -128 is not used, and elements that were quantized once stay the same when
 * they go through float32 and back. Division may be a multiplication with the reciprocal; a
 * quotient within 2^-13 of the middle between two integers may go either way. A scale that would be
 * below 2^-126 is 0, and so are the row's elements. A row that holds NaN or infinity gets the scale
 * NaN and elements 0: all of it reads as NaN.
 *
 * A block of such a plane, in any layout, is its elements, one byte each, and then its scales in
 * the layout's order without the width: (block_tokens, n_heads), or (n_heads, block_tokens) where
 * heads come first. So elements are as aligned as those of other formats, and a block is still one
 * range of bytes. Rows are a multiple of 4 elements wide, which aligns the scales. On the wire of n
 * tokens, K and then V are each like one head-major block of n tokens. Dims count elements only;
 * the dense row of a plane (row_stride_bytes 0) counts the scales in, and so do the dims of a wire
 * of this dtype, in bytes. */
#ifndef CONSORT_KV_H
#define CONSORT_KV_H

#include <stddef.h>
#include <stdint.h>

#include "consort/half.h"
#include "consort/types.h"

#define CS_KV_I8_LARGEST 127

/* Bytes of the scale that a row of a KV plane or wire of this dtype has; 0: none. */
static inline uint64_t cs_kv_scale_bytes(uint32_t dtype) {
  return dtype == CS_DTYPE_I8 ? sizeof(float) : 0;
}

/* Bytes of scales in one block of a plane; 0 for tensors that are none. dims as in cs_tensor; no
 * overflow where the elements of a block have a size: rows are at least 4 wide. */
static inline uint64_t cs_kv_block_scale_bytes(uint32_t dtype, uint32_t layout, uint32_t rank,
                                               const uint64_t *dims) {
  if (layout < CS_LAYOUT_KV_TOKEN_MAJOR || layout > CS_LAYOUT_KV_HEAD_MINOR || rank != 4) return 0;
  return cs_kv_scale_bytes(dtype) * dims[1] * dims[2];
}

/* The scale of a row whose largest magnitude this is; NaN where it is not finite. */
static inline float cs_kv_i8_scale(float largest) {
  if (cs_f32_to_bits(largest) >= 0x7f800000u) return cs_f32_from_bits(0x7fc00000u);
  const float scale = largest / CS_KV_I8_LARGEST;
  return scale < 0x1p-126f ? 0 : scale;
}

/* Rounds to nearest even where |x| < 2^22: the sum has no bits behind the point left. */
static inline int32_t cs_kv_nearest(float x) {
  const uint32_t bits = cs_f32_to_bits(x + 0x1.8p23f);
  return (int32_t)(bits - 0x4b400000u);
}

/* The largest magnitude of n elements and of `largest`; infinity where one is not finite. */
static inline float cs_kv_i8_largest(const float *x, size_t n, float largest) {
  uint32_t bits = cs_f32_to_bits(largest);
  for (size_t i = 0; i < n; i++) {
    const uint32_t magnitude = cs_f32_to_bits(x[i]) & 0x7fffffffu;
    bits = magnitude > bits ? magnitude : bits;
  }
  return cs_f32_from_bits(bits > 0x7f800000u ? 0x7f800000u : bits);
}

/* Elements of a row that has this scale. */
static inline void cs_kv_i8_round(int8_t *out, const float *x, float scale, size_t n) {
  const float inverse = scale > 0 ? 1 / scale : 0;
  for (size_t i = 0; i < n; i++)
    out[i] = inverse > 0 ? (int8_t)cs_kv_nearest(x[i] * inverse) : 0;
}

/* Quantizes a row of n, as said above, and returns its scale. */
static inline float cs_kv_i8_from_f32(int8_t *out, const float *x, size_t n) {
  const float scale = cs_kv_i8_scale(cs_kv_i8_largest(x, n, 0));
  cs_kv_i8_round(out, x, scale, n);
  return scale;
}

static inline void cs_kv_f32_from_i8(float *out, const int8_t *x, float scale, size_t n) {
  for (size_t i = 0; i < n; i++)
    out[i] = (float)x[i] * scale;
}

#endif
