/* The mixture-of-experts column. Logits are random, so that two equal ones, whose order a rounding
 * could change, do not occur. */
#include <stdio.h>

#include "format.h"
#include "optest.h"
#include "registry.h"

static void route(kit *k, uint64_t n, uint64_t top, uint64_t n_experts, uint32_t variant) {
  const cs_moe_route_params params = {.struct_size = sizeof params,
                                      .scoring = variant & 1,
                                      .normalize = variant >> 1 & 1,
                                      .scale = variant & 4 ? 2.5f : 1};
  optest *t = optest_begin(k, CS_OP_MOE_ROUTE, &params);
  optest_operand(t, 0, CS_DTYPE_I32, 2, (uint64_t[]){n, top});
  optest_operand(t, 1, CS_DTYPE_F32, 2, (uint64_t[]){n, top});
  double *logits = optest_operand(t, 2, CS_DTYPE_F32, 2, (uint64_t[]){n, n_experts});
  for (uint64_t i = 0; i < n; i++) { /* distinct by more than any rounding */
    for (uint64_t j = 0; j < n_experts; j++)
      logits[i * n_experts + j] = 3 - 6 * (double)j / (double)n_experts;
    for (uint64_t j = n_experts; j-- > 1;) {
      const uint64_t other = rng_below(&k->rng, j + 1);
      const double swap = logits[i * n_experts + j];
      logits[i * n_experts + j] = logits[i * n_experts + other];
      logits[i * n_experts + other] = swap;
    }
  }
  t->operands[2].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  if (variant & 8) {
    optest_operand(t, 3, CS_DTYPE_F32, 1, &n_experts);
    optest_fill_bell(t, 3, 0.1);
  }
  char what[96];
  snprintf(what, sizeof what, "n=%llu k=%llu n_experts=%llu", (unsigned long long)n,
           (unsigned long long)top, (unsigned long long)n_experts);
  optest_run(t, what);
}

static void route_case(kit *k, const kit_case *c) {
  static const uint64_t rows[][3] = {{1, 1, 2},   {1, 2, 4},  {5, 2, 8},  {17, 8, 64},
                                     {3, 6, 160}, {2, 4, 33}, {1, 8, 128}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    route(k, rows[i][0], rows[i][1], rows[i][2], c->argument);
}

static void moe_matmul(kit *k, uint32_t dtype, uint64_t n, uint64_t top, bool x_per_slot) {
  const uint64_t n_experts = 5, n_out = 33, n_in = 256, n_slots = n * top;
  optest *t = optest_begin(k, CS_OP_MOE_MATMUL, NULL);
  optest_operand(t, 0, CS_DTYPE_F32, 2, (uint64_t[]){n_slots, n_out});
  optest_operand(t, 1, CS_DTYPE_F32, 2, (uint64_t[]){x_per_slot ? n_slots : n, n_in});
  optest_weight(t, 2, dtype, CS_USAGE_MATMUL, 3, (uint64_t[]){n_experts, n_out, n_in});
  double *ids = optest_operand(t, 3, CS_DTYPE_I32, 2, (uint64_t[]){n, top});
  optest_fill_bell(t, 1, 1);
  for (uint64_t i = 0; i < n_slots; i++)
    ids[i] = (double)rng_below(&k->rng, n_experts);
  t->operands[0].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  t->operands[1].gap_elements = (uint32_t)rng_below(&k->rng, 4);
  char what[96];
  snprintf(what, sizeof what, "n=%llu k=%llu%s", (unsigned long long)n, (unsigned long long)top,
           x_per_slot ? " a row of x for each" : "");
  optest_run(t, what);
}

static void matmul_case(kit *k, const kit_case *c) {
  static const uint64_t rows[] = {1, 3, 16, 33};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    for (uint64_t top = 1; top <= 4; top++) {
      moe_matmul(k, c->dtype, rows[i], top, false);
      moe_matmul(k, c->dtype, rows[i], top, true);
    }
}

static void combine_case(kit *k, const kit_case *c) {
  static const uint64_t rows[][3] = {{1, 1, 64}, {1, 2, 33}, {5, 8, 256}, {17, 4, 100}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    for (int residual = 0; residual < 2; residual++) {
      const uint64_t n = rows[i][0], top = rows[i][1], d = rows[i][2];
      optest *t = optest_begin(k, CS_OP_MOE_COMBINE, NULL);
      optest_operand(t, 0, c->dtype, 2, (uint64_t[]){n, d});
      optest_operand(t, 1, c->dtype, 2, (uint64_t[]){n * top, d});
      optest_operand(t, 2, CS_DTYPE_F32, 2, (uint64_t[]){n, top});
      if (residual) optest_operand(t, 3, c->dtype, 2, (uint64_t[]){n, d});
      for (uint32_t j = 1; j < 3u + (residual ? 1 : 0); j++)
        optest_fill_bell(t, j, 1);
      t->operands[1].gap_elements = (uint32_t)rng_below(&k->rng, 4);
      char what[96];
      snprintf(what, sizeof what, "n=%llu k=%llu d=%llu%s", (unsigned long long)n,
               (unsigned long long)top, (unsigned long long)d, residual ? " residual" : "");
      optest_run(t, what);
    }
}

void kit_add_moe_cases(kit_registry *r) {
  static const struct {
    const char *name;
    uint32_t bits;
  } routes[] = {{"softmax", 0},
                {"softmax_normalized", 2},
                {"sigmoid", 1},
                {"sigmoid_normalized_scale_bias", 1 | 2 | 4 | 8},
                {"softmax_scale_bias", 4 | 8}};
  for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
    kit_add(r,
            &(kit_case){.badges = KIT_BADGE_MOE,
                        .op_id = CS_OP_MOE_ROUTE,
                        .dtype = CS_DTYPE_F32,
                        .argument = routes[i].bits,
                        .run = route_case},
            "moe_route/f32/%s", routes[i].name);
  static const uint32_t dtypes[] = {CS_DTYPE_F32,  CS_DTYPE_F16,  CS_DTYPE_BF16, CS_DTYPE_Q8_0,
                                    CS_DTYPE_Q4_0, CS_DTYPE_Q4_K, CS_DTYPE_Q6_K};
  for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
    kit_add(r,
            &(kit_case){.badges = i < 5 ? KIT_BADGE_MOE : 0,
                        .op_id = CS_OP_MOE_MATMUL,
                        .dtype = dtypes[i],
                        .run = matmul_case},
            "moe_matmul/%s", format_name(dtypes[i]));
  kit_add(r,
          &(kit_case){.badges = KIT_BADGE_MOE,
                      .op_id = CS_OP_MOE_COMBINE,
                      .dtype = CS_DTYPE_F32,
                      .run = combine_case},
          "moe_combine/f32");
}
