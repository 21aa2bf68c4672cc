/* One op under test: operands as float64 values, laid out in one arena, run on the device and
 * compared with the oracle.
 *
 *   optest *t = optest_begin(k, CS_OP_ADD, NULL);
 *   optest_operand(t, 0, CS_DTYPE_F32, 2, (uint64_t[]){n, d});   and so on, then fill the inputs
 *   optest_run(t, "n=3 d=5");
 *
 * The whole arena is downloaded afterwards: whatever the op was not to write, the gaps between
 * rows and guards around operands included, has to be as it was. All memory belongs to the case. */
#ifndef KIT_OPTEST_H
#define KIT_OPTEST_H

#include "kit.h"

typedef struct optest_tensor {
  cs_tensor tensor;
  uint64_t count;        /* elements */
  uint32_t gap_elements; /* extra elements between rows: set before optest_run */
  double *values;        /* row-major by dims, whatever the layout; rounded to dtype by the run */
  double *expected;      /* of a written operand: the oracle's; else NULL */
  double power;          /* of a written operand: sum of squares without cancellation, or 0 */
  bool *open;            /* elements that may hold anything after the run; NULL: none */
  int alias_of;          /* operand whose window this is, -1 for its own */
  cs_plugin_memory *packed;
  cs_packed_info packed_info; /* what weights_pack said of it */
  uint32_t usage;
  void *blocks; /* the weight in GGUF's bytes */
} optest_tensor;

typedef struct optest {
  kit *k;
  uint32_t id;
  uint32_t n_operands;
  const void *params;
  uint32_t written; /* bit mask of operands */
  bool program;     /* run as a recorded program although eager ops are there */
  optest_tensor operands[CS_MAX_OPERANDS];
  /* Filled by optest_place: */
  cs_plugin_memory *memory; /* the arena */
  unsigned char *before;    /* its bytes */
  unsigned char *after;
  uint64_t arena_bytes;
  cs_plugin_memory *workspace;
  uint64_t workspace_bytes;
  cs_op_answer answer;
} optest;

/* The mark of an element that an op leaves alone: what the expected values start as. */
double optest_untouched(void);
bool optest_is_untouched(double value);

/* params stays borrowed. */
optest *optest_begin(kit *k, uint32_t id, const void *params);
/* Returns the values to fill; outputs start as random junk. */
double *optest_operand(optest *t, uint32_t index, uint32_t dtype, uint32_t rank,
                       const uint64_t *dims);
/* A cache plane (n_blocks, block_tokens, n_heads, width). */
double *optest_cache(optest *t, uint32_t index, uint32_t dtype, uint32_t layout,
                     const uint64_t dims[4]);
/* A random weight of any dtype, packed for `usage` when the op is placed. */
double *optest_weight(optest *t, uint32_t index, uint32_t dtype, uint32_t usage, uint32_t rank,
                      const uint64_t *dims);
/* Operand `index` is the very window of operand `of`. */
void optest_alias(optest *t, uint32_t index, uint32_t of);
void optest_fill_bell(optest *t, uint32_t index, double scale);

/* Asks op_query with memory NULL. False when the device says no (the case then has a variant
 * counted as unsupported, named by `what`). */
bool optest_query(optest *t, const char *what);
/* Lays out the arena, packs weights, rounds values and computes the oracle's answer. */
void optest_place(optest *t);
/* After placing: every third element of a row becomes `value`, behind the oracle's back. */
void optest_spoil_row(optest *t, uint32_t index, uint64_t row, double value);
/* After placing: any result in this row of a written operand is as good as another. */
void optest_leave_open(optest *t, uint32_t index, uint64_t row);
/* The source of a packed weight; `part` is filled, and what both point to lives as long as the
 * test.
 */
cs_weight optest_source(const optest *t, uint32_t index, cs_weight_part *part);
/* A further copy of a packed weight, of the case's. */
cs_plugin_memory *optest_pack_again(optest *t, uint32_t index);
/* The op with its operands in place; valid as long as the test. */
cs_op optest_op(const optest *t, cs_tensor operands[CS_MAX_OPERANDS]);
/* Uploads the arena, runs the op, downloads, compares. */
void optest_execute(optest *t, const char *what);
/* All of it; false when unsupported. */
bool optest_run(optest *t, const char *what);

/* The NMSE limit for a result: the class that the plugin claims, loosened where `dtype` itself
 * rounds. */
double optest_nmse_limit(uint32_t error_class, uint32_t dtype);

/* "matmul". */
const char *op_name(uint32_t id);

#endif
