/* Rules of matmul and moe_matmul: which kernel serves a number of rows. Up to 8 rows stream the
 * weights through float32 arithmetic; more go to tensor cores in tiles (HALF), F32 weights to
 * float32 tiles. */
#include "plan.h"

#define FEW_ROWS   8
#define SMALL_TILE 64
#define LARGE_TILE 128

/* The first kernels of each format, by dtype. */
typedef struct format_kernels {
  cuda_kernel vector;
  cuda_kernel tile;
} format_kernels;

#define FORMAT_KERNELS(name)                                                                       \
  { KERNEL_matmul_vector_##name##_1, KERNEL_matmul_tile_##name##_64 }
static const format_kernels formats[CS_DTYPE_LIMIT] = {
    [CS_DTYPE_F32] = {KERNEL_matmul_vector_f32_1, KERNEL_matmul_f32},
    [CS_DTYPE_F16] = FORMAT_KERNELS(f16),
    [CS_DTYPE_BF16] = FORMAT_KERNELS(bf16),
    [CS_DTYPE_Q8_0] = FORMAT_KERNELS(q8_0),
    [CS_DTYPE_Q4_0] = FORMAT_KERNELS(q4_0),
    [CS_DTYPE_Q4_1] = FORMAT_KERNELS(q4_1),
    [CS_DTYPE_Q5_0] = FORMAT_KERNELS(q5_0),
    [CS_DTYPE_Q5_1] = FORMAT_KERNELS(q5_1),
    [CS_DTYPE_Q4_K] = FORMAT_KERNELS(q4_k),
    [CS_DTYPE_Q5_K] = FORMAT_KERNELS(q5_k),
    [CS_DTYPE_Q6_K] = FORMAT_KERNELS(q6_k),
};

/* They follow each other: for 1, 2, 4 and 8 rows, and tiles of 64 and 128. */
static cuda_kernel vector_kernel(uint32_t dtype, uint64_t n) {
  return (cuda_kernel)(formats[dtype].vector + (n > 4 ? 3 : n > 2 ? 2 : n > 1 ? 1 : 0));
}

static cuda_kernel tile_kernel(uint32_t dtype, bool large) {
  return (cuda_kernel)(formats[dtype].tile + large);
}

static uint64_t parts(uint64_t n, uint64_t size) {
  return (n + size - 1) / size;
}

static bool add_vector(cuda_rule_context *context, const cuda_matmul_args *args, uint32_t dtype,
                       uint64_t rows_at_once) {
  const uint64_t width = rows_at_once > 4 ? 8 : rows_at_once > 2 ? 4 : rows_at_once > 1 ? 2 : 1;
  const uint64_t block_rows = CUDA_VECTOR_WARPS * CUDA_VECTOR_ROWS(width);
  return cuda_step_add(context, vector_kernel(dtype, width), parts(args->n_out, block_rows),
                       parts(args->n, width), 1, CUDA_VECTOR_THREADS, args, sizeof *args);
}

static bool add_tiles(cuda_rule_context *context, const cuda_matmul_args *args, uint32_t dtype) {
  if (dtype == CS_DTYPE_F32)
    return cuda_step_add(context, formats[dtype].tile, parts(args->n_out, CUDA_F32_TILE),
                         parts(args->n, CUDA_F32_TILE), 1, CUDA_THREADS, args, sizeof *args);
  const bool large =
      parts(args->n_out, LARGE_TILE) * parts(args->n, LARGE_TILE) >= context->device->n_units;
  const uint32_t tile = large ? LARGE_TILE : SMALL_TILE;
  return cuda_step_add(context, tile_kernel(dtype, large), parts(args->n_out, tile),
                       parts(args->n, tile), 1, 2 * tile, args, sizeof *args);
}

/* Rows that a kernel may read 16 bytes at a time. */
static bool aligned(const cs_tensor *x) {
  return x->offset_bytes % 16 == 0 && cs_sdk_tensor_stride(x) % 16 == 0;
}

static cuda_matmul_args common_args(const cuda_rule_context *context, uint64_t n, uint64_t n_out,
                                    uint64_t n_in) {
  const cs_tensor *operands = context->op->operands;
  cuda_matmul_args args = {.out = cuda_rows_of(context, 0),
                           .x = cuda_rows_of(context, 1),
                           .n = (uint32_t)n,
                           .n_out = (uint32_t)n_out,
                           .n_in = (uint32_t)n_in,
                           .k = 1,
                           .x_share = 1,
                           .n_experts = 1,
                           .x_aligned = aligned(&operands[1])};
  if (context->plan) args.weight = operands[2].memory->weight;
  return args;
}

/* out(n, n_out) x(n, n_in) weight(n_out, n_in) [bias(n_out)] [residual(n, n_out)] */
bool cuda_rule_matmul(cuda_rule_context *context) {
  const cs_matmul_params *params = context->op->params;
  const cs_tensor *weight = &context->op->operands[2];
  if (weight->rank != 2) return cuda_refuse(context, "weight is not (n_out, n_in)");
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[1]);
  const uint64_t n_out = weight->dims[0], n_in = weight->dims[1];
  if (!cuda_want_packed(context, 2, "weight", CUDA_WEIGHT_DTYPES, 1, n_out, n_in)) return false;
  if (!cuda_want_tensor(context, 0, "out", CUDA_F32_ONLY, n, n_out)) return false;
  if (!cuda_want_tensor(context, 1, "x", CUDA_F32_ONLY, n, n_in)) return false;
  if (cuda_has(context, 3) && !cuda_want_vector(context, 3, "bias", CUDA_F32_ONLY, n_out))
    return false;
  if (cuda_has(context, 4) && !cuda_want_tensor(context, 4, "residual", CUDA_F32_ONLY, n, n_out))
    return false;
  cuda_matmul_args args = common_args(context, n, n_out, n_in);
  args.bias = cuda_base_of(context, 3);
  args.residual = cuda_rows_of(context, 4);
  args.cap = params->soft_cap;
  if (n <= FEW_ROWS) return add_vector(context, &args, weight->dtype, n);
  if (weight->dtype != CS_DTYPE_F32) context->error_class = CS_ERROR_HALF;
  return add_tiles(context, &args, weight->dtype);
}

/* out(n * k, n_out) x(n or n * k, n_in) weight(n_experts, n_out, n_in) ids(n, k) */
bool cuda_rule_moe_matmul(cuda_rule_context *context) {
  const cs_tensor *weight = &context->op->operands[2], *ids = &context->op->operands[3];
  if (weight->rank != 3) return cuda_refuse(context, "weight is not (n_experts, n_out, n_in)");
  const uint64_t n = cs_sdk_tensor_rows(ids), k = cs_sdk_tensor_columns(ids);
  const uint64_t x_rows = cs_sdk_tensor_rows(&context->op->operands[1]);
  const uint64_t n_experts = weight->dims[0], n_out = weight->dims[1], n_in = weight->dims[2];
  if (!cuda_want_packed(context, 2, "weight", CUDA_WEIGHT_DTYPES, n_experts, n_out, n_in))
    return false;
  if (!cuda_want_tensor(context, 3, "ids", CUDA_I32_ONLY, n, k)) return false;
  if (x_rows != n && x_rows != n * k) return cuda_refuse(context, "x has neither n nor n k rows");
  if (!cuda_want_tensor(context, 0, "out", CUDA_F32_ONLY, n * k, n_out)) return false;
  if (!cuda_want_tensor(context, 1, "x", CUDA_F32_ONLY, x_rows, n_in)) return false;
  cuda_matmul_args args = common_args(context, n * k, n_out, n_in);
  args.ids = cuda_rows_of(context, 3);
  args.k = (uint32_t)k;
  args.x_share = (uint32_t)(x_rows == n ? k : 1);
  args.n_experts = (uint32_t)n_experts;
  return add_vector(context, &args, weight->dtype, 1);
}
