/* Mixture of experts: routing and combining. Both are small: an item takes a row or an element. */

#define MAX_EXPERTS 512

/* ids(n, k), weights(n, k), logits(n, n_experts), bias(n_experts) or NULL. */
WORKGROUP(1)
__kernel void moe_route(TENSOR(int, ids), TENSOR(float, weights), TENSOR(const float, logits),
                        VECTOR(const float, bias), const uint n_experts, const uint k,
                        const uint sigmoid, const uint normalize, const float scale) {
  const ulong row = get_global_id(1);
  __global const float *logits = ROW(logits, row);
  float p[MAX_EXPERTS];
  float largest = -INFINITY, total = 0.0f;
  for (uint i = 0; i < n_experts; i++)
    largest = fmax(largest, logits[i]);
  for (uint i = 0; i < n_experts; i++) {
    p[i] = sigmoid ? 1.0f / (1.0f + exp(-logits[i])) : exp(logits[i] - largest);
    total += p[i];
  }
  if (!sigmoid)
    for (uint i = 0; i < n_experts; i++)
      p[i] /= total;
  float previous = INFINITY, chosen = 0.0f;
  int previous_id = -1;
  for (uint j = 0; j < k; j++) {
    float best = -INFINITY;
    int id = -1;
    for (uint i = 0; i < n_experts; i++) {
      const float score = p[i] + (bias_base ? ELEMENTS(bias)[i] : 0.0f);
      const int after = score < previous || (score == previous && (int)i > previous_id);
      if (after && (id < 0 || score > best)) {
        best = score;
        id = (int)i;
      }
    }
    id = max(id, 0);
    previous = best;
    previous_id = id;
    chosen += p[id];
    ROW(ids, row)[j] = id;
    ROW(weights, row)[j] = p[id];
  }
  const float factor = normalize ? scale / chosen : scale;
  for (uint j = 0; j < k; j++)
    ROW(weights, row)[j] *= factor;
}

/* out(n, d) = residual(n, d) or 0, plus the weighted sum of k rows of x(n * k, d). */
WORKGROUP(LANES)
__kernel void moe_combine(TENSOR(float, out), TENSOR(const float, x), TENSOR(const float, weights),
                          TENSOR(const float, residual), const ulong n_columns, const uint k) {
  const ulong row = get_global_id(1);
  ulong i = get_global_id(0) * SPAN;
  const ulong end = min(i + SPAN, n_columns);
  for (; i < end; i++) {
    float sum = residual_base ? ROW(residual, row)[i] : 0.0f;
    for (uint j = 0; j < k; j++)
      sum += ROW(weights, row)[j] * ROW(x, row * k + j)[i];
    ROW(out, row)[i] = sum;
  }
}
