/* What lanes.h and blocks_lanes.h ask of Armv8's vectors, which every 64-bit Arm processor has. */
#ifndef CPU_NEON_H
#define CPU_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "formats.h"

typedef float32x4_t lanes;
#define N_LANES 4

/* 4 bytes in the lower half. */
INLINE int8x8_t load_bytes(const void *from) {
  uint32_t bits;
  memcpy(&bits, from, sizeof bits);
  return vreinterpret_s8_u32(vdup_n_u32(bits));
}

INLINE lanes widen_s8(int8x8_t bytes) {
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}

/* As f16 an e4m3 number has 8 less in its exponent; what would be infinity is NaN. */
INLINE lanes widen_f8(int8x8_t bytes) {
  const int16x4_t bits = vget_low_s16(vmovl_s8(bytes));
  const uint16x4_t half = vreinterpret_u16_s16(vshl_n_s16(bits, 7));
  const float16x4_t shifted = vreinterpret_f16_u16(vand_u16(half, vdup_n_u16(0xbfff)));
  const int32x4_t magnitude = vandq_s32(vmovl_s16(bits), vdupq_n_s32(0x7f));
  const uint32x4_t nan = vceqq_s32(magnitude, vdupq_n_s32(0x7f));
  const uint32x4_t value = vreinterpretq_u32_f32(vmulq_n_f32(vcvt_f32_f16(shifted), 256));
  return vreinterpretq_f32_u32(vorrq_u32(value, nan));
}

INLINE lanes load_lanes(const int format, const void *from, size_t i) {
  if (format == F32) return vld1q_f32((const float *)from + i);
  if (format == F8) return widen_f8(load_bytes((const uint8_t *)from + i));
  if (format == I8) return widen_s8(load_bytes((const int8_t *)from + i));
  const uint16x4_t half = vld1_u16((const uint16_t *)from + i);
  if (format == F16) return vcvt_f32_f16(vreinterpret_f16_u16(half));
  return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}

INLINE void lanes_store(float *to, lanes v) {
  vst1q_f32(to, v);
}

INLINE lanes lanes_set(float x) {
  return vdupq_n_f32(x);
}

INLINE lanes lanes_fma(lanes a, lanes b, lanes c) {
  return vfmaq_f32(c, a, b);
}

/* ---- blocks ---- */

typedef int32x4_t ints;

INLINE ints ints_load(const char *from) {
  return vreinterpretq_s32_s8(vld1q_s8((const int8_t *)from));
}

INLINE ints ints_set8(int x) {
  return vreinterpretq_s32_s8(vdupq_n_s8((int8_t)x));
}

INLINE ints ints_word(const char *from) {
  int32_t bits;
  memcpy(&bits, from, sizeof bits);
  return vdupq_n_s32(bits);
}

/* The vector operators take counts that are constant only after inlining; vshlq_n does not. */
INLINE ints ints_shift(ints v, int left) {
  const uint8x16_t bytes = vreinterpretq_u8_s32(v);
  return vreinterpretq_s32_u8(left >= 0 ? bytes << left : bytes >> -left);
}

INLINE ints ints_nibble(ints v, int is_high) {
  return is_high ? ints_shift(v, -4) : vandq_s32(v, ints_set8(15));
}

INLINE ints ints_byte(ints v, int k) {
  const uint32x4_t words = vreinterpretq_u32_s32(v);
  return vreinterpretq_s32_u32(vandq_u32(words >> (8 * k), vdupq_n_u32(255)));
}

INLINE lanes lanes_of(ints v) {
  return vcvtq_f32_s32(v);
}

INLINE lanes lanes_word(const char *from) {
  return vreinterpretq_f32_s32(ints_word(from));
}

INLINE lanes lanes_bytes(const char *from, int is_signed) {
  const int8x8_t bytes = load_bytes(from);
  if (is_signed) return widen_s8(bytes);
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_s8(bytes)))));
}

#endif
