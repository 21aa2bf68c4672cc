/* matmul over every weight format. Rows cover the single token of decode, the small batches between
 * the fast paths, and a prefill; widths end blocks, vectors and tiles early. */
#include <math.h>
#include <stdio.h>

#include "format.h"
#include "optest.h"
#include "registry.h"

#define WITH_BIAS     1u
#define WITH_RESIDUAL 2u
#define IN_PLACE      4u /* the result replaces the residual */
#define WITH_CAP      8u
#define AS_HEADS      16u /* x and out are (n, heads, width): a row is what counts, not its shape */

typedef struct matmul_shape {
  uint64_t n, n_out, n_in;
} matmul_shape;

/* (n, columns), or (n, columns / 4, 4) where that is wanted and divides. */
static uint32_t row_dims(uint64_t n, uint64_t columns, uint32_t features, uint64_t dims[3]) {
  const bool as_heads = features & AS_HEADS && columns % 4 == 0;
  dims[0] = n;
  dims[1] = as_heads ? columns / 4 : columns;
  dims[2] = 4;
  return as_heads ? 3 : 2;
}

static optest *build(kit *k, uint32_t weight_dtype, uint32_t dtype, const matmul_shape *s,
                     uint32_t features, const cs_matmul_params *params) {
  optest *t = optest_begin(k, CS_OP_MATMUL, params);
  uint64_t out_dims[3], in_dims[3];
  const uint32_t out_rank = row_dims(s->n, s->n_out, features, out_dims);
  const uint32_t in_rank = row_dims(s->n, s->n_in, features, in_dims);
  optest_operand(t, 0, dtype, out_rank, out_dims);
  optest_operand(t, 1, dtype, in_rank, in_dims);
  optest_weight(t, 2, weight_dtype, CS_USAGE_MATMUL, 2, (uint64_t[]){s->n_out, s->n_in});
  optest_fill_bell(t, 1, 1);
  t->operands[0].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  t->operands[1].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  if (features & WITH_BIAS) {
    optest_operand(t, 3, CS_DTYPE_F32, 1, &s->n_out);
    optest_fill_bell(t, 3, 2);
  }
  if (features & (WITH_RESIDUAL | IN_PLACE)) {
    optest_operand(t, 4, dtype, out_rank, out_dims);
    optest_fill_bell(t, 4, 2);
  }
  if (features & IN_PLACE) optest_alias(t, 0, 4);
  return t;
}

static void run_shape(kit *k, uint32_t weight_dtype, uint32_t dtype, const matmul_shape *s,
                      uint32_t features) {
  const cs_matmul_params params = {.struct_size = sizeof params,
                                   .soft_cap = features & WITH_CAP ? 15 : 0};
  optest *t = build(k, weight_dtype, dtype, s, features, &params);
  char what[96];
  snprintf(what, sizeof what, "n=%llu n_out=%llu n_in=%llu%s%s%s%s", (unsigned long long)s->n,
           (unsigned long long)s->n_out, (unsigned long long)s->n_in,
           features & WITH_BIAS ? " bias" : "",
           features & IN_PLACE        ? " residual in place"
           : features & WITH_RESIDUAL ? " residual"
                                      : "",
           features & WITH_CAP ? " soft cap" : "", features & AS_HEADS ? " as heads" : "");
  optest_run(t, what);
}

/* Widths of the input in blocks of the format; plain formats take odd ones as well. */
static void shapes_case(kit *k, const kit_case *c) {
  static const uint64_t rows[] = {1, 2, 3, 5, 16, 17, 33};
  static const uint64_t outs[] = {1, 7, 33, 64, 130};
  const uint32_t block = format_block_elements(c->dtype);
  const uint64_t ins[] = {block == 1 ? 33 : block, block == 1 ? 100 : 3 * block,
                          block == 1 ? 257 : 2 * block, block == 1 ? 64 : 5 * block};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    for (size_t j = 0; j < sizeof outs / sizeof outs[0]; j++) {
      const matmul_shape s = {rows[i], outs[j], ins[(i + j) % 4]};
      run_shape(k, c->dtype, CS_DTYPE_F32, &s, 0);
    }
  run_shape(k, c->dtype, CS_DTYPE_F32, &(matmul_shape){1, 300, 2048}, 0);
  run_shape(k, c->dtype, CS_DTYPE_F32, &(matmul_shape){64, 96, 1024}, 0);
}

/* Weights of a million elements and more: where a backend leaves its exact small kernels for those
 * that it is measured by. One token, a few, and a tile with a rest. */
static void large_case(kit *k, const kit_case *c) {
  static const matmul_shape shapes[] = {{1, 1030, 1024}, {5, 512, 2048}, {35, 258, 4096}};
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
    run_shape(k, c->dtype, CS_DTYPE_F32, &shapes[i], 0);
}

static void features_case(kit *k, const kit_case *c) {
  static const matmul_shape shapes[] = {{1, 65, 256}, {5, 64, 512}, {33, 96, 256}};
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
    run_shape(k, c->dtype, CS_DTYPE_F32, &shapes[i], c->argument);
}

static void activations_case(kit *k, const kit_case *c) {
  static const matmul_shape shapes[] = {{1, 65, 256}, {3, 7, 512}, {33, 96, 256}};
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
    run_shape(k, c->dtype, c->argument, &shapes[i], 0);
}

/* What is wrong in one row stays in that row: padding rows may hold anything. What the row itself
 * gives is left open, so that it is not compared. */
#define BAD_ROW 4

static void bad_row_case(kit *k, const kit_case *c) {
  static const double bad[] = {NAN, INFINITY, -INFINITY, 3e38};
  const matmul_shape s = {9, 40, 256};
  const cs_matmul_params params = {.struct_size = sizeof params};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    optest *t = build(k, c->dtype, CS_DTYPE_F32, &s, 0, &params);
    char what[64];
    snprintf(what, sizeof what, "%g in row 4 of 9", bad[i]);
    if (!optest_query(t, what)) continue;
    optest_place(t);
    optest_spoil_row(t, 1, BAD_ROW, bad[i]);
    optest_leave_open(t, 0, BAD_ROW);
    optest_execute(t, what);
  }
}

void kit_add_matmul_cases(kit_registry *r) {
  static const struct {
    const char *name;
    uint32_t bits;
    bool is_minimal;
  } features[] = {{"bias", WITH_BIAS, true},
                  {"heads", AS_HEADS, true},
                  {"residual", WITH_RESIDUAL, false},
                  {"residual_in_place", IN_PLACE, false},
                  {"bias_cap_residual", WITH_BIAS | WITH_CAP | WITH_RESIDUAL, false}};
  for (size_t i = 0; i < KIT_N_WEIGHT_FORMATS; i++) {
    kit_case c = {.op_id = CS_OP_MATMUL, .dtype = kit_weight_formats[i].dtype};
    const char *name = format_name(c.dtype);
    c.badges = kit_weight_formats[i].badges;
    c.run = shapes_case;
    kit_add(r, &c, "matmul/%s", name);
    c.run = large_case;
    kit_add(r, &c, "matmul/%s/large", name);
    c.run = bad_row_case;
    kit_add(r, &c, "matmul/%s/bad_row", name);
    c.run = features_case;
    for (size_t j = 0; j < sizeof features / sizeof features[0]; j++) {
      c.badges = features[j].is_minimal ? kit_weight_formats[i].badges : 0;
      c.argument = features[j].bits;
      kit_add(r, &c, "matmul/%s/%s", name, features[j].name);
    }
    c.badges = 0;
    c.run = activations_case;
    static const uint32_t activations[] = {CS_DTYPE_F16, CS_DTYPE_BF16};
    for (size_t j = 0; j < 2; j++) {
      c.argument = activations[j];
      kit_add(r, &c, "matmul/%s/%s_activations", name, format_name(activations[j]));
    }
  }
}
