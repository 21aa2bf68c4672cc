/* BPE: a piece of text starts as its characters, and the best neighbouring pair is merged, the
 * leftmost of equals first, until none can be. SentencePiece ranks a pair by the score of its joint
 * spelling, the others by a list of merges. Pairs wait in a binary heap, so that n characters take
 * O(n log n); a pair whose halves have changed since it was put there is recognised by its length
 * and dropped. Characters that end up without a token become byte tokens where the vocabulary has
 * those, so that any bytes can be encoded. */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/tokenizer_internal.h"
#include "models/utf8.h"

#define NONE       (-1)
#define N_ON_STACK 64 /* symbols of a piece that needs no allocation */

typedef struct symbol { /* bytes = 0: merged into its left neighbour */
  const char *text;
  uint32_t bytes;
  int32_t id; /* NONE: no token */
  int32_t previous;
  int32_t next;
} symbol;

typedef struct pair {
  double score;
  int32_t left;
  int32_t right;
  uint32_t bytes; /* of both, when it was found */
  int32_t id;     /* what they become */
} pair;

typedef struct merger {
  const cs_tokenizer *tokenizer;
  symbol *symbols;
  size_t n_symbols;
  pair *heap; /* the best first */
  size_t n_pairs;
} merger;

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
  const cs_tokenizer *t = m->tokenizer;
  const symbol *l = &m->symbols[left], *r = &m->symbols[right];
  const uint32_t bytes = l->bytes + r->bytes;
  if (t->kind == CS_TOKENIZER_SCORES) {
    const int32_t id = cs_tokenizer_find(t, l->text, bytes);
    if (id >= 0) push_pair(m, (pair){t->pieces[id].score, left, right, bytes, id});
    return;
  }
  if (l->id < 0 || r->id < 0) return;
  const cs_merge *merge = cs_tokenizer_find_merge(t, l->id, r->id);
  if (merge) push_pair(m, (pair){-(double)merge->rank, left, right, bytes, merge->merged});
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
    left->id = best.id;
    left->next = right->next;
    right->bytes = 0;
    if (left->next != NONE) m->symbols[left->next].previous = best.left;
    consider(m, left->previous, best.left);
    consider(m, best.left, left->next);
  }
}

/* ---- characters -------------------------------------------------------------------------- */

static void add_symbol(merger *m, const char *text, uint32_t bytes, int32_t id) {
  const int32_t index = (int32_t)m->n_symbols++;
  m->symbols[index] = (symbol){text, bytes, id, index - 1, index + 1};
}

static bool has_bytes(const cs_tokenizer *t, const char *text, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i++)
    if (t->byte_ids[(uint8_t)text[i]] < 0) return false;
  return true;
}

/* A character that is no token: its bytes, or the unknown token, which may take over the one in
 * front; without that it is left out, as the tokenizers library does. */
static void add_unknown(merger *m, const char *text, uint32_t bytes) {
  const cs_tokenizer *t = m->tokenizer;
  symbol *last = m->n_symbols > 0 ? &m->symbols[m->n_symbols - 1] : NULL;
  if (t->byte_fallback && has_bytes(t, text, bytes)) {
    for (uint32_t i = 0; i < bytes; i++)
      add_symbol(m, text + i, 1, t->byte_ids[(uint8_t)text[i]]);
  } else if (t->unknown >= 0 && t->fuse_unknown && last && last->id == t->unknown) {
    last->bytes += bytes;
  } else if (t->unknown >= 0) {
    add_symbol(m, text, bytes, t->unknown);
  }
}

static void split_characters(merger *m, const char *text, size_t bytes) {
  const cs_tokenizer *t = m->tokenizer;
  for (size_t at = 0; at < bytes;) {
    const int length = cs_utf8_character((const uint8_t *)text + at, bytes - at);
    const uint32_t taken = length > 0 ? (uint32_t)length : 1;
    const int32_t id = cs_tokenizer_find(t, text + at, taken);
    if (id < 0 && t->kind == CS_TOKENIZER_MERGES)
      add_unknown(m, text + at, taken);
    else
      add_symbol(m, text + at, taken, id);
    at += taken;
  }
  if (m->n_symbols > 0) m->symbols[m->n_symbols - 1].next = NONE;
}

/* ---- ids --------------------------------------------------------------------------------- */

static cs_status emit_bytes(const cs_tokenizer *t, const symbol *s, cs_id_list *list,
                            cs_error *error) {
  for (uint32_t i = 0; i < s->bytes; i++) {
    const uint8_t byte = (uint8_t)s->text[i];
    const int32_t id = t->byte_ids[byte] >= 0 ? t->byte_ids[byte] : t->unknown;
    if (id < 0)
      return cs_error_set(error, CS_FAILED, "the vocabulary has no token for byte 0x%02X", byte);
    if (!cs_id_list_append(list, id)) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  }
  return CS_OK;
}

static cs_status emit_symbols(const merger *m, cs_id_list *list, cs_error *error) {
  for (int32_t i = m->n_symbols > 0 ? 0 : NONE; i != NONE; i = m->symbols[i].next) {
    const symbol *s = &m->symbols[i];
    if (s->id < 0) {
      const cs_status status = emit_bytes(m->tokenizer, s, list, error);
      if (status != CS_OK) return status;
    } else if (!cs_id_list_append(list, s->id)) {
      return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
    }
  }
  return CS_OK;
}

cs_status cs_tokenizer_merge(const cs_tokenizer *t, const char *text, size_t bytes,
                             cs_id_list *list, cs_error *error) {
  symbol symbols[N_ON_STACK];
  pair heap[3 * N_ON_STACK]; /* each merge adds two pairs at most */
  const int32_t whole = t->ignore_merges ? cs_tokenizer_find(t, text, bytes) : NONE;
  if (whole >= 0)
    return cs_id_list_append(list, whole) ? CS_OK
                                          : cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  merger m = {.tokenizer = t, .symbols = symbols, .heap = heap};
  const bool large = bytes > N_ON_STACK;
  if (large) {
    m.symbols = malloc(bytes * sizeof *m.symbols);
    m.heap = malloc(3 * bytes * sizeof *m.heap);
  }
  cs_status status;
  if (!m.symbols || !m.heap) {
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  } else {
    split_characters(&m, text, bytes);
    merge_pairs(&m);
    status = emit_symbols(&m, list, error);
  }
  if (large) {
    free(m.heap);
    free(m.symbols);
  }
  return status;
}
