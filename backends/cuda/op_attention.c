/* The rule of attention_paged. Rows in step with sequences (decode) and float32 caches take the
 * float32 kernel, the keys split so that the chip is full; longer runs of rows over 16-bit caches
 * take the tensor cores. */
#include "plan.h"

#define MAX_HEAD_WIDTH   256
#define MMA_HEAD_WIDTH   128
#define MMA_MIN_ROWS     16
#define MMA_ROWS_A_QUERY 4 /* rows a sequence, on average, from which tiles are full enough */
#define MAX_CONTEXT      (1u << 30)
#define MAX_SPLITS       32
#define SPLIT_TOKENS     128 /* at least these for a split */
#define BLOCKS_A_UNIT    4   /* blocks that fill a multiprocessor */

typedef struct shape {
  cs_sdk_kv_plane k, v;
  uint64_t n, n_heads, n_sequences, table_blocks, n_shared;
} shape;

static bool read_shape(cuda_rule_context *context, shape *s) {
  const cs_tensor *q = &context->op->operands[1], *table = &context->op->operands[4];
  if (!cuda_want_planes(context, 2, &s->k, &s->v)) return false;
  if (!cuda_has(context, 3)) return cuda_refuse(context, "there is no v_cache");
  if (q->rank != 3 || q->dims[2] != s->k.width)
    return cuda_refuse(context, "q is not (n, n_heads, width of K)");
  s->n = q->dims[0];
  s->n_heads = q->dims[1];
  if (s->n_heads == 0 || s->k.n_heads == 0 || s->n_heads % s->k.n_heads != 0)
    return cuda_refuse(context, "n_heads is not a multiple of n_kv_heads");
  s->n_shared = s->n_heads / s->k.n_heads;
  if (s->k.width > MAX_HEAD_WIDTH || s->v.width > MAX_HEAD_WIDTH)
    return cuda_refuse(context, "heads are wider than %d", MAX_HEAD_WIDTH);
  s->n_sequences = cs_sdk_tensor_rows(table);
  s->table_blocks = cs_sdk_tensor_columns(table);
  if (s->table_blocks == 0 || s->table_blocks > MAX_CONTEXT / s->k.block_tokens)
    return cuda_refuse(context, "block_table: too many columns, or none");
  return cuda_want_tensor(context, 0, "out", CUDA_F32_ONLY, s->n, s->n_heads * s->v.width) &&
         cuda_want_tensor(context, 1, "q", CUDA_F32_ONLY, s->n, s->n_heads * s->k.width) &&
         cuda_want_tensor(context, 4, "block_table", CUDA_I32_ONLY, s->n_sequences,
                          s->table_blocks) &&
         cuda_want_vector(context, 5, "seq_offsets", CUDA_I32_ONLY, s->n_sequences + 1) &&
         cuda_want_vector(context, 6, "kv_lengths", CUDA_I32_ONLY, s->n_sequences) &&
         (!cuda_has(context, 7) ||
          cuda_want_vector(context, 7, "sinks", CUDA_F32_ONLY, s->n_heads));
}

static bool suits_mma(const shape *s, uint32_t kv_dtype) {
  return kv_dtype != CS_DTYPE_F32 && s->n >= MMA_MIN_ROWS &&
         s->n >= MMA_ROWS_A_QUERY * s->n_sequences && s->k.width <= MMA_HEAD_WIDTH &&
         s->v.width <= MMA_HEAD_WIDTH && s->n_shared <= CUDA_MMA_PAIRS;
}

static uint64_t head_groups(const shape *s) {
  return (s->n_shared + CUDA_SIMT_HEADS - 1) / CUDA_SIMT_HEADS;
}

/* Parts of the keys for `n` rows: more while blocks are missing, fewer than a part's worth never.
 */
static uint64_t splits(const cuda_rule_context *context, const shape *s, uint64_t n) {
  const uint64_t blocks = n * head_groups(s) * s->k.n_heads;
  const uint64_t wanted = (uint64_t)BLOCKS_A_UNIT * context->device->n_units;
  const uint64_t tokens = s->table_blocks * s->k.block_tokens;
  uint64_t n_splits = blocks ? wanted / blocks : 1;
  if (n_splits > tokens / SPLIT_TOKENS) n_splits = tokens / SPLIT_TOKENS;
  if (n_splits > MAX_SPLITS) n_splits = MAX_SPLITS;
  return n_splits ? n_splits : 1;
}

/* The most that any number of rows up to n asks for: fewer rows have more splits. */
static uint64_t workspace_bytes(const cuda_rule_context *context, const shape *s) {
  const uint64_t filled = (uint64_t)BLOCKS_A_UNIT * context->device->n_units;
  const uint64_t row_bytes = s->n_heads * (s->v.width + 2) * sizeof(float);
  uint64_t most = 0;
  for (uint64_t n = 1; n <= s->n && n <= filled; n++) {
    const uint64_t n_splits = splits(context, s, n);
    if (n_splits > 1 && n * n_splits > most) most = n * n_splits;
  }
  return most * row_bytes;
}

/* Bit 0: K, bit 1: V rows start on four elements. */
static uint32_t vectors(const cs_tensor *cache, const shape *s) {
  uint32_t bits = 0;
  for (uint32_t i = 0; i < 2; i++) {
    const cs_sdk_kv_plane *p = i == 0 ? &s->k : &s->v;
    const uint64_t quad = 4 * cs_sdk_dtype_bytes(cache[i].dtype, 1);
    if (p->width % 4 == 0 && p->block_stride % 4 == 0 && cache[i].offset_bytes % quad == 0)
      bits |= 1u << i;
  }
  return bits;
}

static cuda_attention_args make_args(const cuda_rule_context *context, const shape *s) {
  const cs_attention_params *params = context->op->params;
  return (cuda_attention_args){.out = cuda_rows_of(context, 0),
                               .q = cuda_rows_of(context, 1),
                               .table = cuda_rows_of(context, 4),
                               .k = cuda_plane_of(context, 2, &s->k),
                               .v = cuda_plane_of(context, 3, &s->v),
                               .seq_offsets = cuda_base_of(context, 5),
                               .kv_lengths = cuda_base_of(context, 6),
                               .sinks = cuda_base_of(context, 7),
                               .n_blocks = s->k.n_blocks,
                               .n_rows = (uint32_t)s->n,
                               .n_heads = (uint32_t)s->n_heads,
                               .n_kv_heads = (uint32_t)s->k.n_heads,
                               .n_seqs = (uint32_t)s->n_sequences,
                               .table_blocks = (uint32_t)s->table_blocks,
                               .block_tokens = (uint32_t)s->k.block_tokens,
                               .k_width = (uint32_t)s->k.width,
                               .v_width = (uint32_t)s->v.width,
                               .window = params->window,
                               .n_splits = 1,
                               .vectors = vectors(&context->op->operands[2], s),
                               .scale = params->scale,
                               .cap = params->soft_cap};
}

static bool add_mma(cuda_rule_context *context, const shape *s, uint32_t kv_dtype) {
  const cuda_attention_args args = make_args(context, s);
  const bool wide = s->k.width > 64 || s->v.width > 64;
  const cuda_kernel first = kv_dtype == CS_DTYPE_F16       ? KERNEL_attention_mma_f16_64
                            : kv_dtype == CS_DTYPE_BF16    ? KERNEL_attention_mma_bf16_64
                            : kv_dtype == CS_DTYPE_F8_E4M3 ? KERNEL_attention_mma_f8_64
                                                           : KERNEL_attention_mma_i8_64;
  const uint64_t tile_rows = CUDA_MMA_PAIRS / s->n_shared;
  const uint64_t tiles = (s->n + tile_rows - 1) / tile_rows + s->n_sequences;
  return cuda_step_add(context, (cuda_kernel)(first + wide), tiles, s->k.n_heads, 1,
                       CUDA_MMA_THREADS, &args, sizeof args);
}

static bool add_simt(cuda_rule_context *context, const shape *s, uint32_t kv_dtype) {
  cuda_attention_args args = make_args(context, s);
  args.n_splits = (uint32_t)splits(context, s, s->n);
  if (args.n_splits > 1 && context->plan)
    args.partial = (void *)(uintptr_t)context->workspace->address;
  const bool wide = s->k.width > 128 || s->v.width > 128;
  const cuda_kernel first = kv_dtype == CS_DTYPE_F32       ? KERNEL_attention_f32_128
                            : kv_dtype == CS_DTYPE_F16     ? KERNEL_attention_f16_128
                            : kv_dtype == CS_DTYPE_BF16    ? KERNEL_attention_bf16_128
                            : kv_dtype == CS_DTYPE_F8_E4M3 ? KERNEL_attention_f8_128
                                                           : KERNEL_attention_i8_128;
  if (!cuda_step_add(context, (cuda_kernel)(first + wide), s->n * head_groups(s), s->k.n_heads,
                     args.n_splits, CUDA_SIMT_THREADS, &args, sizeof args))
    return false;
  return args.n_splits == 1 || cuda_step_add(context, KERNEL_attention_merge, s->n, s->n_heads, 1,
                                             CUDA_SIMT_THREADS, &args, sizeof args);
}

/* out q k_cache v_cache block_table seq_offsets kv_lengths [sinks] */
bool cuda_rule_attention(cuda_rule_context *context) {
  shape s;
  if (!read_shape(context, &s)) return false;
  const uint32_t kv_dtype = context->op->operands[2].dtype;
  context->workspace_bytes = workspace_bytes(context, &s);
  if (context->workspace_bytes) context->support = CS_SUPPORT_COMPOSED;
  if (kv_dtype != CS_DTYPE_F32 && s.n >= MMA_MIN_ROWS) context->error_class = CS_ERROR_HALF;
  if (suits_mma(&s, kv_dtype)) return add_mma(context, &s, kv_dtype);
  return cuda_want_workspace(context) && add_simt(context, &s, kv_dtype);
}
