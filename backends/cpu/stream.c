/* A stream is an SDK queue. Its thread is pinned to the device's first core and takes part in the
 * pool's loops from there; large copies are shared out to the pool as well. */
#include "cpu.h"

#include <string.h>

#define COPY_PIECE_BYTES (UINT64_C(1) << 20)

struct cs_plugin_stream {
  cs_plugin_device *device;
  cs_sdk_queue *queue;
  cs_sdk_op_log *log;
};

typedef struct copy_command {
  unsigned char *to;
  const unsigned char *from; /* NULL: fill with `value` */
  uint64_t bytes;
  unsigned char value;
} copy_command;

cs_sdk_queue *cpu_stream_queue(cs_plugin_stream *stream) {
  return stream->queue;
}

cs_plugin_device *cpu_stream_device(cs_plugin_stream *stream) {
  return stream->device;
}

cs_sdk_op_log *cpu_stream_log(cs_plugin_stream *stream) {
  return stream->log;
}

static void start_on_core(void *context) {
  const cs_plugin_device *device = context;
  if (device->cores) cpu_pin_thread(device->cores[0]);
}

static cs_status cpu_stream_create(cs_plugin_device *device, cs_plugin_stream **out,
                                   cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_plugin_stream *stream = host->allocate(host->context, sizeof *stream, 8);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  const cs_sdk_queue_options options = {
      .context = device, .release = cpu_release_command, .start = start_on_core};
  stream->device = device;
  stream->log = cs_sdk_op_log_create(host);
  stream->queue = stream->log ? cs_sdk_queue_create(host, &options) : NULL;
  if (!stream->queue) {
    cs_sdk_op_log_release(stream->log);
    host->deallocate(host->context, stream);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream's thread");
  }
  *out = stream;
  return CS_OK;
}

static void cpu_stream_destroy(cs_plugin_stream *stream) {
  if (!stream) return;
  cs_sdk_queue_destroy(stream->queue);
  cs_sdk_op_log_release(stream->log);
  const cs_host *host = stream->device->host;
  host->deallocate(host->context, stream);
}

/* ---- copies ---- */

static void copy_pieces(void *job, uint64_t begin, uint64_t end) {
  const copy_command *copy = job;
  const uint64_t from = begin * COPY_PIECE_BYTES;
  const uint64_t to = end * COPY_PIECE_BYTES < copy->bytes ? end * COPY_PIECE_BYTES : copy->bytes;
  if (copy->from)
    memcpy(copy->to + from, copy->from + from, to - from);
  else
    memset(copy->to + from, copy->value, to - from);
}

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  (void)error;
  cs_plugin_device *device = context;
  copy_command *copy = payload;
  pthread_mutex_lock(&device->turn);
  cpu_pool_for(device->pool, (copy->bytes + COPY_PIECE_BYTES - 1) / COPY_PIECE_BYTES, 1,
               copy_pieces, copy);
  pthread_mutex_unlock(&device->turn);
  return CS_OK;
}

static cs_status push_copy(cs_plugin_stream *stream, const copy_command *copy, cs_error *error) {
  return cs_sdk_queue_push(stream->queue, run_copy, copy, sizeof *copy, error);
}

static cs_status check_range(const cs_plugin_memory *memory, uint64_t offset, uint64_t bytes,
                             cs_error *error) {
  if (offset <= memory->bytes && bytes <= memory->bytes - offset) return CS_OK;
  return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "bytes %llu to %llu of a memory of %llu",
                      (unsigned long long)offset, (unsigned long long)(offset + bytes),
                      (unsigned long long)memory->bytes);
}

static cs_status cpu_stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to,
                                   uint64_t to_offset, const void *from, uint64_t bytes,
                                   cs_error *error) {
  const cs_status status = check_range(to, to_offset, bytes, error);
  if (status != CS_OK) return status;
  const copy_command copy = {.to = to->data + to_offset, .from = from, .bytes = bytes};
  return push_copy(stream, &copy, error);
}

static cs_status cpu_stream_download(cs_plugin_stream *stream, void *to,
                                     const cs_plugin_memory *from, uint64_t from_offset,
                                     uint64_t bytes, cs_error *error) {
  const cs_status status = check_range(from, from_offset, bytes, error);
  if (status != CS_OK) return status;
  const copy_command copy = {.to = to, .from = from->data + from_offset, .bytes = bytes};
  return push_copy(stream, &copy, error);
}

static cs_status cpu_stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                                 const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                                 cs_error *error) {
  const cs_status status = check_range(to, to_offset, bytes, error);
  if (status != CS_OK) return status;
  return cpu_stream_download(stream, to->data + to_offset, from, from_offset, bytes, error);
}

static cs_status cpu_stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                                 uint64_t bytes, uint32_t value, cs_error *error) {
  const cs_status status = check_range(to, offset, bytes, error);
  if (status != CS_OK) return status;
  const copy_command fill = {
      .to = to->data + offset, .bytes = bytes, .value = (unsigned char)value};
  return push_copy(stream, &fill, error);
}

/* ---- copies between partitions ---- */

static uint32_t cpu_peer_can_copy(cs_plugin_device *to, cs_plugin_device *from) {
  (void)to;
  (void)from;
  return 1;
}

static cs_status cpu_stream_peer_copy(cs_plugin_stream *stream, cs_plugin_device *to_device,
                                      cs_plugin_memory *to, uint64_t to_offset,
                                      const cs_plugin_memory *from, uint64_t from_offset,
                                      uint64_t bytes, cs_error *error) {
  (void)to_device;
  return cpu_stream_copy(stream, to, to_offset, from, from_offset, bytes, error);
}

/* ---- times of ops ---- */

static cs_status cpu_stream_profile_enable(cs_plugin_stream *stream, uint32_t on, cs_error *error) {
  (void)error;
  cs_sdk_op_log_enable(stream->log, on);
  return CS_OK;
}

static cs_status cpu_stream_profile_read(cs_plugin_stream *stream, cs_op_time *out,
                                         uint32_t capacity, uint32_t stride, uint32_t *n_read,
                                         cs_error *error) {
  (void)error;
  *n_read = cs_sdk_op_log_read(stream->log, out, capacity, stride);
  return CS_OK;
}

const cs_profile_table cpu_profile_table = {
    .struct_size = sizeof(cs_profile_table),
    .stream_profile_enable = cpu_stream_profile_enable,
    .stream_profile_read = cpu_stream_profile_read,
};

/* ---- semaphores: the SDK's timeline under the ABI's name ---- */

static cs_sdk_timeline *timeline_of(cs_plugin_semaphore *semaphore) {
  return (cs_sdk_timeline *)semaphore;
}

static cs_status cpu_stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                                 uint64_t value, cs_error *error) {
  return cs_sdk_queue_wait(stream->queue, timeline_of(semaphore), value, error);
}

static cs_status cpu_stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                                   uint64_t value, cs_error *error) {
  return cs_sdk_queue_signal(stream->queue, timeline_of(semaphore), value, error);
}

static cs_status cpu_semaphore_create(cs_plugin_device *device, uint64_t initial,
                                      cs_plugin_semaphore **out, cs_error *error) {
  *out = (cs_plugin_semaphore *)cs_sdk_timeline_create(device->host, initial);
  if (*out) return CS_OK;
  return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
}

static void cpu_semaphore_destroy(cs_plugin_semaphore *semaphore) {
  cs_sdk_timeline_destroy(timeline_of(semaphore));
}

static cs_status cpu_semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value,
                                     cs_error *error) {
  return cs_sdk_timeline_query(timeline_of(semaphore), value, error);
}

static cs_status cpu_semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value,
                                    uint64_t timeout_us, cs_error *error) {
  return cs_sdk_timeline_wait(timeline_of(semaphore), value, timeout_us, error);
}

static cs_status cpu_semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value,
                                      cs_error *error) {
  (void)error;
  return cs_sdk_timeline_signal(timeline_of(semaphore), value);
}

static cs_status cpu_semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                    cs_error *error) {
  (void)error;
  return cs_sdk_timeline_fail(timeline_of(semaphore), reason);
}

const cs_stream_table cpu_stream_table = {
    .struct_size = sizeof(cs_stream_table),
    .stream_create = cpu_stream_create,
    .stream_destroy = cpu_stream_destroy,
    .stream_upload = cpu_stream_upload,
    .stream_download = cpu_stream_download,
    .stream_copy = cpu_stream_copy,
    .stream_fill = cpu_stream_fill,
    .stream_wait = cpu_stream_wait,
    .stream_signal = cpu_stream_signal,
};

const cs_semaphore_table cpu_semaphore_table = {
    .struct_size = sizeof(cs_semaphore_table),
    .semaphore_create = cpu_semaphore_create,
    .semaphore_destroy = cpu_semaphore_destroy,
    .semaphore_query = cpu_semaphore_query,
    .semaphore_wait = cpu_semaphore_wait,
    .semaphore_signal = cpu_semaphore_signal,
    .semaphore_fail = cpu_semaphore_fail,
};

const cs_peer_table cpu_peer_table = {
    .struct_size = sizeof(cs_peer_table),
    .peer_can_copy = cpu_peer_can_copy,
    .stream_peer_copy = cpu_stream_peer_copy,
};
