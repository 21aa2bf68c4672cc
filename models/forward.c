/* Every operand is written exactly once, so that whoever places the list never has to ask which
 * version of a value an op means; values whose last reader is past share memory anyway. Ops and
 * values are appended in one order whatever the shape and goal: a shorter goal is a leading part
 * of a longer one, and the n-th op is the same op for every batch. */
#include "models/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "models/model_internal.h"

typedef struct emitter {
  const cs_model *model;
  const cs_model_config *config;
  const cs_forward_shape *shape;
  cs_op_list *list;
  cs_value *weights; /* by key; CS_VALUE_NONE until an op reads it */
  int32_t layer;
  cs_value tokens;
  cs_value positions;
  cs_value slots;
  cs_value block_table;
  cs_value seq_offsets;
  cs_value kv_lengths;
  cs_value x; /* the residual stream (n_tokens, n_embd) */
} emitter;

/* ---- values ------------------------------------------------------------------------------ */

static cs_value add_input(emitter *e, cs_forward_input key, uint64_t rows, uint64_t columns) {
  const cs_value_info info = {.kind = CS_VALUE_INPUT,
                              .key = key,
                              .dtype = CS_DTYPE_I32,
                              .layout = CS_LAYOUT_PLAIN,
                              .rank = columns ? 2 : 1,
                              .dims = {rows, columns}};
  return cs_op_list_value(e->list, &info);
}

/* (n_tokens, n_heads, width) F32 */
static cs_value add_heads(emitter *e, uint64_t n_heads, uint64_t width) {
  const cs_value_info info = {.kind = CS_VALUE_ACTIVATION,
                              .dtype = CS_DTYPE_F32,
                              .layout = CS_LAYOUT_PLAIN,
                              .rank = 3,
                              .dims = {e->shape->n_tokens, n_heads, width}};
  return cs_op_list_value(e->list, &info);
}

static cs_value add_rows(emitter *e, uint64_t columns) {
  return cs_op_list_activation(e->list, CS_DTYPE_F32, e->shape->n_tokens, columns);
}

static cs_value add_plane(emitter *e, uint32_t key, uint64_t width) {
  const cs_value_info info = {
      .kind = CS_VALUE_CACHE,
      .key = key,
      .dtype = e->shape->kv_dtype,
      .layout = e->shape->kv_layout,
      .rank = 4,
      .dims = {e->shape->kv_n_blocks, e->shape->kv_block_tokens, e->config->n_kv_heads, width}};
  return cs_op_list_value(e->list, &info);
}

static cs_value weight(emitter *e, int32_t layer, cs_weight_role role) {
  const uint32_t key = cs_model_weight_key(e->model, layer, role);
  if (key == CS_WEIGHT_ABSENT) return CS_VALUE_NONE;
  if (e->weights[key] != CS_VALUE_NONE) return e->weights[key];
  const cs_model_weight *source = cs_model_weight_at(e->model, key);
  cs_value_info info = {.kind = CS_VALUE_WEIGHT,
                        .key = key,
                        .dtype = source->dtype,
                        .layout = source->usage ? CS_LAYOUT_PACKED : CS_LAYOUT_PLAIN,
                        .rank = source->rank,
                        .usage = source->usage};
  memcpy(info.dims, source->dims, sizeof info.dims);
  if (source->usage && e->shape->stored_as && e->shape->stored_as[source->dtype])
    info.dtype = e->shape->stored_as[source->dtype];
  e->weights[key] = cs_op_list_value(e->list, &info);
  return e->weights[key];
}

/* ---- ops --------------------------------------------------------------------------------- */

static void gather_rows(emitter *e, cs_value out, cs_value table, cs_value ids) {
  const cs_value operands[] = {out, table, ids};
  const cs_op_params params = {
      .gather_rows = {.struct_size = sizeof(cs_gather_rows_params), .scale = 1.0f}};
  cs_op_list_op(e->list, CS_OP_GATHER_ROWS, e->layer, operands, 3, &params);
}

static void rms_norm(emitter *e, cs_value out, cs_value x, cs_weight_role role) {
  const cs_value operands[] = {out, x, weight(e, e->layer, role), CS_VALUE_NONE, CS_VALUE_NONE};
  const cs_op_params params = {.rms_norm = {.struct_size = sizeof(cs_rms_norm_params),
                                            .kind = CS_NORM_RMS,
                                            .epsilon = e->config->norm_epsilon}};
  cs_op_list_op(e->list, CS_OP_RMS_NORM, e->layer, operands, 5, &params);
}

static void matmul(emitter *e, cs_value out, cs_value x, cs_value matrix, cs_value bias,
                   cs_value residual) {
  const cs_value operands[] = {out, x, matrix, bias, residual};
  const cs_op_params params = {.matmul = {.struct_size = sizeof(cs_matmul_params)}};
  cs_op_list_op(e->list, CS_OP_MATMUL, e->layer, operands, 5, &params);
}

/* The stream grows by x * transpose(matrix) + bias: in one op, or in two of the minimal column. */
static void grow_stream(emitter *e, cs_value x, cs_value matrix, cs_value bias) {
  const cs_value sum = add_rows(e, e->config->n_embd);
  if (e->shape->minimal_ops) {
    const cs_value change = add_rows(e, e->config->n_embd);
    matmul(e, change, x, matrix, bias, CS_VALUE_NONE);
    const cs_value operands[] = {sum, e->x, change};
    cs_op_list_op(e->list, CS_OP_ADD, e->layer, operands, 3, NULL);
  } else {
    matmul(e, sum, x, matrix, bias, e->x);
  }
  e->x = sum;
}

static cs_value rope(emitter *e, cs_value x, uint64_t n_heads) {
  const cs_value out = add_heads(e, n_heads, e->config->k_width);
  const cs_value operands[] = {out, x, e->positions, weight(e, -1, CS_ROLE_INV_FREQ)};
  const cs_op_params params = {.rope = {.struct_size = sizeof(cs_rope_params),
                                        .mode = e->config->rope_mode,
                                        .n_rot = e->config->n_rot,
                                        .magnitude = e->config->rope_magnitude}};
  cs_op_list_op(e->list, CS_OP_ROPE, e->layer, operands, 4, &params);
  return out;
}

static cs_value project(emitter *e, cs_value x, uint64_t n_heads, uint64_t width,
                        cs_weight_role role, cs_weight_role bias) {
  const cs_value out = add_heads(e, n_heads, width);
  matmul(e, out, x, weight(e, e->layer, role), weight(e, e->layer, bias), CS_VALUE_NONE);
  return out;
}

/* Each head on its own, where the model has such a norm: the weight's extent says what a row is. */
static cs_value norm_heads(emitter *e, cs_value x, uint64_t n_heads, cs_weight_role role) {
  if (weight(e, e->layer, role) == CS_VALUE_NONE) return x;
  const cs_value out = add_heads(e, n_heads, e->config->k_width);
  rms_norm(e, out, x, role);
  return out;
}

/* ---- the layers -------------------------------------------------------------------------- */

typedef struct attention_inputs {
  cs_value q; /* (n_tokens, n_heads, k_width), turned by RoPE */
  cs_value k_cache;
  cs_value v_cache;
} attention_inputs;

/* From the residual stream to this layer's KV in the cache, announced by a mark. */
static attention_inputs emit_kv(emitter *e) {
  const cs_model_config *c = e->config;
  const uint32_t layer = (uint32_t)e->layer;
  const cs_value normed = add_rows(e, c->n_embd);
  rms_norm(e, normed, e->x, CS_ROLE_ATTN_NORM);
  const cs_value q =
      project(e, normed, c->n_heads, c->k_width, CS_ROLE_ATTN_Q, CS_ROLE_ATTN_Q_BIAS);
  const cs_value k =
      project(e, normed, c->n_kv_heads, c->k_width, CS_ROLE_ATTN_K, CS_ROLE_ATTN_K_BIAS);
  const cs_value v =
      project(e, normed, c->n_kv_heads, c->v_width, CS_ROLE_ATTN_V, CS_ROLE_ATTN_V_BIAS);
  attention_inputs inputs;
  inputs.q = rope(e, norm_heads(e, q, c->n_heads, CS_ROLE_ATTN_Q_NORM), c->n_heads);
  const cs_value turned_k =
      rope(e, norm_heads(e, k, c->n_kv_heads, CS_ROLE_ATTN_K_NORM), c->n_kv_heads);
  inputs.k_cache = add_plane(e, 2 * layer, c->k_width);
  inputs.v_cache = add_plane(e, 2 * layer + 1, c->v_width);
  const cs_value operands[] = {turned_k, v, inputs.k_cache, inputs.v_cache, e->slots};
  cs_op_list_op(e->list, CS_OP_KV_WRITE, e->layer, operands, 5, NULL);
  if (!e->shape->without_marks) cs_op_list_mark(e->list, layer);
  return inputs;
}

static uint32_t layer_window(const emitter *e) {
  const bool windowed = (uint32_t)e->layer >= e->config->window_first_layer;
  return windowed ? e->config->window : 0;
}

static void emit_attention(emitter *e, const attention_inputs *inputs) {
  const cs_model_config *c = e->config;
  const cs_value attended = add_heads(e, c->n_heads, c->v_width);
  const cs_value operands[] = {attended,       inputs->q,      inputs->k_cache, inputs->v_cache,
                               e->block_table, e->seq_offsets, e->kv_lengths,   CS_VALUE_NONE};
  const cs_op_params params = {.attention = {.struct_size = sizeof(cs_attention_params),
                                             .scale = (float)(1.0 / sqrt(c->k_width)),
                                             .window = layer_window(e)}};
  cs_op_list_op(e->list, CS_OP_ATTENTION_PAGED, e->layer, operands, 8, &params);
  grow_stream(e, attended, weight(e, e->layer, CS_ROLE_ATTN_OUTPUT),
              weight(e, e->layer, CS_ROLE_ATTN_OUTPUT_BIAS));
}

static cs_value silu_mul(emitter *e, cs_value gate, cs_value up, uint64_t n_rows, uint64_t n) {
  const cs_value inner = cs_op_list_activation(e->list, CS_DTYPE_F32, n_rows, n);
  const cs_value operands[] = {inner, gate, up};
  cs_op_list_op(e->list, CS_OP_SILU_MUL, e->layer, operands, 3, NULL);
  return inner;
}

static void emit_dense_ffn(emitter *e, cs_value normed) {
  const uint64_t n_ff = e->config->n_ff;
  const cs_value gate = add_rows(e, n_ff);
  matmul(e, gate, normed, weight(e, e->layer, CS_ROLE_FFN_GATE), CS_VALUE_NONE, CS_VALUE_NONE);
  const cs_value up = add_rows(e, n_ff);
  matmul(e, up, normed, weight(e, e->layer, CS_ROLE_FFN_UP), CS_VALUE_NONE, CS_VALUE_NONE);
  const cs_value inner = silu_mul(e, gate, up, e->shape->n_tokens, n_ff);
  grow_stream(e, inner, weight(e, e->layer, CS_ROLE_FFN_DOWN), CS_VALUE_NONE);
}

/* One row of `out` (n_tokens * n_experts_used, n_out) for each pair of a token and its expert. */
static cs_value expert_matmul(emitter *e, cs_value x, cs_weight_role role, cs_value ids,
                              uint64_t n_out) {
  const uint64_t n_rows = (uint64_t)e->shape->n_tokens * e->config->n_experts_used;
  const cs_value out = cs_op_list_activation(e->list, CS_DTYPE_F32, n_rows, n_out);
  const cs_value operands[] = {out, x, weight(e, e->layer, role), ids};
  cs_op_list_op(e->list, CS_OP_MOE_MATMUL, e->layer, operands, 4, NULL);
  return out;
}

static void emit_experts(emitter *e, cs_value normed) {
  const cs_model_config *c = e->config;
  const uint64_t n_tokens = e->shape->n_tokens;
  const uint64_t k = c->n_experts_used;
  const cs_value scores = add_rows(e, c->n_experts);
  matmul(e, scores, normed, weight(e, e->layer, CS_ROLE_FFN_ROUTER), CS_VALUE_NONE, CS_VALUE_NONE);
  const cs_value ids = cs_op_list_activation(e->list, CS_DTYPE_I32, n_tokens, k);
  const cs_value shares = add_rows(e, k);
  const cs_value route[] = {ids, shares, scores, CS_VALUE_NONE};
  const cs_op_params params = {.moe_route = {.struct_size = sizeof(cs_moe_route_params),
                                             .scoring = CS_MOE_SOFTMAX,
                                             .normalize = c->normalize_experts,
                                             .scale = c->expert_scale}};
  cs_op_list_op(e->list, CS_OP_MOE_ROUTE, e->layer, route, 4, &params);
  const cs_value gate = expert_matmul(e, normed, CS_ROLE_FFN_GATE_EXPERTS, ids, c->n_ff_expert);
  const cs_value up = expert_matmul(e, normed, CS_ROLE_FFN_UP_EXPERTS, ids, c->n_ff_expert);
  const cs_value inner = silu_mul(e, gate, up, n_tokens * k, c->n_ff_expert);
  const cs_value down = expert_matmul(e, inner, CS_ROLE_FFN_DOWN_EXPERTS, ids, c->n_embd);
  const cs_value sum = add_rows(e, c->n_embd);
  const cs_value combine[] = {sum, down, shares, e->x};
  cs_op_list_op(e->list, CS_OP_MOE_COMBINE, e->layer, combine, 4, NULL);
  e->x = sum;
}

static void emit_ffn(emitter *e) {
  const cs_value normed = add_rows(e, e->config->n_embd);
  rms_norm(e, normed, e->x, CS_ROLE_FFN_NORM);
  if (e->config->n_experts)
    emit_experts(e, normed);
  else
    emit_dense_ffn(e, normed);
}

/* Only the rows asked for pass the largest matrix. */
static void emit_logits(emitter *e) {
  const cs_model_config *c = e->config;
  const uint64_t n = e->shape->n_logit_rows;
  const cs_value rows = add_input(e, CS_INPUT_LOGIT_ROWS, n, 0);
  const cs_value picked = cs_op_list_activation(e->list, CS_DTYPE_F32, n, c->n_embd);
  gather_rows(e, picked, e->x, rows);
  const cs_value normed = cs_op_list_activation(e->list, CS_DTYPE_F32, n, c->n_embd);
  rms_norm(e, normed, picked, CS_ROLE_OUTPUT_NORM);
  const cs_value_info info = {.kind = e->shape->read_logits ? CS_VALUE_OUTPUT : CS_VALUE_ACTIVATION,
                              .key = CS_OUTPUT_LOGITS,
                              .dtype = CS_DTYPE_F32,
                              .layout = CS_LAYOUT_PLAIN,
                              .rank = 2,
                              .dims = {n, c->n_vocab}};
  const cs_value logits = cs_op_list_value(e->list, &info);
  const cs_weight_role head = c->tied_embeddings ? CS_ROLE_TOKEN_EMBD : CS_ROLE_OUTPUT;
  matmul(e, logits, normed, weight(e, -1, head), CS_VALUE_NONE, CS_VALUE_NONE);
  if (e->shape->goal != CS_FORWARD_ARGMAX) return;
  const cs_value_info best = {.kind = CS_VALUE_OUTPUT,
                              .key = CS_OUTPUT_ARGMAX,
                              .dtype = CS_DTYPE_I32,
                              .layout = CS_LAYOUT_PLAIN,
                              .rank = 1,
                              .dims = {n}};
  const cs_value operands[] = {cs_op_list_value(e->list, &best), logits};
  cs_op_list_op(e->list, CS_OP_ARGMAX, e->layer, operands, 2, NULL);
}

static void emit_inputs(emitter *e) {
  const cs_forward_shape *s = e->shape;
  e->tokens = add_input(e, CS_INPUT_TOKENS, s->n_tokens, 0);
  e->positions = add_input(e, CS_INPUT_POSITIONS, s->n_tokens, 0);
  e->slots = add_input(e, CS_INPUT_SLOTS, s->n_tokens, 0);
  e->block_table = add_input(e, CS_INPUT_BLOCK_TABLE, s->n_seqs, s->max_blocks);
  e->seq_offsets = add_input(e, CS_INPUT_SEQ_OFFSETS, (uint64_t)s->n_seqs + 1, 0);
  e->kv_lengths = add_input(e, CS_INPUT_KV_LENGTHS, s->n_seqs, 0);
}

static void emit_model(emitter *e) {
  const uint32_t n_layers = e->config->n_layers;
  e->layer = -1;
  emit_inputs(e);
  e->x = add_rows(e, e->config->n_embd);
  gather_rows(e, e->x, weight(e, -1, CS_ROLE_TOKEN_EMBD), e->tokens);
  for (uint32_t layer = 0; layer < n_layers; layer++) {
    e->layer = (int32_t)layer;
    const attention_inputs inputs = emit_kv(e);
    if (layer + 1 == n_layers && e->shape->goal == CS_FORWARD_KV) return;
    emit_attention(e, &inputs);
    emit_ffn(e);
  }
  e->layer = -1;
  emit_logits(e);
}

static cs_status check_shape(const cs_model *model, const cs_forward_shape *s, cs_error *error) {
  if (model->n_slots == 0)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: opened for its vocabulary only",
                        model->path);
  const struct {
    const char *name;
    uint64_t value;
  } sizes[] = {{"n_tokens", s->n_tokens},
               {"n_seqs", s->n_seqs},
               {"max_blocks", s->max_blocks},
               {"kv_block_tokens", s->kv_block_tokens},
               {"kv_n_blocks", s->kv_n_blocks},
               {"n_logit_rows", s->goal == CS_FORWARD_KV ? 1 : s->n_logit_rows}};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    if (sizes[i].value == 0)
      return cs_error_set(error, CS_INVALID_ARGUMENT, "forward pass: %s is 0", sizes[i].name);
  if (!cs_dtype_find(s->kv_dtype))
    return cs_error_set(error, CS_INVALID_ARGUMENT, "forward pass: unknown KV dtype %u",
                        s->kv_dtype);
  if (s->kv_n_blocks > INT32_MAX / s->kv_block_tokens)
    return cs_error_set(error, CS_OUT_OF_RANGE,
                        "forward pass: %llu KV blocks of %u tokens are more than a slot can number",
                        (unsigned long long)s->kv_n_blocks, s->kv_block_tokens);
  return CS_OK;
}

cs_status cs_forward_emit(const cs_model *model, const cs_forward_shape *shape, cs_op_list **out,
                          cs_error *error) {
  *out = NULL;
  cs_status status = check_shape(model, shape, error);
  if (status != CS_OK) return status;
  emitter e = {.model = model, .config = cs_model_get_config(model), .shape = shape};
  e.list = cs_op_list_create();
  e.weights = malloc(model->n_slots * sizeof *e.weights);
  if (!e.list || !e.weights) {
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
    goto err_destroy_list;
  }
  memset(e.weights, 0xff, model->n_slots * sizeof *e.weights); /* CS_VALUE_NONE */
  emit_model(&e);
  status = cs_op_list_finish(e.list, error);
  if (status != CS_OK) goto err_destroy_list;
  free(e.weights);
  *out = e.list;
  return CS_OK;

err_destroy_list:
  free(e.weights);
  cs_op_list_destroy(e.list);
  return status;
}
