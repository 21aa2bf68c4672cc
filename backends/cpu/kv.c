/* The KV cache: writing rows into slots, and moving a sequence to and from the wire. Every layout
 * is three strides; rows that are contiguous and need no conversion are plain copies. */
#include "kv.h"

#include <stdatomic.h>
#include <string.h>

#include "consort/kv.h"

#define KV_MAX_WIDTH 4096

bool cpu_check_kv(cs_op_answer *answer, const char *name, const cs_tensor *tensor) {
  if (tensor->layout != CS_LAYOUT_KV_TOKEN_MAJOR && tensor->layout != CS_LAYOUT_KV_HEAD_MAJOR &&
      tensor->layout != CS_LAYOUT_KV_HEAD_MINOR)
    return cpu_no(answer, "%s has layout %u", name, tensor->layout);
  if (!cpu_is_kv(tensor->dtype)) return cpu_no(answer, "%s has dtype %u", name, tensor->dtype);
  if (tensor->rank != 4 || tensor->dims[1] == 0 || tensor->dims[2] == 0 || tensor->dims[3] == 0)
    return cpu_no(answer, "%s is not (n_blocks, block_tokens, n_heads, width)", name);
  if (tensor->dims[3] > KV_MAX_WIDTH)
    return cpu_no(answer, "%s is %llu wide", name, (unsigned long long)tensor->dims[3]);
  if (tensor->dtype != CS_DTYPE_I8) return true;
  if (tensor->layout == CS_LAYOUT_KV_HEAD_MINOR)
    return cpu_no(answer, "%s: int8 in layout %u", name, tensor->layout);
  if (tensor->dims[3] % 4 != 0 || tensor->row_stride_bytes % 4 != 0)
    return cpu_no(answer, "%s: int8 rows of %llu are not whole words", name,
                  (unsigned long long)tensor->dims[3]);
  return true;
}

/* The strides of a plane whose data, dims, dtype and block_bytes are set. */
static void set_strides(cpu_kv *kv, uint32_t layout) {
  const size_t bytes = cpu_kv_bytes(kv->dtype);
  kv->contiguous = layout != CS_LAYOUT_KV_HEAD_MINOR;
  kv->element_bytes = kv->contiguous ? bytes : kv->n_heads * bytes;
  kv->token_bytes = kv->n_heads * kv->width * bytes;
  kv->head_bytes = kv->contiguous ? kv->width * bytes : bytes;
  if (layout == CS_LAYOUT_KV_HEAD_MAJOR) {
    kv->token_bytes = kv->width * bytes;
    kv->head_bytes = kv->block_tokens * kv->width * bytes;
  }
  if (cs_kv_scale_bytes(kv->dtype)) kv->scales_at = kv->block_tokens * kv->n_heads * kv->width;
}

cpu_kv cpu_kv_of(const cs_tensor *tensor) {
  cpu_kv kv = {.data = tensor->memory->data + tensor->offset_bytes,
               .block_bytes = cs_sdk_tensor_stride(tensor),
               .n_blocks = tensor->dims[0],
               .block_tokens = tensor->dims[1],
               .n_heads = tensor->dims[2],
               .width = tensor->dims[3],
               .dtype = tensor->dtype};
  set_strides(&kv, tensor->layout);
  return kv;
}

static size_t row_bytes(const cpu_kv *kv) {
  return kv->width * cpu_kv_bytes(kv->dtype) + cs_kv_scale_bytes(kv->dtype);
}

/* ---- one row, in any format ---- */

void cpu_kv_load(const cpu_kernels *kernels, const cpu_kv *kv, cpu_kv_row from, float *out) {
  if (!kv->contiguous) {
    for (uint64_t j = 0; j < kv->width; j++)
      kernels->to_f32[cpu_kv_index(kv->dtype)](&out[j], from.data + j * kv->element_bytes, 1);
    return;
  }
  kernels->to_f32[cpu_kv_index(kv->dtype)](out, from.data, kv->width);
  const float scale = from.scale ? *from.scale : 1;
  for (uint64_t j = 0; from.scale && j < kv->width; j++)
    out[j] *= scale;
}

void cpu_kv_store(const cpu_kernels *kernels, const cpu_kv *kv, cpu_kv_row to, const float *x) {
  if (to.scale) {
    *to.scale = cs_kv_i8_from_f32((int8_t *)to.data, x, kv->width);
  } else if (kv->contiguous) {
    kernels->from_f32[cpu_kv_index(kv->dtype)](to.data, x, kv->width);
  } else {
    for (uint64_t j = 0; j < kv->width; j++)
      kernels->from_f32[cpu_kv_index(kv->dtype)](to.data + j * kv->element_bytes, &x[j], 1);
  }
}

/* A row from one plane to another; equal formats keep every bit. */
static void move_row(const cpu_kernels *kernels, const cpu_kv *to_plane, cpu_kv_row to,
                     const cpu_kv *from_plane, cpu_kv_row from) {
  const size_t bytes = cpu_kv_bytes(to_plane->dtype);
  if (to_plane->dtype != from_plane->dtype) {
    float row[KV_MAX_WIDTH];
    cpu_kv_load(kernels, from_plane, from, row);
    cpu_kv_store(kernels, to_plane, to, row);
    return;
  }
  if (to.scale) *to.scale = *from.scale;
  if (to_plane->contiguous && from_plane->contiguous) {
    memcpy(to.data, from.data, to_plane->width * bytes);
    return;
  }
  for (uint64_t j = 0; j < to_plane->width; j++)
    memcpy(to.data + j * to_plane->element_bytes, from.data + j * from_plane->element_bytes, bytes);
}

/* ---- kv_write ---- */

typedef struct write_job {
  const cpu_kernels *kernels;
  cpu_kv cache;
  cpu_kv from; /* what x is: one head, a row of it */
  cpu_rows x;
  const int32_t *slots;
  _Atomic int64_t bad_slot; /* one that lies outside the cache, -1 none */
} write_job;

static bool check_written(cs_op_answer *answer, const char *name, const cs_tensor *x,
                          const cs_tensor *cache, uint64_t n) {
  if (!cpu_check_kv(answer, "a cache plane", cache)) return false;
  if (!cpu_is_float(x->dtype)) return cpu_no(answer, "%s has dtype %u", name, x->dtype);
  return cpu_check_rows(answer, name, x, x->dtype, n, cache->dims[2] * cache->dims[3]);
}

static bool check_write(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *k = &op->operands[0], *v = &op->operands[1];
  const uint64_t n = cs_sdk_tensor_rows(k);
  if (cpu_present(v) != cpu_present(&op->operands[3]))
    return cpu_no(answer, "v and v_cache come together");
  answer->error_class = CS_ERROR_EXACT;
  return check_written(answer, "k", k, &op->operands[2], n) &&
         (!cpu_present(v) || check_written(answer, "v", v, &op->operands[3], n)) &&
         cpu_check_vector(answer, "slots", &op->operands[4], CS_DTYPE_I32, n);
}

static void write_rows(void *context, uint64_t begin, uint64_t end) {
  write_job *job = context;
  const cpu_kv *kv = &job->cache;
  const size_t head_bytes = row_bytes(&job->from);
  for (uint64_t i = begin; i < end; i++) {
    const int32_t slot = job->slots[i];
    if (slot == -1) continue;
    if (slot < 0 || (uint64_t)slot / kv->block_tokens >= kv->n_blocks) {
      atomic_store(&job->bad_slot, slot);
      continue;
    }
    const uint64_t block = (uint64_t)slot / kv->block_tokens;
    const uint64_t token = (uint64_t)slot % kv->block_tokens;
    for (uint64_t head = 0; head < kv->n_heads; head++)
      move_row(
          job->kernels, kv, cpu_kv_row_at(kv, block, token, head), &job->from,
          (cpu_kv_row){(unsigned char *)job->x.data + i * job->x.stride + head * head_bytes, NULL});
  }
}

static cs_status run_write(const cpu_run *run, const cs_op *op, cs_error *error) {
  const cpu_rows slots = cpu_rows_of(&op->operands[4]);
  for (uint32_t plane = 0; plane < 2; plane++) {
    if (!cpu_present(&op->operands[plane])) continue;
    write_job job = {.kernels = run->kernels,
                     .cache = cpu_kv_of(&op->operands[2 + plane]),
                     .from = {.dtype = op->operands[plane].dtype,
                              .width = op->operands[2 + plane].dims[3],
                              .element_bytes = cpu_kv_bytes(op->operands[plane].dtype),
                              .contiguous = true},
                     .x = cpu_rows_of(&op->operands[plane]),
                     .slots = cpu_row_i32(&slots, 0)};
    atomic_init(&job.bad_slot, -1);
    cpu_pool_for(run->pool, job.x.n, cpu_grain(job.x.columns * 4), write_rows, &job);
    const int64_t bad_slot = atomic_load(&job.bad_slot);
    if (bad_slot != -1)
      return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "kv_write: slot %lld of %llu",
                          (long long)bad_slot,
                          (unsigned long long)(job.cache.n_blocks * job.cache.block_tokens));
  }
  return CS_OK;
}

const cpu_op_entry cpu_op_kv_write = {.check = check_write, .run = run_write};

/* ---- kv_gather and kv_scatter ---- */

typedef struct wire_job {
  const cpu_kernels *kernels;
  cpu_kv planes[2];
  cpu_kv wire_planes[2]; /* one head-major block each */
  uint32_t n_planes;
  bool scatter;
  unsigned char *wire;
  uint64_t wire_bytes; /* used by this range */
  const int32_t *blocks;
  uint64_t first;
  uint64_t n; /* tokens */
  _Atomic uint64_t sum;
} wire_job;

#define SUM_PIECE_WORDS 16384

static bool check_wire(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *wire = &op->operands[0], *k = &op->operands[2], *v = &op->operands[3];
  const cs_tensor *table = &op->operands[4];
  if (!cpu_is_kv(wire->dtype) || wire->layout != CS_LAYOUT_PLAIN || wire->rank != 1)
    return cpu_no(answer, "wire is not a vector of a KV format");
  if (!cpu_check_kv(answer, "k_cache", k)) return false;
  if (cpu_present(v) &&
      (!cpu_check_kv(answer, "v_cache", v) || v->dims[2] != k->dims[2] || v->dims[1] != k->dims[1]))
    return answer->reason[0] ? false : cpu_no(answer, "v_cache is not blocked as k_cache");
  if (wire->dtype == CS_DTYPE_I8 && (k->dims[3] | (cpu_present(v) ? v->dims[3] : 0)) % 4 != 0)
    return cpu_no(answer, "wire: int8 rows of %llu are not whole words",
                  (unsigned long long)k->dims[3]);
  answer->error_class = CS_ERROR_EXACT;
  return cpu_check_vector(answer, "sum", &op->operands[1], CS_DTYPE_U64, 1) &&
         cpu_check_rows(answer, "block_table", table, CS_DTYPE_I32, 1,
                        cs_sdk_tensor_columns(table)) &&
         cpu_check_vector(answer, "range", &op->operands[5], CS_DTYPE_I32, 2);
}

/* Tokens from `token` on that lie side by side in the cache as on the wire, at most `limit`. */
static uint64_t run_length(const cpu_kv *wire, const cpu_kv *kv, uint64_t token, uint64_t limit) {
  if (wire->dtype != kv->dtype || !kv->contiguous) return 1;
  if (kv->token_bytes != kv->width * kv->element_bytes) return 1;
  const uint64_t left = kv->block_tokens - token % kv->block_tokens;
  return left < limit ? left : limit;
}

static void copy_run(cpu_kv_row to, cpu_kv_row from, size_t bytes, uint64_t n) {
  memcpy(to.data, from.data, bytes);
  if (to.scale) memcpy(to.scale, from.scale, n * sizeof *to.scale);
}

/* n tokens of one head, from number `first` of the range on. */
static void move_tokens(const wire_job *job, uint64_t plane, uint64_t head, uint64_t first,
                        uint64_t n) {
  const cpu_kv *kv = &job->planes[plane], *wire = &job->wire_planes[plane];
  while (n > 0) {
    const uint64_t token = job->first + first, run = run_length(wire, kv, token, n);
    const cpu_kv_row cached = cpu_kv_row_at(kv, (uint64_t)job->blocks[token / kv->block_tokens],
                                            token % kv->block_tokens, head);
    const cpu_kv_row wired = cpu_kv_row_at(wire, 0, first, head);
    if (run > 1)
      copy_run(job->scatter ? cached : wired, job->scatter ? wired : cached,
               run * wire->token_bytes, run);
    else if (job->scatter)
      move_row(job->kernels, kv, cached, wire, wired);
    else
      move_row(job->kernels, wire, wired, kv, cached);
    first += run;
    n -= run;
  }
}

/* Items are (plane, head, token) in the order of the wire. */
static void move_rows(void *context, uint64_t begin, uint64_t end) {
  const wire_job *job = context;
  const uint64_t plane_items = job->planes[0].n_heads * job->n;
  while (begin < end) {
    const uint64_t in_plane = begin % plane_items, of_head = job->n - in_plane % job->n;
    const uint64_t n = end - begin < of_head ? end - begin : of_head;
    move_tokens(job, begin / plane_items, in_plane / job->n, in_plane % job->n, n);
    begin += n;
  }
}

static void sum_words(void *context, uint64_t begin, uint64_t end) {
  wire_job *job = context;
  const uint64_t whole = job->wire_bytes / 4 < end ? job->wire_bytes / 4 : end;
  uint64_t sum = job->kernels->word_sum(job->wire + 4 * begin, begin, whole - begin);
  if (whole < end) { /* the last word has fewer bytes; what is missing counts as zero */
    unsigned char bytes[4] = {0};
    memcpy(bytes, job->wire + 4 * whole, job->wire_bytes % 4);
    sum += job->kernels->word_sum(bytes, whole, 1);
  }
  atomic_fetch_add(&job->sum, sum);
}

/* The range's tokens lie in blocks that exist, and its wire fits. */
static cs_status check_range(const wire_job *job, const int32_t *range, uint64_t table_columns,
                             uint64_t wire_elements, cs_error *error) {
  const cpu_kv *k = &job->planes[0];
  if (range[0] < 0 || range[1] < 0 ||
      (uint64_t)range[0] + (uint64_t)range[1] > table_columns * k->block_tokens)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0,
                        "tokens %d and %d more of a table of %llu blocks", range[0], range[1],
                        (unsigned long long)table_columns);
  const uint64_t first = (uint64_t)range[0], n = (uint64_t)range[1];
  for (uint64_t b = first / k->block_tokens; n > 0 && b <= (first + n - 1) / k->block_tokens; b++)
    for (uint32_t p = 0; p < job->n_planes; p++)
      if (job->blocks[b] < 0 || (uint64_t)job->blocks[b] >= job->planes[p].n_blocks)
        return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "block %d of %llu", job->blocks[b],
                            (unsigned long long)job->planes[p].n_blocks);
  if (job->wire_bytes / cpu_kv_bytes(job->wire_planes[0].dtype) > wire_elements)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "%llu bytes of wire do not fit",
                        (unsigned long long)job->wire_bytes);
  return CS_OK;
}

/* The part of the wire, after what came before, that belongs to a plane; returns its bytes. */
static uint64_t add_wire_plane(wire_job *job, uint32_t p, uint32_t dtype, uint64_t n_tokens) {
  cpu_kv *wire = &job->wire_planes[p];
  *wire = (cpu_kv){.data = job->wire + job->wire_bytes,
                   .n_blocks = 1,
                   .block_tokens = n_tokens,
                   .n_heads = job->planes[0].n_heads,
                   .width = job->planes[p].width,
                   .dtype = dtype};
  set_strides(wire, CS_LAYOUT_KV_HEAD_MAJOR);
  return n_tokens * wire->n_heads * row_bytes(wire);
}

static cs_status run_wire(const cpu_run *run, const cs_op *op, bool scatter, cs_error *error) {
  const cpu_rows wire = cpu_rows_of(&op->operands[0]), sum = cpu_rows_of(&op->operands[1]);
  const cpu_rows table = cpu_rows_of(&op->operands[4]), range = cpu_rows_of(&op->operands[5]);
  const int32_t *first_and_n = cpu_row_i32(&range, 0);
  wire_job job = {.kernels = run->kernels,
                  .planes[0] = cpu_kv_of(&op->operands[2]),
                  .n_planes = cpu_present(&op->operands[3]) ? 2 : 1,
                  .scatter = scatter,
                  .wire = (unsigned char *)wire.data,
                  .blocks = cpu_row_i32(&table, 0),
                  .first = (uint64_t)first_and_n[0],
                  .n = (uint64_t)first_and_n[1]};
  if (job.n_planes == 2) job.planes[1] = cpu_kv_of(&op->operands[3]);
  const uint64_t n_tokens = first_and_n[1] > 0 ? (uint64_t)first_and_n[1] : 0;
  for (uint32_t p = 0; p < job.n_planes; p++)
    job.wire_bytes += add_wire_plane(&job, p, op->operands[0].dtype, n_tokens);
  atomic_init(&job.sum, 0);
  const cs_status status = check_range(&job, first_and_n, table.columns, wire.columns, error);
  if (status != CS_OK) return status;
  const uint64_t n_items = job.n_planes * job.planes[0].n_heads * job.n;
  cpu_pool_for(run->pool, n_items, cpu_grain(job.planes[0].width * 4), move_rows, &job);
  cpu_pool_for(run->pool, (job.wire_bytes + 3) / 4, SUM_PIECE_WORDS, sum_words, &job);
  const uint64_t total = atomic_load(&job.sum);
  memcpy(sum.data, &total, sizeof total);
  return CS_OK;
}

static cs_status run_gather(const cpu_run *run, const cs_op *op, cs_error *error) {
  return run_wire(run, op, false, error);
}

static cs_status run_scatter(const cpu_run *run, const cs_op *op, cs_error *error) {
  return run_wire(run, op, true, error);
}

const cpu_op_entry cpu_op_kv_gather = {.check = check_wire, .run = run_gather};
const cpu_op_entry cpu_op_kv_scatter = {.check = check_wire, .run = run_scatter};

/* ---- kv_copy_blocks ---- */

static bool check_copy_blocks(const cs_plugin_device *device, const cs_op *op,
                              cs_op_answer *answer) {
  (void)device;
  const cs_tensor *pairs = &op->operands[2];
  answer->error_class = CS_ERROR_EXACT;
  return cpu_check_kv(answer, "k_cache", &op->operands[0]) &&
         (!cpu_present(&op->operands[1]) || cpu_check_kv(answer, "v_cache", &op->operands[1])) &&
         cpu_check_rows(answer, "pairs", pairs, CS_DTYPE_I32, cs_sdk_tensor_rows(pairs), 2);
}

static cs_status copy_block(const cpu_kv *kv, const int32_t *pair, cs_error *error) {
  if (pair[0] == -1 || pair[1] == -1) return CS_OK;
  for (int i = 0; i < 2; i++)
    if (pair[i] < 0 || (uint64_t)pair[i] >= kv->n_blocks)
      return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "kv_copy_blocks: block %d of %llu", pair[i],
                          (unsigned long long)kv->n_blocks);
  const size_t bytes = kv->block_tokens * kv->n_heads * row_bytes(kv);
  memmove(kv->data + (uint64_t)pair[1] * kv->block_bytes,
          kv->data + (uint64_t)pair[0] * kv->block_bytes, bytes);
  return CS_OK;
}

static cs_status run_copy_blocks(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)run;
  const cpu_rows pairs = cpu_rows_of(&op->operands[2]);
  for (uint32_t plane = 0; plane < 2; plane++) {
    if (!cpu_present(&op->operands[plane])) continue;
    const cpu_kv kv = cpu_kv_of(&op->operands[plane]);
    for (uint64_t i = 0; i < pairs.n; i++) {
      const cs_status status = copy_block(&kv, cpu_row_i32(&pairs, i), error);
      if (status != CS_OK) return status;
    }
  }
  return CS_OK;
}

const cpu_op_entry cpu_op_kv_copy_blocks = {.check = check_copy_blocks, .run = run_copy_blocks};
