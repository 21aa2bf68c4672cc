/* All kernels as one module: nvcc starts once, and the driver loads one image. */
#include <stdint.h>

#include "attention.cuh"
#include "fp8.cuh"
#include "kv.cuh"
#include "matmul.cuh"
#include "rows.cuh"
