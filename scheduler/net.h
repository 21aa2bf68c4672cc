/* Connections to other processes: cs_link and cs_mailbox over a fabric. One thread does all of the
 * network's work: it sleeps on descriptors, never waits for anything else, and wakes up for beats.
 *
 * A connection has channels. A channel carries frames in order, each into the mailbox that the
 * receiver bound to it, and only of kinds that the receiver allowed there. A sender may have
 * CS_NET_WINDOW_BYTES on their way in a channel; frames that were taken out of the mailbox and
 * destroyed make room again, so a slow receiver holds up its sender and nobody else.
 *
 * Every message carries the key that its receiver made for this connection: one without is dropped
 * before anything in it is read. A frame out of sequence ends the connection.
 *
 * Both sides beat four times a second. A peer that was silent for the time that was set is given
 * up, whatever the fabric says: it may be stopped or cut off and never be reported. */
#ifndef SCHEDULER_NET_H
#define SCHEDULER_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "core/log.h"
#include "scheduler/door.h"
#include "scheduler/transport.h"

#define CS_NET_WINDOW_BYTES    (UINT64_C(16) << 20)
#define CS_NET_MAX_FRAME_BYTES (UINT64_C(1) << 30)
#define CS_NET_MAX_CONNECTIONS 64
#define CS_NET_BEAT_US         UINT64_C(250000)
#define CS_NET_SILENCE_US      UINT64_C(2000000)
#define CS_NET_OPEN_US         UINT64_C(3000000) /* longer than a SYN takes that was lost once */

typedef enum cs_net_channel {
  CS_NET_CONTROL,  /* attaching, peers, devices */
  CS_NET_REQUESTS, /* router and worker */
  CS_NET_KV,       /* pieces */
  CS_NET_CHANNELS
} cs_net_channel;

#define CS_NET_ALLOW(kind) (UINT64_C(1) << (kind))

typedef struct cs_net cs_net;
typedef struct cs_connection cs_connection; /* shared: retain and release */

typedef struct cs_net_options {
  const cs_fabric_table *table;
  const char *listen;  /* "HOST:PORT", port 0 any; NULL: nobody can come */
  cs_secret secret;    /* copied; of those who come */
  bool loopback;       /* reach and be reached on this host alone */
  uint64_t silence_us; /* 0: CONSORT_NET_TIMEOUT_MS, else CS_NET_SILENCE_US */
  cs_log *log;         /* borrowed until destroy; may be NULL */
  /* A process came through the door. Called by the network's thread, which must not wait; the
   * connection is retained by the callee if it keeps it. */
  void (*on_connection)(void *user, cs_connection *connection);
  void *user;
} cs_net_options;

/* CS_INVALID_ARGUMENT for an address that is none, or one that others reach without a secret. */
cs_status cs_net_create(const cs_net_options *options, cs_net **out, cs_error *error);
/* Ends all connections. Nobody may use them any more but to release them. */
void cs_net_destroy(cs_net *net);

/* Where it listens: "127.0.0.1:4242". Borrowed. */
const char *cs_net_listens_on(const cs_net *net);
/* What others join with: borrowed. */
cs_blob cs_net_address(const cs_net *net);

/* Somebody who can be trusted is about to come: lets the fabric's own way in stand open for
 * CS_NET_OPEN_US, in which strangers can reach the library behind it. Free-threaded. */
void cs_net_expect(cs_net *net);

/* "HOST:PORT": whether it is an address of this host alone. */
bool cs_net_is_loopback(const char *address);

/* Goes through the door of the process that listens at `address`. Waits at most timeout_us. One
 * reference is the caller's. */
cs_status cs_net_connect(cs_net *net, const char *address, const cs_secret *secret,
                         uint64_t timeout_us, cs_connection **out, cs_error *error);

/* A connection that somebody arranged whom both sides trust: with the other's address, the key
 * that the other asks for and the one to ask for. Whoever calls first waits for the other: a peer
 * that was never heard is given up after the silence as well. */
cs_status cs_net_join(cs_net *net, cs_blob address, const uint8_t *send_key,
                      const uint8_t *receive_key, cs_connection **out, cs_error *error);

/* ---- connections: free-threaded ---- */

void cs_connection_retain(cs_connection *connection);
void cs_connection_release(cs_connection *connection);

/* Frames of `channel` go to `mailbox` (borrowed until bound anew or closed) when their kind is in
 * `allowed`, a sum of CS_NET_ALLOW. NULL: a frame that comes ends the connection. */
void cs_connection_bind(cs_connection *connection, cs_net_channel channel, cs_mailbox *mailbox,
                        uint64_t allowed);

/* The sending end of a channel: borrowed as long as the connection is held. */
cs_link *cs_connection_link(cs_connection *connection, cs_net_channel channel);

/* What is told once when the connection is lost, with the lock of the connection held: it must not
 * call back. Told at once when that has happened already. `told` NULL: nobody. */
void cs_connection_on_lost(cs_connection *connection,
                           void (*told)(void *user, const cs_error *error), void *user);
/* CS_OK while it is there; else why it is not. */
cs_status cs_connection_status(cs_connection *connection, cs_error *error);

/* Ends it: binds nothing, tells nobody, frees what was not sent. When it returns no mailbox is
 * used any more. */
void cs_connection_close(cs_connection *connection);

/* Who is on the other side, for messages: "127.0.0.1:40312". Borrowed. */
const char *cs_connection_name(const cs_connection *connection);

#endif
