/* A step is bound by the operand positions it shares with the largest list, not by value numbers:
 * a list that leaves out trailing ops may number its values otherwise. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/error.h"
#include "core/executor_private.h"

#define NO_SLOT UINT32_MAX

static cs_status unlike(const cs_step *step, size_t op, const char *why, cs_error *error) {
  cs_error_set(error, CS_INVALID_ARGUMENT, "op %zu %s %s", op, cs_op_name(step->nodes[op].id), why);
  if (error) error->op_index = (int32_t)op;
  return CS_INVALID_ARGUMENT;
}

/* ---- against the largest list ---- */

/* Pairs value v with the slot of its counterpart; owners holds the value of each slot. */
static cs_status pair(cs_step *step, size_t op, cs_value v, uint32_t slot, uint32_t *owners,
                      cs_error *error) {
  const cs_slot *large = &step->executor->slots[slot];
  if (step->slot_of[v] == slot) return CS_OK;
  if (step->slot_of[v] != NO_SLOT || owners[slot] != NO_SLOT) {
    return unlike(step, op, "uses its values unlike the largest list", error);
  }
  const cs_value_kind kind = step->values[v].kind;
  const bool is_unread = kind == CS_VALUE_ACTIVATION && large->kind == CS_VALUE_OUTPUT;
  if (kind != large->kind && !is_unread) {
    return unlike(step, op, "has an operand of another kind than in the largest list", error);
  }
  step->slot_of[v] = slot;
  owners[slot] = v;
  if (large->bytes == 0) return CS_OK; /* weights and caches have their own memory */
  uint64_t bytes = 0;
  const cs_status status = cs_value_bytes(&step->values[v], &bytes, error);
  if (status != CS_OK) return status;
  if (bytes > large->bytes) {
    return unlike(step, op, "has an operand larger than in the largest list", error);
  }
  return CS_OK;
}

static cs_status pair_values(cs_step *step, cs_error *error) {
  const cs_executor *executor = step->executor;
  uint32_t *owners = malloc((executor->n_values + 1) * sizeof *owners);
  if (!owners) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a step");
  memset(owners, 0xff, (executor->n_values + 1) * sizeof *owners);
  cs_status status = CS_OK;
  for (size_t i = 0; i < step->n_ops && status == CS_OK; i++) {
    const cs_op_node *node = &step->nodes[i];
    const cs_op_node *large = &executor->ops[i];
    if (node->id != large->id) status = unlike(step, i, "is another op in the largest list", error);
    for (uint32_t j = 0; j < node->n_operands && status == CS_OK; j++) {
      const bool absent = node->operands[j] == CS_VALUE_NONE;
      if (absent != (large->operands[j] == CS_VALUE_NONE)) {
        status = unlike(step, i, "has other operands than in the largest list", error);
      } else if (!absent) {
        status = pair(step, i, node->operands[j], large->operands[j], owners, error);
      }
    }
  }
  free(owners);
  return status;
}

/* ---- inputs and outputs ---- */

static cs_status add_port(cs_port *ports, size_t *n, const cs_value_info *value, uint64_t *total,
                          cs_error *error) {
  cs_port *port = &ports[*n];
  *port = (cs_port){.key = value->key, .offset = *total};
  const cs_status status = cs_value_bytes(value, &port->bytes, error);
  if (status != CS_OK) return status;
  if (__builtin_add_overflow(*total, cs_arena_round(port->bytes), total)) {
    return cs_error_set(error, CS_OUT_OF_RANGE, "a step larger than any memory");
  }
  (*n)++;
  return CS_OK;
}

static cs_status lay_out_ports(cs_step *step, cs_error *error) {
  const cs_executor *executor = step->executor;
  step->inputs = calloc(step->n_values + 1, sizeof *step->inputs);
  step->outputs = calloc(step->n_values + 1, sizeof *step->outputs);
  if (!step->inputs || !step->outputs) {
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a step");
  }
  for (size_t v = 0; v < step->n_values; v++) {
    const cs_value_info *value = &step->values[v];
    cs_status status = CS_OK;
    if (value->kind == CS_VALUE_INPUT) {
      status = add_port(step->inputs, &step->n_inputs, value, &step->input_bytes, error);
    } else if (value->kind == CS_VALUE_OUTPUT) {
      cs_port *port = &step->outputs[step->n_outputs];
      status = add_port(step->outputs, &step->n_outputs, value, &step->output_bytes, error);
      port->place = step->cut.pieces[step->cut.lives[v].writer_piece].place;
      port->arena_offset = executor->slots[step->slot_of[v]].offsets[port->place];
    }
    if (status != CS_OK) return status;
  }
  if (step->input_bytes <= executor->input_bytes) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT, "a step with more inputs than the largest list");
}

static const cs_port *find_input(const cs_step *step, const cs_value_info *value) {
  for (size_t i = 0; i < step->n_inputs; i++) {
    if (step->inputs[i].key == value->key) return &step->inputs[i];
  }
  return NULL;
}

/* ---- tensors ---- */

static cs_status bind_owned(cs_step *step, cs_value v, uint32_t place, cs_tensor *tensor,
                            cs_error *error) {
  const cs_executor *executor = step->executor;
  cs_device *device = executor->lanes[place].device;
  const cs_status status =
      executor->resolve(executor->user, device, &step->values[v], tensor, error);
  if (status != CS_OK) return status;
  if (tensor->memory) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: a weight or cache (key %u) has no memory",
                      cs_device_name(device), step->values[v].key);
}

static cs_status bind_value(cs_step *step, cs_value v, uint32_t place, cs_tensor *tensor,
                            cs_error *error) {
  const cs_lane *lane = &step->executor->lanes[place];
  const cs_value_info *value = &step->values[v];
  switch (value->kind) {
  case CS_VALUE_WEIGHT:
  case CS_VALUE_CACHE:
    return bind_owned(step, v, place, tensor, error);
  case CS_VALUE_INPUT:
    tensor->memory = cs_buffer_memory(lane->inputs);
    tensor->offset_bytes = find_input(step, value)->offset;
    return CS_OK;
  default:
    tensor->memory = cs_buffer_memory(lane->arena);
    tensor->offset_bytes = step->executor->slots[step->slot_of[v]].offsets[place];
    return CS_OK;
  }
}

/* Another op's view of a value: the same memory; extents are the op's own (cs_op_describe), but
 * for a cache, whose owner has them. */
static void share(cs_tensor *tensor, const cs_tensor *seen, cs_value_kind kind) {
  const cs_tensor described = *tensor;
  *tensor = *seen;
  if (kind == CS_VALUE_CACHE) return;
  tensor->rank = described.rank;
  memcpy(tensor->dims, described.dims, sizeof tensor->dims);
}

/* The owner is asked once for a value and a device; later uses copy the answer. */
static cs_status bind_ops(cs_step *step, const cs_tensor **known, cs_error *error) {
  for (size_t i = 0; i < step->n_ops; i++) {
    const cs_op_node *node = &step->nodes[i];
    cs_tensor *tensors = &step->tensors[i * CS_MAX_OPERANDS];
    const uint32_t place = step->executor->placement->places[i];
    cs_op_describe(node, step->values, tensors, &step->ops[i]);
    for (uint32_t j = 0; j < node->n_operands; j++) {
      const cs_value v = node->operands[j];
      if (v == CS_VALUE_NONE) continue;
      const cs_tensor **seen = &known[v * CS_N_PLACES + place];
      if (*seen) {
        share(&tensors[j], *seen, step->values[v].kind);
        continue;
      }
      const cs_status status = bind_value(step, v, place, &tensors[j], error);
      if (status != CS_OK)
        return cs_error_prefix(error, status, "op %zu %s", i, cs_op_name(node->id));
      *seen = &tensors[j];
    }
  }
  return CS_OK;
}

cs_status cs_step_bind(cs_step *step, cs_error *error) {
  cs_status status = pair_values(step, error);
  if (status == CS_OK) status = lay_out_ports(step, error);
  if (status != CS_OK) return status;
  const cs_tensor **known = calloc(step->n_values * CS_N_PLACES + 1, sizeof *known);
  if (!known) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a step");
  status = bind_ops(step, known, error);
  free(known);
  return status;
}
