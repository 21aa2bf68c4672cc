/* What the scheduler's tests share: a runtime over the built plugins with the host's cores as two
 * devices, small models, sessions, and a link that does harm. */
#ifndef TESTS_SCHEDULER_HARNESS_H
#define TESTS_SCHEDULER_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/facade.h"
#include "scheduler/session.h"

static inline void harness_expect_ok(cs_status status, const cs_error *error) {
  if (status) fail_msg("status %d: %s", status, error->message);
}

static inline consort_runtime *harness_runtime(void) {
  cs_error error = CS_ERROR_INIT;
  consort_runtime *runtime;
  setenv("CONSORT_PLUGIN_PATH", getenv("CONSORT_TEST_PLUGINS"), 1);
  setenv("CONSORT_CPU_PARTITIONS", "2", 1);
  harness_expect_ok(consort_runtime_create(NULL, &runtime, &error), &error);
  return runtime;
}

/* Seeded random weights in float32: two layers, 1024 tokens in the vocabulary. */
static inline consort_model *harness_tiny(consort_runtime *runtime) {
  cs_error error = CS_ERROR_INIT;
  consort_model *model;
  harness_expect_ok(consort_model_open_shape(runtime, "llama-tiny", "f32", 5, &model, &error),
                    &error);
  return model;
}

static inline consort_session *harness_session(consort_runtime *runtime, consort_model *model,
                                               const consort_session_options *options,
                                               const cs_session_tuning *tuning) {
  cs_error error = CS_ERROR_INIT;
  consort_session *session;
  harness_expect_ok(cs_session_create(runtime, model, options, tuning, &session, &error), &error);
  return session;
}

static inline consort_session_options harness_options(const char *prefill, const char *decode) {
  return (consort_session_options){.struct_size = sizeof(consort_session_options),
                                   .n_context = 512,
                                   .prefill = prefill,
                                   .decode = decode,
                                   .kv_dtype = "f32",
                                   .n_batch = 64};
}

/* Token ids that look like a text of n tokens. */
static inline void harness_tokens(int32_t *tokens, size_t n, unsigned seed) {
  for (size_t i = 0; i < n; i++)
    tokens[i] = (int32_t)(rand_r(&seed) % 1024);
}

static inline consort_generate_options harness_greedy(uint32_t n_tokens) {
  return (consort_generate_options){
      .struct_size = sizeof(consort_generate_options), .n_tokens = n_tokens, .ignore_end = 1};
}

/* All blocks are back on both sides. */
static inline void harness_expect_no_blocks_taken(consort_session *session) {
  for (int prefill = 0; prefill < 2; prefill++) {
    cs_error error = CS_ERROR_INIT;
    cs_stats_message stats;
    harness_expect_ok(cs_router_stats(session->router, prefill, 5000000, &stats, &error), &error);
    assert_int_equal(stats.n_blocks_free, stats.n_blocks);
    assert_int_equal(stats.n_requests, 0);
  }
}

typedef enum harness_harm {
  HARM_NONE,
  HARM_FLIP_PAYLOAD,
  HARM_FLIP_LAYER,
  HARM_DROP,
  HARM_REPEAT
} harness_harm;

/* Stands between two workers and does something to the n-th message of a kind. */
typedef struct harness_link {
  cs_link link;
  cs_link *inner;
  harness_harm harm;
  cs_message_kind kind;
  int nth; /* from 0 */
  int seen;
} harness_link;

static inline cs_status harness_link_send(cs_link *link, cs_frame *frame, uint64_t timeout_us,
                                          cs_error *error) {
  harness_link *const self = (harness_link *)link;
  const int kind = frame->data[6] | frame->data[7] << 8;
  if (kind == (int)self->kind && self->seen++ == self->nth) {
    if (self->harm == HARM_FLIP_PAYLOAD) frame->data[frame->bytes - 5] ^= 0x10;
    if (self->harm == HARM_FLIP_LAYER) frame->data[CS_MESSAGE_HEAD_BYTES] ^= 1;
    if (self->harm == HARM_DROP) {
      cs_frame_destroy(frame);
      return CS_OK;
    }
    if (self->harm == HARM_REPEAT) {
      cs_frame *const copy = cs_frame_create(frame->bytes);
      memcpy(copy->data, frame->data, frame->bytes);
      cs_link_send(self->inner, copy, timeout_us, error);
    }
  }
  return cs_link_send(self->inner, frame, timeout_us, error);
}

/* Put between the workers of a session, which has to have two. */
static inline void harness_link_install(harness_link *link, consort_session *session) {
  *link = (harness_link){.link = {harness_link_send}, .inner = cs_worker_link(session->decode)};
  assert_int_equal(cs_worker_connect(session->prefill, CS_SESSION_DECODE_PEER, &link->link, NULL),
                   CS_OK);
}

static inline void harness_link_set(harness_link *link, harness_harm harm, cs_message_kind kind,
                                    int nth) {
  link->harm = harm;
  link->kind = kind;
  link->nth = nth;
  link->seen = 0;
}

#endif
