/* Plans: an op list as the kernel launches that serve it, all arguments in place.
 *
 * Each op has one rule. With a plan it appends launches; without one (op_query) it only judges: the
 * same checks decide both, so that a yes is kept. */
#ifndef CUDA_PLAN_H
#define CUDA_PLAN_H

#include "blas.h"
#include "cuda_plugin.h"

#define CUDA_STEP_BLAS KERNEL_LIMIT /* a cuda_blas_call; its stand-ins follow */

typedef struct cuda_step {
  cuda_kernel kernel; /* or CUDA_STEP_BLAS */
  uint32_t op_index;
  uint32_t grid[3];
  uint32_t threads;
  uint64_t arguments; /* where the kernel's struct begins in the plan's arguments */
} cuda_step;

typedef struct cuda_plan {
  const cs_host *host;
  cs_plugin_device *device;
  CUgraphExec graph;                /* NULL: launched step by step; program.c owns it */
  uint64_t n_steps, steps_capacity; /* the capacities in bytes */
  uint64_t argument_bytes, arguments_capacity;
  cuda_step *steps;
  unsigned char *arguments; /* each struct on 16 bytes */
  bool replayed;            /* kept, so that the addresses in it must stay */
  bool out_of_memory;
} cuda_plan;

void cuda_plan_destroy(cuda_plan *plan);

/* Plans an op list; the error names the op by op_index. */
cs_status cuda_plan_ops(cs_plugin_device *device, const cs_sdk_ops *ops,
                        cs_plugin_memory *workspace, bool replayed, cuda_plan **out,
                        cs_error *error);

/* Launches steps first to end - 1 on a stream, with the context current. A failure names its op. */
cs_status cuda_plan_launch_some(cs_plugin_device *device, const cuda_plan *plan, uint64_t first,
                                uint64_t end, CUstream stream, cs_error *error);
/* Launches every step. */
cs_status cuda_plan_launch(cs_plugin_device *device, const cuda_plan *plan, CUstream stream,
                           cs_error *error);

/* ---- for the rules ---- */

/* What a rule works with. A refusal is one phrase. */
typedef struct cuda_rule_context {
  cs_plugin_device *device;
  const cs_op *op;
  cs_plugin_memory *workspace;
  cuda_plan *plan; /* NULL: only judge */
  uint32_t op_index;
  uint32_t error_class;             /* answer of the rule: CS_ERROR_* */
  uint32_t support;                 /* likewise: CS_SUPPORT_* */
  uint64_t workspace_bytes;         /* likewise */
  char reason[CS_SDK_REASON_BYTES]; /* likewise, when it says no */
} cuda_rule_context;

/* true: served (and planned). */
typedef bool (*cuda_rule)(cuda_rule_context *context);

/* Writes the reason and returns false. */
#define cuda_refuse(context, ...) cs_sdk_refuse((context)->reason, __VA_ARGS__)

/* Checks of operands; each refuses with the operand's name where it does not hold. `dtypes` is a
 * mask of CS_DTYPE_BIT. The window must lie within the memory, whole elements apart. */
bool cuda_want_tensor(cuda_rule_context *context, uint32_t operand, const char *name,
                      uint64_t dtypes, uint64_t rows, uint64_t columns);
/* Rank 1, or one row: `columns` contiguous elements. */
bool cuda_want_vector(cuda_rule_context *context, uint32_t operand, const char *name,
                      uint64_t dtypes, uint64_t columns);
/* A packed weight of ([n_matrices,] n_rows, n_columns), of a dtype in the mask. */
bool cuda_want_packed(cuda_rule_context *context, uint32_t operand, const char *name,
                      uint64_t dtypes, uint64_t n_matrices, uint64_t n_rows, uint64_t n_columns);
/* An operand that was checked lies in memory of this device, where a plan is made. */
bool cuda_want_window(cuda_rule_context *context, const cs_tensor *tensor, const char *name);
/* workspace_bytes are there. */
bool cuda_want_workspace(cuda_rule_context *context);
bool cuda_has(const cuda_rule_context *context, uint32_t operand);

/* An operand as a kernel takes it; zeros for an absent one, or without a plan. */
cuda_rows cuda_rows_of(const cuda_rule_context *context, uint32_t operand);
void *cuda_base_of(const cuda_rule_context *context, uint32_t operand);

/* Appends a launch; args is copied. An empty grid is left out. Refuses what a grid cannot hold. */
bool cuda_step_add(cuda_rule_context *context, cuda_kernel kernel, uint64_t grid_x, uint64_t grid_y,
                   uint64_t grid_z, uint32_t threads, const void *args, size_t args_bytes);

/* Appends a call of cuBLASLt; the call->n_stand_ins steps appended next do the same work, and run
 * in its place where the library fails. */
void cuda_step_add_blas(cuda_rule_context *context, const cuda_blas_call *call);

/* The address `offset` bytes into the workspace; NULL without a plan. */
void *cuda_workspace_at(const cuda_rule_context *context, uint64_t offset);

/* Blocks along a row of an elementwise kernel. */
uint64_t cuda_spans(uint64_t n_columns);

#define CUDA_PLAIN_FLOATS                                                                          \
  (CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) | CS_DTYPE_BIT(CS_DTYPE_BF16))
#define CUDA_KV_FORMATS                                                                            \
  (CUDA_PLAIN_FLOATS | CS_DTYPE_BIT(CS_DTYPE_F8_E4M3) | CS_DTYPE_BIT(CS_DTYPE_I8))
#define CUDA_F32_ONLY CS_DTYPE_BIT(CS_DTYPE_F32)
#define CUDA_I32_ONLY CS_DTYPE_BIT(CS_DTYPE_I32)
#define CUDA_WEIGHT_DTYPES                                                                         \
  (CUDA_PLAIN_FLOATS | CS_DTYPE_BIT(CS_DTYPE_Q8_0) | CS_DTYPE_BIT(CS_DTYPE_Q4_0) |                 \
   CS_DTYPE_BIT(CS_DTYPE_Q4_1) | CS_DTYPE_BIT(CS_DTYPE_Q5_0) | CS_DTYPE_BIT(CS_DTYPE_Q5_1) |       \
   CS_DTYPE_BIT(CS_DTYPE_Q4_K) | CS_DTYPE_BIT(CS_DTYPE_Q5_K) | CS_DTYPE_BIT(CS_DTYPE_Q6_K))

/* op_elementwise.c */
bool cuda_rule_binary(cuda_rule_context *context); /* add, silu_mul, gelu_mul */
bool cuda_rule_copy(cuda_rule_context *context);
bool cuda_rule_cast(cuda_rule_context *context);
bool cuda_rule_rope(cuda_rule_context *context);
/* op_rows.c */
bool cuda_rule_gather_rows(cuda_rule_context *context);
bool cuda_rule_rms_norm(cuda_rule_context *context);
bool cuda_rule_argmax(cuda_rule_context *context);
bool cuda_rule_top_k(cuda_rule_context *context);
bool cuda_rule_moe_route(cuda_rule_context *context);
bool cuda_rule_moe_combine(cuda_rule_context *context);
/* op_matmul.c */
bool cuda_rule_matmul(cuda_rule_context *context);
bool cuda_rule_moe_matmul(cuda_rule_context *context);
/* op_kv.c */
bool cuda_rule_kv_write(cuda_rule_context *context);
bool cuda_rule_kv_move(cuda_rule_context *context); /* kv_gather, kv_scatter */
bool cuda_rule_kv_copy_blocks(cuda_rule_context *context);
/* op_attention.c */
bool cuda_rule_attention(cuda_rule_context *context);

/* ---- KV planes (op_kv.c) ---- */

/* The cache operands k_operand and k_operand + 1, as cs_sdk_check_kv_planes; their windows too. */
bool cuda_want_planes(cuda_rule_context *context, uint32_t k_operand, cs_sdk_kv_plane *k,
                      cs_sdk_kv_plane *v);
/* A plane as a kernel takes it. */
cuda_plane cuda_plane_of(const cuda_rule_context *context, uint32_t operand,
                         const cs_sdk_kv_plane *from);

#endif
