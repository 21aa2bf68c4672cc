/* Paged attention with an online softmax. An item of work is one KV head and some of the query
 * vectors that read it (rows of the sequence times query heads of the group), so that K and V are
 * read once for all of them; more than 32 go another way, see attention_many.c. Keys come in tiles
 * of up to 64 tokens over several blocks: scores of the tile, then its exponentials, then its share
 * of V. A query never meets the K or V of a position it may not see, not even with weight zero: NaN
 * there must not reach it. */
#include "attention.h"

#include <math.h>
#include <string.h>

#define QUERIES     32
#define TILE        CPU_ATTENTION_TILE
#define SUM_FLOATS  8192 /* of all queries' outputs in one item */
#define ROUND_WIDTH 1024 /* of all query heads */
#define ROW_WIDTH   512  /* widest head of a layout that is not contiguous */
#define ROW_TOKENS  8    /* of such a layout, converted at a time */

typedef struct attention_state {
  float largest[QUERIES];
  float total[QUERIES];
  const float *q[QUERIES];
  uint64_t begin[QUERIES]; /* the positions that query i sees: begin to end - 1 */
  uint64_t end[QUERIES];
  float scores[QUERIES][TILE];
  float sums[SUM_FLOATS]; /* (n, v_width) */
} attention_state;

/* ---- checks ---- */

/* Whether items of many queries round them to bf16: never against a cache of float32; `auto` asks
 * for as much work as it does of matmuls, whose smallest square matrix is 1,024 wide. */
static bool rounds_to_bf16(const cs_plugin_device *device, const cs_op *op) {
  const cs_tensor *q = &op->operands[1], *k = &op->operands[2];
  if (device->bf16 == CPU_ROUND_NEVER || !device->kernels->bf16_attention ||
      k->dtype == CS_DTYPE_F32)
    return false;
  if (cpu_attention_most(k->dims[3], op->operands[3].dims[3]) == 0) return false;
  return device->bf16 == CPU_ROUND_ALWAYS || q->dims[1] * q->dims[2] >= ROUND_WIDTH;
}

/* Queries of one KV head in an item up to which the way for few is taken. */
static uint64_t few_queries(uint64_t v_width) {
  return SUM_FLOATS / v_width < QUERIES ? SUM_FLOATS / v_width : QUERIES;
}

static bool check_attention(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  const cs_tensor *out = &op->operands[0], *q = &op->operands[1];
  const cs_tensor *k = &op->operands[2], *v = &op->operands[3], *table = &op->operands[4];
  const cs_tensor *sinks = &op->operands[7];
  if (!cpu_check_kv(answer, "k_cache", k) || !cpu_check_kv(answer, "v_cache", v)) return false;
  if (q->rank != 3 || out->rank != 3 || q->dims[2] != k->dims[3] || out->dims[2] != v->dims[3] ||
      out->dims[1] != q->dims[1])
    return cpu_no(answer, "q and out do not match the cache's heads");
  if (v->dims[1] != k->dims[1] || v->dims[2] != k->dims[2] || q->dims[1] % k->dims[2] != 0)
    return cpu_no(answer, "%llu query heads on %llu KV heads", (unsigned long long)q->dims[1],
                  (unsigned long long)k->dims[2]);
  if (v->dims[3] > SUM_FLOATS ||
      ((k->layout == CS_LAYOUT_KV_HEAD_MINOR || v->layout == CS_LAYOUT_KV_HEAD_MINOR) &&
       (k->dims[3] > ROW_WIDTH || v->dims[3] > ROW_WIDTH)))
    return cpu_no(answer, "heads are too wide");
  const uint64_t n_seqs = cs_sdk_tensor_rows(table);
  const bool many = q->dims[0] * (q->dims[1] / k->dims[2]) > few_queries(v->dims[3]);
  answer->error_class = many && rounds_to_bf16(device, op) ? CS_ERROR_HALF : CS_ERROR_F32;
  return cpu_check_rows(answer, "q", q, CS_DTYPE_F32, q->dims[0], q->dims[1] * q->dims[2]) &&
         cpu_check_rows(answer, "out", out, CS_DTYPE_F32, q->dims[0],
                        out->dims[1] * out->dims[2]) &&
         cpu_check_plain(answer, "block_table", table, CS_DTYPE_I32) &&
         cpu_check_vector(answer, "seq_offsets", &op->operands[5], CS_DTYPE_I32, n_seqs + 1) &&
         cpu_check_vector(answer, "kv_lengths", &op->operands[6], CS_DTYPE_I32, n_seqs) &&
         (!cpu_present(sinks) ||
          cpu_check_vector(answer, "sinks", sinks, CS_DTYPE_F32, q->dims[1]));
}

/* What was read from device memory stays within q and the caches. */
static cs_status check_sequence(const attention_job *job, uint64_t s, cs_error *error) {
  const int64_t begin = job->offsets[s], end = job->offsets[s + 1], length = job->lengths[s];
  if (begin < 0 || end < begin || (uint64_t)end > job->q.n)
    return cs_sdk_error(
        error, CS_OUT_OF_RANGE, 0, "attention_paged: sequence %llu has rows %lld to %lld of %llu",
        (unsigned long long)s, (long long)begin, (long long)end, (unsigned long long)job->q.n);
  if (begin == end || length == 0) return CS_OK;
  const uint64_t tokens = job->k.block_tokens;
  if (length < end - begin || (uint64_t)length > job->table.columns * tokens)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0,
                        "attention_paged: sequence %llu of length %lld has %lld rows",
                        (unsigned long long)s, (long long)length, (long long)(end - begin));
  const int32_t *blocks = cpu_row_i32(&job->table, s);
  const uint64_t most = job->k.n_blocks < job->v.n_blocks ? job->k.n_blocks : job->v.n_blocks;
  const uint64_t oldest = (uint64_t)(length - (end - begin)) + 1;
  const uint64_t skipped = job->window && oldest > job->window ? oldest - job->window : 0;
  for (uint64_t b = skipped / tokens; b * tokens < (uint64_t)length; b++)
    if (blocks[b] < 0 || (uint64_t)blocks[b] >= most)
      return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "attention_paged: block %d of %llu", blocks[b],
                          (unsigned long long)most);
  return CS_OK;
}

/* ---- scores ---- */

/* scores[first + i][column..] for 4 keys from `keys` on. */
static void score_keys(const attention_item *item, attention_state *state, uint64_t first,
                       uint64_t n, const void *keys, uint32_t float_index, size_t stride,
                       uint64_t column, uint64_t n_keys) {
  float tile[CPU_SCORE_ROWS * CPU_SCORE_KEYS];
  item->job->kernels->score_tile[float_index]((uint32_t)n, &state->q[first], keys, stride,
                                              item->job->k.width, tile);
  for (uint64_t i = 0; i < n; i++)
    memcpy(&state->scores[first + i][column], tile + i * CPU_SCORE_KEYS, n_keys * sizeof *tile);
}

/* All queries against n_keys neighbouring keys of one block. A short rest repeats its last key. */
static void score_block(const attention_item *item, attention_state *state, cpu_kv_row first_key,
                        uint64_t n_keys, uint64_t column) {
  unsigned char *keys = first_key.data;
  const attention_job *job = item->job;
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
    for (uint64_t i = 0; i < item->n; i += CPU_SCORE_ROWS)
      score_keys(item, state, i, item->n - i < CPU_SCORE_ROWS ? item->n - i : CPU_SCORE_ROWS, from,
                 index, stride, column + t, n);
    t += n;
  }
  const size_t step = cpu_kv_scale_step(&job->k);
  for (uint64_t i = 0; first_key.scale && i < item->n; i++)
    for (uint64_t t = 0; t < n_keys; t++)
      state->scores[i][column + t] *= first_key.scale[t * step];
}

/* ---- softmax ---- */

/* Turns query i's scores of positions begin to end - 1 (column 0 is position `first`) into
 * weights, and scales what was summed before to the new largest score. */
static void weigh_query(const attention_item *item, attention_state *state, uint64_t i,
                        uint64_t begin, uint64_t end) {
  const attention_job *job = item->job;
  float *scores = &state->scores[i][begin];
  const size_t n = end - begin;
  float largest = state->largest[i];
  for (size_t t = 0; t < n; t++) {
    scores[t] *= job->scale;
    if (job->soft_cap != 0) scores[t] = job->soft_cap * tanhf(scores[t] / job->soft_cap);
    largest = fmaxf(largest, scores[t]);
  }
  const uint64_t width = job->v.width;
  if (largest > state->largest[i] && state->total[i] != 0) {
    const float shrink = expf(state->largest[i] - largest);
    state->total[i] *= shrink;
    for (uint64_t j = 0; j < width; j++)
      state->sums[i * width + j] *= shrink;
  }
  state->largest[i] = largest;
  state->total[i] += job->kernels->exp_sum(scores, n, largest);
}

/* ---- V ---- */

/* weights(n, TILE) from `column` on, times the values' scales. */
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
static void mix_block(const attention_item *item, attention_state *state, uint64_t first,
                      uint64_t n, cpu_kv_row first_value, uint64_t n_keys, uint64_t column) {
  const attention_job *job = item->job;
  const uint64_t width = job->v.width;
  unsigned char *values = first_value.data;
  float *sums = &state->sums[first * width];
  if (job->v.contiguous) {
    float scaled[CPU_MIX_ROWS * TILE];
    const float *weights = &state->scores[first][column];
    if (first_value.scale)
      weights = scale_weights(&job->v, first_value.scale, weights, n, n_keys, scaled);
    job->kernels->mix_tile[cpu_kv_index(job->v.dtype)]((uint32_t)n, weights, TILE, n_keys, values,
                                                       job->v.token_bytes, width, sums, width);
    return;
  }
  float rows[ROW_TOKENS][ROW_WIDTH];
  for (uint64_t t = 0; t < n_keys; t += ROW_TOKENS) {
    const uint64_t left = n_keys - t, piece = left < ROW_TOKENS ? left : ROW_TOKENS;
    for (uint64_t i = 0; i < piece; i++)
      cpu_kv_load(job->kernels, &job->v, (cpu_kv_row){values + (t + i) * job->v.token_bytes, NULL},
                  rows[i]);
    job->kernels->mix_tile[0]((uint32_t)n, &state->scores[first][column + t], TILE, piece, rows,
                              sizeof rows[0], width, sums, width);
  }
}

/* Whether queries a and b see the same part of positions begin to end - 1. */
static bool sees_same(const attention_state *state, uint64_t a, uint64_t b, uint64_t begin,
                      uint64_t end) {
  const bool all_of_it = state->begin[a] <= begin && state->end[a] >= end &&
                         state->begin[b] <= begin && state->end[b] >= end;
  return all_of_it || (state->begin[a] == state->begin[b] && state->end[a] == state->end[b]);
}

/* The piece of positions begin to end - 1 lies in one block; the tile's column 0 is `origin`. */
static void mix_piece(const attention_item *item, attention_state *state, uint64_t begin,
                      uint64_t end, uint64_t origin) {
  const cpu_kv *v = &item->job->v;
  const uint64_t block = (uint64_t)item->blocks[begin / v->block_tokens];
  for (uint64_t i = 0; i < item->n;) {
    const uint64_t from = state->begin[i] > begin ? state->begin[i] : begin;
    const uint64_t to = state->end[i] < end ? state->end[i] : end;
    uint64_t n = 1;
    while (n < CPU_MIX_ROWS && i + n < item->n && sees_same(state, i, i + n, begin, end))
      n++;
    if (from < to)
      mix_block(item, state, i, n, cpu_kv_row_at(v, block, from % v->block_tokens, item->kv_head),
                to - from, from - origin);
    i += n;
  }
}

/* ---- items ---- */

/* Keys of positions begin to end - 1, at most TILE of them. */
static void run_tile(const attention_item *item, attention_state *state, uint64_t begin,
                     uint64_t end) {
  const cpu_kv *k = &item->job->k;
  for (uint64_t at = begin; at < end;) {
    const uint64_t in_block = at % k->block_tokens, left = k->block_tokens - in_block;
    const uint64_t n = left < end - at ? left : end - at;
    score_block(
        item, state,
        cpu_kv_row_at(k, (uint64_t)item->blocks[at / k->block_tokens], in_block, item->kv_head), n,
        at - begin);
    at += n;
  }
  for (uint64_t i = 0; i < item->n; i++) {
    const uint64_t from = state->begin[i] > begin ? state->begin[i] : begin;
    const uint64_t to = state->end[i] < end ? state->end[i] : end;
    if (from < to) weigh_query(item, state, i, from - begin, to - begin);
  }
  for (uint64_t at = begin; at < end;) {
    const uint64_t left = k->block_tokens - at % k->block_tokens;
    const uint64_t n = left < end - at ? left : end - at;
    mix_piece(item, state, at, at + n, begin);
    at += n;
  }
}

static void begin_queries(const attention_item *item, attention_state *state) {
  const attention_job *job = item->job;
  for (uint64_t i = 0; i < item->n; i++) {
    state->q[i] = attention_row(item, &job->q, i, job->k.width);
    state->begin[i] = attention_begin(item, i);
    state->end[i] = attention_end(item, i);
    state->largest[i] = job->sinks ? job->sinks[attention_head(item, i)] : -INFINITY;
    state->total[i] = job->sinks ? 1 : 0;
  }
  memset(state->sums, 0, item->n * job->v.width * sizeof state->sums[0]);
}

static void end_queries(const attention_item *item, const attention_state *state) {
  const attention_job *job = item->job;
  const uint64_t width = job->v.width;
  for (uint64_t i = 0; i < item->n; i++) {
    float *out = attention_row(item, &job->out, i, width);
    const float scale = 1 / state->total[i];
    for (uint64_t j = 0; j < width; j++)
      out[j] = state->sums[i * width + j] * scale;
  }
}

static void run_few(const attention_item *item) {
  attention_state state;
  begin_queries(item, &state);
  const uint64_t end = attention_end(item, item->n - 1);
  for (uint64_t at = attention_begin(item, 0); at < end; at += TILE)
    run_tile(item, &state, at, at + TILE < end ? at + TILE : end);
  end_queries(item, &state);
}

static uint64_t items_of(const attention_job *job, uint64_t s) {
  const uint64_t rows = (uint64_t)(job->offsets[s + 1] - job->offsets[s]);
  if (job->lengths[s] == 0) return 0;
  return job->k.n_heads * ((rows * job->group + job->n_queries - 1) / job->n_queries);
}

/* Later rows of a sequence see more keys: those items come first. */
static void run_items(void *context, uint64_t begin, uint64_t end) {
  const attention_job *job = context;
  for (uint64_t number = begin; number < end; number++) {
    uint64_t s = 0, within = number;
    for (; within >= items_of(job, s); s++)
      within -= items_of(job, s);
    const uint64_t rows = (uint64_t)(job->offsets[s + 1] - job->offsets[s]);
    const uint64_t per_head = items_of(job, s) / job->k.n_heads;
    const uint64_t first = (per_head - 1 - within / job->k.n_heads) * job->n_queries;
    const uint64_t left = rows * job->group - first;
    const attention_item item = {.job = job,
                                 .blocks = cpu_row_i32(&job->table, s),
                                 .kv_head = within % job->k.n_heads,
                                 .first = first,
                                 .n = left < job->n_queries ? left : job->n_queries,
                                 .first_row = (uint64_t)job->offsets[s],
                                 .first_position = job->lengths[s] - (int64_t)rows};
    if (item.n > job->n_few)
      cpu_attention_many(&item);
    else
      run_few(&item);
  }
}

static cs_status run_attention(const cpu_run *run, const cs_op *op, cs_error *error) {
  const cs_attention_params *params = op->params;
  const cpu_rows offsets = cpu_rows_of(&op->operands[5]), lengths = cpu_rows_of(&op->operands[6]);
  attention_job job = {.kernels = run->kernels,
                       .out = cpu_rows_of(&op->operands[0]),
                       .q = cpu_rows_of(&op->operands[1]),
                       .k = cpu_kv_of(&op->operands[2]),
                       .v = cpu_kv_of(&op->operands[3]),
                       .table = cpu_rows_of(&op->operands[4]),
                       .offsets = cpu_row_i32(&offsets, 0),
                       .lengths = cpu_row_i32(&lengths, 0),
                       .n_seqs = lengths.columns,
                       .scale = params->scale,
                       .soft_cap = params->soft_cap,
                       .window = params->window};
  if (cpu_present(&op->operands[7])) {
    const cpu_rows sinks = cpu_rows_of(&op->operands[7]);
    job.sinks = cpu_row_f32(&sinks, 0);
  }
  job.group = op->operands[1].dims[1] / job.k.n_heads;
  job.form = rounds_to_bf16(run->device, op) ? run->kernels->bf16_attention : &cpu_float_attention;
  job.exact_keys = job.k.dtype == CS_DTYPE_BF16 || job.k.dtype == CS_DTYPE_F8_E4M3;
  job.n_few = few_queries(job.v.width);
  const uint64_t most = cpu_attention_most(job.k.width, job.v.width);
  job.n_queries = most > job.n_few ? most : job.n_few;
  uint64_t n_items = 0, keys = 0;
  for (uint64_t s = 0; s < job.n_seqs; s++) {
    const cs_status status = check_sequence(&job, s, error);
    if (status != CS_OK) return status;
    n_items += items_of(&job, s);
    keys += items_of(&job, s) * (uint64_t)job.lengths[s];
  }
  const uint64_t item_bytes = n_items ? keys / n_items * (job.k.width + job.v.width) * 4 : 0;
  cpu_pool_for(run->pool, n_items, cpu_grain(item_bytes), run_items, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_attention_paged = {.check = check_attention, .run = run_attention};
