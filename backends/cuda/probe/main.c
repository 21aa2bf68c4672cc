/* consort-cuda-probe PLUGIN.so [--small]: prints one JSON object of rates.
 *
 * Copies are of memory that no cache holds; bytes of a copy within the device count twice, read and
 * written. The matmul is cuBLASLt's own choice for 8192 x 8192 x 8192 in bf16 on random numbers. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blas_api.h"
#include "probe.h"

#define COPIES  20
#define MATMULS 10

void probe_stop(const char *what, const char *why) {
  fprintf(stderr, "consort-cuda-probe: error: %s: %s\n", what, why);
  exit(1);
}

void probe_check(const probe *p, CUresult code, const char *call) {
  cs_error error = CS_ERROR_INIT;
  if (code == CUDA_SUCCESS) return;
  cuda_error(&p->driver, &error, code, call);
  probe_stop("driver", error.message);
}

CUdeviceptr probe_allocate(const probe *p, uint64_t bytes) {
  CUdeviceptr address = 0;
  probe_check(p, p->driver.MemAlloc(&address, bytes), "cuMemAlloc");
  return address;
}

void probe_fill(unsigned char *to, uint64_t bytes, uint64_t seed) {
  uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  for (uint64_t i = 0; i < bytes; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    to[i] = (unsigned char)(state >> 32);
  }
}

static double seconds_between(const probe *p) {
  float ms = 0;
  probe_check(p, p->driver.EventRecord(p->end, p->stream), "cuEventRecord");
  probe_check(p, p->driver.EventSynchronize(p->end), "cuEventSynchronize");
  probe_check(p, p->driver.EventElapsedTime(&ms, p->begin, p->end), "cuEventElapsedTime");
  return (double)ms * 1e-3;
}

/* ---- copies ---- */

typedef enum direction { WITHIN, TO_DEVICE, TO_HOST } direction;

static void enqueue_copy(const probe *p, direction way, CUdeviceptr a, CUdeviceptr b, void *host,
                         uint64_t bytes) {
  const cuda_driver *driver = &p->driver;
  const CUresult code = way == WITHIN      ? driver->MemcpyAsync(a, b, bytes, p->stream)
                        : way == TO_DEVICE ? driver->MemcpyHtoDAsync(a, host, bytes, p->stream)
                                           : driver->MemcpyDtoHAsync(host, a, bytes, p->stream);
  probe_check(p, code, "cuMemcpyAsync");
}

static double copy_rate(const probe *p, direction way, CUdeviceptr a, CUdeviceptr b, void *host,
                        uint64_t bytes) {
  enqueue_copy(p, way, a, b, host, bytes);
  probe_check(p, p->driver.EventRecord(p->begin, p->stream), "cuEventRecord");
  for (int i = 0; i < COPIES; i++)
    enqueue_copy(p, way, a, b, host, bytes);
  return (way == WITHIN ? 2.0 : 1.0) * COPIES * (double)bytes / seconds_between(p);
}

static void print_copies(const probe *p) {
  const uint64_t bytes = p->small ? UINT64_C(1) << 20 : UINT64_C(1) << 30;
  const CUdeviceptr a = probe_allocate(p, bytes), b = probe_allocate(p, bytes);
  void *host = NULL;
  probe_check(p, p->driver.MemHostAlloc(&host, bytes, CU_MEMHOSTALLOC_PORTABLE), "cuMemHostAlloc");
  memset(host, 1, bytes);
  printf("{\"copy_bytes_per_s\": %.6g, ", copy_rate(p, WITHIN, a, b, host, bytes));
  printf("\"to_device_bytes_per_s\": %.6g, ", copy_rate(p, TO_DEVICE, a, b, host, bytes));
  printf("\"to_host_bytes_per_s\": %.6g, ", copy_rate(p, TO_HOST, a, b, host, bytes));
  p->driver.MemFreeHost(host);
  p->driver.MemFree(a);
  p->driver.MemFree(b);
}

/* ---- matmul ---- */

static bool load_blas(blas_api *api) {
  void *library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
  if (!library) library = dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL);
  if (!library) return false;
#define BLAS_ENTRY(name, arguments)                                                                \
  if (!(*(void **)&api->name = dlsym(library, "cublasLt" #name))) return false;
  BLAS_CALLS(BLAS_ENTRY)
#undef BLAS_ENTRY
  return true;
}

/* Random bf16 of moderate size. */
static CUdeviceptr random_matrix(const probe *p, uint64_t n, uint64_t seed) {
  unsigned char *bytes = malloc(2 * n);
  if (!bytes) probe_stop("matmul", "out of memory");
  probe_fill(bytes, 2 * n, seed);
  for (uint64_t i = 0; i < n; i++) /* the exponent of 1 to 2 */
    bytes[2 * i] &= 0x7f, bytes[2 * i] |= 0x80, bytes[2 * i + 1] = (bytes[2 * i + 1] & 0x80) | 0x3f;
  const CUdeviceptr address = probe_allocate(p, 2 * n);
  probe_check(p, p->driver.MemcpyHtoD(address, bytes, 2 * n), "cuMemcpyHtoD");
  free(bytes);
  return address;
}

/* 0 where the library does not serve. */
static double matmul_rate(const probe *p) {
  const uint64_t n = p->small ? 64 : 8192, workspace_bytes = UINT64_C(32) << 20;
  const int transpose = BLAS_TRANSPOSE;
  const float one = 1, zero = 0;
  blas_api api;
  void *handle, *desc, *half, *full, *preference;
  blas_heuristic best = {0};
  int n_found = 0;
  if (!load_blas(&api) || api.Create(&handle) != BLAS_SUCCESS) return 0;
  if (api.MatmulDescCreate(&desc, BLAS_COMPUTE_F32, BLAS_F32) != BLAS_SUCCESS ||
      api.MatmulDescSetAttribute(desc, BLAS_DESC_TRANSPOSE_A, &transpose, sizeof transpose) ||
      api.MatrixLayoutCreate(&half, BLAS_BF16, n, n, (int64_t)n) != BLAS_SUCCESS ||
      api.MatrixLayoutCreate(&full, BLAS_F32, n, n, (int64_t)n) != BLAS_SUCCESS ||
      api.MatmulPreferenceCreate(&preference) != BLAS_SUCCESS ||
      api.MatmulPreferenceSetAttribute(preference, BLAS_PREFER_WORKSPACE, &workspace_bytes,
                                       sizeof workspace_bytes) != BLAS_SUCCESS ||
      api.MatmulAlgoGetHeuristic(handle, desc, half, half, full, full, preference, 1, &best,
                                 &n_found) != BLAS_SUCCESS ||
      n_found == 0)
    return 0;
  const CUdeviceptr a = random_matrix(p, n * n, 1), b = random_matrix(p, n * n, 2);
  const CUdeviceptr d = probe_allocate(p, 4 * n * n),
                    workspace = probe_allocate(p, workspace_bytes);
  for (int i = -3; i < MATMULS; i++) {
    if (i == 0) probe_check(p, p->driver.EventRecord(p->begin, p->stream), "cuEventRecord");
    if (api.Matmul(handle, desc, &one, (void *)(uintptr_t)a, half, (void *)(uintptr_t)b, half,
                   &zero, (void *)(uintptr_t)d, full, (void *)(uintptr_t)d, full, &best.algorithm,
                   (void *)(uintptr_t)workspace, workspace_bytes, p->stream) != BLAS_SUCCESS)
      return 0;
  }
  const double rate = 2.0 * MATMULS * (double)(n * n) * (double)n / seconds_between(p);
  p->driver.MemFree(a);
  p->driver.MemFree(b);
  p->driver.MemFree(d);
  p->driver.MemFree(workspace);
  return rate;
}

/* ---- all ---- */

static void start(probe *p) {
  cs_error error = CS_ERROR_INIT;
  if (cuda_driver_start(&p->driver, &error) != CS_OK) probe_stop("driver", error.message);
  const cuda_driver *driver = &p->driver;
  probe_check(p, driver->DeviceGet(&p->device, 0), "cuDeviceGet");
  probe_check(p, driver->DevicePrimaryCtxRetain(&p->context, p->device),
              "cuDevicePrimaryCtxRetain");
  probe_check(p, driver->CtxPushCurrent(p->context), "cuCtxPushCurrent");
  probe_check(p, driver->StreamCreate(&p->stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  probe_check(p, driver->EventCreate(&p->begin, CU_EVENT_DEFAULT), "cuEventCreate");
  probe_check(p, driver->EventCreate(&p->end, CU_EVENT_DEFAULT), "cuEventCreate");
}

int main(int argc, char **argv) {
  probe p = {.small = argc == 3 && strcmp(argv[2], "--small") == 0};
  probe_replay replay;
  if (argc != 2 && !p.small) {
    fprintf(stderr, "usage: consort-cuda-probe PLUGIN.so [--small]\n");
    return 2;
  }
  start(&p);
  print_copies(&p);
  printf("\"matmul_flop_per_s\": %.6g, ", matmul_rate(&p));
  fflush(stdout);
  probe_run_replay(&p, argv[1], &replay);
  printf("\"plugin_to_device_bytes_per_s\": %.6g, \"plugin_to_host_bytes_per_s\": %.6g, ",
         replay.to_device_bytes_per_s, replay.to_host_bytes_per_s);
  printf("\"replay_us\": %.6g, \"graph_us\": %.6g, \"replay_kernels\": %u, \"replay_equal\": %s}\n",
         replay.plugin_us, replay.graph_us, replay.n_kernels, replay.equal ? "true" : "false");
  return 0;
}
