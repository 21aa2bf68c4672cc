/* The greeting of two processes, with bytes changed, cut, repeated and put in between. The input is
 * a role, a list of changes, and how the stream is cut into pieces. Whatever comes: nothing but the
 * whole right stream opens the door, a shut door stays shut, and what is said fits its room.
 *
 * The keyed hash is a simple one, so that the fuzzer needs no library for it. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "scheduler/door.h"

#define ADDRESS_BYTES   40
#define CARD_HEAD_BYTES 20
#define STREAM_MAX      4096

typedef struct input {
  const uint8_t *data;
  size_t n_bytes;
} input;

static uint8_t take(input *in) {
  if (in->n_bytes == 0) return 0;
  in->n_bytes--;
  return *in->data++;
}

/* ---- a table without a network ---- */

static uint8_t next_random;

static void fake_random(void *out, size_t bytes) {
  memset(out, ++next_random, bytes);
}

static void fake_prove(const void *key, size_t key_bytes, const void *message, size_t message_bytes,
                       uint8_t *out) {
  for (size_t lane = 0; lane < CS_FABRIC_PROOF_BYTES / 8; lane++) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325) + lane;
    for (size_t i = 0; i < key_bytes; i++)
      hash = (hash ^ ((const uint8_t *)key)[i]) * UINT64_C(0x100000001b3);
    for (size_t i = 0; i < message_bytes; i++)
      hash = (hash ^ ((const uint8_t *)message)[i]) * UINT64_C(0x100000001b3);
    memcpy(out + 8 * lane, &hash, 8);
  }
}

static bool fake_equal(const void *a, const void *b, size_t bytes) {
  return memcmp(a, b, bytes) == 0;
}

static const cs_fabric_table table = {
    .version = CS_FABRIC_VERSION, .random = fake_random, .prove = fake_prove, .equal = fake_equal};

/* ---- two sides ---- */

typedef struct side {
  cs_door door;
  uint8_t address[ADDRESS_BYTES];
  uint8_t key[CS_DOOR_KEY_BYTES];
} side;

static void make_side(side *one, const cs_secret *secret, bool is_worker) {
  memset(one->address, is_worker ? 'w' : 'c', sizeof one->address);
  memset(one->key, is_worker ? 'W' : 'C', sizeof one->key);
  cs_door_init(&one->door, &table, secret, one->address, sizeof one->address, one->key, is_worker);
}

/* Gives `to` what `from` has said, in pieces, and remembers it. */
static cs_status pass(side *from, side *to, size_t piece, uint8_t *said, size_t *n_said) {
  uint8_t bytes[sizeof from->door.out];
  const size_t n = from->door.out_bytes;
  FUZZ_CHECK(n <= sizeof bytes);
  memcpy(bytes, from->door.out, n);
  from->door.out_bytes = 0;
  if (said && *n_said + n <= STREAM_MAX) {
    memcpy(said + *n_said, bytes, n);
    *n_said += n;
  }
  cs_status status = CS_OK;
  for (size_t at = 0; at < n && !status; at += piece)
    status = cs_door_take(&to->door, bytes + at, n - at < piece ? n - at : piece, NULL);
  return status;
}

/* What an honest other side of `fuzzed` says, while the two open. */
static size_t honest_stream(bool is_worker, const cs_secret *secret, uint8_t *said) {
  side *const one = malloc(sizeof *one), *const other = malloc(sizeof *other);
  FUZZ_CHECK(one && other);
  size_t n_said = 0;
  next_random = 0;
  make_side(one, secret, is_worker);
  make_side(other, secret, !is_worker);
  for (int round = 0; round < 4; round++) {
    FUZZ_CHECK(pass(other, one, STREAM_MAX, said, &n_said) == CS_OK);
    FUZZ_CHECK(pass(one, other, STREAM_MAX, NULL, NULL) == CS_OK);
  }
  FUZZ_CHECK(one->door.state == CS_DOOR_OPEN && other->door.state == CS_DOOR_OPEN);
  free(one);
  free(other);
  return n_said;
}

/* ---- changes ---- */

static size_t change(input *in, uint8_t *stream, size_t n) {
  const unsigned n_changes = take(in) % 8;
  for (unsigned i = 0; i < n_changes; i++) {
    const unsigned kind = take(in) % 5;
    const size_t at = (take(in) | (size_t)take(in) << 8) % (n + 1);
    const size_t room = STREAM_MAX - n;
    switch (kind) {
    case 0: /* another byte */
      if (at < n) stream[at] ^= take(in);
      break;
    case 1: /* the end is missing */
      n = at;
      break;
    case 2: { /* something is said twice */
      const size_t again = n - at < room ? n - at : room;
      memmove(stream + at + again, stream + at, again);
      n = at + 2 * again;
      break;
    }
    case 3: /* a byte in between */
      if (room == 0) break;
      memmove(stream + at + 1, stream + at, n - at);
      stream[at] = take(in);
      n++;
      break;
    default: /* the fuzzer's own words */
      while (in->n_bytes > 0 && n < STREAM_MAX && take(in) != 0xff)
        stream[n++] = take(in);
    }
  }
  return n;
}

/* Feeds the stream in pieces, each in memory of exactly its size. */
static cs_status feed(cs_door *door, const uint8_t *stream, size_t n, size_t piece,
                      cs_error *error) {
  cs_status status = CS_OK;
  for (size_t at = 0; at < n && !status; at += piece) {
    const size_t length = n - at < piece ? n - at : piece;
    uint8_t *const exact = malloc(length);
    FUZZ_CHECK(exact);
    memcpy(exact, stream + at, length);
    status = cs_door_take(door, exact, length, error);
    free(exact);
    FUZZ_CHECK(door->out_bytes <= sizeof door->out);
  }
  return status;
}

static void check_shut(cs_door *door, const cs_error *error, const uint8_t *honest, size_t n) {
  const size_t out_bytes = door->out_bytes;
  FUZZ_CHECK(error->message[0] && !strchr(error->message, '\n'));
  FUZZ_CHECK(door->state == CS_DOOR_SHUT);
  FUZZ_CHECK(cs_door_take(door, honest, n, NULL) != CS_OK);
  FUZZ_CHECK(door->state == CS_DOOR_SHUT && door->out_bytes == out_bytes);
}

/* Whether all before the card is as it should be: that alone proves the secret, and a card may say
 * anything. Bytes 12 to 15 of a HELLO mean nothing. */
static bool is_proved(const uint8_t *stream, size_t n, const uint8_t *honest, size_t n_honest) {
  const size_t n_proved = n_honest - CARD_HEAD_BYTES - ADDRESS_BYTES;
  return n >= n_proved && memcmp(stream, honest, 12) == 0 &&
         memcmp(stream + 16, honest + 16, n_proved - 16) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  static const cs_secret secret = {.bytes = "an open secret", .n_bytes = 14};
  uint8_t stream[STREAM_MAX], honest[STREAM_MAX];
  input in = {data, n_bytes};
  const uint8_t options = take(&in);
  const bool is_worker = options & 1;
  const size_t n_honest = honest_stream(is_worker, &secret, honest);
  memcpy(stream, honest, n_honest);
  const size_t n = change(&in, stream, n_honest);

  side *const one = malloc(sizeof *one);
  FUZZ_CHECK(one);
  next_random = 0; /* its nonce is the one that the honest stream answers */
  make_side(one, &secret, is_worker);
  cs_error error = CS_ERROR_INIT;
  const cs_status status = feed(&one->door, stream, n, 1 + (options >> 1), &error);
  const cs_door_state state = one->door.state;
  if (state == CS_DOOR_OPEN || state == CS_DOOR_CARD)
    FUZZ_CHECK(is_proved(stream, n, honest, n_honest));
  if (n == n_honest && memcmp(stream, honest, n) == 0) FUZZ_CHECK(state == CS_DOOR_OPEN);
  if (status) check_shut(&one->door, &error, honest, n_honest);
  free(one);
  return 0;
}
