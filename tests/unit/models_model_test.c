/* Opening models: what a llama file must hold, and what is said when it does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "consort/half.h"
#include "core/dtype.h"
#include "gguf_builder.h"
#include "models/model.h"
#include "models/tokenizer.h"

static cs_status open_built(gguf_builder *g, cs_model **out, cs_error *error) {
  char path[64];
  write_gguf(g, path);
  const cs_status status = cs_model_open(path, out, error);
  if (status != CS_OK) {
    assert_null(*out);
    assert_int_equal(strncmp(error->message, path, strlen(path)), 0);
  }
  unlink(path);
  return status;
}

static cs_model *open_tiny(const tiny_options *options) {
  gguf_builder g = {0};
  add_tiny(&g, options);
  cs_error error = CS_ERROR_INIT;
  cs_model *model;
  if (open_built(&g, &model, &error) != CS_OK) fail_msg("%s", error.message);
  return model;
}

static void assert_refused(gguf_builder *g, cs_status status, const char *reason) {
  cs_error error = CS_ERROR_INIT;
  cs_model *model;
  assert_int_equal(open_built(g, &model, &error), status);
  if (!strstr(error.message, reason)) fail_msg("\"%s\" lacks \"%s\"", error.message, reason);
}

static void assert_tiny_refused(const tiny_options *options, cs_status status, const char *reason) {
  gguf_builder g = {0};
  add_tiny(&g, options);
  assert_refused(&g, status, reason);
}

static const cs_model_weight *find_weight(const cs_model *model, const char *name) {
  for (size_t i = 0; i < cs_model_n_weights(model); i++)
    if (strcmp(cs_model_weight_at(model, i)->name, name) == 0) return cs_model_weight_at(model, i);
  return NULL;
}

static void the_configuration_is_read(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){0});
  const cs_model_config *config = cs_model_get_config(model);
  assert_string_equal(config->architecture, "llama");
  assert_string_equal(config->name, "tiny");
  assert_int_equal(config->n_layers, TINY_LAYERS);
  assert_int_equal(config->n_embd, TINY_EMBD);
  assert_int_equal(config->n_heads, TINY_HEADS);
  assert_int_equal(config->n_kv_heads, TINY_KV_HEADS);
  assert_int_equal(config->k_width, TINY_HEAD);
  assert_int_equal(config->v_width, TINY_HEAD);
  assert_int_equal(config->n_rot, TINY_HEAD);
  assert_int_equal(config->n_ff, TINY_FF);
  assert_int_equal(config->n_vocab, VOCAB_SIZE);
  assert_int_equal(config->n_context, 128);
  assert_int_equal(config->rope_mode, CS_ROPE_INTERLEAVED);
  assert_true(config->rope_base == 10000.0f && config->norm_epsilon == 1e-5f);
  assert_false(config->tied_embeddings);
  assert_string_equal(cs_model_format(model), "f32");
  const uint64_t per_layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64;
  assert_int_equal(cs_model_matmul_parameters(model), 2 * per_layer + VOCAB_SIZE * 32);
  assert_int_equal(cs_model_kv_bytes_per_token(model, CS_DTYPE_F16), 2 * 2 * 2 * 8 * 2);
  assert_int_equal(cs_tokenizer_n_vocab(cs_model_tokenizer(model)), VOCAB_SIZE);
  assert_int_equal(cs_model_n_weights(model), 3 + 9 * TINY_LAYERS + 1);
  cs_model_retain(model);
  cs_model_release(model);
  assert_non_null(cs_model_gguf(model));
  cs_model_release(model);
}

static void a_missing_tensor_is_named(void **state) {
  (void)state;
  static const char *const names[] = {
      "token_embd.weight",     "output_norm.weight",       "blk.0.attn_norm.weight",
      "blk.1.attn_q.weight",   "blk.0.attn_k.weight",      "blk.1.attn_v.weight",
      "blk.1.ffn_norm.weight", "blk.0.attn_output.weight", "blk.1.ffn_gate.weight",
      "blk.0.ffn_up.weight",   "blk.1.ffn_down.weight"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char reason[64];
    snprintf(reason, sizeof reason, "\"%s\" is missing", names[i]);
    assert_tiny_refused(&(tiny_options){.skip = names[i]}, CS_CORRUPT, reason);
  }
}

static void a_wrong_shape_is_named(void **state) {
  (void)state;
  static const char *const names[] = {"output.weight", "output_norm.weight", "blk.0.attn_q.weight",
                                      "blk.1.ffn_down.weight", "blk.1.ffn_norm.weight"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    assert_tiny_refused(&(tiny_options){.misshape = names[i]}, CS_CORRUPT, names[i]);
  assert_tiny_refused(&(tiny_options){.misshape = "blk.0.attn_k.weight"}, CS_CORRUPT,
                      "has shape (17, 32) where the metadata implies (16, 32)");
}

static void a_missing_key_is_named(void **state) {
  (void)state;
  static const char *const keys[] = {
      "llama.block_count",          "llama.embedding_length",
      "llama.feed_forward_length",  "llama.context_length",
      "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"};
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
    assert_tiny_refused(&(tiny_options){.skip_key = keys[i]}, CS_CORRUPT, keys[i]);
}

/* A tiny model with one key more, or another value in place of its own. */
static void assert_u32_refused(const char *key, uint32_t value, cs_status status,
                               const char *reason) {
  gguf_builder g = {0};
  add_tiny(&g, &(tiny_options){.skip_key = key});
  add_u32(&g, key, value);
  assert_refused(&g, status, reason);
}

static void contradicting_metadata_is_refused(void **state) {
  (void)state;
  assert_u32_refused("llama.block_count", 0, CS_CORRUPT, "out of range");
  assert_u32_refused("llama.block_count", 1000, CS_CORRUPT, "1000 layers, but only");
  assert_u32_refused("llama.attention.head_count_kv", 3, CS_CORRUPT, "3 KV heads do not divide 4");
  assert_u32_refused("llama.attention.head_count", 5, CS_CORRUPT, "do not divide 5");
  assert_u32_refused("llama.rope.dimension_count", 7, CS_CORRUPT, "odd");
  assert_u32_refused("llama.rope.dimension_count", 10, CS_CORRUPT, "more than");
  assert_u32_refused("llama.attention.key_length", 16, CS_CORRUPT, "attn_q.weight");
  assert_u32_refused("llama.attention.value_length", 16, CS_CORRUPT, "attn_v.weight");
  assert_u32_refused("llama.embedding_length", UINT32_MAX, CS_CORRUPT, "out of range");
  assert_u32_refused("llama.rope.freq_base", 10000, CS_CORRUPT, "not a floating-point number");
  assert_u32_refused("llama.expert_count", 8, CS_CORRUPT, "expert_used_count\" is missing");
  assert_u32_refused("llama.expert_count", UINT32_MAX, CS_CORRUPT, "out of range");
  assert_u32_refused("llama.attention.sliding_window", UINT32_MAX, CS_CORRUPT, "out of range");
}

static void what_is_not_served_is_named(void **state) {
  (void)state;
  assert_tiny_refused(&(tiny_options){.architecture = "foo"}, CS_UNSUPPORTED,
                      "architecture \"foo\" is not supported; supported: llama");
  assert_tiny_refused(&(tiny_options){.retype = "blk.1.attn_v.weight", .retype_to = 16},
                      CS_UNSUPPORTED, "\"blk.1.attn_v.weight\" has GGUF type iq2_xxs (16)");
  assert_tiny_refused(&(tiny_options){.retype = "blk.0.ffn_up.weight", .retype_to = 26},
                      CS_UNSUPPORTED, "i32 (26)");
  assert_tiny_refused(&(tiny_options){.retype = "output_norm.weight", .retype_to = Q8_0_TYPE},
                      CS_UNSUPPORTED, "\"output_norm.weight\" has GGUF type q8_0");
  gguf_builder g = {0};
  add_tiny(&g, &(tiny_options){0});
  add_text(&g, "llama.rope.scaling.type", "longrope");
  assert_refused(&g, CS_UNSUPPORTED, "\"longrope\" is not supported");
  add_tiny(&g, &(tiny_options){0});
  add_text(&g, "llama.rope.scaling.type", "yarn");
  assert_refused(&g, CS_CORRUPT, "llama.rope.scaling.factor\" is missing");
  add_tiny(&g, &(tiny_options){0});
  add_text(&g, "llama.rope.scaling.type", "llama3");
  add_f32(&g, "llama.rope.scaling.factor", 8.0f);
  add_f32(&g, "llama.rope.scaling.high_freq_factor", 1.0f);
  assert_refused(&g, CS_CORRUPT, "high_freq_factor\": not above");
  add_tiny(&g, &(tiny_options){0});
  add_u32(&g, "llama.expert_count", 4);
  add_u32(&g, "llama.expert_used_count", 2);
  assert_refused(&g, CS_CORRUPT, "\"blk.0.ffn_gate_inp.weight\" is missing");
}

static void an_unknown_type_that_nobody_needs_does_no_harm(void **state) {
  (void)state;
  gguf_builder g = {0};
  add_tiny(&g, &(tiny_options){0});
  describe_tensor(&g, "extra.weight", 9999, 1, (uint64_t[]){5}, 0);
  cs_error error = CS_ERROR_INIT;
  cs_model *model;
  assert_int_equal(open_built(&g, &model, &error), CS_OK);
  cs_model_release(model);
}

static void half_precision_vectors_become_float32(void **state) {
  (void)state;
  static const uint32_t types[] = {F32_TYPE, F16_TYPE, BF16_TYPE};
  for (size_t i = 0; i < 3; i++) {
    cs_model *model = open_tiny(&(tiny_options){.vector_type = types[i], .biases = 1});
    static const char *const names[] = {"output_norm.weight", "blk.1.ffn_norm.weight",
                                        "blk.0.attn_k.bias"};
    for (size_t k = 0; k < 3; k++) {
      const cs_model_weight *weight = find_weight(model, names[k]);
      assert_non_null(weight);
      assert_int_equal(weight->dtype, CS_DTYPE_F32);
      assert_int_equal(weight->usage, 0);
      assert_int_equal(weight->bytes, 4 * weight->dims[0]);
      for (uint64_t d = 0; d < weight->dims[0]; d++)
        assert_true(((const float *)weight->data)[d] == 1.5f);
    }
    cs_model_release(model);
  }
}

static void tied_embeddings_serve_both_ends(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){.tied = 1});
  assert_true(cs_model_get_config(model)->tied_embeddings);
  assert_null(find_weight(model, "output.weight"));
  assert_int_equal(find_weight(model, "token_embd.weight")->usage,
                   CS_USAGE_MATMUL | CS_USAGE_GATHER);
  cs_model_release(model);
  model = open_tiny(&(tiny_options){0});
  assert_int_equal(find_weight(model, "token_embd.weight")->usage, CS_USAGE_GATHER);
  assert_int_equal(find_weight(model, "output.weight")->usage, CS_USAGE_MATMUL);
  cs_model_release(model);
}

static void assert_inv_freq(const cs_model *model, double divisor, const float *factors) {
  const cs_model_weight *table = find_weight(model, "rope_inv_freq");
  assert_int_equal(table->dims[0], TINY_HEAD / 2);
  for (int i = 0; i < TINY_HEAD / 2; i++) {
    const double expected =
        pow(10000.0, -2.0 * i / TINY_HEAD) / divisor / (factors ? (double)factors[i] : 1.0);
    assert_true(((const float *)table->data)[i] == (float)expected);
  }
}

static void rope_frequencies_follow_the_file(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_model *model = open_tiny(&(tiny_options){0});
  assert_inv_freq(model, 1, NULL);
  cs_model_release(model);
  gguf_builder linear = {0};
  add_tiny(&linear, &(tiny_options){0});
  add_text(&linear, "llama.rope.scaling.type", "linear");
  add_f32(&linear, "llama.rope.scaling.factor", 4);
  assert_int_equal(open_built(&linear, &model, &error), CS_OK);
  assert_inv_freq(model, 4, NULL);
  cs_model_release(model);
  gguf_builder scaled = {0};
  const float factors[] = {1, 2, 8, 8};
  add_tiny(&scaled, &(tiny_options){0});
  add_tensor(&scaled, "rope_freqs.weight", F32_TYPE, 1, (uint64_t[]){4}, factors, sizeof factors);
  assert_int_equal(open_built(&scaled, &model, &error), CS_OK);
  assert_inv_freq(model, 1, factors);
  cs_model_release(model);
  gguf_builder zero = {0};
  add_tiny(&zero, &(tiny_options){0});
  add_tensor(&zero, "rope_freqs.weight", F32_TYPE, 1, (uint64_t[]){4}, (float[4]){1}, 16);
  assert_refused(&zero, CS_CORRUPT, "rope_freqs.weight");
}

static uint64_t fingerprint_of(const tiny_options *options) {
  cs_model *model = open_tiny(options);
  const uint64_t fingerprint = cs_model_fingerprint(model);
  cs_model_release(model);
  return fingerprint;
}

static void fingerprints_tell_models_apart_not_files(void **state) {
  (void)state;
  const uint64_t plain = fingerprint_of(&(tiny_options){0});
  assert_true(plain == fingerprint_of(&(tiny_options){0}));
  assert_true(plain == fingerprint_of(&(tiny_options){.name = "another name"}));
  assert_true(plain != fingerprint_of(&(tiny_options){.tied = 1}));
  assert_true(plain != fingerprint_of(&(tiny_options){.biases = 1}));
  assert_true(plain != fingerprint_of(&(tiny_options){.first_weight = 1}));
}

static void a_vocabulary_alone_opens_as_such(void **state) {
  (void)state;
  gguf_builder g = {0};
  char path[64];
  cs_error error = CS_ERROR_INIT;
  cs_model *model;
  add_text(&g, "general.architecture", "foo");
  add_vocabulary(&g);
  write_gguf(&g, path);
  assert_int_equal(cs_model_open_vocabulary(path, &model, &error), CS_OK);
  assert_string_equal(cs_model_get_config(model)->architecture, "foo");
  assert_int_equal(cs_model_get_config(model)->n_vocab, VOCAB_SIZE);
  assert_int_equal(cs_model_n_weights(model), 0);
  assert_non_null(cs_model_tokenizer(model));
  cs_model_release(model);
  assert_int_equal(cs_model_open(path, &model, &error), CS_UNSUPPORTED);
  unlink(path);
}

static void a_tokenizer_of_another_kind_leaves_a_model(void **state) {
  (void)state;
  gguf_builder g = {0};
  cs_error error = CS_ERROR_INIT;
  cs_model *model;
  const cs_tokenizer *tokenizer;
  add_tiny_config(&g, &(tiny_options){0});
  add_text(&g, "tokenizer.ggml.model", "bert");
  add_matrix(&g, &(tiny_options){0}, "token_embd.weight", 300, TINY_EMBD);
  add_vector(&g, &(tiny_options){0}, "output_norm.weight", TINY_EMBD);
  for (int layer = 0; layer < TINY_LAYERS; layer++)
    add_tiny_layer(&g, &(tiny_options){0}, layer);
  assert_int_equal(open_built(&g, &model, &error), CS_OK);
  assert_null(cs_model_tokenizer(model));
  assert_int_equal(cs_model_need_tokenizer(model, &tokenizer, &error), CS_UNSUPPORTED);
  assert_non_null(strstr(error.message, "tokenizer \"bert\" is not supported"));
  cs_model_release(model);
}

static void more_tokens_than_embeddings_are_refused(void **state) {
  (void)state;
  gguf_builder g = {0};
  add_tiny_config(&g, &(tiny_options){0});
  add_vocabulary(&g);
  add_matrix(&g, &(tiny_options){0}, "token_embd.weight", VOCAB_SIZE - 1, TINY_EMBD);
  add_vector(&g, &(tiny_options){0}, "output_norm.weight", TINY_EMBD);
  for (int layer = 0; layer < TINY_LAYERS; layer++)
    add_tiny_layer(&g, &(tiny_options){0}, layer);
  assert_refused(&g, CS_CORRUPT, "the tokenizer has 272 tokens");
}

static void shapes_have_the_sizes_they_are_named_for(void **state) {
  (void)state;
  const struct {
    const char *name;
    uint64_t parameters;
  } shapes[] = {{"llama-tiny", 1835008},
                {"llama-160m", 137822208},
                {"llama-1b", 1038614528},
                {"llama-8b", 7504658432}};
  cs_error error = CS_ERROR_INIT;
  cs_model *model;
  for (size_t i = 0; i < 4; i++) {
    assert_int_equal(cs_model_open_shape(shapes[i].name, CS_DTYPE_Q4_0, 1, &model, &error), CS_OK);
    assert_int_equal(cs_model_matmul_parameters(model), shapes[i].parameters);
    assert_string_equal(cs_model_format(model), "q4_0");
    assert_null(cs_model_tokenizer(model));
    const cs_tokenizer *tokenizer;
    assert_int_equal(cs_model_need_tokenizer(model, &tokenizer, &error), CS_NOT_FOUND);
    cs_model_release(model);
  }
  assert_int_equal(cs_model_open_shape("llama-9z", CS_DTYPE_F32, 1, &model, &error), CS_NOT_FOUND);
  assert_int_equal(cs_model_open_shape("llama-1b", CS_DTYPE_I32, 1, &model, &error),
                   CS_UNSUPPORTED);
}

static uint32_t dtype_of(const cs_model *model, const char *name) {
  for (size_t i = 0; i < cs_model_n_weights(model); i++)
    if (strcmp(cs_model_weight_at(model, i)->name, name) == 0)
      return cs_model_weight_at(model, i)->dtype;
  return CS_DTYPE_NONE;
}

/* As llama.cpp's Q4_K_M: layers 0 to 1, 14, 15 and every third between, of 16. */
static void a_mixed_shape_has_both_formats(void **state) {
  (void)state;
  cs_model *model;
  assert_int_equal(
      cs_model_open_mixed_shape("llama-1b", CS_DTYPE_Q4_K, CS_DTYPE_Q6_K, 1, &model, NULL), CS_OK);
  assert_int_equal(dtype_of(model, "output.weight"), CS_DTYPE_Q6_K);
  assert_int_equal(dtype_of(model, "token_embd.weight"), CS_DTYPE_Q4_K);
  assert_int_equal(dtype_of(model, "blk.0.attn_q.weight"), CS_DTYPE_Q4_K);
  const char *const upper[] = {"blk.0.attn_v.weight", "blk.1.ffn_down.weight",
                               "blk.4.attn_v.weight", "blk.15.ffn_down.weight"};
  for (size_t i = 0; i < 4; i++)
    assert_int_equal(dtype_of(model, upper[i]), CS_DTYPE_Q6_K);
  assert_int_equal(dtype_of(model, "blk.2.ffn_down.weight"), CS_DTYPE_Q4_K);
  assert_string_equal(cs_model_format(model), "q4_k");
  cs_model_release(model);
}

/* The value of element i in the formats whose blocks are simple. */
static float element(uint32_t dtype, const uint8_t *data, size_t i) {
  uint16_t half;
  float value;
  const uint8_t *block = data + i / 32 * (dtype == CS_DTYPE_Q8_0 ? 34 : 18);
  const size_t at = i % 32;
  switch (dtype) {
  case CS_DTYPE_F32:
    memcpy(&value, data + 4 * i, 4);
    return value;
  case CS_DTYPE_Q8_0:
    memcpy(&half, block, 2);
    return cs_f32_from_f16(half) * (float)(int8_t)block[2 + at];
  case CS_DTYPE_Q4_0:
    memcpy(&half, block, 2);
    return cs_f32_from_f16(half) * (float)((block[2 + at % 16] >> (at < 16 ? 0 : 4) & 15) - 8);
  default:
    memcpy(&half, data + 2 * i, 2);
    return dtype == CS_DTYPE_F16 ? cs_f32_from_f16(half) : cs_f32_from_bf16(half);
  }
}

static void random_weights_are_spread_as_trained_ones(void **state) {
  (void)state;
  static const uint32_t dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16, CS_DTYPE_Q8_0,
                                    CS_DTYPE_Q4_0};
  for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
    cs_model *model;
    assert_int_equal(cs_model_open_shape("llama-tiny", dtypes[d], 3, &model, NULL), CS_OK);
    const cs_model_weight *weight = find_weight(model, "blk.1.ffn_down.weight");
    const size_t n = weight->dims[0] * weight->dims[1];
    double sum = 0;
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
      const double value = element(dtypes[d], weight->data, i);
      sum += value;
      squares += value * value;
    }
    const double spread = sqrt(squares / (double)n);
    assert_true(spread > 0.015 && spread < 0.027);
    assert_true(fabs(sum / (double)n) < 0.003);
    cs_model_release(model);
  }
}

static void every_block_format_has_a_shape(void **state) {
  (void)state;
  cs_model *model;
  for (uint32_t dtype = CS_DTYPE_Q8_0; dtype <= CS_DTYPE_IQ4_XS; dtype++) {
    assert_int_equal(cs_model_open_shape("llama-tiny", dtype, 3, &model, NULL), CS_OK);
    assert_string_equal(cs_model_format(model), cs_dtype_find(dtype)->name);
    cs_model_release(model);
  }
}

static void equal_seeds_make_equal_models(void **state) {
  (void)state;
  uint64_t fingerprints[3];
  for (size_t i = 0; i < 3; i++) {
    cs_model *model;
    assert_int_equal(cs_model_open_shape("llama-tiny", CS_DTYPE_Q8_0, i / 2, &model, NULL), CS_OK);
    fingerprints[i] = cs_model_fingerprint(model);
    const cs_model_weight *q = find_weight(model, "blk.0.attn_q.weight");
    const cs_model_weight *o = find_weight(model, "blk.0.attn_output.weight");
    assert_int_equal(q->bytes, o->bytes);
    assert_memory_not_equal(q->data, o->data, q->bytes);
    cs_model_release(model);
  }
  assert_true(fingerprints[0] == fingerprints[1]);
  assert_true(fingerprints[0] != fingerprints[2]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_configuration_is_read),
      cmocka_unit_test(a_missing_tensor_is_named),
      cmocka_unit_test(a_wrong_shape_is_named),
      cmocka_unit_test(a_missing_key_is_named),
      cmocka_unit_test(contradicting_metadata_is_refused),
      cmocka_unit_test(what_is_not_served_is_named),
      cmocka_unit_test(an_unknown_type_that_nobody_needs_does_no_harm),
      cmocka_unit_test(half_precision_vectors_become_float32),
      cmocka_unit_test(tied_embeddings_serve_both_ends),
      cmocka_unit_test(rope_frequencies_follow_the_file),
      cmocka_unit_test(fingerprints_tell_models_apart_not_files),
      cmocka_unit_test(a_vocabulary_alone_opens_as_such),
      cmocka_unit_test(a_tokenizer_of_another_kind_leaves_a_model),
      cmocka_unit_test(more_tokens_than_embeddings_are_refused),
      cmocka_unit_test(shapes_have_the_sizes_they_are_named_for),
      cmocka_unit_test(a_mixed_shape_has_both_formats),
      cmocka_unit_test(random_weights_are_spread_as_trained_ones),
      cmocka_unit_test(every_block_format_has_a_shape),
      cmocka_unit_test(equal_seeds_make_equal_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
