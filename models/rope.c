/* All scalings come down to one table of frequencies and one magnitude, so that devices need one
 * rope op and no knowledge of any of them. */
#include "models/rope.h"

#include <math.h>
#include <string.h>

#define TWO_PI 6.283185307179586477

static bool is(cs_gguf_string string, const char *text) {
  return string.bytes == strlen(text) && memcmp(string.data, text, string.bytes) == 0;
}

/* A file that gives a factor and no type means linear scaling. */
static cs_status read_kind(cs_config_reader *r, cs_rope_scaling_kind *kind) {
  static const char *const names[] = {[CS_ROPE_SCALING_NONE] = "none",
                                      [CS_ROPE_SCALING_LINEAR] = "linear",
                                      [CS_ROPE_SCALING_LLAMA3] = "llama3",
                                      [CS_ROPE_SCALING_YARN] = "yarn"};
  cs_gguf_string type;
  if (!cs_gguf_get_string(r->gguf, cs_config_key(r, "rope.scaling.type"), &type)) {
    const bool has_factor = cs_gguf_has(r->gguf, cs_config_key(r, "rope.scaling.factor"));
    *kind = has_factor ? CS_ROPE_SCALING_LINEAR : CS_ROPE_SCALING_NONE;
    return CS_OK;
  }
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (!is(type, names[i])) continue;
    *kind = (cs_rope_scaling_kind)i;
    return CS_OK;
  }
  return cs_gguf_fail(r->gguf, r->error, CS_UNSUPPORTED,
                      "key \"%s\": scaling \"%.*s\" is not supported (none, linear, llama3 and "
                      "yarn are)",
                      r->key, type.bytes > 32 ? 32 : (int)type.bytes, type.data);
}

static cs_status check(cs_config_reader *r, const cs_rope_scaling *s) {
  const bool llama3 = s->kind == CS_ROPE_SCALING_LLAMA3;
  if (llama3 && s->high_freq_factor <= s->low_freq_factor)
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT,
                        "key \"%s\": not above the low frequencies' factor",
                        cs_config_key(r, "rope.scaling.high_freq_factor"));
  return CS_OK;
}

cs_status cs_rope_read_scaling(cs_config_reader *r, uint32_t n_context, cs_rope_scaling *scaling) {
  memset(scaling, 0, sizeof *scaling);
  cs_status status = read_kind(r, &scaling->kind);
  if (status != CS_OK || scaling->kind == CS_ROPE_SCALING_NONE) return status;
  const bool llama3 = scaling->kind == CS_ROPE_SCALING_LLAMA3;
  const bool yarn = scaling->kind == CS_ROPE_SCALING_YARN;
  uint32_t original = n_context;
  scaling->attention_factor = 1;
  scaling->beta_fast = 32;
  scaling->beta_slow = 1;
  scaling->low_freq_factor = 1;
  scaling->high_freq_factor = 4;
  const struct {
    const char *suffix;
    bool wanted;
    double *value;
  } numbers[] = {
      {"rope.scaling.factor", true, &scaling->factor},
      {"rope.scaling.attn_factor", yarn, &scaling->attention_factor},
      {"rope.scaling.yarn_beta_fast", yarn, &scaling->beta_fast},
      {"rope.scaling.yarn_beta_slow", yarn, &scaling->beta_slow},
      {"rope.scaling.low_freq_factor", llama3, &scaling->low_freq_factor},
      {"rope.scaling.high_freq_factor", llama3, &scaling->high_freq_factor},
  };
  for (size_t i = 0; status == CS_OK && i < sizeof numbers / sizeof numbers[0]; i++)
    if (numbers[i].wanted) status = cs_config_read_positive(r, numbers[i].suffix, numbers[i].value);
  if (status == CS_OK)
    status = cs_config_read_count(r, "rope.scaling.original_context_length", INT32_MAX, &original);
  scaling->original_context = original;
  return status == CS_OK ? check(r, scaling) : status;
}

/* 0 keeps the frequency of pair i, 1 divides it by the factor. */
static double llama3_share(const cs_rope_scaling *s, double frequency) {
  const double turns = s->original_context * frequency / TWO_PI;
  const double kept = (turns - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
  return 1 - fmin(fmax(kept, 0), 1);
}

/* The pair that turns `rotations` times over the original context, as a real number. */
static double yarn_pair(const cs_rope_scaling *s, double rotations, double base, uint32_t n_rot) {
  return n_rot * log(s->original_context / (rotations * TWO_PI)) / (2 * log(base));
}

static double yarn_share(const cs_rope_scaling *s, double base, uint32_t n_rot, uint32_t i) {
  const double low = fmax(floor(yarn_pair(s, s->beta_fast, base, n_rot)), 0);
  const double high = fmin(ceil(yarn_pair(s, s->beta_slow, base, n_rot)), n_rot - 1.0);
  return fmin(fmax((i - low) / fmax(high - low, 0.001), 0), 1);
}

void cs_rope_inv_freq(const cs_rope_scaling *scaling, double base, uint32_t n_rot,
                      const float *factors, float *table) {
  for (uint32_t i = 0; i < n_rot / 2; i++) {
    const double frequency = pow(base, -2.0 * i / n_rot);
    double divided = 0; /* the share that is divided by the factor */
    if (scaling->kind == CS_ROPE_SCALING_LINEAR) divided = 1;
    if (scaling->kind == CS_ROPE_SCALING_LLAMA3) divided = llama3_share(scaling, frequency);
    if (scaling->kind == CS_ROPE_SCALING_YARN) divided = yarn_share(scaling, base, n_rot, i);
    const double rate = divided > 0 ? 1 - divided + divided / scaling->factor : 1;
    table[i] = (float)(frequency * rate / (factors ? (double)factors[i] : 1.0));
  }
}

double cs_rope_magnitude(const cs_rope_scaling *scaling) {
  if (scaling->kind != CS_ROPE_SCALING_YARN) return 1;
  const double stretch = scaling->factor > 1 ? 1 + 0.1 * log(scaling->factor) : 1;
  return scaling->attention_factor * stretch;
}
