/* Lists, queues, fences and events. Appending captures everything a command needs, kernel
 * arguments included; an immediate list submits each command as it comes. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

/* ---- command arrays ---- */

bool test_commands_push(test_commands *list, const test_command *command) {
  if (list->n == list->capacity) {
    const size_t capacity = list->capacity ? list->capacity * 2 : 64;
    test_command *items = realloc(list->items, capacity * sizeof *items);
    if (!items) return false;
    list->items = items;
    list->capacity = capacity;
  }
  list->items[list->n++] = *command;
  return true;
}

void test_command_finish(test_command *command) {
  free(command->waits);
  free(command->args);
}

static void clear(test_commands *list) {
  for (size_t i = 0; i < list->n; i++)
    test_command_finish(&list->items[i]);
  list->n = 0;
}

/* ---- queues ---- */

static ze_command_queue_handle_t queue_new(uint32_t ordinal) {
  ze_command_queue_handle_t queue = test_object_create(sizeof *queue);
  if (!queue) return NULL;
  queue->ordinal = ordinal;
  pthread_mutex_lock(&test_mutex);
  test_queue_add(queue);
  pthread_mutex_unlock(&test_mutex);
  return queue;
}

static void queue_free(ze_command_queue_handle_t queue) {
  pthread_mutex_lock(&test_mutex);
  test_queue_remove(queue);
  pthread_mutex_unlock(&test_mutex);
  clear(&queue->pending);
  free(queue->pending.items);
  test_object_destroy(queue);
}

static ze_result_t ZE_APICALL queue_create(ze_context_handle_t context, ze_device_handle_t device,
                                           const ze_command_queue_desc_t *desc,
                                           ze_command_queue_handle_t *out) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  (void)device;
  if (desc->ordinal >= test_gpu.n_groups) return ZE_RESULT_ERROR_INVALID_ARGUMENT;
  *out = queue_new(desc->ordinal);
  return *out ? ZE_RESULT_SUCCESS : ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
}

static ze_result_t ZE_APICALL queue_destroy(ze_command_queue_handle_t queue) {
  queue_free(queue);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL queue_execute(ze_command_queue_handle_t queue, uint32_t n_lists,
                                            ze_command_list_handle_t *lists,
                                            ze_fence_handle_t fence) {
  ze_result_t result = ZE_RESULT_SUCCESS;
  pthread_mutex_lock(&test_mutex);
  if (fence && (fence->queue != queue || fence->at != UINT64_MAX)) /* in use: reset it first */
    result = ZE_RESULT_ERROR_INVALID_ARGUMENT;
  for (uint32_t i = 0; i < n_lists; i++) {
    if (!lists[i]->closed || lists[i]->immediate) result = ZE_RESULT_ERROR_INVALID_ARGUMENT;
    if (lists[i]->ordinal != queue->ordinal) result = ZE_RESULT_ERROR_INVALID_COMMAND_LIST_TYPE;
  }
  for (uint32_t i = 0; i < n_lists && result == ZE_RESULT_SUCCESS; i++)
    result = test_submit(queue, &lists[i]->recorded);
  if (fence && result == ZE_RESULT_SUCCESS) fence->at = queue->n_submitted;
  pthread_mutex_unlock(&test_mutex);
  return result;
}

static ze_result_t ZE_APICALL queue_synchronize(ze_command_queue_handle_t queue,
                                                uint64_t timeout_ns) {
  pthread_mutex_lock(&test_mutex);
  const ze_result_t result = test_wait(test_queue_idle, queue, timeout_ns);
  pthread_mutex_unlock(&test_mutex);
  return result;
}

void test_fill_queue(ze_command_queue_dditable_t *table) {
  table->pfnCreate = queue_create;
  table->pfnDestroy = queue_destroy;
  table->pfnExecuteCommandLists = queue_execute;
  table->pfnSynchronize = queue_synchronize;
}

/* ---- lists ---- */

static ze_result_t ZE_APICALL list_create(ze_context_handle_t context, ze_device_handle_t device,
                                          const ze_command_list_desc_t *desc,
                                          ze_command_list_handle_t *out) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  if (desc->commandQueueGroupOrdinal >= test_gpu.n_groups) return ZE_RESULT_ERROR_INVALID_ARGUMENT;
  *out = test_object_create(sizeof **out);
  if (!*out) return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  (*out)->ordinal = desc->commandQueueGroupOrdinal;
  (*out)->device = test_device_index(device);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL list_immediate(ze_context_handle_t context, ze_device_handle_t device,
                                             const ze_command_queue_desc_t *desc,
                                             ze_command_list_handle_t *out) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  *out = NULL;
  if (desc->ordinal >= test_gpu.n_groups) return ZE_RESULT_ERROR_INVALID_ARGUMENT;
  ze_command_list_handle_t list = test_object_create(sizeof *list);
  if (!list) return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  list->ordinal = desc->ordinal;
  list->device = test_device_index(device);
  list->immediate = true;
  list->synchronous = desc->mode == ZE_COMMAND_QUEUE_MODE_SYNCHRONOUS;
  list->queue = queue_new(desc->ordinal);
  if (!list->queue) {
    test_object_destroy(list);
    return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  }
  *out = list;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL list_destroy(ze_command_list_handle_t list) {
  if (list->immediate) queue_free(list->queue);
  clear(&list->recorded);
  free(list->recorded.items);
  test_object_destroy(list);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL list_close(ze_command_list_handle_t list) {
  list->closed = true;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL list_reset(ze_command_list_handle_t list) {
  clear(&list->recorded);
  list->closed = false;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t submit_now(ze_command_list_handle_t list, const test_command *command) {
  pthread_mutex_lock(&test_mutex);
  const test_commands one = {.items = (test_command *)command, .n = 1};
  ze_result_t result = test_submit(list->queue, &one);
  if (result == ZE_RESULT_SUCCESS && list->synchronous)
    result = test_wait(test_queue_idle, list->queue, UINT64_MAX);
  pthread_mutex_unlock(&test_mutex);
  return result;
}

/* Takes `command`, whose args are its own, and adds signal and copies of the waits. */
static ze_result_t append(ze_command_list_handle_t list, test_command *command,
                          ze_event_handle_t signal, uint32_t n_waits, ze_event_handle_t *waits) {
  command->signal = signal;
  ze_result_t result = ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  if (list->closed) {
    result = ZE_RESULT_ERROR_INVALID_ARGUMENT;
    goto finish;
  }
  if (n_waits > 0) { /* in intercept mode the loader passes an array with count 0 */
    command->waits = malloc(n_waits * sizeof(ze_event_handle_t));
    if (!command->waits) goto finish;
    memcpy(command->waits, waits, n_waits * sizeof(ze_event_handle_t));
    command->n_waits = n_waits;
  }
  if (!list->immediate) {
    if (!test_commands_push(&list->recorded, command)) goto finish;
    return ZE_RESULT_SUCCESS;
  }
  result = submit_now(list, command);

finish:
  test_command_finish(command);
  return result;
}

static ze_result_t ZE_APICALL append_barrier(ze_command_list_handle_t list,
                                             ze_event_handle_t signal, uint32_t n_waits,
                                             ze_event_handle_t *waits) {
  test_command command = {.kind = TEST_BARRIER};
  return append(list, &command, signal, n_waits, waits);
}

/* A device reaches only memory of this driver, not the system's, and another device's where they
 * are peers. */
static bool reachable(ze_command_list_handle_t list, const void *pointer, size_t bytes) {
  pthread_mutex_lock(&test_mutex);
  const test_allocation *a = test_find(pointer, bytes);
  const bool reaches =
      a && (a->type != ZE_MEMORY_TYPE_DEVICE || test_gpu.peers || a->device == list->device);
  pthread_mutex_unlock(&test_mutex);
  return reaches;
}

/* What the kernel's pointers name. Null ones are the kernel's business, stray ones are told when it
 * runs. */
static bool reaches_arguments(ze_command_list_handle_t list, ze_kernel_handle_t kernel) {
  for (uint32_t i = 0; i < kernel->n_args; i++) {
    const test_arg *arg = &kernel->args[i];
    void *pointer = NULL;
    if (arg->set && arg->kind == TEST_ARG_POINTER) memcpy(&pointer, arg->value, sizeof pointer);
    if (pointer && !reachable(list, pointer, 0)) return false;
  }
  return true;
}

static ze_result_t ZE_APICALL append_copy(ze_command_list_handle_t list, void *to, const void *from,
                                          size_t bytes, ze_event_handle_t signal, uint32_t n_waits,
                                          ze_event_handle_t *waits) {
  if (!to || !from) return ZE_RESULT_ERROR_INVALID_NULL_POINTER;
  if (!reachable(list, to, bytes) || !reachable(list, from, bytes))
    return ZE_RESULT_ERROR_INVALID_ARGUMENT;
  test_command command = {.kind = TEST_COPY, .to = to, .from = from, .bytes = bytes};
  return append(list, &command, signal, n_waits, waits);
}

static ze_result_t ZE_APICALL append_fill(ze_command_list_handle_t list, void *to,
                                          const void *pattern, size_t pattern_bytes, size_t bytes,
                                          ze_event_handle_t signal, uint32_t n_waits,
                                          ze_event_handle_t *waits) {
  test_command command = {.kind = TEST_FILL, .to = to, .bytes = bytes};
  if (pattern_bytes == 0 || pattern_bytes > test_fill_pattern_max(list->ordinal) ||
      pattern_bytes & (pattern_bytes - 1))
    return ZE_RESULT_ERROR_INVALID_SIZE;
  if (!reachable(list, to, bytes)) return ZE_RESULT_ERROR_INVALID_ARGUMENT;
  memcpy(command.pattern, pattern, pattern_bytes);
  command.pattern_bytes = pattern_bytes;
  return append(list, &command, signal, n_waits, waits);
}

static ze_result_t ZE_APICALL append_launch(ze_command_list_handle_t list,
                                            ze_kernel_handle_t kernel,
                                            const ze_group_count_t *groups,
                                            ze_event_handle_t signal, uint32_t n_waits,
                                            ze_event_handle_t *waits) {
  if (list->ordinal == TEST_COPY_GROUP) return ZE_RESULT_ERROR_INVALID_COMMAND_LIST_TYPE;
  if (kernel->group[0] == 0) return ZE_RESULT_ERROR_INVALID_GROUP_SIZE_DIMENSION;
  if (groups->groupCountX == 0 || groups->groupCountY == 0 || groups->groupCountZ == 0)
    return ZE_RESULT_ERROR_INVALID_ARGUMENT;
  if (!reaches_arguments(list, kernel)) return ZE_RESULT_ERROR_INVALID_ARGUMENT;
  test_command command = {
      .kind = TEST_LAUNCH,
      .kernel = kernel,
      .groups = {groups->groupCountX, groups->groupCountY, groups->groupCountZ}};
  memcpy(command.group, kernel->group, sizeof command.group);
  command.args = malloc(sizeof kernel->args);
  if (!command.args) return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  memcpy(command.args, kernel->args, sizeof kernel->args);
  return append(list, &command, signal, n_waits, waits);
}

static ze_result_t ZE_APICALL append_signal(ze_command_list_handle_t list,
                                            ze_event_handle_t event) {
  test_command command = {.kind = TEST_SIGNAL};
  return append(list, &command, event, 0, NULL);
}

static ze_result_t ZE_APICALL append_wait(ze_command_list_handle_t list, uint32_t n_waits,
                                          ze_event_handle_t *waits) {
  test_command command = {.kind = TEST_WAIT};
  return append(list, &command, NULL, n_waits, waits);
}

static ze_result_t ZE_APICALL append_reset(ze_command_list_handle_t list, ze_event_handle_t event) {
  test_command command = {.kind = TEST_RESET};
  return append(list, &command, event, 0, NULL);
}

void test_fill_list(ze_command_list_dditable_t *table) {
  table->pfnCreate = list_create;
  table->pfnCreateImmediate = list_immediate;
  table->pfnDestroy = list_destroy;
  table->pfnClose = list_close;
  table->pfnReset = list_reset;
  table->pfnAppendBarrier = append_barrier;
  table->pfnAppendMemoryCopy = append_copy;
  table->pfnAppendMemoryFill = append_fill;
  table->pfnAppendLaunchKernel = append_launch;
  table->pfnAppendSignalEvent = append_signal;
  table->pfnAppendWaitOnEvents = append_wait;
  table->pfnAppendEventReset = append_reset;
}

/* ---- fences ---- */

static bool fence_reached(void *of) {
  const ze_fence_handle_t fence = of;
  return fence->queue->n_retired >= fence->at;
}

static ze_result_t ZE_APICALL fence_create(ze_command_queue_handle_t queue,
                                           const ze_fence_desc_t *desc, ze_fence_handle_t *out) {
  *out = test_object_create(sizeof **out);
  if (!*out) return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  (*out)->queue = queue;
  (*out)->at = desc->flags & ZE_FENCE_FLAG_SIGNALED ? 0 : UINT64_MAX;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL fence_destroy(ze_fence_handle_t fence) {
  test_object_destroy(fence);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL fence_synchronize(ze_fence_handle_t fence, uint64_t timeout_ns) {
  pthread_mutex_lock(&test_mutex);
  const ze_result_t result = test_wait(fence_reached, fence, timeout_ns);
  pthread_mutex_unlock(&test_mutex);
  return result;
}

/* Asking is a wait without patience: it lets one command run, so that polling gets there. */
static ze_result_t ask(bool (*done)(void *of), void *of) {
  pthread_mutex_lock(&test_mutex);
  if (!done(of)) test_step();
  test_lock_memory();
  const ze_result_t result = done(of) ? ZE_RESULT_SUCCESS : ZE_RESULT_NOT_READY;
  pthread_mutex_unlock(&test_mutex);
  return result;
}

static ze_result_t ZE_APICALL fence_query(ze_fence_handle_t fence) {
  return ask(fence_reached, fence);
}

static ze_result_t ZE_APICALL fence_reset(ze_fence_handle_t fence) {
  pthread_mutex_lock(&test_mutex);
  fence->at = UINT64_MAX;
  pthread_mutex_unlock(&test_mutex);
  return ZE_RESULT_SUCCESS;
}

void test_fill_fence(ze_fence_dditable_t *table) {
  table->pfnCreate = fence_create;
  table->pfnDestroy = fence_destroy;
  table->pfnHostSynchronize = fence_synchronize;
  table->pfnQueryStatus = fence_query;
  table->pfnReset = fence_reset;
}

/* ---- events ---- */

struct _ze_event_pool_handle_t {
  uint32_t n;
  struct _ze_event_handle_t events[];
};

static ze_result_t ZE_APICALL pool_create(ze_context_handle_t context,
                                          const ze_event_pool_desc_t *desc, uint32_t n_devices,
                                          ze_device_handle_t *devices,
                                          ze_event_pool_handle_t *out) {
  if (!test_is_context(context)) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  (void)n_devices;
  (void)devices;
  *out = NULL;
  if (desc->count == 0 || desc->count > 1u << 20) return ZE_RESULT_ERROR_INVALID_SIZE;
  *out = test_object_create(sizeof **out + desc->count * sizeof(struct _ze_event_handle_t));
  if (!*out) return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
  (*out)->n = desc->count;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL pool_destroy(ze_event_pool_handle_t pool) {
  test_object_destroy(pool);
  return ZE_RESULT_SUCCESS;
}

void test_fill_event_pool(ze_event_pool_dditable_t *table) {
  table->pfnCreate = pool_create;
  table->pfnDestroy = pool_destroy;
}

static ze_result_t ZE_APICALL event_create(ze_event_pool_handle_t pool, const ze_event_desc_t *desc,
                                           ze_event_handle_t *out) {
  *out = NULL;
  if (desc->index >= pool->n) return ZE_RESULT_ERROR_INVALID_ARGUMENT;
  pool->events[desc->index] = (struct _ze_event_handle_t){0};
  *out = &pool->events[desc->index];
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL event_destroy(ze_event_handle_t event) {
  (void)event;
  return ZE_RESULT_SUCCESS;
}

static bool event_signalled(void *of) {
  return ((ze_event_handle_t)of)->signalled;
}

static ze_result_t set_event(ze_event_handle_t event, bool signalled) {
  pthread_mutex_lock(&test_mutex);
  event->signalled = signalled;
  pthread_cond_broadcast(&test_moved);
  pthread_mutex_unlock(&test_mutex);
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL event_signal(ze_event_handle_t event) {
  return set_event(event, true);
}

static ze_result_t ZE_APICALL event_reset(ze_event_handle_t event) {
  return set_event(event, false);
}

static ze_result_t ZE_APICALL event_synchronize(ze_event_handle_t event, uint64_t timeout_ns) {
  pthread_mutex_lock(&test_mutex);
  const ze_result_t result = test_wait(event_signalled, event, timeout_ns);
  pthread_mutex_unlock(&test_mutex);
  return result;
}

static ze_result_t ZE_APICALL event_query(ze_event_handle_t event) {
  return ask(event_signalled, event);
}

static ze_result_t ZE_APICALL event_timestamp(ze_event_handle_t event,
                                              ze_kernel_timestamp_result_t *out) {
  pthread_mutex_lock(&test_mutex);
  out->global.kernelStart = out->context.kernelStart = event->begin_ns;
  out->global.kernelEnd = out->context.kernelEnd = event->end_ns;
  const bool signalled = event->signalled;
  pthread_mutex_unlock(&test_mutex);
  return signalled ? ZE_RESULT_SUCCESS : ZE_RESULT_NOT_READY;
}

void test_fill_event(ze_event_dditable_t *table) {
  table->pfnCreate = event_create;
  table->pfnDestroy = event_destroy;
  table->pfnHostSignal = event_signal;
  table->pfnHostReset = event_reset;
  table->pfnHostSynchronize = event_synchronize;
  table->pfnQueryStatus = event_query;
  table->pfnQueryKernelTimestamp = event_timestamp;
}
