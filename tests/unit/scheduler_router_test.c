/* The router alone, between mailboxes: the test plays the worker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/router.h"

#define BOX_BYTES   4096
#define DEADLINE_US 5000000
#define WORKER      7

typedef struct stage {
  cs_mailbox *inbox;  /* the router's */
  cs_mailbox *worker; /* what it asks the worker */
  cs_router *router;
  uint64_t request;
  uint32_t epoch;
} stage;

/* A router that has asked its only worker for three tokens. */
static stage open_stage(void) {
  static const int32_t prompt[] = {1, 2, 3};
  stage s = {0};
  assert_int_equal(cs_mailbox_create(BOX_BYTES, &s.inbox, NULL), CS_OK);
  assert_int_equal(cs_mailbox_create(BOX_BYTES, &s.worker, NULL), CS_OK);
  const cs_router_options options = {
      .inbox = s.inbox, .decode = cs_mailbox_link(s.worker), .decode_number = WORKER};
  assert_int_equal(cs_router_create(&options, &s.router, NULL), CS_OK);
  const cs_router_request request = {
      .tokens = prompt, .n_tokens = 3, .n_output = 3, .sampler = CS_SAMPLER_GREEDY};
  assert_int_equal(cs_router_submit(s.router, &request, &s.request, NULL), CS_OK);
  cs_frame *frame;
  cs_message asked;
  assert_int_equal(cs_mailbox_receive(s.worker, DEADLINE_US, &frame), CS_OK);
  assert_int_equal(cs_message_decode(frame->data, frame->bytes, &asked, NULL), CS_OK);
  assert_int_equal(asked.kind, CS_MESSAGE_DECODE);
  assert_int_equal(asked.request, s.request);
  s.epoch = asked.epoch;
  cs_frame_destroy(frame);
  return s;
}

static void close_stage(stage *s) {
  cs_router_destroy(s->router);
  cs_mailbox_destroy(s->inbox);
  cs_mailbox_destroy(s->worker);
}

static void answer(const stage *s, cs_message message) {
  message.request = message.request ? message.request : s->request;
  message.sender = WORKER;
  assert_int_equal(cs_link_send_message(cs_mailbox_link(s->inbox), &message, DEADLINE_US, NULL),
                   CS_OK);
}

static void answer_token(const stage *s, uint32_t epoch, uint32_t index, int32_t token) {
  answer(s, (cs_message){.kind = CS_MESSAGE_TOKEN,
                         .epoch = epoch,
                         .token = {.index = index, .token = token}});
}

static void expect_token(const stage *s, uint32_t index, int32_t token) {
  cs_router_event event;
  assert_int_equal(cs_router_next(s->router, DEADLINE_US, &event), CS_OK);
  assert_int_equal(event.kind, CS_ROUTER_TOKEN);
  assert_int_equal(event.request, s->request);
  assert_int_equal(event.index, index);
  assert_int_equal(event.token, token);
}

static void answers_to_another_attempt_are_dropped(void **state) {
  (void)state;
  stage s = open_stage();
  cs_router_event event;
  answer_token(&s, s.epoch + 1, 0, 90);
  answer_token(&s, s.epoch - 1, 0, 91);
  answer(&s, (cs_message){.kind = CS_MESSAGE_DONE, .epoch = s.epoch + 1});
  answer(&s, (cs_message){.kind = CS_MESSAGE_DONE, .epoch = s.epoch, .request = s.request + 1});
  assert_int_equal(cs_router_next(s.router, 20000, &event), CS_TIMEOUT);
  answer_token(&s, s.epoch, 0, 40);
  expect_token(&s, 0, 40);
  answer(&s, (cs_message){.kind = CS_MESSAGE_DONE, .epoch = s.epoch});
  assert_int_equal(cs_router_next(s.router, DEADLINE_US, &event), CS_OK);
  assert_int_equal(event.kind, CS_ROUTER_FINISHED);
  close_stage(&s);
}

static void a_lost_token_ends_the_request(void **state) {
  (void)state;
  stage s = open_stage();
  cs_router_event event;
  answer_token(&s, s.epoch, 0, 40);
  expect_token(&s, 0, 40);
  answer_token(&s, s.epoch, 2, 42);
  answer(&s, (cs_message){.kind = CS_MESSAGE_DONE, .epoch = s.epoch});
  assert_int_equal(cs_router_next(s.router, DEADLINE_US, &event), CS_OK);
  assert_int_equal(event.kind, CS_ROUTER_FAILED);
  assert_non_null(strstr(event.error.message, "token 2 came where 1 was next"));
  close_stage(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(answers_to_another_attempt_are_dropped),
      cmocka_unit_test(a_lost_token_ends_the_request),
  };
  return cmocka_run_group_tests_name("router", tests, NULL, NULL);
}
