/* One loop serves one prompt or many: submit all, then take what the router hands out until each
 * has ended. The first failure stops the others, so that there is one error to tell. */
#include "scheduler/session.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/answer_text.h"
#include "scheduler/facade.h"
#include "scheduler/structs.h"

#define DEFAULT_OUTPUT_TOKENS 128
#define POLL_US               UINT64_C(50000)

typedef struct generation {
  consort_generate_options options;
  uint64_t id;
  uint32_t n_prompt;
  bool open;    /* its last event has not come */
  bool stopped; /* by the callback: later tokens are not wanted */
  int32_t *tokens;
  uint32_t n_tokens;
  cs_logit_bias *biases;           /* (options.n_logit_biases) */
  consort_token_logprob *logprobs; /* (n_tokens, n_logprobs); NULL when none are asked for */
  cs_answer_text text;
  char *piece; /* text of one token */
  size_t piece_capacity;
  cs_detokenizer detokenizer;
  uint32_t n_output; /* tokens at most */
  uint64_t begin_us;
  uint64_t first_us;
  uint64_t last_us;
  uint64_t deadline_us; /* UINT64_MAX: none */
  cs_router_report report;
} generation;

typedef struct generations {
  consort_session *session;
  generation *list;
  uint32_t n;
  uint32_t n_open;
  cs_status status; /* the first failure */
  cs_error error;
} generations;

static void fail(generations *all, cs_status status, const cs_error *error) {
  if (!all->status) {
    all->status = status;
    all->error = *error;
  }
  for (uint32_t i = 0; i < all->n; i++)
    if (all->list[i].open) cs_router_cancel(all->session->router, all->list[i].id);
}

/* ---- beginning ---- */

static cs_sampler_params sampler_of(const consort_generate_options *options) {
  return (cs_sampler_params){.temperature = options->temperature,
                             .top_k = options->top_k,
                             .top_p = options->top_p == 0.0f ? 1.0f : options->top_p,
                             .min_p = options->min_p,
                             .seed = options->seed,
                             .repetition_penalty = options->repetition_penalty,
                             .frequency_penalty = options->frequency_penalty,
                             .presence_penalty = options->presence_penalty,
                             .n_logprobs = options->n_logprobs};
}

static cs_status copy_biases(generation *one, cs_error *error) {
  const uint32_t n = one->options.n_logit_biases;
  if (n > 0 && !one->options.logit_biases)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "there are no logit biases");
  one->biases = malloc(((size_t)n + 1) * sizeof *one->biases);
  if (!one->biases) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for %u biases", n);
  for (uint32_t i = 0; i < n; i++)
    one->biases[i] =
        (cs_logit_bias){one->options.logit_biases[i].token, one->options.logit_biases[i].bias};
  return CS_OK;
}

static cs_status allocate(generation *one, uint32_t n_output, const cs_tokenizer *tokenizer,
                          cs_error *error) {
  one->piece_capacity = tokenizer ? cs_tokenizer_max_piece_bytes(tokenizer) + 4 : 1;
  one->tokens = malloc(((size_t)n_output + 1) * sizeof *one->tokens);
  one->piece = malloc(one->piece_capacity);
  if (one->options.n_logprobs > 0)
    one->logprobs = calloc((size_t)n_output + 1, one->options.n_logprobs * sizeof *one->logprobs);
  if (!one->tokens || !one->piece || (one->options.n_logprobs > 0 && !one->logprobs))
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for an answer of %u tokens", n_output);
  if (tokenizer) cs_detokenizer_init(&one->detokenizer, tokenizer, false, true);
  return cs_answer_text_init(&one->text, one->options.stops, one->options.n_stops, error);
}

static cs_status begin(generations *all, generation *one, const cs_session_prompt *prompt,
                       uint64_t begin_us, cs_error *error) {
  const consort_session *const session = all->session;
  cs_status status = cs_struct_read(&one->options, sizeof one->options, prompt->options,
                                    "generate options", error);
  if (status) return status;
  const cs_sampler_params sampler = sampler_of(&one->options);
  status = cs_sampler_check(&sampler, error);
  if (!status) status = copy_biases(one, error);
  if (!status)
    status = cs_sampler_check_biases(one->biases, one->options.n_logit_biases,
                                     cs_model_get_config(session->model->model)->n_vocab, error);
  if (status) return status;
  if (prompt->n_tokens > session->n_context)
    return cs_error_set(error, CS_OUT_OF_RANGE,
                        "prompt has %u tokens but the context holds %u (raise --ctx)",
                        prompt->n_tokens, session->n_context);
  const uint32_t room = session->n_context - prompt->n_tokens + 1; /* the last is not computed */
  uint32_t n_output = one->options.n_tokens ? one->options.n_tokens : DEFAULT_OUTPUT_TOKENS;
  if (n_output > room) n_output = room;
  one->n_prompt = prompt->n_tokens;
  one->n_output = n_output;
  status = allocate(one, n_output, session->model->tokenizer, error);
  if (status) return status;
  one->begin_us = begin_us;
  one->deadline_us = one->options.timeout_ms
                         ? one->begin_us + (uint64_t)one->options.timeout_ms * 1000
                         : UINT64_MAX;
  const cs_router_request request = {.tokens = prompt->tokens,
                                     .n_tokens = prompt->n_tokens,
                                     .n_output = n_output,
                                     .sampler = sampler,
                                     .biases = one->biases,
                                     .n_biases = one->options.n_logit_biases,
                                     .ends = session->ends,
                                     .n_ends = one->options.ignore_end ? 0 : session->n_ends};
  status = cs_router_submit(session->router, &request, &one->id, error);
  if (status) return status;
  one->open = true;
  all->n_open++;
  return CS_OK;
}

/* ---- events ---- */

static generation *find(generations *all, uint64_t id) {
  for (uint32_t i = 0; i < all->n; i++)
    if (all->list[i].open && all->list[i].id == id) return &all->list[i];
  return NULL;
}

/* Hands the callback what is shown of the text beyond the first n_before bytes. */
static void show(generations *all, generation *one, int32_t token, size_t n_before) {
  if (!one->options.on_token) return;
  char *const end = one->text.text + one->text.n_shown;
  const char kept = *end;
  *end = '\0';
  const int stop = one->options.on_token(one->options.user, token, one->text.text + n_before,
                                         one->text.n_shown - n_before);
  *end = kept;
  if (stop != 0 && one->open) {
    one->stopped = true;
    cs_router_cancel(all->session->router, one->id);
  }
}

static cs_status keep_logprobs(generation *one, cs_blob blob, cs_error *error) {
  const size_t n_bytes = one->options.n_logprobs * sizeof *one->logprobs;
  if (blob.bytes != n_bytes)
    return cs_error_set(error, CS_CORRUPT, "%llu bytes of log-probabilities, %zu were asked for",
                        (unsigned long long)blob.bytes, n_bytes);
  if (n_bytes > 0)
    memcpy(one->logprobs + (size_t)one->n_tokens * one->options.n_logprobs, blob.data, n_bytes);
  return CS_OK;
}

static void take_token(generations *all, generation *one, const cs_router_event *event) {
  cs_error error = CS_ERROR_INIT;
  if (one->stopped || all->status) return;
  one->last_us = cs_now_us();
  if (one->n_tokens == 0) one->first_us = one->last_us;
  cs_status status = keep_logprobs(one, event->logprobs, &error);
  one->tokens[one->n_tokens++] = event->token;
  size_t n_bytes = 0;
  if (all->session->model->tokenizer)
    n_bytes =
        cs_detokenizer_push(&one->detokenizer, event->token, one->piece, one->piece_capacity - 1);
  if (all->session->model->tokenizer && one->n_tokens == one->n_output) /* nothing can follow */
    n_bytes += cs_detokenizer_flush(&one->detokenizer, one->piece + n_bytes,
                                    one->piece_capacity - 1 - n_bytes);
  const size_t n_before = one->text.n_shown;
  if (!status) status = cs_answer_text_append(&one->text, one->piece, n_bytes, &error);
  if (status) {
    fail(all, status, &error);
    return;
  }
  if (one->text.stopped) {
    one->stopped = true;
    cs_router_cancel(all->session->router, one->id);
  }
  show(all, one, event->token, n_before);
}

/* Its last event has come. */
static void finish(generations *all, generation *one, const cs_router_event *event) {
  one->open = false;
  one->report = event->report;
  all->n_open--;
  if (event->kind == CS_ROUTER_FAILED) {
    fail(all, event->error.code, &event->error);
    return;
  }
  const size_t n_before = one->text.n_shown;
  cs_answer_text_end(&one->text);
  if (one->text.n_shown > n_before && !one->stopped) show(all, one, -1, n_before);
}

static void take_event(generations *all, const cs_router_event *event) {
  generation *const one = find(all, event->request);
  if (!one) return;
  switch (event->kind) {
  case CS_ROUTER_TOKEN:
    take_token(all, one, event);
    break;
  case CS_ROUTER_LOGITS:
    break;
  case CS_ROUTER_FINISHED:
  case CS_ROUTER_FAILED:
    finish(all, one, event);
    break;
  }
}

static void check_deadlines(generations *all) {
  const uint64_t now_us = cs_now_us();
  for (uint32_t i = 0; i < all->n; i++) {
    generation *const one = &all->list[i];
    if (!one->open || now_us < one->deadline_us) continue;
    cs_error error = CS_ERROR_INIT;
    const cs_status status =
        cs_error_set(&error, CS_TIMEOUT, "not done within %u ms", one->options.timeout_ms);
    one->deadline_us = UINT64_MAX;
    fail(all, status, &error);
  }
}

static void run(generations *all) {
  while (all->n_open > 0) {
    cs_router_event event;
    cs_error error = CS_ERROR_INIT;
    const cs_status status = cs_router_next(all->session->router, POLL_US, &event);
    if (!status) take_event(all, &event);
    check_deadlines(all);
    if (!status || status == CS_TIMEOUT) continue;
    cs_error_set(&error, status, "the router stopped");
    fail(all, status, &error);
    return;
  }
}

/* ---- results ---- */

static double rate(uint64_t n_tokens, uint64_t us) {
  return us > 0 ? (double)n_tokens * 1e6 / (double)us : 0.0;
}

static uint32_t finish_of(const generation *one) {
  if (one->text.stopped) return CONSORT_FINISH_STOP;
  if (one->stopped) return CONSORT_FINISH_CANCELLED;
  return one->report.decode.reason; /* CS_DONE_* are the first CONSORT_FINISH_* */
}

/* Moves tokens, text and log-probabilities into *out. */
static void give_result(const consort_session *session, generation *one,
                        consort_generate_result *out) {
  const cs_router_report *const report = &one->report;
  const cs_done_message *const prefill =
      session->two_stages && report->prefill.n_prefill_tokens ? &report->prefill : &report->decode;
  const uint64_t later_us = one->last_us - one->first_us;
  *out = (consort_generate_result){
      .struct_size = sizeof *out,
      .n_prompt_tokens = one->n_prompt,
      .n_tokens = one->n_tokens,
      .kv_verified = report->transferred,
      .tokens = one->tokens,
      .text = one->text.text,
      .text_bytes = one->text.n_bytes,
      .ttft_ms = one->n_tokens ? (double)(one->first_us - one->begin_us) / 1e3 : 0.0,
      .tpot_ms = one->n_tokens > 1 ? (double)later_us / 1e3 / (one->n_tokens - 1) : 0.0,
      .prefill_tokens_per_s = rate(prefill->n_prefill_tokens, prefill->prefill_us),
      .decode_tokens_per_s = rate(report->decode.n_decode_tokens, report->decode.decode_us),
      .kv_bytes = report->transfer.bytes,
      .kv_ms = (double)report->transfer.transfer_us / 1e3,
      .kv_exposed_ms = (double)report->transfer.exposed_us / 1e3,
      .kv_pieces = report->transfer.n_pieces,
      .kv_path = report->transfer.direct_path,
      .kv_direct = report->transfer.n_direct,
      .logprobs = one->logprobs,
      .n_logprobs = one->options.n_logprobs,
      .finish = finish_of(one)};
  one->tokens = NULL;
  one->text.text = NULL;
  one->logprobs = NULL;
}

/* begin_us: when the caller asked. */
static cs_status generate_all(consort_session *session, const cs_session_prompt *prompts,
                              uint32_t n_prompts, uint64_t begin_us,
                              consort_generate_result *results, cs_error *error) {
  memset(results, 0, n_prompts * sizeof *results);
  generations all = {.session = session,
                     .list = calloc((size_t)n_prompts + 1, sizeof *all.list),
                     .n = n_prompts,
                     .error = CS_ERROR_INIT};
  if (!all.list) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for an answer");
  const cs_status revived = cs_session_revive(session, error);
  if (revived) {
    free(all.list);
    return revived;
  }
  for (uint32_t i = 0; i < n_prompts && !all.status; i++) {
    cs_error own = CS_ERROR_INIT;
    const cs_status status = begin(&all, &all.list[i], &prompts[i], begin_us, &own);
    if (status) fail(&all, status, &own);
  }
  run(&all);
  for (uint32_t i = 0; i < n_prompts; i++) {
    if (!all.status) give_result(session, &all.list[i], &results[i]);
    free(all.list[i].tokens);
    free(all.list[i].logprobs);
    free(all.list[i].biases);
    cs_answer_text_free(&all.list[i].text);
    free(all.list[i].piece);
  }
  free(all.list);
  if (all.status && error && error->struct_size >= sizeof *error) *error = all.error;
  return all.status;
}

cs_status cs_session_generate(consort_session *session, const cs_session_prompt *prompts,
                              uint32_t n_prompts, consort_generate_result *results,
                              cs_error *error) {
  return generate_all(session, prompts, n_prompts, cs_now_us(), results, error);
}

/* ---- the facade ---- */

static cs_status clear_result(consort_generate_result *out, cs_error *error) {
  const consort_generate_result nothing = {.struct_size = sizeof nothing};
  return cs_struct_write(out, &nothing, sizeof nothing, "generate result", error);
}

static cs_status generate_one(consort_session *session, const int32_t *tokens, size_t n_tokens,
                              const consort_generate_options *options, uint64_t begin_us,
                              consort_generate_result *out, cs_error *error) {
  if (n_tokens > session->n_context)
    return cs_error_set(error, CS_OUT_OF_RANGE,
                        "prompt has %zu tokens but the context holds %u (raise --ctx)", n_tokens,
                        session->n_context);
  const cs_session_prompt prompt = {tokens, (uint32_t)n_tokens, options};
  consort_generate_result result;
  const cs_status status = generate_all(session, &prompt, 1, begin_us, &result, error);
  return status ? status : cs_struct_write(out, &result, sizeof result, "generate result", error);
}

cs_status consort_generate_from_tokens(consort_session *session, const int32_t *tokens,
                                       size_t n_tokens, const consort_generate_options *options,
                                       consort_generate_result *out, cs_error *error) {
  const cs_status status = clear_result(out, error);
  if (status) return status;
  if (!session || (!tokens && n_tokens > 0))
    return cs_error_set(error, CS_INVALID_ARGUMENT, "no session or no tokens");
  return generate_one(session, tokens, n_tokens, options, cs_now_us(), out, error);
}

cs_status consort_generate(consort_session *session, const char *text,
                           const consort_generate_options *options, consort_generate_result *out,
                           cs_error *error) {
  const uint64_t begin_us = cs_now_us();
  cs_status status = clear_result(out, error);
  if (status) return status;
  if (!session || !text) return cs_error_set(error, CS_INVALID_ARGUMENT, "no session or no text");
  if (!session->model->tokenizer)
    return cs_error_set(error, CS_UNSUPPORTED, "the model has no tokenizer");
  int32_t *tokens = NULL;
  size_t n_tokens = 0;
  status = cs_tokenizer_encode(session->model->tokenizer, text, strlen(text), true, &tokens,
                               &n_tokens, error);
  if (!status) status = generate_one(session, tokens, n_tokens, options, begin_us, out, error);
  free(tokens);
  return status;
}

/* ---- logits ---- */

/* Rows that came are copied; a row out of place ends it. */
static cs_status take_rows(const cs_router_event *event, size_t n_tokens, uint64_t n_vocab,
                           float *out, size_t *n_rows, cs_error *error) {
  if (event->first_row > n_tokens || event->n_rows > n_tokens - event->first_row ||
      event->rows.bytes != event->n_rows * n_vocab * sizeof *out)
    return cs_error_set(error, CS_CORRUPT, "logits of rows %u to %llu: out of place",
                        event->first_row, (unsigned long long)event->first_row + event->n_rows - 1);
  memcpy(out + event->first_row * n_vocab, event->rows.data, (size_t)event->rows.bytes);
  *n_rows += event->n_rows;
  return CS_OK;
}

static cs_status collect_rows(consort_session *session, size_t n_tokens, float *out,
                              cs_error *error) {
  const uint64_t n_vocab = cs_model_get_config(session->model->model)->n_vocab;
  size_t n_rows = 0;
  cs_status status = CS_OK; /* of the rows */
  for (;;) {
    cs_router_event event;
    const cs_status next = cs_router_next(session->router, POLL_US, &event);
    if (next == CS_TIMEOUT) continue;
    if (next) return cs_error_set(error, next, "the router stopped");
    if (event.kind == CS_ROUTER_LOGITS && !status) {
      status = take_rows(&event, n_tokens, n_vocab, out, &n_rows, error);
      if (status) cs_router_cancel(session->router, event.request);
    }
    if (event.kind == CS_ROUTER_FAILED && !status) {
      if (error && error->struct_size >= sizeof *error) *error = event.error;
      return event.error.code;
    }
    if (event.kind == CS_ROUTER_FINISHED || event.kind == CS_ROUTER_FAILED) break;
  }
  if (!status && n_rows != n_tokens)
    return cs_error_set(error, CS_CORRUPT, "%zu of %zu rows of logits came", n_rows, n_tokens);
  return status;
}

cs_status consort_logits(consort_session *session, const int32_t *tokens, size_t n_tokens,
                         size_t split, float *out, cs_error *error) {
  if (!session || !tokens || !out)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "no session, no tokens or no place for logits");
  if (split > n_tokens)
    return cs_error_set(error, CS_OUT_OF_RANGE, "split %zu: there are %zu tokens", split, n_tokens);
  if (n_tokens > session->n_context)
    return cs_error_set(error, CS_OUT_OF_RANGE,
                        "prompt has %zu tokens but the context holds %u (raise --ctx)", n_tokens,
                        session->n_context);
  const cs_router_request request = {.tokens = tokens,
                                     .n_tokens = (uint32_t)n_tokens,
                                     .sampler = CS_SAMPLER_GREEDY,
                                     .score = true,
                                     .split = (uint32_t)split};
  uint64_t id;
  cs_status status = cs_session_revive(session, error);
  if (!status) status = cs_router_submit(session->router, &request, &id, error);
  return status ? status : collect_rows(session, n_tokens, out, error);
}
