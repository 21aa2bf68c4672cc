/* Plans: an op list as the kernel launches that serve it, all arguments in place.
 *
 * Each op has one rule. With a plan it appends steps; without one (op_query) it only judges: the
 * same checks decide both, so that a yes is kept. */
#ifndef OPENCL_PLAN_H
#define OPENCL_PLAN_H

#include "opencl.h"

/* One argument of a kernel; bytes says which member, and counts for clSetKernelArg. */
typedef struct opencl_argument {
  uint32_t bytes;
  uint32_t reserved;
  union {
    cl_mem memory;
    cl_ulong u64;
    cl_uint u32;
    cl_float f32;
    cl_uint u32x2[2];
    cl_ulong u64x4[4];
  } value;
} opencl_argument;

typedef struct opencl_step {
  opencl_module module;
  opencl_kernel kernel;
  uint32_t op_index;
  uint32_t first_argument;
  uint32_t n_arguments;
  uint32_t reserved;
  size_t global[3];
  size_t local; /* of dimension 0; 1 in the others */
} opencl_step;

typedef struct opencl_plan {
  const cs_host *host;
  uint32_t n_steps, steps_capacity;
  uint32_t n_arguments, arguments_capacity;
  opencl_step *steps;
  opencl_argument *arguments;
  bool out_of_memory;
} opencl_plan;

/* NULL when out of memory. */
opencl_plan *opencl_plan_create(const cs_host *host);
void opencl_plan_destroy(opencl_plan *plan);

/* Plans an op list; the error names the op by op_index. */
cs_status opencl_plan_ops(cs_plugin_device *device, const cs_sdk_ops *ops,
                          cs_plugin_memory *workspace, opencl_plan **out, cs_error *error);

/* ---- for the rules ---- */

/* What a rule works with. A refusal is one phrase. */
typedef struct opencl_rule_context {
  cs_plugin_device *device;
  const cs_op *op;
  cs_plugin_memory *workspace;
  opencl_plan *plan; /* NULL: only judge */
  uint32_t op_index;
  uint32_t error_class;     /* answer of the rule: CS_ERROR_* */
  uint32_t support;         /* likewise: CS_SUPPORT_* */
  uint64_t workspace_bytes; /* likewise */
  opencl_module module;     /* likewise: which module its kernels are in */
  char reason[96];          /* likewise, when it says no */
} opencl_rule_context;

/* true: served (and planned). */
typedef bool (*opencl_rule)(opencl_rule_context *context);

/* Writes the reason and returns false. */
bool opencl_refuse(opencl_rule_context *context, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Checks of operands; each refuses with the operand's name where it does not hold. `dtypes` is a
 * mask of CS_DTYPE_BIT. The window must lie within the memory, whole elements apart. */
bool opencl_want_tensor(opencl_rule_context *context, uint32_t operand, const char *name,
                        uint64_t dtypes, uint64_t rows, uint64_t columns);
/* Rank 1, or one row: `columns` contiguous elements. */
bool opencl_want_vector(opencl_rule_context *context, uint32_t operand, const char *name,
                        uint64_t dtypes, uint64_t columns);
bool opencl_has(const opencl_rule_context *context, uint32_t operand);

/* Steps: begin, then the arguments in the kernel's order. All do nothing without a plan. */
void opencl_step_begin(opencl_rule_context *context, opencl_kernel kernel, uint64_t global0,
                       uint64_t global1, uint64_t global2, uint64_t local);
void opencl_arg_memory(opencl_rule_context *context, const cs_plugin_memory *memory);
void opencl_arg_u64(opencl_rule_context *context, uint64_t value);
void opencl_arg_u32(opencl_rule_context *context, uint64_t value);
void opencl_arg_f32(opencl_rule_context *context, float value);
void opencl_arg_u32x2(opencl_rule_context *context, uint64_t x, uint64_t y);
void opencl_arg_u64x4(opencl_rule_context *context, const uint64_t value[4]);
/* Buffer, offset and row stride in elements of the tensor's type; zeros for an absent one. */
void opencl_arg_tensor(opencl_rule_context *context, uint32_t operand);
/* Buffer and offset in elements. */
void opencl_arg_vector(opencl_rule_context *context, uint32_t operand);

/* Items a group has in kernels that move rows, and items that an elementwise row takes. */
uint64_t opencl_lanes(const cs_plugin_device *device);
uint64_t opencl_spans(const cs_plugin_device *device, uint64_t n_columns);

/* op_elementwise.c */
bool opencl_rule_binary(opencl_rule_context *context); /* add, silu_mul, gelu_mul */
bool opencl_rule_copy(opencl_rule_context *context);
bool opencl_rule_cast(opencl_rule_context *context);
bool opencl_rule_rope(opencl_rule_context *context);
/* op_rows.c */
bool opencl_rule_gather_rows(opencl_rule_context *context);
bool opencl_rule_rms_norm(opencl_rule_context *context);
bool opencl_rule_argmax(opencl_rule_context *context);
bool opencl_rule_top_k(opencl_rule_context *context);
bool opencl_rule_moe_route(opencl_rule_context *context);
bool opencl_rule_moe_combine(opencl_rule_context *context);
/* op_matmul.c */
bool opencl_rule_matmul(opencl_rule_context *context);
bool opencl_rule_moe_matmul(opencl_rule_context *context);
/* op_kv.c */
bool opencl_rule_kv_write(opencl_rule_context *context);
bool opencl_rule_attention(opencl_rule_context *context);
bool opencl_rule_kv_move(opencl_rule_context *context); /* kv_gather, kv_scatter */
bool opencl_rule_kv_copy_blocks(opencl_rule_context *context);

#endif
