/* Every allocation is a mapping of its own that ends in a page nobody may touch. The data lies as
 * close to that page as its alignment allows; what is left between is filled with canaries, as is
 * the rest of the first page. Device memory is closed to the host except while a command runs. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES ((size_t)4096)
#define CANARY     0xa5
#define ALIGNMENT  64 /* when the caller does not care */

static test_allocation *allocations;

test_allocation *test_find(const void *pointer, size_t bytes) {
  const unsigned char *at = pointer;
  for (test_allocation *a = allocations; a; a = a->next)
    if (at >= a->data && at <= a->data + a->bytes && bytes <= (size_t)(a->data + a->bytes - at))
      return a;
  return NULL;
}

static void protect(test_allocation *a, int protection) {
  if (test_gpu.guard && a->type == ZE_MEMORY_TYPE_DEVICE)
    mprotect(a->mapping, a->mapping_bytes - PAGE_BYTES, protection);
}

static bool unlocked;

void test_unlock_memory(void) {
  if (unlocked) return;
  unlocked = true;
  for (test_allocation *a = allocations; a; a = a->next)
    protect(a, PROT_READ | PROT_WRITE);
}

void test_lock_memory(void) {
  if (!unlocked) return;
  unlocked = false;
  for (test_allocation *a = allocations; a; a = a->next)
    protect(a, PROT_NONE);
}

static bool all_canaries(const unsigned char *from, const unsigned char *to) {
  while (from < to)
    if (*from++ != CANARY) return false;
  return true;
}

static bool intact(const test_allocation *a) {
  return all_canaries(a->mapping, a->data) &&
         all_canaries(a->data + a->bytes, a->mapping + a->mapping_bytes - PAGE_BYTES);
}

bool test_canaries_intact(void) {
  for (const test_allocation *a = allocations; a; a = a->next)
    if (!intact(a)) return false;
  return true;
}

static ze_result_t allocate(ze_memory_type_t type, uint32_t device, size_t bytes, size_t alignment,
                            void **out) {
  if (!out) return ZE_RESULT_ERROR_INVALID_NULL_POINTER;
  *out = NULL;
  if (bytes == 0 || bytes > test_gpu.memory_bytes / 2) return ZE_RESULT_ERROR_UNSUPPORTED_SIZE;
  if (alignment == 0) alignment = ALIGNMENT;
  if (alignment & (alignment - 1) || alignment > PAGE_BYTES)
    return ZE_RESULT_ERROR_UNSUPPORTED_ALIGNMENT;
  const size_t usable = (bytes + alignment + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
  test_allocation *a = calloc(1, sizeof *a);
  if (!a) return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  a->mapping_bytes = usable + PAGE_BYTES;
  a->mapping =
      mmap(NULL, a->mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (a->mapping == MAP_FAILED) {
    free(a);
    return ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY;
  }
  mprotect(a->mapping + usable, PAGE_BYTES, PROT_NONE);
  a->type = type;
  a->device = device;
  a->bytes = bytes;
  a->data = a->mapping + (usable - bytes) / alignment * alignment;
  memset(a->mapping, CANARY, (size_t)(a->data - a->mapping));
  memset(a->data + bytes, CANARY, (size_t)(a->mapping + usable - a->data) - bytes);
  memset(a->data, 0xcd, bytes); /* nobody may rely on zeros */
  pthread_mutex_lock(&test_mutex);
  a->next = allocations;
  allocations = a;
  protect(a, PROT_NONE);
  pthread_mutex_unlock(&test_mutex);
  *out = a->data;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL mem_device(ze_context_handle_t context,
                                         const ze_device_mem_alloc_desc_t *desc, size_t bytes,
                                         size_t alignment, ze_device_handle_t device, void **out) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  (void)desc;
  const uint32_t index = test_device_index(device);
  if (index == TEST_MAX_DEVICES) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  return allocate(ZE_MEMORY_TYPE_DEVICE, index, bytes, alignment, out);
}

static ze_result_t ZE_APICALL mem_host(ze_context_handle_t context,
                                       const ze_host_mem_alloc_desc_t *desc, size_t bytes,
                                       size_t alignment, void **out) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  (void)desc;
  return allocate(ZE_MEMORY_TYPE_HOST, 0, bytes, alignment, out);
}

static ze_result_t ZE_APICALL mem_shared(ze_context_handle_t context,
                                         const ze_device_mem_alloc_desc_t *device_desc,
                                         const ze_host_mem_alloc_desc_t *host_desc, size_t bytes,
                                         size_t alignment, ze_device_handle_t device, void **out) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  (void)device_desc;
  (void)host_desc;
  (void)device;
  return allocate(ZE_MEMORY_TYPE_SHARED, 0, bytes, alignment, out);
}

static ze_result_t ZE_APICALL mem_free(ze_context_handle_t context, void *pointer) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  pthread_mutex_lock(&test_mutex);
  ze_result_t result = ZE_RESULT_ERROR_INVALID_ARGUMENT;
  for (test_allocation **link = &allocations; *link; link = &(*link)->next) {
    test_allocation *a = *link;
    if (a->data != pointer) continue;
    protect(a, PROT_READ | PROT_WRITE);
    if (!intact(a)) fprintf(stderr, "ze_cpu_test: the surroundings of %p were written\n", pointer);
    result = intact(a) ? ZE_RESULT_SUCCESS : ZE_RESULT_ERROR_UNKNOWN;
    *link = a->next;
    munmap(a->mapping, a->mapping_bytes);
    free(a);
    break;
  }
  pthread_mutex_unlock(&test_mutex);
  return result;
}

static ze_result_t ZE_APICALL mem_properties(ze_context_handle_t context, const void *pointer,
                                             ze_memory_allocation_properties_t *out,
                                             ze_device_handle_t *device) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  pthread_mutex_lock(&test_mutex);
  const test_allocation *a = test_find(pointer, 0);
  out->type = a ? a->type : ZE_MEMORY_TYPE_UNKNOWN;
  out->id = (uint64_t)(uintptr_t)a;
  out->pageSize = PAGE_BYTES;
  pthread_mutex_unlock(&test_mutex);
  if (device) *device = NULL;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL mem_range(ze_context_handle_t context, const void *pointer,
                                        void **base, size_t *bytes) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  pthread_mutex_lock(&test_mutex);
  const test_allocation *a = test_find(pointer, 0);
  if (base) *base = a ? a->data : NULL;
  if (bytes) *bytes = a ? a->bytes : 0;
  pthread_mutex_unlock(&test_mutex);
  return a ? ZE_RESULT_SUCCESS : ZE_RESULT_ERROR_UNKNOWN;
}

void test_fill_mem(ze_mem_dditable_t *table) {
  table->pfnAllocDevice = mem_device;
  table->pfnAllocHost = mem_host;
  table->pfnAllocShared = mem_shared;
  table->pfnFree = mem_free;
  table->pfnGetAllocProperties = mem_properties;
  table->pfnGetAddressRange = mem_range;
}
