/* The portable loops over blocks: plain C, written as the reference for the others. */
#include <math.h>
#include <string.h>

#include "blocks.h"
#include "vector.h"

static void quantize_row(const float *x, size_t n_blocks, uint32_t row, uint32_t rows,
                         cpu_x_extra extra, int32_t offset, void *panel) {
  for (size_t b = 0; b < n_blocks; b++, x += CPU_BLOCK) {
    char *block = (char *)panel + b * cpu_x_block_bytes(extra, rows);
    int8_t *q = (int8_t *)block + (size_t)row * CPU_BLOCK;
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < CPU_BLOCK; i++) {
      if (!isfinite(x[i])) finite = false;
      largest = fmaxf(largest, fabsf(x[i]));
    }
    float scale = largest / 127;
    const float inverse = finite && scale > 0x1p-126f ? 1 / scale : 0;
    int32_t sums[2] = {0, 0};
    for (size_t i = 0; i < CPU_BLOCK; i++) {
      q[i] = inverse != 0 ? (int8_t)lrintf(x[i] * inverse) : 0;
      sums[i / 16] += q[i];
    }
    if (!finite) scale = NAN;
    cpu_x_finish(block, row, rows, scale, sums[0], sums[1], extra, offset);
  }
}

INLINE void block_tile(const uint32_t bits, const cpu_scales kind, uint32_t rows, const void *panel,
                       const unsigned char *weights, size_t n_blocks, float *out) {
  const cpu_x_extra extra = cpu_x_extra_of(kind);
  const int32_t zero = cpu_block_zero(bits, kind);
  for (size_t b = 0; b < n_blocks; b++) {
    const size_t in_group = b % cpu_group_blocks(kind);
    const unsigned char *group = weights + cpu_blocks_bytes(bits, kind, b - in_group);
    const unsigned char *quants = group + in_group * cpu_quant_bytes(bits);
    const unsigned char *scales = group + cpu_group_scales(bits, kind);
    const char *block = (const char *)panel + b * cpu_x_block_bytes(extra, rows);
    const float *x_scales = (const float *)(const void *)(block + (size_t)rows * CPU_BLOCK);
    const float *x_sums = x_scales + rows;
    for (uint32_t c = 0; c < CPU_PANEL_COLUMNS; c++) {
      int32_t w[CPU_BLOCK];
      for (uint32_t i = 0; i < CPU_BLOCK; i++)
        w[i] = cpu_block_quant(bits, quants, c, i) - zero;
      const float low = cpu_block_scale(kind, scales, in_group, c, 0);
      const float high = cpu_block_scale(kind, scales, in_group, c, 1);
      const float min = cpu_block_min(kind, scales, in_group, c);
      for (uint32_t r = 0; r < rows; r++) {
        const int8_t *q = (const int8_t *)block + (size_t)r * CPU_BLOCK;
        int32_t sums[2] = {0, 0};
        for (uint32_t i = 0; i < CPU_BLOCK; i++)
          sums[i / 16] += q[i] * w[i];
        float *to = &out[r * CPU_PANEL_COLUMNS + c];
        *to += x_scales[r] * (low * (float)sums[0] + high * (float)sums[1]);
        if (extra == CPU_X_SUM) *to += min * x_sums[r];
      }
    }
  }
}

static inline void block_floats(const uint32_t bits, const cpu_scales kind, const char *weights,
                                const char *scales, size_t b, float *out) {
  for (uint32_t c = 0; c < CPU_PANEL_COLUMNS; c++) {
    float values[CPU_BLOCK];
    cpu_block_column(bits, kind, weights, scales, b, c, values);
    for (size_t i = 0; i < CPU_BLOCK; i++)
      out[i * CPU_PANEL_COLUMNS + c] = values[i];
  }
}

#include "blocks_table.h"

const cpu_block_kernels cpu_blocks_generic = {BLOCKS_TABLE};
