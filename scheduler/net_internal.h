/* What the files of the network share: net.c is its thread and sockets, net_connection.c one
 * connection and what it sends, net_receive.c what comes. Lock order: delivery, mutex. */
#ifndef SCHEDULER_NET_INTERNAL_H
#define SCHEDULER_NET_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "scheduler/net.h"

#define NET_DOORS       32 /* strangers at once */
#define NET_DOOR_US     UINT64_C(5000000)
#define NET_HELD_FRAMES 4096 /* frames that came before one they have to wait for */

#define NET_CREDIT_STEP  (CS_NET_WINDOW_BYTES / 8)
#define NET_SPARE_FRAMES 8
#define NET_SPARE_BYTES  (UINT64_C(2) << 20) /* of the largest that is kept */

typedef enum net_type { NET_FRAME = 1, NET_CREDIT, NET_BEAT } net_type;

typedef struct net_header {
  uint8_t key[CS_DOOR_KEY_BYTES];
  uint64_t value; /* FRAME: its number in the channel; CREDIT: bytes consumed since the beginning */
  uint32_t total; /* FRAME: its bytes */
  uint32_t offset; /* of this part */
  uint8_t type;
  uint8_t channel;
} net_header;

/* The end of a message that stays with its sender; guarded by the connection's mutex. */
typedef struct net_loan {
  cs_blob tail;
  bool over;
  bool whole;
} net_loan;

/* A frame, a beat or a credit on its way in or out. A beat carries what the fabric has to say of
 * the way. */
typedef struct net_transfer {
  struct net_transfer *next;
  cs_connection *connection; /* outgoing: one reference; arriving: one for each open part */
  cs_frame *frame;           /* NULL for beats and credits */
  net_loan *loan;            /* outgoing: what follows the frame; NULL: nothing */
  uint64_t number;
  uint32_t n_open;    /* parts that the fabric has */
  uint32_t n_missing; /* arriving: parts that are not there yet */
  uint8_t channel;
  bool broken; /* outgoing: something did not leave */
  uint32_t n_said;
  uint8_t parts[]; /* of an arriving frame: 1 for each that has begun; of a beat: what it says */
} net_transfer;

typedef struct net_link {
  cs_link link;
  cs_connection *connection; /* whose part it is */
  uint8_t channel;
} net_link;

typedef struct net_channel_state {
  net_link link;
  cs_mailbox *mailbox; /* guarded by delivery, like the next */
  uint64_t allowed;
  uint64_t n_sent; /* frames */
  uint64_t sent_bytes;
  uint64_t credited_bytes; /* of those the other side has consumed */
  uint64_t n_received;     /* frames that were delivered */
  uint64_t received_bytes; /* of frames that have begun to arrive */
  uint64_t consumed_bytes;
  uint64_t told_bytes;    /* of those the other side knows */
  net_transfer *arriving; /* in order of their numbers */
  uint32_t n_arriving;
} net_channel_state;

struct cs_connection {
  atomic_uint references;
  cs_net *net;
  struct cs_connection *next; /* the net's list: its thread's */
  char name[80];
  int socket; /* -1 for a joined one; the net thread's */
  uint8_t send_key[CS_DOOR_KEY_BYTES];
  uint8_t receive_key[CS_DOOR_KEY_BYTES];
  void *address; /* to connect to; owned; the net thread's once adopted, like peer */
  size_t address_bytes;
  cs_fabric_peer *peer;
  pthread_mutex_t delivery; /* who gets frames and who is told; held while they are */
  void (*told)(void *user, const cs_error *error);
  void *told_user;
  pthread_mutex_t mutex; /* guards what follows */
  pthread_cond_t changed;
  net_channel_state channels[CS_NET_CHANNELS];
  net_transfer *outgoing;
  net_transfer *last_outgoing;
  bool met; /* the other has said what the fabric has to know: frames may go */
  bool lost;
  cs_error why;
  bool closed; /* by its owner */
  uint64_t heard_us;
  uint64_t said_us;
  uint32_t n_beats_open;              /* beats that have not left */
  cs_frame *spares[NET_SPARE_FRAMES]; /* to be used again */
  uint32_t n_spares;
};

typedef struct net_door {
  int socket; /* -1: free */
  uint64_t deadline_us;
  char name[80];
  cs_door door;
} net_door;

struct cs_net {
  cs_net_options options;
  char listens_on[80];
  int listener; /* -1: none */
  int wake;     /* eventfd */
  cs_fabric *fabric;
  cs_blob address;
  net_door *doors;            /* NET_DOORS of them, or NULL */
  cs_connection *connections; /* the thread's */
  uint32_t n_connections;
  pthread_t thread;
  pthread_mutex_t mutex;
  cs_connection *incoming; /* guarded by mutex */
  bool stopping;
  uint64_t open_until_us; /* guarded by mutex: the fabric's way in; 0: shut */
  atomic_bool woken;
};

void net_wake(cs_net *net);

/* One that the thread does not know yet. One reference. Takes over the socket unless it fails. */
typedef struct net_connection_options {
  int socket;
  const char *name;
  const uint8_t *send_key;
  const uint8_t *receive_key;
  cs_blob address;
} net_connection_options;
cs_status net_connection_create(cs_net *net, const net_connection_options *options,
                                cs_connection **out, cs_error *error);

/* ---- net_connection.c and net_receive.c; called by the network's thread ---- */

void net_connection_lose(cs_connection *connection, cs_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Sends what waits: frames, credits, a beat when one is due. */
void net_connection_pump(cs_connection *connection, uint64_t now_us);
/* Cuts it from fabric and socket. */
void net_connection_detach(cs_connection *connection);
/* Forgets frames that are not whole, or wait for one before them. */
void net_drop_arriving(cs_connection *connection);

/* The fabric's events; user is the net. */
void *net_on_arriving(void *user, const uint8_t *header, size_t bytes, void **token);
void net_on_arrived(void *user, void *token, bool whole);
void net_on_sent(void *user, void *token, bool whole);
void net_on_lost(void *user, void *peer_user, const char *why);

#endif
