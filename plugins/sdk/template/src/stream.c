/* Streams and semaphores from the SDK: a queue whose thread runs commands in order, and timelines.
 * A driver with queues of its own hands work to them from these commands, and waits for them in
 * the queue's `drain` hook before a signal is given. */
#include "plugin.h"

#include <string.h>

struct cs_plugin_stream {
  cs_plugin_device *device;
  cs_sdk_queue *queue;
};

typedef struct transfer {
  unsigned char *to;
  const unsigned char *from;
  uint64_t bytes;
  uint32_t value;
} transfer;

cs_sdk_queue *stream_queue(cs_plugin_stream *stream) {
  return stream->queue;
}

cs_plugin_device *stream_device(cs_plugin_stream *stream) {
  return stream->device;
}

/* The one kind of payload that owns something: a copy of an op list. */
static cs_status run_ops(void *context, void *payload, cs_error *error) {
  (void)context;
  const cs_sdk_ops *ops = *(cs_sdk_ops **)payload;
  for (uint32_t i = 0; i < ops->n_ops; i++) {
    const cs_status status = op_run(&ops->ops[i], error);
    if (status == CS_OK) continue;
    if (error) error->op_index = (int32_t)i;
    return status;
  }
  return CS_OK;
}

static void release_payload(void *context, cs_sdk_command command, void *payload) {
  (void)context;
  if (command == run_ops) cs_sdk_ops_release(*(cs_sdk_ops **)payload);
}

static cs_status ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  (void)workspace;
  cs_sdk_ops *copy;
  cs_status status = cs_sdk_ops_create(stream->device->host, ops, n_ops, op_stride, &copy, error);
  if (status != CS_OK) return status;
  status = cs_sdk_queue_push(stream->queue, run_ops, &copy, sizeof copy, error);
  if (status != CS_OK) cs_sdk_ops_release(copy);
  return status;
}

const cs_eager_table eager_table = {
    .struct_size = sizeof eager_table,
    .ops_enqueue = ops_enqueue,
};

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  const cs_host *host = device->host;
  *out = NULL;
  cs_plugin_stream *stream = host->allocate(host->context, sizeof *stream, 8);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  stream->device = device;
  stream->queue = cs_sdk_queue_create(
      host, &(cs_sdk_queue_options){.context = stream, .release = release_payload});
  if (!stream->queue) {
    host->deallocate(host->context, stream);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no thread for a stream");
  }
  *out = stream;
  return CS_OK;
}

static void stream_destroy(cs_plugin_stream *stream) {
  if (!stream) return;
  cs_sdk_queue_destroy(stream->queue);
  stream->device->host->deallocate(stream->device->host->context, stream);
}

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  (void)context;
  (void)error;
  const transfer *t = payload;
  memcpy(t->to, t->from, t->bytes);
  return CS_OK;
}

static cs_status run_fill(void *context, void *payload, cs_error *error) {
  (void)context;
  (void)error;
  const transfer *t = payload;
  memset(t->to, (int)t->value, t->bytes);
  return CS_OK;
}

static cs_status push(cs_plugin_stream *stream, cs_sdk_command command, transfer t,
                      cs_error *error) {
  return cs_sdk_queue_push(stream->queue, command, &t, sizeof t, error);
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  return push(stream, run_copy, (transfer){to->bytes + to_offset, from, bytes, 0}, error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  return push(stream, run_copy, (transfer){to, from->bytes + from_offset, bytes, 0}, error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  return push(stream, run_copy,
              (transfer){to->bytes + to_offset, from->bytes + from_offset, bytes, 0}, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  return push(stream, run_fill, (transfer){to->bytes + offset, NULL, bytes, value}, error);
}

/* A semaphore is a timeline of the SDK. */
static cs_sdk_timeline *timeline(cs_plugin_semaphore *semaphore) {
  return (cs_sdk_timeline *)(void *)semaphore;
}

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  return cs_sdk_queue_wait(stream->queue, timeline(semaphore), value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  return cs_sdk_queue_signal(stream->queue, timeline(semaphore), value, error);
}

const cs_stream_table stream_table = {
    .struct_size = sizeof stream_table,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_upload = stream_upload,
    .stream_download = stream_download,
    .stream_copy = stream_copy,
    .stream_fill = stream_fill,
    .stream_wait = stream_wait,
    .stream_signal = stream_signal,
};

static cs_status semaphore_create(cs_plugin_device *device, uint64_t initial,
                                  cs_plugin_semaphore **out, cs_error *error) {
  *out = (cs_plugin_semaphore *)(void *)cs_sdk_timeline_create(device->host, initial);
  return *out ? CS_OK : cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
}

static void semaphore_destroy(cs_plugin_semaphore *semaphore) {
  if (semaphore) cs_sdk_timeline_destroy(timeline(semaphore));
}

static cs_status semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error) {
  return cs_sdk_timeline_query(timeline(semaphore), value, error);
}

static cs_status semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                                cs_error *error) {
  return cs_sdk_timeline_wait(timeline(semaphore), value, timeout_us, error);
}

static cs_status semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error) {
  (void)error;
  return cs_sdk_timeline_signal(timeline(semaphore), value);
}

static cs_status semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                cs_error *error) {
  (void)error;
  return cs_sdk_timeline_fail(timeline(semaphore), reason);
}

const cs_semaphore_table semaphore_table = {
    .struct_size = sizeof semaphore_table,
    .semaphore_create = semaphore_create,
    .semaphore_destroy = semaphore_destroy,
    .semaphore_query = semaphore_query,
    .semaphore_wait = semaphore_wait,
    .semaphore_signal = semaphore_signal,
    .semaphore_fail = semaphore_fail,
};
