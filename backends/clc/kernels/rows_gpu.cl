/* rms_norm, argmax and top_k for GPUs: a group of GROUP items takes a row and folds its partial
 * results as a tree in local memory. */

#define GROUP 256

float group_sum(const float value, __local float *scratch) {
  const uint lane = get_local_id(0);
  scratch[lane] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (uint half_size = GROUP / 2; half_size > 0; half_size /= 2) {
    if (lane < half_size) scratch[lane] += scratch[lane + half_size];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  const float total = scratch[0];
  barrier(CLK_LOCAL_MEM_FENCE);
  return total;
}

ulong group_max(const ulong value, __local ulong *scratch) {
  const uint lane = get_local_id(0);
  scratch[lane] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (uint half_size = GROUP / 2; half_size > 0; half_size /= 2) {
    if (lane < half_size) scratch[lane] = max(scratch[lane], scratch[lane + half_size]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  const ulong largest = scratch[0];
  barrier(CLK_LOCAL_MEM_FENCE);
  return largest;
}

/* out(n, d), x(n, d), weight(d), add(n, d) or NULL, sum(n, d) or NULL. `layer`: subtract the
 * mean first. Each item reads back only what it wrote itself. */
WORKGROUP(GROUP)
__kernel void rms_norm(TENSOR(float, out), TENSOR(const float, x), VECTOR(const float, weight),
                       TENSOR(const float, add), TENSOR(float, sum), const ulong n_columns,
                       const uint layer, const float epsilon) {
  __local float scratch[GROUP];
  const ulong row = get_global_id(1);
  const uint lane = get_local_id(0);
  __global float *out = ROW(out, row);
  __global const float *x = ROW(x, row);
  __global const float *weight = ELEMENTS(weight);
  if (add_base || sum_base) { /* s goes to sum, or by way of out */
    __global float *s = sum_base ? ROW(sum, row) : out;
    __global const float *add = ROW(add, row);
    for (ulong i = lane; i < n_columns; i += GROUP)
      s[i] = add_base ? x[i] + add[i] : x[i];
    x = s;
  }
  float mean = 0.0f;
  if (layer) {
    float total = 0.0f;
    for (ulong i = lane; i < n_columns; i += GROUP)
      total += x[i];
    mean = group_sum(total, scratch) / (float)n_columns;
  }
  float squares = 0.0f;
  for (ulong i = lane; i < n_columns; i += GROUP)
    squares += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.0f / sqrt(group_sum(squares, scratch) / (float)n_columns + epsilon);
  for (ulong i = lane; i < n_columns; i += GROUP)
    out[i] = (x[i] - mean) * scale * weight[i];
}

/* Grows with the value, NaN lowest and both zeros equal, then falls with the index. */
ulong order_rank(const float value, const ulong index) {
  const uint bits = as_uint(value + 0.0f);
  uint key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  key = isnan(value) ? 0 : key;
  return (ulong)key << 32 | (0xffffffffu - (uint)index);
}

ulong best_below(__global const float *x, const ulong n_columns, const ulong limit,
                 __local ulong *scratch) {
  ulong best = 0;
  for (ulong i = get_local_id(0); i < n_columns; i += GROUP) {
    const ulong rank = order_rank(x[i], i);
    best = rank < limit ? max(best, rank) : best;
  }
  return group_max(best, scratch);
}

/* out(n) = index of the largest of x(n, d). */
WORKGROUP(GROUP)
__kernel void argmax(VECTOR(int, out), TENSOR(const float, x), const ulong n_columns) {
  __local ulong scratch[GROUP];
  const ulong row = get_global_id(1);
  const ulong best = best_below(ROW(x, row), n_columns, ULONG_MAX, scratch);
  if (get_local_id(0) == 0) ELEMENTS(out)[row] = (int)(0xffffffffu - (uint)best);
}

/* values(n, k), ids(n, k): the k largest of x(n, d), one pass each. */
WORKGROUP(GROUP)
__kernel void top_k(TENSOR(float, values), TENSOR(int, ids), TENSOR(const float, x),
                    const ulong n_columns, const uint k) {
  __local ulong scratch[GROUP];
  const ulong row = get_global_id(1);
  ulong limit = ULONG_MAX;
  for (uint j = 0; j < k; j++) {
    limit = best_below(ROW(x, row), n_columns, limit, scratch);
    const uint at = 0xffffffffu - (uint)limit;
    if (get_local_id(0) == 0) {
      ROW(ids, row)[j] = (int)at;
      ROW(values, row)[j] = ROW(x, row)[at];
    }
  }
}
