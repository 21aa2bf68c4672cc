/* The fabric itself, both ends in one process, so that every order of events can be had: a way that
 * is given up with data in flight ends what was under way and harms neither process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <malloc.h>

#include "scheduler/fabric.h"

#define N_PARTS  64 /* more than small buffers hold */
#define N_ROUNDS 3000
#define GARBAGE  0x05 /* what freed memory is filled with */

static const cs_fabric_table *table;

/* One process's end. */
typedef struct end {
  cs_fabric *fabric;
  cs_fabric_peer *peer;
  size_t n_arrived;
  size_t n_sent;
  size_t n_broken;
  size_t n_lost;
  uint8_t bytes[CS_FABRIC_PART_BYTES];
} end;

static void *arriving(void *user, const uint8_t *header, size_t bytes, void **token) {
  end *const self = user;
  (void)header;
  *token = self;
  assert_true(bytes <= sizeof self->bytes);
  return self->bytes;
}

static void arrived(void *user, void *token, bool whole) {
  end *const self = user;
  (void)token;
  self->n_arrived += whole;
}

static void sent(void *user, void *token, bool whole) {
  end *const self = user;
  (void)token;
  self->n_sent += whole;
  self->n_broken += !whole;
}

static void lost(void *user, void *peer_user, const char *why) {
  end *const self = user;
  (void)peer_user, (void)why;
  self->n_lost++;
}

static void open_end(end *self) {
  const cs_fabric_options options = {.events = {.user = self,
                                                .arriving = arriving,
                                                .arrived = arrived,
                                                .sent = sent,
                                                .lost = lost},
                                     .loopback = true};
  memset(self, 0, sizeof *self);
  assert_int_equal(table->open(&options, &self->fabric, NULL), CS_OK);
  table->let_in(self->fabric, true);
}

static void connect_to(end *self, const end *other) {
  size_t bytes;
  const void *const address = table->address(other->fabric, &bytes);
  assert_int_equal(table->connect(self->fabric, address, bytes, self, &self->peer, NULL), CS_OK);
}

static void send_bytes(end *self, const void *data, size_t bytes) {
  static const uint8_t header[CS_FABRIC_HEADER_BYTES];
  assert_int_equal(table->send(self->peer, header, data, bytes, self, NULL), CS_OK);
}

static void work(end *self) {
  for (int i = 0; i < N_ROUNDS; i++)
    (void)table->progress(self->fabric);
}

static void tell(const end *self, end *other) {
  uint8_t way[CS_FABRIC_WAY_BYTES];
  const size_t bytes = table->describe(self->peer, way);
  assert_true(bytes <= sizeof way);
  assert_true(table->learn(other->peer, way, bytes));
}

/* Connected both ways, each with one small message from the other. */
static void meet(end *a, end *b) {
  open_end(a);
  open_end(b);
  connect_to(a, b);
  connect_to(b, a);
  send_bytes(a, NULL, 0);
  send_bytes(b, NULL, 0);
  tell(a, b);
  tell(b, a);
  while (a->n_arrived == 0 || b->n_arrived == 0) {
    (void)table->progress(a->fabric);
    (void)table->progress(b->fabric);
  }
}

static void part(end *self) {
  table->disconnect(self->peer);
  self->peer = NULL;
}

/* What `a` sends fills all buffers: the other end takes nothing. */
static void fill(end *a, const uint8_t *data) {
  for (int i = 0; i < N_PARTS; i++)
    send_bytes(a, data, CS_FABRIC_PART_BYTES);
  work(a);
  assert_true(a->n_sent < N_PARTS);
}

static void what_is_under_way_ends_with_the_way(void **state) {
  (void)state;
  static end a, b;
  uint8_t *const data = calloc(1, CS_FABRIC_PART_BYTES);
  meet(&a, &b);
  fill(&a, data);
  part(&a);
  work(&a);
  free(data); /* nobody reads it any more */
  assert_int_equal(a.n_sent + a.n_broken, N_PARTS + 1);
  assert_true(a.n_broken > 0);
  work(&b);
  assert_int_equal(b.n_lost, 1);
  part(&b);
  table->close(a.fabric);
  table->close(b.fabric);
}

/* As when a cable was out for a while: each has given the other up before it hears of that. */
static void both_may_give_up(void **state) {
  (void)state;
  static end a, b;
  uint8_t *const data = calloc(1, CS_FABRIC_PART_BYTES);
  for (int order = 0; order < 4; order++) {
    end *const first = order & 1 ? &a : &b, *const second = order & 1 ? &b : &a;
    meet(&a, &b);
    fill(&a, data);
    if (order & 2) fill(&b, data);
    part(first);
    work(first);
    part(second);
    for (int i = 0; i < 3; i++) {
      work(second);
      work(first);
    }
    assert_int_equal(a.n_sent + a.n_broken, N_PARTS + 1);
    table->close(a.fabric);
    table->close(b.fabric);
  }
  free(data);
}

static void another_way_between_the_same_two_stays(void **state) {
  (void)state;
  static end a, b;
  for (int first = 0; first < 2; first++) {
    meet(&a, &b);
    end a2 = {.fabric = a.fabric}, b2 = {.fabric = b.fabric};
    connect_to(&a2, &b);
    connect_to(&b2, &a);
    send_bytes(&a2, NULL, 0);
    send_bytes(&b2, NULL, 0);
    tell(&a2, &b2);
    tell(&b2, &a2);
    a.n_arrived = b.n_arrived = 0;
    while (a.n_arrived == 0 || b.n_arrived == 0) {
      work(&a);
      work(&b);
    }
    part(first ? &a : &a2);
    work(&a);
    part(first ? &b : &b2);
    work(&b);
    a.n_arrived = b.n_arrived = 0;
    send_bytes(first ? &a2 : &a, NULL, 0);
    send_bytes(first ? &b2 : &b, NULL, 0);
    for (int i = 0; i < N_ROUNDS && (a.n_arrived == 0 || b.n_arrived == 0); i++) {
      work(&a);
      work(&b);
    }
    assert_int_equal(a.n_arrived, 1);
    assert_int_equal(b.n_arrived, 1);
    part(first ? &a2 : &a);
    part(first ? &b2 : &b);
    table->close(a.fabric);
    table->close(b.fabric);
  }
}

int main(void) {
  cs_error error = CS_ERROR_INIT;
  setenv("UCX_TCP_SNDBUF", "64k", 1);
  setenv("UCX_TCP_RCVBUF", "64k", 1);
  if (cs_fabric_find(&table, &error)) {
    printf("skipped: %s\n", error.message);
    return 77;
  }
  mallopt(M_PERTURB, GARBAGE);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_under_way_ends_with_the_way),
      cmocka_unit_test(both_may_give_up),
      cmocka_unit_test(another_way_between_the_same_two_stays),
  };
  return cmocka_run_group_tests_name("fabric", tests, NULL, NULL);
}
