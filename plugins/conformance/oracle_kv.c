/* Paged attention and the movement of KV. Position p of a sequence lies in slot p % block_tokens of
 * block block_table[p / block_tokens]; planes are (n_blocks, block_tokens, n_heads, width) here,
 * whatever the device's layout. */
#include <math.h>
#include <string.h>

#include "oracle.h"

static uint64_t plane_row(const double *table, uint64_t position, uint64_t block_tokens) {
  return (uint64_t)table[position / block_tokens] * block_tokens + position % block_tokens;
}

/* One query row of one head over positions first to last. */
static void attend(double *out, const double *q, const double *k_cache, const double *v_cache,
                   const double *table, uint64_t head, uint64_t first, uint64_t last,
                   const double *sink, const oracle_attention_shape *s,
                   const cs_attention_params *params) {
  const uint64_t kv_head = head / (s->n_heads / s->n_kv_heads);
  double largest = sink ? *sink : -INFINITY, sum = 0;
  for (int pass = 0; pass < 2; pass++) { /* first the largest score, then the weighted sum */
    if (pass == 1) {
      memset(out, 0, s->v_width * sizeof *out);
      if (sink) sum += exp(*sink - largest);
    }
    for (uint64_t p = first; p <= last; p++) {
      const uint64_t row = plane_row(table, p, s->block_tokens) * s->n_kv_heads + kv_head;
      double score = 0;
      for (uint64_t j = 0; j < s->k_width; j++)
        score += q[j] * k_cache[row * s->k_width + j];
      score *= params->scale;
      if (params->soft_cap != 0) score = params->soft_cap * tanh(score / params->soft_cap);
      if (pass == 0) {
        if (score > largest) largest = score;
        continue;
      }
      const double weight = exp(score - largest);
      sum += weight;
      for (uint64_t j = 0; j < s->v_width; j++)
        out[j] += weight * v_cache[row * s->v_width + j];
    }
  }
  for (uint64_t j = 0; j < s->v_width; j++)
    out[j] /= sum;
}

void oracle_attention(double *out, const double *q, const double *k_cache, const double *v_cache,
                      const double *block_table, const double *seq_offsets,
                      const double *kv_lengths, const double *sinks,
                      const oracle_attention_shape *s, const cs_attention_params *params) {
  for (uint64_t seq = 0; seq < s->n_seqs; seq++) {
    const uint64_t begin = (uint64_t)seq_offsets[seq], end = (uint64_t)seq_offsets[seq + 1];
    const uint64_t length = (uint64_t)kv_lengths[seq];
    for (uint64_t row = begin; row < end && length > 0; row++) {
      const uint64_t position = length - (end - row);
      const uint64_t window = params->window;
      const uint64_t first = window && position + 1 > window ? position + 1 - window : 0;
      for (uint64_t head = 0; head < s->n_heads; head++)
        attend(&out[(row * s->n_heads + head) * s->v_width],
               &q[(row * s->n_heads + head) * s->k_width], k_cache, v_cache,
               &block_table[seq * s->table_width], head, first, position,
               sinks ? &sinks[head] : NULL, s, params);
    }
  }
}

void oracle_kv_to_wire(double *wire, const double *cache, const double *block_table, uint64_t first,
                       uint64_t n, uint64_t block_tokens, uint64_t n_heads, uint64_t width) {
  for (uint64_t h = 0; h < n_heads; h++)
    for (uint64_t i = 0; i < n; i++) {
      const uint64_t row = plane_row(block_table, first + i, block_tokens) * n_heads + h;
      memcpy(&wire[(h * n + i) * width], &cache[row * width], width * sizeof *wire);
    }
}

void oracle_kv_from_wire(double *cache, const double *wire, const double *block_table,
                         uint64_t first, uint64_t n, uint64_t block_tokens, uint64_t n_heads,
                         uint64_t width) {
  for (uint64_t h = 0; h < n_heads; h++)
    for (uint64_t i = 0; i < n; i++) {
      const uint64_t row = plane_row(block_table, first + i, block_tokens) * n_heads + h;
      memcpy(&cache[row * width], &wire[(h * n + i) * width], width * sizeof *wire);
    }
}

uint64_t oracle_wire_sum(const unsigned char *wire, uint64_t bytes) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i * 4 < bytes; i++) {
    uint64_t word = 0;
    for (uint64_t j = 0; j < 4 && i * 4 + j < bytes; j++)
      word |= (uint64_t)wire[i * 4 + j] << (8 * j);
    uint64_t z = (i << 32 | word) + UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    sum += z ^ z >> 31;
  }
  return sum;
}
