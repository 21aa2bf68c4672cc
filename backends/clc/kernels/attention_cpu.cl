/* Paged attention for CPUs; compiled once for each KV format.
 *
 * An item computes one row for one query head. Keys come in chunks of 16: their scores are one
 * float16, so that the exponentials of a chunk are one call, and the running maximum is corrected
 * once a chunk (online softmax). */
#include "attention.cl"

#define CHUNK 16

float max16(const float16 v) {
  const float8 a = fmax(v.lo, v.hi);
  const float4 b = fmax(a.lo, a.hi);
  const float2 c = fmax(b.lo, b.hi);
  return fmax(c.x, c.y);
}

float dot_key(const float *q, __global const CACHE *key, const uint width) {
  float16 sum = 0.0f;
  float tail = 0.0f;
  uint i = 0;
  for (; i + 16 <= width; i += 16)
    sum = fma(vload16(0, q + i), KV_VALUE16(key, i), sum);
  for (; i < width; i++)
    tail += q[i] * KV_VALUE(key, i);
  return sum16(sum) + tail;
}

void add_value(float *sums, __global const CACHE *value, const float weight, const uint width) {
  uint i = 0;
  for (; i + 16 <= width; i += 16)
    vstore16(fma((float16)weight, KV_VALUE16(value, i), vload16(0, sums + i)), 0, sums + i);
  for (; i < width; i++)
    sums[i] += weight * KV_VALUE(value, i);
}

WORKGROUP(1)
__kernel void attention_paged(ATTENTION) {
  const uint head = get_global_id(0);
  const uint row = get_global_id(1);
  const ulong kv_head = head / n_shared;
  const visible keys = find_visible(row, ELEMENTS(seq_offsets), ELEMENTS(kv_lengths), n_seqs,
                                    table_blocks * block_tokens, window);
  if (keys.end == 0) return;
  __global const int *table = ROW(table, keys.sequence);
  float q[MAX_WIDTH], sums[MAX_WIDTH];
  for (uint i = 0; i < widths.x; i++)
    q[i] = scale * ROW(q, row)[(ulong)head * widths.x + i];
  for (uint i = 0; i < widths.y; i++)
    sums[i] = 0.0f;
  float largest = sinks_base ? ELEMENTS(sinks)[head] : -INFINITY;
  float total = sinks_base ? 1.0f : 0.0f;
  for (uint chunk = keys.first / CHUNK * CHUNK; chunk < keys.end; chunk += CHUNK) {
    const int block = table[chunk / block_tokens];
    if (block < 0 || (uint)block >= n_blocks) continue;
    const uint begin = max(chunk, keys.first) - chunk, end = min(keys.end - chunk, (uint)CHUNK);
    const ulong token = chunk % block_tokens;
    __global const CACHE *key =
        k_cache + k_strides.w + block * k_strides.x + kv_head * k_strides.y + token * k_strides.z;
    __global const CACHE *value =
        v_cache + v_strides.w + block * v_strides.x + kv_head * v_strides.y + token * v_strides.z;
    const ulong block_rows = (ulong)block_tokens * (get_global_size(0) / n_shared);
    __global const float *key_scales =
        row_scales(k_cache, k_strides, block, kv_head, token, block_rows, widths.x);
    __global const float *value_scales =
        row_scales(v_cache, v_strides, block, kv_head, token, block_rows, widths.y);
    float scores[CHUNK];
    for (uint i = 0; i < CHUNK; i++)
      scores[i] = -INFINITY;
    for (uint i = begin; i < end; i++)
      scores[i] = dot_key(q, key + i * k_strides.z, widths.x) *
                  KV_SCALE(key_scales, i, k_strides.z, widths.x);
    float16 score = vload16(0, scores);
    if (cap != 0.0f) score = select(cap * tanh(score / cap), score, score == -INFINITY);
    const float peak = fmax(largest, max16(score));
    const float16 weights = exp(score - peak);
    const float correction = exp(largest - peak);
    if (correction != 1.0f)
      for (uint i = 0; i < widths.y; i++)
        sums[i] *= correction;
    total = total * correction + sum16(weights);
    largest = peak;
    vstore16(weights, 0, scores);
    for (uint i = begin; i < end; i++)
      add_value(sums, value + i * v_strides.z,
                scores[i] * KV_SCALE(value_scales, i, v_strides.z, widths.y), widths.y);
  }
  __global float *out = ROW(out, row) + (ulong)head * widths.y;
  for (uint i = 0; i < widths.y; i++)
    out[i] = sums[i] / total;
}
