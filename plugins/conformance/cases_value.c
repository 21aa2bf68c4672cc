/* silu_mul, gelu_mul, add, copy, cast, argmax and top_k: ops on values, over the edges of the
 * number formats. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "consort/half.h"
#include "format.h"
#include "optest.h"
#include "registry.h"

static const uint64_t shapes[][2] = {{1, 1},   {1, 7},    {2, 32},   {5, 33},
                                     {16, 64}, {33, 100}, {3, 2048}, {1, 11008}};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

static void shape_text(char *to, size_t bytes, const uint64_t *dims, const char *more) {
  snprintf(to, bytes, "n=%llu d=%llu%s", (unsigned long long)dims[0], (unsigned long long)dims[1],
           more);
}

/* ---- two operands to one ---- */

/* in_place: 0 no, 1 the first, 2 the second input. */
static void binary(kit *k, const kit_case *c, const uint64_t *dims, uint32_t in_place) {
  optest *t = optest_begin(k, c->op_id, NULL);
  for (uint32_t i = 0; i < 3; i++) {
    optest_operand(t, i, c->dtype, 2, dims);
    t->operands[i].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  }
  optest_fill_bell(t, 1, 3);
  optest_fill_bell(t, 2, 2);
  if (c->op_id != CS_OP_ADD && t->operands[1].count > 8)
    for (int i = 0; i < 3; i++) /* where exp overflows and vanishes */
      t->operands[1].values[rng_below(&k->rng, t->operands[1].count)] =
          rng_uniform(&k->rng, -120, 30);
  if (in_place) optest_alias(t, 0, in_place);
  char what[64];
  shape_text(what, sizeof what, dims,
             in_place == 0   ? ""
             : in_place == 1 ? " in place of the first"
                             : " in place of the second");
  optest_run(t, what);
}

static void binary_case(kit *k, const kit_case *c) {
  for (size_t i = 0; i < N_SHAPES; i++)
    for (uint32_t in_place = 0; in_place < 3; in_place++)
      binary(k, c, shapes[i], in_place);
}

static void add_of_infinities(kit *k, const kit_case *c) {
  (void)c;
  const uint64_t dims[] = {1, 6};
  const double a[] = {INFINITY, -INFINITY, INFINITY, NAN, 1, 3e38};
  const double b[] = {1, 1, -INFINITY, 1, NAN, 3e38};
  optest *t = optest_begin(k, CS_OP_ADD, NULL);
  optest_operand(t, 0, CS_DTYPE_F32, 2, dims);
  memcpy(optest_operand(t, 1, CS_DTYPE_F32, 2, dims), a, sizeof a);
  memcpy(optest_operand(t, 2, CS_DTYPE_F32, 2, dims), b, sizeof b);
  if (!optest_query(t, "infinities")) return;
  optest_place(t);
  t->operands[0].expected[5] = INFINITY; /* the sum overflows float32 */
  optest_execute(t, "infinities");
}

/* ---- copy and cast ---- */

/* Any bits of the dtype but signalling NaNs, which float64 does not keep. */
static double random_value(kit *k, uint32_t dtype) {
  unsigned char bits[4];
  kit_random_bytes(k, bits, sizeof bits);
  const double value = format_decode(dtype, bits);
  return isnan(value) ? NAN : value;
}

static void copy_case(kit *k, const kit_case *c) {
  for (size_t i = 0; i < N_SHAPES; i++) {
    optest *t = optest_begin(k, CS_OP_COPY, NULL);
    optest_operand(t, 0, c->dtype, 2, shapes[i]);
    double *x = optest_operand(t, 1, c->dtype, 2, shapes[i]);
    for (uint64_t j = 0; j < t->operands[1].count; j++)
      x[j] = random_value(k, c->dtype);
    for (uint32_t j = 0; j < 2; j++)
      t->operands[j].gap_elements = (uint32_t)rng_below(&k->rng, 9);
    char what[64];
    shape_text(what, sizeof what, shapes[i], "");
    optest_run(t, what);
  }
}

/* A float32 whose neighbourhood in `dtype` is of interest: ties, the largest numbers, those that
 * round to infinity, subnormals of F16, zeros of both signs, infinities and NaN. */
static double edge_value(kit *k, uint32_t dtype) {
  static const double edges[] = {0.0,      -0.0,        INFINITY,      -INFINITY,  NAN,
                                 65504,    65519.99,    65520,         -65536,     0x1p-14,
                                 0x1p-24,  0x1p-25,     0x1.8p-25,     0x1p-26,    3.4028234e38,
                                 -3.39e38, 1 + 0x1p-11, 1 + 0x1.8p-10, 1 + 0x1p-8, 1 + 0x1.8p-7};
  const size_t n_edges = sizeof edges / sizeof edges[0];
  const uint64_t pick = rng_below(&k->rng, 4);
  if (pick == 0) return edges[rng_below(&k->rng, n_edges)];
  if (pick == 1) return rng_bell(&k->rng) * 0x1p-15;
  if (pick == 2) return rng_bell(&k->rng) * (dtype == CS_DTYPE_F16 ? 30000 : 1e30);
  return rng_bell(&k->rng);
}

static void cast_shape(kit *k, uint32_t to, uint32_t from, const uint64_t *dims) {
  optest *t = optest_begin(k, CS_OP_CAST, NULL);
  optest_operand(t, 0, to, 2, dims);
  double *x = optest_operand(t, 1, from, 2, dims);
  for (uint64_t i = 0; i < t->operands[1].count; i++)
    x[i] = from == CS_DTYPE_F32 ? edge_value(k, to) : random_value(k, from);
  for (uint32_t i = 0; i < 2; i++)
    t->operands[i].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  char what[64];
  shape_text(what, sizeof what, dims, "");
  optest_run(t, what);
}

/* All 65536 bit patterns of a 16-bit format. */
static void cast_everything(kit *k, uint32_t to, uint32_t from) {
  const uint64_t dims[] = {16, 4096};
  optest *t = optest_begin(k, CS_OP_CAST, NULL);
  optest_operand(t, 0, to, 2, dims);
  double *x = optest_operand(t, 1, from, 2, dims);
  for (uint32_t i = 0; i < 65536; i++) {
    const uint16_t bits = (uint16_t)i;
    x[i] = format_decode(from, &bits);
  }
  optest_run(t, "every bit pattern");
}

static void cast_case(kit *k, const kit_case *c) {
  const uint32_t from = c->dtype, to = c->argument;
  for (size_t i = 0; i < N_SHAPES; i++)
    cast_shape(k, to, from, shapes[i]);
  if (from != CS_DTYPE_F32) cast_everything(k, to, from);
}

/* ---- argmax and top_k ---- */

static void argmax_shape(kit *k, uint32_t dtype, uint64_t n, uint64_t d) {
  optest *t = optest_begin(k, CS_OP_ARGMAX, NULL);
  optest_operand(t, 0, CS_DTYPE_I32, 1, &n);
  double *x = optest_operand(t, 1, dtype, 2, (uint64_t[]){n, d});
  for (uint64_t i = 0; i < n; i++) {
    double *row = &x[i * d];
    const uint64_t kind = rng_below(&k->rng, 6);
    for (uint64_t j = 0; j < d; j++) {
      row[j] = rng_bell(&k->rng);
      if (kind == 1) row[j] = floor(row[j]); /* many ties */
      if (kind == 2 && rng_below(&k->rng, 3) == 0) row[j] = NAN;
      if (kind == 3) row[j] = -INFINITY;
      if (kind == 4) row[j] = NAN;
      if (kind == 5) row[j] = -1e30 * (1 + fabs(row[j]));
    }
    if (kind == 2 && d > 1) row[0] = NAN;
    if (kind == 3 && d > 2) row[0] = NAN;
  }
  t->operands[1].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  char what[64];
  shape_text(what, sizeof what, (uint64_t[]){n, d}, "");
  optest_run(t, what);
}

static void argmax_case(kit *k, const kit_case *c) {
  static const uint64_t widths[] = {1, 2, 17, 64, 257, 512, 32000, 32003};
  for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
    argmax_shape(k, c->dtype, 1, widths[i]);
    argmax_shape(k, c->dtype, 13, widths[i]);
  }
}

static void top_k_case(kit *k, const kit_case *c) {
  static const uint64_t rows[][3] = {{1, 1, 1},    {1, 5, 5},      {3, 17, 2},    {2, 512, 8},
                                     {4, 300, 40}, {2, 32000, 64}, {1, 4097, 256}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const uint64_t n = rows[i][0], d = rows[i][1], top = rows[i][2];
    optest *t = optest_begin(k, CS_OP_TOP_K, NULL);
    optest_operand(t, 0, c->dtype, 2, (uint64_t[]){n, top});
    optest_operand(t, 1, CS_DTYPE_I32, 2, (uint64_t[]){n, top});
    double *x = optest_operand(t, 2, c->dtype, 2, (uint64_t[]){n, d});
    for (uint64_t j = 0; j < n * d; j++)
      x[j] = j / d % 2 ? floor(4 * rng_bell(&k->rng)) : rng_bell(&k->rng);
    t->operands[2].gap_elements = (uint32_t)rng_below(&k->rng, 4);
    char what[64];
    shape_text(what, sizeof what, (uint64_t[]){n, d}, "");
    optest_run(t, what);
  }
}

/* ---- registration ---- */

static void add_binary(kit_registry *r) {
  static const struct {
    uint32_t op_id, badges;
  } ops[] = {
      {CS_OP_SILU_MUL, KIT_BADGE_LLM_DENSE}, {CS_OP_ADD, KIT_BADGE_LLM_DENSE}, {CS_OP_GELU_MUL, 0}};
  static const uint32_t dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16};
  for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
    for (size_t j = 0; j < sizeof dtypes / sizeof dtypes[0]; j++)
      kit_add(r,
              &(kit_case){.badges = j == 0 ? ops[i].badges : 0,
                          .op_id = ops[i].op_id,
                          .dtype = dtypes[j],
                          .run = binary_case},
              "%s/%s", op_name(ops[i].op_id), format_name(dtypes[j]));
  kit_add(r,
          &(kit_case){.badges = KIT_BADGE_LLM_DENSE,
                      .op_id = CS_OP_ADD,
                      .dtype = CS_DTYPE_F32,
                      .run = add_of_infinities},
          "add/f32/infinities");
}

static void add_cast(kit_registry *r) {
  static const struct {
    uint32_t from, to, badges;
  } pairs[] = {{CS_DTYPE_F32, CS_DTYPE_F16, KIT_BADGE_LLM_DENSE},
               {CS_DTYPE_F32, CS_DTYPE_BF16, KIT_BADGE_LLM_DENSE},
               {CS_DTYPE_F16, CS_DTYPE_F32, KIT_BADGE_LLM_DENSE},
               {CS_DTYPE_BF16, CS_DTYPE_F32, KIT_BADGE_LLM_DENSE},
               {CS_DTYPE_F16, CS_DTYPE_BF16, 0},
               {CS_DTYPE_BF16, CS_DTYPE_F16, 0}};
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
    kit_add(r,
            &(kit_case){.badges = pairs[i].badges,
                        .op_id = CS_OP_CAST,
                        .dtype = pairs[i].from,
                        .argument = pairs[i].to,
                        .run = cast_case},
            "cast/%s_to_%s", format_name(pairs[i].from), format_name(pairs[i].to));
}

void kit_add_value_cases(kit_registry *r) {
  add_binary(r);
  static const uint32_t dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16};
  for (size_t i = 0; i < 3; i++)
    kit_add(r,
            &(kit_case){.badges = i == 0 ? KIT_BADGE_LLM_DENSE : 0,
                        .op_id = CS_OP_COPY,
                        .dtype = dtypes[i],
                        .run = copy_case},
            "copy/%s", format_name(dtypes[i]));
  add_cast(r);
  kit_add(r,
          &(kit_case){.badges = KIT_BADGE_LLM_DENSE,
                      .op_id = CS_OP_ARGMAX,
                      .dtype = CS_DTYPE_F32,
                      .run = argmax_case},
          "argmax/f32");
  kit_add(r, &(kit_case){.op_id = CS_OP_TOP_K, .dtype = CS_DTYPE_F32, .run = top_k_case},
          "top_k/f32");
}
