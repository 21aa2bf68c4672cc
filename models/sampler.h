/* Sampling: a pure function of logits, parameters, seed and position. */
#ifndef MODELS_SAMPLER_H
#define MODELS_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

/* Filters apply in the order top-k, top-p, min-p, temperature. */
typedef struct cs_sampler_params {
  float temperature; /* 0: greedy, the lowest id of the largest logit */
  uint32_t top_k;    /* 0: all */
  float top_p;       /* 1: all */
  float min_p;       /* 0: all; else tokens below min_p times the best probability go */
  uint64_t seed;
} cs_sampler_params;

#define CS_SAMPLER_GREEDY                                                                          \
  { .temperature = 0.0f, .top_p = 1.0f }

/* CS_INVALID_ARGUMENT names the parameter that is out of range or not a number. */
cs_status cs_sampler_check(const cs_sampler_params *params, cs_error *error);

/* Draws the token at `position` (of the whole sequence) from logits (n_vocab). Equal arguments give
 * equal tokens on every machine. CS_FAILED when no logit is finite. */
cs_status cs_sample(const cs_sampler_params *params, uint64_t position, const float *logits,
                    size_t n_vocab, int32_t *token, cs_error *error);

#endif
