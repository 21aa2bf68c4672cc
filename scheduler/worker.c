/* One thread, one loop: take the messages that are there, admit what fits, run one step for all
 * decoding sequences, then one chunk of the oldest prompt. So a long prompt delays the tokens of
 * others by one chunk at most, and a worker never has two batches under way. */
#include "scheduler/worker.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/worker_internal.h"

#define INBOX_BYTES     (size_t)(256u << 20)
#define IDLE_US         UINT64_C(1000000)
#define TICK_US         UINT64_C(20000) /* while a deadline runs */
#define MAX_DECODE_ROWS 256

/* ---- messages ---- */

static void take_stats_request(cs_worker *worker, const cs_message *asked) {
  uint32_t n_requests = 0;
  for (cs_request *at = worker->requests; at; at = at->next)
    n_requests++;
  const cs_kv_pool *const pool = cs_engine_pool(worker->engine);
  const cs_request asker = {.id = asked->request, .epoch = asked->epoch};
  cs_message message = {.kind = CS_MESSAGE_STATS,
                        .stats = {.n_blocks = cs_kv_pool_n_blocks(pool),
                                  .n_blocks_free = cs_kv_pool_n_free(pool),
                                  .n_requests = n_requests,
                                  .n_steps_cached = cs_engine_n_steps_cached(worker->engine),
                                  .n_steps = worker->n_steps,
                                  .n_tokens = worker->n_tokens}};
  cs_worker_tell(worker, &asker, &message);
}

/* Messages for requests that are gone are late, not wrong. */
static void take_for_request(cs_worker *worker, const cs_message *message, uint64_t arrived_us) {
  cs_request *const request = cs_request_find(worker, message->request, message->epoch);
  if (!request) {
    if (message->kind == CS_MESSAGE_KV_PIECE) cs_receiver_drop(worker->receiver, &message->piece);
    return;
  }
  switch (message->kind) {
  case CS_MESSAGE_KV_PIECE:
    cs_request_take_piece(worker, request, &message->piece);
    break;
  case CS_MESSAGE_KV_END:
    cs_request_take_end(worker, request, &message->end, arrived_us);
    break;
  case CS_MESSAGE_SENT:
    cs_request_take_sent(worker, request, &message->error);
    break;
  case CS_MESSAGE_CANCEL:
    cs_request_cancel(worker, request);
    break;
  default:
    break;
  }
}

/* What has not come will not come. Senders learn it from their link. */
static void take_peer_lost(cs_worker *worker, const cs_error_message *lost) {
  cs_error error = CS_ERROR_INIT;
  const cs_status status = cs_message_get_error(lost, &error);
  for (cs_request *at = worker->requests, *next; at; at = next) {
    next = at->next;
    if (at->stage == STAGE_RECEIVING) cs_request_fail(worker, at, status, &error);
  }
}

static void take_frame(cs_worker *worker, const cs_frame *frame) {
  cs_error error = CS_ERROR_INIT;
  cs_message message;
  if (cs_message_decode(frame->data, frame->bytes, &message, &error)) {
    cs_log_write(worker->options.log, CS_LOG_WARN, "dropped a message: %s", error.message);
    return;
  }
  switch (message.kind) {
  case CS_MESSAGE_PREFILL:
  case CS_MESSAGE_DECODE:
    cs_request_open(worker, &message);
    break;
  case CS_MESSAGE_STATS_REQUEST:
    take_stats_request(worker, &message);
    break;
  case CS_MESSAGE_SHUTDOWN:
    worker->stopping = true;
    break;
  case CS_MESSAGE_PEER_LOST:
    take_peer_lost(worker, &message.error);
    break;
  default:
    take_for_request(worker, &message, frame->arrived_us);
    break;
  }
}

/* How long there is nothing to do unless a message comes. */
static uint64_t idle_time_us(const cs_worker *worker) {
  uint64_t time_us = IDLE_US;
  for (const cs_request *at = worker->requests; at; at = at->next) {
    if (at->stage == STAGE_PREFILL || at->stage == STAGE_DECODE) return 0;
    if (at->stage == STAGE_RECEIVING) time_us = TICK_US;
  }
  return time_us;
}

static void take_messages(cs_worker *worker) {
  uint64_t timeout_us = idle_time_us(worker);
  while (!worker->stopping) {
    cs_frame *frame;
    const cs_status status = cs_mailbox_receive(worker->inbox, timeout_us, &frame);
    if (status == CS_CANCELLED) worker->stopping = true;
    if (status) return;
    take_frame(worker, frame);
    cs_frame_destroy(frame);
    timeout_us = 0;
  }
}

static void expire_receiving(cs_worker *worker) {
  const uint64_t now_us = cs_now_us();
  for (cs_request *at = worker->requests, *next; at; at = next) {
    next = at->next;
    if (at->stage != STAGE_RECEIVING || now_us - at->heard_us < at->wait_us) continue;
    uint32_t layer, n_tokens;
    cs_error error = CS_ERROR_INIT;
    cs_receipt_progress(at->receipt, &layer, &n_tokens);
    const cs_status status = cs_error_set(
        &error, CS_TIMEOUT,
        "KV piece of request %llu, layer %u, tokens %u to %u: did not come within %.1f s",
        (unsigned long long)at->id, layer, n_tokens, at->n_cached - 1, (double)at->wait_us / 1e6);
    cs_request_fail(worker, at, status, &error);
  }
}

static void admit(cs_worker *worker) {
  uint32_t n_active = 0;
  for (cs_request *at = worker->requests; at; at = at->next)
    n_active += at->stage != STAGE_QUEUED;
  for (cs_request *at = worker->requests, *next; at; at = next) {
    next = at->next;
    if (at->stage != STAGE_QUEUED) continue;
    if (n_active >= cs_engine_get_options(worker->engine)->n_sequences) return;
    if (!cs_request_admit(worker, at)) return; /* nobody overtakes */
    n_active++;
  }
}

/* ---- batches ---- */

/* A failed batch ends all of its requests, and the engine with it if work had been enqueued. */
static void fail_batch(cs_worker *worker, cs_request **requests, uint32_t n, cs_status status,
                       const cs_error *error) {
  if (cs_engine_is_broken(worker->engine) && !worker->broken) {
    worker->broken = status;
    worker->broken_error = *error;
  }
  for (uint32_t i = 0; i < n; i++)
    cs_request_fail(worker, requests[i], status, error);
}

static uint32_t pick_decoding(cs_worker *worker, cs_request **picked, uint32_t limit) {
  uint32_t n = 0;
  if (worker->options.deterministic) { /* the next in turn */
    cs_request *first = NULL;
    for (cs_request *at = worker->requests; at; at = at->next) {
      if (at->stage != STAGE_DECODE) continue;
      if (!first) first = at;
      if (at->id > worker->last_decoded) {
        picked[n++] = at;
        break;
      }
    }
    if (n == 0 && first) picked[n++] = first;
    if (n > 0) worker->last_decoded = picked[0]->id;
    return n;
  }
  for (cs_request *at = worker->requests; at && n < limit; at = at->next)
    if (at->stage == STAGE_DECODE) picked[n++] = at;
  return n;
}

static void run_decode(cs_worker *worker) {
  cs_request *requests[MAX_DECODE_ROWS];
  cs_batch_sequence sequences[MAX_DECODE_ROWS];
  const uint32_t n = pick_decoding(worker, requests, MAX_DECODE_ROWS);
  if (n == 0) return;
  bool sampled = false;
  for (uint32_t i = 0; i < n; i++) {
    const cs_request *const request = requests[i];
    sampled |= request->reads_logits;
    sequences[i] = (cs_batch_sequence){.tokens = request->tokens + request->n_done,
                                       .n_tokens = 1,
                                       .first_position = request->n_done,
                                       .n_logit_rows = 1,
                                       .blocks = &request->blocks};
  }
  const cs_batch batch = {.sequences = sequences,
                          .n_sequences = n,
                          .goal = sampled ? CS_FORWARD_LOGITS : CS_FORWARD_ARGMAX,
                          .read_logits = sampled};
  const float *logits = NULL;
  const int32_t *argmax = NULL;
  const uint64_t begin_us = cs_now_us();
  cs_error error = CS_ERROR_INIT;
  cs_status status = cs_engine_run(worker->engine, &batch, NULL, NULL, &error);
  if (!status) status = cs_engine_wait(worker->engine, &logits, &argmax, &error);
  if (status) {
    fail_batch(worker, requests, n, status, &error);
    return;
  }
  const uint64_t took_us = cs_now_us() - begin_us;
  const uint64_t n_vocab =
      cs_model_get_config(cs_engine_get_options(worker->engine)->model)->n_vocab;
  worker->n_steps++;
  for (uint32_t i = 0; i < n; i++) {
    cs_request *const request = requests[i];
    request->n_done++;
    request->stats.n_decode_tokens++;
    request->stats.n_decode_steps++;
    request->stats.decode_us += took_us;
    cs_request_sample(worker, request, sampled ? logits + i * n_vocab : NULL,
                      sampled ? -1 : argmax[i]);
  }
}

typedef struct prefill_chunk {
  cs_worker *worker;
  cs_request *request;
  uint32_t n_tokens;
  bool samples; /* its last row gives the next token */
} prefill_chunk;

static cs_status on_mark(void *user, uint32_t tag, cs_semaphore *semaphore, uint64_t value,
                         cs_error *error) {
  const prefill_chunk *const running = user;
  cs_request *const request = running->request;
  return cs_sender_add(running->worker->sender, request->sending, tag, request->n_done,
                       running->n_tokens, semaphore, value, error);
}

static prefill_chunk next_chunk(cs_worker *worker, cs_request *request) {
  const cs_engine_options *const options = cs_engine_get_options(worker->engine);
  const uint32_t max_rows = cs_engine_max_logit_rows(worker->engine);
  const bool samples = !request->is_prefill && !request->score;
  uint32_t n = request->n_tokens - request->n_done;
  /* A result must not depend on how its tokens were batched: the last position goes alone. */
  if (samples && worker->options.deterministic && n > 1) n--;
  if (n > options->n_batch) n = options->n_batch;
  if (request->score && n > max_rows) n = max_rows;
  return (prefill_chunk){.worker = worker,
                         .request = request,
                         .n_tokens = n,
                         .samples = samples && request->n_done + n == request->n_tokens};
}

static void chunk_done(const prefill_chunk *done, const float *logits, const int32_t *argmax,
                       uint64_t took_us) {
  cs_worker *const worker = done->worker;
  cs_request *const request = done->request;
  worker->n_steps++;
  request->stats.n_prefill_tokens += done->n_tokens;
  request->stats.prefill_us += took_us;
  if (request->score) cs_request_scored(worker, request, logits, done->n_tokens);
  request->n_done += done->n_tokens;
  request->blocks.n_tokens = request->n_done;
  const bool complete = request->n_done == request->n_tokens;
  cs_message progress = {.kind = CS_MESSAGE_PROGRESS};
  if (!complete) cs_worker_tell(worker, request, &progress);
  if (done->samples)
    cs_request_sample(worker, request, request->reads_logits ? logits : NULL,
                      argmax ? argmax[0] : -1);
  else if (complete && request->is_prefill)
    cs_request_prefilled(worker, request);
  else if (complete && request->score)
    cs_request_finish(worker, request, CS_DONE_LENGTH);
}

static void run_chunk(cs_worker *worker) {
  cs_request *request = worker->requests;
  while (request && request->stage != STAGE_PREFILL)
    request = request->next;
  if (!request) return;
  prefill_chunk chunk = next_chunk(worker, request);
  const bool reads = request->score || (chunk.samples && request->reads_logits);
  const cs_batch_sequence sequence = {.tokens = request->tokens + request->n_done,
                                      .n_tokens = chunk.n_tokens,
                                      .first_position = request->n_done,
                                      .n_logit_rows = request->score  ? chunk.n_tokens
                                                      : chunk.samples ? 1
                                                                      : 0,
                                      .blocks = &request->blocks};
  const cs_batch batch = {.sequences = &sequence,
                          .n_sequences = 1,
                          .goal = reads           ? CS_FORWARD_LOGITS
                                  : chunk.samples ? CS_FORWARD_ARGMAX
                                                  : CS_FORWARD_KV,
                          .read_logits = reads};
  const float *logits = NULL;
  const int32_t *argmax = NULL;
  cs_error error = CS_ERROR_INIT;
  const uint64_t begin_us = cs_now_us();
  cs_status status =
      cs_engine_run(worker->engine, &batch, request->sending ? on_mark : NULL, &chunk, &error);
  if (!status) status = cs_engine_wait(worker->engine, &logits, &argmax, &error);
  if (status)
    fail_batch(worker, &request, 1, status, &error);
  else
    chunk_done(&chunk, logits, argmax, cs_now_us() - begin_us);
}

static void publish_use(cs_worker *worker) {
  const cs_kv_pool *const pool = cs_engine_pool(worker->engine);
  atomic_store_explicit(&worker->n_blocks_used, cs_kv_pool_n_blocks(pool) - cs_kv_pool_n_free(pool),
                        memory_order_relaxed);
}

static void *worker_main(void *argument) {
  cs_worker *const worker = argument;
  while (!worker->stopping) {
    publish_use(worker);
    take_messages(worker);
    expire_receiving(worker);
    admit(worker);
    run_decode(worker);
    run_chunk(worker);
  }
  return NULL;
}

/* ---- life ---- */

cs_status cs_worker_create(const cs_worker_options *options, cs_worker **out, cs_error *error) {
  *out = NULL;
  if (options->engine.n_sequences == 0 || options->engine.n_sequences > MAX_DECODE_ROWS)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "1 to %d sequences at once, not %u",
                        MAX_DECODE_ROWS, options->engine.n_sequences);
  cs_worker *const worker = calloc(1, sizeof *worker);
  if (!worker) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a worker");
  worker->options = *options;
  cs_status status = cs_mailbox_create(INBOX_BYTES, &worker->inbox, error);
  if (!status) status = cs_engine_create(&options->engine, &worker->engine, error);
  if (status) {
    cs_worker_destroy(worker);
    return status;
  }
  *out = worker;
  return CS_OK;
}

cs_status cs_worker_start(cs_worker *worker, cs_link *router, cs_weights_progress progress,
                          void *progress_user, cs_error *error) {
  cs_status status = cs_engine_load(worker->engine, progress, progress_user, error);
  if (status) return status;
  const uint32_t n_batch = cs_engine_get_options(worker->engine)->n_batch;
  const uint32_t max_blocks = cs_engine_max_blocks(worker->engine);
  cs_kv_cache *const cache = cs_engine_cache(worker->engine);
  worker->router = router;
  status = cs_sender_create(cache, n_batch, max_blocks, cs_mailbox_link(worker->inbox),
                            &worker->sender, error);
  /* The other side may prefill in larger chunks than this one does. */
  if (!status)
    status = cs_receiver_create(cache, cs_engine_get_options(worker->engine)->n_context, max_blocks,
                                &worker->receiver, error);
  if (status) return status;
  if (pthread_create(&worker->thread, NULL, worker_main, worker))
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no thread for a worker");
  worker->started = true;
  return CS_OK;
}

void cs_worker_destroy(cs_worker *worker) {
  if (!worker) return;
  if (worker->started) {
    const cs_message message = {.kind = CS_MESSAGE_SHUTDOWN};
    if (cs_link_send_message(cs_mailbox_link(worker->inbox), &message, IDLE_US, NULL))
      cs_mailbox_close(worker->inbox);
    pthread_join(worker->thread, NULL);
  }
  for (cs_request *at = worker->requests; at; at = at->next)
    if (at->sending) cs_sender_cancel(worker->sender, at->sending);
  cs_sender_destroy(worker->sender);
  while (worker->requests)
    cs_request_free(worker, worker->requests);
  cs_receiver_destroy(worker->receiver);
  cs_engine_destroy(worker->engine);
  cs_mailbox_destroy(worker->inbox);
  free(worker);
}

const cs_engine *cs_worker_engine(const cs_worker *worker) {
  return worker->engine;
}

cs_dock *cs_worker_dock(cs_worker *worker) {
  return cs_receiver_dock(worker->receiver);
}

void cs_worker_connect_dock(cs_worker *worker, uint32_t peer, cs_dock *dock) {
  worker->docks[peer] = dock;
}

cs_link *cs_worker_link(cs_worker *worker) {
  return cs_mailbox_link(worker->inbox);
}

cs_mailbox *cs_worker_inbox(cs_worker *worker) {
  return worker->inbox;
}

cs_status cs_worker_connect(cs_worker *worker, uint32_t peer, cs_link *link, cs_error *error) {
  if (peer >= CS_WORKER_MAX_PEERS)
    return cs_error_set(error, CS_OUT_OF_RANGE, "peer %u: at most %d", peer, CS_WORKER_MAX_PEERS);
  worker->peers[peer] = link;
  return CS_OK;
}

uint32_t cs_worker_blocks_used(const cs_worker *worker) {
  return atomic_load_explicit(&worker->n_blocks_used, memory_order_relaxed);
}
