/* From a text to ids: tokens that are taken whole are cut out first, what lies between them passes
 * normalizers and pre-tokenizers, and the model cuts each piece. SentencePiece files without a
 * tokenizer.json keep their own, simpler way: spaces become marks, and the whole stretch between
 * two control tokens is one piece. */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/tokenizer_internal.h"
#include "models/utf8.h"

#define SPACE_MARK       "\xe2\x96\x81" /* U+2581, a space inside the vocabulary */
#define SPACE_MARK_BYTES 3
#define MAX_TEXT_BYTES   (1u << 26)

typedef struct encoder {
  const cs_tokenizer *tokenizer;
  bool special; /* control tokens are taken as such */
  cs_id_list *list;
  cs_error *error;
} encoder;

static cs_status no_memory(cs_error *error) {
  return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
}

/* ---- tokens that are taken whole --------------------------------------------------------- */

/* Which of them are looked for. */
typedef enum stage {
  CONTROL,      /* of a SentencePiece file */
  USER_DEFINED, /* likewise */
  RAW,          /* before normalizers */
  NORMALIZED    /* after them */
} stage;

static bool belongs(const encoder *e, const cs_piece *piece, stage now) {
  const bool control = piece->type == CS_PIECE_CONTROL;
  if (control && !e->special) return false;
  if (now == CONTROL || now == USER_DEFINED) return control == (now == CONTROL);
  return !(piece->matches & CS_ADDED_NORMALIZED) == (now == RAW);
}

/* The longest token of that stage that the text begins with, NULL when none. */
static const cs_added *match_added(const encoder *e, const char *text, size_t bytes, stage now) {
  const cs_tokenizer *t = e->tokenizer;
  const uint8_t first = (uint8_t)text[0];
  for (uint32_t i = t->added_begin[first]; i < t->added_begin[first + 1]; i++) {
    const cs_added *added = &t->added[i];
    if (added->bytes <= bytes && memcmp(added->match, text, added->bytes) == 0 &&
        belongs(e, &t->pieces[added->id], now))
      return added;
  }
  return NULL;
}

/* Where the character that ends before `at` begins; `from` when there is none. */
static size_t previous_character(const char *text, size_t from, size_t at) {
  if (at == from) return from;
  do
    at--;
  while (at > from && ((uint8_t)text[at] & 0xc0) == 0x80);
  return at;
}

static bool is_space_at(const char *text, size_t at, size_t end) {
  const int length = cs_utf8_character((const uint8_t *)text + at, end - at);
  return length > 0 && cs_is_space(cs_utf8_code_point(text + at, length));
}

static bool is_word_at(const char *text, size_t at, size_t end) {
  const int length = cs_utf8_character((const uint8_t *)text + at, end - at);
  return length > 0 && cs_is_word(cs_utf8_code_point(text + at, length));
}

static bool stands_alone(const char *text, size_t bytes, size_t begin, size_t end) {
  return (begin == 0 || !is_word_at(text, previous_character(text, 0, begin), begin)) &&
         (end == bytes || !is_word_at(text, end, bytes));
}

typedef struct cut {
  size_t begin;
  size_t end;
  int32_t id; /* -1: the text ends without one */
} cut;

/* The next token of that stage at or after `at`, with the white space that it takes along. */
static cut find_added(const encoder *e, const char *text, size_t at, size_t bytes, stage now) {
  const size_t from = at;
  while (at < bytes) {
    const cs_added *added = match_added(e, text + at, bytes - at, now);
    if (!added) {
      at++;
      continue;
    }
    cut found = {at, at + added->bytes, added->id};
    const uint8_t matches = e->tokenizer->pieces[added->id].matches;
    at = found.end;
    if ((matches & CS_ADDED_SINGLE_WORD) && !stands_alone(text, bytes, found.begin, found.end))
      continue;
    if (matches & CS_ADDED_LSTRIP)
      for (size_t before; found.begin > from; found.begin = before) {
        before = previous_character(text, from, found.begin);
        if (!is_space_at(text, before, found.begin)) break;
      }
    if (matches & CS_ADDED_RSTRIP)
      while (found.end < bytes && is_space_at(text, found.end, bytes))
        found.end +=
            (size_t)cs_utf8_character((const uint8_t *)text + found.end, bytes - found.end);
    return found;
  }
  return (cut){bytes, bytes, -1};
}

typedef cs_status (*stretch_encoder)(const encoder *e, const char *text, size_t bytes, bool first);

/* What lies between two tokens of that stage goes to `encode`; `first`: the text begins here. */
static cs_status cut_out(const encoder *e, const char *text, size_t bytes, bool first, stage now,
                         stretch_encoder encode) {
  for (size_t begin = 0; begin < bytes;) {
    const cut next = find_added(e, text, begin, bytes, now);
    if (next.begin > begin) {
      const cs_status status = encode(e, text + begin, next.begin - begin, first && begin == 0);
      if (status != CS_OK) return status;
    }
    if (next.id < 0) return CS_OK;
    if (!cs_id_list_append(e->list, next.id)) return no_memory(e->error);
    begin = next.end;
  }
  return CS_OK;
}

/* ---- SentencePiece files ----------------------------------------------------------------- */

/* Spaces become marks, and one goes in front where the vocabulary wants it. */
static char *mark_spaces(const char *text, size_t bytes, bool prefix, size_t *marked_bytes) {
  size_t n_spaces = prefix ? 1 : 0;
  for (size_t i = 0; i < bytes; i++)
    n_spaces += text[i] == ' ';
  *marked_bytes = bytes + n_spaces * SPACE_MARK_BYTES - (n_spaces - (prefix ? 1 : 0));
  char *marked = malloc(*marked_bytes);
  if (!marked) return NULL;
  char *to = marked;
  if (prefix) {
    memcpy(to, SPACE_MARK, SPACE_MARK_BYTES);
    to += SPACE_MARK_BYTES;
  }
  for (size_t i = 0; i < bytes; i++) {
    if (text[i] == ' ') {
      memcpy(to, SPACE_MARK, SPACE_MARK_BYTES);
      to += SPACE_MARK_BYTES;
    } else {
      *to++ = text[i];
    }
  }
  return marked;
}

static cs_status encode_marked(const encoder *e, const char *text, size_t bytes, bool prefix) {
  if (bytes == 0 && !prefix) return CS_OK;
  size_t marked_bytes;
  char *marked = mark_spaces(text, bytes, prefix, &marked_bytes);
  if (!marked) return no_memory(e->error);
  const cs_status status =
      cs_tokenizer_merge(e->tokenizer, marked, marked_bytes, e->list, e->error);
  free(marked);
  return status;
}

/* User-defined tokens are cut out; the space in front comes once, before whatever is first. */
static cs_status encode_sentence(const encoder *e, const char *text, size_t bytes, bool first) {
  (void)first;
  bool prefix = e->tokenizer->add_space_prefix;
  for (size_t begin = 0; begin < bytes;) {
    const cut next = find_added(e, text, begin, bytes, USER_DEFINED);
    const cs_status status = encode_marked(e, text + begin, next.begin - begin, prefix);
    if (status != CS_OK) return status;
    if (next.id < 0) return CS_OK;
    if (!cs_id_list_append(e->list, next.id)) return no_memory(e->error);
    prefix = false;
    begin = next.end;
  }
  return CS_OK;
}

/* ---- everything else --------------------------------------------------------------------- */

static cs_status encode_pieces(const encoder *e, const char *text, size_t bytes, bool first) {
  const cs_tokenizer *t = e->tokenizer;
  cs_pieces pieces;
  cs_status status = cs_pre_tokenize(&t->pre_tokenizers, text, bytes, first, &pieces, e->error);
  for (size_t i = 0; status == CS_OK && i < pieces.n; i++) {
    const char *piece = pieces.text.data + pieces.spans[i].begin;
    const size_t piece_bytes = pieces.spans[i].end - pieces.spans[i].begin;
    status = t->kind == CS_TOKENIZER_UNIGRAM
                 ? cs_tokenizer_unigram(t, piece, piece_bytes, e->list, e->error)
                 : cs_tokenizer_merge(t, piece, piece_bytes, e->list, e->error);
  }
  cs_pieces_finish(&pieces);
  return status;
}

static cs_status encode_raw(const encoder *e, const char *text, size_t bytes, bool first) {
  cs_text normalized;
  cs_status status = cs_normalize(&e->tokenizer->normalizers, text, bytes, &normalized, e->error);
  if (status != CS_OK) return status;
  status = cut_out(e, normalized.data, normalized.bytes, first, NORMALIZED, encode_pieces);
  free(normalized.data);
  return status;
}

static bool append_all(cs_id_list *list, const int32_t *ids, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!cs_id_list_append(list, ids[i])) return false;
  return true;
}

cs_status cs_tokenizer_encode(const cs_tokenizer *t, const char *text, size_t text_bytes,
                              uint32_t special, int32_t **ids, size_t *n_ids, cs_error *error) {
  *ids = NULL;
  *n_ids = 0;
  if (text_bytes > MAX_TEXT_BYTES)
    return cs_error_set(error, CS_OUT_OF_RANGE, "a text of %zu bytes is longer than %u", text_bytes,
                        MAX_TEXT_BYTES);
  cs_id_list list = {0};
  const encoder e = {t, special != CS_ENCODE_PLAIN, &list, error};
  const bool adds = special == CS_ENCODE_SPECIAL;
  const bool sentences = t->kind == CS_TOKENIZER_SCORES;
  cs_status status = CS_OK;
  if (adds && !append_all(&list, t->prefix, t->n_prefix)) goto err_memory;
  status = cut_out(&e, text, text_bytes, true, sentences ? CONTROL : RAW,
                   sentences ? encode_sentence : encode_raw);
  if (status != CS_OK) goto err_free_list;
  if (adds && !append_all(&list, t->suffix, t->n_suffix)) goto err_memory;
  *ids = list.ids;
  *n_ids = list.n;
  return CS_OK;

err_memory:
  status = no_memory(error);
err_free_list:
  free(list.ids);
  return status;
}
