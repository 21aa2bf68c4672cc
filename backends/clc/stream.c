/* Streams, semaphores, eager ops and programs.
 *
 * The drivers cannot wait for something that nobody has enqueued yet, so a stream is the SDK's
 * queue: its thread takes commands in order, waits for timelines, and hands work to the driver. A
 * signal is given when the driver has drained. Plans arrive with all arguments in place; a program
 * is a plan that is kept, or the driver's recording of it. */
#include <stdatomic.h>
#include <string.h>

#include "plan.h"

struct cs_plugin_semaphore {
  cs_plugin_device *device;
  cs_sdk_timeline *timeline;
};

struct cs_plugin_program {
  const cs_host *host;
  const clc_driver *driver;
  cs_plugin_device *device;
  clc_plan *plan;
  void *recording;        /* NULL where the driver records nothing */
  atomic_uint references; /* the owner, and each launch that has not run */
};

static const clc_driver *driver_of(const cs_plugin_stream *stream) {
  return clc_stream_of(stream)->driver;
}

/* ---- commands, on the stream's thread ---- */

/* After a failure the host may free what earlier commands still use: they are waited for first. */
static cs_status settle(cs_plugin_stream *stream, cs_status status) {
  cs_error ignored = CS_ERROR_INIT;
  if (status != CS_OK && status != CS_DEVICE_LOST)
    (void)driver_of(stream)->stream_drain(stream, &ignored);
  return status;
}

static cs_status run_upload(void *context, void *payload, cs_error *error) {
  return settle(context, driver_of(context)->upload(context, payload, error));
}

static cs_status run_download(void *context, void *payload, cs_error *error) {
  return settle(context, driver_of(context)->download(context, payload, error));
}

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  return settle(context, driver_of(context)->copy(context, payload, error));
}

static cs_status run_fill(void *context, void *payload, cs_error *error) {
  return settle(context, driver_of(context)->fill(context, payload, error));
}

static cs_status run_plan(void *context, void *payload, cs_error *error) {
  clc_plan *const *plan = payload;
  return settle(context, driver_of(context)->launch(context, *plan, error));
}

static cs_status run_program(void *context, void *payload, cs_error *error) {
  cs_plugin_program *const *program = payload;
  const clc_driver *driver = driver_of(context);
  return settle(context, (*program)->recording
                             ? driver->replay(context, (*program)->recording, error)
                             : driver->launch(context, (*program)->plan, error));
}

static void program_release(cs_plugin_program *program) {
  if (atomic_fetch_sub_explicit(&program->references, 1, memory_order_acq_rel) != 1) return;
  const cs_host *host = program->host;
  if (program->recording) program->driver->discard(program->recording);
  clc_plan_destroy(program->plan);
  host->deallocate(host->context, program);
}

static void release_payload(void *context, cs_sdk_command command, void *payload) {
  (void)context;
  if (command == run_plan) clc_plan_destroy(*(clc_plan **)payload);
  if (command == run_program) program_release(*(cs_plugin_program **)payload);
}

static cs_status drain(void *context, cs_error *error) {
  return driver_of(context)->stream_drain(context, error);
}

/* ---- stream ---- */

/* Called when nothing uses the stream any more. */
static void stream_finish(void *context) {
  cs_plugin_stream *stream = context;
  const cs_host *host = clc_stream_of(stream)->host;
  driver_of(stream)->stream_finish(stream);
  host->deallocate(host->context, stream);
}

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = clc_device_of(device)->host;
  const clc_driver *driver = clc_device_of(device)->driver;
  cs_plugin_stream *stream = host->allocate(host->context, driver->stream_bytes, 16);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  memset(stream, 0, driver->stream_bytes);
  *clc_stream_of(stream) = (clc_stream){.host = host, .driver = driver, .device = device};
  const cs_status status = driver->stream_start(stream, error);
  if (status != CS_OK) {
    host->deallocate(host->context, stream);
    return status;
  }
  const cs_sdk_queue_options options = {
      .context = stream, .drain = drain, .release = release_payload, .finish = stream_finish};
  clc_stream_of(stream)->queue = cs_sdk_queue_create(host, &options);
  if (!clc_stream_of(stream)->queue) {
    stream_finish(stream);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory or thread for a stream");
  }
  *out = stream;
  return CS_OK;
}

static void stream_destroy(cs_plugin_stream *stream) {
  if (stream) cs_sdk_queue_destroy(clc_stream_of(stream)->queue);
}

/* The range lies in this device's memory. */
cs_status clc_check_range(const cs_plugin_device *device, const cs_plugin_memory *memory,
                          uint64_t offset, uint64_t bytes, cs_error *error) {
  if (!memory || clc_memory_of(memory)->device != clc_device_of(device))
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the memory is not of this device");
  const uint64_t size = clc_memory_of(memory)->bytes;
  if (bytes > size || offset > size - bytes)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "%llu bytes at %llu end outside the memory",
                        (unsigned long long)bytes, (unsigned long long)offset);
  return CS_OK;
}

static cs_status push(cs_plugin_stream *stream, cs_sdk_command command, const clc_copy *copy,
                      cs_error *error) {
  if (copy->bytes == 0) return CS_OK;
  return cs_sdk_queue_push(clc_stream_of(stream)->queue, command, copy, sizeof *copy, error);
}

static cs_status check_range(const cs_plugin_stream *stream, const cs_plugin_memory *memory,
                             uint64_t offset, uint64_t bytes, cs_error *error) {
  return clc_check_range(clc_stream_of(stream)->device, memory, offset, bytes, error);
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  const cs_status status = check_range(stream, to, to_offset, bytes, error);
  if (status != CS_OK) return status;
  const clc_copy copy = {.to = to, .to_offset = to_offset, .host_from = from, .bytes = bytes};
  return push(stream, run_upload, &copy, error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  const cs_status status = check_range(stream, from, from_offset, bytes, error);
  if (status != CS_OK) return status;
  const clc_copy copy = {.from = from, .from_offset = from_offset, .host_to = to, .bytes = bytes};
  return push(stream, run_download, &copy, error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  cs_status status = check_range(stream, to, to_offset, bytes, error);
  if (status == CS_OK) status = check_range(stream, from, from_offset, bytes, error);
  if (status != CS_OK) return status;
  const clc_copy copy = {
      .to = to, .from = from, .to_offset = to_offset, .from_offset = from_offset, .bytes = bytes};
  return push(stream, run_copy, &copy, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  const cs_status status = check_range(stream, to, offset, bytes, error);
  if (status != CS_OK) return status;
  const clc_copy copy = {
      .to = to, .to_offset = offset, .bytes = bytes, .value = (unsigned char)value};
  return push(stream, run_fill, &copy, error);
}

static cs_status check_semaphore(const cs_plugin_stream *stream,
                                 const cs_plugin_semaphore *semaphore, cs_error *error) {
  if (semaphore && semaphore->device == clc_stream_of(stream)->device) return CS_OK;
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the semaphore is not of this device");
}

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  const cs_status status = check_semaphore(stream, semaphore, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_wait(clc_stream_of(stream)->queue, semaphore->timeline, value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  const cs_status status = check_semaphore(stream, semaphore, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_signal(clc_stream_of(stream)->queue, semaphore->timeline, value, error);
}

static const cs_stream_table shared_stream_table = {.struct_size = sizeof(cs_stream_table),
                                                    .stream_create = stream_create,
                                                    .stream_destroy = stream_destroy,
                                                    .stream_upload = stream_upload,
                                                    .stream_download = stream_download,
                                                    .stream_copy = stream_copy,
                                                    .stream_fill = stream_fill,
                                                    .stream_wait = stream_wait,
                                                    .stream_signal = stream_signal};

/* ---- semaphore ---- */

static cs_status semaphore_create(cs_plugin_device *device, uint64_t initial,
                                  cs_plugin_semaphore **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = clc_device_of(device)->host;
  cs_plugin_semaphore *semaphore = host->allocate(host->context, sizeof *semaphore, 16);
  if (!semaphore) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
  semaphore->device = device;
  semaphore->timeline = cs_sdk_timeline_create(host, initial);
  if (!semaphore->timeline) {
    host->deallocate(host->context, semaphore);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
  }
  *out = semaphore;
  return CS_OK;
}

static void semaphore_destroy(cs_plugin_semaphore *semaphore) {
  if (!semaphore) return;
  const cs_host *host = clc_device_of(semaphore->device)->host;
  cs_sdk_timeline_destroy(semaphore->timeline);
  host->deallocate(host->context, semaphore);
}

static cs_status semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error) {
  return cs_sdk_timeline_query(semaphore->timeline, value, error);
}

static cs_status semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                                cs_error *error) {
  return cs_sdk_timeline_wait(semaphore->timeline, value, timeout_us, error);
}

static cs_status semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error) {
  (void)error;
  return cs_sdk_timeline_signal(semaphore->timeline, value);
}

static cs_status semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                cs_error *error) {
  (void)error;
  return cs_sdk_timeline_fail(semaphore->timeline, reason);
}

static const cs_semaphore_table shared_semaphore_table = {.struct_size = sizeof(cs_semaphore_table),
                                                          .semaphore_create = semaphore_create,
                                                          .semaphore_destroy = semaphore_destroy,
                                                          .semaphore_query = semaphore_query,
                                                          .semaphore_wait = semaphore_wait,
                                                          .semaphore_signal = semaphore_signal,
                                                          .semaphore_fail = semaphore_fail};

/* ---- eager ops and programs ---- */

static cs_status plan_list(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                           uint32_t op_stride, cs_plugin_memory *workspace, clc_plan **out,
                           cs_error *error) {
  cs_sdk_ops *copy = NULL;
  cs_status status =
      cs_sdk_ops_create(clc_device_of(device)->host, ops, n_ops, op_stride, &copy, error);
  if (status != CS_OK) return status;
  status = clc_plan_ops(device, copy, workspace, out, error);
  cs_sdk_ops_release(copy);
  return status;
}

static cs_status ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  clc_plan *plan = NULL;
  cs_status status =
      plan_list(clc_stream_of(stream)->device, ops, n_ops, op_stride, workspace, &plan, error);
  if (status != CS_OK) return status;
  status = cs_sdk_queue_push(clc_stream_of(stream)->queue, run_plan, &plan, sizeof plan, error);
  if (status != CS_OK) clc_plan_destroy(plan);
  return status;
}

static const cs_eager_table shared_eager_table = {.struct_size = sizeof(cs_eager_table),
                                                  .ops_enqueue = ops_enqueue};

static cs_status program_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                                uint32_t op_stride, cs_plugin_memory *workspace,
                                cs_plugin_program **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = clc_device_of(device)->host;
  const clc_driver *driver = clc_device_of(device)->driver;
  cs_plugin_program *program = host->allocate(host->context, sizeof *program, 16);
  if (!program) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
  *program = (cs_plugin_program){.host = host, .driver = driver, .device = device};
  atomic_init(&program->references, 1);
  cs_status status = plan_list(device, ops, n_ops, op_stride, workspace, &program->plan, error);
  if (status == CS_OK && driver->record)
    status = driver->record(device, program->plan, &program->recording, error);
  if (status != CS_OK) {
    clc_plan_destroy(program->plan);
    host->deallocate(host->context, program);
    return status;
  }
  *out = program;
  return CS_OK;
}

static void program_destroy(cs_plugin_program *program) {
  if (program) program_release(program);
}

static cs_status program_launch(cs_plugin_stream *stream, cs_plugin_program *program,
                                cs_error *error) {
  if (program->device != clc_stream_of(stream)->device)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the program is not of this device");
  atomic_fetch_add_explicit(&program->references, 1, memory_order_relaxed);
  const cs_status status =
      cs_sdk_queue_push(clc_stream_of(stream)->queue, run_program, &program, sizeof program, error);
  if (status != CS_OK) program_release(program);
  return status;
}

static const cs_program_table shared_program_table = {.struct_size = sizeof(cs_program_table),
                                                      .program_create = program_create,
                                                      .program_destroy = program_destroy,
                                                      .program_launch = program_launch};

const void *clc_table(uint32_t id) {
  switch (id) {
  case CS_TABLE_STREAM:
    return &shared_stream_table;
  case CS_TABLE_SEMAPHORE:
    return &shared_semaphore_table;
  case CS_TABLE_CAPABILITY:
    return &clc_capability_table;
  case CS_TABLE_EAGER:
    return &shared_eager_table;
  case CS_TABLE_PROGRAM:
    return &shared_program_table;
  default:
    return NULL;
  }
}
