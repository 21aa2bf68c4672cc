/* Rules of the ops on the KV cache: one of either layout is a base and three distances for a
 * kernel. */
#include "plan.h"

#define MOVE_BLOCKS 2 /* of kv_move and wire_sum, a multiprocessor */
#define COPY_SHARES 8 /* blocks that share one kv_copy_blocks pair */

bool cuda_want_planes(cuda_rule_context *context, uint32_t k_operand, cs_sdk_kv_plane *k,
                      cs_sdk_kv_plane *v) {
  const cs_tensor *k_v = &context->op->operands[k_operand];
  return cs_sdk_check_kv_planes(k_v, CUDA_KV_FORMATS, k, v, context->reason) &&
         cuda_want_window(context, &k_v[0], "k_cache") &&
         (v->width == 0 || cuda_want_window(context, &k_v[1], "v_cache"));
}

cuda_plane cuda_plane_of(const cuda_rule_context *context, uint32_t operand,
                         const cs_sdk_kv_plane *from) {
  return (cuda_plane){.base = cuda_base_of(context, operand),
                      .block_stride = from->block_stride,
                      .head_stride = from->head_stride,
                      .token_stride = from->token_stride,
                      .block_rows = from->block_tokens * from->n_heads,
                      .width = from->width};
}

/* ---- kv_write: k(n, n_kv_heads, k_width) [v(...)] k_cache [v_cache] slots(n) ---- */

static bool write_plane(cuda_rule_context *context, uint32_t operand, const char *name,
                        const cs_sdk_kv_plane *cache) {
  const cs_tensor *x = &context->op->operands[operand];
  const uint64_t n = cs_sdk_tensor_rows(x);
  if (!cuda_want_tensor(context, operand, name, CUDA_PLAIN_FLOATS, n,
                        cache->n_heads * cache->width))
    return false;
  if (!cuda_want_vector(context, 4, "slots", CUDA_I32_ONLY, n)) return false;
  const cuda_kv_write_args args = {.x = cuda_rows_of(context, operand),
                                   .cache = cuda_plane_of(context, operand + 2, cache),
                                   .slots = cuda_base_of(context, 4),
                                   .n_blocks = cache->n_blocks,
                                   .block_tokens = (uint32_t)cache->block_tokens,
                                   .n_heads = (uint32_t)cache->n_heads,
                                   .width = (uint32_t)cache->width,
                                   .x_dtype = x->dtype,
                                   .cache_dtype = context->op->operands[operand + 2].dtype};
  return cuda_step_add(context, KERNEL_kv_write, n, 1, 1, CUDA_THREADS, &args, sizeof args);
}

bool cuda_rule_kv_write(cuda_rule_context *context) {
  cs_sdk_kv_plane k, v;
  context->error_class = CS_ERROR_EXACT;
  if (cuda_has(context, 1) != cuda_has(context, 3))
    return cuda_refuse(context, "only one of v and v_cache is there");
  if (!cuda_want_planes(context, 2, &k, &v)) return false;
  if (!write_plane(context, 0, "k", &k)) return false;
  return !cuda_has(context, 1) || write_plane(context, 1, "v", &v);
}

/* ---- kv_gather, kv_scatter: wire sum k_cache [v_cache] block_table(1, m) range(2) ---- */

static uint32_t move_blocks(const cuda_rule_context *context) {
  return MOVE_BLOCKS * context->device->n_units;
}

static uint64_t partial_bytes(const cuda_rule_context *context) {
  return (move_blocks(context) * sizeof(uint64_t) + 255) / 256 * 256;
}

/* Memory shared with other plugins is the host's, and the kernels touch a wire more than once, in
 * no good order: theirs is then a copy in the workspace. */
static bool is_far(const cuda_rule_context *context) {
  const cs_tensor *wire = &context->op->operands[0];
  return context->plan && wire->memory->fd >= 0 && wire->offset_bytes % 16 == 0;
}

static void *near_wire(const cuda_rule_context *context) {
  return is_far(context) ? cuda_workspace_at(context, partial_bytes(context))
                         : cuda_base_of(context, 0);
}

static bool add_copy(cuda_rule_context *context, const cs_sdk_kv_move *move) {
  const bool out = context->op->id == CS_OP_KV_GATHER;
  void *near = near_wire(context), *far = cuda_base_of(context, 0);
  const cuda_wire_copy_args args = {.to = out ? far : near,
                                    .from = out ? near : far,
                                    .range = cuda_base_of(context, 5),
                                    .table_tokens = move->table_blocks * move->k.block_tokens,
                                    .wire_tokens = move->wire_tokens,
                                    .token_halves = move->token_bytes / 2};
  return cuda_step_add(context, KERNEL_wire_copy, move_blocks(context), 1, 1, CUDA_THREADS, &args,
                       sizeof args);
}

static bool add_move(cuda_rule_context *context, const cs_sdk_kv_move *move) {
  const cuda_kv_move_args args = {.wire = near_wire(context),
                                  .k = cuda_plane_of(context, 2, &move->k),
                                  .v = cuda_plane_of(context, 3, &move->v),
                                  .table = cuda_base_of(context, 4),
                                  .range = cuda_base_of(context, 5),
                                  .table_blocks = move->table_blocks,
                                  .n_blocks = move->k.n_blocks,
                                  .wire_tokens = move->wire_tokens,
                                  .block_tokens = (uint32_t)move->k.block_tokens,
                                  .n_heads = (uint32_t)move->k.n_heads,
                                  .k_width = (uint32_t)move->k.width,
                                  .v_width = (uint32_t)move->v.width,
                                  .wire_dtype = move->wire_dtype,
                                  .cache_dtype = context->op->operands[2].dtype,
                                  .to_wire = context->op->id == CS_OP_KV_GATHER};
  return cuda_step_add(context, KERNEL_kv_move, move_blocks(context), 1, 1, CUDA_THREADS, &args,
                       sizeof args);
}

static bool add_sum(cuda_rule_context *context, const cs_sdk_kv_move *move) {
  const uintptr_t partial = context->plan ? (uintptr_t)context->workspace->address : 0;
  const cuda_wire_sum_args args = {.wire = near_wire(context),
                                   .partial = (void *)partial,
                                   .range = cuda_base_of(context, 5),
                                   .sum = cuda_base_of(context, 1),
                                   .table_tokens = move->table_blocks * move->k.block_tokens,
                                   .wire_tokens = move->wire_tokens,
                                   .token_halves = move->token_bytes / 2,
                                   .n_partial = move_blocks(context)};
  return cuda_step_add(context, KERNEL_wire_sum, move_blocks(context), 1, 1, CUDA_THREADS, &args,
                       sizeof args) &&
         cuda_step_add(context, KERNEL_wire_sum_finish, 1, 1, 1, CUDA_THREADS, &args, sizeof args);
}

bool cuda_rule_kv_move(cuda_rule_context *context) {
  static const char *const names[] = {"wire", "sum", "k_cache", "v_cache", "block_table", "range"};
  cs_sdk_kv_move move;
  context->error_class = CS_ERROR_EXACT;
  context->support = CS_SUPPORT_COMPOSED;
  if (!cs_sdk_check_kv_move(context->op, CUDA_KV_FORMATS, &move, context->reason)) return false;
  for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (cuda_has(context, i) && !cuda_want_window(context, &context->op->operands[i], names[i]))
      return false;
  context->workspace_bytes = partial_bytes(context) + move.wire_tokens * move.token_bytes;
  if (!cuda_want_workspace(context)) return false;
  const bool far = is_far(context), out = context->op->id == CS_OP_KV_GATHER;
  if (far && !out && !add_copy(context, &move)) return false;
  if (!add_move(context, &move) || !add_sum(context, &move)) return false;
  return !far || !out || add_copy(context, &move);
}

/* ---- kv_copy_blocks: k_cache [v_cache] pairs(n, 2) ---- */

bool cuda_rule_kv_copy_blocks(cuda_rule_context *context) {
  const cs_tensor *operands = context->op->operands;
  const uint64_t n = cs_sdk_tensor_rows(&operands[2]);
  cs_sdk_kv_plane planes[2];
  context->error_class = CS_ERROR_EXACT;
  if (!cuda_want_planes(context, 0, &planes[0], &planes[1])) return false;
  if (!cuda_want_tensor(context, 2, "pairs", CUDA_I32_ONLY, n, 2)) return false;
  for (uint32_t i = 0; i < 2; i++) {
    const cs_sdk_kv_plane *p = &planes[i];
    if (p->width == 0) continue;
    const cuda_copy_blocks_args args = {.cache = cuda_base_of(context, i),
                                        .block_stride = cs_sdk_tensor_stride(&operands[i]) / 2,
                                        .block_halves = cs_sdk_tensor_row_bytes(&operands[i]) / 2,
                                        .pairs = cuda_rows_of(context, 2),
                                        .n_blocks = p->n_blocks};
    if (!cuda_step_add(context, KERNEL_kv_copy_blocks, n, COPY_SHARES, 1, CUDA_THREADS, &args,
                       sizeof args))
      return false;
  }
  return true;
}
