/* Times of ops by the devices' own clocks, summed for each kind of op. Sums are read by threads
 * other than the one that runs the steps, so they lie under a mutex; it is taken once a step. */
#include <string.h>

#include "core/device_private.h"
#include "core/error.h"
#include "core/executor_private.h"

#define RECORDS_A_READ 256

/* ---- the front door ---- */

bool cs_device_times_ops(const cs_device *device) {
  return device->tables->profile.stream_profile_enable != NULL;
}

static cs_status enter(cs_stream *stream, cs_error *error) {
  if (!cs_device_times_ops(stream->device))
    return cs_error_set(error, CS_UNSUPPORTED, "%s does not time its ops", stream->device->name);
  const cs_status status = cs_device_enter(stream->device, error);
  if (status != CS_OK || !stream->record) return status;
  return cs_record_enter(stream->record, error);
}

static cs_status leave(cs_stream *stream, cs_status status, cs_error *error) {
  if (stream->record) cs_record_leave(stream->record);
  return cs_device_result(stream->device, status, error, "does not time its ops");
}

cs_status cs_stream_profile_enable(cs_stream *stream, bool on, cs_error *error) {
  cs_status status = enter(stream, error);
  if (status != CS_OK) return status;
  status = stream->device->tables->profile.stream_profile_enable(stream->handle, on, error);
  return leave(stream, status, error);
}

cs_status cs_stream_profile_read(cs_stream *stream, cs_op_time *out, uint32_t capacity,
                                 uint32_t *n_read, cs_error *error) {
  *n_read = 0;
  cs_status status = enter(stream, error);
  if (status != CS_OK) return status;
  for (uint32_t i = 0; i < capacity; i++)
    out[i] = (cs_op_time){.struct_size = sizeof out[i]};
  status = stream->device->tables->profile.stream_profile_read(stream->handle, out, capacity,
                                                               sizeof *out, n_read, error);
  if (status == CS_OK && *n_read > capacity) status = CS_FAILED;
  if (status != CS_OK) *n_read = 0;
  return leave(stream, status, error);
}

/* ---- the executor's sums ---- */

void cs_profile_start(cs_profile *profile, cs_lane *lane) {
  if (!profile->on || !cs_device_times_ops(lane->device)) return;
  (void)cs_stream_profile_enable(lane->stream, true, NULL); /* times are an extra */
}

static void add(cs_op_total totals[CS_OP_LIMIT], const cs_op_time *record) {
  if (record->op_id >= CS_OP_LIMIT || record->end_ns < record->begin_ns) return;
  totals[record->op_id].count++;
  totals[record->op_id].ns += record->end_ns - record->begin_ns;
}

void cs_profile_collect(cs_profile *profile, uint32_t place, cs_lane *lane) {
  if (!profile->on || !lane->stream || !cs_device_times_ops(lane->device)) return;
  cs_op_time records[RECORDS_A_READ];
  uint32_t n = RECORDS_A_READ;
  pthread_mutex_lock(&profile->mutex);
  while (n == RECORDS_A_READ) {
    if (cs_stream_profile_read(lane->stream, records, RECORDS_A_READ, &n, NULL) != CS_OK) break;
    for (uint32_t i = 0; i < n; i++)
      add(profile->totals[place], &records[i]);
  }
  pthread_mutex_unlock(&profile->mutex);
}

void cs_executor_op_totals(cs_executor *executor, uint32_t device, cs_op_total out[CS_OP_LIMIT]) {
  pthread_mutex_lock(&executor->profile.mutex);
  memcpy(out, executor->profile.totals[device], sizeof executor->profile.totals[device]);
  pthread_mutex_unlock(&executor->profile.mutex);
}
