/* How a matmul is cut up. Rows of x that meet the same weights are put into panels of up to 12 rows
 * (one after the other for a plain matmul, sorted by expert for a mixture); matmul.c plans that and
 * answers what is served, matmul_tiles.c multiplies. */
#ifndef CPU_MATMUL_H
#define CPU_MATMUL_H

#include "ops.h"

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

/* Bytes that the first n_in elements of one row of x take in its panel. */
uint64_t cpu_matmul_x_bytes(const cpu_kernels *kernels, cpu_arithmetic arithmetic, uint32_t dtype,
                            uint64_t n_in);

/* Panels of one matrix. */
uint64_t cpu_matmul_panels(const cpu_packed *packed);

/* Items of work, each one panel of weights, that few rows of x take from a thread's share at once.
 */
uint64_t cpu_matmul_grain(const cpu_packed *packed);

/* Runs n jobs whose panels of x, and formats, are the same, as one loop. */
void cpu_matmul_multiply(const cpu_run *run, matmul_job *jobs, uint32_t n_jobs);

#endif
