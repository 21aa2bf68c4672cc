/* The SDK's timeline: values only grow, failure is final, waits end by their deadline. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "consort/sdk.h"
#include "sdk_host.h"

static void signals_only_grow(void **state) {
  (void)state;
  cs_sdk_timeline *timeline = cs_sdk_timeline_create(&test_host, 5);
  uint64_t value = 0;
  assert_int_equal(cs_sdk_timeline_query(timeline, &value, NULL), CS_OK);
  assert_int_equal(value, 5);
  assert_int_equal(cs_sdk_timeline_signal(timeline, 4), CS_OK);
  cs_sdk_timeline_query(timeline, &value, NULL);
  assert_int_equal(value, 5);
  cs_sdk_timeline_signal(timeline, 9);
  cs_sdk_timeline_query(timeline, &value, NULL);
  assert_int_equal(value, 9);
  assert_int_equal(cs_sdk_timeline_wait(timeline, 9, 0, NULL), CS_OK);
  cs_sdk_timeline_destroy(timeline);
}

static void a_wait_ends_at_its_deadline(void **state) {
  (void)state;
  cs_sdk_timeline *timeline = cs_sdk_timeline_create(&test_host, 0);
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_sdk_timeline_wait(timeline, 1, 0, &error), CS_TIMEOUT);
  assert_int_equal(cs_sdk_timeline_wait(timeline, 1, 20000, &error), CS_TIMEOUT);
  assert_int_equal(error.code, CS_TIMEOUT);
  assert_int_equal(error.op_index, -1);
  cs_sdk_timeline_destroy(timeline);
}

static void the_first_failure_stays(void **state) {
  (void)state;
  cs_sdk_timeline *timeline = cs_sdk_timeline_create(&test_host, 7);
  cs_error first = CS_ERROR_INIT, second = CS_ERROR_INIT, seen = CS_ERROR_INIT;
  cs_sdk_error(&first, CS_DEVICE_LOST, 42, "gone");
  first.op_index = 3;
  cs_sdk_error(&second, CS_FAILED, 0, "later");
  assert_int_equal(cs_sdk_timeline_fail(timeline, &first), CS_OK);
  assert_int_equal(cs_sdk_timeline_fail(timeline, &second), CS_OK);
  cs_sdk_timeline_signal(timeline, 100);
  uint64_t value = 0;
  assert_int_equal(cs_sdk_timeline_query(timeline, &value, &seen), CS_DEVICE_LOST);
  assert_int_equal(value, 7);
  assert_string_equal(seen.message, "gone");
  assert_int_equal(seen.vendor_code, 42);
  assert_int_equal(seen.op_index, 3);
  assert_int_equal(cs_sdk_timeline_wait(timeline, 1, 1000000, &seen), CS_DEVICE_LOST);
  cs_sdk_timeline_destroy(timeline);
}

static void *fail_later(void *argument) {
  usleep(20000);
  cs_error reason = CS_ERROR_INIT;
  cs_sdk_error(&reason, CS_FAILED, 0, "on purpose");
  cs_sdk_timeline_fail(argument, &reason);
  return NULL;
}

static void *signal_later(void *argument) {
  usleep(20000);
  cs_sdk_timeline_signal(argument, 3);
  return NULL;
}

static void waiters_wake_on_signal_and_on_failure(void **state) {
  (void)state;
  cs_sdk_timeline *timeline = cs_sdk_timeline_create(&test_host, 0);
  pthread_t thread;
  /* Without a deadline: at that the value would be seen, too. Who is not woken ends by the alarm. */
  alarm(30);
  assert_int_equal(pthread_create(&thread, NULL, signal_later, timeline), 0);
  assert_int_equal(cs_sdk_timeline_wait(timeline, 3, UINT64_MAX, NULL), CS_OK);
  alarm(0);
  pthread_join(thread, NULL);
  assert_int_equal(pthread_create(&thread, NULL, fail_later, timeline), 0);
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_sdk_timeline_wait(timeline, UINT64_MAX, UINT64_MAX, &error), CS_FAILED);
  assert_string_equal(error.message, "on purpose");
  pthread_join(thread, NULL);
  cs_sdk_timeline_destroy(timeline);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(signals_only_grow),
      cmocka_unit_test(a_wait_ends_at_its_deadline),
      cmocka_unit_test(the_first_failure_stays),
      cmocka_unit_test(waiters_wake_on_signal_and_on_failure),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
