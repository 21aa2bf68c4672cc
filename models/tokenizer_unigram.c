/* The unigram model: of all ways to cut a text into pieces of the vocabulary, the one whose scores
 * add up highest (Viterbi). Pieces that begin at a place are found by narrowing the sorted
 * spellings byte by byte. A character that no piece covers alone can be taken as unknown, for less
 * than any piece; unknown characters in a row become one token or, where the vocabulary has them,
 * their bytes. Of equal paths the one with the shorter last piece found first stays, as in the
 * tokenizers library. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/tokenizer_internal.h"
#include "models/utf8.h"

#define NONE (-1)

typedef struct node { /* the best way to reach a place of the text */
  double score;
  size_t from;
  int32_t id; /* NONE: unknown */
  bool reached;
} node;

static void reach(node *to, double score, size_t from, int32_t id) {
  if (to->reached && score <= to->score) return;
  *to = (node){score, from, id, true};
}

static int byte_at(const cs_tokenizer *t, uint32_t index, uint32_t depth) {
  const cs_piece *piece = &t->pieces[t->sorted[index]];
  return depth < piece->bytes ? (uint8_t)piece->text[depth] : -1;
}

/* The first of the sorted spellings in [low, high) whose byte at `depth` is at least `byte`. */
static uint32_t lower_bound(const cs_tokenizer *t, uint32_t low, uint32_t high, uint32_t depth,
                            int byte) {
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (byte_at(t, middle, depth) < byte)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* Tries every piece that begins at `at`; true when one is as long as the character there. */
static bool try_pieces(const cs_tokenizer *t, const char *text, size_t bytes, size_t at,
                       size_t character, node *nodes) {
  bool covered = false;
  const uint8_t first = (uint8_t)text[at];
  uint32_t low = t->sorted_begin[first], high = t->sorted_begin[first + 1];
  for (uint32_t depth = 1; low < high; depth++) {
    if (t->pieces[t->sorted[low]].bytes == depth) { /* of equal spellings the last counts */
      uint32_t last = low;
      while (last + 1 < high && t->pieces[t->sorted[last + 1]].bytes == depth)
        last++;
      const int32_t id = t->sorted[last];
      reach(&nodes[at + depth], nodes[at].score + t->pieces[id].score, at, id);
      covered = covered || depth == character;
    }
    if (at + depth >= bytes) break;
    const int byte = (uint8_t)text[at + depth];
    low = lower_bound(t, low, high, depth, byte);
    high = lower_bound(t, low, high, depth, byte + 1);
  }
  return covered;
}

static void search(const cs_tokenizer *t, const char *text, size_t bytes, node *nodes) {
  memset(nodes, 0, (bytes + 1) * sizeof *nodes);
  nodes[0].reached = true;
  for (size_t at = 0; at < bytes;) {
    const int length = cs_utf8_character((const uint8_t *)text + at, bytes - at);
    const size_t character = length > 0 ? (size_t)length : 1;
    if (nodes[at].reached && !try_pieces(t, text, bytes, at, character, nodes))
      reach(&nodes[at + character], nodes[at].score + t->unknown_score, at, NONE);
    at += character;
  }
}

static bool emit_unknown(const cs_tokenizer *t, const char *text, size_t bytes, cs_id_list *list) {
  bool as_bytes = t->byte_fallback;
  for (size_t i = 0; i < bytes && as_bytes; i++)
    as_bytes = t->byte_ids[(uint8_t)text[i]] >= 0;
  if (!as_bytes) return cs_id_list_append(list, t->unknown);
  for (size_t i = 0; i < bytes; i++)
    if (!cs_id_list_append(list, t->byte_ids[(uint8_t)text[i]])) return false;
  return true;
}

/* Walks the ends of pieces, which `ends` holds from the last to the first. */
static bool emit(const cs_tokenizer *t, const char *text, const node *nodes, const size_t *ends,
                 size_t n_ends, cs_id_list *list) {
  for (size_t i = n_ends; i-- > 0;) {
    const node *step = &nodes[ends[i]];
    if (step->id >= 0) {
      if (!cs_id_list_append(list, step->id)) return false;
      continue;
    }
    while (t->fuse_unknown && i > 0 && nodes[ends[i - 1]].id < 0)
      i--;
    const size_t begin = step->from;
    if (!emit_unknown(t, text + begin, ends[i] - begin, list)) return false;
  }
  return true;
}

cs_status cs_tokenizer_unigram(const cs_tokenizer *t, const char *text, size_t bytes,
                               cs_id_list *list, cs_error *error) {
  node *nodes = malloc((bytes + 1) * sizeof *nodes);
  size_t *ends = malloc((bytes + 1) * sizeof *ends);
  bool done = nodes && ends;
  if (done) {
    search(t, text, bytes, nodes);
    size_t n_ends = 0;
    for (size_t at = bytes; at > 0; at = nodes[at].from)
      ends[n_ends++] = at;
    done = emit(t, text, nodes, ends, n_ends, list);
  }
  free(ends);
  free(nodes);
  return done ? CS_OK : cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
}
