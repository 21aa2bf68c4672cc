/* The op list: every operation a device may be asked for, its operands and its parameters.
 *
 * CS_OP_TABLE is the one source: the kit's coverage, the host's reports and docs/ops.md are made
 * from it. Descriptors hold only what is constant for a recorded program; token ids, positions,
 * slots, tables, offsets and lengths are read from device memory when the op runs. */
#ifndef CONSORT_OPS_H
#define CONSORT_OPS_H

#include "consort/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Columns: which badge asks for the op. */
#define CS_COLUMN_MINIMAL       0 /* a dense Llama model */
#define CS_COLUMN_OPTIONAL      1 /* features that some models use */
#define CS_COLUMN_MOE           2
#define CS_COLUMN_DISAGGREGATED 3

/* Error classes: how exact a result is against the float64 oracle, as the op_query answer states
 * it. Limits are CS_NMSE_LIMIT_*, NMSE = sum((y - r)^2) / sum(r^2). */
#define CS_ERROR_EXACT 0 /* every bit equal */
#define CS_ERROR_F32   1 /* float32 arithmetic throughout */
#define CS_ERROR_HALF  2 /* operands rounded to f16 or bf16, float32 accumulation */
#define CS_ERROR_INT8                                                                              \
  3 /* activations rounded to int8 with a scale for each 32 elements or fewer                      \
     */
#define CS_NMSE_LIMIT_F32  1e-10
#define CS_NMSE_LIMIT_HALF 2e-5
#define CS_NMSE_LIMIT_INT8 2e-4

/* X(ID, number, "name", column, loosest error class, n_operands, "operands", "formula")
 * Operands in brackets may be CS_DTYPE_NONE. n is the number of rows (tokens) in the batch. */
#define CS_OP_TABLE(X)                                                                             \
  X(GATHER_ROWS, 1, "gather_rows", CS_COLUMN_MINIMAL, CS_ERROR_F32, 3,                             \
    "out(n, d) table(v, d) ids(n)", "out[i] = scale * table[ids[i]]; an id of -1 gives zeros")     \
  X(RMS_NORM, 2, "rms_norm", CS_COLUMN_MINIMAL, CS_ERROR_F32, 5,                                   \
    "out(n, d) x(n, d) weight(d) [add(n, d)] [sum(n, d)]",                                         \
    "s = x + add; sum = s; out = s / sqrt(mean(s^2) + epsilon) * weight")                          \
  X(MATMUL, 3, "matmul", CS_COLUMN_MINIMAL, CS_ERROR_INT8, 5,                                      \
    "out(n, n_out) x(n, n_in) weight(n_out, n_in) packed [bias(n_out)] [residual(n, n_out)]",      \
    "out = x * transpose(weight) + bias + residual; with cap c: c * tanh(out / c) before "         \
    "residual")                                                                                    \
  X(ROPE, 4, "rope", CS_COLUMN_MINIMAL, CS_ERROR_F32, 4,                                           \
    "out(n, n_heads, head_dim) x(n, n_heads, head_dim) positions(n) inv_freq(n_rot / 2)",          \
    "pair i turns by positions * inv_freq[i] and is scaled by magnitude; the rest is copied")      \
  X(KV_WRITE, 5, "kv_write", CS_COLUMN_MINIMAL, CS_ERROR_EXACT, 5,                                 \
    "k(n, n_kv_heads, k_width) [v(n, n_kv_heads, v_width)] k_cache [v_cache] slots(n)",            \
    "cache[slot / block_tokens][slot % block_tokens] = row; a slot of -1 writes nothing")          \
  X(ATTENTION_PAGED, 6, "attention_paged", CS_COLUMN_MINIMAL, CS_ERROR_HALF, 8,                    \
    "out(n, n_heads, v_width) q(n, n_heads, k_width) k_cache v_cache block_table(n_seqs, m) "      \
    "seq_offsets(n_seqs + 1) kv_lengths(n_seqs) [sinks(n_heads)]",                                 \
    "out = softmax(scale * q * transpose(K)) * V over positions <= the row's own")                 \
  X(SILU_MUL, 7, "silu_mul", CS_COLUMN_MINIMAL, CS_ERROR_F32, 3, "out(n, d) gate(n, d) up(n, d)",  \
    "out = gate / (1 + exp(-gate)) * up")                                                          \
  X(ADD, 8, "add", CS_COLUMN_MINIMAL, CS_ERROR_F32, 3, "out(n, d) a(n, d) b(n, d)", "out = a + b") \
  X(COPY, 9, "copy", CS_COLUMN_MINIMAL, CS_ERROR_EXACT, 2, "out(n, d) x(n, d)", "out = x")         \
  X(CAST, 10, "cast", CS_COLUMN_MINIMAL, CS_ERROR_EXACT, 2, "out(n, d) x(n, d)",                   \
    "out = x in out's dtype, rounded to nearest even")                                             \
  X(ARGMAX, 11, "argmax", CS_COLUMN_MINIMAL, CS_ERROR_EXACT, 2, "out(n) x(n, d)",                  \
    "out[i] = the lowest index of the largest element; NaN counts as smallest")                    \
  X(GELU_MUL, 12, "gelu_mul", CS_COLUMN_OPTIONAL, CS_ERROR_F32, 3,                                 \
    "out(n, d) gate(n, d) up(n, d)",                                                               \
    "out = 0.5 g (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))) * up")                                \
  X(TOP_K, 13, "top_k", CS_COLUMN_OPTIONAL, CS_ERROR_EXACT, 3, "values(n, k) ids(n, k) x(n, d)",   \
    "the k largest of each row, largest first, ties by lower index")                               \
  X(MOE_ROUTE, 14, "moe_route", CS_COLUMN_MOE, CS_ERROR_F32, 4,                                    \
    "ids(n, k) weights(n, k) logits(n, n_experts) [bias(n_experts)]",                              \
    "p = softmax or sigmoid of logits; ids = top k of p + bias; weights = scale * p[ids]")         \
  X(MOE_MATMUL, 15, "moe_matmul", CS_COLUMN_MOE, CS_ERROR_INT8, 4,                                 \
    "out(n * k, n_out) x(n or n * k, n_in) weight(n_experts, n_out, n_in) packed ids(n, k)",       \
    "out[i] = x[i or i / k] * transpose(weight[ids[i]]); an id of -1 gives zeros")                 \
  X(MOE_COMBINE, 16, "moe_combine", CS_COLUMN_MOE, CS_ERROR_F32, 4,                                \
    "out(n, d) x(n * k, d) weights(n, k) [residual(n, d)]",                                        \
    "out[i] = residual[i] + sum over j of weights[i][j] * x[i * k + j]")                           \
  X(KV_GATHER, 17, "kv_gather", CS_COLUMN_DISAGGREGATED, CS_ERROR_EXACT, 6,                        \
    "wire(bytes) sum(1) k_cache [v_cache] block_table(1, m) range(2)",                             \
    "wire = K (n_kv_heads, n, k_width) then V (n_kv_heads, n, v_width) of tokens in range; sum")   \
  X(KV_SCATTER, 18, "kv_scatter", CS_COLUMN_DISAGGREGATED, CS_ERROR_EXACT, 6,                      \
    "wire(bytes) sum(1) k_cache [v_cache] block_table(1, m) range(2)",                             \
    "the inverse of kv_gather; sum is computed from the wire bytes that were read")                \
  X(KV_COPY_BLOCKS, 19, "kv_copy_blocks", CS_COLUMN_DISAGGREGATED, CS_ERROR_EXACT, 3,              \
    "k_cache [v_cache] pairs(n, 2)", "cache[pairs[i][1]] = cache[pairs[i][0]]; -1 copies nothing")

#define CS_OP_DECLARE(ID, number, name, column, error_class, n_operands, operands, formula)        \
  CS_OP_##ID = number,
enum { CS_OP_NONE = 0, CS_OP_TABLE(CS_OP_DECLARE) CS_OP_LIMIT }; /* numbers; crosses as uint32_t */
#undef CS_OP_DECLARE
/* 64 to 71 are reserved for tensor-parallel collectives. */

#define CS_MAX_OPERANDS 8

/* One operation. Operands are in the table's order; integers are CS_DTYPE_I32 unless said
 * otherwise. Integers are read from device memory when the op runs, and nobody has checked them: an
 * id, slot, block, offset or length that no operand has room for makes the op fail with
 * CS_OUT_OF_RANGE, or, on a chip whose kernels cannot fail, counts as padding; either way nothing
 * outside the operands is read or written. An out operand may be exactly the same window as an
 * input of the same shape in rms_norm (sum only), rope, silu_mul, gelu_mul, add and matmul's
 * residual; no other overlap. */
typedef struct cs_op {
  uint32_t struct_size;
  uint32_t id; /* CS_OP_* */
  uint32_t n_operands;
  uint32_t operand_stride;   /* sizeof(cs_tensor) as the caller knows it */
  const cs_tensor *operands; /* borrowed until the call returns */
  const void *params;        /* the op's struct below, NULL where it has none; likewise borrowed */
} cs_op;

typedef struct cs_gather_rows_params {
  uint32_t struct_size;
  float scale;
} cs_gather_rows_params;

#define CS_NORM_RMS   0
#define CS_NORM_LAYER 1 /* subtracts the mean first; optional column */
typedef struct cs_rms_norm_params {
  uint32_t struct_size;
  uint32_t kind; /* CS_NORM_* */
  float epsilon;
  uint32_t reserved;
} cs_rms_norm_params;

typedef struct cs_matmul_params {
  uint32_t struct_size;
  float soft_cap; /* 0: none */
} cs_matmul_params;

#define CS_ROPE_INTERLEAVED 0 /* pair i = elements (2i, 2i + 1) */
#define CS_ROPE_HALF_SPLIT  1 /* pair i = elements (i, i + n_rot / 2) */
typedef struct cs_rope_params {
  uint32_t struct_size;
  uint32_t mode;   /* CS_ROPE_* */
  uint32_t n_rot;  /* leading elements of a head that turn: even, at most head_dim */
  float magnitude; /* 1 unless a scaling table asks for more (YaRN) */
} cs_rope_params;

/* Sequence s owns query rows seq_offsets[s] to seq_offsets[s + 1] - 1; the last of them sits at
 * position kv_lengths[s] - 1 and the keys of positions 0 to kv_lengths[s] - 1 are in the cache.
 * Position p lies in block block_table[s][p / block_tokens]. Query head h reads KV head
 * h / (n_heads / n_kv_heads). A sequence with no rows or length 0 writes nothing. A length above 0
 * and below the number of rows is out of range: there is no position for the first of them. */
typedef struct cs_attention_params {
  uint32_t struct_size;
  float scale;
  float soft_cap;  /* 0: none; else scores become c * tanh(score / c) */
  uint32_t window; /* 0: none; else a row sees only the last `window` positions, its own included */
} cs_attention_params;

#define CS_MOE_SOFTMAX 0
#define CS_MOE_SIGMOID 1
typedef struct cs_moe_route_params {
  uint32_t struct_size;
  uint32_t scoring;   /* CS_MOE_* */
  uint32_t normalize; /* 1: the k weights of a row are divided by their sum */
  float scale;
} cs_moe_route_params;

/* X(ID, params struct) for the ops that have params; all others have none. A receiver reads as many
 * bytes as its own header says, by the struct size rule; params are never NULL for these ops. */
#define CS_OP_PARAMS_TABLE(X)                                                                      \
  X(GATHER_ROWS, cs_gather_rows_params)                                                            \
  X(RMS_NORM, cs_rms_norm_params)                                                                  \
  X(MATMUL, cs_matmul_params)                                                                      \
  X(ROPE, cs_rope_params)                                                                          \
  X(ATTENTION_PAGED, cs_attention_params)                                                          \
  X(MOE_ROUTE, cs_moe_route_params)

/* kv_gather and kv_scatter move the tokens range[0] (first) to range[0] + range[1] - 1 of one
 * sequence, counted from the start of block_table. wire holds elements of its dtype, converted
 * from the cache's where they differ (the error class is then EXACT for the rounded value). A wire
 * of CS_DTYPE_U8 is bytes: elements of the cache's own dtype, nothing converted; like every dtype
 * it is served where op_query says so. Rounding to CS_DTYPE_I8, here and in kv_write, and how its
 * scales lie, is said in kv.h; between a wire and a cache of that dtype every bit is kept.
 * sum is one CS_DTYPE_U64: over the 32-bit little-endian words w[i] of the wire bytes, zero-padded,
 *   z = (i << 32 | w[i]) + 0x9e3779b97f4a7c15
 *   z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;  z = (z ^ z >> 27) * 0x94d049bb133111eb
 *   sum += z ^ z >> 31                         (splitmix64's finalizer, modulo 2^64)
 * so that it does not depend on the order of summation. */

#ifdef __cplusplus
}
#endif

#endif
