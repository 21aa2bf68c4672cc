/* The sum that KV transfers are verified by, the same text for every table: the compiler makes
 * vectors of it for the instructions that the including file is built for. */
#ifndef CPU_WORD_SUM_H
#define CPU_WORD_SUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* docs/abi.md, kv_gather: each little-endian word is mixed with its index. */
static inline uint64_t cpu_mix_word(uint64_t index, uint32_t word) {
  uint64_t z = (index << 32 | word) + UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

/* See cpu_kernels.word_sum. */
static inline uint64_t cpu_word_sum(const unsigned char *bytes, uint64_t first, size_t n) {
  uint64_t sum = 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t word;
    memcpy(&word, bytes + 4 * i, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap32(word);
#endif
    sum += cpu_mix_word(first + i, word);
  }
  return sum;
}

#endif
