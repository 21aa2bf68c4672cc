/* SentencePiece's BPE: a text starts as its characters, and the neighbouring pair whose joint
 * spelling has the highest score is merged, the leftmost of equals first, until no pair is in the
 * vocabulary. Pairs wait in a binary heap, so that n characters take O(n log n); a pair whose
 * halves have changed since it was put there is recognised by its length and dropped. Characters
 * that end up without a token become byte tokens, so that any bytes can be encoded. */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/tokenizer_internal.h"
#include "models/utf8.h"

#define SPACE_MARK       "\xe2\x96\x81" /* U+2581, a space inside the vocabulary */
#define SPACE_MARK_BYTES 3
#define MAX_TEXT_BYTES   (1u << 26)
#define NONE             (-1)

typedef struct symbol { /* bytes = 0: merged into its left neighbour */
  const char *text;
  uint32_t bytes;
  int32_t previous;
  int32_t next;
} symbol;

typedef struct pair {
  float score;
  int32_t left;
  int32_t right;
  uint32_t bytes; /* of both, when it was found */
} pair;

typedef struct id_list {
  int32_t *ids;
  size_t n;
  size_t capacity;
} id_list;

typedef struct merger {
  const cs_tokenizer *tokenizer;
  symbol *symbols;
  size_t n_symbols;
  pair *heap; /* the best first */
  size_t n_pairs;
} merger;

static bool append(id_list *list, int32_t id) {
  if (list->n == list->capacity) {
    const size_t capacity = list->capacity ? 2 * list->capacity : 64;
    int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
    if (!ids) return false;
    list->ids = ids;
    list->capacity = capacity;
  }
  list->ids[list->n++] = id;
  return true;
}

/* ---- the heap ---------------------------------------------------------------------------- */

static bool is_better(const pair *a, const pair *b) {
  return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void push_pair(merger *m, pair added) {
  size_t at = m->n_pairs++;
  while (at > 0) {
    const size_t parent = (at - 1) / 2;
    if (!is_better(&added, &m->heap[parent])) break;
    m->heap[at] = m->heap[parent];
    at = parent;
  }
  m->heap[at] = added;
}

static pair pop_pair(merger *m) {
  const pair best = m->heap[0];
  const pair last = m->heap[--m->n_pairs];
  size_t at = 0;
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= m->n_pairs) break;
    if (child + 1 < m->n_pairs && is_better(&m->heap[child + 1], &m->heap[child])) child++;
    if (!is_better(&m->heap[child], &last)) break;
    m->heap[at] = m->heap[child];
    at = child;
  }
  m->heap[at] = last;
  return best;
}

/* ---- merging ----------------------------------------------------------------------------- */

static void consider(merger *m, int32_t left, int32_t right) {
  if (left == NONE || right == NONE) return;
  const uint32_t bytes = m->symbols[left].bytes + m->symbols[right].bytes;
  const int32_t id = cs_tokenizer_find(m->tokenizer, m->symbols[left].text, bytes);
  if (id < 0) return;
  push_pair(m, (pair){m->tokenizer->pieces[id].score, left, right, bytes});
}

static void split_characters(merger *m, const char *text, size_t bytes) {
  for (size_t at = 0; at < bytes;) {
    const int length = cs_utf8_character((const uint8_t *)text + at, bytes - at);
    const uint32_t taken = length > 0 ? (uint32_t)length : 1;
    const int32_t index = (int32_t)m->n_symbols++;
    m->symbols[index] = (symbol){text + at, taken, index - 1, index + 1};
    at += taken;
  }
  m->symbols[m->n_symbols - 1].next = NONE;
}

static void merge_pairs(merger *m) {
  for (int32_t i = 1; i < (int32_t)m->n_symbols; i++)
    consider(m, i - 1, i);
  while (m->n_pairs > 0) {
    const pair best = pop_pair(m);
    symbol *left = &m->symbols[best.left];
    symbol *right = &m->symbols[best.right];
    if (left->bytes == 0 || right->bytes == 0 || left->bytes + right->bytes != best.bytes) continue;
    left->bytes = best.bytes;
    left->next = right->next;
    right->bytes = 0;
    if (left->next != NONE) m->symbols[left->next].previous = best.left;
    consider(m, left->previous, best.left);
    consider(m, best.left, left->next);
  }
}

static cs_status emit_bytes(const cs_tokenizer *t, const symbol *s, id_list *list,
                            cs_error *error) {
  for (uint32_t i = 0; i < s->bytes; i++) {
    const uint8_t byte = (uint8_t)s->text[i];
    const int32_t id = t->byte_ids[byte] >= 0 ? t->byte_ids[byte] : t->unknown;
    if (id < 0)
      return cs_error_set(error, CS_FAILED, "the vocabulary has no token for byte 0x%02X", byte);
    if (!append(list, id)) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  }
  return CS_OK;
}

static cs_status emit_symbols(const merger *m, id_list *list, cs_error *error) {
  for (int32_t i = 0; i != NONE; i = m->symbols[i].next) {
    const symbol *s = &m->symbols[i];
    const int32_t id = cs_tokenizer_find(m->tokenizer, s->text, s->bytes);
    if (id < 0) {
      const cs_status status = emit_bytes(m->tokenizer, s, list, error);
      if (status != CS_OK) return status;
    } else if (!append(list, id)) {
      return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
    }
  }
  return CS_OK;
}

/* ---- a stretch of plain text ------------------------------------------------------------- */

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

static cs_status encode_plain(const cs_tokenizer *t, const char *text, size_t bytes, bool prefix,
                              id_list *list, cs_error *error) {
  if (bytes == 0 && !prefix) return CS_OK;
  size_t marked_bytes;
  char *marked = mark_spaces(text, bytes, prefix, &marked_bytes);
  merger m = {.tokenizer = t};
  m.symbols = malloc(marked_bytes * sizeof *m.symbols);
  m.heap = malloc(3 * marked_bytes * sizeof *m.heap); /* each merge adds two pairs at most */
  cs_status status = CS_OK;
  if (!marked || !m.symbols || !m.heap) {
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  } else {
    split_characters(&m, marked, marked_bytes);
    merge_pairs(&m);
    status = emit_symbols(&m, list, error);
  }
  free(m.heap);
  free(m.symbols);
  free(marked);
  return status;
}

/* ---- special tokens ---------------------------------------------------------------------- */

/* The longest token of that type that the text begins with, -1 when none. */
static int32_t match_special(const cs_tokenizer *t, const char *text, size_t bytes, uint32_t type) {
  if (!t->special_starts[(uint8_t)text[0]]) return -1;
  for (uint32_t i = 0; i < t->n_specials; i++) {
    const cs_piece *piece = &t->pieces[t->specials[i]];
    if (piece->type == type && piece->bytes <= bytes &&
        memcmp(piece->text, text, piece->bytes) == 0)
      return t->specials[i];
  }
  return -1;
}

/* The first place from `at` on where a token of that type stands; `bytes` when there is none. */
static size_t find_special(const cs_tokenizer *t, const char *text, size_t at, size_t bytes,
                           uint32_t type, int32_t *id) {
  *id = -1;
  for (; at < bytes; at++) {
    *id = match_special(t, text + at, bytes - at, type);
    if (*id >= 0) break;
  }
  return at;
}

/* User-defined tokens are cut out; the space in front comes once, before whatever is first. */
static cs_status encode_stretch(const cs_tokenizer *t, const char *text, size_t bytes,
                                id_list *list, cs_error *error) {
  bool prefix = t->add_space_prefix;
  for (size_t begin = 0; begin < bytes;) {
    int32_t id;
    const size_t end = find_special(t, text, begin, bytes, CS_PIECE_USER_DEFINED, &id);
    const cs_status status = encode_plain(t, text + begin, end - begin, prefix, list, error);
    if (status != CS_OK) return status;
    if (id < 0) return CS_OK;
    if (!append(list, id)) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
    prefix = false;
    begin = end + t->pieces[id].bytes;
  }
  return CS_OK;
}

/* What lies between two control tokens is encoded as a text of its own. */
static cs_status encode_stretches(const cs_tokenizer *t, const char *text, size_t bytes,
                                  id_list *list, cs_error *error) {
  for (size_t begin = 0; begin < bytes;) {
    int32_t id;
    const size_t end = find_special(t, text, begin, bytes, CS_PIECE_CONTROL, &id);
    const cs_status status = encode_stretch(t, text + begin, end - begin, list, error);
    if (status != CS_OK) return status;
    if (id < 0) return CS_OK;
    if (!append(list, id)) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
    begin = end + t->pieces[id].bytes;
  }
  return CS_OK;
}

cs_status cs_tokenizer_encode(const cs_tokenizer *t, const char *text, size_t text_bytes,
                              bool special, int32_t **ids, size_t *n_ids, cs_error *error) {
  *ids = NULL;
  *n_ids = 0;
  if (text_bytes > MAX_TEXT_BYTES)
    return cs_error_set(error, CS_OUT_OF_RANGE, "a text of %zu bytes is longer than %u", text_bytes,
                        MAX_TEXT_BYTES);
  id_list list = {0};
  const bool bos = special && t->add_bos && t->bos >= 0;
  const bool eos = special && t->add_eos && t->eos >= 0;
  cs_status status = CS_OK;
  if (bos && !append(&list, t->bos)) goto err_memory;
  status = special ? encode_stretches(t, text, text_bytes, &list, error)
                   : encode_stretch(t, text, text_bytes, &list, error);
  if (status != CS_OK) goto err_free_list;
  if (eos && !append(&list, t->eos)) goto err_memory;
  *ids = list.ids;
  *n_ids = list.n;
  return CS_OK;

err_memory:
  status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
err_free_list:
  free(list.ids);
  return status;
}
