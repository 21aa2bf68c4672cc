/* Rules of matmul and moe_matmul: what serves a number of rows. Up to 8 rows stream the weights
 * through float32 arithmetic; more go to tensor cores (HALF) as halves that a first step makes of
 * x: plain 16-bit weights by cuBLASLt where it is there, all others in tiles; F32 weights go to
 * float32 tiles. Slots of a MoE are sorted by expert, so that a tile has rows of one expert. */
#include "fp8.h"
#include "plan.h"

#define FEW_ROWS   8
#define BLAS_ROWS  32 /* from here on */
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

/* ---- tiles ---- */

static bool is_plain_half(uint32_t dtype) {
  return dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16;
}

/* The format of the halves that tensor cores multiply with weights of `dtype`. */
static uint32_t half_dtype(const cuda_rule_context *context, uint32_t dtype) {
  return dtype == CS_DTYPE_F16 || !context->device->has_bf16 ? CS_DTYPE_F16 : CS_DTYPE_BF16;
}

/* Where things lie in the workspace of a matmul of many rows. */
typedef struct layout {
  uint64_t halves_stride; /* elements */
  uint64_t order, groups, blas, fp8, bytes;
} layout;

static uint64_t aligned_bytes(uint64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

/* x_rows rows of halves unless the weights are F32; n_slots of moe_sort and its groups; cuBLASLt's
 * own where it may be called, and x in e4m3 where it takes that. All grow with the rows. */
static layout measure(uint32_t dtype, uint64_t x_rows, uint64_t n_in, uint64_t n_slots,
                      uint64_t n_groups, bool blas, bool fp8) {
  layout l = {.halves_stride = parts(n_in, CUDA_HALVES) * CUDA_HALVES};
  if (dtype != CS_DTYPE_F32) l.order = aligned_bytes(x_rows * l.halves_stride * 2);
  l.groups = l.order + aligned_bytes(n_slots * sizeof(uint32_t));
  l.blas = l.groups + aligned_bytes(n_groups * CUDA_GROUP_BYTES);
  l.fp8 = l.blas + (blas ? CUDA_BLAS_WORKSPACE_BYTES : 0);
  l.bytes = l.fp8 + (fp8 ? cuda_fp8_bytes(x_rows, n_in) : 0);
  return l;
}

static bool add_halves(cuda_rule_context *context, cuda_matmul_args *args, uint32_t dtype,
                       uint64_t x_rows, const layout *l) {
  if (dtype == CS_DTYPE_F32) return true;
  args->halves = cuda_workspace_at(context, 0);
  args->halves_stride = l->halves_stride;
  const cuda_halve_args halve = {.x = args->x,
                                 .out = args->halves,
                                 .out_stride = l->halves_stride,
                                 .n_columns = args->n_in,
                                 .bf16 = half_dtype(context, dtype) == CS_DTYPE_BF16};
  return cuda_step_add(context, KERNEL_halve_rows, x_rows, cuda_spans(l->halves_stride), 1,
                       CUDA_THREADS, &halve, sizeof halve);
}

/* `n_tiles` in the direction of rows. */
static bool add_tiles(cuda_rule_context *context, const cuda_matmul_args *args, uint32_t dtype,
                      uint64_t n_tiles, uint32_t size) {
  if (dtype == CS_DTYPE_F32)
    return cuda_step_add(context, formats[dtype].tile, parts(args->n_out, CUDA_F32_TILE), n_tiles,
                         1, CUDA_THREADS, args, sizeof *args);
  return cuda_step_add(context, tile_kernel(dtype, size == LARGE_TILE), parts(args->n_out, size),
                       n_tiles, 1, 2 * size, args, sizeof *args);
}

/* Large tiles where there is at least one for each multiprocessor. */
static uint32_t tile_size(const cuda_rule_context *context, uint32_t dtype, uint64_t n,
                          uint64_t n_out) {
  if (dtype == CS_DTYPE_F32) return CUDA_F32_TILE;
  const uint64_t large = parts(n_out, LARGE_TILE) * parts(n, LARGE_TILE);
  return large >= context->device->n_units ? LARGE_TILE : SMALL_TILE;
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

/* ---- cuBLASLt ---- */

/* The library multiplies halves as they lie, and knows no soft cap. */
static bool may_call_blas(const cuda_rule_context *context, const cuda_matmul_args *args,
                          uint32_t dtype) {
  return is_plain_half(dtype) && half_dtype(context, dtype) == dtype && args->n >= BLAS_ROWS &&
         args->cap == 0.0f && cuda_blas_ready(context->device->blas);
}

static cuda_blas_call blas_call(const cuda_rule_context *context, const cuda_matmul_args *args,
                                uint32_t dtype, const layout *l) {
  return (cuda_blas_call){.dtype = dtype,
                          .n_stand_ins = 1,
                          .n = args->n,
                          .n_out = args->n_out,
                          .n_in = args->n_in,
                          .weight = args->weight.data,
                          .x = args->halves,
                          .bias = args->bias,
                          .residual = args->residual.base,
                          .out = args->out.base,
                          .workspace = cuda_workspace_at(context, l->blas),
                          .weight_stride = args->weight.row_bytes / 2,
                          .x_stride = args->halves_stride,
                          .residual_stride = args->residual.stride,
                          .out_stride = args->out.stride};
}

static void add_blas(cuda_rule_context *context, const cuda_matmul_args *args, uint32_t dtype,
                     const layout *l) {
  if (!context->plan) return;
  cuda_blas_call call = blas_call(context, args, dtype, l);
  if (cuda_blas_choose(context->device->blas, &call)) cuda_step_add_blas(context, &call);
}

/* The product in e4m3; *chosen is false where the library has no algorithm for it. The steps behind
 * it, which do without, make halves and multiply these. */
static bool add_fp8(cuda_rule_context *context, const cuda_matmul_args *args, const layout *l,
                    bool *chosen) {
  if (!context->plan) return true;
  const cuda_fp8_args *weight = &context->op->operands[2].memory->fp8;
  if (!weight->out) return true; /* packed for no matmul */
  const cuda_fp8_args x = cuda_fp8_place(cuda_workspace_at(context, l->fp8), args->x, CS_DTYPE_F32,
                                         args->n, args->n_in);
  cuda_blas_call call = blas_call(context, args, CS_DTYPE_F8_E4M3, l);
  call.n_stand_ins = 2;
  call.n_in = (uint32_t)x.out_stride; /* zeros behind the columns add nothing */
  call.weight = weight->out;
  call.weight_scale = weight->scale;
  call.weight_stride = weight->out_stride;
  call.x = x.out;
  call.x_scale = x.scale;
  call.x_stride = x.out_stride;
  *chosen = cuda_blas_choose(context->device->blas, &call);
  if (!*chosen) return true;
  if (!cuda_step_add(context, KERNEL_fp8_largest, x.n_rows, 1, 1, CUDA_THREADS, &x, sizeof x) ||
      !cuda_step_add(context, KERNEL_fp8_scale, 1, 1, 1, CUDA_THREADS, &x, sizeof x) ||
      !cuda_step_add(context, KERNEL_fp8_rows, x.n_rows, cuda_spans(x.out_stride), 1, CUDA_THREADS,
                     &x, sizeof x))
    return false;
  cuda_step_add_blas(context, &call);
  return true;
}

/* ---- rules ---- */

static bool add_many_rows(cuda_rule_context *context, cuda_matmul_args *args, uint32_t dtype) {
  const bool blas = may_call_blas(context, args, dtype);
  const bool fp8 =
      blas && !cuda_has(context, 3) && cuda_fp8_suits(context->device, dtype, args->n_out);
  const layout l = measure(dtype, args->n, args->n_in, 0, 0, blas, fp8);
  const uint32_t size = tile_size(context, dtype, args->n, args->n_out);
  context->workspace_bytes = l.bytes;
  if (dtype != CS_DTYPE_F32) {
    context->error_class = fp8 ? CS_ERROR_INT8 : CS_ERROR_HALF; /* FP8 itself has no class */
    context->support = CS_SUPPORT_COMPOSED;
  }
  if (!cuda_want_workspace(context)) return false;
  bool chosen = false;
  if (fp8 && !add_fp8(context, args, &l, &chosen)) return false;
  if (!add_halves(context, args, dtype, args->n, &l)) return false;
  if (blas && !chosen) add_blas(context, args, dtype, &l);
  return add_tiles(context, args, dtype, parts(args->n, size), size);
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
  return add_many_rows(context, &args, weight->dtype);
}

/* Slots by expert: each group of rows is one tile's. */
static bool add_grouped(cuda_rule_context *context, cuda_matmul_args *args, uint32_t dtype,
                        uint64_t x_rows) {
  const uint32_t size = tile_size(context, dtype, args->n / args->n_experts, args->n_out);
  const uint64_t n_groups = args->n / size + args->n_experts + 1; /* each expert's last is short */
  const uint64_t most_groups = args->n / SMALL_TILE + args->n_experts + 1;
  const layout l = measure(dtype, x_rows, args->n_in, args->n, most_groups, false, false);
  context->workspace_bytes = l.bytes;
  context->support = CS_SUPPORT_COMPOSED;
  if (dtype != CS_DTYPE_F32) context->error_class = CS_ERROR_HALF;
  if (!cuda_want_workspace(context) || !add_halves(context, args, dtype, x_rows, &l)) return false;
  args->order = cuda_workspace_at(context, l.order);
  args->groups = cuda_workspace_at(context, l.groups);
  const cuda_moe_sort_args sort = {.ids = args->ids,
                                   .order = args->order,
                                   .groups = args->groups,
                                   .n_slots = args->n,
                                   .k = args->k,
                                   .n_experts = args->n_experts,
                                   .group_rows = size,
                                   .n_groups = (uint32_t)n_groups};
  return cuda_step_add(context, KERNEL_moe_sort, 1, 1, 1, CUDA_THREADS, &sort, sizeof sort) &&
         add_tiles(context, args, dtype, n_groups, size);
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
  /* Fewer slots than experts read few of them, and each seldom twice. */
  if (n <= FEW_ROWS || n * k < n_experts || n_experts > CUDA_MAX_EXPERTS)
    return add_vector(context, &args, weight->dtype, 1);
  return add_grouped(context, &args, weight->dtype, x_rows);
}
