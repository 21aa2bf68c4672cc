/* What the host passes to each kernel: one struct by value. Read as C11 by the plugin and as C++ by
 * the kernels, so that both sides agree on every field.
 *
 * Pointers are device addresses with the tensor's offset applied; strides count elements of the
 * tensor's type. An absent operand has a null base. */
#ifndef CUDA_KERNELS_ARGS_H
#define CUDA_KERNELS_ARGS_H

#include <stdint.h>

typedef struct cuda_rows {
  void *base;
  uint64_t stride; /* elements from one row to the next */
} cuda_rows;

/* Formats, by the numbers of consort/types.h. */
#define CUDA_F32  1
#define CUDA_F16  2
#define CUDA_BF16 3
#define CUDA_I8   4 /* of KV: whole numbers, a scale for each row */
#define CUDA_F8   8 /* e4m3 */
#define CUDA_Q8_0 32
#define CUDA_Q4_0 33
#define CUDA_Q4_1 34
#define CUDA_Q5_0 35
#define CUDA_Q5_1 36
#define CUDA_Q4_K 39
#define CUDA_Q5_K 40
#define CUDA_Q6_K 41

/* What a block has beside the rows (quants.cuh). */
#define CUDA_SCALE_BYTES(format)                                                                   \
  ((format) == CUDA_Q8_0 || (format) == CUDA_Q4_0 || (format) == CUDA_Q6_K ? 2                     \
   : (format) == CUDA_Q4_1                                                 ? 4                     \
   : (format) == CUDA_Q5_0 || (format) == CUDA_Q5_1                        ? 8                     \
                                                                           : 0)

/* What it has in the rows, and in GGUF's bytes. */
#define CUDA_QUANT_BYTES(format)                                                                   \
  ((format) == CUDA_Q8_0   ? 32                                                                    \
   : (format) == CUDA_Q4_K ? 144                                                                   \
   : (format) == CUDA_Q5_K ? 176                                                                   \
   : (format) == CUDA_Q6_K ? 208                                                                   \
                           : 16)
#define CUDA_BLOCK_BYTES(format)                                                                   \
  (CUDA_QUANT_BYTES(format) +                                                                      \
   ((format) == CUDA_Q5_0 ? 6 : CUDA_SCALE_BYTES(format))) /* Q5_0's has 2 bytes unused */

/* Threads of a block, and what a block covers. */
#define CUDA_THREADS        256  /* elementwise, row and KV kernels */
#define CUDA_SPAN           1024 /* columns of a row that an elementwise block takes */
#define CUDA_VECTOR_THREADS 128
#define CUDA_VECTOR_WARPS   4
#define CUDA_VECTOR_ROWS(n) ((n) == 1 ? 2 : 4) /* weight rows of a warp, by batch rows */
#define CUDA_F32_TILE       64
#define CUDA_SIMT_HEADS     8 /* query heads of an attention block */
#define CUDA_SIMT_KEYS      32
#define CUDA_SIMT_THREADS   128
#define CUDA_MMA_PAIRS      64 /* (row, head) pairs of a tensor-core attention block */
#define CUDA_MMA_THREADS    128
#define CUDA_MAX_EXPERTS    512
#define CUDA_SELECT_PART    4096 /* columns of a row that a selecting block takes */
#define CUDA_HALVES         32   /* rows of halves are padded to whole ones */
#define CUDA_GROUP_BYTES    16   /* of moe_sort's groups */

#define CUDA_ADD  0
#define CUDA_SILU 1
#define CUDA_GELU 2

typedef struct cuda_binary_args {
  cuda_rows out, a, b;
  uint64_t n_columns;
  uint32_t mode; /* CUDA_ADD, ... */
  uint32_t reserved;
} cuda_binary_args;

typedef struct cuda_cast_args {
  cuda_rows out, x;
  uint64_t n_columns;
  uint32_t out_dtype, x_dtype;
} cuda_cast_args;

/* Rows of n_units units of 1, 4 or 16 bytes; strides count units. */
typedef struct cuda_copy_args {
  cuda_rows out, x;
  uint64_t n_units;
  uint32_t unit_bytes, reserved;
} cuda_copy_args;

typedef struct cuda_rope_args {
  cuda_rows out, x;
  void *positions, *inv_freq;
  uint32_t n_heads, head_dim, n_rot, half_split;
  float magnitude;
  uint32_t reserved;
} cuda_rope_args;

/* A packed weight (pack.c): rows of row_bytes, and for most block formats scale_row_bytes a row
 * beside them, at scales. Matrices (experts) are matrix_bytes apart. */
typedef struct cuda_weight {
  void *data, *scales;
  uint64_t row_bytes, matrix_bytes, scale_row_bytes;
  uint32_t dtype;
  uint32_t raw; /* rows are GGUF's bytes as they were */
} cuda_weight;

typedef struct cuda_gather_args {
  cuda_rows out;
  cuda_weight table;
  void *ids;
  uint64_t n_table_rows, n_columns;
  float scale;
  uint32_t reserved;
} cuda_gather_args;

typedef struct cuda_norm_args {
  cuda_rows out, x, add, sum;
  void *weight;
  uint64_t n_columns;
  uint32_t layer;
  float epsilon;
} cuda_norm_args;

/* values and ids (n, k) of x(n, d); argmax has k = 1 and no values. In several passes over parts of
 * a row: the k ranks of each part go to ranks_out (n, n_out), and the next pass reads them from
 * ranks_in (n, n_columns); the last has no ranks_out. */
typedef struct cuda_select_args {
  cuda_rows values, ids, x;
  void *ranks_in, *ranks_out;
  uint32_t n_columns, n_out, k, reserved;
} cuda_select_args;

typedef struct cuda_route_args {
  cuda_rows ids, weights, logits;
  void *bias;
  uint32_t n_experts, k, sigmoid, normalize;
  float scale;
  uint32_t reserved;
} cuda_route_args;

typedef struct cuda_combine_args {
  cuda_rows out, x, weights, residual;
  uint64_t n_columns;
  uint32_t k, reserved;
} cuda_combine_args;

typedef struct cuda_matmul_args {
  cuda_rows out, x, residual;
  void *bias;
  cuda_weight weight;
  cuda_rows ids; /* of experts, (n, k); base NULL: one matrix */
  uint32_t n, n_out, n_in;
  uint32_t k, x_share; /* experts a token, and out rows that share a row of x */
  uint32_t n_experts;
  float cap;
  uint32_t x_aligned; /* rows of x start on 16 bytes */
  /* For tiles of formats other than F32: x by halve_rows, rows padded to whole CUDA_HALVES. */
  void *halves;
  uint64_t halves_stride;
  void *order, *groups; /* of moe_sort, for tiles; NULL: rows follow each other */
} cuda_matmul_args;

/* x(n, n_columns) as 16-bit halves, bf16 or f16. */
typedef struct cuda_halve_args {
  cuda_rows x;
  void *out;
  uint64_t out_stride, n_columns;
  uint32_t bf16, reserved;
} cuda_halve_args;

/* out(n_rows, out_stride) e4m3 of x(n_rows, n_columns) with one float32 scale; largest(n_rows)
 * float32 is what the kernels tell each other. */
typedef struct cuda_fp8_args {
  cuda_rows x;
  void *out, *largest, *scale;
  uint64_t out_stride, n_columns;
  uint32_t n_rows, x_dtype;
} cuda_fp8_args;

/* order(n_slots) uint32, groups(n_groups, 4) uint32. */
typedef struct cuda_moe_sort_args {
  cuda_rows ids;
  void *order, *groups;
  uint32_t n_slots, k, n_experts, group_rows, n_groups, reserved;
} cuda_moe_sort_args;

/* A KV cache plane of either layout: distances in elements. The scales of int8 rows lie behind the
 * block_rows * width elements of their block, in the same order. */
typedef struct cuda_plane {
  void *base;
  uint64_t block_stride, head_stride, token_stride;
  uint64_t block_rows, width;
} cuda_plane;

typedef struct cuda_kv_write_args {
  cuda_rows x;
  cuda_plane cache;
  void *slots;
  uint64_t n_blocks;
  uint32_t block_tokens, n_heads, width, x_dtype, cache_dtype, reserved;
} cuda_kv_write_args;

typedef struct cuda_kv_move_args {
  void *wire;
  cuda_plane k, v; /* v.base NULL: none */
  void *table, *range;
  uint64_t table_blocks, n_blocks, wire_tokens;
  uint32_t block_tokens, n_heads, k_width, v_width, wire_dtype, cache_dtype, to_wire, reserved;
} cuda_kv_move_args;

typedef struct cuda_wire_sum_args {
  void *wire, *partial, *range, *sum;
  uint64_t table_tokens, wire_tokens, token_halves;
  uint32_t n_partial, reserved;
} cuda_wire_sum_args;

typedef struct cuda_wire_copy_args {
  void *to, *from, *range;
  uint64_t table_tokens, wire_tokens, token_halves;
} cuda_wire_copy_args;

/* Distances in 16-bit halves. */
typedef struct cuda_copy_blocks_args {
  void *cache;
  uint64_t block_stride, block_halves;
  cuda_rows pairs;
  uint64_t n_blocks;
} cuda_copy_blocks_args;

typedef struct cuda_attention_args {
  cuda_rows out, q, table;
  cuda_plane k, v;
  void *seq_offsets, *kv_lengths, *sinks;
  void *partial; /* (n_rows, n_heads, n_splits, v_width + 2) where n_splits > 1 */
  uint64_t n_blocks;
  uint32_t n_rows, n_heads, n_kv_heads, n_seqs, table_blocks, block_tokens, k_width, v_width;
  uint32_t window, n_splits;
  uint32_t vectors; /* bit 0: keys, bit 1: values can be read four elements at a time */
  float scale, cap;
  uint32_t reserved;
} cuda_attention_args;

/* X(name): every kernel. */
#define CUDA_KERNELS_VECTOR(X, format)                                                             \
  X(matmul_vector_##format##_1)                                                                    \
  X(matmul_vector_##format##_2)                                                                    \
  X(matmul_vector_##format##_4)                                                                    \
  X(matmul_vector_##format##_8)
#define CUDA_KERNELS_TILE(X, format) X(matmul_tile_##format##_64) X(matmul_tile_##format##_128)
#define CUDA_KERNELS(X)                                                                            \
  X(binary)                                                                                        \
  X(cast)                                                                                          \
  X(copy_rows)                                                                                     \
  X(rope)                                                                                          \
  X(gather_rows)                                                                                   \
  X(rms_norm)                                                                                      \
  X(select_largest)                                                                                \
  X(select_top)                                                                                    \
  X(moe_route)                                                                                     \
  X(moe_combine)                                                                                   \
  X(kv_write)                                                                                      \
  X(kv_move)                                                                                       \
  X(wire_sum)                                                                                      \
  X(wire_sum_finish)                                                                               \
  X(wire_copy)                                                                                     \
  X(kv_copy_blocks)                                                                                \
  CUDA_KERNELS_VECTOR(X, f32)                                                                      \
  CUDA_KERNELS_VECTOR(X, f16)                                                                      \
  CUDA_KERNELS_VECTOR(X, bf16)                                                                     \
  CUDA_KERNELS_VECTOR(X, q8_0)                                                                     \
  CUDA_KERNELS_VECTOR(X, q4_0)                                                                     \
  CUDA_KERNELS_VECTOR(X, q4_1)                                                                     \
  CUDA_KERNELS_VECTOR(X, q5_0)                                                                     \
  CUDA_KERNELS_VECTOR(X, q5_1)                                                                     \
  CUDA_KERNELS_VECTOR(X, q4_k)                                                                     \
  CUDA_KERNELS_VECTOR(X, q5_k)                                                                     \
  CUDA_KERNELS_VECTOR(X, q6_k)                                                                     \
  X(matmul_f32)                                                                                    \
  X(halve_rows)                                                                                    \
  X(fp8_largest)                                                                                   \
  X(fp8_scale)                                                                                     \
  X(fp8_rows)                                                                                      \
  X(moe_sort)                                                                                      \
  CUDA_KERNELS_TILE(X, f16)                                                                        \
  CUDA_KERNELS_TILE(X, bf16)                                                                       \
  CUDA_KERNELS_TILE(X, q8_0)                                                                       \
  CUDA_KERNELS_TILE(X, q4_0)                                                                       \
  CUDA_KERNELS_TILE(X, q4_1)                                                                       \
  CUDA_KERNELS_TILE(X, q5_0)                                                                       \
  CUDA_KERNELS_TILE(X, q5_1)                                                                       \
  CUDA_KERNELS_TILE(X, q4_k)                                                                       \
  CUDA_KERNELS_TILE(X, q5_k)                                                                       \
  CUDA_KERNELS_TILE(X, q6_k)                                                                       \
  X(attention_f32_128)                                                                             \
  X(attention_f32_256)                                                                             \
  X(attention_f16_128)                                                                             \
  X(attention_f16_256)                                                                             \
  X(attention_bf16_128)                                                                            \
  X(attention_bf16_256)                                                                            \
  X(attention_f8_128)                                                                              \
  X(attention_f8_256)                                                                              \
  X(attention_i8_128)                                                                              \
  X(attention_i8_256)                                                                              \
  X(attention_merge)                                                                               \
  X(attention_mma_f16_64)                                                                          \
  X(attention_mma_f16_128)                                                                         \
  X(attention_mma_bf16_64)                                                                         \
  X(attention_mma_bf16_128)                                                                        \
  X(attention_mma_f8_64)                                                                           \
  X(attention_mma_f8_128)                                                                          \
  X(attention_mma_i8_64)                                                                           \
  X(attention_mma_i8_128)

#endif
