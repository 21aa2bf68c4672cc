/* Semaphores from the host: a value that only grows, waits with deadlines that hold, failures that
 * stay. */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "registry.h"

static cs_status wait_us(kit *k, cs_plugin_semaphore *semaphore, uint64_t value, uint64_t us,
                         double *seconds) {
  cs_error error = CS_ERROR_INIT;
  const double begin = kit_now_seconds();
  const cs_status status = k->plugin.semaphore.semaphore_wait(semaphore, value, us, &error);
  *seconds = kit_now_seconds() - begin;
  return status;
}

/* Waits again, a few times, while it takes `limit` seconds or more: where other work takes the
 * processor, one wait that is late says nothing of the plugin. */
static cs_status wait_below(kit *k, cs_plugin_semaphore *semaphore, uint64_t value, uint64_t us,
                            double limit, double *seconds) {
  cs_status status = wait_us(k, semaphore, value, us, seconds);
  for (int i = 0; i < 4 && *seconds >= limit; i++)
    status = wait_us(k, semaphore, value, us, seconds);
  return status;
}

static void only_grows(kit *k, const kit_case *c) {
  (void)c;
  const cs_semaphore_table *table = &k->plugin.semaphore;
  cs_plugin_semaphore *semaphore = kit_semaphore_create(k, 7);
  const struct {
    uint64_t signal, value;
  } steps[] = {{3, 7},
               {7, 7},
               {8, 8},
               {2, 8},
               {UINT64_C(1) << 40, UINT64_C(1) << 40},
               {9, UINT64_C(1) << 40}};
  for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
    cs_error error = CS_ERROR_INIT;
    uint64_t value = 0;
    kit_check_ok(k, table->semaphore_signal(semaphore, steps[i].signal, &error), &error,
                 "semaphore_signal");
    kit_check_ok(k, table->semaphore_query(semaphore, &value, &error), &error, "semaphore_query");
    kit_check(k, value == steps[i].value, "after a signal of %llu the value is %llu, not %llu",
              (unsigned long long)steps[i].signal, (unsigned long long)value,
              (unsigned long long)steps[i].value);
  }
}

static void timeouts(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_semaphore *semaphore = kit_semaphore_create(k, 1);
  double seconds;
  kit_check(k, wait_us(k, semaphore, 1, 0, &seconds) == CS_OK, "polling a reached value fails");
  kit_check(k, wait_below(k, semaphore, 2, 0, 0.1, &seconds) == CS_TIMEOUT,
            "polling a value yet to come does not answer CS_TIMEOUT");
  kit_check(k, seconds < 0.1, "polling takes %.3f s", seconds);
  kit_check(k, wait_below(k, semaphore, 2, 100000, 1, &seconds) == CS_TIMEOUT,
            "a wait of 0.1 s does not answer CS_TIMEOUT");
  kit_check(k, seconds > 0.09 && seconds < 1, "a wait of 0.1 s takes %.3f s", seconds);
  kit_check(k, wait_us(k, semaphore, 1, UINT64_MAX, &seconds) == CS_OK,
            "the longest timeout on a reached value fails");
}

static void failure_stays(kit *k, const kit_case *c) {
  (void)c;
  const cs_semaphore_table *table = &k->plugin.semaphore;
  cs_plugin_semaphore *semaphore = kit_semaphore_create(k, 5);
  cs_error reason = {.struct_size = sizeof reason,
                     .code = CS_DEVICE_LOST,
                     .vendor_code = 42,
                     .op_index = 11,
                     .message = "first reason"};
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, table->semaphore_fail(semaphore, &reason, &error), &error, "semaphore_fail");
  strcpy(reason.message, "second reason");
  reason.code = CS_FAILED;
  table->semaphore_fail(semaphore, &reason, &error);
  table->semaphore_signal(semaphore, 100, &error);
  for (uint64_t value = 4; value <= 6; value++) {
    double seconds;
    const cs_status status = wait_below(k, semaphore, value, 1000000, 0.5, &seconds);
    kit_check(k, status == CS_DEVICE_LOST && seconds < 0.5,
              "waiting for %llu on a failed semaphore: status %d after %.1f s",
              (unsigned long long)value, status, seconds);
  }
  uint64_t value = 0;
  error = (cs_error)CS_ERROR_INIT;
  const cs_status status = table->semaphore_query(semaphore, &value, &error);
  kit_check(k, status == CS_DEVICE_LOST && error.op_index == 11 && error.vendor_code == 42,
            "the stored error is status %d, op %d, vendor code %lld", status, error.op_index,
            (long long)error.vendor_code);
  kit_check(k, strcmp(error.message, "first reason") == 0, "the stored message is \"%.60s\"",
            error.message);
}

typedef struct late_signal {
  kit *k;
  cs_plugin_semaphore *semaphore;
  uint32_t fails;
} late_signal;

static void *signal_late(void *argument) {
  const late_signal *late = argument;
  nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
  const cs_error reason = {.struct_size = sizeof reason, .code = CS_CANCELLED, .op_index = -1};
  if (late->fails)
    late->k->plugin.semaphore.semaphore_fail(late->semaphore, &reason, NULL);
  else
    late->k->plugin.semaphore.semaphore_signal(late->semaphore, 1, NULL);
  return NULL;
}

static void wakes_the_waiter(kit *k, const kit_case *c) {
  late_signal late = {k, kit_semaphore_create(k, 0), c->argument};
  pthread_t thread;
  kit_check(k, pthread_create(&thread, NULL, signal_late, &late) == 0, "no thread");
  double seconds;
  const cs_status status = wait_us(k, late.semaphore, 1, 10000000, &seconds);
  pthread_join(thread, NULL);
  kit_check(k, status == (c->argument ? CS_CANCELLED : CS_OK), "the waiter ends with status %d",
            status);
  kit_check(k, seconds < 2, "the waiter wakes after %.1f s", seconds);
}

void kit_add_semaphore_cases(kit_registry *r) {
  const uint32_t core = KIT_BADGE_CORE;
  kit_add(r, &(kit_case){.badges = core, .run = only_grows}, "semaphores/only_grow");
  kit_add(r, &(kit_case){.badges = core, .run = timeouts}, "semaphores/timeouts");
  kit_add(r, &(kit_case){.badges = core, .run = failure_stays}, "semaphores/failure_stays");
  kit_add(r, &(kit_case){.badges = core, .run = wakes_the_waiter, .argument = 0},
          "semaphores/host_signal_wakes_a_waiter");
  kit_add(r, &(kit_case){.badges = core, .run = wakes_the_waiter, .argument = 1},
          "semaphores/host_failure_wakes_a_waiter");
}
