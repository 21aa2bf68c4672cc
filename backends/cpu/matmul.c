/* Matmul, plain and by experts: what is served, how x is cut into panels, and which matmuls of a
 * list run as one. */
#include "matmul.h"

#include <string.h>

#define MAX_EXPERTS    1024
#define MAX_SIBLINGS   4
#define ROUND_ELEMENTS (UINT64_C(1) << 20) /* of the smallest matrix that rounds x */
#define ROUND_COLUMNS  64
#define WORKSPACE_UNIT 64
#define EXPECT_BYTES   (UINT64_C(384) << 10) /* a part of the second-level cache */

/* ---- workspace ---- */

typedef struct matmul_space {
  uint64_t x_bytes;
  uint64_t panels;
  uint64_t groups;
  uint64_t order;
  uint64_t bytes;
} matmul_space;

static const cpu_block_format *format_of(uint32_t dtype) {
  return cpu_is_block(dtype) ? &cpu_block_formats[cpu_block_index(dtype)] : NULL;
}

/* The error of rounding is small beside many results, but one that happens to be near zero may have
 * any: with few columns x is never rounded. */
static cpu_arithmetic arithmetic_of(const cs_plugin_device *device, uint32_t dtype, uint64_t n_out,
                                    uint64_t n_in) {
  if (dtype == CS_DTYPE_F32) return CPU_IN_F32;
  const cpu_rounding choice = cpu_is_block(dtype) ? device->int8 : device->bf16;
  if (n_out < ROUND_COLUMNS || choice == CPU_ROUND_NEVER ||
      (choice == CPU_ROUND_AUTO && n_out * n_in < ROUND_ELEMENTS))
    return CPU_IN_F32;
  return cpu_is_block(dtype) ? CPU_IN_INT8 : CPU_IN_BF16;
}

static uint32_t error_class_of(cpu_arithmetic arithmetic) {
  if (arithmetic == CPU_IN_INT8) return CS_ERROR_INT8;
  return arithmetic == CPU_IN_BF16 ? CS_ERROR_HALF : CS_ERROR_F32;
}

uint64_t cpu_matmul_x_bytes(const cpu_kernels *kernels, cpu_arithmetic arithmetic, uint32_t dtype,
                            uint64_t n_in) {
  if (arithmetic == CPU_IN_F32) return n_in * sizeof(float);
  if (arithmetic == CPU_IN_BF16) return (n_in + 1) / 2 * sizeof(uint32_t);
  const cpu_scales scales = cpu_block_formats[cpu_block_index(dtype)].scales;
  return cpu_x_bytes(cpu_x_extra_for(kernels->blocks, scales), 1, n_in / CPU_BLOCK);
}

static uint64_t take(uint64_t *bytes, uint64_t more) {
  const uint64_t at = *bytes;
  *bytes += (more + WORKSPACE_UNIT - 1) / WORKSPACE_UNIT * WORKSPACE_UNIT;
  return at;
}

/* Where everything lies for n_rows rows of x times n_experts matrices (1: plain). */
static matmul_space plan_space(const cpu_kernels *kernels, cpu_arithmetic arithmetic,
                               uint32_t dtype, uint64_t n_rows, uint64_t n_in, uint64_t n_experts) {
  const uint64_t n_groups = n_experts < n_rows ? n_experts : n_rows;
  matmul_space space = {0};
  space.x_bytes = take(&space.bytes, n_rows * cpu_matmul_x_bytes(kernels, arithmetic, dtype, n_in));
  space.panels = take(&space.bytes, (n_rows / CPU_PANEL_ROWS + n_groups) * sizeof(row_panel));
  space.groups = take(&space.bytes, n_groups * sizeof(row_group));
  space.order = take(&space.bytes, n_experts > 1 ? n_rows * sizeof(uint32_t) : 0);
  return space;
}

/* ---- panels of x ---- */

/* Appends the panels of n rows from `first` on, all against one expert. */
static void add_group(matmul_job *job, uint32_t expert, uint64_t first, uint64_t n) {
  if (n == 0) return;
  const uint64_t most = CPU_PANEL_ROWS;
  row_group *group = &job->groups[job->n_groups++];
  *group = (row_group){.expert = expert, .first_panel = (uint32_t)job->n_panels};
  for (uint64_t row = 0; row < n; row += most) {
    const uint64_t left = n - row;
    job->panels[job->n_panels++] =
        (row_panel){.first = (uint32_t)(first + row), .n = (uint32_t)(left < most ? left : most)};
  }
  group->n_panels = (uint32_t)job->n_panels - group->first_panel;
}

static void bind_space(matmul_job *job, unsigned char *workspace, const matmul_space *space) {
  job->x_bytes = workspace + space->x_bytes;
  job->panels = (row_panel *)(void *)(workspace + space->panels);
  job->groups = (row_group *)(void *)(workspace + space->groups);
}

/* ---- matmul ---- */

static bool check_weight(cs_op_answer *answer, const cs_tensor *weight, uint32_t rank) {
  if (weight->layout != CS_LAYOUT_PACKED) return cpu_no(answer, "the weight is not packed");
  if (weight->rank != rank) return cpu_no(answer, "the weight has rank %u", weight->rank);
  const uint32_t dtype = weight->dtype;
  if (!cpu_is_float(dtype) && !cpu_is_block(dtype))
    return cpu_no(answer, "weights of dtype %u", dtype);
  const uint64_t n_in = weight->dims[rank - 1];
  if (cpu_is_block(dtype) &&
      n_in % (cpu_block_formats[cpu_block_index(dtype)].file_blocks * CPU_BLOCK) != 0)
    return cpu_no(answer, "%llu inputs are not whole blocks", (unsigned long long)n_in);
  return true;
}

static bool check_matmul(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  const cs_tensor *out = &op->operands[0], *x = &op->operands[1], *weight = &op->operands[2];
  const cs_tensor *bias = &op->operands[3], *residual = &op->operands[4];
  if (!check_weight(answer, weight, 2)) return false;
  const uint64_t n = cs_sdk_tensor_rows(out), n_out = weight->dims[0], n_in = weight->dims[1];
  if (n > UINT32_MAX) return cpu_no(answer, "%llu rows", (unsigned long long)n);
  const cpu_arithmetic arithmetic = arithmetic_of(device, weight->dtype, n_out, n_in);
  answer->error_class = error_class_of(arithmetic);
  answer->workspace_bytes =
      plan_space(device->kernels, arithmetic, weight->dtype, n, n_in, 1).bytes;
  return cpu_check_rows(answer, "x", x, CS_DTYPE_F32, n, n_in) &&
         cpu_check_rows(answer, "out", out, CS_DTYPE_F32, n, n_out) &&
         (!cpu_present(bias) || cpu_check_vector(answer, "bias", bias, CS_DTYPE_F32, n_out)) &&
         (!cpu_present(residual) ||
          cpu_check_rows(answer, "residual", residual, CS_DTYPE_F32, n, n_out));
}

static matmul_job make_job(const cpu_run *run, const cs_op *op) {
  const cs_matmul_params *params = op->params;
  const cs_tensor *weight = &op->operands[2];
  matmul_job job = {.kernels = run->kernels,
                    .weight = weight->memory,
                    .format = format_of(weight->dtype),
                    .arithmetic =
                        arithmetic_of(run->device, weight->dtype, weight->dims[0], weight->dims[1]),
                    .out = cpu_rows_of(&op->operands[0]),
                    .x = cpu_rows_of(&op->operands[1]),
                    .soft_cap = params->soft_cap,
                    .out_rows_per_x = 1};
  if (cpu_present(&op->operands[3])) {
    const cpu_rows bias = cpu_rows_of(&op->operands[3]);
    job.bias = cpu_row_f32(&bias, 0);
  }
  if (cpu_present(&op->operands[4])) job.residual = cpu_rows_of(&op->operands[4]);
  job.n_rows = job.out.n;
  return job;
}

/* ---- matmuls of the same x ---- */

static bool overlap(const cs_tensor *a, const cs_tensor *b) {
  if (!cpu_present(a) || !cpu_present(b)) return false;
  const cpu_rows x = cpu_rows_of(a), y = cpu_rows_of(b);
  return x.data < y.data + y.n * y.stride && y.data < x.data + x.n * x.stride;
}

/* Whether op may run before, after or beside `other`. */
static bool is_apart(const cs_op *op, const cs_op *other) {
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (i != 2 && overlap(&op->operands[i], &other->operands[0])) return false;
  return true;
}

/* Whether op takes the panels of x that `first` takes. */
static bool shares_x(const cs_plugin_device *device, const cs_op *first, const cs_op *op) {
  const cs_tensor *x = &first->operands[1], *own = &op->operands[1];
  const cs_tensor *w = &first->operands[2], *weight = &op->operands[2];
  return op->id == CS_OP_MATMUL && cpu_rows_of(x).data == cpu_rows_of(own).data &&
         cs_sdk_tensor_stride(x) == cs_sdk_tensor_stride(own) &&
         cs_sdk_tensor_rows(x) == cs_sdk_tensor_rows(own) && w->dtype == weight->dtype &&
         w->dims[1] == weight->dims[1] &&
         arithmetic_of(device, w->dtype, w->dims[0], w->dims[1]) ==
             arithmetic_of(device, w->dtype, weight->dims[0], weight->dims[1]);
}

uint32_t cpu_matmul_siblings(const cs_plugin_device *device, const cs_op *ops, uint32_t n_ops) {
  uint32_t n = 1;
  if (device->spreads) return n; /* each matrix lies on the nodes of the threads it is dealt to */
  for (; n < n_ops && n < MAX_SIBLINGS && shares_x(device, &ops[0], &ops[n]); n++)
    for (uint32_t i = 0; i < n; i++)
      if (!is_apart(&ops[i], &ops[n]) || !is_apart(&ops[n], &ops[i])) return n;
  return n;
}

void cpu_matmul_run(const cpu_run *run, const cs_op *ops, uint32_t n_ops) {
  matmul_job jobs[MAX_SIBLINGS];
  jobs[0] = make_job(run, &ops[0]);
  if (jobs[0].n_rows == 0) return;
  const cs_tensor *weight = &ops[0].operands[2];
  const matmul_space space = plan_space(run->kernels, jobs[0].arithmetic, weight->dtype,
                                        jobs[0].n_rows, weight->dims[1], 1);
  bind_space(&jobs[0], run->workspace, &space);
  add_group(&jobs[0], 0, 0, jobs[0].n_rows);
  for (uint32_t i = 1; i < n_ops; i++) {
    jobs[i] = make_job(run, &ops[i]);
    jobs[i].panels = jobs[0].panels;
    jobs[i].n_panels = jobs[0].n_panels;
    jobs[i].groups = jobs[0].groups;
    jobs[i].n_groups = jobs[0].n_groups;
    jobs[i].x_bytes = jobs[0].x_bytes;
  }
  cpu_matmul_multiply(run, jobs, n_ops);
}

static cs_status run_matmul(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  cpu_matmul_run(run, op, 1);
  return CS_OK;
}

const cpu_op_entry cpu_op_matmul = {.check = check_matmul, .run = run_matmul};

/* Where item `item` of the loop over n_ops matmuls begins, and the bytes from there to the end of
 * its matrix. */
static const unsigned char *item_bytes(const cs_op *ops, uint32_t n_ops, uint64_t item,
                                       uint64_t *bytes) {
  for (uint32_t i = 0; i < n_ops; i++) {
    const cs_plugin_memory *weight = ops[i].operands[2].memory;
    const uint64_t n = cpu_matmul_panels(&weight->packed);
    if (item < n) {
      *bytes = (n - item) * weight->packed.panel_bytes;
      return weight->data + item * weight->packed.panel_bytes;
    }
    item -= n;
  }
  *bytes = 0;
  return NULL;
}

void cpu_matmul_expect(const cpu_run *run, const cs_op *ops, uint32_t n_ops) {
  const uint32_t n_threads = cpu_pool_n_threads(run->pool);
  const uint32_t n = cpu_matmul_siblings(run->device, ops, n_ops);
  uint64_t n_items = 0;
  for (uint32_t i = 0; i < n; i++)
    n_items += cpu_matmul_panels(&ops[i].operands[2].memory->packed);
  const uint64_t grain = cpu_matmul_grain(&ops[0].operands[2].memory->packed);
  for (uint32_t t = 0; t < n_threads; t++) {
    uint64_t bytes;
    const unsigned char *from =
        item_bytes(ops, n, cpu_pool_first(n_threads, n_items, grain, t), &bytes);
    cpu_pool_expect(run->pool, t, from, bytes < EXPECT_BYTES ? bytes : EXPECT_BYTES);
  }
}

/* ---- moe_matmul ---- */

static bool check_moe_matmul(const cs_plugin_device *device, const cs_op *op,
                             cs_op_answer *answer) {
  const cs_tensor *out = &op->operands[0], *x = &op->operands[1], *weight = &op->operands[2];
  const cs_tensor *ids = &op->operands[3];
  if (!check_weight(answer, weight, 3)) return false;
  const uint64_t n_experts = weight->dims[0], n_out = weight->dims[1], n_in = weight->dims[2];
  const uint64_t n = cs_sdk_tensor_rows(ids), k = cs_sdk_tensor_columns(ids);
  const uint64_t x_rows = cs_sdk_tensor_rows(x);
  if (n_experts > MAX_EXPERTS) return cpu_no(answer, "%llu experts", (unsigned long long)n_experts);
  if (k == 0 || n * k > UINT32_MAX || (x_rows != n && x_rows != n * k))
    return cpu_no(answer, "%llu rows of x for %llu times %llu experts", (unsigned long long)x_rows,
                  (unsigned long long)n, (unsigned long long)k);
  const cpu_arithmetic arithmetic = arithmetic_of(device, weight->dtype, n_out, n_in);
  answer->error_class = error_class_of(arithmetic);
  answer->workspace_bytes =
      plan_space(device->kernels, arithmetic, weight->dtype, n * k, n_in, n_experts + 1).bytes;
  return cpu_check_plain(answer, "ids", ids, CS_DTYPE_I32) &&
         cpu_check_rows(answer, "x", x, CS_DTYPE_F32, x_rows, n_in) &&
         cpu_check_rows(answer, "out", out, CS_DTYPE_F32, n * k, n_out);
}

/* Counting sort of the rows of out by expert; an id of -1 makes a row of zeros. Fills order and
 * groups. */
static cs_status sort_by_expert(matmul_job *job, const cpu_rows *ids, uint32_t *order,
                                cs_error *error) {
  const uint64_t n_experts = job->weight->packed.n_experts, k = ids->columns;
  uint32_t begin[MAX_EXPERTS + 1] = {0};
  for (uint64_t i = 0; i < job->out.n; i++) {
    const int32_t id = cpu_row_i32(ids, i / k)[i % k];
    if (id < -1 || id >= (int64_t)n_experts)
      return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "moe_matmul: expert %d of %llu", id,
                          (unsigned long long)n_experts);
    if (id == -1)
      memset(cpu_row_f32(&job->out, i), 0, job->out.columns * sizeof(float));
    else
      begin[id + 1]++;
  }
  for (uint64_t e = 0; e < n_experts; e++) {
    add_group(job, (uint32_t)e, begin[e], begin[e + 1]);
    begin[e + 1] += begin[e];
  }
  job->n_rows = begin[n_experts];
  for (uint64_t i = 0; i < job->out.n; i++) {
    const int32_t id = cpu_row_i32(ids, i / k)[i % k];
    if (id != -1) order[begin[id]++] = (uint32_t)i;
  }
  job->order = order;
  return CS_OK;
}

static cs_status run_moe_matmul(const cpu_run *run, const cs_op *op, cs_error *error) {
  const cs_tensor *weight = &op->operands[2];
  const cpu_rows ids = cpu_rows_of(&op->operands[3]);
  matmul_job job = {.kernels = run->kernels,
                    .weight = weight->memory,
                    .format = format_of(weight->dtype),
                    .arithmetic =
                        arithmetic_of(run->device, weight->dtype, weight->dims[1], weight->dims[2]),
                    .out = cpu_rows_of(&op->operands[0]),
                    .x = cpu_rows_of(&op->operands[1])};
  if (job.out.n == 0) return CS_OK;
  job.out_rows_per_x = job.x.n == ids.n ? ids.columns : 1;
  const matmul_space space = plan_space(run->kernels, job.arithmetic, weight->dtype, job.out.n,
                                        weight->dims[2], weight->dims[0] + 1);
  bind_space(&job, run->workspace, &space);
  const cs_status status =
      sort_by_expert(&job, &ids, (uint32_t *)(void *)(run->workspace + space.order), error);
  if (status == CS_OK) cpu_matmul_multiply(run, &job, 1);
  return status;
}

const cpu_op_entry cpu_op_moe_matmul = {.check = check_moe_matmul, .run = run_moe_matmul};
