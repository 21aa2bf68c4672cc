/* The oracle: every op of CS_OP_TABLE by its formula, in float64, one loop nest an op, written to
 * be read. Arrays are row-major with the shapes of the table; elements that an op leaves alone keep
 * the value they have. */
#ifndef KIT_ORACLE_H
#define KIT_ORACLE_H

#include <stdint.h>

#include "consort/ops.h"

/* out(n, d) = scale * table(v, d)[ids(n)]; an id of -1 gives zeros. */
void oracle_gather_rows(double *out, const double *table, const double *ids, uint64_t n, uint64_t d,
                        double scale);

/* out(n, d); add(n, d) and sum(n, d) may be NULL. */
void oracle_rms_norm(double *out, const double *x, const double *weight, const double *add,
                     double *sum, uint64_t n, uint64_t d, const cs_rms_norm_params *params);

/* out(n, n_out) = x(n, n_in) * transpose(weight(n_out, n_in)); bias(n_out), residual(n, n_out) may
 * be NULL. */
void oracle_matmul(double *out, const double *x, const double *weight, const double *bias,
                   const double *residual, uint64_t n, uint64_t n_out, uint64_t n_in,
                   double soft_cap);

/* out(n, n_heads, head_dim), positions(n), inv_freq(n_rot / 2). */
void oracle_rope(double *out, const double *x, const double *positions, const double *inv_freq,
                 uint64_t n, uint64_t n_heads, uint64_t head_dim, const cs_rope_params *params);

/* rows(n, row_width) into cache(n_blocks, block_tokens, row_width) at slots(n). */
void oracle_kv_write(double *cache, const double *rows, const double *slots, uint64_t n,
                     uint64_t row_width);

typedef struct oracle_attention_shape {
  uint64_t n_heads, n_kv_heads, k_width, v_width, block_tokens;
  uint64_t n_seqs, table_width; /* block_table(n_seqs, table_width) */
} oracle_attention_shape;

/* out(n, n_heads, v_width), q(n, n_heads, k_width); sinks(n_heads) may be NULL: an extra logit
 * that takes part in the softmax and has no value. */
void oracle_attention(double *out, const double *q, const double *k_cache, const double *v_cache,
                      const double *block_table, const double *seq_offsets,
                      const double *kv_lengths, const double *sinks,
                      const oracle_attention_shape *shape, const cs_attention_params *params);

void oracle_silu_mul(double *out, const double *gate, const double *up, uint64_t count);
void oracle_gelu_mul(double *out, const double *gate, const double *up, uint64_t count);

/* out(n) of x(n, d). */
void oracle_argmax(double *out, const double *x, uint64_t n, uint64_t d);
/* values(n, k) and ids(n, k) of x(n, d). */
void oracle_top_k(double *values, double *ids, const double *x, uint64_t n, uint64_t d, uint64_t k);

/* ids(n, k), weights(n, k) of logits(n, n_experts); bias(n_experts) may be NULL. */
void oracle_moe_route(double *ids, double *weights, const double *logits, const double *bias,
                      uint64_t n, uint64_t k, uint64_t n_experts,
                      const cs_moe_route_params *params);
/* out(n * k, n_out) of x(n, n_in) or (n * k, n_in), weight(n_experts, n_out, n_in), ids(n * k);
 * rows_per_x is k or 1. */
void oracle_moe_matmul(double *out, const double *x, const double *weight, const double *ids,
                       uint64_t n_rows, uint64_t n_out, uint64_t n_in, uint64_t rows_per_x);
/* out(n, d) of x(n * k, d), weights(n, k); residual(n, d) may be NULL. */
void oracle_moe_combine(double *out, const double *x, const double *weights, const double *residual,
                        uint64_t n, uint64_t d, uint64_t k);

/* Copies tokens first to first + n - 1 of one sequence between a cache plane (n_blocks,
 * block_tokens, n_heads, width) and a piece of the wire (n_heads, n, width). */
void oracle_kv_to_wire(double *wire, const double *cache, const double *block_table, uint64_t first,
                       uint64_t n, uint64_t block_tokens, uint64_t n_heads, uint64_t width);
void oracle_kv_from_wire(double *cache, const double *wire, const double *block_table,
                         uint64_t first, uint64_t n, uint64_t block_tokens, uint64_t n_heads,
                         uint64_t width);
/* The order-independent sum of ops.h over the bytes of the wire. */
uint64_t oracle_wire_sum(const unsigned char *wire, uint64_t bytes);

#endif
