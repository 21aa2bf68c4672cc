/* Rules of the ops that treat every element alone, and of rope. */
#include "plan.h"

/* add, silu_mul, gelu_mul: out(n, d) a(n, d) b(n, d) */
bool cuda_rule_binary(cuda_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[0]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[0]);
  const bool add = context->op->id == CS_OP_ADD;
  if (!cuda_want_tensor(context, 0, "out", CUDA_F32_ONLY, n, d)) return false;
  if (!cuda_want_tensor(context, 1, add ? "a" : "gate", CUDA_F32_ONLY, n, d)) return false;
  if (!cuda_want_tensor(context, 2, add ? "b" : "up", CUDA_F32_ONLY, n, d)) return false;
  const cuda_binary_args args = {.out = cuda_rows_of(context, 0),
                                 .a = cuda_rows_of(context, 1),
                                 .b = cuda_rows_of(context, 2),
                                 .n_columns = d,
                                 .mode = add                                 ? CUDA_ADD
                                         : context->op->id == CS_OP_SILU_MUL ? CUDA_SILU
                                                                             : CUDA_GELU};
  return cuda_step_add(context, KERNEL_binary, n, cuda_spans(d), 1, CUDA_THREADS, &args,
                       sizeof args);
}

bool cuda_rule_cast(cuda_rule_context *context) {
  const cs_tensor *out = &context->op->operands[0], *x = &context->op->operands[1];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  if (!cuda_want_tensor(context, 0, "out", CUDA_PLAIN_FLOATS, n, d)) return false;
  if (!cuda_want_tensor(context, 1, "x", CUDA_PLAIN_FLOATS, n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  if (out->dtype == x->dtype) return cuda_rule_copy(context);
  const cuda_cast_args args = {.out = cuda_rows_of(context, 0),
                               .x = cuda_rows_of(context, 1),
                               .n_columns = d,
                               .out_dtype = out->dtype,
                               .x_dtype = x->dtype};
  return cuda_step_add(context, KERNEL_cast, n, cuda_spans(d), 1, CUDA_THREADS, &args, sizeof args);
}

/* Any dtype: rows are moved in the largest unit that everything is a multiple of. */
bool cuda_rule_copy(cuda_rule_context *context) {
  const cs_tensor *out = &context->op->operands[0], *x = &context->op->operands[1];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  if (out->dtype != x->dtype) return cuda_refuse(context, "x and out differ in dtype");
  if (!cuda_want_tensor(context, 0, "out", ~CS_DTYPE_BIT(CS_DTYPE_NONE), n, d)) return false;
  if (!cuda_want_tensor(context, 1, "x", ~CS_DTYPE_BIT(CS_DTYPE_NONE), n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  const uint64_t row_bytes = cs_sdk_dtype_bytes(out->dtype, d);
  const uint64_t out_stride = cs_sdk_tensor_stride(out), x_stride = cs_sdk_tensor_stride(x);
  const uint64_t all =
      row_bytes | out->offset_bytes | x->offset_bytes | (n > 1 ? out_stride | x_stride : 0);
  const uint32_t unit = all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
  const cuda_copy_args args = {.out = {cuda_base_of(context, 0), out_stride / unit},
                               .x = {cuda_base_of(context, 1), x_stride / unit},
                               .n_units = row_bytes / unit,
                               .unit_bytes = unit};
  return cuda_step_add(context, KERNEL_copy_rows, n, cuda_spans(args.n_units), 1, CUDA_THREADS,
                       &args, sizeof args);
}

/* out(n, n_heads, head_dim) x(n, n_heads, head_dim) positions(n) inv_freq(n_rot / 2) */
bool cuda_rule_rope(cuda_rule_context *context) {
  const cs_rope_params *params = context->op->params;
  const cs_tensor *x = &context->op->operands[1];
  if (x->rank < 2 || x->rank > 3) return cuda_refuse(context, "x is not (n, n_heads, head_dim)");
  const uint64_t n = cs_sdk_tensor_rows(x), d = cs_sdk_tensor_columns(x);
  const uint64_t head_dim = x->dims[x->rank - 1];
  if (!cuda_want_tensor(context, 0, "out", CUDA_F32_ONLY, n, d)) return false;
  if (!cuda_want_tensor(context, 1, "x", CUDA_F32_ONLY, n, d)) return false;
  if (params->n_rot % 2 != 0 || params->n_rot > head_dim)
    return cuda_refuse(context, "n_rot is odd or above head_dim");
  if (params->mode != CS_ROPE_INTERLEAVED && params->mode != CS_ROPE_HALF_SPLIT)
    return cuda_refuse(context, "rope mode %u is not known", params->mode);
  const uint64_t n_pairs = params->n_rot / 2;
  if (!cuda_want_vector(context, 2, "positions", CUDA_I32_ONLY, n)) return false;
  if (n_pairs && !cuda_want_vector(context, 3, "inv_freq", CUDA_F32_ONLY, n_pairs)) return false;
  const cuda_rope_args args = {.out = cuda_rows_of(context, 0),
                               .x = cuda_rows_of(context, 1),
                               .positions = cuda_base_of(context, 2),
                               .inv_freq = cuda_base_of(context, 3),
                               .n_heads = (uint32_t)(d / head_dim),
                               .head_dim = (uint32_t)head_dim,
                               .n_rot = params->n_rot,
                               .half_split = params->mode == CS_ROPE_HALF_SPLIT,
                               .magnitude = params->magnitude};
  return cuda_step_add(context, KERNEL_rope, n, cuda_spans(d - n_pairs * (d / head_dim)), 1,
                       CUDA_THREADS, &args, sizeof args);
}
