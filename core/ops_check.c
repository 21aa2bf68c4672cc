/* Runs before every enqueue, so it compares numbers only: no allocation, no table walk beyond one
 * row of constants, one pass over the operands. */
#include "core/device_private.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/op_list.h"

#define OPS_MAX 1048576

/* Bit i: operand i may be CS_DTYPE_NONE. The brackets of CS_OP_TABLE. */
static const uint32_t optional_operands[CS_OP_LIMIT] = {
    [CS_OP_RMS_NORM] = 1u << 3 | 1u << 4, [CS_OP_MATMUL] = 1u << 3 | 1u << 4,
    [CS_OP_KV_WRITE] = 1u << 1 | 1u << 3, [CS_OP_ATTENTION_PAGED] = 1u << 7,
    [CS_OP_MOE_ROUTE] = 1u << 3,          [CS_OP_MOE_COMBINE] = 1u << 3,
    [CS_OP_KV_GATHER] = 1u << 3,          [CS_OP_KV_SCATTER] = 1u << 3,
    [CS_OP_KV_COPY_BLOCKS] = 1u << 1,
};

/* Which struct size the params of an op must at least have; 0 where it takes none. */
#define PARAMS_BYTES(ID, type) [CS_OP_##ID] = sizeof(type),
static const uint32_t params_bytes[CS_OP_LIMIT] = {CS_OP_PARAMS_TABLE(PARAMS_BYTES)};
#undef PARAMS_BYTES

/* NULL when the operand is legal, else what is wrong with it. */
static const char *operand_fault(const cs_tensor *t, uint64_t align_mask, bool bound) {
  if (t->rank < 1 || t->rank > CS_MAX_RANK) return "has a rank outside 1 to 4";
  if (t->layout > CS_LAYOUT_KV_HEAD_MINOR) return "has an unknown layout";
  uint64_t n = 1;
  for (uint32_t i = 0; i < t->rank; i++) {
    if (t->dims[i] == 0) return "has an empty dimension";
    if (__builtin_mul_overflow(n, t->dims[i], &n)) return "has dimensions that overflow";
  }
  if (!cs_dtype_find(t->dtype)) return "has an unknown dtype";
  if (t->offset_bytes & align_mask) return "has an offset that is not a multiple of tensor_align";
  if (bound && !t->memory) return "has no memory";
  return NULL;
}

static cs_status op_fault(const cs_device *device, uint32_t index, const cs_op *op,
                          uint32_t operand, const char *fault, cs_error *error) {
  cs_error_set(error, CS_INVALID_ARGUMENT, "%s: op %u %s: operand %u %s", device->name, index,
               cs_op_name(op->id), operand, fault);
  if (error) error->op_index = (int32_t)index;
  return CS_INVALID_ARGUMENT;
}

static cs_status check_op(const cs_device *device, uint32_t index, const cs_op *op, bool bound,
                          cs_error *error) {
  const uint32_t n_operands = cs_op_operand_count(op->id);
  const uint32_t needed_bytes = n_operands ? params_bytes[op->id] : 0;
  const char *fault = NULL;
  if (op->struct_size < sizeof *op)
    fault = "has a struct_size that is too small";
  else if (n_operands == 0)
    fault = "has an unknown id";
  else if (op->n_operands != n_operands)
    fault = "has the wrong number of operands";
  else if (!op->operands || op->operand_stride < sizeof(cs_tensor))
    fault = "has no operands";
  else if (needed_bytes && (!op->params || *(const uint32_t *)op->params < needed_bytes))
    fault = "has no parameters";
  if (fault) {
    cs_error_set(error, CS_INVALID_ARGUMENT, "%s: op %u %s %s", device->name, index,
                 cs_op_name(op->id), fault);
    if (error) error->op_index = (int32_t)index;
    return CS_INVALID_ARGUMENT;
  }
  const uint64_t align_mask = device->properties.tensor_align - 1;
  const unsigned char *at = (const unsigned char *)op->operands;
  for (uint32_t i = 0; i < n_operands; i++, at += op->operand_stride) {
    const cs_tensor *t = (const cs_tensor *)at;
    if (t->dtype == CS_DTYPE_NONE) {
      if (optional_operands[op->id] & 1u << i) continue;
      return op_fault(device, index, op, i, "is missing", error);
    }
    fault = operand_fault(t, align_mask, bound);
    if (fault) return op_fault(device, index, op, i, fault, error);
  }
  return CS_OK;
}

cs_status cs_ops_check(const cs_device *device, const cs_op *ops, uint32_t n_ops, bool bound,
                       cs_error *error) {
  if (!ops || n_ops == 0 || n_ops > OPS_MAX) {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: a list of %u ops", device->name, n_ops);
  }
  for (uint32_t i = 0; i < n_ops; i++) {
    const cs_status status = check_op(device, i, &ops[i], bound, error);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}
