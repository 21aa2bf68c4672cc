/* Elementwise ops, rope, gather_rows, and the ops that take a whole row: a block a row, threads
 * side by side along it. All of them read and write each byte once, so that memory is their limit.
 */
#include "quants.cuh"

/* out(n, d), a(n, d), b(n, d), float32. Block (row, span). */
KERNEL(binary, cuda_binary_args, CUDA_THREADS) {
  float *out = row_of<float>(a.out, blockIdx.x);
  const float *x = row_of<const float>(a.a, blockIdx.x), *y = row_of<const float>(a.b, blockIdx.x);
  const uint64_t begin = (uint64_t)blockIdx.y * CUDA_SPAN;
  for (uint64_t i = begin + threadIdx.x; i < begin + CUDA_SPAN && i < a.n_columns;
       i += CUDA_THREADS) {
    const float g = x[i], u = y[i];
    /* gelu: 0.5 (1 + tanh(t)) = 1 / (1 + exp(-2 t)), which does not cancel far below 0. */
    const float t = a.mode == CUDA_SILU ? g : 1.5957691216057308f * g * (1.0f + 0.044715f * g * g);
    out[i] = a.mode == CUDA_ADD ? g + u : g / (1.0f + expf(-t)) * u;
  }
}

/* out(n, d) = x(n, d) between plain formats. */
KERNEL(cast, cuda_cast_args, CUDA_THREADS) {
  const uint64_t begin = (uint64_t)blockIdx.y * CUDA_SPAN, row = blockIdx.x;
  for (uint64_t i = begin + threadIdx.x; i < begin + CUDA_SPAN && i < a.n_columns;
       i += CUDA_THREADS)
    store_element(a.out.base, row * a.out.stride + i, a.out_dtype,
                  load_element(a.x.base, row * a.x.stride + i, a.x_dtype));
}

template <typename T> DEVICE void copy_span(const cuda_copy_args &a) {
  T *out = row_of<T>(a.out, blockIdx.x);
  const T *x = row_of<const T>(a.x, blockIdx.x);
  const uint64_t begin = (uint64_t)blockIdx.y * CUDA_SPAN;
#pragma unroll 1
  for (uint64_t i = begin + threadIdx.x; i < begin + CUDA_SPAN && i < a.n_units; i += CUDA_THREADS)
    out[i] = x[i];
}

KERNEL(copy_rows, cuda_copy_args, CUDA_THREADS) {
  if (a.unit_bytes == 16)
    copy_span<uint4>(a);
  else if (a.unit_bytes == 4)
    copy_span<uint32_t>(a);
  else
    copy_span<uint8_t>(a);
}

/* out(n, n_heads, head_dim), x alike, positions(n), inv_freq(n_rot / 2). A thread turns one pair or
 * copies one element. The angle is kept as a product and its rounding error, so that a long context
 * costs no digits. */
KERNEL(rope, cuda_rope_args, CUDA_THREADS) {
  float *out = row_of<float>(a.out, blockIdx.x);
  const float *x = row_of<const float>(a.x, blockIdx.x);
  const uint32_t n_pairs = a.n_rot / 2, n_items = n_pairs + a.head_dim - a.n_rot;
  const float position = (float)((const int32_t *)a.positions)[blockIdx.x];
  for (uint32_t i = blockIdx.y * CUDA_SPAN + threadIdx.x;
       i < (blockIdx.y + 1) * CUDA_SPAN && i < a.n_heads * n_items; i += CUDA_THREADS) {
    const uint32_t item = i % n_items, at = i / n_items * a.head_dim;
    if (item >= n_pairs) {
      out[at + item + n_pairs] = x[at + item + n_pairs];
      continue;
    }
    const float frequency = ((const float *)a.inv_freq)[item];
    const float angle = position * frequency;
    const float rest = fmaf(position, frequency, -angle);
    const float c = cosf(angle), s = sinf(angle);
    const float cosine = (c - rest * s) * a.magnitude, sine = (s + rest * c) * a.magnitude;
    const uint32_t first = at + (a.half_split ? item : 2 * item);
    const uint32_t second = a.half_split ? first + n_pairs : first + 1;
    const float u = x[first], v = x[second];
    out[first] = u * cosine - v * sine;
    out[second] = u * sine + v * cosine;
  }
}

DEVICE float half_at(const uint8_t *from) {
  return f16_value((uint16_t)(from[0] | from[1] << 8));
}

/* Element `at` of a block of 32: quants at `data`, and at `head` what pack.c lays beside the rows
 * or, raw, what GGUF has before them (Q5_1's bits follow its scale and offset there). */
DEVICE float small_block_element(const uint8_t *data, const uint8_t *head, uint32_t dtype, bool raw,
                                 uint32_t at) {
  const bool five = dtype == CUDA_Q5_0 || dtype == CUDA_Q5_1;
  const uint8_t *d = five && !raw ? head + 4 : head;
  const uint8_t *bits = !raw ? head : head + (dtype == CUDA_Q5_1 ? 4 : 2);
  const float scale = half_at(d);
  if (dtype == CUDA_Q8_0) return scale * (float)(int8_t)data[at];
  uint32_t q = data[at % 16] >> (at < 16 ? 0 : 4) & 15u;
  if (five) q |= (bits[at / 8] >> at % 8 & 1u) << 4;
  const float offset = dtype == CUDA_Q4_0   ? -8.0f * scale
                       : dtype == CUDA_Q5_0 ? -16.0f * scale
                                            : half_at(d + 2);
  return fmaf((float)q, scale, offset);
}

/* Element `at` of a block of 256, whose bytes begin at `data`; d of Q6_K apart. */
DEVICE float super_block_element(const uint8_t *data, const uint8_t *d, uint32_t dtype,
                                 uint32_t at) {
  if (dtype == CUDA_Q6_K) {
    const uint32_t part = at / 128, in = at % 128;
    const uint32_t low = data[64 * part + in % 64] >> in / 64 * 4 & 15u;
    const uint32_t high = data[128 + 32 * part + in % 32] >> in / 32 * 2 & 3u;
    const float scale = half_at(d) * (float)(int8_t)data[192 + at / 16];
    return fmaf((float)(low | high << 4), scale, -32.0f * scale);
  }
  const uint32_t group = at / 32; /* of 8 */
  const uint8_t *quants_at = data + (dtype == CUDA_Q5_K ? 48 : 16);
  uint32_t q = quants_at[group / 2 * 32 + at % 32] >> group % 2 * 4 & 15u;
  if (dtype == CUDA_Q5_K) q |= (data[16 + at % 32] >> group & 1u) << 4;
  uint32_t words[4];
  for (int i = 0; i < 4; i++)
    words[i] = (uint32_t)data[4 * i] | (uint32_t)data[4 * i + 1] << 8 |
               (uint32_t)data[4 * i + 2] << 16 | (uint32_t)data[4 * i + 3] << 24;
  float scale, offset;
  k_scale(make_uint4(words[0], words[1], words[2], words[3]), group, scale, offset);
  return fmaf((float)q, scale, offset);
}

/* Element `column` of a packed or GGUF row of a block format. */
DEVICE float block_element(const cuda_weight &table, uint64_t row, uint64_t column) {
  const uint32_t dtype = table.dtype;
  const bool super = dtype >= CUDA_Q4_K;
  const uint32_t n = super ? 256 : 32, beside = CUDA_SCALE_BYTES(dtype);
  const uint32_t quant_bytes = CUDA_QUANT_BYTES(dtype);
  const uint64_t block = column / n;
  const uint32_t at = (uint32_t)(column % n);
  const uint8_t *data = (const uint8_t *)table.data + row * table.row_bytes;
  const uint8_t *scales =
      (const uint8_t *)table.scales + row * table.scale_row_bytes + block * beside;
  if (table.raw) {
    data += block * CUDA_BLOCK_BYTES(dtype);
    if (!super)
      return small_block_element(data + CUDA_BLOCK_BYTES(dtype) - quant_bytes, data, dtype, true,
                                 at);
    return super_block_element(data, data + 208, dtype, at);
  }
  data += block * quant_bytes;
  if (!super) return small_block_element(data, scales, dtype, false, at);
  return super_block_element(data, scales, dtype, at);
}

/* out(n, d) = scale * table[ids[row]]; an id outside the table gives zeros. */
KERNEL(gather_rows, cuda_gather_args, CUDA_THREADS) {
  const int32_t id = ((const int32_t *)a.ids)[blockIdx.x];
  const bool known = id >= 0 && (uint64_t)id < a.n_table_rows;
  float *out = row_of<float>(a.out, blockIdx.x);
  const uint64_t begin = (uint64_t)blockIdx.y * CUDA_SPAN;
  for (uint64_t i = begin + threadIdx.x; i < begin + CUDA_SPAN && i < a.n_columns;
       i += CUDA_THREADS) {
    float value = 0.0f;
    if (known && a.table.dtype >= CUDA_Q8_0)
      value = block_element(a.table, (uint64_t)id, i);
    else if (known)
      value = load_element((const char *)a.table.data + (uint64_t)id * a.table.row_bytes, i,
                           a.table.dtype);
    out[i] = a.scale * value;
  }
}

/* out(n, d), x(n, d), weight(d), add(n, d) or none, sum(n, d) or none. `layer`: subtract the mean
 * first. A thread reads back only what it wrote itself. */
KERNEL(rms_norm, cuda_norm_args, CUDA_THREADS) {
  float *out = row_of<float>(a.out, blockIdx.x);
  const float *x = row_of<const float>(a.x, blockIdx.x), *weight = (const float *)a.weight;
  const uint64_t n = a.n_columns;
  if (a.add.base || a.sum.base) { /* s goes to sum, or by way of out */
    float *s = a.sum.base ? row_of<float>(a.sum, blockIdx.x) : out;
    for (uint64_t i = threadIdx.x; i < n; i += CUDA_THREADS)
      s[i] = a.add.base ? x[i] + row_of<const float>(a.add, blockIdx.x)[i] : x[i];
    x = s;
  }
  float mean = 0.0f;
  if (a.layer) {
    float total = 0.0f;
    for (uint64_t i = threadIdx.x; i < n; i += CUDA_THREADS)
      total += x[i];
    mean = block_fold<float, false>(total) / (float)n;
  }
  float squares = 0.0f;
  for (uint64_t i = threadIdx.x; i < n; i += CUDA_THREADS)
    squares += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.0f / sqrtf(block_fold<float, false>(squares) / (float)n + a.epsilon);
  for (uint64_t i = threadIdx.x; i < n; i += CUDA_THREADS)
    out[i] = (x[i] - mean) * scale * weight[i];
}

/* ---- the largest of a row ---- */

/* Rank i of the row: of x(n, d), or the i-th that an earlier pass left. */
DEVICE unsigned long long rank_at(const cuda_select_args &a, uint64_t row, uint32_t i) {
  if (a.ranks_in) return ((const unsigned long long *)a.ranks_in)[row * a.n_columns + i];
  return order_rank(row_of<const float>(a.x, row)[i], i);
}

/* Leaves the j-th largest rank of a part, or tells what it is of. */
DEVICE void put_rank(const cuda_select_args &a, uint64_t row, uint32_t j, unsigned long long rank) {
  if (a.ranks_out) {
    ((unsigned long long *)a.ranks_out)[row * a.n_out + blockIdx.y * a.k + j] = rank;
    return;
  }
  const uint32_t at = 0xffffffffu - (uint32_t)rank;
  row_of<int32_t>(a.ids, row)[j] = (int32_t)at;
  if (a.values.base) row_of<float>(a.values, row)[j] = row_of<const float>(a.x, row)[at];
}

/* The largest of each part of CUDA_SELECT_PART. Block (row, part). */
KERNEL(select_largest, cuda_select_args, CUDA_THREADS) {
  const uint32_t begin = blockIdx.y * CUDA_SELECT_PART;
  const uint32_t end =
      a.n_columns - begin < CUDA_SELECT_PART ? a.n_columns : begin + CUDA_SELECT_PART;
  unsigned long long best = 0;
  for (uint32_t i = begin + threadIdx.x; i < end; i += CUDA_THREADS) {
    const unsigned long long rank = rank_at(a, blockIdx.x, i);
    best = rank > best ? rank : best;
  }
  best = block_fold<unsigned long long, true>(best);
  if (threadIdx.x == 0) put_rank(a, blockIdx.x, 0, best);
}

/* The k largest of each part, largest first: a part is sorted whole, in a bitonic network. What a
 * part lacks of k ranks is 0, below every other. Block (row, part). */
KERNEL(select_top, cuda_select_args, CUDA_THREADS) {
  __shared__ unsigned long long ranks[CUDA_SELECT_PART];
  const uint32_t begin = blockIdx.y * CUDA_SELECT_PART;
  const uint32_t n =
      a.n_columns - begin < CUDA_SELECT_PART ? a.n_columns - begin : CUDA_SELECT_PART;
  uint32_t size = 2;
  while (size < n || size < a.k)
    size *= 2;
  for (uint32_t i = threadIdx.x; i < size; i += CUDA_THREADS)
    ranks[i] = i < n ? rank_at(a, blockIdx.x, begin + i) : 0;
  __syncthreads();
#pragma unroll 1
  for (uint32_t run = 2; run <= size; run *= 2)
#pragma unroll 1
    for (uint32_t distance = run / 2; distance > 0; distance /= 2) {
      for (uint32_t i = threadIdx.x; i < size / 2; i += CUDA_THREADS) {
        const uint32_t low = 2 * i - i % distance, high = low + distance;
        const unsigned long long p = ranks[low], q = ranks[high];
        if ((p < q) == ((low & run) == 0)) ranks[low] = q, ranks[high] = p;
      }
      __syncthreads();
    }
  for (uint32_t j = threadIdx.x; j < a.k; j += CUDA_THREADS)
    put_rank(a, blockIdx.x, j, ranks[j]);
}

/* ids(n, k), weights(n, k), logits(n, n_experts), bias(n_experts) or none. A warp a row; lane l
 * holds the experts l, l + 32, ... */
#define LANE_EXPERTS (CUDA_MAX_EXPERTS / 32)
KERNEL(moe_route, cuda_route_args, 32) {
  const float *logits = row_of<const float>(a.logits, blockIdx.x);
  const uint32_t lane = threadIdx.x;
  float p[LANE_EXPERTS], largest = -INFINITY, total = 0.0f;
#pragma unroll
  for (uint32_t j = 0; j < LANE_EXPERTS; j++) {
    p[j] = lane + 32 * j < a.n_experts ? logits[lane + 32 * j] : -INFINITY;
    largest = fmaxf(largest, p[j]);
  }
  largest = warp_max(largest);
#pragma unroll
  for (uint32_t j = 0; j < LANE_EXPERTS; j++) {
    p[j] = a.sigmoid ? 1.0f / (1.0f + expf(-p[j])) : expf(p[j] - largest);
    if (lane + 32 * j < a.n_experts) total += p[j];
  }
  total = a.sigmoid ? 1.0f : warp_sum(total);
  unsigned long long limit = ~0ull;
  float chosen = 0.0f;
  for (uint32_t i = 0; i < a.k; i++) {
    unsigned long long best = 0;
#pragma unroll
    for (uint32_t j = 0; j < LANE_EXPERTS; j++) {
      const uint32_t expert = lane + 32 * j;
      if (expert >= a.n_experts) continue;
      const float bias = a.bias ? ((const float *)a.bias)[expert] : 0.0f;
      const unsigned long long rank = order_rank(p[j] / total + bias, expert);
      if (rank < limit && rank > best) best = rank;
    }
    limit = warp_max(best);
    const uint32_t expert = 0xffffffffu - (uint32_t)limit;
    float mine = 0.0f;
#pragma unroll
    for (uint32_t j = 0; j < LANE_EXPERTS; j++)
      if (lane + 32 * j == expert) mine = p[j] / total;
    const float weight = warp_sum(mine);
    chosen += weight;
    if (lane == 0) {
      row_of<int32_t>(a.ids, blockIdx.x)[i] = (int32_t)expert;
      row_of<float>(a.weights, blockIdx.x)[i] = weight;
    }
  }
  const float factor = a.normalize ? a.scale / chosen : a.scale;
  if (lane == 0)
    for (uint32_t i = 0; i < a.k; i++)
      row_of<float>(a.weights, blockIdx.x)[i] *= factor;
}

/* out(n, d) = residual(n, d) or 0, plus the weighted sum of k rows of x(n * k, d). */
KERNEL(moe_combine, cuda_combine_args, CUDA_THREADS) {
  const uint64_t row = blockIdx.x, begin = (uint64_t)blockIdx.y * CUDA_SPAN;
  const float *weights = row_of<const float>(a.weights, row);
  for (uint64_t i = begin + threadIdx.x; i < begin + CUDA_SPAN && i < a.n_columns;
       i += CUDA_THREADS) {
    float sum = a.residual.base ? row_of<const float>(a.residual, row)[i] : 0.0f;
    for (uint32_t j = 0; j < a.k; j++)
      sum += weights[j] * row_of<const float>(a.x, row * a.k + j)[i];
    row_of<float>(a.out, row)[i] = sum;
  }
}
