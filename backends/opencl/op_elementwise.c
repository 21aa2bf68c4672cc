/* Rules of the ops that treat every element alone, and of rope. */
#include "plan.h"

#define PLAIN_FLOATS                                                                               \
  (CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) | CS_DTYPE_BIT(CS_DTYPE_BF16))
#define F32_ONLY CS_DTYPE_BIT(CS_DTYPE_F32)

/* add, silu_mul, gelu_mul: out(n, d) a(n, d) b(n, d) */
bool opencl_rule_binary(opencl_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[0]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[0]);
  const bool add = context->op->id == CS_OP_ADD;
  if (!opencl_want_tensor(context, 0, "out", F32_ONLY, n, d)) return false;
  if (!opencl_want_tensor(context, 1, add ? "a" : "gate", F32_ONLY, n, d)) return false;
  if (!opencl_want_tensor(context, 2, add ? "b" : "up", F32_ONLY, n, d)) return false;
  const opencl_kernel kernel = add                                 ? KERNEL_ADD
                               : context->op->id == CS_OP_SILU_MUL ? KERNEL_SILU_MUL
                                                                   : KERNEL_GELU_MUL;
  opencl_step_begin(context, kernel, opencl_spans(context->device, d), n, 1,
                    opencl_lanes(context->device));
  for (uint32_t i = 0; i < 3; i++)
    opencl_arg_tensor(context, i);
  opencl_arg_u64(context, d);
  return true;
}

bool opencl_rule_cast(opencl_rule_context *context) {
  const cs_tensor *out = &context->op->operands[0];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  if (!opencl_want_tensor(context, 0, "out", PLAIN_FLOATS, n, d)) return false;
  if (!opencl_want_tensor(context, 1, "x", PLAIN_FLOATS, n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  if (out->dtype == context->op->operands[1].dtype) return opencl_rule_copy(context);
  opencl_step_begin(context, KERNEL_CAST, opencl_spans(context->device, d), n, 1,
                    opencl_lanes(context->device));
  opencl_arg_tensor(context, 0);
  opencl_arg_tensor(context, 1);
  opencl_arg_u64(context, d);
  opencl_arg_u32(context, out->dtype);
  opencl_arg_u32(context, context->op->operands[1].dtype);
  return true;
}

static void arg_raw(opencl_rule_context *context, uint32_t operand, uint64_t unit) {
  const cs_tensor *tensor = &context->op->operands[operand];
  opencl_arg_memory(context, tensor->memory);
  opencl_arg_u64(context, tensor->offset_bytes / unit);
  opencl_arg_u64(context, cs_sdk_tensor_stride(tensor) / unit);
}

/* Any dtype: rows are moved as words where everything is a multiple of 4 bytes. */
bool opencl_rule_copy(opencl_rule_context *context) {
  const cs_tensor *out = &context->op->operands[0], *x = &context->op->operands[1];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  if (out->dtype != x->dtype) return opencl_refuse(context, "x and out differ in dtype");
  if (!opencl_want_tensor(context, 0, "out", ~CS_DTYPE_BIT(CS_DTYPE_NONE), n, d)) return false;
  if (!opencl_want_tensor(context, 1, "x", ~CS_DTYPE_BIT(CS_DTYPE_NONE), n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  const uint64_t row_bytes = cs_sdk_dtype_bytes(out->dtype, d);
  const uint64_t all = row_bytes | out->offset_bytes | x->offset_bytes |
                       (n > 1 ? cs_sdk_tensor_stride(out) | cs_sdk_tensor_stride(x) : 0);
  const uint64_t unit = all % 4 == 0 ? 4 : 1;
  if (row_bytes > UINT32_MAX / 2) return opencl_refuse(context, "rows are too long");
  opencl_step_begin(context, unit == 4 ? KERNEL_COPY_WORDS : KERNEL_COPY_BYTES,
                    opencl_spans(context->device, row_bytes / unit), n, 1,
                    opencl_lanes(context->device));
  arg_raw(context, 0, unit);
  arg_raw(context, 1, unit);
  opencl_arg_u64(context, row_bytes / unit);
  return true;
}

/* out(n, n_heads, head_dim) x(n, n_heads, head_dim) positions(n) inv_freq(n_rot / 2) */
bool opencl_rule_rope(opencl_rule_context *context) {
  const cs_rope_params *params = context->op->params;
  const cs_tensor *x = &context->op->operands[1];
  if (x->rank < 2 || x->rank > 3) return opencl_refuse(context, "x is not (n, n_heads, head_dim)");
  const uint64_t n = cs_sdk_tensor_rows(x), d = cs_sdk_tensor_columns(x);
  const uint64_t head_dim = x->dims[x->rank - 1];
  if (!opencl_want_tensor(context, 0, "out", F32_ONLY, n, d)) return false;
  if (!opencl_want_tensor(context, 1, "x", F32_ONLY, n, d)) return false;
  if (params->n_rot % 2 != 0 || params->n_rot > head_dim)
    return opencl_refuse(context, "n_rot is odd or above head_dim");
  if (params->mode != CS_ROPE_INTERLEAVED && params->mode != CS_ROPE_HALF_SPLIT)
    return opencl_refuse(context, "rope mode %u is not known", params->mode);
  const uint64_t n_pairs = params->n_rot / 2;
  if (!opencl_want_vector(context, 2, "positions", CS_DTYPE_BIT(CS_DTYPE_I32), n)) return false;
  if (n_pairs && !opencl_want_vector(context, 3, "inv_freq", F32_ONLY, n_pairs)) return false;
  const bool cpu = context->device->variant == OPENCL_VARIANT_CPU;
  const uint64_t lanes = opencl_lanes(context->device);
  const uint64_t items = ((n_pairs ? n_pairs : 1) + lanes - 1) / lanes * lanes;
  opencl_step_begin(context, KERNEL_ROPE, items, n, cpu ? 1 : d / head_dim, lanes);
  for (uint32_t i = 0; i < 2; i++)
    opencl_arg_tensor(context, i);
  opencl_arg_vector(context, 2);
  opencl_arg_vector(context, 3);
  opencl_arg_u32(context, d / head_dim);
  opencl_arg_u32(context, head_dim);
  opencl_arg_u32(context, params->n_rot);
  opencl_arg_u32(context, params->mode == CS_ROPE_HALF_SPLIT);
  opencl_arg_f32(context, params->magnitude);
  return true;
}
