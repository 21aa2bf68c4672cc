/* What the network needs from libraries outside: moving messages between processes, and a keyed
 * hash. One module (libconsort-ucx.so) holds both and is opened with dlopen, for two reasons: a
 * machine without these libraries runs local placements all the same; and the library that moves
 * messages hooks the allocator of its process when it is loaded, which a program that does not
 * use it should not have to bear.
 *
 * Everything but the functions of the keyed hash is called by one thread at a time. */
#ifndef SCHEDULER_FABRIC_H
#define SCHEDULER_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

#define CS_FABRIC_VERSION           4
#define CS_FABRIC_HEADER_BYTES      40
#define CS_FABRIC_PART_BYTES        65536 /* what a fabric moves best at a time */
#define CS_FABRIC_PROOF_BYTES       32
#define CS_FABRIC_MAX_ADDRESS_BYTES 8192
#define CS_FABRIC_WAY_BYTES         321

typedef struct cs_fabric cs_fabric;           /* one process's end */
typedef struct cs_fabric_peer cs_fabric_peer; /* a way to another process */

/* Called from within progress, send and close. */
typedef struct cs_fabric_events {
  void *user;
  /* A message with `bytes` of data has begun to arrive. Returns where they go and sets *token;
   * `arrived` follows once, with whole false when something came in between. NULL: dropped, and
   * nothing follows. `header` is borrowed until the return. */
  void *(*arriving)(void *user, const uint8_t *header, size_t bytes, void **token);
  void (*arrived)(void *user, void *token, bool whole);
  /* The data of a message are not needed any more. */
  void (*sent)(void *user, void *token, bool whole);
  /* A hint: some failures are never told. The peer still has to be disconnected. */
  void (*lost)(void *user, void *peer_user, const char *why);
} cs_fabric_events;

typedef struct cs_fabric_options {
  cs_fabric_events events;
  bool loopback; /* listens on no other interface than the host's own */
} cs_fabric_options;

typedef struct cs_fabric_table {
  uint32_t version; /* CS_FABRIC_VERSION */
  cs_status (*open)(const cs_fabric_options *options, cs_fabric **out, cs_error *error);
  /* Ends what is under way. */
  void (*close)(cs_fabric *fabric);
  /* What another process connects with: borrowed until close. */
  const void *(*address)(const cs_fabric *fabric, size_t *bytes);
  /* Readable after a successful `arm` when there is something to do. */
  int (*descriptor)(const cs_fabric *fabric);
  /* Does what there is to do; false when it was nothing. */
  bool (*progress)(cs_fabric *fabric);
  /* True: sleep on the descriptor. False: there is something to do. */
  bool (*arm)(cs_fabric *fabric);
  cs_status (*connect)(cs_fabric *fabric, const void *address, size_t bytes, void *peer_user,
                       cs_fabric_peer **out, cs_error *error);
  /* What the other process has to know of this way to find its end of it: at most
   * CS_FABRIC_WAY_BYTES, and what the other said of it, which is checked. Before both have learned,
   * nothing may be sent over it but this. */
  size_t (*describe)(const cs_fabric_peer *peer, uint8_t *out);
  bool (*learn)(cs_fabric_peer *peer, const uint8_t *data, size_t bytes);
  /* By force: what is under way ends with whole false, within later calls. */
  void (*disconnect)(cs_fabric_peer *peer);
  /* header: CS_FABRIC_HEADER_BYTES, copied. `data` stays until `sent`, which comes once if this
   * returns CS_OK, perhaps before the return, and never otherwise. */
  cs_status (*send)(cs_fabric_peer *peer, const void *header, const void *data, size_t bytes,
                    void *token, cs_error *error);

  /* Whether others may come to where it is reached by: at first they may not. What is established
   * stays. By any thread, one at a time. */
  void (*let_in)(cs_fabric *fabric, bool open);

  /* ---- the keyed hash; free-threaded ---- */
  cs_status (*hash_init)(cs_error *error); /* once before the others */
  void (*random)(void *out, size_t bytes);
  /* A hash of `message` under `key` (of any length): CS_FABRIC_PROOF_BYTES. */
  void (*prove)(const void *key, size_t key_bytes, const void *message, size_t message_bytes,
                uint8_t *out);
  /* In constant time. */
  bool (*equal)(const void *a, const void *b, size_t bytes);
  void (*wipe)(void *data, size_t bytes);
} cs_fabric_table;

/* The one symbol of the module. */
#define CS_FABRIC_SYMBOL "cs_fabric_query"
typedef const cs_fabric_table *(*cs_fabric_query_fn)(void);

/* Opens the module beside this library, once a process: it cannot be taken out again.
 * CS_UNSUPPORTED says in one line why there is none. Free-threaded. */
cs_status cs_fabric_find(const cs_fabric_table **out, cs_error *error);

#endif
