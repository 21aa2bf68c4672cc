/* The loader by dlopen, and its results as Consort's status codes. */
#include "api.h"

#include <dlfcn.h>
#include <string.h>

#define LOADER "libze_loader.so.1"

cs_status level_zero_api_load(level_zero_api *out, cs_error *error) {
  void *loader = dlopen(LOADER, RTLD_NOW | RTLD_LOCAL);
  if (!loader)
    return cs_sdk_error(error, CS_NOT_FOUND, 0,
                        "the Level Zero loader (" LOADER ") is not installed");
#define LOAD(name)                                                                                 \
  do {                                                                                             \
    void *const function = dlsym(loader, #name);                                                   \
    if (!function)                                                                                 \
      return cs_sdk_error(error, CS_UNSUPPORTED, 0, LOADER " is too old: it has no " #name);       \
    memcpy(&out->name, &function, sizeof function);                                                \
  } while (0);
  LEVEL_ZERO_FUNCTIONS(LOAD)
#undef LOAD
#define LOAD_IF_THERE(name)                                                                        \
  do {                                                                                             \
    void *const function = dlsym(loader, #name);                                                   \
    memcpy(&out->sysman.name, &function, sizeof function);                                         \
  } while (0);
  LEVEL_ZERO_SYSMAN_FUNCTIONS(LOAD_IF_THERE)
#undef LOAD_IF_THERE
  return CS_OK;
}

typedef struct error_entry {
  ze_result_t result;
  cs_status status;
  const char *name;
} error_entry;

static const error_entry entries[] = {
    {ZE_RESULT_NOT_READY, CS_TIMEOUT, "NOT_READY"},
    {ZE_RESULT_ERROR_DEVICE_LOST, CS_DEVICE_LOST, "DEVICE_LOST"},
    {ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY, CS_OUT_OF_MEMORY, "OUT_OF_HOST_MEMORY"},
    {ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY, CS_OUT_OF_MEMORY, "OUT_OF_DEVICE_MEMORY"},
    {ZE_RESULT_ERROR_MODULE_BUILD_FAILURE, CS_FAILED, "MODULE_BUILD_FAILURE"},
    {ZE_RESULT_ERROR_UNINITIALIZED, CS_NOT_FOUND, "UNINITIALIZED"},
    {ZE_RESULT_ERROR_UNSUPPORTED_VERSION, CS_UNSUPPORTED, "UNSUPPORTED_VERSION"},
    {ZE_RESULT_ERROR_UNSUPPORTED_FEATURE, CS_UNSUPPORTED, "UNSUPPORTED_FEATURE"},
    {ZE_RESULT_ERROR_INVALID_ARGUMENT, CS_FAILED, "INVALID_ARGUMENT"},
    {ZE_RESULT_ERROR_UNSUPPORTED_SIZE, CS_OUT_OF_MEMORY, "UNSUPPORTED_SIZE"},
    {ZE_RESULT_ERROR_INVALID_KERNEL_NAME, CS_FAILED, "INVALID_KERNEL_NAME"},
    {ZE_RESULT_ERROR_INVALID_GROUP_SIZE_DIMENSION, CS_FAILED, "INVALID_GROUP_SIZE_DIMENSION"},
    {ZE_RESULT_ERROR_INVALID_KERNEL_ARGUMENT_SIZE, CS_FAILED, "INVALID_KERNEL_ARGUMENT_SIZE"},
};

cs_status level_zero_error(cs_error *error, ze_result_t result, const char *call) {
  for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++)
    if (entries[i].result == result)
      return cs_sdk_error(error, entries[i].status, result, "%s failed: %s (0x%x)", call,
                          entries[i].name, (unsigned)result);
  return cs_sdk_error(error, CS_FAILED, result, "%s failed: 0x%x", call, (unsigned)result);
}
