/* The validation layer finds each kind of misuse, tells it in one line, and finds nothing in a
 * correct program. */
#include "core_harness.h"

#include <pthread.h>
#include <time.h>

typedef struct findings {
  int n;
  char last[1024];
} findings;

static findings found;

static void keep_finding(void *user, uint32_t level, const char *line) {
  findings *f = user;
  if (level != CS_LOG_ERROR || strncmp(line, "validate: ", 10) != 0) return;
  f->n++;
  snprintf(f->last, sizeof f->last, "%s", line);
}

typedef struct desk {
  cs_runtime *runtime;
  cs_device *device;
  cs_stream *stream;
  cs_buffer *buffer; /* 4096 bytes */
} desk;

static desk open_desk(const char *spec) {
  char path[4096];
  snprintf(path, sizeof path, "%s/good", CORE_TEST_PLUGINS);
  const cs_runtime_options options = {.system_dir = path,
                                      .skip_user_dir = true,
                                      .skip_environment = true,
                                      .validate = true,
                                      .log_sink = keep_finding,
                                      .log_user = &found};
  desk d = {0};
  found = (findings){0};
  assert_ok(cs_runtime_create(&options, &d.runtime, error));
  d.device = harness_device(d.runtime, spec);
  assert_ok(cs_stream_create(d.device, &d.stream, error));
  assert_ok(cs_buffer_create(d.device, 4096, CS_MEMORY_DEVICE, &d.buffer, error));
  return d;
}

static void close_desk(desk *d) {
  cs_stream_destroy(d->stream);
  cs_buffer_destroy(d->buffer);
  cs_device_release(d->device);
  cs_runtime_release(d->runtime);
}

static void assert_found(int n, const char *text) {
  assert_int_equal(found.n, n);
  if (n > 0 && !strstr(found.last, text)) fail_msg("\"%s\" does not hold \"%s\"", found.last, text);
}

/* out = a + b on four floats at bytes 0, 256 and 512. */
static cs_op add_op(desk *d, cs_tensor t[3]) {
  for (size_t i = 0; i < 3; i++) {
    t[i] = (cs_tensor){.struct_size = sizeof t[i],
                       .dtype = CS_DTYPE_F32,
                       .rank = 2,
                       .memory = cs_buffer_memory(d->buffer),
                       .offset_bytes = i * 256,
                       .dims = {1, 4}};
  }
  return (cs_op){sizeof(cs_op), CS_OP_ADD, 3, sizeof(cs_tensor), t, NULL};
}

static void a_correct_program_has_no_findings(void **state) {
  (void)state;
  desk d = open_desk("twin:0");
  cs_tensor t[3];
  const cs_op op = add_op(&d, t);
  cs_program *program = NULL;
  cs_semaphore *semaphore = NULL;
  float out[4];
  assert_ok(cs_program_create(d.device, &op, 1, NULL, &program, error));
  assert_ok(cs_semaphore_create(d.device, 0, &semaphore, error));
  assert_ok(cs_stream_fill(d.stream, d.buffer, 0, 4096, 0, error));
  assert_ok(cs_stream_ops(d.stream, &op, 1, NULL, error));
  assert_ok(cs_program_launch(d.stream, program, error));
  assert_ok(cs_stream_download(d.stream, out, d.buffer, 0, sizeof out, error));
  assert_ok(cs_stream_signal(d.stream, semaphore, 1, error));
  assert_ok(cs_semaphore_wait(semaphore, 1, 10000000, error));
  cs_program_destroy(program);
  cs_buffer_destroy(d.buffer);
  d.buffer = NULL;
  cs_semaphore_release(semaphore);
  close_desk(&d);
  assert_found(0, "");
}

static void a_use_after_destroy_is_found(void **state) {
  (void)state;
  desk d = open_desk("fake:0");
  cs_buffer *gone = d.buffer;
  uint8_t byte = 0;
  cs_buffer_destroy(gone);
  d.buffer = NULL;
  assert_fails(CS_INVALID_ARGUMENT, "a buffer is used after it was destroyed",
               cs_stream_upload(d.stream, gone, 0, &byte, 1, error));
  cs_buffer_destroy(gone);
  assert_found(2, "validate: fake:0: a buffer is destroyed twice");
  close_desk(&d);
}

static void a_semaphore_released_too_often_is_found(void **state) {
  (void)state;
  desk d = open_desk("fake:0");
  cs_semaphore *semaphore = NULL;
  assert_ok(cs_semaphore_create(d.device, 0, &semaphore, error));
  cs_semaphore_release(semaphore);
  cs_semaphore_release(semaphore);
  assert_found(1, "a semaphore is destroyed twice");
  assert_fails(CS_INVALID_ARGUMENT, "used after", cs_stream_signal(d.stream, semaphore, 1, error));
  close_desk(&d);
}

static void a_tensor_outside_its_buffer_is_found(void **state) {
  (void)state;
  desk d = open_desk("fake:0");
  cs_tensor t[3];
  const cs_op op = add_op(&d, t);
  t[2].offset_bytes = 4096 - 64;
  assert_ok(cs_stream_ops(d.stream, &op, 1, NULL, error));
  t[2].dims[0] = 2;
  t[2].row_stride_bytes = 64;
  assert_fails(CS_INVALID_ARGUMENT, "op 0: operand 2 reaches outside its buffer",
               cs_stream_ops(d.stream, &op, 1, NULL, error));
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  cs_buffer_destroy(d.buffer);
  d.buffer = NULL;
  assert_fails(CS_INVALID_ARGUMENT, "operand 0 names memory of no live buffer",
               cs_stream_ops(d.stream, &op, 1, NULL, error));
  close_desk(&d);
}

static void a_buffer_destroyed_while_in_use_is_found(void **state) {
  (void)state;
#if defined(__SANITIZE_THREAD__)
  print_message("the misuse is a data race, which the sanitizer finds first\n");
  skip();
#endif
  desk d = open_desk("fake:0");
  uint8_t byte = 0;
  assert_ok(cs_stream_upload(d.stream, d.buffer, 0, &byte, 1, error));
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  assert_ok(cs_stream_upload(d.stream, d.buffer, 0, &byte, 1, error));
  const struct timespec time = {0, 20000000}; /* done, but nobody asked */
  nanosleep(&time, NULL);
  cs_buffer_destroy(d.buffer);
  d.buffer = NULL;
  assert_found(1, "a buffer is destroyed before the work that uses it was waited for");
  close_desk(&d);
}

static void waiting_for_the_end_of_a_chain_counts_for_all_of_it(void **state) {
  (void)state;
  desk d = open_desk("fake:0");
  cs_device *other = harness_device(d.runtime, "twin:0");
  cs_stream *second = NULL;
  cs_semaphore *here = NULL, *there = NULL, *end = NULL;
  uint8_t byte = 0;
  assert_ok(cs_stream_create(other, &second, error));
  assert_ok(cs_semaphore_create(d.device, 0, &here, error));
  assert_ok(cs_semaphore_create(other, 0, &there, error));
  assert_ok(cs_semaphore_create(other, 0, &end, error));
  assert_ok(cs_stream_upload(d.stream, d.buffer, 0, &byte, 1, error));
  assert_ok(cs_stream_signal(d.stream, here, 1, error));
  assert_ok(cs_semaphore_bridge(here, 1, there, 5, 10000000, error));
  assert_ok(cs_stream_wait(second, there, 5, error));
  assert_ok(cs_stream_signal(second, end, 1, error));
  assert_ok(cs_semaphore_wait(end, 1, 10000000, error));
  cs_buffer_destroy(d.buffer);
  d.buffer = NULL;
  assert_found(0, "");
  cs_stream_destroy(second);
  cs_semaphore_release(here);
  cs_semaphore_release(there);
  cs_semaphore_release(end);
  cs_device_release(other);
  close_desk(&d);
}

static void *fill(void *argument) {
  const desk *d = argument;
  cs_stream_fill(d->stream, d->buffer, 0, 64, 0, NULL);
  return NULL;
}

static void a_stream_used_by_two_threads_at_once_is_found(void **state) {
  (void)state;
  harness_hang hang = harness_hang_open("fake:0?fill_fd=");
  desk d = open_desk(hang.spec);
  uint8_t byte = 0;
  pthread_t thread;
  pthread_create(&thread, NULL, fill, &d);
  harness_hang_wait(&hang); /* the call is under way */
  assert_fails(CS_INVALID_ARGUMENT, "a stream is used by two threads at once",
               cs_stream_upload(d.stream, d.buffer, 0, &byte, 1, error));
  harness_hang_end(&hang);
  pthread_join(thread, NULL);
  assert_ok(cs_stream_upload(d.stream, d.buffer, 0, &byte, 1, error));
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  assert_found(1, "fake:0");
  close_desk(&d);
  harness_hang_close(&hang);
}

static void objects_that_stay_alive_are_reported(void **state) {
  (void)state;
  desk d = open_desk("fake:0");
  cs_runtime_retain(d.runtime);
  cs_runtime_release(d.runtime);
  assert_found(0, "");
  cs_runtime_release(d.runtime);
  assert_found(3, "a buffer of fake:0 (4096 bytes) is alive when the runtime's last owner leaves");
  cs_stream_destroy(d.stream);
  cs_buffer_destroy(d.buffer);
  cs_device_release(d.device);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_correct_program_has_no_findings),
      cmocka_unit_test(a_use_after_destroy_is_found),
      cmocka_unit_test(a_semaphore_released_too_often_is_found),
      cmocka_unit_test(a_tensor_outside_its_buffer_is_found),
      cmocka_unit_test(a_buffer_destroyed_while_in_use_is_found),
      cmocka_unit_test(waiting_for_the_end_of_a_chain_counts_for_all_of_it),
      cmocka_unit_test(a_stream_used_by_two_threads_at_once_is_found),
      cmocka_unit_test(objects_that_stay_alive_are_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
