/* Attention for many queries, as two matmuls a tile of 64 keys. Sixteen queries are the lanes of a
 * vector: scores come as (key, query), so that the softmax never sums across a vector and its
 * weights are at once what the second product reads. K and V of a tile are made float32 and put
 * into panels of 8 keys and 8 columns, shared by all queries of the item.
 *
 * A weight of zero does not keep NaN or infinity in V away from a query that may not see it, so a
 * tile that some queries see in part goes key by key where its V holds such a number. */
#include "attention.h"

#include <math.h>
#include <string.h>

#define TILE   CPU_ATTENTION_TILE
#define LANES  CPU_PANEL_COLUMNS
#define ROWS   8 /* of a panel of keys, or of columns of V */
#define GROUPS (CPU_MANY_QUERIES / LANES)

typedef struct many_state {
  _Alignas(64) float q[CPU_MANY_FLOATS];            /* (groups, k_width, 16), scaled */
  _Alignas(64) float sums[CPU_MANY_FLOATS];         /* (groups, v_width, 16) */
  _Alignas(64) float keys[TILE * CPU_MANY_WIDTH];   /* panels (k_width, 8) */
  _Alignas(64) float values[TILE * CPU_MANY_WIDTH]; /* panels (TILE, 8) of columns */
  _Alignas(64) float rows[TILE * CPU_MANY_WIDTH];   /* of a tile, as they lie in the cache */
  _Alignas(64) float scores[TILE * LANES];
  float largest[GROUPS * LANES];
  float total[GROUPS * LANES];
  uint64_t begin[GROUPS * LANES];
  uint64_t end[GROUPS * LANES];
} many_state;

uint64_t cpu_attention_most(const attention_job *job) {
  const uint64_t width = job->k.width > job->v.width ? job->k.width : job->v.width;
  if (width > CPU_MANY_WIDTH) return 0;
  const uint64_t groups = CPU_MANY_FLOATS / (LANES * width);
  return (groups < GROUPS ? groups : GROUPS) * LANES;
}

/* ---- queries ---- */

static uint64_t groups_of(const attention_item *item) {
  return (item->n + LANES - 1) / LANES;
}

/* Lanes past the last query see nothing. */
static void begin_queries(const attention_item *item, many_state *state) {
  const attention_job *job = item->job;
  const uint64_t width = job->k.width, n_groups = groups_of(item);
  memset(state->q, 0, n_groups * width * LANES * sizeof *state->q);
  memset(state->sums, 0, n_groups * job->v.width * LANES * sizeof *state->sums);
  for (uint64_t i = 0; i < n_groups * LANES; i++) {
    const bool real = i < item->n;
    state->begin[i] = real ? attention_begin(item, i) : 0;
    state->end[i] = real ? attention_end(item, i) : 0;
    state->largest[i] = real && job->sinks ? job->sinks[attention_head(item, i)] : -INFINITY;
    state->total[i] = real && job->sinks ? 1 : 0;
    if (!real) continue;
    const float *q = attention_row(item, &job->q, i, width);
    float *to = state->q + i / LANES * width * LANES + i % LANES;
    for (uint64_t j = 0; j < width; j++)
      to[j * LANES] = q[j] * job->scale;
  }
}

static void end_queries(const attention_item *item, const many_state *state) {
  const attention_job *job = item->job;
  const uint64_t width = job->v.width;
  for (uint64_t i = 0; i < item->n; i++) {
    float *out = attention_row(item, &job->out, i, width);
    const float *sums = state->sums + i / LANES * width * LANES + i % LANES;
    const float scale = 1 / state->total[i];
    for (uint64_t j = 0; j < width; j++)
      out[j] = sums[j * LANES] * scale;
  }
}

/* ---- a tile's keys and values ---- */

/* Rows of positions begin to end - 1, float32; zeros up to the next multiple of 8. */
static uint64_t load_rows(const attention_item *item, const cpu_kv *kv, uint64_t begin,
                          uint64_t end, float *rows) {
  const uint64_t n = end - begin, padded = (n + ROWS - 1) / ROWS * ROWS;
  for (uint64_t t = 0; t < n; t++) {
    const uint64_t at = begin + t;
    cpu_kv_load(item->job->kernels, kv,
                cpu_kv_at(kv, (uint64_t)item->blocks[at / kv->block_tokens], at % kv->block_tokens,
                          item->kv_head),
                rows + t * kv->width);
  }
  memset(rows + n * kv->width, 0, (padded - n) * kv->width * sizeof *rows);
  return padded;
}

static void load_keys(const attention_item *item, many_state *state, uint64_t begin, uint64_t end) {
  const uint64_t width = item->job->k.width;
  const uint64_t n = load_rows(item, &item->job->k, begin, end, state->rows);
  for (uint64_t t = 0; t < n; t += ROWS)
    item->job->kernels->transpose8(state->rows + t * width, width, width, state->keys + t * width);
}

/* The columns of a panel are those that are left where fewer than 8 are. */
static void load_values(const attention_item *item, many_state *state, uint64_t begin,
                        uint64_t end) {
  const uint64_t width = item->job->v.width;
  const uint64_t n = load_rows(item, &item->job->v, begin, end, state->rows);
  for (uint64_t j = 0; j < width; j += ROWS) {
    const uint64_t columns = width - j < ROWS ? width - j : ROWS;
    float *to = state->values + j * n;
    for (uint64_t t = 0; t < n; t++)
      memcpy(to + t * columns, state->rows + t * width + j, columns * sizeof *to);
  }
}

static bool all_finite(const float *x, uint64_t n) {
  float sum = 0;
  for (uint64_t i = 0; i < n; i++)
    sum += x[i] * 0;
  return sum == 0;
}

/* ---- a tile and sixteen queries ---- */

static void score(const attention_job *job, const many_state *state, const float *q, uint64_t n,
                  float *scores) {
  memset(scores, 0, n * LANES * sizeof *scores);
  for (uint64_t t = 0; t < n; t += ROWS)
    job->kernels->float_tile[0](ROWS, state->keys + t * job->k.width, q, job->k.width,
                                scores + t * LANES);
  for (uint64_t i = 0; job->soft_cap != 0 && i < n * LANES; i++)
    scores[i] = job->soft_cap * tanhf(scores[i] / job->soft_cap);
}

/* Takes from each query what it may not see. */
static void mask(const uint64_t *begin, const uint64_t *end, uint64_t at, uint64_t n,
                 float *scores) {
  for (uint64_t t = 0; t < n; t++)
    for (uint64_t c = 0; c < LANES; c++)
      if (at + t < begin[c] || at + t >= end[c]) scores[t * LANES + c] = -INFINITY;
}

static void mix(const attention_job *job, const many_state *state, uint64_t n, float *sums) {
  for (uint64_t j = 0; j < job->v.width; j += ROWS) {
    const uint64_t left = job->v.width - j;
    job->kernels->float_tile[0]((uint32_t)(left < ROWS ? left : ROWS), state->values + j * n,
                                state->scores, n, sums + j * LANES);
  }
}

/* As mix, but no weight of a key that a query does not see. */
static void mix_seen(const attention_item *item, const many_state *state, uint64_t first,
                     uint64_t begin, uint64_t end, float *sums) {
  const uint64_t width = item->job->v.width;
  for (uint64_t c = 0; c < LANES; c++)
    for (uint64_t at = begin; at < end; at++) {
      if (at < state->begin[first + c] || at >= state->end[first + c]) continue;
      const float weight = state->scores[(at - begin) * LANES + c];
      for (uint64_t j = 0; j < width; j++)
        sums[j * LANES + c] += weight * state->rows[(at - begin) * width + j];
    }
}

static void run_group(const attention_item *item, many_state *state, uint64_t group, uint64_t begin,
                      uint64_t end, bool finite) {
  const attention_job *job = item->job;
  const uint64_t first = group * LANES, n = (end - begin + ROWS - 1) / ROWS * ROWS;
  float *sums = state->sums + group * job->v.width * LANES;
  bool whole = n == end - begin, none = true;
  for (uint64_t c = first; c < first + LANES; c++) {
    whole = whole && state->begin[c] <= begin && state->end[c] >= end;
    none = none && (state->begin[c] >= end || state->end[c] <= begin);
  }
  if (none) return;
  score(job, state, state->q + group * job->k.width * LANES, n, state->scores);
  if (!whole) mask(state->begin + first, state->end + first, begin, n, state->scores);
  float shrink[LANES];
  job->kernels->soften(state->scores, n, state->largest + first, state->total + first, shrink);
  for (uint64_t j = 0; j < job->v.width; j++)
    for (uint64_t c = 0; c < LANES; c++)
      sums[j * LANES + c] *= shrink[c];
  if (whole || finite)
    mix(job, state, n, sums);
  else
    mix_seen(item, state, first, begin, end, sums);
}

void cpu_attention_many(const attention_item *item) {
  many_state state;
  begin_queries(item, &state);
  const uint64_t last = attention_end(item, item->n - 1), width = item->job->v.width;
  for (uint64_t at = attention_begin(item, 0); at < last; at += TILE) {
    const uint64_t end = at + TILE < last ? at + TILE : last;
    load_keys(item, &state, at, end);
    load_values(item, &state, at, end);
    const bool finite = end <= state.end[0] || all_finite(state.rows, (end - at) * width);
    for (uint64_t group = 0; group < groups_of(item); group++)
      run_group(item, &state, group, at, end, finite);
  }
  end_queries(item, &state);
}
