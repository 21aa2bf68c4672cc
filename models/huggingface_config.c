/* config.json names the same things by other words. Members that change the computation in a way
 * that is not served are refused by name: a model that loads and computes something else is worse
 * than one that does not load. Names and defaults follow the configuration classes of the
 * transformers library. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "models/huggingface_internal.h"

typedef struct family {
  const char *model_type;
  const char *architecture;
  const char *n_experts; /* the member that counts them, NULL for dense models */
} family;

static const family families[] = {
    {"llama", "llama", NULL}, {"mistral", "llama", NULL}, {"mixtral", "llama", "num_local_experts"},
    {"qwen2", "qwen2", NULL}, {"qwen3", "qwen3", NULL},   {"qwen3_moe", "qwen3moe", "num_experts"},
};

typedef struct translator {
  const char *label;
  const json_t *config;
  const family *family;
  cs_gguf_writer *writer;
  cs_error *error;
} translator;

static const family *find_family(const char *model_type) {
  for (size_t i = 0; model_type && i < sizeof families / sizeof families[0]; i++)
    if (strcmp(families[i].model_type, model_type) == 0) return &families[i];
  return NULL;
}

const char *cs_huggingface_architecture(const char *model_type) {
  const family *found = find_family(model_type);
  return found ? found->architecture : NULL;
}

/* ---- members ---- */

static cs_status fail(const translator *t, cs_status code, const char *member, const char *reason) {
  return cs_error_set(t->error, code, "%s: \"%s\" %s", t->label, member, reason);
}

/* The member, or NULL when it is absent or null. */
static const json_t *get(const json_t *object, const char *member) {
  const json_t *value = json_object_get(object, member);
  return json_is_null(value) ? NULL : value;
}

/* A whole number from 0 to UINT32_MAX; absent ones leave *value. */
static cs_status get_count(const translator *t, const json_t *object, const char *member,
                           uint32_t *value) {
  const json_t *found = get(object, member);
  if (!found) return CS_OK;
  const json_int_t n = json_integer_value(found);
  if (!json_is_integer(found) || n < 0 || n > (json_int_t)UINT32_MAX)
    return fail(t, CS_CORRUPT, member, "is no whole number, or out of range");
  *value = (uint32_t)n;
  return CS_OK;
}

static cs_status get_number(const translator *t, const json_t *object, const char *member,
                            double *value) {
  const json_t *found = get(object, member);
  if (!found) return CS_OK;
  if (!json_is_number(found)) return fail(t, CS_CORRUPT, member, "is no number");
  *value = json_number_value(found);
  return CS_OK;
}

static const char *key(const translator *t, const char *suffix, char text[96]) {
  snprintf(text, 96, "%s.%s", t->family->architecture, suffix);
  return text;
}

static void write_u32(const translator *t, const char *suffix, uint32_t value) {
  char text[96];
  cs_gguf_write_u32(t->writer, key(t, suffix, text), value);
}

static void write_f32(const translator *t, const char *suffix, double value) {
  char text[96];
  cs_gguf_write_f32(t->writer, key(t, suffix, text), (float)value);
}

/* ---- groups ---- */

static cs_status write_sizes(const translator *t, cs_huggingface_shape *shape) {
  static const struct {
    const char *member;
    const char *suffix;
    bool required;
  } counts[] = {{"num_hidden_layers", "block_count", true},
                {"hidden_size", "embedding_length", true},
                {"intermediate_size", "feed_forward_length", true},
                {"max_position_embeddings", "context_length", true},
                {"num_attention_heads", "attention.head_count", true},
                {"num_key_value_heads", "attention.head_count_kv", false},
                {"head_dim", "attention.key_length", false},
                {"head_dim", "attention.value_length", false},
                {"vocab_size", "vocab_size", false}};
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    uint32_t value = 0;
    const cs_status status = get_count(t, t->config, counts[i].member, &value);
    if (status != CS_OK) return status;
    if (i == 0) shape->n_layers = value;
    if (get(t->config, counts[i].member))
      write_u32(t, counts[i].suffix, value);
    else if (counts[i].required)
      return fail(t, CS_CORRUPT, counts[i].member, "is missing");
  }
  double epsilon = 0;
  const cs_status status = get_number(t, t->config, "rms_norm_eps", &epsilon);
  if (status != CS_OK) return status;
  if (epsilon == 0) return fail(t, CS_CORRUPT, "rms_norm_eps", "is missing");
  write_f32(t, "attention.layer_norm_rms_epsilon", epsilon);
  shape->tied = json_is_true(get(t->config, "tie_word_embeddings"));
  return CS_OK;
}

static cs_status write_experts(const translator *t, cs_huggingface_shape *shape) {
  const char *const member = t->family->n_experts;
  if (!member) return CS_OK;
  uint32_t n = 0, used = 0, inner = 0, step = 1;
  cs_status status = get_count(t, t->config, member, &n);
  if (status == CS_OK) status = get_count(t, t->config, "num_experts_per_tok", &used);
  if (status == CS_OK) status = get_count(t, t->config, "moe_intermediate_size", &inner);
  if (status == CS_OK) status = get_count(t, t->config, "decoder_sparse_step", &step);
  if (status != CS_OK) return status;
  if (n == 0) return fail(t, CS_CORRUPT, member, "is missing");
  if (used == 0) return fail(t, CS_CORRUPT, "num_experts_per_tok", "is missing");
  if (step != 1)
    return fail(t, CS_UNSUPPORTED, "decoder_sparse_step", "other than 1 is not served");
  if (json_array_size(get(t->config, "mlp_only_layers")) > 0)
    return fail(t, CS_UNSUPPORTED, "mlp_only_layers", "is not served: all layers have experts");
  write_u32(t, "expert_count", n);
  write_u32(t, "expert_used_count", used);
  if (inner) write_u32(t, "expert_feed_forward_length", inner);
  char text[96];
  if (strcmp(t->family->model_type, "mixtral") != 0) /* whose weights always sum to 1 */
    cs_gguf_write_bool(t->writer, key(t, "expert_weights_norm", text),
                       json_is_true(get(t->config, "norm_topk_prob")));
  shape->n_experts = n;
  return CS_OK;
}

/* The layers from *first on have the window; CS_UNSUPPORTED for any other order of the two. */
static cs_status read_layer_types(const translator *t, uint32_t *window, uint32_t *first) {
  const json_t *types = get(t->config, "layer_types");
  if (!types || *window == 0) return CS_OK;
  const size_t n = json_array_size(types);
  size_t n_full = 0, n_sliding = 0;
  for (size_t i = 0; i < n; i++) {
    const char *type = json_string_value(json_array_get(types, i));
    const bool sliding = type && strcmp(type, "sliding_attention") == 0;
    if (!sliding && (!type || strcmp(type, "full_attention") != 0 || n_sliding > 0))
      return fail(t, CS_UNSUPPORTED, "layer_types",
                  "in any order but full attention, then sliding, is not served");
    if (sliding) n_sliding++;
    if (!sliding) n_full++;
  }
  *first = (uint32_t)n_full;
  if (n_sliding == 0) *window = 0;
  return CS_OK;
}

static cs_status write_window(const translator *t) {
  const char *const type = t->family->model_type;
  const bool qwen = strncmp(type, "qwen", 4) == 0;
  uint32_t window = 0, first = 0;
  cs_status status = get_count(t, t->config, "sliding_window", &window);
  if (status != CS_OK) return status;
  if (strcmp(type, "llama") == 0) window = 0;
  if (qwen && !json_is_true(get(t->config, "use_sliding_window"))) window = 0;
  if (qwen && strcmp(type, "qwen3_moe") != 0)
    status = get_count(t, t->config, "max_window_layers", &first);
  if (status == CS_OK) status = read_layer_types(t, &window, &first);
  if (status != CS_OK || window == 0) return status;
  write_u32(t, "attention.sliding_window", window);
  if (first) write_u32(t, "attention.sliding_window_first_layer", first);
  return CS_OK;
}

/* The attention factor is stored as what multiplies the usual 1 + 0.1 ln(factor). */
static cs_status write_yarn(const translator *t, const json_t *scaling, double factor) {
  double attention = 0, fast = 0, slow = 0;
  cs_status status = get_number(t, scaling, "attention_factor", &attention);
  if (status == CS_OK) status = get_number(t, scaling, "beta_fast", &fast);
  if (status == CS_OK) status = get_number(t, scaling, "beta_slow", &slow);
  if (status != CS_OK) return status;
  if (get(scaling, "mscale") || get(scaling, "mscale_all_dim") ||
      json_is_false(get(scaling, "truncate")))
    return fail(t, CS_UNSUPPORTED, "rope_scaling", "with mscale or truncate is not served");
  if (attention > 0)
    write_f32(t, "rope.scaling.attn_factor", attention / (factor > 1 ? 1 + 0.1 * log(factor) : 1));
  if (fast > 0) write_f32(t, "rope.scaling.yarn_beta_fast", fast);
  if (slow > 0) write_f32(t, "rope.scaling.yarn_beta_slow", slow);
  return CS_OK;
}

static cs_status write_scaling(const translator *t, const json_t *scaling) {
  const json_t *named = get(scaling, "rope_type");
  const char *type = json_string_value(named ? named : get(scaling, "type"));
  if (!type) return fail(t, CS_CORRUPT, "rope_scaling", "names no \"rope_type\"");
  if (strcmp(type, "default") == 0) return CS_OK;
  double factor = 0, low = 0, high = 0;
  uint32_t original = 0;
  cs_status status = get_number(t, scaling, "factor", &factor);
  if (status == CS_OK) status = get_number(t, scaling, "low_freq_factor", &low);
  if (status == CS_OK) status = get_number(t, scaling, "high_freq_factor", &high);
  if (status == CS_OK)
    status = get_count(t, t->config, "original_max_position_embeddings", &original);
  if (status == CS_OK)
    status = get_count(t, scaling, "original_max_position_embeddings", &original);
  if (status != CS_OK) return status;
  char text[96];
  cs_gguf_write_string(t->writer, key(t, "rope.scaling.type", text), type);
  write_f32(t, "rope.scaling.factor", factor);
  if (low > 0) write_f32(t, "rope.scaling.low_freq_factor", low);
  if (high > 0) write_f32(t, "rope.scaling.high_freq_factor", high);
  if (original) write_u32(t, "rope.scaling.original_context_length", original);
  return strcmp(type, "yarn") == 0 ? write_yarn(t, scaling, factor) : CS_OK;
}

/* Newer files keep all of RoPE's members in "rope_parameters". */
static cs_status write_rope(const translator *t) {
  const json_t *parameters = get(t->config, "rope_parameters");
  const json_t *scaling = parameters ? parameters : get(t->config, "rope_scaling");
  double base = 10000, share = 1;
  cs_status status = get_number(t, t->config, "rope_theta", &base);
  if (status == CS_OK) status = get_number(t, parameters, "rope_theta", &base);
  if (status == CS_OK) status = get_number(t, t->config, "partial_rotary_factor", &share);
  if (status == CS_OK) status = get_number(t, parameters, "partial_rotary_factor", &share);
  if (status != CS_OK) return status;
  if (share != 1)
    return fail(t, CS_UNSUPPORTED, "partial_rotary_factor", "other than 1 is not served");
  write_f32(t, "rope.freq_base", base);
  return scaling ? write_scaling(t, scaling) : CS_OK;
}

static cs_status refuse_others(const translator *t) {
  if (get(t->config, "quantization_config"))
    return fail(t, CS_UNSUPPORTED, "quantization_config",
                "is not served: weights must be F32, F16 or BF16");
  const char *activation = json_string_value(get(t->config, "hidden_act"));
  if (activation && strcmp(activation, "silu") != 0)
    return fail(t, CS_UNSUPPORTED, "hidden_act", "other than silu is not served");
  return CS_OK;
}

cs_status cs_huggingface_write_config(const char *label, const json_t *config,
                                      cs_gguf_writer *writer, cs_huggingface_shape *shape,
                                      cs_error *error) {
  const char *model_type = json_string_value(json_object_get(config, "model_type"));
  *shape = (cs_huggingface_shape){0};
  translator t = {.label = label, .config = config, .writer = writer, .error = error};
  t.family = find_family(model_type);
  if (!t.family && !model_type) return fail(&t, CS_CORRUPT, "model_type", "is missing");
  if (!t.family)
    return cs_error_set(error, CS_UNSUPPORTED,
                        "%s: \"model_type\" \"%.40s\" is not supported; supported: llama, mistral, "
                        "mixtral, qwen2, qwen3, qwen3_moe",
                        label, model_type);
  cs_gguf_write_string(writer, "general.architecture", t.family->architecture);
  cs_status status = refuse_others(&t);
  if (status == CS_OK) status = write_sizes(&t, shape);
  if (status == CS_OK) status = write_experts(&t, shape);
  if (status == CS_OK) status = write_window(&t);
  return status == CS_OK ? write_rope(&t) : status;
}
