/* The modules of kernels/, each compiled for one number format and one variant: as OpenCL C text
 * with its options, and as SPIR-V. Who uses one form does not link the other. */
#ifndef CLC_MODULES_H
#define CLC_MODULES_H

#include <stddef.h>

/* Which of the kernels a device runs. */
typedef enum clc_variant { CLC_VARIANT_CPU, CLC_VARIANT_GPU, CLC_VARIANT_LIMIT } clc_variant;

/* The formats of weights: CS_DTYPE_* and file name. CMakeLists.txt has the same list. */
#define CLC_WEIGHT_FORMATS(X)                                                                      \
  X(F32, f32)                                                                                      \
  X(F16, f16)                                                                                      \
  X(BF16, bf16)                                                                                    \
  X(Q8_0, q8_0)                                                                                    \
  X(Q4_0, q4_0)                                                                                    \
  X(Q4_1, q4_1)                                                                                    \
  X(Q5_0, q5_0)                                                                                    \
  X(Q5_1, q5_1)                                                                                    \
  X(Q2_K, q2_k)                                                                                    \
  X(Q3_K, q3_k)                                                                                    \
  X(Q4_K, q4_k)                                                                                    \
  X(Q5_K, q5_k)                                                                                    \
  X(Q6_K, q6_k)                                                                                    \
  X(IQ4_NL, iq4_nl)                                                                                \
  X(IQ4_XS, iq4_xs)

#define CLC_MATMUL_MODULE(NAME, name) MODULE_MATMUL_##NAME,
typedef enum clc_module {
  MODULE_BASE,
  CLC_WEIGHT_FORMATS(CLC_MATMUL_MODULE) MODULE_ATTENTION_F32,
  MODULE_ATTENTION_F16,
  MODULE_ATTENTION_BF16,
  MODULE_ATTENTION_F8,
  MODULE_ATTENTION_I8,
  MODULE_LIMIT
} clc_module;

typedef enum clc_kernel {
  KERNEL_ADD,
  KERNEL_SILU_MUL,
  KERNEL_GELU_MUL,
  KERNEL_CAST,
  KERNEL_COPY_WORDS,
  KERNEL_COPY_BYTES,
  KERNEL_ROPE,
  KERNEL_GATHER_ROWS,
  KERNEL_GATHER_TILES,
  KERNEL_RMS_NORM,
  KERNEL_ARGMAX,
  KERNEL_TOP_K,
  KERNEL_KV_WRITE,
  KERNEL_KV_MOVE,
  KERNEL_WIRE_SUM,
  KERNEL_WIRE_SUM_FINISH,
  KERNEL_KV_COPY_BLOCKS,
  KERNEL_MOE_ROUTE,
  KERNEL_MOE_COMBINE,
  KERNEL_MATMUL_VECTOR,
  KERNEL_MATMUL_BLOCK,
  KERNEL_ATTENTION_PAGED,
  KERNEL_LIMIT
} clc_kernel;

/* The kernel's function name. */
const char *clc_kernel_name(clc_kernel kernel);

/* "cpu" or "gpu". */
const char *clc_variant_name(clc_variant variant);

/* The whole OpenCL C text of a module, NUL-terminated, and what its compiler must be told. */
const char *clc_module_text(clc_module module, clc_variant variant);
const char *clc_module_options(clc_module module, clc_variant variant);

/* SPIR-V 1.2 of a module, aligned to 4 bytes. */
typedef struct clc_spirv {
  const unsigned char *data;
  size_t bytes;
} clc_spirv;

clc_spirv clc_module_spirv(clc_module module, clc_variant variant);

#endif
