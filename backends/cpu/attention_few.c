/* Attention for a few queries, as in a decode step, which reads every key and value once and has
 * little to do with each: what counts is how memory is read. Keys come in tiles of up to 64 tokens
 * over several blocks; of each tile all KV heads of the item have their turn, so that blocks are
 * read nearly as they lie, and each head asks for its part of the next tile before it needs it.
 * K and V are used where they lie, widened as they are loaded, in float32: scores of the tile, then
 * its exponentials, then its share of V.
 *
 * A long context is cut into pieces, by its length and the device's threads alone, so that what
 * else is in the batch changes no result. Each piece leaves its largest score, total and sums; a
 * last loop joins them. A query never meets the K or V of a position it may not see, not even with
 * weight zero: NaN there must not reach it. */
#include "attention.h"

#include <math.h>
#include <string.h>

#define QUERIES      CPU_FEW_QUERIES
#define TILE         CPU_ATTENTION_TILE
#define STATE_FLOATS 16384 /* of an item's records */
#define PIECE_KEYS   256   /* at least, in each of several pieces */
#define ROW_WIDTH    CPU_SCATTERED_WIDTH
#define ROW_TOKENS   8 /* of a layout that is not contiguous, converted at a time */

/* A record is a query's sums (v_width), then its largest score and its total. */
typedef struct few_state {
  attention_item item; /* of the head at hand */
  float *record;       /* of its first query */
  size_t record_floats;
  const float *q[QUERIES]; /* of that head */
  uint64_t begin[QUERIES]; /* the positions that query i sees: begin to end - 1 */
  uint64_t end[QUERIES];
  float scores[QUERIES][TILE];
} few_state;

static size_t record_floats(uint64_t v_width) {
  return (v_width + 2 + 15) / 16 * 16;
}

static float *largest_at(const few_state *state, uint64_t i) {
  return state->record + i * state->record_floats + state->item.job->v.width;
}

/* ---- plans ---- */

uint64_t cpu_attention_few_most(uint64_t v_width) {
  const uint64_t fitting = STATE_FLOATS / record_floats(v_width);
  return fitting < QUERIES ? fitting : QUERIES;
}

static uint64_t most_pieces(uint32_t n_threads) {
  return n_threads > 1 ? 2 * (uint64_t)n_threads : 1;
}

uint64_t cpu_attention_few_bytes(uint32_t n_threads, uint64_t n_queries, uint64_t n_kv_heads,
                                 uint64_t v_width) {
  const uint64_t pieces = most_pieces(n_threads);
  if (pieces == 1) return 0;
  return n_queries * n_kv_heads * pieces * record_floats(v_width) * sizeof(float);
}

cpu_few_plan cpu_attention_few_plan(const attention_job *job, uint64_t n, uint64_t length,
                                    bool alone) {
  const uint64_t most = most_pieces(job->n_threads), n_heads = job->k.n_heads;
  cpu_few_plan plan = {.n_pieces = alone && length > PIECE_KEYS ? length / PIECE_KEYS : 1};
  if (plan.n_pieces > most) plan.n_pieces = most;
  const uint64_t wanted = (most + plan.n_pieces - 1) / plan.n_pieces;
  const uint64_t fitting = STATE_FLOATS / (n * record_floats(job->v.width));
  plan.heads = n_heads > wanted ? n_heads / wanted : 1;
  if (plan.heads > fitting) plan.heads = fitting;
  plan.n_items = plan.n_pieces * ((n_heads + plan.heads - 1) / plan.heads);
  return plan;
}

/* ---- scores ---- */

/* scores[first + i][column..] for 4 keys from `keys` on. */
static void score_keys(few_state *state, uint64_t first, uint64_t n, const void *keys,
                       uint32_t index, size_t stride, uint64_t column, uint64_t n_keys) {
  const attention_job *job = state->item.job;
  float tile[CPU_SCORE_ROWS * CPU_SCORE_KEYS];
  job->kernels->score_tile[index]((uint32_t)n, &state->q[first], keys, stride, job->k.width, tile);
  for (uint64_t i = 0; i < n; i++)
    memcpy(&state->scores[first + i][column], tile + i * CPU_SCORE_KEYS, n_keys * sizeof *tile);
}

/* All queries against n_keys neighbouring keys of one block. A short rest repeats its last key. */
static void score_block(few_state *state, cpu_kv_row first_key, uint64_t n_keys, uint64_t column) {
  const attention_job *job = state->item.job;
  unsigned char *keys = first_key.data;
  float rows[CPU_SCORE_KEYS][ROW_WIDTH];
  for (uint64_t t = 0; t < n_keys;) {
    uint64_t n = n_keys - t < CPU_SCORE_KEYS ? 1 : CPU_SCORE_KEYS;
    const void *from = keys + t * job->k.token_bytes;
    size_t stride = n == 1 ? 0 : job->k.token_bytes;
    if (!job->k.contiguous) {
      for (uint64_t i = 0; i < n; i++)
        cpu_kv_load(job->kernels, &job->k, (cpu_kv_row){keys + (t + i) * job->k.token_bytes, NULL},
                    rows[i]);
      from = rows;
      stride = n == 1 ? 0 : sizeof rows[0];
    }
    const uint32_t index = job->k.contiguous ? cpu_kv_index(job->k.dtype) : 0;
    for (uint64_t i = 0; i < state->item.n; i += CPU_SCORE_ROWS) {
      const uint64_t left = state->item.n - i;
      score_keys(state, i, left < CPU_SCORE_ROWS ? left : CPU_SCORE_ROWS, from, index, stride,
                 column + t, n);
    }
    t += n;
  }
  const size_t step = cpu_kv_scale_step(&job->k);
  for (uint64_t i = 0; first_key.scale && i < state->item.n; i++)
    for (uint64_t t = 0; t < n_keys; t++)
      state->scores[i][column + t] *= first_key.scale[t * step];
}

/* ---- softmax ---- */

/* The largest of n scores and of `floor`. Four at a time, so that the compiler makes a vector. */
static float largest_of(const float *scores, size_t n, float floor) {
  float top[4] = {floor, floor, floor, floor};
  size_t t = 0;
  for (; t + 4 <= n; t += 4)
    for (size_t c = 0; c < 4; c++)
      top[c] = scores[t + c] > top[c] ? scores[t + c] : top[c];
  for (; t < n; t++)
    top[0] = scores[t] > top[0] ? scores[t] : top[0];
  for (size_t c = 1; c < 4; c++)
    top[0] = top[c] > top[0] ? top[c] : top[0];
  return top[0];
}

/* Turns query i's scores of the columns begin to end - 1 into weights, and scales what was summed
 * before to the new largest score. */
static void weigh_query(few_state *state, uint64_t i, uint64_t begin, uint64_t end) {
  const attention_job *job = state->item.job;
  float *scores = &state->scores[i][begin], *sums = state->record + i * state->record_floats;
  float *largest = largest_at(state, i), *total = largest + 1;
  const size_t n = end - begin;
  for (size_t t = 0; t < n; t++)
    scores[t] *= job->scale;
  for (size_t t = 0; job->soft_cap != 0 && t < n; t++)
    scores[t] = job->soft_cap * tanhf(scores[t] / job->soft_cap);
  const float top = largest_of(scores, n, *largest);
  if (top > *largest && *total != 0) {
    const float shrink = expf(*largest - top);
    *total *= shrink;
    for (uint64_t j = 0; j < job->v.width; j++)
      sums[j] *= shrink;
  }
  *largest = top;
  *total += job->kernels->exp_sum(scores, n, top);
}

/* ---- V ---- */

/* weights(n, TILE), times the values' scales. */
static const float *scale_weights(const cpu_kv *v, const float *scales, const float *weights,
                                  uint64_t n, uint64_t n_keys, float *scaled) {
  const size_t step = cpu_kv_scale_step(v);
  for (uint64_t i = 0; i < n; i++)
    for (uint64_t t = 0; t < n_keys; t++)
      scaled[i * TILE + t] = weights[i * TILE + t] * scales[t * step];
  return scaled;
}

/* Adds the share of n_keys neighbouring values of one block, whose weights begin at `column`, to n
 * queries from `first` on, all of which see all of them. */
static void mix_block(few_state *state, uint64_t first, uint64_t n, cpu_kv_row first_value,
                      uint64_t n_keys, uint64_t column) {
  const attention_job *job = state->item.job;
  const uint64_t width = job->v.width;
  unsigned char *values = first_value.data;
  float *sums = state->record + first * state->record_floats;
  if (job->v.contiguous) {
    float scaled[CPU_MIX_ROWS * TILE];
    const float *weights = &state->scores[first][column];
    if (first_value.scale)
      weights = scale_weights(&job->v, first_value.scale, weights, n, n_keys, scaled);
    job->kernels->mix_tile[cpu_kv_index(job->v.dtype)]((uint32_t)n, weights, TILE, n_keys, values,
                                                       job->v.token_bytes, width, sums,
                                                       state->record_floats);
    return;
  }
  float rows[ROW_TOKENS][ROW_WIDTH];
  for (uint64_t t = 0; t < n_keys; t += ROW_TOKENS) {
    const uint64_t left = n_keys - t, piece = left < ROW_TOKENS ? left : ROW_TOKENS;
    for (uint64_t i = 0; i < piece; i++)
      cpu_kv_load(job->kernels, &job->v, (cpu_kv_row){values + (t + i) * job->v.token_bytes, NULL},
                  rows[i]);
    job->kernels->mix_tile[0]((uint32_t)n, &state->scores[first][column + t], TILE, piece, rows,
                              sizeof rows[0], width, sums, state->record_floats);
  }
}

/* Whether queries a and b see the same part of positions begin to end - 1. */
static bool sees_same(const few_state *state, uint64_t a, uint64_t b, uint64_t begin,
                      uint64_t end) {
  const bool all_of_it = state->begin[a] <= begin && state->end[a] >= end &&
                         state->begin[b] <= begin && state->end[b] >= end;
  return all_of_it || (state->begin[a] == state->begin[b] && state->end[a] == state->end[b]);
}

/* The positions begin to end - 1 lie in one block; the tile's column 0 is `origin`. */
static void mix_run(few_state *state, uint64_t begin, uint64_t end, uint64_t origin) {
  const attention_item *item = &state->item;
  const cpu_kv *v = &item->job->v;
  const uint64_t block = (uint64_t)item->blocks[begin / v->block_tokens];
  for (uint64_t i = 0; i < item->n;) {
    const uint64_t from = state->begin[i] > begin ? state->begin[i] : begin;
    const uint64_t to = state->end[i] < end ? state->end[i] : end;
    uint64_t n = 1;
    while (n < CPU_MIX_ROWS && i + n < item->n && sees_same(state, i, i + n, begin, end))
      n++;
    if (from < to)
      mix_block(state, i, n, cpu_kv_row_at(v, block, from % v->block_tokens, item->kv_head),
                to - from, from - origin);
    i += n;
  }
}

/* ---- a tile of one head ---- */

/* Keys of positions begin to end - 1, at most TILE of them; the item goes on to `last`. */
static void run_tile(few_state *state, uint64_t begin, uint64_t end, uint64_t last) {
  const attention_item *item = &state->item;
  const cpu_kv *k = &item->job->k;
  const uint64_t next = end + TILE < last ? end + TILE : last;
  attention_fetch(item, k, end, next);
  for (uint64_t at = begin; at < end; at = attention_run_end(k, at, end))
    score_block(state,
                cpu_kv_row_at(k, (uint64_t)item->blocks[at / k->block_tokens], at % k->block_tokens,
                              item->kv_head),
                attention_run_end(k, at, end) - at, at - begin);
  for (uint64_t i = 0; i < item->n; i++) {
    const uint64_t from = state->begin[i] > begin ? state->begin[i] : begin;
    const uint64_t to = state->end[i] < end ? state->end[i] : end;
    if (from < to) weigh_query(state, i, from - begin, to - begin);
  }
  attention_fetch(item, &item->job->v, end, next);
  for (uint64_t at = begin; at < end; at = attention_run_end(k, at, end))
    mix_run(state, at, attention_run_end(k, at, end), begin);
}

/* ---- items ---- */

static void begin_head(few_state *state, float *record, uint64_t head) {
  const attention_job *job = state->item.job;
  state->item.kv_head = head;
  state->record = record;
  for (uint64_t i = 0; i < state->item.n; i++)
    state->q[i] = attention_row(&state->item, &job->q, i, job->k.width);
}

/* A sink counts in the first piece. */
static void clear_records(few_state *state, bool with_sinks) {
  const attention_job *job = state->item.job;
  memset(state->record, 0, state->item.n * state->record_floats * sizeof(float));
  for (uint64_t i = 0; i < state->item.n; i++) {
    float *largest = largest_at(state, i);
    largest[0] = with_sinks ? job->sinks[attention_head(&state->item, i)] : -INFINITY;
    largest[1] = with_sinks ? 1 : 0;
  }
}

static void write_out(const few_state *state) {
  const attention_job *job = state->item.job;
  for (uint64_t i = 0; i < state->item.n; i++) {
    float *out = attention_row(&state->item, &job->out, i, job->v.width);
    const float *sums = state->record + i * state->record_floats;
    const float scale = 1 / largest_at(state, i)[1];
    for (uint64_t j = 0; j < job->v.width; j++)
      out[j] = sums[j] * scale;
  }
}

/* Records of piece p, head h: parts + (p * n_heads + h) * n * record_floats. */
void cpu_attention_few(const attention_item *item, const cpu_few_plan *plan, uint64_t number,
                       float *parts) {
  const attention_job *job = item->job;
  const uint64_t piece = number % plan->n_pieces,
                 first_head = number / plan->n_pieces * plan->heads;
  const uint64_t left = job->k.n_heads - first_head;
  const uint64_t heads = left < plan->heads ? left : plan->heads;
  _Alignas(64) float records[STATE_FLOATS];
  few_state state = {.item = *item, .record_floats = record_floats(job->v.width)};
  const size_t head_floats = item->n * state.record_floats;
  for (uint64_t i = 0; i < item->n; i++) {
    state.begin[i] = attention_begin(item, i);
    state.end[i] = attention_end(item, i);
  }
  for (uint64_t h = 0; h < heads; h++) {
    begin_head(&state, records + h * head_floats, first_head + h);
    clear_records(&state, job->sinks && piece == 0);
  }
  const uint64_t first = state.begin[0], keys = state.end[item->n - 1] - first;
  const uint64_t n_tiles = (keys + TILE - 1) / TILE;
  const uint64_t end_tile = n_tiles * (piece + 1) / plan->n_pieces;
  const uint64_t last = end_tile == n_tiles ? first + keys : first + end_tile * TILE;
  for (uint64_t at = first + n_tiles * piece / plan->n_pieces * TILE; at < last; at += TILE)
    for (uint64_t h = 0; h < heads; h++) {
      begin_head(&state, records + h * head_floats, first_head + h);
      run_tile(&state, at, at + TILE < last ? at + TILE : last, last);
    }
  for (uint64_t h = 0; h < heads && plan->n_pieces == 1; h++) {
    begin_head(&state, records + h * head_floats, first_head + h);
    write_out(&state);
  }
  if (plan->n_pieces > 1)
    memcpy(parts + (piece * job->k.n_heads + first_head) * head_floats, records,
           heads * head_floats * sizeof *records);
}

/* Adds another piece's record. One that saw nothing has total 0 and a largest score of -INFINITY.
 */
static void join_record(uint64_t width, float *record, const float *other) {
  const float *theirs = other + width;
  float *ours = record + width;
  if (theirs[1] == 0) return;
  const float top = theirs[0] > ours[0] ? theirs[0] : ours[0];
  const float keep = ours[1] == 0 ? 0 : expf(ours[0] - top), take = expf(theirs[0] - top);
  for (uint64_t j = 0; j < width; j++)
    record[j] = record[j] * keep + other[j] * take;
  ours[1] = ours[1] * keep + theirs[1] * take;
  ours[0] = top;
}

void cpu_attention_join(const attention_item *item, const cpu_few_plan *plan, float *parts) {
  const attention_job *job = item->job;
  few_state state = {.item = *item, .record_floats = record_floats(job->v.width)};
  const size_t head_floats = item->n * state.record_floats;
  state.record = parts + item->kv_head * head_floats;
  for (uint64_t piece = 1; piece < plan->n_pieces; piece++)
    for (uint64_t i = 0; i < item->n; i++)
      join_record(job->v.width, state.record + i * state.record_floats,
                  state.record + piece * job->k.n_heads * head_floats + i * state.record_floats);
  write_out(&state);
}
