/* Attention for many queries, as two matmuls a tile of 64 keys. Sixteen queries are the lanes of a
 * vector: scores come as (key, query), so that the softmax never sums across a vector and its
 * weights are at once what the second product reads. K and V of a tile are put into panels once for
 * all queries of the item; in which numbers, and how they meet, is the form's: float32 below, pairs
 * of bf16 in attention_bf16_avx512.c. A group of queries meets no key after the last one that it
 * sees, up to a multiple of 8.
 *
 * A weight of zero does not keep NaN or infinity in V away from a query that may not see it, so a
 * tile that some queries see in part goes key by key where its V holds such a number. */
#include "attention.h"

#include <math.h>
#include <string.h>

#define TILE   CPU_FORM_TILE
#define LANES  CPU_PANEL_COLUMNS
#define ROWS   CPU_FORM_KEYS
#define GROUPS (CPU_MANY_QUERIES / LANES)

typedef struct many_state {
  /* (groups, width + CPU_FORM_EXTRA, 16), as the form packs them */
  _Alignas(64) float q[CPU_MANY_FLOATS + GROUPS * CPU_FORM_EXTRA * LANES];
  _Alignas(64) float sums[CPU_MANY_FLOATS]; /* (groups, v_width rounded up to 16, 16) */
  _Alignas(64) float keys[TILE * (CPU_MANY_WIDTH + 15)];
  _Alignas(64) float values[TILE * (CPU_MANY_WIDTH + 15)];
  _Alignas(64) float rows[TILE * CPU_MANY_WIDTH]; /* of a tile, as they lie in the cache */
  _Alignas(64) float scores[TILE * LANES];
  float largest[GROUPS * LANES];
  float total[GROUPS * LANES];
  uint64_t begin[GROUPS * LANES];
  uint64_t end[GROUPS * LANES];
} many_state;

static uint64_t padded(uint64_t width) {
  return (width + LANES - 1) / LANES * LANES;
}

uint64_t cpu_attention_most(uint64_t k_width, uint64_t v_width) {
  const uint64_t width = padded(k_width > v_width ? k_width : v_width);
  if (width > CPU_MANY_WIDTH) return 0;
  const uint64_t groups = CPU_MANY_FLOATS / (LANES * width);
  return (groups < GROUPS ? groups : GROUPS) * LANES;
}

/* ---- float32: panels of 8 keys, and of 8 columns of V or those that are left ---- */

static void float_queries(const float *rows, size_t n, size_t width, bool exact, float *out) {
  (void)exact;
  for (size_t j = 0; j < width; j++)
    for (size_t i = 0; i < LANES; i++)
      out[j * LANES + i] = i < n ? rows[i * width + j] : 0;
}

static void float_keys(const cpu_kernels *kernels, const float *rows, size_t n, size_t width,
                       bool exact, float *out) {
  (void)exact;
  for (size_t t = 0; t < n; t += ROWS)
    kernels->transpose8(rows + t * width, width, width, out + t * width);
}

static void float_values(const float *rows, size_t n, size_t width, float *out) {
  for (size_t j = 0; j < width; j += ROWS, out += TILE * ROWS) {
    const size_t columns = width - j < ROWS ? width - j : ROWS;
    for (size_t t = 0; t < n; t++)
      memcpy(out + t * columns, rows + t * width + j, columns * sizeof *out);
  }
}

static void float_score(const cpu_kernels *kernels, const float *q, const float *keys, size_t n,
                        size_t width, bool exact, float *scores) {
  (void)exact;
  memset(scores, 0, n * LANES * sizeof *scores);
  for (size_t t = 0; t < n; t += ROWS)
    kernels->float_tile[0](ROWS, keys + t * width, q, width, scores + t * LANES);
}

static bool float_soften(const cpu_kernels *kernels, float *scores, size_t n, float *largest,
                         float *total, float *shrink) {
  return kernels->soften(scores, n, largest, total, shrink);
}

static float float_weight(const float *scores, size_t key, size_t lane) {
  return scores[key * LANES + lane];
}

static void float_mix(const cpu_kernels *kernels, const float *values, const float *scores,
                      size_t n, size_t width, float *sums) {
  for (size_t j = 0; j < width; j += ROWS, values += TILE * ROWS)
    kernels->float_tile[0]((uint32_t)(width - j < ROWS ? width - j : ROWS), values, scores, n,
                           sums + j * LANES);
}

const cpu_attention_form cpu_float_attention = {
    .unit = 1,
    .pack_queries = float_queries,
    .pack_keys = float_keys,
    .pack_values = float_values,
    .score = float_score,
    .soften = float_soften,
    .weight = float_weight,
    .mix = float_mix,
};

/* ---- queries ---- */

static uint64_t groups_of(const attention_item *item) {
  return (item->n + LANES - 1) / LANES;
}

/* Where a soft cap comes between scores and softmax, scores are powers of e until then. */
static float query_unit(const attention_job *job) {
  return job->soft_cap != 0 ? 1 : job->form->unit;
}

/* Lanes past the last query see what it sees, of queries of zero. */
static void begin_queries(const attention_item *item, many_state *state) {
  const attention_job *job = item->job;
  const uint64_t width = job->k.width, n_groups = groups_of(item);
  const float scale = job->scale * query_unit(job);
  memset(state->sums, 0, n_groups * padded(job->v.width) * LANES * sizeof *state->sums);
  for (uint64_t i = 0; i < n_groups * LANES; i++) {
    const bool real = i < item->n;
    state->begin[i] = attention_begin(item, real ? i : item->n - 1);
    state->end[i] = attention_end(item, real ? i : item->n - 1);
    state->largest[i] = -INFINITY;
    state->total[i] = 0;
    if (!real) continue;
    if (job->sinks) {
      state->largest[i] = job->sinks[attention_head(item, i)] * job->form->unit;
      state->total[i] = 1;
    }
    const float *q = attention_row(item, &job->q, i, width);
    for (uint64_t j = 0; j < width; j++)
      state->rows[i % LANES * width + j] = q[j] * scale;
    if (i % LANES == LANES - 1 || i == item->n - 1)
      job->form->pack_queries(state->rows, i % LANES + 1, width, job->exact_keys,
                              state->q + i / LANES * (width + CPU_FORM_EXTRA) * LANES);
  }
}

/* Eight columns of sixteen queries at a time; sums has rows up to a multiple of 16. */
static void end_queries(const attention_item *item, const many_state *state) {
  const attention_job *job = item->job;
  const uint64_t width = job->v.width;
  for (uint64_t i = 0; i < item->n; i += LANES) {
    const float *sums = state->sums + i * padded(width);
    const uint64_t lanes = item->n - i < LANES ? item->n - i : LANES;
    for (uint64_t j = 0; j < width; j += 8) {
      float turned[LANES * 8];
      job->kernels->transpose8(sums + j * LANES, LANES, LANES, turned);
      for (uint64_t c = 0; c < lanes; c++) {
        float *out = attention_row(item, &job->out, i + c, width) + j;
        const float scale = 1 / state->total[i + c];
        const uint64_t n = width - j < 8 ? width - j : 8;
        for (uint64_t k = 0; k < n; k++)
          out[k] = turned[c * 8 + k] * scale;
      }
    }
  }
}

/* ---- a tile's keys and values ---- */

/* Rows of positions begin to end - 1, float32; zeros up to the end of the tile. Where a head's rows
 * of a block follow each other, they are converted at once. */
static void load_rows(const attention_item *item, const cpu_kv *kv, uint64_t begin, uint64_t end,
                      float *rows) {
  const cpu_kernels *kernels = item->job->kernels;
  const uint64_t width = kv->width;
  const bool at_once =
      kv->contiguous && kv->scales_at == 0 && kv->token_bytes == width * kv->element_bytes;
  float *to = rows;
  for (uint64_t at = begin; at < end;) {
    const uint64_t in_block = at % kv->block_tokens, n = attention_run_end(kv, at, end) - at;
    const uint64_t block = (uint64_t)item->blocks[at / kv->block_tokens];
    if (at_once)
      kernels->to_f32[cpu_kv_index(kv->dtype)](to, cpu_kv_at(kv, block, in_block, item->kv_head),
                                               n * width);
    for (uint64_t t = 0; !at_once && t < n; t++)
      cpu_kv_load(kernels, kv, cpu_kv_row_at(kv, block, in_block + t, item->kv_head),
                  to + t * width);
    to += n * width;
    at += n;
  }
  memset(to, 0, (TILE - (end - begin)) * width * sizeof *rows);
}

static bool all_finite(const float *x, uint64_t n) {
  float sum = 0;
  for (uint64_t i = 0; i < n; i++)
    sum += x[i] * 0;
  return sum == 0;
}

/* Leaves the rows of V in state->rows. */
static void load_tile(const attention_item *item, many_state *state, uint64_t begin, uint64_t end) {
  const attention_job *job = item->job;
  load_rows(item, &job->k, begin, end, state->rows);
  job->form->pack_keys(job->kernels, state->rows, end - begin, job->k.width, job->exact_keys,
                       state->keys);
  load_rows(item, &job->v, begin, end, state->rows);
  job->form->pack_values(state->rows, (end - begin + ROWS - 1) / ROWS * ROWS, job->v.width,
                         state->values);
}

/* ---- a tile and sixteen queries ---- */

static void cap_scores(const attention_job *job, uint64_t n, float *scores) {
  const float cap = job->soft_cap;
  for (uint64_t i = 0; i < n * LANES; i++)
    scores[i] = cap * job->form->unit * tanhf(scores[i] / cap);
}

/* Takes from each query what it may not see of the keys first to last - 1 of the tile. */
static void mask(const uint64_t *begin, const uint64_t *end, uint64_t at, uint64_t first,
                 uint64_t last, float *scores) {
  for (uint64_t t = first; t < last; t++)
    for (uint64_t c = 0; c < LANES; c++)
      if (at + t < begin[c] || at + t >= end[c]) scores[t * LANES + c] = -INFINITY;
}

/* As the form's mix, but no weight of a key that a query does not see. */
static void mix_seen(const attention_item *item, const many_state *state, uint64_t first,
                     uint64_t begin, uint64_t end, float *sums) {
  const uint64_t width = item->job->v.width;
  for (uint64_t c = 0; c < LANES; c++)
    for (uint64_t at = begin; at < end; at++) {
      if (at < state->begin[first + c] || at >= state->end[first + c]) continue;
      const float weight = item->job->form->weight(state->scores, at - begin, c);
      for (uint64_t j = 0; j < width; j++)
        sums[j * LANES + c] += weight * state->rows[(at - begin) * width + j];
    }
}

static void scale_sums(uint64_t width, const float *shrink, float *sums) {
  for (uint64_t j = 0; j < width; j++)
    for (uint64_t c = 0; c < LANES; c++)
      sums[j * LANES + c] *= shrink[c];
}

/* Queries come in the order of their positions: the first lane has the earliest begin and end. */
static void run_group(const attention_item *item, many_state *state, uint64_t group, uint64_t begin,
                      uint64_t end, bool finite) {
  const attention_job *job = item->job;
  const cpu_attention_form *form = job->form;
  const uint64_t *begins = state->begin + group * LANES, *ends = state->end + group * LANES;
  if (begins[0] >= end || ends[LANES - 1] <= begin) return;
  const uint64_t seen = ends[LANES - 1] < end ? ends[LANES - 1] : end;
  const uint64_t n = (seen - begin + ROWS - 1) / ROWS * ROWS;
  float *scores = state->scores, *sums = state->sums + group * padded(job->v.width) * LANES;
  form->score(job->kernels, state->q + group * (job->k.width + CPU_FORM_EXTRA) * LANES, state->keys,
              n, job->k.width, job->exact_keys, scores);
  if (job->soft_cap != 0) cap_scores(job, n, scores);
  const uint64_t hidden = begins[LANES - 1] > begin ? begins[LANES - 1] - begin : 0;
  const uint64_t common = ends[0] > begin ? ends[0] - begin : 0;
  mask(begins, ends, begin, 0, hidden < n ? hidden : n, scores);
  if (common < n) mask(begins, ends, begin, common, n, scores);
  float shrink[LANES];
  if (form->soften(job->kernels, scores, n, state->largest + group * LANES,
                   state->total + group * LANES, shrink))
    scale_sums(job->v.width, shrink, sums);
  if (finite || (hidden == 0 && common >= n))
    form->mix(job->kernels, state->values, scores, n, job->v.width, sums);
  else
    mix_seen(item, state, group * LANES, begin, seen, sums);
}

void cpu_attention_many(const attention_item *item) {
  many_state state;
  begin_queries(item, &state);
  const uint64_t last = attention_end(item, item->n - 1), width = item->job->v.width;
  const uint64_t latest_begin = attention_begin(item, item->n - 1);
  for (uint64_t at = attention_begin(item, 0); at < last; at += TILE) {
    const uint64_t end = at + TILE < last ? at + TILE : last;
    load_tile(item, &state, at, end);
    attention_fetch(item, &item->job->k, end, end + TILE < last ? end + TILE : last);
    attention_fetch(item, &item->job->v, end, end + TILE < last ? end + TILE : last);
    const bool all_see = at >= latest_begin && end <= state.end[0];
    const bool finite = all_see || all_finite(state.rows, (end - at) * width);
    for (uint64_t group = 0; group < groups_of(item); group++)
      run_group(item, &state, group, at, end, finite);
  }
  end_queries(item, &state);
}
