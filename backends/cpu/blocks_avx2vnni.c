/* Blocks with AVX2 and vpdpbusd, which multiplies unsigned weights by signed activations and adds
 * four products to a sum: 6 rows at a time. Two extensions have the instruction for 256 bits,
 * AVX-VNNI (VEX, processors without AVX-512) and AVX512-VNNI with VL (EVEX): this file is built
 * once for each. */
#include "avx2.h"

#define SIDE_ROWS 6
#define Q8_OFFSET 128

INLINE ints weight_word(const uint32_t bits, ints w) {
  (void)bits;
  return w;
}

INLINE ints dot(const uint32_t bits, ints sums, ints w, ints x) {
  (void)bits;
#ifdef __AVX512VNNI__
  return _mm256_dpbusd_epi32(sums, w, x);
#else
  return _mm256_dpbusd_avx_epi32(sums, w, x);
#endif
}

#include "blocks_avx2.h"

#ifdef __AVX512VNNI__
const cpu_block_kernels cpu_blocks_avx2vnni_evex = {BLOCKS_OFFSETS, BLOCKS_TABLE};
#else
const cpu_block_kernels cpu_blocks_avx2vnni = {BLOCKS_OFFSETS, BLOCKS_TABLE};
#endif
