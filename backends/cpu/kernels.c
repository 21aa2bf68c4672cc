/* Chooses by what the processor and the operating system report at run time, so that one binary
 * serves every machine of its architecture. */
#include "kernels.h"

#include <string.h>

#ifdef CPU_X86_KERNELS

/* Every processor with AVX2 converts f16 too; not every compiler knows that feature's name. */
static bool has_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

const cpu_kernels *cpu_kernels_find(const char *name) {
  __builtin_cpu_init();
  if (has_avx512() && (!name || strcmp(name, "avx512") == 0)) return &cpu_kernels_avx512;
  if (has_avx2() && (!name || strcmp(name, "avx2") == 0)) return &cpu_kernels_avx2;
  if (!name || strcmp(name, "generic") == 0) return &cpu_kernels_generic;
  return NULL;
}

bool cpu_kernels_have_bf16(const cpu_kernels *kernels) {
  __builtin_cpu_init();
  return kernels->bf16_tile[0] && __builtin_cpu_supports("avx512bf16");
}

#else

bool cpu_kernels_have_bf16(const cpu_kernels *kernels) {
  (void)kernels;
  return false;
}

const cpu_kernels *cpu_kernels_find(const char *name) {
  return !name || strcmp(name, "generic") == 0 ? &cpu_kernels_generic : NULL;
}

#endif
