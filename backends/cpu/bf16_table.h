/* Makes the functions of a cpu_kernels.bf16_tile of the including file's half_tile, which takes
 * whether weights are f16 as a constant. */
#ifndef CPU_BF16_TABLE_H
#define CPU_BF16_TABLE_H

#include "kernels.h"

void cpu_bf16_tile_f16(uint32_t rows, const uint32_t *panel, const uint16_t *weights,
                       size_t n_pairs, float *out) {
  half_tile(1, rows, panel, weights, n_pairs, out);
}

void cpu_bf16_tile_bf16(uint32_t rows, const uint32_t *panel, const uint16_t *weights,
                        size_t n_pairs, float *out) {
  half_tile(0, rows, panel, weights, n_pairs, out);
}

#endif
