/* The loops over blocks of a table whose vectors hold fewer columns than a panel has: one text for
 * every width and every way to make a dot product. Columns are taken a side at a time. The
 * including file defines, beside the lanes of lanes.h:
 *
 *   SIDE_VECTORS, SIDE_ROWS        vectors of columns in a side, and rows that meet it at once
 *   Q8_OFFSET                      see blocks_table.h
 *   ints                           a vector with four bytes or an int32 of N_LANES columns; C's
 *                                  own operators for "and" and "or" work on it
 *   ints_load(from)                from memory
 *   ints_set8(x), ints_word(from)  the same byte, the same four bytes in every lane
 *   ints_shift(v, left)            every byte, right where negative; bits may cross bytes
 *   ints_nibble(v, is_high)        of every byte
 *   ints_byte(v, k)                of every lane, as an int32
 *   lanes_of(v)                    int32 to float
 *   lanes_word(from)               one float in every lane
 *   lanes_bytes(from, is_signed)   N_LANES bytes
 *   part_dots(rows, bits, x, weights, half, n_halves, dots)
 *                                  adds the products of halves `half` on of `rows` rows, CPU_BLOCK
 *                                  bytes apart, with a side's: int32 dots[rows][SIDE_VECTORS]; it
 *                                  gets its weights from quant_word
 *   quantize_row                   of cpu_block_kernels
 *
 * part_dots and quantize_row may follow the inclusion of blocks_quants.h. BLOCKS_OFFSETS and
 * BLOCKS_TABLE then fill a cpu_block_kernels. */
#ifndef CPU_BLOCKS_LANES_H
#define CPU_BLOCKS_LANES_H

#include "blocks_quants.h"
#include "kernels.h"
#include "vector.h"

#define SIDE_COLUMNS (SIDE_VECTORS * N_LANES)

/* Scales and minima of block b of a group; N_LANES columns from `column` on. */
INLINE lanes scale_of(const cpu_scales kind, const char *scales, size_t b, int half,
                      size_t column) {
  if (kind == CPU_SCALES_F16 || kind == CPU_SCALES_F16_MIN)
    return load_lanes(F16, scales + 32 * b, column);
  const char *at = scales + column;
  at += kind == CPU_SCALES_K ? 64 + 16 * b : 32 + 16 * (2 * b + (size_t)half);
  return load_lanes(F16, scales, column) * lanes_bytes(at, kind == CPU_SCALES_HALVES);
}

INLINE lanes min_of(const cpu_scales kind, const char *scales, size_t b, size_t column) {
  const lanes min = load_lanes(F16, scales + 32, column);
  if (kind == CPU_SCALES_F16_MIN) return min;
  return lanes_set(0) - min * lanes_bytes(scales + 192 + 16 * b + column, 0);
}

/* Where the columns of a side and the rows of a panel that meet it begin. */
typedef struct side {
  size_t column;
  uint32_t first;
  uint32_t panel_rows;
} side;

/* One block: `rows` rows of x times the side's columns into sums. */
INLINE void block_step(const int rows, const uint32_t bits, const cpu_scales kind, side at,
                       const char *x, const char *weights, const char *scales, size_t b,
                       lanes sums[SIDE_ROWS][SIDE_VECTORS]) {
  const cpu_x_extra extra = cpu_x_extra_of(kind);
  const char *x_scales = x + at.panel_rows * CPU_BLOCK + 4 * at.first;
  const char *extras = x_scales + 4 * at.panel_rows;
  const int parts = extra == CPU_X_STARTS ? 2 : 1;
  UNROLL for (int part = 0; part < parts; part++) {
    ints dots[SIDE_ROWS][SIDE_VECTORS];
    const char *starts = extras + 4 * (uint32_t)part * at.panel_rows;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SIDE_VECTORS; v++) dots[r][v] =
        extra == CPU_X_SUM ? ints_set8(0) : ints_word(starts + 4 * r);
    part_dots(rows, bits, x + at.first * CPU_BLOCK, weights + 4 * at.column, part, 2 / parts, dots);
    UNROLL for (int v = 0; v < SIDE_VECTORS; v++) {
      const lanes w_scale = scale_of(kind, scales, b, part, at.column + (size_t)(N_LANES * v));
      UNROLL for (int r = 0; r < rows; r++) sums[r][v] =
          lanes_fma(lanes_of(dots[r][v]), w_scale * lanes_word(x_scales + 4 * r), sums[r][v]);
    }
  }
  UNROLL for (int v = 0; extra == CPU_X_SUM && v < SIDE_VECTORS; v++) {
    const lanes min = min_of(kind, scales, b, at.column + (size_t)(N_LANES * v));
    UNROLL for (int r = 0; r < rows; r++) sums[r][v] =
        lanes_fma(min, lanes_word(extras + 4 * r), sums[r][v]);
  }
}

INLINE void block_rows(const int rows, const uint32_t bits, const cpu_scales kind, side at,
                       const char *x, const char *weights, size_t n_blocks, float *out) {
  lanes sums[SIDE_ROWS][SIDE_VECTORS];
  float *const to = out + CPU_PANEL_COLUMNS * at.first + at.column;
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SIDE_VECTORS; v++) sums[r][v] =
      load_lanes(F32, to, (size_t)(CPU_PANEL_COLUMNS * r + N_LANES * v));
  const size_t group = cpu_group_blocks(kind), quant_bytes = cpu_quant_bytes(bits);
  while (n_blocks > 0) {
    const char *scales = weights + group * quant_bytes;
    const size_t n = n_blocks < group ? n_blocks : group;
    for (size_t b = 0; b < n; b++) {
      block_step(rows, bits, kind, at, x, weights + b * quant_bytes, scales, b, sums);
      x += cpu_x_block_bytes(cpu_x_extra_of(kind), at.panel_rows);
    }
    weights = scales + cpu_scale_bytes(kind);
    n_blocks -= n;
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < SIDE_VECTORS; v++)
      lanes_store(to + CPU_PANEL_COLUMNS * r + N_LANES * v, sums[r][v]);
}

INLINE void block_tile(const uint32_t bits, const cpu_scales kind, uint32_t rows, const void *x,
                       const void *weights, size_t n_blocks, float *out) {
  side at = {.panel_rows = rows};
  for (; at.column < CPU_PANEL_COLUMNS; at.column += SIDE_COLUMNS) {
    for (at.first = 0; rows - at.first >= SIDE_ROWS; at.first += SIDE_ROWS)
      block_rows(SIDE_ROWS, bits, kind, at, x, weights, n_blocks, out);
    const uint32_t left = rows - at.first;
    if (left == 1) block_rows(1, bits, kind, at, x, weights, n_blocks, out);
    if (left == 2) block_rows(2, bits, kind, at, x, weights, n_blocks, out);
    if (SIDE_ROWS > 3 && left == 3) block_rows(3, bits, kind, at, x, weights, n_blocks, out);
    if (SIDE_ROWS > 4 && left == 4) block_rows(4, bits, kind, at, x, weights, n_blocks, out);
    if (SIDE_ROWS > 5 && left == 5) block_rows(5, bits, kind, at, x, weights, n_blocks, out);
  }
}

/* Values of N_LANES columns of one block: the bytes of a word are four elements. */
INLINE void column_floats(const uint32_t bits, const cpu_scales kind, size_t column,
                          const char *weights, const char *scales, size_t b, float *out) {
  const bool has_min = cpu_x_extra_of(kind) == CPU_X_SUM;
  const lanes zero = lanes_set((float)cpu_block_zero(bits, kind));
  const lanes min = has_min ? min_of(kind, scales, b, column) : lanes_set(0);
  UNROLL for (int j = 0; j < 8; j++) {
    const lanes scale = scale_of(kind, scales, b, j / 4, column);
    const ints quants = quant_word(bits, weights + 4 * column, j);
    UNROLL for (int k = 0; k < 4; k++, out += CPU_PANEL_COLUMNS) {
      lanes value = (lanes_of(ints_byte(quants, k)) - zero) * scale;
      if (has_min) value = value + min;
      lanes_store(out + column, value);
    }
  }
}

INLINE void block_floats(const uint32_t bits, const cpu_scales kind, const char *weights,
                         const char *scales, size_t b, float *out) {
  for (size_t column = 0; column < CPU_PANEL_COLUMNS; column += N_LANES)
    column_floats(bits, kind, column, weights, scales, b, out);
}

#include "blocks_table.h"

#endif
