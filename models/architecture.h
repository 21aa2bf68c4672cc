/* Architectures as tables: which weights one has, and how its metadata becomes a configuration. */
#ifndef MODELS_ARCHITECTURE_H
#define MODELS_ARCHITECTURE_H

#include "models/gguf.h"
#include "models/model.h"
#include "models/rope.h"

/* The part that a weight plays in the forward pass. */
typedef enum cs_weight_role {
  CS_ROLE_TOKEN_EMBD,
  CS_ROLE_OUTPUT_NORM,
  CS_ROLE_OUTPUT, /* absent where embeddings are tied */
  CS_ROLE_INV_FREQ,
  CS_ROLE_FIRST_OF_LAYER,
  CS_ROLE_ATTN_NORM = CS_ROLE_FIRST_OF_LAYER,
  CS_ROLE_ATTN_Q,
  CS_ROLE_ATTN_Q_BIAS,
  CS_ROLE_ATTN_Q_NORM,
  CS_ROLE_ATTN_K,
  CS_ROLE_ATTN_K_BIAS,
  CS_ROLE_ATTN_K_NORM,
  CS_ROLE_ATTN_V,
  CS_ROLE_ATTN_V_BIAS,
  CS_ROLE_ATTN_OUTPUT,
  CS_ROLE_ATTN_OUTPUT_BIAS,
  CS_ROLE_FFN_NORM,
  CS_ROLE_FFN_GATE,
  CS_ROLE_FFN_UP,
  CS_ROLE_FFN_DOWN,
  CS_ROLE_FFN_ROUTER, /* a mixture's: logits of the experts */
  CS_ROLE_FFN_GATE_EXPERTS,
  CS_ROLE_FFN_UP_EXPERTS,
  CS_ROLE_FFN_DOWN_EXPERTS,
  CS_ROLE_LIMIT
} cs_weight_role;

#define CS_ROLE_BIT(role) (UINT64_C(1) << (role))

/* Whether a model's layers hold one FFN or several to choose from. */
typedef enum cs_expert_use { CS_EXPERTS_NEVER, CS_EXPERTS_MAYBE, CS_EXPERTS_ALWAYS } cs_expert_use;

typedef struct cs_architecture {
  const char *name;      /* general.architecture, and the prefix of its keys */
  uint32_t rope_mode;    /* CS_ROPE_*: how the rows of query and key are stored in GGUF files */
  cs_expert_use experts; /* the FFN's weights follow from the configuration */
  uint64_t required;     /* CS_ROLE_BIT of the weights that must be there, but for the FFN's */
  uint64_t optional;     /* and of those that may be */
} cs_architecture;

/* How a role is stored. */
typedef struct cs_weight_spec {
  const char *name; /* "token_embd.weight"; inside a layer without its "blk.N." */
  uint32_t rank;    /* 1: a plain vector; 2: a matrix (n_out, n_in); 3: one for each expert */
  uint32_t usage;   /* CS_USAGE_* */
} cs_weight_spec;

/* NULL for an architecture that is not supported. */
const cs_architecture *cs_architecture_find(cs_gguf_string name);

/* "llama, qwen2, ...": what cs_architecture_find knows, for messages. */
const char *cs_architecture_names(void);

/* CS_ROLE_BIT of the weights that a model of this configuration must have. */
uint64_t cs_architecture_required(const cs_architecture *architecture,
                                  const cs_model_config *config);

const cs_weight_spec *cs_weight_spec_of(cs_weight_role role);

/* The shape that `role` must have, outermost first; *config is complete. */
void cs_weight_shape(const cs_model_config *config, cs_weight_role role,
                     uint64_t dims[CS_MAX_RANK]);

/* Fills *config but for n_vocab and tied_embeddings, which the tensors tell, and *scaling.
 * CS_CORRUPT names the key that is missing or contradicts another, CS_UNSUPPORTED one that asks for
 * what is not served. */
cs_status cs_architecture_read_config(const cs_architecture *architecture, const cs_gguf *gguf,
                                      cs_model_config *config, cs_rope_scaling *scaling,
                                      cs_error *error);

#endif
