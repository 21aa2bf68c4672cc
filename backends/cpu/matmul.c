/* Matmul, plain and by experts. Rows of x that meet the same weights are put into panels of up to
 * 12 rows (one after the other for a plain matmul, sorted by expert for a mixture); then every item
 * of work is one panel of 16 columns of one weight matrix, or a few, against all of its panels of
 * x, so that weights leave memory once. Panels of x are made in the workspace: quantized to int8,
 * or, where the arithmetic is float, transposed; n_in is taken in pieces that stay in a cache.
 * Weights in blocks go either way: int8 is faster and float is exact, so matrices too small to take
 * much time are multiplied as floats. The same holds for 16-bit weights and bf16. */
#include "ops.h"

#include <math.h>
#include <string.h>

#define MAX_EXPERTS    1024
#define DEPTH          1024                /* elements of n_in in one pass */
#define VALUES_DEPTH   256                 /* likewise where blocks are first made floats */
#define ROUND_ELEMENTS (UINT64_C(1) << 20) /* of the smallest matrix that rounds x */
#define PAIRS_PIECE    256                 /* elements of x rounded at a time */
#define PASS_PANELS    48                  /* of x */
#define UNIT_PANELS    4                   /* of weights */
#define MANY_PANELS    4                   /* of x, for which caches are blocked */
#define UNITS_A_THREAD 4
#define PREFETCH_LINE  64
#define PIECE_BYTES    (UINT64_C(128) << 10)
#define WORKSPACE_UNIT 64

/* Rows first to first + n - 1, in sorted order, that share a tile's registers. */
typedef struct row_panel {
  uint32_t first;
  uint32_t n;
} row_panel;

/* The panels that meet one weight matrix. */
typedef struct row_group {
  uint32_t expert;
  uint32_t first_panel;
  uint32_t n_panels;
} row_group;

/* What x is made, and with it the arithmetic. */
typedef enum cpu_arithmetic { CPU_IN_F32, CPU_IN_BF16, CPU_IN_INT8 } cpu_arithmetic;

typedef struct matmul_job {
  const cpu_kernels *kernels;
  const cs_plugin_memory *weight;
  const cpu_block_format *format; /* of the weight; NULL: floats */
  cpu_arithmetic arithmetic;
  cpu_rows out;
  cpu_rows x;
  cpu_rows residual; /* data NULL where absent */
  const float *bias; /* likewise */
  float soft_cap;
  uint64_t out_rows_per_x; /* k where the experts of a token share its row of x, else 1 */
  uint64_t n_rows;         /* in sorted order */
  const uint32_t *order;   /* sorted position -> row of out; NULL: the same */
  row_panel *panels;
  row_group *groups;
  uint64_t n_panels;
  uint64_t n_groups;
  unsigned char *x_bytes; /* the panels' contents, one after the other */
  uint64_t n_panels_out;  /* panels of one matrix */
  uint64_t unit_panels;   /* of them in an item of work */
} matmul_job;

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

static cpu_arithmetic arithmetic_of(const cs_plugin_device *device, uint32_t dtype, uint64_t n_out,
                                    uint64_t n_in) {
  if (dtype == CS_DTYPE_F32) return CPU_IN_F32;
  const cpu_rounding choice = cpu_is_block(dtype) ? device->int8 : device->bf16;
  if (choice == CPU_ROUND_NEVER || (choice == CPU_ROUND_AUTO && n_out * n_in < ROUND_ELEMENTS))
    return CPU_IN_F32;
  return cpu_is_block(dtype) ? CPU_IN_INT8 : CPU_IN_BF16;
}

static uint32_t error_class_of(cpu_arithmetic arithmetic) {
  if (arithmetic == CPU_IN_INT8) return CS_ERROR_INT8;
  return arithmetic == CPU_IN_BF16 ? CS_ERROR_HALF : CS_ERROR_F32;
}

/* Bytes that one row of x takes in its panel. */
static uint64_t x_row_bytes(cpu_arithmetic arithmetic, uint32_t dtype, uint64_t n_in) {
  if (arithmetic == CPU_IN_F32) return n_in * sizeof(float);
  if (arithmetic == CPU_IN_BF16) return (n_in + 1) / 2 * sizeof(uint32_t);
  const cpu_block_format *format = &cpu_block_formats[cpu_block_index(dtype)];
  return n_in / CPU_BLOCK * cpu_x_block_bytes(cpu_x_extra_of(format->scales), 1);
}

static uint64_t take(uint64_t *bytes, uint64_t more) {
  const uint64_t at = *bytes;
  *bytes += (more + WORKSPACE_UNIT - 1) / WORKSPACE_UNIT * WORKSPACE_UNIT;
  return at;
}

/* Where everything lies for n_rows rows of x times n_experts matrices (1: plain). */
static matmul_space plan_space(cpu_arithmetic arithmetic, uint32_t dtype, uint64_t n_rows,
                               uint64_t n_in, uint64_t n_experts) {
  const uint64_t n_groups = n_experts < n_rows ? n_experts : n_rows;
  matmul_space space = {0};
  space.x_bytes = take(&space.bytes, n_rows * x_row_bytes(arithmetic, dtype, n_in));
  space.panels = take(&space.bytes, (n_rows / CPU_PANEL_ROWS + n_groups) * sizeof(row_panel));
  space.groups = take(&space.bytes, n_groups * sizeof(row_group));
  space.order = take(&space.bytes, n_experts > 1 ? n_rows * sizeof(uint32_t) : 0);
  return space;
}

/* ---- panels ---- */

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

static uint64_t out_row(const matmul_job *job, uint64_t sorted) {
  return job->order ? job->order[sorted] : sorted;
}

static const float *x_row(const matmul_job *job, uint64_t sorted) {
  return cpu_row_f32(&job->x, out_row(job, sorted) / job->out_rows_per_x);
}

static unsigned char *panel_bytes(const matmul_job *job, const row_panel *panel) {
  const cpu_packed *packed = &job->weight->packed;
  return job->x_bytes + panel->first * x_row_bytes(job->arithmetic, packed->dtype, packed->n_in);
}

/* One row in bf16, two elements a word. */
static void fill_pairs(const matmul_job *job, const float *x, uint32_t rows, uint32_t *panel) {
  const uint64_t n_in = job->weight->packed.n_in;
  uint16_t piece[PAIRS_PIECE];
  for (uint64_t i = 0; i < n_in; i += PAIRS_PIECE) {
    const uint64_t left = n_in - i, n = left < PAIRS_PIECE ? left : PAIRS_PIECE;
    job->kernels->from_f32[cpu_float_index(CS_DTYPE_BF16)](piece, x + i, n);
    if (n % 2 != 0) piece[n] = 0;
    for (uint64_t j = 0; j < n; j += 2)
      panel[(i + j) / 2 * rows] = piece[j] | (uint32_t)piece[j + 1] << 16;
  }
}

static void fill_row(const matmul_job *job, const row_panel *panel, uint32_t r) {
  const cpu_packed *packed = &job->weight->packed;
  const cpu_block_kernels *blocks = job->kernels->blocks;
  const float *x = x_row(job, panel->first + r);
  unsigned char *bytes = panel_bytes(job, panel);
  if (job->arithmetic == CPU_IN_INT8) {
    blocks->quantize_row(x, packed->n_in / CPU_BLOCK, r, panel->n,
                         cpu_x_extra_of(job->format->scales),
                         blocks->offset[job->format - cpu_block_formats], bytes);
    return;
  }
  if (job->arithmetic == CPU_IN_BF16) {
    fill_pairs(job, x, panel->n, (uint32_t *)(void *)bytes + r);
    return;
  }
  float *transposed = (float *)(void *)bytes + r;
  for (uint64_t i = 0; i < packed->n_in; i++)
    transposed[i * panel->n] = x[i];
}

static void fill_panels(void *context, uint64_t begin, uint64_t end) {
  const matmul_job *job = context;
  for (uint64_t p = begin; p < end; p++)
    for (uint32_t r = 0; r < job->panels[p].n; r++)
      fill_row(job, &job->panels[p], r);
}

/* ---- results ---- */

/* Finishes n columns of one row, from `column` on. */
static void store_columns(const matmul_job *job, uint64_t sorted, uint64_t column, uint64_t n,
                          float *values) {
  const uint64_t row = out_row(job, sorted);
  float *out = cpu_row_f32(&job->out, row) + column;
  for (uint64_t c = 0; job->bias && c < n; c++)
    values[c] += job->bias[column + c];
  for (uint64_t c = 0; job->soft_cap != 0 && c < n; c++)
    values[c] = job->soft_cap * tanhf(values[c] / job->soft_cap);
  if (job->residual.data) {
    const float *residual = cpu_row_f32(&job->residual, row) + column;
    for (uint64_t c = 0; c < n; c++)
      out[c] = values[c] + residual[c];
  } else {
    memcpy(out, values, n * sizeof *out);
  }
}

/* ---- tiles ---- */

typedef float tile_sums[CPU_PANEL_ROWS * CPU_PANEL_COLUMNS];

/* n_weights neighbouring panels of weights against n_panels of x. */
typedef struct matmul_unit {
  const matmul_job *job;
  const unsigned char *weights;
  uint64_t n_weights;
  uint64_t n_following; /* panels of weights that come after them */
  const row_panel *panels;
  uint32_t n_panels;
  tile_sums *sums; /* (n_weights, n_panels) */
} matmul_unit;

/* Bytes of the first n_in elements of a panel of weights. */
static uint64_t weight_bytes(const matmul_job *job, uint64_t n_in) {
  if (job->format)
    return cpu_blocks_bytes(job->format->bits, job->format->scales, n_in / CPU_BLOCK);
  return n_in * CPU_PANEL_COLUMNS * cpu_float_bytes(job->weight->packed.dtype);
}

/* Elements first to first + n - 1 of one panel of weights and of one panel of x. */
static void run_tile(const matmul_job *job, const row_panel *panel, const unsigned char *weights,
                     uint64_t first, uint64_t n, float *sums) {
  const uint32_t dtype = job->weight->packed.dtype;
  const unsigned char *x =
      panel_bytes(job, panel) + x_row_bytes(job->arithmetic, dtype, first) * panel->n;
  const unsigned char *w = weights + weight_bytes(job, first);
  if (job->arithmetic == CPU_IN_INT8)
    job->kernels->blocks->tile[job->format - cpu_block_formats](panel->n, x, w, n / CPU_BLOCK,
                                                                sums);
  else if (job->arithmetic == CPU_IN_BF16)
    job->kernels->bf16_tile[dtype - CS_DTYPE_F16](panel->n, (const uint32_t *)(const void *)x,
                                                  (const uint16_t *)(const void *)w, (n + 1) / 2,
                                                  sums);
  else
    job->kernels->float_tile[cpu_float_index(dtype)](panel->n, (const float *)(const void *)x, w, n,
                                                     sums);
}

/* While one piece is multiplied, the next is fetched, a part of it with each panel of x. */
static void prefetch_part(const unsigned char *from, uint64_t bytes, uint64_t part,
                          uint64_t n_parts) {
  const unsigned char *end = from + bytes * (part + 1) / n_parts;
  for (const unsigned char *at = from + bytes * part / n_parts; at < end; at += PREFETCH_LINE)
    __builtin_prefetch(at, 0, 2);
}

static void prefetch_next(const matmul_unit *unit, uint64_t w, uint64_t next, uint32_t p) {
  const cpu_packed *packed = &unit->job->weight->packed;
  const unsigned char *from = unit->weights + w * packed->panel_bytes;
  if (next >= packed->n_in) {
    if (w >= unit->n_following) return;
    from += unit->n_weights * packed->panel_bytes;
    next = 0;
  }
  const uint64_t left = packed->n_in - next, n = left < DEPTH ? left : DEPTH;
  prefetch_part(from + weight_bytes(unit->job, next),
                weight_bytes(unit->job, next + n) - weight_bytes(unit->job, next), p,
                unit->n_panels);
}

/* A piece of x comes into the first-level cache once and meets all weights of the unit there, whose
 * pieces stay in the second. */
static void packed_tiles(const matmul_unit *unit) {
  const cpu_packed *packed = &unit->job->weight->packed;
  for (uint64_t i = 0; i < packed->n_in; i += DEPTH) {
    const uint64_t left = packed->n_in - i, n = left < DEPTH ? left : DEPTH;
    for (uint32_t p = 0; p < unit->n_panels; p++)
      for (uint64_t w = 0; w < unit->n_weights; w++) {
        if (unit->n_panels >= MANY_PANELS) prefetch_next(unit, w, i + n, p);
        run_tile(unit->job, &unit->panels[p], unit->weights + w * packed->panel_bytes, i, n,
                 unit->sums[w * unit->n_panels + p]);
      }
  }
}

/* Weights in blocks are made floats piece by piece. */
static void value_tiles(const matmul_unit *unit) {
  const matmul_job *job = unit->job;
  const cpu_packed *packed = &job->weight->packed;
  _Alignas(64) float values[VALUES_DEPTH * CPU_PANEL_COLUMNS];
  for (uint64_t w = 0; w < unit->n_weights; w++)
    for (uint64_t i = 0; i < packed->n_in; i += VALUES_DEPTH) {
      const uint64_t left = packed->n_in - i, n = left < VALUES_DEPTH ? left : VALUES_DEPTH;
      job->kernels->blocks->floats[job->format - cpu_block_formats](
          unit->weights + w * packed->panel_bytes + weight_bytes(job, i), n / CPU_BLOCK, values);
      for (uint32_t p = 0; p < unit->n_panels; p++) {
        const row_panel *panel = &unit->panels[p];
        job->kernels->float_tile[cpu_float_index(CS_DTYPE_F32)](
            panel->n, (const float *)(const void *)panel_bytes(job, panel) + i * panel->n, values,
            n, unit->sums[w * unit->n_panels + p]);
      }
    }
}

static void store_unit(const matmul_unit *unit, uint64_t first_column) {
  const uint64_t n_out = unit->job->weight->packed.n_out;
  for (uint32_t p = 0; p < unit->n_panels; p++)
    for (uint64_t w = 0; w < unit->n_weights; w++) {
      const uint64_t column = first_column + w * CPU_PANEL_COLUMNS, left = n_out - column;
      for (uint32_t r = 0; r < unit->panels[p].n; r++)
        store_columns(unit->job, unit->panels[p].first + r, column,
                      left < CPU_PANEL_COLUMNS ? left : CPU_PANEL_COLUMNS,
                      unit->sums[w * unit->n_panels + p] + r * CPU_PANEL_COLUMNS);
    }
}

/* Panels first to first + n - 1 of one matrix against all rows of the group. */
static void multiply_unit(const matmul_job *job, const row_group *group, uint64_t first,
                          uint64_t n) {
  const cpu_packed *packed = &job->weight->packed;
  tile_sums sums[UNIT_PANELS * PASS_PANELS];
  matmul_unit unit = {.job = job,
                      .weights = job->weight->data + group->expert * packed->expert_bytes +
                                 first * packed->panel_bytes,
                      .n_weights = n,
                      .n_following = job->n_panels_out - first - n,
                      .sums = sums};
  for (uint32_t p = 0; p < group->n_panels; p += PASS_PANELS) {
    const uint32_t rest = group->n_panels - p;
    unit.panels = &job->panels[group->first_panel + p];
    unit.n_panels = rest < PASS_PANELS ? rest : PASS_PANELS;
    memset(sums, 0, n * unit.n_panels * sizeof *sums);
    if (job->format && job->arithmetic == CPU_IN_F32)
      value_tiles(&unit);
    else
      packed_tiles(&unit);
    store_unit(&unit, first * CPU_PANEL_COLUMNS);
  }
}

/* ---- the loop over items ---- */

static void multiply_units(void *context, uint64_t begin, uint64_t end) {
  const matmul_job *job = context;
  const uint64_t per_group = (job->n_panels_out + job->unit_panels - 1) / job->unit_panels;
  for (uint64_t item = begin; item < end; item++) {
    const uint64_t first = item % per_group * job->unit_panels;
    const uint64_t left = job->n_panels_out - first;
    multiply_unit(job, &job->groups[item / per_group], first,
                  left < job->unit_panels ? left : job->unit_panels);
  }
}

/* As many panels of weights a unit as leave each thread several units. */
static uint64_t choose_unit(const cpu_run *run, const matmul_job *job) {
  if (job->n_panels < MANY_PANELS * job->n_groups) return 1;
  const uint64_t fair =
      job->n_panels_out * job->n_groups / (UNITS_A_THREAD * (uint64_t)run->device->n_threads);
  return fair < 1 ? 1 : fair < UNIT_PANELS ? fair : UNIT_PANELS;
}

static void multiply(const cpu_run *run, matmul_job *job) {
  const cpu_packed *packed = &job->weight->packed;
  job->n_panels_out = (packed->n_out + CPU_PANEL_COLUMNS - 1) / CPU_PANEL_COLUMNS;
  job->unit_panels = choose_unit(run, job);
  cpu_pool_for(run->pool, job->n_panels, 1, fill_panels, job);
  const bool few_rows = job->n_rows <= CPU_PANEL_ROWS && packed->panel_bytes < PIECE_BYTES;
  const uint64_t grain = few_rows ? PIECE_BYTES / packed->panel_bytes : 1;
  const uint64_t per_group = (job->n_panels_out + job->unit_panels - 1) / job->unit_panels;
  cpu_pool_for(run->pool, job->n_groups * per_group, grain, multiply_units, job);
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
  answer->workspace_bytes = plan_space(arithmetic, weight->dtype, n, n_in, 1).bytes;
  return cpu_check_rows(answer, "x", x, CS_DTYPE_F32, n, n_in) &&
         cpu_check_rows(answer, "out", out, CS_DTYPE_F32, n, n_out) &&
         (!cpu_present(bias) || cpu_check_vector(answer, "bias", bias, CS_DTYPE_F32, n_out)) &&
         (!cpu_present(residual) ||
          cpu_check_rows(answer, "residual", residual, CS_DTYPE_F32, n, n_out));
}

static cs_status run_matmul(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
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
  if (job.out.n == 0) return CS_OK;
  job.n_rows = job.out.n;
  const matmul_space space =
      plan_space(job.arithmetic, weight->dtype, job.n_rows, weight->dims[1], 1);
  bind_space(&job, run->workspace, &space);
  add_group(&job, 0, 0, job.n_rows);
  multiply(run, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_matmul = {.check = check_matmul, .run = run_matmul};

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
  answer->workspace_bytes = plan_space(arithmetic, weight->dtype, n * k, n_in, n_experts + 1).bytes;
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
  const matmul_space space =
      plan_space(job.arithmetic, weight->dtype, job.out.n, weight->dims[2], weight->dims[0] + 1);
  bind_space(&job, run->workspace, &space);
  const cs_status status =
      sort_by_expert(&job, &ids, (uint32_t *)(void *)(run->workspace + space.order), error);
  if (status == CS_OK) multiply(run, &job);
  return status;
}

const cpu_op_entry cpu_op_moe_matmul = {.check = check_moe_matmul, .run = run_moe_matmul};
