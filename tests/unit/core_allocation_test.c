/* Every allocation of core fails once, from the runtime to a run on two devices: the call says so,
 * what was made goes away again (the sanitizer builds see leaks), and the next attempt works. The
 * linker sends malloc and its kin through the functions below; plugins take their memory from the
 * host, so that theirs fails, too. */
#include "core_harness.h"

#include <stdatomic.h>

#include "core/executor.h"
#include "core_lists.h"

#define ROWS    4
#define COLUMNS 5

static atomic_long until_failure = -1; /* allocations that still succeed; below 0: all */

static bool fails(void) {
  long left = atomic_load(&until_failure);
  while (left >= 0 && !atomic_compare_exchange_weak(&until_failure, &left, left - 1)) {
  }
  return left == 0;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *memory, size_t n);
char *__real_strdup(const char *text);
int __real_posix_memalign(void **out, size_t alignment, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *memory, size_t n);
char *__wrap_strdup(const char *text);
int __wrap_posix_memalign(void **out, size_t alignment, size_t n);

void *__wrap_malloc(size_t n) {
  return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t each) {
  return fails() ? NULL : __real_calloc(n, each);
}

void *__wrap_realloc(void *memory, size_t n) {
  return fails() ? NULL : __real_realloc(memory, n);
}

char *__wrap_strdup(const char *text) {
  return fails() ? NULL : __real_strdup(text);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t n) {
  return fails() ? 12 : __real_posix_memalign(out, alignment, n);
}

/* What an action works on: a pair of devices, and more where it wants it. */
typedef struct world {
  const char *primary, *fallback;
  bool validate, prefer_program;
  cs_device *devices[2];
  cs_step *step;
} world;

/* Something that allocates, and undoes what it made. */
typedef cs_status (*action)(const world *w, cs_error *error);

static cs_status make_runtime(const world *w, cs_runtime **out, cs_error *error) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/good", CORE_TEST_PLUGINS);
  const cs_runtime_options options = {.system_dir = path,
                                      .skip_user_dir = true,
                                      .skip_environment = true,
                                      .validate = w->validate,
                                      .log_level = CS_LOG_INFO,
                                      .log_sink = harness_drop_line};
  return cs_runtime_create(&options, out, error);
}

/* One plugin that lacked memory does not stop the others: it shows with the reason, which is then
 * the error that was asked for. */
static cs_status find_refused(cs_runtime *runtime, cs_error *error) {
  const bool fired = atomic_load(&until_failure) < 0;
  for (uint32_t i = 0; fired && i < cs_runtime_n_plugins(runtime); i++) {
    cs_plugin_status plugin;
    assert_int_equal(cs_runtime_plugin(runtime, i, &plugin, NULL), CS_OK);
    if (plugin.failure && strstr(plugin.failure, "memory"))
      return cs_error_set(error, CS_OUT_OF_MEMORY, "%s", plugin.failure);
  }
  return CS_OK;
}

static cs_status create_runtime(const world *w, cs_error *error) {
  cs_runtime *runtime = NULL;
  cs_status status = make_runtime(w, &runtime, error);
  if (status == CS_OK) status = find_refused(runtime, error);
  cs_runtime_release(runtime);
  return status;
}

static cs_status open_device(const world *w, cs_error *error) {
  cs_runtime *runtime = NULL;
  cs_device *device = NULL;
  cs_status status = make_runtime(w, &runtime, error);
  if (status == CS_OK) status = cs_device_open(runtime, w->primary, &device, error);
  if (status == CS_OK) status = find_refused(runtime, error);
  cs_device_release(device);
  cs_runtime_release(runtime);
  return status;
}

/* ---- a stream and what it works on ---- */

static cs_op add_op(cs_buffer *buffer, cs_tensor tensors[3]) {
  for (size_t i = 0; i < 3; i++) {
    tensors[i] = (cs_tensor){.struct_size = sizeof tensors[i],
                             .dtype = CS_DTYPE_F32,
                             .rank = 2,
                             .memory = cs_buffer_memory(buffer),
                             .offset_bytes = i * 256,
                             .dims = {ROWS, COLUMNS}};
  }
  return (cs_op){.struct_size = sizeof(cs_op),
                 .id = CS_OP_ADD,
                 .n_operands = 3,
                 .operand_stride = sizeof(cs_tensor),
                 .operands = tensors};
}

static cs_status work_on(cs_stream *stream, cs_semaphore *semaphore, cs_buffer *buffer,
                         cs_buffer *staging, cs_error *error) {
  cs_tensor tensors[3];
  const cs_op op = add_op(buffer, tensors);
  char *host = cs_buffer_host_pointer(staging);
  cs_status status = cs_stream_fill(stream, buffer, 0, 1024, 0, error);
  if (status == CS_OK) status = cs_stream_upload(stream, buffer, 0, host, 1024, error);
  if (status == CS_OK) status = cs_stream_ops(stream, &op, 1, NULL, error);
  if (status == CS_OK) status = cs_stream_ops(stream, &op, 1, NULL, error);
  if (status == CS_OK) status = cs_stream_copy(stream, buffer, 1024, buffer, 0, 1024, error);
  if (status == CS_OK) status = cs_stream_download(stream, host + 1024, buffer, 0, 1024, error);
  if (status == CS_OK) status = cs_stream_signal(stream, semaphore, 1, error);
  if (status == CS_OK) status = cs_stream_wait(stream, semaphore, 1, error);
  const cs_status end = cs_stream_synchronize(stream, 10000000, status == CS_OK ? error : NULL);
  return status == CS_OK ? end : status;
}

static cs_status use_stream(const world *w, cs_error *error) {
  cs_device *device = w->devices[0];
  cs_stream *stream = NULL;
  cs_semaphore *semaphore = NULL;
  cs_buffer *buffer = NULL, *staging = NULL;
  cs_status status = cs_stream_create(device, &stream, error);
  if (status == CS_OK) status = cs_semaphore_create(device, 0, &semaphore, error);
  if (status == CS_OK) status = cs_buffer_create(device, 4096, CS_MEMORY_DEVICE, &buffer, error);
  if (status == CS_OK) status = cs_buffer_create(device, 4096, CS_MEMORY_STAGING, &staging, error);
  if (status == CS_OK) memset(cs_buffer_host_pointer(staging), 0, 4096);
  if (status == CS_OK) status = work_on(stream, semaphore, buffer, staging, error);
  cs_stream_destroy(stream);
  cs_semaphore_release(semaphore);
  cs_buffer_destroy(buffer);
  cs_buffer_destroy(staging);
  return status;
}

static cs_status pack_weight(const world *w, cs_error *error) {
  static const float data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const cs_weight_part part = {sizeof part, CS_DTYPE_F32, data, sizeof data};
  const cs_weight weight = {.struct_size = sizeof weight,
                            .source = CS_WEIGHT_GGUF,
                            .dtype = CS_DTYPE_F32,
                            .usage = CS_USAGE_MATMUL,
                            .rank = 2,
                            .n_parts = 1,
                            .part_stride = sizeof part,
                            .dims = {2, 4},
                            .parts = &part};
  cs_buffer *buffer = NULL;
  cs_packed_info info = {0};
  const cs_status status = cs_buffer_create_packed(w->devices[0], &weight, &buffer, &info, error);
  cs_buffer_destroy(buffer);
  return status;
}

static cs_status bridge(const world *w, cs_error *error) {
  cs_semaphore *from = NULL, *to = NULL;
  cs_status status = cs_semaphore_create(w->devices[0], 0, &from, error);
  if (status == CS_OK) status = cs_semaphore_create(w->devices[1], 0, &to, error);
  if (status == CS_OK) status = cs_semaphore_bridge(from, 1, to, 1, 10000000, error);
  if (status == CS_OK) status = cs_semaphore_signal(from, 1, error);
  if (status == CS_OK) status = cs_semaphore_wait(to, 1, 10000000, error);
  cs_semaphore_release(from);
  cs_semaphore_release(to);
  return status;
}

/* ---- lists ---- */

/* Eight ops over both devices, where those of one kind are denied by the first. */
static cs_op_list *make_list(void) {
  cs_op_list *list = cs_op_list_create();
  if (!list) return NULL;
  const cs_value in = list_value(list, CS_VALUE_INPUT, 1, ROWS, COLUMNS);
  cs_value last = in;
  for (int32_t i = 0; i < 3; i++) {
    const cs_value sum = cs_op_list_activation(list, CS_DTYPE_F32, ROWS, COLUMNS);
    const cs_value moved = cs_op_list_activation(list, CS_DTYPE_F32, ROWS, COLUMNS);
    list_add(list, i, sum, last, in);
    list_copy(list, i, moved, sum);
    cs_op_list_mark(list, (uint32_t)i);
    last = moved;
  }
  list_copy(list, -1, list_value(list, CS_VALUE_OUTPUT, 2, ROWS, COLUMNS), last);
  return list;
}

static cs_status emit_list(const world *w, cs_error *error) {
  (void)w;
  cs_op_list *list = make_list();
  cs_status status =
      list ? cs_op_list_finish(list, error) : cs_error_set(error, CS_OUT_OF_MEMORY, "no list");
  cs_op_list_destroy(list);
  return status;
}

static cs_status no_owned_values(void *user, cs_device *device, const cs_value_info *value,
                                 cs_tensor *tensor, cs_error *error) {
  (void)user;
  (void)device;
  (void)value;
  (void)tensor;
  return cs_error_set(error, CS_FAILED, "this list has no weights");
}

static cs_status run_step(cs_step *step, cs_error *error) {
  float *input = cs_step_input(step, 1, NULL);
  for (int i = 0; i < ROWS * COLUMNS; i++)
    input[i] = (float)i;
  cs_status status = cs_step_run(step, NULL, NULL, error);
  if (status == CS_OK) status = cs_step_wait(step, error);
  const float *output = cs_step_output(step, 2, NULL);
  for (int i = 0; status == CS_OK && i < ROWS * COLUMNS; i++)
    assert_true(output[i] == 4.0f * (float)i);
  return status;
}

static cs_status run_again(const world *w, cs_error *error) {
  const cs_status status = run_step(w->step, error);
  if (status != CS_OK) {
    atomic_store(&until_failure, -1);
    assert_int_equal(run_step(w->step, NULL), CS_OK);
  }
  return status;
}

static cs_status place_and_run(const world *w, cs_error *error) {
  cs_op_list *list = make_list();
  cs_placement *placement = NULL;
  cs_executor *executor = NULL;
  cs_step *step = NULL;
  cs_status status =
      list ? cs_op_list_finish(list, error) : cs_error_set(error, CS_OUT_OF_MEMORY, "no list");
  if (status == CS_OK)
    status = cs_placement_create(list, w->devices[0], w->devices[1], CS_FALLBACK_WARN, &placement,
                                 error);
  const cs_executor_options options = {.placement = placement,
                                       .largest = list,
                                       .resolve = no_owned_values,
                                       .prefer_program = w->prefer_program,
                                       .timeout_us = 10000000};
  if (status == CS_OK) status = cs_executor_create(&options, &executor, error);
  if (status == CS_OK) status = cs_executor_prepare(executor, list, &step, error);
  if (status == CS_OK) status = run_step(step, error);
  cs_step_destroy(step);
  cs_executor_destroy(executor);
  cs_placement_destroy(placement);
  cs_op_list_destroy(list);
  return status;
}

/* ---- the sweep ---- */

/* Fails the first allocation, then the second, until none is left to fail. The validation layer
 * goes on without what it has no memory to watch, and may then doubt what is right. */
static void fail_each(const world *w, action act, const char *name, long at_least) {
  long n = 0;
  for (;; n++) {
    cs_error error = CS_ERROR_INIT;
    atomic_store(&until_failure, n);
    const cs_status status = act(w, &error);
    const bool all_succeeded = atomic_exchange(&until_failure, -1) >= 0;
    if (all_succeeded) {
      if (status != CS_OK) fail_msg("%s: %s", name, error.message);
      break;
    }
    if (status == CS_OK && w->validate) continue;
    if (status == CS_OK || error.code != status || error.message[0] == '\0')
      fail_msg("%s, allocation %ld: status %d, error %d \"%s\"", name, n, status, error.code,
               error.message);
  }
  print_message("%s: %ld allocations\n", name, n);
  if (n < at_least) fail_msg("%s: only %ld allocations were seen", name, n);
}

static void sweep_devices(world w) {
  cs_runtime *runtime = NULL;
  assert_ok(make_runtime(&w, &runtime, error));
  w.devices[0] = harness_device(runtime, w.primary);
  w.devices[1] = harness_device(runtime, w.fallback);
  fail_each(&w, use_stream, "stream", 12);
  fail_each(&w, pack_weight, "weight", 2);
  fail_each(&w, bridge, "bridge", 5);
  fail_each(&w, emit_list, "list", 3);
  fail_each(&w, place_and_run, "place and run", 60);
  cs_device_release(w.devices[0]);
  cs_device_release(w.devices[1]);
  cs_runtime_release(runtime);
}

static void every_failed_allocation_of_a_start_is_reported(void **state) {
  (void)state;
  fail_each(&(world){0}, create_runtime, "runtime", 10);
  fail_each(&(world){.validate = true}, create_runtime, "runtime that validates", 11);
  fail_each(&(world){.primary = "fake:0?delay_us=0"}, open_device, "device", 14);
}

static void every_failed_allocation_of_eager_devices_is_reported(void **state) {
  (void)state;
  sweep_devices((world){.primary = "fake:0?deny=add", .fallback = "twin:0"});
}

static void every_failed_allocation_of_recorded_devices_is_reported(void **state) {
  (void)state;
  sweep_devices((world){.primary = "recorded:0?deny=copy&staging=0",
                        .fallback = "recorded:1",
                        .prefer_program = true});
}

static void every_failed_allocation_under_validation_is_reported(void **state) {
  (void)state;
  sweep_devices((world){.primary = "fake:0?deny=add", .fallback = "twin:0", .validate = true});
}

static void a_run_works_after_one_that_lacked_memory(void **state) {
  (void)state;
  world w = {0};
  cs_runtime *runtime = NULL;
  assert_ok(make_runtime(&w, &runtime, error));
  cs_device *primary = harness_device(runtime, "fake:0?deny=add");
  cs_device *fallback = harness_device(runtime, "fake:1");
  cs_op_list *list = make_list();
  assert_ok(cs_op_list_finish(list, error));
  cs_placement *placement = NULL;
  cs_executor *executor = NULL;
  assert_ok(cs_placement_create(list, primary, fallback, CS_FALLBACK_ALLOW, &placement, error));
  const cs_executor_options options = {
      .placement = placement, .largest = list, .resolve = no_owned_values};
  assert_ok(cs_executor_create(&options, &executor, error));
  assert_ok(cs_executor_prepare(executor, list, &w.step, error));
  fail_each(&w, run_again, "run", 5);
  cs_step_destroy(w.step);
  cs_executor_destroy(executor);
  cs_placement_destroy(placement);
  cs_device_release(primary);
  cs_device_release(fallback);
  cs_op_list_destroy(list);
  cs_runtime_release(runtime);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_failed_allocation_of_a_start_is_reported),
      cmocka_unit_test(every_failed_allocation_of_eager_devices_is_reported),
      cmocka_unit_test(every_failed_allocation_of_recorded_devices_is_reported),
      cmocka_unit_test(every_failed_allocation_under_validation_is_reported),
      cmocka_unit_test(a_run_works_after_one_that_lacked_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
