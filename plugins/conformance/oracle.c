/* One function an op. Nothing is fused, blocked or reordered: the loops are the formula. */
#include "oracle.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

void oracle_gather_rows(double *out, const double *table, const double *ids, uint64_t n, uint64_t d,
                        double scale) {
  for (uint64_t i = 0; i < n; i++)
    for (uint64_t j = 0; j < d; j++)
      out[i * d + j] = ids[i] < 0 ? 0 : scale * table[(uint64_t)ids[i] * d + j];
}

void oracle_rms_norm(double *out, const double *x, const double *weight, const double *add,
                     double *sum, uint64_t n, uint64_t d, const cs_rms_norm_params *params) {
  for (uint64_t i = 0; i < n; i++) {
    double mean = 0, mean_square = 0;
    for (uint64_t j = 0; j < d; j++)
      mean += (x[i * d + j] + (add ? add[i * d + j] : 0)) / (double)d;
    const double centre = params->kind == CS_NORM_LAYER ? mean : 0;
    for (uint64_t j = 0; j < d; j++) {
      const double s = x[i * d + j] + (add ? add[i * d + j] : 0);
      if (sum) sum[i * d + j] = s;
      mean_square += (s - centre) * (s - centre) / (double)d;
    }
    const double scale = 1 / sqrt(mean_square + params->epsilon);
    for (uint64_t j = 0; j < d; j++) {
      const double s = x[i * d + j] + (add ? add[i * d + j] : 0);
      out[i * d + j] = (s - centre) * scale * weight[j];
    }
  }
}

static double dot(const double *a, const double *b, uint64_t n) {
  double sum = 0;
  for (uint64_t i = 0; i < n; i++)
    sum += a[i] * b[i];
  return sum;
}

void oracle_matmul(double *out, const double *x, const double *weight, const double *bias,
                   const double *residual, uint64_t n, uint64_t n_out, uint64_t n_in,
                   double soft_cap) {
  for (uint64_t i = 0; i < n; i++)
    for (uint64_t j = 0; j < n_out; j++) {
      double y = dot(&x[i * n_in], &weight[j * n_in], n_in) + (bias ? bias[j] : 0);
      if (soft_cap != 0) y = soft_cap * tanh(y / soft_cap);
      out[i * n_out + j] = y + (residual ? residual[i * n_out + j] : 0);
    }
}

void oracle_rope(double *out, const double *x, const double *positions, const double *inv_freq,
                 uint64_t n, uint64_t n_heads, uint64_t head_dim, const cs_rope_params *params) {
  const uint64_t n_pairs = params->n_rot / 2;
  const bool interleaved = params->mode == CS_ROPE_INTERLEAVED;
  for (uint64_t i = 0; i < n; i++)
    for (uint64_t h = 0; h < n_heads; h++) {
      const double *from = &x[(i * n_heads + h) * head_dim];
      double *to = &out[(i * n_heads + h) * head_dim];
      for (uint64_t j = 0; j < n_pairs; j++) {
        const uint64_t a = interleaved ? 2 * j : j, b = interleaved ? 2 * j + 1 : j + n_pairs;
        const double angle = positions[i] * inv_freq[j];
        const double c = cos(angle) * params->magnitude, s = sin(angle) * params->magnitude;
        const double u = from[a], v = from[b];
        to[a] = u * c - v * s;
        to[b] = u * s + v * c;
      }
      for (uint64_t j = 2 * n_pairs; j < head_dim; j++)
        to[j] = from[j];
    }
}

void oracle_kv_write(double *cache, const double *rows, const double *slots, uint64_t n,
                     uint64_t row_width) {
  for (uint64_t i = 0; i < n; i++)
    for (uint64_t j = 0; j < row_width && slots[i] >= 0; j++)
      cache[(uint64_t)slots[i] * row_width + j] = rows[i * row_width + j];
}

void oracle_silu_mul(double *out, const double *gate, const double *up, uint64_t count) {
  for (uint64_t i = 0; i < count; i++)
    out[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
}

/* 0.5 (1 + tanh u) is 1 / (1 + exp(-2u)), which keeps its digits where tanh has come to -1. */
void oracle_gelu_mul(double *out, const double *gate, const double *up, uint64_t count) {
  const double root = 0.79788456080286535588; /* sqrt(2 / pi) */
  for (uint64_t i = 0; i < count; i++) {
    const double g = gate[i];
    out[i] = g / (1 + exp(-2 * root * (g + 0.044715 * g * g * g))) * up[i];
  }
}

void oracle_argmax(double *out, const double *x, uint64_t n, uint64_t d) {
  for (uint64_t i = 0; i < n; i++) {
    uint64_t best = 0;
    for (uint64_t j = 1; j < d; j++) {
      const double value = x[i * d + j], largest = x[i * d + best];
      if (value > largest || (isnan(largest) && !isnan(value))) best = j;
    }
    out[i] = (double)best;
  }
}

/* The index of the largest element not yet taken, the lowest of equals. */
static uint64_t take_largest(const double *x, bool *taken, uint64_t d) {
  uint64_t best = d;
  for (uint64_t j = 0; j < d; j++)
    if (!taken[j] && (best == d || x[j] > x[best])) best = j;
  taken[best] = true;
  return best;
}

#define MAX_ROW 65536 /* the longest row that the kit asks top_k for */

void oracle_top_k(double *values, double *ids, const double *x, uint64_t n, uint64_t d,
                  uint64_t k) {
  bool taken[MAX_ROW];
  for (uint64_t i = 0; i < n; i++) {
    memset(taken, 0, d * sizeof *taken);
    for (uint64_t j = 0; j < k; j++) {
      const uint64_t best = take_largest(&x[i * d], taken, d);
      ids[i * k + j] = (double)best;
      values[i * k + j] = x[i * d + best];
    }
  }
}

#define MAX_EXPERTS 1024

void oracle_moe_route(double *ids, double *weights, const double *logits, const double *bias,
                      uint64_t n, uint64_t k, uint64_t n_experts,
                      const cs_moe_route_params *params) {
  for (uint64_t i = 0; i < n; i++) {
    double p[MAX_EXPERTS], score[MAX_EXPERTS], sum = 0, chosen = 0;
    bool taken[MAX_EXPERTS] = {false};
    for (uint64_t j = 0; j < n_experts; j++)
      sum += exp(logits[i * n_experts + j]);
    for (uint64_t j = 0; j < n_experts; j++) {
      const double logit = logits[i * n_experts + j];
      p[j] = params->scoring == CS_MOE_SIGMOID ? 1 / (1 + exp(-logit)) : exp(logit) / sum;
      score[j] = p[j] + (bias ? bias[j] : 0);
    }
    for (uint64_t j = 0; j < k; j++) {
      const uint64_t best = take_largest(score, taken, n_experts);
      ids[i * k + j] = (double)best;
      weights[i * k + j] = p[best];
      chosen += p[best];
    }
    for (uint64_t j = 0; j < k; j++)
      weights[i * k + j] *= params->scale / (params->normalize ? chosen : 1);
  }
}

void oracle_moe_matmul(double *out, const double *x, const double *weight, const double *ids,
                       uint64_t n_rows, uint64_t n_out, uint64_t n_in, uint64_t rows_per_x) {
  for (uint64_t i = 0; i < n_rows; i++)
    oracle_matmul(&out[i * n_out], &x[i / rows_per_x * n_in],
                  &weight[(uint64_t)ids[i] * n_out * n_in], NULL, NULL, 1, n_out, n_in, 0);
}

void oracle_moe_combine(double *out, const double *x, const double *weights, const double *residual,
                        uint64_t n, uint64_t d, uint64_t k) {
  for (uint64_t i = 0; i < n; i++)
    for (uint64_t c = 0; c < d; c++) {
      double sum = residual ? residual[i * d + c] : 0;
      for (uint64_t j = 0; j < k; j++)
        sum += weights[i * k + j] * x[(i * k + j) * d + c];
      out[i * d + c] = sum;
    }
}
