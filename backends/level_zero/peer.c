/* Copies between devices of one driver, which share its context. */
#include "level_zero.h"

static uint32_t peer_can_copy(cs_plugin_device *to, cs_plugin_device *from) {
  ze_bool_t reaches = 0;
  if (to->root != from->root || to->found.driver != from->found.driver) return 0;
  const ze_result_t result =
      from->root->api.zeDeviceCanAccessPeer(from->found.device, to->found.device, &reaches);
  return result == ZE_RESULT_SUCCESS && reaches;
}

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  const clc_copy *copy = payload;
  return level_zero_stream_move(context, copy->to->pointer + copy->to_offset,
                                copy->from->pointer + copy->from_offset, copy->bytes, error);
}

static cs_status stream_peer_copy(cs_plugin_stream *stream, cs_plugin_device *to_device,
                                  cs_plugin_memory *to, uint64_t to_offset,
                                  const cs_plugin_memory *from, uint64_t from_offset,
                                  uint64_t bytes, cs_error *error) {
  cs_plugin_device *device = stream->common.device;
  if (!peer_can_copy(to_device, device))
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "the device does not reach the other's memory");
  cs_status status = clc_check_range(to_device, to, to_offset, bytes, error);
  if (status == CS_OK) status = clc_check_range(device, from, from_offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const clc_copy copy = {
      .to = to, .from = from, .to_offset = to_offset, .from_offset = from_offset, .bytes = bytes};
  return cs_sdk_queue_push(stream->common.queue, run_copy, &copy, sizeof copy, error);
}

const cs_peer_table level_zero_peer_table = {.struct_size = sizeof(cs_peer_table),
                                             .peer_can_copy = peer_can_copy,
                                             .stream_peer_copy = stream_peer_copy};
