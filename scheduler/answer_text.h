/* The text of an answer while it is made: it ends before a stop string, and what may be the
 * beginning of one is not shown yet. */
#ifndef SCHEDULER_ANSWER_TEXT_H
#define SCHEDULER_ANSWER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

typedef struct cs_answer_text {
  char *text; /* NUL-terminated, owned */
  size_t n_bytes;
  size_t capacity;
  size_t n_shown;           /* bytes that can no longer be part of a stop string */
  const char *const *stops; /* borrowed */
  uint32_t n_stops;
  size_t longest_stop;
  bool stopped; /* a stop string came: the text ends before it */
} cs_answer_text;

/* stops (n_stops): borrowed until the end. CS_INVALID_ARGUMENT names a stop string that is empty or
 * not UTF-8. Free with cs_answer_text_free, also after a failure. */
cs_status cs_answer_text_init(cs_answer_text *answer, const char *const *stops, uint32_t n_stops,
                              cs_error *error);
void cs_answer_text_free(cs_answer_text *answer);

/* Adds what one token says, whole characters. Nothing is added once stopped. */
cs_status cs_answer_text_append(cs_answer_text *answer, const char *piece, size_t n_bytes,
                                cs_error *error);
/* No more will come: all of the text is shown. */
void cs_answer_text_end(cs_answer_text *answer);

#endif
