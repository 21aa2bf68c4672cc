/* The entry, the instance and the device. The entry does no work; instance_create is where a driver
 * is found, or where the one line is written that says why there is none. */
#include "plugin.h"

#include <stdio.h>
#include <string.h>

static cs_status instance_create(const cs_host *host, cs_plugin_instance **out, cs_error *error) {
  *out = NULL;
  cs_plugin_instance *instance = host->allocate(host->context, sizeof *instance, 8);
  if (!instance) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  instance->host = host;
  *out = instance;
  return CS_OK;
}

static void instance_destroy(cs_plugin_instance *instance) {
  if (instance) instance->host->deallocate(instance->host->context, instance);
}

static uint32_t device_count(cs_plugin_instance *instance) {
  (void)instance;
  return 1;
}

static void fill_properties(cs_device_properties *out) {
  cs_device_properties properties = {
      .struct_size = sizeof properties,
      .type = CS_DEVICE_TYPE_ACCELERATOR,
      .flags = CS_DEVICE_SOFTWARE, /* remove it when a chip answers */
      .tensor_align = 64,
      .memory_bytes = UINT64_C(1) << 32,
      .dtypes = CS_DTYPE_BIT(CS_DTYPE_F32),
      .activation_dtype = CS_DTYPE_F32,
      .concurrency = 1,
  };
  snprintf(properties.memory_domain, sizeof properties.memory_domain, "@NAME@-0");
  snprintf(properties.compute_domain, sizeof properties.compute_domain, "@NAME@-0");
  snprintf(properties.description, sizeof properties.description, "@NAME@ (template)");
  snprintf(properties.driver, sizeof properties.driver, "@NAME@ 0.1.0");
  cs_sdk_struct_write(out, &properties, sizeof properties);
}

static cs_status device_info(cs_plugin_instance *instance, uint32_t index,
                             cs_device_properties *out, cs_error *error) {
  (void)instance;
  if (index != 0) return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "there is one device");
  fill_properties(out);
  return CS_OK;
}

static cs_status device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                             uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                             cs_error *error) {
  (void)option_stride;
  *out = NULL;
  if (index != 0) return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "there is one device");
  if (n_options > 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "unknown option \"%s\"", options->key);
  const cs_host *host = instance->host;
  cs_plugin_device *device = host->allocate(host->context, sizeof *device, 8);
  if (!device) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  device->sdk = (cs_sdk_device){.host = host, .driver = &driver};
  *out = device;
  return CS_OK;
}

static void device_close(cs_plugin_device *device) {
  if (device) device->sdk.host->deallocate(device->sdk.host->context, device);
}

static cs_status device_properties(cs_plugin_device *device, cs_device_properties *out,
                                   cs_error *error) {
  (void)device;
  (void)error;
  fill_properties(out);
  return CS_OK;
}

const cs_device_table device_table = {
    .struct_size = sizeof device_table,
    .instance_create = instance_create,
    .instance_destroy = instance_destroy,
    .device_count = device_count,
    .device_info = device_info,
    .device_open = device_open,
    .device_close = device_close,
    .device_properties = device_properties,
};

static const void *table(uint32_t id, uint32_t revision) {
  if (revision != 0) return NULL;
  switch (id) {
  case CS_TABLE_DEVICE:
    return &device_table;
  case CS_TABLE_MEMORY:
    return &memory_table;
  case CS_TABLE_STREAM:
    return &cs_sdk_stream_table;
  case CS_TABLE_SEMAPHORE:
    return &cs_sdk_semaphore_table;
  case CS_TABLE_CAPABILITY:
    return &capability_table;
  case CS_TABLE_EAGER:
    return &cs_sdk_eager_table;
  case CS_TABLE_PROGRAM:
    return &cs_sdk_program_table;
  default:
    return NULL;
  }
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  return cs_sdk_query(host, plugin, "@NAME@", "0.1.0", "@NAME@", table);
}
