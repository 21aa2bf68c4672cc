/* The loops of a matmul. Every item of work is one panel of 16 columns of one weight matrix, or a
 * few, against all of its panels of x, so that weights leave memory once. Panels of x are made in
 * the workspace: quantized to int8, or, where the arithmetic is float, transposed; n_in is taken in
 * pieces that stay in a cache. Weights in blocks go either way: int8 is faster and float is exact,
 * so matrices too small to take much time are multiplied as floats. The same holds for 16-bit
 * weights and bf16; OpenBLAS does not win in float (docs/cpu.md). Matrices that meet the same x are
 * one loop: fewer waits for the last thread. */
#include "matmul.h"

#include <math.h>
#include <string.h>

#define DEPTH          1024 /* elements of n_in in one pass */
#define VALUES_DEPTH   256  /* likewise where blocks are first made floats */
#define PAIRS_PIECE    256  /* elements of x rounded at a time */
#define PASS_PANELS    48   /* of x */
#define UNIT_PANELS    4    /* of weights */
#define MANY_PANELS    4    /* of x, for which caches are blocked */
#define UNITS_A_THREAD 4
#define PREFETCH_LINE  64
#define PIECE_BYTES    (UINT64_C(16) << 10)

/* What one loop runs. */
typedef struct matmul_loop {
  const matmul_job *jobs;
  uint32_t n_jobs;
} matmul_loop;

/* ---- panels ---- */

static uint64_t out_row(const matmul_job *job, uint64_t sorted) {
  return job->order ? job->order[sorted] : sorted;
}

static const float *x_row(const matmul_job *job, uint64_t sorted) {
  return cpu_row_f32(&job->x, out_row(job, sorted) / job->out_rows_per_x);
}

static unsigned char *panel_bytes(const matmul_job *job, const row_panel *panel) {
  const cpu_packed *packed = &job->weight->packed;
  return job->x_bytes + panel->first * cpu_matmul_x_bytes(job->kernels, job->arithmetic,
                                                          packed->dtype, packed->n_in);
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
                         cpu_x_extra_for(blocks, job->format->scales),
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
      panel_bytes(job, panel) +
      cpu_matmul_x_bytes(job->kernels, job->arithmetic, dtype, first) * panel->n;
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

uint64_t cpu_matmul_panels(const cpu_packed *packed) {
  return (packed->n_out + CPU_PANEL_COLUMNS - 1) / CPU_PANEL_COLUMNS;
}

uint64_t cpu_matmul_grain(const cpu_packed *packed) {
  return packed->panel_bytes < PIECE_BYTES ? PIECE_BYTES / packed->panel_bytes : 1;
}

static uint64_t units_of(const matmul_job *job) {
  return (job->n_panels_out + job->unit_panels - 1) / job->unit_panels;
}

static void multiply_units(void *context, uint64_t begin, uint64_t end) {
  const matmul_loop *loop = context;
  const matmul_job *job = loop->jobs;
  uint64_t passed = 0; /* items of earlier jobs */
  for (uint64_t item = begin; item < end; item++) {
    while (item - passed >= job->n_groups * units_of(job)) {
      passed += job->n_groups * units_of(job);
      job++;
    }
    const uint64_t of_job = item - passed, first = of_job % units_of(job) * job->unit_panels;
    const uint64_t left = job->n_panels_out - first;
    multiply_unit(job, &job->groups[of_job / units_of(job)], first,
                  left < job->unit_panels ? left : job->unit_panels);
  }
}

/* As many panels of weights a unit as leave each thread several units of these. */
static uint64_t choose_unit(const cpu_run *run, const matmul_job *job, uint64_t n_panels_out) {
  if (job->n_panels < MANY_PANELS * job->n_groups) return 1;
  const uint64_t fair =
      n_panels_out * job->n_groups / (UNITS_A_THREAD * (uint64_t)run->device->n_threads);
  return fair < 1 ? 1 : fair < UNIT_PANELS ? fair : UNIT_PANELS;
}

void cpu_matmul_multiply(const cpu_run *run, matmul_job *jobs, uint32_t n_jobs) {
  matmul_loop loop = {.jobs = jobs, .n_jobs = n_jobs};
  uint64_t n_panels_out = 0, n_units = 0;
  for (uint32_t i = 0; i < n_jobs; i++)
    n_panels_out += jobs[i].n_panels_out = cpu_matmul_panels(&jobs[i].weight->packed);
  for (uint32_t i = 0; i < n_jobs; i++) {
    jobs[i].unit_panels = choose_unit(run, &jobs[i], n_panels_out);
    n_units += jobs[i].n_groups * units_of(&jobs[i]);
  }
  cpu_pool_for(run->pool, jobs->n_panels, 1, fill_panels, jobs);
  const bool few_rows = jobs->n_rows <= CPU_PANEL_ROWS;
  cpu_pool_for(run->pool, n_units, few_rows ? cpu_matmul_grain(&jobs->weight->packed) : 1,
               multiply_units, &loop);
}
