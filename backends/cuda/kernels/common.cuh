/* What every kernel shares: number formats, folds over a warp and a block. */
#ifndef CUDA_KERNELS_COMMON_CUH
#define CUDA_KERNELS_COMMON_CUH

#ifndef KERNEL
#include "ptx.cuh"
#endif

#include "args.h"

#define ALL_LANES 0xffffffffu

template <typename T> DEVICE T *row_of(const cuda_rows &rows, uint64_t row) {
  return (T *)rows.base + row * rows.stride;
}

DEVICE float bf16_value(uint16_t bits) {
  return __uint_as_float((uint32_t)bits << 16);
}

/* Bit for bit what consort/half.h does, NaN payloads included. */
DEVICE uint16_t f16_bits(float value) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (magnitude < 0x38800000u)
    return (uint16_t)(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u));
  return (uint16_t)(sign | ((magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13));
}

DEVICE uint16_t bf16_bits(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* As f16_value, NaN payloads included: the conversion instruction may drop them. */
DEVICE float f16_exact(uint16_t bits) {
  if ((bits & 0x7c00u) != 0x7c00u) return f16_value(bits);
  return __uint_as_float((uint32_t)(bits & 0x8000u) << 16 | 0x7f800000u |
                         (uint32_t)(bits & 0x3ffu) << 13);
}

/* Element `index` of a plain array of F32, F16 or BF16. */
DEVICE float load_element(const void *base, uint64_t index, uint32_t dtype) {
  if (dtype == CUDA_F32) return ((const float *)base)[index];
  const uint16_t bits = ((const uint16_t *)base)[index];
  return dtype == CUDA_F16 ? f16_exact(bits) : bf16_value(bits);
}

DEVICE void store_element(void *base, uint64_t index, uint32_t dtype, float value) {
  if (dtype == CUDA_F32)
    ((float *)base)[index] = value;
  else
    ((uint16_t *)base)[index] = dtype == CUDA_F16 ? f16_bits(value) : bf16_bits(value);
}

template <typename T> DEVICE T warp_sum(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

template <typename T> DEVICE T warp_max(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(ALL_LANES, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

/* Over a block of CUDA_THREADS; every thread gets the result. */
template <typename T, bool MAX> DEVICE T block_fold(T value) {
  __shared__ T partial[CUDA_THREADS / 32];
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  value = MAX ? warp_max(value) : warp_sum(value);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = partial[lane % (CUDA_THREADS / 32)];
  value = MAX ? warp_max(value) : warp_sum(lane < CUDA_THREADS / 32 ? value : T(0));
  __syncthreads();
  return value;
}

/* Grows with the value, NaN lowest and both zeros equal, then falls with the index. */
DEVICE unsigned long long order_rank(float value, uint32_t index) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  if (value != value) key = 0;
  return (unsigned long long)key << 32 | (0xffffffffu - index);
}

#endif
