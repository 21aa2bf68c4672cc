/* Memory of the simulated device: a mapping with no access rights, a list of allocations kept in
 * host memory, first fit. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* Puts other pages behind an allocation, with the rights that all of it has at this moment: those
 * of a file, or with fd -1 fresh ones. Under the mutex. */
static bool map_pages(npu_memory *memory, const cs_plugin_memory *allocation, int fd) {
  const int rights = memory->n_open > 0 ? PROT_READ | PROT_WRITE : PROT_NONE;
  const int kind = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  return mmap(memory->base + allocation->offset, allocation->bytes, rights, kind | MAP_FIXED, fd,
              0) != MAP_FAILED;
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
  const uint64_t rounded = (bytes + NPU_PAGE_BYTES - 1) / NPU_PAGE_BYTES * NPU_PAGE_BYTES;
  pthread_mutex_lock(&memory->mutex);
  uint64_t offset;
  cs_plugin_memory **link = find_gap(memory, rounded, &offset);
  if (link) {
    *allocation = (cs_plugin_memory){.offset = offset, .bytes = rounded, .fd = -1, .next = *link};
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
  if (allocation->fd >= 0) {
    map_pages(memory, allocation, -1);
    close(allocation->fd);
  }
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

/* ---- shared memory ---- */

/* Moves an allocation's bytes to pages of a file, where they stay under the same address. */
static cs_status share_pages(npu_memory *memory, cs_plugin_memory *allocation, cs_error *error) {
  const int fd = memfd_create("npu-sim", MFD_CLOEXEC);
  void *view = MAP_FAILED;
  if (fd >= 0 && ftruncate(fd, (off_t)allocation->bytes) == 0)
    view = mmap(NULL, allocation->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  bool mapped = false;
  if (view != MAP_FAILED) {
    npu_memory_open(memory);
    memcpy(view, memory->base + allocation->offset, allocation->bytes);
    pthread_mutex_lock(&memory->mutex);
    mapped = map_pages(memory, allocation, fd);
    pthread_mutex_unlock(&memory->mutex);
    npu_memory_close(memory);
    munmap(view, allocation->bytes);
  }
  if (mapped) {
    allocation->fd = fd;
    return CS_OK;
  }
  const int code = errno;
  if (fd >= 0) close(fd);
  return cs_sdk_error(error, CS_FAILED, code, "memory cannot be shared: %s", strerror(code));
}

static cs_status memory_export(cs_plugin_device *device, cs_plugin_memory *memory, uint32_t type,
                               int64_t *handle, cs_error *error) {
  *handle = -1;
  if (type != CS_EXTERNAL_FD)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "external memory of type %u", type);
  if (memory->fd < 0) {
    const cs_status status = share_pages(&device->memory, memory, error);
    if (status != CS_OK) return status;
  }
  *handle = fcntl(memory->fd, F_DUPFD_CLOEXEC, 3);
  if (*handle >= 0) return CS_OK;
  return cs_sdk_error(error, CS_FAILED, errno, "no descriptor: %s", strerror(errno));
}

static cs_status memory_import(cs_plugin_device *device, uint32_t type, int64_t handle,
                               uint64_t bytes, cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  cs_status status = cs_sdk_check_import(type, handle, bytes, error);
  if (status != CS_OK) return status;
  status = npu_memory_take(&device->memory, bytes, out, error);
  if (status != CS_OK) return status;
  pthread_mutex_lock(&device->memory.mutex);
  const bool mapped = map_pages(&device->memory, *out, (int)handle);
  if (mapped) (*out)->fd = (int)handle;
  pthread_mutex_unlock(&device->memory.mutex);
  if (mapped) return CS_OK;
  status =
      cs_sdk_error(error, CS_FAILED, errno, "shared memory cannot be mapped: %s", strerror(errno));
  npu_memory_give(&device->memory, *out);
  *out = NULL;
  return status;
}

const cs_external_memory_table npu_external_table = {.struct_size = sizeof npu_external_table,
                                                     .types = UINT32_C(1) << CS_EXTERNAL_FD,
                                                     .memory_export = memory_export,
                                                     .memory_import = memory_import};
