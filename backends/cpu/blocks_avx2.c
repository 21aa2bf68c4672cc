/* Blocks with AVX2 alone, 3 rows at a time. vpmaddubsw multiplies unsigned by signed and saturates
 * at 16 bits: for 8-bit weights the sign moves from weight to activation, |w| * (x * sign(w)),
 * whose pairs stay within 2 * 128 * 127; shorter quants are small enough as they are. */
#include "avx2.h"

#define SIDE_ROWS 3
#define Q8_OFFSET 0

INLINE ints weight_word(const uint32_t bits, ints w) {
  return bits == 8 ? _mm256_xor_si256(w, ints_set8(0x80)) : w;
}

INLINE ints dot(const uint32_t bits, ints sums, ints w, ints x) {
  const __m256i pairs = bits == 8 ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                                  : _mm256_maddubs_epi16(w, x);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#include "blocks_avx2.h"

const cpu_block_kernels cpu_blocks_avx2 = {BLOCKS_OFFSETS, BLOCKS_TABLE};
