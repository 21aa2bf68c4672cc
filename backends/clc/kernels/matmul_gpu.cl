/* Matmul for GPUs; compiled once for each WEIGHT format.
 *
 * Weights are tiles of 32 rows, [column][row] (see pack.c): 32 neighbouring items read one column
 * of a tile side by side. One row of x: a group of 32 x 8 items takes a tile, item (r, s) every
 * eighth column, and the eight partial sums of a row are folded as a tree. Many rows: a group of
 * 16 x 16 items computes 64 x 64 outputs, 4 x 4 an item, from tiles of x and of the unpacked
 * weights in local memory. */
#include "common.cl"
#include "weights.cl"

#define GROUP  256
#define SLICES (GROUP / TILE)
#define BLOCK  64
#define DEPTH  16

#define TARGET                                                                                     \
  TENSOR(float, out), VECTOR(const float, bias), TENSOR(const float, residual), const float cap,   \
      const ulong n_out

/* + bias, soft cap, + residual. */
#define FINISH(ROW_INDEX, COLUMN, SUM)                                                             \
  do {                                                                                             \
    float value = (SUM);                                                                           \
    if (bias_base) value += ELEMENTS(bias)[COLUMN];                                                \
    if (cap != 0.0f) value = cap * tanh(value / cap);                                              \
    if (residual_base) value += ROW(residual, ROW_INDEX)[COLUMN];                                  \
    ROW(out, ROW_INDEX)[COLUMN] = value;                                                           \
  } while (0)

/* out(n, n_out), x(n, n_in): group (row, tile). With ids(n, k), of stride ids_stride, the weight
 * is that of expert ids[row / k][row % k] and row r reads row r / x_share of x. */
WORKGROUP(GROUP)
__kernel void matmul_vector(TARGET, TENSOR(const float, x), VECTOR(const uchar, weight),
                            const ulong n_in, TENSOR(const int, ids), const uint k,
                            const uint x_share, const uint n_experts) {
  __local float scratch[GROUP];
  const uint item = get_local_id(0);
  const uint lane = item % TILE;
  const ulong row = get_group_id(0);
  const ulong tile_index = get_global_id(1);
  const ulong n_tiles = (n_out + TILE - 1) / TILE;
  const int expert = ids_base ? ROW(ids, row / k)[row % k] : 0;
  const uint known = expert >= 0 && (uint)expert < n_experts;
  __global const uchar *tile =
      ELEMENTS(weight) + ((known ? (ulong)expert : 0) * n_tiles + tile_index) * TILE_BYTES(n_in);
  __global const float *x = ROW(x, row / x_share);
  float sum = 0.0f;
  for (ulong i = item / TILE; i < n_in; i += SLICES)
    sum += x[i] * weight_value(tile, i, lane);
  scratch[item] = known ? sum : 0.0f;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (uint half_size = GROUP / 2; half_size >= TILE; half_size /= 2) {
    if (item < half_size) scratch[item] += scratch[item + half_size];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  const ulong column = tile_index * TILE + lane;
  if (item < TILE && column < n_out) FINISH(row, column, scratch[lane]);
}

/* out(n, n_out), x(n, n_in): group (rows / 64, columns / 64). */
WORKGROUP(GROUP)
__kernel void matmul_block(TARGET, TENSOR(const float, x), VECTOR(const uchar, weight),
                           const ulong n_in, const ulong n_rows) {
  __local float x_tile[DEPTH][BLOCK + 1];
  __local float w_tile[DEPTH][BLOCK];
  const uint item = get_local_id(0);
  const uint across = item % 16, down = item / 16;
  const ulong first_row = (ulong)get_group_id(0) * BLOCK;
  const ulong first_column = get_global_id(1) * BLOCK;
  const ulong n_tiles = (n_out + TILE - 1) / TILE;
  float sums[4][4];
  for (uint r = 0; r < 4; r++)
    for (uint c = 0; c < 4; c++)
      sums[r][c] = 0.0f;
  for (ulong k = 0; k < n_in; k += DEPTH) {
    for (uint i = item; i < BLOCK * DEPTH; i += GROUP) {
      const uint column = i % DEPTH, row = i / DEPTH;
      const uint inside = k + column < n_in && first_row + row < n_rows;
      x_tile[column][row] = inside ? ROW(x, first_row + row)[k + column] : 0.0f;
    }
    for (uint i = item; i < BLOCK * DEPTH; i += GROUP) {
      const uint column = i / BLOCK, row = i % BLOCK;
      const ulong tile = first_column / TILE + row / TILE;
      const uint inside = k + column < n_in && tile < n_tiles;
      w_tile[column][row] =
          inside ? weight_value(ELEMENTS(weight) + tile * TILE_BYTES(n_in), k + column, row % TILE)
                 : 0.0f;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = 0; i < DEPTH; i++)
      for (uint r = 0; r < 4; r++)
        for (uint c = 0; c < 4; c++)
          sums[r][c] += x_tile[i][down + 16 * r] * w_tile[i][across + 16 * c];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  for (uint r = 0; r < 4; r++) {
    const ulong row = first_row + down + 16 * r;
    for (uint c = 0; c < 4; c++) {
      const ulong column = first_column + across + 16 * c;
      if (row < n_rows && column < n_out) FINISH(row, column, sums[r][c]);
    }
  }
}
