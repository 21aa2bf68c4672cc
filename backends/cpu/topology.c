/* Two limits bind a process: the cores it may run on, and the processor time its cgroup is paid.
 * More threads than that time make each other wait, so that the quota, rounded up, bounds the
 * number of cores used. */
#include "topology.h"

#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- cores ---- */

static uint32_t allowed_cores(cpu_core *cores) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    CPU_ZERO(&allowed);
    for (long i = 0; i < (n > 0 ? n : 1) && i < CPU_SETSIZE; i++)
      CPU_SET((size_t)i, &allowed);
  }
  return cpu_cores_read(&allowed, cores);
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
  const uint64_t n_paid = cgroup_bound("cpu.max", n > 0 ? n : 1, bound_by_quota);
  topology->n_cores = (uint32_t)n_paid;
  cpu_cores_choose(topology->cores, n, (uint32_t)n_paid, topology->cores);
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
