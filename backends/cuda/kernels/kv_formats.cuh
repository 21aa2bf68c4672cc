/* KV of 8 bits (consort/kv.h): e4m3, bit for bit what consort/half.h does, and whole numbers whose
 * rows have a scale. */
#ifndef CUDA_KERNELS_KV_FORMATS_CUH
#define CUDA_KERNELS_KV_FORMATS_CUH

#include "common.cuh"

DEVICE uint8_t e4m3_bits(float value) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return (uint8_t)(sign | 0x7eu);
  if (magnitude < 0x3c800000u)
    return (uint8_t)(sign | (__float_as_uint(__uint_as_float(magnitude) + 16384.0f) - 0x46800000u));
  return (uint8_t)(sign | ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u) - 0x3c000000u) >> 20));
}

DEVICE float e4m3_value(uint8_t byte) {
  const uint32_t magnitude = byte & 0x7fu;
  uint32_t bits = (magnitude << 20) + 0x3c000000u;
  if (magnitude < 8) bits = __float_as_uint((float)magnitude * 0.001953125f);
  if (magnitude == 0x7fu) bits = 0x7fc00000u;
  return __uint_as_float((uint32_t)(byte & 0x80u) << 24 | bits);
}

/* The scale of the int8 row that starts at element `place` of a plane. */
DEVICE const float *scale_of(const cuda_plane &plane, uint64_t place) {
  const uint64_t block = place / plane.block_stride * plane.block_stride;
  return (const float *)((const uint8_t *)plane.base + block + plane.block_rows * plane.width) +
         (place - block) / plane.width;
}

#endif
