/* Memory of one device reached by another: copies within a plugin, and memory that two plugins map.
 * Both are extras of a plugin: callers ask first and have another way. */
#include <stdlib.h>
#include <unistd.h>

#include "core/device_private.h"
#include "core/error.h"

bool cs_device_reaches(const cs_device *from, const cs_device *to) {
  if (from == to) return true;
  const cs_peer_table *peer = &from->tables->peer;
  return from->module == to->module && peer->peer_can_copy &&
         peer->peer_can_copy(to->handle, from->handle) != 0;
}

static cs_status check_peer_copy(const cs_stream *stream, const cs_buffer *to, uint64_t to_offset,
                                 const cs_buffer *from, uint64_t from_offset, uint64_t bytes,
                                 cs_error *error) {
  const char *fault = NULL;
  if (!stream || !to || !from || bytes == 0)
    fault = "a copy without stream, buffer or bytes";
  else if (from->device != stream->device)
    fault = "a buffer of another device";
  else if (from->packed || to->packed || !from->memory || !to->memory)
    fault = "not plain device memory";
  else if (!cs_range_fits(to_offset, bytes, to->bytes) ||
           !cs_range_fits(from_offset, bytes, from->bytes))
    return cs_error_set(error, CS_OUT_OF_RANGE, "%s: %llu bytes end outside a buffer",
                        stream->device->name, (unsigned long long)bytes);
  if (fault)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: %s",
                        stream ? stream->device->name : "stream", fault);
  cs_status status = cs_handle_check(stream->record, error);
  if (status == CS_OK) status = cs_handle_check(to->record, error);
  if (status == CS_OK) status = cs_handle_check(from->record, error);
  return status;
}

cs_status cs_stream_peer_copy(cs_stream *stream, cs_buffer *to, uint64_t to_offset,
                              const cs_buffer *from, uint64_t from_offset, uint64_t bytes,
                              cs_error *error) {
  cs_status status = check_peer_copy(stream, to, to_offset, from, from_offset, bytes, error);
  if (status != CS_OK) return status;
  if (to->device == stream->device)
    return cs_stream_copy(stream, to, to_offset, from, from_offset, bytes, error);
  cs_device *device = stream->device;
  if (device->module != to->device->module || !device->tables->peer.stream_peer_copy)
    return cs_error_set(error, CS_UNSUPPORTED, "%s does not copy to %s", device->name,
                        to->device->name);
  status = cs_device_enter(to->device, error);
  if (status == CS_OK) status = cs_device_enter(device, error);
  if (status == CS_OK && stream->record) status = cs_record_enter(stream->record, error);
  if (status != CS_OK) return status;
  if (stream->record) {
    cs_record_uses_buffer(stream->record, to->record);
    cs_record_uses_buffer(stream->record, from->record);
  }
  status =
      device->tables->peer.stream_peer_copy(stream->handle, to->device->handle, to->memory,
                                            to_offset, from->memory, from_offset, bytes, error);
  if (stream->record) cs_record_leave(stream->record);
  return cs_device_result(device, status, error, "a copy to another device is refused");
}

cs_status cs_buffer_share(cs_buffer *buffer, cs_device *with, cs_buffer **out, cs_error *error) {
  *out = NULL;
  cs_device *owner = buffer->device;
  const cs_external_memory_table *exports = &owner->tables->external_memory;
  const cs_external_memory_table *imports = &with->tables->external_memory;
  if (buffer->packed || !buffer->memory || !exports->memory_export || !imports->memory_import ||
      !(exports->types & imports->types & (1u << CS_EXTERNAL_FD)))
    return cs_error_set(error, CS_UNSUPPORTED, "%s and %s share no kind of memory", owner->name,
                        with->name);
  int64_t handle = -1;
  cs_status status = cs_device_enter(owner, error);
  if (status == CS_OK) status = cs_device_enter(with, error);
  if (status != CS_OK) return status;
  status = exports->memory_export(owner->handle, buffer->memory, CS_EXTERNAL_FD, &handle, error);
  status = cs_device_result(owner, status, error, "does not share memory");
  if (status != CS_OK) return status;
  cs_plugin_memory *memory = NULL;
  status =
      imports->memory_import(with->handle, CS_EXTERNAL_FD, handle, buffer->bytes, &memory, error);
  if (status == CS_OK && !memory) status = CS_FAILED;
  if (status != CS_OK) close((int)handle); /* only a success takes the descriptor over */
  status = cs_device_result(with, status, error, "does not take shared memory");
  if (status != CS_OK) return status;
  return cs_buffer_adopt(with, memory, buffer->bytes, out, error);
}
