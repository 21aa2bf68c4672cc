/* Which node's memory holds what. */
#ifndef CPU_NUMA_H
#define CPU_NUMA_H

#include <stdint.h>

/* Bytes begin to end - 1 belong to `node`. */
typedef struct cpu_span {
  uint64_t begin;
  uint64_t end;
  uint32_t node;
} cpu_span;

/* Deals `bytes` to threads as cpu_pool_for deals items: thread i, on node nodes[i], gets the part
 * from bytes * i / n_threads on. Borders are multiples of `granule`; neighbours on one node are one
 * span. Fills `spans` (room for n_threads), which cover all bytes in order, and returns how many;
 * n_threads >= 1. */
uint32_t cpu_numa_deal(const uint16_t *nodes, uint32_t n_threads, uint64_t bytes, uint64_t granule,
                       cpu_span *spans);

/* Asks for the spans of `data`, whole huge pages each but the ends, on their nodes. Pages that are
 * touched later come from there while it has room; where the kernel refuses, they come as always.
 */
void cpu_numa_bind(unsigned char *data, const cpu_span *spans, uint32_t n_spans);

#endif
