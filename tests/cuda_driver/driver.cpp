/* A libcuda.so.1 without a GPU, for tests: device memory is host memory, and kernels run on the
 * CPU.
 *
 * It keeps the rules that a real driver punishes late: calls need a current context, a callback may
 * make no call, asynchronous copies read and write when their turn comes and not before, an
 * allocation ends at a page that faults, and after a failed kernel every call answers with its
 * error. Each stream has a thread.
 *
 * CONSORT_FAKE_CUDA breaks it on demand: a list of key=number, separated by commas.
 *   version  what cuDriverGetVersion answers      init     what cuInit answers
 *   devices  how many there are (1)               memory   MiB of each (4096)
 *   alloc    this allocation finds no memory      launch   this cuLaunchKernel is refused
 *   lost     this kernel kills the context        slow     microseconds each kernel takes longer
 *   units    multiprocessors (4)                  graph    this cuGraphInstantiate is refused
 *   mig      1: the device is a MIG instance      pin      this cuMemHostRegister is refused
 *   event    this cuEventCreate finds no memory
 * and the keys of the libraries beside it (libraries/). */
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <cuda.h>

#include "emulate.h"
#include "setting.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::atomic<int> sticky{CUDA_SUCCESS};
std::atomic<long> n_live{0}, n_allocations{0}, n_launches{0}, n_runs{0}, n_graphs{0}, n_pinned{0},
    n_events{0};
std::mutex kernel_mutex; /* one kernel at a time: emulate.h */
std::mutex memory_mutex;
struct allocation {
  void *map;
  size_t map_bytes, bytes;
};
std::map<CUdeviceptr, allocation> allocations;
size_t allocated_bytes;

/* What a thread has current. Under a key, not thread_local: the leak checker's walk of the thread
 * storage of libraries loaded late goes astray. */
struct thread_things {
  std::vector<CUcontext> contexts;
  bool in_callback = false;
};
pthread_key_t thread_key;
[[maybe_unused]] const int thread_key_made = pthread_key_create(
    &thread_key, [](void *things) { delete static_cast<thread_things *>(things); });

thread_things &mine() {
  auto *things = static_cast<thread_things *>(pthread_getspecific(thread_key));
  if (!things) {
    things = new thread_things;
    pthread_setspecific(thread_key, things);
  }
  return *things;
}

/* The nth call of a kind, counted from 1, is the one that the setting names. */
bool chosen(std::atomic<long> &counter, const char *key) {
  return ++counter == setting(key, -1);
}

CUresult check() {
  if (mine().in_callback) return CUDA_ERROR_NOT_PERMITTED;
  if (mine().contexts.empty() || !mine().contexts.back()) return CUDA_ERROR_INVALID_CONTEXT;
  return CUresult(sticky.load());
}

#define CHECK()                                                                                    \
  do {                                                                                             \
    const CUresult checked = check();                                                              \
    if (checked != CUDA_SUCCESS) return checked;                                                   \
  } while (0)

long device_count() {
  return setting("devices", 1);
}

size_t memory_bytes() {
  return size_t(setting("memory", 4096)) << 20;
}

struct kernel_launch {
  const emulate::kernel *what;
  emulate::index3 grid;
  uint32_t threads;
  std::vector<uint64_t> arguments;
};
typedef std::vector<std::function<void()>> nodes;

void run_kernel(const kernel_launch &n) {
  std::lock_guard<std::mutex> lock(kernel_mutex);
  if (sticky != CUDA_SUCCESS) return;
  const long slow = setting("slow", 0);
  if (slow) usleep(useconds_t(slow));
  if (chosen(n_runs, "lost")) {
    sticky = CUDA_ERROR_LAUNCH_FAILED;
    return;
  }
  const char *reason = nullptr;
  if (emulate::run(n.what, n.grid, n.threads, n.arguments.data(), &reason)) return;
  fprintf(stderr, "fake CUDA driver: %s: %s\n", n.what->name, reason);
  sticky = CUDA_ERROR_LAUNCH_FAILED;
}

} // namespace

struct CUctx_st {
  int device;
  int references;
};
struct CUfunc_st {
  const emulate::kernel *what;
};
struct CUmod_st {
  std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};
struct CUgraph_st {
  nodes list;
};
struct CUgraphExec_st {
  std::shared_ptr<const nodes> list;
};
struct CUstream_st {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> work;
  bool busy = false, closing = false;
  CUgraph capture = nullptr;
};

namespace {

CUctx_st primary[64];
std::mutex context_mutex;

void stream_thread(CUstream stream) {
  std::unique_lock<std::mutex> lock(stream->mutex);
  for (;;) {
    stream->changed.wait(lock, [&] { return !stream->work.empty() || stream->closing; });
    if (stream->work.empty()) break;
    const auto work = std::move(stream->work.front());
    stream->work.pop_front();
    stream->busy = true;
    lock.unlock();
    work();
    lock.lock();
    stream->busy = false;
    stream->changed.notify_all();
  }
  lock.unlock();
  delete stream;
  n_live--;
}

void push(CUstream stream, std::function<void()> work) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  stream->work.push_back(std::move(work));
  stream->changed.notify_all();
}

/* Enqueues a node, or records it. */
void push_node(CUstream stream, std::function<void()> run) {
  if (stream->capture)
    stream->capture->list.push_back(std::move(run));
  else
    push(stream, std::move(run));
}

CUresult push_copy(CUstream stream, void *to, const void *from, size_t bytes) {
  CHECK();
  if (!stream || stream->capture) return CUDA_ERROR_INVALID_VALUE;
  push(stream, [=] {
    if (sticky == CUDA_SUCCESS) memcpy(to, from, bytes);
  });
  return CUDA_SUCCESS;
}

} // namespace

/* Streams, allocations, modules, graphs and retained contexts that have not been given back. */
EXPORT long fakeLiveObjects() {
  return n_live;
}

/* For the fake libraries beside this: work on a stream, run with a copy of `data`. */
EXPORT CUresult fakeEnqueue(CUstream stream, void (*run)(const void *), const void *data,
                            size_t bytes) {
  CHECK();
  const auto *first = static_cast<const unsigned char *>(data);
  push_node(stream, [run, copy = std::vector<unsigned char>(first, first + bytes)] {
    std::lock_guard<std::mutex> lock(kernel_mutex);
    if (sticky == CUDA_SUCCESS) run(copy.data());
  });
  return CUDA_SUCCESS;
}

/* Forgets what was counted and that a device was lost. */
EXPORT void fakeReset() {
  n_allocations = n_launches = n_runs = n_graphs = n_pinned = n_events = 0;
  sticky = CUDA_SUCCESS;
}

EXPORT CUresult cuInit(unsigned) {
  return CUresult(setting("init", device_count() > 0 ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE));
}

EXPORT CUresult cuDriverGetVersion(int *version) {
  *version = int(setting("version", CUDA_VERSION));
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult code, const char **name) {
  switch (code) {
  case CUDA_ERROR_OUT_OF_MEMORY:
    *name = "CUDA_ERROR_OUT_OF_MEMORY";
    return CUDA_SUCCESS;
  case CUDA_ERROR_LAUNCH_FAILED:
    *name = "CUDA_ERROR_LAUNCH_FAILED";
    return CUDA_SUCCESS;
  case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
    *name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
    return CUDA_SUCCESS;
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

/* ---- devices ---- */

EXPORT CUresult cuDeviceGetCount(int *count) {
  *count = int(device_count());
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  if (ordinal < 0 || ordinal >= device_count()) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char *name, int bytes, CUdevice) {
  snprintf(name, size_t(bytes), "fake device of the tests, kernels run on the CPU%s",
           setting("mig", 0) ? " MIG 1g.10gb" : "");
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
  memset(uuid, 0xfa, sizeof *uuid);
  uuid->bytes[15] = char(device);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice) {
  *bytes = memory_bytes();
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice) {
  *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? int(setting("capability", 8))
           : which == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT   ? int(setting("units", 4))
                                                                 : 0;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceCanAccessPeer(int *can, CUdevice, CUdevice) {
  *can = setting("mig", 0) ? 0 : 1;
  return CUDA_SUCCESS;
}

/* ---- contexts ---- */

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  std::lock_guard<std::mutex> lock(context_mutex);
  primary[device].device = device;
  primary[device].references++;
  n_live++;
  *context = &primary[device];
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  std::lock_guard<std::mutex> lock(context_mutex);
  if (primary[device].references == 0) return CUDA_ERROR_INVALID_CONTEXT;
  primary[device].references--;
  n_live--;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
  if (mine().in_callback) return CUDA_ERROR_NOT_PERMITTED;
  mine().contexts.push_back(context);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context) {
  if (mine().contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *context = mine().contexts.back();
  mine().contexts.pop_back();
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  if (!mine().contexts.empty()) mine().contexts.pop_back();
  mine().contexts.push_back(context);
  return CUDA_SUCCESS;
}

/* ---- modules ---- */

EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  CHECK();
  static const unsigned char fat_binary[] = {0x50, 0xed, 0x55, 0xba}; /* its magic number */
  if (memcmp(image, fat_binary, sizeof fat_binary) != 0) return CUDA_ERROR_INVALID_IMAGE;
  *module = new CUmod_st;
  n_live++;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleUnload(CUmodule module) {
  delete module;
  n_live--;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  CHECK();
  const emulate::kernel *what = emulate::find(name);
  if (!what) return CUDA_ERROR_NOT_FOUND;
  auto &slot = module->functions[name];
  if (!slot) slot.reset(new CUfunc_st{what});
  *function = slot.get();
  return CUDA_SUCCESS;
}

/* ---- memory ---- */

/* Ends at a page that faults, so that a kernel that runs past the end is caught. */
static CUresult allocate(CUdeviceptr *address, size_t bytes) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (chosen(n_allocations, "alloc")) return CUDA_ERROR_OUT_OF_MEMORY;
  const size_t page = 4096, placed = (bytes + 255) / 256 * 256;
  const size_t map_bytes = (placed + page - 1) / page * page + page;
  std::lock_guard<std::mutex> lock(memory_mutex);
  if (bytes > memory_bytes() || allocated_bytes > memory_bytes() - bytes)
    return CUDA_ERROR_OUT_OF_MEMORY;
  void *map = mmap(nullptr, map_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  mprotect(static_cast<char *>(map) + map_bytes - page, page, PROT_NONE);
  *address = CUdeviceptr(static_cast<char *>(map) + map_bytes - page - placed);
  allocations[*address] = {map, map_bytes, bytes};
  allocated_bytes += bytes;
  n_live++;
  return CUDA_SUCCESS;
}

static CUresult release(CUdeviceptr address) {
  std::lock_guard<std::mutex> lock(memory_mutex);
  const auto found = allocations.find(address);
  if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
  munmap(found->second.map, found->second.map_bytes);
  allocated_bytes -= found->second.bytes;
  allocations.erase(found);
  n_live--;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
  CHECK();
  std::lock_guard<std::mutex> lock(memory_mutex);
  *total_bytes = memory_bytes();
  *free_bytes = memory_bytes() - allocated_bytes;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  CHECK();
  return allocate(address, bytes);
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
  const CUresult code = release(address);
  return sticky != CUDA_SUCCESS ? CUresult(sticky.load()) : code;
}

EXPORT CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
  CHECK();
  CUdeviceptr address = 0;
  const CUresult code = allocate(&address, bytes);
  *pointer = reinterpret_cast<void *>(address);
  return code;
}

EXPORT CUresult cuMemFreeHost(void *pointer) {
  return release(CUdeviceptr(pointer));
}

/* Pinned host memory: the device's address is a second mapping of the same pages, so that who mixes
 * up the two is found out once the pin is gone. Only shared pages can be mapped twice. */
static std::map<void *, std::pair<void *, size_t>> pinned;

EXPORT CUresult cuMemHostRegister_v2(void *pointer, size_t bytes, unsigned flags) {
  CHECK();
  if (chosen(n_pinned, "pin")) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!pointer || bytes == 0 || !(flags & CU_MEMHOSTREGISTER_DEVICEMAP))
    return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard<std::mutex> lock(memory_mutex);
  if (pinned.count(pointer)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  const size_t map_bytes = (bytes + 4095) / 4096 * 4096;
  void *second = mremap(pointer, 0, map_bytes, MREMAP_MAYMOVE);
  if (second == MAP_FAILED) return CUDA_ERROR_INVALID_VALUE;
  pinned[pointer] = {second, map_bytes};
  n_live++;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostUnregister(void *pointer) {
  std::lock_guard<std::mutex> lock(memory_mutex);
  const auto found = pinned.find(pointer);
  if (found == pinned.end()) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  munmap(found->second.first, found->second.second);
  pinned.erase(found);
  n_live--;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *address, void *pointer, unsigned) {
  CHECK();
  std::lock_guard<std::mutex> lock(memory_mutex);
  const auto found = pinned.find(pointer);
  if (found == pinned.end()) return CUDA_ERROR_INVALID_VALUE;
  *address = CUdeviceptr(found->second.first);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
  CHECK();
  memcpy(to, reinterpret_cast<const void *>(from), bytes);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
  CHECK();
  memcpy(reinterpret_cast<void *>(to), from, bytes);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes,
                                     CUstream stream) {
  return push_copy(stream, reinterpret_cast<void *>(to), from, bytes);
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return push_copy(stream, to, reinterpret_cast<const void *>(from), bytes);
}

EXPORT CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return push_copy(stream, reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from),
                   bytes);
}

EXPORT CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext,
                                  size_t bytes, CUstream stream) {
  return cuMemcpyAsync(to, from, bytes, stream);
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes,
                                CUstream stream) {
  CHECK();
  if (!stream || stream->capture) return CUDA_ERROR_INVALID_VALUE;
  push(stream, [=] {
    if (sticky == CUDA_SUCCESS) memset(reinterpret_cast<void *>(to), value, bytes);
  });
  return CUDA_SUCCESS;
}

/* ---- streams ---- */

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned) {
  CHECK();
  *stream = new CUstream_st;
  n_live++;
  std::thread(stream_thread, *stream).detach();
  return CUDA_SUCCESS;
}

/* What was enqueued still runs. */
EXPORT CUresult cuStreamDestroy_v2(CUstream stream) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  stream->closing = true;
  stream->changed.notify_all();
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(CUstream stream) {
  CHECK();
  std::unique_lock<std::mutex> lock(stream->mutex);
  stream->changed.wait(lock, [&] { return stream->work.empty() && !stream->busy; });
  return CUresult(sticky.load());
}

EXPORT CUresult cuStreamQuery(CUstream stream) {
  CHECK();
  std::lock_guard<std::mutex> lock(stream->mutex);
  return stream->work.empty() && !stream->busy ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

EXPORT CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback callback, void *user,
                                    unsigned flags) {
  CHECK();
  if (flags != 0 || !stream || stream->capture) return CUDA_ERROR_INVALID_VALUE;
  push(stream, [=] {
    mine().in_callback = true;
    callback(stream, CUresult(sticky.load()), user);
    mine().in_callback = false;
  });
  return CUDA_SUCCESS;
}

/* ---- events ---- */

struct CUevent_st {
  std::mutex mutex;
  std::condition_variable changed;
  long n_recorded = 0, n_reached = 0;
  std::chrono::steady_clock::time_point when;
};

EXPORT CUresult cuEventCreate(CUevent *event, unsigned) {
  CHECK();
  if (chosen(n_events, "event")) return CUDA_ERROR_OUT_OF_MEMORY;
  *event = new CUevent_st;
  n_live++;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(CUevent event) {
  delete event;
  n_live--;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) {
  CHECK();
  {
    std::lock_guard<std::mutex> lock(event->mutex);
    event->n_recorded++;
  }
  push(stream, [event] {
    std::lock_guard<std::mutex> lock(event->mutex);
    event->n_reached++;
    event->when = std::chrono::steady_clock::now();
    event->changed.notify_all();
  });
  return CUDA_SUCCESS;
}

EXPORT CUresult cuEventSynchronize(CUevent event) {
  CHECK();
  std::unique_lock<std::mutex> lock(event->mutex);
  event->changed.wait(lock, [&] { return event->n_reached == event->n_recorded; });
  return CUresult(sticky.load());
}

EXPORT CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to) {
  CHECK();
  for (CUevent event : {from, to}) {
    std::lock_guard<std::mutex> lock(event->mutex);
    if (event->n_recorded == 0) return CUDA_ERROR_INVALID_HANDLE;
    if (event->n_reached != event->n_recorded) return CUDA_ERROR_NOT_READY;
  }
  *ms = std::chrono::duration<float, std::milli>(to->when - from->when).count();
  return CUDA_SUCCESS;
}

/* ---- kernels and graphs ---- */

EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                               unsigned grid_z, unsigned threads, unsigned threads_y,
                               unsigned threads_z, unsigned shared_bytes, CUstream stream,
                               void **arguments, void **extra) {
  CHECK();
  if (chosen(n_launches, "launch")) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  if (!function || !stream || extra || shared_bytes || threads_y != 1 || threads_z != 1 ||
      threads == 0 || threads > 1024 || grid_x == 0 || grid_y == 0 || grid_z == 0 ||
      grid_y > 65535 || grid_z > 65535 || grid_x > 0x7fffffff)
    return CUDA_ERROR_INVALID_VALUE;
  kernel_launch n = {function->what, {grid_x, grid_y, grid_z}, threads, {}};
  n.arguments.resize((function->what->argument_bytes + 7) / 8);
  memcpy(n.arguments.data(), arguments[0], function->what->argument_bytes);
  push_node(stream, [n = std::move(n)] { run_kernel(n); });
  return CUDA_SUCCESS;
}

/* Graphs made node by node are chains here: each node waits for the one added before it. */
EXPORT CUresult cuGraphCreate(CUgraph *graph, unsigned) {
  CHECK();
  *graph = new CUgraph_st;
  n_live++;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *after,
                                        size_t n_after, const CUDA_KERNEL_NODE_PARAMS *params) {
  CHECK();
  const size_t n = graph->list.size();
  if (n_after != (n > 0) || (n > 0 && *after != CUgraphNode(n))) return CUDA_ERROR_NOT_SUPPORTED;
  const emulate::kernel *what = params->func->what;
  kernel_launch launch = {
      what, {params->gridDimX, params->gridDimY, params->gridDimZ}, params->blockDimX, {}};
  launch.arguments.resize((what->argument_bytes + 7) / 8);
  memcpy(launch.arguments.data(), params->kernelParams[0], what->argument_bytes);
  graph->list.push_back([launch] { run_kernel(launch); });
  *node = CUgraphNode(n + 1);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode) {
  CHECK();
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = new CUgraph_st;
  n_live++;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  CHECK();
  if (!stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  *graph = stream->capture;
  stream->capture = nullptr;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long) {
  CHECK();
  if (chosen(n_graphs, "graph")) return CUDA_ERROR_OUT_OF_MEMORY;
  *exec = new CUgraphExec_st{std::make_shared<nodes>(graph->list)};
  n_live++;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphDestroy(CUgraph graph) {
  delete graph;
  n_live--;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec exec) {
  delete exec;
  n_live--;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  CHECK();
  push(stream, [list = exec->list] {
    for (const auto &run : *list)
      run();
  });
  return CUDA_SUCCESS;
}
