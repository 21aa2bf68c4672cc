/* The formats that inner loops read and write, an element at a time. */
#ifndef CPU_FORMATS_H
#define CPU_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "consort/half.h"
#include "vector.h"

/* In the order of a table's functions; see CPU_N_FLOATS and CPU_N_KV. */
enum { F32, F16, BF16, F8, I8 };

INLINE float load_one(const int format, const void *from, size_t i) {
  if (format == F32) return ((const float *)from)[i];
  if (format == F16) return cs_f32_from_f16(((const uint16_t *)from)[i]);
  if (format == BF16) return cs_f32_from_bf16(((const uint16_t *)from)[i]);
  return format == F8 ? cs_f32_from_e4m3(((const uint8_t *)from)[i]) : ((const int8_t *)from)[i];
}

/* Element i on of n floats, in F16, BF16 or F8. */
INLINE void store_rest(const int format, void *to, const float *x, size_t i, size_t n) {
  for (; i < n; i++) {
    if (format == F16) ((uint16_t *)to)[i] = cs_f16_from_f32(x[i]);
    if (format == BF16) ((uint16_t *)to)[i] = cs_bf16_from_f32(x[i]);
    if (format == F8) ((uint8_t *)to)[i] = cs_e4m3_from_f32(x[i]);
  }
}

#endif
