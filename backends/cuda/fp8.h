/* Matrices of e4m3 with one scale, for products by cuBLASLt (fp8=always). */
#ifndef CUDA_FP8_H
#define CUDA_FP8_H

#include "cuda_plugin.h"

#define CUDA_FP8_CAPABILITY 89 /* the first whose tensor cores take e4m3 */

/* Whether a weight(n_out, n_in) of this dtype has a copy in e4m3 on this device. */
bool cuda_fp8_suits(const cs_plugin_device *device, uint32_t dtype, uint64_t n_out);
/* Bytes of a matrix with its scale and what making it takes; grows with both. */
uint64_t cuda_fp8_bytes(uint64_t n_rows, uint64_t n_columns);
/* The arguments of its three kernels, with the matrix at `base`, on 256 bytes: x(n_rows, n_columns)
 * of F32, F16 or BF16 is what it is made of. */
cuda_fp8_args cuda_fp8_place(void *base, cuda_rows x, uint32_t x_dtype, uint64_t n_rows,
                             uint64_t n_columns);
/* Makes the copy of a weight and waits for it, with the context current. */
CUresult cuda_fp8_convert(const cs_plugin_device *device, const cuda_fp8_args *args);

#endif
