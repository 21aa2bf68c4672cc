/* An open device: the primary context, which other users of CUDA in the process share, and the
 * kernels of the embedded fat binary. The context is current only between enter and leave, so that
 * a host that uses CUDA itself finds its own. */
#include "blas.h"
#include "fp8.h"
#include "nvml.h"

#include <string.h>

extern const unsigned char cuda_kernels_image[]; /* image.S */

typedef struct device_options {
  bool graphs, cublaslt, fp8;
} device_options;

const char *cuda_kernel_name(cuda_kernel kernel) {
  static const char *const names[] = {
#define CUDA_KERNEL_NAME(name) #name,
      CUDA_KERNELS(CUDA_KERNEL_NAME)
#undef CUDA_KERNEL_NAME
  };
  return kernel < KERNEL_LIMIT ? names[kernel] : "?";
}

cs_status cuda_enter(cs_plugin_device *device, cs_error *error) {
  const CUresult code = device->driver->CtxPushCurrent(device->context);
  return code == CUDA_SUCCESS ? CS_OK : cuda_error(device->driver, error, code, "cuCtxPushCurrent");
}

void cuda_leave(cs_plugin_device *device) {
  CUcontext popped;
  device->driver->CtxPopCurrent(&popped);
}

typedef struct device_switch {
  const char *key, *yes, *no;
  bool *out;
} device_switch;

static cs_status read_switch(const cs_option *option, const device_switch *to, cs_error *error) {
  *to->out = strcmp(option->value, to->yes) == 0;
  if (*to->out || strcmp(option->value, to->no) == 0) return CS_OK;
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s=%.32s: must be %s or %s", option->key,
                      option->value, to->yes, to->no);
}

static cs_status read_options(device_options *out, const cs_option *options, uint32_t n_options,
                              uint32_t stride, cs_error *error) {
  const device_switch switches[] = {{"graphs", "on", "off", &out->graphs},
                                    {"cublaslt", "on", "off", &out->cublaslt},
                                    {"fp8", "always", "never", &out->fp8},
                                    {NULL, NULL, NULL, NULL}};
  *out = (device_options){.graphs = true, .cublaslt = true};
  for (uint32_t i = 0; i < n_options; i++) {
    const cs_option *option = (const cs_option *)(const void *)((const char *)options + i * stride);
    const device_switch *found = switches;
    while (found->key && strcmp(option->key, found->key) != 0)
      found++;
    if (!found->key)
      return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0,
                          "unknown option '%.32s' (there are graphs, cublaslt and fp8)",
                          option->key);
    const cs_status status = read_switch(option, found, error);
    if (status != CS_OK) return status;
  }
  if (out->fp8 && !out->cublaslt)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "fp8=always does not go with cublaslt=off");
  return CS_OK;
}

/* What fp8=always needs; the context is there. */
static cs_status want_fp8(cs_plugin_device *device, cs_error *error) {
  const int capability = cuda_capability(device->driver, device->ordinal);
  device->use_fp8 = true;
  if (capability < CUDA_FP8_CAPABILITY)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0,
                        "fp8=always: compute capability 8.9 is needed, the device has %d.%d",
                        capability / 10, capability % 10);
  if (!cuda_blas_ready(device->blas))
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "fp8=always: cuBLASLt cannot be used");
  return CS_OK;
}

/* With the context current. A context that an earlier fault has poisoned cannot be revived. */
static cs_status load_kernels(cs_plugin_device *device, cs_error *error) {
  const cuda_driver *driver = device->driver;
  CUresult code = driver->ModuleLoadData(&device->module, cuda_kernels_image);
  if (code != CUDA_SUCCESS) {
    const cs_status status = cuda_error(driver, error, code, "cuModuleLoadData");
    return status != CS_DEVICE_LOST ? status
                                    : cs_sdk_error(error, CS_NEEDS_NEW_PROCESS, code,
                                                   "the device was lost earlier in this process");
  }
  for (uint32_t i = 0; i < KERNEL_LIMIT && code == CUDA_SUCCESS; i++)
    code = driver->ModuleGetFunction(&device->kernels[i], device->module, cuda_kernel_name(i));
  if (code == CUDA_SUCCESS) return CS_OK;
  driver->ModuleUnload(device->module);
  return cuda_error(driver, error, code, "cuModuleGetFunction");
}

cs_status cuda_device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                           uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                           cs_error *error) {
  *out = NULL;
  if (index >= instance->n_devices)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is no CUDA device %u", index);
  const cs_host *host = instance->host;
  device_options wanted;
  cs_status status = read_options(&wanted, options, n_options, option_stride, error);
  if (status != CS_OK) return status;
  cs_plugin_device *device = host->allocate(host->context, sizeof *device, 16);
  if (!device) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  memset(device, 0, sizeof *device);
  device->sdk = (cs_sdk_device){.host = host, .driver = &cuda_sdk_driver};
  device->driver = &instance->driver;
  device->ordinal = instance->devices[index];
  device->use_graphs = wanted.graphs;
  device->has_bf16 = cuda_capability(device->driver, device->ordinal) >= 80;
  cuda_describe(device->driver, device->ordinal, &device->properties);
  device->n_units = device->properties.concurrency ? device->properties.concurrency : 1;
  status = cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  if (pthread_mutex_init(&device->clock_mutex, NULL) != 0) goto err_free;
  if (wanted.cublaslt && !(device->blas = cuda_blas_create(device))) goto err_mutex;
  const CUresult code = device->driver->DevicePrimaryCtxRetain(&device->context, device->ordinal);
  if (code != CUDA_SUCCESS) {
    status = cuda_error(device->driver, error, code, "cuDevicePrimaryCtxRetain");
    goto err_blas;
  }
  status = wanted.fp8 ? want_fp8(device, error) : CS_OK;
  if (status == CS_OK) status = cuda_enter(device, error);
  if (status != CS_OK) goto err_release;
  status = load_kernels(device, error);
  cuda_leave(device);
  if (status != CS_OK) goto err_release;
  device->nvml = cuda_nvml_open(host, device->properties.uuid);
  *out = device;
  return CS_OK;

err_release:
  device->driver->DevicePrimaryCtxRelease(device->ordinal);
err_blas:
  cuda_blas_destroy(device->blas);
err_mutex:
  pthread_mutex_destroy(&device->clock_mutex);
err_free:
  host->deallocate(host->context, device);
  return status;
}

void cuda_device_close(cs_plugin_device *device) {
  if (!device) return;
  cuda_nvml_close(device->nvml);
  cuda_blas_destroy(device->blas);
  if (cuda_enter(device, NULL) == CS_OK) {
    if (device->clock_event) device->driver->EventDestroy(device->clock_event);
    device->driver->ModuleUnload(device->module);
    cuda_leave(device);
  }
  device->driver->DevicePrimaryCtxRelease(device->ordinal);
  pthread_mutex_destroy(&device->clock_mutex);
  device->sdk.host->deallocate(device->sdk.host->context, device);
}

cs_status cuda_device_properties(cs_plugin_device *device, cs_device_properties *out,
                                 cs_error *error) {
  cs_device_properties properties = device->properties;
  const cs_status status = cuda_enter(device, error);
  if (status != CS_OK) return status;
  size_t free_bytes = 0, total_bytes = 0;
  if (device->driver->MemGetInfo(&free_bytes, &total_bytes) == CUDA_SUCCESS)
    properties.memory_free_bytes = free_bytes;
  cuda_leave(device);
  cs_sdk_struct_write(out, &properties, sizeof properties);
  return CS_OK;
}
