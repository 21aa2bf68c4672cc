/* Hands the operands of an op test to the oracle. Where the table leaves an operand out, the oracle
 * is given NULL. */
#include <string.h>

#include "format.h"
#include "optest_internal.h"
#include "oracle.h"

#define FEW_ELEMENTS 1024

static const double *input(const optest *t, uint32_t index) {
  const optest_tensor *operand = &t->operands[index];
  if (operand->tensor.dtype == CS_DTYPE_NONE) return NULL;
  return operand->alias_of >= 0 ? t->operands[operand->alias_of].values : operand->values;
}

static uint64_t dim(const optest *t, uint32_t operand, uint32_t i) {
  return t->operands[operand].tensor.dims[i];
}

static void attention(optest *t, double *out) {
  const oracle_attention_shape shape = {.n_heads = dim(t, 1, 1),
                                        .n_kv_heads = dim(t, 2, 2),
                                        .k_width = dim(t, 1, 2),
                                        .v_width = dim(t, 0, 2),
                                        .block_tokens = dim(t, 2, 1),
                                        .n_seqs = dim(t, 4, 0),
                                        .table_width = dim(t, 4, 1)};
  oracle_attention(out, input(t, 1), input(t, 2), input(t, 3), input(t, 4), input(t, 5),
                   input(t, 6), input(t, 7), &shape, t->params);
}

static void kv_write(optest *t) {
  const uint64_t n = dim(t, 0, 0);
  for (uint32_t plane = 0; plane < 2; plane++)
    if (t->operands[plane].tensor.dtype)
      oracle_kv_write(t->operands[2 + plane].expected, input(t, plane), input(t, 4), n,
                      dim(t, plane, 1) * dim(t, plane, 2));
}

static void put_sum(optest *t, uint64_t sum) {
  memcpy(t->operands[1].expected, &sum, sizeof sum);
}

/* Rounds the first n elements to the wire's dtype and sums their bytes. */
static uint64_t sum_wire(optest *t, double *wire, uint64_t n) {
  const uint32_t dtype = t->operands[0].tensor.dtype;
  const size_t bytes = format_bytes(dtype, 1);
  unsigned char *encoded = kit_host_memory(t->k, (size_t)(n * bytes));
  for (uint64_t i = 0; i < n; i++) {
    format_encode(dtype, encoded + i * bytes, wire[i]);
    wire[i] = format_decode(dtype, encoded + i * bytes);
  }
  return oracle_wire_sum(encoded, n * bytes);
}

static void kv_move(optest *t, bool gather) {
  const uint64_t first = (uint64_t)input(t, 5)[0], n = (uint64_t)input(t, 5)[1];
  double *wire = gather ? t->operands[0].expected : t->operands[0].values;
  uint64_t at = 0;
  for (uint32_t plane = 2; plane < 4; plane++) {
    if (!t->operands[plane].tensor.dtype) continue;
    const uint64_t tokens = dim(t, plane, 1), heads = dim(t, plane, 2), width = dim(t, plane, 3);
    if (gather)
      oracle_kv_to_wire(wire + at, input(t, plane), input(t, 4), first, n, tokens, heads, width);
    else
      oracle_kv_from_wire(t->operands[plane].expected, wire + at, input(t, 4), first, n, tokens,
                          heads, width);
    at += heads * n * width;
  }
  if (!optest_is_scaled(t, 0))
    put_sum(t, sum_wire(t, wire, at));
  else if (!gather)
    put_sum(t, optest_scaled_wire_sum(t, t->before));
}

static void kv_copy_blocks(optest *t) {
  const double *pairs = input(t, 2);
  for (uint32_t plane = 0; plane < 2; plane++) {
    const optest_tensor *operand = &t->operands[plane];
    if (!operand->tensor.dtype) continue;
    const uint64_t block = operand->count / operand->tensor.dims[0];
    for (uint64_t i = 0; i < dim(t, 2, 0); i++) {
      if (pairs[2 * i] < 0 || pairs[2 * i + 1] < 0) continue;
      memcpy(operand->expected + (uint64_t)pairs[2 * i + 1] * block,
             operand->values + (uint64_t)pairs[2 * i] * block, block * sizeof(double));
    }
  }
}

static void moe(optest *t, double *out) {
  if (t->id == CS_OP_MOE_ROUTE)
    oracle_moe_route(out, t->operands[1].expected, input(t, 2), input(t, 3), dim(t, 0, 0),
                     dim(t, 0, 1), dim(t, 2, 1), t->params);
  else if (t->id == CS_OP_MOE_MATMUL)
    oracle_moe_matmul(out, input(t, 1), input(t, 2), input(t, 3), dim(t, 0, 0), dim(t, 0, 1),
                      dim(t, 1, 1), dim(t, 0, 0) / dim(t, 1, 0));
  else
    oracle_moe_combine(out, input(t, 1), input(t, 2), input(t, 3), dim(t, 0, 0), dim(t, 0, 1),
                       dim(t, 2, 1));
}

/* What the squares of a matmul's results sum up to when products of random signs neither cancel nor
 * add up. A result of few elements may by chance be much smaller than what it was summed from; its
 * error is then measured against this. */
static double matmul_power(const optest *t) {
  const double *x = input(t, 1), *weight = input(t, 2);
  const uint64_t n = dim(t, 0, 0), n_out = dim(t, 0, 1), n_in = dim(t, 1, 1);
  double power = 0;
  for (uint64_t i = 0; i < n; i++)
    for (uint64_t j = 0; j < n_out; j++)
      for (uint64_t c = 0; c < n_in; c++) {
        const double product = x[i * n_in + c] * weight[j * n_in + c];
        power += product * product;
      }
  return power;
}

void optest_compute_expected(optest *t) {
  double *out = t->operands[0].expected;
  const uint64_t n = dim(t, 0, 0), count = t->operands[0].count;
  switch (t->id) {
  case CS_OP_GATHER_ROWS:
    oracle_gather_rows(out, input(t, 1), input(t, 2), n, dim(t, 0, 1),
                       ((const cs_gather_rows_params *)t->params)->scale);
    break;
  case CS_OP_RMS_NORM:
    oracle_rms_norm(out, input(t, 1), input(t, 2), input(t, 3), t->operands[4].expected, n,
                    dim(t, 0, 1), t->params);
    break;
  case CS_OP_MATMUL:
    oracle_matmul(out, input(t, 1), input(t, 2), input(t, 3), input(t, 4), n, dim(t, 2, 0),
                  dim(t, 2, 1), ((const cs_matmul_params *)t->params)->soft_cap);
    if (count < FEW_ELEMENTS) t->operands[0].power = matmul_power(t);
    break;
  case CS_OP_ROPE:
    oracle_rope(out, input(t, 1), input(t, 2), input(t, 3), n, dim(t, 0, 1), dim(t, 0, 2),
                t->params);
    break;
  case CS_OP_KV_WRITE:
    kv_write(t);
    break;
  case CS_OP_ATTENTION_PAGED:
    attention(t, out);
    break;
  case CS_OP_SILU_MUL:
    oracle_silu_mul(out, input(t, 1), input(t, 2), count);
    break;
  case CS_OP_GELU_MUL:
    oracle_gelu_mul(out, input(t, 1), input(t, 2), count);
    break;
  case CS_OP_ADD:
    for (uint64_t i = 0; i < count; i++)
      out[i] = input(t, 1)[i] + input(t, 2)[i];
    break;
  case CS_OP_COPY:
  case CS_OP_CAST:
    memcpy(out, input(t, 1), count * sizeof *out);
    break;
  case CS_OP_ARGMAX:
    oracle_argmax(out, input(t, 1), dim(t, 1, 0), dim(t, 1, 1));
    break;
  case CS_OP_TOP_K:
    oracle_top_k(out, t->operands[1].expected, input(t, 2), n, dim(t, 2, 1), dim(t, 0, 1));
    break;
  case CS_OP_KV_GATHER:
  case CS_OP_KV_SCATTER:
    kv_move(t, t->id == CS_OP_KV_GATHER);
    break;
  case CS_OP_KV_COPY_BLOCKS:
    kv_copy_blocks(t);
    break;
  default:
    moe(t, out);
    break;
  }
}
