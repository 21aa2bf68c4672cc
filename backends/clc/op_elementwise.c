/* Rules of the ops that treat every element alone, and of rope. */
#include "plan.h"

#define PLAIN_FLOATS                                                                               \
  (CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) | CS_DTYPE_BIT(CS_DTYPE_BF16))
#define F32_ONLY CS_DTYPE_BIT(CS_DTYPE_F32)

/* add, silu_mul, gelu_mul: out(n, d) a(n, d) b(n, d) */
bool clc_rule_binary(clc_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[0]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[0]);
  const bool add = context->op->id == CS_OP_ADD;
  if (!clc_want_tensor(context, 0, "out", F32_ONLY, n, d)) return false;
  if (!clc_want_tensor(context, 1, add ? "a" : "gate", F32_ONLY, n, d)) return false;
  if (!clc_want_tensor(context, 2, add ? "b" : "up", F32_ONLY, n, d)) return false;
  const clc_kernel kernel = add                                 ? KERNEL_ADD
                            : context->op->id == CS_OP_SILU_MUL ? KERNEL_SILU_MUL
                                                                : KERNEL_GELU_MUL;
  clc_step_begin(context, kernel, clc_spans(context->device, d), n, 1, clc_lanes(context->device));
  for (uint32_t i = 0; i < 3; i++)
    clc_arg_tensor(context, i);
  clc_arg_u64(context, d);
  return true;
}

bool clc_rule_cast(clc_rule_context *context) {
  const cs_tensor *out = &context->op->operands[0];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  if (!clc_want_tensor(context, 0, "out", PLAIN_FLOATS, n, d)) return false;
  if (!clc_want_tensor(context, 1, "x", PLAIN_FLOATS, n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  if (out->dtype == context->op->operands[1].dtype) return clc_rule_copy(context);
  clc_step_begin(context, KERNEL_CAST, clc_spans(context->device, d), n, 1,
                 clc_lanes(context->device));
  clc_arg_tensor(context, 0);
  clc_arg_tensor(context, 1);
  clc_arg_u64(context, d);
  clc_arg_u32(context, out->dtype);
  clc_arg_u32(context, context->op->operands[1].dtype);
  return true;
}

static void arg_raw(clc_rule_context *context, uint32_t operand, uint64_t unit) {
  const cs_tensor *tensor = &context->op->operands[operand];
  clc_arg_memory(context, tensor->memory);
  clc_arg_u64(context, tensor->offset_bytes / unit);
  clc_arg_u64(context, cs_sdk_tensor_stride(tensor) / unit);
}

/* Any dtype: rows are moved as words where everything is a multiple of 4 bytes. */
bool clc_rule_copy(clc_rule_context *context) {
  const cs_tensor *out = &context->op->operands[0], *x = &context->op->operands[1];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  if (out->dtype != x->dtype) return clc_refuse(context, "x and out differ in dtype");
  if (!clc_want_tensor(context, 0, "out", ~CS_DTYPE_BIT(CS_DTYPE_NONE), n, d)) return false;
  if (!clc_want_tensor(context, 1, "x", ~CS_DTYPE_BIT(CS_DTYPE_NONE), n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  const uint64_t row_bytes = cs_sdk_dtype_bytes(out->dtype, d);
  const uint64_t all = row_bytes | out->offset_bytes | x->offset_bytes |
                       (n > 1 ? cs_sdk_tensor_stride(out) | cs_sdk_tensor_stride(x) : 0);
  const uint64_t unit = all % 4 == 0 ? 4 : 1;
  if (row_bytes > UINT32_MAX / 2) return clc_refuse(context, "rows are too long");
  clc_step_begin(context, unit == 4 ? KERNEL_COPY_WORDS : KERNEL_COPY_BYTES,
                 clc_spans(context->device, row_bytes / unit), n, 1, clc_lanes(context->device));
  arg_raw(context, 0, unit);
  arg_raw(context, 1, unit);
  clc_arg_u64(context, row_bytes / unit);
  return true;
}

/* out(n, n_heads, head_dim) x(n, n_heads, head_dim) positions(n) inv_freq(n_rot / 2) */
bool clc_rule_rope(clc_rule_context *context) {
  const cs_rope_params *params = context->op->params;
  const cs_tensor *x = &context->op->operands[1];
  if (x->rank < 2 || x->rank > 3) return clc_refuse(context, "x is not (n, n_heads, head_dim)");
  const uint64_t n = cs_sdk_tensor_rows(x), d = cs_sdk_tensor_columns(x);
  const uint64_t head_dim = x->dims[x->rank - 1];
  if (!clc_want_tensor(context, 0, "out", F32_ONLY, n, d)) return false;
  if (!clc_want_tensor(context, 1, "x", F32_ONLY, n, d)) return false;
  if (params->n_rot % 2 != 0 || params->n_rot > head_dim)
    return clc_refuse(context, "n_rot is odd or above head_dim");
  if (params->mode != CS_ROPE_INTERLEAVED && params->mode != CS_ROPE_HALF_SPLIT)
    return clc_refuse(context, "rope mode %u is not known", params->mode);
  const uint64_t n_pairs = params->n_rot / 2;
  if (!clc_want_vector(context, 2, "positions", CS_DTYPE_BIT(CS_DTYPE_I32), n)) return false;
  if (n_pairs && !clc_want_vector(context, 3, "inv_freq", F32_ONLY, n_pairs)) return false;
  const bool cpu = context->device->variant == CLC_VARIANT_CPU;
  const uint64_t lanes = clc_lanes(context->device);
  const uint64_t items = ((n_pairs ? n_pairs : 1) + lanes - 1) / lanes * lanes;
  clc_step_begin(context, KERNEL_ROPE, items, n, cpu ? 1 : d / head_dim, lanes);
  for (uint32_t i = 0; i < 2; i++)
    clc_arg_tensor(context, i);
  clc_arg_vector(context, 2);
  clc_arg_vector(context, 3);
  clc_arg_u32(context, d / head_dim);
  clc_arg_u32(context, head_dim);
  clc_arg_u32(context, params->n_rot);
  clc_arg_u32(context, params->mode == CS_ROPE_HALF_SPLIT);
  clc_arg_f32(context, params->magnitude);
  return true;
}
