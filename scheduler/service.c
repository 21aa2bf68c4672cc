/* A thread a session: it may load weights for minutes while the network's thread goes on beating,
 * and when its connection is lost it gives back everything that the session had - there is nothing
 * else to clean up. */
#include "scheduler/service.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/service_guest.h"
#include "scheduler/worker_build.h"

struct cs_service {
  cs_service_options options;
  char *model;    /* owned copies */
  char **devices; /* whole names, NULL at the end; NULL: all */
  cs_net *net;
  pthread_mutex_t mutex;
  cs_guest *guests; /* guarded by mutex, like the next */
  bool stopping;
};

/* ---- devices ---- */

static bool is_named(char **list, const char *name) {
  for (; *list; list++)
    if (strcmp(*list, name) == 0) return true;
  return false;
}

bool cs_service_offers(const cs_service *service, const char *device) {
  return !service->devices || is_named(service->devices, device);
}

/* Opens each device once, so that what cannot work is told at the start. */
static cs_status resolve_device(cs_service *service, const char *name, char **out,
                                cs_error *error) {
  cs_device *device;
  const cs_status status = cs_worker_open_device(service->options.runtime, name, 0, &device, error);
  if (status) return status;
  *out = strdup(cs_device_name(device));
  cs_device_release(device);
  return *out ? CS_OK : cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a service");
}

static cs_status resolve_devices(cs_service *service, const char *list, cs_error *error) {
  if (!list) return CS_OK;
  size_t n = 2;
  for (const char *at = list; *at; at++)
    n += *at == ',';
  char *const copy = strdup(list);
  service->devices = calloc(n, sizeof *service->devices);
  cs_status status = CS_OK;
  if (!copy || !service->devices)
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a service");
  char *rest = copy;
  for (size_t i = 0; rest && !status; i++)
    status = resolve_device(service, strsep(&rest, ","), &service->devices[i], error);
  free(copy);
  return status;
}

/* ---- guests ---- */

static void reap_guests(cs_service *service, bool all) {
  pthread_mutex_lock(&service->mutex);
  cs_guest *kept = NULL, *over = NULL;
  for (cs_guest *at = service->guests, *next; at; at = next) {
    next = cs_guest_next(at);
    const bool ends = all || cs_guest_is_over(at);
    cs_guest_set_next(at, ends ? over : kept);
    *(ends ? &over : &kept) = at;
  }
  service->guests = kept;
  pthread_mutex_unlock(&service->mutex);
  while (over) {
    cs_guest *const next = cs_guest_next(over);
    cs_guest_destroy(over);
    over = next;
  }
}

void cs_service_use(cs_service *service, const char *device, uint32_t *n_sessions,
                    uint64_t *n_kv_blocks_used) {
  *n_sessions = 0;
  *n_kv_blocks_used = 0;
  pthread_mutex_lock(&service->mutex);
  for (cs_guest *at = service->guests; at; at = cs_guest_next(at))
    cs_guest_add_use(at, device, n_sessions, n_kv_blocks_used);
  pthread_mutex_unlock(&service->mutex);
}

/* Called by the network's thread: guests that are over end at once. */
static void on_connection(void *user, cs_connection *connection) {
  cs_service *const service = user;
  cs_error error = CS_ERROR_INIT;
  reap_guests(service, false);
  const cs_guest_options options = {.service = service,
                                    .runtime = service->options.runtime,
                                    .net = service->net,
                                    .connection = connection,
                                    .model = service->model,
                                    .wrap_kv = service->options.wrap_kv,
                                    .wrap_answers = service->options.wrap_answers,
                                    .wrap_user = service->options.wrap_user};
  cs_guest *guest = NULL;
  pthread_mutex_lock(&service->mutex);
  const cs_status status = service->stopping ? cs_error_set(&error, CS_CANCELLED, "ending")
                                             : cs_guest_create(&options, &guest, &error);
  if (!status) {
    cs_guest_set_next(guest, service->guests);
    service->guests = guest;
  }
  pthread_mutex_unlock(&service->mutex);
  if (!status) return;
  cs_log_write(cs_runtime_log(service->options.runtime), CS_LOG_WARN, "%s: %s",
               cs_connection_name(connection), error.message);
  cs_connection_close(connection);
}

/* ---- life ---- */

static cs_status open_net(cs_service *service, cs_error *error) {
  const cs_fabric_table *table;
  const cs_status status = cs_fabric_find(&table, error);
  if (status) return status;
  const cs_net_options options = {.table = table,
                                  .listen = service->options.listen,
                                  .secret = service->options.secret,
                                  .loopback = cs_net_is_loopback(service->options.listen),
                                  .silence_us = service->options.silence_us,
                                  .log = cs_runtime_log(service->options.runtime),
                                  .on_connection = on_connection,
                                  .user = service};
  /* on_connection needs service->net: it waits for the mutex until that is set. */
  pthread_mutex_lock(&service->mutex);
  const cs_status created = cs_net_create(&options, &service->net, error);
  pthread_mutex_unlock(&service->mutex);
  return created;
}

cs_status cs_service_create(const cs_service_options *options, cs_service **out, cs_error *error) {
  *out = NULL;
  cs_service *const service = calloc(1, sizeof *service);
  if (!service) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a service");
  service->options = *options;
  pthread_mutex_init(&service->mutex, NULL);
  cs_status status = CS_OK;
  if (options->model && !(service->model = strdup(options->model)))
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a service");
  if (!status) status = resolve_devices(service, options->devices, error);
  if (!status) status = open_net(service, error);
  if (status) {
    cs_service_destroy(service);
    return status;
  }
  *out = service;
  return CS_OK;
}

void cs_service_destroy(cs_service *service) {
  if (!service) return;
  pthread_mutex_lock(&service->mutex);
  service->stopping = true;
  pthread_mutex_unlock(&service->mutex);
  reap_guests(service, true);
  cs_net_destroy(service->net);
  for (char **at = service->devices; at && *at; at++)
    free(*at);
  free(service->devices);
  free(service->model);
  memset(&service->options.secret, 0, sizeof service->options.secret);
  pthread_mutex_destroy(&service->mutex);
  free(service);
}

const char *cs_service_address(const cs_service *service) {
  return cs_net_listens_on(service->net);
}
