/* What the chip serves. A no names the one thing that is missing, because the host prints it beside
 * the fallback. */
#include <stdio.h>
#include <string.h>

#include "npu.h"

static bool is_f32(const cs_tensor *tensor) {
  return tensor->dtype == CS_DTYPE_F32 && tensor->layout == CS_LAYOUT_PLAIN;
}

static bool is_absent(const cs_tensor *tensor) {
  return tensor->dtype == CS_DTYPE_NONE;
}

static bool all_f32(const cs_op *op, uint32_t first, uint32_t n) {
  for (uint32_t i = first; i < first + n; i++)
    if (!is_f32(&op->operands[i])) return false;
  return true;
}

/* NULL when the plane is one of the chip's, else why not. */
static const char *plane_reason(const cs_tensor *plane) {
  if (is_absent(plane)) return NULL;
  if (plane->dtype != CS_DTYPE_F32 && plane->dtype != CS_DTYPE_F16) return "KV is F32 or F16";
  if (plane->layout != CS_LAYOUT_KV_HEAD_MINOR || plane->rank != 4) return "KV is head-minor";
  if (plane->dims[1] != NPU_BLOCK_TOKENS) return "KV blocks hold 128 tokens";
  return NULL;
}

static const char *planes_reason(const cs_op *op, uint32_t first) {
  const char *reason = plane_reason(&op->operands[first]);
  return reason ? reason : plane_reason(&op->operands[first + 1]);
}

static const char *matmul_reason(const cs_op *op) {
  if (op->operands[2].dtype != CS_DTYPE_Q8_0) return "matmuls are int8: only Q8_0 weights";
  if (op->operands[2].layout != CS_LAYOUT_PACKED) return "weights have to be packed";
  if (!all_f32(op, 0, 2)) return "activations are F32";
  if (!is_absent(&op->operands[3]) && !is_f32(&op->operands[3])) return "the bias is F32";
  if (!is_absent(&op->operands[4]) && !is_f32(&op->operands[4])) return "the residual is F32";
  if (((const cs_matmul_params *)op->params)->soft_cap != 0) return "no soft cap";
  return NULL;
}

static const char *norm_reason(const cs_op *op) {
  if (((const cs_rms_norm_params *)op->params)->kind != CS_NORM_RMS) return "no layer norm";
  if (!all_f32(op, 0, 3)) return "activations are F32";
  for (uint32_t i = 3; i < 5; i++)
    if (!is_absent(&op->operands[i]) && !is_f32(&op->operands[i])) return "activations are F32";
  return NULL;
}

static const char *attention_reason(const cs_op *op) {
  const cs_attention_params *params = op->params;
  if (!all_f32(op, 0, 2)) return "activations are F32";
  if (params->window || params->soft_cap != 0 || !is_absent(&op->operands[7]))
    return "no window, soft cap or sinks";
  if (op->operands[0].dims[2] > NPU_MAX_WIDTH) return "value heads are at most 512 wide";
  return planes_reason(op, 2);
}

static const char *wire_reason(const cs_op *op) {
  const uint32_t dtype = op->operands[0].dtype;
  if (dtype != CS_DTYPE_F32 && dtype != CS_DTYPE_F16 && dtype != CS_DTYPE_BF16)
    return "the wire is F32, F16 or BF16";
  return planes_reason(op, 2);
}

typedef struct served_op {
  npu_kernel kernel;
  uint32_t error_class;
  const char *reason; /* NULL: served */
} served_op;

static served_op find_op(const cs_op *op) {
  switch (op->id) {
  case CS_OP_MATMUL:
    return (served_op){npu_matmul, CS_ERROR_INT8, matmul_reason(op)};
  case CS_OP_RMS_NORM:
    return (served_op){npu_rms_norm, CS_ERROR_F32, norm_reason(op)};
  case CS_OP_ROPE:
    return (served_op){npu_rope, CS_ERROR_F32, all_f32(op, 0, 2) ? NULL : "activations are F32"};
  case CS_OP_SILU_MUL:
    return (served_op){npu_silu_mul, CS_ERROR_F32,
                       all_f32(op, 0, 3) ? NULL : "activations are F32"};
  case CS_OP_ADD:
    return (served_op){npu_add, CS_ERROR_F32, all_f32(op, 0, 3) ? NULL : "activations are F32"};
  case CS_OP_COPY:
    return (served_op){npu_copy, CS_ERROR_EXACT, all_f32(op, 0, 2) ? NULL : "activations are F32"};
  case CS_OP_KV_WRITE:
    return (served_op){npu_kv_write, CS_ERROR_EXACT,
                       is_f32(op->operands) ? planes_reason(op, 2) : "activations are F32"};
  case CS_OP_ATTENTION_PAGED:
    return (served_op){npu_attention, CS_ERROR_F32, attention_reason(op)};
  case CS_OP_KV_GATHER:
    return (served_op){npu_kv_gather, CS_ERROR_EXACT, wire_reason(op)};
  case CS_OP_KV_SCATTER:
    return (served_op){npu_kv_scatter, CS_ERROR_EXACT, wire_reason(op)};
  default:
    return (served_op){NULL, CS_ERROR_EXACT, "the chip has no such unit"};
  }
}

void npu_answer(const cs_op *op, cs_op_answer *answer, npu_kernel *kernel) {
  const served_op served = find_op(op);
  *answer = (cs_op_answer){.struct_size = sizeof *answer,
                           .support = served.reason ? CS_SUPPORT_NO : CS_SUPPORT_NATIVE,
                           .error_class = served.error_class};
  if (kernel) *kernel = served.kernel;
  if (served.reason) {
    snprintf(answer->reason, sizeof answer->reason, "%s", served.reason);
    return;
  }
  if (op->id != CS_OP_MATMUL) return;
  const uint64_t n_in = op->operands[2].dims[1];
  answer->workspace_bytes = n_in + n_in / NPU_GROUP * sizeof(float); /* one row, quantized */
}

static cs_status check_weight(const cs_weight *weight, const cs_weight_part *part,
                              cs_error *error) {
  if (weight->source != CS_WEIGHT_GGUF || weight->dtype != CS_DTYPE_Q8_0 || weight->rank != 2 ||
      weight->usage != CS_USAGE_MATMUL)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "weights are Q8_0 matrices for matmul");
  if (weight->dims[1] == 0 || weight->dims[1] % NPU_GROUP != 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "a row is not a whole number of blocks");
  const uint64_t row_bytes = cs_sdk_dtype_bytes(CS_DTYPE_Q8_0, weight->dims[1]);
  if (weight->n_parts != 1 || part->bytes / row_bytes < weight->dims[0])
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "the weight has fewer bytes than its shape");
  return CS_OK;
}

static cs_status weights_pack(cs_plugin_device *device, const cs_weight *weight,
                              cs_plugin_memory **out, cs_packed_info *info, cs_error *error) {
  *out = NULL;
  cs_weight w;
  cs_weight_part part;
  cs_status status = cs_sdk_struct_read(&w, sizeof w, weight, error);
  if (status == CS_OK) status = cs_sdk_struct_read(&part, sizeof part, w.parts, error);
  if (status == CS_OK) status = check_weight(&w, &part, error);
  if (status != CS_OK) return status;
  const uint64_t bytes = npu_packed_bytes(w.dims[0], w.dims[1]);
  status = npu_memory_take(&device->memory, bytes, out, error);
  if (status != CS_OK) return status;
  npu_memory_open(&device->memory);
  npu_pack(device->memory.base + (*out)->offset, part.data, w.dims[0], w.dims[1]);
  npu_memory_close(&device->memory);
  const cs_packed_info packed = {.struct_size = sizeof packed, .bytes = bytes, .layout_id = 1};
  if (info) cs_sdk_struct_write(info, &packed, sizeof packed);
  return CS_OK;
}

const cs_capability_table npu_capability_table = {.struct_size = sizeof npu_capability_table,
                                                  .op_query = cs_sdk_op_query,
                                                  .weights_pack = weights_pack};
