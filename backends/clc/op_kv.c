/* Rules of the ops on the KV cache. A cache plane of either layout is four numbers for a kernel:
 * the distances of block, head and token, and the offset, all in elements. */
#include "plan.h"

#define PLAIN_FLOATS                                                                               \
  (CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) | CS_DTYPE_BIT(CS_DTYPE_BF16))
#define KV_FORMATS     (PLAIN_FLOATS | CS_DTYPE_BIT(CS_DTYPE_F8_E4M3) | CS_DTYPE_BIT(CS_DTYPE_I8))
#define F32_ONLY       CS_DTYPE_BIT(CS_DTYPE_F32)
#define I32_ONLY       CS_DTYPE_BIT(CS_DTYPE_I32)
#define MAX_HEAD_WIDTH 256 /* attention.cl */
#define MAX_CONTEXT    (1u << 30)

/* K and, where present, V, with their windows. */
static bool want_planes(clc_rule_context *context, uint32_t k_operand, cs_sdk_kv_plane *k,
                        cs_sdk_kv_plane *v) {
  const cs_tensor *k_v = &context->op->operands[k_operand];
  return cs_sdk_check_kv_planes(k_v, KV_FORMATS, k, v, context->reason) &&
         clc_want_window(context, &k_v[0], "k_cache") &&
         (v->width == 0 || clc_want_window(context, &k_v[1], "v_cache"));
}

/* Memory, and the distances of block, head and token with the offset, in elements; zeros for a
 * plane that is absent. */
static void arg_plane(clc_rule_context *context, uint32_t operand, const cs_sdk_kv_plane *from) {
  const cs_tensor *cache = &context->op->operands[operand];
  const bool present = from->width != 0;
  const uint64_t offset = present ? cache->offset_bytes / cs_sdk_dtype_bytes(cache->dtype, 1) : 0;
  const uint64_t strides[4] = {from->block_stride, from->head_stride, from->token_stride, offset};
  clc_arg_memory(context, present ? cache->memory : NULL);
  clc_arg_u64x4(context, strides);
}

/* ---- kv_write: k(n, n_kv_heads, k_width) [v(...)] k_cache [v_cache] slots(n) ---- */

static bool write_plane(clc_rule_context *context, uint32_t operand, const char *name,
                        const cs_sdk_kv_plane *cache) {
  const cs_tensor *x = &context->op->operands[operand];
  const uint64_t n = cs_sdk_tensor_rows(x);
  if (!clc_want_tensor(context, operand, name, PLAIN_FLOATS, n, cache->n_heads * cache->width))
    return false;
  if (!clc_want_vector(context, 4, "slots", I32_ONLY, n)) return false;
  const uint64_t lanes = clc_lanes(context->device);
  clc_step_begin(context, KERNEL_KV_WRITE, cache->n_heads * lanes, n, 1, lanes);
  clc_arg_tensor(context, operand);
  arg_plane(context, operand + 2, cache);
  clc_arg_vector(context, 4);
  clc_arg_u64(context, cache->n_blocks);
  clc_arg_u32(context, cache->block_tokens);
  clc_arg_u32(context, cache->width);
  clc_arg_u32(context, x->dtype);
  clc_arg_u32(context, context->op->operands[operand + 2].dtype);
  return true;
}

bool clc_rule_kv_write(clc_rule_context *context) {
  cs_sdk_kv_plane k, v;
  context->error_class = CS_ERROR_EXACT;
  if (clc_has(context, 1) != clc_has(context, 3))
    return clc_refuse(context, "only one of v and v_cache is there");
  if (!want_planes(context, 2, &k, &v)) return false;
  if (!write_plane(context, 0, "k", &k)) return false;
  return !clc_has(context, 1) || write_plane(context, 1, "v", &v);
}

/* ---- attention_paged: out q k_cache v_cache block_table seq_offsets kv_lengths [sinks] ---- */

static bool attention_module(clc_rule_context *context, uint32_t dtype) {
  context->module = dtype == CS_DTYPE_F32       ? MODULE_ATTENTION_F32
                    : dtype == CS_DTYPE_F16     ? MODULE_ATTENTION_F16
                    : dtype == CS_DTYPE_BF16    ? MODULE_ATTENTION_BF16
                    : dtype == CS_DTYPE_F8_E4M3 ? MODULE_ATTENTION_F8
                                                : MODULE_ATTENTION_I8;
  return true;
}

static bool attention_shapes(clc_rule_context *context, const cs_sdk_kv_plane *k,
                             const cs_sdk_kv_plane *v) {
  const cs_tensor *q = &context->op->operands[1], *table = &context->op->operands[4];
  if (q->rank != 3 || q->dims[2] != k->width)
    return clc_refuse(context, "q is not (n, n_heads, width of K)");
  const uint64_t n = q->dims[0], n_heads = q->dims[1];
  if (n_heads == 0 || k->n_heads == 0 || n_heads % k->n_heads != 0)
    return clc_refuse(context, "n_heads is not a multiple of n_kv_heads");
  if (k->width > MAX_HEAD_WIDTH || v->width > MAX_HEAD_WIDTH)
    return clc_refuse(context, "heads are wider than %d", MAX_HEAD_WIDTH);
  const uint64_t n_sequences = cs_sdk_tensor_rows(table), m = cs_sdk_tensor_columns(table);
  if (m == 0 || m > MAX_CONTEXT / k->block_tokens)
    return clc_refuse(context, "block_table: too many columns, or none");
  return clc_want_tensor(context, 0, "out", F32_ONLY, n, n_heads * v->width) &&
         clc_want_tensor(context, 1, "q", F32_ONLY, n, n_heads * k->width) &&
         clc_want_tensor(context, 4, "block_table", I32_ONLY, n_sequences, m) &&
         clc_want_vector(context, 5, "seq_offsets", I32_ONLY, n_sequences + 1) &&
         clc_want_vector(context, 6, "kv_lengths", I32_ONLY, n_sequences) &&
         (!clc_has(context, 7) || clc_want_vector(context, 7, "sinks", F32_ONLY, n_heads));
}

bool clc_rule_attention(clc_rule_context *context) {
  const cs_attention_params *params = context->op->params;
  const cs_tensor *operands = context->op->operands;
  cs_sdk_kv_plane k, v;
  if (!want_planes(context, 2, &k, &v)) return false;
  if (!clc_has(context, 3)) return clc_refuse(context, "there is no v_cache");
  if (!attention_shapes(context, &k, &v)) return false;
  attention_module(context, operands[2].dtype);
  const uint64_t lanes = clc_lanes(context->device), n_heads = operands[1].dims[1];
  clc_step_begin(context, KERNEL_ATTENTION_PAGED, n_heads * lanes, operands[1].dims[0], 1, lanes);
  clc_arg_tensor(context, 0);
  clc_arg_tensor(context, 1);
  arg_plane(context, 2, &k);
  arg_plane(context, 3, &v);
  clc_arg_tensor(context, 4);
  for (uint32_t i = 5; i < 8; i++)
    clc_arg_vector(context, i);
  clc_arg_u32(context, cs_sdk_tensor_rows(&operands[4]));
  clc_arg_u32(context, cs_sdk_tensor_columns(&operands[4]));
  clc_arg_u32(context, k.n_blocks);
  clc_arg_u32(context, k.block_tokens);
  clc_arg_u32(context, n_heads / k.n_heads);
  clc_arg_u32x2(context, k.width, v.width);
  clc_arg_f32(context, params->scale);
  clc_arg_f32(context, params->soft_cap);
  clc_arg_u32(context, params->window);
  return true;
}

/* ---- kv_gather, kv_scatter: wire sum k_cache [v_cache] block_table(1, m) range(2) ---- */

/* Items of dimension 0 that share the wire. */
static uint64_t move_items(const clc_device *device) {
  const uint64_t units = device->n_units ? device->n_units : 1;
  return device->variant == CLC_VARIANT_CPU ? 4 * units : 32 * 64;
}

static void plan_move(clc_rule_context *context, const cs_sdk_kv_move *move) {
  const cs_tensor *operands = context->op->operands;
  const uint64_t lanes = clc_lanes(context->device);
  clc_step_begin(context, KERNEL_KV_MOVE, move_items(context->device), 1, 1, lanes);
  clc_arg_memory(context, operands[0].memory);
  clc_arg_u64(context, operands[0].offset_bytes / cs_sdk_dtype_bytes(move->wire_dtype, 1));
  arg_plane(context, 2, &move->k);
  arg_plane(context, 3, &move->v);
  clc_arg_vector(context, 4);
  clc_arg_vector(context, 5);
  clc_arg_u64(context, move->table_blocks);
  clc_arg_u64(context, move->k.n_blocks);
  clc_arg_u64(context, move->wire_tokens);
  clc_arg_u32(context, move->k.block_tokens);
  clc_arg_u32(context, move->k.n_heads);
  clc_arg_u32x2(context, move->k.width, move->v.width);
  clc_arg_u32(context, move->wire_dtype);
  clc_arg_u32(context, operands[2].dtype);
  clc_arg_u32(context, context->op->id == CS_OP_KV_GATHER);
}

static void plan_sum(clc_rule_context *context, const cs_sdk_kv_move *move) {
  const cs_tensor *operands = context->op->operands;
  const uint64_t items = move_items(context->device);
  clc_step_begin(context, KERNEL_WIRE_SUM, items, 1, 1, clc_lanes(context->device));
  clc_arg_memory(context, operands[0].memory);
  clc_arg_u64(context, operands[0].offset_bytes / 2);
  clc_arg_memory(context, context->workspace);
  clc_arg_vector(context, 5);
  clc_arg_u64(context, move->table_blocks * move->k.block_tokens);
  clc_arg_u64(context, move->wire_tokens);
  clc_arg_u64(context, move->token_bytes / 2);
  clc_step_begin(context, KERNEL_WIRE_SUM_FINISH, 1, 1, 1, 1);
  clc_arg_vector(context, 1);
  clc_arg_memory(context, context->workspace);
  clc_arg_u32(context, items);
}

bool clc_rule_kv_move(clc_rule_context *context) {
  static const char *const names[] = {"wire", "sum", "k_cache", "v_cache", "block_table", "range"};
  cs_sdk_kv_move move;
  context->error_class = CS_ERROR_EXACT;
  context->support = CS_SUPPORT_COMPOSED;
  context->workspace_bytes = move_items(context->device) * sizeof(uint64_t);
  if (!cs_sdk_check_kv_move(context->op, KV_FORMATS, &move, context->reason)) return false;
  for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (clc_has(context, i) && !clc_want_window(context, &context->op->operands[i], names[i]))
      return false;
  if (context->plan &&
      (!context->workspace || clc_memory_of(context->workspace)->device != context->device ||
       clc_memory_of(context->workspace)->bytes < context->workspace_bytes))
    return clc_refuse(context, "the workspace is missing or too small");
  plan_move(context, &move);
  plan_sum(context, &move);
  return true;
}

/* ---- kv_copy_blocks: k_cache [v_cache] pairs(n, 2) ---- */

bool clc_rule_kv_copy_blocks(clc_rule_context *context) {
  const cs_tensor *operands = context->op->operands;
  const uint64_t n = cs_sdk_tensor_rows(&operands[2]);
  cs_sdk_kv_plane planes[2];
  context->error_class = CS_ERROR_EXACT;
  if (!want_planes(context, 0, &planes[0], &planes[1])) return false;
  if (!clc_want_tensor(context, 2, "pairs", I32_ONLY, n, 2)) return false;
  for (uint32_t i = 0; i < 2; i++) {
    const cs_sdk_kv_plane *p = &planes[i];
    if (p->width == 0) continue;
    const bool cpu = context->device->variant == CLC_VARIANT_CPU;
    clc_step_begin(context, KERNEL_KV_COPY_BLOCKS, cpu ? 1 : 256, n, 1, clc_lanes(context->device));
    clc_arg_memory(context, operands[i].memory);
    clc_arg_u64(context, operands[i].offset_bytes / 2);
    clc_arg_u64(context, cs_sdk_tensor_stride(&operands[i]) / 2);
    clc_arg_u64(context, cs_sdk_tensor_row_bytes(&operands[i]) / 2);
    clc_arg_tensor(context, 2);
    clc_arg_u64(context, p->n_blocks);
  }
  return true;
}
