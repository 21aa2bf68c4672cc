/* What a fabric may hand to a connection: any headers, any lengths, frames in any parts, that end
 * before others or break off, with the right key and with wrong ones. Frames reach the mailbox in
 * sequence and of allowed kinds only, what is held stays within the window, and nothing is left in
 * the end. */
#include "fuzz.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/net_internal.h"

#define N_TOKENS  16
#define MAX_PARTS 4
#define MAX_BYTES ((MAX_PARTS + 1) * CS_FABRIC_PART_BYTES)
#define ALLOWED   (CS_NET_ALLOW(CS_MESSAGE_KV_PIECE) | CS_NET_ALLOW(CS_MESSAGE_CANCEL))

typedef struct input {
  const uint8_t *data;
  size_t n_bytes;
} input;

static uint8_t take(input *in) {
  if (in->n_bytes == 0) return 0;
  in->n_bytes--;
  return *in->data++;
}

/* ---- a fabric that keeps nothing ---- */

static bool fake_equal(const void *a, const void *b, size_t bytes) {
  return memcmp(a, b, bytes) == 0;
}

static cs_status fake_send(cs_fabric_peer *peer, const void *header, const void *data, size_t bytes,
                           void *token, cs_error *error) {
  (void)header, (void)data, (void)bytes, (void)error;
  net_on_sent(peer, token, true);
  return CS_OK;
}

static void fake_disconnect(cs_fabric_peer *peer) {
  (void)peer;
}

static size_t fake_describe(const cs_fabric_peer *peer, uint8_t *out) {
  (void)peer;
  memset(out, 'w', CS_FABRIC_WAY_BYTES);
  return CS_FABRIC_WAY_BYTES;
}

static bool fake_learn(cs_fabric_peer *peer, const uint8_t *data, size_t bytes) {
  (void)peer;
  FUZZ_CHECK(bytes > 0 && bytes <= CS_FABRIC_WAY_BYTES);
  return data[0] < 128;
}

static const cs_fabric_table table = {.version = CS_FABRIC_VERSION,
                                      .equal = fake_equal,
                                      .send = fake_send,
                                      .describe = fake_describe,
                                      .learn = fake_learn,
                                      .disconnect = fake_disconnect};

void net_wake(cs_net *net) {
  (void)net;
}

/* ---- one connection ---- */

typedef struct world {
  cs_net net;
  cs_connection *connection;
  cs_mailbox *mailbox;
  void *tokens[N_TOKENS];
  size_t n_tokens;
  uint64_t n_delivered;
} world;

static void make_world(world *w) {
  memset(w, 0, sizeof *w);
  w->net.options.table = &table;
  uint8_t key[CS_DOOR_KEY_BYTES];
  memset(key, 'k', sizeof key);
  const net_connection_options options = {
      .socket = -1, .name = "peer", .send_key = key, .receive_key = key, .address = {"a", 1}};
  FUZZ_CHECK(net_connection_create(&w->net, &options, &w->connection, NULL) == CS_OK);
  FUZZ_CHECK(cs_mailbox_create(1 << 20, &w->mailbox, NULL) == CS_OK);
  w->connection->peer = (cs_fabric_peer *)&w->net; /* never looked into */
  cs_connection_bind(w->connection, CS_NET_REQUESTS, w->mailbox, ALLOWED);
  w->net.connections = w->connection;
}

/* Takes out what has come, in order: each frame carries its number as its request. */
static void drain(world *w) {
  cs_frame *frame;
  while (cs_mailbox_receive(w->mailbox, 0, &frame) == CS_OK) {
    cs_message message;
    const uint32_t kind = (uint32_t)frame->data[6] | (uint32_t)frame->data[7] << 8;
    FUZZ_CHECK(kind < 64 && (ALLOWED & CS_NET_ALLOW(kind)));
    FUZZ_CHECK(frame->data[CS_MESSAGE_HEAD_BYTES - 1] == (uint8_t)w->n_delivered);
    w->n_delivered++;
    (void)cs_message_decode(frame->data, frame->bytes, &message, NULL);
    cs_frame_destroy(frame);
  }
}

static void put_integer(uint8_t *to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++)
    to[i] = (uint8_t)(value >> (8 * i));
}

static void fill(input *in, uint8_t *to, size_t bytes, uint32_t offset, uint8_t number) {
  const size_t n = bytes < in->n_bytes ? bytes : in->n_bytes;
  memset(to, 0, bytes);
  memcpy(to, in->data, n);
  in->data += n;
  in->n_bytes -= n;
  const size_t marked = CS_MESSAGE_HEAD_BYTES - 1;
  if (offset <= marked && marked - offset < bytes) to[marked - offset] = number;
}

static void arrive(world *w, input *in) {
  uint8_t header[CS_FABRIC_HEADER_BYTES] = {0};
  uint8_t *const fields = header + CS_DOOR_KEY_BYTES;
  const uint8_t shape = take(in);
  memset(header, shape & 1 ? 'x' : 'k', CS_DOOR_KEY_BYTES);
  fields[0] = take(in); /* its number, of which the lowest byte is remembered */
  if (shape & 2) fields[take(in) % 8] = take(in);
  fields[16] = shape & 4 ? take(in) : NET_FRAME;
  fields[17] = shape & 8 ? take(in) : CS_NET_REQUESTS;
  uint32_t total = CS_MESSAGE_HEAD_BYTES + take(in);
  if (shape & 16) total = take(in);
  if (shape & 32) total = (uint32_t)(SIZE_MAX >> (take(in) % 64));
  uint32_t offset = 0;
  if (shape & 64) {
    if (total < UINT32_MAX / 2) total += take(in) % MAX_PARTS * CS_FABRIC_PART_BYTES;
    const uint8_t part = take(in);
    offset = part % MAX_PARTS * CS_FABRIC_PART_BYTES + (part >> 6);
  }
  const uint32_t rest = offset < total ? total - offset : 0;
  size_t bytes = rest < CS_FABRIC_PART_BYTES ? rest : CS_FABRIC_PART_BYTES;
  if (shape & 128) bytes = take(in);
  put_integer(fields + 8, total, 4);
  put_integer(fields + 12, offset, 4);
  if (w->n_tokens == N_TOKENS || (total > MAX_BYTES && total <= CS_NET_MAX_FRAME_BYTES)) return;
  void *token = NULL;
  uint8_t *const to = net_on_arriving(&w->net, header, bytes, &token);
  if (!to) return;
  const bool is_frame = fields[16] == NET_FRAME;
  FUZZ_CHECK(token && !(shape & 1));
  FUZZ_CHECK(!is_frame ||
             (total >= CS_MESSAGE_HEAD_BYTES && bytes <= total && offset <= total - bytes));
  fill(in, to, bytes, is_frame ? offset : UINT32_MAX, fields[0]);
  w->tokens[w->n_tokens++] = token;
}

static void end_one(world *w, size_t which, bool whole) {
  void *const token = w->tokens[which];
  w->tokens[which] = w->tokens[--w->n_tokens];
  net_on_arrived(&w->net, token, whole);
}

static void check_held(const world *w) {
  for (int i = 0; i < CS_NET_CHANNELS; i++) {
    const net_channel_state *const channel = &w->connection->channels[i];
    FUZZ_CHECK(channel->received_bytes - channel->consumed_bytes <=
               CS_NET_WINDOW_BYTES + CS_NET_MAX_FRAME_BYTES);
    FUZZ_CHECK(channel->credited_bytes <= channel->sent_bytes);
  }
}

static void finish_world(world *w) {
  net_connection_detach(w->connection);
  while (w->n_tokens > 0)
    end_one(w, 0, true); /* as the fabric does after a disconnect */
  cs_connection_close(w->connection);
  cs_mailbox_destroy(w->mailbox);
  cs_connection_release(w->connection);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  input in = {data, n_bytes};
  world w;
  make_world(&w);
  while (in.n_bytes > 0) {
    const uint8_t what = take(&in);
    if (what % 4 == 0 && w.n_tokens > 0)
      end_one(&w, (what >> 3) % w.n_tokens, !(what & 4));
    else if (what % 4 == 1)
      drain(&w);
    else if (what % 4 == 2)
      net_connection_pump(w.connection, what * CS_NET_BEAT_US);
    else
      arrive(&w, &in);
    check_held(&w);
  }
  drain(&w);
  finish_world(&w);
  return 0;
}
