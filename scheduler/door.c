/* Both roles share one table of parts, since they differ only in who speaks first. A worker answers
 * a stranger twice at most: its HELLO, which holds nothing but a number and a nonce, and a verdict.
 */
#include "scheduler/door.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/message.h"

#define HELLO_BYTES   48
#define VERDICT_BYTES 4
#define CARD_BYTES    (4 + CS_DOOR_KEY_BYTES)
#define VERDICT_WRONG 1
#define VERSION       ((uint32_t)(CS_DOOR_VERSION << 16 | CS_MESSAGE_VERSION))

static const uint8_t magic[8] = {'C', 'O', 'N', 'S', 'O', 'R', 'T', 0x1a};

/* ---- secrets ---- */

static cs_status check_secret(const char *name, const cs_secret *secret, cs_error *error) {
  if (secret->n_bytes == 0)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: the secret is empty", name);
  if (secret->n_bytes == sizeof secret->bytes)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: the secret is longer than %zu bytes", name,
                        sizeof secret->bytes - 1);
  return CS_OK;
}

cs_status cs_secret_read(const char *file, cs_secret *out, cs_error *error) {
  memset(out, 0, sizeof *out);
  if (!file) {
    const char *const given = getenv("CONSORT_SECRET");
    if (!given) return CS_OK;
    out->n_bytes = strnlen(given, sizeof out->bytes);
    memcpy(out->bytes, given, out->n_bytes);
    return check_secret("CONSORT_SECRET", out, error);
  }
  FILE *const stream = fopen(file, "rb");
  if (!stream) return cs_error_set(error, CS_IO, "%s: %s", file, strerror(errno));
  out->n_bytes = fread(out->bytes, 1, sizeof out->bytes, stream);
  const bool failed = ferror(stream) != 0;
  fclose(stream);
  if (failed) return cs_error_set(error, CS_IO, "%s: not readable", file);
  if (out->n_bytes > 0 && out->bytes[out->n_bytes - 1] == '\n') out->n_bytes--;
  return check_secret(file, out, error);
}

/* ---- parts ---- */

static void put_u32(uint8_t *to, uint32_t value) {
  for (int i = 0; i < 4; i++)
    to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *from) {
  return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
         (uint32_t)from[3] << 24;
}

static void say(cs_door *door, const void *bytes, size_t n_bytes) {
  memcpy(door->out + door->out_bytes, bytes, n_bytes);
  door->out_bytes += n_bytes;
}

static void say_hello(cs_door *door) {
  uint8_t hello[HELLO_BYTES] = {0};
  memcpy(hello, magic, sizeof magic);
  put_u32(hello + 8, VERSION);
  memcpy(hello + 16, door->own_nonce, CS_DOOR_NONCE_BYTES);
  say(door, hello, sizeof hello);
}

static void say_card(cs_door *door) {
  uint8_t head[CARD_BYTES];
  put_u32(head, (uint32_t)door->address_bytes);
  memcpy(head + 4, door->own_key, CS_DOOR_KEY_BYTES);
  say(door, head, sizeof head);
  say(door, door->address, door->address_bytes);
}

/* of_worker: whose proof it is. */
static void prove(const cs_door *door, bool of_worker, uint8_t *out) {
  uint8_t message[20 + 2 * CS_DOOR_NONCE_BYTES] = {0};
  memcpy(message, of_worker ? "consort worker" : "consort client", 14);
  put_u32(message + 16, VERSION);
  const bool own_first = door->is_worker == of_worker;
  memcpy(message + 20, own_first ? door->own_nonce : door->other_nonce, CS_DOOR_NONCE_BYTES);
  memcpy(message + 20 + CS_DOOR_NONCE_BYTES, own_first ? door->other_nonce : door->own_nonce,
         CS_DOOR_NONCE_BYTES);
  door->table->prove(door->secret->bytes, door->secret->n_bytes, message, sizeof message, out);
}

void cs_door_init(cs_door *door, const cs_fabric_table *table, const cs_secret *secret,
                  const void *address, size_t address_bytes, const uint8_t *own_key,
                  bool is_worker) {
  memset(door, 0, sizeof *door);
  door->table = table;
  door->secret = secret;
  door->address = address;
  door->address_bytes = address_bytes;
  door->is_worker = is_worker;
  memcpy(door->own_key, own_key, CS_DOOR_KEY_BYTES);
  table->random(door->own_nonce, sizeof door->own_nonce);
  if (!is_worker) say_hello(door);
}

/* How many bytes the next part has: of a card first its head. */
static size_t expected_bytes(const cs_door *door) {
  switch (door->state) {
  case CS_DOOR_HELLO:
    return HELLO_BYTES;
  case CS_DOOR_PROOF:
    return CS_FABRIC_PROOF_BYTES + (door->is_worker ? 0 : VERDICT_BYTES);
  case CS_DOOR_CARD:
    return door->in_bytes < CARD_BYTES ? CARD_BYTES : CARD_BYTES + get_u32(door->in);
  default:
    return 0;
  }
}

static cs_status take_hello(cs_door *door, cs_error *error) {
  if (memcmp(door->in, magic, sizeof magic) != 0)
    return cs_error_set(error, CS_CORRUPT, "the other side is no Consort");
  const uint32_t version = get_u32(door->in + 8);
  memcpy(door->other_nonce, door->in + 16, CS_DOOR_NONCE_BYTES);
  if (door->is_worker) say_hello(door); /* tells also a stranger of another version which we are */
  if (version != VERSION)
    return cs_error_set(error, CS_UNSUPPORTED,
                        "the other side speaks version %u.%u of the protocol, this one %u.%u",
                        version >> 16, version & 0xffff, VERSION >> 16, VERSION & 0xffff);
  if (!door->is_worker) {
    uint8_t proof[CS_FABRIC_PROOF_BYTES];
    prove(door, false, proof);
    say(door, proof, sizeof proof);
  }
  door->state = CS_DOOR_PROOF;
  return CS_OK;
}

static cs_status take_proof(cs_door *door, cs_error *error) {
  uint8_t expected[CS_FABRIC_PROOF_BYTES];
  const uint8_t *const proof = door->in + (door->is_worker ? 0 : VERDICT_BYTES);
  const bool refused = !door->is_worker && get_u32(door->in) != 0;
  prove(door, !door->is_worker, expected);
  const bool right = !refused && door->table->equal(expected, proof, sizeof expected);
  if (door->is_worker) {
    uint8_t verdict[VERDICT_BYTES + CS_FABRIC_PROOF_BYTES] = {0};
    put_u32(verdict, right ? 0 : VERDICT_WRONG);
    if (right) prove(door, true, verdict + VERDICT_BYTES);
    say(door, verdict, sizeof verdict);
  }
  if (!right && refused)
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        "refused: the secret is %s (--secret-file or CONSORT_SECRET)",
                        door->secret->n_bytes ? "wrong" : "missing");
  if (!right)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "the other side does not know the secret");
  if (!door->is_worker) say_card(door);
  door->state = CS_DOOR_CARD;
  return CS_OK;
}

static cs_status take_card(cs_door *door, cs_error *error) {
  const uint32_t bytes = get_u32(door->in);
  if (bytes == 0 || bytes > CS_FABRIC_MAX_ADDRESS_BYTES)
    return cs_error_set(error, CS_CORRUPT, "an address of %u bytes", bytes);
  if (door->in_bytes < CARD_BYTES + bytes) return CS_OK; /* its head alone so far */
  memcpy(door->other_key, door->in + 4, CS_DOOR_KEY_BYTES);
  memcpy(door->other_address, door->in + CARD_BYTES, bytes);
  door->other_address_bytes = bytes;
  if (door->is_worker) say_card(door);
  door->state = CS_DOOR_OPEN;
  return CS_OK;
}

static cs_status take_part(cs_door *door, cs_error *error) {
  switch (door->state) {
  case CS_DOOR_HELLO:
    return take_hello(door, error);
  case CS_DOOR_PROOF:
    return take_proof(door, error);
  case CS_DOOR_CARD:
    return take_card(door, error);
  default:
    return cs_error_set(error, CS_CORRUPT, "bytes after the end of the greeting");
  }
}

cs_status cs_door_take(cs_door *door, const uint8_t *bytes, size_t n_bytes, cs_error *error) {
  while (n_bytes > 0) {
    const size_t missing = expected_bytes(door) - (expected_bytes(door) ? door->in_bytes : 0);
    const size_t n = n_bytes < missing ? n_bytes : missing;
    memcpy(door->in + door->in_bytes, bytes, n);
    door->in_bytes += n;
    bytes += n;
    n_bytes -= n;
    if (n < missing) return CS_OK;
    const cs_door_state before = door->state;
    const cs_status status = take_part(door, error);
    if (status) {
      door->state = CS_DOOR_SHUT;
      return status;
    }
    if (door->state != before) door->in_bytes = 0;
  }
  return CS_OK;
}
