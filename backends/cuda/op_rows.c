/* Rules of the ops that need a whole row at once, of gather_rows and of the small MoE ops. */
#include "plan.h"

#define MAX_TOP_K (CUDA_SELECT_PART / 4)

/* The table is packed, or plain rows of GGUF's bytes. */
static bool read_table(cuda_rule_context *context, uint64_t n_rows, uint64_t n_columns,
                       cuda_weight *out) {
  const cs_tensor *table = &context->op->operands[1];
  if (table->layout == CS_LAYOUT_PACKED) {
    if (!cuda_want_packed(context, 1, "table", CUDA_WEIGHT_DTYPES, 1, n_rows, n_columns))
      return false;
    if (context->plan) *out = table->memory->weight;
    return true;
  }
  if (!cuda_want_tensor(context, 1, "table", CUDA_WEIGHT_DTYPES, n_rows, n_columns)) return false;
  *out = (cuda_weight){.data = cuda_base_of(context, 1),
                       .row_bytes = cs_sdk_tensor_stride(table),
                       .raw = 1,
                       .dtype = table->dtype};
  return true;
}

/* out(n, d) table(v, d) ids(n) */
bool cuda_rule_gather_rows(cuda_rule_context *context) {
  const cs_gather_rows_params *params = context->op->params;
  const cs_tensor *out = &context->op->operands[0], *table = &context->op->operands[1];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  if (table->rank != 2 || table->dims[1] != d)
    return cuda_refuse(context, "table is not (v, d) with out's d");
  cuda_weight weight = {0};
  if (!cuda_want_tensor(context, 0, "out", CUDA_F32_ONLY, n, d)) return false;
  if (!read_table(context, table->dims[0], d, &weight)) return false;
  if (!cuda_want_vector(context, 2, "ids", CUDA_I32_ONLY, n)) return false;
  const cuda_gather_args args = {.out = cuda_rows_of(context, 0),
                                 .table = weight,
                                 .ids = cuda_base_of(context, 2),
                                 .n_table_rows = table->dims[0],
                                 .n_columns = d,
                                 .scale = params->scale};
  return cuda_step_add(context, KERNEL_gather_rows, n, cuda_spans(d), 1, CUDA_THREADS, &args,
                       sizeof args);
}

/* out(n, d) x(n, d) weight(d) [add(n, d)] [sum(n, d)] */
bool cuda_rule_rms_norm(cuda_rule_context *context) {
  const cs_rms_norm_params *params = context->op->params;
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[0]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[0]);
  if (params->kind != CS_NORM_RMS && params->kind != CS_NORM_LAYER)
    return cuda_refuse(context, "norm kind %u is not known", params->kind);
  if (!cuda_want_tensor(context, 0, "out", CUDA_F32_ONLY, n, d)) return false;
  if (!cuda_want_tensor(context, 1, "x", CUDA_F32_ONLY, n, d)) return false;
  if (!cuda_want_vector(context, 2, "weight", CUDA_F32_ONLY, d)) return false;
  if (cuda_has(context, 3) && !cuda_want_tensor(context, 3, "add", CUDA_F32_ONLY, n, d))
    return false;
  if (cuda_has(context, 4) && !cuda_want_tensor(context, 4, "sum", CUDA_F32_ONLY, n, d))
    return false;
  const cuda_norm_args args = {.out = cuda_rows_of(context, 0),
                               .x = cuda_rows_of(context, 1),
                               .add = cuda_rows_of(context, 3),
                               .sum = cuda_rows_of(context, 4),
                               .weight = cuda_base_of(context, 2),
                               .n_columns = d,
                               .layer = params->kind == CS_NORM_LAYER,
                               .epsilon = params->epsilon};
  return cuda_step_add(context, KERNEL_rms_norm, n, 1, 1, CUDA_THREADS, &args, sizeof args);
}

/* ---- the k largest ---- */

static uint64_t select_parts(uint64_t n_columns) {
  return (n_columns + CUDA_SELECT_PART - 1) / CUDA_SELECT_PART;
}

/* Ranks of two passes, which take turns: the first pass leaves most, the second fewer. */
static uint64_t ranks_bytes(uint64_t n, uint64_t d, uint64_t k) {
  const uint64_t parts = select_parts(d);
  return parts > 1 ? n * (parts + select_parts(parts * k)) * k * sizeof(uint64_t) : 0;
}

/* Passes over parts of the rows until one part is left. k is at most a quarter of a part, so that
 * each pass leaves at most half. */
static bool add_select(cuda_rule_context *context, cuda_select_args args, uint64_t n) {
  const cuda_kernel kernel = args.k == 1 ? KERNEL_select_largest : KERNEL_select_top;
  const uint64_t first_ranks = n * select_parts(args.n_columns) * args.k * sizeof(uint64_t);
  context->workspace_bytes = ranks_bytes(n, args.n_columns, args.k);
  if (context->workspace_bytes) context->support = CS_SUPPORT_COMPOSED;
  if (!cuda_want_workspace(context)) return false;
  for (uint32_t pass = 0;; pass++) {
    const uint64_t parts = select_parts(args.n_columns);
    args.n_out = (uint32_t)(parts * args.k);
    args.ranks_out = parts > 1 ? cuda_workspace_at(context, pass % 2 ? first_ranks : 0) : NULL;
    if (!cuda_step_add(context, kernel, n, parts, 1, CUDA_THREADS, &args, sizeof args))
      return false;
    if (parts <= 1) return true;
    args.ranks_in = args.ranks_out;
    args.n_columns = args.n_out;
  }
}

/* out(n) x(n, d) */
bool cuda_rule_argmax(cuda_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[1]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[1]);
  if (!cuda_want_vector(context, 0, "out", CUDA_I32_ONLY, n)) return false;
  if (!cuda_want_tensor(context, 1, "x", CUDA_F32_ONLY, n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  const cuda_select_args args = {.ids = {cuda_base_of(context, 0), 1},
                                 .x = cuda_rows_of(context, 1),
                                 .n_columns = (uint32_t)d,
                                 .k = 1};
  return add_select(context, args, n);
}

/* values(n, k) ids(n, k) x(n, d) */
bool cuda_rule_top_k(cuda_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[2]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[2]);
  const uint64_t k = cs_sdk_tensor_columns(&context->op->operands[0]);
  if (k > d || k > MAX_TOP_K) return cuda_refuse(context, "k is above d or %d", MAX_TOP_K);
  if (!cuda_want_tensor(context, 0, "values", CUDA_F32_ONLY, n, k)) return false;
  if (!cuda_want_tensor(context, 1, "ids", CUDA_I32_ONLY, n, k)) return false;
  if (!cuda_want_tensor(context, 2, "x", CUDA_F32_ONLY, n, d)) return false;
  context->error_class = CS_ERROR_EXACT;
  const cuda_select_args args = {.values = cuda_rows_of(context, 0),
                                 .ids = cuda_rows_of(context, 1),
                                 .x = cuda_rows_of(context, 2),
                                 .n_columns = (uint32_t)d,
                                 .k = (uint32_t)k};
  return add_select(context, args, n);
}

/* ids(n, k) weights(n, k) logits(n, n_experts) [bias(n_experts)] */
bool cuda_rule_moe_route(cuda_rule_context *context) {
  const cs_moe_route_params *params = context->op->params;
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[2]);
  const uint64_t n_experts = cs_sdk_tensor_columns(&context->op->operands[2]);
  const uint64_t k = cs_sdk_tensor_columns(&context->op->operands[0]);
  if (n_experts > CUDA_MAX_EXPERTS)
    return cuda_refuse(context, "more than %d experts", CUDA_MAX_EXPERTS);
  if (k > n_experts) return cuda_refuse(context, "k is above n_experts");
  if (params->scoring != CS_MOE_SOFTMAX && params->scoring != CS_MOE_SIGMOID)
    return cuda_refuse(context, "scoring %u is not known", params->scoring);
  if (!cuda_want_tensor(context, 0, "ids", CUDA_I32_ONLY, n, k)) return false;
  if (!cuda_want_tensor(context, 1, "weights", CUDA_F32_ONLY, n, k)) return false;
  if (!cuda_want_tensor(context, 2, "logits", CUDA_F32_ONLY, n, n_experts)) return false;
  if (cuda_has(context, 3) && !cuda_want_vector(context, 3, "bias", CUDA_F32_ONLY, n_experts))
    return false;
  const cuda_route_args args = {.ids = cuda_rows_of(context, 0),
                                .weights = cuda_rows_of(context, 1),
                                .logits = cuda_rows_of(context, 2),
                                .bias = cuda_base_of(context, 3),
                                .n_experts = (uint32_t)n_experts,
                                .k = (uint32_t)k,
                                .sigmoid = params->scoring == CS_MOE_SIGMOID,
                                .normalize = params->normalize != 0,
                                .scale = params->scale};
  return cuda_step_add(context, KERNEL_moe_route, n, 1, 1, 32, &args, sizeof args);
}

/* out(n, d) x(n * k, d) weights(n, k) [residual(n, d)] */
bool cuda_rule_moe_combine(cuda_rule_context *context) {
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[0]);
  const uint64_t d = cs_sdk_tensor_columns(&context->op->operands[0]);
  const uint64_t k = cs_sdk_tensor_columns(&context->op->operands[2]);
  if (k > CUDA_MAX_EXPERTS) return cuda_refuse(context, "k is above %d", CUDA_MAX_EXPERTS);
  if (!cuda_want_tensor(context, 0, "out", CUDA_F32_ONLY, n, d)) return false;
  if (!cuda_want_tensor(context, 1, "x", CUDA_F32_ONLY, n * k, d)) return false;
  if (!cuda_want_tensor(context, 2, "weights", CUDA_F32_ONLY, n, k)) return false;
  if (cuda_has(context, 3) && !cuda_want_tensor(context, 3, "residual", CUDA_F32_ONLY, n, d))
    return false;
  const cuda_combine_args args = {.out = cuda_rows_of(context, 0),
                                  .x = cuda_rows_of(context, 1),
                                  .weights = cuda_rows_of(context, 2),
                                  .residual = cuda_rows_of(context, 3),
                                  .n_columns = d,
                                  .k = (uint32_t)k};
  return cuda_step_add(context, KERNEL_moe_combine, n, cuda_spans(d), 1, CUDA_THREADS, &args,
                       sizeof args);
}
