/* The SDK's queue: order, poison, wait before signal, destruction with work left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "consort/sdk.h"
#include "sdk_host.h"

#define N_MORE          20 /* commands that may begin before destroy is heard */
#define FOREVER_SECONDS 60

typedef struct record {
  atomic_int n_run;
  atomic_int n_released;
  atomic_int n_drained;
  atomic_int n_started;
  atomic_int n_finished;
  atomic_int out_of_order;
  atomic_int may_end; /* of what is stuck */
} record;

static void start_record(void *context) {
  atomic_fetch_add(&((record *)context)->n_started, 1);
}

static void finish_record(void *context) {
  atomic_fetch_add(&((record *)context)->n_finished, 1);
}

static cs_status drain_record(void *context, cs_error *error) {
  (void)error;
  atomic_fetch_add(&((record *)context)->n_drained, 1);
  return CS_OK;
}

static void release_record(void *context, cs_sdk_command command, void *payload) {
  (void)command;
  (void)payload;
  atomic_fetch_add(&((record *)context)->n_released, 1);
}

static cs_status run_next(void *context, void *payload, cs_error *error) {
  (void)error;
  record *seen = context;
  int expected;
  memcpy(&expected, payload, sizeof expected);
  if (atomic_fetch_add(&seen->n_run, 1) != expected) atomic_store(&seen->out_of_order, 1);
  return CS_OK;
}

static cs_status run_failing(void *context, void *payload, cs_error *error) {
  (void)context;
  (void)payload;
  cs_sdk_error(error, CS_FAILED, 17, "broken");
  error->op_index = 4;
  return CS_FAILED;
}

static cs_status run_slow(void *context, void *payload, cs_error *error) {
  (void)payload;
  (void)error;
  atomic_fetch_add(&((record *)context)->n_run, 1);
  usleep(100000);
  return CS_OK;
}

static cs_status run_stuck(void *context, void *payload, cs_error *error) {
  (void)payload;
  (void)error;
  record *seen = context;
  atomic_fetch_add(&seen->n_run, 1);
  while (!atomic_load(&seen->may_end))
    usleep(1000);
  return CS_OK;
}

static cs_sdk_queue *queue_with(record *seen) {
  memset(seen, 0, sizeof *seen);
  const cs_sdk_queue_options options = {.context = seen,
                                        .drain = drain_record,
                                        .release = release_record,
                                        .start = start_record,
                                        .finish = finish_record};
  cs_sdk_queue *queue = cs_sdk_queue_create(&test_host, &options);
  assert_non_null(queue);
  return queue;
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void commands_run_in_order(void **state) {
  (void)state;
  record seen;
  cs_sdk_queue *queue = queue_with(&seen);
  cs_sdk_timeline *done = cs_sdk_timeline_create(&test_host, 0);
  const int n = 20000;
  unsigned char large[60000] = {0};
  for (int i = 0; i < n; i++) {
    memcpy(large, &i, sizeof i);
    const size_t bytes = i % 1000 == 0 ? sizeof large : sizeof i;
    assert_int_equal(cs_sdk_queue_push(queue, run_next, large, bytes, NULL), CS_OK);
  }
  assert_int_equal(cs_sdk_queue_signal(queue, done, 1, NULL), CS_OK);
  assert_int_equal(cs_sdk_timeline_wait(done, 1, 60000000, NULL), CS_OK);
  assert_int_equal(seen.n_run, n);
  assert_int_equal(seen.out_of_order, 0);
  assert_int_equal(seen.n_drained, 1);
  cs_sdk_queue_destroy(queue);
  assert_int_equal(seen.n_released, n);
  assert_int_equal(seen.n_started, 1);
  assert_int_equal(seen.n_finished, 1);
  cs_sdk_timeline_destroy(done);
}

static void a_wait_may_come_before_its_signal(void **state) {
  (void)state;
  record seen;
  cs_sdk_queue *queue = queue_with(&seen);
  cs_sdk_timeline *gate = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_timeline *done = cs_sdk_timeline_create(&test_host, 0);
  const int first = 0;
  cs_sdk_queue_wait(queue, gate, 2, NULL);
  cs_sdk_queue_push(queue, run_next, &first, sizeof first, NULL);
  cs_sdk_queue_signal(queue, done, 1, NULL);
  cs_sdk_timeline_signal(gate, 1);
  assert_int_equal(cs_sdk_timeline_wait(done, 1, 30000, NULL), CS_TIMEOUT);
  assert_int_equal(seen.n_run, 0);
  cs_sdk_timeline_signal(gate, 2);
  assert_int_equal(cs_sdk_timeline_wait(done, 1, 10000000, NULL), CS_OK);
  assert_int_equal(seen.n_run, 1);
  cs_sdk_queue_destroy(queue);
  cs_sdk_timeline_destroy(gate);
  cs_sdk_timeline_destroy(done);
}

static void two_queues_wait_for_each_other(void **state) {
  (void)state;
  record seen[2];
  cs_sdk_queue *a = queue_with(&seen[0]), *b = queue_with(&seen[1]);
  cs_sdk_timeline *to_a = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_timeline *to_b = cs_sdk_timeline_create(&test_host, 0);
  const int n = 500;
  for (int i = 0; i < n; i++) {
    cs_sdk_queue_wait(a, to_a, (uint64_t)i + 1, NULL);
    cs_sdk_queue_push(a, run_next, &i, sizeof i, NULL);
    cs_sdk_queue_signal(a, to_b, (uint64_t)i + 1, NULL);
    cs_sdk_queue_signal(b, to_a, (uint64_t)i + 1, NULL);
    cs_sdk_queue_push(b, run_next, &i, sizeof i, NULL);
    cs_sdk_queue_wait(b, to_b, (uint64_t)i + 1, NULL);
  }
  cs_sdk_timeline *done = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_queue_signal(b, done, 1, NULL);
  assert_int_equal(cs_sdk_timeline_wait(done, 1, 60000000, NULL), CS_OK);
  assert_int_equal(seen[0].n_run, n);
  assert_int_equal(seen[1].n_run, n);
  cs_sdk_queue_destroy(a);
  cs_sdk_queue_destroy(b);
  cs_sdk_timeline_destroy(to_a);
  cs_sdk_timeline_destroy(to_b);
  cs_sdk_timeline_destroy(done);
}

static void the_first_failure_poisons_what_follows(void **state) {
  (void)state;
  record seen;
  cs_sdk_queue *queue = queue_with(&seen);
  cs_sdk_timeline *before = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_timeline *after = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_timeline *gate = cs_sdk_timeline_create(&test_host, 0);
  int i = 0;
  cs_sdk_queue_push(queue, run_next, &i, sizeof i, NULL);
  cs_sdk_queue_signal(queue, before, 1, NULL);
  cs_sdk_queue_wait(queue, gate, 1, NULL);
  cs_sdk_queue_push(queue, run_failing, NULL, 0, NULL);
  i = 1;
  cs_sdk_queue_push(queue, run_next, &i, sizeof i, NULL);
  cs_sdk_queue_wait(queue, gate, 1000, NULL); /* never reached: must not block a poisoned queue */
  cs_sdk_queue_signal(queue, after, 1, NULL);
  cs_sdk_timeline_signal(gate, 1);
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_sdk_timeline_wait(before, 1, 10000000, NULL), CS_OK);
  assert_int_equal(cs_sdk_timeline_wait(after, 1, 10000000, &error), CS_FAILED);
  assert_string_equal(error.message, "broken");
  assert_int_equal(error.vendor_code, 17);
  assert_int_equal(error.op_index, 4);
  assert_int_equal(seen.n_run, 1);
  cs_error again = CS_ERROR_INIT;
  assert_int_equal(cs_sdk_queue_push(queue, run_next, &i, sizeof i, &again), CS_FAILED);
  assert_string_equal(again.message, "broken");
  cs_sdk_timeline *late = cs_sdk_timeline_create(&test_host, 0);
  assert_int_equal(cs_sdk_queue_signal(queue, late, 1, NULL), CS_OK);
  assert_int_equal(cs_sdk_timeline_wait(late, 1, 10000000, NULL), CS_FAILED);
  cs_sdk_queue_destroy(queue);
  assert_int_equal(seen.n_released, 3);
  cs_sdk_timeline_destroy(before);
  cs_sdk_timeline_destroy(after);
  cs_sdk_timeline_destroy(late);
  cs_sdk_timeline_destroy(gate);
}

static void a_failed_semaphore_poisons_the_waiter(void **state) {
  (void)state;
  record seen;
  cs_sdk_queue *queue = queue_with(&seen);
  cs_sdk_timeline *gate = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_timeline *done = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_queue_wait(queue, gate, 1, NULL);
  cs_sdk_queue_signal(queue, done, 1, NULL);
  cs_error reason = CS_ERROR_INIT, error = CS_ERROR_INIT;
  cs_sdk_error(&reason, CS_DEVICE_LOST, 0, "the other side is gone");
  cs_sdk_timeline_fail(gate, &reason);
  assert_int_equal(cs_sdk_timeline_wait(done, 1, 10000000, &error), CS_DEVICE_LOST);
  assert_string_equal(error.message, "the other side is gone");
  cs_sdk_queue_destroy(queue);
  cs_sdk_timeline_destroy(gate);
  cs_sdk_timeline_destroy(done);
}

static void destroy_drops_what_has_not_started(void **state) {
  (void)state;
  record seen;
  cs_sdk_queue *queue = queue_with(&seen);
  cs_sdk_timeline *done = cs_sdk_timeline_create(&test_host, 0);
  const int n = 500; /* of 100 ms: destroy is far away from the last on any machine */
  for (int i = 0; i < n; i++)
    cs_sdk_queue_push(queue, run_slow, NULL, 0, NULL);
  cs_sdk_queue_signal(queue, done, 1, NULL);
  while (atomic_load(&seen.n_run) == 0)
    usleep(100);
  const int n_before = atomic_load(&seen.n_run);
  cs_sdk_queue_destroy(queue);
  assert_in_range(seen.n_run, n_before, n_before + N_MORE);
  assert_int_equal(seen.n_released, n);
  assert_int_equal(cs_sdk_timeline_wait(done, 1, 0, NULL), CS_CANCELLED);
  cs_sdk_timeline_destroy(done);
}

static void destroy_ends_a_wait_that_is_never_signalled(void **state) {
  (void)state;
  record seen;
  cs_sdk_queue *queue = queue_with(&seen);
  cs_sdk_timeline *never = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_queue_wait(queue, never, 1, NULL);
  usleep(20000);
  cs_sdk_queue_destroy(queue); /* leaves a thread that is stuck behind */
  assert_int_equal(seen.n_finished, 1);
  cs_sdk_timeline_destroy(never);
}

static void destroy_leaves_a_stuck_command_behind(void **state) {
  (void)state;
  static record seen; /* the command outlives this function */
  cs_sdk_queue *queue = queue_with(&seen);
  cs_sdk_queue_push(queue, run_stuck, NULL, 0, NULL);
  while (atomic_load(&seen.n_run) == 0)
    usleep(100);
  const double before = seconds_now();
  cs_sdk_queue_destroy(queue);
  const double took = seconds_now() - before;
  assert_true(took > 1.5 && took < FOREVER_SECONDS);
  assert_int_equal(seen.n_finished, 0);
  atomic_store(&seen.may_end, 1);
  while (atomic_load(&seen.n_finished) == 0)
    usleep(1000);
  assert_int_equal(seen.n_finished, 1);
  usleep(20000); /* lets the thread end, so that nothing is left when the process does */
}

static void an_oversized_payload_is_refused(void **state) {
  (void)state;
  record seen;
  cs_sdk_queue *queue = queue_with(&seen);
  static unsigned char payload[65537];
  assert_int_equal(cs_sdk_queue_push(queue, run_next, payload, sizeof payload, NULL),
                   CS_INVALID_ARGUMENT);
  cs_sdk_queue_destroy(queue);
  assert_int_equal(seen.n_released, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(commands_run_in_order),
      cmocka_unit_test(a_wait_may_come_before_its_signal),
      cmocka_unit_test(two_queues_wait_for_each_other),
      cmocka_unit_test(the_first_failure_poisons_what_follows),
      cmocka_unit_test(a_failed_semaphore_poisons_the_waiter),
      cmocka_unit_test(destroy_drops_what_has_not_started),
      cmocka_unit_test(destroy_ends_a_wait_that_is_never_signalled),
      cmocka_unit_test(destroy_leaves_a_stuck_command_behind),
      cmocka_unit_test(an_oversized_payload_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
