/* Opening a model checks everything that the forward pass will rely on: that each weight of the
 * architecture is there, with the shape that the metadata implies and a format that devices may
 * know. Matrices stay where they are in the mapped file; what is small and must be exact (norms,
 * biases, RoPE's frequencies) becomes float32 here, once, so that every device reads the same
 * numbers. */
#include "models/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "consort/kv.h"
#include "core/dtype.h"
#include "core/error.h"
#include "models/huggingface.h"
#include "models/mapped_file.h"
#include "models/model_internal.h"

#define SAMPLE_BYTES 256 /* of each weight that go into the fingerprint */

/* ---- building ---------------------------------------------------------------------------- */

cs_model *cs_model_create(const char *path) {
  cs_model *model = calloc(1, sizeof *model);
  if (!model) return NULL;
  atomic_init(&model->references, 1);
  model->no_tokenizer = (cs_error)CS_ERROR_INIT;
  model->format = "none";
  model->path = strdup(path);
  if (!model->path) {
    free(model);
    return NULL;
  }
  return model;
}

cs_status cs_model_reserve(cs_model *model, cs_error *error) {
  const size_t n_rows = (size_t)model->config.n_layers + 1;
  const size_t n_per_layer = CS_ROLE_LIMIT - CS_ROLE_FIRST_OF_LAYER;
  model->capacity = CS_ROLE_FIRST_OF_LAYER + model->config.n_layers * n_per_layer;
  model->slots = calloc(model->capacity, sizeof *model->slots);
  model->keys = malloc(n_rows * CS_ROLE_LIMIT * sizeof *model->keys);
  if (!model->slots || !model->keys) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  memset(model->keys, 0xff, n_rows * CS_ROLE_LIMIT * sizeof *model->keys);
  return CS_OK;
}

void cs_model_weight_name(char *name, int32_t layer, cs_weight_role role) {
  const char *base = cs_weight_spec_of(role)->name;
  if (layer < 0)
    snprintf(name, CS_WEIGHT_NAME_BYTES, "%s", base);
  else
    snprintf(name, CS_WEIGHT_NAME_BYTES, "blk.%d.%s", layer, base);
}

cs_weight_slot *cs_model_add(cs_model *model, int32_t layer, cs_weight_role role) {
  const cs_weight_spec *spec = cs_weight_spec_of(role);
  model->keys[(size_t)(layer + 1) * CS_ROLE_LIMIT + role] = (uint32_t)model->n_slots;
  cs_weight_slot *slot = &model->slots[model->n_slots++];
  cs_model_weight_name(slot->name, layer, role);
  slot->weight.name = slot->name;
  slot->weight.usage = spec->usage;
  slot->weight.rank = spec->rank;
  slot->weight.layer = layer;
  cs_weight_shape(&model->config, role, slot->weight.dims);
  return slot;
}

cs_status cs_model_add_inv_freq(cs_model *model, const cs_rope_scaling *scaling,
                                const float *factors, cs_error *error) {
  const uint32_t n_rot = model->config.n_rot;
  float *table = malloc(n_rot / 2 * sizeof *table);
  if (!table) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_rope_inv_freq(scaling, (double)model->config.rope_base, n_rot, factors, table);
  cs_weight_slot *slot = cs_model_add(model, -1, CS_ROLE_INV_FREQ);
  slot->owned = table;
  slot->weight.dtype = CS_DTYPE_F32;
  slot->weight.data = table;
  slot->weight.bytes = n_rot / 2 * sizeof *table;
  return CS_OK;
}

/* ---- sums and fingerprint ---------------------------------------------------------------- */

/* Of a matrix for each expert: those that one token passes. */
static uint64_t parameters_used(const cs_model_config *config, const cs_model_weight *weight) {
  return config->n_experts_used * weight->dims[1] * weight->dims[2];
}

static void count_weights(cs_model *model) {
  uint64_t bytes_by_dtype[CS_DTYPE_LIMIT] = {0};
  uint32_t most = CS_DTYPE_NONE;
  for (size_t i = 0; i < model->n_slots; i++) {
    const cs_model_weight *weight = &model->slots[i].weight;
    model->weight_bytes += weight->bytes;
    if (weight->usage == 0) continue;
    if (weight->usage & CS_USAGE_MATMUL)
      model->matmul_parameters += weight->rank == 3 ? parameters_used(&model->config, weight)
                                                    : weight->dims[0] * weight->dims[1];
    bytes_by_dtype[weight->dtype] += weight->bytes;
    if (bytes_by_dtype[weight->dtype] > bytes_by_dtype[most]) most = weight->dtype;
  }
  if (most != CS_DTYPE_NONE) model->format = cs_dtype_find(most)->name;
}

static uint64_t hash_config(const cs_model_config *config) {
  const uint32_t sizes[] = {
      config->n_layers,  config->n_embd,         config->n_heads,     config->n_kv_heads,
      config->k_width,   config->v_width,        config->n_ff,        config->n_vocab,
      config->n_rot,     config->rope_mode,      config->window,      config->window_first_layer,
      config->n_experts, config->n_experts_used, config->n_ff_expert, config->normalize_experts};
  const float numbers[] = {config->rope_base, config->rope_magnitude, config->norm_epsilon,
                           config->expert_scale};
  uint64_t hash = XXH64(config->architecture, strlen(config->architecture), 0);
  hash = XXH64(sizes, sizeof sizes, hash);
  return XXH64(numbers, sizeof numbers, hash);
}

/* Reads only the middle of each weight: enough to tell fine-tunes of one model apart, and a page a
 * weight on a cold disk. */
static uint64_t compute_fingerprint(const cs_model *model) {
  uint64_t hash = hash_config(&model->config);
  for (size_t i = 0; i < model->n_slots; i++) {
    const cs_model_weight *weight = &model->slots[i].weight;
    const void *data = weight->parts ? weight->parts[weight->dims[0] / 2] : weight->data;
    const uint64_t bytes = weight->parts ? weight->bytes / weight->dims[0] : weight->bytes;
    const uint64_t n = bytes < SAMPLE_BYTES ? bytes : SAMPLE_BYTES;
    const uint64_t from = (bytes - n) / 2;
    hash = XXH64(weight->name, strlen(weight->name), hash);
    hash = XXH64(&weight->dtype, sizeof weight->dtype, hash);
    hash = XXH64(weight->dims, sizeof weight->dims, hash);
    hash = XXH64((const uint8_t *)data + from, (size_t)n, hash);
  }
  return hash;
}

void cs_model_finish(cs_model *model) {
  count_weights(model);
  model->fingerprint = compute_fingerprint(model);
}

/* ---- weights of a file ------------------------------------------------------------------- */

#define SHAPE_TEXT 96

/* "(3, 4)" */
static void write_shape(uint32_t rank, const uint64_t *dims, char text[SHAPE_TEXT]) {
  int at = snprintf(text, SHAPE_TEXT, "(");
  for (uint32_t i = 0; i < rank; i++)
    at += snprintf(text + at, SHAPE_TEXT - (size_t)at, "%s%llu", i ? ", " : "",
                   (unsigned long long)dims[i]);
  snprintf(text + at, SHAPE_TEXT - (size_t)at, ")");
}

static cs_status fail_shape(const cs_gguf *gguf, const cs_gguf_tensor *tensor,
                            const cs_weight_slot *slot, cs_error *error) {
  char found[SHAPE_TEXT], wanted[SHAPE_TEXT];
  write_shape(tensor->rank, tensor->dims, found);
  write_shape(slot->weight.rank, slot->weight.dims, wanted);
  return cs_gguf_fail(gguf, error, CS_CORRUPT,
                      "tensor \"%s\" has shape %s where the metadata implies %s", slot->name, found,
                      wanted);
}

static bool is_float(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 || dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16;
}

static bool is_block_format(uint32_t dtype) {
  const cs_dtype_info *info = cs_dtype_find(dtype);
  return info && info->block_elements > 1;
}

/* Vectors become float32; what already is stays in the file. */
static cs_status take_vector(const cs_model *model, const cs_gguf_tensor *tensor,
                             cs_weight_slot *slot, cs_error *error) {
  const size_t n = (size_t)tensor->dims[0];
  slot->weight.dtype = CS_DTYPE_F32;
  slot->weight.bytes = n * sizeof(float);
  slot->weight.data = tensor->data;
  if (tensor->dtype == CS_DTYPE_F32) return CS_OK;
  slot->owned = malloc(n * sizeof(float));
  if (!slot->owned) return cs_gguf_fail(model->gguf, error, CS_OUT_OF_MEMORY, "out of memory");
  slot->weight.data = slot->owned;
  return cs_dtype_convert(CS_DTYPE_F32, slot->owned, tensor->dtype, tensor->data, n);
}

static cs_status load_tensor(cs_model *model, int32_t layer, cs_weight_role role,
                             const cs_gguf_tensor *tensor, cs_error *error) {
  cs_weight_slot *slot = cs_model_add(model, layer, role);
  cs_model_weight *weight = &slot->weight;
  bool fits = tensor->rank == weight->rank;
  for (uint32_t i = 0; i < weight->rank; i++)
    fits = fits && tensor->dims[i] == weight->dims[i];
  if (!fits) return fail_shape(model->gguf, tensor, slot, error);
  const bool served =
      is_float(tensor->dtype) || (weight->rank > 1 && is_block_format(tensor->dtype));
  if (!served)
    return cs_gguf_fail(model->gguf, error, CS_UNSUPPORTED,
                        "tensor \"%s\" has GGUF type %s (%u), which is not supported", slot->name,
                        cs_gguf_type_name(tensor->file_type), tensor->file_type);
  if (weight->rank == 1) return take_vector(model, tensor, slot, error);
  weight->dtype = tensor->dtype;
  weight->data = tensor->data;
  weight->bytes = tensor->bytes;
  weight->parts = tensor->parts;
  return CS_OK;
}

static cs_status load_row(cs_model *model, const cs_architecture *architecture, int32_t layer,
                          cs_error *error) {
  const uint64_t all_required = cs_architecture_required(architecture, &model->config);
  const int first = layer < 0 ? 0 : CS_ROLE_FIRST_OF_LAYER;
  const int limit = layer < 0 ? CS_ROLE_FIRST_OF_LAYER : CS_ROLE_LIMIT;
  for (int role = first; role < limit; role++) {
    const bool required = (all_required & CS_ROLE_BIT(role)) != 0;
    if (!required && !(architecture->optional & CS_ROLE_BIT(role))) continue;
    char name[CS_WEIGHT_NAME_BYTES];
    cs_model_weight_name(name, layer, (cs_weight_role)role);
    const cs_gguf_tensor *tensor = cs_gguf_find_tensor(model->gguf, name);
    if (!tensor && !required) continue;
    if (!tensor)
      return cs_gguf_fail(model->gguf, error, CS_CORRUPT, "tensor \"%s\" is missing", name);
    const cs_status status = load_tensor(model, layer, (cs_weight_role)role, tensor, error);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

/* A file may carry divisors for each frequency (Llama 3.1 and later). */
static cs_status load_inv_freq(cs_model *model, const cs_rope_scaling *scaling, cs_error *error) {
  const cs_gguf_tensor *factors = cs_gguf_find_tensor(model->gguf, "rope_freqs.weight");
  if (!factors) return cs_model_add_inv_freq(model, scaling, NULL, error);
  const uint32_t n_pairs = model->config.n_rot / 2;
  if (factors->dtype != CS_DTYPE_F32 || factors->rank != 1 || factors->dims[0] != n_pairs)
    return cs_gguf_fail(model->gguf, error, CS_CORRUPT,
                        "tensor \"rope_freqs.weight\" is not f32 of shape (%u)", n_pairs);
  const float *values = factors->data;
  for (uint32_t i = 0; i < n_pairs; i++)
    if (!isfinite(values[i]) || values[i] == 0.0f)
      return cs_gguf_fail(model->gguf, error, CS_CORRUPT,
                          "tensor \"rope_freqs.weight\": element %u is zero or not finite", i);
  return cs_model_add_inv_freq(model, scaling, values, error);
}

static cs_status load_weights(cs_model *model, const cs_architecture *architecture,
                              const cs_rope_scaling *scaling, cs_error *error) {
  cs_status status = cs_model_reserve(model, error);
  for (int32_t layer = -1; status == CS_OK && layer < (int32_t)model->config.n_layers; layer++)
    status = load_row(model, architecture, layer, error);
  if (status == CS_OK) status = load_inv_freq(model, scaling, error);
  if (status != CS_OK) return status;
  if (model->config.tied_embeddings)
    model->slots[cs_model_weight_key(model, -1, CS_ROLE_TOKEN_EMBD)].weight.usage |=
        CS_USAGE_MATMUL;
  return CS_OK;
}

/* ---- opening ----------------------------------------------------------------------------- */

/* A file without a tokenizer, or with one of another kind, is still a model; a broken one is not.
 */
static cs_status load_tokenizer(cs_model *model, cs_error *error) {
  const cs_status status =
      cs_file_is_folder(model->path)
          ? cs_tokenizer_open_json(model->path, &model->tokenizer, &model->no_tokenizer)
          : cs_tokenizer_create(model->gguf, &model->tokenizer, &model->no_tokenizer);
  if (status == CS_OK || status == CS_NOT_FOUND || status == CS_UNSUPPORTED) return CS_OK;
  return cs_error_set(error, status, "%s", model->no_tokenizer.message);
}

static cs_status read_config(cs_model *model, const cs_architecture *architecture,
                             cs_rope_scaling *scaling, cs_error *error) {
  cs_model_config *config = &model->config;
  const cs_status status =
      cs_architecture_read_config(architecture, model->gguf, config, scaling, error);
  if (status != CS_OK) return status;
  if (config->n_layers > cs_gguf_n_tensors(model->gguf))
    return cs_gguf_fail(model->gguf, error, CS_CORRUPT, "%u layers, but only %zu tensors",
                        config->n_layers, cs_gguf_n_tensors(model->gguf));
  const cs_gguf_tensor *embeddings = cs_gguf_find_tensor(model->gguf, "token_embd.weight");
  if (!embeddings)
    return cs_gguf_fail(model->gguf, error, CS_CORRUPT, "tensor \"token_embd.weight\" is missing");
  if (embeddings->dims[0] > INT32_MAX)
    return cs_gguf_fail(model->gguf, error, CS_CORRUPT,
                        "tensor \"token_embd.weight\": more tokens than an id can name");
  config->n_vocab = (uint32_t)embeddings->dims[0];
  config->tied_embeddings = !cs_gguf_find_tensor(model->gguf, "output.weight");
  return CS_OK;
}

static cs_status check_vocabulary(const cs_model *model, cs_error *error) {
  if (!model->tokenizer || cs_tokenizer_n_vocab(model->tokenizer) <= model->config.n_vocab)
    return CS_OK;
  return cs_gguf_fail(model->gguf, error, CS_CORRUPT,
                      "the tokenizer has %u tokens, tensor \"token_embd.weight\" %u rows",
                      cs_tokenizer_n_vocab(model->tokenizer), model->config.n_vocab);
}

static cs_status load_model(cs_model *model, cs_gguf_string architecture_name, cs_error *error) {
  const cs_architecture *architecture = cs_architecture_find(architecture_name);
  if (!architecture)
    return cs_gguf_fail(model->gguf, error, CS_UNSUPPORTED,
                        "architecture \"%.*s\" is not supported; supported: %s",
                        architecture_name.bytes > 40 ? 40 : (int)architecture_name.bytes,
                        architecture_name.data, cs_architecture_names());
  cs_rope_scaling scaling;
  cs_status status = read_config(model, architecture, &scaling, error);
  if (status == CS_OK) status = load_weights(model, architecture, &scaling, error);
  if (status == CS_OK) status = load_tokenizer(model, error);
  if (status == CS_OK) status = check_vocabulary(model, error);
  return status;
}

typedef cs_status (*open_fn)(const char *path, cs_gguf **out, cs_error *error);

/* Opens the file or folder and finds general.architecture; *out is to be released also on failure.
 */
static cs_status open_file(const char *path, open_fn open_folder, cs_model **out,
                           cs_gguf_string *architecture, cs_error *error) {
  const open_fn open = cs_file_is_folder(path) ? open_folder : cs_gguf_open;
  *out = NULL;
  cs_model *model = cs_model_create(path);
  if (!model) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  *out = model;
  const cs_status status = open(path, &model->gguf, error);
  if (status != CS_OK) return status;
  if (!cs_gguf_get_string(model->gguf, "general.architecture", architecture))
    return cs_gguf_fail(model->gguf, error, CS_CORRUPT, "key \"general.architecture\" is missing");
  return CS_OK;
}

cs_status cs_model_open(const char *path, cs_model **out, cs_error *error) {
  cs_model *model;
  cs_gguf_string architecture;
  *out = NULL;
  cs_status status = open_file(path, cs_huggingface_open, &model, &architecture, error);
  if (status == CS_OK) status = load_model(model, architecture, error);
  if (status != CS_OK) {
    cs_model_release(model);
    return status;
  }
  cs_model_finish(model);
  *out = model;
  return CS_OK;
}

/* A tokenizer.json is a vocabulary and nothing else. */
static cs_status open_json_vocabulary(const char *path, cs_model **out, cs_error *error) {
  cs_model *model = cs_model_create(path);
  if (!model) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const cs_status status = cs_tokenizer_open_json(path, &model->tokenizer, error);
  if (status != CS_OK) {
    cs_model_release(model);
    return status;
  }
  model->config.n_vocab = cs_tokenizer_n_vocab(model->tokenizer);
  cs_model_finish(model);
  *out = model;
  return CS_OK;
}

cs_status cs_model_open_vocabulary(const char *path, cs_model **out, cs_error *error) {
  if (cs_tokenizer_path_is_json(path)) return open_json_vocabulary(path, out, error);
  cs_model *model;
  cs_gguf_string text;
  *out = NULL;
  cs_status status = open_file(path, cs_huggingface_open_vocabulary, &model, &text, error);
  if (status != CS_OK) goto err_release;
  cs_gguf_copy_string(model->config.architecture, sizeof model->config.architecture, text);
  if (cs_gguf_get_string(model->gguf, "general.name", &text))
    cs_gguf_copy_string(model->config.name, sizeof model->config.name, text);
  status = load_tokenizer(model, error);
  if (status != CS_OK) goto err_release;
  if (model->tokenizer) model->config.n_vocab = cs_tokenizer_n_vocab(model->tokenizer);
  cs_model_finish(model);
  *out = model;
  return CS_OK;

err_release:
  cs_model_release(model);
  return status;
}

void cs_model_retain(cs_model *model) {
  atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
}

void cs_model_release(cs_model *model) {
  if (!model) return;
  if (atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) != 1) return;
  for (size_t i = 0; i < model->n_slots; i++)
    free(model->slots[i].owned);
  free(model->slots);
  free(model->keys);
  free(model->pool);
  free(model->upper_pool);
  cs_tokenizer_destroy(model->tokenizer);
  cs_gguf_close(model->gguf);
  free(model->path);
  free(model);
}

/* ---- what a model tells ------------------------------------------------------------------ */

const cs_model_config *cs_model_get_config(const cs_model *model) {
  return &model->config;
}

const char *cs_model_path(const cs_model *model) {
  return model->path;
}

const cs_gguf *cs_model_gguf(const cs_model *model) {
  return model->gguf;
}

uint64_t cs_model_file_bytes(const cs_model *model) {
  return model->gguf ? cs_gguf_bytes(model->gguf) : 0;
}

const char *cs_model_format(const cs_model *model) {
  return model->format;
}

uint64_t cs_model_fingerprint(const cs_model *model) {
  return model->fingerprint;
}

size_t cs_model_n_weights(const cs_model *model) {
  return model->n_slots;
}

const cs_model_weight *cs_model_weight_at(const cs_model *model, size_t key) {
  return key < model->n_slots ? &model->slots[key].weight : NULL;
}

cs_status cs_model_weight_bytes_of(const cs_model_weight *weight, const void **data, void **owned,
                                   cs_error *error) {
  *data = weight->data;
  *owned = NULL;
  if (!weight->parts) return CS_OK;
  const size_t part_bytes = (size_t)(weight->bytes / weight->dims[0]);
  uint8_t *joined = malloc((size_t)weight->bytes);
  if (!joined) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  for (uint64_t i = 0; i < weight->dims[0]; i++)
    memcpy(joined + i * part_bytes, weight->parts[i], part_bytes);
  *data = *owned = joined;
  return CS_OK;
}

uint32_t cs_model_weight_key(const cs_model *model, int32_t layer, cs_weight_role role) {
  return model->keys[(size_t)(layer + 1) * CS_ROLE_LIMIT + role];
}

uint64_t cs_model_matmul_parameters(const cs_model *model) {
  return model->matmul_parameters;
}

uint64_t cs_model_weight_bytes(const cs_model *model) {
  return model->weight_bytes;
}

uint64_t cs_model_kv_bytes_per_token(const cs_model *model, uint32_t kv_dtype) {
  const cs_model_config *config = &model->config;
  const uint64_t n_heads = (uint64_t)config->n_layers * config->n_kv_heads;
  uint64_t bytes;
  if (cs_dtype_bytes(kv_dtype, n_heads * (config->k_width + config->v_width), &bytes) != CS_OK)
    return 0;
  return bytes + 2 * n_heads * cs_kv_scale_bytes(kv_dtype);
}

const cs_tokenizer *cs_model_tokenizer(const cs_model *model) {
  return model->tokenizer;
}

cs_status cs_model_need_tokenizer(const cs_model *model, const cs_tokenizer **out,
                                  cs_error *error) {
  *out = model->tokenizer;
  if (model->tokenizer) return CS_OK;
  if (model->no_tokenizer.code == CS_OK)
    return cs_error_set(error, CS_NOT_FOUND, "%s: the model has no tokenizer", model->path);
  return cs_error_set(error, model->no_tokenizer.code, "%s", model->no_tokenizer.message);
}
