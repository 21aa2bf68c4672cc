/* The inside of cs_tokenizer: a vocabulary, the steps that a text passes on its way to pieces, and
 * the model that cuts each piece into tokens. */
#ifndef MODELS_TOKENIZER_INTERNAL_H
#define MODELS_TOKENIZER_INTERNAL_H

#include "models/tokenizer.h"
#include "models/tokenizer_steps.h"

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

/* How a token that is taken whole is found in a text. */
enum {
  CS_ADDED_LSTRIP = 1,      /* white space in front belongs to it */
  CS_ADDED_RSTRIP = 2,      /* and white space behind */
  CS_ADDED_SINGLE_WORD = 4, /* only where no letter or digit touches it */
  CS_ADDED_NORMALIZED = 8   /* looked for after the normalizers */
};

/* How a piece of text becomes tokens. */
enum {
  CS_TOKENIZER_SCORES, /* SentencePiece's BPE: the pair whose spelling scores highest first */
  CS_TOKENIZER_MERGES, /* BPE with a list of merges */
  CS_TOKENIZER_UNIGRAM /* the likeliest way to cut */
};

typedef struct cs_piece {
  const char *text; /* NUL-terminated in the tokenizer's arena */
  uint32_t bytes;
  uint32_t type; /* CS_PIECE_* */
  double score;
  bool ends;       /* generation stops at it */
  bool is_text;    /* text may turn into it outside added tokens */
  uint8_t byte;    /* what a CS_PIECE_BYTE stands for */
  uint8_t matches; /* CS_ADDED_*, of a control or user-defined token */
} cs_piece;

typedef struct cs_merge { /* left and right become `merged`; rank 0 goes first */
  int32_t left;           /* -1: a free place of the table */
  int32_t right;
  int32_t merged;
  uint32_t rank;
} cs_merge;

/* A token that is taken whole: sorted by first byte, then longest first. */
typedef struct cs_added {
  const char *match; /* what to look for; borrowed from the piece or from `normalized` */
  uint32_t bytes;
  int32_t id;
} cs_added;

typedef struct cs_replacement { /* of the decoder */
  char from[16];
  char to[16];
} cs_replacement;

#define CS_MAX_REPLACEMENTS 4

struct cs_tokenizer {
  uint32_t kind;      /* CS_TOKENIZER_* */
  const char *source; /* "llama", "gpt2": what the file calls it */
  cs_piece *pieces;
  uint32_t n_vocab;
  char *arena;
  int32_t *table; /* open addressing over the spellings that text can match; -1 is free */
  uint32_t table_mask;
  cs_added *added;
  uint32_t n_added;
  uint32_t added_begin[257]; /* where those with a first byte stand */
  char **normalized;         /* n_added spellings that a normalizer changed, or NULL; owned */
  int32_t byte_ids[256];     /* -1: the vocabulary has no token for this byte */
  int32_t bos;
  int32_t eos;
  int32_t unknown;
  bool add_space_prefix;
  size_t max_piece_bytes;

  cs_merge *merges; /* open addressing by (left, right) */
  uint32_t merge_mask;
  bool ignore_merges; /* a piece that is a token as a whole is not cut */
  bool byte_fallback;
  bool fuse_unknown;
  int32_t *sorted; /* ids of text pieces by spelling, for unigram */
  uint32_t n_sorted;
  uint32_t sorted_begin[257]; /* by first byte */
  double unknown_score;

  cs_steps normalizers;
  cs_steps pre_tokenizers;
  int32_t *prefix; /* put in front when special tokens are asked for; owned */
  size_t n_prefix;
  int32_t *suffix;
  size_t n_suffix;

  bool byte_level;     /* pieces are spelled in the alphabet of bytes */
  bool decodes_marks;  /* U+2581 stands for a space */
  uint32_t n_stripped; /* spaces that decoding drops at the start of a text */
  cs_replacement replacements[CS_MAX_REPLACEMENTS];
  uint32_t n_replacements;
};

typedef struct cs_id_list {
  int32_t *ids;
  size_t n;
  size_t capacity;
} cs_id_list;

/* false: no memory. */
bool cs_id_list_append(cs_id_list *list, int32_t id);

/* The token spelled so, -1 when there is none. */
int32_t cs_tokenizer_find(const cs_tokenizer *tokenizer, const char *text, size_t bytes);
const cs_merge *cs_tokenizer_find_merge(const cs_tokenizer *tokenizer, int32_t left, int32_t right);

/* ---- building: pieces are filled; each of these makes one index, once; CS_OUT_OF_MEMORY ---- */

bool cs_tokenizer_index_text(cs_tokenizer *tokenizer);
/* `merges` may hold equal pairs: the later one counts. Copied. */
bool cs_tokenizer_index_merges(cs_tokenizer *tokenizer, const cs_merge *merges, size_t n_merges);
bool cs_tokenizer_index_unigram(cs_tokenizer *tokenizer);
/* Control and user-defined tokens; those with CS_ADDED_NORMALIZED pass the normalizers first. */
cs_status cs_tokenizer_index_added(cs_tokenizer *tokenizer, cs_error *error);
/* EOS and what chat models use in its place. */
void cs_tokenizer_mark_ends(cs_tokenizer *tokenizer);
/* The value of "<0x0A>", -1 for any other spelling. */
int cs_tokenizer_byte_of_spelling(const cs_piece *piece);

/* ---- the models: a piece of text, of any bytes, to ids ---- */

cs_status cs_tokenizer_merge(const cs_tokenizer *tokenizer, const char *text, size_t bytes,
                             cs_id_list *list, cs_error *error);
cs_status cs_tokenizer_unigram(const cs_tokenizer *tokenizer, const char *text, size_t bytes,
                               cs_id_list *list, cs_error *error);

/* ---- the alphabet of bytes that GPT-2 introduced ---- */

/* Writes the character for a byte, 1 or 2 bytes of UTF-8, and returns its length. */
uint32_t cs_byte_character(uint8_t byte, char out[2]);
/* The byte that a character (its code point) stands for, -1 for none. */
int cs_byte_of_character(uint32_t character);

#endif
