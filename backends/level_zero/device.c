/* An open device: which queue groups compute and which only copy, and the modules built so far. */
#include "level_zero.h"

#include <string.h>

#define MAX_GROUPS 32

static cs_status parse_memory(const char *text, bool *shared, cs_error *error) {
  *shared = strcmp(text, "shared") == 0;
  if (*shared || strcmp(text, "device") == 0) return CS_OK;
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "memory=%.32s: must be device or shared",
                      text);
}

static cs_status read_options(cs_plugin_device *device, const cs_option *options,
                              uint32_t n_options, uint32_t stride, cs_error *error) {
  cs_status status = CS_OK;
  for (uint32_t i = 0; i < n_options && status == CS_OK; i++) {
    const cs_option *option = (const cs_option *)(const void *)((const char *)options + i * stride);
    if (strcmp(option->key, "variant") == 0)
      status = clc_parse_variant(option->value, &device->common.variant, error);
    else if (strcmp(option->key, "memory") == 0)
      status = parse_memory(option->value, &device->shared, error);
    else
      status = cs_sdk_error(error, CS_INVALID_ARGUMENT, 0,
                            "unknown option '%.32s' (there are variant and memory)", option->key);
  }
  return status;
}

static cs_status check_groups(const cs_plugin_device *device, cs_error *error) {
  ze_device_compute_properties_t compute = {.stype = ZE_STRUCTURE_TYPE_DEVICE_COMPUTE_PROPERTIES};
  LEVEL_ZERO_TRY(&device->root->api, zeDeviceGetComputeProperties, device->found.device, &compute);
  return clc_check_groups(device->common.variant, compute.maxTotalGroupSize,
                          compute.maxSharedLocalMemory, error);
}

/* The first group that computes, and the first that copies without computing. */
static cs_status find_ordinals(cs_plugin_device *device, cs_error *error) {
  ze_command_queue_group_properties_t groups[MAX_GROUPS];
  for (uint32_t i = 0; i < MAX_GROUPS; i++)
    groups[i] = (ze_command_queue_group_properties_t){
        .stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_GROUP_PROPERTIES};
  uint32_t n = 0;
  LEVEL_ZERO_TRY(&device->root->api, zeDeviceGetCommandQueueGroupProperties, device->found.device,
                 &n, NULL);
  if (n > MAX_GROUPS) n = MAX_GROUPS;
  LEVEL_ZERO_TRY(&device->root->api, zeDeviceGetCommandQueueGroupProperties, device->found.device,
                 &n, groups);
  device->compute_ordinal = device->copy_ordinal = LEVEL_ZERO_NO_ORDINAL;
  for (uint32_t i = n; i-- > 0;) {
    if (groups[i].numQueues == 0) continue;
    if (groups[i].flags & ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COMPUTE)
      device->compute_ordinal = i;
    else if (groups[i].flags & ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY)
      device->copy_ordinal = i;
  }
  if (device->compute_ordinal == LEVEL_ZERO_NO_ORDINAL)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "the device has no queue that computes");
  return CS_OK;
}

static void read_properties(cs_plugin_device *device) {
  ze_device_properties_t properties = {.stype = ZE_STRUCTURE_TYPE_DEVICE_PROPERTIES};
  device->root->api.zeDeviceGetProperties(device->found.device, &properties);
  device->max_allocation_bytes = properties.maxMemAllocSize;
  level_zero_describe(device->root, &device->found, device->common.variant, &device->properties);
  device->common.n_units = device->properties.concurrency;
  if (device->shared) device->properties.flags |= CS_DEVICE_HOST_RESIDENT;
}

/* Reads the figures of now and logs them, the power since `before` with them. */
static void tell_figures(const cs_plugin_device *device, const level_zero_figures *before,
                         level_zero_figures *now) {
  const cs_host *host = device->common.sdk.host;
  char line[160];
  level_zero_figures_read(&device->root->api.sysman, device->found.device, now);
  level_zero_figures_tell(now, before, line, sizeof line);
  if (host->log) host->log(host->context, CS_LOG_INFO, line);
}

cs_status level_zero_device_open(cs_plugin_instance *instance, uint32_t index,
                                 const cs_option *options, uint32_t n_options,
                                 uint32_t option_stride, cs_plugin_device **out, cs_error *error) {
  *out = NULL;
  if (index >= instance->n_devices)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is no Level Zero device %u", index);
  level_zero_root *root = instance->root;
  cs_plugin_device *device = root->host->allocate(root->host->context, sizeof *device, 16);
  if (!device) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  memset(device, 0, sizeof *device);
  device->common.sdk.host = root->host;
  device->common.sdk.driver = &level_zero_driver.sdk;
  device->root = root;
  device->found = instance->devices[index];
  device->context = root->contexts[device->found.driver];
  device->common.variant = level_zero_default_variant(root, &device->found);
  cs_status status = read_options(device, options, n_options, option_stride, error);
  if (status == CS_OK) status = check_groups(device, error);
  if (status == CS_OK) status = find_ordinals(device, error);
  if (status != CS_OK) goto err_free;
  status = cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no mutex for the device");
  if (pthread_mutex_init(&device->mutex, NULL) != 0) goto err_free;
  if (pthread_mutex_init(&device->record_mutex, NULL) != 0) goto err_mutex;
  read_properties(device);
  tell_figures(device, NULL, &device->figures);
  level_zero_root_retain(root);
  *out = device;
  return CS_OK;

err_mutex:
  pthread_mutex_destroy(&device->mutex);
err_free:
  root->host->deallocate(root->host->context, device);
  return status;
}

void level_zero_device_close(cs_plugin_device *device) {
  if (!device) return;
  const cs_host *host = device->common.sdk.host;
  level_zero_figures at_end;
  if (device->figures.has_energy) tell_figures(device, &device->figures, &at_end);
  level_zero_kernels_destroy(device->root, device->kernels);
  level_zero_destroy_begin(device->root);
  for (uint32_t i = 0; i < MODULE_LIMIT; i++)
    if (device->modules[i]) device->root->api.zeModuleDestroy(device->modules[i]);
  level_zero_destroy_end(device->root);
  pthread_mutex_destroy(&device->record_mutex);
  pthread_mutex_destroy(&device->mutex);
  level_zero_root_release(device->root);
  host->deallocate(host->context, device);
}

cs_status level_zero_device_properties(cs_plugin_device *device, cs_device_properties *out,
                                       cs_error *error) {
  (void)error;
  cs_device_properties properties = device->properties;
  pthread_mutex_lock(&device->mutex);
  const uint64_t used = device->allocated_bytes;
  pthread_mutex_unlock(&device->mutex);
  level_zero_figures figures;
  level_zero_figures_read(&device->root->api.sysman, device->found.device, &figures);
  properties.memory_free_bytes =
      used < properties.memory_bytes ? properties.memory_bytes - used : 0;
  if (figures.has_memory && figures.free_bytes < properties.memory_free_bytes)
    properties.memory_free_bytes = figures.free_bytes;
  cs_sdk_struct_write(out, &properties, sizeof properties);
  return CS_OK;
}
