/* What differs between architectures is data: names of keys, the set of weights, the order of
 * RoPE's pairs. The llama converter stores query and key rows so that RoPE turns neighbouring
 * elements; another architecture is another row of the table. */
#include "models/architecture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_HEADS   65536
#define MAX_EXTENT  (1u << 24) /* of any row or head count: far above what exists */
#define MAX_CONTEXT INT32_MAX

static const cs_architecture architectures[] = {
    {
        .name = "llama",
        .rope_mode = CS_ROPE_INTERLEAVED,
        .required = CS_ROLE_BIT(CS_ROLE_TOKEN_EMBD) | CS_ROLE_BIT(CS_ROLE_OUTPUT_NORM) |
                    CS_ROLE_BIT(CS_ROLE_ATTN_NORM) | CS_ROLE_BIT(CS_ROLE_ATTN_Q) |
                    CS_ROLE_BIT(CS_ROLE_ATTN_K) | CS_ROLE_BIT(CS_ROLE_ATTN_V) |
                    CS_ROLE_BIT(CS_ROLE_ATTN_OUTPUT) | CS_ROLE_BIT(CS_ROLE_FFN_NORM) |
                    CS_ROLE_BIT(CS_ROLE_FFN_GATE) | CS_ROLE_BIT(CS_ROLE_FFN_UP) |
                    CS_ROLE_BIT(CS_ROLE_FFN_DOWN),
        .optional = CS_ROLE_BIT(CS_ROLE_OUTPUT) | CS_ROLE_BIT(CS_ROLE_ATTN_Q_BIAS) |
                    CS_ROLE_BIT(CS_ROLE_ATTN_K_BIAS) | CS_ROLE_BIT(CS_ROLE_ATTN_V_BIAS) |
                    CS_ROLE_BIT(CS_ROLE_ATTN_OUTPUT_BIAS),
    },
};

static const cs_weight_spec specs[CS_ROLE_LIMIT] = {
    [CS_ROLE_TOKEN_EMBD] = {"token_embd.weight", 2, CS_USAGE_GATHER},
    [CS_ROLE_OUTPUT_NORM] = {"output_norm.weight", 1, 0},
    [CS_ROLE_OUTPUT] = {"output.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_INV_FREQ] = {"rope_inv_freq", 1, 0},
    [CS_ROLE_ATTN_NORM] = {"attn_norm.weight", 1, 0},
    [CS_ROLE_ATTN_Q] = {"attn_q.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_ATTN_Q_BIAS] = {"attn_q.bias", 1, 0},
    [CS_ROLE_ATTN_K] = {"attn_k.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_ATTN_K_BIAS] = {"attn_k.bias", 1, 0},
    [CS_ROLE_ATTN_V] = {"attn_v.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_ATTN_V_BIAS] = {"attn_v.bias", 1, 0},
    [CS_ROLE_ATTN_OUTPUT] = {"attn_output.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_ATTN_OUTPUT_BIAS] = {"attn_output.bias", 1, 0},
    [CS_ROLE_FFN_NORM] = {"ffn_norm.weight", 1, 0},
    [CS_ROLE_FFN_GATE] = {"ffn_gate.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_FFN_UP] = {"ffn_up.weight", 2, CS_USAGE_MATMUL},
    [CS_ROLE_FFN_DOWN] = {"ffn_down.weight", 2, CS_USAGE_MATMUL},
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
  return "llama";
}

const cs_weight_spec *cs_weight_spec_of(cs_weight_role role) {
  return &specs[role];
}

void cs_weight_shape(const cs_model_config *config, cs_weight_role role,
                     uint64_t dims[CS_MAX_RANK]) {
  const uint64_t n_embd = config->n_embd;
  const uint64_t n_ff = config->n_ff;
  const uint64_t n_q = (uint64_t)config->n_heads * config->k_width;
  const uint64_t n_k = (uint64_t)config->n_kv_heads * config->k_width;
  const uint64_t n_v = (uint64_t)config->n_kv_heads * config->v_width;
  const uint64_t n_attended = (uint64_t)config->n_heads * config->v_width;
  const uint64_t shapes[CS_ROLE_LIMIT][2] = {
      [CS_ROLE_TOKEN_EMBD] = {config->n_vocab, n_embd},
      [CS_ROLE_OUTPUT_NORM] = {n_embd},
      [CS_ROLE_OUTPUT] = {config->n_vocab, n_embd},
      [CS_ROLE_INV_FREQ] = {config->n_rot / 2},
      [CS_ROLE_ATTN_NORM] = {n_embd},
      [CS_ROLE_ATTN_Q] = {n_q, n_embd},
      [CS_ROLE_ATTN_Q_BIAS] = {n_q},
      [CS_ROLE_ATTN_K] = {n_k, n_embd},
      [CS_ROLE_ATTN_K_BIAS] = {n_k},
      [CS_ROLE_ATTN_V] = {n_v, n_embd},
      [CS_ROLE_ATTN_V_BIAS] = {n_v},
      [CS_ROLE_ATTN_OUTPUT] = {n_embd, n_attended},
      [CS_ROLE_ATTN_OUTPUT_BIAS] = {n_embd},
      [CS_ROLE_FFN_NORM] = {n_embd},
      [CS_ROLE_FFN_GATE] = {n_ff, n_embd},
      [CS_ROLE_FFN_UP] = {n_ff, n_embd},
      [CS_ROLE_FFN_DOWN] = {n_embd, n_ff},
  };
  memset(dims, 0, CS_MAX_RANK * sizeof dims[0]);
  dims[0] = shapes[role][0];
  dims[1] = shapes[role][1];
}

/* ---- metadata ---------------------------------------------------------------------------- */

typedef struct reader {
  const cs_architecture *architecture;
  const cs_gguf *gguf;
  cs_error *error;
  char key[96]; /* the key that was asked for last */
} reader;

static const char *full_key(reader *r, const char *suffix) {
  snprintf(r->key, sizeof r->key, "%s.%s", r->architecture->name, suffix);
  return r->key;
}

static cs_status fail_range(const reader *r, uint64_t value) {
  return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT, "key \"%s\": %llu is out of range", r->key,
                      (unsigned long long)value);
}

/* An integer from 1 to `most`; absent keys leave *value as it is when that is not 0. */
static cs_status read_count(reader *r, const char *suffix, uint32_t most, uint32_t *value) {
  const char *key = full_key(r, suffix);
  uint64_t found;
  if (!cs_gguf_has(r->gguf, key) && *value != 0) return CS_OK;
  if (!cs_gguf_get_u64(r->gguf, key, &found))
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT, "key \"%s\" is %s", key,
                        cs_gguf_has(r->gguf, key) ? "not a whole number" : "missing");
  if (found == 0 || found > most) return fail_range(r, found);
  *value = (uint32_t)found;
  return CS_OK;
}

/* A positive number; absent keys leave *value as it is when that is not 0. */
static cs_status read_positive(reader *r, const char *suffix, double *value) {
  const char *key = full_key(r, suffix);
  if (!cs_gguf_has(r->gguf, key) && *value != 0) return CS_OK;
  if (!cs_gguf_get_f64(r->gguf, key, value))
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT, "key \"%s\" is %s", key,
                        cs_gguf_has(r->gguf, key) ? "not a floating-point number" : "missing");
  if (!isfinite(*value) || *value <= 0)
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT, "key \"%s\": %g is out of range", key,
                        *value);
  return CS_OK;
}

static cs_status read_sizes(reader *r, cs_model_config *config) {
  config->n_kv_heads = 0;
  const struct {
    const char *suffix;
    uint32_t most;
    uint32_t *value;
  } counts[] = {
      {"block_count", 1u << 20, &config->n_layers},
      {"embedding_length", MAX_EXTENT, &config->n_embd},
      {"feed_forward_length", MAX_EXTENT, &config->n_ff},
      {"context_length", MAX_CONTEXT, &config->n_context},
      {"attention.head_count", MAX_HEADS, &config->n_heads},
  };
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    const cs_status status = read_count(r, counts[i].suffix, counts[i].most, counts[i].value);
    if (status != CS_OK) return status;
  }
  config->n_kv_heads = config->n_heads;
  const cs_status status = read_count(r, "attention.head_count_kv", MAX_HEADS, &config->n_kv_heads);
  if (status != CS_OK) return status;
  if (config->n_heads % config->n_kv_heads != 0)
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT,
                        "key \"%s\": %u KV heads do not divide %u heads", r->key,
                        config->n_kv_heads, config->n_heads);
  return CS_OK;
}

static cs_status read_widths(reader *r, cs_model_config *config) {
  const bool divides = config->n_embd % config->n_heads == 0;
  const uint32_t usual = divides ? config->n_embd / config->n_heads : 0;
  config->k_width = usual;
  config->v_width = usual;
  cs_status status = read_count(r, "attention.key_length", MAX_HEADS, &config->k_width);
  if (status != CS_OK) return status;
  status = read_count(r, "attention.value_length", MAX_HEADS, &config->v_width);
  if (status != CS_OK) return status;
  config->n_rot = config->k_width;
  status = read_count(r, "rope.dimension_count", MAX_HEADS, &config->n_rot);
  if (status != CS_OK) return status;
  if (config->n_rot % 2 != 0 || config->n_rot > config->k_width)
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT,
                        "key \"%s\": %u is odd or more than a head's width of %u", r->key,
                        config->n_rot, config->k_width);
  return CS_OK;
}

static cs_status refuse_experts(reader *r) {
  uint64_t n_experts = 0;
  const char *key = full_key(r, "expert_count");
  if (cs_gguf_get_u64(r->gguf, key, &n_experts) && n_experts > 0)
    return cs_gguf_fail(r->gguf, r->error, CS_UNSUPPORTED,
                        "key \"%s\": mixtures of experts are not supported", key);
  return CS_OK;
}

cs_status cs_architecture_read_config(const cs_architecture *architecture, const cs_gguf *gguf,
                                      cs_model_config *config, cs_error *error) {
  reader r = {.architecture = architecture, .gguf = gguf, .error = error};
  memset(config, 0, sizeof *config);
  snprintf(config->architecture, sizeof config->architecture, "%s", architecture->name);
  cs_gguf_string name;
  if (cs_gguf_get_string(gguf, "general.name", &name))
    cs_gguf_copy_string(config->name, sizeof config->name, name);
  cs_status status = refuse_experts(&r);
  if (status != CS_OK) return status;
  status = read_sizes(&r, config);
  if (status != CS_OK) return status;
  status = read_widths(&r, config);
  if (status != CS_OK) return status;
  double epsilon = 0;
  status = read_positive(&r, "attention.layer_norm_rms_epsilon", &epsilon);
  if (status != CS_OK) return status;
  double base = 10000;
  status = read_positive(&r, "rope.freq_base", &base);
  if (status != CS_OK) return status;
  config->norm_epsilon = (float)epsilon;
  config->rope_base = (float)base;
  config->rope_mode = architecture->rope_mode;
  config->rope_magnitude = 1.0f;
  return CS_OK;
}

cs_status cs_architecture_read_rope_divisor(const cs_architecture *architecture,
                                            const cs_gguf *gguf, double *divisor, cs_error *error) {
  reader r = {.architecture = architecture, .gguf = gguf, .error = error};
  *divisor = 1;
  cs_gguf_string type;
  const char *key = full_key(&r, "rope.scaling.type");
  if (!cs_gguf_get_string(gguf, key, &type) ||
      (type.bytes == 4 && memcmp(type.data, "none", 4) == 0))
    return CS_OK;
  if (type.bytes != 6 || memcmp(type.data, "linear", 6) != 0)
    return cs_gguf_fail(gguf, error, CS_UNSUPPORTED,
                        "key \"%s\": scaling \"%.*s\" is not supported (none and linear are)", key,
                        type.bytes > 32 ? 32 : (int)type.bytes, type.data);
  return read_positive(&r, "rope.scaling.factor", divisor);
}
