/* Chooses by what the processor and the operating system report at run time, so that one binary
 * serves every machine of its architecture. */
#include "kernels.h"

#include <stdio.h>
#include <string.h>

/* Best first. Two may share a name: one text built for two encodings. */
typedef struct table_choice {
  const cpu_kernels *kernels;
  bool (*runs)(void);
} table_choice;

static bool has_nothing_special(void) {
  return true;
}

#ifdef CPU_X86_KERNELS
#include <cpuid.h>

/* Every processor with AVX2 converts f16 too; not every compiler knows that feature's name. */
static bool has_avx2(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* AVX-VNNI: Intel's manual, CPUID leaf 7, sub-leaf 1, EAX bit 4. */
static bool has_avx2vnni(void) {
  unsigned a = 0, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1) != 0;
}

static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

static bool has_bf16(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16");
}

static const table_choice choices[] = {{&cpu_kernels_avx512, has_avx512},
                                       {&cpu_kernels_avx2vnni, has_avx2vnni},
                                       {&cpu_kernels_avx2vnni_evex, has_avx512},
                                       {&cpu_kernels_avx2, has_avx2},
                                       {&cpu_kernels_generic, has_nothing_special}};

#elif defined CPU_ARM_KERNELS
#include <asm/hwcap.h>
#include <sys/auxv.h>

static bool has_dotprod(void) {
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

static bool has_i8mm(void) {
  return has_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
}

static bool has_bf16(void) {
  return (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
}

static const table_choice choices[] = {{&cpu_kernels_neon_i8mm, has_i8mm},
                                       {&cpu_kernels_neon_dotprod, has_dotprod},
                                       {&cpu_kernels_neon, has_nothing_special},
                                       {&cpu_kernels_generic, has_nothing_special}};

#else

static bool has_bf16(void) {
  return false;
}

static const table_choice choices[] = {{&cpu_kernels_generic, has_nothing_special}};

#endif

#define N_CHOICES (sizeof choices / sizeof *choices)

const cpu_kernels *cpu_kernels_find(const char *name) {
  for (size_t i = 0; i < N_CHOICES; i++)
    if ((!name || strcmp(name, choices[i].kernels->name) == 0) && choices[i].runs())
      return choices[i].kernels;
  return NULL;
}

void cpu_kernels_names(char *to, size_t bytes) {
  size_t used = 0;
  const char *last = "";
  to[0] = '\0';
  for (size_t i = 0; i < N_CHOICES && used < bytes; i++) {
    const char *name = choices[i].kernels->name;
    if (!choices[i].runs() || strcmp(name, last) == 0) continue;
    used += (size_t)snprintf(to + used, bytes - used, "%s%s", used ? ", " : "", name);
    last = name;
  }
}

bool cpu_kernels_have_bf16(const cpu_kernels *kernels) {
  return kernels->bf16_tile[0] && has_bf16();
}
