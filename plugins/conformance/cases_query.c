/* Is op_query a promise: the same answer each time, nonsense refused, a yes that holds for smaller
 * extents, workspace that grows with them, and properties that agree with it. */
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "optest.h"
#include "registry.h"

static void unknown_ops(kit *k, const kit_case *c) {
  (void)c;
  const uint32_t ids[] = {0, CS_OP_LIMIT, 63, 64, 1000, UINT32_MAX};
  cs_tensor operands[CS_MAX_OPERANDS];
  memset(operands, 0, sizeof operands);
  for (uint32_t i = 0; i < CS_MAX_OPERANDS; i++)
    operands[i] = (cs_tensor){
        .struct_size = sizeof operands[i], .dtype = CS_DTYPE_F32, .rank = 2, .dims = {4, 4}};
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    const cs_op op = {.struct_size = sizeof op,
                      .id = ids[i],
                      .n_operands = 3,
                      .operand_stride = sizeof operands[0],
                      .operands = operands};
    cs_op_answer answer = {.struct_size = sizeof answer};
    const cs_status status = k->plugin.capability.op_query(k->device, &op, &answer, NULL);
    kit_check(k, status != CS_OK || answer.support == CS_SUPPORT_NO,
              "op id %u, which no table has, is said to be served", ids[i]);
  }
}

static optest *plain_matmul(kit *k, uint32_t dtype, uint64_t n, const cs_matmul_params *params) {
  optest *t = optest_begin(k, CS_OP_MATMUL, params);
  optest_operand(t, 0, CS_DTYPE_F32, 2, (uint64_t[]){n, 64});
  optest_operand(t, 1, CS_DTYPE_F32, 2, (uint64_t[]){n, 256});
  optest_weight(t, 2, dtype, CS_USAGE_MATMUL, 2, (uint64_t[]){64, 256});
  optest_fill_bell(t, 1, 1);
  return t;
}

static void dtypes_are_served(kit *k, const kit_case *c) {
  (void)c;
  const cs_matmul_params params = {.struct_size = sizeof params};
  for (uint32_t dtype = 1; dtype < CS_DTYPE_LIMIT; dtype++) {
    if (!(k->properties.dtypes & CS_DTYPE_BIT(dtype))) continue;
    kit_check(k, format_bytes(dtype, 256) > 0, "properties.dtypes has bit %u, which no dtype has",
              dtype);
    optest *t = plain_matmul(k, dtype, 8, &params);
    kit_check(k, optest_query(t, format_name(dtype)),
              "properties.dtypes has %s, op_query of a matmul says: %.100s", format_name(dtype),
              k->result->message);
  }
}

static void answers_stay(kit *k, const kit_case *c) {
  (void)c;
  const cs_matmul_params params = {.struct_size = sizeof params};
  for (uint32_t dtype = 1; dtype < CS_DTYPE_LIMIT; dtype++) {
    if (!(k->properties.dtypes & CS_DTYPE_BIT(dtype))) continue;
    optest *t = plain_matmul(k, dtype, 64, &params);
    if (!optest_query(t, format_name(dtype))) continue;
    const cs_op_answer first = t->answer;
    for (int i = 0; i < 3; i++)
      kit_check(k,
                optest_query(t, format_name(dtype)) && t->answer.support == first.support &&
                    t->answer.workspace_bytes == first.workspace_bytes &&
                    t->answer.error_class == first.error_class,
                "matmul %s: the same question is answered differently", format_name(dtype));
  }
}

/* Asks at 128 rows, then at fewer; runs them with the workspace of the largest. */
static void smaller_extents(kit *k, const kit_case *c) {
  (void)c;
  const cs_matmul_params params = {.struct_size = sizeof params};
  static const uint64_t rows[] = {127, 64, 33, 16, 5, 2, 1};
  uint32_t n_asked = 0;
  for (uint32_t dtype = 1; dtype < CS_DTYPE_LIMIT; dtype++) {
    if (!(k->properties.dtypes & CS_DTYPE_BIT(dtype))) continue;
    optest *largest = plain_matmul(k, dtype, 128, &params);
    if (!optest_query(largest, format_name(dtype))) continue;
    n_asked++;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
      char what[64];
      snprintf(what, sizeof what, "matmul %s, %llu rows after a yes for 128", format_name(dtype),
               (unsigned long long)rows[i]);
      optest *t = plain_matmul(k, dtype, rows[i], &params);
      kit_check(k, optest_query(t, what), "%s: a no: %.100s", what, k->result->message);
      kit_check(k, t->answer.workspace_bytes <= largest->answer.workspace_bytes,
                "%s: more workspace (%llu bytes) than for more rows (%llu)", what,
                (unsigned long long)t->answer.workspace_bytes,
                (unsigned long long)largest->answer.workspace_bytes);
      t->answer = largest->answer;
      optest_place(t);
      optest_execute(t, what);
    }
  }
  if (n_asked == 0) kit_unsupported(k, "no matmul is served");
}

/* Params as an older host knows them: without a soft cap, and something else behind them. */
static void shorter_params(kit *k, const kit_case *c) {
  (void)c;
  const cs_matmul_params params = {.struct_size = sizeof params};
  const struct {
    uint32_t struct_size;
    float behind;
  } older = {sizeof older.struct_size, 1e-3f};
  for (uint32_t dtype = 1; dtype < CS_DTYPE_LIMIT; dtype++) {
    if (!(k->properties.dtypes & CS_DTYPE_BIT(dtype))) continue;
    optest *t = plain_matmul(k, dtype, 3, &params);
    if (!optest_query(t, format_name(dtype))) continue;
    optest_place(t);
    t->params = &older;
    optest_execute(t, format_name(dtype));
    return;
  }
  kit_unsupported(k, "no matmul is served");
}

static void unknown_dtypes(kit *k, const kit_case *c) {
  (void)c;
  cs_tensor operands[3];
  memset(operands, 0, sizeof operands);
  for (int i = 0; i < 3; i++)
    operands[i] =
        (cs_tensor){.struct_size = sizeof operands[i], .dtype = 61, .rank = 2, .dims = {4, 64}};
  const cs_op op = {.struct_size = sizeof op,
                    .id = CS_OP_ADD,
                    .n_operands = 3,
                    .operand_stride = sizeof operands[0],
                    .operands = operands};
  cs_op_answer answer = {.struct_size = sizeof answer};
  const cs_status status = k->plugin.capability.op_query(k->device, &op, &answer, NULL);
  kit_check(k, status != CS_OK || answer.support == CS_SUPPORT_NO,
            "an add of dtype 61, which no table has, is said to be served");
}

static void bad_weight(kit *k, const kit_case *c) {
  (void)c;
  const unsigned char byte = 0;
  const cs_weight_part part = {
      .struct_size = sizeof part, .dtype = 61, .data = &byte, .bytes = sizeof byte};
  const cs_weight weight = {.struct_size = sizeof weight,
                            .dtype = 61,
                            .usage = CS_USAGE_MATMUL,
                            .rank = 2,
                            .n_parts = 1,
                            .part_stride = sizeof part,
                            .dims = {1, 1},
                            .parts = &part};
  cs_plugin_memory *packed = (cs_plugin_memory *)k;
  cs_packed_info info = {.struct_size = sizeof info};
  cs_error error = CS_ERROR_INIT;
  const cs_status status =
      k->plugin.capability.weights_pack(k->device, &weight, &packed, &info, &error);
  kit_check(k, status != CS_OK, "a weight of dtype 61, which no table has, is packed");
  kit_check(k, packed == NULL, "a failed weights_pack leaves a handle behind");
}

void kit_add_query_cases(kit_registry *r) {
  const uint32_t core = KIT_BADGE_CORE;
  kit_add(r, &(kit_case){.badges = core, .run = unknown_ops}, "query/unknown_ops");
  kit_add(r, &(kit_case){.badges = core, .run = unknown_dtypes}, "query/unknown_dtypes");
  kit_add(r, &(kit_case){.badges = core, .run = bad_weight}, "query/unknown_weight");
  kit_add(r,
          &(kit_case){.badges = KIT_BADGE_LLM_DENSE | KIT_BADGE_LLM_QUANT, .run = shorter_params},
          "negotiation/shorter_params");
  kit_add(r, &(kit_case){.badges = core, .run = dtypes_are_served}, "query/dtypes_are_served");
  kit_add(r, &(kit_case){.badges = core, .run = answers_stay}, "query/answers_stay");
  kit_add(r,
          &(kit_case){.badges = KIT_BADGE_LLM_DENSE | KIT_BADGE_LLM_QUANT, .run = smaller_extents},
          "query/smaller_extents");
}
