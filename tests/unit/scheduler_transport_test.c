/* Mailboxes: order, bounds, deadlines, closing; from several threads at once. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/transport.h"

static cs_frame *frame_of(size_t bytes, uint8_t first) {
  cs_frame *const frame = cs_frame_create(bytes);
  assert_non_null(frame);
  memset(frame->data, first, bytes);
  return frame;
}

static cs_mailbox *mailbox_of(size_t bytes) {
  cs_mailbox *mailbox;
  assert_int_equal(cs_mailbox_create(bytes, &mailbox, NULL), CS_OK);
  return mailbox;
}

static cs_status send_to(cs_mailbox *mailbox, cs_frame *frame, uint64_t timeout_us,
                         cs_error *error) {
  return cs_link_send(cs_mailbox_link(mailbox), frame, timeout_us, error);
}

static void frames_come_in_order(void **state) {
  (void)state;
  cs_mailbox *const mailbox = mailbox_of(1000);
  for (uint8_t i = 0; i < 5; i++)
    assert_int_equal(send_to(mailbox, frame_of(10, i), 0, NULL), CS_OK);
  for (uint8_t i = 0; i < 5; i++) {
    cs_frame *frame;
    assert_int_equal(cs_mailbox_receive(mailbox, 0, &frame), CS_OK);
    assert_int_equal(frame->data[0], i);
    assert_true(frame->arrived_us > 0);
    cs_frame_destroy(frame);
  }
  cs_mailbox_destroy(mailbox);
}

static void a_full_box_refuses_when_the_deadline_is_over(void **state) {
  (void)state;
  cs_mailbox *const mailbox = mailbox_of(100);
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(send_to(mailbox, frame_of(80, 1), 0, NULL), CS_OK);
  const uint64_t begin_us = cs_now_us();
  assert_int_equal(send_to(mailbox, frame_of(80, 2), 30000, &error), CS_TIMEOUT);
  assert_true(cs_now_us() - begin_us >= 29000);
  assert_int_equal(send_to(mailbox, frame_of(20, 3), 0, NULL), CS_OK);
  cs_mailbox_destroy(mailbox); /* frees what is inside */
}

static void a_frame_larger_than_the_box_fits_an_empty_one(void **state) {
  (void)state;
  cs_mailbox *const mailbox = mailbox_of(100);
  assert_int_equal(send_to(mailbox, frame_of(5000, 1), 0, NULL), CS_OK);
  assert_int_equal(send_to(mailbox, frame_of(1, 1), 0, NULL), CS_TIMEOUT);
  cs_mailbox_destroy(mailbox);
}

static void receiving_has_a_deadline(void **state) {
  (void)state;
  cs_mailbox *const mailbox = mailbox_of(100);
  cs_frame *frame;
  const uint64_t begin_us = cs_now_us();
  assert_int_equal(cs_mailbox_receive(mailbox, 20000, &frame), CS_TIMEOUT);
  assert_true(cs_now_us() - begin_us >= 19000);
  assert_null(frame);
  cs_mailbox_destroy(mailbox);
}

static void a_closed_box_still_gives_what_it_holds(void **state) {
  (void)state;
  cs_mailbox *const mailbox = mailbox_of(100);
  cs_frame *frame;
  assert_int_equal(send_to(mailbox, frame_of(10, 7), 0, NULL), CS_OK);
  cs_mailbox_close(mailbox);
  assert_int_equal(send_to(mailbox, frame_of(10, 8), 1000000, NULL), CS_CANCELLED);
  assert_int_equal(cs_mailbox_receive(mailbox, 0, &frame), CS_OK);
  assert_int_equal(frame->data[0], 7);
  cs_frame_destroy(frame);
  assert_int_equal(cs_mailbox_receive(mailbox, 1000000, &frame), CS_CANCELLED);
  cs_mailbox_destroy(mailbox);
}

#define N_FRAMES 500

static void *send_many(void *argument) {
  cs_mailbox *const mailbox = argument;
  for (int i = 0; i < N_FRAMES; i++)
    if (send_to(mailbox, frame_of(40, (uint8_t)(i % 200)), 5000000, NULL)) return argument;
  return NULL;
}

static void many_senders_and_a_small_box_lose_nothing(void **state) {
  (void)state;
  cs_mailbox *const mailbox = mailbox_of(100);
  pthread_t threads[3];
  for (int i = 0; i < 3; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, send_many, mailbox), 0);
  for (int i = 0; i < 3 * N_FRAMES; i++) {
    cs_frame *frame;
    assert_int_equal(cs_mailbox_receive(mailbox, 5000000, &frame), CS_OK);
    cs_frame_destroy(frame);
  }
  for (int i = 0; i < 3; i++) {
    void *failed;
    pthread_join(threads[i], &failed);
    assert_null(failed);
  }
  cs_mailbox_destroy(mailbox);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(frames_come_in_order),
      cmocka_unit_test(a_full_box_refuses_when_the_deadline_is_over),
      cmocka_unit_test(a_frame_larger_than_the_box_fits_an_empty_one),
      cmocka_unit_test(receiving_has_a_deadline),
      cmocka_unit_test(a_closed_box_still_gives_what_it_holds),
      cmocka_unit_test(many_senders_and_a_small_box_lose_nothing),
  };
  return cmocka_run_group_tests_name("transport", tests, NULL, NULL);
}
