/* All sums are float64: a perplexity over a million rows loses nothing, and a divergence between
 * nearly equal rows is not drowned by its own rounding. */
#include "scheduler/evaluate_rows.h"

#include <math.h>
#include <stdlib.h>

#include "core/error.h"

typedef struct row_facts {
  double normalizer; /* log of the sum of exponentials */
  size_t top;        /* the lowest id of the largest logit */
  double margin;     /* largest less second largest */
  double squares;
} row_facts;

void cs_evaluation_free(cs_evaluation *evaluation) {
  free(evaluation->divergences);
  *evaluation = (cs_evaluation){0};
}

static cs_status look(const float *logits, size_t n, row_facts *facts, cs_error *error) {
  double best = -INFINITY, second = -INFINITY;
  *facts = (row_facts){0};
  for (size_t i = 0; i < n; i++) {
    const double logit = (double)logits[i];
    if (!isfinite(logit)) return cs_error_set(error, CS_CORRUPT, "logit %zu is not finite", i);
    facts->squares += logit * logit;
    if (logit > best) {
      second = best;
      best = logit;
      facts->top = i;
    } else if (logit > second) {
      second = logit;
    }
  }
  double sum = 0.0;
  for (size_t i = 0; i < n; i++)
    sum += exp((double)logits[i] - best);
  facts->normalizer = best + log(sum);
  facts->margin = best - second;
  return CS_OK;
}

static double divergence(const float *logits, const row_facts *facts, const float *other,
                         const row_facts *other_facts, size_t n) {
  double sum = 0.0;
  for (size_t i = 0; i < n; i++) {
    const double log_p = (double)logits[i] - facts->normalizer;
    const double log_q = (double)other[i] - other_facts->normalizer;
    sum += exp(log_p) * (log_p - log_q);
  }
  return sum > 0.0 ? sum : 0.0; /* it is never negative; rounding is */
}

static cs_status reserve(cs_evaluation *evaluation, cs_error *error) {
  if (evaluation->n_rows < evaluation->capacity) return CS_OK;
  const size_t capacity = evaluation->capacity ? 2 * evaluation->capacity : 1024;
  float *const grown = realloc(evaluation->divergences, capacity * sizeof *grown);
  if (!grown) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for %zu rows", capacity);
  evaluation->divergences = grown;
  evaluation->capacity = capacity;
  return CS_OK;
}

static cs_status compare(cs_evaluation *evaluation, const float *logits, const row_facts *facts,
                         const float *other, size_t n, int32_t next, double nmse_limit,
                         cs_error *error) {
  row_facts other_facts;
  cs_status status = look(other, n, &other_facts, error);
  if (!status) status = reserve(evaluation, error);
  if (status) return status;
  evaluation->divergences[evaluation->n_rows] =
      (float)divergence(logits, facts, other, &other_facts, n);
  evaluation->other_nll_sum += other_facts.normalizer - (double)other[next];
  for (size_t i = 0; i < n; i++) {
    const double difference = (double)other[i] - (double)logits[i];
    evaluation->error_squares += difference * difference;
  }
  evaluation->reference_squares += facts->squares;
  const double threshold = 6.0 * sqrt(nmse_limit) * sqrt(facts->squares / (double)n);
  const int near_tie = facts->margin < threshold;
  evaluation->n_near_ties += (uint64_t)near_tie;
  if (facts->top == other_facts.top)
    evaluation->n_same_top++;
  else if (!near_tie)
    evaluation->n_clear_differences++;
  return CS_OK;
}

cs_status cs_evaluation_add(cs_evaluation *evaluation, const float *logits, const float *other,
                            size_t n_vocab, int32_t next, double nmse_limit, cs_error *error) {
  row_facts facts;
  cs_status status = look(logits, n_vocab, &facts, error);
  if (!status && other)
    status = compare(evaluation, logits, &facts, other, n_vocab, next, nmse_limit, error);
  if (status) return status;
  const double nll = facts.normalizer - (double)logits[next];
  evaluation->nll_sum += nll;
  evaluation->nll_squares += nll * nll;
  evaluation->n_rows++;
  return CS_OK;
}

double cs_evaluation_perplexity(const cs_evaluation *evaluation) {
  return exp(evaluation->nll_sum / (double)evaluation->n_rows);
}

/* The standard error of the mean, carried through the exponential to first order. */
double cs_evaluation_perplexity_error(const cs_evaluation *evaluation) {
  if (evaluation->n_rows < 2) return NAN;
  const double n = (double)evaluation->n_rows;
  const double mean = evaluation->nll_sum / n;
  const double variance = (evaluation->nll_squares / n - mean * mean) * n / (n - 1.0);
  return exp(mean) * sqrt(variance > 0.0 ? variance / n : 0.0);
}

static int order(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

double cs_evaluation_divergence(cs_evaluation *evaluation, double share) {
  if (evaluation->n_rows == 0 || !evaluation->divergences) return NAN;
  const size_t n = (size_t)evaluation->n_rows;
  qsort(evaluation->divergences, n, sizeof *evaluation->divergences, order);
  const size_t at = (size_t)ceil(share * (double)(n - 1));
  return (double)evaluation->divergences[at < n ? at : n - 1];
}

double cs_evaluation_mean_divergence(const cs_evaluation *evaluation) {
  double sum = 0.0;
  if (!evaluation->divergences) return NAN;
  for (uint64_t i = 0; i < evaluation->n_rows; i++)
    sum += (double)evaluation->divergences[i];
  return sum / (double)evaluation->n_rows;
}
