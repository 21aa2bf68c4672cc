/* Times of ops, appended by a stream's thread and read by the host. The array grows as needed up to
 * a limit, behind which times are lost rather than memory. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "semaphore.h"

#define MAX_RECORDS (UINT32_C(1) << 20)

typedef struct op_record {
  uint32_t op_id;
  uint64_t begin_ns, end_ns;
} op_record;

struct cs_sdk_op_log {
  const cs_host *host;
  atomic_uint references;
  atomic_bool on;
  pthread_mutex_t mutex;
  op_record *records; /* (capacity); first to n - 1 are not read yet */
  uint32_t first, n, capacity;
};

cs_sdk_op_log *cs_sdk_op_log_create(const cs_host *host) {
  cs_sdk_op_log *log = host->allocate(host->context, sizeof *log, 64);
  if (!log) return NULL;
  memset(log, 0, sizeof *log);
  log->host = host;
  atomic_init(&log->references, 1);
  if (pthread_mutex_init(&log->mutex, NULL) == 0) return log;
  host->deallocate(host->context, log);
  return NULL;
}

void cs_sdk_op_log_retain(cs_sdk_op_log *log) {
  atomic_fetch_add_explicit(&log->references, 1, memory_order_relaxed);
}

void cs_sdk_op_log_release(cs_sdk_op_log *log) {
  if (!log || atomic_fetch_sub_explicit(&log->references, 1, memory_order_acq_rel) != 1) return;
  pthread_mutex_destroy(&log->mutex);
  log->host->deallocate(log->host->context, log->records);
  log->host->deallocate(log->host->context, log);
}

void cs_sdk_op_log_enable(cs_sdk_op_log *log, uint32_t on) {
  atomic_store(&log->on, on != 0);
}

uint64_t cs_sdk_op_log_begin(cs_sdk_op_log *log) {
  if (!atomic_load_explicit(&log->on, memory_order_relaxed)) return 0;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Under the mutex. What was read makes room first. */
static bool make_room(cs_sdk_op_log *log) {
  if (log->first > 0 && log->n == log->capacity) {
    log->n -= log->first;
    memmove(log->records, log->records + log->first, log->n * sizeof *log->records);
    log->first = 0;
  }
  if (log->n < log->capacity) return true;
  const uint32_t larger = log->capacity ? 2 * log->capacity : 256;
  op_record *records = larger <= MAX_RECORDS
                           ? log->host->allocate(log->host->context, larger * sizeof *records, 16)
                           : NULL;
  if (!records) return false;
  if (log->n) memcpy(records, log->records, log->n * sizeof *records);
  log->host->deallocate(log->host->context, log->records);
  log->records = records;
  log->capacity = larger;
  return true;
}

void cs_sdk_op_log_add(cs_sdk_op_log *log, uint32_t op_id, uint64_t begin_ns, uint64_t end_ns) {
  pthread_mutex_lock(&log->mutex);
  if (make_room(log))
    log->records[log->n++] = (op_record){.op_id = op_id, .begin_ns = begin_ns, .end_ns = end_ns};
  pthread_mutex_unlock(&log->mutex);
}

void cs_sdk_op_log_end(cs_sdk_op_log *log, uint32_t op_id, uint64_t begin_ns) {
  if (begin_ns == 0) return;
  const uint64_t end_ns = cs_sdk_op_log_begin(log);
  if (end_ns) cs_sdk_op_log_add(log, op_id, begin_ns, end_ns);
}

uint32_t cs_sdk_op_log_read(cs_sdk_op_log *log, cs_op_time *out, uint32_t capacity,
                            uint32_t stride) {
  uint32_t n = 0;
  pthread_mutex_lock(&log->mutex);
  for (; n < capacity && log->first < log->n; n++) {
    const op_record *record = &log->records[log->first++];
    const cs_op_time time = {.struct_size = sizeof time,
                             .op_id = record->op_id,
                             .begin_ns = record->begin_ns,
                             .end_ns = record->end_ns};
    cs_sdk_struct_write((char *)out + (size_t)n * stride, &time, sizeof time);
  }
  if (log->first == log->n) log->first = log->n = 0;
  pthread_mutex_unlock(&log->mutex);
  return n;
}

/* ---- the table over ready streams ---- */

static cs_status stream_profile_enable(cs_plugin_stream *stream, uint32_t on, cs_error *error) {
  (void)error;
  cs_sdk_op_log_enable(cs_sdk_stream_of(stream)->log, on);
  return CS_OK;
}

static cs_status stream_profile_read(cs_plugin_stream *stream, cs_op_time *out, uint32_t capacity,
                                     uint32_t stride, uint32_t *n_read, cs_error *error) {
  (void)error;
  *n_read = cs_sdk_op_log_read(cs_sdk_stream_of(stream)->log, out, capacity, stride);
  return CS_OK;
}

const cs_profile_table cs_sdk_profile_table = {.struct_size = sizeof(cs_profile_table),
                                               .stream_profile_enable = stream_profile_enable,
                                               .stream_profile_read = stream_profile_read};
