/* Instance, device and the entry. */
#include <string.h>

#include "npu.h"

#define NPU_MEMORY_BYTES (UINT64_C(4) << 30)

struct cs_plugin_instance {
  const cs_host *host;
};

static const cs_device_properties npu_properties = {
    .struct_size = sizeof(cs_device_properties),
    .type = CS_DEVICE_TYPE_ACCELERATOR,
    .flags = CS_DEVICE_SOFTWARE,
    .tensor_align = NPU_TENSOR_ALIGN,
    .memory_bytes = NPU_MEMORY_BYTES,
    .memory_domain = "host",
    .compute_domain = "host",
    .description = "simulated NPU (int8, recorded programs)",
    .driver = "consort-npu-sim " NPU_VERSION,
    .dtypes = CS_DTYPE_BIT(CS_DTYPE_Q8_0),
    .kv_dtypes = CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16),
    .kv_layouts = CS_LAYOUT_BIT(CS_LAYOUT_KV_HEAD_MINOR),
    .kv_layout = CS_LAYOUT_KV_HEAD_MINOR,
    .kv_block_tokens_min = NPU_BLOCK_TOKENS,
    .kv_block_tokens_max = NPU_BLOCK_TOKENS,
    .activation_dtype = CS_DTYPE_F32,
    .concurrency = 1,
};

static cs_status instance_create(const cs_host *host, cs_plugin_instance **out, cs_error *error) {
  *out = host->allocate(host->context, sizeof **out, 16);
  if (!*out) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  (*out)->host = host;
  return CS_OK;
}

static void instance_destroy(cs_plugin_instance *instance) {
  if (instance) instance->host->deallocate(instance->host->context, instance);
}

static uint32_t device_count(cs_plugin_instance *instance) {
  (void)instance;
  return 1;
}

static cs_status device_info(cs_plugin_instance *instance, uint32_t index,
                             cs_device_properties *out, cs_error *error) {
  (void)instance;
  if (index != 0) return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is one simulated NPU");
  cs_sdk_struct_write(out, &npu_properties, sizeof npu_properties);
  return CS_OK;
}

static cs_status device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                             uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                             cs_error *error) {
  (void)option_stride;
  *out = NULL;
  if (index != 0) return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is one simulated NPU");
  if (n_options > 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "unknown option '%.64s': there are none",
                        options[0].key);
  const cs_host *host = instance->host;
  cs_plugin_device *device = host->allocate(host->context, sizeof *device, 16);
  if (!device) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  device->sdk = (cs_sdk_device){.host = host, .driver = &npu_driver};
  const cs_status status = npu_memory_init(&device->memory, host, NPU_MEMORY_BYTES, error);
  if (status != CS_OK) {
    host->deallocate(host->context, device);
    return status;
  }
  *out = device;
  return CS_OK;
}

static void device_close(cs_plugin_device *device) {
  if (!device) return;
  npu_memory_finish(&device->memory);
  device->sdk.host->deallocate(device->sdk.host->context, device);
}

static cs_status device_properties(cs_plugin_device *device, cs_device_properties *out,
                                   cs_error *error) {
  (void)error;
  cs_device_properties properties = npu_properties;
  pthread_mutex_lock(&device->memory.mutex);
  properties.memory_free_bytes = device->memory.bytes - device->memory.taken_bytes;
  pthread_mutex_unlock(&device->memory.mutex);
  cs_sdk_struct_write(out, &properties, sizeof properties);
  return CS_OK;
}

static const cs_device_table npu_device_table = {.struct_size = sizeof npu_device_table,
                                                 .instance_create = instance_create,
                                                 .instance_destroy = instance_destroy,
                                                 .device_count = device_count,
                                                 .device_info = device_info,
                                                 .device_open = device_open,
                                                 .device_close = device_close,
                                                 .device_properties = device_properties};

static const void *table(uint32_t id, uint32_t revision) {
  if (revision != 0) return NULL;
  switch (id) {
  case CS_TABLE_DEVICE:
    return &npu_device_table;
  case CS_TABLE_MEMORY:
    return &npu_memory_table;
  case CS_TABLE_STREAM:
    return &cs_sdk_stream_table;
  case CS_TABLE_SEMAPHORE:
    return &cs_sdk_semaphore_table;
  case CS_TABLE_CAPABILITY:
    return &npu_capability_table;
  case CS_TABLE_PROFILE:
    return &cs_sdk_profile_table;
  case CS_TABLE_EXTERNAL_MEMORY:
    return &npu_external_table;
  case CS_TABLE_PROGRAM: /* and no eager table: the chip runs what it has recorded */
    return &cs_sdk_program_table;
  default:
    return NULL;
  }
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  return cs_sdk_query(host, plugin, "npu-sim", NPU_VERSION, "Consort", table);
}
