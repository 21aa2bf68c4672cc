/* Patterns run in PCRE2's interpreter, without its compiler: no executable memory, and a limit on
 * steps that grows with the text, so that no pattern of a file can hang. A text is checked to be
 * UTF-8 once, by the caller, and not again at each match, which would make a long text quadratic.
 *
 * The published patterns were written for Oniguruma and Rust's regex. Their \s is Unicode's
 * White_Space, which PCRE2's \s is not (it adds U+180E), and their \w is wider, so that these
 * letters are rewritten before compiling. As in Oniguruma, ^ and $ match at lines. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/error.h"
#include "models/tokenizer_steps.h"

#define MAX_PATTERN_BYTES (1u << 16)
#define STEPS_BASE        1000000u
#define STEPS_A_BYTE      16u
#define HEAP_KIB          (64u << 10)

struct cs_pattern {
  pcre2_code *code; /* NULL: a literal */
  char *text;       /* the literal, or the expression as it was compiled */
  size_t bytes;
};

/* ---- text ---- */

bool cs_text_append(cs_text *text, const char *data, size_t bytes) {
  if (bytes > text->capacity - text->bytes) {
    if (bytes > SIZE_MAX / 4 || text->bytes > SIZE_MAX / 4) return false;
    const size_t capacity = 2 * (text->bytes + bytes) + 32;
    char *larger = realloc(text->data, capacity);
    if (!larger) return false;
    text->data = larger;
    text->capacity = capacity;
  }
  if (bytes) memcpy(text->data + text->bytes, data, bytes);
  text->bytes += bytes;
  return true;
}

/* ---- characters ---- */

bool cs_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool cs_is_word(uint32_t c) {
  switch (utf8proc_category((utf8proc_int32_t)c)) {
  case UTF8PROC_CATEGORY_LU:
  case UTF8PROC_CATEGORY_LL:
  case UTF8PROC_CATEGORY_LT:
  case UTF8PROC_CATEGORY_LM:
  case UTF8PROC_CATEGORY_LO:
  case UTF8PROC_CATEGORY_MN:
  case UTF8PROC_CATEGORY_MC:
  case UTF8PROC_CATEGORY_ME:
  case UTF8PROC_CATEGORY_ND:
  case UTF8PROC_CATEGORY_NL:
  case UTF8PROC_CATEGORY_PC:
    return true;
  default:
    return false;
  }
}

/* ---- compiling ---- */

static const char *class_of(char letter, bool inside) {
  switch (letter) {
  case 's':
    return "\\p{White_Space}";
  case 'S':
    return "\\P{White_Space}";
  case 'd':
    return "\\p{Nd}";
  case 'D':
    return "\\P{Nd}";
  case 'w':
    return inside ? "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}" : "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]";
  case 'W':
    return inside ? NULL : "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]";
  default:
    return NULL;
  }
}

/* A class within a class, Oniguruma's union, becomes part of the outer one; [: :] stays. */
static bool translate_bracket(const char *from, size_t left, uint32_t *depth, cs_text *to) {
  const bool opens = from[0] == '[';
  const bool nested = opens ? *depth > 0 : *depth > 1;
  if (opens && *depth > 0 && left > 1 && (from[1] == ':' || from[1] == '^'))
    return cs_text_append(to, from, 1);
  if (opens)
    ++*depth;
  else if (*depth > 0)
    --*depth;
  return nested || cs_text_append(to, from, 1);
}

/* An escape that stands for one character, \r, \n or \x{b5} and up, becomes that character, so that
 * expressions which differ in that alone are equal. Returns its length, 0 for any other. */
static size_t unescape(const char *from, size_t left, char to[4], int *to_bytes) {
  *to_bytes = 1;
  to[0] = from[1] == 'r' ? '\r' : '\n';
  if (from[1] == 'r' || from[1] == 'n') return 2;
  uint32_t c = 0;
  size_t at = 3;
  if (from[1] != 'x' || left < 5 || from[2] != '{') return 0;
  for (; at < left && at < 9 && isxdigit((unsigned char)from[at]); at++)
    c = 16 * c + (uint32_t)(from[at] <= '9' ? from[at] - '0' : (from[at] | 0x20) - 'a' + 10);
  if (at == left || from[at] != '}' || c < 0xa0 || !utf8proc_codepoint_valid((utf8proc_int32_t)c))
    return 0;
  *to_bytes = (int)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)to);
  return at + 1;
}

static bool translate(const char *from, size_t bytes, cs_text *to) {
  uint32_t depth = 0;
  for (size_t i = 0; i < bytes; i++) {
    bool done;
    if (from[i] == '\\' && i + 1 < bytes) {
      const char *class = class_of(from[i + 1], depth > 0);
      char character[4];
      int character_bytes;
      const size_t taken = unescape(from + i, bytes - i, character, &character_bytes);
      if (taken)
        done = cs_text_append(to, character, (size_t)character_bytes);
      else
        done = class ? cs_text_append(to, class, strlen(class)) : cs_text_append(to, from + i, 2);
      i += taken ? taken - 1 : 1;
    } else if (from[i] == '[' || from[i] == ']') {
      done = translate_bracket(from + i, bytes - i, &depth, to);
    } else {
      done = cs_text_append(to, from + i, 1);
    }
    if (!done) return false;
  }
  return true;
}

static cs_status compile(const cs_text *text, pcre2_code **out, cs_error *error) {
  int code = 0;
  PCRE2_SIZE at = 0;
  pcre2_compile_context *context = pcre2_compile_context_create(NULL);
  if (!context) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 50);
  *out = pcre2_compile((PCRE2_SPTR)text->data, text->bytes,
                       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code,
                       &at, context);
  pcre2_compile_context_free(context);
  if (*out) return CS_OK;
  PCRE2_UCHAR reason[120];
  pcre2_get_error_message(code, reason, sizeof reason);
  return cs_error_set(error, CS_CORRUPT, "pattern is not a regular expression: %s",
                      (const char *)reason);
}

cs_status cs_pattern_create(const char *expression, size_t bytes, cs_pattern **out,
                            cs_error *error) {
  *out = NULL;
  if (bytes == 0 || bytes > MAX_PATTERN_BYTES)
    return cs_error_set(error, CS_CORRUPT, "a pattern of %zu bytes", bytes);
  cs_text text = {0};
  cs_status status = CS_OK;
  cs_pattern *pattern = calloc(1, sizeof *pattern);
  if (!pattern || !translate(expression, bytes, &text))
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  if (status == CS_OK) status = compile(&text, &pattern->code, error);
  if (status != CS_OK) {
    free(text.data);
    free(pattern);
    return status;
  }
  pattern->text = text.data;
  pattern->bytes = text.bytes;
  *out = pattern;
  return CS_OK;
}

cs_status cs_pattern_create_literal(const char *text, size_t bytes, cs_pattern **out,
                                    cs_error *error) {
  *out = NULL;
  if (bytes == 0) return cs_error_set(error, CS_CORRUPT, "an empty pattern");
  cs_pattern *pattern = calloc(1, sizeof *pattern);
  if (pattern) pattern->text = malloc(bytes);
  if (!pattern || !pattern->text) {
    free(pattern);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  }
  memcpy(pattern->text, text, bytes);
  pattern->bytes = bytes;
  *out = pattern;
  return CS_OK;
}

void cs_pattern_destroy(cs_pattern *pattern) {
  if (!pattern) return;
  pcre2_code_free(pattern->code);
  free(pattern->text);
  free(pattern);
}

/* ---- comparing ---- */

bool cs_pattern_equal(const cs_pattern *a, const cs_pattern *b) {
  return !a->code == !b->code && a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0;
}

static bool is_class(const cs_pattern *p) {
  const char *end = memchr(p->text, p->text[0] == '[' ? ']' : '}', p->bytes);
  return p->code && (p->text[0] == '[' || (p->text[0] == '\\' && p->text[1] == 'p')) &&
         end == p->text + p->bytes - 1;
}

bool cs_pattern_repeats(const cs_pattern *one, const cs_pattern *many) {
  return many->code && is_class(one) && many->bytes == one->bytes + 1 &&
         memcmp(one->text, many->text, one->bytes) == 0 && many->text[one->bytes] == '+';
}

bool cs_pattern_is_literal(const cs_pattern *pattern, const char *text) {
  return !pattern->code && pattern->bytes == strlen(text) &&
         memcmp(pattern->text, text, pattern->bytes) == 0;
}

/* ---- searching ---- */

typedef struct scratch {
  pcre2_match_data *data;
  pcre2_match_context *context;
} scratch;

static void free_scratch(scratch *s) {
  if (!s) return;
  pcre2_match_data_free(s->data);
  pcre2_match_context_free(s->context);
  free(s);
}

cs_status cs_pattern_begin(const cs_pattern *pattern, cs_pattern_search *search, cs_error *error) {
  *search = (cs_pattern_search){.pattern = pattern};
  if (!pattern->code) return CS_OK;
  scratch *s = calloc(1, sizeof *s);
  if (s) {
    s->data = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
  }
  if (!s || !s->data || !s->context) {
    free_scratch(s);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  }
  pcre2_set_heap_limit(s->context, HEAP_KIB);
  search->match = s;
  return CS_OK;
}

void cs_pattern_end(cs_pattern_search *search) {
  free_scratch(search->match);
  search->match = NULL;
}

static void find_literal(const cs_pattern *p, const char *text, size_t bytes, size_t from,
                         bool *found, size_t *begin, size_t *end) {
  const char *at = from < bytes ? memmem(text + from, bytes - from, p->text, p->bytes) : NULL;
  *found = at != NULL;
  if (!at) return;
  *begin = (size_t)(at - text);
  *end = *begin + p->bytes;
}

cs_status cs_pattern_next(cs_pattern_search *search, const char *text, size_t bytes, size_t from,
                          bool *found, size_t *begin, size_t *end, cs_error *error) {
  *found = false;
  if (!search->match) {
    find_literal(search->pattern, text, bytes, from, found, begin, end);
    return CS_OK;
  }
  scratch *s = search->match;
  const size_t steps = STEPS_BASE + STEPS_A_BYTE * bytes;
  pcre2_set_match_limit(s->context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
  const int n = pcre2_match(search->pattern->code, (PCRE2_SPTR)text, bytes, from,
                            PCRE2_NO_UTF_CHECK, s->data, s->context);
  if (n == PCRE2_ERROR_NOMATCH) return CS_OK;
  if (n < 0)
    return cs_error_set(error, n == PCRE2_ERROR_NOMEMORY ? CS_OUT_OF_MEMORY : CS_OUT_OF_RANGE,
                        "the tokenizer's pattern takes too many steps on this text");
  const PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->data);
  if (at[0] > at[1] || at[0] < from || at[1] > bytes) return CS_OK; /* \K in a lookaround */
  *found = true;
  *begin = at[0];
  *end = at[1];
  return CS_OK;
}
