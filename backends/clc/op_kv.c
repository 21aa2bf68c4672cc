/* Rules of the ops on the KV cache. A cache plane of either layout is four numbers for a kernel:
 * the distances of block, head and token, and the offset, all in elements. */
#include "plan.h"

#include "consort/kv.h"

#define PLAIN_FLOATS                                                                               \
  (CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) | CS_DTYPE_BIT(CS_DTYPE_BF16))
#define KV_FORMATS       (PLAIN_FLOATS | CS_DTYPE_BIT(CS_DTYPE_F8_E4M3) | CS_DTYPE_BIT(CS_DTYPE_I8))
#define F32_ONLY         CS_DTYPE_BIT(CS_DTYPE_F32)
#define I32_ONLY         CS_DTYPE_BIT(CS_DTYPE_I32)
#define MIN_BLOCK_TOKENS 16
#define MAX_BLOCK_TOKENS 128
#define MAX_HEAD_WIDTH   256 /* attention.cl */
#define MAX_CONTEXT      (1u << 30)

typedef struct plane {
  uint64_t n_blocks, block_tokens, n_heads, width;
  uint64_t strides[4]; /* block, head, token, offset */
} plane;

/* Blocks as plain rows; scales make a row longer than its elements. */
static bool want_rows(clc_rule_context *context, uint32_t operand, const char *name) {
  const cs_tensor *cache = &context->op->operands[operand];
  cs_tensor flat = *cache;
  cs_op op = *context->op;
  flat.layout = CS_LAYOUT_PLAIN;
  flat.row_stride_bytes = cs_sdk_tensor_stride(cache);
  op.operands = &flat;
  clc_rule_context view = *context;
  view.op = &op;
  if (!clc_want_tensor(&view, 0, name, KV_FORMATS, flat.dims[0], cs_sdk_tensor_columns(&flat)))
    return clc_refuse(context, "%s", view.reason);
  if (context->plan &&
      !cs_sdk_check_window(cache, name, clc_memory_of(cache->memory)->bytes, context->reason))
    return false;
  const bool has_scales = cs_kv_scale_bytes(cache->dtype) != 0;
  if (has_scales && (cache->dims[3] % 4 != 0 || flat.row_stride_bytes % 4 != 0 ||
                     flat.row_stride_bytes < cs_sdk_tensor_row_bytes(cache)))
    return clc_refuse(context, "%s: int8 rows of %llu are not whole words", name,
                      (unsigned long long)cache->dims[3]);
  if (flat.row_stride_bytes % 2 != 0)
    return clc_refuse(context, "%s: blocks are not whole halves", name);
  return true;
}

/* Reads a cache operand and checks it against its memory. */
static bool want_plane(clc_rule_context *context, uint32_t operand, const char *name, plane *out) {
  const cs_tensor flat = context->op->operands[operand];
  if (flat.rank != 4) return clc_refuse(context, "%s is not (blocks, tokens, heads, width)", name);
  if (flat.layout != CS_LAYOUT_KV_TOKEN_MAJOR && flat.layout != CS_LAYOUT_KV_HEAD_MAJOR)
    return clc_refuse(context, "%s: KV layout %u is not served", name, flat.layout);
  const bool token_major = flat.layout == CS_LAYOUT_KV_TOKEN_MAJOR;
  *out = (plane){flat.dims[0], flat.dims[1], flat.dims[2], flat.dims[3], {0, 0, 0, 0}};
  if (out->block_tokens < MIN_BLOCK_TOKENS || out->block_tokens > MAX_BLOCK_TOKENS ||
      (out->block_tokens & (out->block_tokens - 1)) != 0)
    return clc_refuse(context, "%s: blocks of %llu tokens are not served", name,
                      (unsigned long long)out->block_tokens);
  if (!want_rows(context, operand, name)) return false;
  const uint64_t element = cs_sdk_dtype_bytes(flat.dtype, 1);
  out->strides[0] = cs_sdk_tensor_stride(&flat) / element;
  out->strides[1] = token_major ? out->width : out->block_tokens * out->width;
  out->strides[2] = token_major ? out->n_heads * out->width : out->width;
  out->strides[3] = flat.offset_bytes / element;
  return true;
}

/* K and, where present, V: the same blocks and heads in the same dtype. */
static bool want_planes(clc_rule_context *context, uint32_t k_operand, plane *k, plane *v) {
  const cs_tensor *operands = &context->op->operands[k_operand];
  if (!want_plane(context, k_operand, "k_cache", k)) return false;
  *v = (plane){k->n_blocks, k->block_tokens, k->n_heads, 0, {0, 0, 0, 0}};
  if (!clc_has(context, k_operand + 1)) return true;
  if (!want_plane(context, k_operand + 1, "v_cache", v)) return false;
  if (v->n_blocks != k->n_blocks || v->block_tokens != k->block_tokens ||
      v->n_heads != k->n_heads || operands[0].dtype != operands[1].dtype)
    return clc_refuse(context, "k_cache and v_cache differ in blocks, heads or dtype");
  return true;
}

/* ---- kv_write: k(n, n_kv_heads, k_width) [v(...)] k_cache [v_cache] slots(n) ---- */

static bool write_plane(clc_rule_context *context, uint32_t operand, const char *name,
                        const plane *cache) {
  const cs_tensor *x = &context->op->operands[operand];
  const uint64_t n = cs_sdk_tensor_rows(x);
  if (!clc_want_tensor(context, operand, name, PLAIN_FLOATS, n, cache->n_heads * cache->width))
    return false;
  if (!clc_want_vector(context, 4, "slots", I32_ONLY, n)) return false;
  const uint64_t lanes = clc_lanes(context->device);
  clc_step_begin(context, KERNEL_KV_WRITE, cache->n_heads * lanes, n, 1, lanes);
  clc_arg_tensor(context, operand);
  clc_arg_memory(context, context->op->operands[operand + 2].memory);
  clc_arg_u64x4(context, cache->strides);
  clc_arg_vector(context, 4);
  clc_arg_u64(context, cache->n_blocks);
  clc_arg_u32(context, cache->block_tokens);
  clc_arg_u32(context, cache->width);
  clc_arg_u32(context, x->dtype);
  clc_arg_u32(context, context->op->operands[operand + 2].dtype);
  return true;
}

bool clc_rule_kv_write(clc_rule_context *context) {
  plane k, v;
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

static bool attention_shapes(clc_rule_context *context, const plane *k, const plane *v) {
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
  plane k, v;
  if (!want_planes(context, 2, &k, &v)) return false;
  if (!clc_has(context, 3)) return clc_refuse(context, "there is no v_cache");
  if (!attention_shapes(context, &k, &v)) return false;
  attention_module(context, operands[2].dtype);
  const uint64_t lanes = clc_lanes(context->device), n_heads = operands[1].dims[1];
  clc_step_begin(context, KERNEL_ATTENTION_PAGED, n_heads * lanes, operands[1].dims[0], 1, lanes);
  clc_arg_tensor(context, 0);
  clc_arg_tensor(context, 1);
  clc_arg_memory(context, operands[2].memory);
  clc_arg_u64x4(context, k.strides);
  clc_arg_memory(context, operands[3].memory);
  clc_arg_u64x4(context, v.strides);
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

typedef struct wire_shape {
  uint64_t dtype, token_bytes, tokens, table_blocks;
} wire_shape;

/* A wire of bytes (U8) holds elements of the cache's dtype. */
static bool want_wire(clc_rule_context *context, const plane *k, const plane *v,
                      wire_shape *shape) {
  const cs_tensor *wire = &context->op->operands[0];
  const bool raw = wire->dtype == CS_DTYPE_U8;
  const uint64_t elements = cs_sdk_tensor_rows(wire) * cs_sdk_tensor_columns(wire);
  if (!clc_want_vector(context, 0, "wire", KV_FORMATS | CS_DTYPE_BIT(CS_DTYPE_U8), elements))
    return false;
  shape->dtype = raw ? context->op->operands[2].dtype : wire->dtype;
  const uint64_t element = cs_sdk_dtype_bytes((uint32_t)shape->dtype, 1);
  if (wire->offset_bytes % 4 != 0) return clc_refuse(context, "wire is not aligned");
  const uint64_t scales = cs_kv_scale_bytes((uint32_t)shape->dtype) * (v->width ? 2 : 1);
  if (scales && (k->width | v->width) % 4 != 0)
    return clc_refuse(context, "wire: int8 rows are not whole words");
  shape->token_bytes = k->n_heads * ((k->width + v->width) * element + scales);
  if (shape->token_bytes % 2 != 0) return clc_refuse(context, "wire: tokens are not whole halves");
  shape->tokens = cs_sdk_dtype_bytes(wire->dtype, elements) / shape->token_bytes;
  shape->table_blocks = cs_sdk_tensor_columns(&context->op->operands[4]);
  return true;
}

static void plan_move(clc_rule_context *context, const plane *k, const plane *v,
                      const wire_shape *shape) {
  const cs_tensor *operands = context->op->operands;
  const uint64_t lanes = clc_lanes(context->device);
  const uint64_t element = cs_sdk_dtype_bytes((uint32_t)shape->dtype, 1);
  clc_step_begin(context, KERNEL_KV_MOVE, move_items(context->device), 1, 1, lanes);
  clc_arg_memory(context, operands[0].memory);
  clc_arg_u64(context, operands[0].offset_bytes / element);
  clc_arg_memory(context, operands[2].memory);
  clc_arg_u64x4(context, k->strides);
  clc_arg_memory(context, clc_has(context, 3) ? operands[3].memory : NULL);
  clc_arg_u64x4(context, v->strides);
  clc_arg_vector(context, 4);
  clc_arg_vector(context, 5);
  clc_arg_u64(context, shape->table_blocks);
  clc_arg_u64(context, k->n_blocks);
  clc_arg_u64(context, shape->tokens);
  clc_arg_u32(context, k->block_tokens);
  clc_arg_u32(context, k->n_heads);
  clc_arg_u32x2(context, k->width, v->width);
  clc_arg_u32(context, shape->dtype);
  clc_arg_u32(context, operands[2].dtype);
  clc_arg_u32(context, context->op->id == CS_OP_KV_GATHER);
}

static void plan_sum(clc_rule_context *context, const plane *k, const wire_shape *shape) {
  const cs_tensor *operands = context->op->operands;
  const uint64_t items = move_items(context->device);
  clc_step_begin(context, KERNEL_WIRE_SUM, items, 1, 1, clc_lanes(context->device));
  clc_arg_memory(context, operands[0].memory);
  clc_arg_u64(context, operands[0].offset_bytes / 2);
  clc_arg_memory(context, context->workspace);
  clc_arg_vector(context, 5);
  clc_arg_u64(context, shape->table_blocks * k->block_tokens);
  clc_arg_u64(context, shape->tokens);
  clc_arg_u64(context, shape->token_bytes / 2);
  clc_step_begin(context, KERNEL_WIRE_SUM_FINISH, 1, 1, 1, 1);
  clc_arg_vector(context, 1);
  clc_arg_memory(context, context->workspace);
  clc_arg_u32(context, items);
}

bool clc_rule_kv_move(clc_rule_context *context) {
  plane k, v;
  wire_shape shape = {0, 0, 0, 0};
  context->error_class = CS_ERROR_EXACT;
  context->support = CS_SUPPORT_COMPOSED;
  context->workspace_bytes = move_items(context->device) * sizeof(uint64_t);
  if (!want_planes(context, 2, &k, &v)) return false;
  if (!want_wire(context, &k, &v, &shape)) return false;
  if (!clc_want_vector(context, 1, "sum", CS_DTYPE_BIT(CS_DTYPE_U64), 1)) return false;
  if (!clc_want_vector(context, 4, "block_table", I32_ONLY, shape.table_blocks)) return false;
  if (!clc_want_vector(context, 5, "range", I32_ONLY, 2)) return false;
  if (shape.table_blocks > MAX_CONTEXT / k.block_tokens)
    return clc_refuse(context, "block_table: too many columns");
  if (context->plan &&
      (!context->workspace || clc_memory_of(context->workspace)->device != context->device ||
       clc_memory_of(context->workspace)->bytes < context->workspace_bytes))
    return clc_refuse(context, "the workspace is missing or too small");
  plan_move(context, &k, &v, &shape);
  plan_sum(context, &k, &shape);
  return true;
}

/* ---- kv_copy_blocks: k_cache [v_cache] pairs(n, 2) ---- */

bool clc_rule_kv_copy_blocks(clc_rule_context *context) {
  const cs_tensor *operands = context->op->operands;
  const uint64_t n = cs_sdk_tensor_rows(&operands[2]);
  plane planes[2];
  context->error_class = CS_ERROR_EXACT;
  if (!want_planes(context, 0, &planes[0], &planes[1])) return false;
  if (!clc_want_tensor(context, 2, "pairs", I32_ONLY, n, 2)) return false;
  for (uint32_t i = 0; i < 2; i++) {
    const plane *p = &planes[i];
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
