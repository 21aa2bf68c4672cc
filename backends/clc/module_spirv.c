/* The modules as SPIR-V, made from the same text by spirv.cmake and into arrays by embed.cmake. */
#include "modules.h"

#include "spirv_arrays.h"

#define SPIRV(name)                                                                                \
  { clc_spirv_##name, sizeof clc_spirv_##name }
#define BOTH(name)                                                                                 \
  { SPIRV(name##_cpu), SPIRV(name##_gpu) }

static const clc_spirv modules[MODULE_LIMIT][CLC_VARIANT_LIMIT] = {
    [MODULE_BASE] = BOTH(base),
    [MODULE_MATMUL_F32] = BOTH(matmul_f32),
    [MODULE_MATMUL_F16] = BOTH(matmul_f16),
    [MODULE_MATMUL_BF16] = BOTH(matmul_bf16),
    [MODULE_MATMUL_Q8_0] = BOTH(matmul_q8_0),
    [MODULE_MATMUL_Q4_0] = BOTH(matmul_q4_0),
    [MODULE_ATTENTION_F32] = BOTH(attention_f32),
    [MODULE_ATTENTION_F16] = BOTH(attention_f16),
    [MODULE_ATTENTION_BF16] = BOTH(attention_bf16),
};

clc_spirv clc_module_spirv(clc_module module, clc_variant variant) {
  return modules[module][variant];
}
