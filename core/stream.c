/* Every call here is one check and one call through; work that needs the host to wait uses a
 * semaphore of the stream's own, made when it is first needed. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/device_private.h"
#include "core/error.h"

static uint64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ---- life ---- */

cs_status cs_stream_create(cs_device *device, cs_stream **out, cs_error *error) {
  *out = NULL;
  cs_status status = cs_device_enter(device, error);
  if (status != CS_OK) return status;
  cs_stream *stream = calloc(1, sizeof *stream);
  if (!stream) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a stream");
  status = device->tables->stream.stream_create(device->handle, &stream->handle, error);
  if (status == CS_OK && !stream->handle) status = CS_FAILED;
  if (status != CS_OK) {
    free(stream);
    return cs_device_result(device, status, error, "does not make a stream");
  }
  stream->device = device;
  cs_device_retain(device);
  stream->record =
      cs_record_create(device->runtime->validator, CS_RECORD_STREAM, stream, device->name);
  *out = stream;
  return CS_OK;
}

void cs_stream_destroy(cs_stream *stream) {
  if (!stream || !cs_handle_may_destroy(stream->record)) return;
  cs_device *device = stream->device;
  const uint64_t begin_us = now_us();
  device->tables->stream.stream_destroy(stream->handle);
  if (now_us() - begin_us > CS_SLOW_DESTROY_US) atomic_store(&device->module->leaked, true);
  while (stream->retired) {
    cs_retired_program *retired = stream->retired;
    stream->retired = retired->next;
    device->tables->program.program_destroy(retired->program);
    free(retired);
  }
  if (stream->own) device->tables->semaphore.semaphore_destroy(stream->own);
  cs_handle_free(stream, stream->record);
  cs_device_release(device);
}

cs_device *cs_stream_device(const cs_stream *stream) {
  return stream->device;
}

/* Every call that passed its checks runs between enter and leave. */
static inline cs_status enter(cs_stream *stream, cs_error *error) {
  const cs_status status = cs_device_enter(stream->device, error);
  if (status != CS_OK || !stream->record) return status;
  return cs_record_enter(stream->record, error);
}

static inline cs_status leave(cs_stream *stream, cs_status status, cs_error *error,
                              const char *what) {
  if (stream->record) cs_record_leave(stream->record);
  return cs_device_result(stream->device, status, error, what);
}

/* ---- copies ---- */

static cs_status refuse(const cs_stream *stream, cs_status code, const char *what,
                        cs_error *error) {
  return cs_error_set(error, code, "%s: %s", stream ? stream->device->name : "stream", what);
}

/* One buffer and its range, as a plugin may see them. */
static cs_status check_range(const cs_stream *stream, const cs_buffer *buffer, uint64_t offset,
                             uint64_t bytes, cs_error *error) {
  if (!stream || !buffer || bytes == 0) {
    return refuse(stream, CS_INVALID_ARGUMENT, "a copy without stream, buffer or bytes", error);
  }
  if (buffer->device != stream->device) {
    return refuse(stream, CS_INVALID_ARGUMENT, "a buffer of another device", error);
  }
  if (buffer->packed) {
    return refuse(stream, CS_INVALID_ARGUMENT, "packed weights are not copied", error);
  }
  if (!cs_range_fits(offset, bytes, buffer->bytes)) {
    return cs_error_set(error, CS_OUT_OF_RANGE, "%s: bytes %llu to %llu of a buffer of %llu",
                        stream->device->name, (unsigned long long)offset,
                        (unsigned long long)(offset + bytes), (unsigned long long)buffer->bytes);
  }
  const cs_status status = cs_handle_check(stream->record, error);
  return status == CS_OK ? cs_handle_check(buffer->record, error) : status;
}

cs_status cs_stream_upload(cs_stream *stream, cs_buffer *to, uint64_t to_offset, const void *from,
                           uint64_t bytes, cs_error *error) {
  cs_status status = check_range(stream, to, to_offset, bytes, error);
  if (status != CS_OK) return status;
  if (!from || !to->memory) {
    return refuse(stream, CS_INVALID_ARGUMENT, "an upload from nowhere or to host memory", error);
  }
  cs_device *device = stream->device;
  status = enter(stream, error);
  if (status != CS_OK) return status;
  if (stream->record) cs_record_uses_buffer(stream->record, to->record);
  status = device->tables->stream.stream_upload(stream->handle, to->memory, to_offset, from, bytes,
                                                error);
  return leave(stream, status, error, "an upload is refused");
}

cs_status cs_stream_download(cs_stream *stream, void *to, const cs_buffer *from,
                             uint64_t from_offset, uint64_t bytes, cs_error *error) {
  cs_status status = check_range(stream, from, from_offset, bytes, error);
  if (status != CS_OK) return status;
  if (!to || !from->memory) {
    return refuse(stream, CS_INVALID_ARGUMENT, "a download to nowhere or from host memory", error);
  }
  cs_device *device = stream->device;
  status = enter(stream, error);
  if (status != CS_OK) return status;
  if (stream->record) cs_record_uses_buffer(stream->record, from->record);
  status = device->tables->stream.stream_download(stream->handle, to, from->memory, from_offset,
                                                  bytes, error);
  return leave(stream, status, error, "a download is refused");
}

cs_status cs_stream_copy(cs_stream *stream, cs_buffer *to, uint64_t to_offset,
                         const cs_buffer *from, uint64_t from_offset, uint64_t bytes,
                         cs_error *error) {
  cs_status status = check_range(stream, to, to_offset, bytes, error);
  if (status == CS_OK) status = check_range(stream, from, from_offset, bytes, error);
  if (status != CS_OK) return status;
  if (to == from && to_offset < from_offset + bytes && from_offset < to_offset + bytes) {
    return refuse(stream, CS_INVALID_ARGUMENT, "a copy between ranges that overlap", error);
  }
  if (to->host && from->host) {
    return refuse(stream, CS_UNSUPPORTED, "a copy between two buffers of host memory", error);
  }
  if (from->host) {
    return cs_stream_upload(stream, to, to_offset, (char *)from->host + from_offset, bytes, error);
  }
  if (to->host) {
    return cs_stream_download(stream, (char *)to->host + to_offset, from, from_offset, bytes,
                              error);
  }
  cs_device *device = stream->device;
  status = enter(stream, error);
  if (status != CS_OK) return status;
  if (stream->record) cs_record_uses_buffer(stream->record, to->record);
  if (stream->record) cs_record_uses_buffer(stream->record, from->record);
  status = device->tables->stream.stream_copy(stream->handle, to->memory, to_offset, from->memory,
                                              from_offset, bytes, error);
  return leave(stream, status, error, "a copy is refused");
}

cs_status cs_stream_fill(cs_stream *stream, cs_buffer *to, uint64_t offset, uint64_t bytes,
                         uint8_t value, cs_error *error) {
  cs_status status = check_range(stream, to, offset, bytes, error);
  if (status != CS_OK) return status;
  if (!to->memory) return refuse(stream, CS_INVALID_ARGUMENT, "a fill of host memory", error);
  cs_device *device = stream->device;
  status = enter(stream, error);
  if (status != CS_OK) return status;
  if (stream->record) cs_record_uses_buffer(stream->record, to->record);
  status =
      device->tables->stream.stream_fill(stream->handle, to->memory, offset, bytes, value, error);
  return leave(stream, status, error, "a fill is refused");
}

/* ---- order ---- */

static cs_status check_semaphore(const cs_stream *stream, const cs_semaphore *semaphore,
                                 cs_error *error) {
  if (!stream || !semaphore) {
    return refuse(stream, CS_INVALID_ARGUMENT, "no stream or semaphore", error);
  }
  if (semaphore->device != stream->device) {
    return refuse(stream, CS_INVALID_ARGUMENT, "a semaphore of another device", error);
  }
  return cs_handle_check(semaphore->record, error);
}

cs_status cs_stream_wait(cs_stream *stream, cs_semaphore *semaphore, uint64_t value,
                         cs_error *error) {
  cs_status status = check_semaphore(stream, semaphore, error);
  if (status == CS_OK) status = enter(stream, error);
  if (status != CS_OK) return status;
  if (stream->record) cs_record_waits(stream->record, semaphore->record, value);
  cs_device *device = stream->device;
  status = device->tables->stream.stream_wait(stream->handle, semaphore->handle, value, error);
  return leave(stream, status, error, "a wait is refused");
}

cs_status cs_stream_signal(cs_stream *stream, cs_semaphore *semaphore, uint64_t value,
                           cs_error *error) {
  cs_status status = check_semaphore(stream, semaphore, error);
  if (status == CS_OK) status = enter(stream, error);
  if (status != CS_OK) return status;
  if (stream->record) cs_record_signals(stream->record, semaphore->record, value);
  cs_device *device = stream->device;
  status = device->tables->stream.stream_signal(stream->handle, semaphore->handle, value, error);
  return leave(stream, status, error, "a signal is refused");
}

/* Signals the stream's own semaphore with its next value. */
static cs_status signal_own(cs_stream *stream, cs_error *error) {
  cs_device *device = stream->device;
  if (!stream->own) {
    const cs_status status =
        device->tables->semaphore.semaphore_create(device->handle, 0, &stream->own, error);
    if (status != CS_OK) {
      stream->own = NULL;
      return status;
    }
  }
  const cs_status status = device->tables->stream.stream_signal(stream->handle, stream->own,
                                                                stream->own_value + 1, error);
  if (status == CS_OK) stream->own_value++;
  return status;
}

cs_status cs_stream_synchronize(cs_stream *stream, uint64_t timeout_us, cs_error *error) {
  if (!stream) return refuse(stream, CS_INVALID_ARGUMENT, "no stream", error);
  cs_status status = enter(stream, error);
  if (status != CS_OK) return status;
  status = signal_own(stream, error);
  if (status != CS_OK) return leave(stream, status, error, "a signal is refused");
  status = stream->device->tables->semaphore.semaphore_wait(stream->own, stream->own_value,
                                                            cs_wait_limit_us(timeout_us), error);
  if (stream->record && status != CS_TIMEOUT) cs_record_idle(stream->record);
  return leave(stream, status, error, "work is not done");
}

/* ---- ops ---- */

static cs_status check_workspace(const cs_device *device, const cs_buffer *workspace,
                                 cs_error *error) {
  if (!workspace || (workspace->device == device && workspace->memory)) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: a workspace of another device or the host's",
                      device->name);
}

/* Frees the programs of earlier calls whose launches are over. A failed semaphore does not tell:
 * then they stay until the stream goes. */
static void free_retired(cs_stream *stream) {
  const cs_tables *tables = stream->device->tables;
  uint64_t reached = 0;
  if (!stream->retired) return;
  if (tables->semaphore.semaphore_query(stream->own, &reached, NULL) != CS_OK) return;
  for (cs_retired_program **link = &stream->retired; *link;) {
    cs_retired_program *retired = *link;
    if (retired->value > reached) {
      link = &retired->next;
      continue;
    }
    *link = retired->next;
    tables->program.program_destroy(retired->program);
    free(retired);
  }
}

/* Runs ops on a device that only knows programs: one is made, launched once, and freed later. */
static cs_status run_as_program(cs_stream *stream, const cs_op *ops, uint32_t n_ops,
                                cs_plugin_memory *workspace, cs_error *error) {
  cs_device *device = stream->device;
  const cs_program_table *table = &device->tables->program;
  free_retired(stream);
  cs_retired_program *retired = calloc(1, sizeof *retired);
  if (!retired) return CS_OUT_OF_MEMORY;
  cs_status status = table->program_create(device->handle, ops, n_ops, sizeof *ops, workspace,
                                           &retired->program, error);
  if (status == CS_OK && !retired->program) status = CS_FAILED;
  if (status != CS_OK) {
    free(retired);
    return status;
  }
  retired->next = stream->retired;
  retired->value = stream->own_value + 1;
  stream->retired = retired;
  status = table->program_launch(stream->handle, retired->program, error);
  return status == CS_OK ? signal_own(stream, error) : status;
}

cs_status cs_stream_ops(cs_stream *stream, const cs_op *ops, uint32_t n_ops, cs_buffer *workspace,
                        cs_error *error) {
  if (!stream) return refuse(stream, CS_INVALID_ARGUMENT, "no stream", error);
  cs_device *device = stream->device;
  cs_status status = cs_ops_check(device, ops, n_ops, true, error);
  if (status == CS_OK) status = check_workspace(device, workspace, error);
  if (status == CS_OK) status = enter(stream, error);
  if (status != CS_OK) return status;
  cs_plugin_memory *memory = workspace ? workspace->memory : NULL;
  if (stream->record) {
    if (workspace) cs_record_uses_buffer(stream->record, workspace->record);
    status = cs_record_uses_ops(stream->record, ops, n_ops, error);
    if (status != CS_OK) return leave(stream, status, error, "ops are refused");
  }
  if (device->tables->eager.ops_enqueue) {
    status =
        device->tables->eager.ops_enqueue(stream->handle, ops, n_ops, sizeof *ops, memory, error);
  } else {
    status = run_as_program(stream, ops, n_ops, memory, error);
  }
  return leave(stream, status, error, "ops are refused");
}

/* ---- programs ---- */

cs_status cs_program_create(cs_device *device, const cs_op *ops, uint32_t n_ops,
                            cs_buffer *workspace, cs_program **out, cs_error *error) {
  *out = NULL;
  if (!cs_device_has_program(device)) {
    return cs_error_set(error, CS_UNSUPPORTED, "%s: records no programs", device->name);
  }
  cs_status status = cs_ops_check(device, ops, n_ops, true, error);
  if (status == CS_OK) status = check_workspace(device, workspace, error);
  if (status == CS_OK) status = cs_device_enter(device, error);
  if (status != CS_OK) return status;
  cs_program *program = calloc(1, sizeof *program);
  if (!program) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a program");
  status = device->tables->program.program_create(device->handle, ops, n_ops, sizeof *ops,
                                                  workspace ? workspace->memory : NULL,
                                                  &program->handle, error);
  if (status == CS_OK && !program->handle) status = CS_FAILED;
  if (status != CS_OK) {
    free(program);
    return cs_device_result(device, status, error, "does not record ops");
  }
  program->device = device;
  cs_device_retain(device);
  program->record =
      cs_record_create(device->runtime->validator, CS_RECORD_PROGRAM, program, device->name);
  if (program->record) {
    status = cs_record_set_ops(program->record, ops, n_ops, error);
    if (status != CS_OK) {
      cs_program_destroy(program);
      return status;
    }
  }
  *out = program;
  return CS_OK;
}

void cs_program_destroy(cs_program *program) {
  if (!program || !cs_handle_may_destroy(program->record)) return;
  cs_device *device = program->device;
  device->tables->program.program_destroy(program->handle);
  cs_handle_free(program, program->record);
  cs_device_release(device);
}

cs_status cs_program_launch(cs_stream *stream, cs_program *program, cs_error *error) {
  if (!stream || !program || program->device != stream->device) {
    return refuse(stream, CS_INVALID_ARGUMENT, "a program of another device or none", error);
  }
  cs_status status = cs_handle_check(program->record, error);
  if (status == CS_OK) status = enter(stream, error);
  if (status != CS_OK) return status;
  if (stream->record) cs_record_uses_program(stream->record, program->record);
  status = stream->device->tables->program.program_launch(stream->handle, program->handle, error);
  return leave(stream, status, error, "a program is not launched");
}
