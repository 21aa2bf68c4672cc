/* add, silu_mul, gelu_mul: out(n, d), a(n, d), b(n, d), all float32.
 * Item (i, row) takes SPAN elements of a row; in steps of 16 on a CPU. */

#define FORMULA_ADD(a, b)  ((a) + (b))
#define FORMULA_SILU(g, u) ((g) / (1.0f + exp(-(g))) * (u))
/* 0.5 (1 + tanh(t)) = 1 / (1 + exp(-2 t)), which does not cancel where t is far below 0. */
#define FORMULA_GELU(g, u)                                                                         \
  ((g) / (1.0f + exp(-1.5957691216057308f * (g) * (1.0f + 0.044715f * (g) * (g)))) * (u))

#define ELEMENTWISE(NAME, FORMULA)                                                                 \
  WORKGROUP(LANES)                                                                                 \
  __kernel void NAME(TENSOR(float, out), TENSOR(const float, a), TENSOR(const float, b),           \
                     const ulong n_columns) {                                                      \
    const ulong row = get_global_id(1);                                                            \
    __global float *out = ROW(out, row);                                                           \
    __global const float *a = ROW(a, row);                                                         \
    __global const float *b = ROW(b, row);                                                         \
    ulong i = get_global_id(0) * SPAN;                                                             \
    const ulong end = min(i + SPAN, n_columns);                                                    \
    if (SPAN >= 16) {                                                                              \
      for (; i + 16 <= end; i += 16)                                                               \
        vstore16(FORMULA(vload16(0, a + i), vload16(0, b + i)), 0, out + i);                       \
    }                                                                                              \
    for (; i < end; i++)                                                                           \
      out[i] = FORMULA(a[i], b[i]);                                                                \
  }

ELEMENTWISE(add, FORMULA_ADD)
ELEMENTWISE(silu_mul, FORMULA_SILU)
ELEMENTWISE(gelu_mul, FORMULA_GELU)

/* out(n, d) = x(n, d) between plain formats, rounded to nearest even. */
WORKGROUP(LANES)
__kernel void cast(TENSOR(uchar, out), TENSOR(const uchar, x), const ulong n_columns,
                   const uint out_dtype, const uint x_dtype) {
  const ulong row = get_global_id(1);
  ulong i = get_global_id(0) * SPAN;
  const ulong end = min(i + SPAN, n_columns);
  for (; i < end; i++) {
    const float value = load_element(x_base, x_offset + row * x_stride + i, x_dtype);
    store_element(out_base, out_offset + row * out_stride + i, out_dtype, value);
  }
}

/* Rows of words or of bytes; NaNs keep their bits. */
WORKGROUP(LANES)
__kernel void copy_words(TENSOR(uint, out), TENSOR(const uint, x), const ulong n_columns) {
  const ulong row = get_global_id(1);
  ulong i = get_global_id(0) * SPAN;
  const ulong end = min(i + SPAN, n_columns);
  for (; i < end; i++)
    ROW(out, row)[i] = ROW(x, row)[i];
}

WORKGROUP(LANES)
__kernel void copy_bytes(TENSOR(uchar, out), TENSOR(const uchar, x), const ulong n_columns) {
  const ulong row = get_global_id(1);
  ulong i = get_global_id(0) * SPAN;
  const ulong end = min(i + SPAN, n_columns);
  for (; i < end; i++)
    ROW(out, row)[i] = ROW(x, row)[i];
}

/* out(n, n_heads, head_dim), x(n, n_heads, head_dim), positions(n), inv_freq(n_rot / 2).
 * Item (i, row, h) turns pair i of the heads h, h + n_groups, ... The angle is kept as a product
 * and its rounding error, so that a long context costs no digits. */
WORKGROUP(LANES)
__kernel void rope(TENSOR(float, out), TENSOR(const float, x), VECTOR(const int, positions),
                   VECTOR(const float, inv_freq), const uint n_heads, const uint head_dim,
                   const uint n_rot, const uint half_split, const float magnitude) {
  const uint pair = get_global_id(0);
  const ulong row = get_global_id(1);
  const uint n_pairs = n_rot / 2;
  __global float *out = ROW(out, row);
  __global const float *x = ROW(x, row);
  const uint n_items = get_global_size(0);
  for (uint head = get_global_id(2); head < n_heads; head += get_global_size(2))
    for (uint i = n_rot + pair; i < head_dim; i += n_items)
      out[(ulong)head * head_dim + i] = x[(ulong)head * head_dim + i];
  if (pair >= n_pairs) return;
  const float position = (float)ELEMENTS(positions)[row];
  const float frequency = ELEMENTS(inv_freq)[pair];
  const float angle = position * frequency;
  const float rest = fma(position, frequency, -angle);
  const float c = cos(angle), s = sin(angle);
  const float cosine = (c - rest * s) * magnitude;
  const float sine = (s + rest * c) * magnitude;
  const uint first = half_split ? pair : 2 * pair;
  const uint second = half_split ? pair + n_pairs : first + 1;
  for (uint head = get_global_id(2); head < n_heads; head += get_global_size(2)) {
    const ulong at = (ulong)head * head_dim;
    const float a = x[at + first], b = x[at + second];
    out[at + first] = a * cosine - b * sine;
    out[at + second] = a * sine + b * cosine;
  }
}
