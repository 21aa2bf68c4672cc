/* A worker in another process, as a session sees it: two links that stay the same while the
 * connection behind them may be lost and made again. Used by one thread at a time, but for the
 * links, which are free-threaded. */
#ifndef SCHEDULER_REMOTE_H
#define SCHEDULER_REMOTE_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/net.h"

#define CS_REMOTE_NAME_BYTES 192

typedef struct cs_remote cs_remote;

/* Whether a device's name is "HOST:PORT/DEVICE". */
bool cs_remote_is_name(const char *name);
/* Its two parts, each into CS_REMOTE_NAME_BYTES. CS_INVALID_ARGUMENT. */
cs_status cs_remote_split(const char *name, char *address, char *device, cs_error *error);

typedef struct cs_remote_options {
  const char *name; /* copied */
  cs_net *net;      /* borrowed until destroy, like the next two */
  const cs_secret *secret;
  cs_mailbox *answers;      /* where answers go, and PEER_LOST when it is gone */
  cs_attach_message attach; /* but for the device; blobs are borrowed until destroy */
  void (*progress)(void *user, const char *device, uint64_t bytes_done, uint64_t bytes_total);
  void *progress_user;
} cs_remote_options;

/* Connects to nobody yet. */
cs_status cs_remote_create(const cs_remote_options *options, cs_remote **out, cs_error *error);
void cs_remote_destroy(cs_remote *remote);
/* Its links tell CS_CANCELLED from now on. NULL is fine. */
void cs_remote_disconnect(cs_remote *remote);

/* Connects and asks for a worker; then waits until it is there. Two calls, so that two processes
 * load at once. Again after a loss. Errors name the worker. */
cs_status cs_remote_begin(cs_remote *remote, cs_error *error);
cs_status cs_remote_finish(cs_remote *remote, cs_error *error);
/* CS_OK while it is there. */
cs_status cs_remote_status(cs_remote *remote, cs_error *error);

/* From now on `from` sends KV as peer `slot` to `to`, or with `to` NULL to the mailbox `here` of
 * this process (borrowed until destroy), which is told PEER_LOST, too. */
cs_status cs_remote_meet(cs_remote *from, cs_remote *to, cs_mailbox *here, uint32_t slot,
                         cs_error *error);

cs_link *cs_remote_requests(cs_remote *remote); /* borrowed until destroy */
cs_link *cs_remote_kv(cs_remote *remote);

/* "HOST:PORT/NAME:INDEX". Borrowed. */
const char *cs_remote_name(const cs_remote *remote);

/* What the device does not do itself. Texts live as long as the remote is not begun again. */
typedef struct cs_remote_fallback {
  uint32_t op;
  uint32_t count;
  uint64_t bytes_per_token;
  char device[64];
  char reason[160];
} cs_remote_fallback;
size_t cs_remote_n_fallbacks(const cs_remote *remote);
const cs_remote_fallback *cs_remote_fallbacks(const cs_remote *remote);

/* Asks whoever listens at `address` for its devices: told is called for each. */
cs_status cs_remote_devices(cs_net *net, const char *address, const cs_secret *secret,
                            cs_status (*told)(void *user, const cs_device_message *device),
                            void *user, cs_error *error);

#endif
