/* What differs between architectures is data: names of keys, the set of weights, the order of
 * RoPE's pairs. The llama converter stores query and key rows so that RoPE turns neighbouring
 * elements; Mistral and Mixtral come as "llama", with a window or experts in their keys. Another
 * architecture is another row of the table: docs/adding-a-model.md. */
#include "models/architecture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_HEADS   65536
#define MAX_EXTENT  (1u << 24) /* of any row or head count: far above what exists */
#define MAX_CONTEXT INT32_MAX
#define MAX_LAYERS  (1u << 20)
#define MAX_EXPERTS 4096

#define BIT(role) CS_ROLE_BIT(CS_ROLE_##role)

/* What every transformer here has. */
#define BASE                                                                                       \
  (BIT(TOKEN_EMBD) | BIT(OUTPUT_NORM) | BIT(ATTN_NORM) | BIT(ATTN_Q) | BIT(ATTN_K) | BIT(ATTN_V) | \
   BIT(ATTN_OUTPUT) | BIT(FFN_NORM))
#define QKV_BIAS  (BIT(ATTN_Q_BIAS) | BIT(ATTN_K_BIAS) | BIT(ATTN_V_BIAS))
#define QK_NORM   (BIT(ATTN_Q_NORM) | BIT(ATTN_K_NORM))
#define DENSE_FFN (BIT(FFN_GATE) | BIT(FFN_UP) | BIT(FFN_DOWN))
#define EXPERT_FFN                                                                                 \
  (BIT(FFN_ROUTER) | BIT(FFN_GATE_EXPERTS) | BIT(FFN_UP_EXPERTS) | BIT(FFN_DOWN_EXPERTS))
#define ALWAYS_MAYBE (BIT(OUTPUT) | BIT(ATTN_OUTPUT_BIAS))

static const cs_architecture architectures[] = {
    {.name = "llama", /* Llama 2 and 3, Mistral, Mixtral */
     .rope_mode = CS_ROPE_INTERLEAVED,
     .experts = CS_EXPERTS_MAYBE,
     .required = BASE,
     .optional = ALWAYS_MAYBE | QKV_BIAS},
    {.name = "qwen2", /* and Qwen2.5 */
     .rope_mode = CS_ROPE_HALF_SPLIT,
     .required = BASE | QKV_BIAS,
     .optional = ALWAYS_MAYBE},
    {.name = "qwen3",
     .rope_mode = CS_ROPE_HALF_SPLIT,
     .required = BASE | QK_NORM,
     .optional = ALWAYS_MAYBE | QKV_BIAS},
    {.name = "qwen3moe",
     .rope_mode = CS_ROPE_HALF_SPLIT,
     .experts = CS_EXPERTS_ALWAYS,
     .required = BASE | QK_NORM,
     .optional = ALWAYS_MAYBE | QKV_BIAS},
};

static const cs_weight_spec specs[CS_ROLE_LIMIT] = {
    [CS_ROLE_TOKEN_EMBD] = {"token_embd.weight", 2, CS_USAGE_GATHER},
    [CS_ROLE_OUTPUT_NORM] = {"output_norm.weight", 1, 0},
    [CS_ROLE_OUTPUT] = {"output.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_INV_FREQ] = {"rope_inv_freq", 1, 0},
    [CS_ROLE_ATTN_NORM] = {"attn_norm.weight", 1, 0},
    [CS_ROLE_ATTN_Q] = {"attn_q.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_ATTN_Q_BIAS] = {"attn_q.bias", 1, 0},
    [CS_ROLE_ATTN_Q_NORM] = {"attn_q_norm.weight", 1, 0},
    [CS_ROLE_ATTN_K] = {"attn_k.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_ATTN_K_BIAS] = {"attn_k.bias", 1, 0},
    [CS_ROLE_ATTN_K_NORM] = {"attn_k_norm.weight", 1, 0},
    [CS_ROLE_ATTN_V] = {"attn_v.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_ATTN_V_BIAS] = {"attn_v.bias", 1, 0},
    [CS_ROLE_ATTN_OUTPUT] = {"attn_output.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_ATTN_OUTPUT_BIAS] = {"attn_output.bias", 1, 0},
    [CS_ROLE_FFN_NORM] = {"ffn_norm.weight", 1, 0},
    [CS_ROLE_FFN_GATE] = {"ffn_gate.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_FFN_UP] = {"ffn_up.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_FFN_DOWN] = {"ffn_down.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_FFN_ROUTER] = {"ffn_gate_inp.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_FFN_GATE_EXPERTS] = {"ffn_gate_exps.weight", 3, CS_USAGE_MATMUL},
    [CS_ROLE_FFN_UP_EXPERTS] = {"ffn_up_exps.weight", 3, CS_USAGE_MATMUL},
    [CS_ROLE_FFN_DOWN_EXPERTS] = {"ffn_down_exps.weight", 3, CS_USAGE_MATMUL},
};

const cs_architecture *cs_architecture_find(cs_gguf_string name) {
  for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++) {
    const char *known = architectures[i].name;
    if (strlen(known) == name.bytes && memcmp(known, name.data, name.bytes) == 0)
      return &architectures[i];
  }
  return NULL;
}

const char *cs_architecture_names(void) {
  return "llama, qwen2, qwen3, qwen3moe";
}

uint64_t cs_architecture_required(const cs_architecture *architecture,
                                  const cs_model_config *config) {
  return architecture->required | (config->n_experts ? EXPERT_FFN : DENSE_FFN);
}

const cs_weight_spec *cs_weight_spec_of(cs_weight_role role) {
  return &specs[role];
}

void cs_weight_shape(const cs_model_config *config, cs_weight_role role,
                     uint64_t dims[CS_MAX_RANK]) {
  const uint64_t n_embd = config->n_embd;
  const uint64_t n_ff = config->n_ff;
  const uint64_t n_experts = config->n_experts;
  const uint64_t n_inner = config->n_ff_expert;
  const uint64_t n_q = (uint64_t)config->n_heads * config->k_width;
  const uint64_t n_k = (uint64_t)config->n_kv_heads * config->k_width;
  const uint64_t n_v = (uint64_t)config->n_kv_heads * config->v_width;
  const uint64_t n_attended = (uint64_t)config->n_heads * config->v_width;
  const uint64_t shapes[CS_ROLE_LIMIT][3] = {
      [CS_ROLE_TOKEN_EMBD] = {config->n_vocab, n_embd},
      [CS_ROLE_OUTPUT_NORM] = {n_embd},
      [CS_ROLE_OUTPUT] = {config->n_vocab, n_embd},
      [CS_ROLE_INV_FREQ] = {config->n_rot / 2},
      [CS_ROLE_ATTN_NORM] = {n_embd},
      [CS_ROLE_ATTN_Q] = {n_q, n_embd},
      [CS_ROLE_ATTN_Q_BIAS] = {n_q},
      [CS_ROLE_ATTN_Q_NORM] = {config->k_width},
      [CS_ROLE_ATTN_K] = {n_k, n_embd},
      [CS_ROLE_ATTN_K_BIAS] = {n_k},
      [CS_ROLE_ATTN_K_NORM] = {config->k_width},
      [CS_ROLE_ATTN_V] = {n_v, n_embd},
      [CS_ROLE_ATTN_V_BIAS] = {n_v},
      [CS_ROLE_ATTN_OUTPUT] = {n_embd, n_attended},
      [CS_ROLE_ATTN_OUTPUT_BIAS] = {n_embd},
      [CS_ROLE_FFN_NORM] = {n_embd},
      [CS_ROLE_FFN_GATE] = {n_ff, n_embd},
      [CS_ROLE_FFN_UP] = {n_ff, n_embd},
      [CS_ROLE_FFN_DOWN] = {n_embd, n_ff},
      [CS_ROLE_FFN_ROUTER] = {n_experts, n_embd},
      [CS_ROLE_FFN_GATE_EXPERTS] = {n_experts, n_inner, n_embd},
      [CS_ROLE_FFN_UP_EXPERTS] = {n_experts, n_inner, n_embd},
      [CS_ROLE_FFN_DOWN_EXPERTS] = {n_experts, n_embd, n_inner},
  };
  memset(dims, 0, CS_MAX_RANK * sizeof dims[0]);
  memcpy(dims, shapes[role], sizeof shapes[role]);
}

/* ---- metadata ---------------------------------------------------------------------------- */

static cs_status read_sizes(cs_config_reader *r, cs_model_config *config) {
  config->n_kv_heads = 0;
  const struct {
    const char *suffix;
    uint32_t most;
    uint32_t *value;
  } counts[] = {
      {"block_count", MAX_LAYERS, &config->n_layers},
      {"embedding_length", MAX_EXTENT, &config->n_embd},
      {"feed_forward_length", MAX_EXTENT, &config->n_ff},
      {"context_length", MAX_CONTEXT, &config->n_context},
      {"attention.head_count", MAX_HEADS, &config->n_heads},
  };
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    const cs_status status =
        cs_config_read_count(r, counts[i].suffix, counts[i].most, counts[i].value);
    if (status != CS_OK) return status;
  }
  config->n_kv_heads = config->n_heads;
  const cs_status status =
      cs_config_read_count(r, "attention.head_count_kv", MAX_HEADS, &config->n_kv_heads);
  if (status != CS_OK) return status;
  if (config->n_heads % config->n_kv_heads != 0)
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT,
                        "key \"%s\": %u KV heads do not divide %u heads", r->key,
                        config->n_kv_heads, config->n_heads);
  return CS_OK;
}

static cs_status read_widths(cs_config_reader *r, cs_model_config *config) {
  const bool divides = config->n_embd % config->n_heads == 0;
  const uint32_t usual = divides ? config->n_embd / config->n_heads : 0;
  config->k_width = usual;
  config->v_width = usual;
  cs_status status = cs_config_read_count(r, "attention.key_length", MAX_HEADS, &config->k_width);
  if (status != CS_OK) return status;
  status = cs_config_read_count(r, "attention.value_length", MAX_HEADS, &config->v_width);
  if (status != CS_OK) return status;
  config->n_rot = config->k_width;
  status = cs_config_read_count(r, "rope.dimension_count", MAX_HEADS, &config->n_rot);
  if (status != CS_OK) return status;
  if (config->n_rot % 2 != 0 || config->n_rot > config->k_width)
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT,
                        "key \"%s\": %u is odd or more than a head's width of %u", r->key,
                        config->n_rot, config->k_width);
  return CS_OK;
}

/* A router may choose by other scores than these two families do (DeepSeek's sigmoid). */
static cs_status check_routing(cs_config_reader *r) {
  uint64_t gating = 0;
  const char *key = cs_config_key(r, "expert_gating_func");
  if (!cs_gguf_get_u64(r->gguf, key, &gating) || gating <= 1) return CS_OK;
  return cs_gguf_fail(r->gguf, r->error, CS_UNSUPPORTED,
                      "key \"%s\": gating function %llu is not supported (softmax is)", key,
                      (unsigned long long)gating);
}

static cs_status read_experts(cs_config_reader *r, cs_expert_use use, cs_model_config *config) {
  cs_status status =
      cs_config_read_optional_count(r, "expert_count", MAX_EXPERTS, &config->n_experts);
  if (status != CS_OK) return status;
  if (config->n_experts == 0 && use != CS_EXPERTS_ALWAYS) return CS_OK;
  if (config->n_experts == 0 || use == CS_EXPERTS_NEVER)
    return cs_gguf_fail(r->gguf, r->error, CS_UNSUPPORTED,
                        "key \"%s\": %u experts in a model that has %s", r->key, config->n_experts,
                        config->n_experts ? "none" : "some");
  status = cs_config_read_count(r, "expert_used_count", config->n_experts, &config->n_experts_used);
  if (status != CS_OK) return status;
  config->n_ff_expert = config->n_ff;
  status = cs_config_read_count(r, "expert_feed_forward_length", MAX_EXTENT, &config->n_ff_expert);
  if (status != CS_OK) return status;
  double scale = 0; /* converters write 0 for "none" */
  cs_gguf_get_f64(r->gguf, cs_config_key(r, "expert_weights_scale"), &scale);
  config->expert_scale = scale > 0 && isfinite(scale) ? (float)scale : 1.0f;
  config->normalize_experts = true;
  cs_gguf_get_bool(r->gguf, cs_config_key(r, "expert_weights_norm"), &config->normalize_experts);
  return check_routing(r);
}

static cs_status read_window(cs_config_reader *r, cs_model_config *config) {
  const cs_status status =
      cs_config_read_optional_count(r, "attention.sliding_window", MAX_CONTEXT, &config->window);
  if (status != CS_OK) return status;
  return cs_config_read_optional_count(r, "attention.sliding_window_first_layer", MAX_LAYERS,
                                       &config->window_first_layer);
}

cs_status cs_architecture_read_config(const cs_architecture *architecture, const cs_gguf *gguf,
                                      cs_model_config *config, cs_rope_scaling *scaling,
                                      cs_error *error) {
  cs_config_reader r = {.prefix = architecture->name, .gguf = gguf, .error = error};
  memset(config, 0, sizeof *config);
  memset(scaling, 0, sizeof *scaling);
  snprintf(config->architecture, sizeof config->architecture, "%s", architecture->name);
  cs_gguf_string name;
  if (cs_gguf_get_string(gguf, "general.name", &name))
    cs_gguf_copy_string(config->name, sizeof config->name, name);
  cs_status status = read_sizes(&r, config);
  if (status != CS_OK) return status;
  status = read_widths(&r, config);
  if (status != CS_OK) return status;
  double epsilon = 0;
  status = cs_config_read_positive(&r, "attention.layer_norm_rms_epsilon", &epsilon);
  if (status != CS_OK) return status;
  double base = 10000;
  status = cs_config_read_positive(&r, "rope.freq_base", &base);
  if (status != CS_OK) return status;
  config->norm_epsilon = (float)epsilon;
  config->rope_base = (float)base;
  config->rope_mode = cs_gguf_has_split_heads(gguf) ? CS_ROPE_HALF_SPLIT : architecture->rope_mode;
  status = read_experts(&r, architecture->experts, config);
  if (status == CS_OK) status = read_window(&r, config);
  if (status == CS_OK) status = cs_rope_read_scaling(&r, config->n_context, scaling);
  config->rope_magnitude = (float)cs_rope_magnitude(scaling);
  return status;
}
