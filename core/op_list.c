/* Appending remembers the first failure instead of returning it, so that a model's forward pass
 * reads as the list of its operations; cs_op_list_finish is the one place that is checked. */
#include "core/op_list.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "consort/plugin.h"
#include "core/error.h"

typedef struct op_facts {
  const char *name;
  uint32_t n_operands;
} op_facts;

#define OP_FACTS(ID, number, name, column, error_class, n_operands, operands, formula)             \
  [number] = {name, n_operands},
static const op_facts op_table[CS_OP_LIMIT] = {CS_OP_TABLE(OP_FACTS)};
#undef OP_FACTS

struct cs_op_list {
  cs_op_node *ops;
  cs_value_info *values;
  cs_op_mark *marks;
  size_t n_ops, ops_capacity;
  size_t n_values, values_capacity;
  size_t n_marks, marks_capacity;
  cs_error failure; /* code CS_OK while all went well */
};

cs_op_list *cs_op_list_create(void) {
  cs_op_list *list = calloc(1, sizeof *list);
  if (list) list->failure = (cs_error)CS_ERROR_INIT;
  return list;
}

void cs_op_list_destroy(cs_op_list *list) {
  if (!list) return;
  free(list->ops);
  free(list->values);
  free(list->marks);
  free(list);
}

/* Makes room for one more element; false when memory or the index range is used up. */
static bool grow(cs_op_list *list, void **array, size_t *capacity, size_t n, size_t bytes) {
  if (n < *capacity) return true;
  const size_t wanted = *capacity ? *capacity * 2 : 64;
  void *bigger = wanted < UINT32_MAX ? realloc(*array, wanted * bytes) : NULL;
  if (!bigger) {
    cs_error_set(&list->failure, CS_OUT_OF_MEMORY, "no memory for %zu elements of an op list",
                 wanted);
    return false;
  }
  *array = bigger;
  *capacity = wanted;
  return true;
}

cs_value cs_op_list_value(cs_op_list *list, const cs_value_info *info) {
  if (list->failure.code != CS_OK) return CS_VALUE_NONE;
  if (info->rank < 1 || info->rank > CS_MAX_RANK) {
    cs_error_set(&list->failure, CS_INVALID_ARGUMENT, "value %zu has rank %u", list->n_values,
                 info->rank);
    return CS_VALUE_NONE;
  }
  if (!grow(list, (void **)&list->values, &list->values_capacity, list->n_values,
            sizeof *list->values)) {
    return CS_VALUE_NONE;
  }
  list->values[list->n_values] = *info;
  return (cs_value)list->n_values++;
}

cs_value cs_op_list_activation(cs_op_list *list, uint32_t dtype, uint64_t rows, uint64_t columns) {
  return cs_op_list_value(list, &(cs_value_info){.kind = CS_VALUE_ACTIVATION,
                                                 .dtype = dtype,
                                                 .layout = CS_LAYOUT_PLAIN,
                                                 .rank = 2,
                                                 .dims = {rows, columns}});
}

/* How an op reads its packed weight: the operand's index and the usage, or usage 0. */
static uint32_t packed_usage(uint32_t id, uint32_t operand) {
  if ((id == CS_OP_MATMUL || id == CS_OP_MOE_MATMUL) && operand == 2) return CS_USAGE_MATMUL;
  if (id == CS_OP_GATHER_ROWS && operand == 1) return CS_USAGE_GATHER;
  return 0;
}

static bool operands_are_values(cs_op_list *list, uint32_t id, const cs_value *operands,
                                uint32_t n_operands) {
  for (uint32_t i = 0; i < n_operands; i++) {
    if (operands[i] == CS_VALUE_NONE || operands[i] < list->n_values) continue;
    cs_error_set(&list->failure, CS_INVALID_ARGUMENT,
                 "op %zu %s: operand %u is no value of the list", list->n_ops, cs_op_name(id), i);
    return false;
  }
  return true;
}

void cs_op_list_op(cs_op_list *list, uint32_t id, int32_t layer, const cs_value *operands,
                   uint32_t n_operands, const cs_op_params *params) {
  if (list->failure.code != CS_OK) return;
  if (n_operands == 0 || n_operands != cs_op_operand_count(id)) {
    cs_error_set(&list->failure, CS_INVALID_ARGUMENT, "op %zu %s (%u) with %u operands, not %u",
                 list->n_ops, cs_op_name(id), id, n_operands, cs_op_operand_count(id));
    return;
  }
  if (!operands_are_values(list, id, operands, n_operands)) return;
  if (!grow(list, (void **)&list->ops, &list->ops_capacity, list->n_ops, sizeof *list->ops)) return;
  cs_op_node *node = &list->ops[list->n_ops++];
  *node = (cs_op_node){.id = id, .layer = layer, .n_operands = n_operands};
  if (params) node->params = *params;
  for (uint32_t i = 0; i < CS_MAX_OPERANDS; i++) {
    node->operands[i] = i < n_operands ? operands[i] : CS_VALUE_NONE;
    if (node->operands[i] == CS_VALUE_NONE) continue;
    cs_value_info *value = &list->values[node->operands[i]];
    if (value->kind == CS_VALUE_WEIGHT) value->usage |= packed_usage(id, i);
  }
}

void cs_op_list_mark(cs_op_list *list, uint32_t tag) {
  if (list->failure.code != CS_OK) return;
  if (list->n_ops == 0) {
    cs_error_set(&list->failure, CS_INVALID_ARGUMENT, "mark %u before the first op", tag);
    return;
  }
  if (!grow(list, (void **)&list->marks, &list->marks_capacity, list->n_marks,
            sizeof *list->marks)) {
    return;
  }
  list->marks[list->n_marks++] = (cs_op_mark){(uint32_t)(list->n_ops - 1), tag};
}

cs_status cs_op_list_finish(cs_op_list *list, cs_error *error) {
  if (list->failure.code == CS_OK) return CS_OK;
  return cs_error_set(error, list->failure.code, "%s", list->failure.message);
}

size_t cs_op_list_n_ops(const cs_op_list *list) {
  return list->n_ops;
}

size_t cs_op_list_n_values(const cs_op_list *list) {
  return list->n_values;
}

size_t cs_op_list_n_marks(const cs_op_list *list) {
  return list->n_marks;
}

const cs_op_node *cs_op_list_ops(const cs_op_list *list) {
  return list->ops;
}

const cs_value_info *cs_op_list_values(const cs_op_list *list) {
  return list->values;
}

const cs_op_mark *cs_op_list_marks(const cs_op_list *list) {
  return list->marks;
}

uint32_t cs_op_written_operands(uint32_t op_id) {
  switch (op_id) {
  case CS_OP_RMS_NORM:
    return 1u << 0 | 1u << 4;
  case CS_OP_KV_WRITE:
    return 1u << 2 | 1u << 3;
  case CS_OP_TOP_K:
  case CS_OP_MOE_ROUTE:
  case CS_OP_KV_GATHER:
  case CS_OP_KV_COPY_BLOCKS:
    return 1u << 0 | 1u << 1;
  case CS_OP_KV_SCATTER:
    return 1u << 1 | 1u << 2 | 1u << 3;
  default:
    return cs_op_operand_count(op_id) ? 1u << 0 : 0;
  }
}

const char *cs_op_name(uint32_t op_id) {
  return op_id < CS_OP_LIMIT && op_table[op_id].name ? op_table[op_id].name : "?";
}

uint32_t cs_op_operand_count(uint32_t op_id) {
  return op_id < CS_OP_LIMIT ? op_table[op_id].n_operands : 0;
}
