/* Matmul for CPUs; compiled once for each WEIGHT format.
 *
 * Weights are tiles of 32 rows, [column][row] (see pack.c), so that two float16 hold one column
 * of a tile and no partial sums cross lanes. One row of x streams the weights once at memory
 * speed. Many rows: some tiles are unpacked DEPTH columns at a time into local memory, which on a
 * CPU is this core's cache, and used for up to BLOCK rows of x by a register tile of 8 x 32. */
#include "common.cl"
#include "weights.cl"

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
#define LOAD16(tile, half_at) vload16(half_at, (__global const float *)(tile))
#elif WEIGHT == F16
#define LOAD16(tile, half_at) vload_half16(half_at, (__global const half *)(tile))
#elif WEIGHT == BF16
#define LOAD16(tile, half_at)                                                                      \
  as_float16(convert_uint16(vload16(half_at, (__global const ushort *)(tile))) << 16)
#else

/* Fields of a record for rows 16 part to 16 part + 15. */
#define FIELD_F16(from, at) vload_half16((at) + part, (__global const half *)(from))
#define FIELD_U8(from, at)  vload16(2 * (at) + part, from)
#define UNSIGNED(bytes)     convert_float16(bytes)
#define SIGNED(bytes)       convert_float16(as_char16(bytes))

float16 scales(__global const uchar *head, __global const uchar *sub, const uint h,
               const uint part) {
  return SCALE(h);
}

#ifdef MINIMUM
float16 minima(__global const uchar *head, __global const uchar *sub, const uint h,
               const uint part) {
  return MINIMUM(h);
}
#endif

#ifdef CODE_TABLE
/* b where a mask byte is set, else a. */
#define PICK(mask, a, b) ((a) ^ (((a) ^ (b)) & (mask)))
#define ENTRY(i)         ((uchar16)(uchar)(char)code_values[i])
#define PAIR(i)          PICK(m0, ENTRY(i), ENTRY(i + 1))
#define QUAD(i)          PICK(m1, PAIR(i), PAIR(i + 2))
#define EIGHT(i)         PICK(m2, QUAD(i), QUAD(i + 4))

/* The table by bit masks: gathering would go value by value. */
float16 code_floats(const uchar16 codes) {
  const uchar one = 1, zero = 0;
  const uchar16 m0 = zero - (codes & one), m1 = zero - (codes >> one & one);
  const uchar16 m2 = zero - (codes >> (uchar)2 & one), m3 = zero - (codes >> (uchar)3 & one);
  return convert_float16(as_char16(PICK(m3, EIGHT(0), EIGHT(8))));
}
#else
/* A code in the last bits of 2^23 as a float, less 2^23 and the offset: exact, and cheaper than a
 * conversion and a subtraction. */
float16 code_floats(const uchar16 codes) {
  return as_float16(convert_uint16(codes) | 0x4b000000u) - (8388608.0f + CODE_OFFSET);
}
#endif

#ifdef NIBBLES
#define TOP_BITS (uchar)4
#else
#define TOP_BITS (uchar)2
#endif

/* The codes of columns b and b + 16 of a record, b below 16. */
void load_codes(__global const uchar *sub, const uint b, const uint part, float16 *first,
                float16 *second) {
#ifdef BYTES_AT
  *first = SIGNED(FIELD_U8(sub, BYTES_AT + b));
  *second = SIGNED(FIELD_U8(sub, BYTES_AT + b + 16));
#else
  uchar16 low = 0, high = 0;
#ifdef NIBBLES
  const uchar16 nibbles = FIELD_U8(sub, NIBBLES + b);
  low = nibbles & (uchar)15;
  high = nibbles >> (uchar)4;
#endif
#ifdef BIT_PAIRS
  const uchar16 pairs = FIELD_U8(sub, BIT_PAIRS + b % 8) >> (uchar)(2 * (b / 8));
#ifdef NIBBLES
  low |= (pairs & (uchar)3) << TOP_BITS;
  high |= (pairs >> (uchar)4 & (uchar)3) << TOP_BITS;
#else
  low = pairs & (uchar)3;
  high = pairs >> (uchar)4 & (uchar)3;
#endif
#endif
#ifdef HIGH_BITS
  const uchar shift = (uchar)(b % 8);
  low |= (FIELD_U8(sub, HIGH_BITS + b / 8) >> shift & (uchar)1) << TOP_BITS;
  high |= (FIELD_U8(sub, HIGH_BITS + 2 + b / 8) >> shift & (uchar)1) << TOP_BITS;
#endif
  *first = code_floats(low);
  *second = code_floats(high);
#endif
}

/* 32 columns of x against the record of `part`'s rows. */
float16 dot_record(__global const float *x, __global const uchar *head, __global const uchar *sub,
                   const uint part) {
  float16 a = 0.0f, b = 0.0f;
  for (uint j = 0; j < 16; j++) {
    float16 low, high;
    load_codes(sub, j, part, &low, &high);
    a += x[j] * low;
    b += x[j + 16] * high;
  }
#ifdef HALVES_DIFFER
  float16 sum = scales(head, sub, 0, part) * a + scales(head, sub, 1, part) * b;
#else
  float16 sum = scales(head, sub, 0, part) * (a + b);
#endif
#ifdef MINIMUM
  const float16 x0 = vload16(0, x), x1 = vload16(1, x);
#ifdef HALVES_DIFFER
  sum += minima(head, sub, 0, part) * sum16(x0) + minima(head, sub, 1, part) * sum16(x1);
#else
  sum += minima(head, sub, 0, part) * sum16(x0 + x1);
#endif
#endif
  return sum;
}

/* 32 columns of a record as floats, two float16 a column. */
void unpack_record(__local float16 *to, __global const uchar *head, __global const uchar *sub,
                   const uint part) {
  const float16 s0 = scales(head, sub, 0, part), s1 = scales(head, sub, 1, part);
#ifdef MINIMUM
  const float16 m0 = minima(head, sub, 0, part), m1 = minima(head, sub, 1, part);
#endif
  for (uint j = 0; j < 16; j++) {
    float16 low, high;
    load_codes(sub, j, part, &low, &high);
#ifdef MINIMUM
    to[2 * j + part] = s0 * low + m0;
    to[2 * j + 32 + part] = s1 * high + m1;
#else
    to[2 * j + part] = s0 * low;
    to[2 * j + 32 + part] = s1 * high;
#endif
  }
}
#endif

/* One row of x against one tile: rows 0 to 15, and rows 16 to 31. */
void dot_tile(__global const float *x, __global const uchar *tile, const ulong n_in, float16 *low,
              float16 *high) {
#ifdef COLUMN_BYTES
  float16 a0 = 0.0f, a1 = 0.0f, b0 = 0.0f, b1 = 0.0f;
  float16 c0 = 0.0f, c1 = 0.0f, d0 = 0.0f, d1 = 0.0f;
  ulong k = 0;
  for (; k + 4 <= n_in; k += 4) {
    __global const uchar *w = tile + TILE_BYTES(k);
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
    a0 += x[k] * LOAD16(tile + TILE_BYTES(k), 0);
    a1 += x[k] * LOAD16(tile + TILE_BYTES(k), 1);
  }
  *low = (a0 + b0) + (c0 + d0);
  *high = (a1 + b1) + (c1 + d1);
#else
  float16 sum0 = 0.0f, sum1 = 0.0f;
  for (ulong k = 0; k < n_in; k += 32) {
    __global const uchar *head = HEAD_OF(tile, k);
    __global const uchar *sub = SUB_OF(tile, k);
    sum0 += dot_record(x + k, head, sub, 0);
    sum1 += dot_record(x + k, head, sub, 1);
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
#ifdef COLUMN_BYTES
  __global const uchar *from = tile + TILE_BYTES(k);
  for (uint i = 0; i < 2 * depth; i++)
    panel[i] = LOAD16(from, i);
#else
  for (uint first = 0; first < depth; first += 32)
    for (uint part = 0; part < 2; part++)
      unpack_record(panel + 2 * first, HEAD_OF(tile, k + first), SUB_OF(tile, k + first), part);
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
