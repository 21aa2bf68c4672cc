/* The softmax step of many queries, the same text for every table: the compiler makes vectors of it
 * for the instructions that the including file is built for. */
#ifndef CPU_SOFTEN_H
#define CPU_SOFTEN_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "blocks.h"

/* See cpu_kernels.soften; sum_exp is the table's. */
static inline bool cpu_soften(float *scores, size_t n, float *largest, float *total, float *shrink,
                              float (*sum_exp)(float *x, size_t n, float shift)) {
  enum { LANES = CPU_PANEL_COLUMNS };
  float top[LANES], shift[LANES], sums[LANES];
  for (size_t c = 0; c < LANES; c++)
    top[c] = largest[c];
  for (size_t t = 0; t < n; t++)
    for (size_t c = 0; c < LANES; c++)
      top[c] = scores[t * LANES + c] > top[c] ? scores[t * LANES + c] : top[c];
  for (size_t c = 0; c < LANES; c++) {
    shift[c] = top[c] == -INFINITY ? 0 : top[c]; /* a query that has seen nothing yet */
    shrink[c] = largest[c] - shift[c];
    largest[c] = top[c];
    sums[c] = 0;
  }
  for (size_t t = 0; t < n; t++)
    for (size_t c = 0; c < LANES; c++)
      scores[t * LANES + c] -= shift[c];
  sum_exp(shrink, LANES, 0);
  sum_exp(scores, n * LANES, 0);
  for (size_t t = 0; t < n; t++)
    for (size_t c = 0; c < LANES; c++)
      sums[c] += scores[t * LANES + c];
  for (size_t c = 0; c < LANES; c++)
    total[c] = total[c] * shrink[c] + sums[c];
  return true;
}

#endif
