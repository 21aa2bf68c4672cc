/* What both attention variants share: which keys a query row sees, and where they lie. */
#include "common.cl"

#define MAX_WIDTH 256

#if KV == F32
#define CACHE            float
#define KV_VALUE(p, i)   (p)[i]
#define KV_VALUE16(p, i) vload16(0, (p) + (i))
#elif KV == F16
#define CACHE            half
#define KV_VALUE(p, i)   vload_half(i, p)
#define KV_VALUE16(p, i) vload_half16(0, (p) + (i))
#else
#define CACHE            ushort
#define KV_VALUE(p, i)   bf16_value((p)[i])
#define KV_VALUE16(p, i) as_float16(convert_uint16(vload16(0, (p) + (i))) << 16)
#endif

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
