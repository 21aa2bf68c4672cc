/* The inside of cs_tokenizer: the vocabulary and how pieces are found in it. */
#ifndef MODELS_TOKENIZER_INTERNAL_H
#define MODELS_TOKENIZER_INTERNAL_H

#include "models/tokenizer.h"

/* tokenizer.ggml.token_type */
enum {
  CS_PIECE_UNDEFINED,
  CS_PIECE_NORMAL,
  CS_PIECE_UNKNOWN,
  CS_PIECE_CONTROL,
  CS_PIECE_USER_DEFINED,
  CS_PIECE_UNUSED,
  CS_PIECE_BYTE
};

typedef struct cs_piece {
  const char *text; /* NUL-terminated in the tokenizer's arena */
  uint32_t bytes;
  uint32_t type; /* CS_PIECE_* */
  float score;
  bool ends;    /* generation stops at it */
  uint8_t byte; /* what a CS_PIECE_BYTE stands for */
} cs_piece;

struct cs_tokenizer {
  cs_piece *pieces;
  uint32_t n_vocab;
  char *arena;
  int32_t *table; /* open addressing over the spellings that text can match; -1 is free */
  uint32_t table_mask;
  int32_t *specials; /* control and user-defined tokens, longest spelling first */
  uint32_t n_specials;
  bool special_starts[256]; /* first bytes of those */
  int32_t byte_ids[256];    /* -1: the vocabulary has no token for this byte */
  int32_t bos;
  int32_t eos;
  int32_t unknown;
  bool add_bos;
  bool add_eos;
  bool add_space_prefix;
  size_t max_piece_bytes;
};

/* The token spelled so, -1 when there is none. */
int32_t cs_tokenizer_find(const cs_tokenizer *tokenizer, const char *text, size_t bytes);

#endif
