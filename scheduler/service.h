/* What `consort worker` does: offers the devices of this process to sessions in others. Each
 * session that comes gets a worker of its own, and takes it along when it goes. */
#ifndef SCHEDULER_SERVICE_H
#define SCHEDULER_SERVICE_H

#include <stdint.h>

#include "core/runtime.h"
#include "scheduler/net.h"

typedef struct cs_service cs_service;

typedef struct cs_service_options {
  cs_runtime *runtime; /* borrowed until destroy */
  const char *listen;  /* "HOST:PORT" */
  const char *devices; /* "NAME:INDEX,..." (copied); NULL: all */
  const char *model;   /* serve this file alone, wherever the session has its own; NULL: any */
  cs_secret secret;    /* copied */
  uint64_t silence_us; /* of cs_net_options */
  /* For tests: stands between a worker and where it sends KV. NULL: nothing. */
  cs_link *(*wrap_kv)(void *user, cs_link *inner);
  /* For tests: sees what a worker says to its session. */
  cs_link *(*wrap_answers)(void *user, cs_link *inner);
  void *wrap_user;
} cs_service_options;

/* Listens and serves until it is destroyed. CS_NOT_FOUND names a device that is not there. */
cs_status cs_service_create(const cs_service_options *options, cs_service **out, cs_error *error);
/* Ends every session. */
void cs_service_destroy(cs_service *service);
/* "127.0.0.1:4242". Borrowed. */
const char *cs_service_address(const cs_service *service);

#endif
