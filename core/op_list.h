/* An op list: the forward pass as data, before anyone knows where it runs.
 *
 * Operands are values: activations that the executor places, weights and cache planes that the
 * owner binds on whichever device needs them, step inputs that the host writes before a run, and
 * outputs that it reads after. The same model always emits the same ops in the same order for
 * every shape, so that a placement made for the largest shape holds for all. */
#ifndef CORE_OP_LIST_H
#define CORE_OP_LIST_H

#include <stddef.h>
#include <stdint.h>

#include "consort/ops.h"
#include "consort/status.h"

typedef uint32_t cs_value; /* index into the list's values */
#define CS_VALUE_NONE UINT32_MAX

typedef enum cs_value_kind {
  CS_VALUE_ACTIVATION, /* lives from its first writer to its last reader */
  CS_VALUE_WEIGHT,     /* key: the owner's number of the weight */
  CS_VALUE_CACHE,      /* key: the owner's number of the KV plane */
  CS_VALUE_INPUT,      /* key: the owner's number of the step input; written by the host */
  CS_VALUE_OUTPUT      /* key: the owner's number; read by the host after the run */
} cs_value_kind;

typedef struct cs_value_info {
  cs_value_kind kind;
  uint32_t key;
  uint32_t dtype;
  uint32_t layout;
  uint32_t rank;
  uint32_t usage; /* CS_USAGE_* collected from the ops that read a weight */
  uint64_t dims[CS_MAX_RANK];
} cs_value_info;

typedef union cs_op_params {
  uint32_t struct_size; /* 0 when the op has none */
  cs_gather_rows_params gather_rows;
  cs_rms_norm_params rms_norm;
  cs_matmul_params matmul;
  cs_rope_params rope;
  cs_attention_params attention;
  cs_moe_route_params moe_route;
} cs_op_params;

typedef struct cs_op_node {
  uint32_t id;   /* CS_OP_* */
  int32_t layer; /* for reports; -1 outside the layers */
  uint32_t n_operands;
  cs_value operands[CS_MAX_OPERANDS]; /* CS_VALUE_NONE where absent */
  cs_op_params params;
} cs_op_node;

/* A point after which `tag` is announced while later ops still run (a layer's KV is complete). */
typedef struct cs_op_mark {
  uint32_t after_op; /* index of the op that completes it */
  uint32_t tag;
} cs_op_mark;

typedef struct cs_op_list cs_op_list;

/* NULL when out of memory. */
cs_op_list *cs_op_list_create(void);
void cs_op_list_destroy(cs_op_list *list);

/* Appends a value and returns it. Appending never fails visibly: running out of memory, or an op
 * with a wrong operand count, is remembered and told by cs_op_list_finish. */
cs_value cs_op_list_value(cs_op_list *list, const cs_value_info *info);

/* An F32-or-other activation of shape (rows, columns). */
cs_value cs_op_list_activation(cs_op_list *list, uint32_t dtype, uint64_t rows, uint64_t columns);

/* Appends an op; operands and *params (NULL for none) are copied. */
void cs_op_list_op(cs_op_list *list, uint32_t id, int32_t layer, const cs_value *operands,
                   uint32_t n_operands, const cs_op_params *params);

/* Marks the point after the last op appended so far. */
void cs_op_list_mark(cs_op_list *list, uint32_t tag);

/* CS_OK when everything that was appended is there. */
cs_status cs_op_list_finish(cs_op_list *list, cs_error *error);

size_t cs_op_list_n_ops(const cs_op_list *list);
size_t cs_op_list_n_values(const cs_op_list *list);
size_t cs_op_list_n_marks(const cs_op_list *list);
const cs_op_node *cs_op_list_ops(const cs_op_list *list);
const cs_value_info *cs_op_list_values(const cs_op_list *list);
const cs_op_mark *cs_op_list_marks(const cs_op_list *list);

/* The operand positions that an op writes, as a bit mask (bit 0 is operand 0). */
uint32_t cs_op_written_operands(uint32_t op_id);
/* "matmul"; "?" for a number outside the table. */
const char *cs_op_name(uint32_t op_id);
/* How many operands the op table gives it; 0 outside the table. */
uint32_t cs_op_operand_count(uint32_t op_id);

#endif
