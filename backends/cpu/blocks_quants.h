/* A word of weights taken out of a packed block, for tables that use blocks_lanes.h. */
#ifndef CPU_BLOCKS_QUANTS_H
#define CPU_BLOCKS_QUANTS_H

#include "blocks.h"
#include "vector.h"

/* Word j of the N_LANES columns that `block` points at; unsigned. */
INLINE ints quant_word(const uint32_t bits, const char *block, const int j) {
  if (bits == 8) return ints_load(block + 64 * j);
  const ints nibble = ints_nibble(ints_load(block + 64 * (j % 4)), j >= 4);
  if (bits == 4) return nibble;
  const ints upper = ints_load(block + 256 + (bits == 6 ? j / 4 * 64 : 0));
  const ints placed = ints_shift(upper, bits == 6 ? 4 - 2 * (j % 4) : 4 - j);
  return nibble | (placed & ints_set8(bits == 6 ? 0x30 : 0x10));
}

#endif
