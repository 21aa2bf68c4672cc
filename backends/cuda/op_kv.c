/* Rules of the ops on the KV cache, and planes: a cache of either layout is a base and three
 * distances for a kernel. */
#include "plan.h"

#include "consort/kv.h"

#define MIN_BLOCK_TOKENS 16
#define MAX_BLOCK_TOKENS 128
#define MAX_CONTEXT      (1u << 30)
#define MOVE_BLOCKS      2 /* of kv_move and wire_sum, a multiprocessor */
#define COPY_SHARES      8 /* blocks that share one kv_copy_blocks pair */

/* Blocks as plain rows; scales make a row longer than its elements. */
static bool want_rows(cuda_rule_context *context, uint32_t operand, const char *name) {
  const cs_tensor *cache = &context->op->operands[operand];
  cs_tensor flat = *cache;
  cs_op op = *context->op;
  flat.layout = CS_LAYOUT_PLAIN;
  flat.row_stride_bytes = cs_sdk_tensor_stride(cache);
  op.operands = &flat;
  cuda_rule_context view = *context;
  view.op = &op;
  if (!cuda_want_tensor(&view, 0, name, CUDA_KV_FORMATS, flat.dims[0],
                        cs_sdk_tensor_columns(&flat)))
    return cuda_refuse(context, "%s", view.reason);
  if (context->plan && !cs_sdk_check_window(cache, name, cache->memory->bytes, context->reason))
    return false;
  const bool has_scales = cs_kv_scale_bytes(cache->dtype) != 0;
  if (has_scales && (cache->dims[3] % 4 != 0 || flat.row_stride_bytes % 4 != 0 ||
                     flat.row_stride_bytes < cs_sdk_tensor_row_bytes(cache)))
    return cuda_refuse(context, "%s: int8 rows of %llu are not whole words", name,
                       (unsigned long long)cache->dims[3]);
  if (flat.row_stride_bytes % 2 != 0)
    return cuda_refuse(context, "%s: blocks are not whole halves", name);
  return true;
}

/* Reads a cache operand and checks it against its memory. */
static bool want_plane(cuda_rule_context *context, uint32_t operand, const char *name,
                       cuda_plane_shape *out) {
  const cs_tensor flat = context->op->operands[operand];
  if (flat.rank != 4) return cuda_refuse(context, "%s is not (blocks, tokens, heads, width)", name);
  if (flat.layout != CS_LAYOUT_KV_TOKEN_MAJOR && flat.layout != CS_LAYOUT_KV_HEAD_MAJOR)
    return cuda_refuse(context, "%s: KV layout %u is not served", name, flat.layout);
  const bool token_major = flat.layout == CS_LAYOUT_KV_TOKEN_MAJOR;
  *out = (cuda_plane_shape){flat.dims[0], flat.dims[1], flat.dims[2], flat.dims[3], {0}};
  if (out->block_tokens < MIN_BLOCK_TOKENS || out->block_tokens > MAX_BLOCK_TOKENS ||
      (out->block_tokens & (out->block_tokens - 1)) != 0)
    return cuda_refuse(context, "%s: blocks of %llu tokens are not served", name,
                       (unsigned long long)out->block_tokens);
  if (!want_rows(context, operand, name)) return false;
  const uint64_t element = cs_sdk_dtype_bytes(flat.dtype, 1);
  out->plane =
      (cuda_plane){.base = cuda_base_of(context, operand),
                   .block_stride = cs_sdk_tensor_stride(&flat) / element,
                   .head_stride = token_major ? out->width : out->block_tokens * out->width,
                   .token_stride = token_major ? out->n_heads * out->width : out->width,
                   .block_rows = out->block_tokens * out->n_heads,
                   .width = out->width};
  return true;
}

bool cuda_want_planes(cuda_rule_context *context, uint32_t k_operand, cuda_plane_shape *k,
                      cuda_plane_shape *v) {
  const cs_tensor *operands = &context->op->operands[k_operand];
  if (!want_plane(context, k_operand, "k_cache", k)) return false;
  *v = (cuda_plane_shape){k->n_blocks, k->block_tokens, k->n_heads, 0, {0}};
  if (!cuda_has(context, k_operand + 1)) return true;
  if (!want_plane(context, k_operand + 1, "v_cache", v)) return false;
  if (v->n_blocks != k->n_blocks || v->block_tokens != k->block_tokens ||
      v->n_heads != k->n_heads || operands[0].dtype != operands[1].dtype)
    return cuda_refuse(context, "k_cache and v_cache differ in blocks, heads or dtype");
  return true;
}

/* ---- kv_write: k(n, n_kv_heads, k_width) [v(...)] k_cache [v_cache] slots(n) ---- */

static bool write_plane(cuda_rule_context *context, uint32_t operand, const char *name,
                        const cuda_plane_shape *cache) {
  const cs_tensor *x = &context->op->operands[operand];
  const uint64_t n = cs_sdk_tensor_rows(x);
  if (!cuda_want_tensor(context, operand, name, CUDA_PLAIN_FLOATS, n,
                        cache->n_heads * cache->width))
    return false;
  if (!cuda_want_vector(context, 4, "slots", CUDA_I32_ONLY, n)) return false;
  const cuda_kv_write_args args = {.x = cuda_rows_of(context, operand),
                                   .cache = cache->plane,
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
  cuda_plane_shape k, v;
  context->error_class = CS_ERROR_EXACT;
  if (cuda_has(context, 1) != cuda_has(context, 3))
    return cuda_refuse(context, "only one of v and v_cache is there");
  if (!cuda_want_planes(context, 2, &k, &v)) return false;
  if (!write_plane(context, 0, "k", &k)) return false;
  return !cuda_has(context, 1) || write_plane(context, 1, "v", &v);
}

/* ---- kv_gather, kv_scatter: wire sum k_cache [v_cache] block_table(1, m) range(2) ---- */

typedef struct wire_shape {
  uint32_t dtype;
  uint64_t token_bytes, tokens, table_blocks;
} wire_shape;

/* A wire of bytes (U8) holds elements of the cache's dtype. */
static bool want_wire(cuda_rule_context *context, const cuda_plane_shape *k,
                      const cuda_plane_shape *v, wire_shape *shape) {
  const cs_tensor *wire = &context->op->operands[0];
  const bool raw = wire->dtype == CS_DTYPE_U8;
  const uint64_t elements = cs_sdk_tensor_rows(wire) * cs_sdk_tensor_columns(wire);
  if (!cuda_want_vector(context, 0, "wire", CUDA_KV_FORMATS | CS_DTYPE_BIT(CS_DTYPE_U8), elements))
    return false;
  shape->dtype = raw ? context->op->operands[2].dtype : wire->dtype;
  if (wire->offset_bytes % 4 != 0) return cuda_refuse(context, "wire is not aligned");
  const uint64_t scales = cs_kv_scale_bytes(shape->dtype) * (v->width ? 2 : 1);
  if (scales && (k->width | v->width) % 4 != 0)
    return cuda_refuse(context, "wire: int8 rows are not whole words");
  shape->token_bytes =
      k->n_heads * ((k->width + v->width) * cs_sdk_dtype_bytes(shape->dtype, 1) + scales);
  if (shape->token_bytes % 2 != 0) return cuda_refuse(context, "wire: tokens are not whole halves");
  shape->tokens = cs_sdk_dtype_bytes(wire->dtype, elements) / shape->token_bytes;
  shape->table_blocks = cs_sdk_tensor_columns(&context->op->operands[4]);
  return true;
}

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

static bool add_copy(cuda_rule_context *context, const cuda_plane_shape *k,
                     const wire_shape *shape) {
  const bool out = context->op->id == CS_OP_KV_GATHER;
  void *near = near_wire(context), *far = cuda_base_of(context, 0);
  const cuda_wire_copy_args args = {.to = out ? far : near,
                                    .from = out ? near : far,
                                    .range = cuda_base_of(context, 5),
                                    .table_tokens = shape->table_blocks * k->block_tokens,
                                    .wire_tokens = shape->tokens,
                                    .token_halves = shape->token_bytes / 2};
  return cuda_step_add(context, KERNEL_wire_copy, move_blocks(context), 1, 1, CUDA_THREADS, &args,
                       sizeof args);
}

static bool add_move(cuda_rule_context *context, const cuda_plane_shape *k,
                     const cuda_plane_shape *v, const wire_shape *shape) {
  const cuda_kv_move_args args = {.wire = near_wire(context),
                                  .k = k->plane,
                                  .v = v->plane,
                                  .table = cuda_base_of(context, 4),
                                  .range = cuda_base_of(context, 5),
                                  .table_blocks = shape->table_blocks,
                                  .n_blocks = k->n_blocks,
                                  .wire_tokens = shape->tokens,
                                  .block_tokens = (uint32_t)k->block_tokens,
                                  .n_heads = (uint32_t)k->n_heads,
                                  .k_width = (uint32_t)k->width,
                                  .v_width = (uint32_t)v->width,
                                  .wire_dtype = shape->dtype,
                                  .cache_dtype = context->op->operands[2].dtype,
                                  .to_wire = context->op->id == CS_OP_KV_GATHER};
  return cuda_step_add(context, KERNEL_kv_move, move_blocks(context), 1, 1, CUDA_THREADS, &args,
                       sizeof args);
}

static bool add_sum(cuda_rule_context *context, const cuda_plane_shape *k,
                    const wire_shape *shape) {
  const uintptr_t partial = context->plan ? (uintptr_t)context->workspace->address : 0;
  const cuda_wire_sum_args args = {.wire = near_wire(context),
                                   .partial = (void *)partial,
                                   .range = cuda_base_of(context, 5),
                                   .sum = cuda_base_of(context, 1),
                                   .table_tokens = shape->table_blocks * k->block_tokens,
                                   .wire_tokens = shape->tokens,
                                   .token_halves = shape->token_bytes / 2,
                                   .n_partial = move_blocks(context)};
  return cuda_step_add(context, KERNEL_wire_sum, move_blocks(context), 1, 1, CUDA_THREADS, &args,
                       sizeof args) &&
         cuda_step_add(context, KERNEL_wire_sum_finish, 1, 1, 1, CUDA_THREADS, &args, sizeof args);
}

bool cuda_rule_kv_move(cuda_rule_context *context) {
  cuda_plane_shape k, v;
  wire_shape shape = {0};
  context->error_class = CS_ERROR_EXACT;
  context->support = CS_SUPPORT_COMPOSED;
  if (!cuda_want_planes(context, 2, &k, &v)) return false;
  if (!want_wire(context, &k, &v, &shape)) return false;
  context->workspace_bytes = partial_bytes(context) + shape.tokens * shape.token_bytes;
  if (!cuda_want_vector(context, 1, "sum", CS_DTYPE_BIT(CS_DTYPE_U64), 1)) return false;
  if (!cuda_want_vector(context, 4, "block_table", CUDA_I32_ONLY, shape.table_blocks)) return false;
  if (!cuda_want_vector(context, 5, "range", CUDA_I32_ONLY, 2)) return false;
  if (shape.table_blocks > MAX_CONTEXT / k.block_tokens)
    return cuda_refuse(context, "block_table: too many columns");
  if (!cuda_want_workspace(context)) return false;
  const bool far = is_far(context), out = context->op->id == CS_OP_KV_GATHER;
  if (far && !out && !add_copy(context, &k, &shape)) return false;
  if (!add_move(context, &k, &v, &shape) || !add_sum(context, &k, &shape)) return false;
  return !far || !out || add_copy(context, &k, &shape);
}

/* ---- kv_copy_blocks: k_cache [v_cache] pairs(n, 2) ---- */

bool cuda_rule_kv_copy_blocks(cuda_rule_context *context) {
  const cs_tensor *operands = context->op->operands;
  const uint64_t n = cs_sdk_tensor_rows(&operands[2]);
  cuda_plane_shape shapes[2];
  context->error_class = CS_ERROR_EXACT;
  if (!cuda_want_planes(context, 0, &shapes[0], &shapes[1])) return false;
  if (!cuda_want_tensor(context, 2, "pairs", CUDA_I32_ONLY, n, 2)) return false;
  for (uint32_t i = 0; i < 2; i++) {
    const cuda_plane_shape *p = &shapes[i];
    if (p->width == 0) continue;
    const cuda_copy_blocks_args args = {.cache = p->plane.base,
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
