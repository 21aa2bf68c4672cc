/* Paged attention: what is asked, and how it is cut into items of work. Rows of a sequence times
 * query heads of a group are the query vectors that read one KV head. Up to 32 of them go the way
 * of attention_few.c, more the way of attention_many.c. */
#include "attention.h"

#define ROUND_WIDTH   1024 /* of all query heads */
#define LEAST_QUERIES 64   /* of an item of many, if threads go short of items */

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

/* The workspace begins with the numbers of items. */
static uint64_t ends_bytes(uint64_t n_seqs) {
  return (n_seqs * sizeof(uint64_t) + 63) / 64 * 64;
}

/* Query vectors of one KV head that may leave records of pieces. */
static uint64_t recorded_queries(uint64_t n_vectors, uint64_t n_seqs, uint64_t most_few) {
  return n_vectors < n_seqs * most_few ? n_vectors : n_seqs * most_few;
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
  if ((k->layout == CS_LAYOUT_KV_HEAD_MINOR || v->layout == CS_LAYOUT_KV_HEAD_MINOR) &&
      (k->dims[3] > CPU_SCATTERED_WIDTH || v->dims[3] > CPU_SCATTERED_WIDTH))
    return cpu_no(answer, "heads are too wide");
  const uint64_t n_seqs = cs_sdk_tensor_rows(table);
  const uint64_t n_queries = q->dims[0] * (q->dims[1] / k->dims[2]);
  const uint64_t most_few = cpu_attention_few_most(v->dims[3]);
  answer->error_class =
      n_queries > most_few && rounds_to_bf16(device, op) ? CS_ERROR_HALF : CS_ERROR_F32;
  answer->workspace_bytes =
      ends_bytes(n_seqs) + cpu_attention_few_bytes(device->n_threads,
                                                   recorded_queries(n_queries, n_seqs, most_few),
                                                   k->dims[2], v->dims[3]);
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

/* ---- items ---- */

/* How the rows of one sequence are cut: chunks of queries, the last of which may be few. */
typedef struct sequence_plan {
  uint64_t n_queries;
  uint64_t n_many; /* chunks, each an item a KV head */
  uint64_t n_few;  /* chunks, each of few.n_items items */
  cpu_few_plan few;
  uint64_t n_items;
} sequence_plan;

static sequence_plan plan_sequence(const attention_job *job, uint64_t s) {
  const uint64_t rows = (uint64_t)(job->offsets[s + 1] - job->offsets[s]);
  sequence_plan plan = {.n_queries = rows * job->group};
  if (rows == 0 || job->lengths[s] == 0) return plan;
  const uint64_t n_chunks = (plan.n_queries + job->n_queries - 1) / job->n_queries;
  const uint64_t rest = plan.n_queries - (n_chunks - 1) * job->n_queries;
  plan.n_few = job->n_queries == job->most_few ? n_chunks : rest <= job->most_few;
  plan.n_many = n_chunks - plan.n_few;
  const uint64_t n = plan.n_few > 1 ? job->n_queries : rest;
  if (plan.n_few > 0)
    plan.few = cpu_attention_few_plan(job, n, (uint64_t)job->lengths[s], n_chunks == 1);
  plan.n_items = plan.n_many * job->k.n_heads + plan.n_few * plan.few.n_items;
  return plan;
}

/* Chunk `chunk` of sequence s. */
static attention_item item_of(const attention_job *job, const sequence_plan *plan, uint64_t s,
                              uint64_t chunk, uint64_t kv_head) {
  const uint64_t rows = plan->n_queries / job->group, first = chunk * job->n_queries;
  const uint64_t left = plan->n_queries - first;
  return (attention_item){.job = job,
                          .blocks = cpu_row_i32(&job->table, s),
                          .kv_head = kv_head,
                          .first = first,
                          .n = left < job->n_queries ? left : job->n_queries,
                          .first_row = (uint64_t)job->offsets[s],
                          .first_position = job->lengths[s] - (int64_t)rows};
}

/* Where sequence s leaves the records of its pieces. */
static float *parts_of(const attention_job *job, uint64_t s) {
  const uint64_t n_vectors = job->q.n * job->group, n_seqs = job->n_seqs;
  const bool by_row = recorded_queries(n_vectors, n_seqs, job->most_few) == n_vectors;
  const uint64_t before = by_row ? (uint64_t)job->offsets[s] * job->group : s * job->most_few;
  return job->parts +
         cpu_attention_few_bytes(job->n_threads, before, job->k.n_heads, job->v.width) /
             sizeof(float);
}

/* Items of one KV head follow each other, so that its keys stay in the cache, those of later rows,
 * which see more of them, first. */
static void run_item(const attention_job *job, uint64_t s, const sequence_plan *plan,
                     uint64_t number) {
  const uint64_t n_few_items = plan->n_few * plan->few.n_items;
  if (number < n_few_items) {
    const uint64_t chunk = plan->n_many + plan->n_few - 1 - number / plan->few.n_items;
    const attention_item item = item_of(job, plan, s, chunk, 0);
    cpu_attention_few(&item, &plan->few, number % plan->few.n_items, parts_of(job, s));
    return;
  }
  number -= n_few_items;
  const attention_item item =
      item_of(job, plan, s, plan->n_many - 1 - number % plan->n_many, number / plan->n_many);
  cpu_attention_many(&item);
}

static void run_items(void *context, uint64_t begin, uint64_t end) {
  const attention_job *job = context;
  uint64_t s = 0;
  for (uint64_t number = begin; number < end;) {
    while (job->item_ends[s] <= number)
      s++;
    const sequence_plan plan = plan_sequence(job, s);
    const uint64_t first = job->item_ends[s] - plan.n_items;
    for (; number < end && number < job->item_ends[s]; number++)
      run_item(job, s, &plan, number - first);
  }
}

/* Items are KV heads of sequences. */
static void join_items(void *context, uint64_t begin, uint64_t end) {
  const attention_job *job = context;
  for (uint64_t number = begin; number < end; number++) {
    const uint64_t s = number / job->k.n_heads;
    const sequence_plan plan = plan_sequence(job, s);
    if (plan.few.n_pieces <= 1) continue;
    const attention_item item = item_of(job, &plan, s, 0, number % job->k.n_heads);
    cpu_attention_join(&item, &plan.few, parts_of(job, s));
  }
}

/* As many queries an item as share a tile's keys well, but several items for each thread. */
static uint64_t queries_of_item(const attention_job *job) {
  const uint64_t most = cpu_attention_most(job->k.width, job->v.width);
  if (most == 0) return job->most_few;
  const uint64_t n_vectors = (uint64_t)(job->offsets[job->n_seqs] - job->offsets[0]) * job->group;
  const uint64_t share = n_vectors * job->k.n_heads / (4 * job->n_threads);
  const uint64_t whole = share / CPU_PANEL_COLUMNS * CPU_PANEL_COLUMNS;
  if (whole >= most) return most;
  const uint64_t least = most < LEAST_QUERIES ? most : LEAST_QUERIES;
  return whole > least ? whole : least;
}

static attention_job job_of(const cpu_run *run, const cs_op *op) {
  const cs_attention_params *params = op->params;
  const cpu_rows offsets = cpu_rows_of(&op->operands[5]), lengths = cpu_rows_of(&op->operands[6]);
  attention_job job = {.kernels = run->kernels,
                       .n_threads = run->device->n_threads,
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
  job.most_few = cpu_attention_few_most(job.v.width);
  job.item_ends = (uint64_t *)(void *)run->workspace;
  job.parts = (float *)(void *)(run->workspace + ends_bytes(job.n_seqs));
  return job;
}

static cs_status run_attention(const cpu_run *run, const cs_op *op, cs_error *error) {
  attention_job job = job_of(run, op);
  uint64_t n_items = 0, keys = 0;
  bool joins = false;
  for (uint64_t s = 0; s < job.n_seqs; s++) {
    const cs_status status = check_sequence(&job, s, error);
    if (status != CS_OK) return status;
  }
  job.n_queries = queries_of_item(&job);
  for (uint64_t s = 0; s < job.n_seqs; s++) {
    const sequence_plan plan = plan_sequence(&job, s);
    n_items += plan.n_items;
    job.item_ends[s] = n_items;
    keys += plan.n_items ? job.k.n_heads * (uint64_t)job.lengths[s] : 0;
    joins = joins || plan.few.n_pieces > 1;
  }
  const uint64_t item_bytes = n_items ? keys / n_items * (job.k.width + job.v.width) * 4 : 0;
  cpu_pool_for(run->pool, n_items, cpu_grain(item_bytes), run_items, &job);
  if (joins)
    cpu_pool_for(run->pool, job.n_seqs * job.k.n_heads,
                 cpu_grain(job.n_threads * job.v.width * sizeof(float)), join_items, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_attention_paged = {.check = check_attention, .run = run_attention};
