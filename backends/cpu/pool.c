/* Fork and join by two counters: `generation` starts a loop, `busy` ends it. Every thread has its
 * own run of neighbouring items, which keeps what it reads one stream and, when the same loop
 * touched the memory first, near its own cores; one that is done helps the others. An idle worker
 * looks for a new generation for a bounded time, because the ops of one step follow each other
 * within microseconds and a wake-up costs more than most of them; then it sleeps. The same holds
 * for the caller that waits for the last worker. Who looks fetches meanwhile what the next large
 * loop will read: memory has nothing else to do then. */
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define SPIN_NS    50000
#define SPIN_LOOKS 32 /* between two readings of the clock */
#define LINE_BYTES 64
#define LOOK_BYTES 1024 /* fetched between two looks */

typedef struct pool_thread {
  _Alignas(64) _Atomic uint64_t next; /* of this thread's items */
  uint64_t end;
  pthread_t handle;                     /* of a worker */
  _Alignas(64) _Atomic uintptr_t ahead; /* what a loop to come reads first */
  _Atomic size_t ahead_bytes;
  uintptr_t fetching; /* the owner's: the range that it has begun, and how far it is */
  size_t fetched;
} pool_thread;

struct cpu_pool {
  const cs_host *host;
  uint32_t n_threads;
  uint32_t n_started; /* workers whose threads exist */
  int64_t spin_ns;
  pool_thread *threads;
  const uint32_t *cores;
  pthread_mutex_t mutex;
  pthread_cond_t begin;
  pthread_cond_t end;
  cpu_pool_task task;
  void *job;
  uint64_t grain;
  _Alignas(64) atomic_uint generation;
  atomic_uint sleeping; /* workers in, or about to enter, their sleep */
  atomic_int stop;
  _Alignas(64) atomic_uint busy;
  atomic_int caller_sleeps;
};

typedef struct worker_start {
  cpu_pool *pool;
  uint32_t thread;
} worker_start;

static inline void look_again(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void cpu_pin_thread(uint32_t core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (core >= CPU_SETSIZE) return;
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);
}

/* One step of fetching; false when there is nothing left. */
static bool fetch_ahead(pool_thread *self) {
  const uintptr_t ahead = atomic_load_explicit(&self->ahead, memory_order_relaxed);
  if (self->fetching != ahead) {
    self->fetching = ahead;
    self->fetched = 0;
  }
  if (self->fetched >= atomic_load_explicit(&self->ahead_bytes, memory_order_relaxed)) return false;
  const char *at = (const char *)ahead + self->fetched;
  for (size_t i = 0; i < LOOK_BYTES; i += LINE_BYTES)
    __builtin_prefetch(at + i, 0, 2);
  self->fetched += LOOK_BYTES;
  return true;
}

/* Looks at *value for the pool's bounded time; true once it differs from `old`. */
static bool spin_until_changed(const cpu_pool *pool, pool_thread *self, atomic_uint *value,
                               unsigned old) {
  if (atomic_load_explicit(value, memory_order_acquire) != old) return true;
  if (pool->spin_ns == 0) return false;
  const int64_t deadline = now_ns() + pool->spin_ns;
  do {
    for (int i = 0; i < SPIN_LOOKS; i++) {
      if (atomic_load_explicit(value, memory_order_acquire) != old) return true;
      if (!fetch_ahead(self)) look_again();
    }
  } while (now_ns() < deadline);
  return false;
}

/* Pieces of one thread's items until none is left. */
static void run_items_of(cpu_pool *pool, pool_thread *owner) {
  for (;;) {
    const uint64_t begin =
        atomic_fetch_add_explicit(&owner->next, pool->grain, memory_order_relaxed);
    if (begin >= owner->end) return;
    const uint64_t left = owner->end - begin;
    pool->task(pool->job, begin, begin + (left < pool->grain ? left : pool->grain));
  }
}

static void run_pieces(cpu_pool *pool, uint32_t thread) {
  for (uint32_t i = 0; i < pool->n_threads; i++)
    run_items_of(pool, &pool->threads[(thread + i) % pool->n_threads]);
}

uint64_t cpu_pool_first(uint32_t n_threads, uint64_t n, uint64_t grain, uint32_t thread) {
  const uint64_t n_pieces = (n + grain - 1) / grain, rest = n_pieces % n_threads;
  const uint64_t piece = n_pieces / n_threads * thread + (thread < rest ? thread : rest);
  return piece < n_pieces ? piece * grain : n;
}

static void deal_items(cpu_pool *pool, uint64_t n) {
  for (uint32_t i = 0; i < pool->n_threads; i++) {
    atomic_store_explicit(&pool->threads[i].next,
                          cpu_pool_first(pool->n_threads, n, pool->grain, i), memory_order_relaxed);
    pool->threads[i].end = cpu_pool_first(pool->n_threads, n, pool->grain, i + 1);
  }
}

void cpu_pool_expect(cpu_pool *pool, uint32_t thread, const void *data, size_t bytes) {
  pool_thread *const at = &pool->threads[thread];
  atomic_store_explicit(&at->ahead, (uintptr_t)data, memory_order_relaxed);
  atomic_store_explicit(&at->ahead_bytes, bytes, memory_order_relaxed);
}

uint32_t cpu_pool_n_threads(const cpu_pool *pool) {
  return pool->n_threads;
}

/* `sleeping` is raised before the last look at `generation`, and the caller reads it after raising
 * `generation`: one of the two sees the other. */
static void worker_sleep(cpu_pool *pool, unsigned seen) {
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->sleeping, 1);
  while (atomic_load(&pool->generation) == seen && !atomic_load(&pool->stop))
    pthread_cond_wait(&pool->begin, &pool->mutex);
  atomic_fetch_sub(&pool->sleeping, 1);
  pthread_mutex_unlock(&pool->mutex);
}

static void worker_done(cpu_pool *pool) {
  if (atomic_fetch_sub(&pool->busy, 1) != 1 || !atomic_load(&pool->caller_sleeps)) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_signal(&pool->end);
  pthread_mutex_unlock(&pool->mutex);
}

static void *worker_thread(void *argument) {
  const worker_start start = *(worker_start *)argument;
  cpu_pool *pool = start.pool;
  pool->host->deallocate(pool->host->context, argument);
  if (pool->cores) cpu_pin_thread(pool->cores[start.thread]);
  unsigned seen = 0;
  for (;;) {
    if (!spin_until_changed(pool, &pool->threads[start.thread], &pool->generation, seen))
      worker_sleep(pool, seen);
    if (atomic_load(&pool->stop)) return NULL;
    seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
    run_pieces(pool, start.thread);
    worker_done(pool);
  }
}

static bool start_worker(cpu_pool *pool, uint32_t thread) {
  worker_start *start = pool->host->allocate(pool->host->context, sizeof *start, 8);
  if (!start) return false;
  *start = (worker_start){.pool = pool, .thread = thread};
  sigset_t all, before; /* signals of the process are for the host's threads */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int status = pthread_create(&pool->threads[thread].handle, NULL, worker_thread, start);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (status != 0) pool->host->deallocate(pool->host->context, start);
  return status == 0;
}

static int64_t spin_time(uint32_t n_threads) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  return (uint32_t)CPU_COUNT(&allowed) >= n_threads ? SPIN_NS : 0;
}

cpu_pool *cpu_pool_create(const cs_host *host, uint32_t n_threads, const uint32_t *cores) {
  cpu_pool *pool = host->allocate(host->context, sizeof *pool, _Alignof(cpu_pool));
  if (!pool) return NULL;
  memset(pool, 0, sizeof *pool);
  pool->host = host;
  pool->n_threads = n_threads;
  pool->cores = cores;
  pool->spin_ns = spin_time(n_threads);
  pool->threads =
      host->allocate(host->context, n_threads * sizeof *pool->threads, _Alignof(pool_thread));
  if (!pool->threads) goto err_free_pool;
  memset(pool->threads, 0, n_threads * sizeof *pool->threads);
  if (pthread_mutex_init(&pool->mutex, NULL) != 0) goto err_free_threads;
  if (pthread_cond_init(&pool->begin, NULL) != 0) goto err_destroy_mutex;
  if (pthread_cond_init(&pool->end, NULL) != 0) goto err_destroy_begin;
  for (pool->n_started = 1; pool->n_started < n_threads; pool->n_started++)
    if (!start_worker(pool, pool->n_started)) {
      cpu_pool_destroy(pool);
      return NULL;
    }
  return pool;

err_destroy_begin:
  pthread_cond_destroy(&pool->begin);
err_destroy_mutex:
  pthread_mutex_destroy(&pool->mutex);
err_free_threads:
  host->deallocate(host->context, pool->threads);
err_free_pool:
  host->deallocate(host->context, pool);
  return NULL;
}

void cpu_pool_destroy(cpu_pool *pool) {
  if (!pool) return;
  pthread_mutex_lock(&pool->mutex);
  atomic_store(&pool->stop, 1);
  atomic_fetch_add(&pool->generation, 1);
  pthread_cond_broadcast(&pool->begin);
  pthread_mutex_unlock(&pool->mutex);
  for (uint32_t i = 1; i < pool->n_started; i++)
    pthread_join(pool->threads[i].handle, NULL);
  pthread_cond_destroy(&pool->end);
  pthread_cond_destroy(&pool->begin);
  pthread_mutex_destroy(&pool->mutex);
  pool->host->deallocate(pool->host->context, pool->threads);
  pool->host->deallocate(pool->host->context, pool);
}

static bool spin_until_idle(cpu_pool *pool) {
  for (;;) {
    const unsigned busy = atomic_load_explicit(&pool->busy, memory_order_acquire);
    if (busy == 0) return true;
    if (!spin_until_changed(pool, &pool->threads[0], &pool->busy, busy)) return false;
  }
}

static void wait_for_workers(cpu_pool *pool) {
  if (spin_until_idle(pool)) return;
  pthread_mutex_lock(&pool->mutex);
  /* An exchange: QEMU 7.2 on x86 lets a later load of Arm's pass a store of any order. */
  atomic_exchange(&pool->caller_sleeps, 1);
  while (atomic_load(&pool->busy) != 0)
    pthread_cond_wait(&pool->end, &pool->mutex);
  atomic_store(&pool->caller_sleeps, 0);
  pthread_mutex_unlock(&pool->mutex);
}

void cpu_pool_for(cpu_pool *pool, uint64_t n, uint64_t grain, cpu_pool_task task, void *job) {
  if (n == 0) return;
  if (n <= grain || pool->n_threads == 1) {
    task(job, 0, n);
    return;
  }
  pool->task = task;
  pool->job = job;
  pool->grain = grain;
  deal_items(pool, n);
  atomic_store_explicit(&pool->busy, pool->n_threads - 1, memory_order_relaxed);
  atomic_fetch_add(&pool->generation, 1);
  if (atomic_load(&pool->sleeping) != 0) {
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->mutex);
  }
  run_pieces(pool, 0);
  wait_for_workers(pool);
}
