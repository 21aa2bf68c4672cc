/* Readers of GGUF files want a tokenizer even where only ids are fed. SentencePiece's kind is the
 * one that all of them know: with a token for each byte any text can be encoded, and words whose
 * every beginning is a word too are reached by its merges, so that prompts of letters have usual
 * lengths. */
#include "models/model_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/config_reader.h"
#include "models/gguf_internal.h"
#include "models/gguf_writer.h"
#include "models/model_internal.h"
#include "models/new_file.h"
#include "models/tokenizer_internal.h"

#define PIECE_BYTES 16
#define N_CONTROL   3 /* unknown, begin, end */
#define N_BYTES     256
#define FIRST_WORD  (N_CONTROL + N_BYTES + 1) /* behind the space */
#define SPACE_MARK  "\xe2\x96\x81"

/* ---- tokenizer --------------------------------------------------------------------------- */

/* a to z, aa, ab to zz, aaa ...: bijective numbers of base 26. */
static void spell_word(uint32_t index, char piece[PIECE_BYTES]) {
  char reversed[PIECE_BYTES];
  int n = 0;
  for (uint64_t rest = (uint64_t)index + 1; rest > 0; rest = (rest - 1) / 26)
    reversed[n++] = (char)('a' + (rest - 1) % 26);
  for (int i = 0; i < n; i++)
    piece[i] = reversed[n - 1 - i];
  piece[n] = '\0';
}

static uint32_t spell(uint32_t id, char piece[PIECE_BYTES]) {
  static const char *const control[N_CONTROL] = {"<unk>", "<s>", "</s>"};
  static const uint32_t types[N_CONTROL] = {CS_PIECE_UNKNOWN, CS_PIECE_CONTROL, CS_PIECE_CONTROL};
  if (id < N_CONTROL) {
    snprintf(piece, PIECE_BYTES, "%s", control[id]);
    return types[id];
  }
  if (id < N_CONTROL + N_BYTES) {
    snprintf(piece, PIECE_BYTES, "<0x%02X>", id - N_CONTROL);
    return CS_PIECE_BYTE;
  }
  if (id < FIRST_WORD)
    snprintf(piece, PIECE_BYTES, "%s", SPACE_MARK);
  else
    spell_word(id - FIRST_WORD, piece);
  return CS_PIECE_NORMAL;
}

static void write_tokenizer(cs_gguf_writer *writer, uint32_t n_vocab) {
  char piece[PIECE_BYTES];
  cs_gguf_write_string(writer, "tokenizer.ggml.model", "llama");
  cs_gguf_write_array(writer, "tokenizer.ggml.tokens", CS_GGUF_KIND_STRING, n_vocab);
  for (uint32_t id = 0; id < n_vocab; id++) {
    spell(id, piece);
    cs_gguf_write_string_element(writer, piece, strlen(piece));
  }
  cs_gguf_write_array(writer, "tokenizer.ggml.scores", CS_GGUF_KIND_F32, n_vocab);
  for (uint32_t id = 0; id < n_vocab; id++) {
    const float score = id < FIRST_WORD ? 0 : -(float)(id - FIRST_WORD);
    cs_gguf_write_elements(writer, &score, sizeof score);
  }
  cs_gguf_write_array(writer, "tokenizer.ggml.token_type", CS_GGUF_KIND_I32, n_vocab);
  for (uint32_t id = 0; id < n_vocab; id++) {
    const int32_t type = (int32_t)spell(id, piece);
    cs_gguf_write_elements(writer, &type, sizeof type);
  }
  cs_gguf_write_u32(writer, "tokenizer.ggml.unknown_token_id", 0);
  cs_gguf_write_u32(writer, "tokenizer.ggml.bos_token_id", 1);
  cs_gguf_write_u32(writer, "tokenizer.ggml.eos_token_id", 2);
  cs_gguf_write_bool(writer, "tokenizer.ggml.add_bos_token", true);
  cs_gguf_write_bool(writer, "tokenizer.ggml.add_eos_token", false);
}

/* ---- head -------------------------------------------------------------------------------- */

static void write_config(cs_gguf_writer *writer, const cs_model_config *config) {
  const struct {
    const char *suffix;
    uint32_t value;
  } counts[] = {
      {"block_count", config->n_layers},         {"context_length", config->n_context},
      {"embedding_length", config->n_embd},      {"feed_forward_length", config->n_ff},
      {"attention.head_count", config->n_heads}, {"attention.head_count_kv", config->n_kv_heads},
      {"attention.key_length", config->k_width}, {"attention.value_length", config->v_width},
      {"rope.dimension_count", config->n_rot},   {"vocab_size", config->n_vocab},
  };
  char key[CS_CONFIG_KEY_BYTES];
  cs_gguf_write_string(writer, "general.architecture", config->architecture);
  cs_gguf_write_string(writer, "general.name", config->name);
  cs_gguf_write_string(writer, "general.description", "random weights, for measuring speed");
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    snprintf(key, sizeof key, "%s.%s", config->architecture, counts[i].suffix);
    cs_gguf_write_u32(writer, key, counts[i].value);
  }
  snprintf(key, sizeof key, "%s.rope.freq_base", config->architecture);
  cs_gguf_write_f32(writer, key, config->rope_base);
  snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", config->architecture);
  cs_gguf_write_f32(writer, key, config->norm_epsilon);
}

/* What every reader computes from the configuration is not stored. */
static bool is_stored(const cs_model *model, size_t key) {
  return key != cs_model_weight_key(model, -1, CS_ROLE_INV_FREQ);
}

static cs_status write_head(const cs_model *model, cs_new_file *file, cs_error *error) {
  cs_gguf_writer *writer = cs_gguf_writer_create();
  if (!writer) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  write_config(writer, &model->config);
  write_tokenizer(writer, model->config.n_vocab);
  for (size_t i = 0; i < cs_model_n_weights(model); i++) {
    const cs_model_weight *weight = cs_model_weight_at(model, i);
    const cs_gguf_string name = {weight->name, strlen(weight->name)};
    if (is_stored(model, i))
      cs_gguf_write_tensor(writer, name, cs_gguf_type_of(weight->dtype), weight->rank, weight->dims,
                           weight->bytes);
  }
  void *head;
  size_t bytes;
  cs_status status = cs_gguf_writer_finish(writer, &head, &bytes, error);
  cs_gguf_writer_destroy(writer);
  if (status != CS_OK) return status;
  status = cs_new_file_write(file, head, bytes, error);
  free(head);
  return status;
}

/* ---- weights ----------------------------------------------------------------------------- */

static cs_status write_weights(const cs_model *model, cs_new_file *file,
                               cs_model_write_progress progress, void *user, cs_error *error) {
  static const uint8_t zeros[CS_GGUF_ALIGNMENT];
  const uint64_t total = cs_model_weight_bytes(model);
  uint64_t done = 0;
  for (size_t i = 0; i < cs_model_n_weights(model); i++) {
    const cs_model_weight *weight = cs_model_weight_at(model, i);
    cs_status status = CS_OK;
    if (is_stored(model, i)) {
      status = cs_new_file_write(file, weight->data, (size_t)weight->bytes, error);
      if (status == CS_OK)
        status =
            cs_new_file_write(file, zeros, (size_t)(-weight->bytes % CS_GGUF_ALIGNMENT), error);
    }
    if (status != CS_OK) return status;
    done += weight->bytes;
    if (progress) progress(user, done, total);
  }
  return CS_OK;
}

cs_status cs_model_write(const cs_model *model, const char *path, cs_model_write_progress progress,
                         void *user, cs_error *error) {
  if (model->gguf || model->config.n_vocab < FIRST_WORD)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: only models of a shape are written", path);
  cs_new_file file;
  cs_status status = cs_new_file_create(path, &file, error);
  if (status == CS_OK) status = write_head(model, &file, error);
  if (status == CS_OK) status = write_weights(model, &file, progress, user, error);
  if (status == CS_OK) return cs_new_file_finish(&file, error);
  cs_new_file_abandon(&file);
  return status;
}
