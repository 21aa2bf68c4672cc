/* A model of random weights as a file, so that other programs can be measured on the same bytes. */
#ifndef MODELS_MODEL_WRITE_H
#define MODELS_MODEL_WRITE_H

#include "models/model.h"

/* Told after each weight; may be NULL. */
typedef void (*cs_model_write_progress)(void *user, uint64_t bytes_done, uint64_t bytes_total);

/* Writes a model of cs_model_open_shape as the GGUF file `path`, which appears complete or not at
 * all and opens as a model of the same fingerprint. Its tokenizer has all byte tokens, a space and
 * words of letters in order (a to z, aa to zz, ...), as many as the vocabulary has rows.
 * CS_INVALID_ARGUMENT for a model that came from a file, CS_IO, CS_OUT_OF_MEMORY. */
cs_status cs_model_write(const cs_model *model, const char *path, cs_model_write_progress progress,
                         void *user, cs_error *error);

#endif
