/* Paged attention.
 *
 * Decode and float32 caches (attention_*): a block takes one row, up to 8 query heads that read the
 * same KV head, and one of n_splits equal parts of the keys, so that a long context with few rows
 * still fills the chip; attention_merge puts the parts together. Each key and value comes from
 * memory once for the 8 heads; the arithmetic is float32.
 * Prefill over caches of 16 and 8 bits (attention_mma_*): a block takes 64 (row, head) pairs of one
 * sequence and one KV head, 16 a warp. Scores and weighted values are tensor-core products; the
 * weights go from one to the other in registers. All use the online softmax. */
#include "kv_formats.cuh"

/* Positions first <= p < end that a row attends to; end = 0: none. */
struct visible {
  uint32_t sequence, first, end;
};

DEVICE visible find_visible(const cuda_attention_args &a, uint32_t row) {
  const int32_t *offsets = (const int32_t *)a.seq_offsets;
  visible found = {0, 0, 0};
  if (a.n_seqs == 0) return found;
  uint32_t low = 0, high = a.n_seqs; /* the last sequence that starts at or before the row */
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (offsets[middle] <= (int32_t)row)
      low = middle;
    else
      high = middle;
  }
  const int32_t begin = offsets[low], end = offsets[low + 1];
  const int32_t length = ((const int32_t *)a.kv_lengths)[low];
  if ((int32_t)row < begin || (int32_t)row >= end || length <= 0) return found;
  const int32_t position = length - (end - (int32_t)row);
  if (position < 0) return found;
  const uint32_t table_tokens = a.table_blocks * a.block_tokens;
  found.sequence = low;
  found.end = (uint32_t)position + 1 < table_tokens ? (uint32_t)position + 1 : table_tokens;
  found.first = a.window && found.end > a.window ? found.end - a.window : 0;
  return found;
}

/* The start of one head of a token in a plane; block < 0: not there. */
DEVICE int64_t token_place(const cuda_attention_args &a, const cuda_plane &plane,
                           const int32_t *table, uint32_t position, uint32_t kv_head) {
  const int32_t block = table[position / a.block_tokens];
  if (block < 0 || (uint64_t)block >= a.n_blocks) return -1;
  return (int64_t)((uint64_t)block * plane.block_stride + kv_head * plane.head_stride +
                   position % a.block_tokens * plane.token_stride);
}

template <int DTYPE> DEVICE float cache_value(const void *base, uint64_t index) {
  if (DTYPE == CUDA_F32) return ((const float *)base)[index];
  if (DTYPE == CUDA_F8) return e4m3_value(((const uint8_t *)base)[index]);
  if (DTYPE == CUDA_I8) return (float)((const int8_t *)base)[index];
  const uint16_t bits = ((const uint16_t *)base)[index];
  return DTYPE == CUDA_F16 ? f16_value(bits) : bf16_value(bits);
}

/* Four neighbouring elements of 8 bits. */
template <int DTYPE>
DEVICE void byte_values(const cuda_plane &plane, int64_t place, uint32_t at, float *v) {
  const uint32_t raw = *(const uint32_t *)((const uint8_t *)plane.base + place + at);
  const float scale = DTYPE == CUDA_I8 ? *scale_of(plane, (uint64_t)place) : 1.0f;
#pragma unroll
  for (int e = 0; e < 4; e++) {
    const uint8_t byte = (uint8_t)(raw >> 8 * e);
    v[e] = DTYPE == CUDA_I8 ? (float)(int8_t)byte * scale : e4m3_value(byte);
  }
}

/* A chunk of CUDA_SIMT_KEYS tokens of one plane as float32 rows in shared memory; tokens that are
 * not there are zeros. */
template <int DTYPE, int WIDTH>
DEVICE void load_chunk(float (*to)[WIDTH + 1], const cuda_plane &plane, const int64_t *places,
                       uint32_t width, bool vectors) {
  if (vectors) {
    const uint32_t quads = width / 4;
    for (uint32_t i = threadIdx.x; i < CUDA_SIMT_KEYS * quads; i += CUDA_SIMT_THREADS) {
      const uint32_t key = i / quads, at = i % quads * 4;
      float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (places[key] >= 0 && DTYPE == CUDA_F32) {
        const float4 raw = *(const float4 *)((const float *)plane.base + places[key] + at);
        v[0] = raw.x, v[1] = raw.y, v[2] = raw.z, v[3] = raw.w;
      } else if (places[key] >= 0 && (DTYPE == CUDA_F8 || DTYPE == CUDA_I8)) {
        byte_values<DTYPE>(plane, places[key], at, v);
      } else if (places[key] >= 0) {
        const uint2 raw = *(const uint2 *)((const uint16_t *)plane.base + places[key] + at);
        const uint32_t words[2] = {raw.x, raw.y};
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const uint16_t bits = (uint16_t)(words[e / 2] >> e % 2 * 16);
          v[e] = DTYPE == CUDA_F16 ? f16_value(bits) : bf16_value(bits);
        }
      }
#pragma unroll
      for (int e = 0; e < 4; e++)
        to[key][at + e] = v[e];
    }
    return;
  }
  for (uint32_t i = threadIdx.x; i < CUDA_SIMT_KEYS * width; i += CUDA_SIMT_THREADS) {
    const int64_t place = places[i / width];
    float value = place < 0 ? 0.0f : cache_value<DTYPE>(plane.base, (uint64_t)place + i % width);
    if (DTYPE == CUDA_I8 && place >= 0) value *= *scale_of(plane, (uint64_t)place);
    to[i / width][i % width] = value;
  }
}

/* Writes a head's result, or its part for attention_merge. */
DEVICE void store_head(const cuda_attention_args &a, uint32_t row, uint32_t head, uint32_t column,
                       float value, float largest, float total) {
  if (a.n_splits == 1) {
    row_of<float>(a.out, row)[(uint64_t)head * a.v_width + column] = value / total;
    return;
  }
  float *part = (float *)a.partial +
                (((uint64_t)row * a.n_heads + head) * a.n_splits + blockIdx.z) * (a.v_width + 2);
  part[2 + column] = value;
  if (column == 0) part[0] = largest, part[1] = total;
}

/* Block (row and group of heads, KV head, split). */
template <int DTYPE, int WIDTH> DEVICE void attention(const cuda_attention_args &a) {
  const int HEADS = CUDA_SIMT_HEADS, KEYS = CUDA_SIMT_KEYS, COLUMNS = WIDTH / CUDA_SIMT_THREADS;
  __shared__ float q[HEADS][WIDTH];
  __shared__ float chunk_values[KEYS][WIDTH + 1];
  __shared__ float weights[HEADS][KEYS];
  __shared__ int64_t k_places[KEYS], v_places[KEYS];
  __shared__ float corrections[HEADS], totals[HEADS], peaks[HEADS];
  const uint32_t n_shared = a.n_heads / a.n_kv_heads, groups = (n_shared + HEADS - 1) / HEADS;
  const uint32_t row = blockIdx.x / groups, kv_head = blockIdx.y;
  const uint32_t first_head = kv_head * n_shared + blockIdx.x % groups * HEADS;
  const uint32_t left = n_shared - blockIdx.x % groups * HEADS;
  const uint32_t n_heads = left < HEADS ? left : HEADS;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const visible keys = find_visible(a, row);
  if (keys.end == 0) return; /* the same for the whole block */
  const int32_t *table = row_of<const int32_t>(a.table, keys.sequence);
  const uint32_t n_keys = keys.end - keys.first;
  const uint32_t share = ((n_keys + a.n_splits - 1) / a.n_splits + KEYS - 1) / KEYS * KEYS;
  const uint64_t begin = keys.first + (uint64_t)share * blockIdx.z;
  const uint64_t end = begin + share < keys.end ? begin + share : keys.end;
  for (uint32_t i = threadIdx.x; i < n_heads * a.k_width; i += CUDA_SIMT_THREADS)
    q[i / a.k_width][i % a.k_width] =
        a.scale * row_of<const float>(a.q, row)[(uint64_t)first_head * a.k_width + i];
  if (threadIdx.x < n_heads) {
    const bool sink = a.sinks && a.n_splits == 1;
    peaks[threadIdx.x] = sink ? ((const float *)a.sinks)[first_head + threadIdx.x] : -INFINITY;
    totals[threadIdx.x] = sink ? 1.0f : 0.0f;
  }
  float sums[HEADS][COLUMNS] = {};
  for (uint64_t chunk_begin = begin; chunk_begin < end; chunk_begin += KEYS) {
    __syncthreads();
    if (threadIdx.x < KEYS) {
      const uint64_t position = chunk_begin + threadIdx.x;
      const bool known = position < end;
      k_places[threadIdx.x] = known ? token_place(a, a.k, table, (uint32_t)position, kv_head) : -1;
      v_places[threadIdx.x] = known ? token_place(a, a.v, table, (uint32_t)position, kv_head) : -1;
    }
    __syncthreads();
    load_chunk<DTYPE, WIDTH>(chunk_values, a.k, k_places, a.k_width, a.vectors & 1);
    __syncthreads();
    for (uint32_t h = warp; h < n_heads; h += CUDA_SIMT_THREADS / 32) { /* a lane a key */
      float score = 0.0f;
      for (uint32_t i = 0; i < a.k_width; i++)
        score = fmaf(q[h][i], chunk_values[lane][i], score);
      if (a.cap != 0.0f) score = a.cap * tanhf(score / a.cap);
      if (k_places[lane] < 0) score = -INFINITY;
      const float before = peaks[h], peak = fmaxf(before, warp_max(score));
      const float weight = k_places[lane] < 0 ? 0.0f : expf(score - peak);
      const float correction = peak == -INFINITY ? 1.0f : expf(before - peak);
      const float total = warp_sum(weight);
      weights[h][lane] = weight;
      if (lane == 0) {
        corrections[h] = correction;
        peaks[h] = peak;
        totals[h] = totals[h] * correction + total;
      }
    }
    __syncthreads();
    load_chunk<DTYPE, WIDTH>(chunk_values, a.v, v_places, a.v_width, a.vectors & 2);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const uint32_t column = threadIdx.x + c * CUDA_SIMT_THREADS;
      if (column >= a.v_width) continue;
#pragma unroll
      for (int h = 0; h < HEADS; h++)
        sums[h][c] *= h < (int)n_heads ? corrections[h] : 0.0f;
      for (int key = 0; key < KEYS; key++) {
        if (v_places[key] < 0) continue;
        const float value = chunk_values[key][column];
#pragma unroll
        for (int h = 0; h < HEADS; h++)
          if (h < (int)n_heads) sums[h][c] = fmaf(weights[h][key], value, sums[h][c]);
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < HEADS; h++)
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const uint32_t column = threadIdx.x + c * CUDA_SIMT_THREADS;
      if (h < (int)n_heads && column < a.v_width)
        store_head(a, row, first_head + h, column, sums[h][c], peaks[h], totals[h]);
    }
}

#define SIMT_KERNEL(name, DTYPE, WIDTH, ...)                                                       \
  KERNEL(attention_##name##_##WIDTH, cuda_attention_args, __VA_ARGS__) {                           \
    attention<DTYPE, WIDTH>(a);                                                                    \
  }
/* Wide heads: with 5 blocks a multiprocessor in mind the compiler spills on sm_100. */
#define SIMT_KERNELS(name, DTYPE)                                                                  \
  SIMT_KERNEL(name, DTYPE, 128, CUDA_SIMT_THREADS)                                                 \
  SIMT_KERNEL(name, DTYPE, 256, CUDA_SIMT_THREADS, 3)
SIMT_KERNELS(f32, CUDA_F32)
SIMT_KERNELS(f16, CUDA_F16)
SIMT_KERNELS(bf16, CUDA_BF16)
SIMT_KERNELS(f8, CUDA_F8)
SIMT_KERNELS(i8, CUDA_I8)

/* out(row, head) from its n_splits parts. Block (row, head). */
KERNEL(attention_merge, cuda_attention_args, CUDA_SIMT_THREADS) {
  const uint32_t row = blockIdx.x, head = blockIdx.y;
  if (find_visible(a, row).end == 0) return;
  const uint64_t stride = a.v_width + 2;
  const float *parts =
      (const float *)a.partial + ((uint64_t)row * a.n_heads + head) * a.n_splits * stride;
  float peak = a.sinks ? ((const float *)a.sinks)[head] : -INFINITY;
  const float sink = peak;
  for (uint32_t s = 0; s < a.n_splits; s++)
    peak = fmaxf(peak, parts[s * stride]);
  float total = a.sinks ? expf(sink - peak) : 0.0f;
  for (uint32_t s = 0; s < a.n_splits; s++)
    if (parts[s * stride + 1] > 0.0f) total += parts[s * stride + 1] * expf(parts[s * stride] - peak);
  for (uint32_t column = threadIdx.x; column < a.v_width; column += CUDA_SIMT_THREADS) {
    float value = 0.0f;
    for (uint32_t s = 0; s < a.n_splits; s++)
      if (parts[s * stride + 1] > 0.0f)
        value += parts[s * stride + 2 + column] * expf(parts[s * stride] - peak);
    row_of<float>(a.out, row)[(uint64_t)head * a.v_width + column] = value / total;
  }
}

/* ---- prefill on tensor cores ---- */

#define MMA_KEYS 32

template <bool BF16> DEVICE uint32_t pack_cache(float low, float high) {
#if HAS_BF16_MMA
  if (BF16) return pack_bf16(low, high);
#endif
  return pack_f16(low, high);
}

/* The same of a plane of 8 bits, which becomes f16: exact for e4m3; of int8 what f16 cannot hold
 * becomes its largest number. */
template <int DTYPE, int WIDTH>
DEVICE void load_bytes(uint16_t (*to)[WIDTH + 8], const cuda_plane &plane, const int64_t *places,
                       uint32_t width, bool vectors) {
  for (uint32_t i = threadIdx.x; i < MMA_KEYS * WIDTH / 4; i += CUDA_MMA_THREADS) {
    const uint32_t key = i / (WIDTH / 4), at = i % (WIDTH / 4) * 4;
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (places[key] >= 0 && vectors && at < width) {
      byte_values<DTYPE>(plane, places[key], at, v);
    } else if (places[key] >= 0 && at < width) {
      const float scale = DTYPE == CUDA_I8 ? *scale_of(plane, (uint64_t)places[key]) : 1.0f;
#pragma unroll
      for (uint32_t e = 0; e < 4; e++)
        if (at + e < width)
          v[e] = cache_value<DTYPE>(plane.base, (uint64_t)places[key] + at + e) * scale;
    }
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (fabsf(v[e]) > 65504.0f) v[e] = copysignf(65504.0f, v[e]);
    *(uint2 *)&to[key][at] = make_uint2(pack_f16(v[0], v[1]), pack_f16(v[2], v[3]));
  }
}

/* MMA_KEYS tokens of a plane as halves in shared memory, zeros beyond width and for tokens that are
 * not there. Without bf16 products a bf16 cache is turned into f16. */
template <bool BF16, int WIDTH>
DEVICE void load_halves(uint16_t (*to)[WIDTH + 8], const cuda_plane &plane, const int64_t *places,
                        uint32_t width, bool vectors) {
  for (uint32_t i = threadIdx.x; i < MMA_KEYS * WIDTH / 4; i += CUDA_MMA_THREADS) {
    const uint32_t key = i / (WIDTH / 4), at = i % (WIDTH / 4) * 4;
    const uint16_t *from = (const uint16_t *)plane.base + places[key] + at;
    uint2 raw = make_uint2(0, 0);
    if (places[key] >= 0 && vectors && at < width) {
      raw = *(const uint2 *)from;
    } else if (places[key] >= 0 && at < width) {
      uint32_t h[4];
#pragma unroll
      for (uint32_t e = 0; e < 4; e++)
        h[e] = at + e < width ? from[e] : 0;
      raw = make_uint2(h[0] | h[1] << 16, h[2] | h[3] << 16);
    }
#if !HAS_BF16_MMA
    if (BF16) {
      raw.x = pack_f16(bf16_value((uint16_t)raw.x), bf16_value((uint16_t)(raw.x >> 16)));
      raw.y = pack_f16(bf16_value((uint16_t)raw.y), bf16_value((uint16_t)(raw.y >> 16)));
    }
#endif
    *(uint2 *)&to[key][at] = raw;
  }
}

template <int DTYPE, int WIDTH>
DEVICE void load_tile(uint16_t (*to)[WIDTH + 8], const cuda_plane &plane, const int64_t *places,
                      uint32_t width, bool vectors) {
  if constexpr (DTYPE == CUDA_F8 || DTYPE == CUDA_I8)
    load_bytes<DTYPE, WIDTH>(to, plane, places, width, vectors);
  else
    load_halves<DTYPE == CUDA_BF16, WIDTH>(to, plane, places, width, vectors);
}

/* Block (tile of pairs, KV head): tiles are dealt to the sequences in order, each sequence starting
 * a new one. Lane (g, t) of a warp holds the pairs g and g + 8 of its 16. */
template <int DTYPE, int WIDTH> DEVICE void attention_mma(const cuda_attention_args &a) {
  const bool BF16 = DTYPE == CUDA_BF16;
  const int STEPS = WIDTH / 16, TILES = WIDTH / 8;
  __shared__ __align__(16) uint16_t k_tile[MMA_KEYS][WIDTH + 8];
  __shared__ __align__(16) uint16_t v_tile[MMA_KEYS][WIDTH + 8];
  __shared__ int64_t k_places[MMA_KEYS], v_places[MMA_KEYS];
  const uint32_t n_shared = a.n_heads / a.n_kv_heads, tile_rows = CUDA_MMA_PAIRS / n_shared;
  const uint32_t kv_head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t g = lane / 4, t = lane % 4;
  const int32_t *offsets = (const int32_t *)a.seq_offsets;
  uint32_t sequence = 0, tile = blockIdx.x, n_rows = 0;
  for (; sequence < a.n_seqs; sequence++) {
    const int32_t length = offsets[sequence + 1] - offsets[sequence];
    n_rows = length > 0 ? (uint32_t)length : 0;
    const uint32_t tiles = (n_rows + tile_rows - 1) / tile_rows;
    if (tile < tiles) break;
    tile -= tiles;
  }
  if (sequence == a.n_seqs) return;
  const uint32_t row0 = (uint32_t)offsets[sequence] + tile * tile_rows;
  const uint32_t rest = n_rows - tile * tile_rows, rows = rest < tile_rows ? rest : tile_rows;
  const int32_t *table = row_of<const int32_t>(a.table, sequence);
  const visible top = find_visible(a, row0), bottom = find_visible(a, row0 + rows - 1);
  if (bottom.end == 0) return;
  uint32_t row[2], head[2];
  visible keys[2];
  float largest[2], total[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t pair = warp * 16 + g + 8 * i;
    const bool known = pair / n_shared < rows;
    row[i] = row0 + (known ? pair / n_shared : 0);
    head[i] = kv_head * n_shared + pair % n_shared;
    keys[i] = find_visible(a, row[i]);
    if (!known) keys[i].end = 0;
    largest[i] = a.sinks ? ((const float *)a.sinks)[head[i]] : -INFINITY;
    total[i] = a.sinks && t == 0 ? 1.0f : 0.0f; /* a lane's share; folded at the end */
  }
  uint32_t q[STEPS][4];
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const uint32_t at = 16 * s + 2 * t + r / 2 * 8;
      const float *from = row_of<const float>(a.q, row[r % 2]) + (uint64_t)head[r % 2] * a.k_width;
      const float low = at < a.k_width ? a.scale * from[at] : 0.0f;
      const float high = at + 1 < a.k_width ? a.scale * from[at + 1] : 0.0f;
      q[s][r] = pack_cache<BF16>(low, high);
    }
  float sums[TILES][4] = {};
  const uint32_t begin = top.end ? top.first : 0;
  for (uint32_t chunk_begin = begin; chunk_begin < bottom.end; chunk_begin += MMA_KEYS) {
    __syncthreads();
    if (threadIdx.x < MMA_KEYS) {
      const uint32_t position = chunk_begin + threadIdx.x;
      const bool known = position < bottom.end;
      k_places[threadIdx.x] = known ? token_place(a, a.k, table, position, kv_head) : -1;
      v_places[threadIdx.x] = known ? token_place(a, a.v, table, position, kv_head) : -1;
    }
    __syncthreads();
    load_tile<DTYPE, WIDTH>(k_tile, a.k, k_places, a.k_width, a.vectors & 1);
    load_tile<DTYPE, WIDTH>(v_tile, a.v, v_places, a.v_width, a.vectors & 2);
    __syncthreads();
    float scores[MMA_KEYS / 8][4] = {};
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
      for (int j = 0; j < MMA_KEYS / 8; j++) {
        const uint16_t *from = &k_tile[8 * j + g][16 * s + 2 * t];
        const uint32_t b[2] = {*(const uint32_t *)from, *(const uint32_t *)(from + 8)};
        mma_16816<BF16 && HAS_BF16_MMA>(scores[j], q[s], b);
      }
    float peak[2] = {largest[0], largest[1]};
#pragma unroll
    for (int j = 0; j < MMA_KEYS / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const uint32_t key = 8 * j + 2 * t + e % 2, position = chunk_begin + key;
        const visible &mine = keys[e / 2];
        if (a.cap != 0.0f) scores[j][e] = a.cap * tanhf(scores[j][e] / a.cap);
        if (position < mine.first || position >= mine.end || k_places[key] < 0)
          scores[j][e] = -INFINITY;
        peak[e / 2] = fmaxf(peak[e / 2], scores[j][e]);
      }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      peak[i] = fmaxf(peak[i], __shfl_xor_sync(ALL_LANES, peak[i], 1));
      peak[i] = fmaxf(peak[i], __shfl_xor_sync(ALL_LANES, peak[i], 2));
      const float correction = peak[i] == -INFINITY ? 1.0f : expf(largest[i] - peak[i]);
      total[i] *= correction;
      largest[i] = peak[i];
#pragma unroll
      for (int j = 0; j < TILES; j++) {
        sums[j][2 * i] *= correction;
        sums[j][2 * i + 1] *= correction;
      }
    }
#pragma unroll
    for (int j = 0; j < MMA_KEYS / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float weight =
            scores[j][e] == -INFINITY ? 0.0f : expf(scores[j][e] - largest[e / 2]);
        scores[j][e] = weight;
        total[e / 2] += weight;
      }
#pragma unroll
    for (int s = 0; s < MMA_KEYS / 16; s++) {
      const uint32_t p[4] = {pack_cache<BF16>(scores[2 * s][0], scores[2 * s][1]),
                             pack_cache<BF16>(scores[2 * s][2], scores[2 * s][3]),
                             pack_cache<BF16>(scores[2 * s + 1][0], scores[2 * s + 1][1]),
                             pack_cache<BF16>(scores[2 * s + 1][2], scores[2 * s + 1][3])};
#pragma unroll
      for (int j = 0; j < TILES; j++) {
        const uint32_t key = 16 * s + 2 * t, column = 8 * j + g;
        const uint32_t b[2] = {
            v_tile[key][column] | (uint32_t)v_tile[key + 1][column] << 16,
            v_tile[key + 8][column] | (uint32_t)v_tile[key + 9][column] << 16};
        mma_16816<BF16 && HAS_BF16_MMA>(sums[j], p, b);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    total[i] += __shfl_xor_sync(ALL_LANES, total[i], 1);
    total[i] += __shfl_xor_sync(ALL_LANES, total[i], 2);
    if (keys[i].end == 0) continue;
    float *out = row_of<float>(a.out, row[i]) + (uint64_t)head[i] * a.v_width;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
      for (uint32_t e = 0; e < 2; e++)
        if (8 * j + 2 * t + e < a.v_width) out[8 * j + 2 * t + e] = sums[j][2 * i + e] / total[i];
  }
}

#define MMA_KERNEL(name, DTYPE, WIDTH)                                                             \
  KERNEL(attention_mma_##name##_##WIDTH, cuda_attention_args, CUDA_MMA_THREADS) {                  \
    attention_mma<DTYPE, WIDTH>(a);                                                                \
  }
MMA_KERNEL(f16, CUDA_F16, 64)
MMA_KERNEL(f16, CUDA_F16, 128)
MMA_KERNEL(bf16, CUDA_BF16, 64)
MMA_KERNEL(bf16, CUDA_BF16, 128)
MMA_KERNEL(f8, CUDA_F8, 64)
MMA_KERNEL(f8, CUDA_F8, 128)
MMA_KERNEL(i8, CUDA_I8, 64)
MMA_KERNEL(i8, CUDA_I8, 128)
