/* Driver, devices and contexts. The handles of driver and devices are addresses of static bytes;
 * each context is an object of its own, since the loader in intercept mode keeps one record a
 * handle and drops it when any holder destroys it. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REUSE_NS 200000

test_device test_gpu;
pthread_mutex_t test_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t test_moved = PTHREAD_COND_INITIALIZER;

static char the_driver, the_devices[TEST_MAX_DEVICES];
#define DRIVER    ((ze_driver_handle_t)(void *)&the_driver)
#define DEVICE(i) ((ze_device_handle_t)(void *)&the_devices[i])

uint32_t test_device_index(ze_device_handle_t device) {
  uint32_t i = 0;
  while (i < test_gpu.n_devices && device != DEVICE(i))
    i++;
  return i < test_gpu.n_devices ? i : TEST_MAX_DEVICES;
}

static bool is_device(ze_device_handle_t device) {
  return test_device_index(device) < TEST_MAX_DEVICES;
}

/* ---- starting ---- */

static bool find_device(cl_device_id *found) {
  cl_platform_id platforms[16];
  cl_uint n = 0;
  if (clGetPlatformIDs(16, platforms, &n) != CL_SUCCESS) return false;
  for (cl_uint i = 0; i < n && i < 16; i++)
    if (clGetDeviceIDs(platforms[i], CL_DEVICE_TYPE_CPU, 1, found, NULL) == CL_SUCCESS) return true;
  return false;
}

static bool switch_is_on(const char *name) {
  const char *value = getenv(name);
  return !value || strcmp(value, "0") != 0;
}

static void describe(void) {
  char text[96] = "";
  cl_ulong memory = 0;
  cl_uint units = 1;
  clGetDeviceInfo(test_gpu.device, CL_DEVICE_NAME, sizeof text - 1, text, NULL);
  clGetDeviceInfo(test_gpu.device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
  clGetDeviceInfo(test_gpu.device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, NULL);
  snprintf(test_gpu.name, sizeof test_gpu.name, "test driver on %s", text);
  test_gpu.memory_bytes = memory;
  test_gpu.n_units = units;
}

static ze_result_t start_locked(void) {
  if (test_gpu.ready) return ZE_RESULT_SUCCESS;
  if (!find_device(&test_gpu.device)) return ZE_RESULT_ERROR_UNINITIALIZED;
  test_gpu.context = clCreateContext(NULL, 1, &test_gpu.device, NULL, NULL, NULL);
  if (!test_gpu.context) return ZE_RESULT_ERROR_UNINITIALIZED;
  test_gpu.queue =
      clCreateCommandQueueWithProperties(test_gpu.context, test_gpu.device, NULL, NULL);
  if (!test_gpu.queue) return ZE_RESULT_ERROR_UNINITIALIZED;
  const char *seed = getenv("ZE_TEST_SHUFFLE");
  test_gpu.shuffle = seed && strcmp(seed, "0") != 0;
  test_gpu.random = seed ? strtoull(seed, NULL, 10) * 2654435761u + 1 : 1;
  const char *devices = getenv("ZE_TEST_DEVICES");
  const unsigned long n = devices ? strtoul(devices, NULL, 10) : 1;
  test_gpu.n_devices = n > TEST_MAX_DEVICES ? TEST_MAX_DEVICES : (uint32_t)n;
  test_gpu.peers = switch_is_on("ZE_TEST_PEERS");
  test_gpu.n_groups = switch_is_on("ZE_TEST_COPY_ENGINE") ? 2 : 1;
  test_gpu.defer = switch_is_on("ZE_TEST_DEFER");
  test_gpu.guard = switch_is_on("ZE_TEST_GUARD");
  const char *reuse = getenv("ZE_TEST_REUSE");
  test_gpu.reuse = reuse && strcmp(reuse, "0") != 0;
  describe();
  test_gpu.ready = true;
  return ZE_RESULT_SUCCESS;
}

ze_result_t test_start(void) {
  pthread_mutex_lock(&test_mutex);
  const ze_result_t result = start_locked();
  pthread_mutex_unlock(&test_mutex);
  return result;
}

/* ---- objects ---- */

typedef struct object {
  struct object *next; /* while nobody has it */
  size_t bytes;
  max_align_t data[];
} object;

static object *destroyed;

/* The object destroyed last among those of this size, or NULL. */
static object *take_destroyed(size_t bytes) {
  object **link = &destroyed;
  while (*link && (*link)->bytes != bytes)
    link = &(*link)->next;
  object *found = *link;
  if (found) *link = found->next;
  return found;
}

void *test_object_create(size_t bytes) {
  pthread_mutex_lock(&test_mutex);
  object *o = take_destroyed(bytes);
  pthread_mutex_unlock(&test_mutex);
  if (!o) o = malloc(sizeof *o + bytes);
  if (!o) return NULL;
  *o = (object){.bytes = bytes};
  memset(o->data, 0, bytes);
  return o->data;
}

void test_object_destroy(void *data) {
  object *o = (object *)(void *)((char *)data - offsetof(object, data));
  if (!test_gpu.reuse) {
    free(o);
    return;
  }
  pthread_mutex_lock(&test_mutex);
  o->next = destroyed;
  destroyed = o;
  pthread_mutex_unlock(&test_mutex);
  nanosleep(&(struct timespec){0, REUSE_NS}, NULL);
}

/* ---- driver ---- */

/* The usual count-and-fill call over a single handle. */
#define GET_ONE(count, handles, handle)                                                            \
  do {                                                                                             \
    if (!(count)) return ZE_RESULT_ERROR_INVALID_NULL_POINTER;                                     \
    if (*(count) > 0 && (handles)) (handles)[0] = (handle);                                        \
    *(count) = 1;                                                                                  \
    return ZE_RESULT_SUCCESS;                                                                      \
  } while (0)

static ze_result_t ZE_APICALL driver_get(uint32_t *count, ze_driver_handle_t *handles) {
  GET_ONE(count, handles, DRIVER);
}

static ze_result_t ZE_APICALL driver_api_version(ze_driver_handle_t driver,
                                                 ze_api_version_t *version) {
  if (driver != DRIVER) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  *version = ZE_API_VERSION_1_4;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL driver_properties(ze_driver_handle_t driver,
                                                ze_driver_properties_t *out) {
  if (driver != DRIVER) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  memset(&out->uuid, 0, sizeof out->uuid);
  memcpy(out->uuid.id, "ze-cpu-test", 11);
  out->driverVersion = 1;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL driver_ipc_properties(ze_driver_handle_t driver,
                                                    ze_driver_ipc_properties_t *out) {
  (void)driver;
  out->flags = 0;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL driver_extensions(ze_driver_handle_t driver, uint32_t *count,
                                                ze_driver_extension_properties_t *out) {
  (void)driver;
  (void)out;
  *count = 0;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL driver_extension_address(ze_driver_handle_t driver, const char *name,
                                                       void **address) {
  (void)driver;
  (void)name;
  *address = NULL;
  return ZE_RESULT_ERROR_UNSUPPORTED_FEATURE;
}

void test_fill_driver(ze_driver_dditable_t *table) {
  table->pfnGet = driver_get;
  table->pfnGetApiVersion = driver_api_version;
  table->pfnGetProperties = driver_properties;
  table->pfnGetIpcProperties = driver_ipc_properties;
  table->pfnGetExtensionProperties = driver_extensions;
  table->pfnGetExtensionFunctionAddress = driver_extension_address;
}

/* ---- device ---- */

static ze_result_t ZE_APICALL device_get(ze_driver_handle_t driver, uint32_t *count,
                                         ze_device_handle_t *devices) {
  if (driver != DRIVER) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  for (uint32_t i = 0; devices && i < *count && i < test_gpu.n_devices; i++)
    devices[i] = DEVICE(i);
  if (*count == 0) *count = test_gpu.n_devices;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_sub_devices(ze_device_handle_t device, uint32_t *count,
                                                 ze_device_handle_t *devices) {
  (void)device;
  (void)devices;
  *count = 0;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_properties(ze_device_handle_t device,
                                                ze_device_properties_t *out) {
  if (!is_device(device)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  out->type = ZE_DEVICE_TYPE_GPU;
  out->vendorId = 0;
  out->deviceId = 1;
  out->flags = 0;
  out->subdeviceId = 0;
  out->coreClockRate = 1000;
  out->maxMemAllocSize = test_gpu.memory_bytes / 2;
  out->maxHardwareContexts = 1;
  out->maxCommandQueuePriority = 0;
  out->numThreadsPerEU = 1;
  out->physicalEUSimdWidth = 8;
  out->numEUsPerSubslice = 1;
  out->numSubslicesPerSlice = 1;
  out->numSlices = test_gpu.n_units;
  out->timerResolution = 1;
  out->timestampValidBits = 64;
  out->kernelTimestampValidBits = 64;
  memset(&out->uuid, 0, sizeof out->uuid);
  memcpy(out->uuid.id, "ze-cpu-test-", 12);
  out->uuid.id[12] = (uint8_t)('0' + test_device_index(device));
  snprintf(out->name, sizeof out->name, "%s", test_gpu.name);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_compute(ze_device_handle_t device,
                                             ze_device_compute_properties_t *out) {
  if (!is_device(device)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  out->maxTotalGroupSize = TEST_GROUP_SIZE_MAX;
  out->maxGroupSizeX = out->maxGroupSizeY = out->maxGroupSizeZ = TEST_GROUP_SIZE_MAX;
  out->maxGroupCountX = out->maxGroupCountY = out->maxGroupCountZ = INT32_MAX;
  out->maxSharedLocalMemory = 65536;
  out->numSubGroupSizes = 0;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_module(ze_device_handle_t device,
                                            ze_device_module_properties_t *out) {
  if (!is_device(device)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  out->spirvVersionSupported = ZE_MAKE_VERSION(1, 2);
  out->flags = ZE_DEVICE_MODULE_FLAG_FP64;
  out->fp16flags = 0;
  out->fp32flags = ZE_DEVICE_FP_FLAG_ROUND_TO_NEAREST | ZE_DEVICE_FP_FLAG_INF_NAN |
                   ZE_DEVICE_FP_FLAG_DENORM | ZE_DEVICE_FP_FLAG_FMA;
  out->fp64flags = out->fp32flags;
  out->maxArgumentsSize = TEST_MAX_ARGS * 8;
  out->printfBufferSize = 0;
  memset(&out->nativeKernelSupported, 0, sizeof out->nativeKernelSupported);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_queue_groups(ze_device_handle_t device, uint32_t *count,
                                                  ze_command_queue_group_properties_t *out) {
  if (!is_device(device)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  for (uint32_t i = 0; out && i < *count && i < test_gpu.n_groups; i++) {
    out[i].flags = ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY;
    if (i == TEST_COMPUTE_GROUP) out[i].flags |= ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COMPUTE;
    out[i].maxMemoryFillPatternSize = test_fill_pattern_max(i);
    out[i].numQueues = 2;
  }
  *count = test_gpu.n_groups;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_memory(ze_device_handle_t device, uint32_t *count,
                                            ze_device_memory_properties_t *out) {
  if (!is_device(device)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  if (out && *count > 0) {
    out->flags = 0;
    out->maxClockRate = 1000;
    out->maxBusWidth = 64;
    out->totalSize = test_gpu.memory_bytes;
    snprintf(out->name, sizeof out->name, "guarded host memory");
  }
  *count = 1;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_access(ze_device_handle_t device,
                                            ze_device_memory_access_properties_t *out) {
  (void)device;
  out->hostAllocCapabilities = ZE_MEMORY_ACCESS_CAP_FLAG_RW;
  out->deviceAllocCapabilities = ZE_MEMORY_ACCESS_CAP_FLAG_RW | ZE_MEMORY_ACCESS_CAP_FLAG_ATOMIC;
  out->sharedSingleDeviceAllocCapabilities = ZE_MEMORY_ACCESS_CAP_FLAG_RW;
  out->sharedCrossDeviceAllocCapabilities = 0;
  out->sharedSystemAllocCapabilities = 0;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_caches(ze_device_handle_t device, uint32_t *count,
                                            ze_device_cache_properties_t *out) {
  (void)device;
  (void)out;
  *count = 0;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_external(ze_device_handle_t device,
                                              ze_device_external_memory_properties_t *out) {
  (void)device;
  out->memoryAllocationImportTypes = out->memoryAllocationExportTypes = 0;
  out->imageImportTypes = out->imageExportTypes = 0;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_p2p(ze_device_handle_t device, ze_device_handle_t peer,
                                         ze_device_p2p_properties_t *out) {
  (void)device;
  (void)peer;
  out->flags = 0;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_can_access(ze_device_handle_t device, ze_device_handle_t peer,
                                                ze_bool_t *value) {
  *value = is_device(device) && is_device(peer) && (device == peer || test_gpu.peers);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL device_status(ze_device_handle_t device) {
  return is_device(device) ? ZE_RESULT_SUCCESS : ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
}

static ze_result_t ZE_APICALL device_timestamps(ze_device_handle_t device, uint64_t *host,
                                                uint64_t *own) {
  (void)device;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *host = *own = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  return ZE_RESULT_SUCCESS;
}

void test_fill_device(ze_device_dditable_t *table) {
  table->pfnGet = device_get;
  table->pfnGetSubDevices = device_sub_devices;
  table->pfnGetProperties = device_properties;
  table->pfnGetComputeProperties = device_compute;
  table->pfnGetModuleProperties = device_module;
  table->pfnGetCommandQueueGroupProperties = device_queue_groups;
  table->pfnGetMemoryProperties = device_memory;
  table->pfnGetMemoryAccessProperties = device_access;
  table->pfnGetCacheProperties = device_caches;
  table->pfnGetExternalMemoryProperties = device_external;
  table->pfnGetP2PProperties = device_p2p;
  table->pfnCanAccessPeer = device_can_access;
  table->pfnGetStatus = device_status;
  table->pfnGetGlobalTimestamps = device_timestamps;
}

/* ---- contexts ---- */

struct _ze_context_handle_t {
  ze_context_handle_t next;
};

static ze_context_handle_t contexts; /* test_mutex guards them */

/* The link that holds the context, or the last one. */
static ze_context_handle_t *find_context(ze_context_handle_t context) {
  ze_context_handle_t *link = &contexts;
  while (*link && *link != context)
    link = &(*link)->next;
  return link;
}

bool test_is_context(ze_context_handle_t context) {
  pthread_mutex_lock(&test_mutex);
  const bool found = context && *find_context(context);
  pthread_mutex_unlock(&test_mutex);
  return found;
}

static ze_result_t ZE_APICALL context_create(ze_driver_handle_t driver,
                                             const ze_context_desc_t *desc,
                                             ze_context_handle_t *out) {
  if (driver != DRIVER) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  if (!desc || !out) return ZE_RESULT_ERROR_INVALID_NULL_POINTER;
  *out = test_object_create(sizeof **out);
  if (!*out) return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  pthread_mutex_lock(&test_mutex);
  (*out)->next = contexts;
  contexts = *out;
  pthread_mutex_unlock(&test_mutex);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL context_create_ex(ze_driver_handle_t driver,
                                                const ze_context_desc_t *desc, uint32_t n_devices,
                                                ze_device_handle_t *devices,
                                                ze_context_handle_t *out) {
  (void)n_devices;
  (void)devices;
  return context_create(driver, desc, out);
}

static ze_result_t ZE_APICALL context_destroy(ze_context_handle_t context) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  pthread_mutex_lock(&test_mutex);
  ze_context_handle_t *link = find_context(context);
  *link = context->next;
  pthread_mutex_unlock(&test_mutex);
  test_object_destroy(context);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL context_status(ze_context_handle_t context) {
  return test_is_context(context) ? ZE_RESULT_SUCCESS : ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
}

void test_fill_context(ze_context_dditable_t *table) {
  table->pfnCreate = context_create;
  table->pfnCreateEx = context_create_ex;
  table->pfnDestroy = context_destroy;
  table->pfnGetStatus = context_status;
}
