/* A connection and its frames without a network: parts come in any order and make a frame once,
 * each is a sign of life, and what is lent stays with its owner until the last of it has left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/net_internal.h"

#define PART      ((size_t)CS_FABRIC_PART_BYTES)
#define PAYLOAD   (2 * PART + 1000)
#define MAX_SENDS 8

/* ---- a fabric that remembers what it was given ---- */

typedef struct sent_part {
  uint8_t header[CS_FABRIC_HEADER_BYTES];
  const uint8_t *data;
  size_t bytes;
  void *token;
} sent_part;

typedef struct world {
  cs_net net; /* first: the connection's peer is a pointer to it */
  cs_connection *connection;
  cs_mailbox *mailbox;
  sent_part sent[MAX_SENDS];
  size_t n_sent;
} world;

static bool same(const void *a, const void *b, size_t bytes) {
  return memcmp(a, b, bytes) == 0;
}

static cs_status remember(cs_fabric_peer *peer, const void *header, const void *data, size_t bytes,
                          void *token, cs_error *error) {
  world *const w = (world *)peer;
  (void)error;
  assert_true(w->n_sent < MAX_SENDS);
  sent_part *const part = &w->sent[w->n_sent++];
  *part = (sent_part){.data = data, .bytes = bytes, .token = token};
  memcpy(part->header, header, sizeof part->header);
  return CS_OK;
}

static void disconnect(cs_fabric_peer *peer) {
  (void)peer;
}

static size_t describe(const cs_fabric_peer *peer, uint8_t *out) {
  (void)peer;
  out[0] = 'w';
  return 1;
}

static bool learn(cs_fabric_peer *peer, const uint8_t *data, size_t bytes) {
  (void)peer;
  return bytes == 1 && data[0] == 'w';
}

static const cs_fabric_table fabric = {.version = CS_FABRIC_VERSION,
                                       .equal = same,
                                       .send = remember,
                                       .describe = describe,
                                       .learn = learn,
                                       .disconnect = disconnect};

static int set_up(void **state) {
  world *const w = calloc(1, sizeof *w);
  uint8_t key[CS_DOOR_KEY_BYTES] = "the key of test";
  const net_connection_options options = {
      .socket = -1, .name = "peer", .send_key = key, .receive_key = key, .address = {"a", 1}};
  w->net.options.table = &fabric;
  w->net.wake = -1;
  assert_int_equal(net_connection_create(&w->net, &options, &w->connection, NULL), CS_OK);
  assert_int_equal(cs_mailbox_create(1 << 20, &w->mailbox, NULL), CS_OK);
  cs_connection_bind(w->connection, CS_NET_KV, w->mailbox, CS_NET_ALLOW(CS_MESSAGE_KV_PIECE));
  w->connection->peer = (cs_fabric_peer *)w;
  w->connection->met = true;
  w->net.connections = w->connection;
  *state = w;
  return 0;
}

static int tear_down(void **state) {
  world *const w = *state;
  net_connection_detach(w->connection);
  cs_connection_close(w->connection);
  cs_mailbox_destroy(w->mailbox);
  cs_connection_release(w->connection);
  free(w);
  return 0;
}

/* ---- sending ---- */

typedef struct lender {
  world *w;
  uint8_t *payload;
  cs_status status;
  atomic_bool back;
} lender;

static void *lend(void *user) {
  lender *const self = user;
  const cs_message message = {.kind = CS_MESSAGE_KV_PIECE,
                              .piece = {.layer = 3, .payload = {self->payload, PAYLOAD}}};
  self->status = cs_link_send_message(cs_connection_link(self->w->connection, CS_NET_KV), &message,
                                      UINT64_C(1000000), NULL);
  atomic_store(&self->back, true);
  return NULL;
}

/* Starts the sender, and has the thread of the network hand everything to the fabric. */
static void start_lending(lender *self, world *w, pthread_t *thread) {
  *self = (lender){.w = w, .payload = malloc(PAYLOAD)};
  for (size_t i = 0; i < PAYLOAD; i++)
    self->payload[i] = (uint8_t)(i * 7 + i / 251);
  assert_int_equal(pthread_create(thread, NULL, lend, self), 0);
  while (w->n_sent == 0)
    net_connection_pump(w->connection, 0);
}

static void a_lent_payload_stays_until_all_has_left(void **state) {
  world *const w = *state;
  lender self;
  pthread_t thread;
  start_lending(&self, w, &thread);
  assert_int_equal(w->n_sent, 3);
  assert_int_equal(w->sent[0].bytes, PART);
  for (size_t i = 1; i < w->n_sent; i++) /* sent from where it lies */
    assert_true(w->sent[i].data > self.payload && w->sent[i].data < self.payload + PAYLOAD);
  for (size_t i = 0; i < w->n_sent; i++) {
    assert_false(atomic_load(&self.back));
    net_on_sent(&w->net, w->sent[i].token, true);
  }
  pthread_join(thread, NULL);
  assert_int_equal(self.status, CS_OK);
  free(self.payload);
}

static void a_loan_ends_with_the_connection(void **state) {
  world *const w = *state;
  lender self;
  pthread_t thread;
  start_lending(&self, w, &thread);
  net_connection_detach(w->connection);
  assert_false(atomic_load(&self.back)); /* the fabric may still read it */
  for (size_t i = 0; i < w->n_sent; i++)
    net_on_sent(&w->net, w->sent[i].token, false);
  pthread_join(thread, NULL);
  assert_int_not_equal(self.status, CS_OK);
  free(self.payload);
}

/* ---- receiving ---- */

static void *arrive(world *w, const sent_part *part, void **token) {
  void *const to = net_on_arriving(&w->net, part->header, part->bytes, token);
  if (to) memcpy(to, part->data, part->bytes);
  return to;
}

/* Else data could wait in a socket that the other side does not know. */
static void nothing_but_a_beat_goes_before_the_other_was_met(void **state) {
  world *const w = *state;
  const cs_message message = {.kind = CS_MESSAGE_CANCEL};
  void *token;
  w->connection->met = false;
  cs_link *const link = cs_connection_link(w->connection, CS_NET_REQUESTS);
  assert_int_equal(cs_link_send_message(link, &message, 0, NULL), CS_OK);
  net_connection_pump(w->connection, CS_NET_BEAT_US);
  assert_int_equal(w->n_sent, 1);
  assert_int_equal(w->sent[0].bytes, 1); /* the description */
  assert_non_null(arrive(w, &w->sent[0], &token));
  net_on_sent(&w->net, w->sent[0].token, true);
  net_connection_pump(w->connection, CS_NET_BEAT_US + 1);
  assert_int_equal(w->n_sent, 1);
  net_on_arrived(&w->net, token, true);
  net_connection_pump(w->connection, CS_NET_BEAT_US + 2); /* now, and an answer at once */
  assert_int_equal(w->n_sent, 3);
  assert_true(w->sent[1].bytes >= CS_MESSAGE_HEAD_BYTES);
  assert_int_equal(w->sent[2].bytes, 1);
  for (size_t i = 1; i < 3; i++)
    net_on_sent(&w->net, w->sent[i].token, true);
}

static void a_beat_that_is_none_ends_the_connection(void **state) {
  world *const w = *state;
  void *token;
  net_connection_pump(w->connection, CS_NET_BEAT_US);
  uint8_t *const said = arrive(w, &w->sent[0], &token);
  said[0] = 'x';
  net_on_arrived(&w->net, token, true);
  assert_int_equal(cs_connection_status(w->connection, NULL), CS_CORRUPT);
  net_on_sent(&w->net, w->sent[0].token, true);
}

/* What a lender sends comes back to its own connection, in the order of `order`. */
static void bounce(world *w, const lender *self, const size_t *order, size_t n) {
  void *tokens[MAX_SENDS];
  cs_frame *frame;
  cs_message message;
  for (size_t i = 0; i < n; i++) {
    assert_int_equal(cs_mailbox_receive(w->mailbox, 0, &frame), CS_TIMEOUT);
    w->connection->heard_us = 1;
    assert_non_null(arrive(w, &w->sent[order[i]], &tokens[i]));
    assert_true(w->connection->heard_us > 1); /* every part is a sign of life */
    net_on_arrived(&w->net, tokens[i], true);
  }
  assert_int_equal(cs_mailbox_receive(w->mailbox, 0, &frame), CS_OK);
  assert_int_equal(cs_message_decode(frame->data, frame->bytes, &message, NULL), CS_OK);
  assert_int_equal(message.piece.layer, 3);
  assert_int_equal(message.piece.payload.bytes, PAYLOAD);
  assert_memory_equal(message.piece.payload.data, self->payload, PAYLOAD);
  cs_frame_destroy(frame);
}

static void end_lending(world *w, lender *self, pthread_t thread) {
  for (size_t i = 0; i < w->n_sent; i++)
    net_on_sent(&w->net, w->sent[i].token, true);
  pthread_join(thread, NULL);
  free(self->payload);
  w->n_sent = 0;
}

static void parts_in_any_order_make_the_frame(void **state) {
  world *const w = *state;
  const size_t orders[][3] = {
      {0, 1, 2}, {2, 1, 0}, {1, 2, 0}}; /* the second uses the first's memory */
  for (size_t i = 0; i < 3; i++) {
    lender self;
    pthread_t thread;
    start_lending(&self, w, &thread);
    bounce(w, &self, orders[i], 3);
    end_lending(w, &self, thread);
  }
  assert_int_equal(cs_connection_status(w->connection, NULL), CS_OK);
}

static void a_part_that_comes_twice_ends_the_connection(void **state) {
  world *const w = *state;
  lender self;
  pthread_t thread;
  void *token;
  start_lending(&self, w, &thread);
  assert_non_null(arrive(w, &w->sent[1], &token));
  net_on_arrived(&w->net, token, true);
  assert_null(arrive(w, &w->sent[1], &token));
  assert_int_equal(cs_connection_status(w->connection, NULL), CS_CORRUPT);
  end_lending(w, &self, thread);
}

static void a_part_of_another_length_ends_the_connection(void **state) {
  world *const w = *state;
  lender self;
  pthread_t thread;
  void *token;
  start_lending(&self, w, &thread);
  w->sent[1].bytes -= 1;
  assert_null(arrive(w, &w->sent[1], &token));
  assert_int_equal(cs_connection_status(w->connection, NULL), CS_CORRUPT);
  end_lending(w, &self, thread);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(a_lent_payload_stays_until_all_has_left, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_loan_ends_with_the_connection, set_up, tear_down),
      cmocka_unit_test_setup_teardown(nothing_but_a_beat_goes_before_the_other_was_met, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(a_beat_that_is_none_ends_the_connection, set_up, tear_down),
      cmocka_unit_test_setup_teardown(parts_in_any_order_make_the_frame, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_part_that_comes_twice_ends_the_connection, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(a_part_of_another_length_ends_the_connection, set_up,
                                      tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
