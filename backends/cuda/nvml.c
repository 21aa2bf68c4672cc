/* Types and numbers are those of NVML's reference; the toolkit need not bring its header. A MIG
 * instance has memory of its own, and the rest is its GPU's. */
#include "nvml.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NVML_TEMPERATURE_GPU 0
#define NVML_CLOCK_SM        1
#define NVML_CLOCK_MEMORY    2

typedef struct nvml_memory {
  unsigned long long total, free, used;
} nvml_memory;

typedef struct nvml_utilization {
  unsigned gpu, memory; /* percent of the last moments */
} nvml_utilization;

/* X(name, arguments): int nvmlNAME arguments; 0 is success. */
#define NVML_CALLS(X)                                                                              \
  X(Init_v2, (void))                                                                               \
  X(Shutdown, (void))                                                                              \
  X(DeviceGetCount_v2, (unsigned *n))                                                              \
  X(DeviceGetHandleByIndex_v2, (unsigned index, void **device))                                    \
  X(DeviceGetMigMode, (void *device, unsigned *now, unsigned *pending))                            \
  X(DeviceGetHandleByUUID, (const char *uuid, void **device))                                      \
  X(DeviceGetDeviceHandleFromMigDeviceHandle, (void *mig, void **device))                          \
  X(DeviceGetMemoryInfo, (void *device, nvml_memory *out))                                         \
  X(DeviceGetUtilizationRates, (void *device, nvml_utilization *out))                              \
  X(DeviceGetTemperature, (void *device, int sensor, unsigned *celsius))                           \
  X(DeviceGetPowerUsage, (void *device, unsigned *milliwatts))                                     \
  X(DeviceGetTotalEnergyConsumption, (void *device, unsigned long long *millijoules))              \
  X(DeviceGetClockInfo, (void *device, int which, unsigned *mhz))

typedef struct nvml_api {
#define NVML_MEMBER(name, arguments) int(*name) arguments;
  NVML_CALLS(NVML_MEMBER)
#undef NVML_MEMBER
} nvml_api;

struct cuda_nvml {
  const cs_host *host;
  nvml_api api; /* what the library lacks is NULL */
  void *device; /* GPU or MIG instance */
  void *gpu;    /* the GPU */
  unsigned long long opened_mj;
  struct timespec opened;
  bool has_energy;
};

/* A call that may be missing; false where it is, or fails. */
#define ASK(api, name, ...) ((api)->name && (api)->name(__VA_ARGS__) == 0)

/* The library stays loaded. */
static bool load(nvml_api *api) {
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  memset(api, 0, sizeof *api);
  if (!library) return false;
#define NVML_ENTRY(name, arguments) *(void **)&api->name = dlsym(library, "nvml" #name);
  NVML_CALLS(NVML_ENTRY)
#undef NVML_ENTRY
  return api->Shutdown && ASK(api, Init_v2);
}

/* ---- one line ---- */

typedef struct figures_line {
  char text[256];
  size_t length;
} figures_line;

static void append(figures_line *line, const char *format, double value) {
  const size_t room = sizeof line->text - line->length;
  const int n = snprintf(line->text + line->length, room, format, value);
  if (n > 0) line->length += (size_t)n < room ? (size_t)n : room - 1;
}

static void append_average_power(const cuda_nvml *nvml, figures_line *line) {
  unsigned long long now_mj = 0;
  struct timespec now;
  if (!nvml->has_energy || !ASK(&nvml->api, DeviceGetTotalEnergyConsumption, nvml->gpu, &now_mj))
    return;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const double seconds = (double)(now.tv_sec - nvml->opened.tv_sec) +
                         (double)(now.tv_nsec - nvml->opened.tv_nsec) * 1e-9;
  if (seconds > 0 && now_mj >= nvml->opened_mj)
    append(line, ", %.1f W on average", (double)(now_mj - nvml->opened_mj) * 1e-3 / seconds);
}

static void tell(const cuda_nvml *nvml, bool at_end) {
  const nvml_api *api = &nvml->api;
  figures_line line = {.length = 0};
  nvml_memory memory = {0};
  nvml_utilization busy = {0};
  unsigned value = 0;
  line.length = (size_t)snprintf(line.text, sizeof line.text, "cuda: NVML: ");
  const size_t nothing = line.length;
  if (ASK(api, DeviceGetMemoryInfo, nvml->device, &memory))
    append(&line, ", %.2f GiB free", (double)memory.free / (1u << 30));
  if (ASK(api, DeviceGetUtilizationRates, nvml->gpu, &busy))
    append(&line, ", %.0f %% busy", busy.gpu);
  if (ASK(api, DeviceGetTemperature, nvml->gpu, NVML_TEMPERATURE_GPU, &value))
    append(&line, ", %.0f C", value);
  if (ASK(api, DeviceGetPowerUsage, nvml->gpu, &value))
    append(&line, ", %.1f W", (double)value * 1e-3);
  if (ASK(api, DeviceGetClockInfo, nvml->gpu, NVML_CLOCK_SM, &value))
    append(&line, ", SM at %.0f MHz", value);
  if (ASK(api, DeviceGetClockInfo, nvml->gpu, NVML_CLOCK_MEMORY, &value))
    append(&line, ", memory at %.0f MHz", value);
  if (at_end) append_average_power(nvml, &line);
  if (line.length == nothing) append(&line, ", no figures%.0s", 0);
  memmove(line.text + nothing, line.text + nothing + 2, line.length - nothing - 1); /* ", " */
  if (nvml->host->log) nvml->host->log(nvml->host->context, CS_LOG_INFO, line.text);
}

/* ---- calls ---- */

cuda_nvml *cuda_nvml_open(const cs_host *host, const char *uuid) {
  nvml_api api;
  if (!load(&api)) {
    if (host->log) host->log(host->context, CS_LOG_INFO, "cuda: NVML: no library, no figures");
    return NULL;
  }
  cuda_nvml *nvml = host->allocate(host->context, sizeof *nvml, 16);
  if (!nvml) goto err_shutdown;
  *nvml = (cuda_nvml){.host = host, .api = api};
  if (!ASK(&api, DeviceGetHandleByUUID, uuid, &nvml->device)) goto err_free;
  if (strncmp(uuid, "MIG-", 4) != 0 ||
      !ASK(&api, DeviceGetDeviceHandleFromMigDeviceHandle, nvml->device, &nvml->gpu))
    nvml->gpu = nvml->device;
  nvml->has_energy = ASK(&api, DeviceGetTotalEnergyConsumption, nvml->gpu, &nvml->opened_mj);
  clock_gettime(CLOCK_MONOTONIC, &nvml->opened);
  tell(nvml, false);
  return nvml;

err_free:
  host->deallocate(host->context, nvml);
  if (host->log) host->log(host->context, CS_LOG_INFO, "cuda: NVML: the device is not known");
err_shutdown:
  api.Shutdown();
  return NULL;
}

void cuda_nvml_close(cuda_nvml *nvml) {
  if (!nvml) return;
  if (nvml->has_energy) tell(nvml, true);
  nvml->api.Shutdown();
  nvml->host->deallocate(nvml->host->context, nvml);
}

bool cuda_nvml_finds_mig(void) {
  nvml_api api;
  unsigned n = 0;
  bool found = false;
  if (!load(&api)) return false;
  if (!ASK(&api, DeviceGetCount_v2, &n)) n = 0;
  for (unsigned i = 0; i < n && !found; i++) {
    void *device = NULL;
    unsigned now = 0, pending = 0;
    found = ASK(&api, DeviceGetHandleByIndex_v2, i, &device) &&
            ASK(&api, DeviceGetMigMode, device, &now, &pending) && now != 0;
  }
  api.Shutdown();
  return found;
}
