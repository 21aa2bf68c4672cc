/* A model: what the file says about architecture and weights. Opening reads metadata only; weight
 * bytes are touched when a device packs them. */
#ifndef MODELS_MODEL_H
#define MODELS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/plugin.h"

typedef struct cs_model cs_model; /* shared: retain and release; immutable and free-threaded */
typedef struct cs_tokenizer cs_tokenizer;

typedef struct cs_model_config {
  char architecture[32]; /* "llama" */
  char name[96];
  uint32_t n_layers;
  uint32_t n_embd;
  uint32_t n_heads;
  uint32_t n_kv_heads;
  uint32_t k_width; /* elements of a key (and query) head */
  uint32_t v_width;
  uint32_t n_ff;
  uint32_t n_vocab;
  uint32_t n_context; /* tokens the model was made for */
  uint32_t n_rot;
  uint32_t rope_mode; /* CS_ROPE_* */
  float rope_base;
  float rope_magnitude;
  float norm_epsilon;
  bool tied_embeddings;
  uint32_t window;             /* a row sees only its last `window` positions; 0: all of them */
  uint32_t window_first_layer; /* layers before this one see all */
  uint32_t n_experts;          /* 0: one FFN a layer */
  uint32_t n_experts_used;     /* of them, by each token */
  uint32_t n_ff_expert;
  bool normalize_experts; /* the weights of the experts used sum to 1 */
  float expert_scale;     /* and are multiplied by this */
} cs_model_config;

/* One weight. Matrices are packed by each device that needs them; vectors are plain F32. */
typedef struct cs_model_weight {
  const char *name;
  uint32_t dtype;
  uint32_t usage; /* CS_USAGE_*; 0 for plain weights, which are uploaded as they are */
  uint32_t rank;
  uint64_t dims[CS_MAX_RANK];
  const void *data; /* borrowed from the model; NULL where parts stand in its place */
  uint64_t bytes;
  const void *const *parts; /* equal pieces, one for each index of dims[0], or NULL */
  int32_t layer;            /* -1 outside the layers */
} cs_model_weight;

/* `path` is a GGUF file (of a model in several files, any one), or a folder as the transformers
 * library saves it. CS_UNSUPPORTED names the architecture or tensor type, CS_CORRUPT the tensor or
 * key that is missing or has the wrong shape; all name the file. */
cs_status cs_model_open(const char *path, cs_model **out, cs_error *error);

/* The tokenizer alone, of a file of any architecture, vocabulary-only files included: the model has
 * no weights, and of its configuration only architecture, name and n_vocab are filled. */
cs_status cs_model_open_vocabulary(const char *path, cs_model **out, cs_error *error);

/* A model of seeded random weights in memory, for benchmarks: shape "llama-1b" (16 layers, 2048
 * wide, 32 heads, 8 KV heads, FFN 8192, vocabulary 32000), "llama-8b", "llama-160m", "llama-tiny";
 * matrices in `dtype`. One pool of random blocks is made and repeated: all matrices are windows into it, so
 * that a model of many gigabytes costs the host only its largest matrix. It has no tokenizer.
 * CS_NOT_FOUND names a shape that is not known, CS_UNSUPPORTED a dtype that is no weight format. */
cs_status cs_model_open_shape(const char *shape, uint32_t dtype, uint64_t seed, cs_model **out,
                              cs_error *error);
/* As cs_model_open_shape, with the matrices that llama.cpp's Q4_K_M files hold in Q6_K in `upper`.
 */
cs_status cs_model_open_mixed_shape(const char *shape, uint32_t dtype, uint32_t upper,
                                    uint64_t seed, cs_model **out, cs_error *error);
void cs_model_retain(cs_model *model);
void cs_model_release(cs_model *model);

const cs_model_config *cs_model_get_config(const cs_model *model);
const char *cs_model_path(const cs_model *model);
uint64_t cs_model_file_bytes(const cs_model *model);
/* The name of the most frequent matrix format by bytes: "q8_0". */
const char *cs_model_format(const cs_model *model);
/* A hash of the configuration (but for name and context), the names, formats and shapes of all
 * weights, and 256 bytes from the middle of each: compared before KV moves between two holders. */
uint64_t cs_model_fingerprint(const cs_model *model);

/* Weights are numbered; the numbers are the keys of CS_VALUE_WEIGHT in op lists. They include
 * tables that the model computes itself, such as RoPE's inverse frequencies. */
size_t cs_model_n_weights(const cs_model *model);
const cs_model_weight *cs_model_weight_at(const cs_model *model, size_t key);
/* All bytes of a weight, contiguous: weight->data, or a joined copy that *owned says to free after
 * use. CS_OUT_OF_MEMORY. */
cs_status cs_model_weight_bytes_of(const cs_model_weight *weight, const void **data, void **owned,
                                   cs_error *error);
/* Parameters in matrices that every token passes (2 FLOP each), and bytes of all weights. */
uint64_t cs_model_matmul_parameters(const cs_model *model);
uint64_t cs_model_weight_bytes(const cs_model *model);
/* Bytes of KV cache for one token over all layers. */
uint64_t cs_model_kv_bytes_per_token(const cs_model *model, uint32_t kv_dtype);

/* Borrowed; NULL for a model without one. */
const cs_tokenizer *cs_model_tokenizer(const cs_model *model);

/* The same with the reason: CS_NOT_FOUND when the file has none, CS_UNSUPPORTED when it is of a
 * kind that is not served. */
cs_status cs_model_need_tokenizer(const cs_model *model, const cs_tokenizer **out, cs_error *error);

/* The file behind the model, borrowed; NULL for a model in memory. */
typedef struct cs_gguf cs_gguf;
const cs_gguf *cs_model_gguf(const cs_model *model);

#endif
