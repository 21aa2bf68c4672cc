/* Which format each tensor of a quantized model gets. */
#ifndef MODELS_QUANTIZE_MIX_H
#define MODELS_QUANTIZE_MIX_H

#include <stdint.h>

#include "models/gguf.h"

/* A type that files are named for. */
typedef struct cs_quantize_type {
  const char *name;   /* "Q4_K_M" */
  uint32_t dtype;     /* of most matrices */
  uint32_t file_type; /* "general.file_type" */
} cs_quantize_type;

/* NULL for a name that is not known; letters of any case. */
const cs_quantize_type *cs_quantize_type_find(const char *name);

/* What the choice depends on beside the tensor. */
typedef struct cs_quantize_model {
  uint32_t n_layers;
  uint32_t n_experts;
  bool tied;   /* the embeddings are the output matrix */
  bool is_70b; /* 80 layers, and fewer KV heads than heads */
} cs_quantize_model;

/* The format of a tensor in the new file. */
uint32_t cs_quantize_choose(const cs_quantize_type *type, const cs_quantize_model *model,
                            const cs_gguf_tensor *tensor);

#endif
