/* A libnvidia-ml.so.1 for tests: one GPU, or with mig=1 one instance of one. CONSORT_FAKE_CUDA
 * (driver.cpp) breaks it:
 *   nvml  what nvmlInit answers   nvml_bare  1: no figure but memory   nvml_blind  1: no device */
#include <atomic>
#include <cstring>

#include "setting.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {
std::atomic<long> n_live{0};
int gpu, instance;
unsigned long long energy_mj = 5000;
const int NOT_SUPPORTED = 3, NOT_FOUND = 6;

int figure(const void *device, unsigned *out, unsigned value) {
  if (device != &gpu || setting("nvml_bare", 0)) return NOT_SUPPORTED;
  *out = value;
  return 0;
}
} // namespace

/* How often it was started and not shut down. */
EXPORT long fakeNvmlLive() {
  return n_live;
}

EXPORT int nvmlInit_v2() {
  const int code = int(setting("nvml", 0));
  if (code == 0) n_live++;
  return code;
}

EXPORT int nvmlShutdown() {
  n_live--;
  return 0;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *n) {
  *n = 1;
  return 0;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned, void **device) {
  *device = &gpu;
  return 0;
}

EXPORT int nvmlDeviceGetMigMode(void *, unsigned *now, unsigned *pending) {
  *now = *pending = unsigned(setting("mig", 0));
  return 0;
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  const bool mig = setting("mig", 0) != 0;
  if (setting("nvml_blind", 0) || strlen(uuid) != 40) return NOT_FOUND;
  if (strncmp(uuid, mig ? "MIG-fafafafa-" : "GPU-fafafafa-", 13) != 0) return NOT_FOUND;
  *device = mig ? &instance : &gpu;
  return 0;
}

EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *mig, void **device) {
  if (mig != &instance) return NOT_SUPPORTED;
  *device = &gpu;
  return 0;
}

EXPORT int nvmlDeviceGetMemoryInfo(void *device, unsigned long long out[3]) {
  out[0] = (device == &gpu ? 80ull : 10ull) << 30;
  out[1] = out[0] / 2;
  out[2] = out[0] - out[1];
  return 0;
}

EXPORT int nvmlDeviceGetUtilizationRates(void *device, unsigned out[2]) {
  return figure(device, &out[0], 37);
}

EXPORT int nvmlDeviceGetTemperature(void *device, int, unsigned *celsius) {
  return figure(device, celsius, 41);
}

EXPORT int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
  return figure(device, milliwatts, 312500);
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
  if (device != &gpu || setting("nvml_bare", 0)) return NOT_SUPPORTED;
  *millijoules = energy_mj += 1000;
  return 0;
}

EXPORT int nvmlDeviceGetClockInfo(void *device, int which, unsigned *mhz) {
  return figure(device, mhz, which == 1 ? 1980 : 2619);
}
