/* Modules of kernels. A module is compiled when an op first asks for it: a model needs two or three
 * of the nine, and each costs the better part of a second where no binary is cached. */
#include "opencl.h"

#include <string.h>

uint64_t opencl_hash(uint64_t hash, const void *data, size_t bytes) {
  const unsigned char *byte = data;
  for (size_t i = 0; i < bytes; i++)
    hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
  return hash;
}

/* Everything that a binary depends on. */
static uint64_t cache_key(const cs_plugin_device *device, const char *source, const char *options) {
  char text[512];
  uint64_t key = opencl_hash(OPENCL_HASH_START, source, strlen(source) + 1);
  key = opencl_hash(key, options, strlen(options) + 1);
  opencl_platform_text(device->found.platform, CL_PLATFORM_VERSION, text, sizeof text);
  key = opencl_hash(key, text, strlen(text) + 1);
  static const cl_device_info names[] = {CL_DEVICE_NAME, CL_DEVICE_VERSION, CL_DRIVER_VERSION};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    opencl_device_text(device->found.device, names[i], text, sizeof text);
    key = opencl_hash(key, text, strlen(text) + 1);
  }
  return key;
}

/* NULL when there is no usable binary. */
static cl_program build_from_cache(cs_plugin_device *device, uint64_t key, const char *options) {
  size_t bytes = 0;
  void *binary = opencl_cache_load(device->common.sdk.host, key, &bytes);
  if (!binary) return NULL;
  cl_int code = CL_SUCCESS, binary_code = CL_SUCCESS;
  const unsigned char *binaries[] = {binary};
  cl_program program = clCreateProgramWithBinary(device->context, 1, &device->found.device, &bytes,
                                                 binaries, &binary_code, &code);
  device->common.sdk.host->deallocate(device->common.sdk.host->context, binary);
  if (code != CL_SUCCESS) return NULL;
  if (binary_code == CL_SUCCESS &&
      clBuildProgram(program, 1, &device->found.device, options, NULL, NULL) == CL_SUCCESS)
    return program;
  clReleaseProgram(program);
  return NULL;
}

static void store_binary(cs_plugin_device *device, uint64_t key, cl_program program) {
  size_t bytes = 0;
  if (clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof bytes, &bytes, NULL) !=
          CL_SUCCESS ||
      bytes == 0)
    return;
  unsigned char *binary =
      device->common.sdk.host->allocate(device->common.sdk.host->context, bytes, 16);
  if (!binary) return;
  unsigned char *binaries[] = {binary};
  if (clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof binaries, binaries, NULL) == CL_SUCCESS)
    opencl_cache_store(device->common.sdk.host, key, binary, bytes);
  device->common.sdk.host->deallocate(device->common.sdk.host->context, binary);
}

/* The compiler's log goes to the host's, its first line into the error. */
static cs_status build_failed(cs_plugin_device *device, cl_program program, cl_int code,
                              cs_error *error) {
  char log[4096] = "";
  clGetProgramBuildInfo(program, device->found.device, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log,
                        NULL);
  if (device->common.sdk.host->log && log[0])
    device->common.sdk.host->log(device->common.sdk.host->context, CS_LOG_DEBUG, log);
  log[strcspn(log, "\n")] = '\0';
  return cs_sdk_error(error, CS_FAILED, code, "the device's compiler failed: %.160s",
                      log[0] ? log : opencl_error_name(code));
}

static cs_status build(cs_plugin_device *device, clc_module module, cl_program *out,
                       cs_error *error) {
  const char *source = clc_module_text(module, device->common.variant);
  const char *options = clc_module_options(module, device->common.variant);
  const uint64_t key = device->use_cache ? cache_key(device, source, options) : 0;
  *out = device->use_cache ? build_from_cache(device, key, options) : NULL;
  if (*out) return CS_OK;
  cl_int code = CL_SUCCESS;
  cl_program program = clCreateProgramWithSource(device->context, 1, &source, NULL, &code);
  if (code != CL_SUCCESS) return opencl_error(error, code, "clCreateProgramWithSource");
  code = clBuildProgram(program, 1, &device->found.device, options, NULL, NULL);
  if (code != CL_SUCCESS) {
    const cs_status status = build_failed(device, program, code, error);
    clReleaseProgram(program);
    return status;
  }
  if (device->use_cache) store_binary(device, key, program);
  *out = program;
  return CS_OK;
}

cs_status opencl_module_require(cs_plugin_device *device, clc_module module, cs_error *error) {
  cs_status status = CS_OK;
  pthread_mutex_lock(&device->mutex);
  if (!device->programs[module]) status = build(device, module, &device->programs[module], error);
  pthread_mutex_unlock(&device->mutex);
  return status;
}

cs_status opencl_kernel_create(cs_plugin_device *device, clc_module module, clc_kernel kernel,
                               cl_kernel *out, cs_error *error) {
  cl_int code = CL_SUCCESS;
  pthread_mutex_lock(&device->mutex);
  *out = clCreateKernel(device->programs[module], clc_kernel_name(kernel), &code);
  pthread_mutex_unlock(&device->mutex);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clCreateKernel");
}
