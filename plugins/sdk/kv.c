/* Checks of the ops on the KV cache. Blocks are rows of a plain tensor but for two things: the
 * scales of int8 make a row longer than its elements, and sums and copies go by halves. */
#include "consort/sdk.h"

#include "consort/kv.h"

#define MIN_BLOCK_TOKENS 16
#define MAX_BLOCK_TOKENS 128
#define MAX_CONTEXT      (1u << 30)

static bool is_present(const cs_tensor *tensor) {
  return tensor->dtype != CS_DTYPE_NONE;
}

static bool check_rows(const cs_tensor *cache, const char *name, uint64_t dtypes, char *reason) {
  cs_tensor flat = *cache;
  flat.layout = CS_LAYOUT_PLAIN;
  flat.row_stride_bytes = cs_sdk_tensor_stride(cache);
  if (!cs_sdk_check_tensor(&flat, name, dtypes, flat.dims[0], cs_sdk_tensor_columns(&flat), reason))
    return false;
  const bool has_scales = cs_kv_scale_bytes(cache->dtype) != 0;
  if (has_scales && (cache->dims[3] % 4 != 0 || flat.row_stride_bytes % 4 != 0 ||
                     flat.row_stride_bytes < cs_sdk_tensor_row_bytes(cache)))
    return cs_sdk_refuse(reason, "%s: int8 rows of %llu are not whole words", name,
                         (unsigned long long)cache->dims[3]);
  if (flat.row_stride_bytes % 2 != 0)
    return cs_sdk_refuse(reason, "%s: blocks are not whole halves", name);
  return true;
}

static bool check_plane(const cs_tensor *cache, const char *name, uint64_t dtypes,
                        cs_sdk_kv_plane *out, char *reason) {
  if (cache->rank != 4)
    return cs_sdk_refuse(reason, "%s is not (blocks, tokens, heads, width)", name);
  if (cache->layout != CS_LAYOUT_KV_TOKEN_MAJOR && cache->layout != CS_LAYOUT_KV_HEAD_MAJOR)
    return cs_sdk_refuse(reason, "%s: KV layout %u is not served", name, cache->layout);
  const uint64_t *dims = cache->dims;
  if (dims[1] < MIN_BLOCK_TOKENS || dims[1] > MAX_BLOCK_TOKENS || (dims[1] & (dims[1] - 1)) != 0)
    return cs_sdk_refuse(reason, "%s: blocks of %llu tokens are not served", name,
                         (unsigned long long)dims[1]);
  if (!check_rows(cache, name, dtypes, reason)) return false;
  const bool token_major = cache->layout == CS_LAYOUT_KV_TOKEN_MAJOR;
  *out = (cs_sdk_kv_plane){.n_blocks = dims[0],
                           .block_tokens = dims[1],
                           .n_heads = dims[2],
                           .width = dims[3],
                           .block_stride =
                               cs_sdk_tensor_stride(cache) / cs_sdk_dtype_bytes(cache->dtype, 1),
                           .head_stride = token_major ? dims[3] : dims[1] * dims[3],
                           .token_stride = token_major ? dims[2] * dims[3] : dims[3]};
  return true;
}

bool cs_sdk_check_kv_planes(const cs_tensor *k_v, uint64_t dtypes, cs_sdk_kv_plane *k,
                            cs_sdk_kv_plane *v, char *reason) {
  if (!check_plane(&k_v[0], "k_cache", dtypes, k, reason)) return false;
  *v = (cs_sdk_kv_plane){
      .n_blocks = k->n_blocks, .block_tokens = k->block_tokens, .n_heads = k->n_heads};
  if (!is_present(&k_v[1])) return true;
  if (!check_plane(&k_v[1], "v_cache", dtypes, v, reason)) return false;
  if (v->n_blocks != k->n_blocks || v->block_tokens != k->block_tokens ||
      v->n_heads != k->n_heads || k_v[0].dtype != k_v[1].dtype)
    return cs_sdk_refuse(reason, "k_cache and v_cache differ in blocks, heads or dtype");
  return true;
}

/* A wire of bytes (U8) holds elements of the cache's dtype. */
static bool check_wire(const cs_op *op, uint64_t dtypes, cs_sdk_kv_move *move, char *reason) {
  const cs_tensor *wire = &op->operands[0];
  const cs_sdk_kv_plane *k = &move->k, *v = &move->v;
  const uint64_t elements = cs_sdk_tensor_rows(wire) * cs_sdk_tensor_columns(wire);
  if (!cs_sdk_check_vector(wire, "wire", dtypes | CS_DTYPE_BIT(CS_DTYPE_U8), elements, reason))
    return false;
  move->wire_dtype = wire->dtype == CS_DTYPE_U8 ? op->operands[2].dtype : wire->dtype;
  if (wire->offset_bytes % 4 != 0) return cs_sdk_refuse(reason, "wire is not aligned");
  const uint64_t scales = cs_kv_scale_bytes(move->wire_dtype) * (v->width ? 2 : 1);
  if (scales && (k->width | v->width) % 4 != 0)
    return cs_sdk_refuse(reason, "wire: int8 rows are not whole words");
  move->token_bytes =
      k->n_heads * ((k->width + v->width) * cs_sdk_dtype_bytes(move->wire_dtype, 1) + scales);
  if (move->token_bytes % 2 != 0) return cs_sdk_refuse(reason, "wire: tokens are not whole halves");
  move->wire_tokens = cs_sdk_dtype_bytes(wire->dtype, elements) / move->token_bytes;
  return true;
}

bool cs_sdk_check_kv_move(const cs_op *op, uint64_t dtypes, cs_sdk_kv_move *out, char *reason) {
  const uint64_t i32 = CS_DTYPE_BIT(CS_DTYPE_I32), u64 = CS_DTYPE_BIT(CS_DTYPE_U64);
  const cs_tensor *operands = op->operands;
  *out = (cs_sdk_kv_move){.table_blocks = cs_sdk_tensor_columns(&operands[4])};
  if (!cs_sdk_check_kv_planes(&operands[2], dtypes, &out->k, &out->v, reason)) return false;
  if (!check_wire(op, dtypes, out, reason)) return false;
  if (!cs_sdk_check_vector(&operands[1], "sum", u64, 1, reason)) return false;
  if (!cs_sdk_check_vector(&operands[4], "block_table", i32, out->table_blocks, reason))
    return false;
  if (!cs_sdk_check_vector(&operands[5], "range", i32, 2, reason)) return false;
  if (out->table_blocks > MAX_CONTEXT / out->k.block_tokens)
    return cs_sdk_refuse(reason, "block_table: too many columns");
  return true;
}
