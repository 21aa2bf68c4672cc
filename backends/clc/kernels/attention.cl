/* What both attention variants share: which keys a query row sees, and where they lie. */
#include "common.cl"
#include "kv_formats.cl"

#define MAX_WIDTH 256

#if KV == F32
#define CACHE            float
#define KV_VALUE(p, i)   (p)[i]
#define KV_VALUE16(p, i) vload16(0, (p) + (i))
#elif KV == F16
#define CACHE            half
#define KV_VALUE(p, i)   vload_half(i, p)
#define KV_VALUE16(p, i) vload_half16(0, (p) + (i))
#elif KV == BF16
#define CACHE            ushort
#define KV_VALUE(p, i)   bf16_value((p)[i])
#define KV_VALUE16(p, i) as_float16(convert_uint16(vload16(0, (p) + (i))) << 16)
#elif KV == F8
#define CACHE            uchar
#define KV_VALUE(p, i)   e4m3_value((p)[i])
#define KV_VALUE16(p, i) e4m3_value16(vload16(0, (p) + (i)))
#else
#define CACHE            char
#define KV_VALUE(p, i)   (float)(p)[i]
#define KV_VALUE16(p, i) convert_float16(vload16(0, (p) + (i)))
#endif

#if KV == F8
float16 e4m3_value16(const uchar16 bytes) {
  const uint16 magnitude = convert_uint16(bytes & (uchar16)0x7f);
  const uint16 sign = convert_uint16(bytes & (uchar16)0x80) << 24;
  const uint16 small = as_uint16(convert_float16(magnitude) * 0x1p-9f);
  uint16 bits = select((magnitude << 20) + 0x3c000000u, small, magnitude < 8u);
  bits = select(bits, (uint16)0x7fc00000u, magnitude == 0x7fu);
  return as_float16(sign | bits);
}
#endif

/* The scale of token i after the one that `scales` is of; elements of I8 are whole numbers. */
#if KV == I8
#define KV_SCALE(scales, i, token_stride, width) (scales)[(i) * ((token_stride) / (width))]
#else
#define KV_SCALE(scales, i, token_stride, width) 1.0f
#endif

/* Where the scales of a plane's rows begin to lie for one token and head: behind the elements of
 * the block. block_rows: n_heads * block_tokens. */
__global const float *row_scales(__global const CACHE *cache, const ulong4 strides,
                                 const ulong block, const ulong head, const ulong token,
                                 const ulong block_rows, const uint width) {
  __global const CACHE *scales = cache + strides.w + block * strides.x + block_rows * width;
  return (__global const float *)scales + (head * strides.y + token * strides.z) / width;
}

/* out(n, n_heads, widths.y), q(n, n_heads, widths.x); caches with strides (block, head, token,
 * offset) in elements; block_table(n_seqs, m), seq_offsets(n_seqs + 1), kv_lengths(n_seqs),
 * sinks(n_heads) or NULL. n_shared query heads read one KV head. */
#define ATTENTION                                                                                  \
  TENSOR(float, out), TENSOR(const float, q), __global const CACHE *k_cache,                       \
      const ulong4 k_strides, __global const CACHE *v_cache, const ulong4 v_strides,               \
      TENSOR(const int, table), VECTOR(const int, seq_offsets), VECTOR(const int, kv_lengths),     \
      VECTOR(const float, sinks), const uint n_seqs, const uint table_blocks, const uint n_blocks, \
      const uint block_tokens, const uint n_shared, const uint2 widths, const float scale,         \
      const float cap, const uint window

/* Positions first <= p < end that a row attends to, by its sequence; end = 0: none. */
typedef struct {
  uint sequence;
  uint first;
  uint end;
} visible;

visible find_visible(const uint row, __global const int *seq_offsets,
                     __global const int *kv_lengths, const uint n_seqs, const uint table_tokens,
                     const uint window) {
  visible found = {0, 0, 0};
  uint low = 0, high = n_seqs; /* the last sequence that starts at or before the row */
  while (high - low > 1) {
    const uint middle = low + (high - low) / 2;
    if (seq_offsets[middle] <= (int)row)
      low = middle;
    else
      high = middle;
  }
  const int begin = seq_offsets[low], end = seq_offsets[low + 1];
  const int length = kv_lengths[low];
  if ((int)row < begin || (int)row >= end || length <= 0) return found;
  const int position = length - (end - (int)row);
  if (position < 0) return found;
  found.sequence = low;
  found.end = min((uint)position + 1, table_tokens);
  found.first = window && found.end > window ? found.end - window : 0;
  return found;
}
