/* Models as libconsort shows them: what the file says, and text to tokens and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "models/model_write.h"
#include "scheduler/facade.h"
#include "scheduler/structs.h"

/* ---- opening ---- */

/* NUL-terminated copies of the file's tensor names: one allocation, the pointers first. */
static char **copy_tensor_names(const cs_gguf *gguf) {
  const size_t n_tensors = cs_gguf_n_tensors(gguf);
  size_t bytes = (n_tensors + 1) * sizeof(char *);
  for (size_t i = 0; i < n_tensors; i++)
    bytes += cs_gguf_tensor_at(gguf, i)->name.bytes + 1;
  char **names = malloc(bytes);
  if (!names) return NULL;
  char *at = (char *)(names + n_tensors + 1);
  for (size_t i = 0; i < n_tensors; i++) {
    const cs_gguf_string name = cs_gguf_tensor_at(gguf, i)->name;
    names[i] = at;
    memcpy(at, name.data, name.bytes);
    at[name.bytes] = '\0';
    at += name.bytes + 1;
  }
  names[n_tensors] = NULL;
  return names;
}

/* The model behind, whole or not. */
static const cs_model *inner(const consort_model *model) {
  return model->model ? model->model : model->vocabulary;
}

/* Wraps a model, which it takes over also on failure. */
static cs_status wrap(cs_model *opened, bool whole, consort_model **out, cs_error *error) {
  consort_model *model = calloc(1, sizeof *model);
  if (!model) goto err_release;
  const cs_gguf *gguf = cs_model_gguf(opened);
  if (gguf && !(model->tensor_names = copy_tensor_names(gguf))) goto err_free;
  *(whole ? &model->model : &model->vocabulary) = opened;
  model->tokenizer = cs_model_tokenizer(opened);
  if (model->tokenizer)
    snprintf(model->tokenizer_name, sizeof model->tokenizer_name, "%s",
             cs_tokenizer_kind(model->tokenizer));
  *out = model;
  return CS_OK;

err_free:
  free(model);
err_release:
  cs_model_release(opened);
  return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
}

cs_status consort_model_open(consort_runtime *runtime, const char *path, consort_model **out,
                             cs_error *error) {
  (void)runtime;
  *out = NULL;
  cs_model *opened;
  cs_status status = cs_model_open(path, &opened, error);
  if (status == CS_OK) status = wrap(opened, true, out, error);
  if (status == CS_OK && !realpath(path, (*out)->source)) (*out)->source[0] = '\0';
  return status;
}

cs_status consort_model_open_vocabulary(consort_runtime *runtime, const char *path,
                                        consort_model **out, cs_error *error) {
  (void)runtime;
  *out = NULL;
  cs_model *opened;
  const cs_status status = cs_model_open_vocabulary(path, &opened, error);
  return status == CS_OK ? wrap(opened, false, out, error) : status;
}

cs_status consort_model_open_shape(consort_runtime *runtime, const char *shape, const char *format,
                                   uint64_t seed, consort_model **out, cs_error *error) {
  (void)runtime;
  *out = NULL;
  const bool mixed = strcmp(format, "q4_k_m") == 0;
  const uint32_t dtype = mixed ? CS_DTYPE_Q4_K : cs_dtype_from_name(format);
  if (dtype == CS_DTYPE_NONE)
    return cs_error_set(error, CS_NOT_FOUND, "format \"%s\" is not known", format);
  cs_model *opened;
  cs_status status =
      cs_model_open_mixed_shape(shape, dtype, mixed ? CS_DTYPE_Q6_K : dtype, seed, &opened, error);
  if (status == CS_OK) status = wrap(opened, true, out, error);
  if (status == CS_OK)
    snprintf((*out)->source, sizeof(*out)->source, "shape:%s:%s:%llu", shape, format,
             (unsigned long long)seed);
  return status;
}

cs_status consort_model_write(const consort_model *model, const char *path,
                              void (*progress)(void *user, uint64_t bytes_done,
                                               uint64_t bytes_total),
                              void *progress_user, cs_error *error) {
  if (!model->model)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: a vocabulary alone is not written", path);
  return cs_model_write(model->model, path, progress, progress_user, error);
}

void consort_model_close(consort_model *model) {
  if (!model) return;
  cs_model_release(model->model);
  cs_model_release(model->vocabulary);
  free(model->tensor_names);
  free(model);
}

/* ---- what a model is ---- */

static uint64_t count_elements(uint32_t rank, const uint64_t *dims) {
  uint64_t n = 1;
  for (uint32_t d = 0; d < rank; d++)
    n *= dims[d];
  return n;
}

static uint64_t count_parameters(const cs_model *model) {
  const cs_gguf *gguf = cs_model_gguf(model);
  const size_t n = gguf ? cs_gguf_n_tensors(gguf) : cs_model_n_weights(model);
  uint64_t n_parameters = 0;
  for (size_t i = 0; i < n; i++) {
    if (gguf) {
      const cs_gguf_tensor *tensor = cs_gguf_tensor_at(gguf, i);
      n_parameters += count_elements(tensor->rank, tensor->dims);
    } else {
      const cs_model_weight *weight = cs_model_weight_at(model, i);
      n_parameters += count_elements(weight->rank, weight->dims);
    }
  }
  return n_parameters;
}

cs_status consort_model_get_info(const consort_model *model, consort_model_info *out,
                                 cs_error *error) {
  const cs_model *opened = inner(model);
  const cs_model_config *config = cs_model_get_config(opened);
  const char *format = cs_model_format(opened);
  const consort_model_info info = {
      .struct_size = sizeof info,
      .n_layers = config->n_layers,
      .path = cs_model_path(opened),
      .architecture = config->architecture,
      .name = config->name,
      .format = format ? format : "",
      .tokenizer = model->tokenizer_name,
      .n_embd = config->n_embd,
      .n_heads = config->n_heads,
      .n_kv_heads = config->n_kv_heads,
      .head_dim = config->k_width,
      .n_ff = config->n_ff,
      .n_vocab = config->n_vocab,
      .n_context = config->n_context,
      .tied_embeddings = config->tied_embeddings,
      .n_parameters = count_parameters(opened),
      .file_bytes = cs_model_file_bytes(opened),
      .weight_bytes = cs_model_weight_bytes(opened),
      .kv_bytes_per_token_f16 = cs_model_kv_bytes_per_token(opened, CS_DTYPE_F16),
      .kv_bytes_per_token_fp8 = cs_model_kv_bytes_per_token(opened, CS_DTYPE_F8_E4M3),
      .kv_bytes_per_token_int8 = cs_model_kv_bytes_per_token(opened, CS_DTYPE_I8),
      .fingerprint = cs_model_fingerprint(opened),
      .bos = model->tokenizer ? cs_tokenizer_bos(model->tokenizer) : -1,
      .eos = model->tokenizer ? cs_tokenizer_eos(model->tokenizer) : -1,
  };
  return cs_struct_write(out, &info, sizeof info, "model info", error);
}

size_t consort_model_n_tensors(const consort_model *model) {
  const cs_gguf *gguf = cs_model_gguf(inner(model));
  return gguf ? cs_gguf_n_tensors(gguf) : cs_model_n_weights(inner(model));
}

static void describe_tensor(const consort_model *model, size_t index, consort_tensor_info *info) {
  const cs_gguf *gguf = cs_model_gguf(inner(model));
  const uint64_t *dims;
  uint32_t dtype;
  if (gguf) {
    const cs_gguf_tensor *tensor = cs_gguf_tensor_at(gguf, index);
    info->name = model->tensor_names[index];
    info->dtype = cs_gguf_type_name(tensor->file_type);
    info->rank = tensor->rank;
    info->bytes = tensor->bytes;
    dtype = tensor->dtype;
    dims = tensor->dims;
  } else {
    const cs_model_weight *weight = cs_model_weight_at(inner(model), index);
    info->name = weight->name;
    info->rank = weight->rank;
    info->bytes = weight->bytes;
    dtype = weight->dtype;
    dims = weight->dims;
  }
  const cs_dtype_info *known = cs_dtype_find(dtype);
  if (known) info->dtype = known->name;
  memcpy(info->dims, dims, info->rank * sizeof *dims);
}

cs_status consort_model_tensor(const consort_model *model, size_t index, consort_tensor_info *out,
                               cs_error *error) {
  const size_t n_tensors = consort_model_n_tensors(model);
  if (index >= n_tensors)
    return cs_error_set(error, CS_OUT_OF_RANGE, "tensor %zu: the model has %zu", index, n_tensors);
  consort_tensor_info info = {.struct_size = sizeof info};
  describe_tensor(model, index, &info);
  return cs_struct_write(out, &info, sizeof info, "tensor info", error);
}

/* ---- text and tokens ---- */

cs_status consort_tokenize(const consort_model *model, const char *text, size_t text_bytes,
                           uint32_t special, int32_t **tokens, size_t *n_tokens, cs_error *error) {
  *tokens = NULL;
  *n_tokens = 0;
  const cs_tokenizer *tokenizer;
  const cs_status status = cs_model_need_tokenizer(inner(model), &tokenizer, error);
  if (status != CS_OK) return status;
  if (special > CS_ENCODE_MARKED)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "special is %u", special);
  return cs_tokenizer_encode(tokenizer, text, text_bytes, special, tokens, n_tokens, error);
}

const char *consort_token_piece(const consort_model *model, int32_t token) {
  return model->tokenizer ? cs_tokenizer_piece(model->tokenizer, token) : NULL;
}

cs_status consort_detokenize(const consort_model *model, const int32_t *tokens, size_t n_tokens,
                             char **text, size_t *text_bytes, cs_error *error) {
  *text = NULL;
  *text_bytes = 0;
  const cs_tokenizer *tokenizer;
  const cs_status status = cs_model_need_tokenizer(inner(model), &tokenizer, error);
  if (status != CS_OK) return status;
  const size_t step = cs_tokenizer_max_piece_bytes(tokenizer);
  size_t capacity = 0, used = 0;
  char *buffer = NULL;
  cs_detokenizer state;
  cs_detokenizer_init(&state, tokenizer, true, false);
  for (size_t i = 0; i <= n_tokens; i++) {
    if (capacity - used <= step) { /* room for one piece and the final NUL */
      capacity = capacity * 2 + step + 1;
      char *larger = realloc(buffer, capacity);
      if (!larger) {
        free(buffer);
        return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
      }
      buffer = larger;
    }
    used += i < n_tokens ? cs_detokenizer_push(&state, tokens[i], buffer + used, step)
                         : cs_detokenizer_flush(&state, buffer + used, step);
  }
  buffer[used] = '\0';
  *text = buffer;
  *text_bytes = used;
  return CS_OK;
}
