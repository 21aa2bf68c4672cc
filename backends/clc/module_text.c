/* The modules as OpenCL C text, made into arrays by embed.cmake. */
#include "modules.h"

#include "text_arrays.h"

#define MATMUL                                                                                     \
  { clc_text_matmul_cpu, clc_text_matmul_gpu }
#define ATTENTION                                                                                  \
  { clc_text_attention_cpu, clc_text_attention_gpu }
#define OPTIONS(format)                                                                            \
  { "-cl-std=CL1.2 -DVARIANT_CPU" format, "-cl-std=CL1.2 -DVARIANT_GPU" format }
#define MATMUL_ENTRY(NAME, name) [MODULE_MATMUL_##NAME] = {MATMUL, OPTIONS(" -DWEIGHT=" #NAME)},

static const struct module_text {
  const char *text[CLC_VARIANT_LIMIT];
  const char *options[CLC_VARIANT_LIMIT];
} modules[MODULE_LIMIT] = {
    [MODULE_BASE] = {{clc_text_base, clc_text_base}, OPTIONS("")},
    CLC_WEIGHT_FORMATS(MATMUL_ENTRY)[MODULE_ATTENTION_F32] = {ATTENTION, OPTIONS(" -DKV=F32")},
    [MODULE_ATTENTION_F16] = {ATTENTION, OPTIONS(" -DKV=F16")},
    [MODULE_ATTENTION_BF16] = {ATTENTION, OPTIONS(" -DKV=BF16")},
    [MODULE_ATTENTION_F8] = {ATTENTION, OPTIONS(" -DKV=F8")},
    [MODULE_ATTENTION_I8] = {ATTENTION, OPTIONS(" -DKV=I8")},
};

const char *clc_module_text(clc_module module, clc_variant variant) {
  return modules[module].text[variant];
}

const char *clc_module_options(clc_module module, clc_variant variant) {
  return modules[module].options[variant];
}
