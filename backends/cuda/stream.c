/* What the SDK's streams and semaphores ask of CUDA, whose own semaphores are binary events, or
 * need another driver's help.
 *
 * A CUDA stream cannot wait for an event that nobody has recorded yet, so a stream is the SDK's
 * queue in front of one: its thread takes commands in order, waits for timelines, and enqueues. A
 * signal is a callback in the CUDA stream, so that the thread goes on enqueueing behind it. The
 * callback form that is told of errors is used: work that died must fail its waiters, not leave
 * them. */
#include "cuda_plugin.h"

#include <time.h>

#define FINISH_POLL_NS    200000
#define FINISH_TIMEOUT_NS INT64_C(2000000000)

static const cuda_driver *driver_of(const cs_plugin_stream *stream) {
  return stream->sdk.device->driver;
}

/* ---- commands, on the stream's thread, where the context is current ---- */

static cs_status done(const cs_plugin_stream *stream, CUresult code, const char *call,
                      cs_error *error) {
  return code == CUDA_SUCCESS ? CS_OK : cuda_error(driver_of(stream), error, code, call);
}

static CUdeviceptr to_of(const cs_sdk_copy *copy) {
  return copy->to->address + copy->to_offset;
}

static CUdeviceptr from_of(const cs_sdk_copy *copy) {
  return copy->from->address + copy->from_offset;
}

static cs_status upload(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  const CUresult code =
      driver_of(stream)->MemcpyHtoDAsync(to_of(copy), copy->host_from, copy->bytes, stream->stream);
  return done(stream, code, "cuMemcpyHtoDAsync", error);
}

static cs_status download(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  const CUresult code =
      driver_of(stream)->MemcpyDtoHAsync(copy->host_to, from_of(copy), copy->bytes, stream->stream);
  return done(stream, code, "cuMemcpyDtoHAsync", error);
}

static cs_status copy_within(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  const CUresult code =
      driver_of(stream)->MemcpyAsync(to_of(copy), from_of(copy), copy->bytes, stream->stream);
  return done(stream, code, "cuMemcpyAsync", error);
}

static cs_status fill(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  const CUresult code =
      driver_of(stream)->MemsetD8Async(to_of(copy), copy->value, copy->bytes, stream->stream);
  return done(stream, code, "cuMemsetD8Async", error);
}

static cs_status drain(cs_plugin_stream *stream, cs_error *error) {
  return done(stream, driver_of(stream)->StreamSynchronize(stream->stream), "cuStreamSynchronize",
              error);
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

static cs_status enqueue_signal(cs_plugin_stream *stream, cs_sdk_timeline *timeline, uint64_t value,
                                cs_error *error) {
  const cs_host *host = stream->sdk.host;
  pending_signal *signal = host->allocate(host->context, sizeof *signal, 16);
  if (!signal) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to enqueue a signal");
  *signal = (pending_signal){host, timeline, value};
  cs_sdk_timeline_retain(timeline);
  const CUresult code = driver_of(stream)->StreamAddCallback(stream->stream, on_signal, signal, 0);
  if (code == CUDA_SUCCESS) return CS_OK;
  cs_sdk_timeline_release(timeline);
  host->deallocate(host->context, signal);
  return done(stream, code, "cuStreamAddCallback", error);
}

/* ---- stream ---- */

static void enter(cs_plugin_stream *stream) {
  driver_of(stream)->CtxSetCurrent(stream->sdk.device->context);
}

/* Waits up to 2 s for what the driver has started: cuStreamSynchronize has no deadline. A stream
 * that takes longer is left to the driver. */
static void finish_within_deadline(const cs_plugin_stream *stream) {
  const cuda_driver *driver = driver_of(stream);
  CUresult code = CUDA_ERROR_NOT_READY;
  for (int64_t waited = 0; waited < FINISH_TIMEOUT_NS; waited += FINISH_POLL_NS) {
    code = driver->StreamQuery(stream->stream);
    if (code != CUDA_ERROR_NOT_READY) break;
    nanosleep(&(struct timespec){0, FINISH_POLL_NS}, NULL);
  }
  if (code != CUDA_ERROR_NOT_READY) driver->StreamDestroy(stream->stream);
}

static cs_status start(cs_plugin_stream *stream, cs_error *error) {
  cs_plugin_device *device = stream->sdk.device;
  const cs_status status = cuda_enter(device, error);
  if (status != CS_OK) return status;
  const CUresult code = device->driver->StreamCreate(&stream->stream, CU_STREAM_NON_BLOCKING);
  cuda_leave(device);
  return done(stream, code, "cuStreamCreate", error);
}

static void finish(cs_plugin_stream *stream) {
  if (cuda_enter(stream->sdk.device, NULL) != CS_OK) return;
  finish_within_deadline(stream);
  cuda_profile_finish(stream);
  cuda_leave(stream->sdk.device);
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

const cs_sdk_driver cuda_sdk_driver = {.stream_bytes = sizeof(cs_plugin_stream),
                                       .start = start,
                                       .finish = finish,
                                       .enter = enter,
                                       .drain = drain,
                                       .signal = enqueue_signal,
                                       .check_range = cuda_check_range,
                                       .upload = upload,
                                       .download = download,
                                       .copy = copy_within,
                                       .fill = fill,
                                       .judge = cuda_judge,
                                       .prepare = cuda_prepare,
                                       .run = cuda_run,
                                       .discard = cuda_discard};
