/* Device memory, and pinned host memory for staging: the copy engines read and write the latter
 * directly, at the link's rate and without holding up the thread that enqueues. */
#include "cuda_plugin.h"

#include <string.h>

cs_status cuda_memory_create(cs_plugin_device *device, uint64_t bytes, cs_plugin_memory **out,
                             cs_error *error) {
  const cs_host *host = device->sdk.host;
  cs_plugin_memory *memory = host->allocate(host->context, sizeof *memory, 16);
  *out = memory;
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  memset(memory, 0, sizeof *memory);
  memory->device = device;
  memory->bytes = bytes;
  memory->fd = -1;
  return CS_OK;
}

static CUresult allocate(cs_plugin_memory *memory, uint32_t kind) {
  const cuda_driver *driver = memory->device->driver;
  if (kind == CS_MEMORY_DEVICE) return driver->MemAlloc(&memory->address, memory->bytes);
  const CUresult code =
      driver->MemHostAlloc(&memory->host, memory->bytes, CU_MEMHOSTALLOC_PORTABLE);
  memory->address = (CUdeviceptr)(uintptr_t)memory->host; /* unified addressing */
  return code;
}

cs_status cuda_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                               cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  if ((kind != CS_MEMORY_DEVICE && kind != CS_MEMORY_STAGING) || bytes == 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "memory of kind %u and %llu bytes", kind,
                        (unsigned long long)bytes);
  cs_plugin_memory *memory = NULL;
  cs_status status = cuda_memory_create(device, bytes, &memory, error);
  if (status != CS_OK) return status;
  status = cuda_enter(device, error);
  if (status == CS_OK) {
    const CUresult code = allocate(memory, kind);
    cuda_leave(device);
    if (code == CUDA_ERROR_OUT_OF_MEMORY)
      status = cs_sdk_error(error, CS_OUT_OF_MEMORY, code, "no %s memory for %llu bytes",
                            kind == CS_MEMORY_DEVICE ? "device" : "pinned host",
                            (unsigned long long)bytes);
    else if (code != CUDA_SUCCESS)
      status = cuda_error(device->driver, error, code,
                          kind == CS_MEMORY_DEVICE ? "cuMemAlloc" : "cuMemHostAlloc");
  }
  if (status != CS_OK) {
    device->sdk.host->deallocate(device->sdk.host->context, memory);
    return status;
  }
  *out = memory;
  return CS_OK;
}

void cuda_memory_release(cs_plugin_memory *memory) {
  const cuda_driver *driver = memory->device->driver;
  if (memory->fd >= 0)
    cuda_shared_release(memory);
  else if (memory->host)
    driver->MemFreeHost(memory->host);
  else
    driver->MemFree(memory->address);
}

void cuda_memory_free(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (!memory) return;
  if (cuda_enter(device, NULL) == CS_OK) {
    cuda_memory_release(memory);
    cuda_leave(device);
  }
  device->sdk.host->deallocate(device->sdk.host->context, memory);
}

static void *memory_host_pointer(cs_plugin_device *device, cs_plugin_memory *memory) {
  (void)device;
  return memory->host;
}

const cs_memory_table cuda_memory_table = {.struct_size = sizeof(cs_memory_table),
                                           .memory_allocate = cuda_memory_allocate,
                                           .memory_free = cuda_memory_free,
                                           .memory_host_pointer = memory_host_pointer};
