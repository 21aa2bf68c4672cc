/* The KV cache: writing rows into slots, moving tokens to and from the wire layout, copying
 * blocks. A cache plane is logically (n_blocks, block_tokens, n_heads, width); `strides` holds the
 * distances of block, head and token in elements and, last, the plane's offset. Element formats
 * are told by a run-time dtype; equal formats are moved as bits. */

void move_element(__global uchar *to, const ulong to_index, const uint to_dtype,
                  __global const uchar *from, const ulong from_index, const uint from_dtype) {
  if (to_dtype != from_dtype)
    store_element(to, to_index, to_dtype, load_element(from, from_index, from_dtype));
  else if (to_dtype == F32)
    ((__global uint *)to)[to_index] = ((__global const uint *)from)[from_index];
  else
    ((__global ushort *)to)[to_index] = ((__global const ushort *)from)[from_index];
}

/* x(n, n_heads, width) into the slots(n) of one plane. Group (h, row) moves one head. */
WORKGROUP(LANES)
__kernel void kv_write(TENSOR(const uchar, x), __global uchar *cache, const ulong4 strides,
                       VECTOR(const int, slots), const ulong n_blocks, const uint block_tokens,
                       const uint width, const uint x_dtype, const uint cache_dtype) {
  const ulong head = get_group_id(0);
  const ulong row = get_global_id(1);
  const int slot = ELEMENTS(slots)[row];
  if (slot < 0 || (ulong)slot / block_tokens >= n_blocks) return;
  const ulong to = strides.w + (ulong)slot / block_tokens * strides.x + head * strides.y +
                   (ulong)slot % block_tokens * strides.z;
  const ulong from = x_offset + row * x_stride + head * width;
  for (uint i = LANE; i < width; i += LANES)
    move_element(cache, to + i, cache_dtype, x_base, from + i, x_dtype);
}

/* The tokens that a range may really move: none that lies outside the table or the wire. */
uint range_tokens(__global const int *range, const ulong table_tokens, const ulong wire_tokens) {
  const int first = range[0], count = range[1];
  if (first < 0 || count <= 0 || (ulong)first >= table_tokens) return 0;
  return (uint)min(min((ulong)count, table_tokens - (ulong)first), wire_tokens);
}

ulong element_at(const ulong4 strides, const ulong block, const ulong head, const ulong token) {
  return strides.w + block * strides.x + head * strides.y + token * strides.z;
}

/* wire = plane 0 (n_heads, n, widths.x) then plane 1 (n_heads, n, widths.y) of the n tokens in
 * range. Groups walk over the rows (plane, head, token). `to_wire`: which way elements go. */
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
    __global uchar *cache = second ? v_cache : k_cache;
    const ulong in_wire =
        wire_offset + (second ? plane_rows * widths.x : 0) + (row - second * plane_rows) * width;
    const ulong in_token = token % block_tokens;
    const ulong in_cache = second ? element_at(v_strides, block, head, in_token)
                                  : element_at(k_strides, block, head, in_token);
    for (uint i = LANE; i < width; i += LANES) {
      if (to_wire)
        move_element(wire, in_wire + i, wire_dtype, cache, in_cache + i, cache_dtype);
      else
        move_element(cache, in_cache + i, cache_dtype, wire, in_wire + i, wire_dtype);
    }
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
