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

uint32_t cs_tokenizer_n_vocab(const cs_tokenizer *tokenizer);
int32_t cs_tokenizer_bos(const cs_tokenizer *tokenizer);             /* -1: none */
int32_t cs_tokenizer_eos(const cs_tokenizer *tokenizer);             /* -1: none */
bool cs_tokenizer_is_end(const cs_tokenizer *tokenizer, int32_t id); /* EOS, EOT and the like */

/* Encodes text_bytes bytes of any content. `special`: add BOS and EOS as the file asks, and take
 * control tokens in the text as such; what lies between two of them is then encoded as a text of
 * its own. User-defined tokens are always taken whole. CS_OUT_OF_RANGE for more than 64 MiB of
 * text. *ids is allocated with malloc and owned by the caller. */
cs_status cs_tokenizer_encode(const cs_tokenizer *tokenizer, const char *text, size_t text_bytes,
                              bool special, int32_t **ids, size_t *n_ids, cs_error *error);

/* The token's own spelling in the vocabulary ("▁the", "<0x0A>"), borrowed, NUL-terminated; NULL
 * outside the vocabulary. */
const char *cs_tokenizer_piece(const cs_tokenizer *tokenizer, int32_t id);

/* Streaming decoder: bytes come out only as whole UTF-8 characters (invalid ones as they are). */
typedef struct cs_detokenizer {
  const cs_tokenizer *tokenizer;
  uint8_t pending[8]; /* an unfinished character */
  uint32_t n_pending;
  bool at_start; /* the space that encoding put in front is still to be dropped */
} cs_detokenizer;

/* `at_start`: drop the leading space of the first piece (decoding from the beginning of a text). */
void cs_detokenizer_init(cs_detokenizer *state, const cs_tokenizer *tokenizer, bool at_start);
/* Writes at most `capacity` bytes to `out` and returns how many the token yields; control tokens
 * yield none. A capacity of cs_tokenizer_max_piece_bytes() + 8 always suffices. */
size_t cs_detokenizer_push(cs_detokenizer *state, int32_t id, char *out, size_t capacity);
/* What is left of an unfinished character. */
size_t cs_detokenizer_flush(cs_detokenizer *state, char *out, size_t capacity);
size_t cs_tokenizer_max_piece_bytes(const cs_tokenizer *tokenizer);

#endif
