/* Shapes follow a llama of 1.1 billion weights: 2048 wide, 32 heads of 64, 8 KV heads, a
 * feed-forward of 8192. Params live as long as the case. */
#include "representative.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "kvtest.h"

typedef struct builder {
  kit *k;
  uint32_t op_id, dtype;
  representative_size size;
  uint64_t rows, width;
} builder;

static uint32_t row_dtype(const builder *b) {
  const bool is_plain =
      b->dtype == CS_DTYPE_F32 || b->dtype == CS_DTYPE_F16 || b->dtype == CS_DTYPE_BF16;
  return is_plain ? b->dtype : CS_DTYPE_F32;
}

static void *params_copy(kit *k, const void *params, size_t bytes) {
  void *copy = kit_host_memory(k, bytes);
  memcpy(copy, params, bytes);
  return copy;
}

static void rows_of(optest *t, const builder *b, uint32_t index, uint32_t dtype, uint64_t width) {
  optest_operand(t, index, dtype, 2, (uint64_t[]){b->rows, width});
  optest_fill_bell(t, index, 1);
}

static optest *build_rows(const builder *b) {
  const cs_rms_norm_params norm = {.struct_size = sizeof norm, .epsilon = 1e-5f};
  const bool is_norm = b->op_id == CS_OP_RMS_NORM;
  const uint32_t dtype = row_dtype(b);
  optest *t = optest_begin(b->k, b->op_id, is_norm ? params_copy(b->k, &norm, sizeof norm) : NULL);
  rows_of(t, b, 0, b->op_id == CS_OP_CAST && dtype == CS_DTYPE_F32 ? CS_DTYPE_F16 : dtype,
          b->width);
  rows_of(t, b, 1, dtype, b->width);
  if (is_norm) {
    optest_operand(t, 2, CS_DTYPE_F32, 1, &b->width);
    optest_fill_bell(t, 2, 1);
  } else if (b->op_id != CS_OP_COPY && b->op_id != CS_OP_CAST) {
    rows_of(t, b, 2, dtype, b->width);
  }
  return t;
}

static optest *build_gather(const builder *b) {
  const cs_gather_rows_params params = {.struct_size = sizeof params, .scale = 1};
  const uint64_t v = b->size == REPRESENTATIVE_SMALL ? 50 : 1000;
  optest *t = optest_begin(b->k, b->op_id, params_copy(b->k, &params, sizeof params));
  rows_of(t, b, 0, CS_DTYPE_F32, b->width);
  optest_weight(t, 1, b->dtype, CS_USAGE_GATHER, 2, (uint64_t[]){v, b->width});
  double *ids = optest_operand(t, 2, CS_DTYPE_I32, 1, &b->rows);
  for (uint64_t i = 0; i < b->rows; i++)
    ids[i] = (double)rng_below(&b->k->rng, v);
  return t;
}

static optest *build_matmul(const builder *b) {
  const cs_matmul_params params = {.struct_size = sizeof params};
  optest *t = optest_begin(b->k, b->op_id, params_copy(b->k, &params, sizeof params));
  rows_of(t, b, 0, CS_DTYPE_F32, 2 * b->width);
  rows_of(t, b, 1, CS_DTYPE_F32, b->width);
  optest_weight(t, 2, b->dtype, CS_USAGE_MATMUL, 2, (uint64_t[]){2 * b->width, b->width});
  return t;
}

static optest *build_rope(const builder *b) {
  const uint64_t head_dim = 64, n_pairs = 32;
  const cs_rope_params params = {
      .struct_size = sizeof params, .n_rot = (uint32_t)head_dim, .magnitude = 1};
  const uint64_t dims[] = {b->rows, b->width / head_dim, head_dim};
  optest *t = optest_begin(b->k, b->op_id, params_copy(b->k, &params, sizeof params));
  optest_operand(t, 0, row_dtype(b), 3, dims);
  optest_operand(t, 1, row_dtype(b), 3, dims);
  optest_fill_bell(t, 1, 1);
  double *positions = optest_operand(t, 2, CS_DTYPE_I32, 1, &b->rows);
  double *inv_freq = optest_operand(t, 3, CS_DTYPE_F32, 1, &n_pairs);
  for (uint64_t i = 0; i < b->rows; i++)
    positions[i] = (double)i;
  for (uint64_t i = 0; i < n_pairs; i++)
    inv_freq[i] = pow(10000, -(double)i / (double)n_pairs);
  return t;
}

static optest *build_argmax(const builder *b) {
  const uint64_t d = b->size == REPRESENTATIVE_SMALL ? 500 : 32000, top = 40;
  const bool is_top_k = b->op_id == CS_OP_TOP_K;
  optest *t = optest_begin(b->k, b->op_id, NULL);
  if (is_top_k) rows_of(t, b, 0, CS_DTYPE_F32, top);
  if (is_top_k)
    optest_operand(t, 1, CS_DTYPE_I32, 2, (uint64_t[]){b->rows, top});
  else
    optest_operand(t, 0, CS_DTYPE_I32, 1, &b->rows);
  rows_of(t, b, is_top_k ? 2 : 1, row_dtype(b), d);
  return t;
}

/* ---- KV ---- */

static void build_planes(optest *t, const builder *b, uint32_t index, uint64_t n_blocks,
                         uint64_t block) {
  const uint64_t n_heads = b->size == REPRESENTATIVE_SMALL ? 2 : 8;
  for (uint32_t i = index; i < index + 2; i++) {
    optest_cache(t, i, b->dtype, b->k->properties.kv_layout,
                 (uint64_t[]){n_blocks, block, n_heads, 64});
    optest_fill_bell(t, i, 1);
  }
}

static optest *build_kv_write(const builder *b, uint64_t block) {
  const uint64_t n_heads = b->size == REPRESENTATIVE_SMALL ? 2 : 8;
  const uint64_t n_blocks = b->rows / block + 1;
  optest *t = optest_begin(b->k, b->op_id, NULL);
  for (uint32_t i = 0; i < 2; i++) {
    optest_operand(t, i, CS_DTYPE_F32, 3, (uint64_t[]){b->rows, n_heads, 64});
    optest_fill_bell(t, i, 1);
  }
  build_planes(t, b, 2, n_blocks, block);
  double *slots = optest_operand(t, 4, CS_DTYPE_I32, 1, &b->rows);
  for (uint64_t i = 0; i < b->rows; i++)
    slots[i] = (double)i;
  return t;
}

static optest *build_attention(const builder *b, uint64_t block) {
  const bool is_small = b->size == REPRESENTATIVE_SMALL;
  const uint64_t n_heads = is_small ? 4 : 32, past = is_small ? 20 : 512;
  const uint64_t length = b->size == REPRESENTATIVE_PREFILL ? b->rows : past + b->rows;
  const uint64_t n_blocks = (length + block - 1) / block, one = 1, two = 2;
  const cs_attention_params params = {.struct_size = sizeof params, .scale = 0.125f};
  optest *t = optest_begin(b->k, b->op_id, params_copy(b->k, &params, sizeof params));
  for (uint32_t i = 0; i < 2; i++) {
    optest_operand(t, i, CS_DTYPE_F32, 3, (uint64_t[]){b->rows, n_heads, 64});
    optest_fill_bell(t, i, 1);
  }
  build_planes(t, b, 2, n_blocks, block);
  double *table = optest_operand(t, 4, CS_DTYPE_I32, 2, (uint64_t[]){1, n_blocks});
  for (uint64_t i = 0; i < n_blocks; i++)
    table[i] = (double)(n_blocks - 1 - i);
  optest_operand(t, 5, CS_DTYPE_I32, 1, &two)[1] = (double)b->rows;
  optest_operand(t, 6, CS_DTYPE_I32, 1, &one)[0] = (double)length;
  return t;
}

static optest *build_kv_move(const builder *b, uint64_t block) {
  const uint64_t n = b->size == REPRESENTATIVE_SMALL ? 40 : 512, n_blocks = (n + block - 1) / block;
  const uint64_t n_heads = b->size == REPRESENTATIVE_SMALL ? 2 : 8, one = 1, two = 2;
  const uint64_t wire = n * n_heads * 64 * 2;
  optest *t = optest_begin(b->k, b->op_id, NULL);
  optest_operand(t, 0, b->dtype, 1, &wire);
  optest_fill_bell(t, 0, 1);
  optest_operand(t, 1, CS_DTYPE_U64, 1, &one);
  build_planes(t, b, 2, n_blocks, block);
  double *table = optest_operand(t, 4, CS_DTYPE_I32, 2, (uint64_t[]){1, n_blocks});
  for (uint64_t i = 0; i < n_blocks; i++)
    table[i] = (double)i;
  optest_operand(t, 5, CS_DTYPE_I32, 1, &two)[1] = (double)n;
  return t;
}

static optest *build_copy_blocks(const builder *b, uint64_t block) {
  optest *t = optest_begin(b->k, b->op_id, NULL);
  build_planes(t, b, 0, 16, block);
  double *pairs = optest_operand(t, 2, CS_DTYPE_I32, 2, (uint64_t[]){8, 2});
  for (uint64_t i = 0; i < 16; i++)
    pairs[i] = (double)i;
  return t;
}

/* ---- experts ---- */

static optest *build_moe(const builder *b) {
  const uint64_t top = 2, n_experts = 8, slots = b->rows * top;
  const cs_moe_route_params route = {.struct_size = sizeof route, .normalize = 1, .scale = 1};
  optest *t = optest_begin(b->k, b->op_id, params_copy(b->k, &route, sizeof route));
  if (b->op_id == CS_OP_MOE_ROUTE) {
    optest_operand(t, 0, CS_DTYPE_I32, 2, (uint64_t[]){b->rows, top});
    rows_of(t, b, 1, CS_DTYPE_F32, top);
    rows_of(t, b, 2, CS_DTYPE_F32, n_experts);
    return t;
  }
  t->params = NULL;
  if (b->op_id == CS_OP_MOE_COMBINE) {
    rows_of(t, b, 0, CS_DTYPE_F32, b->width);
    optest_operand(t, 1, CS_DTYPE_F32, 2, (uint64_t[]){slots, b->width});
    optest_fill_bell(t, 1, 1);
    rows_of(t, b, 2, CS_DTYPE_F32, top);
    return t;
  }
  optest_operand(t, 0, CS_DTYPE_F32, 2, (uint64_t[]){slots, b->width / 2});
  rows_of(t, b, 1, CS_DTYPE_F32, b->width / 2);
  optest_weight(t, 2, b->dtype, CS_USAGE_MATMUL, 3,
                (uint64_t[]){n_experts, b->width / 2, b->width / 2});
  double *ids = optest_operand(t, 3, CS_DTYPE_I32, 2, (uint64_t[]){b->rows, top});
  for (uint64_t i = 0; i < slots; i++)
    ids[i] = (double)rng_below(&b->k->rng, n_experts);
  return t;
}

static optest *build(const builder *b, uint64_t block) {
  switch (b->op_id) {
  case CS_OP_GATHER_ROWS:
    return build_gather(b);
  case CS_OP_MATMUL:
    return build_matmul(b);
  case CS_OP_ROPE:
    return build_rope(b);
  case CS_OP_ARGMAX:
  case CS_OP_TOP_K:
    return build_argmax(b);
  case CS_OP_KV_WRITE:
    return build_kv_write(b, block);
  case CS_OP_ATTENTION_PAGED:
    return build_attention(b, block);
  case CS_OP_KV_GATHER:
  case CS_OP_KV_SCATTER:
    return build_kv_move(b, block);
  case CS_OP_KV_COPY_BLOCKS:
    return build_copy_blocks(b, block);
  case CS_OP_MOE_ROUTE:
  case CS_OP_MOE_MATMUL:
  case CS_OP_MOE_COMBINE:
    return build_moe(b);
  default:
    return build_rows(b);
  }
}

/* ---- cost ---- */

/* Bytes that an op has to touch: whole operands, but for caches and tables only what is read. */
static double count_bytes(const optest *t) {
  double bytes = 0;
  for (uint32_t i = 0; i < t->n_operands; i++) {
    const cs_tensor *tensor = &t->operands[i].tensor;
    if (tensor->dtype == CS_DTYPE_NONE) continue;
    uint64_t count = t->operands[i].count;
    if (t->id == CS_OP_GATHER_ROWS && i == 1) count = t->operands[0].count;
    if (t->id == CS_OP_KV_WRITE && (i == 2 || i == 3)) count = t->operands[i - 2].count;
    if (t->id == CS_OP_MOE_MATMUL && i == 2) {
      const uint64_t slots = t->operands[0].tensor.dims[0], n_experts = tensor->dims[0];
      count = count / n_experts * (slots < n_experts ? slots : n_experts);
    }
    bytes += (double)format_bytes(tensor->dtype, count);
  }
  return bytes;
}

static double count_flops(const optest *t) {
  const double out = (double)t->operands[0].count;
  switch (t->id) {
  case CS_OP_MATMUL:
  case CS_OP_MOE_MATMUL:
    return 2 * out * (double)t->operands[1].tensor.dims[1];
  case CS_OP_ATTENTION_PAGED: {
    const double rows = (double)t->operands[0].tensor.dims[0], length = t->operands[6].values[0];
    return 4 * out * (length - (rows - 1) / 2);
  }
  default:
    return out;
  }
}

static bool has_prefill(uint32_t op_id) {
  return op_id == CS_OP_MATMUL || op_id == CS_OP_ATTENTION_PAGED || op_id == CS_OP_RMS_NORM ||
         op_id == CS_OP_SILU_MUL || op_id == CS_OP_MOE_MATMUL;
}

static bool needs_cache(uint32_t op_id) {
  return op_id == CS_OP_KV_WRITE || op_id == CS_OP_ATTENTION_PAGED || op_id == CS_OP_KV_GATHER ||
         op_id == CS_OP_KV_SCATTER || op_id == CS_OP_KV_COPY_BLOCKS;
}

static uint64_t widest_row(const optest *t) {
  uint64_t widest = 1;
  for (uint32_t i = 0; i < t->n_operands; i++) {
    const cs_tensor *tensor = &t->operands[i].tensor;
    if (tensor->rank < 2) continue;
    const uint64_t width = t->operands[i].count / tensor->dims[0];
    if (width > widest) widest = width;
  }
  return widest;
}

static void describe(representative *r, const builder *b, uint64_t block) {
  const optest *t = r->test;
  const unsigned long long n = b->rows, width = b->width;
  char *text = r->shape;
  const size_t bytes = sizeof r->shape;
  switch (b->op_id) {
  case CS_OP_MATMUL:
    snprintf(text, bytes, "n=%llu, %llu x %llu", n, 2 * width, width);
    break;
  case CS_OP_MOE_MATMUL:
    snprintf(text, bytes, "n=%llu, 2 of 8 x %llu x %llu", n, width / 2, width / 2);
    break;
  case CS_OP_ATTENTION_PAGED:
    snprintf(text, bytes, "n=%llu of %.0f, %llu heads", n, t->operands[6].values[0],
             (unsigned long long)t->operands[0].tensor.dims[1]);
    break;
  case CS_OP_KV_GATHER:
  case CS_OP_KV_SCATTER:
    snprintf(text, bytes, "%.0f tokens, blocks of %llu", t->operands[5].values[1],
             (unsigned long long)block);
    break;
  case CS_OP_KV_COPY_BLOCKS:
    snprintf(text, bytes, "8 blocks of %llu", (unsigned long long)block);
    break;
  case CS_OP_KV_WRITE:
    snprintf(text, bytes, "n=%llu, %llu heads of 64", n,
             (unsigned long long)t->operands[0].tensor.dims[1]);
    break;
  default:
    snprintf(text, bytes, "n=%llu, d=%llu", n, (unsigned long long)widest_row(t));
  }
}

bool representative_build(kit *k, uint32_t op_id, uint32_t dtype, representative_size size,
                          representative *out) {
  if (size == REPRESENTATIVE_PREFILL && !has_prefill(op_id)) return false;
  const uint64_t block = kv_next_block(k, 0);
  if (needs_cache(op_id) && (block == 0 || !(k->properties.kv_dtypes & CS_DTYPE_BIT(dtype))))
    return false;
  static const uint64_t rows[] = {3, 1, 128}, widths[] = {256, 2048, 2048};
  const builder b = {k, op_id, dtype, size, rows[size], widths[size]};
  out->test = build(&b, block);
  out->bytes = count_bytes(out->test);
  out->flops = count_flops(out->test);
  describe(out, &b, block);
  return true;
}
