/* Buffers. OpenCL allocates lazily and tells of exhaustion late, so the device's own limit on one
 * allocation is checked first, where the message can say what was asked for. */
#include "opencl.h"

#include <string.h>

cs_status opencl_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                 cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  if (kind == CS_MEMORY_STAGING)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "OpenCL copies from and to the host's memory");
  if (kind != CS_MEMORY_DEVICE || bytes == 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "memory of kind %u and %llu bytes", kind,
                        (unsigned long long)bytes);
  if (bytes > device->max_allocation_bytes)
    return cs_sdk_error(
        error, CS_OUT_OF_MEMORY, 0, "%llu bytes are more than one OpenCL buffer holds here (%llu)",
        (unsigned long long)bytes, (unsigned long long)device->max_allocation_bytes);
  cs_plugin_memory *memory = device->common.sdk.host->allocate(
      device->common.sdk.host->context, sizeof *memory, _Alignof(max_align_t));
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  memset(memory, 0, sizeof *memory);
  memory->common.device = &device->common;
  memory->common.bytes = bytes;
  cl_int code = CL_SUCCESS;
  memory->buffer = clCreateBuffer(device->context, CL_MEM_READ_WRITE, bytes, NULL, &code);
  if (code != CL_SUCCESS) {
    device->common.sdk.host->deallocate(device->common.sdk.host->context, memory);
    return opencl_error(error, code, "clCreateBuffer");
  }
  pthread_mutex_lock(&device->mutex);
  device->allocated_bytes += bytes;
  pthread_mutex_unlock(&device->mutex);
  *out = memory;
  return CS_OK;
}

void opencl_memory_free(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (!memory) return;
  pthread_mutex_lock(&device->mutex);
  device->allocated_bytes -= memory->common.bytes;
  pthread_mutex_unlock(&device->mutex);
  clReleaseMemObject(memory->buffer);
  device->common.sdk.host->deallocate(device->common.sdk.host->context, memory);
}

/* Writes through a mapping: on a device with the host's memory that is the buffer itself. */
cs_status opencl_memory_pack(cs_plugin_device *device, cs_plugin_memory *memory,
                             const clc_source *source, cs_error *error) {
  cl_int code = CL_SUCCESS;
  unsigned char *to =
      clEnqueueMapBuffer(device->transfers, memory->buffer, CL_TRUE, CL_MAP_WRITE_INVALIDATE_REGION,
                         0, memory->common.bytes, 0, NULL, NULL, &code);
  if (code != CL_SUCCESS) return opencl_error(error, code, "clEnqueueMapBuffer");
  clc_pack(source, 0, clc_units(source), to);
  code = clEnqueueUnmapMemObject(device->transfers, memory->buffer, to, 0, NULL, NULL);
  if (code == CL_SUCCESS) code = clFinish(device->transfers);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueUnmapMemObject");
}

const cs_memory_table opencl_memory_table = {.struct_size = sizeof(cs_memory_table),
                                             .memory_allocate = opencl_memory_allocate,
                                             .memory_free = opencl_memory_free};
