/* Paged attention for GPUs; compiled once for each KV format.
 *
 * A group of LANES items computes one row for one query head. Keys come in chunks of LANES: first
 * each item scores one key, then the group folds maximum and sum as trees, then each item adds up
 * the columns LANE, LANE + LANES, ... of the weighted values (online softmax). */
#include "attention.cl"

#define COLUMNS (MAX_WIDTH / LANES)

float group_fold(const float value, const uint take_max, __local float *scratch) {
  const uint lane = LANE;
  scratch[lane] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (uint half_size = LANES / 2; half_size > 0; half_size /= 2) {
    if (lane < half_size) {
      const float other = scratch[lane + half_size];
      scratch[lane] = take_max ? fmax(scratch[lane], other) : scratch[lane] + other;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  const float folded = scratch[0];
  barrier(CLK_LOCAL_MEM_FENCE);
  return folded;
}

WORKGROUP(LANES)
__kernel void attention_paged(ATTENTION) {
  __local float q[MAX_WIDTH];
  __local float weights[LANES];
  __local ulong places[LANES]; /* of the values of this chunk */
  __local float scratch[LANES];
  const uint lane = LANE;
  const uint head = get_group_id(0);
  const uint row = get_global_id(1);
  const ulong kv_head = head / n_shared;
  const visible keys = find_visible(row, ELEMENTS(seq_offsets), ELEMENTS(kv_lengths), n_seqs,
                                    table_blocks * block_tokens, window);
  if (keys.end == 0) return; /* the same for the whole group */
  __global const int *table = ROW(table, keys.sequence);
  for (uint i = lane; i < widths.x; i += LANES)
    q[i] = scale * ROW(q, row)[(ulong)head * widths.x + i];
  barrier(CLK_LOCAL_MEM_FENCE);
  float sums[COLUMNS];
  for (uint i = 0; i < COLUMNS; i++)
    sums[i] = 0.0f;
  float largest = sinks_base ? ELEMENTS(sinks)[head] : -INFINITY;
  float total = sinks_base ? 1.0f : 0.0f;
  for (uint chunk = keys.first; chunk < keys.end; chunk += LANES) {
    const uint position = chunk + lane;
    const int block = position < keys.end ? table[position / block_tokens] : -1;
    const uint known = block >= 0 && (uint)block < n_blocks;
    const ulong block_rows = (ulong)block_tokens * (get_num_groups(0) / n_shared);
    float score = -INFINITY, value_scale = 0.0f;
    if (known) {
      const ulong token = position % block_tokens;
      __global const CACHE *key =
          k_cache + k_strides.w + block * k_strides.x + kv_head * k_strides.y + token * k_strides.z;
      score = 0.0f;
      for (uint i = 0; i < widths.x; i++)
        score += q[i] * KV_VALUE(key, i);
      score *= KV_SCALE(
          row_scales(k_cache, k_strides, block, kv_head, token, block_rows, widths.x), 0, 0, 1);
      value_scale = KV_SCALE(
          row_scales(v_cache, v_strides, block, kv_head, token, block_rows, widths.y), 0, 0, 1);
      if (cap != 0.0f) score = cap * tanh(score / cap);
      places[lane] =
          v_strides.w + block * v_strides.x + kv_head * v_strides.y + token * v_strides.z;
    }
    const float peak = fmax(largest, group_fold(score, 1, scratch));
    const float weight = known ? exp(score - peak) : 0.0f;
    const float correction = peak == -INFINITY ? 1.0f : exp(largest - peak);
    weights[lane] = known ? weight * value_scale : 0.0f;
    total = total * correction + group_fold(weight, 0, scratch);
    largest = peak;
    const uint n = min(keys.end - chunk, (uint)LANES);
    for (uint c = 0; c < COLUMNS; c++) {
      const uint column = lane + c * LANES;
      if (column >= widths.y) break;
      float sum = sums[c] * correction;
      for (uint i = 0; i < n; i++)
        if (weights[i] != 0.0f) sum += weights[i] * KV_VALUE(v_cache, places[i] + column);
      sums[c] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  for (uint c = 0; c < COLUMNS; c++) {
    const uint column = lane + c * LANES;
    if (column < widths.y) ROW(out, row)[(ulong)head * widths.y + column] = sums[c] / total;
  }
}
