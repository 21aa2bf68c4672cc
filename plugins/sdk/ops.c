/* An op list is copied into one allocation: header, ops, operands, params. What comes from the
 * other side is read once, by the struct size rule, and never again. */
#include "consort/sdk.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#define PARAMS_BYTES 32 /* room for the largest params struct, a multiple of 8 */

#define PARAMS_FIT(ID, type) _Static_assert(sizeof(type) <= PARAMS_BYTES, #type " fits its slot");
CS_OP_PARAMS_TABLE(PARAMS_FIT)
#undef PARAMS_FIT

typedef struct ops_block {
  cs_sdk_ops ops; /* first: what the caller holds */
  const cs_host *host;
  atomic_uint references;
  uint32_t reserved;
} ops_block;

typedef struct op_shape {
  const char *name;
  uint32_t n_operands;
} op_shape;

#define OP_SHAPE(ID, number, name, column, error_class, n_operands, operands, formula)             \
  [number] = {name, n_operands},
static const op_shape op_shapes[CS_OP_LIMIT] = {CS_OP_TABLE(OP_SHAPE)};
#undef OP_SHAPE

#define OP_PARAMS_BYTES(ID, type) [CS_OP_##ID] = sizeof(type),
static const uint32_t params_bytes[CS_OP_LIMIT] = {CS_OP_PARAMS_TABLE(OP_PARAMS_BYTES)};
#undef OP_PARAMS_BYTES

static bool op_known(uint32_t id) {
  return id < CS_OP_LIMIT && op_shapes[id].name;
}

const char *cs_sdk_op_name(uint32_t id) {
  return op_known(id) ? op_shapes[id].name : "?";
}

/* Reads one op with its operands and params into their places. */
static cs_status read_op(const void *from, cs_op *op, cs_tensor *operands, void *params,
                         cs_error *error) {
  cs_status status = cs_sdk_struct_read(op, sizeof *op, from, error);
  if (status != CS_OK) return status;
  if (!op_known(op->id)) return cs_sdk_error(error, CS_UNSUPPORTED, 0, "unknown op %u", op->id);
  const char *name = cs_sdk_op_name(op->id);
  if (op->n_operands != op_shapes[op->id].n_operands || !op->operands ||
      op->operand_stride < sizeof(uint32_t))
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s: %u operands, not %u", name,
                        op->n_operands, op_shapes[op->id].n_operands);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    const char *operand = (const char *)op->operands + (size_t)i * op->operand_stride;
    status = cs_sdk_struct_read(&operands[i], sizeof operands[i], operand, error);
    if (status != CS_OK) return status;
    if (operands[i].dtype != CS_DTYPE_NONE &&
        (operands[i].rank == 0 || operands[i].rank > CS_MAX_RANK))
      return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s: operand %u has rank %u", name, i,
                          operands[i].rank);
  }
  op->operands = operands;
  op->operand_stride = sizeof(cs_tensor);
  const uint32_t bytes = params_bytes[op->id];
  if (bytes && !op->params)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s: no params", name);
  if (bytes) status = cs_sdk_struct_read(params, bytes, op->params, error);
  op->params = bytes ? params : NULL;
  return status;
}

cs_status cs_sdk_ops_create(const cs_host *host, const cs_op *ops, uint32_t n_ops,
                            uint32_t op_stride, cs_sdk_ops **out, cs_error *error) {
  *out = NULL;
  const size_t op_bytes = sizeof(cs_op) + CS_MAX_OPERANDS * sizeof(cs_tensor) + PARAMS_BYTES;
  if (!ops || n_ops == 0 || op_stride < sizeof(uint32_t))
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "an empty op list");
  if (n_ops > (SIZE_MAX - sizeof(ops_block)) / op_bytes)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "an op list of %u ops", n_ops);
  ops_block *block =
      host->allocate(host->context, sizeof *block + n_ops * op_bytes, _Alignof(max_align_t));
  if (!block) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for %u ops", n_ops);
  cs_op *copies = (cs_op *)(block + 1);
  cs_tensor *operands = (cs_tensor *)(copies + n_ops);
  char *params = (char *)(operands + (size_t)n_ops * CS_MAX_OPERANDS);
  for (uint32_t i = 0; i < n_ops; i++) {
    const cs_status status =
        read_op((const char *)ops + (size_t)i * op_stride, &copies[i],
                operands + (size_t)i * CS_MAX_OPERANDS, params + (size_t)i * PARAMS_BYTES, error);
    if (status == CS_OK) continue;
    if (error && error->struct_size > offsetof(cs_error, op_index) + sizeof error->op_index)
      error->op_index = (int32_t)i;
    host->deallocate(host->context, block);
    return status;
  }
  block->ops.n_ops = n_ops;
  block->ops.ops = copies;
  block->host = host;
  block->reserved = 0;
  atomic_init(&block->references, 1);
  *out = &block->ops;
  return CS_OK;
}

void cs_sdk_ops_retain(cs_sdk_ops *ops) {
  atomic_fetch_add_explicit(&((ops_block *)ops)->references, 1, memory_order_relaxed);
}

void cs_sdk_ops_release(cs_sdk_ops *ops) {
  if (!ops) return;
  ops_block *block = (ops_block *)ops;
  if (atomic_fetch_sub_explicit(&block->references, 1, memory_order_acq_rel) != 1) return;
  block->host->deallocate(block->host->context, block);
}
