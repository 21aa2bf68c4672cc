/* The bridge: values and failures reach the other device's timeline, late ones fail, nothing is
 * lost when many are under way, and the last release may come from the bridge itself. */
#include "core_harness.h"

#include <time.h>

#define N_MANY 200

typedef struct pair {
  cs_runtime *runtime;
  cs_device *a, *b;
  cs_semaphore *from, *to;
} pair;

static pair open_pair(void) {
  pair p = {.runtime = harness_runtime("good")};
  p.a = harness_device(p.runtime, "fake:0");
  p.b = harness_device(p.runtime, "twin:0");
  assert_ok(cs_semaphore_create(p.a, 0, &p.from, error));
  assert_ok(cs_semaphore_create(p.b, 0, &p.to, error));
  return p;
}

static void close_pair(pair *p) {
  cs_semaphore_release(p->from);
  cs_semaphore_release(p->to);
  cs_device_release(p->a);
  cs_device_release(p->b);
  cs_runtime_release(p->runtime);
}

static void a_value_is_carried_over(void **state) {
  (void)state;
  pair p = open_pair();
  uint64_t value = 0;
  assert_ok(cs_semaphore_bridge(p.from, 5, p.to, 7, 10000000, error));
  assert_ok(cs_semaphore_signal(p.from, 4, error));
  assert_fails(CS_TIMEOUT, "", cs_semaphore_wait(p.to, 7, 5000, error));
  assert_ok(cs_semaphore_signal(p.from, 5, error));
  assert_ok(cs_semaphore_wait(p.to, 7, 10000000, error));
  assert_ok(cs_semaphore_query(p.to, &value, error));
  assert_int_equal(value, 7);
  close_pair(&p);
}

static void a_value_reached_before_is_carried_over(void **state) {
  (void)state;
  pair p = open_pair();
  assert_ok(cs_semaphore_signal(p.from, 100, error));
  assert_ok(cs_semaphore_bridge(p.from, 5, p.to, 1, 10000000, error));
  assert_ok(cs_semaphore_wait(p.to, 1, 10000000, error));
  close_pair(&p);
}

static void a_lower_value_is_not_held_back_by_a_higher_one(void **state) {
  (void)state;
  pair p = open_pair();
  assert_ok(cs_semaphore_bridge(p.from, 100, p.to, 100, 10000000, error));
  assert_ok(cs_semaphore_bridge(p.from, 3, p.to, 3, 10000000, error));
  assert_ok(cs_semaphore_signal(p.from, 3, error));
  assert_ok(cs_semaphore_wait(p.to, 3, 1000000, error));
  assert_ok(cs_semaphore_signal(p.from, 100, error));
  assert_ok(cs_semaphore_wait(p.to, 100, 1000000, error));
  close_pair(&p);
}

static void a_failure_is_carried_over_with_its_reason(void **state) {
  (void)state;
  pair p = open_pair();
  cs_error reason = CS_ERROR_INIT;
  cs_error_set(&reason, CS_CORRUPT, "a flipped byte");
  reason.op_index = 11;
  assert_ok(cs_semaphore_bridge(p.from, 1, p.to, 1, 10000000, error));
  assert_ok(cs_semaphore_fail(p.from, &reason, error));
  cs_error failure = CS_ERROR_INIT;
  assert_int_equal(cs_semaphore_wait(p.to, 1, 10000000, &failure), CS_CORRUPT);
  assert_int_equal(failure.op_index, 11);
  assert_string_equal(failure.message, "fake:0: a flipped byte");
  close_pair(&p);
}

static void a_late_value_fails_the_other_side(void **state) {
  (void)state;
  pair p = open_pair();
  assert_ok(cs_semaphore_bridge(p.from, 1, p.to, 1, 20000, error));
  assert_fails(CS_FAILED, "did not reach value 1", cs_semaphore_wait(p.to, 1, 10000000, error));
  uint64_t value = 0;
  assert_fails(CS_FAILED, "did not reach", cs_semaphore_query(p.to, &value, error));
  close_pair(&p);
}

static void a_failure_by_deadline_is_passed_on_at_once(void **state) {
  (void)state;
  pair p = open_pair();
  cs_semaphore *third = NULL;
  assert_ok(cs_semaphore_create(p.a, 0, &third, error));
  assert_ok(cs_semaphore_bridge(p.from, 1, p.to, 1, 10000, error));
  assert_ok(cs_semaphore_bridge(p.to, 1, third, 1, 60000000, error));
  assert_fails(CS_FAILED, "did not reach", cs_semaphore_wait(third, 1, 10000000, error));
  cs_semaphore_release(third);
  close_pair(&p);
}

static void a_timeline_never_fails_with_a_timeout(void **state) {
  (void)state;
  pair p = open_pair();
  cs_error reason = CS_ERROR_INIT;
  cs_error_set(&reason, CS_TIMEOUT, "a peer was late");
  assert_ok(cs_semaphore_fail(p.from, &reason, error));
  assert_fails(CS_FAILED, "a peer was late", cs_semaphore_wait(p.from, 1, 10000000, error));
  close_pair(&p);
}

static void a_stream_waits_for_work_on_another_device(void **state) {
  (void)state;
  pair p = open_pair();
  cs_stream *stream = NULL;
  cs_buffer *buffer = NULL;
  uint8_t byte = 9;
  assert_ok(cs_stream_create(p.b, &stream, error));
  assert_ok(cs_buffer_create(p.b, 64, CS_MEMORY_DEVICE, &buffer, error));
  assert_ok(cs_stream_wait(stream, p.to, 1, error));
  assert_ok(cs_stream_fill(stream, buffer, 0, 64, 3, error));
  assert_ok(cs_stream_download(stream, &byte, buffer, 10, 1, error));
  assert_fails(CS_TIMEOUT, "", cs_stream_synchronize(stream, 10000, error));
  assert_ok(cs_semaphore_bridge(p.from, 1, p.to, 1, 10000000, error));
  assert_ok(cs_semaphore_signal(p.from, 1, error));
  assert_ok(cs_stream_synchronize(stream, 10000000, error));
  assert_int_equal(byte, 3);
  cs_stream_destroy(stream);
  cs_buffer_destroy(buffer);
  close_pair(&p);
}

static void many_timelines_are_served_at_once(void **state) {
  (void)state;
  pair p = open_pair();
  cs_semaphore *from[N_MANY], *to[N_MANY];
  for (uint64_t i = 0; i < N_MANY; i++) {
    assert_ok(cs_semaphore_create(p.a, 0, &from[i], error));
    assert_ok(cs_semaphore_create(p.b, 0, &to[i], error));
    assert_ok(cs_semaphore_bridge(from[i], 1, to[i], 2, 30000000, error));
    assert_ok(cs_semaphore_bridge(from[i], 2, to[i], 3, 30000000, error));
  }
  for (uint64_t i = N_MANY; i-- > 0;)
    assert_ok(cs_semaphore_signal(from[i], 1 + i % 2, error));
  for (uint64_t i = 0; i < N_MANY; i++)
    assert_ok(cs_semaphore_wait(to[i], 2 + i % 2, 30000000, error));
  for (uint64_t i = 0; i < N_MANY; i++) {
    assert_ok(cs_semaphore_signal(from[i], 2, error));
    assert_ok(cs_semaphore_wait(to[i], 3, 30000000, error));
    cs_semaphore_release(from[i]);
    cs_semaphore_release(to[i]);
  }
  close_pair(&p);
}

static void the_bridge_may_hold_the_last_reference(void **state) {
  (void)state;
  for (int round = 0; round < 20; round++) {
    pair p = open_pair();
    assert_ok(cs_semaphore_bridge(p.from, 1, p.to, 1, round * 500, error));
    if (round % 2) assert_ok(cs_semaphore_signal(p.from, 1, error));
    close_pair(&p);
  }
  const struct timespec time = {0, 100 * 1000000};
  nanosleep(&time, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_value_is_carried_over),
      cmocka_unit_test(a_value_reached_before_is_carried_over),
      cmocka_unit_test(a_lower_value_is_not_held_back_by_a_higher_one),
      cmocka_unit_test(a_failure_is_carried_over_with_its_reason),
      cmocka_unit_test(a_late_value_fails_the_other_side),
      cmocka_unit_test(a_failure_by_deadline_is_passed_on_at_once),
      cmocka_unit_test(a_timeline_never_fails_with_a_timeout),
      cmocka_unit_test(a_stream_waits_for_work_on_another_device),
      cmocka_unit_test(many_timelines_are_served_at_once),
      cmocka_unit_test(the_bridge_may_hold_the_last_reference),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
