/* Cores: which there are, which of them a device takes, and in what order. */
#ifndef CPU_CORES_H
#define CPU_CORES_H

#include <sched.h>
#include <stdint.h>

#define CPU_MAX_CORES 1024

typedef struct cpu_core {
  uint32_t unit;  /* the operating system's number of its first allowed hardware thread */
  uint16_t node;  /* likewise of the memory next to it */
  uint16_t speed; /* of its kind: higher is faster; 0 where all are alike or nothing is known */
} cpu_core;

/* Takes n of `from` (n_from <= CPU_MAX_CORES; all when there are fewer) and returns how many.
 * Faster kinds come first; of a kind that is not taken whole, cores evenly over its nodes, so that
 * few threads still reach the memory of all. *out is in the order of nodes, then of units:
 * neighbours share memory. `out` may be `from`. */
uint32_t cpu_cores_choose(const cpu_core *from, uint32_t n_from, uint32_t n, cpu_core *out);

/* How many nodes the cores, in the order above, are on. */
uint32_t cpu_cores_n_nodes(const cpu_core *cores, uint32_t n);

/* Fills `cores` (room for CPU_MAX_CORES), in the order above, with one entry a physical core that
 * has a hardware thread in `allowed`, and returns how many. */
uint32_t cpu_cores_read(const cpu_set_t *allowed, cpu_core *cores);

#ifdef CPU_HAVE_HWLOC
#include <hwloc.h>
/* The same for a topology that was loaded. */
uint32_t cpu_cores_of(hwloc_topology_t topology, const cpu_set_t *allowed, cpu_core *cores);
#endif

#endif
