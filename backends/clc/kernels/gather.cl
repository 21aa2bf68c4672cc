/* out(n, d) = scale * table[ids[row]]; an id outside the table gives zeros. The table is plain
 * rows; packed ones are read by gather_tiles (weights.cl). */

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

/* Item i of row r takes SPAN columns; row_bytes apart are the table's rows. */
WORKGROUP(LANES)
__kernel void gather_rows(TENSOR(float, out), VECTOR(const uchar, table), VECTOR(const int, ids),
                          const ulong row_bytes, const ulong n_table_rows, const ulong n_columns,
                          const uint dtype, const float scale) {
  const ulong row = get_global_id(1);
  const int id = ELEMENTS(ids)[row];
  const uint known = id >= 0 && (ulong)id < n_table_rows;
  __global const uchar *from = ELEMENTS(table) + (known ? (ulong)id * row_bytes : 0);
  __global float *out = ROW(out, row);
  ulong i = get_global_id(0) * SPAN;
  const ulong end = min(i + SPAN, n_columns);
  for (; i < end; i++) {
    float value = 0.0f;
    if (known && dtype == Q8_0)
      value = q8_0_row(from, i);
    else if (known && dtype == Q4_0)
      value = q4_0_row(from, i);
    else if (known)
      value = load_element(from, i, dtype);
    out[i] = scale * value;
  }
}
