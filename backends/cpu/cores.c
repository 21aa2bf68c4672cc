/* hwloc tells hardware threads of one core apart, and nodes and kinds of cores; without it every
 * allowed hardware thread counts as a core of one kind on one node. */
#include "cores.h"

#include <stdlib.h>
#include <string.h>

/* ---- order and choice ---- */

static int compare_places(const void *a, const void *b) {
  const cpu_core *x = a, *y = b;
  if (x->node != y->node) return x->node < y->node ? -1 : 1;
  return x->unit < y->unit ? -1 : x->unit > y->unit;
}

static int compare_speeds(const void *a, const void *b) {
  const cpu_core *x = a, *y = b;
  return x->speed != y->speed ? (x->speed > y->speed ? -1 : 1) : compare_places(a, b);
}

uint32_t cpu_cores_choose(const cpu_core *from, uint32_t n_from, uint32_t n, cpu_core *out) {
  cpu_core sorted[CPU_MAX_CORES];
  uint32_t n_chosen = 0;
  memcpy(sorted, from, n_from * sizeof *from);
  qsort(sorted, n_from, sizeof *sorted, compare_speeds);
  for (uint32_t first = 0, end = 0; first < n_from && n_chosen < n; first = end) {
    while (end < n_from && sorted[end].speed == sorted[first].speed)
      end++;
    const uint32_t n_kind = end - first, left = n - n_chosen;
    const uint32_t n_taken = n_kind < left ? n_kind : left;
    for (uint32_t i = 0; i < n_taken; i++)
      out[n_chosen++] = sorted[first + (uint64_t)i * n_kind / n_taken];
  }
  qsort(out, n_chosen, sizeof *out, compare_places);
  return n_chosen;
}

uint32_t cpu_cores_n_nodes(const cpu_core *cores, uint32_t n) {
  uint32_t n_nodes = n > 0;
  for (uint32_t i = 1; i < n; i++)
    n_nodes += cores[i].node != cores[i - 1].node;
  return n_nodes;
}

/* ---- reading ---- */

#ifdef CPU_HAVE_HWLOC

static uint16_t speed_of(hwloc_topology_t topology, const cpu_core *core) {
  hwloc_bitmap_t unit = hwloc_bitmap_alloc();
  if (!unit) return 0;
  hwloc_bitmap_set(unit, core->unit);
  int efficiency = -1; /* rank of the kind, in spite of its name; -1: kinds are not ranked */
  const int kind = hwloc_cpukinds_get_by_cpuset(topology, unit, 0);
  if (kind >= 0)
    hwloc_cpukinds_get_info(topology, (unsigned)kind, NULL, &efficiency, NULL, NULL, 0);
  hwloc_bitmap_free(unit);
  return efficiency > 0 ? (uint16_t)efficiency : 0;
}

uint32_t cpu_cores_of(hwloc_topology_t topology, const cpu_set_t *allowed, cpu_core *cores) {
  uint32_t n = 0;
  hwloc_obj_t core = NULL;
  while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != NULL) {
    int unit = -1;
    while ((unit = hwloc_bitmap_next(core->cpuset, unit)) != -1)
      if (unit < CPU_SETSIZE && CPU_ISSET((size_t)unit, allowed)) break;
    if (unit == -1 || n == CPU_MAX_CORES) continue;
    const int node = core->nodeset ? hwloc_bitmap_first(core->nodeset) : -1;
    cores[n] = (cpu_core){.unit = (uint32_t)unit, .node = node > 0 ? (uint16_t)node : 0};
    cores[n].speed = speed_of(topology, &cores[n]);
    n++;
  }
  return cpu_cores_choose(cores, n, n, cores);
}

static uint32_t hwloc_cores(const cpu_set_t *allowed, cpu_core *cores) {
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology) != 0) return 0;
  const uint32_t n =
      hwloc_topology_load(topology) == 0 ? cpu_cores_of(topology, allowed, cores) : 0;
  hwloc_topology_destroy(topology);
  return n;
}

#else

static uint32_t hwloc_cores(const cpu_set_t *allowed, cpu_core *cores) {
  (void)allowed;
  (void)cores;
  return 0;
}

#endif

uint32_t cpu_cores_read(const cpu_set_t *allowed, cpu_core *cores) {
  uint32_t n = hwloc_cores(allowed, cores);
  if (n > 0) return n;
  for (uint32_t i = 0; i < CPU_SETSIZE && n < CPU_MAX_CORES; i++)
    if (CPU_ISSET(i, allowed)) cores[n++] = (cpu_core){.unit = i};
  return n;
}
