/* The door: what two processes say to each other on a plain TCP connection before they trust each
 * other, as a machine without input or output of its own: bytes go in, bytes come out.
 *
 *   client                               worker
 *   HELLO  magic, version, nonce  ---->                        48 bytes
 *                                 <----  HELLO                 48
 *   PROOF  of the secret          ---->                        32
 *                                 <----  VERDICT and PROOF     36
 *   CARD   key, address           ---->                        20 + address
 *                                 <----  CARD
 *
 * Every part has a fixed size until the proof is right, so nothing a stranger says is parsed. A
 * proof is a hash of both nonces and the version under the shared secret: the secret itself never
 * travels, both sides prove it, and no proof is right twice. After the cards the TCP connection is
 * silent; it only tells when the other process ends. */
#ifndef SCHEDULER_DOOR_H
#define SCHEDULER_DOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/fabric.h"

#define CS_DOOR_VERSION     3 /* with CS_MESSAGE_VERSION: what is compared */
#define CS_DOOR_NONCE_BYTES 32
#define CS_DOOR_KEY_BYTES   16
#define CS_DOOR_PART_BYTES  (20 + CS_FABRIC_MAX_ADDRESS_BYTES) /* the longest */

/* A shared secret. n_bytes 0: none, which is a secret like another. */
typedef struct cs_secret {
  uint8_t bytes[1024];
  size_t n_bytes;
} cs_secret;

/* From the file, or with file NULL from the environment variable CONSORT_SECRET, or none. One line
 * feed at the end of a file does not count. CS_IO, or CS_INVALID_ARGUMENT for an empty file or a
 * secret that is too long. */
cs_status cs_secret_read(const char *file, cs_secret *out, cs_error *error);

typedef enum cs_door_state {
  CS_DOOR_HELLO, /* what is expected next */
  CS_DOOR_PROOF,
  CS_DOOR_CARD,
  CS_DOOR_OPEN,
  CS_DOOR_SHUT
} cs_door_state;

typedef struct cs_door {
  const cs_fabric_table *table; /* borrowed, like the next three */
  const cs_secret *secret;
  const void *address;
  size_t address_bytes;
  uint8_t own_key[CS_DOOR_KEY_BYTES];
  bool is_worker;
  cs_door_state state;
  uint8_t own_nonce[CS_DOOR_NONCE_BYTES];
  uint8_t other_nonce[CS_DOOR_NONCE_BYTES];
  uint8_t in[CS_DOOR_PART_BYTES];
  size_t in_bytes;
  uint8_t out[2 * CS_DOOR_PART_BYTES]; /* to be sent: the caller takes from the front */
  size_t out_bytes;
  /* Valid when OPEN. */
  uint8_t other_key[CS_DOOR_KEY_BYTES];
  size_t other_address_bytes;
  uint8_t other_address[CS_FABRIC_MAX_ADDRESS_BYTES];
} cs_door;

/* own_key: what the other side has to put on its messages. */
void cs_door_init(cs_door *door, const cs_fabric_table *table, const cs_secret *secret,
                  const void *address, size_t address_bytes, const uint8_t *own_key,
                  bool is_worker);

/* Takes bytes from the other side. What is to be sent stands in `out` also on failure: then it is
 * the last word. CS_CORRUPT for what is none of the above, CS_UNSUPPORTED for another version,
 * CS_INVALID_ARGUMENT for a wrong secret; the state is SHUT then. */
cs_status cs_door_take(cs_door *door, const uint8_t *bytes, size_t n_bytes, cs_error *error);

#endif
