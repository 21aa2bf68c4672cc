/* Threads are pinned, one to each allowed core, and begin together; a pass counts from the first
 * begin to the last end, as a kernel that waits for its slowest thread would. */
#include "scheduler/probe_host.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/error.h"
#include "scheduler/probe_host_loops.h"

#define READ_BYTES   (UINT64_C(256) << 20)
#define MAX_THREADS  1024
#define PIECE_BYTES  256 /* what the read loop takes at once */
#define PEAK_PASSES  5
#define PEAK_SECONDS 0.03 /* about what one pass of a peak loop takes */

#define GATE_CLOSED 0
#define GATE_OPEN   1
#define GATE_LEAVE  2

typedef struct worker {
  pthread_t thread;
  atomic_int *gate;
  int core; /* -1: not pinned */
  double begin_seconds;
  double end_seconds;
  const cs_host_range *ranges; /* of a read pass; NULL: arithmetic */
  size_t n_ranges;
  uint32_t share; /* of n_shares of each range */
  uint32_t n_shares;
  cs_peak_loop loop;
  uint64_t n_rounds;
  uint64_t result; /* keeps the work from being optimised away */
} worker;

static double now_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static size_t share_begin(const cs_host_range *range, uint32_t share, uint32_t n_shares) {
  return (size_t)((uint64_t)(range->bytes / PIECE_BYTES) * share / n_shares) * PIECE_BYTES;
}

static uint64_t read_share(const worker *self) {
  uint64_t result = 0;
  for (size_t i = 0; i < self->n_ranges; i++) {
    const cs_host_range *range = &self->ranges[i];
    const size_t begin = share_begin(range, self->share, self->n_shares);
    const size_t end = share_begin(range, self->share + 1, self->n_shares);
    result += cs_read_loop((const unsigned char *)range->data + begin, end - begin);
  }
  return result;
}

static void *work(void *argument) {
  worker *self = argument;
  int gate;
  while ((gate = atomic_load_explicit(self->gate, memory_order_acquire)) == GATE_CLOSED)
    sched_yield();
  if (gate == GATE_LEAVE) return NULL;
  self->begin_seconds = now_seconds();
  self->result = self->ranges ? read_share(self) : self->loop(self->n_rounds);
  self->end_seconds = now_seconds();
  return NULL;
}

static void pin(const worker *self) {
  if (self->core < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(self->core, &set);
  pthread_setaffinity_np(self->thread, sizeof set, &set);
}

/* Runs all workers at once; *seconds is the span of the pass. */
static cs_status run_together(worker *workers, uint32_t n_workers, double *seconds,
                              cs_error *error) {
  atomic_int gate = GATE_CLOSED;
  uint32_t n_started = 0;
  for (; n_started < n_workers; n_started++) {
    worker *next = &workers[n_started];
    next->gate = &gate;
    if (pthread_create(&next->thread, NULL, work, next) != 0) break;
    pin(next);
  }
  const bool all = n_started == n_workers;
  atomic_store_explicit(&gate, all ? GATE_OPEN : GATE_LEAVE, memory_order_release);
  for (uint32_t i = 0; i < n_started; i++)
    pthread_join(workers[i].thread, NULL);
  if (!all) return cs_error_set(error, CS_EXHAUSTED, "host probe: cannot start a thread");
  double begin = workers[0].begin_seconds, end = workers[0].end_seconds;
  for (uint32_t i = 1; i < n_workers; i++) {
    if (workers[i].begin_seconds < begin) begin = workers[i].begin_seconds;
    if (workers[i].end_seconds > end) end = workers[i].end_seconds;
  }
  *seconds = end - begin > 1e-9 ? end - begin : 1e-9;
  return CS_OK;
}

/* One worker a core that this process may use, at most n_threads (0: all); owned by the caller. */
static worker *make_workers(uint32_t n_threads, uint32_t *n_workers) {
  const uint32_t at_most = n_threads && n_threads < MAX_THREADS ? n_threads : MAX_THREADS;
  cpu_set_t set;
  CPU_ZERO(&set);
  const bool known = sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0;
  const uint32_t n_cores = known ? (uint32_t)CPU_COUNT(&set) : 1;
  *n_workers = n_cores < at_most ? n_cores : at_most;
  worker *workers = calloc(*n_workers, sizeof *workers);
  if (!workers) return NULL;
  int core = -1;
  for (uint32_t i = 0; i < *n_workers; i++) {
    if (known) do
        core++;
      while (!CPU_ISSET(core, &set));
    workers[i].core = core;
  }
  return workers;
}

/* ---- reading ---- */

struct cs_host_reader {
  worker *workers; /* owned */
  uint32_t n_workers;
  cs_host_range *ranges; /* owned */
  size_t n_ranges;
  void *buffer; /* owned; NULL: reads what others own */
  uint64_t bytes;
};

/* A buffer of the reader's own. */
static bool make_buffer(cs_host_reader *reader) {
  if (posix_memalign(&reader->buffer, 4096, READ_BYTES) != 0) {
    reader->buffer = NULL;
    return false;
  }
  memset(reader->buffer, 1, READ_BYTES); /* or every page would be the same page of zeros */
  reader->ranges[0] = (cs_host_range){reader->buffer, READ_BYTES};
  reader->n_ranges = 1;
  return true;
}

cs_status cs_host_reader_create(uint32_t n_threads, const cs_host_range *ranges, size_t n_ranges,
                                cs_host_reader **out, cs_error *error) {
  *out = NULL;
  cs_host_reader *reader = calloc(1, sizeof *reader);
  if (!reader) goto err_out_of_memory;
  reader->workers = make_workers(n_threads, &reader->n_workers);
  reader->ranges = calloc(n_ranges ? n_ranges : 1, sizeof *reader->ranges);
  if (!reader->workers || !reader->ranges) goto err_destroy;
  if (n_ranges == 0 && !make_buffer(reader)) goto err_destroy;
  for (size_t i = 0; i < n_ranges; i++)
    reader->ranges[reader->n_ranges++] = ranges[i];
  for (size_t i = 0; i < reader->n_ranges; i++)
    reader->bytes += reader->ranges[i].bytes / PIECE_BYTES * PIECE_BYTES;
  for (uint32_t i = 0; i < reader->n_workers; i++) {
    worker *const each = &reader->workers[i];
    each->ranges = reader->ranges;
    each->n_ranges = reader->n_ranges;
    each->share = i;
    each->n_shares = reader->n_workers;
  }
  *out = reader;
  return CS_OK;

err_destroy:
  cs_host_reader_destroy(reader);
err_out_of_memory:
  return cs_error_set(error, CS_OUT_OF_MEMORY, "host probe: out of memory");
}

void cs_host_reader_destroy(cs_host_reader *reader) {
  if (!reader) return;
  free(reader->buffer);
  free(reader->ranges);
  free(reader->workers);
  free(reader);
}

cs_status cs_host_reader_pass(cs_host_reader *reader, double *bytes_per_s, cs_error *error) {
  double seconds;
  const cs_status status = run_together(reader->workers, reader->n_workers, &seconds, error);
  *bytes_per_s = 0;
  if (status == CS_OK) *bytes_per_s = (double)reader->bytes / seconds;
  return status;
}

uint64_t cs_host_reader_bytes(const cs_host_reader *reader) {
  return reader->bytes;
}

/* ---- arithmetic ---- */

cs_status cs_host_peak(uint32_t n_threads, cs_host_arithmetic arithmetic, double *flop_per_s,
                       cs_error *error) {
  *flop_per_s = 0;
  uint32_t n_workers;
  worker *workers = make_workers(n_threads, &n_workers);
  if (!workers) return cs_error_set(error, CS_OUT_OF_MEMORY, "host probe: out of memory");
  const cs_peak_kernel kernel = cs_peak_kernel_for(arithmetic);
  uint64_t n_rounds = 1 << 16;
  cs_status status = CS_OK;
  for (int pass = 0; pass < PEAK_PASSES && status == CS_OK; pass++) {
    for (uint32_t i = 0; i < n_workers; i++) {
      workers[i].loop = kernel.loop;
      workers[i].n_rounds = n_rounds;
    }
    double seconds;
    status = run_together(workers, n_workers, &seconds, error);
    if (status != CS_OK) break;
    const double rate = (double)n_rounds * kernel.flop_per_round * n_workers / seconds;
    if (rate > *flop_per_s) *flop_per_s = rate;
    n_rounds = (uint64_t)((double)n_rounds * PEAK_SECONDS / seconds) + 1;
  }
  free(workers);
  return status;
}
