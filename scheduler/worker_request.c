/* Each request gets exactly one last word, DONE or ERROR, and every path to it leads through
 * `close_request`: there its blocks go back, once nothing reads or writes them any more. Blocks for
 * the whole answer are reserved before anything is computed, so that a request that has begun
 * cannot starve another that has begun, too. */
#include "scheduler/worker_internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/wire.h"

#define ROUTER_TIMEOUT_US UINT64_C(30000000)

void cs_worker_tell(cs_worker *worker, const cs_request *request, cs_message *message) {
  message->request = request->id;
  message->epoch = request->epoch;
  message->sender = worker->options.number;
  cs_error error = CS_ERROR_INIT;
  if (cs_link_send_message(worker->router, message, ROUTER_TIMEOUT_US, &error))
    cs_log_write(worker->options.log, CS_LOG_DEBUG, "router: %s", error.message);
}

static void tell_error(cs_worker *worker, const cs_request *request, cs_status status,
                       const cs_error *error) {
  cs_message message = {.kind = CS_MESSAGE_ERROR, .error = cs_message_of_error(status, error)};
  cs_worker_tell(worker, request, &message);
}

void cs_request_free(cs_worker *worker, cs_request *request) {
  for (cs_request **at = &worker->requests; *at; at = &(*at)->next)
    if (*at == request) {
      *at = request->next;
      break;
    }
  cs_sending_destroy(request->sending);
  cs_receipt_destroy(request->receipt);
  cs_kv_sequence_release(cs_engine_pool(worker->engine), &request->blocks);
  free(request->tokens);
  free(request->ends);
  free(request->biases);
  free(request);
}

/* Tells the last word, or keeps it until the pieces that are under way are out. */
static void close_request(cs_worker *worker, cs_request *request) {
  if (request->sending) {
    request->stage = STAGE_SENDING;
    cs_sender_cancel(worker->sender, request->sending);
    return;
  }
  /* Blocks go back first: who hears the last word may ask for them at once. */
  cs_receipt_destroy(request->receipt);
  request->receipt = NULL;
  cs_kv_sequence_release(cs_engine_pool(worker->engine), &request->blocks);
  if (request->status) {
    tell_error(worker, request, request->status, &request->error);
  } else {
    cs_message message = {.kind = CS_MESSAGE_DONE, .done = request->stats};
    cs_worker_tell(worker, request, &message);
  }
  cs_request_free(worker, request);
}

void cs_request_finish(cs_worker *worker, cs_request *request, uint32_t reason) {
  request->stats.reason = reason;
  close_request(worker, request);
}

void cs_request_fail(cs_worker *worker, cs_request *request, cs_status status,
                     const cs_error *error) {
  if (!request->status) {
    request->status = status;
    request->error = *error;
  }
  close_request(worker, request);
}

void cs_request_cancel(cs_worker *worker, cs_request *request) {
  request->cancelled = true;
  cs_request_finish(worker, request, CS_DONE_CANCELLED);
}

cs_request *cs_request_find(cs_worker *worker, uint64_t id, uint32_t epoch) {
  for (cs_request *at = worker->requests; at; at = at->next)
    if (at->id == id && at->epoch == epoch) return at;
  return NULL;
}

/* ---- opening ---- */

static cs_status copy_i32(cs_blob blob, uint32_t extra, int32_t **out) {
  *out = malloc((cs_blob_count_i32(blob) + extra + 1) * sizeof **out);
  if (!*out) return CS_OUT_OF_MEMORY;
  cs_blob_read_i32(blob, *out);
  return CS_OK;
}

static cs_status read_prefill(cs_worker *worker, cs_request *request,
                              const cs_prefill_message *body, cs_error *error) {
  request->is_prefill = true;
  request->score = body->score != 0;
  request->wire = body->wire;
  request->peer = body->peer;
  request->wait_us = body->wait_us;
  request->n_tokens = (uint32_t)cs_blob_count_i32(body->tokens);
  request->n_prompt = request->n_tokens;
  request->capacity = request->n_tokens;
  if (body->peer >= CS_WORKER_MAX_PEERS || !worker->peers[body->peer])
    return cs_error_set(error, CS_NOT_FOUND, "KV transfer: there is no peer %u", body->peer);
  const cs_status status =
      cs_wire_check(&cs_kv_cache_form(cs_engine_cache(worker->engine))->wire, &body->wire, error);
  if (status) return status;
  if (copy_i32(body->tokens, 0, &request->tokens))
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a request");
  return CS_OK;
}

static cs_status read_biases(const cs_worker *worker, cs_request *request, cs_blob blob,
                             cs_error *error) {
  const uint32_t n_vocab =
      cs_model_get_config(cs_engine_get_options(worker->engine)->model)->n_vocab;
  request->n_biases = (size_t)blob.bytes / sizeof *request->biases;
  request->reads_logits = !cs_sampler_is_argmax(&request->sampler, request->n_biases);
  if (request->n_biases == 0) return CS_OK;
  request->biases = malloc(request->n_biases * sizeof *request->biases);
  if (!request->biases) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a request");
  memcpy(request->biases, blob.data, request->n_biases * sizeof *request->biases);
  return cs_sampler_check_biases(request->biases, request->n_biases, n_vocab, error);
}

static cs_status read_decode(cs_worker *worker, cs_request *request, const cs_decode_message *body,
                             cs_error *error) {
  const uint32_t n_context = cs_engine_get_options(worker->engine)->n_context;
  const size_t n_tokens = cs_blob_count_i32(body->tokens);
  if (n_tokens > n_context)
    return cs_error_set(error, CS_OUT_OF_RANGE,
                        "prompt has %zu tokens but the context holds %u (raise --ctx)", n_tokens,
                        n_context);
  if (body->n_cached >= n_tokens || body->n_prompt > n_tokens)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a request of %zu tokens, %u of them cached",
                        n_tokens, body->n_cached);
  const uint32_t room = n_context - (uint32_t)n_tokens + 1;
  const uint32_t extra = body->score ? 0 : body->n_output < room ? body->n_output : room;
  request->score = body->score != 0;
  request->n_tokens = (uint32_t)n_tokens;
  request->n_prompt = body->n_prompt;
  request->n_cached = body->n_cached;
  request->n_output = body->n_output;
  request->capacity = request->n_tokens + extra;
  request->sampler = body->sampler;
  request->wait_us = body->wait_us;
  request->n_ends = (uint32_t)cs_blob_count_i32(body->ends);
  const cs_status status = cs_sampler_check(&body->sampler, error);
  if (status) return status;
  if (copy_i32(body->tokens, extra, &request->tokens) || copy_i32(body->ends, 0, &request->ends))
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a request");
  return read_biases(worker, request, body->biases, error);
}

static cs_status check_tokens(const cs_worker *worker, const cs_request *request, cs_error *error) {
  const cs_engine_options *const options = cs_engine_get_options(worker->engine);
  const uint32_t n_vocab = cs_model_get_config(options->model)->n_vocab;
  if (request->n_tokens == 0)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "the prompt has no tokens");
  if (request->n_tokens > options->n_context)
    return cs_error_set(error, CS_OUT_OF_RANGE,
                        "prompt has %u tokens but the context holds %u (raise --ctx)",
                        request->n_tokens, options->n_context);
  for (uint32_t i = 0; i < request->n_tokens; i++)
    if (request->tokens[i] < 0 || (uint32_t)request->tokens[i] >= n_vocab)
      return cs_error_set(error, CS_OUT_OF_RANGE,
                          "token %d at position %u lies outside the vocabulary of %u",
                          request->tokens[i], i, n_vocab);
  return CS_OK;
}

void cs_request_open(cs_worker *worker, const cs_message *message) {
  cs_error error = CS_ERROR_INIT;
  cs_request *const request = calloc(1, sizeof *request);
  if (!request) {
    const cs_request unknown = {.id = message->request, .epoch = message->epoch};
    const cs_status status = cs_error_set(&error, CS_OUT_OF_MEMORY, "no memory for a request");
    tell_error(worker, &unknown, status, &error);
    return;
  }
  request->id = message->request;
  request->epoch = message->epoch;
  request->error = (cs_error)CS_ERROR_INIT;
  cs_request **end = &worker->requests;
  while (*end)
    end = &(*end)->next;
  *end = request;
  cs_status status = worker->broken;
  if (status)
    error = worker->broken_error;
  else if (message->kind == CS_MESSAGE_PREFILL)
    status = read_prefill(worker, request, &message->prefill, &error);
  else
    status = read_decode(worker, request, &message->decode, &error);
  if (!status) status = check_tokens(worker, request, &error);
  if (status) cs_request_fail(worker, request, status, &error);
}

/* ---- admission ---- */

static cs_status begin_sending(cs_worker *worker, cs_request *request, cs_error *error) {
  const cs_sending_options options = {.request = request->id,
                                      .epoch = request->epoch,
                                      .wire_dtype = request->wire.dtype,
                                      .wait_us = request->wait_us,
                                      .blocks = &request->blocks,
                                      .to = worker->peers[request->peer],
                                      .dock = worker->docks[request->peer]};
  cs_message accept = {.kind = CS_MESSAGE_KV_ACCEPT, .wire = request->wire};
  const cs_status status = cs_sender_begin(worker->sender, &options, &request->sending, error);
  if (!status) cs_worker_tell(worker, request, &accept);
  return status;
}

static cs_status begin_receiving(cs_worker *worker, cs_request *request, cs_error *error) {
  const cs_status status = cs_receipt_create(worker->receiver, request->id, &request->blocks,
                                             request->n_cached, &request->receipt, error);
  if (status) return status;
  cs_message offer = {.kind = CS_MESSAGE_KV_OFFER, .wire = cs_receiver_wire(worker->receiver)};
  request->stage = STAGE_RECEIVING;
  request->heard_us = cs_now_us();
  cs_worker_tell(worker, request, &offer);
  return CS_OK;
}

bool cs_request_admit(cs_worker *worker, cs_request *request) {
  const uint32_t n_context = cs_engine_get_options(worker->engine)->n_context;
  const uint32_t wanted = request->capacity < n_context ? request->capacity : n_context;
  cs_error error = CS_ERROR_INIT;
  cs_status status =
      cs_kv_sequence_reserve(cs_engine_pool(worker->engine), &request->blocks, wanted, &error);
  if (status == CS_EXHAUSTED) return false;
  request->stage = STAGE_PREFILL;
  if (!status && request->is_prefill)
    status = begin_sending(worker, request, &error);
  else if (!status && request->n_cached > 0)
    status = begin_receiving(worker, request, &error);
  if (status) cs_request_fail(worker, request, status, &error);
  return true;
}

/* ---- transfer ---- */

void cs_request_take_piece(cs_worker *worker, cs_request *request,
                           const cs_kv_piece_message *piece) {
  if (request->stage != STAGE_RECEIVING) {
    cs_receiver_drop(worker->receiver, piece);
    return;
  }
  cs_error error = CS_ERROR_INIT;
  request->heard_us = cs_now_us();
  const cs_status status = cs_receipt_piece(request->receipt, piece, request->wait_us, &error);
  if (status) cs_request_fail(worker, request, status, &error);
}

void cs_request_take_end(cs_worker *worker, cs_request *request, const cs_kv_end_message *end,
                         uint64_t arrived_us) {
  if (request->stage != STAGE_RECEIVING) return;
  cs_error error = CS_ERROR_INIT;
  cs_message message = {.kind = CS_MESSAGE_COMMIT};
  const cs_status status =
      cs_receipt_commit(request->receipt, end->n_pieces, request->wait_us, &message.commit, &error);
  if (status) {
    cs_request_fail(worker, request, status, &error);
    return;
  }
  /* Each side counts on its own clock: until the end was sent, and since it arrived. */
  const uint64_t since_arrival_us = cs_now_us() - arrived_us;
  message.commit.transfer_us = end->since_first_us + since_arrival_us;
  message.commit.exposed_us = end->since_prefill_us + since_arrival_us;
  cs_receipt_destroy(request->receipt);
  request->receipt = NULL;
  request->n_done = request->n_cached;
  request->blocks.n_tokens = request->n_cached;
  request->stage = STAGE_PREFILL;
  cs_worker_tell(worker, request, &message);
}

void cs_request_take_sent(cs_worker *worker, cs_request *request, const cs_error_message *sent) {
  cs_sending_destroy(request->sending);
  request->sending = NULL;
  if (sent->status && !request->status && !request->cancelled)
    request->status = cs_message_get_error(sent, &request->error);
  close_request(worker, request);
}

void cs_request_prefilled(cs_worker *worker, cs_request *request) {
  request->stage = STAGE_SENDING;
  request->stats.reason = CS_DONE_LENGTH;
  cs_sender_finish(worker->sender, request->sending, cs_now_us());
}

/* ---- output ---- */

void cs_request_scored(cs_worker *worker, cs_request *request, const float *logits,
                       uint32_t n_rows) {
  const uint64_t n_vocab =
      cs_model_get_config(cs_engine_get_options(worker->engine)->model)->n_vocab;
  cs_message message = {.kind = CS_MESSAGE_LOGITS,
                        .logits = {.first_row = request->n_done,
                                   .n_rows = n_rows,
                                   .rows = {logits, n_rows * n_vocab * sizeof *logits}}};
  cs_worker_tell(worker, request, &message);
}

static bool ends_text(const cs_request *request, int32_t token) {
  for (uint32_t i = 0; i < request->n_ends; i++)
    if (request->ends[i] == token) return true;
  return false;
}

/* logprobs (n_logprobs), the caller's. */
static cs_status sample(const cs_worker *worker, const cs_request *request, const float *logits,
                        int32_t *token, cs_token_logprob *logprobs, cs_error *error) {
  const uint32_t n_vocab =
      cs_model_get_config(cs_engine_get_options(worker->engine)->model)->n_vocab;
  const cs_sampler_history history = {.biases = request->biases,
                                      .n_biases = request->n_biases,
                                      .tokens = request->tokens,
                                      .n_tokens = request->n_tokens,
                                      .n_prompt = request->n_prompt};
  float *const adjusted = malloc(n_vocab * sizeof *adjusted);
  if (!adjusted) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for logits");
  cs_status status =
      cs_sampler_adjust(&request->sampler, &history, logits, n_vocab, adjusted, error);
  if (!status)
    status = cs_sample(&request->sampler, request->n_tokens, adjusted, n_vocab, token, error);
  free(adjusted);
  if (!status) cs_sampler_logprobs(logits, n_vocab, *token, request->sampler.n_logprobs, logprobs);
  return status;
}

void cs_request_sample(cs_worker *worker, cs_request *request, const float *logits,
                       int32_t argmax) {
  int32_t token = argmax;
  cs_token_logprob logprobs[CS_SAMPLER_MAX_LOGPROBS];
  if (logits) {
    cs_error error = CS_ERROR_INIT;
    const cs_status status = sample(worker, request, logits, &token, logprobs, &error);
    if (status) {
      cs_request_fail(worker, request, status, &error);
      return;
    }
  }
  request->stage = STAGE_DECODE;
  if (ends_text(request, token)) {
    cs_request_finish(worker, request, CS_DONE_END);
    return;
  }
  const uint32_t n_logprobs = logits ? request->sampler.n_logprobs : 0;
  cs_message message = {.kind = CS_MESSAGE_TOKEN,
                        .token = {.index = request->n_tokens - request->n_prompt,
                                  .token = token,
                                  .logprobs = {logprobs, n_logprobs * sizeof *logprobs}}};
  request->tokens[request->n_tokens++] = token;
  cs_worker_tell(worker, request, &message);
  worker->n_tokens++;
  if (request->n_tokens - request->n_prompt >= request->n_output)
    cs_request_finish(worker, request, CS_DONE_LENGTH);
  else if (request->n_done >= cs_engine_get_options(worker->engine)->n_context)
    cs_request_finish(worker, request, CS_DONE_CONTEXT);
}
