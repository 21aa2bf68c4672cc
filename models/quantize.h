/* A model rewritten with its matrices in another format. */
#ifndef MODELS_QUANTIZE_H
#define MODELS_QUANTIZE_H

#include <stdint.h>

#include "consort/status.h"
#include "models/gguf.h"

/* What became of a tensor. */
typedef struct cs_quantized_tensor {
  const char *name; /* borrowed for the call */
  const char *from; /* "bf16" */
  const char *to;   /* "q4_k" */
  uint64_t n_elements;
  uint64_t bytes; /* in the new file */
  double nmse;    /* sum((y - x)^2) / sum(x^2) of what will be read back */
  double rmse;
  uint64_t done_bytes; /* of the source, with this tensor */
  uint64_t total_bytes;
} cs_quantized_tensor;

/* Called after each tensor, from the caller's thread. A result other than 0 ends the work. */
typedef int (*cs_quantize_progress)(void *user, const cs_quantized_tensor *tensor);

/* Called with one line that the user should read: what the new file lacks. */
typedef void (*cs_quantize_notice)(void *user, const char *line);

typedef struct cs_quantize_options {
  const char *type;   /* "Q8_0", "Q4_0", "Q4_K_M" or "Q6_K", in any case of letters */
  uint32_t n_threads; /* 0: one */
  cs_quantize_progress progress;
  cs_quantize_notice notice; /* may be NULL */
  void *user;
} cs_quantize_options;

/* Reads the GGUF file (or files) or the folder `from` and writes the GGUF file `to`, which appears
 * complete or not at all. Which tensor gets which format is llama.cpp's choice for the type
 * (src/llama-quant.cpp of github.com/ggml-org/llama.cpp): vectors and routers stay F32, some
 * matrices of Q4_0 and Q4_K_M get more bits, rows that no block divides a format that does. A
 * folder's tokenizer and chat template are written too; where GGUF cannot say what the tokenizer
 * does, the file has none and a notice says why. Errors name the file: those of opening,
 * CS_UNSUPPORTED for a type that is not known or a tensor in a format that cannot be read, CS_IO,
 * CS_CANCELLED when progress said so. */
cs_status cs_quantize(const char *from, const char *to, const cs_quantize_options *options,
                      cs_error *error);

#endif
