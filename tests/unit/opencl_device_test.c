/* The OpenCL plugin around its kernels: opening, refusing, programs, errors, the binary cache. */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "opencl_harness.h"

static harness h;

static int open_device(void **state) {
  harness_open(&h, NULL, *state);
  return 0;
}

static int close_device(void **state) {
  (void)state;
  harness_close(&h);
  return 0;
}

/* ---- devices and options ---- */

static void properties_are_complete_and_stable(void **state) {
  (void)state;
  cs_device_properties info = {.struct_size = sizeof info}, opened = {.struct_size = sizeof opened};
  cs_error error = CS_ERROR_INIT;
  require_ok(h.device_table->device_info(h.instance, 0, &info, &error), &error);
  require_ok(h.device_table->device_properties(h.device, &opened, &error), &error);
  assert_string_equal(info.description, opened.description);
  assert_string_equal(info.memory_domain, opened.memory_domain);
  assert_true(info.memory_domain[0] && info.compute_domain[0] && info.driver[0]);
  assert_int_equal(opened.flags & CS_DEVICE_HOST_RESIDENT, 0);
  assert_true(opened.memory_bytes > 0 && opened.concurrency > 0);
  assert_true(opened.kv_layouts & CS_LAYOUT_BIT(opened.kv_layout));
  assert_true(opened.tensor_align >= 4 && opened.tensor_align <= 256);
  if (info.type == CS_DEVICE_TYPE_CPU) assert_string_equal(info.memory_domain, "host");
}

static void allocations_show_in_the_free_memory(void **state) {
  (void)state;
  cs_device_properties before = {.struct_size = sizeof before}, after = before;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = NULL;
  require_ok(h.device_table->device_properties(h.device, &before, &error), &error);
  require_ok(h.memory_table->memory_allocate(h.device, 1 << 20, CS_MEMORY_DEVICE, &memory, &error),
             &error);
  require_ok(h.device_table->device_properties(h.device, &after, &error), &error);
  assert_true(before.memory_free_bytes - after.memory_free_bytes == 1 << 20);
  h.memory_table->memory_free(h.device, memory);
}

static void expect_open_failure(const char *key, const char *value, uint32_t index,
                                cs_status expected) {
  const cs_option option = {key, value};
  cs_plugin_device *device = (cs_plugin_device *)(void *)&h;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(
      h.device_table->device_open(h.instance, index, &option, 1, sizeof option, &device, &error),
      expected);
  assert_null(device);
  assert_int_equal(error.code, expected);
  assert_true(error.message[0] != '\0' && !strchr(error.message, '\n'));
}

static void unknown_options_and_devices_fail(void **state) {
  (void)state;
  expect_open_failure("colour", "red", 0, CS_INVALID_ARGUMENT);
  expect_open_failure("variant", "tpu", 0, CS_INVALID_ARGUMENT);
  expect_open_failure("cache", "maybe", 0, CS_INVALID_ARGUMENT);
  expect_open_failure("variant", "cpu", 1000, CS_NOT_FOUND);
}

/* ---- memory ---- */

static void impossible_memory_is_refused(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = (cs_plugin_memory *)(void *)&h;
  assert_int_equal(h.memory_table->memory_allocate(h.device, UINT64_C(1) << 50, CS_MEMORY_DEVICE,
                                                   &memory, &error),
                   CS_OUT_OF_MEMORY);
  assert_null(memory);
  assert_non_null(strstr(error.message, "1125899906842624 bytes"));
  assert_int_equal(
      h.memory_table->memory_allocate(h.device, 64, CS_MEMORY_STAGING, &memory, &error),
      CS_UNSUPPORTED);
}

static void copies_and_fills_touch_only_their_range(void **state) {
  (void)state;
  field a = field_make(CS_DTYPE_U8, 1, 1000, 0), b = field_make(CS_DTYPE_U8, 1, 1000, 0);
  for (size_t i = 0; i < 1000; i++)
    field_at(&a, a.data, 0, 0)[i] = (unsigned char)random_word();
  field_upload(&h, &a);
  field_upload(&h, &b);
  cs_error error = CS_ERROR_INIT;
  require_ok(h.stream_table->stream_copy(h.stream, b.memory, GUARD_BYTES + 13, a.memory,
                                         GUARD_BYTES + 7, 801, &error),
             &error);
  require_ok(h.stream_table->stream_fill(h.stream, b.memory, GUARD_BYTES + 3, 5, 0x42, &error),
             &error);
  field_download(&h, &b);
  unsigned char *got = field_at(&b, b.after, 0, 0);
  assert_memory_equal(got + 13, field_at(&a, a.data, 0, 0) + 7, 801);
  for (size_t i = 0; i < 1000; i++)
    if (i < 13 || i >= 814) assert_int_equal(got[i], i >= 3 && i < 8 ? 0x42 : GUARD_VALUE);
  assert_int_equal(h.stream_table->stream_fill(h.stream, b.memory, a.bytes - 3, 4, 0, &error),
                   CS_OUT_OF_RANGE);
  field_free(&h, &a);
  field_free(&h, &b);
}

/* ---- op_query and enqueueing ---- */

static void op_query_refuses_with_a_reason(void **state) {
  (void)state;
  field x = field_make(CS_DTYPE_F32, 2, 64, 0), half = field_make(CS_DTYPE_F16, 2, 64, 0);
  field other = field_make(CS_DTYPE_F32, 3, 64, 0);
  cs_tensor packed = {.struct_size = sizeof packed,
                      .dtype = CS_DTYPE_Q4_K,
                      .layout = CS_LAYOUT_PACKED,
                      .rank = 2,
                      .dims = {32, 256}};
  const cs_matmul_params params = {.struct_size = sizeof params};
  const cs_tensor wrong_dtype[] = {x.tensor, half.tensor, x.tensor};
  const cs_tensor wrong_shape[] = {x.tensor, other.tensor, x.tensor};
  const cs_tensor wrong_weight[] = {x.tensor, x.tensor, packed, no_tensor, no_tensor};
  const cs_op_answer answers[] = {ask(&h, CS_OP_ADD, wrong_dtype, 3, NULL),
                                  ask(&h, CS_OP_ADD, wrong_shape, 3, NULL),
                                  ask(&h, CS_OP_MATMUL, wrong_weight, 5, &params)};
  for (size_t i = 0; i < 3; i++) {
    assert_int_equal(answers[i].support, CS_SUPPORT_NO);
    assert_true(answers[i].reason[0] != '\0');
  }
  field_free(&h, &x);
  field_free(&h, &half);
  field_free(&h, &other);
}

static cs_op add_op(const cs_tensor *operands) {
  return (cs_op){.struct_size = sizeof(cs_op),
                 .id = CS_OP_ADD,
                 .n_operands = 3,
                 .operand_stride = sizeof(cs_tensor),
                 .operands = operands};
}

static void an_operand_past_its_memory_fails_with_the_ops_index(void **state) {
  (void)state;
  field x = field_random(CS_DTYPE_F32, 2, 64, 0);
  field_upload(&h, &x);
  const cs_tensor good[] = {x.tensor, x.tensor, x.tensor};
  cs_tensor bad[] = {x.tensor, x.tensor, x.tensor};
  bad[2].offset_bytes += 2 * GUARD_BYTES;
  const cs_op ops[] = {add_op(good), add_op(bad)};
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(h.eager_table->ops_enqueue(h.stream, ops, 2, sizeof ops[0], NULL, &error),
                   CS_INVALID_ARGUMENT);
  assert_int_equal(error.op_index, 1);
  assert_non_null(strstr(error.message, "add: b"));
  require_ok(harness_finish(&h, &error), &error); /* the stream itself is sound */
  field_free(&h, &x);
}

static void a_program_replays_with_new_contents(void **state) {
  (void)state;
  field a = field_random(CS_DTYPE_F32, 3, 100, 0), out = field_make(CS_DTYPE_F32, 3, 100, 0);
  field_upload(&h, &a);
  field_upload(&h, &out);
  const cs_tensor twice[] = {out.tensor, a.tensor, a.tensor};
  const cs_tensor thrice[] = {out.tensor, out.tensor, a.tensor};
  const cs_op ops[] = {add_op(twice), add_op(thrice)};
  cs_plugin_program *program = NULL;
  cs_error error = CS_ERROR_INIT;
  require_ok(
      h.program_table->program_create(h.device, ops, 2, sizeof ops[0], NULL, &program, &error),
      &error);
  require_ok(harness_finish(&h, &error), &error); /* the first upload has read what changes now */
  for (int launch = 0; launch < 3; launch++) {
    field_set(&a, 1, 7, launch + 0.5);
    field_upload(&h, &a);
    require_ok(h.program_table->program_launch(h.stream, program, &error), &error);
    field_download(&h, &out);
    for (size_t i = 0; i < 300; i++)
      assert_true(fabs(field_result(&out, i / 100, i % 100) - 3 * field_get(&a, i / 100, i % 100)) <
                  1e-6);
  }
  h.program_table->program_destroy(program);
  field_free(&h, &a);
  field_free(&h, &out);
}

/* ---- streams and semaphores ---- */

static void work_waits_for_a_signal_that_comes_later(void **state) {
  (void)state;
  field x = field_make(CS_DTYPE_U8, 1, 64, 0);
  field_upload(&h, &x);
  cs_plugin_semaphore *gate = NULL;
  cs_error error = CS_ERROR_INIT;
  uint64_t value = 0;
  require_ok(h.semaphore_table->semaphore_create(h.device, 0, &gate, &error), &error);
  require_ok(h.stream_table->stream_wait(h.stream, gate, 5, &error), &error);
  require_ok(h.stream_table->stream_fill(h.stream, x.memory, GUARD_BYTES, 64, 7, &error), &error);
  require_ok(h.stream_table->stream_signal(h.stream, h.semaphore, 1, &error), &error);
  h.signalled = 1;
  assert_int_equal(h.semaphore_table->semaphore_wait(h.semaphore, 1, 20000, &error), CS_TIMEOUT);
  require_ok(h.semaphore_table->semaphore_signal(gate, 5, &error), &error);
  require_ok(h.semaphore_table->semaphore_wait(h.semaphore, 1, WAIT_US, &error), &error);
  require_ok(h.semaphore_table->semaphore_query(h.semaphore, &value, &error), &error);
  assert_true(value == 1);
  field_download(&h, &x);
  assert_int_equal(field_at(&x, x.after, 0, 0)[0], 7);
  h.semaphore_table->semaphore_destroy(gate);
  field_free(&h, &x);
}

static void a_failed_semaphore_poisons_the_stream(void **state) {
  (void)state;
  cs_plugin_semaphore *gate = NULL;
  cs_error error = CS_ERROR_INIT, reason = CS_ERROR_INIT;
  require_ok(h.semaphore_table->semaphore_create(h.device, 0, &gate, &error), &error);
  require_ok(h.stream_table->stream_wait(h.stream, gate, 1, &error), &error);
  reason.code = CS_CORRUPT;
  snprintf(reason.message, sizeof reason.message, "a piece was corrupt");
  require_ok(h.semaphore_table->semaphore_fail(gate, &reason, &error), &error);
  assert_int_equal(harness_finish(&h, &error), CS_CORRUPT);
  assert_string_equal(error.message, "a piece was corrupt");
  h.semaphore_table->semaphore_destroy(gate);
}

static void a_blocked_stream_is_destroyed_in_time(void **state) {
  (void)state;
  cs_plugin_stream *stream = NULL;
  cs_plugin_semaphore *gate = NULL;
  cs_error error = CS_ERROR_INIT;
  require_ok(h.stream_table->stream_create(h.device, &stream, &error), &error);
  require_ok(h.semaphore_table->semaphore_create(h.device, 0, &gate, &error), &error);
  require_ok(h.stream_table->stream_wait(stream, gate, 1, &error), &error);
  const time_t before = time(NULL);
  h.stream_table->stream_destroy(stream);
  assert_true(time(NULL) - before <= 3);
  h.semaphore_table->semaphore_destroy(gate);
}

/* ---- the binary cache ---- */

/* Finds the one .bin file of the cache; false when there is none. */
static bool find_binary(const char *root, char *path, size_t bytes) {
  char folder[512];
  snprintf(folder, sizeof folder, "%s/consort/opencl", root);
  DIR *dir = opendir(folder);
  bool found = false;
  for (struct dirent *entry; dir && (entry = readdir(dir));)
    if (strstr(entry->d_name, ".bin")) {
      snprintf(path, bytes, "%s/%s", folder, entry->d_name);
      found = true;
    }
  if (dir) closedir(dir);
  return found;
}

static void use_device(const char *option, const char *value) {
  harness_open(&h, option, value);
  field x = field_random(CS_DTYPE_F32, 1, 40, 0), out = field_make(CS_DTYPE_F32, 1, 40, 0);
  field_upload(&h, &x);
  field_upload(&h, &out);
  const cs_tensor operands[] = {out.tensor, x.tensor, x.tensor};
  run_op(&h, CS_OP_ADD, operands, 3, NULL);
  field_download(&h, &out);
  for (size_t i = 0; i < 40; i++)
    assert_true(field_result(&out, 0, i) == 2 * field_get(&x, 0, i));
  field_free(&h, &x);
  field_free(&h, &out);
  harness_close(&h);
}

static void damage(const char *path, long at, const char *with, size_t bytes) {
  FILE *file = fopen(path, "r+b");
  assert_non_null(file);
  fseek(file, at, at < 0 ? SEEK_END : SEEK_SET);
  assert_int_equal(fwrite(with, 1, bytes, file), bytes);
  fclose(file);
}

static void a_damaged_binary_is_built_again(void **state) {
  (void)state;
  char folder[] = "opencl-cache-XXXXXX", root[512], path[1024], command[600];
  assert_non_null(mkdtemp(folder));
  assert_non_null(realpath(folder, path));
  assert_true(snprintf(root, sizeof root, "%s", path) < (int)sizeof root);
  assert_int_equal(setenv("XDG_CACHE_HOME", root, 1), 0);
  use_device("cache", "off");
  assert_false(find_binary(root, path, sizeof path));
  use_device("cache", "on");
  assert_true(find_binary(root, path, sizeof path));
  use_device("cache", "on");
  struct stat whole, now;
  assert_int_equal(stat(path, &whole), 0);
  damage(path, 0, "nonsense", 8); /* foreign */
  use_device("cache", "on");
  damage(path, whole.st_size / 2, "\1\2\3\4\5\6\7\1\2\3\4\5\6\7\1\2", 16); /* damaged */
  use_device("cache", "on");
  assert_int_equal(truncate(path, whole.st_size / 3), 0); /* cut short */
  use_device("cache", "on");
  assert_int_equal(stat(path, &now), 0);
  assert_true(now.st_size > whole.st_size / 2);
  snprintf(command, sizeof command, "rm -r %s", root);
  assert_int_equal(system(command), 0);
  unsetenv("XDG_CACHE_HOME");
}

#define DEVICE_TEST(function) cmocka_unit_test_setup_teardown(function, open_device, close_device)

int main(void) {
  cs_error error = CS_ERROR_INIT;
  if (harness_load(&h, &error) != CS_OK) {
    print_message("skipped: %s\n", error.message);
    return 77;
  }
  seed_random();
  filter_tests();
  static const struct CMUnitTest tests[] = {
      DEVICE_TEST(properties_are_complete_and_stable),
      DEVICE_TEST(allocations_show_in_the_free_memory),
      DEVICE_TEST(unknown_options_and_devices_fail),
      DEVICE_TEST(impossible_memory_is_refused),
      DEVICE_TEST(copies_and_fills_touch_only_their_range),
      DEVICE_TEST(op_query_refuses_with_a_reason),
      DEVICE_TEST(an_operand_past_its_memory_fails_with_the_ops_index),
      DEVICE_TEST(a_program_replays_with_new_contents),
      DEVICE_TEST(work_waits_for_a_signal_that_comes_later),
      DEVICE_TEST(a_failed_semaphore_poisons_the_stream),
      DEVICE_TEST(a_blocked_stream_is_destroyed_in_time),
      cmocka_unit_test(a_damaged_binary_is_built_again)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  harness_unload(&h);
  return failed;
}
