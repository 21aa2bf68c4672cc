/* The modules as SPIR-V, made from the same text by spirv.cmake and into arrays by embed.cmake. */
#include "modules.h"

#include "spirv_arrays.h"

#define SPIRV(name)                                                                                \
  { clc_spirv_##name, sizeof clc_spirv_##name }
#define BOTH(name)                                                                                 \
  { SPIRV(name##_cpu), SPIRV(name##_gpu) }
#define MATMUL_ENTRY(NAME, name) [MODULE_MATMUL_##NAME] = BOTH(matmul_##name),

static const clc_spirv modules[MODULE_LIMIT][CLC_VARIANT_LIMIT] = {
    [MODULE_BASE] = BOTH(base),
    CLC_WEIGHT_FORMATS(MATMUL_ENTRY)[MODULE_ATTENTION_F32] = BOTH(attention_f32),
    [MODULE_ATTENTION_F16] = BOTH(attention_f16),
    [MODULE_ATTENTION_BF16] = BOTH(attention_bf16),
    [MODULE_ATTENTION_F8] = BOTH(attention_f8),
    [MODULE_ATTENTION_I8] = BOTH(attention_i8),
};

clc_spirv clc_module_spirv(clc_module module, clc_variant variant) {
  return modules[module][variant];
}
