/* Matmul over packed weights (pack.c): rows of quants on 16-byte boundaries, scales beside them.
 *
 * Few rows of x: a warp takes 2 or 4 weight rows and streams them once, 16 bytes a lane and row,
 * for up to 8 rows of x; float32 arithmetic. The weights' bytes from memory are the limit. Many
 * rows: tiles of x and of the unpacked weights as 16-bit halves in shared memory, three stages
 * deep, and tensor cores with float32 accumulators; x is halved once, before. F32 weights keep
 * float32 arithmetic in 4 x 4 registers. Experts: the rows are sorted by expert first, and each
 * tile has rows of one expert. */
#include "quants.cuh"

/* + bias, soft cap, + residual. */
DEVICE void finish(const cuda_matmul_args &a, uint64_t row, uint32_t column, float value) {
  if (a.bias) value += ((const float *)a.bias)[column];
  if (a.cap != 0.0f) value = a.cap * tanhf(value / a.cap);
  if (a.residual.base) value += row_of<const float>(a.residual, row)[column];
  row_of<float>(a.out, row)[column] = value;
}

/* The expert of slot i of ids(n, k); n_experts where the id is none. */
DEVICE uint32_t slot_expert(const cuda_rows &ids, uint32_t i, uint32_t k, uint32_t n_experts) {
  const int32_t id = row_of<const int32_t>(ids, i / k)[i % k];
  return id >= 0 && (uint32_t)id < n_experts ? (uint32_t)id : n_experts;
}

/* Four floats of x from k on; beyond n_in they are 0. */
DEVICE void load_x4(float to[4], const float *x, uint32_t k, uint32_t n_in, bool aligned) {
  if (aligned && k + 4 <= n_in) {
    const float4 v = *(const float4 *)(x + k);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < 4; i++)
    to[i] = k + i < n_in ? x[k + i] : 0.0f;
}

/* Elements that 16 bytes of a row hold. */
template <int FORMAT> struct chunk {
  static const int n = FORMAT == CUDA_F32    ? 4
                       : FORMAT == CUDA_Q8_0 ? 16
                       : FORMAT >= CUDA_Q4_0 ? 32
                                             : 8;
};

/* Elements 4 part to 4 part + 3 of 16 bytes of a plain format or of Q8_0 as floats. */
template <int FORMAT> DEVICE void unpack4(float to[4], const uint4 &raw, int part, float scale) {
  if (FORMAT == CUDA_F32) {
    to[0] = __uint_as_float(raw.x), to[1] = __uint_as_float(raw.y);
    to[2] = __uint_as_float(raw.z), to[3] = __uint_as_float(raw.w);
  } else if (FORMAT == CUDA_Q8_0) {
    const uint32_t turned = word_of(raw, part) ^ 0x80808080u; /* 128 more, and no sign */
#pragma unroll
    for (int i = 0; i < 4; i++)
      to[i] = byte_value(turned, i, 128.0f) * scale;
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint16_t bits = (uint16_t)(word_of(raw, 2 * part + i / 2) >> i % 2 * 16);
      to[i] = FORMAT == CUDA_F16 ? f16_value(bits) : bf16_value(bits);
    }
  }
}

/* 16 bytes of a row with what its format needs. */
template <int FORMAT> struct weight_chunk {
  uint4 raw;
  float scale;
};

template <int FORMAT>
DEVICE void fetch_chunk(weight_chunk<FORMAT> &to, const char *row, const char *beside, uint32_t c) {
  to.raw = __ldcs((const uint4 *)(row + (uint64_t)c * 16));
  to.scale = FORMAT == CUDA_Q8_0 ? f16_value(((const uint16_t *)beside)[c / 2]) : 1.0f;
}

template <int FORMAT>
DEVICE void unpack_part(float to[4], const weight_chunk<FORMAT> &from, int part) {
  unpack4<FORMAT>(to, from.raw, part, from.scale);
}

template <int FORMAT> struct nibble_chunk { quant_piece piece; };

template <int FORMAT>
DEVICE void fetch_chunk(nibble_chunk<FORMAT> &to, const char *row, const char *beside, uint32_t c) {
  fetch_piece<FORMAT>(to.piece, row, beside, c);
}

template <int FORMAT>
DEVICE void unpack_part(float to[4], const nibble_chunk<FORMAT> &from, int part) {
  const quant_piece &piece = from.piece;
  const int which = part / 4;
  unpack_run<FORMAT>(to, piece.raw, piece.bits, piece.shift, (uint32_t)which, piece.scale[which],
                     piece.offset[which], part % 4);
}

/* The first element of part `part` of chunk c. */
template <int FORMAT> DEVICE uint32_t chunk_element(uint32_t c, int part) {
  if (!quants<FORMAT>::nibbles) return c * chunk<FORMAT>::n + 4 * (uint32_t)part;
  return piece_start<FORMAT>(c) + (uint32_t)(part / 4 * quants<FORMAT>::distance + part % 4 * 4);
}

template <bool NIBBLES, int FORMAT> struct chunk_type { typedef weight_chunk<FORMAT> type; };
template <int FORMAT> struct chunk_type<true, FORMAT> { typedef nibble_chunk<FORMAT> type; };

/* out(N rows from blockIdx.y * N on, n_out): block (16 or 8 weight rows, N rows of x). With experts
 * N is 1 and the row's expert picks the matrix; an id outside gives zeros. */
template <int FORMAT, int N> DEVICE void matmul_vector(const cuda_matmul_args &a) {
  typedef typename chunk_type<quants<FORMAT>::nibbles, FORMAT>::type chunk_of;
  const int R = CUDA_VECTOR_ROWS(N), E = chunk<FORMAT>::n;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t column0 = (blockIdx.x * CUDA_VECTOR_WARPS + warp) * R, row0 = blockIdx.y * N;
  if (column0 >= a.n_out) return;
  uint64_t expert = 0;
  bool known = true;
  if (a.ids.base) {
    expert = slot_expert(a.ids, row0, a.k, a.n_experts);
    known = expert < a.n_experts;
    if (!known) expert = 0;
  }
  const char *weights[R];
  const char *beside[R];
  const float *x[N];
#pragma unroll
  for (int r = 0; r < R; r++) { /* beyond the end the last row is read again, and not stored */
    const uint64_t column = column0 + r < a.n_out ? column0 + r : a.n_out - 1;
    const uint64_t matrix = expert * a.weight.matrix_bytes;
    weights[r] = (const char *)a.weight.data + matrix + column * a.weight.row_bytes;
    beside[r] = (const char *)a.weight.scales + matrix + column * a.weight.scale_row_bytes;
  }
#pragma unroll
  for (int n = 0; n < N; n++)
    x[n] = row_of<const float>(a.x, (row0 + n < a.n ? row0 + n : a.n - 1) / a.x_share);
  float sums[R][N];
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int n = 0; n < N; n++)
      sums[r][n] = 0.0f;
  for (uint32_t c = lane; c * E < a.n_in; c += 32) {
    chunk_of chunks[R];
#pragma unroll
    for (int r = 0; r < R; r++)
      fetch_chunk(chunks[r], weights[r], beside[r], c);
#pragma unroll
    for (int part = 0; part < E / 4; part++) {
      float w[R][4];
#pragma unroll
      for (int r = 0; r < R; r++)
        unpack_part(w[r], chunks[r], part);
#pragma unroll
      for (int n = 0; n < N; n++) {
        float v[4];
        load_x4(v, x[n], chunk_element<FORMAT>(c, part), a.n_in, a.x_aligned);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
          for (int i = 0; i < 4; i++)
            sums[r][n] = fmaf(w[r][i], v[i], sums[r][n]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int n = 0; n < N; n++) {
      const float sum = warp_sum(sums[r][n]);
      if (lane == (uint32_t)(r * N + n) && column0 + r < a.n_out && row0 + n < a.n)
        finish(a, row0 + n, column0 + r, known ? sum : 0.0f);
    }
}

#define VECTOR_KERNEL(name, FORMAT, N, ...)                                                        \
  KERNEL(matmul_vector_##name##_##N, cuda_matmul_args, __VA_ARGS__) {                              \
    matmul_vector<FORMAT, N>(a);                                                                   \
  }
/* Two rows: with 5 blocks a multiprocessor in mind the compiler spills on sm_86 and sm_89. */
#define VECTOR_KERNELS(name, FORMAT)                                                               \
  VECTOR_KERNEL(name, FORMAT, 1, CUDA_VECTOR_THREADS)                                              \
  VECTOR_KERNEL(name, FORMAT, 2, CUDA_VECTOR_THREADS, 4)                                           \
  VECTOR_KERNEL(name, FORMAT, 4, CUDA_VECTOR_THREADS)                                              \
  VECTOR_KERNEL(name, FORMAT, 8, CUDA_VECTOR_THREADS)
VECTOR_KERNELS(f32, CUDA_F32)
VECTOR_KERNELS(f16, CUDA_F16)
VECTOR_KERNELS(bf16, CUDA_BF16)
VECTOR_KERNELS(q8_0, CUDA_Q8_0)
VECTOR_KERNELS(q4_0, CUDA_Q4_0)
VECTOR_KERNELS(q4_1, CUDA_Q4_1)
VECTOR_KERNELS(q5_0, CUDA_Q5_0)
VECTOR_KERNELS(q5_1, CUDA_Q5_1)
VECTOR_KERNELS(q4_k, CUDA_Q4_K)
VECTOR_KERNELS(q5_k, CUDA_Q5_K)
VECTOR_KERNELS(q6_k, CUDA_Q6_K)

/* ---- tensor cores ---- */

#define TILE_DEPTH  32
#define TILE_STAGES 3
#define TILE_CHUNKS (TILE_DEPTH / 8) /* of 16 bytes, in a row of a tile */

/* f16 holds no activation beyond 65504: it is kept there, NaN stays NaN. */
DEVICE float f16_clamp(float value) {
  return fabsf(value) > 65504.0f ? copysignf(65504.0f, value) : value;
}

template <bool BF16> DEVICE uint32_t pack_halves(float low, float high) {
#if HAS_BF16_MMA
  if (BF16) return pack_bf16(low, high);
#endif
  return pack_f16(f16_clamp(low), f16_clamp(high));
}

/* out(n, out_stride) = x(n, n_columns) as 16-bit halves, zeros behind them. Block (row, span). */
KERNEL(halve_rows, cuda_halve_args, CUDA_THREADS) {
  const float *x = row_of<const float>(a.x, blockIdx.x);
  uint32_t *out = (uint32_t *)((uint16_t *)a.out + blockIdx.x * a.out_stride);
  const uint64_t end = ((uint64_t)blockIdx.y + 1) * CUDA_SPAN;
  for (uint64_t i = (uint64_t)blockIdx.y * CUDA_SPAN + 2 * threadIdx.x; i < end && i < a.out_stride;
       i += 2 * CUDA_THREADS) {
    const float low = i < a.n_columns ? x[i] : 0.0f, high = i + 1 < a.n_columns ? x[i + 1] : 0.0f;
    out[i / 2] = a.bf16 ? pack_halves<true>(low, high) : pack_halves<false>(low, high);
  }
}

/* ---- rows by expert ---- */

/* Sorts the (n, k) slots by expert and cuts them into groups of at most group_rows, each of one
 * expert: {expert, first of order, rows, 0}; groups that are left over have no rows. Slots whose id
 * is no expert come last, as expert n_experts. One block. */
KERNEL(moe_sort, cuda_moe_sort_args, CUDA_THREADS) {
  __shared__ uint32_t counts[CUDA_MAX_EXPERTS + 1], starts[CUDA_MAX_EXPERTS + 1];
  __shared__ uint32_t group_starts[CUDA_MAX_EXPERTS + 1], n_groups_used;
  uint32_t *order = (uint32_t *)a.order;
  uint4 *groups = (uint4 *)a.groups;
  for (uint32_t e = threadIdx.x; e <= a.n_experts; e += CUDA_THREADS)
    counts[e] = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < a.n_slots; i += CUDA_THREADS)
    atomicAdd(&counts[slot_expert(a.ids, i, a.k, a.n_experts)], 1u);
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t start = 0, group = 0;
    for (uint32_t e = 0; e <= a.n_experts; e++) {
      starts[e] = start;
      group_starts[e] = group;
      start += counts[e];
      group += (counts[e] + a.group_rows - 1) / a.group_rows;
    }
    n_groups_used = group;
  }
  __syncthreads();
  for (uint32_t e = threadIdx.x; e <= a.n_experts; e += CUDA_THREADS)
    for (uint32_t done = 0, j = group_starts[e]; done < counts[e]; done += a.group_rows, j++) {
      const uint32_t left = counts[e] - done;
      groups[j] = make_uint4(e, starts[e] + done, left < a.group_rows ? left : a.group_rows, 0);
    }
  for (uint32_t j = n_groups_used + threadIdx.x; j < a.n_groups; j += CUDA_THREADS)
    groups[j] = make_uint4(a.n_experts, 0, 0, 0);
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < a.n_slots; i += CUDA_THREADS)
    order[atomicAdd(&starts[slot_expert(a.ids, i, a.k, a.n_experts)], 1u)] = i;
}

/* The rows of a tile: rows first to first + n - 1 of x and out, or of the order of a MoE matmul. */
struct tile_rows {
  uint64_t matrix;         /* bytes to the expert's weights */
  uint32_t first, n, n_in; /* n_in is 0 where there is nothing to multiply */
};

DEVICE tile_rows rows_of_tile(const cuda_matmul_args &a, uint32_t size) {
  tile_rows rows = {0, blockIdx.y * size, size, a.n_in};
  if (a.groups) {
    const uint4 group = ((const uint4 *)a.groups)[blockIdx.y];
    const bool known = group.x < a.n_experts;
    rows.matrix = known ? group.x * a.weight.matrix_bytes : 0;
    rows.first = group.y;
    rows.n = group.z;
    if (!known) rows.n_in = 0;
  } else if (rows.n > a.n - rows.first) {
    rows.n = a.n - rows.first;
  }
  return rows;
}

DEVICE uint32_t out_row(const cuda_matmul_args &a, const tile_rows &rows, uint32_t line) {
  const uint32_t at = rows.first + line;
  return a.order ? ((const uint32_t *)a.order)[at] : at;
}

/* The row of x that line `line` multiplies; beyond the end the last one again. */
DEVICE uint32_t x_row(const cuda_matmul_args &a, const tile_rows &rows, uint32_t line) {
  return out_row(a, rows, line < rows.n ? line : rows.n - 1) / a.x_share;
}

/* ---- tiles of 16-bit halves ---- */

/* 16 elements of a weight row, k to k + 15, on their way to shared memory. */
struct weight_piece {
  uint4 raw[2]; /* of a nibble format quants and further bits */
  float scale, offset;
  uint32_t shift, which;
};

/* A weight row's bytes. */
struct weight_row {
  const char *row, *beside;
};

DEVICE weight_row row_of_weight(const cuda_matmul_args &a, uint64_t matrix, uint32_t column) {
  const uint64_t known = column < a.n_out ? column : a.n_out - 1; /* the last again, not stored */
  return {(const char *)a.weight.data + matrix + known * a.weight.row_bytes,
          (const char *)a.weight.scales + matrix + known * a.weight.scale_row_bytes};
}

template <int FORMAT>
DEVICE void fetch_weights(weight_piece &to, const weight_row &from, uint32_t k, uint32_t n_in) {
  to.raw[0] = to.raw[1] = make_uint4(0, 0, 0, 0);
  to.scale = to.offset = 0.0f;
  to.shift = to.which = 0;
  if (k >= n_in) return;
  if (FORMAT == CUDA_Q8_0) {
    to.raw[0] = *(const uint4 *)(from.row + k);
    to.scale = f16_value(((const uint16_t *)from.beside)[k / 32]);
  } else if (quants<FORMAT>::nibbles) {
    quant_piece piece;
    const uint32_t p = piece_of_run<FORMAT>(k / 16, to.which);
    fetch_piece<FORMAT>(piece, from.row, from.beside, p);
    to.raw[0] = piece.raw;
    to.raw[1] = piece.bits;
    to.scale = to.which ? piece.scale[1] : piece.scale[0];
    to.offset = to.which ? piece.offset[1] : piece.offset[0];
    to.shift = piece.shift;
  } else { /* rows are padded with zeros to whole 16 bytes */
    to.raw[0] = *(const uint4 *)(from.row + 2 * k);
    if (k + 8 < n_in) to.raw[1] = *(const uint4 *)(from.row + 2 * k + 16);
  }
}

/* Both halves of a piece as 16-bit halves. */
template <int FORMAT, bool BF16>
DEVICE void store_weights(uint4 *first, uint4 *second, const weight_piece &piece) {
  uint32_t halves[8];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float w[4];
    if constexpr (quants<FORMAT>::nibbles)
      unpack_run<FORMAT>(w, piece.raw[0], piece.raw[1], piece.shift, piece.which, piece.scale,
                         piece.offset, i);
    else
      unpack4<FORMAT>(w, piece.raw[FORMAT == CUDA_BF16 ? i / 2 : 0],
                      FORMAT == CUDA_BF16 ? i % 2 : i, piece.scale);
    halves[2 * i] = pack_halves<BF16>(w[0], w[1]);
    halves[2 * i + 1] = pack_halves<BF16>(w[2], w[3]);
  }
  *first = make_uint4(halves[0], halves[1], halves[2], halves[3]);
  *second = make_uint4(halves[4], halves[5], halves[6], halves[7]);
}

/* Where chunk `chunk` of a line lies in a tile: turned by the line, so that the eight rows that a
 * matrix load reads, or a copy writes, are on 32 different banks. */
DEVICE uint4 *tile_chunk(uint4 *tile, uint32_t line, uint32_t chunk) {
  return tile + line * TILE_CHUNKS + (chunk ^ line / 2 % TILE_CHUNKS);
}

/* The fragments of one step of 16 in depth, and their products. */
template <bool BF16, int MI, int NI>
DEVICE void multiply_step(float sums[MI][NI][4], uint4 *tile_x, uint4 *tile_w, uint32_t warp_row,
                          uint32_t warp_column, uint32_t step) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t b[NI][2];
#pragma unroll
  for (int j = 0; j < NI; j += 2) {
    uint32_t four[4];
    load_matrices(four, tile_chunk(tile_w, warp_column + 8 * j + lane / 16 * 8 + lane % 8,
                                   2 * step + lane / 8 % 2));
    b[j][0] = four[0], b[j][1] = four[1], b[j + 1][0] = four[2], b[j + 1][1] = four[3];
  }
#pragma unroll
  for (int i = 0; i < MI; i++) {
    uint32_t f[4];
    load_matrices(f, tile_chunk(tile_x, warp_row + 16 * i + lane % 16, 2 * step + lane / 16));
#pragma unroll
    for (int j = 0; j < NI; j++)
      mma_16816<BF16>(sums[i][j], f, b[j]);
  }
}

/* out(SIZE, SIZE) of block (n_out / SIZE, n / SIZE or a group), 2 SIZE threads: a thread moves half
 * a row of 32 of both tiles; the warps are 2 x SIZE / 32, each with SIZE / 2 x 32 results. Halves
 * come by asynchronous copies two stages ahead, other weights by way of registers. */
template <int FORMAT, int SIZE> DEVICE void matmul_tile(const cuda_matmul_args &a) {
  const bool BF16 = HAS_BF16_MMA && FORMAT != CUDA_F16;
  const bool AS_IT_IS = FORMAT == (BF16 ? CUDA_BF16 : CUDA_F16);
  const int MI = SIZE / 32, NI = 4;
  __shared__ __align__(16) uint4 tiles_x[TILE_STAGES][SIZE * TILE_CHUNKS];
  __shared__ __align__(16) uint4 tiles_w[TILE_STAGES][SIZE * TILE_CHUNKS];
  const tile_rows rows = rows_of_tile(a, SIZE);
  if (rows.n == 0) return;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t warp_row = warp % 2 * (SIZE / 2), warp_column = warp / 2 * 32;
  const uint32_t line = threadIdx.x / 2, chunk = threadIdx.x % 2 * 2;
  const uint16_t *x =
      (const uint16_t *)a.halves + x_row(a, rows, line) * a.halves_stride + 8 * chunk;
  const weight_row w = row_of_weight(a, rows.matrix, blockIdx.x * SIZE + line);
  float sums[MI][NI][4] = {};
  weight_piece next;
  const auto copy = [&](uint32_t stage, uint32_t k) {
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      const uint32_t at = k + 8 * (chunk + i);
      if (k < rows.n_in) copy_async(tile_chunk(tiles_x[stage], line, chunk + i), x + k + 8 * i, 16);
      if (AS_IT_IS && k < rows.n_in)
        copy_async(tile_chunk(tiles_w[stage], line, chunk + i),
                   w.row + (at < rows.n_in ? 2 * at : 0), at < rows.n_in ? 16 : 0);
    }
    copy_async_commit();
  };
  const auto store = [&](uint32_t stage) {
    store_weights<FORMAT, BF16>(tile_chunk(tiles_w[stage], line, chunk),
                                tile_chunk(tiles_w[stage], line, chunk + 1), next);
  };
  copy(0, 0);
  copy(1, TILE_DEPTH);
  if constexpr (!AS_IT_IS) {
    fetch_weights<FORMAT>(next, w, 8 * chunk, rows.n_in);
    store(0);
    fetch_weights<FORMAT>(next, w, TILE_DEPTH + 8 * chunk, rows.n_in);
  }
  uint32_t stage = 0;
#pragma unroll 1
  for (uint32_t k = 0; k < rows.n_in; k += TILE_DEPTH) {
    const uint32_t after = stage + 1 == TILE_STAGES ? 0 : stage + 1;
    copy_async_wait<1>();
    __syncthreads();
    copy(after + 1 == TILE_STAGES ? 0 : after + 1, k + 2 * TILE_DEPTH);
    if constexpr (!AS_IT_IS) {
      store(after);
      fetch_weights<FORMAT>(next, w, k + 2 * TILE_DEPTH + 8 * chunk, rows.n_in);
    }
#pragma unroll
    for (uint32_t step = 0; step < TILE_DEPTH / 16; step++)
      multiply_step<BF16, MI, NI>(sums, tiles_x[stage], tiles_w[stage], warp_row, warp_column,
                                  step);
    stage = after;
  }
  const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint32_t in_tile = warp_row + 16 * i + g + half * 8;
      if (in_tile >= rows.n) continue;
      const uint32_t row = out_row(a, rows, in_tile);
#pragma unroll
      for (int j = 0; j < NI; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const uint32_t column = blockIdx.x * SIZE + warp_column + 8 * j + 2 * t + e;
          if (column < a.n_out) finish(a, row, column, sums[i][j][2 * half + e]);
        }
    }
}

#define TILE_KERNEL(name, FORMAT, SIZE)                                                            \
  KERNEL(matmul_tile_##name##_##SIZE, cuda_matmul_args, 2 * SIZE) {                                \
    matmul_tile<FORMAT, SIZE>(a);                                                                  \
  }
TILE_KERNEL(f16, CUDA_F16, 64)
TILE_KERNEL(f16, CUDA_F16, 128)
TILE_KERNEL(bf16, CUDA_BF16, 64)
TILE_KERNEL(bf16, CUDA_BF16, 128)
TILE_KERNEL(q8_0, CUDA_Q8_0, 64)
TILE_KERNEL(q8_0, CUDA_Q8_0, 128)
TILE_KERNEL(q4_0, CUDA_Q4_0, 64)
TILE_KERNEL(q4_0, CUDA_Q4_0, 128)
TILE_KERNEL(q4_1, CUDA_Q4_1, 64)
TILE_KERNEL(q4_1, CUDA_Q4_1, 128)
TILE_KERNEL(q5_0, CUDA_Q5_0, 64)
TILE_KERNEL(q5_0, CUDA_Q5_0, 128)
TILE_KERNEL(q5_1, CUDA_Q5_1, 64)
TILE_KERNEL(q5_1, CUDA_Q5_1, 128)
TILE_KERNEL(q4_k, CUDA_Q4_K, 64)
TILE_KERNEL(q4_k, CUDA_Q4_K, 128)
TILE_KERNEL(q5_k, CUDA_Q5_K, 64)
TILE_KERNEL(q5_k, CUDA_Q5_K, 128)
TILE_KERNEL(q6_k, CUDA_Q6_K, 64)
TILE_KERNEL(q6_k, CUDA_Q6_K, 128)

/* ---- float32 ---- */

#define F32_DEPTH 16

/* out(64, 64) of block (n_out / 64, n / 64 or a group): thread (u, v) computes 4 x 4 outputs from
 * tiles that lie transposed, [k][row]. */
KERNEL(matmul_f32, cuda_matmul_args, CUDA_THREADS) {
  __shared__ __align__(16) float tile_x[F32_DEPTH][CUDA_F32_TILE + 4];
  __shared__ __align__(16) float tile_w[F32_DEPTH][CUDA_F32_TILE + 4];
  const tile_rows rows = rows_of_tile(a, CUDA_F32_TILE);
  if (rows.n == 0) return;
  const uint32_t u = threadIdx.x / 16, v = threadIdx.x % 16;
  const uint32_t column0 = blockIdx.x * CUDA_F32_TILE;
  const uint32_t line = threadIdx.x / 4, depth = threadIdx.x % 4 * 4;
  const float *x = row_of<const float>(a.x, x_row(a, rows, line));
  const float *w = (const float *)row_of_weight(a, rows.matrix, column0 + line).row;
  float sums[4][4] = {};
  for (uint32_t k = 0; k < rows.n_in; k += F32_DEPTH) {
    float from_x[4], from_w[4];
    load_x4(from_x, x, k + depth, a.n_in, a.x_aligned);
    load_x4(from_w, w, k + depth, a.n_in, true);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++) {
      tile_x[depth + i][line] = from_x[i];
      tile_w[depth + i][line] = from_w[i];
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < F32_DEPTH; d++) {
      const float4 p = *(const float4 *)&tile_x[d][4 * u], q = *(const float4 *)&tile_w[d][4 * v];
      const float left[4] = {p.x, p.y, p.z, p.w}, right[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
          sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    if (4 * u + i >= rows.n) continue;
    const uint32_t row = out_row(a, rows, 4 * u + i);
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
      if (column0 + 4 * v + j < a.n_out) finish(a, row, column0 + 4 * v + j, sums[i][j]);
  }
}
