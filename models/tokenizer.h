/* Text to token ids and back, from a file's vocabulary. */
#ifndef MODELS_TOKENIZER_H
#define MODELS_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/gguf.h"

typedef struct cs_tokenizer cs_tokenizer; /* immutable and free-threaded */

/* From GGUF metadata, vocabulary-only files included. CS_UNSUPPORTED names the tokenizer model. */
cs_status cs_tokenizer_create(const cs_gguf *gguf, cs_tokenizer **out, cs_error *error);
void cs_tokenizer_destroy(cs_tokenizer *tokenizer);

/* From a tokenizer.json, as Hugging Face's tokenizers library writes it, and the text of the
 * tokenizer_config.json beside it, which names BOS and EOS (NULL: none). `name` stands for the file
 * in errors. CS_UNSUPPORTED names a component that is not known here. */
cs_status cs_tokenizer_create_json(const char *name, const char *json, size_t json_bytes,
                                   const char *config, size_t config_bytes, cs_tokenizer **out,
                                   cs_error *error);
/* The same from a path: a tokenizer.json or the folder that it is in. */
cs_status cs_tokenizer_open_json(const char *path, cs_tokenizer **out, cs_error *error);

/* Whether a path is a vocabulary and no model: a file whose name ends in ".json", or a folder
 * without a config.json. */
bool cs_tokenizer_path_is_json(const char *path);

/* What the file calls its tokenizer: "llama", "gpt2", "t5", "BPE", "Unigram". Static. */
const char *cs_tokenizer_kind(const cs_tokenizer *tokenizer);
uint32_t cs_tokenizer_n_vocab(const cs_tokenizer *tokenizer);
int32_t cs_tokenizer_bos(const cs_tokenizer *tokenizer);             /* -1: none */
int32_t cs_tokenizer_eos(const cs_tokenizer *tokenizer);             /* -1: none */
bool cs_tokenizer_is_end(const cs_tokenizer *tokenizer, int32_t id); /* EOS, EOT and the like */

#define CS_ENCODE_PLAIN   0 /* control tokens in the text are text, and none is added */
#define CS_ENCODE_SPECIAL 1 /* BOS and EOS are added as the file asks, control tokens are such */
#define CS_ENCODE_MARKED  2 /* control tokens are such, and none is added: for chat templates */

/* Encodes text_bytes bytes of any content. What lies between two control tokens that are taken as
 * such is encoded as a text of its own. User-defined tokens are always taken whole. CS_OUT_OF_RANGE
 * for more than 64 MiB of text, and where a pattern of the file would take too many steps. *ids is
 * allocated with malloc and owned by the caller. */
cs_status cs_tokenizer_encode(const cs_tokenizer *tokenizer, const char *text, size_t text_bytes,
                              uint32_t special, int32_t **ids, size_t *n_ids, cs_error *error);

/* The token's own spelling in the vocabulary ("▁the", "<0x0A>"), borrowed, NUL-terminated; NULL
 * outside the vocabulary. */
const char *cs_tokenizer_piece(const cs_tokenizer *tokenizer, int32_t id);

/* Streaming decoder: bytes come out only as whole UTF-8 characters; what is none leaves as it is or
 * as U+FFFD. */
typedef struct cs_detokenizer {
  const cs_tokenizer *tokenizer;
  uint8_t pending[8]; /* an unfinished character */
  uint32_t n_pending;
  uint32_t n_stripped; /* spaces that encoding put in front and that are still to be dropped */
  bool replaces;       /* broken characters become U+FFFD */
} cs_detokenizer;

/* `at_start`: drop the leading space of the first piece (decoding from the beginning of a text).
 * `replaces`: the output is well-formed UTF-8 whatever the tokens are; else encoding and decoding
 * give the same bytes back. */
void cs_detokenizer_init(cs_detokenizer *state, const cs_tokenizer *tokenizer, bool at_start,
                         bool replaces);
/* Writes at most `capacity` bytes to `out` and returns how many the token yields; control tokens
 * yield what was unfinished before them. A capacity of cs_tokenizer_max_piece_bytes() suffices. */
size_t cs_detokenizer_push(cs_detokenizer *state, int32_t id, char *out, size_t capacity);
/* What is left of an unfinished character. */
size_t cs_detokenizer_flush(cs_detokenizer *state, char *out, size_t capacity);
/* An upper bound on what one token yields. */
size_t cs_tokenizer_max_piece_bytes(const cs_tokenizer *tokenizer);

#endif
