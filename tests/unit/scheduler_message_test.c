/* Messages: what is written is read again; bytes that are cut, changed or made up never are more
 * than an error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "scheduler/message.h"

static const int32_t tokens[] = {1, 403, 7, -1, INT32_MAX};
static const uint8_t payload[] = "0123456789abcdef01234567";

/* One of each kind, every field set. */
static cs_message sample(cs_message_kind kind) {
  cs_message message = {
      .kind = kind, .epoch = 3, .request = UINT64_C(0x1122334455667788), .sender = 2};
  const cs_blob ids = {tokens, sizeof tokens};
  const cs_kv_wire wire = {UINT64_MAX - 1, 2, 5, 4, 8, 16};
  switch (kind) {
  case CS_MESSAGE_PREFILL:
    message.prefill = (cs_prefill_message){wire, 1, 1, 60000000, ids};
    break;
  case CS_MESSAGE_DECODE:
    message.decode =
        (cs_decode_message){.n_cached = 4,
                            .score = 1,
                            .n_output = 128,
                            .n_prompt = 5,
                            .sampler = {0.75f, 40, 0.9f, 0.05f, UINT64_MAX, 1.25f, 0.5f, -0.25f, 3},
                            .biases = {payload, 16},
                            .wait_us = 17,
                            .ends = {tokens, 4},
                            .tokens = ids};
    break;
  case CS_MESSAGE_KV_OFFER:
  case CS_MESSAGE_KV_ACCEPT:
    message.wire = wire;
    break;
  case CS_MESSAGE_KV_PIECE:
    message.piece =
        (cs_kv_piece_message){4, 512, 100, 2, 19, UINT64_MAX, {payload, sizeof payload}};
    break;
  case CS_MESSAGE_KV_END:
    message.end = (cs_kv_end_message){10, 20, 30};
    break;
  case CS_MESSAGE_COMMIT:
    message.commit = (cs_commit_message){1, 2, 3, 4, 5, 2};
    break;
  case CS_MESSAGE_TOKEN:
    message.token = (cs_token_message){9, -5, {payload, 16}};
    break;
  case CS_MESSAGE_LOGITS:
    message.logits = (cs_logits_message){1, 2, {payload, 24}};
    break;
  case CS_MESSAGE_DONE:
    message.done = (cs_done_message){1, 2, 3, 4, 5, 6};
    break;
  case CS_MESSAGE_ATTACH:
    message.attach =
        (cs_attach_message){1, 2, 3, 4, 5, 6, 7, 8, 9, 10, {payload, 6}, {payload, 20}};
    break;
  case CS_MESSAGE_LOADING:
    message.loading = (cs_loading_message){1, 2};
    break;
  case CS_MESSAGE_FALLBACK:
    message.fallback = (cs_fallback_message){1, 2, 3, {payload, 5}, {payload, 7}};
    break;
  case CS_MESSAGE_ATTACHED:
    message.attached = (cs_attached_message){1, {payload, 5}, {payload, 16}};
    break;
  case CS_MESSAGE_PEER:
    message.peer = (cs_peer_message){1, 1, {payload, 16}, {payload, 16}, {payload, 9}};
    break;
  case CS_MESSAGE_DEVICE:
    message.device = (cs_device_message){1,
                                         2,
                                         3,
                                         4,
                                         5,
                                         6,
                                         7,
                                         8,
                                         9,
                                         10,
                                         12,
                                         13,
                                         {payload, 1},
                                         {payload, 2},
                                         {payload, 3},
                                         {payload, 4},
                                         {payload, 5},
                                         {payload, 6},
                                         {payload, 7},
                                         {payload, 8}};
    break;
  case CS_MESSAGE_SENT:
  case CS_MESSAGE_PEER_LOST:
  case CS_MESSAGE_ERROR:
    message.error = (cs_error_message){CS_CORRUPT, -1, INT64_MIN, {payload, 9}};
    break;
  case CS_MESSAGE_STATS:
    message.stats = (cs_stats_message){1, 2, 3, 4, 5, 6};
    break;
  default:
    break;
  }
  return message;
}

static cs_frame *encode(const cs_message *message) {
  cs_frame *frame = NULL;
  assert_int_equal(cs_message_encode(message, &frame, NULL), CS_OK);
  return frame;
}

static void every_kind_is_read_as_it_was_written(void **state) {
  (void)state;
  for (int kind = 1; kind < CS_MESSAGE_LIMIT; kind++) {
    const cs_message message = sample((cs_message_kind)kind);
    cs_frame *const frame = encode(&message);
    cs_message read;
    assert_int_equal(cs_message_decode(frame->data, frame->bytes, &read, NULL), CS_OK);
    assert_int_equal(read.kind, kind);
    assert_int_equal(read.epoch, 3);
    assert_int_equal(read.sender, 2);
    assert_true(read.request == message.request);
    cs_frame *const again = encode(&read);
    assert_int_equal(again->bytes, frame->bytes);
    assert_memory_equal(again->data, frame->data, frame->bytes);
    assert_string_not_equal(cs_message_kind_name((uint32_t)kind), "?");
    cs_frame_destroy(again);
    cs_frame_destroy(frame);
  }
}

static void fields_keep_their_values(void **state) {
  (void)state;
  cs_message message = sample(CS_MESSAGE_DECODE), read;
  cs_frame *frame = encode(&message);
  assert_int_equal(cs_message_decode(frame->data, frame->bytes, &read, NULL), CS_OK);
  assert_int_equal(read.decode.n_cached, 4);
  assert_true(read.decode.sampler.temperature == 0.75f);
  assert_true(read.decode.sampler.seed == UINT64_MAX);
  assert_true(read.decode.sampler.repetition_penalty == 1.25f);
  assert_true(read.decode.sampler.frequency_penalty == 0.5f);
  assert_true(read.decode.sampler.presence_penalty == -0.25f);
  assert_int_equal(read.decode.sampler.n_logprobs, 3);
  assert_int_equal(read.decode.biases.bytes, 16);
  int32_t ids[5];
  assert_int_equal(cs_blob_count_i32(read.decode.tokens), 5);
  cs_blob_read_i32(read.decode.tokens, ids);
  assert_memory_equal(ids, tokens, sizeof tokens);
  cs_frame_destroy(frame);

  message = sample(CS_MESSAGE_ERROR);
  frame = encode(&message);
  assert_int_equal(cs_message_decode(frame->data, frame->bytes, &read, NULL), CS_OK);
  assert_true(read.error.vendor_code == INT64_MIN);
  assert_int_equal(read.error.op_index, -1);
  assert_memory_equal(read.error.text.data, payload, 9);
  cs_frame_destroy(frame);
}

/* The copy ends where the bytes end, so that ASan sees a read past them. */
static cs_status decode_copy(const uint8_t *data, size_t bytes, cs_error *error) {
  uint8_t *const copy = malloc(bytes ? bytes : 1);
  memcpy(copy, data, bytes);
  cs_message message;
  const cs_status status = cs_message_decode(copy, bytes, &message, error);
  free(copy);
  return status;
}

/* Once as it is cut, and once with a head that agrees with the cut, so that the fields are read. */
static void a_message_cut_anywhere_is_refused(void **state) {
  (void)state;
  for (int kind = 1; kind < CS_MESSAGE_LIMIT; kind++) {
    const cs_message message = sample((cs_message_kind)kind);
    cs_frame *const frame = encode(&message);
    for (size_t bytes = 0; bytes < frame->bytes; bytes++) {
      assert_int_equal(decode_copy(frame->data, bytes, NULL), CS_CORRUPT);
      if (bytes < CS_MESSAGE_HEAD_BYTES) continue;
      cs_error error = CS_ERROR_INIT;
      frame->data[8] = (uint8_t)bytes;
      frame->data[9] = (uint8_t)(bytes >> 8);
      assert_int_equal(decode_copy(frame->data, bytes, &error), CS_CORRUPT);
      assert_null(strstr(error.message, "field end does")); /* told where it is, not at the end */
      frame->data[8] = (uint8_t)frame->bytes;
      frame->data[9] = (uint8_t)(frame->bytes >> 8);
    }
    cs_frame_destroy(frame);
  }
}

static void a_message_with_a_tail_is_refused(void **state) {
  (void)state;
  const cs_message message = sample(CS_MESSAGE_TOKEN);
  cs_frame *const frame = encode(&message);
  uint8_t longer[128] = {0};
  memcpy(longer, frame->data, frame->bytes);
  longer[8]++; /* the head agrees with the longer size */
  assert_int_equal(decode_copy(longer, frame->bytes + 1, NULL), CS_CORRUPT);
  cs_frame_destroy(frame);
}

static void other_versions_and_kinds_are_named(void **state) {
  (void)state;
  const cs_message message = sample(CS_MESSAGE_CANCEL);
  cs_frame *const frame = encode(&message);
  const struct {
    size_t at;
    const char *field;
  } cases[] = {{0, "magic"}, {4, "version"}, {6, "kind"}, {8, "bytes"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    cs_error error = CS_ERROR_INIT;
    frame->data[cases[i].at] ^= 0x40;
    assert_int_equal(decode_copy(frame->data, frame->bytes, &error), CS_CORRUPT);
    assert_non_null(strstr(error.message, cases[i].field));
    frame->data[cases[i].at] ^= 0x40;
  }
  cs_frame_destroy(frame);
}

static void a_length_that_overflows_is_refused(void **state) {
  (void)state;
  const cs_message message = sample(CS_MESSAGE_KV_PIECE);
  cs_frame *const frame = encode(&message);
  for (size_t i = 0; i < 8; i++)
    frame->data[CS_MESSAGE_HEAD_BYTES + 24 + i] = 0xff;
  assert_int_equal(decode_copy(frame->data, frame->bytes, NULL), CS_CORRUPT);
  cs_frame_destroy(frame);
}

static void garbled_messages_never_do_harm(void **state) {
  (void)state;
  const unsigned first_seed = (unsigned)time(NULL);
  unsigned seed = first_seed;
  printf("seed %u\n", first_seed);
  for (int round = 0; round < 20000; round++) {
    const int kind = 1 + rand_r(&seed) % (CS_MESSAGE_LIMIT - 1);
    const cs_message message = sample((cs_message_kind)kind);
    cs_frame *const frame = encode(&message);
    for (int flips = 1 + rand_r(&seed) % 4; flips > 0; flips--)
      frame->data[(size_t)rand_r(&seed) % frame->bytes] ^= (uint8_t)(1u << rand_r(&seed) % 8);
    uint8_t *const copy = malloc(frame->bytes);
    memcpy(copy, frame->data, frame->bytes);
    assert_int_equal(cs_message_fuzz(copy, frame->bytes), 0);
    free(copy);
    cs_frame_destroy(frame);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_kind_is_read_as_it_was_written),
      cmocka_unit_test(fields_keep_their_values),
      cmocka_unit_test(a_message_cut_anywhere_is_refused),
      cmocka_unit_test(a_message_with_a_tail_is_refused),
      cmocka_unit_test(other_versions_and_kinds_are_named),
      cmocka_unit_test(a_length_that_overflows_is_refused),
      cmocka_unit_test(garbled_messages_never_do_harm),
  };
  return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
