/* Tokens hold bytes, not characters: a character may be spread over several byte tokens. What is
 * not yet a whole character waits in the state, three bytes at most. What can never become one
 * leaves as it is, so that encoding and decoding give the same bytes back, or, for text that people
 * read, as one replacement character for each broken beginning (the Unicode standard's "maximal
 * subparts", section 3.9). A control token ends what was unfinished. */
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

/* Bytes that are no character: as they are, or one U+FFFD for all of them. */
static void put_broken(const cs_detokenizer *state, uint32_t n, sink *to) {
  if (state->replaces)
    put(to, (const uint8_t *)"\xef\xbf\xbd", 3);
  else
    put(to, state->pending, n);
}

/* How many of the pending bytes were a character's beginning before the last one broke it. */
static uint32_t broken_bytes(const cs_detokenizer *state) {
  uint32_t n = state->n_pending - 1;
  return n > 0 && cs_utf8_character(state->pending, n) == CS_UTF8_INCOMPLETE ? n : 1;
}

static void push_byte(cs_detokenizer *state, uint8_t byte, sink *to) {
  state->pending[state->n_pending++] = byte;
  while (state->n_pending > 0) {
    const int length = cs_utf8_character(state->pending, state->n_pending);
    if (length == CS_UTF8_INCOMPLETE) return;
    const uint32_t n = length == CS_UTF8_INVALID ? broken_bytes(state) : (uint32_t)length;
    if (length == CS_UTF8_INVALID)
      put_broken(state, n, to);
    else
      put(to, state->pending, n);
    drop_front(state, n);
  }
}

static bool begins_with(const char *text, size_t bytes, const char *what) {
  const size_t n = strlen(what);
  return bytes >= n && memcmp(text, what, n) == 0;
}

/* One byte of text, unless it is a space that the beginning of a text drops. */
static void push_text_byte(cs_detokenizer *state, uint8_t byte, sink *to) {
  if (state->n_stripped > 0 && byte == ' ') {
    state->n_stripped--;
    return;
  }
  state->n_stripped = 0;
  push_byte(state, byte, to);
}

/* A piece spelled in the alphabet of bytes; one that is not stands for itself. */
static void push_byte_level(cs_detokenizer *state, const cs_piece *piece, sink *to) {
  uint8_t byte = 0;
  for (int pass = 0; pass < 2; pass++) {
    for (size_t i = 0; i < piece->bytes;) {
      const int length = cs_utf8_character((const uint8_t *)piece->text + i, piece->bytes - i);
      const int value =
          length > 0 ? cs_byte_of_character(cs_utf8_code_point(piece->text + i, length)) : -1;
      if (value < 0) {
        for (size_t k = 0; k < piece->bytes; k++)
          push_text_byte(state, (uint8_t)piece->text[k], to);
        return;
      }
      byte = (uint8_t)value;
      if (pass == 1) push_text_byte(state, byte, to);
      i += (size_t)length;
    }
  }
}

static void push_text(cs_detokenizer *state, const cs_piece *piece, sink *to) {
  const cs_tokenizer *t = state->tokenizer;
  for (size_t i = 0; i < piece->bytes;) {
    const char *at = piece->text + i;
    const size_t left = piece->bytes - i;
    const cs_replacement *replaced = NULL;
    for (uint32_t k = 0; k < t->n_replacements && !replaced; k++)
      if (begins_with(at, left, t->replacements[k].from)) replaced = &t->replacements[k];
    if (replaced) {
      for (const char *by = replaced->to; *by; by++)
        push_text_byte(state, (uint8_t)*by, to);
      i += strlen(replaced->from);
    } else if (t->decodes_marks && begins_with(at, left, "\xe2\x96\x81")) {
      push_text_byte(state, ' ', to);
      i += 3;
    } else {
      push_text_byte(state, (uint8_t)*at, to);
      i++;
    }
  }
}

void cs_detokenizer_init(cs_detokenizer *state, const cs_tokenizer *tokenizer, bool at_start,
                         bool replaces) {
  memset(state, 0, sizeof *state);
  state->tokenizer = tokenizer;
  state->n_stripped = at_start ? tokenizer->n_stripped : 0;
  state->replaces = replaces;
}

size_t cs_detokenizer_push(cs_detokenizer *state, int32_t id, char *out, size_t capacity) {
  const cs_tokenizer *t = state->tokenizer;
  if (id < 0 || (uint32_t)id >= t->n_vocab) return 0;
  const cs_piece *piece = &t->pieces[id];
  if (piece->type == CS_PIECE_CONTROL || piece->type == CS_PIECE_UNKNOWN)
    return cs_detokenizer_flush(state, out, capacity);
  sink to = {.out = out, .capacity = capacity};
  if (piece->type == CS_PIECE_BYTE) {
    state->n_stripped = 0;
    push_byte(state, piece->byte, &to);
  } else if (t->byte_level && piece->type != CS_PIECE_USER_DEFINED) {
    push_byte_level(state, piece, &to);
  } else {
    push_text(state, piece, &to);
  }
  return to.n;
}

size_t cs_detokenizer_flush(cs_detokenizer *state, char *out, size_t capacity) {
  sink to = {.out = out, .capacity = capacity};
  if (state->n_pending > 0) put_broken(state, state->n_pending, &to);
  state->n_pending = 0;
  return to.n;
}
