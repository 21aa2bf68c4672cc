/* Inside of a placement, for the executor. */
#ifndef CORE_PLACEMENT_PRIVATE_H
#define CORE_PLACEMENT_PRIVATE_H

#include "core/executor.h"

enum { CS_PLACE_PRIMARY, CS_PLACE_FALLBACK, CS_N_PLACES };

typedef struct cs_value_users {
  cs_value_kind kind;
  uint32_t key;
  uint32_t mask; /* bit CS_PLACE_*: some op there reads or writes it */
} cs_value_users;

struct cs_placement {
  cs_device *devices[CS_N_PLACES]; /* retained; [1] NULL when nothing falls back */
  size_t n_ops;
  uint8_t *places; /* (n_ops): CS_PLACE_* */
  uint64_t workspace_bytes[CS_N_PLACES];
  size_t n_values;
  cs_value_users *users; /* (n_values) */
  size_t n_fallbacks;
  cs_fallback_entry *fallbacks;
  char (*reasons)[96]; /* (n_fallbacks) */
};

/* Fills *op and tensors from a node: dtypes, layouts and extents of its values, no memory. *op
 * points into tensors and into node. */
void cs_op_describe(const cs_op_node *node, const cs_value_info *values,
                    cs_tensor tensors[CS_MAX_OPERANDS], cs_op *op);

#endif
