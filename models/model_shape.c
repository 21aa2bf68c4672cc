/* Models without a file, for measuring speed. Every matrix is a window into one pool: a prime
 * number of random blocks, repeated until the largest matrix fits, so that no two rows of a matrix
 * are alike although only the pool was drawn. Blocks are random bytes with their float16 scales set
 * so that weights spread about 0.02 around zero, as trained ones do: logits stay finite at any
 * depth. Devices copy what they pack, so the shared source does not flatter a measurement. */
#include <stdlib.h>
#include <string.h>

#include "consort/half.h"
#include "core/dtype.h"
#include "core/error.h"
#include "models/model_internal.h"

#define POOL_BLOCKS   UINT64_C(65521)   /* prime; of block formats */
#define POOL_ELEMENTS UINT64_C(1048573) /* prime; of plain formats */
#define WINDOW_BLOCKS UINT64_C(32)      /* windows begin at multiples: keeps them aligned */
#define SPREAD        0.02f             /* standard deviation of the weights */

typedef struct model_shape {
  const char *name;
  cs_model_config config;
} model_shape;

static const model_shape shapes[] = {
    {"llama-tiny",
     {.n_layers = 2,
      .n_embd = 256,
      .n_heads = 8,
      .n_kv_heads = 4,
      .k_width = 32,
      .v_width = 32,
      .n_ff = 768,
      .n_vocab = 1024,
      .n_context = 4096,
      .n_rot = 32,
      .rope_base = 10000.0f}},
    {"llama-160m",
     {.n_layers = 12,
      .n_embd = 768,
      .n_heads = 12,
      .n_kv_heads = 12,
      .k_width = 64,
      .v_width = 64,
      .n_ff = 3072,
      .n_vocab = 32000,
      .n_context = 32768,
      .n_rot = 64,
      .rope_base = 10000.0f}},
    {"llama-1b",
     {.n_layers = 16,
      .n_embd = 2048,
      .n_heads = 32,
      .n_kv_heads = 8,
      .k_width = 64,
      .v_width = 64,
      .n_ff = 8192,
      .n_vocab = 32000,
      .n_context = 32768,
      .n_rot = 64,
      .rope_base = 10000.0f}},
    {"llama-8b",
     {.n_layers = 32,
      .n_embd = 4096,
      .n_heads = 32,
      .n_kv_heads = 8,
      .k_width = 128,
      .v_width = 128,
      .n_ff = 14336,
      .n_vocab = 128256,
      .n_context = 8192,
      .n_rot = 128,
      .rope_base = 500000.0f}},
};

/* Where a block holds float16 scales, and their size for a spread of SPREAD: a step for the
 * integers, and an offset that centres unsigned ones. */
typedef struct block_scales {
  uint32_t dtype;
  int32_t step_at; /* byte in the block */
  float step;
  int32_t offset_at; /* -1: none */
  float offset;
} block_scales;

static const block_scales scales[] = {
    {CS_DTYPE_Q8_0, 0, 2.7e-4f, -1, 0},
    {CS_DTYPE_Q4_0, 0, 4.3e-3f, -1, 0},
    {CS_DTYPE_Q4_1, 0, 4.3e-3f, 2, -7.5f * 4.3e-3f},
    {CS_DTYPE_Q5_0, 0, 2.2e-3f, -1, 0},
    {CS_DTYPE_Q5_1, 0, 2.2e-3f, 2, -15.5f * 2.2e-3f},
    {CS_DTYPE_Q2_K, 80, 2.0e-3f, 82, 1.5f * 2.0e-3f},
    {CS_DTYPE_Q3_K, 108, 4.8e-4f, -1, 0},
    {CS_DTYPE_Q4_K, 0, 8.0e-5f, 2, 7.5f * 8.0e-5f},
    {CS_DTYPE_Q5_K, 0, 4.0e-5f, 2, 15.5f * 4.0e-5f},
    {CS_DTYPE_Q6_K, 208, 1.5e-5f, -1, 0},
    {CS_DTYPE_IQ4_NL, 0, 2.8e-4f, -1, 0},
    {CS_DTYPE_IQ4_XS, 0, 1.6e-5f, -1, 0},
};

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

static void set_half(uint8_t *at, float value) {
  const uint16_t half = cs_f16_from_f32(value);
  memcpy(at, &half, sizeof half);
}

/* From half to one and a half times the usual scale. */
static void fill_blocks(uint8_t *pool, const block_scales *s, uint32_t block_bytes,
                        uint64_t *state) {
  for (uint64_t i = 0; i < POOL_BLOCKS * block_bytes / 8 * 8; i += 8) {
    const uint64_t word = next_random(state);
    memcpy(pool + i, &word, sizeof word);
  }
  for (uint64_t i = 0; i < POOL_BLOCKS; i++) {
    uint8_t *block = pool + i * block_bytes;
    const float factor = 0.5f + (float)(next_random(state) >> 40) * 0x1p-24f;
    set_half(block + s->step_at, factor * s->step);
    if (s->offset_at >= 0) set_half(block + s->offset_at, factor * s->offset);
  }
}

/* Uniform numbers with the same spread. */
static void fill_elements(uint8_t *pool, uint32_t dtype, uint64_t *state) {
  const float half_width = 1.7320508f * SPREAD;
  for (uint64_t i = 0; i < POOL_ELEMENTS; i++) {
    const float unit = (float)(next_random(state) >> 40) * 0x1p-23f - 1.0f;
    const float value = unit * half_width;
    const uint16_t half = dtype == CS_DTYPE_F16 ? cs_f16_from_f32(value) : cs_bf16_from_f32(value);
    if (dtype == CS_DTYPE_F32)
      memcpy(pool + i * sizeof value, &value, sizeof value);
    else
      memcpy(pool + i * sizeof half, &half, sizeof half);
  }
}

static const block_scales *find_scales(uint32_t dtype) {
  for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
    if (scales[i].dtype == dtype) return &scales[i];
  return NULL;
}

/* At least `bytes` bytes, owned by the caller. */
static cs_status make_pool(uint32_t dtype, uint64_t bytes, uint64_t seed, void **out,
                           cs_error *error) {
  const cs_dtype_info *info = cs_dtype_find(dtype);
  const uint64_t n_blocks = info->block_elements > 1 ? POOL_BLOCKS : POOL_ELEMENTS;
  const uint64_t drawn = n_blocks * info->block_bytes;
  const uint64_t total = bytes > drawn ? bytes : drawn;
  uint8_t *pool = malloc((size_t)total);
  if (!pool) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  memset(pool + (drawn & ~UINT64_C(7)), 0, (size_t)(drawn & 7));
  uint64_t state = seed;
  if (info->block_elements > 1)
    fill_blocks(pool, find_scales(dtype), info->block_bytes, &state);
  else
    fill_elements(pool, dtype, &state);
  for (uint64_t at = drawn; at < total;) {
    const uint64_t n = total - at < at ? total - at : at;
    memcpy(pool + at, pool, (size_t)n); /* `at` stays a multiple of `drawn` until the end */
    at += n;
  }
  *out = pool;
  return CS_OK;
}

/* ---- the weights ------------------------------------------------------------------------- */

static cs_status add_ones(cs_model *model, int32_t layer, cs_weight_role role, cs_error *error) {
  const size_t n = model->config.n_embd;
  float *ones = malloc(n * sizeof *ones);
  if (!ones) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  for (size_t i = 0; i < n; i++)
    ones[i] = 1.0f;
  cs_weight_slot *slot = cs_model_add(model, layer, role);
  slot->owned = ones;
  slot->weight.dtype = CS_DTYPE_F32;
  slot->weight.data = ones;
  slot->weight.bytes = n * sizeof *ones;
  return CS_OK;
}

/* What a matrix is in a file of two formats: llama.cpp gives the better one to the output, and to V
 * and the down projection of the first and last eighth of the layers and of every third between
 * (llama-quant.cpp, Q4_K_M). */
static bool is_upper(const cs_model_config *config, int32_t layer, cs_weight_role role) {
  if (role == CS_ROLE_OUTPUT) return true;
  if (role != CS_ROLE_ATTN_V && role != CS_ROLE_FFN_DOWN) return false;
  const int32_t n = (int32_t)config->n_layers, eighth = n / 8;
  return layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2;
}

/* Adds the weights of one row of roles; matrices get their data once the pool is there. */
static cs_status add_row(cs_model *model, const cs_architecture *architecture, int32_t layer,
                         uint32_t dtype, uint32_t upper, cs_error *error) {
  const int first = layer < 0 ? 0 : CS_ROLE_FIRST_OF_LAYER;
  const int limit = layer < 0 ? CS_ROLE_FIRST_OF_LAYER : CS_ROLE_LIMIT;
  const uint64_t required = cs_architecture_required(architecture, &model->config);
  for (int i = first; i < limit; i++) {
    const cs_weight_role role = (cs_weight_role)i;
    if (!(required & CS_ROLE_BIT(i)) && role != CS_ROLE_OUTPUT) continue;
    cs_status status = CS_OK;
    if (cs_weight_spec_of(role)->rank == 1) {
      status = add_ones(model, layer, role, error);
    } else {
      cs_model_weight *weight = &cs_model_add(model, layer, role)->weight;
      weight->dtype = is_upper(&model->config, layer, role) ? upper : dtype;
      status = cs_dtype_bytes(weight->dtype, weight->dims[0] * weight->dims[1], &weight->bytes);
    }
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

/* Windows of one format's matrices begin at different places, so that no two are equal. The pool is
 * *owner's. */
static cs_status place_windows(cs_model *model, uint32_t dtype, uint64_t seed, void **owner,
                               cs_error *error) {
  const uint64_t unit = WINDOW_BLOCKS * cs_dtype_find(dtype)->block_bytes;
  const uint64_t slack = unit * model->n_slots;
  uint64_t largest = 0;
  for (size_t i = 0; i < model->n_slots; i++)
    if (model->slots[i].weight.usage && model->slots[i].weight.dtype == dtype &&
        model->slots[i].weight.bytes > largest)
      largest = model->slots[i].weight.bytes;
  const cs_status status = make_pool(dtype, largest + slack, seed, owner, error);
  if (status != CS_OK) return status;
  for (size_t i = 0; i < model->n_slots; i++)
    if (model->slots[i].weight.usage && model->slots[i].weight.dtype == dtype)
      model->slots[i].weight.data = (const uint8_t *)*owner + i * unit;
  return CS_OK;
}

static cs_status build(cs_model *model, const model_shape *shape, uint32_t dtype, uint32_t upper,
                       uint64_t seed, cs_error *error) {
  const cs_gguf_string llama = {"llama", 5};
  const cs_architecture *architecture = cs_architecture_find(llama);
  const cs_rope_scaling unscaled = {.kind = CS_ROPE_SCALING_NONE};
  cs_model_config *config = &model->config;
  *config = shape->config;
  memcpy(config->architecture, llama.data, llama.bytes);
  memcpy(config->name, shape->name, strlen(shape->name));
  config->rope_mode = architecture->rope_mode;
  config->rope_magnitude = 1.0f;
  config->norm_epsilon = 1e-5f;
  cs_status status = cs_model_reserve(model, error);
  for (int32_t layer = -1; status == CS_OK && layer < (int32_t)config->n_layers; layer++)
    status = add_row(model, architecture, layer, dtype, upper, error);
  if (status == CS_OK) status = cs_model_add_inv_freq(model, &unscaled, NULL, error);
  if (status == CS_OK) status = place_windows(model, dtype, seed, &model->pool, error);
  if (status == CS_OK && upper != dtype)
    status = place_windows(model, upper, seed + 1, &model->upper_pool, error);
  return status;
}

static bool is_weight_format(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 || dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16 ||
         find_scales(dtype);
}

cs_status cs_model_open_shape(const char *shape, uint32_t dtype, uint64_t seed, cs_model **out,
                              cs_error *error) {
  return cs_model_open_mixed_shape(shape, dtype, dtype, seed, out, error);
}

cs_status cs_model_open_mixed_shape(const char *shape, uint32_t dtype, uint32_t upper,
                                    uint64_t seed, cs_model **out, cs_error *error) {
  *out = NULL;
  const model_shape *found = NULL;
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
    if (strcmp(shapes[i].name, shape) == 0) found = &shapes[i];
  if (!found)
    return cs_error_set(
        error, CS_NOT_FOUND,
        "shape \"%s\" is not known (llama-tiny, llama-160m, llama-1b and llama-8b are)", shape);
  if (!is_weight_format(dtype) || !is_weight_format(upper))
    return cs_error_set(error, CS_UNSUPPORTED, "shape \"%s\": dtype %u is no weight format", shape,
                        is_weight_format(dtype) ? upper : dtype);
  cs_model *model = cs_model_create(shape);
  if (!model) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const cs_status status = build(model, found, dtype, upper, seed, error);
  if (status != CS_OK) {
    cs_model_release(model);
    return status;
  }
  cs_model_finish(model);
  *out = model;
  return CS_OK;
}
