/* The float loops for Armv8's vectors: what lanes.h asks for beside neon.h. Of the 32 registers a
 * tile of 6 rows x 16 columns takes 24. The tables differ in their blocks, and in bf16 tiles. */
#include "neon.h"

INLINE void lanes_store_f16(uint16_t *to, lanes v) {
  vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}

INLINE void lanes_sums(const lanes v[4], float out[4]) {
  vst1q_f32(out, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
}

INLINE lanes lanes_clamp(lanes v, float most) {
  return vmaxq_f32(vdupq_n_f32(-most), vminq_f32(vdupq_n_f32(most), v));
}

INLINE lanes lanes_round(lanes v) {
  return vrndnq_f32(v);
}

INLINE float32x4_t power_of_two(int32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

/* In two halves, each of which is a normal number. */
INLINE lanes lanes_scale(lanes v, lanes n) {
  const int32x4_t whole = vcvtq_s32_f32(n), first = vshrq_n_s32(whole, 1);
  return v * power_of_two(first) * power_of_two(vsubq_s32(whole, first));
}

/* Four rows at a time: pairs of floats change places, then pairs of pairs. */
static void transpose8(const float *x, size_t stride, size_t n, float *out) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (size_t r = 0; r < 8; r += 4) {
      const float *from = x + r * stride + i;
      float *to = out + i * 8 + r;
      const float32x4x2_t a = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + stride));
      const float32x4x2_t b = vtrnq_f32(vld1q_f32(from + 2 * stride), vld1q_f32(from + 3 * stride));
      for (size_t k = 0; k < 2; k++) {
        vst1q_f32(to + 8 * k, vcombine_f32(vget_low_f32(a.val[k]), vget_low_f32(b.val[k])));
        vst1q_f32(to + 8 * k + 16, vcombine_f32(vget_high_f32(a.val[k]), vget_high_f32(b.val[k])));
      }
    }
  for (; i < n; i++)
    for (size_t r = 0; r < 8; r++)
      out[i * 8 + r] = x[r * stride + i];
}

static double sum_squares(const float *x, size_t n) {
  float64x2_t low = vdupq_n_f64(0), high = vdupq_n_f64(0);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const float32x4_t v = vld1q_f32(x + i);
    const float64x2_t a = vcvt_f64_f32(vget_low_f32(v)), b = vcvt_high_f64_f32(v);
    low = vfmaq_f64(low, a, a);
    high = vfmaq_f64(high, b, b);
  }
  double sum = vaddvq_f64(vaddq_f64(low, high));
  for (; i < n; i++)
    sum += (double)x[i] * (double)x[i];
  return sum;
}

#include "lanes.h"

const cpu_kernels cpu_kernels_neon = {.name = "neon", .blocks = &cpu_blocks_neon, KERNELS_TABLE};
const cpu_kernels cpu_kernels_neon_dotprod = {
    .name = "neon-dotprod", .blocks = &cpu_blocks_neon_dotprod, KERNELS_TABLE};
const cpu_kernels cpu_kernels_neon_i8mm = {.name = "neon-i8mm",
                                           .blocks = &cpu_blocks_neon_i8mm,
                                           .bf16_tile = {cpu_bf16_tile_f16, cpu_bf16_tile_bf16},
                                           KERNELS_TABLE};
