/* What the process may use of this machine: cores, memory, names. */
#ifndef CPU_TOPOLOGY_H
#define CPU_TOPOLOGY_H

#include <stdint.h>

#include "cores.h"

typedef struct cpu_topology {
  uint32_t n_cores; /* at least 1 */
  cpu_core cores[CPU_MAX_CORES];
  char model[64]; /* "AMD EPYC"; "CPU" when unknown */
} cpu_topology;

/* Physical cores inside the process's affinity, as many as the cgroup's processor quota pays
 * for, in the order of cpu_cores_choose. */
void cpu_topology_read(cpu_topology *topology);

/* RAM of the machine, or the cgroup's limit where that is lower. */
uint64_t cpu_memory_total(void);
/* What can still be allocated of it without swapping. */
uint64_t cpu_memory_available(void);

#endif
