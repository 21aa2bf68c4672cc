/* A weight that products in FP8 may read is kept twice: in 16 bits for few rows and for whatever
 * the library refuses, and in e4m3. The library takes matrices on 16 bytes, so rows are padded. */
#include "fp8.h"

#define HEAD_BYTES 256 /* the scale alone: what follows it stays aligned */

static uint64_t round_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

bool cuda_fp8_suits(const cs_plugin_device *device, uint32_t dtype, uint64_t n_out) {
  return device->use_fp8 && (dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16) && n_out % 16 == 0;
}

uint64_t cuda_fp8_bytes(uint64_t n_rows, uint64_t n_columns) {
  return HEAD_BYTES + round_up(n_rows * sizeof(float), 256) +
         round_up(n_rows * round_up(n_columns, 16), 256);
}

cuda_fp8_args cuda_fp8_place(void *base, cuda_rows x, uint32_t x_dtype, uint64_t n_rows,
                             uint64_t n_columns) {
  const uintptr_t at = (uintptr_t)base;
  return (cuda_fp8_args){.x = x,
                         .scale = base,
                         .largest = (void *)(at + HEAD_BYTES),
                         .out = (void *)(at + HEAD_BYTES + round_up(n_rows * sizeof(float), 256)),
                         .out_stride = round_up(n_columns, 16),
                         .n_columns = n_columns,
                         .n_rows = (uint32_t)n_rows,
                         .x_dtype = x_dtype};
}

CUresult cuda_fp8_convert(const cs_plugin_device *device, const cuda_fp8_args *args) {
  static const cuda_kernel kernels[] = {KERNEL_fp8_largest, KERNEL_fp8_scale, KERNEL_fp8_rows};
  const cuda_driver *driver = device->driver;
  const uint32_t spans = (uint32_t)((args->out_stride + CUDA_SPAN - 1) / CUDA_SPAN);
  const uint32_t grids[][2] = {{args->n_rows, 1}, {1, 1}, {args->n_rows, spans}};
  cuda_fp8_args copy = *args;
  void *arguments[] = {&copy};
  CUstream stream;
  CUresult code = driver->StreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  if (code != CUDA_SUCCESS) return code;
  for (size_t i = 0; i < sizeof kernels / sizeof kernels[0] && code == CUDA_SUCCESS; i++)
    code = driver->LaunchKernel(device->kernels[kernels[i]], grids[i][0], grids[i][1], 1,
                                CUDA_THREADS, 1, 1, 0, stream, arguments, NULL);
  const CUresult end = driver->StreamSynchronize(stream);
  driver->StreamDestroy(stream);
  return code == CUDA_SUCCESS ? end : code;
}
