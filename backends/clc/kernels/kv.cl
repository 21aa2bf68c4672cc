/* The KV cache: writing rows into slots, moving tokens to and from the wire layout, copying
 * blocks. A cache plane is logically (n_blocks, block_tokens, n_heads, width); `strides` holds the
 * distances of block, head and token in elements and, last, the plane's offset. Element formats
 * are told by a run-time dtype; equal formats are moved as bits. Rows of I8 have a float scale
 * (consort/kv.h), found behind the elements of their block, or of their plane of the wire. */

#include "kv_formats.cl"

/* One head of one token: indices of its first element, and of its scale among floats. */
typedef struct {
  __global uchar *base;
  ulong element;
  ulong scale;
  uint dtype;
} kv_row;

void move_element(const kv_row to, const kv_row from, const uint i) {
  const ulong to_index = to.element + i, from_index = from.element + i;
  if (to.dtype == F32)
    ((__global uint *)to.base)[to_index] = ((__global const uint *)from.base)[from_index];
  else if (to.dtype == F16 || to.dtype == BF16)
    ((__global ushort *)to.base)[to_index] = ((__global const ushort *)from.base)[from_index];
  else
    to.base[to_index] = from.base[from_index];
}

float load_row(const kv_row from, const uint i) {
  if (from.dtype == I8)
    return (float)as_char(from.base[from.element + i]) *
           ((__global const float *)from.base)[from.scale];
  if (from.dtype == F8) return e4m3_value(from.base[from.element + i]);
  return load_element(from.base, from.element + i, from.dtype);
}

void store_row(const kv_row to, const uint i, const float value) {
  if (to.dtype == F8)
    to.base[to.element + i] = e4m3_bits(value);
  else
    store_element(to.base, to.element + i, to.dtype, value);
}

/* The scale of a row that is to be I8; each item of a group finds it for itself. */
float scale_of(const kv_row from, const uint width) {
  uint largest = 0;
  for (uint i = 0; i < width; i++)
    largest = max(largest, as_uint(load_row(from, i)) & 0x7fffffffu);
  if (largest >= 0x7f800000u) return as_float(0x7fc00000u);
  const float scale = as_float(largest) / 127.0f;
  return scale < 0x1p-126f ? 0.0f : scale;
}

/* The items of a group share the row. */
void move_row(const kv_row to, const kv_row from, const uint width) {
  if (to.dtype == from.dtype) {
    for (uint i = LANE; i < width; i += LANES)
      move_element(to, from, i);
    if (to.dtype == I8 && LANE == 0)
      ((__global uint *)to.base)[to.scale] = ((__global const uint *)from.base)[from.scale];
  } else if (to.dtype == I8) {
    const float scale = scale_of(from, width);
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (uint i = LANE; i < width; i += LANES)
      to.base[to.element + i] =
          inverse > 0.0f ? as_uchar((char)rint(load_row(from, i) * inverse)) : (uchar)0;
    if (LANE == 0) ((__global float *)to.base)[to.scale] = scale;
  } else {
    for (uint i = LANE; i < width; i += LANES)
      store_row(to, i, load_row(from, i));
  }
}

kv_row cache_row(__global uchar *cache, const uint dtype, const ulong4 strides, const ulong block,
                 const ulong head, const ulong token, const ulong block_rows, const uint width) {
  const ulong start = strides.w + block * strides.x;
  const ulong row = head * strides.y + token * strides.z;
  const kv_row found = {cache, start + row, (start + block_rows * width) / 4 + row / width, dtype};
  return found;
}

/* x(n, n_heads, width) into the slots(n) of one plane. Group (h, row) moves one head. */
WORKGROUP(LANES)
__kernel void kv_write(TENSOR(uchar, x), __global uchar *cache, const ulong4 strides,
                       VECTOR(const int, slots), const ulong n_blocks, const uint block_tokens,
                       const uint width, const uint x_dtype, const uint cache_dtype) {
  const ulong head = get_group_id(0);
  const ulong row = get_global_id(1);
  const int slot = ELEMENTS(slots)[row];
  if (slot < 0 || (ulong)slot / block_tokens >= n_blocks) return;
  const kv_row to = cache_row(cache, cache_dtype, strides, (ulong)slot / block_tokens, head,
                              (ulong)slot % block_tokens, block_tokens * get_num_groups(0), width);
  const kv_row from = {x_base, x_offset + row * x_stride + head * width, 0, x_dtype};
  move_row(to, from, width);
}

/* The tokens that a range may really move: none that lies outside the table or the wire. */
uint range_tokens(__global const int *range, const ulong table_tokens, const ulong wire_tokens) {
  const int first = range[0], count = range[1];
  if (first < 0 || count <= 0 || (ulong)first >= table_tokens) return 0;
  return (uint)min(min((ulong)count, table_tokens - (ulong)first), wire_tokens);
}

/* wire = plane 0 (n_heads, n, widths.x) then plane 1 (n_heads, n, widths.y) of the n tokens in
 * range, each followed by the scales of its rows where the wire is I8. Groups walk over the rows
 * (plane, head, token). `to_wire`: which way elements go. */
WORKGROUP(LANES)
__kernel void kv_move(__global uchar *wire, const ulong wire_offset, __global uchar *k_cache,
                      const ulong4 k_strides, __global uchar *v_cache, const ulong4 v_strides,
                      VECTOR(const int, table), VECTOR(const int, range), const ulong table_blocks,
                      const ulong n_blocks, const ulong wire_tokens, const uint block_tokens,
                      const uint n_heads, const uint2 widths, const uint wire_dtype,
                      const uint cache_dtype, const uint to_wire) {
  const uint n = range_tokens(ELEMENTS(range), table_blocks * block_tokens, wire_tokens);
  const ulong first = (ulong)max(ELEMENTS(range)[0], 0);
  const ulong n_rows = (v_cache ? 2ul : 1ul) * n_heads * n;
  const ulong plane_rows = (ulong)n_heads * n;
  for (ulong row = get_group_id(0); row < n_rows; row += get_num_groups(0)) {
    const uint second = row >= plane_rows;
    const ulong head = (row - second * plane_rows) / n;
    const ulong index = (row - second * plane_rows) % n;
    const ulong token = first + index;
    const int block = ELEMENTS(table)[token / block_tokens];
    if (block < 0 || (ulong)block >= n_blocks) continue;
    const uint width = second ? widths.y : widths.x;
    const ulong in_plane = row - second * plane_rows;
    const ulong start =
        wire_offset + (second ? plane_rows * (widths.x + (wire_dtype == I8 ? 4 : 0)) : 0);
    const kv_row wired = {wire, start + in_plane * width,
                          (start + plane_rows * width) / 4 + in_plane, wire_dtype};
    const ulong in_token = token % block_tokens, block_rows = (ulong)block_tokens * n_heads;
    kv_row cached;
    if (second)
      cached = cache_row(v_cache, cache_dtype, v_strides, block, head, in_token, block_rows, width);
    else
      cached = cache_row(k_cache, cache_dtype, k_strides, block, head, in_token, block_rows, width);
    if (to_wire)
      move_row(wired, cached, width);
    else
      move_row(cached, wired, width);
  }
}

ulong mix(const ulong word, const ulong index) {
  ulong z = (index << 32 | word) + 0x9e3779b97f4a7c15ul;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ul;
  z = (z ^ z >> 27) * 0x94d049bb133111ebul;
  return z ^ z >> 31;
}

/* partial[item] = the sum of mix(word, index) over every n_items-th word of what kv_move moved.
 * The wire is counted in 16-bit halves, whatever its dtype; row_halves: those of a token. */
WORKGROUP(LANES)
__kernel void wire_sum(__global const ushort *wire, const ulong wire_offset,
                       __global ulong *partial, VECTOR(const int, range), const ulong table_tokens,
                       const ulong wire_tokens, const ulong token_halves) {
  const ulong n = range_tokens(ELEMENTS(range), table_tokens, wire_tokens);
  const ulong n_halves = n * token_halves;
  ulong sum = 0;
  for (ulong i = get_global_id(0); 2 * i < n_halves; i += get_global_size(0)) {
    const ulong low = wire[wire_offset + 2 * i];
    const ulong high = 2 * i + 1 < n_halves ? wire[wire_offset + 2 * i + 1] : 0;
    sum += mix(high << 16 | low, i);
  }
  partial[get_global_id(0)] = sum;
}

WORKGROUP(1)
__kernel void wire_sum_finish(VECTOR(ulong, sum), __global const ulong *partial,
                              const uint n_partial) {
  ulong total = 0;
  for (uint i = 0; i < n_partial; i++)
    total += partial[i];
  ELEMENTS(sum)[0] = total;
}

/* cache[pairs[i][1]] = cache[pairs[i][0]]; pairs(n, 2). Strides and offset count 16-bit halves.
 * Group (g, i) takes a share of block pair i. */
WORKGROUP(LANES)
__kernel void kv_copy_blocks(__global ushort *cache, const ulong cache_offset,
                             const ulong block_stride, const ulong block_halves,
                             TENSOR(const int, pairs), const ulong n_blocks) {
  const ulong pair = get_global_id(1);
  const int from = ROW(pairs, pair)[0], to = ROW(pairs, pair)[1];
  if (from < 0 || to < 0 || from == to) return;
  if ((ulong)from >= n_blocks || (ulong)to >= n_blocks) return;
  __global const ushort *source = cache + cache_offset + (ulong)from * block_stride;
  __global ushort *target = cache + cache_offset + (ulong)to * block_stride;
  for (ulong i = get_global_id(0); i < block_halves; i += get_global_size(0))
    target[i] = source[i];
}
