/* The two halves of opening a folder: its configuration and its tensors. */
#ifndef MODELS_HUGGINGFACE_INTERNAL_H
#define MODELS_HUGGINGFACE_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "models/gguf_writer.h"

/* What the tensors' names are checked against. */
typedef struct cs_huggingface_shape {
  uint64_t n_layers;
  uint64_t n_experts; /* 0: none */
  bool tied;          /* the embeddings are the output matrix */
} cs_huggingface_shape;

/* The architecture of GGUF for a "model_type"; NULL for one that is not served. */
const char *cs_huggingface_architecture(const char *model_type);

/* Writes config.json under GGUF's keys. Errors begin with `label` and name the member: CS_CORRUPT
 * where it is missing or of the wrong kind, CS_UNSUPPORTED where it asks for what is not served. */
cs_status cs_huggingface_write_config(const char *label, const json_t *config,
                                      cs_gguf_writer *writer, cs_huggingface_shape *shape,
                                      cs_error *error);

#endif
