/* What the two ways through attention share: one for a few queries (a decode step), one for many.
 */
#ifndef CPU_ATTENTION_H
#define CPU_ATTENTION_H

#include "kv.h"

#define CPU_ATTENTION_TILE  64 /* keys */
#define CPU_FEW_QUERIES     32
#define CPU_SCATTERED_WIDTH 512 /* widest head of a layout that is not contiguous */
/* Queries of an item that go the way for many, and the numbers that bound it. */
#define CPU_MANY_QUERIES 256
#define CPU_MANY_WIDTH   256
#define CPU_MANY_FLOATS  (256 * 128) /* of all queries, or of their outputs, in one item */

typedef struct attention_job {
  const cpu_kernels *kernels;
  const cpu_attention_form *form; /* of many queries */
  uint32_t n_threads;
  uint64_t *item_ends; /* workspace: of sequence s and those before */
  float *parts;        /* workspace: records of pieces */
  bool exact_keys;     /* K holds bf16 numbers alone */
  cpu_rows out;
  cpu_rows q;
  cpu_kv k;
  cpu_kv v;
  cpu_rows table;
  const int32_t *offsets;
  const int32_t *lengths;
  const float *sinks; /* NULL where absent */
  uint64_t n_seqs;
  uint64_t group;     /* query heads a KV head */
  uint64_t n_queries; /* of a chunk, at most */
  uint64_t most_few;  /* up to as many the way for few is taken */
  float scale;
  float soft_cap;
  uint64_t window;
} attention_job;

/* Query i is row first / group onwards of the sequence: row (first + i) / group, head
 * kv_head * group + (first + i) % group. */
typedef struct attention_item {
  const attention_job *job;
  const int32_t *blocks;
  uint64_t kv_head;
  uint64_t first;
  uint64_t n;
  uint64_t first_row;     /* of the sequence, in q and out */
  int64_t first_position; /* of that row */
} attention_item;

static inline uint64_t attention_head(const attention_item *item, uint64_t i) {
  return item->kv_head * item->job->group + (item->first + i) % item->job->group;
}

/* Where query i, or its result, begins in `rows`, whose heads are `width` wide. */
static inline float *attention_row(const attention_item *item, const cpu_rows *rows, uint64_t i,
                                   uint64_t width) {
  return cpu_row_f32(rows, item->first_row + (item->first + i) / item->job->group) +
         attention_head(item, i) * width;
}

/* Query i sees the positions from attention_begin to attention_end - 1. */
static inline uint64_t attention_end(const attention_item *item, uint64_t i) {
  return (uint64_t)(item->first_position + 1) + (item->first + i) / item->job->group;
}

static inline uint64_t attention_begin(const attention_item *item, uint64_t i) {
  const uint64_t end = attention_end(item, i), window = item->job->window;
  return window && end > window ? end - window : 0;
}

/* Up to where positions from `at` on, none of them past `end`, lie in one block. */
static inline uint64_t attention_run_end(const cpu_kv *kv, uint64_t at, uint64_t end) {
  const uint64_t left = kv->block_tokens - at % kv->block_tokens;
  return left < end - at ? at + left : end;
}

/* Asks for the rows of positions begin to end - 1: a head's rows of one block are too short a run
 * for the processor to see by itself. Rows whose elements are scattered are left alone. */
static inline void attention_fetch(const attention_item *item, const cpu_kv *kv, uint64_t begin,
                                   uint64_t end) {
  const size_t row_bytes = kv->width * kv->element_bytes, line_bytes = 64;
  for (uint64_t at = begin; kv->contiguous && at < end; at = attention_run_end(kv, at, end)) {
    const unsigned char *rows = cpu_kv_at(kv, (uint64_t)item->blocks[at / kv->block_tokens],
                                          at % kv->block_tokens, item->kv_head);
    const uint64_t n = attention_run_end(kv, at, end) - at;
    for (uint64_t t = 0; t < n; t++)
      for (size_t j = 0; j < row_bytes; j += line_bytes)
        __builtin_prefetch(rows + t * kv->token_bytes + j, 0, 2);
  }
}

/* ---- few queries ---- */

/* How a chunk of few queries is cut into items: the context into pieces, the KV heads into runs. */
typedef struct cpu_few_plan {
  uint64_t n_pieces;
  uint64_t heads; /* of an item */
  uint64_t n_items;
} cpu_few_plan;

/* Most queries of a chunk that goes the way of few. */
uint64_t cpu_attention_few_most(uint64_t v_width);
/* Workspace for the records of n_queries query vectors of each KV head. */
uint64_t cpu_attention_few_bytes(uint32_t n_threads, uint64_t n_queries, uint64_t n_kv_heads,
                                 uint64_t v_width);
/* For n queries on `length` keys; `alone`: they are all queries of the sequence. */
cpu_few_plan cpu_attention_few_plan(const attention_job *job, uint64_t n, uint64_t length,
                                    bool alone);
/* Item `number` of the chunk (item->kv_head is ignored). With one piece it writes the results, else
 * the records of its piece to `parts`. */
void cpu_attention_few(const attention_item *item, const cpu_few_plan *plan, uint64_t number,
                       float *parts);
/* Joins the pieces of one KV head and writes the results. */
void cpu_attention_join(const attention_item *item, const cpu_few_plan *plan, float *parts);

/* ---- many queries ---- */

extern const cpu_attention_form cpu_float_attention;

/* Most queries of an item that cpu_attention_many can take with heads as wide as these. */
uint64_t cpu_attention_most(uint64_t k_width, uint64_t v_width);
void cpu_attention_many(const attention_item *item);

#endif
