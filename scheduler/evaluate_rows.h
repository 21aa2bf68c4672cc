/* What rows of logits say about a text, and about other rows for the same text. */
#ifndef SCHEDULER_EVALUATE_ROWS_H
#define SCHEDULER_EVALUATE_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

/* Running sums over scored rows. Zero-initialise; free with cs_evaluation_free. */
typedef struct cs_evaluation {
  uint64_t n_rows;
  double nll_sum; /* negative log-likelihood of the text, natural logarithm */
  double nll_squares;
  /* Of a comparison: */
  double other_nll_sum;
  float *divergences; /* (n_rows): KL(reference || other) in nats */
  size_t capacity;
  uint64_t n_same_top;  /* rows where the likeliest token is the same */
  uint64_t n_near_ties; /* rows where the reference's two likeliest are nearer than the threshold */
  uint64_t n_clear_differences; /* rows whose likeliest tokens differ without a near tie */
  double error_squares;         /* of other - reference */
  double reference_squares;
} cs_evaluation;

void cs_evaluation_free(cs_evaluation *evaluation);

/* Adds one row: logits (n_vocab) that predict `next`, and `other` (n_vocab) beside them or NULL.
 * nmse_limit: a near tie is a distance of the two largest logits below 6 sqrt(nmse_limit)
 * RMS(logits). CS_CORRUPT when a logit is not finite, CS_OUT_OF_MEMORY. */
cs_status cs_evaluation_add(cs_evaluation *evaluation, const float *logits, const float *other,
                            size_t n_vocab, int32_t next, double nmse_limit, cs_error *error);

/* Perplexity exp(nll / n), and its standard error. */
double cs_evaluation_perplexity(const cs_evaluation *evaluation);
double cs_evaluation_perplexity_error(const cs_evaluation *evaluation);
/* The share-quantile of the divergences, share in [0, 1], the next one above. Sorts them. */
double cs_evaluation_divergence(cs_evaluation *evaluation, double share);
double cs_evaluation_mean_divergence(const cs_evaluation *evaluation);

#endif
