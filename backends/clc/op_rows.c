/* Rules of the ops that need a whole row at once, of gather_rows and of the small MoE ops. */
#include "plan.h"

#define F32_ONLY    CS_DTYPE_BIT(CS_DTYPE_F32)
#define I32_ONLY    CS_DTYPE_BIT(CS_DTYPE_I32)
#define GROUP       256 /* rows_gpu.cl */
#define MAX_EXPERTS 512 /* moe.cl */
#define MAX_TOP_K   1024
#define TABLE_DTYPES                                                                               \
  (CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) | CS_DTYPE_BIT(CS_DTYPE_BF16) |         \
   CS_DTYPE_BIT(CS_DTYPE_Q8_0) | CS_DTYPE_BIT(CS_DTYPE_Q4_0))

/* Items of dimension 0 of a kernel that has a group a row. */
static uint64_t row_items(const clc_rule_context *context) {
  return context->device->variant == CLC_VARIANT_CPU ? 1 : GROUP;
}

static bool want_packed_table(clc_rule_context *context, uint64_t n_rows, uint64_t n_columns) {
  const cs_tensor *table = &context->op->operands[1];
  if (!clc_matmul_module(table->dtype, &context->module))
    return clc_refuse(context, "table: dtype %u is not served", table->dtype);
  if (cs_sdk_dtype_bytes(table->dtype, n_columns) == 0 || n_rows > INT32_MAX)
    return clc_refuse(context, "table: rows are not whole blocks, or too many");
  if (!context->plan) return true;
  if (!table->memory) return clc_refuse(context, "table has no memory");
  const clc_memory *memory = clc_memory_of(table->memory);
  if (memory->device != context->device || memory->dtype != table->dtype ||
      memory->n_rows != n_rows || memory->n_columns != n_columns || memory->n_matrices != 1 ||
      table->offset_bytes != 0)
    return clc_refuse(context, "table is not what weights_pack made");
  return true;
}

/* out(n, d) table(v, d) ids(n) */
bool clc_rule_gather_rows(clc_rule_context *context) {
  const cs_gather_rows_params *params = context->op->params;
  const cs_tensor *out = &context->op->operands[0], *table = &context->op->operands[1];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  const bool packed = table->layout == CS_LAYOUT_PACKED;
  if (table->rank != 2 || table->dims[1] != d)
    return clc_refuse(context, "table is not (v, d) with out's d");
  if (!clc_want_tensor(context, 0, "out", F32_ONLY, n, d)) return false;
  if (packed ? !want_packed_table(context, table->dims[0], d)
             : !clc_want_tensor(context, 1, "table", TABLE_DTYPES, table->dims[0], d))
    return false;
  if (!clc_want_vector(context, 2, "ids", I32_ONLY, n)) return false;
  clc_step_begin(context, packed ? KERNEL_GATHER_TILES : KERNEL_GATHER_ROWS,
                 clc_spans(context->device, d), n, 1, clc_lanes(context->device));
  clc_arg_tensor(context, 0);
  clc_arg_memory(context, table->memory);
  clc_arg_u64(context, table->offset_bytes);
  clc_arg_vector(context, 2);
  if (!packed) clc_arg_u64(context, cs_sdk_tensor_stride(table));
  clc_arg_u64(context, table->dims[0]);
  clc_arg_u64(context, d);
  if (!packed) clc_arg_u32(context, table->dtype);
  clc_arg_f32(context, params->scale);
  return true;
}

/* out(n, d) x(n, d) weight(d) [add(n, d)] [sum(n, d)] */
bool clc_rule_rms_norm(clc_rule_context *context) {
  const cs_rms_norm_params *params = context->op->params;
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[0]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[0]);
  if (params->kind != CS_NORM_RMS && params->kind != CS_NORM_LAYER)
    return clc_refuse(context, "norm kind %u is not known", params->kind);
  if (!clc_want_tensor(context, 0, "out", F32_ONLY, n, d)) return false;
  if (!clc_want_tensor(context, 1, "x", F32_ONLY, n, d)) return false;
  if (!clc_want_vector(context, 2, "weight", F32_ONLY, d)) return false;
  if (clc_has(context, 3) && !clc_want_tensor(context, 3, "add", F32_ONLY, n, d)) return false;
  if (clc_has(context, 4) && !clc_want_tensor(context, 4, "sum", F32_ONLY, n, d)) return false;
  clc_step_begin(context, KERNEL_RMS_NORM, row_items(context), n, 1, row_items(context));
  clc_arg_tensor(context, 0);
  clc_arg_tensor(context, 1);
  clc_arg_vector(context, 2);
  clc_arg_tensor(context, 3);
  clc_arg_tensor(context, 4);
  clc_arg_u64(context, d);
  clc_arg_u32(context, params->kind == CS_NORM_LAYER);
  clc_arg_f32(context, params->epsilon);
  return true;
}

/* out(n) x(n, d) */
bool clc_rule_argmax(clc_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[1]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[1]);
  if (!clc_want_vector(context, 0, "out", I32_ONLY, n)) return false;
  if (!clc_want_tensor(context, 1, "x", F32_ONLY, n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  clc_step_begin(context, KERNEL_ARGMAX, row_items(context), n, 1, row_items(context));
  clc_arg_vector(context, 0);
  clc_arg_tensor(context, 1);
  clc_arg_u64(context, d);
  return true;
}

/* values(n, k) ids(n, k) x(n, d) */
bool clc_rule_top_k(clc_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[2]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[2]);
  const uint64_t k = cs_sdk_tensor_columns(&context->op->operands[0]);
  if (k > d || k > MAX_TOP_K) return clc_refuse(context, "k is above d or %d", MAX_TOP_K);
  if (!clc_want_tensor(context, 0, "values", F32_ONLY, n, k)) return false;
  if (!clc_want_tensor(context, 1, "ids", I32_ONLY, n, k)) return false;
  if (!clc_want_tensor(context, 2, "x", F32_ONLY, n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  clc_step_begin(context, KERNEL_TOP_K, row_items(context), n, 1, row_items(context));
  for (uint32_t i = 0; i < 3; i++)
    clc_arg_tensor(context, i);
  clc_arg_u64(context, d);
  clc_arg_u32(context, k);
  return true;
}

/* ids(n, k) weights(n, k) logits(n, n_experts) [bias(n_experts)] */
bool clc_rule_moe_route(clc_rule_context *context) {
  const cs_moe_route_params *params = context->op->params;
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[2]);
  const uint64_t n_experts = cs_sdk_tensor_columns(&context->op->operands[2]);
  const uint64_t k = cs_sdk_tensor_columns(&context->op->operands[0]);
  if (n_experts > MAX_EXPERTS) return clc_refuse(context, "more than %d experts", MAX_EXPERTS);
  if (k > n_experts) return clc_refuse(context, "k is above n_experts");
  if (params->scoring != CS_MOE_SOFTMAX && params->scoring != CS_MOE_SIGMOID)
    return clc_refuse(context, "scoring %u is not known", params->scoring);
  if (!clc_want_tensor(context, 0, "ids", I32_ONLY, n, k)) return false;
  if (!clc_want_tensor(context, 1, "weights", F32_ONLY, n, k)) return false;
  if (!clc_want_tensor(context, 2, "logits", F32_ONLY, n, n_experts)) return false;
  if (clc_has(context, 3) && !clc_want_vector(context, 3, "bias", F32_ONLY, n_experts))
    return false;
  clc_step_begin(context, KERNEL_MOE_ROUTE, 1, n, 1, 1);
  for (uint32_t i = 0; i < 3; i++)
    clc_arg_tensor(context, i);
  clc_arg_vector(context, 3);
  clc_arg_u32(context, n_experts);
  clc_arg_u32(context, k);
  clc_arg_u32(context, params->scoring == CS_MOE_SIGMOID);
  clc_arg_u32(context, params->normalize != 0);
  clc_arg_f32(context, params->scale);
  return true;
}

/* out(n, d) x(n * k, d) weights(n, k) [residual(n, d)] */
bool clc_rule_moe_combine(clc_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[0]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[0]);
  const uint64_t k = cs_sdk_tensor_columns(&context->op->operands[2]);
  if (k > MAX_EXPERTS) return clc_refuse(context, "k is above %d", MAX_EXPERTS);
  if (!clc_want_tensor(context, 0, "out", F32_ONLY, n, d)) return false;
  if (!clc_want_tensor(context, 1, "x", F32_ONLY, n * k, d)) return false;
  if (!clc_want_tensor(context, 2, "weights", F32_ONLY, n, k)) return false;
  if (clc_has(context, 3) && !clc_want_tensor(context, 3, "residual", F32_ONLY, n, d)) return false;
  clc_step_begin(context, KERNEL_MOE_COMBINE, clc_spans(context->device, d), n, 1,
                 clc_lanes(context->device));
  for (uint32_t i = 0; i < 4; i++)
    clc_arg_tensor(context, i);
  clc_arg_u64(context, d);
  clc_arg_u32(context, k);
  return true;
}
