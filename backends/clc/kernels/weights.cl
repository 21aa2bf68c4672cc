/* How packed weights lie, for the one format WEIGHT of a module, and single values of them.
 *
 * Weights are tiles of 32 rows (see pack.c), all of whose fields have the 32 rows side by side: a
 * field at byte `at` of a row's record is at byte 32 at of the tile's. Plain formats are
 * [column][row]. The others have a record for every 32 columns: scales, then codes of which column
 * b and column b + 16 share a nibble byte, columns 8 c to 8 c + 7 a byte of fifth bits, and columns
 * e, e + 8, e + 16, e + 24 a byte of bit pairs. The K formats have a head before every 8 records.
 *
 *   SUPER       columns that share a head           CODE_OFFSET  taken off each code
 *   HEAD, SUB   bytes of a row's head and record    CODE_TABLE   codes are places in a table
 *   NIBBLES, HIGH_BITS, BIT_PAIRS, BYTES_AT         where codes begin in a record
 *   SCALE(h), MINIMUM(h)   of half h of a record, by FIELD_F16 and FIELD_U8; value = SCALE * code
 *                          + MINIMUM */
#define SUPER 32
#define HEAD  0

#if WEIGHT == F32
#define COLUMN_BYTES 4
#elif WEIGHT == F16 || WEIGHT == BF16
#define COLUMN_BYTES 2
#elif WEIGHT == Q8_0
#define SUB      34
#define BYTES_AT 2
#define SCALE(h) FIELD_F16(sub, 0)
#elif WEIGHT == Q4_0
#define SUB         18
#define NIBBLES     2
#define CODE_OFFSET 8
#define SCALE(h)    FIELD_F16(sub, 0)
#elif WEIGHT == Q4_1
#define SUB        20
#define NIBBLES    4
#define SCALE(h)   FIELD_F16(sub, 0)
#define MINIMUM(h) FIELD_F16(sub, 2)
#elif WEIGHT == Q5_0
#define SUB         22
#define HIGH_BITS   2
#define NIBBLES     6
#define CODE_OFFSET 16
#define SCALE(h)    FIELD_F16(sub, 0)
#elif WEIGHT == Q5_1
#define SUB        24
#define HIGH_BITS  4
#define NIBBLES    8
#define SCALE(h)   FIELD_F16(sub, 0)
#define MINIMUM(h) FIELD_F16(sub, 2)
#elif WEIGHT == Q2_K
#define SUB        10
#define BIT_PAIRS  2
#define SCALE(h)   (FIELD_F16(head, 0) * UNSIGNED(FIELD_U8(sub, h) & (uchar)15))
#define MINIMUM(h) (-FIELD_F16(head, 2) * UNSIGNED(FIELD_U8(sub, h) >> (uchar)4))
#define HALVES_DIFFER
#elif WEIGHT == Q3_K
#define SUB         14
#define HIGH_BITS   2
#define BIT_PAIRS   6
#define CODE_OFFSET 4
#define SCALE(h)    (FIELD_F16(head, 0) * SIGNED(FIELD_U8(sub, h)))
#define HALVES_DIFFER
#elif WEIGHT == Q4_K
#define SUB        18
#define NIBBLES    2
#define SCALE(h)   (FIELD_F16(head, 0) * UNSIGNED(FIELD_U8(sub, 0)))
#define MINIMUM(h) (-FIELD_F16(head, 2) * UNSIGNED(FIELD_U8(sub, 1)))
#elif WEIGHT == Q5_K
#define SUB        22
#define HIGH_BITS  2
#define NIBBLES    6
#define SCALE(h)   (FIELD_F16(head, 0) * UNSIGNED(FIELD_U8(sub, 0)))
#define MINIMUM(h) (-FIELD_F16(head, 2) * UNSIGNED(FIELD_U8(sub, 1)))
#elif WEIGHT == Q6_K
#define SUB         26
#define BIT_PAIRS   2
#define NIBBLES     10
#define CODE_OFFSET 32
#define SCALE(h)    (FIELD_F16(head, 0) * SIGNED(FIELD_U8(sub, h)))
#define HALVES_DIFFER
#elif WEIGHT == IQ4_NL
#define SUB     18
#define NIBBLES 2
#define CODE_TABLE
#define SCALE(h) FIELD_F16(sub, 0)
#elif WEIGHT == IQ4_XS
#define SUB     17
#define NIBBLES 1
#define CODE_TABLE
#define SCALE(h) (FIELD_F16(head, 0) * SIGNED(FIELD_U8(sub, 0)))
#endif

#if WEIGHT >= Q2_K && WEIGHT != IQ4_NL
#undef SUPER
#undef HEAD
#define SUPER 256
#ifdef MINIMUM
#define HEAD 4
#else
#define HEAD 2
#endif
#endif

#ifndef CODE_OFFSET
#define CODE_OFFSET 0
#endif

#ifdef COLUMN_BYTES
#define TILE_BYTES(n_in) ((n_in) * (TILE * COLUMN_BYTES))
#else
#define SUPER_BYTES      (TILE * (HEAD + SUPER / 32 * SUB))
#define TILE_BYTES(n_in) ((n_in) / SUPER * SUPER_BYTES)
#define HEAD_OF(tile, k) ((tile) + (k) / SUPER * SUPER_BYTES)
#define SUB_OF(tile, k)  (HEAD_OF(tile, k) + TILE * HEAD + (k) % SUPER / 32 * (TILE * SUB))
#endif

#ifdef CODE_TABLE
/* The values of IQ4 codes, as GGUF defines them. */
__constant float code_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};
#endif

/* Row `lane` of a tile at column k. */
#define FIELD_F16(from, at) vload_half((at) * (TILE / 2) + lane, (__global const half *)(from))
#define FIELD_U8(from, at)  (from)[(at)*TILE + lane]
#define UNSIGNED(byte)      ((float)(byte))
#define SIGNED(byte)        ((float)(char)(byte))
float weight_value(__global const uchar *tile, const ulong k, const uint lane) {
#if WEIGHT == F32
  return ((__global const float *)tile)[k * TILE + lane];
#elif WEIGHT == F16
  return vload_half(k * TILE + lane, (__global const half *)tile);
#elif WEIGHT == BF16
  return bf16_value(((__global const ushort *)tile)[k * TILE + lane]);
#else
  __global const uchar *head = HEAD_OF(tile, k);
  __global const uchar *sub = SUB_OF(tile, k);
  const uint j = (uint)k % 32, half_index = j / 16;
#ifdef BYTES_AT
  const float code = SIGNED(FIELD_U8(sub, BYTES_AT + j));
#else
  uint bits = 0;
#ifdef NIBBLES
  bits = FIELD_U8(sub, NIBBLES + j % 16) >> 4 * half_index & 15u;
#endif
#ifdef BIT_PAIRS
#ifdef NIBBLES
  bits |= (FIELD_U8(sub, BIT_PAIRS + j % 8) >> 2 * (j / 8) & 3u) << 4;
#else
  bits = FIELD_U8(sub, BIT_PAIRS + j % 8) >> 2 * (j / 8) & 3u;
#endif
#endif
#ifdef HIGH_BITS
#ifdef NIBBLES
  bits |= (FIELD_U8(sub, HIGH_BITS + j / 8) >> j % 8 & 1u) << 4;
#else
  bits |= (FIELD_U8(sub, HIGH_BITS + j / 8) >> j % 8 & 1u) << 2;
#endif
#endif
#ifdef CODE_TABLE
  const float code = code_values[bits];
#else
  const float code = (float)((int)bits - CODE_OFFSET);
#endif
#endif
#ifdef MINIMUM
  return SCALE(half_index) * code + MINIMUM(half_index);
#else
  return SCALE(half_index) * code;
#endif
#endif
}
#undef FIELD_F16
#undef FIELD_U8
#undef UNSIGNED
#undef SIGNED

/* out(n, n_columns) = scale * row ids[i] of the tiles; an id outside them gives zeros.
 * Item i of a row takes SPAN columns. */
WORKGROUP(LANES)
__kernel void gather_tiles(TENSOR(float, out), VECTOR(const uchar, weight), VECTOR(const int, ids),
                           const ulong n_table_rows, const ulong n_columns, const float scale) {
  const ulong row = get_global_id(1);
  const int id = ELEMENTS(ids)[row];
  const uint known = id >= 0 && (ulong)id < n_table_rows;
  __global const uchar *tile =
      ELEMENTS(weight) + (known ? (ulong)(id / TILE) : 0) * TILE_BYTES(n_columns);
  __global float *out = ROW(out, row);
  ulong i = get_global_id(0) * SPAN;
  const ulong end = min(i + SPAN, n_columns);
  for (; i < end; i++)
    out[i] = known ? scale * weight_value(tile, i, (uint)id % TILE) : 0.0f;
}
