/* The SDK queue's asynchronous signals: the queue goes on behind a signal that the driver has not
 * given, signals before a failure arrive, later ones fail. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "consort/sdk.h"
#include "sdk_host.h"

#define WAIT_US 5000000

/* A driver that holds its signals until it is told to give them, or drained. */
typedef struct driver {
  pthread_mutex_t mutex;
  cs_sdk_timeline *timelines[8];
  uint64_t values[8];
  uint32_t n_held;
} driver;

static cs_status hold_signal(void *context, cs_sdk_timeline *timeline, uint64_t value,
                             cs_error *error) {
  (void)error;
  driver *d = context;
  cs_sdk_timeline_retain(timeline);
  pthread_mutex_lock(&d->mutex);
  d->timelines[d->n_held] = timeline;
  d->values[d->n_held++] = value;
  pthread_mutex_unlock(&d->mutex);
  return CS_OK;
}

static cs_status give_signals(void *context, cs_error *error) {
  (void)error;
  driver *d = context;
  pthread_mutex_lock(&d->mutex);
  for (uint32_t i = 0; i < d->n_held; i++) {
    cs_sdk_timeline_signal(d->timelines[i], d->values[i]);
    cs_sdk_timeline_release(d->timelines[i]);
  }
  d->n_held = 0;
  pthread_mutex_unlock(&d->mutex);
  return CS_OK;
}

static cs_status set_flag(void *context, void *payload, cs_error *error) {
  (void)context;
  (void)error;
  __atomic_store_n(*(int **)payload, 1, __ATOMIC_RELEASE);
  return CS_OK;
}

static cs_status fail_always(void *context, void *payload, cs_error *error) {
  (void)context;
  (void)payload;
  return cs_sdk_error(error, CS_FAILED, 42, "on purpose");
}

static cs_sdk_queue *make_queue(driver *d) {
  const cs_sdk_queue_options options = {.context = d, .drain = give_signals, .signal = hold_signal};
  pthread_mutex_init(&d->mutex, NULL);
  d->n_held = 0;
  cs_sdk_queue *queue = cs_sdk_queue_create(&test_host, &options);
  assert_non_null(queue);
  return queue;
}

static void the_queue_goes_on_behind_a_signal(void **state) {
  (void)state;
  driver d;
  cs_error error = CS_ERROR_INIT;
  int flag = 0, *at = &flag;
  uint64_t value = 9;
  cs_sdk_queue *queue = make_queue(&d);
  cs_sdk_timeline *timeline = cs_sdk_timeline_create(&test_host, 0);
  assert_int_equal(cs_sdk_queue_signal(queue, timeline, 1, &error), CS_OK);
  assert_int_equal(cs_sdk_queue_push(queue, set_flag, &at, sizeof at, &error), CS_OK);
  for (int i = 0; i < 5000 && !__atomic_load_n(&flag, __ATOMIC_ACQUIRE); i++)
    usleep(1000);
  assert_int_equal(__atomic_load_n(&flag, __ATOMIC_ACQUIRE), 1);
  assert_int_equal(cs_sdk_timeline_query(timeline, &value, &error), CS_OK);
  assert_int_equal(value, 0);
  give_signals(&d, &error);
  assert_int_equal(cs_sdk_timeline_wait(timeline, 1, WAIT_US, &error), CS_OK);
  cs_sdk_timeline_destroy(timeline);
  cs_sdk_queue_destroy(queue);
  pthread_mutex_destroy(&d.mutex);
}

static void a_failure_comes_after_the_signals_before_it(void **state) {
  (void)state;
  driver d;
  cs_error error = CS_ERROR_INIT;
  cs_sdk_queue *queue = make_queue(&d);
  cs_sdk_timeline *early = cs_sdk_timeline_create(&test_host, 0);
  cs_sdk_timeline *late = cs_sdk_timeline_create(&test_host, 0);
  assert_int_equal(cs_sdk_queue_signal(queue, early, 1, &error), CS_OK);
  assert_int_equal(cs_sdk_queue_push(queue, fail_always, NULL, 0, &error), CS_OK);
  assert_int_equal(cs_sdk_queue_signal(queue, late, 1, &error), CS_OK);
  assert_int_equal(cs_sdk_timeline_wait(late, 1, WAIT_US, &error), CS_FAILED);
  assert_int_equal(error.vendor_code, 42);
  assert_int_equal(cs_sdk_timeline_wait(early, 1, 0, &error), CS_OK);
  cs_sdk_timeline_destroy(early);
  cs_sdk_timeline_destroy(late);
  cs_sdk_queue_destroy(queue);
  pthread_mutex_destroy(&d.mutex);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_queue_goes_on_behind_a_signal),
                                     cmocka_unit_test(a_failure_comes_after_the_signals_before_it)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
