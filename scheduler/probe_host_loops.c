/* Intrinsics with target attributes, so that one build serves every x86-64; on other processors,
 * and as the last choice, plain loops that compilers turn into whatever vectors there are. A loop
 * has 12 chains: enough for latency 4 at two a cycle, few enough for 16 registers. */
#include "scheduler/probe_host_loops.h"

#include <string.h>

#define CHAINS 12

typedef uint64_t words __attribute__((vector_size(64)));

static inline __attribute__((always_inline)) uint64_t read_words(const unsigned char *from,
                                                                 size_t bytes) {
  const words *at = (const words *)(const void *)from;
  words sums[4] = {{0}};
  for (size_t i = 0; i + 4 <= bytes / sizeof *at; i += 4)
    for (size_t j = 0; j < 4; j++)
      sums[j] += at[i + j];
  const words all = sums[0] + sums[1] + sums[2] + sums[3];
  uint64_t result = 0;
  for (size_t i = 0; i < sizeof all / sizeof result; i++)
    result += all[i];
  return result;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_avx2(const unsigned char *from, size_t bytes) {
  return read_words(from, bytes);
}

uint64_t cs_read_loop(const unsigned char *from, size_t bytes) {
  return __builtin_cpu_supports("avx2") ? read_avx2(from, bytes) : read_words(from, bytes);
}
#else
uint64_t cs_read_loop(const unsigned char *from, size_t bytes) {
  return read_words(from, bytes);
}
#endif

/* ---- any processor ---- */

#define PLAIN_LANES 64

static uint64_t plain_f32(uint64_t n_rounds) {
  float sums[PLAIN_LANES];
  for (int j = 0; j < PLAIN_LANES; j++)
    sums[j] = (float)j;
  for (uint64_t i = 0; i < n_rounds; i++)
    for (int j = 0; j < PLAIN_LANES; j++)
      sums[j] = sums[j] * 0.999f + 0.001f;
  float all = 0;
  for (int j = 0; j < PLAIN_LANES; j++)
    all += sums[j];
  return (uint64_t)all;
}

static uint64_t plain_int8(uint64_t n_rounds) {
  uint32_t sums[PLAIN_LANES];
  for (int j = 0; j < PLAIN_LANES; j++)
    sums[j] = (uint32_t)j;
  for (uint64_t i = 0; i < n_rounds; i++)
    for (int j = 0; j < PLAIN_LANES; j++)
      sums[j] = sums[j] * 3 + 7;
  uint64_t all = 0;
  for (int j = 0; j < PLAIN_LANES; j++)
    all += sums[j];
  return all;
}

static const cs_peak_kernel plain_kernels[] = {
    [CS_HOST_F32] = {plain_f32, 2 * PLAIN_LANES},
    [CS_HOST_BF16] = {plain_f32, 2 * PLAIN_LANES},
    [CS_HOST_INT8] = {plain_int8, 2 * PLAIN_LANES},
};

/* ---- x86-64 ---- */

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

__attribute__((target("avx2,fma"))) static uint64_t avx2_f32(uint64_t n_rounds) {
  __m256 sums[CHAINS];
  const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f);
  for (int j = 0; j < CHAINS; j++)
    sums[j] = _mm256_set1_ps((float)j);
  for (uint64_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; j++)
      sums[j] = _mm256_fmadd_ps(sums[j], factor, term);
  for (int j = 1; j < CHAINS; j++)
    sums[0] = _mm256_add_ps(sums[0], sums[j]);
  return (uint64_t)_mm256_cvtss_f32(sums[0]);
}

/* Multiply pairs of bytes, then pairs of sums, then accumulate: each step feeds on the last
 * result, or the compiler would lift it out of the loop. */
__attribute__((target("avx2"))) static uint64_t avx2_int8(uint64_t n_rounds) {
  __m256i sums[CHAINS];
  const __m256i bytes = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  for (int j = 0; j < CHAINS; j++)
    sums[j] = _mm256_set1_epi32(j);
  for (uint64_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; j++) {
      const __m256i pairs = _mm256_maddubs_epi16(sums[j], bytes);
      sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(pairs, ones));
    }
  for (int j = 1; j < CHAINS; j++)
    sums[0] = _mm256_add_epi32(sums[0], sums[j]);
  return (uint64_t)_mm256_extract_epi32(sums[0], 0);
}

__attribute__((target("avx512f"))) static uint64_t avx512_f32(uint64_t n_rounds) {
  __m512 sums[CHAINS];
  const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f);
  for (int j = 0; j < CHAINS; j++)
    sums[j] = _mm512_set1_ps((float)j);
  for (uint64_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; j++)
      sums[j] = _mm512_fmadd_ps(sums[j], factor, term);
  for (int j = 1; j < CHAINS; j++)
    sums[0] = _mm512_add_ps(sums[0], sums[j]);
  return (uint64_t)_mm512_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f,avx512vnni"))) static uint64_t vnni_int8(uint64_t n_rounds) {
  __m512i sums[CHAINS];
  const __m512i a = _mm512_set1_epi32(0x01020304), b = _mm512_set1_epi32(0x04030201);
  for (int j = 0; j < CHAINS; j++)
    sums[j] = _mm512_set1_epi32(j);
  for (uint64_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; j++)
      sums[j] = _mm512_dpbusd_epi32(sums[j], a, b);
  for (int j = 1; j < CHAINS; j++)
    sums[0] = _mm512_add_epi32(sums[0], sums[j]);
  return (uint64_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(sums[0]));
}

__attribute__((target("avx512f,avx512bw,avx512bf16"))) static uint64_t bf16_dot(uint64_t n_rounds) {
  __m512 sums[CHAINS];
  const __m512 ones = _mm512_set1_ps(1e-3f);
  const __m512bh a = _mm512_cvtne2ps_pbh(ones, ones);
  for (int j = 0; j < CHAINS; j++)
    sums[j] = _mm512_set1_ps((float)j);
  for (uint64_t i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; j++)
      sums[j] = _mm512_dpbf16_ps(sums[j], a, a);
  for (int j = 1; j < CHAINS; j++)
    sums[0] = _mm512_add_ps(sums[0], sums[j]);
  return (uint64_t)_mm512_cvtss_f32(sums[0]);
}

/* CPUID leaf 7, subleaf 1, EAX bit 5 is AVX512_BF16: some compilers' own test does
 * not know it. avx512f tells that the operating system keeps the registers. */
static int has_avx512_bf16(void) {
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx512f") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 5 & 1;
}

cs_peak_kernel cs_peak_kernel_for(cs_host_arithmetic arithmetic) {
  const cs_peak_kernel avx2[] = {[CS_HOST_F32] = {avx2_f32, 2 * 8 * CHAINS},
                                 [CS_HOST_BF16] = {avx2_f32, 2 * 8 * CHAINS},
                                 [CS_HOST_INT8] = {avx2_int8, 2 * 32 * CHAINS}};
  if (arithmetic == CS_HOST_INT8 && __builtin_cpu_supports("avx512vnni"))
    return (cs_peak_kernel){vnni_int8, 2 * 64 * CHAINS};
  if (arithmetic == CS_HOST_BF16 && has_avx512_bf16())
    return (cs_peak_kernel){bf16_dot, 2 * 32 * CHAINS};
  if (arithmetic != CS_HOST_INT8 && __builtin_cpu_supports("avx512f"))
    return (cs_peak_kernel){avx512_f32, 2 * 16 * CHAINS};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2[arithmetic];
  return plain_kernels[arithmetic];
}
#else
cs_peak_kernel cs_peak_kernel_for(cs_host_arithmetic arithmetic) {
  return plain_kernels[arithmetic];
}
#endif
