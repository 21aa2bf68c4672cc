/* Copies between two GPUs of this plugin: over NVLink or PCIe where the driver allows it. */
#include "cuda_plugin.h"

typedef struct peer_command {
  CUdeviceptr to, from;
  CUcontext to_context;
  uint64_t bytes;
} peer_command;

static uint32_t peer_can_copy(cs_plugin_device *to, cs_plugin_device *from) {
  int can = 0;
  if (to == from || to->ordinal == from->ordinal) return 1;
  return from->driver->DeviceCanAccessPeer(&can, from->ordinal, to->ordinal) == CUDA_SUCCESS && can;
}

static cs_status run_peer_copy(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const peer_command *copy = payload;
  const cuda_driver *driver = stream->sdk.device->driver;
  const CUresult code =
      driver->MemcpyPeerAsync(copy->to, copy->to_context, copy->from, stream->sdk.device->context,
                              copy->bytes, stream->stream);
  return code == CUDA_SUCCESS ? CS_OK : cuda_error(driver, error, code, "cuMemcpyPeerAsync");
}

static cs_status stream_peer_copy(cs_plugin_stream *stream, cs_plugin_device *to_device,
                                  cs_plugin_memory *to, uint64_t to_offset,
                                  const cs_plugin_memory *from, uint64_t from_offset,
                                  uint64_t bytes, cs_error *error) {
  if (!peer_can_copy(to_device, stream->sdk.device))
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "the two GPUs cannot reach each other");
  cs_status status = cuda_check_range(to_device, to, to_offset, bytes, error);
  if (status == CS_OK)
    status = cuda_check_range(stream->sdk.device, from, from_offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const peer_command copy = {to->address + to_offset, from->address + from_offset,
                             to_device->context, bytes};
  return cs_sdk_queue_push(stream->sdk.queue, run_peer_copy, &copy, sizeof copy, error);
}

const cs_peer_table cuda_peer_table = {.struct_size = sizeof(cs_peer_table),
                                       .peer_can_copy = peer_can_copy,
                                       .stream_peer_copy = stream_peer_copy};
