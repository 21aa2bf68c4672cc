/* gather_rows, rms_norm and rope: ops on rows, with strided rows, edge widths, padding and values
 * that must not spread from one row to another. */
#include <math.h>
#include <stdio.h>

#include "format.h"
#include "optest.h"
#include "registry.h"

static const uint64_t edge_rows[] = {1, 2, 5, 16, 33};

/* ---- gather_rows ---- */

static void gather(kit *k, uint32_t dtype, uint64_t n, uint64_t d, float scale) {
  const uint64_t v = 37;
  const cs_gather_rows_params params = {.struct_size = sizeof params, .scale = scale};
  optest *t = optest_begin(k, CS_OP_GATHER_ROWS, &params);
  optest_operand(t, 0, CS_DTYPE_F32, 2, (uint64_t[]){n, d});
  optest_weight(t, 1, dtype, CS_USAGE_GATHER, 2, (uint64_t[]){v, d});
  double *ids = optest_operand(t, 2, CS_DTYPE_I32, 1, (uint64_t[]){n});
  for (uint64_t i = 0; i < n; i++)
    ids[i] = rng_below(&k->rng, 5) == 0 ? -1 : (double)rng_below(&k->rng, v);
  if (n > 1) ids[n - 1] = (double)(v - 1);
  t->operands[0].gap_elements = (uint32_t)rng_below(&k->rng, 5);
  char what[80];
  snprintf(what, sizeof what, "n=%llu d=%llu scale=%g gap=%u", (unsigned long long)n,
           (unsigned long long)d, (double)scale, t->operands[0].gap_elements);
  optest_run(t, what);
}

static void gather_case(kit *k, const kit_case *c) {
  const uint32_t block = format_block_elements(c->dtype);
  const uint64_t widths[] = {block, 3 * block, block == 1 ? 65 : 7 * block, 2048};
  for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
    for (size_t j = 0; j < sizeof edge_rows / sizeof edge_rows[0]; j++)
      gather(k, c->dtype, edge_rows[j], widths[i], c->argument ? 8.5f : 1);
}

/* One copy of a weight serves both as table and as matrix. */
static void tied(kit *k, const kit_case *c) {
  const cs_gather_rows_params params = {.struct_size = sizeof params, .scale = 1};
  const cs_matmul_params matmul_params = {.struct_size = sizeof matmul_params};
  optest *gather_test = optest_begin(k, CS_OP_GATHER_ROWS, &params);
  optest_operand(gather_test, 0, CS_DTYPE_F32, 2, (uint64_t[]){5, 256});
  optest_weight(gather_test, 1, c->dtype, CS_USAGE_GATHER | CS_USAGE_MATMUL, 2,
                (uint64_t[]){40, 256});
  double *ids = optest_operand(gather_test, 2, CS_DTYPE_I32, 1, (uint64_t[]){5});
  for (int i = 0; i < 5; i++)
    ids[i] = (double)rng_below(&k->rng, 40);
  optest *matmul = optest_begin(k, CS_OP_MATMUL, &matmul_params);
  optest_operand(matmul, 0, CS_DTYPE_F32, 2, (uint64_t[]){5, 40});
  optest_operand(matmul, 1, CS_DTYPE_F32, 2, (uint64_t[]){5, 256});
  optest_fill_bell(matmul, 1, 1);
  matmul->operands[2] = gather_test->operands[1];
  if (!optest_query(matmul, "matmul") || !optest_query(gather_test, "gather_rows")) return;
  optest_place(gather_test);
  optest_execute(gather_test, "gather_rows of a tied weight");
  matmul->operands[2] = gather_test->operands[1];
  optest_place(matmul);
  optest_execute(matmul, "matmul of a tied weight");
}

/* ---- rms_norm ---- */

#define NORM_ADD     1u
#define NORM_LAYER   2u
#define NORM_INPLACE 4u
#define NORM_NO_SUM  8u

static void norm(kit *k, uint32_t dtype, uint64_t n, uint64_t d, uint32_t variant, bool nan) {
  const cs_rms_norm_params params = {.struct_size = sizeof params,
                                     .kind = variant & NORM_LAYER ? CS_NORM_LAYER : CS_NORM_RMS,
                                     .epsilon = 1e-5f};
  const uint64_t dims[] = {n, d};
  optest *t = optest_begin(k, CS_OP_RMS_NORM, &params);
  optest_operand(t, 0, dtype, 2, dims);
  double *x = optest_operand(t, 1, dtype, 2, dims);
  optest_operand(t, 2, CS_DTYPE_F32, 1, &d);
  optest_fill_bell(t, 1, 3);
  optest_fill_bell(t, 2, 1);
  for (uint32_t i = 0; i < 2; i++)
    t->operands[i].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  if (variant & NORM_ADD) {
    optest_operand(t, 3, dtype, 2, dims);
    optest_fill_bell(t, 3, 2);
    if (!(variant & NORM_NO_SUM)) optest_operand(t, 4, dtype, 2, dims);
    if (variant & NORM_INPLACE) optest_alias(t, 4, 1);
  }
  if (nan) x[(n / 2) * d + d / 3] = NAN;
  char what[96];
  snprintf(what, sizeof what, "n=%llu d=%llu%s%s%s%s", (unsigned long long)n, (unsigned long long)d,
           variant & NORM_ADD ? " add" : "", variant & NORM_LAYER ? " layer_norm" : "",
           variant & NORM_INPLACE ? " in place" : "", nan ? " with a NaN in one row" : "");
  optest_run(t, what);
}

static void norm_case(kit *k, const kit_case *c) {
  static const uint64_t widths[] = {1, 8, 33, 64, 100, 288, 2048, 4099};
  for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
    for (size_t j = 0; j < sizeof edge_rows / sizeof edge_rows[0]; j++)
      norm(k, c->dtype, edge_rows[j], widths[i], c->argument, false);
  norm(k, c->dtype, 5, 64, c->argument, true);
}

/* ---- rope ---- */

typedef struct rope_shape {
  uint64_t n, n_heads, head_dim;
  uint32_t n_rot;
} rope_shape;

#define ROPE_INPLACE   2u /* bit 0 is the mode */
#define ROPE_PARTIAL   4u
#define ROPE_MAGNITUDE 8u

static void rope(kit *k, uint32_t dtype, const rope_shape *s, uint32_t variant) {
  const uint32_t n_rot = variant & ROPE_PARTIAL ? s->n_rot : (uint32_t)s->head_dim;
  const cs_rope_params params = {.struct_size = sizeof params,
                                 .mode = variant & 1,
                                 .n_rot = n_rot,
                                 .magnitude = variant & ROPE_MAGNITUDE ? 1.25f : 1};
  const uint64_t dims[] = {s->n, s->n_heads, s->head_dim}, n_pairs = n_rot / 2;
  optest *t = optest_begin(k, CS_OP_ROPE, &params);
  optest_operand(t, 0, dtype, 3, dims);
  optest_operand(t, 1, dtype, 3, dims);
  optest_fill_bell(t, 1, 2);
  double *positions = optest_operand(t, 2, CS_DTYPE_I32, 1, &s->n);
  double *inv_freq = optest_operand(t, 3, CS_DTYPE_F32, 1, &n_pairs);
  for (uint64_t i = 0; i < s->n; i++)
    positions[i] = (double)rng_below(&k->rng, 256);
  positions[0] = 0;
  for (uint64_t i = 0; i < n_pairs; i++)
    inv_freq[i] = pow(10000, -2 * (double)i / n_rot);
  t->operands[1].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  if (variant & ROPE_INPLACE)
    optest_alias(t, 0, 1);
  else
    t->operands[0].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  char what[96];
  snprintf(what, sizeof what, "n=%llu n_heads=%llu head_dim=%llu n_rot=%u%s",
           (unsigned long long)s->n, (unsigned long long)s->n_heads,
           (unsigned long long)s->head_dim, n_rot, variant & ROPE_INPLACE ? " in place" : "");
  optest_run(t, what);
}

static void rope_case(kit *k, const kit_case *c) {
  static const rope_shape shapes[] = {{1, 1, 2, 2},   {1, 8, 8, 4},    {3, 5, 16, 8},
                                      {7, 4, 64, 32}, {2, 3, 80, 20},  {5, 2, 128, 64},
                                      {2, 1, 256, 6}, {33, 2, 64, 16}, {1, 32, 64, 32}};
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
    rope(k, c->dtype, &shapes[i], c->argument);
}

/* ---- registration ---- */

static void add_gather(kit_registry *r) {
  for (size_t i = 0; i < KIT_N_WEIGHT_FORMATS; i++)
    kit_add(r,
            &(kit_case){.badges = kit_weight_formats[i].badges,
                        .op_id = CS_OP_GATHER_ROWS,
                        .dtype = kit_weight_formats[i].dtype,
                        .run = gather_case},
            "gather_rows/%s", format_name(kit_weight_formats[i].dtype));
  kit_add(r,
          &(kit_case){
              .op_id = CS_OP_GATHER_ROWS, .dtype = CS_DTYPE_F32, .argument = 1, .run = gather_case},
          "gather_rows/f32/scale");
  static const uint32_t tied_dtypes[] = {CS_DTYPE_F32,  CS_DTYPE_F16,  CS_DTYPE_BF16,
                                         CS_DTYPE_Q8_0, CS_DTYPE_Q4_0, CS_DTYPE_Q6_K};
  for (size_t i = 0; i < sizeof tied_dtypes / sizeof tied_dtypes[0]; i++)
    kit_add(r,
            &(kit_case){.badges = i < 3   ? KIT_BADGE_LLM_DENSE
                                  : i < 5 ? KIT_BADGE_LLM_QUANT
                                          : 0,
                        .dtype = tied_dtypes[i],
                        .run = tied},
            "weights/tied/%s", format_name(tied_dtypes[i]));
}

static void add_norm(kit_registry *r) {
  static const struct {
    const char *name;
    uint32_t badges, argument, dtype;
  } rows[] = {{"f32", KIT_BADGE_LLM_DENSE, 0, CS_DTYPE_F32},
              {"f32/add", 0, NORM_ADD, CS_DTYPE_F32},
              {"f32/add_without_sum", 0, NORM_ADD | NORM_NO_SUM, CS_DTYPE_F32},
              {"f32/add_in_place", 0, NORM_ADD | NORM_INPLACE, CS_DTYPE_F32},
              {"f32/layer_norm", 0, NORM_LAYER, CS_DTYPE_F32},
              {"f16", 0, 0, CS_DTYPE_F16},
              {"bf16", 0, 0, CS_DTYPE_BF16}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    kit_add(r,
            &(kit_case){.badges = rows[i].badges,
                        .op_id = CS_OP_RMS_NORM,
                        .dtype = rows[i].dtype,
                        .argument = rows[i].argument,
                        .run = norm_case},
            "rms_norm/%s", rows[i].name);
}

static void add_rope(kit_registry *r) {
  static const char *const modes[] = {"interleaved", "half_split"};
  for (uint32_t mode = 0; mode < 2; mode++) {
    const struct {
      const char *name;
      uint32_t badges, bits, dtype;
    } rows[] = {{"", KIT_BADGE_LLM_DENSE, 0, CS_DTYPE_F32},
                {"/in_place", KIT_BADGE_LLM_DENSE, ROPE_INPLACE, CS_DTYPE_F32},
                {"/partial", 0, ROPE_PARTIAL, CS_DTYPE_F32},
                {"/magnitude", 0, ROPE_MAGNITUDE | ROPE_INPLACE, CS_DTYPE_F32},
                {"/f16", 0, 0, CS_DTYPE_F16},
                {"/bf16", 0, 0, CS_DTYPE_BF16}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
      kit_add(r,
              &(kit_case){.badges = rows[i].badges,
                          .op_id = CS_OP_ROPE,
                          .dtype = rows[i].dtype,
                          .argument = rows[i].bits | mode,
                          .run = rope_case},
              "rope/%s%s", modes[mode], rows[i].name);
  }
}

void kit_add_row_cases(kit_registry *r) {
  add_gather(r);
  add_norm(r);
  add_rope(r);
}
