/* Ready streams. Few drivers can wait for something that nobody has enqueued yet, so a stream is a
 * queue: its thread takes commands in order, waits for timelines, and hands work to the driver. */
#include "semaphore.h"

#include <string.h>

static const cs_sdk_driver *driver_of(const cs_plugin_stream *stream) {
  return cs_sdk_stream_of(stream)->driver;
}

/* ---- on the stream's thread ---- */

cs_status cs_sdk_settle(cs_plugin_stream *stream, cs_status status) {
  cs_error ignored = CS_ERROR_INIT;
  if (status != CS_OK && status != CS_DEVICE_LOST && driver_of(stream)->drain)
    (void)driver_of(stream)->drain(stream, &ignored);
  return status;
}

static cs_status run_upload(void *context, void *payload, cs_error *error) {
  return cs_sdk_settle(context, driver_of(context)->upload(context, payload, error));
}

static cs_status run_download(void *context, void *payload, cs_error *error) {
  return cs_sdk_settle(context, driver_of(context)->download(context, payload, error));
}

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  return cs_sdk_settle(context, driver_of(context)->copy(context, payload, error));
}

static cs_status run_fill(void *context, void *payload, cs_error *error) {
  return cs_sdk_settle(context, driver_of(context)->fill(context, payload, error));
}

static void enter(void *context) {
  if (driver_of(context)->enter) driver_of(context)->enter(context);
}

static cs_status drain(void *context, cs_error *error) {
  return driver_of(context)->drain(context, error);
}

static cs_status enqueue_signal(void *context, cs_sdk_timeline *timeline, uint64_t value,
                                cs_error *error) {
  return driver_of(context)->signal(context, timeline, value, error);
}

/* ---- creation ---- */

/* Called when nothing uses the stream any more. */
static void finish(void *context) {
  const cs_host *host = cs_sdk_stream_of(context)->host;
  if (driver_of(context)->finish) driver_of(context)->finish(context);
  cs_sdk_op_log_release(cs_sdk_stream_of(context)->log);
  host->deallocate(host->context, context);
}

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = cs_sdk_device_of(device)->host;
  const cs_sdk_driver *driver = cs_sdk_device_of(device)->driver;
  cs_plugin_stream *stream = host->allocate(host->context, driver->stream_bytes, 16);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  memset(stream, 0, driver->stream_bytes);
  *cs_sdk_stream_of(stream) = (cs_sdk_stream){.host = host, .driver = driver, .device = device};
  cs_sdk_stream_of(stream)->log = cs_sdk_op_log_create(host);
  cs_status status = CS_OK;
  if (!cs_sdk_stream_of(stream)->log)
    status = cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  else if (driver->start)
    status = driver->start(stream, error);
  if (status != CS_OK) {
    cs_sdk_op_log_release(cs_sdk_stream_of(stream)->log);
    host->deallocate(host->context, stream);
    return status;
  }
  const cs_sdk_queue_options options = {.context = stream,
                                        .drain = driver->drain ? drain : NULL,
                                        .release = cs_sdk_execute_release,
                                        .start = enter,
                                        .finish = finish,
                                        .signal = driver->signal ? enqueue_signal : NULL};
  cs_sdk_stream_of(stream)->queue = cs_sdk_queue_create(host, &options);
  if (!cs_sdk_stream_of(stream)->queue) {
    finish(stream);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory or thread for a stream");
  }
  *out = stream;
  return CS_OK;
}

static void stream_destroy(cs_plugin_stream *stream) {
  if (stream) cs_sdk_queue_destroy(cs_sdk_stream_of(stream)->queue);
}

/* ---- enqueueing ---- */

static cs_status check_range(const cs_plugin_stream *stream, const cs_plugin_memory *memory,
                             uint64_t offset, uint64_t bytes, cs_error *error) {
  const cs_sdk_driver *driver = driver_of(stream);
  if (!driver->check_range) return CS_OK;
  return driver->check_range(cs_sdk_stream_of(stream)->device, memory, offset, bytes, error);
}

static cs_status push(cs_plugin_stream *stream, cs_sdk_command command, const cs_sdk_copy *copy,
                      cs_error *error) {
  if (copy->bytes == 0) return CS_OK;
  return cs_sdk_queue_push(cs_sdk_stream_of(stream)->queue, command, copy, sizeof *copy, error);
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  const cs_status status = check_range(stream, to, to_offset, bytes, error);
  if (status != CS_OK) return status;
  const cs_sdk_copy copy = {.to = to, .to_offset = to_offset, .host_from = from, .bytes = bytes};
  return push(stream, run_upload, &copy, error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  const cs_status status = check_range(stream, from, from_offset, bytes, error);
  if (status != CS_OK) return status;
  const cs_sdk_copy copy = {
      .from = from, .from_offset = from_offset, .host_to = to, .bytes = bytes};
  return push(stream, run_download, &copy, error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  cs_status status = check_range(stream, to, to_offset, bytes, error);
  if (status == CS_OK) status = check_range(stream, from, from_offset, bytes, error);
  if (status != CS_OK) return status;
  const cs_sdk_copy copy = {
      .to = to, .from = from, .to_offset = to_offset, .from_offset = from_offset, .bytes = bytes};
  return push(stream, run_copy, &copy, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  const cs_status status = check_range(stream, to, offset, bytes, error);
  if (status != CS_OK) return status;
  const cs_sdk_copy copy = {
      .to = to, .to_offset = offset, .bytes = bytes, .value = (unsigned char)value};
  return push(stream, run_fill, &copy, error);
}

static cs_status check_semaphore(const cs_plugin_stream *stream,
                                 const cs_plugin_semaphore *semaphore, cs_error *error) {
  if (semaphore && semaphore->device == cs_sdk_stream_of(stream)->device) return CS_OK;
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the semaphore is not of this device");
}

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  const cs_status status = check_semaphore(stream, semaphore, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_wait(cs_sdk_stream_of(stream)->queue, semaphore->timeline, value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  const cs_status status = check_semaphore(stream, semaphore, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_signal(cs_sdk_stream_of(stream)->queue, semaphore->timeline, value, error);
}

const cs_stream_table cs_sdk_stream_table = {.struct_size = sizeof(cs_stream_table),
                                             .stream_create = stream_create,
                                             .stream_destroy = stream_destroy,
                                             .stream_upload = stream_upload,
                                             .stream_download = stream_download,
                                             .stream_copy = stream_copy,
                                             .stream_fill = stream_fill,
                                             .stream_wait = stream_wait,
                                             .stream_signal = stream_signal};
