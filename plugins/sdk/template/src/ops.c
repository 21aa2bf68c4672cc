/* Ops: what the chip can do, and doing it. It begins with matmul on F32 weights without bias, soft
 * cap or residual; for all else `op_judge` says no, and the host runs it elsewhere and reports
 * that. A yes must be kept, so that every condition `op_run` relies on is asked in `op_judge`. */
#include "plugin.h"

#include <stdio.h>
#include <string.h>

/* Why matmul cannot take these operands, or NULL. out(n, n_out) x(n, n_in) weight(n_out, n_in). */
static const char *matmul_refusal(const cs_op *op) {
  const cs_tensor *out = &op->operands[0], *x = &op->operands[1], *weight = &op->operands[2];
  const cs_matmul_params *params = op->params;
  if (out->dtype != CS_DTYPE_F32 || x->dtype != CS_DTYPE_F32) return "activations must be f32";
  if (weight->dtype != CS_DTYPE_F32) return "weights must be f32";
  if (weight->layout != CS_LAYOUT_PACKED || weight->rank != 2) return "weights must be packed";
  if (op->operands[3].dtype != CS_DTYPE_NONE) return "no bias";
  if (op->operands[4].dtype != CS_DTYPE_NONE) return "no residual";
  if (params->soft_cap != 0) return "no soft cap";
  if (cs_sdk_tensor_columns(x) != weight->dims[1] || cs_sdk_tensor_columns(out) != weight->dims[0])
    return "shapes do not agree";
  return NULL;
}

cs_status op_judge(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                   cs_error *error) {
  (void)device;
  (void)error;
  const char *refusal = op->id == CS_OP_MATMUL ? matmul_refusal(op) : "not implemented";
  if (refusal) {
    snprintf(answer->reason, sizeof answer->reason, "%s", refusal);
    return CS_OK;
  }
  answer->support = CS_SUPPORT_NATIVE;
  answer->error_class = CS_ERROR_F32;
  return CS_OK;
}

/* A chip brings the weight into its own layout here; this one keeps GGUF's rows. */
static cs_status weights_pack(cs_plugin_device *device, const cs_weight *weight,
                              cs_plugin_memory **out, cs_packed_info *info, cs_error *error) {
  *out = NULL;
  if (weight->source != CS_WEIGHT_GGUF || weight->dtype != CS_DTYPE_F32 || weight->n_parts != 1)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "weights must be f32");
  const cs_weight_part *part = weight->parts;
  const cs_status status = memory_create(device, part->bytes, out, error);
  if (status != CS_OK) return status;
  memcpy((*out)->bytes, part->data, part->bytes);
  const cs_packed_info full = {
      .struct_size = sizeof full, .bytes = part->bytes, .layout_id = UINT64_C(1)};
  if (info) cs_sdk_struct_write(info, &full, sizeof full);
  return CS_OK;
}

const cs_capability_table capability_table = {
    .struct_size = sizeof capability_table,
    .op_query = cs_sdk_op_query,
    .weights_pack = weights_pack,
};

static unsigned char *row(const cs_tensor *tensor, uint64_t index) {
  return tensor->memory->bytes + tensor->offset_bytes + index * cs_sdk_tensor_stride(tensor);
}

/* out[i][o] = sum over k of x[i][k] * weight[o][k]; four sums a dot product keep the rounding
 * error well inside CS_ERROR_F32. */
static void matmul(const cs_op *op) {
  const cs_tensor *out = &op->operands[0], *x = &op->operands[1], *weight = &op->operands[2];
  const uint64_t n = cs_sdk_tensor_rows(x), n_out = weight->dims[0], n_in = weight->dims[1];
  for (uint64_t i = 0; i < n; i++) {
    const float *in = (const float *)(const void *)row(x, i);
    float *result = (float *)(void *)row(out, i);
    for (uint64_t o = 0; o < n_out; o++) {
      const float *w = (const float *)(const void *)row(weight, o);
      float sum[4] = {0, 0, 0, 0};
      for (uint64_t k = 0; k < n_in; k++)
        sum[k % 4] += in[k] * w[k];
      result[o] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
  }
}

cs_status op_run(const cs_op *op, cs_error *error) {
  switch (op->id) {
  case CS_OP_MATMUL:
    matmul(op);
    return CS_OK;
  default:
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "%s is not implemented", cs_sdk_op_name(op->id));
  }
}
