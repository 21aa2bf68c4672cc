/* Berths are made when first needed and kept. A place counts the uses of its berth above the
 * berth's number, so that a message which names a use that is over is told from a fresh one. A pair
 * of devices without a direct path, or with one that failed, is remembered: it is asked once. */
#include "scheduler/transfer_dock.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "core/error.h"

#define MAX_PAIRS   8
#define MOMENT_NS   INT64_C(50000000)
#define NUMBER_BITS 4
#define NUMBER_MASK ((1u << NUMBER_BITS) - 1)
#define MAX_USES    (UINT32_MAX >> NUMBER_BITS)

_Static_assert(CS_DOCK_BERTHS < NUMBER_MASK, "a berth's number, counted from 1, fits");

typedef enum berth_state { BERTH_FREE, BERTH_TAKEN, BERTH_CLAIMED } berth_state;

typedef struct berth {
  cs_buffer *buffer; /* on the receiver's device; NULL: not made yet */
  cs_buffer *alias;  /* the same memory on `from`; NULL with the peer path */
  cs_device *from;   /* retained */
  berth_state state;
  uint32_t layer;
  uint32_t n_uses;
} berth;

/* Two devices that have no direct path. */
typedef struct device_pair {
  const cs_device *from, *to;
} device_pair;

struct cs_dock {
  cs_kv_cache *cache;
  pthread_mutex_t mutex;
  pthread_cond_t given;
  berth berths[CS_DOCK_BERTHS];
  device_pair refused[MAX_PAIRS];
  uint32_t n_refused;
};

cs_status cs_dock_create(cs_kv_cache *cache, cs_dock **out, cs_error *error) {
  *out = calloc(1, sizeof **out);
  if (!*out) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for KV transfer");
  (*out)->cache = cache;
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_mutex_init(&(*out)->mutex, NULL);
  pthread_cond_init(&(*out)->given, &attributes);
  pthread_condattr_destroy(&attributes);
  return CS_OK;
}

static void clear(berth *b) {
  cs_buffer_destroy(b->alias);
  cs_buffer_destroy(b->buffer);
  if (b->from) cs_device_release(b->from);
  b->alias = NULL;
  b->buffer = NULL;
  b->from = NULL;
}

void cs_dock_destroy(cs_dock *dock) {
  if (!dock) return;
  for (uint32_t i = 0; i < CS_DOCK_BERTHS; i++)
    clear(&dock->berths[i]);
  pthread_cond_destroy(&dock->given);
  pthread_mutex_destroy(&dock->mutex);
  free(dock);
}

/* ---- under the mutex ---- */

static bool is_refused(const cs_dock *dock, const cs_device *from, const cs_device *to) {
  for (uint32_t i = 0; i < dock->n_refused; i++)
    if (dock->refused[i].from == from && dock->refused[i].to == to) return true;
  return dock->n_refused == MAX_PAIRS; /* what cannot be remembered is not tried */
}

static void refuse(cs_dock *dock, const cs_device *from, const cs_device *to) {
  if (!is_refused(dock, from, to)) dock->refused[dock->n_refused++] = (device_pair){from, to};
}

static bool serves(const berth *b, const cs_device *from, const cs_device *to, uint64_t bytes) {
  return b->buffer && b->from == from && cs_buffer_device(b->buffer) == to &&
         cs_buffer_bytes(b->buffer) >= bytes;
}

/* A free berth: one that serves as it is, else one not made yet, else any. */
static berth *find_free(cs_dock *dock, const cs_device *from, const cs_device *to, uint64_t bytes) {
  berth *found = NULL;
  for (uint32_t i = 0; i < CS_DOCK_BERTHS; i++) {
    berth *const b = &dock->berths[i];
    if (b->state != BERTH_FREE) continue;
    if (serves(b, from, to, bytes)) return b;
    if (!found || (found->buffer && !b->buffer)) found = b;
  }
  return found;
}

static berth *wait_free(cs_dock *dock, const cs_device *from, const cs_device *to, uint64_t bytes) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  const int64_t ns = until.tv_nsec + MOMENT_NS;
  until.tv_sec += (time_t)(ns / 1000000000);
  until.tv_nsec = (long)(ns % 1000000000);
  for (;;) {
    berth *const found = find_free(dock, from, to, bytes);
    if (found) return found;
    if (pthread_cond_timedwait(&dock->given, &dock->mutex, &until) == ETIMEDOUT)
      return find_free(dock, from, to, bytes);
  }
}

static berth *find_place(cs_dock *dock, uint32_t place, berth_state least) {
  const uint32_t number = place & NUMBER_MASK;
  if (number == 0 || number > CS_DOCK_BERTHS) return NULL;
  berth *const b = &dock->berths[number - 1];
  return b->state >= least && b->n_uses == place >> NUMBER_BITS ? b : NULL;
}

/* ---- calls ---- */

/* Makes the berth's buffer, and the sender's view of it where no copy reaches it. */
static cs_status make(berth *b, cs_device *from, cs_device *to, uint64_t bytes, cs_error *error) {
  clear(b);
  cs_status status = cs_buffer_create(to, bytes, CS_MEMORY_DEVICE, &b->buffer, error);
  if (!status && !cs_device_reaches(from, to))
    status = cs_buffer_share(b->buffer, from, &b->alias, error);
  b->from = from;
  cs_device_retain(from);
  if (status) clear(b);
  return status;
}

cs_status cs_dock_take(cs_dock *dock, cs_device *from, uint32_t layer, uint64_t bytes,
                       cs_berth *out, cs_error *error) {
  cs_device *const to = cs_kv_cache_device(dock->cache, layer);
  cs_status status = CS_OK;
  pthread_mutex_lock(&dock->mutex);
  berth *b = NULL;
  if (is_refused(dock, from, to))
    status = cs_error_set(error, CS_UNSUPPORTED, "no direct path from %s to %s",
                          cs_device_name(from), cs_device_name(to));
  else if (!(b = wait_free(dock, from, to, bytes)))
    status = cs_error_set(error, CS_EXHAUSTED, "KV transfer: all berths are in use");
  else if (!serves(b, from, to, bytes))
    status = make(b, from, to, bytes, error);
  if (status && status != CS_EXHAUSTED) refuse(dock, from, to);
  if (!status) {
    b->n_uses = b->n_uses == MAX_USES ? 1 : b->n_uses + 1;
    b->state = BERTH_TAKEN;
    b->layer = layer;
    *out = (cs_berth){.place = b->n_uses << NUMBER_BITS | (uint32_t)(b - dock->berths + 1),
                      .path = b->alias ? CS_KV_PATH_SHARED : CS_KV_PATH_PEER,
                      .target = b->alias ? b->alias : b->buffer};
  }
  pthread_mutex_unlock(&dock->mutex);
  return status;
}

cs_status cs_dock_claim(cs_dock *dock, uint32_t place, uint32_t layer, cs_buffer **buffer,
                        uint32_t *path, cs_error *error) {
  pthread_mutex_lock(&dock->mutex);
  berth *const b = find_place(dock, place, BERTH_TAKEN);
  const bool is_there = b && b->state == BERTH_TAKEN && b->layer == layer;
  if (is_there) {
    b->state = BERTH_CLAIMED;
    *buffer = b->buffer;
    *path = b->alias ? CS_KV_PATH_SHARED : CS_KV_PATH_PEER;
  }
  pthread_mutex_unlock(&dock->mutex);
  return is_there ? CS_OK : cs_error_set(error, CS_CORRUPT, "nothing lies at place %u", place);
}

static void make_free(cs_dock *dock, uint32_t place, berth_state most) {
  pthread_mutex_lock(&dock->mutex);
  berth *const b = find_place(dock, place, BERTH_TAKEN);
  if (b && b->state <= most) {
    b->state = BERTH_FREE;
    pthread_cond_signal(&dock->given);
  }
  pthread_mutex_unlock(&dock->mutex);
}

void cs_dock_drop(cs_dock *dock, uint32_t place) {
  make_free(dock, place, BERTH_TAKEN);
}

void cs_dock_give(cs_dock *dock, uint32_t place) {
  make_free(dock, place, BERTH_CLAIMED);
}

void cs_dock_fail(cs_dock *dock, uint32_t place) {
  pthread_mutex_lock(&dock->mutex);
  berth *const b = find_place(dock, place, BERTH_TAKEN);
  if (b) refuse(dock, b->from, cs_buffer_device(b->buffer));
  pthread_mutex_unlock(&dock->mutex);
}
