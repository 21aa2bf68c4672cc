/* Ops that choose: argmax, top_k, and the routing and combining of mixtures of experts. The largest
 * comes first, equal values by lower index, and NaN counts as smaller than everything. */
#include "ops.h"

#include <math.h>

#define SELECT_MAX_EXPERTS 1024
#define LANES              64 /* of a vector loop */

/* Whether value a (with the lower index) stays ahead of b. */
static inline bool stays_ahead(float a, float b) {
  return isnan(b) || a >= b;
}

/* ---- argmax ---- */

typedef struct select_job {
  const cpu_kernels *kernels;
  cpu_rows x;
  cpu_rows values; /* top_k and moe_route */
  cpu_rows ids;
  int32_t *argmax;
  uint64_t k;
  const float *bias; /* moe_route; NULL where absent */
  const cs_moe_route_params *route;
} select_job;

static bool check_argmax(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *x = &op->operands[1];
  answer->error_class = CS_ERROR_EXACT;
  if (cpu_check_plain(answer, "x", x, CS_DTYPE_F32) &&
      (cs_sdk_tensor_columns(x) == 0 || cs_sdk_tensor_columns(x) > INT32_MAX))
    return cpu_no(answer, "rows of %llu elements", (unsigned long long)cs_sdk_tensor_columns(x));
  return cpu_check_plain(answer, "x", x, CS_DTYPE_F32) &&
         cpu_check_vector(answer, "out", &op->operands[0], CS_DTYPE_I32, cs_sdk_tensor_rows(x));
}

/* The largest of n values, NaN passed over; -INFINITY where there is none. Lanes of their own let
 * the compiler use vectors: comparisons, unlike sums, may be made in any order. */
static float largest_of(const float *x, uint64_t n) {
  float lanes[LANES], most = -INFINITY;
  for (int k = 0; k < LANES; k++)
    lanes[k] = -INFINITY;
  uint64_t j = 0;
  for (; j + LANES <= n; j += LANES)
    for (int k = 0; k < LANES; k++)
      lanes[k] = x[j + (uint64_t)k] > lanes[k] ? x[j + (uint64_t)k] : lanes[k];
  for (; j < n; j++)
    most = x[j] > most ? x[j] : most;
  for (int k = 0; k < LANES; k++)
    most = lanes[k] > most ? lanes[k] : most;
  return most;
}

/* The first of the largest; 0 where all are NaN. */
static uint64_t argmax_of(const float *x, uint64_t n) {
  const float largest = largest_of(x, n);
  for (uint64_t j = 0; j < n; j++)
    if (x[j] == largest) return j;
  return 0;
}

static void argmax_rows(void *context, uint64_t begin, uint64_t end) {
  const select_job *job = context;
  for (uint64_t i = begin; i < end; i++)
    job->argmax[i] = (int32_t)argmax_of(cpu_row_f32(&job->x, i), job->x.columns);
}

static cs_status run_argmax(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  const cpu_rows out = cpu_rows_of(&op->operands[0]);
  select_job job = {.x = cpu_rows_of(&op->operands[1]), .argmax = cpu_row_i32(&out, 0)};
  cpu_pool_for(run->pool, job.x.n, cpu_grain(job.x.columns * 4), argmax_rows, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_argmax = {.check = check_argmax, .run = run_argmax};

/* ---- top_k ---- */

/* Keeps ids sorted by value; an element that does not beat the last costs one comparison. */
static void select_largest(const float *x, uint64_t n, int32_t *ids, uint64_t k) {
  uint64_t found = 0;
  for (uint64_t j = 0; j < n; j++) {
    if (found == k && stays_ahead(x[ids[k - 1]], x[j])) continue;
    uint64_t place = found < k ? found++ : k - 1;
    for (; place > 0; place--) {
      const float ahead = x[ids[place - 1]];
      if (isnan(ahead) ? isnan(x[j]) : stays_ahead(ahead, x[j])) break;
      ids[place] = ids[place - 1];
    }
    ids[place] = (int32_t)j;
  }
}

static bool check_top_k(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *values = &op->operands[0], *x = &op->operands[2];
  const uint64_t k = cs_sdk_tensor_columns(values), d = cs_sdk_tensor_columns(x);
  if (k == 0 || k > d || d > INT32_MAX)
    return cpu_no(answer, "the largest %llu of %llu", (unsigned long long)k, (unsigned long long)d);
  answer->error_class = CS_ERROR_EXACT;
  return cpu_check_plain(answer, "x", x, CS_DTYPE_F32) &&
         cpu_check_rows(answer, "values", values, CS_DTYPE_F32, cs_sdk_tensor_rows(x), k) &&
         cpu_check_rows(answer, "ids", &op->operands[1], CS_DTYPE_I32, cs_sdk_tensor_rows(x), k);
}

static void top_k_rows(void *context, uint64_t begin, uint64_t end) {
  const select_job *job = context;
  for (uint64_t i = begin; i < end; i++) {
    const float *x = cpu_row_f32(&job->x, i);
    int32_t *ids = cpu_row_i32(&job->ids, i);
    select_largest(x, job->x.columns, ids, job->k);
    for (uint64_t j = 0; j < job->k; j++)
      cpu_row_f32(&job->values, i)[j] = x[ids[j]];
  }
}

static cs_status run_top_k(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  select_job job = {.x = cpu_rows_of(&op->operands[2]),
                    .values = cpu_rows_of(&op->operands[0]),
                    .ids = cpu_rows_of(&op->operands[1])};
  job.k = job.values.columns;
  cpu_pool_for(run->pool, job.x.n, cpu_grain(job.x.columns * 4), top_k_rows, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_top_k = {.check = check_top_k, .run = run_top_k};

/* ---- moe_route ---- */

static bool check_route(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *ids = &op->operands[0], *logits = &op->operands[2], *bias = &op->operands[3];
  const cs_moe_route_params *params = op->params;
  const uint64_t n = cs_sdk_tensor_rows(logits), n_experts = cs_sdk_tensor_columns(logits);
  const uint64_t k = cs_sdk_tensor_columns(ids);
  if (params->scoring != CS_MOE_SOFTMAX && params->scoring != CS_MOE_SIGMOID)
    return cpu_no(answer, "scoring %u", params->scoring);
  if (k == 0 || k > n_experts || n_experts > SELECT_MAX_EXPERTS)
    return cpu_no(answer, "%llu of %llu experts", (unsigned long long)k,
                  (unsigned long long)n_experts);
  answer->error_class = CS_ERROR_F32;
  return cpu_check_plain(answer, "logits", logits, CS_DTYPE_F32) &&
         cpu_check_rows(answer, "ids", ids, CS_DTYPE_I32, n, k) &&
         cpu_check_rows(answer, "weights", &op->operands[1], CS_DTYPE_F32, n, k) &&
         (!cpu_present(bias) || cpu_check_vector(answer, "bias", bias, CS_DTYPE_F32, n_experts));
}

static void score_experts(const select_job *job, const float *logits, float *scores) {
  const uint64_t n = job->x.columns;
  if (job->route->scoring == CS_MOE_SIGMOID) {
    for (uint64_t j = 0; j < n; j++)
      scores[j] = (float)(1 / (1 + exp(-(double)logits[j])));
    return;
  }
  float largest = logits[0];
  for (uint64_t j = 1; j < n; j++)
    largest = fmaxf(largest, logits[j]);
  double sum = 0;
  for (uint64_t j = 0; j < n; j++)
    sum += exp((double)logits[j] - largest);
  for (uint64_t j = 0; j < n; j++)
    scores[j] = (float)(exp((double)logits[j] - largest) / sum);
}

static void route_rows(void *context, uint64_t begin, uint64_t end) {
  const select_job *job = context;
  float scores[SELECT_MAX_EXPERTS], biased[SELECT_MAX_EXPERTS];
  for (uint64_t i = begin; i < end; i++) {
    int32_t *ids = cpu_row_i32(&job->ids, i);
    float *weights = cpu_row_f32(&job->values, i);
    score_experts(job, cpu_row_f32(&job->x, i), scores);
    for (uint64_t j = 0; job->bias && j < job->x.columns; j++)
      biased[j] = scores[j] + job->bias[j];
    select_largest(job->bias ? biased : scores, job->x.columns, ids, job->k);
    double sum = 0;
    for (uint64_t j = 0; j < job->k; j++)
      sum += scores[ids[j]];
    for (uint64_t j = 0; j < job->k; j++)
      weights[j] = (float)(scores[ids[j]] / (job->route->normalize ? sum : 1)) * job->route->scale;
  }
}

static cs_status run_route(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  select_job job = {.x = cpu_rows_of(&op->operands[2]),
                    .ids = cpu_rows_of(&op->operands[0]),
                    .values = cpu_rows_of(&op->operands[1]),
                    .route = op->params};
  job.k = job.ids.columns;
  if (cpu_present(&op->operands[3])) {
    const cpu_rows bias = cpu_rows_of(&op->operands[3]);
    job.bias = cpu_row_f32(&bias, 0);
  }
  cpu_pool_for(run->pool, job.x.n, cpu_grain(job.x.columns * 32), route_rows, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_moe_route = {.check = check_route, .run = run_route};

/* ---- moe_combine ---- */

typedef struct combine_job {
  cpu_rows out;
  cpu_rows x;
  cpu_rows weights;
  cpu_rows residual; /* data NULL where absent */
} combine_job;

static bool check_combine(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *out = &op->operands[0], *weights = &op->operands[2];
  const cs_tensor *residual = &op->operands[3];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  const uint64_t k = cs_sdk_tensor_columns(weights);
  answer->error_class = CS_ERROR_F32;
  return cpu_check_plain(answer, "out", out, CS_DTYPE_F32) &&
         cpu_check_rows(answer, "weights", weights, CS_DTYPE_F32, n, k) &&
         cpu_check_rows(answer, "x", &op->operands[1], CS_DTYPE_F32, n * k, d) &&
         (!cpu_present(residual) ||
          cpu_check_rows(answer, "residual", residual, CS_DTYPE_F32, n, d));
}

static void combine_rows(void *context, uint64_t begin, uint64_t end) {
  const combine_job *job = context;
  const uint64_t k = job->weights.columns;
  for (uint64_t i = begin; i < end; i++) {
    const float *weights = cpu_row_f32(&job->weights, i);
    const float *residual = job->residual.data ? cpu_row_f32(&job->residual, i) : NULL;
    float *out = cpu_row_f32(&job->out, i);
    for (uint64_t c = 0; c < job->out.columns; c++)
      out[c] = residual ? residual[c] : 0;
    for (uint64_t j = 0; j < k; j++) {
      const float *x = cpu_row_f32(&job->x, i * k + j);
      for (uint64_t c = 0; c < job->out.columns; c++)
        out[c] += weights[j] * x[c];
    }
  }
}

static cs_status run_combine(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  combine_job job = {.out = cpu_rows_of(&op->operands[0]),
                     .x = cpu_rows_of(&op->operands[1]),
                     .weights = cpu_rows_of(&op->operands[2])};
  if (cpu_present(&op->operands[3])) job.residual = cpu_rows_of(&op->operands[3]);
  cpu_pool_for(run->pool, job.out.n, cpu_grain(job.out.columns * 8), combine_rows, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_moe_combine = {.check = check_combine, .run = run_combine};
