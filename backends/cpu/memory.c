/* Device memory is host memory. Large pieces are aligned to huge pages, which matters most where
 * weights are read once a token. An amount that the machine has not left is refused at once: the
 * operating system would grant it and end the process later. */
#include "cpu.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "numa.h"

#define LARGE_BYTES (UINT64_C(8) << 20)

/* Whole huge pages alone: what is smaller comes from a heap that others use too. */
static void place(const cs_plugin_device *device, unsigned char *data, uint64_t bytes) {
  cpu_span spans[CPU_MAX_THREADS];
  const uint64_t before = -(uintptr_t)data % CPU_HUGE_PAGE_BYTES;
  if (bytes < LARGE_BYTES) return;
  const uint64_t whole = (bytes - before) / CPU_HUGE_PAGE_BYTES * CPU_HUGE_PAGE_BYTES;
  const uint32_t n =
      cpu_numa_deal(device->nodes, device->n_threads, whole, CPU_HUGE_PAGE_BYTES, spans);
  cpu_numa_bind(data + before, spans, n);
}

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
  memory->fd = -1;
  memory->data =
      host->allocate(host->context, bytes, large ? CPU_HUGE_PAGE_BYTES : CPU_TENSOR_ALIGN);
  if (!memory->data) {
    host->deallocate(host->context, memory);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for %llu bytes",
                        (unsigned long long)bytes);
  }
  if (large)
    madvise(memory->data, bytes / CPU_HUGE_PAGE_BYTES * CPU_HUGE_PAGE_BYTES, MADV_HUGEPAGE);
  if (device->on_node) place(device, memory->data, bytes);
  *out = memory;
  return CS_OK;
}

void cpu_memory_spread(const cs_plugin_device *device, unsigned char *data, uint64_t bytes) {
  if (device->spreads) place(device, data, bytes);
}

cs_status cpu_memory_borrow(cs_plugin_device *device, const void *data, uint64_t bytes,
                            cs_plugin_memory **out, cs_error *error) {
  cs_plugin_memory *memory = device->host->allocate(device->host->context, sizeof *memory, 8);
  *out = memory;
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  *memory = (cs_plugin_memory){
      .data = (void *)(uintptr_t)data, .bytes = bytes, .fd = -1, .is_borrowed = true};
  return CS_OK;
}

static void release_data(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (memory->is_borrowed) return;
  if (memory->fd < 0) {
    device->host->deallocate(device->host->context, memory->data);
    return;
  }
  munmap(memory->data, memory->bytes);
  close(memory->fd);
}

void cpu_memory_destroy(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (!memory) return;
  release_data(device, memory);
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

/* ---- memory shared with other plugins ---- */

static cs_status no_sharing(int code, cs_error *error) {
  return cs_sdk_error(error, CS_FAILED, code, "memory cannot be shared: %s", strerror(code));
}

/* Memory of the heap has no descriptor: its bytes move to pages that have one. */
static cs_status move_to_file(cs_plugin_device *device, cs_plugin_memory *memory, cs_error *error) {
  const int fd = memfd_create("consort-cpu", MFD_CLOEXEC);
  if (fd < 0) return no_sharing(errno, error);
  void *data = MAP_FAILED;
  if (ftruncate(fd, (off_t)memory->bytes) == 0)
    data = mmap(NULL, memory->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    const int code = errno;
    close(fd);
    return no_sharing(code, error);
  }
  memcpy(data, memory->data, memory->bytes);
  release_data(device, memory);
  memory->is_borrowed = false;
  memory->data = data;
  memory->fd = fd;
  return CS_OK;
}

static cs_status cpu_memory_export(cs_plugin_device *device, cs_plugin_memory *memory,
                                   uint32_t type, int64_t *handle, cs_error *error) {
  *handle = -1;
  if (type != CS_EXTERNAL_FD)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "external memory of type %u", type);
  if (memory->fd < 0) {
    const cs_status status = move_to_file(device, memory, error);
    if (status != CS_OK) return status;
  }
  *handle = fcntl(memory->fd, F_DUPFD_CLOEXEC, 3);
  return *handle >= 0 ? CS_OK : no_sharing(errno, error);
}

static cs_status cpu_memory_import(cs_plugin_device *device, uint32_t type, int64_t handle,
                                   uint64_t bytes, cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  const cs_status status = cs_sdk_check_import(type, handle, bytes, error);
  if (status != CS_OK) return status;
  const cs_host *host = device->host;
  cs_plugin_memory *memory = host->allocate(host->context, sizeof *memory, 8);
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, (int)handle, 0);
  if (data == MAP_FAILED) {
    const int code = errno;
    host->deallocate(host->context, memory);
    return no_sharing(code, error);
  }
  *memory = (cs_plugin_memory){.data = data, .bytes = bytes, .fd = (int)handle};
  *out = memory;
  return CS_OK;
}

const cs_external_memory_table cpu_external_table = {
    .struct_size = sizeof(cs_external_memory_table),
    .types = UINT32_C(1) << CS_EXTERNAL_FD,
    .memory_export = cpu_memory_export,
    .memory_import = cpu_memory_import,
};
