/* Modules from SPIR-V, and plans as commands of a list. Every step is followed by a barrier: lists
 * promise no order by themselves. */
#include <string.h>

#include "clc/plan.h"
#include "level_zero.h"

/* The driver's log goes to the host's, its first line into the error. */
static cs_status build_failed(const cs_plugin_device *device, ze_module_build_log_handle_t log,
                              ze_result_t result, cs_error *error) {
  const level_zero_api *api = &device->root->api;
  const cs_host *host = device->common.sdk.host;
  char text[2048] = "";
  size_t bytes = sizeof text;
  if (log && api->zeModuleBuildLogGetString(log, &bytes, text) == ZE_RESULT_SUCCESS && text[0]) {
    text[sizeof text - 1] = '\0';
    if (host->log) host->log(host->context, CS_LOG_DEBUG, text);
    text[strcspn(text, "\n")] = '\0';
    return cs_sdk_error(error, CS_FAILED, result, "the device's compiler failed: %.160s", text);
  }
  return level_zero_error(error, result, "zeModuleCreate");
}

static cs_status build(cs_plugin_device *device, clc_module module, cs_error *error) {
  const level_zero_api *api = &device->root->api;
  const clc_spirv spirv = clc_module_spirv(module, device->common.variant);
  const ze_module_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_MODULE_DESC,
                                 .format = ZE_MODULE_FORMAT_IL_SPIRV,
                                 .inputSize = spirv.bytes,
                                 .pInputModule = spirv.data,
                                 .pBuildFlags = ""};
  ze_module_build_log_handle_t log = NULL;
  ze_module_handle_t built = NULL;
  pthread_rwlock_rdlock(&device->root->handles);
  const ze_result_t result =
      api->zeModuleCreate(device->context, device->found.device, &desc, &built, &log);
  pthread_rwlock_unlock(&device->root->handles);
  cs_status status = CS_OK;
  if (result == ZE_RESULT_SUCCESS)
    device->modules[module] = built;
  else
    status = build_failed(device, log, result, error);
  if (log) {
    level_zero_destroy_begin(device->root);
    api->zeModuleBuildLogDestroy(log);
    level_zero_destroy_end(device->root);
  }
  return status;
}

cs_status level_zero_module_require(cs_plugin_device *device, clc_module module, cs_error *error) {
  pthread_mutex_lock(&device->mutex);
  const cs_status status = device->modules[module] ? CS_OK : build(device, module, error);
  pthread_mutex_unlock(&device->mutex);
  return status;
}

static cs_status create_kernel(cs_plugin_device *device, const clc_step *step,
                               ze_kernel_handle_t *out, cs_error *error) {
  const ze_kernel_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_KERNEL_DESC,
                                 .pKernelName = clc_kernel_name(step->kernel)};
  pthread_mutex_lock(&device->mutex);
  const ze_module_handle_t module = device->modules[step->module];
  pthread_mutex_unlock(&device->mutex);
  LEVEL_ZERO_CREATE(device->root, zeKernelCreate, module, &desc, out);
  return CS_OK;
}

static cs_status set_arguments(const level_zero_api *api, ze_kernel_handle_t kernel,
                               const clc_argument *arguments, uint32_t n, cs_error *error) {
  for (uint32_t i = 0; i < n; i++) {
    const clc_argument *argument = &arguments[i];
    if (argument->bytes) {
      LEVEL_ZERO_TRY(api, zeKernelSetArgumentValue, kernel, i, argument->bytes, &argument->value);
    } else {
      const cs_plugin_memory *memory = argument->value.memory;
      LEVEL_ZERO_TRY(api, zeKernelSetArgumentValue, kernel, i, sizeof(void *),
                     memory ? &memory->pointer : NULL);
    }
  }
  return CS_OK;
}

static cs_status append_step(cs_plugin_device *device, ze_kernel_handle_t *kernel,
                             ze_command_list_handle_t list, const clc_plan *plan,
                             const clc_step *step, cs_error *error) {
  const level_zero_api *api = &device->root->api;
  cs_status status = *kernel ? CS_OK : create_kernel(device, step, kernel, error);
  if (status != CS_OK) return status;
  status =
      set_arguments(api, *kernel, &plan->arguments[step->first_argument], step->n_arguments, error);
  if (status != CS_OK) return status;
  LEVEL_ZERO_TRY(api, zeKernelSetGroupSize, *kernel, (uint32_t)step->local, 1, 1);
  const ze_group_count_t groups = {(uint32_t)(step->global[0] / step->local),
                                   (uint32_t)step->global[1], (uint32_t)step->global[2]};
  LEVEL_ZERO_TRY(api, zeCommandListAppendLaunchKernel, list, *kernel, &groups, NULL, 0, NULL);
  LEVEL_ZERO_TRY(api, zeCommandListAppendBarrier, list, NULL, 0, NULL);
  return CS_OK;
}

cs_status level_zero_append_plan(cs_plugin_device *device,
                                 ze_kernel_handle_t kernels[MODULE_LIMIT][KERNEL_LIMIT],
                                 ze_command_list_handle_t list, const clc_plan *plan,
                                 cs_error *error) {
  for (uint32_t i = 0; i < plan->n_steps; i++) {
    const clc_step *step = &plan->steps[i];
    const cs_status status =
        append_step(device, &kernels[step->module][step->kernel], list, plan, step, error);
    if (status == CS_OK) continue;
    if (error) error->op_index = (int32_t)step->op_index;
    return status;
  }
  return CS_OK;
}

void level_zero_kernels_destroy(level_zero_root *root,
                                ze_kernel_handle_t kernels[MODULE_LIMIT][KERNEL_LIMIT]) {
  level_zero_destroy_begin(root);
  for (uint32_t i = 0; i < MODULE_LIMIT; i++)
    for (uint32_t j = 0; j < KERNEL_LIMIT; j++)
      if (kernels[i][j]) root->api.zeKernelDestroy(kernels[i][j]);
  level_zero_destroy_end(root);
}
