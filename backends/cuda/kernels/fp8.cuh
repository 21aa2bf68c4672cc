/* Matrices as e4m3 with one scale: the largest magnitude becomes 448, the largest that e4m3 has.
 * Three launches, without atomics, so that a result does not depend on their order. */
#ifndef CUDA_KERNELS_FP8_CUH
#define CUDA_KERNELS_FP8_CUH

#include "kv_formats.cuh"

#define E4M3_LARGEST   448.0f
#define FINITE_LARGEST 3.402823466e38f
#define NORMAL_LEAST   1.175494351e-38f

/* largest(n_rows): the largest finite magnitude of each row of x(n_rows, n_columns). Block (row).
 */
KERNEL(fp8_largest, cuda_fp8_args, CUDA_THREADS) {
  const uint64_t start = blockIdx.x * a.x.stride;
  float largest = 0.0f;
  for (uint64_t i = threadIdx.x; i < a.n_columns; i += CUDA_THREADS) {
    const float magnitude = fabsf(load_element(a.x.base, start + i, a.x_dtype));
    if (magnitude > largest && magnitude <= FINITE_LARGEST) largest = magnitude;
  }
  largest = block_fold<float, true>(largest);
  if (threadIdx.x == 0) ((float *)a.largest)[blockIdx.x] = largest;
}

/* The scale, of largest(n_rows). One block. */
KERNEL(fp8_scale, cuda_fp8_args, CUDA_THREADS) {
  float largest = 0.0f;
  for (uint32_t i = threadIdx.x; i < a.n_rows; i += CUDA_THREADS) {
    const float row = ((const float *)a.largest)[i];
    if (row > largest) largest = row;
  }
  const float scale = block_fold<float, true>(largest) / E4M3_LARGEST;
  if (threadIdx.x == 0) *(float *)a.scale = scale >= NORMAL_LEAST ? scale : 1.0f;
}

/* out(n_rows, out_stride) = x / scale, zeros behind the columns; infinity becomes NaN. Block (row,
 * span). */
KERNEL(fp8_rows, cuda_fp8_args, CUDA_THREADS) {
  const uint64_t from = blockIdx.x * a.x.stride, to = blockIdx.x * a.out_stride;
  const uint64_t end = ((uint64_t)blockIdx.y + 1) * CUDA_SPAN;
  const float scale = *(const float *)a.scale;
  for (uint64_t i = (uint64_t)blockIdx.y * CUDA_SPAN + threadIdx.x; i < end && i < a.out_stride;
       i += CUDA_THREADS) {
    const float value = i < a.n_columns ? load_element(a.x.base, from + i, a.x_dtype) : 0.0f;
    const bool finite = fabsf(value) <= FINITE_LARGEST;
    ((uint8_t *)a.out)[to + i] = finite ? e4m3_bits(value / scale) : (uint8_t)0x7f;
  }
}

#endif
