/* A timeline is a number under a mutex and one condition variable; a signal wakes nobody before the
 * lowest value that is waited for, since a step may signal dozens of times. References are counted,
 * because a waiter may destroy the timeline while the signaller is still leaving its critical
 * section: the signaller's queue holds its own reference until it has left. */
#include "timeline.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

struct cs_sdk_timeline {
  const cs_host *host;
  atomic_uint references;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  uint64_t value;
  uint64_t awaited; /* nobody waits for less; UINT64_MAX: nobody waits */
  cs_error failure; /* code CS_OK until it fails */
};

cs_sdk_timeline *cs_sdk_timeline_create(const cs_host *host, uint64_t initial) {
  cs_sdk_timeline *timeline = host->allocate(host->context, sizeof *timeline, 64);
  if (!timeline) return NULL;
  memset(timeline, 0, sizeof *timeline);
  timeline->host = host;
  timeline->value = initial;
  timeline->awaited = UINT64_MAX;
  atomic_init(&timeline->references, 1);
  pthread_condattr_t attributes;
  if (pthread_condattr_init(&attributes) != 0) goto err_free;
  if (pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) != 0) goto err_attributes;
  if (pthread_mutex_init(&timeline->mutex, NULL) != 0) goto err_attributes;
  if (pthread_cond_init(&timeline->changed, &attributes) != 0) goto err_mutex;
  pthread_condattr_destroy(&attributes);
  return timeline;

err_mutex:
  pthread_mutex_destroy(&timeline->mutex);
err_attributes:
  pthread_condattr_destroy(&attributes);
err_free:
  host->deallocate(host->context, timeline);
  return NULL;
}

void cs_sdk_timeline_retain(cs_sdk_timeline *timeline) {
  atomic_fetch_add_explicit(&timeline->references, 1, memory_order_relaxed);
}

void cs_sdk_timeline_release(cs_sdk_timeline *timeline) {
  if (atomic_fetch_sub_explicit(&timeline->references, 1, memory_order_acq_rel) != 1) return;
  pthread_cond_destroy(&timeline->changed);
  pthread_mutex_destroy(&timeline->mutex);
  timeline->host->deallocate(timeline->host->context, timeline);
}

void cs_sdk_timeline_destroy(cs_sdk_timeline *timeline) {
  if (timeline) cs_sdk_timeline_release(timeline);
}

/* Called with the mutex held. */
static cs_status timeline_failure(const cs_sdk_timeline *timeline, cs_error *error) {
  if (timeline->failure.code != CS_OK && error)
    cs_sdk_struct_write(error, &timeline->failure, sizeof timeline->failure);
  return timeline->failure.code;
}

cs_status cs_sdk_timeline_query(cs_sdk_timeline *timeline, uint64_t *value, cs_error *error) {
  pthread_mutex_lock(&timeline->mutex);
  *value = timeline->value;
  const cs_status status = timeline_failure(timeline, error);
  pthread_mutex_unlock(&timeline->mutex);
  return status;
}

/* Now plus timeout_us on the monotonic clock, a year at most. */
static struct timespec deadline_after(uint64_t timeout_us) {
  const uint64_t year_us = UINT64_C(31536000000000);
  if (timeout_us > year_us) timeout_us = year_us;
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  at.tv_sec += (time_t)(timeout_us / 1000000);
  at.tv_nsec += (long)(timeout_us % 1000000) * 1000;
  if (at.tv_nsec >= 1000000000) {
    at.tv_nsec -= 1000000000;
    at.tv_sec++;
  }
  return at;
}

/* Called with the mutex held, before each sleep. */
static void await_value(cs_sdk_timeline *timeline, uint64_t value) {
  if (value < timeline->awaited) timeline->awaited = value;
}

cs_status cs_sdk_timeline_wait(cs_sdk_timeline *timeline, uint64_t value, uint64_t timeout_us,
                               cs_error *error) {
  const struct timespec deadline = deadline_after(timeout_us);
  cs_status status = CS_OK;
  pthread_mutex_lock(&timeline->mutex);
  while (timeline->failure.code == CS_OK && timeline->value < value && status == CS_OK) {
    await_value(timeline, value);
    if (timeout_us == 0 ||
        pthread_cond_timedwait(&timeline->changed, &timeline->mutex, &deadline) == ETIMEDOUT)
      status = CS_TIMEOUT;
  }
  if (timeline->failure.code != CS_OK)
    status = timeline_failure(timeline, error);
  else if (timeline->value >= value)
    status = CS_OK;
  const uint64_t reached = timeline->value;
  pthread_mutex_unlock(&timeline->mutex);
  if (status == CS_TIMEOUT)
    cs_sdk_error(error, CS_TIMEOUT, 0, "semaphore is at %llu, not %llu, after %llu us",
                 (unsigned long long)reached, (unsigned long long)value,
                 (unsigned long long)timeout_us);
  return status;
}

cs_status cs_sdk_timeline_wait_unless(cs_sdk_timeline *timeline, uint64_t value,
                                      const atomic_int *stop, cs_error *error) {
  pthread_mutex_lock(&timeline->mutex);
  while (timeline->failure.code == CS_OK && timeline->value < value && !atomic_load(stop)) {
    await_value(timeline, value);
    pthread_cond_wait(&timeline->changed, &timeline->mutex);
  }
  cs_status status = timeline_failure(timeline, error);
  if (status == CS_OK && timeline->value < value) status = CS_CANCELLED;
  pthread_mutex_unlock(&timeline->mutex);
  return status;
}

void cs_sdk_timeline_wake(cs_sdk_timeline *timeline) {
  pthread_mutex_lock(&timeline->mutex);
  pthread_cond_broadcast(&timeline->changed);
  pthread_mutex_unlock(&timeline->mutex);
}

cs_status cs_sdk_timeline_signal(cs_sdk_timeline *timeline, uint64_t value) {
  pthread_mutex_lock(&timeline->mutex);
  if (timeline->failure.code == CS_OK && value > timeline->value) {
    timeline->value = value;
    if (value >= timeline->awaited) {
      timeline->awaited = UINT64_MAX;
      pthread_cond_broadcast(&timeline->changed);
    }
  }
  pthread_mutex_unlock(&timeline->mutex);
  return CS_OK;
}

cs_status cs_sdk_timeline_fail(cs_sdk_timeline *timeline, const cs_error *reason) {
  cs_error record = CS_ERROR_INIT;
  const cs_status status = cs_sdk_struct_read(&record, sizeof record, reason, NULL);
  if (status != CS_OK) return status;
  if (record.code == CS_OK) record.code = CS_FAILED;
  record.message[sizeof record.message - 1] = '\0';
  pthread_mutex_lock(&timeline->mutex);
  if (timeline->failure.code == CS_OK) {
    timeline->failure = record;
    pthread_cond_broadcast(&timeline->changed);
  }
  pthread_mutex_unlock(&timeline->mutex);
  return CS_OK;
}
