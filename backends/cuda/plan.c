/* Plans and op_query. The rules only look at descriptors, so that a plan is made on the caller's
 * thread, where an error can be told at once; the stream's thread just launches. */
#include "plan.h"

#include <string.h>

#define MAX_EXTENT UINT64_C(0x7fffffff) /* of rows and of columns: kernels count with 32 bits */
#define MAX_GRID_X UINT64_C(0x7fffffff)
#define MAX_GRID_Y UINT64_C(65535)

static const cuda_rule rules[CS_OP_LIMIT] = {
    [CS_OP_GATHER_ROWS] = cuda_rule_gather_rows,
    [CS_OP_RMS_NORM] = cuda_rule_rms_norm,
    [CS_OP_MATMUL] = cuda_rule_matmul,
    [CS_OP_ROPE] = cuda_rule_rope,
    [CS_OP_KV_WRITE] = cuda_rule_kv_write,
    [CS_OP_ATTENTION_PAGED] = cuda_rule_attention,
    [CS_OP_SILU_MUL] = cuda_rule_binary,
    [CS_OP_ADD] = cuda_rule_binary,
    [CS_OP_COPY] = cuda_rule_copy,
    [CS_OP_CAST] = cuda_rule_cast,
    [CS_OP_ARGMAX] = cuda_rule_argmax,
    [CS_OP_GELU_MUL] = cuda_rule_binary,
    [CS_OP_TOP_K] = cuda_rule_top_k,
    [CS_OP_MOE_ROUTE] = cuda_rule_moe_route,
    [CS_OP_MOE_MATMUL] = cuda_rule_moe_matmul,
    [CS_OP_MOE_COMBINE] = cuda_rule_moe_combine,
    [CS_OP_KV_GATHER] = cuda_rule_kv_move,
    [CS_OP_KV_SCATTER] = cuda_rule_kv_move,
    [CS_OP_KV_COPY_BLOCKS] = cuda_rule_kv_copy_blocks,
};

/* ---- checks ---- */

bool cuda_has(const cuda_rule_context *context, uint32_t operand) {
  return context->op->operands[operand].dtype != CS_DTYPE_NONE;
}

bool cuda_want_window(cuda_rule_context *context, const cs_tensor *tensor, const char *name) {
  if (!context->plan) return true;
  if (!tensor->memory) return cuda_refuse(context, "%s has no memory", name);
  if (tensor->memory->device != context->device)
    return cuda_refuse(context, "%s lies in memory of another device", name);
  if (context->plan->replayed) atomic_store(&tensor->memory->is_recorded, true);
  return cs_sdk_check_window(tensor, name, tensor->memory->bytes, context->reason);
}

bool cuda_want_tensor(cuda_rule_context *context, uint32_t operand, const char *name,
                      uint64_t dtypes, uint64_t rows, uint64_t columns) {
  const cs_tensor *tensor = &context->op->operands[operand];
  return cs_sdk_check_tensor(tensor, name, dtypes, rows, columns, context->reason) &&
         cuda_want_window(context, tensor, name);
}

bool cuda_want_vector(cuda_rule_context *context, uint32_t operand, const char *name,
                      uint64_t dtypes, uint64_t columns) {
  const cs_tensor *tensor = &context->op->operands[operand];
  return cs_sdk_check_vector(tensor, name, dtypes, columns, context->reason) &&
         cuda_want_window(context, tensor, name);
}

bool cuda_want_packed(cuda_rule_context *context, uint32_t operand, const char *name,
                      uint64_t dtypes, uint64_t n_matrices, uint64_t n_rows, uint64_t n_columns) {
  const cs_tensor *tensor = &context->op->operands[operand];
  if (tensor->layout != CS_LAYOUT_PACKED) return cuda_refuse(context, "%s is not packed", name);
  if (tensor->dtype >= CS_DTYPE_LIMIT || !(dtypes & CS_DTYPE_BIT(tensor->dtype)))
    return cuda_refuse(context, "%s: dtype %u is not served", name, tensor->dtype);
  if (n_rows > MAX_EXTENT || n_columns > MAX_EXTENT || n_matrices > MAX_EXTENT)
    return cuda_refuse(context, "%s: extents out of range", name);
  if (cs_sdk_dtype_bytes(tensor->dtype, n_columns) == 0 || n_rows == 0 || n_matrices == 0)
    return cuda_refuse(context, "%s: rows are not whole blocks, or there are none", name);
  if (!context->plan) return true;
  const cs_plugin_memory *memory = tensor->memory;
  if (!memory || memory->device != context->device || !memory->packed ||
      memory->weight.dtype != tensor->dtype || memory->n_matrices != n_matrices ||
      memory->n_rows != n_rows || memory->n_columns != n_columns || tensor->offset_bytes != 0)
    return cuda_refuse(context, "%s is not what weights_pack made", name);
  return true;
}

bool cuda_want_workspace(cuda_rule_context *context) {
  if (!context->plan || context->workspace_bytes == 0) return true;
  const cs_plugin_memory *workspace = context->workspace;
  if (workspace && workspace->device == context->device &&
      workspace->bytes >= context->workspace_bytes) {
    if (context->plan->replayed) atomic_store(&context->workspace->is_recorded, true);
    return true;
  }
  return cuda_refuse(context, "the workspace is missing or too small");
}

/* ---- steps ---- */

void *cuda_base_of(const cuda_rule_context *context, uint32_t operand) {
  const cs_tensor *tensor = &context->op->operands[operand];
  if (tensor->dtype == CS_DTYPE_NONE || !tensor->memory) return NULL;
  return (void *)(uintptr_t)(tensor->memory->address + tensor->offset_bytes);
}

cuda_rows cuda_rows_of(const cuda_rule_context *context, uint32_t operand) {
  const cs_tensor *tensor = &context->op->operands[operand];
  void *base = cuda_base_of(context, operand);
  return (cuda_rows){base,
                     base ? cs_sdk_tensor_stride(tensor) / cs_sdk_dtype_unit(tensor->dtype) : 0};
}

/* Appends a step with a copy of its arguments. */
static void append(cuda_plan *plan, const cuda_step *step, const void *args, size_t args_bytes) {
  void *steps = plan->steps, *arguments = plan->arguments;
  const uint64_t steps_bytes = plan->n_steps * sizeof *plan->steps;
  if (plan->out_of_memory) return;
  plan->out_of_memory = !cs_sdk_grow(plan->host, &steps, steps_bytes,
                                     steps_bytes + sizeof *plan->steps, &plan->steps_capacity);
  plan->steps = steps;
  if (plan->out_of_memory) return;
  plan->out_of_memory = !cs_sdk_grow(plan->host, &arguments, plan->argument_bytes,
                                     plan->argument_bytes + args_bytes, &plan->arguments_capacity);
  plan->arguments = arguments;
  if (plan->out_of_memory) return;
  memcpy(plan->arguments + plan->argument_bytes, args, args_bytes);
  plan->steps[plan->n_steps] = *step;
  plan->steps[plan->n_steps++].arguments = plan->argument_bytes;
  plan->argument_bytes += (args_bytes + 15) / 16 * 16;
}

bool cuda_step_add(cuda_rule_context *context, cuda_kernel kernel, uint64_t grid_x, uint64_t grid_y,
                   uint64_t grid_z, uint32_t threads, const void *args, size_t args_bytes) {
  if (grid_x > MAX_GRID_X || grid_y > MAX_GRID_Y || grid_z > MAX_GRID_Y)
    return cuda_refuse(context, "extents out of range: a grid of %llu x %llu x %llu blocks",
                       (unsigned long long)grid_x, (unsigned long long)grid_y,
                       (unsigned long long)grid_z);
  if (!context->plan || grid_x == 0 || grid_y == 0 || grid_z == 0) return true;
  const cuda_step step = {.kernel = kernel,
                          .op_index = context->op_index,
                          .grid = {(uint32_t)grid_x, (uint32_t)grid_y, (uint32_t)grid_z},
                          .threads = threads};
  append(context->plan, &step, args, args_bytes);
  return true;
}

void cuda_step_add_blas(cuda_rule_context *context, const cuda_blas_call *call) {
  const cuda_step step = {.kernel = CUDA_STEP_BLAS, .op_index = context->op_index};
  append(context->plan, &step, call, sizeof *call);
}

void *cuda_workspace_at(const cuda_rule_context *context, uint64_t offset) {
  return context->plan ? (void *)(uintptr_t)(context->workspace->address + offset) : NULL;
}

uint64_t cuda_spans(uint64_t n_columns) {
  return (n_columns + CUDA_SPAN - 1) / CUDA_SPAN;
}

/* ---- plans ---- */

void cuda_plan_destroy(cuda_plan *plan) {
  if (!plan) return;
  const cs_host *host = plan->host;
  host->deallocate(host->context, plan->arguments);
  host->deallocate(host->context, plan->steps);
  host->deallocate(host->context, plan);
}

/* Runs the op's rule. */
static bool judge(cuda_rule_context *context) {
  context->error_class = CS_ERROR_F32;
  context->support = CS_SUPPORT_NATIVE;
  context->workspace_bytes = 0;
  const uint32_t id = context->op->id;
  const cuda_rule rule = id < CS_OP_LIMIT ? rules[id] : NULL;
  return rule ? rule(context) : cuda_refuse(context, "the op is not served");
}

static cs_status plan_op(cuda_rule_context *context, cs_error *error) {
  if (!judge(context))
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s: %s", cs_sdk_op_name(context->op->id),
                        context->reason);
  if (context->plan->out_of_memory)
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to plan the op list");
  return CS_OK;
}

cs_status cuda_plan_ops(cs_plugin_device *device, const cs_sdk_ops *ops,
                        cs_plugin_memory *workspace, bool replayed, cuda_plan **out,
                        cs_error *error) {
  *out = NULL;
  const cs_host *host = device->sdk.host;
  cuda_plan *plan = host->allocate(host->context, sizeof *plan, 16);
  if (!plan) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to plan the op list");
  memset(plan, 0, sizeof *plan);
  plan->host = host;
  plan->device = device;
  plan->replayed = replayed;
  for (uint32_t i = 0; i < ops->n_ops; i++) {
    cuda_rule_context context = {
        .device = device, .op = &ops->ops[i], .workspace = workspace, .plan = plan, .op_index = i};
    cs_error detail = CS_ERROR_INIT;
    const cs_status status = plan_op(&context, &detail);
    if (status == CS_OK) continue;
    detail.op_index = (int32_t)i;
    if (error) cs_sdk_struct_write(error, &detail, sizeof detail);
    cuda_plan_destroy(plan);
    return status;
  }
  *out = plan;
  return CS_OK;
}

static CUresult launch_kernel(const cs_plugin_device *device, const cuda_plan *plan,
                              const cuda_step *step, CUstream stream) {
  void *arguments[] = {plan->arguments + step->arguments};
  return device->driver->LaunchKernel(device->kernels[step->kernel], step->grid[0], step->grid[1],
                                      step->grid[2], step->threads, 1, 1, 0, stream, arguments,
                                      NULL);
}

cs_status cuda_plan_launch_some(cs_plugin_device *device, const cuda_plan *plan, uint64_t first,
                                uint64_t end, CUstream stream, cs_error *error) {
  for (uint64_t i = first; i < end; i++) {
    const cuda_step *step = &plan->steps[i];
    if (step->kernel == CUDA_STEP_BLAS) {
      const cuda_blas_call *call = (const void *)(plan->arguments + step->arguments);
      if (cuda_blas_run(device->blas, call, stream)) i += call->n_stand_ins;
      continue;
    }
    const CUresult code = launch_kernel(device, plan, step, stream);
    if (code == CUDA_SUCCESS) continue;
    const cs_status status =
        cuda_error(device->driver, error, code, cuda_kernel_name(step->kernel));
    if (error) error->op_index = (int32_t)step->op_index;
    return status;
  }
  return CS_OK;
}

cs_status cuda_plan_launch(cs_plugin_device *device, const cuda_plan *plan, CUstream stream,
                           cs_error *error) {
  return cuda_plan_launch_some(device, plan, 0, plan->n_steps, stream, error);
}

/* ---- op_query ---- */

cs_status cuda_judge(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                     cs_error *error) {
  (void)error;
  cuda_rule_context context = {.device = device, .op = op};
  if (judge(&context)) {
    answer->support = context.support;
    answer->error_class = context.error_class;
    answer->workspace_bytes = context.workspace_bytes;
  } else {
    memcpy(answer->reason, context.reason, sizeof answer->reason);
  }
  return CS_OK;
}

const cs_capability_table cuda_capability_table = {.struct_size = sizeof(cs_capability_table),
                                                   .op_query = cs_sdk_op_query,
                                                   .weights_pack = cuda_weights_pack};
