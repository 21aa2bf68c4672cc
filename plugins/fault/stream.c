/* Streams, semaphores and launches. A fault in running work is made from the contract's own parts:
 * the target's stream is told to wait for a semaphore that is failed (a failure), signalled late (a
 * slow device) or never signalled (a hang). */
#include <string.h>
#include <time.h>

#include "fault.h"

#define REORDER_US 5000

/* ---- semaphores ---- */

static cs_status semaphore_create(cs_plugin_device *device, uint64_t initial,
                                  cs_plugin_semaphore **out, cs_error *error) {
  *out = NULL;
  cs_status status = fault_check_lost(device, error);
  if (status != CS_OK) return status;
  const cs_host *host = device->host;
  cs_plugin_semaphore *semaphore = host->allocate(host->context, sizeof *semaphore, 16);
  if (!semaphore) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
  semaphore->device = device;
  status =
      device->target->semaphore.semaphore_create(device->inner, initial, &semaphore->inner, error);
  if (status != CS_OK) {
    host->deallocate(host->context, semaphore);
    return status;
  }
  pthread_mutex_lock(&device->mutex);
  semaphore->next = device->semaphores;
  semaphore->link = &device->semaphores;
  if (semaphore->next) semaphore->next->link = &semaphore->next;
  device->semaphores = semaphore;
  pthread_mutex_unlock(&device->mutex);
  *out = semaphore;
  return CS_OK;
}

static void semaphore_destroy(cs_plugin_semaphore *semaphore) {
  if (!semaphore) return;
  cs_plugin_device *device = semaphore->device;
  pthread_mutex_lock(&device->mutex);
  *semaphore->link = semaphore->next;
  if (semaphore->next) semaphore->next->link = semaphore->link;
  pthread_mutex_unlock(&device->mutex);
  device->target->semaphore.semaphore_destroy(semaphore->inner);
  device->host->deallocate(device->host->context, semaphore);
}

static cs_status semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error) {
  return semaphore->device->target->semaphore.semaphore_query(semaphore->inner, value, error);
}

static cs_status semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                                cs_error *error) {
  return semaphore->device->target->semaphore.semaphore_wait(semaphore->inner, value, timeout_us,
                                                             error);
}

static cs_status semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error) {
  return semaphore->device->target->semaphore.semaphore_signal(semaphore->inner, value, error);
}

static cs_status semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                cs_error *error) {
  return semaphore->device->target->semaphore.semaphore_fail(semaphore->inner, reason, error);
}

/* ---- streams ---- */

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  *out = NULL;
  cs_status status = fault_check_lost(device, error);
  if (status != CS_OK) return status;
  const cs_host *host = device->host;
  cs_plugin_stream *stream = host->allocate(host->context, sizeof *stream, 16);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  memset(stream, 0, sizeof *stream);
  stream->device = device;
  const uint32_t number = atomic_fetch_add(&device->n_streams, 1);
  if (device->plan.on[FAULT_SLOW]) stream->delay_us = device->plan.argument[FAULT_SLOW];
  if (device->plan.on[FAULT_REORDER] && number % 2 == 1) stream->delay_us += REORDER_US;
  if (stream->delay_us) status = fault_gate_create(device, &stream->gate, error);
  if (status == CS_OK)
    status = device->target->stream.stream_create(device->inner, &stream->inner, error);
  if (status != CS_OK) {
    host->deallocate(host->context, stream);
    return status;
  }
  *out = stream;
  return CS_OK;
}

static void stream_destroy(cs_plugin_stream *stream) {
  if (!stream) return;
  stream->device->target->stream.stream_destroy(stream->inner);
  stream->device->host->deallocate(stream->device->host->context, stream);
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  const cs_status status = fault_check_lost(stream->device, error);
  if (status != CS_OK) return status;
  return stream->device->target->stream.stream_upload(stream->inner, to, to_offset, from, bytes,
                                                      error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  const cs_status status = fault_check_lost(stream->device, error);
  if (status != CS_OK) return status;
  return stream->device->target->stream.stream_download(stream->inner, to, from, from_offset, bytes,
                                                        error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  const cs_status status = fault_check_lost(stream->device, error);
  if (status != CS_OK) return status;
  return stream->device->target->stream.stream_copy(stream->inner, to, to_offset, from, from_offset,
                                                    bytes, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  const cs_status status = fault_check_lost(stream->device, error);
  if (status != CS_OK) return status;
  return stream->device->target->stream.stream_fill(stream->inner, to, offset, bytes, value, error);
}

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  const cs_status status = fault_check_lost(stream->device, error);
  if (status != CS_OK) return status;
  return stream->device->target->stream.stream_wait(stream->inner, semaphore->inner, value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  const cs_status status = fault_check_lost(stream->device, error);
  if (status != CS_OK) return status;
  return stream->device->target->stream.stream_signal(stream->inner, semaphore->inner, value,
                                                      error);
}

/* ---- launches ---- */

typedef struct late_signal {
  cs_plugin_semaphore *gate;
  uint64_t value;
  uint64_t delay_us;
} late_signal;

static cs_status signal_late(void *context, void *payload, cs_error *error) {
  const cs_plugin_device *device = context;
  const late_signal *late = payload;
  const struct timespec delay = {.tv_sec = (time_t)(late->delay_us / 1000000),
                                 .tv_nsec = (long)(late->delay_us % 1000000) * 1000};
  nanosleep(&delay, NULL);
  return device->target->semaphore.semaphore_signal(late->gate, late->value, error);
}

static cs_status delay_launch(cs_plugin_stream *stream, cs_error *error) {
  const late_signal late = {stream->gate, ++stream->gate_value, stream->delay_us};
  const cs_status status =
      stream->device->target->stream.stream_wait(stream->inner, late.gate, late.value, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_push(stream->device->timer, signal_late, &late, sizeof late, error);
}

/* The stream waits for a gate; the gate fails for `reason`, or stays as it is when that is NULL. */
static cs_status stop_stream(cs_plugin_stream *stream, const cs_error *reason, cs_error *error) {
  cs_plugin_semaphore *gate;
  const fault_target *target = stream->device->target;
  cs_status status = fault_gate_create(stream->device, &gate, error);
  if (status == CS_OK) status = target->stream.stream_wait(stream->inner, gate, 1, error);
  if (status != CS_OK || !reason) return status;
  return target->semaphore.semaphore_fail(gate, reason, error);
}

static cs_status fail_launch(cs_plugin_stream *stream, cs_error *error) {
  cs_error reason = CS_ERROR_INIT;
  cs_sdk_error(&reason, stream->device->plan.launch_status, 0,
               "the launch failed, as CONSORT_FAULT asked");
  reason.op_index = 0;
  return stop_stream(stream, &reason, error);
}

/* The device is lost first: what the launch fails for and what every semaphore fails for is then
 * the same, whichever is heard of first. */
static cs_status lose_in_launch(cs_plugin_stream *stream, cs_error *error) {
  cs_error reason = CS_ERROR_INIT;
  fault_lose(stream->device);
  fault_check_lost(stream->device, &reason);
  return stop_stream(stream, &reason, error);
}

cs_status fault_before_launch(cs_plugin_stream *stream, cs_error *error) {
  cs_plugin_device *device = stream->device;
  const fault_plan *plan = &device->plan;
  cs_status status = fault_check_lost(device, error);
  if (status != CS_OK) return status;
  const uint32_t number = atomic_fetch_add(&device->n_launches, 1) + 1;
  if (plan->on[FAULT_CRASH] && number == plan->argument[FAULT_CRASH]) __builtin_trap();
  if (plan->on[FAULT_LAUNCH] && number == plan->argument[FAULT_LAUNCH])
    status = fail_launch(stream, error);
  if (plan->on[FAULT_HANG] && number == plan->argument[FAULT_HANG])
    status = stop_stream(stream, NULL, error);
  if (plan->on[FAULT_LOST] && number == plan->argument[FAULT_LOST])
    status = lose_in_launch(stream, error);
  if (status == CS_OK && stream->gate) status = delay_launch(stream, error);
  return status;
}

const cs_stream_table fault_stream_table = {.struct_size = sizeof fault_stream_table,
                                            .stream_create = stream_create,
                                            .stream_destroy = stream_destroy,
                                            .stream_upload = stream_upload,
                                            .stream_download = stream_download,
                                            .stream_copy = stream_copy,
                                            .stream_fill = stream_fill,
                                            .stream_wait = stream_wait,
                                            .stream_signal = stream_signal};

const cs_semaphore_table fault_semaphore_table = {.struct_size = sizeof fault_semaphore_table,
                                                  .semaphore_create = semaphore_create,
                                                  .semaphore_destroy = semaphore_destroy,
                                                  .semaphore_query = semaphore_query,
                                                  .semaphore_wait = semaphore_wait,
                                                  .semaphore_signal = semaphore_signal,
                                                  .semaphore_fail = semaphore_fail};
