/* The KV cache: writing rows into slots, moving tokens to and from the wire layout, copying blocks.
 * Equal formats are moved as bits. A warp takes one head of one token. */
#include "kv_formats.cuh"

/* One head of one token; the scale is of int8 rows. */
struct kv_row {
  uint8_t *base;
  uint64_t element;
  float *scale;
  uint32_t dtype;
};

DEVICE kv_row cache_row(const cuda_plane &plane, uint32_t dtype, uint64_t place) {
  kv_row row = {(uint8_t *)plane.base, place, nullptr, dtype};
  if (dtype == CUDA_I8) row.scale = (float *)scale_of(plane, place);
  return row;
}

DEVICE float load_row(const kv_row &from, uint32_t i) {
  const uint64_t index = from.element + i;
  if (from.dtype == CUDA_I8) return (float)((const int8_t *)from.base)[index] * *from.scale;
  if (from.dtype == CUDA_F8) return e4m3_value(from.base[index]);
  return load_element(from.base, index, from.dtype);
}

DEVICE void copy_element(const kv_row &to, const kv_row &from, uint32_t i) {
  if (to.dtype == CUDA_F32)
    ((uint32_t *)to.base)[to.element + i] = ((const uint32_t *)from.base)[from.element + i];
  else if (to.dtype == CUDA_I8 || to.dtype == CUDA_F8)
    to.base[to.element + i] = from.base[from.element + i];
  else
    ((uint16_t *)to.base)[to.element + i] = ((const uint16_t *)from.base)[from.element + i];
}

/* The scale of a row that is to be int8, found by the whole warp; NaN where it is not finite. */
DEVICE float row_scale(const kv_row &from, uint32_t width) {
  uint32_t largest = 0;
  for (uint32_t i = threadIdx.x % 32; i < width; i += 32) {
    const uint32_t magnitude = __float_as_uint(load_row(from, i)) & 0x7fffffffu;
    if (magnitude > largest) largest = magnitude;
  }
  largest = warp_max(largest);
  if (largest >= 0x7f800000u) return __uint_as_float(0x7fc00000u);
  const float scale = __uint_as_float(largest) / 127.0f;
  return scale < 1.17549435e-38f ? 0.0f : scale;
}

/* The lanes of a warp share the row. */
DEVICE void move_row(const kv_row &to, const kv_row &from, uint32_t width) {
  const uint32_t lane = threadIdx.x % 32;
  if (to.dtype == from.dtype) {
    for (uint32_t i = lane; i < width; i += 32)
      copy_element(to, from, i);
    if (to.scale && lane == 0) *to.scale = *from.scale;
  } else if (to.dtype == CUDA_I8) {
    const float scale = row_scale(from, width), inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (uint32_t i = lane; i < width; i += 32)
      to.base[to.element + i] =
          inverse > 0.0f ? (uint8_t)(int8_t)rintf(load_row(from, i) * inverse) : 0;
    if (lane == 0) *to.scale = scale;
  } else {
    for (uint32_t i = lane; i < width; i += 32) {
      const float value = load_row(from, i);
      if (to.dtype == CUDA_F8)
        to.base[to.element + i] = e4m3_bits(value);
      else
        store_element(to.base, to.element + i, to.dtype, value);
    }
  }
}

/* x(n, n_heads, width) into the slots(n) of one plane. Block (row); its warps share the heads. */
KERNEL(kv_write, cuda_kv_write_args, CUDA_THREADS) {
  const int32_t slot = ((const int32_t *)a.slots)[blockIdx.x];
  if (slot < 0 || (uint64_t)slot / a.block_tokens >= a.n_blocks) return;
  const uint64_t token = (uint64_t)slot / a.block_tokens * a.cache.block_stride +
                         (uint64_t)slot % a.block_tokens * a.cache.token_stride;
  const uint64_t from = (uint64_t)blockIdx.x * a.x.stride;
  for (uint32_t head = threadIdx.x / 32; head < a.n_heads; head += CUDA_THREADS / 32) {
    const kv_row x = {(uint8_t *)a.x.base, from + (uint64_t)head * a.width, nullptr, a.x_dtype};
    move_row(cache_row(a.cache, a.cache_dtype, token + head * a.cache.head_stride), x, a.width);
  }
}

/* The tokens that a range may really move: none that lies outside the table or the wire. */
DEVICE uint32_t range_tokens(const void *range, uint64_t table_tokens, uint64_t wire_tokens) {
  const int32_t first = ((const int32_t *)range)[0], count = ((const int32_t *)range)[1];
  if (first < 0 || count <= 0 || (uint64_t)first >= table_tokens) return 0;
  uint64_t n = (uint64_t)count;
  if (n > table_tokens - (uint64_t)first) n = table_tokens - (uint64_t)first;
  return (uint32_t)(n < wire_tokens ? n : wire_tokens);
}

/* wire = K (n_heads, n, k_width) then V (n_heads, n, v_width) of the n tokens in range, each
 * followed by the scales of its rows where the wire is int8. Warps walk over the rows (plane, head,
 * token). */
KERNEL(kv_move, cuda_kv_move_args, CUDA_THREADS, 4) {
  const uint32_t n = range_tokens(a.range, a.table_blocks * a.block_tokens, a.wire_tokens);
  const uint64_t first = n ? (uint64_t)((const int32_t *)a.range)[0] : 0;
  const uint64_t plane_rows = (uint64_t)a.n_heads * n, n_rows = (a.v.base ? 2 : 1) * plane_rows;
  const uint64_t n_warps = (uint64_t)gridDim.x * (CUDA_THREADS / 32);
  for (uint64_t row = (uint64_t)blockIdx.x * (CUDA_THREADS / 32) + threadIdx.x / 32; row < n_rows;
       row += n_warps) {
    const bool second = row >= plane_rows;
    const uint64_t in_plane = second ? row - plane_rows : row;
    const uint64_t token = first + in_plane % n;
    const int32_t block = ((const int32_t *)a.table)[token / a.block_tokens];
    if (block < 0 || (uint64_t)block >= a.n_blocks) continue;
    const uint32_t width = second ? a.v_width : a.k_width;
    const cuda_plane &plane = second ? a.v : a.k;
    const uint64_t k_bytes = a.k_width + (a.wire_dtype == CUDA_I8 ? sizeof(float) : 0);
    const uint64_t start = second ? plane_rows * k_bytes : 0;
    const uint64_t place = (uint64_t)block * plane.block_stride + in_plane / n * plane.head_stride +
                           token % a.block_tokens * plane.token_stride;
    const kv_row cached = cache_row(plane, a.cache_dtype, place);
    kv_row wired = {(uint8_t *)a.wire, start + in_plane * width, nullptr, a.wire_dtype};
    if (a.wire_dtype == CUDA_I8)
      wired.scale = (float *)(wired.base + start + plane_rows * width) + in_plane;
    if (a.to_wire)
      move_row(wired, cached, width);
    else
      move_row(cached, wired, width);
  }
}

DEVICE uint64_t mix(uint64_t word, uint64_t index) {
  uint64_t z = (index << 32 | word) + 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

/* partial[block] = the block's share of the sum over what kv_move moved, counted in 16-bit halves. */
KERNEL(wire_sum, cuda_wire_sum_args, CUDA_THREADS) {
  const uint16_t *wire = (const uint16_t *)a.wire;
  const uint64_t n_halves =
      range_tokens(a.range, a.table_tokens, a.wire_tokens) * a.token_halves;
  unsigned long long sum = 0;
  for (uint64_t i = (uint64_t)blockIdx.x * CUDA_THREADS + threadIdx.x; 2 * i < n_halves;
       i += (uint64_t)gridDim.x * CUDA_THREADS) {
    const uint64_t low = wire[2 * i], high = 2 * i + 1 < n_halves ? wire[2 * i + 1] : 0;
    sum += mix(high << 16 | low, i);
  }
  sum = block_fold<unsigned long long, false>(sum);
  if (threadIdx.x == 0) ((unsigned long long *)a.partial)[blockIdx.x] = sum;
}

KERNEL(wire_sum_finish, cuda_wire_sum_args, CUDA_THREADS) {
  unsigned long long sum = 0;
  for (uint32_t i = threadIdx.x; i < a.n_partial; i += CUDA_THREADS)
    sum += ((const unsigned long long *)a.partial)[i];
  sum = block_fold<unsigned long long, false>(sum);
  if (threadIdx.x == 0) *(unsigned long long *)a.sum = sum;
}

/* What kv_move moves of the wire, between the device's memory and memory of the host: each byte
 * crosses the bus once, 16 a thread. */
KERNEL(wire_copy, cuda_wire_copy_args, CUDA_THREADS) {
  const uint64_t n_halves =
      range_tokens(a.range, a.table_tokens, a.wire_tokens) * a.token_halves;
  const uint64_t n_chunks = n_halves / 8;
  for (uint64_t i = (uint64_t)blockIdx.x * CUDA_THREADS + threadIdx.x; i < n_chunks;
       i += (uint64_t)gridDim.x * CUDA_THREADS)
    ((uint4 *)a.to)[i] = ((const uint4 *)a.from)[i];
  if (blockIdx.x == 0 && threadIdx.x < n_halves % 8)
    ((uint16_t *)a.to)[8 * n_chunks + threadIdx.x] =
        ((const uint16_t *)a.from)[8 * n_chunks + threadIdx.x];
}

/* cache[pairs[i][1]] = cache[pairs[i][0]]; pairs(n, 2). Block (pair, share). */
KERNEL(kv_copy_blocks, cuda_copy_blocks_args, CUDA_THREADS) {
  const int32_t *pair = row_of<const int32_t>(a.pairs, blockIdx.x);
  const int32_t from = pair[0], to = pair[1];
  if (from < 0 || to < 0 || from == to) return;
  if ((uint64_t)from >= a.n_blocks || (uint64_t)to >= a.n_blocks) return;
  const uint16_t *source = (const uint16_t *)a.cache + (uint64_t)from * a.block_stride;
  uint16_t *target = (uint16_t *)a.cache + (uint64_t)to * a.block_stride;
  for (uint64_t i = (uint64_t)blockIdx.y * CUDA_THREADS + threadIdx.x; i < a.block_halves;
       i += (uint64_t)gridDim.y * CUDA_THREADS)
    target[i] = source[i];
}
