/* What happens to logits before the filters, and what is told about them. Like the draw itself this
 * is compiled without contraction: a penalized logit has to be the same number on every machine. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/sampler.h"

static cs_status check_range(const char *name, float value, float low, float high,
                             cs_error *error) {
  if (value >= low && value <= high) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: %g is not between %g and %g", name,
                      (double)value, (double)low, (double)high);
}

cs_status cs_sampler_check(const cs_sampler_params *params, cs_error *error) {
  if (!(params->temperature >= 0.0f) || !isfinite(params->temperature))
    return cs_error_set(error, CS_INVALID_ARGUMENT, "temperature: %g is not 0 or more",
                        (double)params->temperature);
  if (params->n_logprobs > CS_SAMPLER_MAX_LOGPROBS)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "logprobs: %u is more than %d",
                        params->n_logprobs, CS_SAMPLER_MAX_LOGPROBS);
  cs_status status = check_range("top_p", params->top_p, 0, 1, error);
  if (!status) status = check_range("min_p", params->min_p, 0, 1, error);
  if (!status)
    status = check_range("repetition_penalty", params->repetition_penalty, 0, 100, error);
  if (!status)
    status = check_range("frequency_penalty", params->frequency_penalty, -100, 100, error);
  if (!status) status = check_range("presence_penalty", params->presence_penalty, -100, 100, error);
  return status;
}

cs_status cs_sampler_check_biases(const cs_logit_bias *biases, size_t n_biases, size_t n_vocab,
                                  cs_error *error) {
  for (size_t i = 0; i < n_biases; i++) {
    if (biases[i].token < 0 || (size_t)biases[i].token >= n_vocab)
      return cs_error_set(error, CS_INVALID_ARGUMENT,
                          "logit bias: token %d is outside the vocabulary of %zu", biases[i].token,
                          n_vocab);
    if (isnan(biases[i].bias) || biases[i].bias == INFINITY)
      return cs_error_set(error, CS_INVALID_ARGUMENT, "logit bias: %g for token %d is not a number",
                          (double)biases[i].bias, biases[i].token);
  }
  return CS_OK;
}

static bool has_repetition(const cs_sampler_params *params) {
  return params->repetition_penalty != 0.0f && params->repetition_penalty != 1.0f;
}

static bool has_penalties(const cs_sampler_params *params) {
  return has_repetition(params) || params->frequency_penalty != 0.0f ||
         params->presence_penalty != 0.0f;
}

bool cs_sampler_is_argmax(const cs_sampler_params *params, size_t n_biases) {
  return params->temperature == 0.0f && n_biases == 0 && params->n_logprobs == 0 &&
         !has_penalties(params);
}

/* `n_output`: how often the token is in the output. */
static float penalize(const cs_sampler_params *params, float logit, uint32_t n_output) {
  if (has_repetition(params))
    logit = logit > 0.0f ? logit / params->repetition_penalty : logit * params->repetition_penalty;
  if (n_output > 0) {
    const float frequency = params->frequency_penalty * (float)n_output;
    logit = logit - frequency;
    logit = logit - params->presence_penalty;
  }
  return logit;
}

cs_status cs_sampler_adjust(const cs_sampler_params *params, const cs_sampler_history *history,
                            const float *logits, size_t n_vocab, float *out, cs_error *error) {
  if (out != logits) memcpy(out, logits, n_vocab * sizeof *out);
  if (has_penalties(params)) {
    /* Of each token: twice its count in the output, and 1 more when it is anywhere at all. */
    uint32_t *const counts = calloc(n_vocab + 1, sizeof *counts);
    if (!counts) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for token counts");
    for (size_t i = 0; i < history->n_tokens; i++) {
      uint32_t *const count = &counts[history->tokens[i]];
      *count = (*count | 1u) + (i >= history->n_prompt ? 2u : 0u);
    }
    for (size_t i = 0; i < history->n_tokens; i++) {
      const int32_t token = history->tokens[i];
      if (counts[token] == 0) continue; /* done already */
      out[token] = penalize(params, out[token], counts[token] / 2);
      counts[token] = 0;
    }
    free(counts);
  }
  for (size_t i = 0; i < history->n_biases; i++)
    out[history->biases[i].token] += history->biases[i].bias;
  return CS_OK;
}

static bool is_before(cs_token_logprob a, cs_token_logprob b) {
  return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
}

/* Keeps the `n` best of what it is given, best first. */
static void insert(cs_token_logprob *best, size_t n, cs_token_logprob added) {
  if (n == 0 || (best[n - 1].token >= 0 && !is_before(added, best[n - 1]))) return;
  size_t at = n - 1;
  for (; at > 0 && (best[at - 1].token < 0 || is_before(added, best[at - 1])); at--)
    best[at] = best[at - 1];
  best[at] = added;
}

void cs_sampler_logprobs(const float *logits, size_t n_vocab, int32_t token, uint32_t n,
                         cs_token_logprob *out) {
  if (n == 0) return;
  for (uint32_t i = 0; i < n; i++)
    out[i] = (cs_token_logprob){-1, -INFINITY};
  float best = -INFINITY;
  for (size_t i = 0; i < n_vocab; i++)
    if (logits[i] > best) best = logits[i];
  double sum = 0.0;
  for (size_t i = 0; i < n_vocab; i++) {
    if (isnan(logits[i])) continue;
    sum += logits[i] == best ? 1.0 : exp((double)logits[i] - (double)best);
    insert(out + 1, n - 1, (cs_token_logprob){(int32_t)i, logits[i]});
  }
  const double normalizer = log(sum);
  out[0] = (cs_token_logprob){token, logits[token]};
  for (uint32_t i = 0; i < n; i++) {
    if (out[i].token < 0) continue;
    const double distance = out[i].logprob == best ? 0.0 : (double)out[i].logprob - (double)best;
    out[i].logprob = (float)(distance - normalizer);
  }
}
