/* Memory of the simulated device: a mapping with no access rights, a list of allocations kept in
 * host memory, first fit. */
#include <sys/mman.h>

#include "npu.h"

cs_status npu_memory_init(npu_memory *memory, const cs_host *host, uint64_t bytes,
                          cs_error *error) {
  *memory = (npu_memory){.host = host, .bytes = bytes};
  memory->base = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory->base == MAP_FAILED)
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no room for %llu bytes of device memory",
                        (unsigned long long)bytes);
  if (pthread_mutex_init(&memory->mutex, NULL) == 0) return CS_OK;
  munmap(memory->base, bytes);
  return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no mutex");
}

void npu_memory_finish(npu_memory *memory) {
  munmap(memory->base, memory->bytes);
  pthread_mutex_destroy(&memory->mutex);
}

/* The link behind which `bytes` fit, NULL when nowhere; *offset is where. Under the mutex. */
static cs_plugin_memory **find_gap(npu_memory *memory, uint64_t bytes, uint64_t *offset) {
  cs_plugin_memory **link = &memory->first;
  *offset = 0;
  for (; *link; link = &(*link)->next) {
    if ((*link)->offset - *offset >= bytes) return link;
    *offset = (*link)->offset + (*link)->bytes;
  }
  return memory->bytes - *offset >= bytes ? link : NULL;
}

cs_status npu_memory_take(npu_memory *memory, uint64_t bytes, cs_plugin_memory **out,
                          cs_error *error) {
  const cs_host *host = memory->host;
  *out = NULL;
  if (bytes == 0 || bytes > memory->bytes)
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "%llu bytes of %llu are asked for",
                        (unsigned long long)bytes, (unsigned long long)memory->bytes);
  cs_plugin_memory *allocation = host->allocate(host->context, sizeof *allocation, 16);
  if (!allocation) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  const uint64_t align = NPU_TENSOR_ALIGN;
  const uint64_t rounded = (bytes + align - 1) / align * align;
  pthread_mutex_lock(&memory->mutex);
  uint64_t offset;
  cs_plugin_memory **link = find_gap(memory, rounded, &offset);
  if (link) {
    *allocation = (cs_plugin_memory){.offset = offset, .bytes = rounded, .next = *link};
    *link = allocation;
    memory->taken_bytes += rounded;
  }
  pthread_mutex_unlock(&memory->mutex);
  if (!link) {
    host->deallocate(host->context, allocation);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no gap of %llu bytes in device memory",
                        (unsigned long long)bytes);
  }
  *out = allocation;
  return CS_OK;
}

void npu_memory_give(npu_memory *memory, cs_plugin_memory *allocation) {
  if (!allocation) return;
  pthread_mutex_lock(&memory->mutex);
  cs_plugin_memory **link = &memory->first;
  while (*link != allocation)
    link = &(*link)->next;
  *link = allocation->next;
  memory->taken_bytes -= allocation->bytes;
  pthread_mutex_unlock(&memory->mutex);
  memory->host->deallocate(memory->host->context, allocation);
}

void npu_memory_open(npu_memory *memory) {
  pthread_mutex_lock(&memory->mutex);
  if (memory->n_open++ == 0) mprotect(memory->base, memory->bytes, PROT_READ | PROT_WRITE);
  pthread_mutex_unlock(&memory->mutex);
}

void npu_memory_close(npu_memory *memory) {
  pthread_mutex_lock(&memory->mutex);
  if (--memory->n_open == 0) mprotect(memory->base, memory->bytes, PROT_NONE);
  pthread_mutex_unlock(&memory->mutex);
}

/* ---- the ABI's table ---- */

static cs_status memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                 cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  if (kind != CS_MEMORY_DEVICE)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "the host cannot reach any of its memory");
  return npu_memory_take(&device->memory, bytes, out, error);
}

static void memory_free(cs_plugin_device *device, cs_plugin_memory *memory) {
  npu_memory_give(&device->memory, memory);
}

const cs_memory_table npu_memory_table = {.struct_size = sizeof npu_memory_table,
                                          .memory_allocate = memory_allocate,
                                          .memory_free = memory_free};
