/* Two limits bind a process: the cores it may run on, and the processor time its cgroup is paid.
 * More threads than that time make each other wait, so that the quota, rounded up, bounds the
 * number of cores used. hwloc tells hardware threads of one core apart; without it every allowed
 * hardware thread counts as a core. */
#include "topology.h"

#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef CPU_HAVE_HWLOC
#include <hwloc.h>
#endif

/* ---- cores ---- */

#ifdef CPU_HAVE_HWLOC

/* The first allowed hardware thread of every core that has one. */
static uint32_t hwloc_cores(const cpu_set_t *allowed, uint32_t *cores) {
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology) != 0) return 0;
  uint32_t n = 0;
  if (hwloc_topology_load(topology) == 0) {
    hwloc_obj_t core = NULL;
    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != NULL) {
      int unit = -1;
      while ((unit = hwloc_bitmap_next(core->cpuset, unit)) != -1)
        if (unit < CPU_SETSIZE && CPU_ISSET((size_t)unit, allowed)) break;
      if (unit != -1 && n < CPU_MAX_CORES) cores[n++] = (uint32_t)unit;
    }
  }
  hwloc_topology_destroy(topology);
  return n;
}

#else

static uint32_t hwloc_cores(const cpu_set_t *allowed, uint32_t *cores) {
  (void)allowed;
  (void)cores;
  return 0;
}

#endif

static uint32_t allowed_cores(uint32_t *cores) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    CPU_ZERO(&allowed);
    for (long i = 0; i < (n > 0 ? n : 1) && i < CPU_SETSIZE; i++)
      CPU_SET((size_t)i, &allowed);
  }
  uint32_t n = hwloc_cores(&allowed, cores);
  if (n > 0) return n;
  for (uint32_t i = 0; i < CPU_SETSIZE && n < CPU_MAX_CORES; i++)
    if (CPU_ISSET(i, &allowed)) cores[n++] = i;
  return n;
}

/* ---- cgroup ---- */

/* The path of this process's group in the unified hierarchy, "" for the root. */
static void cgroup_path(char *path, size_t bytes) {
  path[0] = '\0';
  FILE *file = fopen("/proc/self/cgroup", "re");
  if (!file) return;
  char line[512];
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "0::/", 4) == 0) snprintf(path, bytes, "%s", line + 3);
  }
  fclose(file);
}

/* Reads the first line of a control file of this group or of an ancestor at `path`. */
static bool cgroup_read(const char *path, const char *name, char *line, int bytes) {
  char file_name[768];
  snprintf(file_name, sizeof file_name, "/sys/fs/cgroup%s/%s", path, name);
  FILE *file = fopen(file_name, "re");
  if (!file) return false;
  const bool read = fgets(line, bytes, file) != NULL;
  fclose(file);
  return read;
}

/* Calls `bound` with each control file on the way up: every ancestor's limit holds. */
static uint64_t cgroup_bound(const char *name, uint64_t limit,
                             uint64_t (*bound)(const char *line, uint64_t limit)) {
  char path[512], line[128];
  cgroup_path(path, sizeof path);
  for (;;) {
    if (cgroup_read(path, name, line, sizeof line)) limit = bound(line, limit);
    char *slash = strrchr(path, '/');
    if (!slash || path[0] == '\0') return limit;
    *slash = '\0';
  }
}

static uint64_t bound_by_quota(const char *line, uint64_t limit) {
  uint64_t quota, period;
  if (sscanf(line, "%" SCNu64 " %" SCNu64, &quota, &period) != 2 || period == 0) return limit;
  const uint64_t cores = quota / period + (quota % period != 0);
  return cores > 0 && cores < limit ? cores : limit;
}

static uint64_t bound_by_bytes(const char *line, uint64_t limit) {
  uint64_t bytes;
  return sscanf(line, "%" SCNu64, &bytes) == 1 && bytes < limit ? bytes : limit;
}

/* ---- names ---- */

static void read_model(char *model, size_t bytes) {
  snprintf(model, bytes, "CPU");
  FILE *file = fopen("/proc/cpuinfo", "re");
  if (!file) return;
  char line[256];
  while (fgets(line, sizeof line, file)) {
    const char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || !colon) continue;
    line[strcspn(line, "\n")] = '\0';
    snprintf(model, bytes, "%.63s", colon + 1 + strspn(colon + 1, " \t"));
    break;
  }
  fclose(file);
}

void cpu_topology_read(cpu_topology *topology) {
  memset(topology, 0, sizeof *topology);
  const uint32_t n = allowed_cores(topology->cores);
  topology->n_cores = (uint32_t)cgroup_bound("cpu.max", n > 0 ? n : 1, bound_by_quota);
  read_model(topology->model, sizeof topology->model);
}

/* ---- memory ---- */

uint64_t cpu_memory_total(void) {
  const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_bytes <= 0) return 0;
  return cgroup_bound("memory.max", (uint64_t)pages * (uint64_t)page_bytes, bound_by_bytes);
}

uint64_t cpu_memory_available(void) {
  FILE *file = fopen("/proc/meminfo", "re");
  if (!file) return 0;
  char line[128];
  uint64_t kib = 0;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1) break;
  fclose(file);
  const uint64_t total = cpu_memory_total();
  return kib * 1024 < total ? kib * 1024 : total;
}
