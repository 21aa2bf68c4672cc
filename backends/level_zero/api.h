/* The functions of the Level Zero loader that the plugin calls, reached by dlopen: the plugin
 * starts to say what is missing where no loader is installed. */
#ifndef LEVEL_ZERO_API_H
#define LEVEL_ZERO_API_H

#include <level_zero/ze_api.h>

#include "consort/sdk.h"
#include "sysman.h"

#define LEVEL_ZERO_FUNCTIONS(X)                                                                    \
  X(zeInit)                                                                                        \
  X(zeDriverGet)                                                                                   \
  X(zeDriverGetProperties)                                                                         \
  X(zeDeviceGet)                                                                                   \
  X(zeDeviceGetProperties)                                                                         \
  X(zeDeviceGetComputeProperties)                                                                  \
  X(zeDeviceGetMemoryProperties)                                                                   \
  X(zeDeviceGetCommandQueueGroupProperties)                                                        \
  X(zeDeviceCanAccessPeer)                                                                         \
  X(zeContextCreate)                                                                               \
  X(zeContextDestroy)                                                                              \
  X(zeMemAllocDevice)                                                                              \
  X(zeMemAllocShared)                                                                              \
  X(zeMemAllocHost)                                                                                \
  X(zeMemFree)                                                                                     \
  X(zeMemGetAllocProperties)                                                                       \
  X(zeModuleCreate)                                                                                \
  X(zeModuleDestroy)                                                                               \
  X(zeModuleBuildLogGetString)                                                                     \
  X(zeModuleBuildLogDestroy)                                                                       \
  X(zeKernelCreate)                                                                                \
  X(zeKernelDestroy)                                                                               \
  X(zeKernelSetGroupSize)                                                                          \
  X(zeKernelSetArgumentValue)                                                                      \
  X(zeCommandQueueCreate)                                                                          \
  X(zeCommandQueueDestroy)                                                                         \
  X(zeCommandQueueExecuteCommandLists)                                                             \
  X(zeFenceCreate)                                                                                 \
  X(zeFenceDestroy)                                                                                \
  X(zeFenceHostSynchronize)                                                                        \
  X(zeFenceReset)                                                                                  \
  X(zeCommandListCreate)                                                                           \
  X(zeCommandListCreateImmediate)                                                                  \
  X(zeCommandListDestroy)                                                                          \
  X(zeCommandListClose)                                                                            \
  X(zeCommandListAppendBarrier)                                                                    \
  X(zeCommandListAppendMemoryCopy)                                                                 \
  X(zeCommandListAppendMemoryFill)                                                                 \
  X(zeCommandListAppendLaunchKernel)                                                               \
  X(zeEventPoolCreate)                                                                             \
  X(zeEventPoolDestroy)                                                                            \
  X(zeEventCreate)                                                                                 \
  X(zeEventDestroy)                                                                                \
  X(zeEventHostSynchronize)                                                                        \
  X(zeEventHostReset)

#define LEVEL_ZERO_MEMBER(name) __typeof__(&name) name;
typedef struct level_zero_api {
  LEVEL_ZERO_FUNCTIONS(LEVEL_ZERO_MEMBER)
  level_zero_sysman_api sysman;
} level_zero_api;
#undef LEVEL_ZERO_MEMBER

/* Opens the loader, which stays open for the life of the process: drivers do not survive being
 * unloaded. CS_NOT_FOUND without a loader, CS_UNSUPPORTED when it lacks a function. */
cs_status level_zero_api_load(level_zero_api *out, cs_error *error);

/* Fills *error with the call that failed and its result. */
cs_status level_zero_error(cs_error *error, ze_result_t result, const char *call);

/* Returns from a function that has `error` when a call of the loader fails. */
#define LEVEL_ZERO_TRY(api, name, ...)                                                             \
  do {                                                                                             \
    const ze_result_t result_ = (api)->name(__VA_ARGS__);                                          \
    if (result_ != ZE_RESULT_SUCCESS) return level_zero_error(error, result_, #name);              \
  } while (0)

#endif
