/* Matmuls of many rows by cuBLASLt, where that library is found; it has 540 MB, so it is loaded and
 * never linked. One object a device, free-threaded. */
#ifndef CUDA_BLAS_H
#define CUDA_BLAS_H

#include <stdbool.h>
#include <stdint.h>

#include "cuda_plugin.h"

/* Of the workspace that a call gets. The library's own advice is 32 MiB on Hopper, 4 MiB before. */
#define CUDA_BLAS_WORKSPACE_BYTES (UINT64_C(32) << 20)

/* out(n, n_out) = x(n, n_in) transpose(weight(n_out, n_in)) + bias + residual; weight and x 16-bit
 * halves of one format, or e4m3 with a float32 scale each and no bias, the rest float32. Strides
 * count elements; bias, residual and the scales may be NULL. */
typedef struct cuda_blas_call {
  uint32_t dtype; /* of weight and x: CS_DTYPE_F16, CS_DTYPE_BF16 or CS_DTYPE_F8_E4M3 */
  uint32_t n, n_out, n_in;
  uint32_t n_stand_ins; /* steps behind the call that do its work where it fails */
  const void *weight, *x, *bias, *residual;
  const void *weight_scale, *x_scale; /* on the device */
  void *out, *workspace;
  uint64_t weight_stride, x_stride, residual_stride, out_stride;
  uint64_t algorithm[8];
} cuda_blas_call;

typedef struct cuda_blas cuda_blas;

/* Does no work yet; NULL when out of memory. */
cuda_blas *cuda_blas_create(cs_plugin_device *device);
void cuda_blas_destroy(cuda_blas *blas);
/* Whether calls may be planned. The first one loads the library; what fails is told in one line of
 * the log, and the device's own kernels serve from then on. */
bool cuda_blas_ready(cuda_blas *blas);
/* Fills call->algorithm with the library's choice for this shape, kept from then on; false where it
 * has none. */
bool cuda_blas_choose(cuda_blas *blas, cuda_blas_call *call);
/* Enqueues the call, with the context current; the stream may be recording. On false nothing was
 * enqueued and no later call is made. */
bool cuda_blas_run(cuda_blas *blas, const cuda_blas_call *call, CUstream stream);

#endif
