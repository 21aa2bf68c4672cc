/* The inside of cs_model, for the files that build one and for the forward pass. */
#ifndef MODELS_MODEL_INTERNAL_H
#define MODELS_MODEL_INTERNAL_H

#include <stdatomic.h>

#include "models/architecture.h"
#include "models/gguf.h"
#include "models/model.h"
#include "models/tokenizer.h"

#define CS_WEIGHT_ABSENT     UINT32_MAX
#define CS_WEIGHT_NAME_BYTES 48

typedef struct cs_weight_slot {
  cs_model_weight weight;
  char name[CS_WEIGHT_NAME_BYTES];
  void *owned; /* what weight.data points to when the model made it, else NULL */
} cs_weight_slot;

struct cs_model {
  atomic_uint references;
  cs_model_config config;
  char *path;
  cs_gguf *gguf; /* NULL for a model in memory */
  cs_tokenizer *tokenizer;
  cs_error no_tokenizer; /* why tokenizer is NULL */
  cs_weight_slot *slots; /* fixed places: weights' names point into them */
  size_t n_slots;
  size_t capacity;
  uint32_t *keys; /* (n_layers + 1, CS_ROLE_LIMIT): row 0 is outside the layers */
  void *pool;       /* random blocks that weights of a model in memory share */
  void *upper_pool; /* those of its second format; NULL: it has one */
  const char *format;
  uint64_t matmul_parameters;
  uint64_t weight_bytes;
  uint64_t fingerprint;
};

/* A model with one reference and nothing in it; NULL when out of memory. */
cs_model *cs_model_create(const char *path);

/* Makes room for every weight that config.n_layers may need. */
cs_status cs_model_reserve(cs_model *model, cs_error *error);

/* Adds the weight that plays `role`, shaped as the configuration says, and returns its slot; name
 * and dims are filled, dtype, data and bytes are the caller's to fill. */
cs_weight_slot *cs_model_add(cs_model *model, int32_t layer, cs_weight_role role);

/* "blk.3.attn_q.weight". `name` has CS_WEIGHT_NAME_BYTES. */
void cs_model_weight_name(char *name, int32_t layer, cs_weight_role role);

/* Adds the table of cs_rope_inv_freq; factors may be NULL. */
cs_status cs_model_add_inv_freq(cs_model *model, const cs_rope_scaling *scaling,
                                const float *factors, cs_error *error);

/* Sums and fingerprint, once all weights are there. */
void cs_model_finish(cs_model *model);

/* The key of the weight in that role, CS_WEIGHT_ABSENT where the model has none. layer is -1
 * outside the layers. */
uint32_t cs_model_weight_key(const cs_model *model, int32_t layer, cs_weight_role role);

#endif
