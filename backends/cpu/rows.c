/* Ops that treat each row by itself: gather, norm, rope, the elementwise ones, copy and cast. Rows
 * are shared out in pieces large enough to pay for the hand-over; a decode step's single row stays
 * on the calling thread. */
#include "ops.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* ---- gather_rows ---- */

typedef struct gather_job {
  const cpu_kernels *kernels;
  const cs_plugin_memory *packed; /* or, where NULL, a plain table: */
  cpu_rows table;
  uint32_t table_dtype;
  uint64_t n_table_rows;
  cpu_rows out;
  const int32_t *ids;
  float scale;
  _Atomic int64_t bad_id; /* one that lies outside the table, -1 none */
} gather_job;

static bool check_gather(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *out = &op->operands[0], *table = &op->operands[1];
  if (table->rank != 2) return cpu_no(answer, "table is not a matrix");
  if (table->layout == CS_LAYOUT_PLAIN && !cpu_is_float(table->dtype))
    return cpu_no(answer, "a plain table of dtype %u", table->dtype);
  if (!cpu_is_float(table->dtype) && !cpu_is_block(table->dtype))
    return cpu_no(answer, "a table of dtype %u", table->dtype);
  if (table->layout != CS_LAYOUT_PLAIN && table->layout != CS_LAYOUT_PACKED)
    return cpu_no(answer, "a table of layout %u", table->layout);
  answer->error_class = CS_ERROR_F32;
  return cpu_check_rows(answer, "out", out, CS_DTYPE_F32, cs_sdk_tensor_rows(out),
                        table->dims[1]) &&
         cpu_check_vector(answer, "ids", &op->operands[2], CS_DTYPE_I32, cs_sdk_tensor_rows(out));
}

static void gather_rows(void *context, uint64_t begin, uint64_t end) {
  gather_job *job = context;
  for (uint64_t i = begin; i < end; i++) {
    float *out = cpu_row_f32(&job->out, i);
    const int32_t id = job->ids[i];
    if (id == -1) {
      memset(out, 0, job->out.columns * sizeof *out);
      continue;
    }
    if (id < 0 || (uint64_t)id >= job->n_table_rows) {
      atomic_store(&job->bad_id, id);
      continue;
    }
    if (job->packed)
      cpu_packed_row(job->kernels, job->packed, (uint64_t)id, out);
    else
      job->kernels->to_f32[cpu_float_index(job->table_dtype)](
          out, job->table.data + (uint64_t)id * job->table.stride, job->out.columns);
    for (uint64_t j = 0; job->scale != 1 && j < job->out.columns; j++)
      out[j] *= job->scale;
  }
}

static cs_status run_gather(const cpu_run *run, const cs_op *op, cs_error *error) {
  const cs_tensor *table = &op->operands[1];
  const cs_gather_rows_params *params = op->params;
  const bool packed = table->layout == CS_LAYOUT_PACKED;
  gather_job job = {.kernels = run->kernels,
                    .packed = packed ? table->memory : NULL,
                    .table_dtype = table->dtype,
                    .n_table_rows = table->dims[0],
                    .out = cpu_rows_of(&op->operands[0]),
                    .scale = params->scale};
  const cpu_rows ids = cpu_rows_of(&op->operands[2]);
  job.ids = cpu_row_i32(&ids, 0);
  if (!packed) job.table = cpu_rows_of(table);
  atomic_init(&job.bad_id, -1);
  cpu_pool_for(run->pool, job.out.n, cpu_grain(job.out.columns * 4), gather_rows, &job);
  const int64_t bad_id = atomic_load(&job.bad_id);
  if (bad_id == -1) return CS_OK;
  return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "gather_rows: id %lld of a table of %llu rows",
                      (long long)bad_id, (unsigned long long)job.n_table_rows);
}

const cpu_op_entry cpu_op_gather_rows = {.check = check_gather, .run = run_gather};

/* ---- rms_norm ---- */

typedef struct norm_job {
  const cpu_kernels *kernels;
  cpu_rows out;
  cpu_rows x;
  cpu_rows add; /* data NULL where absent, likewise sum */
  cpu_rows sum;
  const float *weight;
  double epsilon;
  bool centred;
} norm_job;

static bool check_norm(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *out = &op->operands[0], *add = &op->operands[3], *sum = &op->operands[4];
  const cs_rms_norm_params *params = op->params;
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  if (params->kind != CS_NORM_RMS && params->kind != CS_NORM_LAYER)
    return cpu_no(answer, "norm kind %u", params->kind);
  answer->error_class = CS_ERROR_F32;
  return cpu_check_rows(answer, "out", out, CS_DTYPE_F32, n, d) &&
         cpu_check_rows(answer, "x", &op->operands[1], CS_DTYPE_F32, n, d) &&
         cpu_check_vector(answer, "weight", &op->operands[2], CS_DTYPE_F32, d) &&
         (!cpu_present(add) || cpu_check_rows(answer, "add", add, CS_DTYPE_F32, n, d)) &&
         (!cpu_present(sum) || cpu_check_rows(answer, "sum", sum, CS_DTYPE_F32, n, d));
}

/* out = x * scale * weight, or with the mean taken off first. */
static void norm_row(const norm_job *job, const float *x, float *out) {
  const size_t d = job->x.columns;
  if (!job->centred) {
    const double mean = job->kernels->sum_squares(x, d) / (double)d;
    job->kernels->scale_mul(out, x, (float)(1 / sqrt(mean + job->epsilon)), job->weight, d);
    return;
  }
  double mean = 0, variance = 0;
  for (size_t j = 0; j < d; j++)
    mean += x[j];
  mean /= (double)d;
  for (size_t j = 0; j < d; j++)
    variance += (x[j] - mean) * (x[j] - mean);
  const double scale = 1 / sqrt(variance / (double)d + job->epsilon);
  for (size_t j = 0; j < d; j++)
    out[j] = (float)((x[j] - mean) * scale) * job->weight[j];
}

static void norm_rows(void *context, uint64_t begin, uint64_t end) {
  const norm_job *job = context;
  for (uint64_t i = begin; i < end; i++) {
    const float *x = cpu_row_f32(&job->x, i);
    float *out = cpu_row_f32(&job->out, i);
    if (job->add.data) { /* `out` serves as the sum where none is asked for */
      float *sum = job->sum.data ? cpu_row_f32(&job->sum, i) : out;
      job->kernels->add(sum, x, cpu_row_f32(&job->add, i), job->x.columns);
      x = sum;
    } else if (job->sum.data && cpu_row_f32(&job->sum, i) != x) {
      memcpy(cpu_row_f32(&job->sum, i), x, job->x.columns * sizeof *x);
    }
    norm_row(job, x, out);
  }
}

static cs_status run_norm(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  const cs_rms_norm_params *params = op->params;
  const cpu_rows weight = cpu_rows_of(&op->operands[2]);
  norm_job job = {.kernels = run->kernels,
                  .out = cpu_rows_of(&op->operands[0]),
                  .x = cpu_rows_of(&op->operands[1]),
                  .weight = cpu_row_f32(&weight, 0),
                  .epsilon = params->epsilon,
                  .centred = params->kind == CS_NORM_LAYER};
  if (cpu_present(&op->operands[3])) job.add = cpu_rows_of(&op->operands[3]);
  if (cpu_present(&op->operands[4])) job.sum = cpu_rows_of(&op->operands[4]);
  cpu_pool_for(run->pool, job.x.n, cpu_grain(job.x.columns * 8), norm_rows, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_rms_norm = {.check = check_norm, .run = run_norm};

/* ---- rope ---- */

#define ROPE_MAX_ROT 1024

typedef struct rope_job {
  cpu_rows out;
  cpu_rows x;
  const int32_t *positions;
  const float *inv_freq;
  uint64_t n_heads;
  uint64_t head_dim;
  uint32_t n_rot;
  bool half_split;
  float magnitude;
} rope_job;

static bool check_rope(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *out = &op->operands[0], *x = &op->operands[1];
  const cs_rope_params *params = op->params;
  if (!cpu_check_plain(answer, "x", x, CS_DTYPE_F32)) return false;
  if (x->rank != 3) return cpu_no(answer, "x is not (n, n_heads, head_dim)");
  if (out->rank != 3 || out->dims[2] != x->dims[2]) return cpu_no(answer, "out is not as x");
  if (params->mode != CS_ROPE_INTERLEAVED && params->mode != CS_ROPE_HALF_SPLIT)
    return cpu_no(answer, "rope mode %u", params->mode);
  if (params->n_rot % 2 != 0 || params->n_rot > x->dims[2] || params->n_rot > ROPE_MAX_ROT)
    return cpu_no(answer, "%u turning elements of %llu", params->n_rot,
                  (unsigned long long)x->dims[2]);
  answer->error_class = CS_ERROR_F32;
  return cpu_check_rows(answer, "out", out, CS_DTYPE_F32, x->dims[0], x->dims[1] * x->dims[2]) &&
         cpu_check_vector(answer, "positions", &op->operands[2], CS_DTYPE_I32, x->dims[0]) &&
         cpu_check_vector(answer, "inv_freq", &op->operands[3], CS_DTYPE_F32, params->n_rot / 2);
}

/* One head; x and out may be the same. */
static void rope_head(const rope_job *job, const float *cosines, const float *sines, const float *x,
                      float *out) {
  const size_t half = job->n_rot / 2;
  const size_t step = job->half_split ? 1 : 2, distance = job->half_split ? half : 1;
  for (size_t i = 0; i < half; i++) {
    const float a = x[i * step], b = x[i * step + distance];
    out[i * step] = a * cosines[i] - b * sines[i];
    out[i * step + distance] = a * sines[i] + b * cosines[i];
  }
  if (out == x) return;
  memcpy(out + job->n_rot, x + job->n_rot, (job->head_dim - job->n_rot) * sizeof *x);
}

static void rope_rows(void *context, uint64_t begin, uint64_t end) {
  const rope_job *job = context;
  float cosines[ROPE_MAX_ROT / 2], sines[ROPE_MAX_ROT / 2];
  for (uint64_t i = begin; i < end; i++) {
    for (size_t j = 0; j < job->n_rot / 2; j++) {
      const double angle = (double)job->positions[i] * (double)job->inv_freq[j];
      cosines[j] = (float)cos(angle) * job->magnitude;
      sines[j] = (float)sin(angle) * job->magnitude;
    }
    for (uint64_t head = 0; head < job->n_heads; head++)
      rope_head(job, cosines, sines, cpu_row_f32(&job->x, i) + head * job->head_dim,
                cpu_row_f32(&job->out, i) + head * job->head_dim);
  }
}

static cs_status run_rope(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  const cs_rope_params *params = op->params;
  const cpu_rows positions = cpu_rows_of(&op->operands[2]);
  const cpu_rows inv_freq = cpu_rows_of(&op->operands[3]);
  rope_job job = {.out = cpu_rows_of(&op->operands[0]),
                  .x = cpu_rows_of(&op->operands[1]),
                  .positions = cpu_row_i32(&positions, 0),
                  .inv_freq = cpu_row_f32(&inv_freq, 0),
                  .n_heads = op->operands[1].dims[1],
                  .head_dim = op->operands[1].dims[2],
                  .n_rot = params->n_rot,
                  .half_split = params->mode == CS_ROPE_HALF_SPLIT,
                  .magnitude = params->magnitude};
  cpu_pool_for(run->pool, job.x.n, cpu_grain(job.x.columns * 8), rope_rows, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_rope = {.check = check_rope, .run = run_rope};
