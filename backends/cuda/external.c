/* Memory that others map: a file descriptor of pages of the host, which the driver pins and maps
 * for the device. The contract's descriptor is one that anybody can map, and those of the driver's
 * own allocations are not. So exported memory moves to the host: the device reaches it over the
 * bus, a pass of a kernel at the link's rate. Its address changes, so that what a recorded op list
 * has the old one of is not exported any more. */
#include "cuda_plugin.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static cs_status no_sharing(int code, cs_error *error) {
  return cs_sdk_error(error, CS_FAILED, code, "memory cannot be shared: %s", strerror(code));
}

/* Maps the descriptor into *memory, for host and device, with the context current. On success it
 * belongs to the memory. */
static cs_status map_file(cs_plugin_memory *memory, int fd, cs_error *error) {
  const cuda_driver *driver = memory->device->driver;
  void *data = mmap(NULL, memory->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return no_sharing(errno, error);
  CUresult code = driver->MemHostRegister(
      data, memory->bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
  if (code != CUDA_SUCCESS) goto err_unmap;
  code = driver->MemHostGetDevicePointer(&memory->address, data, 0);
  if (code != CUDA_SUCCESS) goto err_unregister;
  memory->host = data;
  memory->fd = fd;
  return CS_OK;

err_unregister:
  driver->MemHostUnregister(data);
err_unmap:
  munmap(data, memory->bytes);
  return cuda_error(driver, error, code, "cuMemHostRegister");
}

void cuda_shared_release(cs_plugin_memory *memory) {
  memory->device->driver->MemHostUnregister(memory->host);
  munmap(memory->host, memory->bytes);
  close(memory->fd);
}

/* ---- export ---- */

static cs_status copy_over(cs_plugin_memory *to, const cs_plugin_memory *from, cs_error *error) {
  const cuda_driver *driver = from->device->driver;
  if (from->host) {
    memcpy(to->host, from->host, from->bytes);
    return CS_OK;
  }
  const CUresult code = driver->MemcpyDtoH(to->host, from->address, from->bytes);
  return code == CUDA_SUCCESS ? CS_OK : cuda_error(driver, error, code, "cuMemcpyDtoH");
}

/* With the context current. */
static cs_status move_to_file(cs_plugin_memory *memory, cs_error *error) {
  const int fd = memfd_create("consort-cuda", MFD_CLOEXEC);
  if (fd < 0) return no_sharing(errno, error);
  cs_plugin_memory moved = {.device = memory->device, .bytes = memory->bytes, .fd = -1};
  cs_status status = ftruncate(fd, (off_t)memory->bytes) == 0 ? CS_OK : no_sharing(errno, error);
  if (status == CS_OK) status = map_file(&moved, fd, error);
  if (status != CS_OK) {
    close(fd);
    return status;
  }
  status = copy_over(&moved, memory, error);
  if (status != CS_OK) {
    cuda_shared_release(&moved);
    return status;
  }
  cuda_memory_release(memory);
  memory->address = moved.address;
  memory->host = moved.host;
  memory->fd = fd;
  return CS_OK;
}

static cs_status memory_export(cs_plugin_device *device, cs_plugin_memory *memory, uint32_t type,
                               int64_t *handle, cs_error *error) {
  *handle = -1;
  if (type != CS_EXTERNAL_FD)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "external memory of type %u", type);
  if (memory->packed)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "a packed weight is not shared");
  if (memory->fd < 0) {
    if (atomic_load(&memory->is_recorded))
      return cs_sdk_error(error, CS_UNSUPPORTED, 0,
                          "memory that a recorded op list names cannot move to be shared");
    cs_status status = cuda_enter(device, error);
    if (status != CS_OK) return status;
    status = move_to_file(memory, error);
    cuda_leave(device);
    if (status != CS_OK) return status;
  }
  *handle = fcntl(memory->fd, F_DUPFD_CLOEXEC, 3);
  return *handle >= 0 ? CS_OK : no_sharing(errno, error);
}

/* ---- import ---- */

static cs_status memory_import(cs_plugin_device *device, uint32_t type, int64_t handle,
                               uint64_t bytes, cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  cs_plugin_memory *memory = NULL;
  cs_status status = cs_sdk_check_import(type, handle, bytes, error);
  if (status == CS_OK) status = cuda_memory_create(device, bytes, &memory, error);
  if (status != CS_OK) return status;
  status = cuda_enter(device, error);
  if (status == CS_OK) {
    status = map_file(memory, (int)handle, error);
    cuda_leave(device);
  }
  if (status != CS_OK) {
    device->sdk.host->deallocate(device->sdk.host->context, memory);
    return status;
  }
  *out = memory;
  return CS_OK;
}

const cs_external_memory_table cuda_external_table = {.struct_size =
                                                          sizeof(cs_external_memory_table),
                                                      .types = UINT32_C(1) << CS_EXTERNAL_FD,
                                                      .memory_export = memory_export,
                                                      .memory_import = memory_import};
