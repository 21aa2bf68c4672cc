/* The test driver through the real loader: what it runs, and which mistakes it shows. The modes are
 * read when the driver starts, so each test runs in a process of its own. */
#include <level_zero/ze_api.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define N                1024
#define COPY_GROUP       1
#define TIMEOUT_NS       UINT64_C(10000000000)
#define MUST(call)       assert_int_equal((call), ZE_RESULT_SUCCESS)
#define CHILD_MUST(call) child_must((call), #call)

static void child_must(ze_result_t result, const char *call) {
  if (result == ZE_RESULT_SUCCESS) return;
  fprintf(stderr, "%s: 0x%x\n", call, (unsigned)result);
  _exit(2);
}

typedef struct fixture {
  ze_driver_handle_t driver;
  ze_device_handle_t device;
  ze_context_handle_t context;
  ze_module_handle_t module;
  ze_command_queue_handle_t queue;
  float *host; /* N floats each */
  float *device_a;
  float *device_b;
} fixture;

/* ---- set-up; in a child process a failure is exit status 2 ---- */

static ze_kernel_handle_t kernel_named(const fixture *f, const char *name, uint32_t group) {
  const ze_kernel_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_KERNEL_DESC, .pKernelName = name};
  ze_kernel_handle_t kernel;
  CHILD_MUST(zeKernelCreate(f->module, &desc, &kernel));
  CHILD_MUST(zeKernelSetGroupSize(kernel, group, 1, 1));
  return kernel;
}

static ze_command_list_handle_t new_list(const fixture *f, uint32_t ordinal) {
  const ze_command_list_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_COMMAND_LIST_DESC,
                                       .commandQueueGroupOrdinal = ordinal};
  ze_command_list_handle_t list;
  CHILD_MUST(zeCommandListCreate(f->context, f->device, &desc, &list));
  return list;
}

static void load_probe(fixture *f) {
  static unsigned char bytes[1 << 16];
  FILE *file = fopen(getenv("CONSORT_TEST_PROBE"), "rb");
  if (!file) _exit(2);
  const size_t n = fread(bytes, 1, sizeof bytes, file);
  fclose(file);
  const ze_module_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_MODULE_DESC,
                                 .format = ZE_MODULE_FORMAT_IL_SPIRV,
                                 .inputSize = n,
                                 .pInputModule = bytes};
  CHILD_MUST(zeModuleCreate(f->context, f->device, &desc, &f->module, NULL));
}

static void start(fixture *f) {
  uint32_t one = 1;
  CHILD_MUST(zeInit(0));
  CHILD_MUST(zeDriverGet(&one, &f->driver));
  CHILD_MUST(zeDeviceGet(f->driver, &one, &f->device));
  const ze_context_desc_t context = {.stype = ZE_STRUCTURE_TYPE_CONTEXT_DESC};
  CHILD_MUST(zeContextCreate(f->driver, &context, &f->context));
  const ze_command_queue_desc_t queue = {.stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC};
  CHILD_MUST(zeCommandQueueCreate(f->context, f->device, &queue, &f->queue));
  const ze_host_mem_alloc_desc_t host = {.stype = ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC};
  const ze_device_mem_alloc_desc_t device = {.stype = ZE_STRUCTURE_TYPE_DEVICE_MEM_ALLOC_DESC};
  const size_t bytes = N * sizeof(float);
  CHILD_MUST(zeMemAllocHost(f->context, &host, bytes, 64, (void **)&f->host));
  CHILD_MUST(zeMemAllocDevice(f->context, &device, bytes, 64, f->device, (void **)&f->device_a));
  CHILD_MUST(zeMemAllocDevice(f->context, &device, bytes, 64, f->device, (void **)&f->device_b));
  load_probe(f);
}

static ze_result_t launch_scale(const fixture *f, ze_command_list_handle_t list, float *out,
                                float *in, float factor) {
  ze_kernel_handle_t kernel = kernel_named(f, "scale", 64);
  CHILD_MUST(zeKernelSetArgumentValue(kernel, 0, sizeof out, &out));
  CHILD_MUST(zeKernelSetArgumentValue(kernel, 1, sizeof in, &in));
  CHILD_MUST(zeKernelSetArgumentValue(kernel, 2, sizeof factor, &factor));
  const ze_group_count_t groups = {N / 64, 1, 1};
  return zeCommandListAppendLaunchKernel(list, kernel, &groups, NULL, 0, NULL);
}

static ze_result_t barrier(ze_command_list_handle_t list) {
  return zeCommandListAppendBarrier(list, NULL, 0, NULL);
}

static ze_result_t run(const fixture *f, ze_command_list_handle_t list) {
  CHILD_MUST(zeCommandListClose(list));
  CHILD_MUST(zeCommandQueueExecuteCommandLists(f->queue, 1, &list, NULL));
  return zeCommandQueueSynchronize(f->queue, TIMEOUT_NS);
}

/* host -> a, b = 2 a, a = 3 b, a -> host; a barrier between all of them, or none. */
static ze_command_list_handle_t chain(const fixture *f, bool with_barriers) {
  ze_command_list_handle_t list = new_list(f, 0);
  const size_t bytes = N * sizeof(float);
  CHILD_MUST(zeCommandListAppendMemoryCopy(list, f->device_a, f->host, bytes, NULL, 0, NULL));
  if (with_barriers) CHILD_MUST(barrier(list));
  CHILD_MUST(launch_scale(f, list, f->device_b, f->device_a, 2.0f));
  if (with_barriers) CHILD_MUST(barrier(list));
  CHILD_MUST(launch_scale(f, list, f->device_a, f->device_b, 3.0f));
  if (with_barriers) CHILD_MUST(barrier(list));
  CHILD_MUST(zeCommandListAppendMemoryCopy(list, f->host, f->device_a, bytes, NULL, 0, NULL));
  return list;
}

static bool sixfold(const fixture *f) {
  for (uint32_t i = 0; i < N; i++)
    if (f->host[i] != 6.0f * (float)i) return false;
  return true;
}

static void fill_host(const fixture *f) {
  for (uint32_t i = 0; i < N; i++)
    f->host[i] = (float)i;
}

/* ---- stories, each in its own process; they return whether what they say is so ---- */

static bool a_chain_with_barriers_is_right(void) {
  fixture f;
  start(&f);
  fill_host(&f);
  ze_command_list_handle_t list = chain(&f, true);
  return run(&f, list) == ZE_RESULT_SUCCESS && sixfold(&f);
}

static bool a_list_runs_again(void) {
  fixture f;
  start(&f);
  ze_command_list_handle_t list = chain(&f, true);
  CHILD_MUST(zeCommandListClose(list));
  for (int i = 0; i < 3; i++) {
    fill_host(&f);
    CHILD_MUST(zeCommandQueueExecuteCommandLists(f.queue, 1, &list, NULL));
    CHILD_MUST(zeCommandQueueSynchronize(f.queue, TIMEOUT_NS));
    if (!sixfold(&f)) return false;
  }
  return true;
}

static bool a_missing_barrier_shows(void) {
  fixture f;
  start(&f);
  for (int i = 0; i < 20; i++) {
    fill_host(&f);
    ze_command_list_handle_t list = chain(&f, false);
    CHILD_MUST(run(&f, list));
    if (!sixfold(&f)) return true;
  }
  return false;
}

static bool nothing_runs_before_the_host_waits(void) {
  fixture f;
  start(&f);
  fill_host(&f);
  ze_command_list_handle_t list = chain(&f, true);
  CHILD_MUST(zeCommandListClose(list));
  CHILD_MUST(zeCommandQueueExecuteCommandLists(f.queue, 1, &list, NULL));
  usleep(20000);
  const bool early = f.host[5] == 5.0f;
  CHILD_MUST(zeCommandQueueSynchronize(f.queue, TIMEOUT_NS));
  return early && sixfold(&f);
}

static bool a_fence_stands_for_its_lists(void) {
  fixture f;
  start(&f);
  fill_host(&f);
  const ze_fence_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_FENCE_DESC};
  ze_fence_handle_t fence;
  ze_command_list_handle_t list = chain(&f, true);
  CHILD_MUST(zeCommandListClose(list));
  CHILD_MUST(zeFenceCreate(f.queue, &desc, &fence));
  const bool unused = zeFenceHostSynchronize(fence, 0) == ZE_RESULT_NOT_READY;
  CHILD_MUST(zeCommandQueueExecuteCommandLists(f.queue, 1, &list, fence));
  const bool early = f.host[5] == 5.0f;
  const bool in_use = zeCommandQueueExecuteCommandLists(f.queue, 1, &list, fence) ==
                      ZE_RESULT_ERROR_INVALID_ARGUMENT;
  CHILD_MUST(zeFenceHostSynchronize(fence, TIMEOUT_NS));
  const bool done = sixfold(&f);
  CHILD_MUST(zeFenceReset(fence));
  CHILD_MUST(zeCommandQueueExecuteCommandLists(f.queue, 1, &list, fence));
  CHILD_MUST(zeFenceHostSynchronize(fence, TIMEOUT_NS));
  CHILD_MUST(zeFenceDestroy(fence));
  return unused && early && in_use && done && f.host[5] == 180.0f;
}

static bool an_immediate_list_and_a_queue_meet_at_an_event(void) {
  fixture f;
  start(&f);
  fill_host(&f);
  const ze_event_pool_desc_t pool_desc = {.stype = ZE_STRUCTURE_TYPE_EVENT_POOL_DESC,
                                          .flags = ZE_EVENT_POOL_FLAG_HOST_VISIBLE,
                                          .count = 3};
  ze_event_pool_handle_t pool;
  ze_event_handle_t copied, scaled, returned;
  CHILD_MUST(zeEventPoolCreate(f.context, &pool_desc, 1, &f.device, &pool));
  const ze_event_desc_t first = {.stype = ZE_STRUCTURE_TYPE_EVENT_DESC, .index = 0};
  const ze_event_desc_t second = {.stype = ZE_STRUCTURE_TYPE_EVENT_DESC, .index = 1};
  CHILD_MUST(zeEventCreate(pool, &first, &copied));
  const ze_event_desc_t third = {.stype = ZE_STRUCTURE_TYPE_EVENT_DESC, .index = 2};
  CHILD_MUST(zeEventCreate(pool, &second, &scaled));
  CHILD_MUST(zeEventCreate(pool, &third, &returned));
  const ze_command_queue_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC,
                                        .ordinal = COPY_GROUP};
  ze_command_list_handle_t copies;
  CHILD_MUST(zeCommandListCreateImmediate(f.context, f.device, &desc, &copies));
  const size_t bytes = N * sizeof(float);
  ze_command_list_handle_t list = new_list(&f, 0);
  CHILD_MUST(zeCommandListAppendWaitOnEvents(list, 1, &copied));
  CHILD_MUST(launch_scale(&f, list, f.device_b, f.device_a, 6.0f));
  CHILD_MUST(zeCommandListAppendBarrier(list, scaled, 0, NULL));
  CHILD_MUST(zeCommandListClose(list));
  CHILD_MUST(zeCommandQueueExecuteCommandLists(f.queue, 1, &list, NULL));
  CHILD_MUST(zeCommandListAppendMemoryCopy(copies, f.device_a, f.host, bytes, copied, 0, NULL));
  CHILD_MUST(zeCommandListAppendMemoryCopy(copies, f.host, f.device_b, bytes, NULL, 1, &scaled));
  CHILD_MUST(zeCommandListAppendBarrier(copies, returned, 0, NULL));
  CHILD_MUST(zeEventHostSynchronize(returned, TIMEOUT_NS));
  return sixfold(&f);
}

static bool local_memory_and_kernel_barriers_work(void) {
  fixture f;
  start(&f);
  int *data = (int *)f.host;
  for (int i = 0; i < 64; i++)
    data[i] = i;
  ze_kernel_handle_t kernel = kernel_named(&f, "reverse", 8);
  CHILD_MUST(zeKernelSetArgumentValue(kernel, 0, sizeof data, &data));
  const ze_group_count_t groups = {8, 1, 1};
  ze_command_list_handle_t list = new_list(&f, 0);
  CHILD_MUST(zeCommandListAppendLaunchKernel(list, kernel, &groups, NULL, 0, NULL));
  CHILD_MUST(run(&f, list));
  for (int i = 0; i < 64; i++)
    if (data[i] != i / 8 * 8 + 7 - i % 8) return false;
  return true;
}

static bool a_write_outside_loses_the_device(void) {
  fixture f;
  start(&f);
  ze_kernel_handle_t kernel = kernel_named(&f, "write_before", 1);
  CHILD_MUST(zeKernelSetArgumentValue(kernel, 0, sizeof f.device_a, &f.device_a));
  const ze_group_count_t groups = {1, 1, 1};
  ze_command_list_handle_t list = new_list(&f, 0);
  CHILD_MUST(zeCommandListAppendLaunchKernel(list, kernel, &groups, NULL, 0, NULL));
  return run(&f, list) == ZE_RESULT_ERROR_DEVICE_LOST;
}

static bool the_host_cannot_read_device_memory(void) {
  fixture f;
  start(&f);
  signal(SIGSEGV, SIG_DFL);
  const pid_t child = fork();
  if (child == 0) {
    volatile float value = f.device_a[0];
    (void)value;
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static bool misuse_is_refused(void) {
  fixture f;
  start(&f);
  float own[4] = {0};
  ze_command_list_handle_t list = new_list(&f, 0), copies = new_list(&f, COPY_GROUP);
  const bool stray = zeCommandListAppendMemoryCopy(list, f.device_a, own, sizeof own, NULL, 0,
                                                   NULL) == ZE_RESULT_ERROR_INVALID_ARGUMENT;
  const bool on_copy_engine = launch_scale(&f, copies, f.device_b, f.device_a, 1.0f) ==
                              ZE_RESULT_ERROR_INVALID_COMMAND_LIST_TYPE;
  CHILD_MUST(zeCommandListClose(copies));
  const bool wrong_queue = zeCommandQueueExecuteCommandLists(f.queue, 1, &copies, NULL) ==
                           ZE_RESULT_ERROR_INVALID_COMMAND_LIST_TYPE;
  const bool open_list = zeCommandQueueExecuteCommandLists(f.queue, 1, &list, NULL) ==
                         ZE_RESULT_ERROR_INVALID_ARGUMENT;
  return stray && on_copy_engine && wrong_queue && open_list;
}

static bool two_devices_reach_each_other(void) {
  if (zeInit(0) != ZE_RESULT_SUCCESS) return false;
  ze_driver_handle_t driver;
  ze_device_handle_t devices[4];
  uint32_t n_drivers = 1, n = 0;
  ze_bool_t reach = 0;
  CHILD_MUST(zeDriverGet(&n_drivers, &driver));
  CHILD_MUST(zeDeviceGet(driver, &n, NULL));
  if (n != 2) return false;
  CHILD_MUST(zeDeviceGet(driver, &n, devices));
  CHILD_MUST(zeDeviceCanAccessPeer(devices[0], devices[1], &reach));
  return reach && devices[0] != devices[1];
}

/* In intercept mode the loader drops its record of a handle when any holder destroys it. */
static bool one_context_outlives_another(void) {
  fixture f;
  start(&f);
  const ze_context_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_CONTEXT_DESC};
  const ze_host_mem_alloc_desc_t host = {.stype = ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC};
  ze_context_handle_t other;
  void *pointer;
  CHILD_MUST(zeContextCreate(f.driver, &desc, &other));
  if (other == f.context) return false;
  CHILD_MUST(zeContextDestroy(other));
  CHILD_MUST(zeMemAllocHost(f.context, &host, 64, 64, &pointer));
  CHILD_MUST(zeMemFree(f.context, pointer));
  return true;
}

static bool a_destroyed_context_is_refused(void) {
  fixture f;
  start(&f);
  const ze_host_mem_alloc_desc_t host = {.stype = ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC};
  void *pointer;
  CHILD_MUST(zeContextDestroy(f.context));
  return zeMemAllocHost(f.context, &host, 64, 64, &pointer) == ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
}

/* ---- running them ---- */

static void expect(bool (*story)(void), const char *variable, const char *value) {
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    if (variable) setenv(variable, value, 1);
    _exit(story() ? 0 : 1);
  }
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void in_order(void **state) {
  (void)state;
  expect(a_chain_with_barriers_is_right, NULL, NULL);
  expect(a_list_runs_again, NULL, NULL);
  expect(local_memory_and_kernel_barriers_work, NULL, NULL);
  expect(an_immediate_list_and_a_queue_meet_at_an_event, NULL, NULL);
  expect(a_chain_with_barriers_is_right, "ZE_TEST_DEFER", "0");
}

static void shuffled(void **state) {
  (void)state;
  expect(a_missing_barrier_shows, "ZE_TEST_SHUFFLE", "1");
  expect(a_chain_with_barriers_is_right, "ZE_TEST_SHUFFLE", "2");
  expect(a_list_runs_again, "ZE_TEST_SHUFFLE", "3");
  expect(an_immediate_list_and_a_queue_meet_at_an_event, "ZE_TEST_SHUFFLE", "4");
}

static void deferred(void **state) {
  (void)state;
  expect(nothing_runs_before_the_host_waits, NULL, NULL);
  expect(a_fence_stands_for_its_lists, NULL, NULL);
  expect(a_fence_stands_for_its_lists, "ZE_TEST_SHUFFLE", "5");
}

static void guarded(void **state) {
  (void)state;
  expect(the_host_cannot_read_device_memory, NULL, NULL);
  expect(a_write_outside_loses_the_device, NULL, NULL);
}

static void strict(void **state) {
  (void)state;
  expect(misuse_is_refused, NULL, NULL);
  expect(a_destroyed_context_is_refused, NULL, NULL);
  expect(two_devices_reach_each_other, "ZE_TEST_DEVICES", "2");
}

static void under_the_loaders_layers(void **state) {
  (void)state;
  setenv("ZE_ENABLE_PARAMETER_VALIDATION", "1", 1);
  expect(a_chain_with_barriers_is_right, "ZE_ENABLE_VALIDATION_LAYER", "1");
  expect(an_immediate_list_and_a_queue_meet_at_an_event, "ZE_ENABLE_VALIDATION_LAYER", "1");
  expect(a_chain_with_barriers_is_right, "ZE_ENABLE_LOADER_INTERCEPT", "1");
  expect(an_immediate_list_and_a_queue_meet_at_an_event, "ZE_ENABLE_LOADER_INTERCEPT", "1");
  expect(one_context_outlives_another, "ZE_ENABLE_LOADER_INTERCEPT", "1");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(in_order), cmocka_unit_test(shuffled),
      cmocka_unit_test(deferred), cmocka_unit_test(guarded),
      cmocka_unit_test(strict),   cmocka_unit_test(under_the_loaders_layers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
