/* What happens to a text before the model sees it: normalizers change it, pre-tokenizers cut it.
 * Both are lists of steps, whatever file they were read from. */
#ifndef MODELS_TOKENIZER_STEPS_H
#define MODELS_TOKENIZER_STEPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

/* ---- patterns: PCRE2 with Unicode properties ---- */

typedef struct cs_pattern cs_pattern; /* immutable and free-threaded */

/* Regular expressions are written as published tokenizers have them; \s, \w and \d mean Unicode's
 * white space, word characters and decimal digits. CS_CORRUPT says what is wrong with it. */
cs_status cs_pattern_create(const char *expression, size_t bytes, cs_pattern **out,
                            cs_error *error);
/* Exactly this text. */
cs_status cs_pattern_create_literal(const char *text, size_t bytes, cs_pattern **out,
                                    cs_error *error);
void cs_pattern_destroy(cs_pattern *pattern);
/* Whether both are written the same, but for escapes that stand for one character. */
bool cs_pattern_equal(const cs_pattern *a, const cs_pattern *b);
/* Whether `many` is `one`, a single class of characters, with "+" behind it. */
bool cs_pattern_repeats(const cs_pattern *one, const cs_pattern *many);
bool cs_pattern_is_literal(const cs_pattern *pattern, const char *text);

/* One search through one text. */
typedef struct cs_pattern_search {
  const cs_pattern *pattern;
  void *match; /* its own scratch; NULL for a literal */
} cs_pattern_search;
cs_status cs_pattern_begin(const cs_pattern *pattern, cs_pattern_search *search, cs_error *error);
void cs_pattern_end(cs_pattern_search *search);
/* The first match at or after `from` in well-formed UTF-8. *found false: none. CS_OUT_OF_RANGE when
 * the pattern takes more steps than a text of that length may. */
cs_status cs_pattern_next(cs_pattern_search *search, const char *text, size_t bytes, size_t from,
                          bool *found, size_t *begin, size_t *end, cs_error *error);

/* ---- a growing text ---- */

typedef struct cs_text {
  char *data;
  size_t bytes;
  size_t capacity;
} cs_text;
bool cs_text_append(cs_text *text, const char *data, size_t bytes); /* false: no memory */

/* ---- steps ---- */

enum {
  /* normalizers */
  CS_STEP_NFC,
  CS_STEP_NFD,
  CS_STEP_NFKC,
  CS_STEP_NFKD,
  CS_STEP_LOWERCASE,
  CS_STEP_STRIP_ACCENTS,
  CS_STEP_STRIP,    /* white space at the ends: `left`, `right` */
  CS_STEP_PREPEND,  /* `text`, but not to nothing */
  CS_STEP_REPLACE,  /* what `pattern` matches by `text` */
  CS_STEP_CHARSMAP, /* the table `text`; `each_cluster`: as the tokenizers library applies it */
  CS_STEP_BYTES,    /* every byte by its character */
  /* pre-tokenizers */
  CS_STEP_SPLIT,        /* by `pattern`, `behaviour`, `invert` */
  CS_STEP_SPACE_PREFIX, /* a space in front of a piece that has none */
  CS_STEP_METASPACE     /* spaces by the mark `text`, which may be put in front: `prefix` */
};

enum {
  CS_SPLIT_ISOLATED,
  CS_SPLIT_REMOVED,
  CS_SPLIT_WITH_PREVIOUS,
  CS_SPLIT_WITH_NEXT,
  CS_SPLIT_CONTIGUOUS
};

enum { CS_PREFIX_NEVER, CS_PREFIX_FIRST, CS_PREFIX_ALWAYS };

typedef struct cs_step {
  uint32_t kind; /* CS_STEP_* */
  uint32_t behaviour;
  uint32_t prefix;
  bool invert;
  bool left;
  bool right;
  bool each_cluster;
  bool cuts;           /* of CS_STEP_METASPACE: a piece begins at each mark */
  cs_pattern *pattern; /* owned */
  char *text;          /* owned */
  size_t text_bytes;
} cs_step;

typedef struct cs_steps {
  cs_step *list;
  size_t n;
} cs_steps;

/* Takes over what the step owns, also on failure (CS_OUT_OF_MEMORY). */
cs_status cs_steps_add(cs_steps *steps, const cs_step *step, cs_error *error);
void cs_steps_finish(cs_steps *steps);

/* The text after all normalizers, in *out (to be freed by the caller). Bytes that are no UTF-8 pass
 * unchanged. */
cs_status cs_normalize(const cs_steps *steps, const char *text, size_t bytes, cs_text *out,
                       cs_error *error);

typedef struct cs_span {
  size_t begin;
  size_t end;
} cs_span;

typedef struct cs_pieces { /* spans of `text` */
  cs_text text;
  cs_span *spans;
  size_t n;
  size_t capacity;
} cs_pieces;

/* Cuts a stretch; `first`: it begins the whole text. */
cs_status cs_pre_tokenize(const cs_steps *steps, const char *text, size_t bytes, bool first,
                          cs_pieces *out, cs_error *error);
void cs_pieces_finish(cs_pieces *pieces);

/* SentencePiece's table of replacements: a double array whose values are offsets into strings.
 * CS_CORRUPT when it is shorter than it says. */
cs_status cs_charsmap_check(const char *table, size_t bytes, cs_error *error);
cs_status cs_charsmap_apply(const cs_step *step, const char *text, size_t bytes, cs_text *out,
                            cs_error *error);

/* What tokenizer.ggml.pre names: a normalizer where the published tokenizer has one, and the
 * pre-tokenizers. CS_UNSUPPORTED: not known. */
cs_status cs_pre_tokenizer_named(const char *name, size_t bytes, cs_steps *normalizers,
                                 cs_steps *out, bool *ignore_merges, bool *add_bos,
                                 cs_error *error);
/* The first name that stands for just these steps; *name is NULL where none does.
 * CS_OUT_OF_MEMORY. */
cs_status cs_pre_tokenizer_name_of(const cs_steps *normalizers, const cs_steps *steps,
                                   bool ignore_merges, const char **name);
/* A pattern that cuts, kept as pieces of their own; for the readers of files. */
cs_status cs_steps_add_split(cs_steps *steps, const char *expression, uint32_t behaviour,
                             bool invert, cs_error *error);
extern const char cs_gpt2_pattern[];

/* White_Space of the Unicode standard, and what \w matches. */
bool cs_is_space(uint32_t character);
bool cs_is_word(uint32_t character);

#endif
