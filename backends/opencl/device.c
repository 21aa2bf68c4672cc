/* An open device: a context, one queue for packing weights, and the modules built so far. */
#include "opencl.h"

#include <stdlib.h>
#include <string.h>

static cs_status parse_cache(const char *text, bool *out, cs_error *error) {
  const bool on = strcmp(text, "on") == 0;
  if (!on && strcmp(text, "off") != 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "cache=%.32s: must be on or off", text);
  *out = on;
  return CS_OK;
}

/* The environment first, so that options override it. */
static cs_status read_options(cs_plugin_device *device, const cs_option *options,
                              uint32_t n_options, uint32_t stride, cs_error *error) {
  const char *forced = getenv("CONSORT_OPENCL_VARIANT");
  cs_status status =
      forced && *forced ? clc_parse_variant(forced, &device->common.variant, error) : CS_OK;
  for (uint32_t i = 0; i < n_options && status == CS_OK; i++) {
    const cs_option *option = (const cs_option *)(const void *)((const char *)options + i * stride);
    if (strcmp(option->key, "variant") == 0)
      status = clc_parse_variant(option->value, &device->common.variant, error);
    else if (strcmp(option->key, "cache") == 0)
      status = parse_cache(option->value, &device->use_cache, error);
    else
      status = cs_sdk_error(error, CS_INVALID_ARGUMENT, 0,
                            "unknown option '%.32s' (there are variant and cache)", option->key);
  }
  return status;
}

/* The gpu variant has fixed group sizes. */
static cs_status check_groups(const cs_plugin_device *device, cs_error *error) {
  size_t items = 0;
  cl_ulong local_bytes = 0;
  clGetDeviceInfo(device->found.device, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof items, &items, NULL);
  clGetDeviceInfo(device->found.device, CL_DEVICE_LOCAL_MEM_SIZE, sizeof local_bytes, &local_bytes,
                  NULL);
  return clc_check_groups(device->common.variant, items, local_bytes, error);
}

static cs_status create_context(cs_plugin_device *device, cs_error *error) {
  cl_int code = CL_SUCCESS;
  const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                              (cl_context_properties)device->found.platform, 0};
  device->context = clCreateContext(properties, 1, &device->found.device, NULL, NULL, &code);
  if (code != CL_SUCCESS) return opencl_error(error, code, "clCreateContext");
  device->transfers = clCreateCommandQueue(device->context, device->found.device, 0, &code);
  if (code == CL_SUCCESS) return CS_OK;
  clReleaseContext(device->context);
  return opencl_error(error, code, "clCreateCommandQueue");
}

cs_status opencl_device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                             uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                             cs_error *error) {
  *out = NULL;
  if (index >= instance->n_devices)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is no OpenCL device %u", index);
  const cs_host *host = instance->host;
  cs_plugin_device *device = host->allocate(host->context, sizeof *device, 16);
  if (!device) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  memset(device, 0, sizeof *device);
  device->common.sdk.host = host;
  device->common.sdk.driver = &opencl_driver.sdk;
  device->found = instance->devices[index];
  device->index = index;
  device->use_cache = true;
  device->common.variant = opencl_default_variant(device->found.device);
  cs_status status = read_options(device, options, n_options, option_stride, error);
  if (status == CS_OK) status = check_groups(device, error);
  if (status == CS_OK) status = create_context(device, error);
  if (status != CS_OK) goto err_free;
  if (pthread_mutex_init(&device->mutex, NULL) != 0) {
    status = cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no mutex for the device");
    goto err_context;
  }
  cl_ulong largest = 0;
  clGetDeviceInfo(device->found.device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof largest, &largest,
                  NULL);
  device->max_allocation_bytes = largest;
  opencl_describe(&device->found, device->common.variant, index, &device->properties);
  device->memory_bytes = device->properties.memory_bytes;
  device->common.n_units = device->properties.concurrency;
  *out = device;
  return CS_OK;

err_context:
  clReleaseCommandQueue(device->transfers);
  clReleaseContext(device->context);
err_free:
  host->deallocate(host->context, device);
  return status;
}

void opencl_device_close(cs_plugin_device *device) {
  if (!device) return;
  for (uint32_t i = 0; i < MODULE_LIMIT; i++)
    if (device->programs[i]) clReleaseProgram(device->programs[i]);
  pthread_mutex_destroy(&device->mutex);
  clReleaseCommandQueue(device->transfers);
  clReleaseContext(device->context);
  device->common.sdk.host->deallocate(device->common.sdk.host->context, device);
}

cs_status opencl_device_properties(cs_plugin_device *device, cs_device_properties *out,
                                   cs_error *error) {
  (void)error;
  cs_device_properties properties = device->properties;
  pthread_mutex_lock(&device->mutex);
  const uint64_t used = device->allocated_bytes;
  pthread_mutex_unlock(&device->mutex);
  properties.memory_free_bytes = used < device->memory_bytes ? device->memory_bytes - used : 0;
  cs_sdk_struct_write(out, &properties, sizeof properties);
  return CS_OK;
}
