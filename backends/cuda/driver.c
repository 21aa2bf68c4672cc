/* Starting the driver can fail in four ways that a user can mend, and each has its own line: there
 * is no driver library, the library found is the toolkit's stub, the driver is older than the
 * kernels, and there is no device. The library stays loaded: its threads outlive any handle. */
#include "driver.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

#include "consort/sdk.h"
#include "nvml.h"

/* A driver runs the kernels of its own major version and of older ones. */
#define VERSION_NEEDED (CUDA_VERSION / 1000 * 1000)

#define QUOTE(text)      #text
#define EXPANDED(text)   QUOTE(text)
#define CUDA_ENTRY(name) {EXPANDED(cu##name), offsetof(cuda_driver, name)},

static const struct {
  const char *symbol;
  size_t offset;
} entries[] = {CUDA_CALLS(CUDA_ENTRY)};

static cs_status bind(cuda_driver *driver, void *library, cs_error *error) {
  for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
    void *symbol = dlsym(library, entries[i].symbol);
    if (!symbol)
      return cs_sdk_error(error, CS_UNSUPPORTED, 0, "the NVIDIA driver has no %s: it is too old",
                          entries[i].symbol);
    memcpy((char *)driver + entries[i].offset, &symbol, sizeof symbol);
  }
  return CS_OK;
}

static cs_status check_version(cuda_driver *driver, void *library, cs_error *error) {
  __typeof__(&cuDriverGetVersion) get_version;
  *(void **)&get_version = dlsym(library, "cuDriverGetVersion");
  int version = 0;
  if (!get_version || get_version(&version) != CUDA_SUCCESS || version < VERSION_NEEDED)
    return cs_sdk_error(error, CS_UNSUPPORTED, version,
                        "the NVIDIA driver is for CUDA %d.%d, and %d.%d or newer is needed",
                        version / 1000, version % 1000 / 10, VERSION_NEEDED / 1000,
                        VERSION_NEEDED % 1000 / 10);
  driver->version = version;
  return CS_OK;
}

cs_status cuda_no_device(CUresult code, cs_error *error) {
  return cs_sdk_error(
      error, CS_NOT_FOUND, code,
      cuda_nvml_finds_mig()
          ? "the NVIDIA driver finds no device: a GPU in MIG mode is used by way of "
            "an instance (nvidia-smi mig -cgi, CUDA_VISIBLE_DEVICES=MIG-...)"
          : "the NVIDIA driver finds no device");
}

cs_status cuda_driver_start(cuda_driver *driver, cs_error *error) {
  memset(driver, 0, sizeof *driver);
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "no NVIDIA driver is installed (libcuda.so.1)");
  __typeof__(&cuInit) init;
  *(void **)&init = dlsym(library, "cuInit");
  const CUresult code = init ? init(0) : CUDA_ERROR_STUB_LIBRARY;
  if (code == CUDA_ERROR_STUB_LIBRARY)
    return cs_sdk_error(error, CS_NOT_FOUND, code,
                        "the libcuda.so.1 found is the toolkit's stub, not an NVIDIA driver");
  if (code == CUDA_ERROR_NO_DEVICE) return cuda_no_device(code, error);
  cs_status status = code == CUDA_SUCCESS || code == CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
                         ? check_version(driver, library, error)
                         : CS_OK;
  if (status != CS_OK) return status;
  if (code != CUDA_SUCCESS)
    return cs_sdk_error(error, CS_FAILED, code, "the NVIDIA driver does not start (cuInit: %d)",
                        (int)code);
  return bind(driver, library, error);
}

static cs_status status_of(CUresult code) {
  switch (code) {
  case CUDA_ERROR_OUT_OF_MEMORY:
    return CS_OUT_OF_MEMORY;
  case CUDA_ERROR_NOT_SUPPORTED:
  case CUDA_ERROR_NO_BINARY_FOR_GPU:
  case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
    return CS_UNSUPPORTED;
  case CUDA_ERROR_DEINITIALIZED:
  case CUDA_ERROR_DEVICE_UNAVAILABLE:
  case CUDA_ERROR_ECC_UNCORRECTABLE:
  case CUDA_ERROR_NVLINK_UNCORRECTABLE:
  case CUDA_ERROR_ILLEGAL_ADDRESS:
  case CUDA_ERROR_LAUNCH_TIMEOUT:
  case CUDA_ERROR_CONTEXT_IS_DESTROYED:
  case CUDA_ERROR_ASSERT:
  case CUDA_ERROR_HARDWARE_STACK_ERROR:
  case CUDA_ERROR_ILLEGAL_INSTRUCTION:
  case CUDA_ERROR_MISALIGNED_ADDRESS:
  case CUDA_ERROR_INVALID_ADDRESS_SPACE:
  case CUDA_ERROR_INVALID_PC:
  case CUDA_ERROR_LAUNCH_FAILED:
    return CS_DEVICE_LOST;
  default:
    return CS_FAILED;
  }
}

cs_status cuda_error(const cuda_driver *driver, cs_error *error, CUresult code, const char *call) {
  const char *name = NULL;
  if (driver->GetErrorName(code, &name) != CUDA_SUCCESS || !name) name = "an unknown error";
  return cs_sdk_error(error, status_of(code), code, "%s failed: %s (%d)", call, name, (int)code);
}
