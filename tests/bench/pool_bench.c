/* What a fork and join of the CPU plugin's threads costs: loops with nothing in them, one right
 * after the other as the ops of a step are, and after a pause in which the threads went to sleep.
 *
 *   pool_bench [THREADS [LOOPS]] */
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "cores.h"
#include "pool.h"
#include "sdk_host.h"

#define USUAL_THREADS 2
#define USUAL_LOOPS   200000
#define SLEEPS        200
#define PAUSE_US      2000 /* far beyond the time that threads look for work */

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static void do_nothing(void *job, uint64_t begin, uint64_t end) {
  (void)job;
  (void)begin;
  (void)end;
}

static int compare_numbers(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* One item a thread, so that all take part. */
static void measure(cpu_pool *pool, uint32_t n_threads, uint32_t n_loops, useconds_t pause_us,
                    double *times, const char *what) {
  for (uint32_t i = 0; i < n_loops; i++) {
    if (pause_us) usleep(pause_us);
    const double begin = now_us();
    cpu_pool_for(pool, n_threads, 1, do_nothing, NULL);
    times[i] = now_us() - begin;
  }
  qsort(times, n_loops, sizeof *times, compare_numbers);
  printf("%s: median %.2f us, quartiles %.2f and %.2f, 99 of 100 below %.2f\n", what,
         times[n_loops / 2], times[n_loops / 4], times[n_loops / 4 * 3],
         times[(size_t)n_loops * 99 / 100]);
}

int main(int argc, char **argv) {
  const uint32_t n_threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : USUAL_THREADS;
  const uint32_t n_loops = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : USUAL_LOOPS;
  const uint32_t n_times = n_loops > SLEEPS ? n_loops : SLEEPS;
  cpu_set_t allowed;
  cpu_core cores[CPU_MAX_CORES];
  uint32_t units[CPU_MAX_CORES];
  if (n_threads == 0 || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 2;
  const uint32_t n_cores = cpu_cores_read(&allowed, cores);
  for (uint32_t i = 0; i < n_cores; i++)
    units[i] = cores[i].unit;
  const bool pins = n_threads <= n_cores;
  cpu_pool *pool = cpu_pool_create(&test_host, n_threads, pins ? units : NULL);
  double *times = malloc(n_times * sizeof *times);
  if (!pool || !times) return 1;
  if (pins) cpu_pin_thread(units[0]);
  printf("%u threads%s\n", n_threads, pins ? ", pinned" : ", more than cores");
  measure(pool, n_threads, n_loops, 0, times, "one loop after the other");
  measure(pool, n_threads, n_loops < SLEEPS ? n_loops : SLEEPS, PAUSE_US, times, "after a pause");
  free(times);
  cpu_pool_destroy(pool);
  return 0;
}
