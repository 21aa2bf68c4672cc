/* Pre-tokenizers. Each step reads spans of one text and writes spans, of the same text or of a new
 * one. A text of any bytes can come: patterns see its runs of well-formed UTF-8 one by one, and
 * what lies between two of them is a span of its own. */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/tokenizer_internal.h"
#include "models/utf8.h"

static bool add_span(cs_pieces *p, size_t begin, size_t end) {
  if (begin == end) return true;
  if (p->n == p->capacity) {
    const size_t capacity = 2 * p->capacity + 16;
    cs_span *spans = realloc(p->spans, capacity * sizeof *spans);
    if (!spans) return false;
    p->spans = spans;
    p->capacity = capacity;
  }
  p->spans[p->n++] = (cs_span){begin, end};
  return true;
}

void cs_pieces_finish(cs_pieces *p) {
  free(p->text.data);
  free(p->spans);
  memset(p, 0, sizeof *p);
}

/* ---- splitting --------------------------------------------------------------------------- */

/* Spans of a piece as they come, joined as the behaviour wants. */
typedef struct splitter {
  const cs_step *step;
  cs_pieces *out;
  bool last_matched;
  bool any; /* a span of this piece was written */
} splitter;

static bool take(splitter *s, size_t begin, size_t end, bool matched) {
  if (begin == end) return true;
  matched = matched != s->step->invert;
  const bool was = s->last_matched;
  cs_span *last = s->any ? &s->out->spans[s->out->n - 1] : NULL;
  s->last_matched = matched;
  switch (s->step->behaviour) {
  case CS_SPLIT_REMOVED:
    if (matched) return true;
    break;
  case CS_SPLIT_WITH_PREVIOUS:
    if (last && matched && !was) {
      last->end = end;
      return true;
    }
    break;
  case CS_SPLIT_WITH_NEXT: /* of two matches in a row the second takes what follows */
    if (last && !matched && was) {
      last->end = end;
      return true;
    }
    break;
  case CS_SPLIT_CONTIGUOUS:
    if (last && matched == was) {
      last->end = end;
      return true;
    }
    break;
  default:
    break;
  }
  s->any = true;
  return add_span(s->out, begin, end);
}

static cs_status no_memory(cs_error *error) {
  return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
}

/* One run of well-formed characters from `base` on. */
static cs_status split_run(splitter *s, cs_pattern_search *search, const char *text, size_t base,
                           size_t bytes, cs_error *error) {
  size_t done = 0, from = 0;
  while (from <= bytes) {
    bool found;
    size_t begin = 0, end = 0;
    const cs_status status =
        cs_pattern_next(search, text + base, bytes, from, &found, &begin, &end, error);
    if (status != CS_OK) return status;
    if (!found) break;
    if (!take(s, base + done, base + begin, false) || !take(s, base + begin, base + end, true))
      return no_memory(error);
    done = end;
    from = end;
    if (begin == end) { /* nothing was matched: go on at the next character */
      if (from == bytes) break;
      from += (size_t)cs_utf8_character((const uint8_t *)text + base + from, bytes - from);
    }
  }
  return take(s, base + done, base + bytes, false) ? CS_OK : no_memory(error);
}

static cs_status split_piece(const cs_step *step, cs_pattern_search *search, const char *text,
                             cs_span span, cs_pieces *out, cs_error *error) {
  splitter s = {.step = step, .out = out};
  for (size_t at = span.begin; at < span.end;) {
    const size_t run = cs_utf8_run(text + at, span.end - at);
    if (run > 0) {
      const cs_status status = split_run(&s, search, text, at, run, error);
      if (status != CS_OK) return status;
      at += run;
      continue;
    }
    size_t end = at + 1;
    while (end < span.end && cs_utf8_run(text + end, span.end - end) == 0)
      end++;
    s.any = false; /* nothing joins what is no character */
    if (!add_span(out, at, end)) return no_memory(error);
    at = end;
  }
  return CS_OK;
}

static cs_status split(const cs_step *step, const cs_pieces *in, cs_pieces *out, cs_error *error) {
  cs_pattern_search search;
  cs_status status = cs_pattern_begin(step->pattern, &search, error);
  for (size_t i = 0; i < in->n && status == CS_OK; i++)
    status = split_piece(step, &search, out->text.data, in->spans[i], out, error);
  cs_pattern_end(&search);
  return status;
}

/* ---- steps that change the text ---------------------------------------------------------- */

static bool to_bytes(const char *text, size_t bytes, cs_text *out) {
  for (size_t i = 0; i < bytes; i++) {
    char character[2];
    const uint32_t length = cs_byte_character((uint8_t)text[i], character);
    if (!cs_text_append(out, character, length)) return false;
  }
  return true;
}

static bool starts_with(const char *text, size_t bytes, const char *what, size_t what_bytes) {
  return bytes >= what_bytes && memcmp(text, what, what_bytes) == 0;
}

static bool prefix_space(const char *text, size_t bytes, cs_text *out) {
  if (!starts_with(text, bytes, " ", 1) && !cs_text_append(out, " ", 1)) return false;
  return cs_text_append(out, text, bytes);
}

static bool mark_spaces(const cs_step *step, const char *text, size_t bytes, bool first,
                        cs_pieces *out) {
  const size_t begin = out->text.bytes;
  const bool marked =
      starts_with(text, bytes, " ", 1) || starts_with(text, bytes, step->text, step->text_bytes);
  const bool prefix =
      step->prefix == CS_PREFIX_ALWAYS || (step->prefix == CS_PREFIX_FIRST && first);
  if (prefix && !marked && !cs_text_append(&out->text, step->text, step->text_bytes)) return false;
  for (size_t i = 0; i < bytes; i++) {
    const bool space = text[i] == ' ';
    if (!cs_text_append(&out->text, space ? step->text : text + i, space ? step->text_bytes : 1))
      return false;
  }
  size_t from = begin;
  const size_t end = out->text.bytes;
  for (size_t i = begin + 1; step->cuts && i < end; i++) {
    if (!starts_with(out->text.data + i, end - i, step->text, step->text_bytes)) continue;
    if (!add_span(out, from, i)) return false;
    from = i;
  }
  return add_span(out, from, end);
}

static cs_status change(const cs_step *step, const cs_pieces *in, bool first, cs_pieces *out,
                        cs_error *error) {
  for (size_t i = 0; i < in->n; i++) {
    const char *text = in->text.data + in->spans[i].begin;
    const size_t bytes = in->spans[i].end - in->spans[i].begin;
    const size_t begin = out->text.bytes;
    bool done;
    if (step->kind == CS_STEP_METASPACE) {
      done = mark_spaces(step, text, bytes, first && i == 0, out);
    } else {
      done = step->kind == CS_STEP_BYTES ? to_bytes(text, bytes, &out->text)
                                         : prefix_space(text, bytes, &out->text);
      done = done && add_span(out, begin, out->text.bytes);
    }
    if (!done) return no_memory(error);
  }
  return CS_OK;
}

cs_status cs_pre_tokenize(const cs_steps *steps, const char *text, size_t bytes, bool first,
                          cs_pieces *out, cs_error *error) {
  cs_pieces now = {0};
  *out = now;
  if (!cs_text_append(&now.text, text, bytes) || !add_span(&now, 0, bytes)) goto err_memory;
  for (size_t i = 0; i < steps->n; i++) {
    const cs_step *step = &steps->list[i];
    cs_pieces next = {0};
    cs_status status;
    if (step->kind == CS_STEP_SPLIT) {
      next.text = now.text; /* only the spans change */
      status = split(step, &now, &next, error);
      now.text = (cs_text){0};
    } else {
      status = change(step, &now, first, &next, error);
    }
    cs_pieces_finish(&now);
    now = next;
    if (status != CS_OK) {
      cs_pieces_finish(&now);
      return status;
    }
  }
  *out = now;
  return CS_OK;

err_memory:
  cs_pieces_finish(&now);
  return no_memory(error);
}

/* ---- lists of steps ---------------------------------------------------------------------- */

static void finish_step(cs_step *step) {
  cs_pattern_destroy(step->pattern);
  free(step->text);
}

cs_status cs_steps_add(cs_steps *steps, const cs_step *step, cs_error *error) {
  cs_step *list = realloc(steps->list, (steps->n + 1) * sizeof *list);
  if (!list) {
    cs_step dropped = *step;
    finish_step(&dropped);
    return no_memory(error);
  }
  steps->list = list;
  steps->list[steps->n++] = *step;
  return CS_OK;
}

cs_status cs_steps_add_split(cs_steps *steps, const char *expression, uint32_t behaviour,
                             bool invert, cs_error *error) {
  cs_step step = {.kind = CS_STEP_SPLIT, .behaviour = behaviour, .invert = invert};
  const cs_status status = cs_pattern_create(expression, strlen(expression), &step.pattern, error);
  return status == CS_OK ? cs_steps_add(steps, &step, error) : status;
}

void cs_steps_finish(cs_steps *steps) {
  for (size_t i = 0; i < steps->n; i++)
    finish_step(&steps->list[i]);
  free(steps->list);
  *steps = (cs_steps){0};
}
