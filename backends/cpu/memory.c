/* Device memory is host memory. Large pieces are aligned to huge pages, which matters most where
 * weights are read once a token. An amount that the machine has not left is refused at once: the
 * operating system would grant it and end the process later. */
#include "cpu.h"

#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)
#define LARGE_BYTES     (UINT64_C(8) << 20)

cs_status cpu_memory_create(cs_plugin_device *device, uint64_t bytes, cs_plugin_memory **out,
                            cs_error *error) {
  *out = NULL;
  const bool large = bytes >= LARGE_BYTES;
  if (large && bytes > cpu_memory_available())
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "%llu bytes asked for, %llu available",
                        (unsigned long long)bytes, (unsigned long long)cpu_memory_available());
  const cs_host *host = device->host;
  cs_plugin_memory *memory = host->allocate(host->context, sizeof *memory, 8);
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  memset(memory, 0, sizeof *memory);
  memory->bytes = bytes;
  memory->data = host->allocate(host->context, bytes, large ? HUGE_PAGE_BYTES : CPU_TENSOR_ALIGN);
  if (!memory->data) {
    host->deallocate(host->context, memory);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for %llu bytes",
                        (unsigned long long)bytes);
  }
  if (large) madvise(memory->data, bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES, MADV_HUGEPAGE);
  *out = memory;
  return CS_OK;
}

void cpu_memory_destroy(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (!memory) return;
  device->host->deallocate(device->host->context, memory->data);
  device->host->deallocate(device->host->context, memory);
}

static cs_status cpu_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                     cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  if (bytes == 0 || kind > CS_MEMORY_STAGING)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%llu bytes of memory kind %u",
                        (unsigned long long)bytes, kind);
  return cpu_memory_create(device, bytes, out, error);
}

static void *cpu_memory_host_pointer(cs_plugin_device *device, cs_plugin_memory *memory) {
  (void)device;
  return memory->data;
}

const cs_memory_table cpu_memory_table = {
    .struct_size = sizeof(cs_memory_table),
    .memory_allocate = cpu_memory_allocate,
    .memory_free = cpu_memory_destroy,
    .memory_host_pointer = cpu_memory_host_pointer,
};
