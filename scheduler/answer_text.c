/* A stop string may begin in any token and end in any later one, so that it is looked for in the
 * text and not in the tokens. What is kept back is the longest end of the text with which a stop
 * string begins; both begin and end between characters, since both are UTF-8. */
#include "scheduler/answer_text.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/utf8.h"

static bool is_utf8(const char *text, size_t n_bytes) {
  for (size_t at = 0; at < n_bytes;) {
    const int n = cs_utf8_character((const uint8_t *)text + at, n_bytes - at);
    if (n <= 0) return false;
    at += (size_t)n;
  }
  return true;
}

cs_status cs_answer_text_init(cs_answer_text *answer, const char *const *stops, uint32_t n_stops,
                              cs_error *error) {
  *answer = (cs_answer_text){.stops = stops, .n_stops = n_stops, .capacity = 64};
  for (uint32_t i = 0; i < n_stops; i++) {
    const size_t n_bytes = stops && stops[i] ? strlen(stops[i]) : 0;
    if (n_bytes == 0) return cs_error_set(error, CS_INVALID_ARGUMENT, "stop string %u is empty", i);
    if (!is_utf8(stops[i], n_bytes))
      return cs_error_set(error, CS_INVALID_ARGUMENT, "stop string %u is not UTF-8", i);
    if (n_bytes > answer->longest_stop) answer->longest_stop = n_bytes;
  }
  answer->text = calloc(answer->capacity, 1);
  if (!answer->text) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for the text");
  return CS_OK;
}

void cs_answer_text_free(cs_answer_text *answer) {
  free(answer->text);
  answer->text = NULL;
}

/* Where the first stop string begins that ends in the bytes from n_old on; n_bytes: nowhere. */
static size_t find_stop(const cs_answer_text *answer, size_t n_old) {
  size_t first = answer->n_bytes;
  for (uint32_t i = 0; i < answer->n_stops; i++) {
    const size_t n_stop = strlen(answer->stops[i]);
    const size_t from = n_old >= n_stop ? n_old - n_stop + 1 : 0;
    const char *const found =
        memmem(answer->text + from, answer->n_bytes - from, answer->stops[i], n_stop);
    if (found && (size_t)(found - answer->text) < first) first = (size_t)(found - answer->text);
  }
  return first;
}

/* Length of the longest end of the text that begins a stop string. */
static size_t count_held(const cs_answer_text *answer) {
  size_t n = answer->longest_stop > 0 ? answer->longest_stop - 1 : 0;
  if (n > answer->n_bytes) n = answer->n_bytes;
  for (; n > 0; n--)
    for (uint32_t i = 0; i < answer->n_stops; i++)
      if (strncmp(answer->stops[i], answer->text + answer->n_bytes - n, n) == 0) return n;
  return 0;
}

cs_status cs_answer_text_append(cs_answer_text *answer, const char *piece, size_t n_bytes,
                                cs_error *error) {
  if (answer->stopped) return CS_OK;
  if (n_bytes >= answer->capacity - answer->n_bytes) {
    const size_t capacity = 2 * (answer->n_bytes + n_bytes + 1);
    char *const text = realloc(answer->text, capacity);
    if (!text) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for the text");
    answer->text = text;
    answer->capacity = capacity;
  }
  const size_t n_old = answer->n_bytes;
  memcpy(answer->text + n_old, piece, n_bytes);
  answer->n_bytes += n_bytes;
  const size_t end = find_stop(answer, n_old);
  answer->stopped = end < answer->n_bytes;
  answer->n_bytes = end;
  answer->text[end] = '\0';
  answer->n_shown = answer->stopped ? end : end - count_held(answer);
  return CS_OK;
}

void cs_answer_text_end(cs_answer_text *answer) {
  answer->n_shown = answer->n_bytes;
}
