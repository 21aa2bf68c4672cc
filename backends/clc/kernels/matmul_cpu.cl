/* Matmul for CPUs; compiled once for each WEIGHT format.
 *
 * Weights are tiles of 32 rows, [column][row] (see pack.c), so that two float16 hold one column
 * of a tile and no partial sums cross lanes. One row of x streams the weights once at memory
 * speed. Many rows: some tiles are unpacked DEPTH columns at a time into local memory, which on a
 * CPU is this core's cache, and used for up to BLOCK rows of x by a register tile of 8 x 32. */
#include "common.cl"

#define DEPTH     128
#define BLOCK     64
#define ROWS      8
#define MAX_TILES 4

#define TARGET                                                                                     \
  TENSOR(float, out), VECTOR(const float, bias), TENSOR(const float, residual), const float cap,   \
      const ulong n_out

/* Stores 32 sums of one row: + bias, soft cap, + residual. */
#define FINISH(ROW_INDEX, TILE_INDEX, LOW, HIGH)                                                   \
  do {                                                                                             \
    float values[TILE];                                                                            \
    vstore16(LOW, 0, values);                                                                      \
    vstore16(HIGH, 1, values);                                                                     \
    const ulong column = (TILE_INDEX)*TILE;                                                        \
    const uint n = (uint)min((ulong)TILE, n_out - column);                                         \
    __global float *to = ROW(out, ROW_INDEX) + column;                                             \
    for (uint i = 0; i < n; i++) {                                                                 \
      float value = values[i];                                                                     \
      if (bias_base) value += ELEMENTS(bias)[column + i];                                          \
      if (cap != 0.0f) value = cap * tanh(value / cap);                                            \
      if (residual_base) value += ROW(residual, ROW_INDEX)[column + i];                            \
      to[i] = value;                                                                               \
    }                                                                                              \
  } while (0)

#if WEIGHT == F32
#define COLUMN_BYTES          128
#define LOAD16(tile, half_at) vload16(half_at, (__global const float *)(tile))
#elif WEIGHT == F16
#define COLUMN_BYTES          64
#define LOAD16(tile, half_at) vload_half16(half_at, (__global const half *)(tile))
#elif WEIGHT == BF16
#define COLUMN_BYTES 64
#define LOAD16(tile, half_at)                                                                      \
  as_float16(convert_uint16(vload16(half_at, (__global const ushort *)(tile))) << 16)
#elif WEIGHT == Q8_0
#define COLUMN_BYTES 34
#elif WEIGHT == Q4_0
#define COLUMN_BYTES 18
#endif
#define TILE_BYTES(n_in) ((n_in)*COLUMN_BYTES)

#if WEIGHT >= Q8_0
#define BLOCK_BYTES       (32 * COLUMN_BYTES)
#define SCALE16(block, i) vload_half16(i, (__global const half *)(block))
#define BYTES16(block, i) vload16(i, (block) + 2 * TILE)
#define Q8_VALUE(bytes)   convert_float16(as_char16(bytes))
/* A nibble in the last bits of 2^23 as a float, less 2^23 + 8: exact, and cheaper than a
 * conversion and a subtraction. */
#define NIBBLE_FLOAT(words) (as_float16((words) | 0x4b000000u) - 8388616.0f)
#define NIBBLE_LOW(bytes)   NIBBLE_FLOAT(convert_uint16(bytes) & 15u)
#define NIBBLE_HIGH(bytes)  NIBBLE_FLOAT(convert_uint16(bytes) >> 4u)
#endif

/* One row of x against one tile: acc[0] rows 0 to 15, acc[1] rows 16 to 31. */
void dot_tile(__global const float *x, __global const uchar *tile, const ulong n_in, float16 *low,
              float16 *high) {
#if WEIGHT < Q8_0
  float16 a0 = 0.0f, a1 = 0.0f, b0 = 0.0f, b1 = 0.0f;
  float16 c0 = 0.0f, c1 = 0.0f, d0 = 0.0f, d1 = 0.0f;
  ulong k = 0;
  for (; k + 4 <= n_in; k += 4) {
    __global const uchar *w = tile + k * COLUMN_BYTES;
    a0 += x[k] * LOAD16(w, 0);
    a1 += x[k] * LOAD16(w, 1);
    b0 += x[k + 1] * LOAD16(w, 2);
    b1 += x[k + 1] * LOAD16(w, 3);
    c0 += x[k + 2] * LOAD16(w, 4);
    c1 += x[k + 2] * LOAD16(w, 5);
    d0 += x[k + 3] * LOAD16(w, 6);
    d1 += x[k + 3] * LOAD16(w, 7);
  }
  for (; k < n_in; k++) {
    a0 += x[k] * LOAD16(tile + k * COLUMN_BYTES, 0);
    a1 += x[k] * LOAD16(tile + k * COLUMN_BYTES, 1);
  }
  *low = (a0 + b0) + (c0 + d0);
  *high = (a1 + b1) + (c1 + d1);
#else
  float16 sum0 = 0.0f, sum1 = 0.0f;
  for (ulong k = 0; k < n_in; k += 32) {
    __global const uchar *block = tile + k * COLUMN_BYTES;
    float16 a0 = 0.0f, a1 = 0.0f, b0 = 0.0f, b1 = 0.0f;
    for (uint j = 0; j < 16; j++) {
#if WEIGHT == Q8_0
      a0 += x[k + 2 * j] * Q8_VALUE(BYTES16(block, 4 * j));
      a1 += x[k + 2 * j] * Q8_VALUE(BYTES16(block, 4 * j + 1));
      b0 += x[k + 2 * j + 1] * Q8_VALUE(BYTES16(block, 4 * j + 2));
      b1 += x[k + 2 * j + 1] * Q8_VALUE(BYTES16(block, 4 * j + 3));
#else
      const uchar16 w0 = BYTES16(block, 2 * j), w1 = BYTES16(block, 2 * j + 1);
      a0 += x[k + j] * NIBBLE_LOW(w0);
      a1 += x[k + j] * NIBBLE_LOW(w1);
      b0 += x[k + 16 + j] * NIBBLE_HIGH(w0);
      b1 += x[k + 16 + j] * NIBBLE_HIGH(w1);
#endif
    }
    sum0 += SCALE16(block, 0) * (a0 + b0);
    sum1 += SCALE16(block, 1) * (a1 + b1);
  }
  *low = sum0;
  *high = sum1;
#endif
}

/* out(n, n_out), x(n, n_in): item (row, tile). With ids(n, k), of stride ids_stride, the weight
 * is that of expert ids[row / k][row % k] and row r reads row r / x_share of x. */
WORKGROUP(1)
__kernel void matmul_vector(TARGET, TENSOR(const float, x), VECTOR(const uchar, weight),
                            const ulong n_in, TENSOR(const int, ids), const uint k,
                            const uint x_share, const uint n_experts) {
  const ulong row = get_global_id(0);
  const ulong tile = get_global_id(1);
  const ulong n_tiles = (n_out + TILE - 1) / TILE;
  const int expert = ids_base ? ROW(ids, row / k)[row % k] : 0;
  float16 low = 0.0f, high = 0.0f;
  if (expert >= 0 && (uint)expert < n_experts)
    dot_tile(ROW(x, row / x_share),
             ELEMENTS(weight) + ((ulong)expert * n_tiles + tile) * TILE_BYTES(n_in), n_in, &low,
             &high);
  FINISH(row, tile, low, high);
}

#if WEIGHT == F32
#define PANEL __global const float16
#else
#define PANEL __local const float16
/* Columns k to k + depth of a tile as floats, two float16 a column. */
void unpack_panel(__local float16 *panel, __global const uchar *tile, const ulong k,
                  const uint depth) {
#if WEIGHT < Q8_0
  __global const uchar *from = tile + k * COLUMN_BYTES;
  for (uint i = 0; i < 2 * depth; i++)
    panel[i] = LOAD16(from, i);
#else
  for (uint first = 0; first < depth; first += 32) {
    __global const uchar *block = tile + (k + first) * COLUMN_BYTES;
    __local float16 *to = panel + 2 * first;
    const float16 s0 = SCALE16(block, 0), s1 = SCALE16(block, 1);
#if WEIGHT == Q8_0
    for (uint i = 0; i < 32; i++) {
      to[2 * i] = s0 * Q8_VALUE(BYTES16(block, 2 * i));
      to[2 * i + 1] = s1 * Q8_VALUE(BYTES16(block, 2 * i + 1));
    }
#else
    for (uint i = 0; i < 16; i++) {
      const uchar16 w0 = BYTES16(block, 2 * i), w1 = BYTES16(block, 2 * i + 1);
      to[2 * i] = s0 * NIBBLE_LOW(w0);
      to[2 * i + 1] = s1 * NIBBLE_LOW(w1);
      to[2 * i + 32] = s0 * NIBBLE_HIGH(w0);
      to[2 * i + 33] = s1 * NIBBLE_HIGH(w1);
    }
#endif
  }
#endif
}
#endif

/* sums(N, 32) += x(N, depth) * panel(depth, 32); rows of x are DEPTH apart. */
#define REGISTER_TILE(NAME, N)                                                                     \
  void NAME(__local float16 *sums, __local const float *x, PANEL *panel, const uint depth) {       \
    float16 low[N], high[N];                                                                       \
    _Pragma("unroll") for (uint r = 0; r < N; r++) {                                               \
      low[r] = sums[2 * r];                                                                        \
      high[r] = sums[2 * r + 1];                                                                   \
    }                                                                                              \
    for (uint k = 0; k < depth; k++) {                                                             \
      const float16 w0 = panel[2 * k], w1 = panel[2 * k + 1];                                      \
      _Pragma("unroll") for (uint r = 0; r < N; r++) {                                             \
        low[r] = fma((float16)x[r * DEPTH + k], w0, low[r]);                                       \
        high[r] = fma((float16)x[r * DEPTH + k], w1, high[r]);                                     \
      }                                                                                            \
    }                                                                                              \
    _Pragma("unroll") for (uint r = 0; r < N; r++) {                                               \
      sums[2 * r] = low[r];                                                                        \
      sums[2 * r + 1] = high[r];                                                                   \
    }                                                                                              \
  }

REGISTER_TILE(tile_8, 8)
REGISTER_TILE(tile_4, 4)

/* Columns k to k + depth of 8 rows of x side by side: in place they are often a power of two apart
 * and would push each other out of the cache. Rows past the last one repeat it. */
void copy_rows(__local float *to, __global const float *x, const ulong stride, const uint n_rows,
               const uint depth) {
  for (uint r = 0; r < ROWS; r++) {
    __global const float *from = x + min(r, n_rows - 1) * stride;
    uint i = 0;
    for (; i + 16 <= depth; i += 16)
      vstore16(vload16(0, from + i), 0, to + r * DEPTH + i);
    for (; i < depth; i++)
      to[r * DEPTH + i] = from[i];
  }
}

/* out(n, n_out), x(n, n_in): item (b, c) makes rows 64 b to 64 b + 63 of the n_item_tiles tiles
 * (at most MAX_TILES) from c * n_item_tiles on. The more tiles, the fewer times x is read. */
WORKGROUP(1)
__kernel void matmul_block(TARGET, TENSOR(const float, x), VECTOR(const uchar, weight),
                           const ulong n_in, const ulong n_rows, const uint n_item_tiles) {
  __local float16 sums[MAX_TILES * 2 * BLOCK]; /* (tile, row, 32) */
  __local float rows[ROWS * DEPTH];
#if WEIGHT != F32
  __local float16 panels[MAX_TILES * 2 * DEPTH];
#endif
  const ulong first_row = get_global_id(0) * BLOCK;
  const ulong first_tile = get_global_id(1) * n_item_tiles;
  const uint n = (uint)min((ulong)BLOCK, n_rows - first_row);
  const uint n_tiles = (uint)min((ulong)n_item_tiles, (n_out + TILE - 1) / TILE - first_tile);
  __global const uchar *weight = ELEMENTS(weight) + first_tile * TILE_BYTES(n_in);
  for (uint i = 0; i < n_tiles * 2 * BLOCK; i++)
    sums[i] = 0.0f;
  for (ulong k = 0; k < n_in; k += DEPTH) {
    const uint depth = (uint)min((ulong)DEPTH, n_in - k);
#if WEIGHT == F32 /* tiles begin at multiples of 128 bytes */
    PANEL *panel = (PANEL *)weight + 2 * k;
    const ulong panel_stride = 2 * n_in;
#else
    PANEL *panel = panels;
    const ulong panel_stride = 2 * DEPTH;
    for (uint t = 0; t < n_tiles; t++)
      unpack_panel(panels + t * panel_stride, weight + t * TILE_BYTES(n_in), k, depth);
#endif
    for (uint group = 0; group < n; group += ROWS) {
      copy_rows(rows, ROW(x, first_row + group) + k, x_stride, n - group, depth);
      for (uint t = 0; t < n_tiles; t++) {
        __local float16 *to = sums + t * 2 * BLOCK + 2 * group;
        if (n - group > 4)
          tile_8(to, rows, panel + t * panel_stride, depth);
        else
          tile_4(to, rows, panel + t * panel_stride, depth);
      }
    }
  }
  for (uint t = 0; t < n_tiles; t++)
    for (uint r = 0; r < n; r++)
      FINISH(first_row + r, first_tile + t, sums[(t * BLOCK + r) * 2],
             sums[(t * BLOCK + r) * 2 + 1]);
}
