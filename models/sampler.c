/* A draw must not depend on the machine: probabilities are summed in float64 in an order that the
 * logits alone decide, and the exponential is our own, made of operations that IEEE 754 rounds the
 * same everywhere (this file is compiled without contraction to fused multiply-add). Randomness is
 * a hash of seed and position, so that a request can be resumed at any token.
 *
 * Only as much of the vocabulary is sorted as the filters look at: a heap hands out candidates from
 * the best on. */
#include "models/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/error.h"

typedef struct candidate {
  float logit;
  int32_t id;
} candidate;

/* The best candidates leave the heap for the end of the array: the i-th best is
 * items[n - 1 - i], for i < n_sorted. */
typedef struct candidates {
  candidate *items;
  size_t n;
  size_t n_sorted;
  float best; /* the largest logit */
} candidates;

/* ---- numbers that are equal everywhere --------------------------------------------------- */

/* splitmix64's finalizer (Steele, Lea, Flood: Fast splittable pseudorandom number generators). */
static uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

/* Uniform in [0, 1) with 53 bits. */
static double draw_uniform(uint64_t seed, uint64_t position) {
  const uint64_t golden = UINT64_C(0x9e3779b97f4a7c15);
  const uint64_t bits = mix(mix(seed + golden) ^ mix(position * golden + golden));
  return (double)(bits >> 11) * 0x1p-53;
}

/* exp(x) for x <= 0: 2^n * exp(r) with |r| <= ln(2) / 2 and exp(r) by its Taylor series, whose 14
 * terms leave an error below float64's rounding. */
static double exponential(double x) {
  if (x < -700.0) return 0.0;
  const double n = floor(x * 1.4426950408889634 + 0.5);
  const double r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;
  double sum = 1.0;
  for (int i = 13; i >= 1; i--)
    sum = 1.0 + sum * r / i;
  return ldexp(sum, (int)n);
}

/* An infinite best logit takes all, and shares it only with its equals. */
static double weight_of(const candidates *c, float logit, double temperature) {
  if (logit == c->best) return 1.0;
  return exponential(((double)logit - (double)c->best) / temperature);
}

/* ---- candidates -------------------------------------------------------------------------- */

static bool is_before(candidate a, candidate b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(candidate *heap, size_t n, size_t at) {
  const candidate moved = heap[at];
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= n) break;
    if (child + 1 < n && is_before(heap[child + 1], heap[child])) child++;
    if (!is_before(heap[child], moved)) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moved;
}

static void make_heap(candidates *c) {
  for (size_t i = c->n / 2; i-- > 0;)
    sift_down(c->items, c->n, i);
}

/* The best of those not sorted yet. */
static candidate take_next(candidates *c) {
  const size_t n_heap = c->n - c->n_sorted;
  const candidate next = c->items[0];
  c->items[0] = c->items[n_heap - 1];
  c->items[n_heap - 1] = next;
  c->n_sorted++;
  sift_down(c->items, n_heap - 1, 0);
  return next;
}

/* How many of the best `n_kept` make up top_p of their probability, at least 1. Sorts as many. */
static size_t count_top_p(candidates *c, size_t n_kept, float top_p) {
  double total = 0.0;
  if (c->n_sorted == n_kept) {
    for (size_t i = 0; i < n_kept; i++)
      total += weight_of(c, c->items[c->n - 1 - i].logit, 1.0);
  } else {
    for (size_t i = 0; i < c->n; i++)
      total += weight_of(c, c->items[i].logit, 1.0);
  }
  const double wanted = total * (double)top_p;
  double sum = 0.0;
  for (size_t i = 0; i < n_kept; i++) {
    const float logit = i < c->n_sorted ? c->items[c->n - 1 - i].logit : take_next(c).logit;
    sum += weight_of(c, logit, 1.0);
    if (sum >= wanted) return i + 1;
  }
  return n_kept;
}

/* Leaves the tokens that pass the filters in front of the array and returns how many. */
static size_t filter(candidates *c, const cs_sampler_params *params) {
  size_t n_kept = c->n;
  const bool has_top_k = params->top_k > 0 && params->top_k < c->n;
  const bool has_top_p = params->top_p < 1.0f;
  if (has_top_k || has_top_p) make_heap(c);
  if (has_top_k) {
    n_kept = params->top_k;
    while (c->n_sorted < n_kept)
      take_next(c);
  }
  if (has_top_p) n_kept = count_top_p(c, n_kept, params->top_p);
  if (has_top_k || has_top_p) {
    for (size_t i = 0; i < n_kept && i < c->n - 1 - i; i++) { /* the best come first again */
      const candidate swapped = c->items[i];
      c->items[i] = c->items[c->n - 1 - i];
      c->items[c->n - 1 - i] = swapped;
    }
  }
  size_t n_left = 0;
  for (size_t i = 0; i < n_kept; i++)
    if (weight_of(c, c->items[i].logit, 1.0) >= (double)params->min_p)
      c->items[n_left++] = c->items[i];
  return n_left;
}

static int32_t draw(const candidates *c, size_t n, double temperature, double uniform) {
  double total = 0.0;
  for (size_t i = 0; i < n; i++)
    total += weight_of(c, c->items[i].logit, temperature);
  const double target = uniform * total;
  double sum = 0.0;
  int32_t last = c->items[0].id;
  for (size_t i = 0; i < n; i++) {
    const double weight = weight_of(c, c->items[i].logit, temperature);
    if (weight > 0.0) last = c->items[i].id;
    sum += weight;
    if (sum > target) return c->items[i].id;
  }
  return last; /* rounding left the target at the very end */
}

/* The lowest id of the largest logit, as the argmax op has it; -1 when none is finite. */
static int32_t find_best(const float *logits, size_t n) {
  int32_t best = -1;
  bool any_finite = false;
  for (size_t i = 0; i < n; i++) {
    if (isnan(logits[i])) continue;
    any_finite = any_finite || isfinite(logits[i]);
    if (best < 0 || logits[i] > logits[best]) best = (int32_t)i;
  }
  return any_finite ? best : -1;
}

cs_status cs_sample(const cs_sampler_params *params, uint64_t position, const float *logits,
                    size_t n_vocab, int32_t *token, cs_error *error) {
  *token = -1;
  const cs_status status = cs_sampler_check(params, error);
  if (status != CS_OK) return status;
  if (n_vocab > INT32_MAX)
    return cs_error_set(error, CS_OUT_OF_RANGE, "%zu logits are more than an id can name", n_vocab);
  const int32_t best = find_best(logits, n_vocab);
  if (best < 0) return cs_error_set(error, CS_FAILED, "none of %zu logits is finite", n_vocab);
  if (params->temperature == 0.0f || params->top_k == 1) {
    *token = best;
    return CS_OK;
  }
  candidates c = {.best = logits[best]};
  c.items = malloc(n_vocab * sizeof *c.items);
  if (!c.items) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  for (size_t i = 0; i < n_vocab; i++)
    if (!isnan(logits[i]) && logits[i] != -INFINITY)
      c.items[c.n++] = (candidate){logits[i], (int32_t)i};
  const size_t n = filter(&c, params);
  *token = draw(&c, n, (double)params->temperature, draw_uniform(params->seed, position));
  free(c.items);
  return CS_OK;
}
