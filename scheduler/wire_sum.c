/* Eight words at a time, written with the compilers' own vectors: the same lines become AVX-512,
 * AVX2, NEON or plain instructions. Where the machine is an x86-64 the best of three is chosen when
 * it is called, as this library is built for the oldest; elsewhere the build's target decides. */
#include <string.h>

#include "scheduler/wire.h"

#define LANES      8
#define GOLDEN     UINT64_C(0x9e3779b97f4a7c15)
#define FIRST_MUL  UINT64_C(0xbf58476d1ce4e5b9)
#define SECOND_MUL UINT64_C(0x94d049bb133111eb)

typedef uint64_t vector_u64 __attribute__((vector_size(LANES * 8)));
typedef uint32_t vector_u32 __attribute__((vector_size(LANES * 4)));

/* consort/ops.h: each little-endian word, mixed with its index. */
static uint64_t mix_word(uint64_t index, const uint8_t *bytes) {
  const uint32_t word = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
                        (uint32_t)bytes[3] << 24;
  uint64_t z = (index << 32 | word) + GOLDEN;
  z = (z ^ z >> 30) * FIRST_MUL;
  z = (z ^ z >> 27) * SECOND_MUL;
  return z ^ z >> 31;
}

/* Of words [0, n), n a multiple of LANES. */
static inline __attribute__((always_inline)) uint64_t sum_vectors(const uint8_t *from, size_t n) {
  vector_u64 sum = {0};
  vector_u64 index = {0, 1, 2, 3, 4, 5, 6, 7};
  index <<= 32;
  for (size_t at = 0; at < n; at += LANES) {
    vector_u32 words;
    memcpy(&words, from + 4 * at, sizeof words);
    vector_u64 z = (index | __builtin_convertvector(words, vector_u64)) + GOLDEN;
    z = (z ^ z >> 30) * FIRST_MUL;
    z = (z ^ z >> 27) * SECOND_MUL;
    sum += z ^ z >> 31;
    index += (uint64_t)LANES << 32;
  }
  uint64_t total = 0;
  for (int i = 0; i < LANES; i++)
    total += sum[i];
  return total;
}

static uint64_t sum_plain(const uint8_t *from, size_t n) {
  return sum_vectors(from, n);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t sum_avx2(const uint8_t *from, size_t n) {
  return sum_vectors(from, n);
}

__attribute__((target("avx512f,avx512dq,avx512vl"))) static uint64_t sum_avx512(const uint8_t *from,
                                                                                size_t n) {
  return sum_vectors(from, n);
}
#endif

static uint64_t sum_words(const uint8_t *from, size_t n) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return sum_avx512(from, n);
  if (__builtin_cpu_supports("avx2")) return sum_avx2(from, n);
#endif
  return sum_plain(from, n);
}

static bool is_little_endian(void) {
  return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
}

uint64_t cs_wire_sum(const void *data, size_t bytes) {
  const uint8_t *const from = data;
  const size_t n = is_little_endian() ? bytes / 4 / LANES * LANES : 0;
  uint64_t sum = sum_words(from, n);
  for (size_t at = 4 * n; at < bytes; at += 4) {
    uint8_t word[4] = {0}; /* the last one may be short: zeroes follow */
    memcpy(word, from + at, bytes - at < 4 ? bytes - at : 4);
    sum += mix_word(at / 4, word);
  }
  return sum;
}
