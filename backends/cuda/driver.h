/* The NVIDIA driver, reached by dlopen: a table of the calls that the plugin makes, with the types
 * of the toolkit's header. Nothing is linked, so that the plugin loads on a machine without it. */
#ifndef CUDA_DRIVER_H
#define CUDA_DRIVER_H

#include <cuda.h>

#include "consort/status.h"

/* X(name): the driver's cuNAME, in the version that the header's macros pick. */
#define CUDA_CALLS(X)                                                                              \
  X(Init)                                                                                          \
  X(DriverGetVersion)                                                                              \
  X(GetErrorName)                                                                                  \
  X(DeviceGetCount)                                                                                \
  X(DeviceGet)                                                                                     \
  X(DeviceGetName)                                                                                 \
  X(DeviceGetUuid)                                                                                 \
  X(DeviceTotalMem)                                                                                \
  X(DeviceGetAttribute)                                                                            \
  X(DeviceCanAccessPeer)                                                                           \
  X(DevicePrimaryCtxRetain)                                                                        \
  X(DevicePrimaryCtxRelease)                                                                       \
  X(CtxPushCurrent)                                                                                \
  X(CtxPopCurrent)                                                                                 \
  X(CtxSetCurrent)                                                                                 \
  X(ModuleLoadData)                                                                                \
  X(ModuleUnload)                                                                                  \
  X(ModuleGetFunction)                                                                             \
  X(MemGetInfo)                                                                                    \
  X(MemAlloc)                                                                                      \
  X(MemFree)                                                                                       \
  X(MemHostAlloc)                                                                                  \
  X(MemFreeHost)                                                                                   \
  X(MemHostRegister)                                                                               \
  X(MemHostUnregister)                                                                             \
  X(MemHostGetDevicePointer)                                                                       \
  X(MemcpyHtoD)                                                                                    \
  X(MemcpyDtoH)                                                                                    \
  X(MemcpyHtoDAsync)                                                                               \
  X(MemcpyDtoHAsync)                                                                               \
  X(MemcpyAsync)                                                                                   \
  X(MemcpyPeerAsync)                                                                               \
  X(MemsetD8Async)                                                                                 \
  X(StreamCreate)                                                                                  \
  X(StreamDestroy)                                                                                 \
  X(StreamSynchronize)                                                                             \
  X(StreamQuery)                                                                                   \
  X(StreamAddCallback)                                                                             \
  X(StreamBeginCapture)                                                                            \
  X(StreamEndCapture)                                                                              \
  X(GraphInstantiate)                                                                              \
  X(GraphDestroy)                                                                                  \
  X(GraphExecDestroy)                                                                              \
  X(GraphLaunch)                                                                                   \
  X(LaunchKernel)                                                                                  \
  X(EventCreate)                                                                                   \
  X(EventDestroy)                                                                                  \
  X(EventRecord)                                                                                   \
  X(EventSynchronize)                                                                              \
  X(EventElapsedTime)

typedef struct cuda_driver {
#define CUDA_MEMBER(name) __typeof__(&cu##name) name;
  CUDA_CALLS(CUDA_MEMBER)
#undef CUDA_MEMBER
  int version; /* 13000: CUDA 13.0 */
} cuda_driver;

/* Loads and starts the driver. The error is one line that says what is missing. */
cs_status cuda_driver_start(cuda_driver *driver, cs_error *error);

/* The error of a driver without a device, with what to do where that is known. */
cs_status cuda_no_device(CUresult code, cs_error *error);

/* Fills *error with the call that failed and the driver's name for its code. Codes after which the
 * context is dead become CS_DEVICE_LOST. */
cs_status cuda_error(const cuda_driver *driver, cs_error *error, CUresult code, const char *call);

#endif
