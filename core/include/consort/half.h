/* Conversions between float32 and the floats of 16 and 8 bits, rounding to nearest even.
 * Header-only, so that host, plugins and the kit round alike. */
#ifndef CONSORT_HALF_H
#define CONSORT_HALF_H

#include <stdint.h>
#include <string.h>

static inline float cs_f32_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t cs_f32_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float cs_f32_from_bf16(uint16_t half) {
  return cs_f32_from_bits((uint32_t)half << 16);
}

static inline uint16_t cs_bf16_from_f32(float value) {
  const uint32_t bits = cs_f32_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u); /* quiet NaN */
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float cs_f32_from_f16(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
  const uint32_t exponent = half >> 10 & 0x1fu;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 31) return cs_f32_from_bits(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return cs_f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = (float)fraction * 0x1p-24f; /* subnormal or zero, exact */
  return sign ? -magnitude : magnitude;
}

static inline uint16_t cs_f16_from_f32(float value) {
  const uint32_t bits = cs_f32_to_bits(value);
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* quiet NaN */
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds past 65504 */
  if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 aligns the fraction to 2^-24 */
    const float aligned = cs_f32_from_bits(magnitude) + 0.5f;
    return (uint16_t)(sign | (cs_f32_to_bits(aligned) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

/* E4M3 has 4 bits of exponent (bias 7), 3 of fraction, no infinity, and NaN as 0x7f; its largest
 * number is 448, its smallest 2^-9. */
static inline float cs_f32_from_e4m3(uint8_t bits) {
  const uint32_t sign = (uint32_t)(bits & 0x80u) << 24;
  const uint32_t exponent = bits >> 3 & 0xfu, fraction = bits & 7u;
  if ((bits & 0x7fu) == 0x7fu) return cs_f32_from_bits(sign | 0x7fc00000u);
  if (exponent != 0) return cs_f32_from_bits(sign | (exponent + 120) << 23 | fraction << 20);
  const float magnitude = (float)fraction * 0x1p-9f; /* subnormal or zero, exact */
  return sign ? -magnitude : magnitude;
}

/* What is larger than 448, infinity included, becomes 448. */
static inline uint8_t cs_e4m3_from_f32(float value) {
  const uint32_t bits = cs_f32_to_bits(value);
  const uint8_t sign = (uint8_t)(bits >> 24 & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return (uint8_t)(sign | 0x7eu);
  if (magnitude < 0x3c800000u) { /* below 2^-6: adding 2^14 aligns the fraction to 2^-9 */
    const float aligned = cs_f32_from_bits(magnitude) + 0x1p14f;
    return (uint8_t)(sign | (cs_f32_to_bits(aligned) - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
  return (uint8_t)(sign | ((rounded - 0x3c000000u) >> 20));
}

#endif
