/* Streams are the SDK's queue: one thread takes commands in order, which is what the front end of
 * such a chip does. Each command opens device memory for as long as it runs. */
#include <string.h>

#include "npu.h"

struct cs_plugin_stream {
  cs_plugin_device *device;
  cs_sdk_queue *queue;
};

struct cs_plugin_program {
  cs_plugin_device *device;
  cs_sdk_ops *ops;
  cs_plugin_memory *workspace;
  npu_kernel kernels[]; /* one an op */
};

/* ---- copies ---- */

typedef struct copy_command {
  cs_plugin_memory *to, *from; /* NULL: the host side */
  void *to_host;
  const void *from_host;
  uint64_t to_offset, from_offset, bytes;
} copy_command;

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  (void)error;
  cs_plugin_device *device = context;
  const copy_command *c = payload;
  npu_memory_open(&device->memory);
  unsigned char *base = device->memory.base;
  void *to = c->to ? base + c->to->offset + c->to_offset : c->to_host;
  const void *from = c->from ? base + c->from->offset + c->from_offset : c->from_host;
  memcpy(to, from, c->bytes);
  npu_memory_close(&device->memory);
  return CS_OK;
}

typedef struct fill_command {
  cs_plugin_memory *to;
  uint64_t offset, bytes;
  uint32_t value;
} fill_command;

static cs_status run_fill(void *context, void *payload, cs_error *error) {
  (void)error;
  cs_plugin_device *device = context;
  const fill_command *c = payload;
  npu_memory_open(&device->memory);
  memset(device->memory.base + c->to->offset + c->offset, (int)c->value, c->bytes);
  npu_memory_close(&device->memory);
  return CS_OK;
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  const copy_command c = {.to = to, .from_host = from, .to_offset = to_offset, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_copy, &c, sizeof c, error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  const copy_command c = {
      .to_host = to, .from = (cs_plugin_memory *)from, .from_offset = from_offset, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_copy, &c, sizeof c, error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  const copy_command c = {.to = to,
                          .from = (cs_plugin_memory *)from,
                          .to_offset = to_offset,
                          .from_offset = from_offset,
                          .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_copy, &c, sizeof c, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  const fill_command c = {to, offset, bytes, value};
  return cs_sdk_queue_push(stream->queue, run_fill, &c, sizeof c, error);
}

/* ---- streams and semaphores ---- */

static cs_sdk_timeline *timeline_of(cs_plugin_semaphore *semaphore) {
  return (cs_sdk_timeline *)semaphore;
}

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_plugin_stream *stream = host->allocate(host->context, sizeof *stream, 16);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  const cs_sdk_queue_options options = {.context = device};
  stream->device = device;
  stream->queue = cs_sdk_queue_create(host, &options);
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

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  return cs_sdk_queue_wait(stream->queue, timeline_of(semaphore), value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  return cs_sdk_queue_signal(stream->queue, timeline_of(semaphore), value, error);
}

static cs_status semaphore_create(cs_plugin_device *device, uint64_t initial,
                                  cs_plugin_semaphore **out, cs_error *error) {
  *out = (cs_plugin_semaphore *)cs_sdk_timeline_create(device->host, initial);
  if (*out) return CS_OK;
  return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
}

static void semaphore_destroy(cs_plugin_semaphore *semaphore) {
  cs_sdk_timeline_destroy(timeline_of(semaphore));
}

static cs_status semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error) {
  return cs_sdk_timeline_query(timeline_of(semaphore), value, error);
}

static cs_status semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                                cs_error *error) {
  return cs_sdk_timeline_wait(timeline_of(semaphore), value, timeout_us, error);
}

static cs_status semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error) {
  (void)error;
  return cs_sdk_timeline_signal(timeline_of(semaphore), value);
}

static cs_status semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                cs_error *error) {
  (void)error;
  return cs_sdk_timeline_fail(timeline_of(semaphore), reason);
}

/* ---- programs ---- */

static cs_status program_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                                uint32_t op_stride, cs_plugin_memory *workspace,
                                cs_plugin_program **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_sdk_ops *copy = NULL;
  cs_status status = cs_sdk_ops_create(host, ops, n_ops, op_stride, &copy, error);
  if (status != CS_OK) return status;
  cs_plugin_program *program =
      host->allocate(host->context, sizeof *program + n_ops * sizeof program->kernels[0], 16);
  if (!program) {
    status = cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
    goto err_release;
  }
  program->device = device;
  program->ops = copy;
  program->workspace = workspace;
  for (uint32_t i = 0; i < n_ops; i++) {
    cs_op_answer answer;
    npu_answer(&copy->ops[i], &answer, &program->kernels[i]);
    const bool lacks_workspace = answer.workspace_bytes > (workspace ? workspace->bytes : 0);
    if (answer.support != CS_SUPPORT_NO && !lacks_workspace) continue;
    status = cs_sdk_error(error, lacks_workspace ? CS_INVALID_ARGUMENT : CS_UNSUPPORTED, 0,
                          "%s: %.96s", cs_sdk_op_name(copy->ops[i].id),
                          lacks_workspace ? "the workspace is too small" : answer.reason);
    if (error && error->struct_size >= sizeof *error) error->op_index = (int32_t)i;
    goto err_free;
  }
  *out = program;
  return CS_OK;
err_free:
  host->deallocate(host->context, program);
err_release:
  cs_sdk_ops_release(copy);
  return status;
}

static void program_destroy(cs_plugin_program *program) {
  if (!program) return;
  const cs_host *host = program->device->host;
  cs_sdk_ops_release(program->ops);
  host->deallocate(host->context, program);
}

static cs_status run_program(void *context, void *payload, cs_error *error) {
  (void)error;
  cs_plugin_device *device = context;
  const cs_plugin_program *program = *(cs_plugin_program *const *)payload;
  npu_memory_open(&device->memory);
  const npu_run run = {
      .base = device->memory.base,
      .workspace = program->workspace ? device->memory.base + program->workspace->offset : NULL};
  for (uint32_t i = 0; i < program->ops->n_ops; i++)
    program->kernels[i](&run, &program->ops->ops[i]);
  npu_memory_close(&device->memory);
  return CS_OK;
}

static cs_status program_launch(cs_plugin_stream *stream, cs_plugin_program *program,
                                cs_error *error) {
  return cs_sdk_queue_push(stream->queue, run_program, &program, sizeof program, error);
}

const cs_stream_table npu_stream_table = {.struct_size = sizeof npu_stream_table,
                                          .stream_create = stream_create,
                                          .stream_destroy = stream_destroy,
                                          .stream_upload = stream_upload,
                                          .stream_download = stream_download,
                                          .stream_copy = stream_copy,
                                          .stream_fill = stream_fill,
                                          .stream_wait = stream_wait,
                                          .stream_signal = stream_signal};

const cs_semaphore_table npu_semaphore_table = {.struct_size = sizeof npu_semaphore_table,
                                                .semaphore_create = semaphore_create,
                                                .semaphore_destroy = semaphore_destroy,
                                                .semaphore_query = semaphore_query,
                                                .semaphore_wait = semaphore_wait,
                                                .semaphore_signal = semaphore_signal,
                                                .semaphore_fail = semaphore_fail};

const cs_program_table npu_program_table = {.struct_size = sizeof npu_program_table,
                                            .program_create = program_create,
                                            .program_destroy = program_destroy,
                                            .program_launch = program_launch};
