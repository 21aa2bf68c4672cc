/* Which devices there are: those of the driver, in its order, that the kernels can run on. A MIG
 * instance is one of them, the only one a process sees of its GPU, with memory and multiprocessors
 * of its own. */
#include "plan.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEVICES       64
#define CAPABILITY_NEEDED 75 /* Turing: the oldest that the toolkit compiles for */

static int attribute(const cuda_driver *driver, CUdevice ordinal, CUdevice_attribute which) {
  int value = 0;
  return driver->DeviceGetAttribute(&value, which, ordinal) == CUDA_SUCCESS ? value : 0;
}

int cuda_capability(const cuda_driver *driver, CUdevice ordinal) {
  return 10 * attribute(driver, ordinal, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
         attribute(driver, ordinal, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
}

static cs_status find_devices(const cuda_driver *driver, CUdevice found[MAX_DEVICES],
                              uint32_t *n_found, cs_error *error) {
  int n = 0;
  *n_found = 0;
  const CUresult code = driver->DeviceGetCount(&n);
  if (code != CUDA_SUCCESS) return cuda_error(driver, error, code, "cuDeviceGetCount");
  for (int i = 0; i < n && *n_found < MAX_DEVICES; i++) {
    CUdevice ordinal;
    if (driver->DeviceGet(&ordinal, i) == CUDA_SUCCESS &&
        cuda_capability(driver, ordinal) >= CAPABILITY_NEEDED)
      found[(*n_found)++] = ordinal;
  }
  if (*n_found > 0) return CS_OK;
  return n == 0 ? cuda_no_device(CUDA_SUCCESS, error)
                : cs_sdk_error(error, CS_NOT_FOUND, 0,
                               "no NVIDIA device has compute capability 7.5 or more");
}

static cs_status instance_create(const cs_host *host, cs_plugin_instance **out, cs_error *error) {
  *out = NULL;
  cuda_driver driver;
  CUdevice found[MAX_DEVICES];
  uint32_t n = 0;
  cs_status status = cuda_driver_start(&driver, error);
  if (status == CS_OK) status = find_devices(&driver, found, &n, error);
  if (status != CS_OK) return status;
  cs_plugin_instance *instance =
      host->allocate(host->context, sizeof *instance + n * sizeof found[0], 16);
  if (!instance) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  instance->host = host;
  instance->driver = driver;
  instance->n_devices = n;
  instance->reserved = 0;
  memcpy(instance->devices, found, n * sizeof found[0]);
  *out = instance;
  return CS_OK;
}

static void instance_destroy(cs_plugin_instance *instance) {
  if (instance) instance->host->deallocate(instance->host->context, instance);
}

static uint32_t device_count(cs_plugin_instance *instance) {
  return instance->n_devices;
}

/* "GPU-5fe8a2c1-..." or, of an instance, "MIG-...", as nvidia-smi writes it, and the domain that
 * follows from it: instances of one GPU share neither memory nor multiprocessors. The driver gives
 * an instance's own uuid, and its profile in the name ("... MIG 1g.10gb"). */
static void describe_identity(const cuda_driver *driver, CUdevice ordinal, const char *name,
                              cs_device_properties *out) {
  CUuuid uuid;
  if (driver->DeviceGetUuid(&uuid, ordinal) != CUDA_SUCCESS) {
    snprintf(out->memory_domain, sizeof out->memory_domain, "cuda-device-%d", ordinal);
    snprintf(out->compute_domain, sizeof out->compute_domain, "cuda-device-%d", ordinal);
    return;
  }
  char hex[33];
  for (int i = 0; i < 16; i++)
    snprintf(hex + 2 * i, 3, "%02x", (unsigned char)uuid.bytes[i]);
  snprintf(out->uuid, sizeof out->uuid, "%s-%.8s-%.4s-%.4s-%.4s-%.12s",
           strstr(name, " MIG ") ? "MIG" : "GPU", hex, hex + 8, hex + 12, hex + 16, hex + 20);
  snprintf(out->memory_domain, sizeof out->memory_domain, "cuda-%.26s", hex);
  snprintf(out->compute_domain, sizeof out->compute_domain, "cuda-%.26s", hex);
}

void cuda_describe(const cuda_driver *driver, CUdevice ordinal, cs_device_properties *out) {
  *out = (cs_device_properties){.struct_size = sizeof *out,
                                .type = CS_DEVICE_TYPE_GPU,
                                .tensor_align = CUDA_TENSOR_ALIGN,
                                .kv_layout = CS_LAYOUT_KV_HEAD_MAJOR,
                                .kv_block_tokens_min = 16,
                                .kv_block_tokens_max = 128,
                                .activation_dtype = CS_DTYPE_F32};
  out->kv_dtypes = CUDA_KV_FORMATS;
  out->dtypes = CUDA_WEIGHT_DTYPES;
  out->kv_layouts =
      CS_LAYOUT_BIT(CS_LAYOUT_KV_TOKEN_MAJOR) | CS_LAYOUT_BIT(CS_LAYOUT_KV_HEAD_MAJOR);
  size_t bytes = 0;
  if (driver->DeviceTotalMem(&bytes, ordinal) == CUDA_SUCCESS) out->memory_bytes = bytes;
  out->concurrency = (uint32_t)attribute(driver, ordinal, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  char name[64] = "";
  driver->DeviceGetName(name, sizeof name, ordinal);
  name[sizeof name - 1] = '\0';
  describe_identity(driver, ordinal, name, out);
  const int version = cuda_capability(driver, ordinal);
  snprintf(out->description, sizeof out->description, "%s (sm_%d, %u multiprocessors)", name,
           version, out->concurrency);
  snprintf(out->driver, sizeof out->driver, "CUDA %d.%d", driver->version / 1000,
           driver->version % 1000 / 10);
}

static cs_status device_info(cs_plugin_instance *instance, uint32_t index,
                             cs_device_properties *out, cs_error *error) {
  if (index >= instance->n_devices)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is no CUDA device %u", index);
  cs_device_properties properties;
  cuda_describe(&instance->driver, instance->devices[index], &properties);
  cs_sdk_struct_write(out, &properties, sizeof properties);
  return CS_OK;
}

const cs_device_table cuda_device_table = {.struct_size = sizeof(cs_device_table),
                                           .instance_create = instance_create,
                                           .instance_destroy = instance_destroy,
                                           .device_count = device_count,
                                           .device_info = device_info,
                                           .device_open = cuda_device_open,
                                           .device_close = cuda_device_close,
                                           .device_properties = cuda_device_properties};
