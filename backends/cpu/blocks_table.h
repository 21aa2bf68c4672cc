/* Makes a cpu_block_kernels of the including file's loops, which take the format as constants and
 * are defined before:
 *   quantize_row      of cpu_block_kernels
 *   block_tile(bits, kind, rows, panel, weights, n_blocks, out)
 *                     as cpu_block_kernels.tile
 *   block_floats(bits, kind, weights, scales, b, out)
 *                     values (32, 16) of a block, from its quants and the scales of its group, of
 *                     which it is block b
 *   Q8_OFFSET         for BLOCKS_OFFSETS: what is on top of an 8-bit weight when it meets x, 0 or
 *                     128 */
#ifndef CPU_BLOCKS_TABLE_H
#define CPU_BLOCKS_TABLE_H

#include "blocks.h"
#include "vector.h"

INLINE void panel_floats(const uint32_t bits, const cpu_scales kind, const char *weights,
                         size_t n_blocks, float *out) {
  const size_t group = cpu_group_blocks(kind), quant_bytes = cpu_quant_bytes(bits);
  while (n_blocks > 0) {
    const char *scales = weights + group * quant_bytes;
    const size_t n = n_blocks < group ? n_blocks : group;
    for (size_t b = 0; b < n; b++, out += CPU_BLOCK * CPU_PANEL_COLUMNS)
      block_floats(bits, kind, weights + b * quant_bytes, scales, b, out);
    weights = scales + cpu_scale_bytes(kind);
    n_blocks -= n;
  }
}

#define BLOCK_KERNELS(name, index, bits, kind)                                                     \
  static void tile_##name(uint32_t rows, const void *panel, const void *weights, size_t n_blocks,  \
                          float *out) {                                                            \
    block_tile(bits, kind, rows, panel, weights, n_blocks, out);                                   \
  }                                                                                                \
  static void floats_##name(const void *weights, size_t n_blocks, float *out) {                    \
    panel_floats(bits, kind, weights, n_blocks, out);                                              \
  }

CPU_BLOCK_TABLE(BLOCK_KERNELS)

#define TILE(name, index, bits, kind)   [index] = tile_##name,
#define FLOATS(name, index, bits, kind) [index] = floats_##name,

#define BLOCKS_TABLE                                                                               \
  .quantize_row = quantize_row, .tile = {CPU_BLOCK_TABLE(TILE)}, .floats = {CPU_BLOCK_TABLE(FLOATS)}

#define BLOCKS_OFFSETS                                                                             \
  .offset = {[CPU_Q8_0] = Q8_OFFSET, [CPU_Q4_0] = 8, [CPU_Q5_0] = 16, [CPU_Q6_K] = 32}

#endif
