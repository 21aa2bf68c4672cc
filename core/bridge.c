/* Forwards from one source semaphore form a lane, and a lane is waited for by one thread, which
 * blocks in the plugin's own wait for the lane's lowest value: the latency is the plugin's, and an
 * idle bridge costs nothing. Threads are started as lanes need them, up to a bound; beyond it the
 * threads take the lanes in turn for a short slice each. */
#include "core/bridge.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "core/device.h"
#include "core/error.h"

#define THREADS_MAX    16
#define SLICE_US       1000 /* how late a lower value, appended while a higher one is awaited */
#define SHORT_SLICE_US 100  /* the same while lanes outnumber threads */

typedef struct forward {
  struct forward *next;
  cs_semaphore *to;
  uint64_t from_value;
  uint64_t to_value;
  uint64_t deadline_us; /* on the monotonic clock */
} forward;

/* What is pending on one source semaphore, lowest value first. */
typedef struct lane {
  struct lane *next;
  cs_semaphore *from;
  forward *pending;
  bool served; /* a thread waits for it */
} lane;

struct cs_bridge {
  pthread_mutex_t mutex;
  pthread_cond_t work;
  lane *lanes; /* the longest waiting first; guarded by mutex, like all below */
  pthread_t threads[THREADS_MAX];
  uint32_t n_threads;
  uint32_t n_idle;
  uint32_t n_unserved;
  bool stop;
  bool orphan; /* the thread that runs destroy frees the bridge when its loop ends */
};

static uint64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

cs_bridge *cs_bridge_create(void) {
  cs_bridge *bridge = calloc(1, sizeof *bridge);
  if (!bridge) return NULL;
  if (pthread_mutex_init(&bridge->mutex, NULL) != 0) goto err_free;
  if (pthread_cond_init(&bridge->work, NULL) != 0) goto err_destroy_mutex;
  return bridge;

err_destroy_mutex:
  pthread_mutex_destroy(&bridge->mutex);
err_free:
  free(bridge);
  return NULL;
}

static void free_bridge(cs_bridge *bridge) {
  pthread_cond_destroy(&bridge->work);
  pthread_mutex_destroy(&bridge->mutex);
  free(bridge);
}

void cs_bridge_destroy(cs_bridge *bridge) {
  if (!bridge) return;
  pthread_mutex_lock(&bridge->mutex);
  bridge->stop = true;
  pthread_cond_broadcast(&bridge->work);
  pthread_mutex_unlock(&bridge->mutex);
  bool from_inside = false;
  for (uint32_t i = 0; i < bridge->n_threads; i++) {
    if (pthread_equal(bridge->threads[i], pthread_self())) {
      from_inside = true;
      pthread_detach(bridge->threads[i]);
    } else {
      pthread_join(bridge->threads[i], NULL);
    }
  }
  if (from_inside) {
    bridge->orphan = true;
  } else {
    free_bridge(bridge);
  }
}

/* ---- a thread's round ---- */

/* Takes the lane that has waited longest, or NULL when the bridge stops. Called under the lock. */
static lane *take_lane(cs_bridge *bridge) {
  while (!bridge->stop) {
    for (lane *l = bridge->lanes; l; l = l->next) {
      if (l->served) continue;
      l->served = true;
      bridge->n_unserved--;
      return l;
    }
    bridge->n_idle++;
    pthread_cond_wait(&bridge->work, &bridge->mutex);
    bridge->n_idle--;
  }
  return NULL;
}

static void unlink_lane(cs_bridge *bridge, const lane *gone) {
  lane **link = &bridge->lanes;
  while (*link != gone)
    link = &(*link)->next;
  *link = gone->next;
}

static void append_lane(cs_bridge *bridge, lane *l) {
  lane **link = &bridge->lanes;
  while (*link)
    link = &(*link)->next;
  l->next = NULL;
  *link = l;
}

static uint64_t earliest_deadline(const lane *l) {
  uint64_t earliest_us = UINT64_MAX;
  for (const forward *f = l->pending; f; f = f->next) {
    if (f->deadline_us < earliest_us) earliest_us = f->deadline_us;
  }
  return earliest_us;
}

/* Waits a slice for the lane's lowest value. CS_OK: *reached holds what the source has come to;
 * CS_TIMEOUT: not yet; else the source failed. */
static cs_status wait_slice(cs_semaphore *from, uint64_t value, uint64_t slice_us,
                            uint64_t *reached, cs_error *error) {
  const cs_status status = cs_semaphore_wait(from, value, slice_us, error);
  if (status != CS_OK && status != CS_TIMEOUT) return status;
  *reached = status == CS_OK ? value : 0;
  uint64_t current = 0;
  const cs_status state = cs_semaphore_query(from, &current, error);
  if (state == CS_OK && current > *reached) *reached = current;
  if (*reached >= value) return CS_OK;
  /* A source that failed with CS_TIMEOUT looks like a wait that timed out: query tells. */
  if (state != CS_OK) return state == CS_TIMEOUT ? CS_FAILED : state;
  return CS_TIMEOUT;
}

/* Unlinks the forwards that are over: all when failed, else those reached or past deadline. */
static forward *collect_done(lane *l, bool failed, uint64_t reached, uint64_t now) {
  forward *done = NULL;
  forward **tail = &done;
  for (forward **link = &l->pending; *link;) {
    forward *f = *link;
    if (failed || f->from_value <= reached || f->deadline_us <= now) {
      *link = f->next;
      f->next = NULL;
      *tail = f;
      tail = &f->next;
    } else {
      link = &f->next;
    }
  }
  return done;
}

/* Passes on what happened and frees the forwards. Called without the lock. */
static void deliver(forward *done, bool failed, uint64_t reached, const cs_error *failure) {
  while (done) {
    forward *f = done;
    done = f->next;
    if (failed) {
      cs_semaphore_fail(f->to, failure, NULL);
    } else if (f->from_value <= reached) {
      cs_semaphore_signal(f->to, f->to_value, NULL);
    } else {
      cs_error late = CS_ERROR_INIT;
      cs_error_set(&late, CS_FAILED, "another device did not reach value %llu by its deadline",
                   (unsigned long long)f->from_value);
      cs_semaphore_fail(f->to, &late, NULL);
    }
    cs_semaphore_release(f->to);
    free(f);
  }
}

/* One slice of one lane; called and left under the lock. */
static void serve_lane(cs_bridge *bridge, lane *l) {
  const uint64_t value = l->pending->from_value;
  const uint64_t deadline_us = earliest_deadline(l);
  uint64_t slice_us = bridge->n_unserved > 0 ? SHORT_SLICE_US : SLICE_US;
  pthread_mutex_unlock(&bridge->mutex);
  const uint64_t begin_us = now_us();
  if (deadline_us - begin_us < slice_us) slice_us = deadline_us - begin_us;
  if (deadline_us <= begin_us) slice_us = 0;
  uint64_t reached = 0;
  cs_error failure = CS_ERROR_INIT;
  const cs_status status = wait_slice(l->from, value, slice_us, &reached, &failure);
  const bool failed = status != CS_OK && status != CS_TIMEOUT;
  pthread_mutex_lock(&bridge->mutex);
  forward *done = collect_done(l, failed, reached, now_us());
  cs_semaphore *released = NULL;
  unlink_lane(bridge, l);
  if (l->pending) {
    l->served = false;
    bridge->n_unserved++;
    append_lane(bridge, l);
  } else {
    released = l->from;
    free(l);
  }
  pthread_mutex_unlock(&bridge->mutex);
  deliver(done, failed, reached, &failure);
  cs_semaphore_release(released);
  pthread_mutex_lock(&bridge->mutex);
}

static void *run_thread(void *argument) {
  cs_bridge *bridge = argument;
  pthread_mutex_lock(&bridge->mutex);
  for (lane *l; (l = take_lane(bridge)) != NULL;)
    serve_lane(bridge, l);
  const bool orphan = bridge->orphan;
  pthread_mutex_unlock(&bridge->mutex);
  if (orphan) free_bridge(bridge);
  return NULL;
}

/* ---- new forwards ---- */

/* The lane of a source, made when there is none; NULL when out of memory. Under the lock. */
static lane *find_lane(cs_bridge *bridge, cs_semaphore *from) {
  for (lane *l = bridge->lanes; l; l = l->next) {
    if (l->from == from) return l;
  }
  lane *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  l->from = from;
  cs_semaphore_retain(from);
  append_lane(bridge, l);
  bridge->n_unserved++;
  return l;
}

static void insert_forward(lane *l, forward *f) {
  forward **link = &l->pending;
  while (*link && (*link)->from_value <= f->from_value)
    link = &(*link)->next;
  f->next = *link;
  *link = f;
}

/* Sees to it that some thread will serve; false when there is none and none can be started. */
static bool wake_thread(cs_bridge *bridge) {
  if (bridge->n_unserved > bridge->n_idle && bridge->n_threads < THREADS_MAX &&
      pthread_create(&bridge->threads[bridge->n_threads], NULL, run_thread, bridge) == 0) {
    bridge->n_threads++;
  }
  pthread_cond_signal(&bridge->work);
  return bridge->n_threads > 0;
}

cs_status cs_bridge_forward(cs_bridge *bridge, cs_semaphore *from, uint64_t from_value,
                            cs_semaphore *to, uint64_t to_value, uint64_t deadline_us,
                            cs_error *error) {
  forward *f = malloc(sizeof *f);
  if (!f) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory to forward a semaphore");
  const uint64_t begin_us = now_us();
  *f = (forward){.to = to,
                 .from_value = from_value,
                 .to_value = to_value,
                 .deadline_us =
                     deadline_us < UINT64_MAX - begin_us ? begin_us + deadline_us : UINT64_MAX};
  pthread_mutex_lock(&bridge->mutex);
  lane *l = find_lane(bridge, from);
  if (!l) goto err_unlock;
  insert_forward(l, f);
  cs_semaphore_retain(to);
  if (!wake_thread(bridge)) goto err_remove_forward;
  pthread_mutex_unlock(&bridge->mutex);
  return CS_OK;

err_remove_forward: /* no thread ever ran, so the lane holds nothing else */
  unlink_lane(bridge, l);
  bridge->n_unserved--;
  free(l);
  cs_semaphore_release(from);
  cs_semaphore_release(to);
err_unlock:
  pthread_mutex_unlock(&bridge->mutex);
  free(f);
  return cs_error_set(error, CS_OUT_OF_MEMORY, "no thread to forward a semaphore");
}
