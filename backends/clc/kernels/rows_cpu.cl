/* rms_norm, argmax and top_k for CPUs: an item takes a whole row in steps of 16. */

/* out(n, d), x(n, d), weight(d), add(n, d) or NULL, sum(n, d) or NULL. `layer`: subtract the
 * mean first. The row that is normalized is read back from sum where there is one, because sum
 * may be the window of x or of add. */
WORKGROUP(1)
__kernel void rms_norm(TENSOR(float, out), TENSOR(const float, x), VECTOR(const float, weight),
                       TENSOR(const float, add), TENSOR(float, sum), const ulong n_columns,
                       const uint layer, const float epsilon) {
  const ulong row = get_global_id(1);
  __global float *out = ROW(out, row);
  __global const float *x = ROW(x, row);
  __global const float *weight = ELEMENTS(weight);
  if (add_base || sum_base) { /* s goes to sum, or by way of out */
    __global float *s = sum_base ? ROW(sum, row) : out;
    __global const float *add = ROW(add, row);
    ulong i = 0;
    for (; i + 16 <= n_columns; i += 16) {
      const float16 value = vload16(0, x + i);
      vstore16(add_base ? value + vload16(0, add + i) : value, 0, s + i);
    }
    for (; i < n_columns; i++)
      s[i] = add_base ? x[i] + add[i] : x[i];
    x = s;
  }
  float mean = 0.0f;
  ulong i;
  if (layer) {
    float16 total = 0.0f;
    float tail = 0.0f;
    for (i = 0; i + 16 <= n_columns; i += 16)
      total += vload16(0, x + i);
    for (; i < n_columns; i++)
      tail += x[i];
    mean = (sum16(total) + tail) / (float)n_columns;
  }
  float16 squares = 0.0f;
  float tail = 0.0f;
  for (i = 0; i + 16 <= n_columns; i += 16) {
    const float16 value = vload16(0, x + i) - mean;
    squares += value * value;
  }
  for (; i < n_columns; i++)
    tail += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.0f / sqrt((sum16(squares) + tail) / (float)n_columns + epsilon);
  for (i = 0; i + 16 <= n_columns; i += 16)
    vstore16((vload16(0, x + i) - mean) * scale * vload16(0, weight + i), 0, out + i);
  for (; i < n_columns; i++)
    out[i] = (x[i] - mean) * scale * weight[i];
}

/* Integers in the order of floats: NaN lowest, both zeros equal. */
int order_key(const float value) {
  const int bits = as_int(value + 0.0f);
  const int key = bits < 0 ? bits ^ 0x7fffffff : bits;
  return isnan(value) ? INT_MIN : key;
}

int16 order_key16(const float16 value) {
  const int16 bits = as_int16(value + 0.0f);
  const int16 key = bits ^ ((bits >> 31) & 0x7fffffff);
  return select(key, (int16)INT_MIN, isnan(value));
}

/* out(n) = index of the largest of x(n, d). */
WORKGROUP(1)
__kernel void argmax(VECTOR(int, out), TENSOR(const float, x), const ulong n_columns) {
  const ulong row = get_global_id(1);
  __global const float *x = ROW(x, row);
  int16 best16 = INT_MIN;
  int best = INT_MIN;
  ulong i = 0;
  for (; i + 16 <= n_columns; i += 16)
    best16 = max(best16, order_key16(vload16(0, x + i)));
  for (; i < n_columns; i++)
    best = max(best, order_key(x[i]));
  const int8 best8 = max(best16.lo, best16.hi);
  const int4 best4 = max(best8.lo, best8.hi);
  const int2 best2 = max(best4.lo, best4.hi);
  best = max(best, max(best2.x, best2.y));
  for (i = 0; i + 16 <= n_columns; i += 16)
    if (any(order_key16(vload16(0, x + i)) == (int16)best)) break;
  while (i < n_columns - 1 && order_key(x[i]) != best)
    i++;
  ELEMENTS(out)[row] = (int)i;
}

/* values(n, k), ids(n, k): the k largest of x(n, d). Pass j finds the largest that comes after
 * the one before it in the order (value down, index up). */
WORKGROUP(1)
__kernel void top_k(TENSOR(float, values), TENSOR(int, ids), TENSOR(const float, x),
                    const ulong n_columns, const uint k) {
  const ulong row = get_global_id(1);
  __global const float *x = ROW(x, row);
  ulong limit = ULONG_MAX;
  for (uint j = 0; j < k; j++) {
    ulong best = 0;
    for (ulong i = 0; i < n_columns; i++) {
      const uint key = (uint)order_key(x[i]) ^ 0x80000000u;
      const ulong rank = (ulong)key << 32 | (0xffffffffu - (uint)i);
      best = rank < limit && rank > best ? rank : best;
    }
    limit = best;
    const uint at = 0xffffffffu - (uint)best;
    ROW(ids, row)[j] = (int)at;
    ROW(values, row)[j] = x[at];
  }
}
