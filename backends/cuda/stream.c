/* Streams and semaphores.
 *
 * A CUDA stream cannot wait for an event that nobody has recorded yet, so a stream is the SDK's
 * queue in front of one: its thread takes commands in order, waits for timelines, and enqueues. A
 * signal is a callback in the CUDA stream, so that the thread goes on enqueueing behind it. The
 * callback form that is told of errors is used: work that died must fail its waiters, not leave
 * them. */
#include "cuda_plugin.h"

#include <string.h>
#include <time.h>

#define FINISH_POLL_NS    200000
#define FINISH_TIMEOUT_NS INT64_C(2000000000)

typedef struct copy_command {
  CUdeviceptr to, from;
  void *host_to;
  const void *host_from;
  uint64_t bytes;
  unsigned char value;
} copy_command;

/* ---- commands, on the stream's thread, where the context is current ---- */

static cs_status done(const cs_plugin_stream *stream, CUresult code, const char *call,
                      cs_error *error) {
  return code == CUDA_SUCCESS ? CS_OK : cuda_error(stream->device->driver, error, code, call);
}

static cs_status run_upload(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const copy_command *copy = payload;
  const CUresult code = stream->device->driver->MemcpyHtoDAsync(copy->to, copy->host_from,
                                                                copy->bytes, stream->stream);
  return done(stream, code, "cuMemcpyHtoDAsync", error);
}

static cs_status run_download(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const copy_command *copy = payload;
  const CUresult code = stream->device->driver->MemcpyDtoHAsync(copy->host_to, copy->from,
                                                                copy->bytes, stream->stream);
  return done(stream, code, "cuMemcpyDtoHAsync", error);
}

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const copy_command *copy = payload;
  const CUresult code =
      stream->device->driver->MemcpyAsync(copy->to, copy->from, copy->bytes, stream->stream);
  return done(stream, code, "cuMemcpyAsync", error);
}

static cs_status run_fill(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const copy_command *copy = payload;
  const CUresult code =
      stream->device->driver->MemsetD8Async(copy->to, copy->value, copy->bytes, stream->stream);
  return done(stream, code, "cuMemsetD8Async", error);
}

static cs_status drain(void *context, cs_error *error) {
  cs_plugin_stream *stream = context;
  return done(stream, stream->device->driver->StreamSynchronize(stream->stream),
              "cuStreamSynchronize", error);
}

/* ---- signals ---- */

typedef struct pending_signal {
  const cs_host *host;
  cs_sdk_timeline *timeline; /* retained */
  uint64_t value;
} pending_signal;

/* On a thread of the driver, which allows no calls of its own. */
static void CUDA_CB on_signal(CUstream stream, CUresult code, void *user) {
  (void)stream;
  pending_signal *signal = user;
  if (code == CUDA_SUCCESS) {
    cs_sdk_timeline_signal(signal->timeline, signal->value);
  } else {
    cs_error error = CS_ERROR_INIT;
    cs_sdk_error(&error, CS_DEVICE_LOST, code, "the device failed while it ran a stream (%d)",
                 (int)code);
    cs_sdk_timeline_fail(signal->timeline, &error);
  }
  cs_sdk_timeline_release(signal->timeline);
  signal->host->deallocate(signal->host->context, signal);
}

static cs_status enqueue_signal(void *context, cs_sdk_timeline *timeline, uint64_t value,
                                cs_error *error) {
  cs_plugin_stream *stream = context;
  const cs_host *host = stream->host;
  pending_signal *signal = host->allocate(host->context, sizeof *signal, 16);
  if (!signal) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to enqueue a signal");
  *signal = (pending_signal){host, timeline, value};
  cs_sdk_timeline_retain(timeline);
  const CUresult code =
      stream->device->driver->StreamAddCallback(stream->stream, on_signal, signal, 0);
  if (code == CUDA_SUCCESS) return CS_OK;
  cs_sdk_timeline_release(timeline);
  host->deallocate(host->context, signal);
  return done(stream, code, "cuStreamAddCallback", error);
}

/* ---- stream ---- */

static void make_current(void *context) {
  cs_plugin_stream *stream = context;
  stream->device->driver->CtxSetCurrent(stream->device->context);
}

/* Waits up to 2 s for what the driver has started: cuStreamSynchronize has no deadline. A stream
 * that takes longer is left to the driver. */
static void finish_within_deadline(const cs_plugin_stream *stream) {
  const cuda_driver *driver = stream->device->driver;
  CUresult code = CUDA_ERROR_NOT_READY;
  for (int64_t waited = 0; waited < FINISH_TIMEOUT_NS; waited += FINISH_POLL_NS) {
    code = driver->StreamQuery(stream->stream);
    if (code != CUDA_ERROR_NOT_READY) break;
    nanosleep(&(struct timespec){0, FINISH_POLL_NS}, NULL);
  }
  if (code != CUDA_ERROR_NOT_READY) driver->StreamDestroy(stream->stream);
}

/* Called when nothing uses the stream any more. */
static void stream_finish(void *context) {
  cs_plugin_stream *stream = context;
  if (cuda_enter(stream->device, NULL) == CS_OK) {
    finish_within_deadline(stream);
    cuda_leave(stream->device);
  }
  stream->host->deallocate(stream->host->context, stream);
}

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_plugin_stream *stream = host->allocate(host->context, sizeof *stream, 16);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  *stream = (cs_plugin_stream){.host = host, .device = device};
  cs_status status = cuda_enter(device, error);
  if (status == CS_OK) {
    const CUresult code = device->driver->StreamCreate(&stream->stream, CU_STREAM_NON_BLOCKING);
    cuda_leave(device);
    status = done(stream, code, "cuStreamCreate", error);
  }
  if (status != CS_OK) {
    host->deallocate(host->context, stream);
    return status;
  }
  const cs_sdk_queue_options options = {.context = stream,
                                        .drain = drain,
                                        .release = cuda_release_payload,
                                        .start = make_current,
                                        .finish = stream_finish,
                                        .signal = enqueue_signal};
  stream->queue = cs_sdk_queue_create(host, &options);
  if (!stream->queue) {
    stream_finish(stream);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory or thread for a stream");
  }
  *out = stream;
  return CS_OK;
}

static void stream_destroy(cs_plugin_stream *stream) {
  if (stream) cs_sdk_queue_destroy(stream->queue);
}

cs_status cuda_check_range(const cs_plugin_device *device, const cs_plugin_memory *memory,
                           uint64_t offset, uint64_t bytes, cs_error *error) {
  if (!memory || memory->device != device)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the memory is not of this device");
  if (bytes > memory->bytes || offset > memory->bytes - bytes)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "%llu bytes at %llu end outside the memory",
                        (unsigned long long)bytes, (unsigned long long)offset);
  return CS_OK;
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  const cs_status status = cuda_check_range(stream->device, to, to_offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const copy_command copy = {.to = to->address + to_offset, .host_from = from, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_upload, &copy, sizeof copy, error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  const cs_status status = cuda_check_range(stream->device, from, from_offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const copy_command copy = {.from = from->address + from_offset, .host_to = to, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_download, &copy, sizeof copy, error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  cs_status status = cuda_check_range(stream->device, to, to_offset, bytes, error);
  if (status == CS_OK) status = cuda_check_range(stream->device, from, from_offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const copy_command copy = {
      .to = to->address + to_offset, .from = from->address + from_offset, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_copy, &copy, sizeof copy, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  const cs_status status = cuda_check_range(stream->device, to, offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const copy_command copy = {
      .to = to->address + offset, .bytes = bytes, .value = (unsigned char)value};
  return cs_sdk_queue_push(stream->queue, run_fill, &copy, sizeof copy, error);
}

static cs_status check_semaphore(const cs_plugin_stream *stream,
                                 const cs_plugin_semaphore *semaphore, cs_error *error) {
  if (semaphore && semaphore->device == stream->device) return CS_OK;
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the semaphore is not of this device");
}

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  const cs_status status = check_semaphore(stream, semaphore, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_wait(stream->queue, semaphore->timeline, value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  const cs_status status = check_semaphore(stream, semaphore, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_signal(stream->queue, semaphore->timeline, value, error);
}

const cs_stream_table cuda_stream_table = {.struct_size = sizeof(cs_stream_table),
                                           .stream_create = stream_create,
                                           .stream_destroy = stream_destroy,
                                           .stream_upload = stream_upload,
                                           .stream_download = stream_download,
                                           .stream_copy = stream_copy,
                                           .stream_fill = stream_fill,
                                           .stream_wait = stream_wait,
                                           .stream_signal = stream_signal};
