/* Makes a cpu_kernels of the loops of the including file, which defines all of them before. Where
 * cpu_kernels has a function a format, the file has one whose first argument is the format, a
 * constant: float_tile, score_tile, mix_tile, to_f32 and from_f32 (not called for F32). */
#ifndef CPU_KERNELS_TABLE_H
#define CPU_KERNELS_TABLE_H

#include <string.h>

#include "formats.h"
#include "kernels.h"
#include "soften.h"
#include "word_sum.h"

#define FLOAT_KERNELS(name, format)                                                                \
  static void float_tile_##name(uint32_t rows, const float *panel, const void *weights, size_t n,  \
                                float *out) {                                                      \
    float_tile(format, rows, panel, weights, n, out);                                              \
  }

#define KV_KERNELS(name, format)                                                                   \
  static void score_tile_##name(uint32_t rows, const float *const *q, const void *k,               \
                                size_t k_stride_bytes, size_t n, float *out) {                     \
    score_tile(format, rows, q, k, k_stride_bytes, n, out);                                        \
  }                                                                                                \
  static void mix_tile_##name(uint32_t rows, const float *p, size_t p_stride, size_t n_tokens,     \
                              const void *v, size_t v_stride_bytes, size_t width, float *out,      \
                              size_t out_stride) {                                                 \
    mix_tile(format, rows, p, p_stride, n_tokens, v, v_stride_bytes, width, out, out_stride);      \
  }                                                                                                \
  static void to_f32_##name(float *out, const void *x, size_t n) {                                 \
    to_f32(format, out, x, n);                                                                     \
  }

#define FROM_F32(name, format)                                                                     \
  static void from_f32_##name(void *out, const float *x, size_t n) {                               \
    from_f32(format, out, x, n);                                                                   \
  }

FLOAT_KERNELS(f32, F32)
FLOAT_KERNELS(f16, F16)
FLOAT_KERNELS(bf16, BF16)
KV_KERNELS(f32, F32)
KV_KERNELS(f16, F16)
KV_KERNELS(bf16, BF16)
KV_KERNELS(f8, F8)
KV_KERNELS(i8, I8)
FROM_F32(f16, F16)
FROM_F32(bf16, BF16)
FROM_F32(f8, F8)

static void from_f32_f32(void *out, const float *x, size_t n) {
  memmove(out, x, n * sizeof *x);
}

static bool soften(float *scores, size_t n, float *largest, float *total, float *shrink) {
  return cpu_soften(scores, n, largest, total, shrink, exp_sum);
}

static uint64_t word_sum(const unsigned char *bytes, uint64_t first, size_t n) {
  return cpu_word_sum(bytes, first, n);
}

/* Name, blocks and bf16 are left to the file. */
#define KERNELS_TABLE                                                                              \
  .float_tile = {float_tile_f32, float_tile_f16, float_tile_bf16},                                 \
  .score_tile = {score_tile_f32, score_tile_f16, score_tile_bf16, score_tile_f8, score_tile_i8},   \
  .mix_tile = {mix_tile_f32, mix_tile_f16, mix_tile_bf16, mix_tile_f8, mix_tile_i8},               \
  .transpose8 = transpose8, .soften = soften, .word_sum = word_sum, .exp_sum = exp_sum,            \
  .silu_mul = silu_mul, .add = add, .sum_squares = sum_squares, .scale_mul = scale_mul,            \
  .to_f32 = {to_f32_f32, to_f32_f16, to_f32_bf16, to_f32_f8, to_f32_i8},                           \
  .from_f32 = {from_f32_f32, from_f32_f16, from_f32_bf16, from_f32_f8}

#endif
