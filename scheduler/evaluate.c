/* Windows are scored one after the other through consort_logits, so that what is measured is what
 * a request gets: the same devices, the same transfer. Only two windows of logits are held. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/evaluate_rows.h"
#include "scheduler/facade.h"
#include "scheduler/session.h"
#include "scheduler/structs.h"

#define DEFAULT_WINDOW     512
#define DEFAULT_NMSE_LIMIT 3e-4

typedef struct evaluation {
  consort_session *session;
  consort_session *against; /* may be NULL */
  const int32_t *tokens;
  uint32_t n_window;
  uint32_t n_skip;
  uint32_t n_windows;
  double nmse_limit;
  int32_t bos; /* takes the first place of each window; -1: none does */
  size_t n_vocab;
  int32_t *window; /* (n_window) */
  float *logits;   /* (n_window, n_vocab) */
  float *other;    /* likewise, for `against` */
  cs_evaluation sums;
  uint64_t n_text_bytes;
} evaluation;

/* ---- set-up ---- */

static size_t vocabulary_of(const consort_session *session) {
  return cs_model_get_config(session->model->model)->n_vocab;
}

static cs_status choose_windows(evaluation *run, size_t n_tokens,
                                const consort_evaluate_options *options, cs_error *error) {
  if (n_tokens < 2)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a text of %zu tokens has nothing to predict",
                        n_tokens);
  const uint32_t wanted = options->n_window ? options->n_window : DEFAULT_WINDOW;
  run->n_window = n_tokens < wanted ? (uint32_t)n_tokens : wanted;
  run->n_skip = options->n_skip == UINT32_MAX ? run->n_window / 2 : options->n_skip;
  if (run->n_window < 2 || run->n_skip > run->n_window - 2)
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        "skipping %u tokens leaves none to score in a window of %u", run->n_skip,
                        run->n_window);
  const size_t n_windows = n_tokens / run->n_window;
  run->n_windows = n_windows < UINT32_MAX ? (uint32_t)n_windows : UINT32_MAX;
  if (options->n_windows && options->n_windows < run->n_windows)
    run->n_windows = options->n_windows;
  return CS_OK;
}

static cs_status set_up(evaluation *run, size_t n_tokens, const consort_evaluate_options *options,
                        cs_error *error) {
  if (!(options->nmse_limit >= 0.0) || !isfinite(options->nmse_limit))
    return cs_error_set(error, CS_INVALID_ARGUMENT, "nmse_limit: %g is not 0 or more",
                        options->nmse_limit);
  run->nmse_limit = options->nmse_limit > 0.0 ? options->nmse_limit : DEFAULT_NMSE_LIMIT;
  run->n_vocab = vocabulary_of(run->session);
  if (run->against && vocabulary_of(run->against) != run->n_vocab)
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        "vocabularies of %zu and %zu tokens cannot be compared", run->n_vocab,
                        vocabulary_of(run->against));
  const cs_status status = choose_windows(run, n_tokens, options, error);
  if (status) return status;
  const cs_tokenizer *const tokenizer = run->session->model->tokenizer;
  const int32_t bos = tokenizer ? cs_tokenizer_bos(tokenizer) : -1;
  run->bos = run->tokens[0] == bos ? bos : -1;
  const size_t n_logits = run->n_window * run->n_vocab; /* each fits 32 bits */
  run->window = malloc(run->n_window * sizeof *run->window);
  run->logits = calloc(n_logits, sizeof *run->logits);
  run->other = run->against ? calloc(n_logits, sizeof *run->other) : NULL;
  if (!run->window || !run->logits || (run->against && !run->other))
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for the logits of %u tokens",
                        run->n_window);
  return CS_OK;
}

/* ---- one window ---- */

static cs_status text_bytes(const consort_model *model, const int32_t *tokens, size_t n,
                            size_t *n_bytes, cs_error *error) {
  char *text = NULL;
  const cs_status status = consort_detokenize(model, tokens, n, &text, n_bytes, error);
  consort_free(text);
  return status;
}

/* Bytes that the scored tokens add to those before them. */
static cs_status count_bytes(evaluation *run, cs_error *error) {
  const consort_model *const model = run->session->model;
  if (!model->tokenizer) return CS_OK;
  size_t n_before = 0, n_all = 0;
  cs_status status = text_bytes(model, run->window, run->n_skip + 1, &n_before, error);
  if (!status) status = text_bytes(model, run->window, run->n_window, &n_all, error);
  if (!status && n_all > n_before) run->n_text_bytes += n_all - n_before;
  return status;
}

static cs_status score_window(evaluation *run, uint32_t index, cs_error *error) {
  memcpy(run->window, run->tokens + (size_t)index * run->n_window,
         run->n_window * sizeof *run->window);
  if (run->bos >= 0) run->window[0] = run->bos;
  cs_status status =
      consort_logits(run->session, run->window, run->n_window, run->n_skip, run->logits, error);
  if (!status && run->against)
    status =
        consort_logits(run->against, run->window, run->n_window, run->n_skip, run->other, error);
  for (uint32_t row = run->n_skip; !status && row + 1 < run->n_window; row++) {
    const size_t at = row * run->n_vocab;
    status = cs_evaluation_add(&run->sums, run->logits + at, run->other ? run->other + at : NULL,
                               run->n_vocab, run->window[row + 1], run->nmse_limit, error);
  }
  return status ? status : count_bytes(run, error);
}

static cs_status score_all(evaluation *run, const consort_evaluate_options *options,
                           cs_error *error) {
  for (uint32_t i = 0; i < run->n_windows; i++) {
    const cs_status status = score_window(run, i, error);
    if (status) return status;
    if (options->progress && options->progress(options->progress_user, i + 1, run->n_windows,
                                               cs_evaluation_perplexity(&run->sums)) != 0)
      return cs_error_set(error, CS_CANCELLED, "ended after %u of %u windows", i + 1,
                          run->n_windows);
  }
  return CS_OK;
}

static void fill_result(evaluation *run, consort_evaluate_result *out) {
  cs_evaluation *const sums = &run->sums;
  *out = (consort_evaluate_result){
      .struct_size = sizeof *out,
      .n_windows = run->n_windows,
      .n_tokens = sums->n_rows,
      .n_text_bytes = run->n_text_bytes,
      .perplexity = cs_evaluation_perplexity(sums),
      .perplexity_error = cs_evaluation_perplexity_error(sums),
      .bits_per_byte =
          run->n_text_bytes ? sums->nll_sum / log(2.0) / (double)run->n_text_bytes : (double)NAN};
  if (!run->against) return;
  out->n_same_top = sums->n_same_top;
  out->n_near_ties = sums->n_near_ties;
  out->n_clear_differences = sums->n_clear_differences;
  out->against_perplexity = exp(sums->other_nll_sum / (double)sums->n_rows);
  out->kl_mean = cs_evaluation_mean_divergence(sums);
  out->kl_median = cs_evaluation_divergence(sums, 0.5);
  out->kl_p99 = cs_evaluation_divergence(sums, 0.99);
  out->kl_max = cs_evaluation_divergence(sums, 1.0);
  out->nmse = sums->error_squares / sums->reference_squares;
}

cs_status consort_evaluate(consort_session *session, consort_session *against,
                           const int32_t *tokens, size_t n_tokens,
                           const consort_evaluate_options *options, consort_evaluate_result *out,
                           cs_error *error) {
  consort_evaluate_result result = {.struct_size = sizeof result};
  cs_status status = cs_struct_write(out, &result, sizeof result, "evaluate result", error);
  if (status) return status;
  if (!session || !tokens)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "no session or no tokens");
  consort_evaluate_options known = {.n_skip = UINT32_MAX};
  if (options) status = cs_struct_read(&known, sizeof known, options, "evaluate options", error);
  if (status) return status;
  evaluation run = {.session = session, .against = against, .tokens = tokens};
  status = set_up(&run, n_tokens, &known, error);
  if (!status) status = score_all(&run, &known, error);
  if (!status) fill_result(&run, &result);
  cs_evaluation_free(&run.sums);
  free(run.window);
  free(run.logits);
  free(run.other);
  return status ? status : cs_struct_write(out, &result, sizeof result, "evaluate result", error);
}
