/* Plans and op_query. The rules only look at descriptors, so that a plan is made on the caller's
 * thread, where an error can be told at once; the stream's thread just sets arguments and launches.
 * op_query runs the same rule without a plan and builds the module, because a yes that later fails
 * to compile would be a lie. */
#include "plan.h"

#include <string.h>

static const clc_rule rules[CS_OP_LIMIT] = {
    [CS_OP_GATHER_ROWS] = clc_rule_gather_rows,
    [CS_OP_RMS_NORM] = clc_rule_rms_norm,
    [CS_OP_MATMUL] = clc_rule_matmul,
    [CS_OP_ROPE] = clc_rule_rope,
    [CS_OP_KV_WRITE] = clc_rule_kv_write,
    [CS_OP_ATTENTION_PAGED] = clc_rule_attention,
    [CS_OP_SILU_MUL] = clc_rule_binary,
    [CS_OP_ADD] = clc_rule_binary,
    [CS_OP_COPY] = clc_rule_copy,
    [CS_OP_CAST] = clc_rule_cast,
    [CS_OP_ARGMAX] = clc_rule_argmax,
    [CS_OP_GELU_MUL] = clc_rule_binary,
    [CS_OP_TOP_K] = clc_rule_top_k,
    [CS_OP_MOE_ROUTE] = clc_rule_moe_route,
    [CS_OP_MOE_MATMUL] = clc_rule_moe_matmul,
    [CS_OP_MOE_COMBINE] = clc_rule_moe_combine,
    [CS_OP_KV_GATHER] = clc_rule_kv_move,
    [CS_OP_KV_SCATTER] = clc_rule_kv_move,
    [CS_OP_KV_COPY_BLOCKS] = clc_rule_kv_copy_blocks,
};

/* ---- checks ---- */

bool clc_has(const clc_rule_context *context, uint32_t operand) {
  return context->op->operands[operand].dtype != CS_DTYPE_NONE;
}

bool clc_want_window(clc_rule_context *context, const cs_tensor *tensor, const char *name) {
  if (!context->plan) return true;
  if (!tensor->memory) return clc_refuse(context, "%s has no memory", name);
  if (clc_memory_of(tensor->memory)->device != context->device)
    return clc_refuse(context, "%s lies in memory of another device", name);
  return cs_sdk_check_window(tensor, name, clc_memory_of(tensor->memory)->bytes, context->reason);
}

bool clc_want_tensor(clc_rule_context *context, uint32_t operand, const char *name, uint64_t dtypes,
                     uint64_t rows, uint64_t columns) {
  const cs_tensor *tensor = &context->op->operands[operand];
  return cs_sdk_check_tensor(tensor, name, dtypes, rows, columns, context->reason) &&
         clc_want_window(context, tensor, name);
}

bool clc_want_vector(clc_rule_context *context, uint32_t operand, const char *name, uint64_t dtypes,
                     uint64_t columns) {
  const cs_tensor *tensor = &context->op->operands[operand];
  return cs_sdk_check_vector(tensor, name, dtypes, columns, context->reason) &&
         clc_want_window(context, tensor, name);
}

/* ---- steps ---- */

/* Room for one more element behind n; false (and remembered) when out of memory. */
static bool grow(clc_plan *plan, void **array, uint64_t n, size_t bytes, uint64_t *capacity) {
  if (!plan->out_of_memory)
    plan->out_of_memory = !cs_sdk_grow(plan->host, array, n * bytes, (n + 1) * bytes, capacity);
  return !plan->out_of_memory;
}

void clc_step_begin(clc_rule_context *context, clc_kernel kernel, uint64_t global0,
                    uint64_t global1, uint64_t global2, uint64_t local) {
  clc_plan *plan = context->plan;
  if (!plan) return;
  void *steps = plan->steps;
  if (!grow(plan, &steps, plan->n_steps, sizeof *plan->steps, &plan->steps_capacity)) return;
  plan->steps = steps;
  plan->steps[plan->n_steps++] = (clc_step){.module = context->module,
                                            .kernel = kernel,
                                            .op_index = context->op_index,
                                            .first_argument = plan->n_arguments,
                                            .global = {global0, global1, global2},
                                            .local = local};
}

/* The next argument of the step begun last; NULL without a plan. */
static clc_argument *add_argument(clc_rule_context *context, uint32_t bytes) {
  clc_plan *plan = context->plan;
  if (!plan || plan->out_of_memory) return NULL;
  void *arguments = plan->arguments;
  if (!grow(plan, &arguments, plan->n_arguments, sizeof *plan->arguments,
            &plan->arguments_capacity))
    return NULL;
  plan->arguments = arguments;
  plan->steps[plan->n_steps - 1].n_arguments++;
  clc_argument *argument = &plan->arguments[plan->n_arguments++];
  memset(argument, 0, sizeof *argument);
  argument->bytes = bytes;
  return argument;
}

void clc_arg_memory(clc_rule_context *context, const cs_plugin_memory *memory) {
  clc_argument *argument = add_argument(context, 0);
  if (argument) argument->value.memory = memory;
}

void clc_arg_u64(clc_rule_context *context, uint64_t value) {
  clc_argument *argument = add_argument(context, sizeof(uint64_t));
  if (argument) argument->value.u64 = value;
}

void clc_arg_u32(clc_rule_context *context, uint64_t value) {
  clc_argument *argument = add_argument(context, sizeof(uint32_t));
  if (argument) argument->value.u32 = (uint32_t)value;
}

void clc_arg_f32(clc_rule_context *context, float value) {
  clc_argument *argument = add_argument(context, sizeof(float));
  if (argument) argument->value.f32 = value;
}

void clc_arg_u32x2(clc_rule_context *context, uint64_t x, uint64_t y) {
  clc_argument *argument = add_argument(context, 2 * sizeof(uint32_t));
  if (!argument) return;
  argument->value.u32x2[0] = (uint32_t)x;
  argument->value.u32x2[1] = (uint32_t)y;
}

void clc_arg_u64x4(clc_rule_context *context, const uint64_t value[4]) {
  clc_argument *argument = add_argument(context, 4 * sizeof(uint64_t));
  for (uint32_t i = 0; argument && i < 4; i++)
    argument->value.u64x4[i] = value[i];
}

void clc_arg_vector(clc_rule_context *context, uint32_t operand) {
  const cs_tensor *tensor = &context->op->operands[operand];
  const bool present = tensor->dtype != CS_DTYPE_NONE;
  clc_arg_memory(context, present ? tensor->memory : NULL);
  clc_arg_u64(context, present ? tensor->offset_bytes / cs_sdk_dtype_unit(tensor->dtype) : 0);
}

void clc_arg_tensor(clc_rule_context *context, uint32_t operand) {
  const cs_tensor *tensor = &context->op->operands[operand];
  clc_arg_vector(context, operand);
  const bool present = tensor->dtype != CS_DTYPE_NONE;
  clc_arg_u64(context,
              present ? cs_sdk_tensor_stride(tensor) / cs_sdk_dtype_unit(tensor->dtype) : 0);
}

uint64_t clc_lanes(const clc_device *device) {
  return device->variant == CLC_VARIANT_CPU ? 1 : 64; /* LANES in kernels/common.cl */
}

uint64_t clc_spans(const clc_device *device, uint64_t n_columns) {
  if (device->variant == CLC_VARIANT_CPU) return (n_columns + 1023) / 1024; /* SPAN */
  return (n_columns + 63) / 64 * 64;
}

/* ---- plans ---- */

void clc_plan_destroy(clc_plan *plan) {
  if (!plan) return;
  const cs_host *host = plan->host;
  host->deallocate(host->context, plan->arguments);
  host->deallocate(host->context, plan->steps);
  host->deallocate(host->context, plan);
}

/* Runs the op's rule; on a yes its module is built. */
static cs_status judge(cs_plugin_device *device, clc_rule_context *context, bool *served,
                       cs_error *error) {
  context->module = MODULE_BASE;
  context->error_class = CS_ERROR_F32;
  context->support = CS_SUPPORT_NATIVE;
  context->workspace_bytes = 0;
  const uint32_t id = context->op->id;
  const clc_rule rule = id < CS_OP_LIMIT ? rules[id] : NULL;
  *served = rule ? rule(context) : clc_refuse(context, "the op is not served");
  return *served ? clc_driver_of(device)->module_require(device, context->module, error) : CS_OK;
}

/* A step whose grid is empty has nothing to do, and drivers refuse it. */
static void drop_empty_steps(clc_plan *plan) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < plan->n_steps; i++) {
    const size_t *global = plan->steps[i].global;
    if (global[0] && global[1] && global[2]) plan->steps[kept++] = plan->steps[i];
  }
  plan->n_steps = kept;
}

static cs_status plan_op(cs_plugin_device *device, clc_rule_context *context, cs_error *error) {
  const char *name = cs_sdk_op_name(context->op->id);
  bool served = false;
  cs_status status = judge(device, context, &served, error);
  if (status == CS_OK && !served)
    status = cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s: %s", name, context->reason);
  if (status == CS_OK && context->plan->out_of_memory)
    status = cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to plan the op list");
  return status;
}

cs_status clc_plan_ops(cs_plugin_device *device, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                       clc_plan **out, cs_error *error) {
  *out = NULL;
  const clc_device *shared = clc_device_of(device);
  const cs_host *host = shared->sdk.host;
  clc_plan *plan = host->allocate(host->context, sizeof *plan, 16);
  if (!plan) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to plan the op list");
  memset(plan, 0, sizeof *plan);
  plan->host = host;
  plan->driver = clc_driver_of(device);
  for (uint32_t i = 0; i < ops->n_ops; i++) {
    clc_rule_context context = {
        .device = shared, .op = &ops->ops[i], .workspace = workspace, .plan = plan, .op_index = i};
    cs_error detail = CS_ERROR_INIT;
    const cs_status status = plan_op(device, &context, &detail);
    if (status == CS_OK) continue;
    detail.op_index = (int32_t)i;
    if (error) cs_sdk_struct_write(error, &detail, sizeof detail);
    clc_plan_destroy(plan);
    return status;
  }
  drop_empty_steps(plan);
  *out = plan;
  return CS_OK;
}

/* ---- op_query ---- */

cs_status clc_judge(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                    cs_error *error) {
  clc_rule_context context = {.device = clc_device_of(device), .op = op};
  bool served = false;
  const cs_status status = judge(device, &context, &served, error);
  if (status != CS_OK) return status;
  if (served) {
    answer->support = context.support;
    answer->error_class = context.error_class;
    answer->workspace_bytes = context.workspace_bytes;
  } else {
    memcpy(answer->reason, context.reason, sizeof answer->reason);
  }
  return CS_OK;
}
