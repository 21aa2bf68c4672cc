/* Plans: an op list as the kernel launches that serve it, all arguments in place.
 *
 * Each op has one rule. With a plan it appends steps; without one (op_query) it only judges: the
 * same checks decide both, so that a yes is kept. */
#ifndef CLC_PLAN_H
#define CLC_PLAN_H

#include "clc.h"

/* One argument of a kernel: memory (NULL for a null pointer), which each plugin passes in its own
 * way, or the bytes of a value. */
typedef struct clc_argument {
  uint32_t bytes; /* of a value; 0: memory */
  uint32_t reserved;
  union {
    const cs_plugin_memory *memory; /* borrowed */
    uint64_t u64;
    uint32_t u32;
    float f32;
    uint32_t u32x2[2];
    uint64_t u64x4[4];
  } value;
} clc_argument;

typedef struct clc_step {
  clc_module module;
  clc_kernel kernel;
  uint32_t op_index;
  uint32_t first_argument;
  uint32_t n_arguments;
  uint32_t reserved;
  size_t global[3];
  size_t local; /* of dimension 0; 1 in the others */
} clc_step;

typedef struct clc_plan {
  const cs_host *host;
  const clc_driver *driver;
  void *recording; /* the driver's, NULL where it made none; stream.c owns it */
  uint32_t n_steps, n_arguments;
  uint64_t steps_capacity, arguments_capacity; /* in bytes */
  clc_step *steps;
  clc_argument *arguments;
  bool out_of_memory;
} clc_plan;

void clc_plan_destroy(clc_plan *plan);

/* Plans an op list; the error names the op by op_index. Builds the modules that it needs. */
cs_status clc_plan_ops(cs_plugin_device *device, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                       clc_plan **out, cs_error *error);

/* ---- for the rules ---- */

/* What a rule works with. A refusal is one phrase. */
typedef struct clc_rule_context {
  const clc_device *device;
  const cs_op *op;
  cs_plugin_memory *workspace;
  clc_plan *plan; /* NULL: only judge */
  uint32_t op_index;
  uint32_t error_class;             /* answer of the rule: CS_ERROR_* */
  uint32_t support;                 /* likewise: CS_SUPPORT_* */
  uint64_t workspace_bytes;         /* likewise */
  clc_module module;                /* likewise: which module its kernels are in */
  char reason[CS_SDK_REASON_BYTES]; /* likewise, when it says no */
} clc_rule_context;

/* true: served (and planned). */
typedef bool (*clc_rule)(clc_rule_context *context);

/* Writes the reason and returns false. */
#define clc_refuse(context, ...) cs_sdk_refuse((context)->reason, __VA_ARGS__)

/* Checks of operands; each refuses with the operand's name where it does not hold. `dtypes` is a
 * mask of CS_DTYPE_BIT. The window must lie within the memory, whole elements apart. */
bool clc_want_tensor(clc_rule_context *context, uint32_t operand, const char *name, uint64_t dtypes,
                     uint64_t rows, uint64_t columns);
/* Rank 1, or one row: `columns` contiguous elements. */
bool clc_want_vector(clc_rule_context *context, uint32_t operand, const char *name, uint64_t dtypes,
                     uint64_t columns);
/* An operand that was checked lies in memory of this device, where a plan is made. */
bool clc_want_window(clc_rule_context *context, const cs_tensor *tensor, const char *name);
bool clc_has(const clc_rule_context *context, uint32_t operand);

/* Steps: begin, then the arguments in the kernel's order. All do nothing without a plan. */
void clc_step_begin(clc_rule_context *context, clc_kernel kernel, uint64_t global0,
                    uint64_t global1, uint64_t global2, uint64_t local);
void clc_arg_memory(clc_rule_context *context, const cs_plugin_memory *memory);
void clc_arg_u64(clc_rule_context *context, uint64_t value);
void clc_arg_u32(clc_rule_context *context, uint64_t value);
void clc_arg_f32(clc_rule_context *context, float value);
void clc_arg_u32x2(clc_rule_context *context, uint64_t x, uint64_t y);
void clc_arg_u64x4(clc_rule_context *context, const uint64_t value[4]);
/* Buffer, offset and row stride in elements of the tensor's type; zeros for an absent one. */
void clc_arg_tensor(clc_rule_context *context, uint32_t operand);
/* Buffer and offset in elements. */
void clc_arg_vector(clc_rule_context *context, uint32_t operand);

/* Items a group has in kernels that move rows, and items that an elementwise row takes. */
uint64_t clc_lanes(const clc_device *device);
uint64_t clc_spans(const clc_device *device, uint64_t n_columns);

/* The module of kernels that read packed weights of a dtype; false: none. */
bool clc_matmul_module(uint32_t dtype, clc_module *out);

/* op_elementwise.c */
bool clc_rule_binary(clc_rule_context *context); /* add, silu_mul, gelu_mul */
bool clc_rule_copy(clc_rule_context *context);
bool clc_rule_cast(clc_rule_context *context);
bool clc_rule_rope(clc_rule_context *context);
/* op_rows.c */
bool clc_rule_gather_rows(clc_rule_context *context);
bool clc_rule_rms_norm(clc_rule_context *context);
bool clc_rule_argmax(clc_rule_context *context);
bool clc_rule_top_k(clc_rule_context *context);
bool clc_rule_moe_route(clc_rule_context *context);
bool clc_rule_moe_combine(clc_rule_context *context);
/* op_matmul.c */
bool clc_rule_matmul(clc_rule_context *context);
bool clc_rule_moe_matmul(clc_rule_context *context);
/* op_kv.c */
bool clc_rule_kv_write(clc_rule_context *context);
bool clc_rule_attention(clc_rule_context *context);
bool clc_rule_kv_move(clc_rule_context *context); /* kv_gather, kv_scatter */
bool clc_rule_kv_copy_blocks(clc_rule_context *context);

#endif
