/* Tokens hold bytes, not characters: a character may be spread over several byte tokens. What is
 * not yet a whole character waits in the state, three bytes at most; what can never become one
 * leaves as it is, so that nothing is lost or invented. */
#include <string.h>

#include "models/tokenizer_internal.h"
#include "models/utf8.h"

typedef struct sink {
  char *out;
  size_t capacity;
  size_t n;
} sink;

static void put(sink *to, const uint8_t *bytes, size_t n) {
  if (n > to->capacity - to->n) n = to->capacity - to->n;
  memcpy(to->out + to->n, bytes, n);
  to->n += n;
}

static void drop_front(cs_detokenizer *state, uint32_t n) {
  state->n_pending -= n;
  memmove(state->pending, state->pending + n, state->n_pending);
}

static void push_byte(cs_detokenizer *state, uint8_t byte, sink *to) {
  state->pending[state->n_pending++] = byte;
  while (state->n_pending > 0) {
    const int length = cs_utf8_character(state->pending, state->n_pending);
    if (length == CS_UTF8_INCOMPLETE) return;
    const uint32_t n = length == CS_UTF8_INVALID ? 1 : (uint32_t)length;
    put(to, state->pending, n);
    drop_front(state, n);
  }
}

static bool begins_with_space_mark(const char *text, size_t bytes) {
  return bytes >= 3 && memcmp(text, "\xe2\x96\x81", 3) == 0;
}

static void push_text(cs_detokenizer *state, const cs_piece *piece, sink *to) {
  for (size_t i = 0; i < piece->bytes;) {
    if (!begins_with_space_mark(piece->text + i, piece->bytes - i)) {
      push_byte(state, (uint8_t)piece->text[i++], to);
      continue;
    }
    if (!(i == 0 && state->at_start)) push_byte(state, ' ', to);
    i += 3;
  }
}

void cs_detokenizer_init(cs_detokenizer *state, const cs_tokenizer *tokenizer, bool at_start) {
  memset(state, 0, sizeof *state);
  state->tokenizer = tokenizer;
  state->at_start = at_start && tokenizer->add_space_prefix;
}

size_t cs_detokenizer_push(cs_detokenizer *state, int32_t id, char *out, size_t capacity) {
  const cs_tokenizer *t = state->tokenizer;
  if (id < 0 || (uint32_t)id >= t->n_vocab) return 0;
  const cs_piece *piece = &t->pieces[id];
  if (piece->type == CS_PIECE_CONTROL || piece->type == CS_PIECE_UNKNOWN) return 0;
  sink to = {.out = out, .capacity = capacity};
  if (piece->type == CS_PIECE_BYTE) {
    push_byte(state, piece->byte, &to);
  } else {
    push_text(state, piece, &to);
  }
  state->at_start = false;
  return to.n;
}

size_t cs_detokenizer_flush(cs_detokenizer *state, char *out, size_t capacity) {
  sink to = {.out = out, .capacity = capacity};
  put(&to, state->pending, state->n_pending);
  state->n_pending = 0;
  return to.n;
}
