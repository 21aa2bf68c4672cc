/* A request has one or two sides, a prefill and a decode worker; it is over when each has said its
 * last word. The first failure decides: the other side is told to stop, and only when both have
 * given their blocks back, or kept silent for too long, is the failure handed out, once.
 *
 * The decode side is asked first. It reserves its blocks and offers the form in which it takes KV;
 * with that the prefill side is asked, and refuses before computing anything if it cannot serve. */
#include "scheduler/router.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"

#define SEND_TIMEOUT_US UINT64_C(10000000)
#define SILENCE_US      UINT64_C(360000000)
#define TRANSFER_US     UINT64_C(300000000)
#define CANCEL_GRACE_US UINT64_C(10000000)
#define POLL_US         UINT64_C(100000)

typedef struct routed_request {
  struct routed_request *next;
  uint64_t id;
  uint32_t epoch;
  cs_journal_entry *entry; /* borrowed from the journal */
  cs_logit_bias *biases;
  uint32_t n_biases;
  int32_t *ends;
  uint32_t n_ends;
  uint32_t n_remote; /* positions that the prefill side computes */
  bool score;
  bool prefill_open; /* a side that has not said its last word */
  bool decode_open;
  bool stopping; /* both sides have been told to stop */
  uint64_t deadline_us;
  cs_status status;
  cs_error error;
  cs_router_report report;
} routed_request;

struct cs_router {
  cs_router_options options;
  cs_journal *journal;
  routed_request *requests;
  uint64_t last_id;
  cs_frame *shown; /* what the last event borrows from */
};

cs_status cs_router_create(const cs_router_options *options, cs_router **out, cs_error *error) {
  *out = NULL;
  cs_router *const router = calloc(1, sizeof *router);
  cs_journal *const journal = cs_journal_create();
  if (!router || !journal) {
    free(router);
    cs_journal_destroy(journal);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a router");
  }
  *router = (cs_router){.options = *options, .journal = journal};
  if (!router->options.silence_us) router->options.silence_us = SILENCE_US;
  if (!router->options.transfer_us) router->options.transfer_us = TRANSFER_US;
  if (!router->options.grace_us) router->options.grace_us = CANCEL_GRACE_US;
  *out = router;
  return CS_OK;
}

static void routed_free(cs_router *router, routed_request *routed) {
  for (routed_request **at = &router->requests; *at; at = &(*at)->next)
    if (*at == routed) {
      *at = routed->next;
      break;
    }
  cs_journal_close(router->journal, routed->id);
  free(routed->biases);
  free(routed->ends);
  free(routed);
}

void cs_router_destroy(cs_router *router) {
  if (!router) return;
  while (router->requests)
    routed_free(router, router->requests);
  cs_frame_destroy(router->shown);
  cs_journal_destroy(router->journal);
  free(router);
}

/* ---- asking ---- */

/* Asks a worker for all but the first n_remote positions, whose KV comes from the other side. */
static cs_status ask_decode(cs_router *router, const routed_request *routed, cs_link *to,
                            uint32_t n_remote, cs_error *error) {
  const cs_journal_entry *const entry = routed->entry;
  const cs_message message = {
      .kind = CS_MESSAGE_DECODE,
      .request = routed->id,
      .epoch = routed->epoch,
      .decode = {.n_cached = n_remote,
                 .score = routed->score,
                 .n_output = entry->n_output,
                 .n_prompt = entry->n_prompt,
                 .sampler = entry->sampler,
                 .wait_us = router->options.transfer_us,
                 .biases = {routed->biases, routed->n_biases * sizeof *routed->biases},
                 .ends = {routed->ends, routed->n_ends * sizeof *routed->ends},
                 .tokens = {entry->tokens, entry->n_tokens * sizeof *entry->tokens}}};
  return cs_link_send_message(to, &message, SEND_TIMEOUT_US, error);
}

/* `wire`: what the decode side takes. */
static cs_status ask_prefill(cs_router *router, routed_request *routed, const cs_kv_wire *wire,
                             cs_error *error) {
  const cs_message message = {
      .kind = CS_MESSAGE_PREFILL,
      .request = routed->id,
      .epoch = routed->epoch,
      .prefill = {.wire = *wire,
                  .peer = router->options.decode_peer,
                  .score = routed->score,
                  .wait_us = router->options.transfer_us,
                  .tokens = {routed->entry->tokens, routed->n_remote * sizeof(int32_t)}}};
  const cs_status status =
      cs_link_send_message(router->options.prefill, &message, SEND_TIMEOUT_US, error);
  routed->prefill_open = !status;
  return status;
}

static void extend_deadline(const cs_router *router, routed_request *routed) {
  routed->deadline_us = cs_now_us() + router->options.silence_us;
}

static cs_status fill_routed(cs_router *router, const cs_router_request *request,
                             routed_request *routed, cs_error *error) {
  routed->id = router->last_id + 1;
  routed->score = request->score;
  routed->n_ends = request->n_ends;
  routed->error = (cs_error)CS_ERROR_INIT;
  routed->n_biases = request->n_biases;
  routed->ends = malloc(((size_t)request->n_ends + 1) * sizeof *routed->ends);
  routed->biases = malloc(((size_t)request->n_biases + 1) * sizeof *routed->biases);
  if (!routed->ends || !routed->biases)
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a request");
  if (request->n_biases > 0)
    memcpy(routed->biases, request->biases, request->n_biases * sizeof *routed->biases);
  if (request->n_ends > 0)
    memcpy(routed->ends, request->ends, request->n_ends * sizeof *routed->ends);
  if (router->options.prefill)
    routed->n_remote = request->score ? request->split : request->n_tokens - 1;
  const cs_status status = cs_journal_open(
      router->journal, routed->id, request->tokens, request->n_tokens,
      request->score ? 0 : request->n_output, &request->sampler, &routed->entry, error);
  if (!status) routed->epoch = routed->entry->epoch;
  return status;
}

cs_status cs_router_submit(cs_router *router, const cs_router_request *request, uint64_t *id,
                           cs_error *error) {
  if (request->n_tokens == 0)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "the prompt has no tokens");
  routed_request *const routed = calloc(1, sizeof *routed);
  if (!routed) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a request");
  cs_status status = fill_routed(router, request, routed, error);
  const bool alone =
      request->score && router->options.prefill && request->split >= request->n_tokens;
  if (!status && alone) { /* all rows from the prefill worker: it serves the request by itself */
    status = ask_decode(router, routed, router->options.prefill, 0, error);
    routed->prefill_open = true;
  } else if (!status) {
    status = ask_decode(router, routed, router->options.decode, routed->n_remote, error);
    routed->decode_open = true;
  }
  if (status) {
    routed_free(router, routed);
    return status;
  }
  routed->next = router->requests;
  router->requests = routed;
  extend_deadline(router, routed);
  *id = router->last_id = routed->id;
  return CS_OK;
}

/* ---- answers ---- */

static routed_request *find(const cs_router *router, uint64_t id, uint32_t epoch) {
  for (routed_request *at = router->requests; at; at = at->next)
    if (at->id == id && at->epoch == epoch) return at;
  return NULL;
}

static void stop_sides(cs_router *router, routed_request *routed) {
  if (routed->stopping) return;
  routed->stopping = true;
  const cs_message message = {
      .kind = CS_MESSAGE_CANCEL, .request = routed->id, .epoch = routed->epoch};
  if (routed->decode_open)
    (void)cs_link_send_message(router->options.decode, &message, SEND_TIMEOUT_US, NULL);
  if (routed->prefill_open)
    (void)cs_link_send_message(router->options.prefill, &message, SEND_TIMEOUT_US, NULL);
  routed->deadline_us = cs_now_us() + router->options.grace_us;
}

static void fail(cs_router *router, routed_request *routed, cs_status status,
                 const cs_error *error) {
  if (!routed->status) {
    routed->status = status;
    routed->error = *error;
  }
  stop_sides(router, routed);
}

static void take_error(cs_router *router, routed_request *routed, const cs_error_message *body) {
  cs_error error = CS_ERROR_INIT;
  const cs_status status = cs_message_get_error(body, &error);
  fail(router, routed, status, &error);
}

/* True when there is something to show. */
static bool take_token(cs_router *router, routed_request *routed, const cs_token_message *body,
                       cs_router_event *event) {
  if (routed->stopping) return false;
  cs_error error = CS_ERROR_INIT;
  const cs_status status = cs_journal_accept(routed->entry, body->index, body->token, &error);
  if (status) {
    fail(router, routed, status, &error);
    return false;
  }
  event->kind = CS_ROUTER_TOKEN;
  event->request = routed->id;
  event->index = body->index;
  event->token = body->token;
  event->logprobs = body->logprobs;
  return true;
}

static bool take_logits(const routed_request *routed, const cs_logits_message *body,
                        cs_router_event *event) {
  if (routed->stopping) return false;
  event->kind = CS_ROUTER_LOGITS;
  event->request = routed->id;
  event->first_row = body->first_row;
  event->n_rows = body->n_rows;
  event->rows = body->rows;
  return true;
}

static void take_done(routed_request *routed, bool prefill, const cs_done_message *done) {
  if (prefill)
    routed->report.prefill = *done;
  else
    routed->report.decode = *done;
}

/* A worker in another process is gone: what it had not finished has failed. */
static void take_loss(cs_router *router, const cs_message *message) {
  const bool prefill = router->options.prefill && message->sender == router->options.prefill_number;
  for (routed_request *at = router->requests; at; at = at->next) {
    if (!(prefill ? at->prefill_open : at->decode_open)) continue;
    *(prefill ? &at->prefill_open : &at->decode_open) = false;
    take_error(router, at, &message->error);
  }
}

/* True when *event is filled. */
static bool take_message(cs_router *router, const cs_message *message, cs_router_event *event) {
  if (message->kind == CS_MESSAGE_PEER_LOST) {
    take_loss(router, message);
    return false;
  }
  routed_request *const routed = find(router, message->request, message->epoch);
  if (!routed) return false;
  const bool prefill = router->options.prefill && message->sender == router->options.prefill_number;
  cs_error error = CS_ERROR_INIT;
  cs_status status = CS_OK;
  if (!routed->stopping) extend_deadline(router, routed);
  if (message->kind == CS_MESSAGE_DONE || message->kind == CS_MESSAGE_ERROR) {
    if (prefill)
      routed->prefill_open = false;
    else
      routed->decode_open = false;
  }
  switch (message->kind) {
  case CS_MESSAGE_KV_OFFER:
    if (!routed->stopping) status = ask_prefill(router, routed, &message->wire, &error);
    break;
  case CS_MESSAGE_COMMIT:
    routed->report.transfer = message->commit;
    routed->report.transferred = true;
    break;
  case CS_MESSAGE_TOKEN:
    return take_token(router, routed, &message->token, event);
  case CS_MESSAGE_LOGITS:
    return take_logits(routed, &message->logits, event);
  case CS_MESSAGE_DONE:
    take_done(routed, prefill, &message->done);
    break;
  case CS_MESSAGE_ERROR:
    take_error(router, routed, &message->error);
    break;
  default:
    break; /* KV_ACCEPT says that the prefill side is at it */
  }
  if (status) fail(router, routed, status, &error);
  return false;
}

/* ---- events ---- */

/* A side that has been silent for too long has failed; one that was told to stop and did not say
 * so in time is not waited for any longer. */
static void check_deadline(cs_router *router, routed_request *routed) {
  if (cs_now_us() < routed->deadline_us) return;
  if (routed->stopping) {
    routed->prefill_open = routed->decode_open = false;
    return;
  }
  cs_error error = CS_ERROR_INIT;
  const cs_status status = cs_error_set(&error, CS_TIMEOUT, "the %s worker said nothing for %.1f s",
                                        routed->prefill_open ? "prefill" : "decode",
                                        (double)router->options.silence_us / 1e6);
  fail(router, routed, status, &error);
}

/* A request whose sides have both said their last word. */
static bool take_ended(cs_router *router, cs_router_event *event) {
  for (routed_request *at = router->requests; at; at = at->next) {
    check_deadline(router, at);
    if (at->prefill_open || at->decode_open) continue;
    event->kind = at->status ? CS_ROUTER_FAILED : CS_ROUTER_FINISHED;
    event->request = at->id;
    event->report = at->report;
    event->error = at->error;
    routed_free(router, at);
    return true;
  }
  return false;
}

cs_status cs_router_next(cs_router *router, uint64_t timeout_us, cs_router_event *event) {
  const uint64_t end_us = cs_now_us() + timeout_us;
  memset(event, 0, sizeof *event);
  cs_frame_destroy(router->shown);
  router->shown = NULL;
  for (;;) {
    if (take_ended(router, event)) return CS_OK;
    const uint64_t now_us = cs_now_us();
    const uint64_t left_us = now_us < end_us ? end_us - now_us : 0;
    cs_frame *frame;
    const cs_status status =
        cs_mailbox_receive(router->options.inbox, left_us < POLL_US ? left_us : POLL_US, &frame);
    if (status && (status != CS_TIMEOUT || left_us == 0)) return status;
    if (status) continue;
    cs_message message;
    if (!cs_message_decode(frame->data, frame->bytes, &message, NULL) &&
        take_message(router, &message, event)) {
      router->shown = frame;
      return CS_OK;
    }
    cs_frame_destroy(frame);
  }
}

void cs_router_cancel(cs_router *router, uint64_t id) {
  for (routed_request *at = router->requests; at; at = at->next)
    if (at->id == id) stop_sides(router, at);
}

cs_status cs_router_stats(cs_router *router, bool of_prefill, uint64_t timeout_us,
                          cs_stats_message *out, cs_error *error) {
  const bool prefill = of_prefill && router->options.prefill;
  const uint32_t number = prefill ? router->options.prefill_number : router->options.decode_number;
  const cs_message question = {.kind = CS_MESSAGE_STATS_REQUEST};
  const cs_status status =
      cs_link_send_message(prefill ? router->options.prefill : router->options.decode, &question,
                           SEND_TIMEOUT_US, error);
  if (status) return status;
  const uint64_t end_us = cs_now_us() + timeout_us;
  while (cs_now_us() < end_us) {
    cs_frame *frame;
    cs_message message;
    if (cs_mailbox_receive(router->options.inbox, POLL_US, &frame)) continue;
    const bool answered = !cs_message_decode(frame->data, frame->bytes, &message, NULL) &&
                          message.kind == CS_MESSAGE_STATS && message.sender == number;
    if (answered) *out = message.stats;
    cs_frame_destroy(frame);
    if (answered) return CS_OK;
  }
  return cs_error_set(error, CS_TIMEOUT, "a worker did not answer for %.1f s",
                      (double)timeout_us / 1e6);
}
