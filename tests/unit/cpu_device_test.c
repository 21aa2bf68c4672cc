/* The CPU plugin's devices, memory and streams: partitions, options, limits, taking turns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_harness.h"
#include "sdk_host.h"

static cs_status open_with(cpu_harness *h, const char *key, const char *value, cs_error *error) {
  const cs_option option = {key, value};
  cs_plugin_device *device = NULL;
  const cs_status status =
      h->devices->device_open(h->instance, 0, &option, 1, sizeof option, &device, error);
  if (status == CS_OK) h->devices->device_close(device);
  return status;
}

static void unknown_options_are_refused(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "1"));
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(open_with(&h, "colour", "blue", &error), CS_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "colour"));
  assert_int_equal(open_with(&h, "threads", "0", &error), CS_INVALID_ARGUMENT);
  assert_int_equal(open_with(&h, "threads", "2x", &error), CS_INVALID_ARGUMENT);
  assert_int_equal(open_with(&h, "threads", "99999999999999999999", &error), CS_INVALID_ARGUMENT);
  assert_int_equal(open_with(&h, "kernel", "abacus", &error), CS_INVALID_ARGUMENT);
  assert_int_equal(open_with(&h, "threads", "5", &error), CS_OK);
  harness_close(&h);
}

static void a_node_is_one_that_is_there(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "1"));
  static const char *const good[] = {"auto", "off"}, *const bad[] = {"", "x", "-1", "0x", "65536"};
  cs_error error = CS_ERROR_INIT;
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
    assert_int_equal(open_with(&h, "numa", good[i], &error), CS_OK);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_int_equal(open_with(&h, "numa", bad[i], &error), CS_INVALID_ARGUMENT);
  assert_int_equal(open_with(&h, "numa", "65535", &error), CS_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "none of the device's"));
  harness_close(&h);
}

/* CONSORT_TEST_KERNELS tells the tables of an emulated processor. */
static bool should_run(const char *kernel) {
  const char *listed = getenv("CONSORT_TEST_KERNELS");
  char words[256], name[32];
  snprintf(words, sizeof words, " %s ", listed ? listed : "");
  snprintf(name, sizeof name, " %s ", kernel);
  if (listed) return strstr(words, name) != NULL;
  const bool avx512 = harness_processor_has("avx512_vnni") && harness_processor_has("avx512vl");
  if (strcmp(kernel, "avx512") == 0) return avx512;
  if (strcmp(kernel, "avx2vnni") == 0) return avx512 || harness_processor_has("avx_vnni");
  if (strcmp(kernel, "avx2") == 0) return harness_processor_has("avx2");
  if (strcmp(kernel, "neon-i8mm") == 0) return harness_processor_has("i8mm");
  if (strcmp(kernel, "neon-dotprod") == 0) return harness_processor_has("asimddp");
  if (strcmp(kernel, "neon") == 0) return harness_processor_has("asimd");
  return true;
}

static void every_table_runs_where_the_processor_can(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "1"));
  cs_error told = CS_ERROR_INIT;
  assert_int_equal(open_with(&h, "kernel", "abacus", &told), CS_INVALID_ARGUMENT);
  for (size_t k = 0; k < HARNESS_N_KERNELS; k++) {
    cs_error error = CS_ERROR_INIT;
    const cs_status status = open_with(&h, "kernel", harness_kernels[k], &error);
    if (status != (should_run(harness_kernels[k]) ? CS_OK : CS_INVALID_ARGUMENT))
      fail_msg("kernel=%s: %d, %s", harness_kernels[k], status, error.message);
    if (status == CS_OK) assert_non_null(strstr(told.message, harness_kernels[k]));
  }
  harness_close(&h);
}

static void partitions_present_several_devices(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "1"));
  setenv("CONSORT_CPU_PARTITIONS", "3", 1);
  cs_plugin_instance *instance = NULL;
  assert_int_equal(h.devices->instance_create(&test_host, &instance, NULL), CS_OK);
  assert_int_equal(h.devices->device_count(instance), 3);
  for (uint32_t i = 0; i < 3; i++) {
    cs_device_properties properties = {.struct_size = sizeof properties};
    assert_int_equal(h.devices->device_info(instance, i, &properties, NULL), CS_OK);
    assert_true(properties.concurrency >= 1);
    assert_true(properties.flags & CS_DEVICE_HOST_RESIDENT);
    assert_string_equal(properties.memory_domain, "host");
    assert_true(properties.memory_bytes > 0);
    cs_plugin_device *device = NULL;
    assert_int_equal(h.devices->device_open(instance, i, NULL, 0, 0, &device, NULL), CS_OK);
    h.devices->device_close(device);
  }
  cs_device_properties properties = {.struct_size = sizeof properties};
  assert_int_equal(h.devices->device_info(instance, 3, &properties, NULL), CS_NOT_FOUND);
  h.devices->instance_destroy(instance);
  setenv("CONSORT_CPU_PARTITIONS", "many", 1);
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(h.devices->instance_create(&test_host, &instance, &error), CS_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "many"));
  unsetenv("CONSORT_CPU_PARTITIONS");
  harness_close(&h);
}

static void only_allowed_cores_are_used(void **state) {
  (void)state;
  cpu_set_t before, one;
  assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
  CPU_ZERO(&one);
  for (size_t core = 0; core < CPU_SETSIZE && CPU_COUNT(&one) == 0; core++)
    if (CPU_ISSET(core, &before)) CPU_SET(core, &one);
  sched_setaffinity(0, sizeof one, &one);
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "1"));
  cs_device_properties properties = {.struct_size = sizeof properties};
  assert_int_equal(h.devices->device_info(h.instance, 0, &properties, NULL), CS_OK);
  assert_int_equal(properties.concurrency, 1);
  harness_close(&h);
  sched_setaffinity(0, sizeof before, &before);
}

static void more_memory_than_the_machine_has_is_refused(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "1"));
  cs_plugin_memory *memory = NULL;
  assert_int_equal(
      h.memories->memory_allocate(h.device, UINT64_C(1) << 50, CS_MEMORY_DEVICE, &memory, NULL),
      CS_OUT_OF_MEMORY);
  assert_null(memory);
  assert_int_equal(h.memories->memory_allocate(h.device, 0, CS_MEMORY_DEVICE, &memory, NULL),
                   CS_INVALID_ARGUMENT);
  assert_int_equal(
      h.memories->memory_allocate(h.device, UINT64_C(9) << 20, CS_MEMORY_DEVICE, &memory, NULL),
      CS_OK);
  assert_int_equal((uintptr_t)h.memories->memory_host_pointer(h.device, memory) % 64, 0);
  h.memories->memory_free(h.device, memory);
  harness_close(&h);
}

static void copies_move_bytes_and_keep_to_their_memory(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "2"));
  const uint64_t bytes = (UINT64_C(5) << 20) + 3;
  unsigned char *from = malloc(bytes), *to = calloc(1, bytes);
  for (uint64_t i = 0; i < bytes; i++)
    from[i] = (unsigned char)(i * 7);
  cs_plugin_memory *a, *b;
  h.memories->memory_allocate(h.device, bytes, CS_MEMORY_DEVICE, &a, NULL);
  h.memories->memory_allocate(h.device, bytes, CS_MEMORY_STAGING, &b, NULL);
  assert_int_equal(h.streams->stream_upload(h.stream, a, 0, from, bytes, NULL), CS_OK);
  assert_int_equal(h.streams->stream_copy(h.stream, b, 5, a, 9, bytes - 9, NULL), CS_OK);
  assert_int_equal(h.streams->stream_fill(h.stream, b, 0, 5, 0x5a, NULL), CS_OK);
  assert_int_equal(h.streams->stream_download(h.stream, to, b, 0, bytes - 4, NULL), CS_OK);
  h.streams->stream_signal(h.stream, h.semaphore, ++h.signalled, NULL);
  assert_int_equal(h.semaphores->semaphore_wait(h.semaphore, h.signalled, 10000000, NULL), CS_OK);
  assert_int_equal(to[4], 0x5a);
  assert_memory_equal(to + 5, from + 9, bytes - 9);
  assert_int_equal(h.streams->stream_fill(h.stream, b, bytes - 1, 2, 0, NULL), CS_OUT_OF_RANGE);
  assert_int_equal(h.streams->stream_upload(h.stream, a, UINT64_MAX, from, 2, NULL),
                   CS_OUT_OF_RANGE);
  h.memories->memory_free(h.device, a);
  h.memories->memory_free(h.device, b);
  free(from);
  free(to);
  harness_close(&h);
}

static void two_streams_of_one_device_take_turns(void **state) {
  (void)state;
  cpu_harness h;
  assert_true(harness_open(&h, "generic", "3"));
  const uint64_t dims[2] = {64, 2048};
  float *ones = malloc(64 * 2048 * sizeof *ones);
  for (int i = 0; i < 64 * 2048; i++)
    ones[i] = 1;
  cs_plugin_stream *streams[2] = {h.stream, NULL};
  cs_plugin_semaphore *done;
  assert_int_equal(h.streams->stream_create(h.device, &streams[1], NULL), CS_OK);
  assert_int_equal(h.semaphores->semaphore_create(h.device, 0, &done, NULL), CS_OK);
  cs_tensor sums[2], one = harness_tensor(&h, CS_DTYPE_F32, ones, 0, 2, dims);
  for (int i = 0; i < 2; i++)
    sums[i] = harness_tensor(&h, CS_DTYPE_F32, ones, 0, 2, dims);
  for (int round = 0; round < 50; round++)
    for (int i = 0; i < 2; i++) {
      const cs_tensor operands[3] = {sums[i], sums[i], one};
      const cs_op op = {.struct_size = sizeof op,
                        .id = CS_OP_ADD,
                        .n_operands = 3,
                        .operand_stride = sizeof(cs_tensor),
                        .operands = operands};
      assert_int_equal(h.eager->ops_enqueue(streams[i], &op, 1, sizeof op, NULL, NULL), CS_OK);
    }
  h.streams->stream_signal(streams[0], done, 1, NULL); /* the second waits for the first */
  h.streams->stream_wait(streams[1], done, 1, NULL);
  h.streams->stream_signal(streams[1], done, 2, NULL);
  assert_int_equal(h.semaphores->semaphore_wait(done, 2, 60000000, NULL), CS_OK);
  for (int i = 0; i < 2; i++)
    for (uint64_t row = 0; row < 64; row++)
      for (int j = 0; j < 2048; j++)
        assert_true(((float *)harness_row(&h, &sums[i], row))[j] == 51);
  h.streams->stream_destroy(streams[1]);
  h.semaphores->semaphore_destroy(done);
  harness_free(&h, sums, 2);
  harness_free(&h, &one, 1);
  free(ones);
  harness_close(&h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(unknown_options_are_refused),
      cmocka_unit_test(a_node_is_one_that_is_there),
      cmocka_unit_test(every_table_runs_where_the_processor_can),
      cmocka_unit_test(partitions_present_several_devices),
      cmocka_unit_test(only_allowed_cores_are_used),
      cmocka_unit_test(more_memory_than_the_machine_has_is_refused),
      cmocka_unit_test(copies_move_bytes_and_keep_to_their_memory),
      cmocka_unit_test(two_streams_of_one_device_take_turns),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
