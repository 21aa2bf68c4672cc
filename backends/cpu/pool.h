/* A pool of threads that run one loop at a time. The calling thread takes part as thread 0. */
#ifndef CPU_POOL_H
#define CPU_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "consort/plugin.h"

typedef struct cpu_pool cpu_pool;

/* Items begin to end - 1 of the loop; called on several threads at once. */
typedef void (*cpu_pool_task)(void *job, uint64_t begin, uint64_t end);

/* n_threads >= 1, the caller included. cores[i] (may be NULL: not pinned) is where thread i runs.
 * NULL when memory or threads are exhausted. */
cpu_pool *cpu_pool_create(const cs_host *host, uint32_t n_threads, const uint32_t *cores);
void cpu_pool_destroy(cpu_pool *pool);

/* Runs items 0 to n - 1 in pieces of at most `grain` and returns when all are done. Thread i begins
 * at about item n * i / n_threads and goes on from there; for equal n the same items begin on the
 * same threads. A single piece runs on the caller alone. One caller at a time. */
void cpu_pool_for(cpu_pool *pool, uint64_t n, uint64_t grain, cpu_pool_task task, void *job);

/* Item of an equal loop at which thread `thread` of n_threads begins. */
uint64_t cpu_pool_first(uint32_t n_threads, uint64_t n, uint64_t grain, uint32_t thread);
/* Tells what thread `thread` will read first in a loop to come: it is fetched into the cache while
 * that thread waits. Only a hint: the memory may be gone by then. From the caller's thread. */
void cpu_pool_expect(cpu_pool *pool, uint32_t thread, const void *data, size_t bytes);
uint32_t cpu_pool_n_threads(const cpu_pool *pool);

/* Pins the calling thread to a core. */
void cpu_pin_thread(uint32_t core);

#endif
