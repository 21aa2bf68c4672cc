/* out(n, d) = scale * table[ids[row]]; an id outside the table gives zeros.
 * The table is rows of GGUF bytes, or tiles as the matmul reads them (see pack.c):
 *   plain formats  [tile][column][32 rows]
 *   Q8_0           [tile][block]{32 f16 scales, [32 columns][32 rows] int8}
 *   Q4_0           [tile][block]{32 f16 scales, [16 bytes][32 rows]}: low nibble column j,
 *                  high nibble column j + 16 */

float q8_0_row(__global const uchar *row, const ulong column) {
  __global const uchar *block = row + column / 32 * 34;
  const ushort scale = (ushort)(block[0] | block[1] << 8);
  return f16_value(scale) * (float)(char)block[2 + column % 32];
}

float q4_0_row(__global const uchar *row, const ulong column) {
  __global const uchar *block = row + column / 32 * 18;
  const ushort scale = (ushort)(block[0] | block[1] << 8);
  const uint pair = block[2 + column % 16];
  const int nibble = (int)(column % 32 < 16 ? pair & 15u : pair >> 4);
  return f16_value(scale) * (float)(nibble - 8);
}

float q8_0_tile(__global const uchar *tile, const ulong column, const uint lane) {
  __global const uchar *block = tile + column / 32 * (34 * TILE);
  const float scale = f16_value(((__global const ushort *)block)[lane]);
  return scale * (float)(char)block[2 * TILE + column % 32 * TILE + lane];
}

float q4_0_tile(__global const uchar *tile, const ulong column, const uint lane) {
  __global const uchar *block = tile + column / 32 * (18 * TILE);
  const float scale = f16_value(((__global const ushort *)block)[lane]);
  const uint pair = block[2 * TILE + column % 16 * TILE + lane];
  const int nibble = (int)(column % 32 < 16 ? pair & 15u : pair >> 4);
  return scale * (float)(nibble - 8);
}

/* Item i of row r takes SPAN columns. row_bytes: distance of table rows, or bytes of a tile. */
WORKGROUP(LANES)
__kernel void gather_rows(TENSOR(float, out), VECTOR(const uchar, table), VECTOR(const int, ids),
                          const ulong row_bytes, const ulong n_table_rows, const ulong n_columns,
                          const uint dtype, const uint tiled, const float scale) {
  const ulong row = get_global_id(1);
  const int id = ELEMENTS(ids)[row];
  const uint known = id >= 0 && (ulong)id < n_table_rows;
  const uint lane = (uint)id % TILE;
  __global const uchar *from =
      ELEMENTS(table) + (known ? (ulong)(tiled ? id / TILE : id) * row_bytes : 0);
  __global float *out = ROW(out, row);
  ulong i = get_global_id(0) * SPAN;
  const ulong end = min(i + SPAN, n_columns);
  for (; i < end; i++) {
    float value = 0.0f;
    if (known && dtype == Q8_0)
      value = tiled ? q8_0_tile(from, i, lane) : q8_0_row(from, i);
    else if (known && dtype == Q4_0)
      value = tiled ? q4_0_tile(from, i, lane) : q4_0_row(from, i);
    else if (known)
      value = load_element(from, tiled ? i * TILE + lane : i, dtype);
    out[i] = scale * value;
  }
}
