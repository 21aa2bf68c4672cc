/* A tokenizer.json under the keys of a GGUF file. */
#ifndef MODELS_TOKENIZER_GGUF_H
#define MODELS_TOKENIZER_GGUF_H

#include "models/gguf_writer.h"
#include "models/tokenizer.h"

/* Writes the folder's tokenizer.json, with what its tokenizer_config.json says, as
 * "tokenizer.ggml." keys: byte-level BPE as "gpt2", BPE of SentencePiece's kind as "llama" with a
 * score for each merge, unigram as "t5". Holes and ids up to `n_rows` become unused tokens. What is
 * written was read back and compared first. Nothing is written on failure: CS_UNSUPPORTED says what
 * GGUF has no way to say, other errors are those of reading the file. */
cs_status cs_tokenizer_write_gguf(const char *folder, uint64_t n_rows, cs_gguf_writer *writer,
                                  cs_error *error);

/* The same for a tokenizer that was read; `pad` is -1 where there is none. */
cs_status cs_tokenizer_to_gguf(const cs_tokenizer *tokenizer, int32_t pad, uint64_t n_rows,
                               cs_gguf_writer *writer, cs_error *error);

#endif
