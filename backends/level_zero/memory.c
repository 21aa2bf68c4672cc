/* Allocations: the device's own memory, or memory that it shares with the host, and host memory
 * that it reaches for staging. */
#include "level_zero.h"

#include <string.h>

#define PACK_BYTES (16u << 20) /* packed at a time, on the way to the device */

cs_status level_zero_host_allocate(const level_zero_api *api, ze_context_handle_t context,
                                   uint64_t bytes, unsigned char **out, cs_error *error) {
  const ze_host_mem_alloc_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC};
  void *pointer = NULL;
  LEVEL_ZERO_TRY(api, zeMemAllocHost, context, &desc, bytes, CLC_TENSOR_ALIGN, &pointer);
  *out = pointer;
  return CS_OK;
}

static cs_status allocate_pointer(const cs_plugin_device *device, cs_plugin_memory *memory,
                                  cs_error *error) {
  const level_zero_api *api = &device->root->api;
  const uint64_t bytes = memory->common.bytes;
  if (memory->kind == CS_MEMORY_STAGING)
    return level_zero_host_allocate(api, device->context, bytes, &memory->pointer, error);
  const ze_device_mem_alloc_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_DEVICE_MEM_ALLOC_DESC};
  const ze_host_mem_alloc_desc_t host = {.stype = ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC};
  void *pointer = NULL;
  if (device->shared)
    LEVEL_ZERO_TRY(api, zeMemAllocShared, device->context, &desc, &host, bytes, CLC_TENSOR_ALIGN,
                   device->found.device, &pointer);
  else
    LEVEL_ZERO_TRY(api, zeMemAllocDevice, device->context, &desc, bytes, CLC_TENSOR_ALIGN,
                   device->found.device, &pointer);
  memory->pointer = pointer;
  return CS_OK;
}

/* Staging is the host's and does not count. */
static void count_bytes(cs_plugin_device *device, const cs_plugin_memory *memory, bool add) {
  if (memory->kind != CS_MEMORY_DEVICE) return;
  pthread_mutex_lock(&device->mutex);
  device->allocated_bytes += add ? memory->common.bytes : 0 - memory->common.bytes;
  pthread_mutex_unlock(&device->mutex);
}

cs_status level_zero_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                     cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  if ((kind != CS_MEMORY_DEVICE && kind != CS_MEMORY_STAGING) || bytes == 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "memory of kind %u and %llu bytes", kind,
                        (unsigned long long)bytes);
  if (bytes > device->max_allocation_bytes)
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0,
                        "%llu bytes are more than one Level Zero allocation holds here (%llu)",
                        (unsigned long long)bytes,
                        (unsigned long long)device->max_allocation_bytes);
  const cs_host *host = device->common.sdk.host;
  cs_plugin_memory *memory = host->allocate(host->context, sizeof *memory, 16);
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  memset(memory, 0, sizeof *memory);
  memory->common.device = &device->common;
  memory->common.bytes = bytes;
  memory->kind = kind;
  const cs_status status = allocate_pointer(device, memory, error);
  if (status != CS_OK) {
    host->deallocate(host->context, memory);
    return status;
  }
  count_bytes(device, memory, true);
  *out = memory;
  return CS_OK;
}

void level_zero_memory_free(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (!memory) return;
  count_bytes(device, memory, false);
  device->root->api.zeMemFree(device->context, memory->pointer);
  device->common.sdk.host->deallocate(device->common.sdk.host->context, memory);
}

static void *memory_host_pointer(cs_plugin_device *device, cs_plugin_memory *memory) {
  return memory->kind == CS_MEMORY_STAGING || device->shared ? memory->pointer : NULL;
}

/* Packs into `chunk`, which the device reaches, and copies from there, piece by piece. */
static cs_status pack_pieces(cs_plugin_stream *stream, cs_plugin_memory *memory,
                             const clc_source *source, unsigned char *chunk, uint64_t chunk_units,
                             cs_error *error) {
  const uint64_t n_units = clc_units(source), unit_bytes = clc_unit_bytes(source);
  for (uint64_t first = 0; first < n_units; first += chunk_units) {
    const uint64_t n = n_units - first < chunk_units ? n_units - first : chunk_units;
    clc_pack(source, first, n, chunk);
    cs_status status = level_zero_stream_move(stream, memory->pointer + first * unit_bytes, chunk,
                                              n * unit_bytes, error);
    if (status == CS_OK) status = level_zero_stream_drain(stream, error);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

cs_status level_zero_memory_pack(cs_plugin_device *device, cs_plugin_memory *memory,
                                 const clc_source *source, cs_error *error) {
  const level_zero_api *api = &device->root->api;
  const uint64_t unit_bytes = clc_unit_bytes(source);
  uint64_t chunk_units = PACK_BYTES / unit_bytes;
  if (chunk_units == 0) chunk_units = 1;
  if (chunk_units > clc_units(source)) chunk_units = clc_units(source);
  cs_plugin_stream stream = {.common = {.host = device->common.sdk.host, .device = device}};
  cs_status status = level_zero_stream_start(&stream, error);
  if (status != CS_OK) return status;
  unsigned char *chunk = NULL;
  status = level_zero_host_allocate(api, device->context, chunk_units * unit_bytes, &chunk, error);
  if (status == CS_OK) status = pack_pieces(&stream, memory, source, chunk, chunk_units, error);
  level_zero_stream_finish(&stream);
  if (chunk) api->zeMemFree(device->context, chunk);
  return status;
}

const cs_memory_table level_zero_memory_table = {.struct_size = sizeof(cs_memory_table),
                                                 .memory_allocate = level_zero_memory_allocate,
                                                 .memory_free = level_zero_memory_free,
                                                 .memory_host_pointer = memory_host_pointer};
