/* Sampling: a pure function of logits, parameters, seed and position. */
#ifndef MODELS_SAMPLER_H
#define MODELS_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

/* Penalties and biases come first, then the filters in the order top-k, top-p, min-p, and last the
 * temperature. */
typedef struct cs_sampler_params {
  float temperature; /* 0: greedy, the lowest id of the largest logit */
  uint32_t top_k;    /* 0: all */
  float top_p;       /* 1: all */
  float min_p;       /* 0: all; else tokens below min_p times the best probability go */
  uint64_t seed;
  /* 0 or 1: none. Logits of tokens in the prompt or the output are divided by it when positive and
   * multiplied by it when negative (Keskar et al., CTRL, 2019). */
  float repetition_penalty;
  /* As OpenAI's API has them: a token that is n > 0 times in the output, prompt apart, loses
   * presence_penalty + n * frequency_penalty. */
  float frequency_penalty;
  float presence_penalty;
  uint32_t n_logprobs; /* log-probabilities told with each token: its own and those of the
                          n_logprobs - 1 likeliest; 0: none */
} cs_sampler_params;

/* Added to one token's logit after the penalties; -INFINITY bans it. */
typedef struct cs_logit_bias {
  int32_t token;
  float bias;
} cs_logit_bias;

/* What a draw depends on beside the logits. */
typedef struct cs_sampler_history {
  const cs_logit_bias *biases;
  size_t n_biases;
  const int32_t *tokens; /* prompt and output, each inside the vocabulary */
  size_t n_tokens;
  size_t n_prompt;
} cs_sampler_history;

typedef struct cs_token_logprob {
  int32_t token;
  float logprob; /* natural logarithm */
} cs_token_logprob;

#define CS_SAMPLER_MAX_LOGPROBS 64

#define CS_SAMPLER_GREEDY                                                                          \
  { .temperature = 0.0f, .top_p = 1.0f }

/* CS_INVALID_ARGUMENT names the parameter that is out of range or not a number. */
cs_status cs_sampler_check(const cs_sampler_params *params, cs_error *error);
/* CS_INVALID_ARGUMENT names the token that is outside the vocabulary or whose bias is not a number
 * (-INFINITY is one, INFINITY is not). */
cs_status cs_sampler_check_biases(const cs_logit_bias *biases, size_t n_biases, size_t n_vocab,
                                  cs_error *error);

/* Whether the argmax of the logits, without the logits themselves, is all that sampling needs. */
bool cs_sampler_is_argmax(const cs_sampler_params *params, size_t n_biases);

/* Applies penalties and biases: out (n_vocab), the caller's. Out and logits may be the same. */
cs_status cs_sampler_adjust(const cs_sampler_params *params, const cs_sampler_history *history,
                            const float *logits, size_t n_vocab, float *out, cs_error *error);

/* Log-softmax of the model's own logits, before anything is applied to them: out[0] for `token`,
 * out[1] to out[n - 1] for the likeliest tokens in falling order (equal ones by id). Places beyond
 * n_vocab are token -1. */
void cs_sampler_logprobs(const float *logits, size_t n_vocab, int32_t token, uint32_t n,
                         cs_token_logprob *out);

/* Draws the token at `position` (of the whole sequence) from logits (n_vocab). Equal arguments give
 * equal tokens on every machine. CS_FAILED when no logit is finite. */
cs_status cs_sample(const cs_sampler_params *params, uint64_t position, const float *logits,
                    size_t n_vocab, int32_t *token, cs_error *error);

#endif
