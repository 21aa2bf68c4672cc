/* One session that came to a service, and what it has there. */
#ifndef SCHEDULER_SERVICE_GUEST_H
#define SCHEDULER_SERVICE_GUEST_H

#include <stdbool.h>

#include "scheduler/service.h"

typedef struct cs_guest cs_guest;

typedef struct cs_guest_options {
  cs_service *service; /* borrowed until destroy, like all below but the connection */
  cs_runtime *runtime;
  cs_net *net;
  cs_connection *connection; /* retained */
  const char *model;
  cs_link *(*wrap_kv)(void *user, cs_link *inner);
  cs_link *(*wrap_answers)(void *user, cs_link *inner);
  void *wrap_user;
} cs_guest_options;

/* Starts its thread. */
cs_status cs_guest_create(const cs_guest_options *options, cs_guest **out, cs_error *error);
/* Whether its session is gone and everything it had is free: destroying it does not wait then. */
bool cs_guest_is_over(cs_guest *guest);
/* Sends the session away if it is still there, and waits for the thread. */
void cs_guest_destroy(cs_guest *guest);

/* Adds its worker's share of a device's use, if it has one there. Free-threaded. */
void cs_guest_add_use(cs_guest *guest, const char *device, uint32_t *n_sessions,
                      uint64_t *n_kv_blocks_used);

/* For the list of its service. */
cs_guest *cs_guest_next(const cs_guest *guest);
void cs_guest_set_next(cs_guest *guest, cs_guest *next);

/* ---- service.c ---- */

/* Whether "NAME:INDEX" may be used. */
bool cs_service_offers(const cs_service *service, const char *device);
/* Of all its guests. Free-threaded. */
void cs_service_use(cs_service *service, const char *device, uint32_t *n_sessions,
                    uint64_t *n_kv_blocks_used);

#endif
