/* Text, comments and tags. White space goes as Jinja2 has it with trim_blocks (the newline behind a
 * block tag) and lstrip_blocks (spaces and tabs before a block tag that begins a line), and where a
 * '-' stands inside the tag's braces; a '+' keeps it. One newline at the template's end is dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/chat/syntax.h"
#include "models/utf8.h"

#define MAX_TOKENS 200000

typedef struct lexer {
  cs_chat_arena *arena;
  const char *text;
  size_t bytes;
  size_t at;
  uint32_t line;
  cs_chat_token *tokens;
  size_t n;
  size_t capacity;
  cs_error *error;
} lexer;

static cs_status fail(const lexer *l, const char *reason) {
  return cs_error_set(l->error, CS_CORRUPT, "line %u: %s", l->line, reason);
}

static cs_status no_memory(const lexer *l) {
  return cs_error_set(l->error, CS_OUT_OF_MEMORY, "the template is too large");
}

static cs_status add(lexer *l, cs_chat_token_kind kind, const char *text, size_t bytes) {
  if (l->n == l->capacity) {
    const size_t capacity = l->capacity ? 2 * l->capacity : 64;
    cs_chat_token *larger = cs_chat_allocate(l->arena, capacity * sizeof *larger);
    if (!larger || capacity > MAX_TOKENS) return no_memory(l);
    if (l->n) memcpy(larger, l->tokens, l->n * sizeof *larger);
    l->tokens = larger;
    l->capacity = capacity;
  }
  const cs_chat_value copy = cs_chat_text(l->arena, text, bytes);
  if (copy.type != CS_CHAT_STRING) return no_memory(l);
  l->tokens[l->n++] = (cs_chat_token){kind, l->line, copy.string};
  return CS_OK;
}

static bool is_white(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static void count_lines(lexer *l, size_t from, size_t to) {
  for (size_t i = from; i < to; i++)
    l->line += l->text[i] == '\n';
}

static bool is_at(const lexer *l, size_t at, const char *what) {
  const size_t n = strlen(what);
  return l->bytes - at >= n && memcmp(l->text + at, what, n) == 0;
}

/* ---- inside a tag ------------------------------------------------------------------------ */

static uint32_t read_hex(const char *from, size_t n) {
  char digits[9] = {0};
  memcpy(digits, from, n < 8 ? n : 8);
  return (uint32_t)strtoul(digits, NULL, 16);
}

/* One escape behind its backslash, as Python reads it; returns how many bytes it took. */
static size_t unescape(const char *from, size_t left, cs_chat_buffer *out) {
  static const char names[] = "ntrabfv0", values[] = "\n\t\r\a\b\f\v";
  const char *found = strchr(names, from[0]);
  if (from[0] && found) {
    cs_chat_write(out, &values[found - names], 1); /* '0' is the string's own end */
    return 1;
  }
  const size_t digits = from[0] == 'x' ? 2 : from[0] == 'u' ? 4 : from[0] == 'U' ? 8 : 0;
  if (digits > 0 && left > digits) {
    char character[4];
    const uint32_t c = read_hex(from + 1, digits);
    const bool valid = c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
    cs_chat_write(out, character, cs_utf8_write(valid ? c : 0xfffd, character));
    return 1 + digits;
  }
  if (from[0] != '\\' && from[0] != '\'' && from[0] != '"' && from[0] != '\n')
    cs_chat_write(out, "\\", 1);
  if (from[0] != '\n') cs_chat_write(out, from, 1);
  return 1;
}

static cs_status lex_string(lexer *l) {
  const char quote = l->text[l->at++];
  cs_chat_buffer out = {.arena = l->arena};
  const size_t begin = l->at;
  while (l->at < l->bytes && l->text[l->at] != quote) {
    if (l->text[l->at] != '\\') {
      cs_chat_write(&out, l->text + l->at++, 1);
    } else if (++l->at < l->bytes) {
      l->at += unescape(l->text + l->at, l->bytes - l->at, &out);
    }
    if (out.failed) return no_memory(l);
  }
  if (l->at >= l->bytes) return fail(l, "a string has no end");
  const cs_status status = add(l, CS_TOKEN_STRING, out.data, out.bytes);
  count_lines(l, begin, l->at);
  l->at++;
  return status;
}

static cs_status lex_number(lexer *l) {
  char digits[48];
  size_t n = 0;
  bool fraction = false;
  while (l->at < l->bytes && n < sizeof digits - 1) {
    const char c = l->text[l->at];
    const bool next_digit =
        l->at + 1 < l->bytes && l->text[l->at + 1] >= '0' && l->text[l->at + 1] <= '9';
    const bool exponent = (c == 'e' || c == 'E') && n > 0;
    const bool sign = (c == '-' || c == '+') && n > 0 && (digits[n - 1] | 32) == 'e';
    if (c == '.' && (fraction || !next_digit)) break;
    if (c == '_') {
      l->at++;
      continue;
    }
    if (!(c >= '0' && c <= '9') && c != '.' && !exponent && !sign) break;
    fraction = fraction || c == '.' || exponent;
    digits[n++] = c;
    l->at++;
  }
  return add(l, fraction ? CS_TOKEN_FLOAT : CS_TOKEN_INT, digits, n);
}

static cs_status lex_operator(lexer *l) {
  static const char *const operators[] = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
                                          "/",  "%",  "~",  "<",  ">",  "=",  "(", ")", "[",
                                          "]",  "{",  "}",  ",",  ".",  ":",  "|"};
  for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
    if (!is_at(l, l->at, operators[i])) continue;
    l->at += strlen(operators[i]);
    return add(l, CS_TOKEN_OPERATOR, operators[i], strlen(operators[i]));
  }
  return fail(l, "a character that no expression has");
}

/* The length of the tag's end at `at`, with its '-' or '+', 0 when it is none. */
static size_t closing(const lexer *l, size_t at, const char *end, char *control) {
  *control = 0;
  if (is_at(l, at, end)) return strlen(end);
  if ((l->text[at] != '-' && l->text[at] != '+') || !is_at(l, at + 1, end)) return 0;
  *control = l->text[at];
  return 1 + strlen(end);
}

static cs_status lex_inside(lexer *l, const char *end, char *control) {
  uint32_t depth = 0; /* of braces: "}}" may close two maps */
  while (l->at < l->bytes) {
    const char c = l->text[l->at];
    const size_t closed = depth == 0 ? closing(l, l->at, end, control) : 0;
    cs_status status = CS_OK;
    if (closed) {
      l->at += closed;
      return CS_OK;
    }
    if (is_white(c)) {
      l->line += c == '\n';
      l->at++;
      continue;
    }
    if (c == '{' || c == '[' || c == '(') depth++;
    if ((c == '}' || c == ']' || c == ')') && depth > 0) depth--;
    if (c == '\'' || c == '"') {
      status = lex_string(l);
    } else if (c >= '0' && c <= '9') {
      status = lex_number(l);
    } else if (is_name(c)) {
      const size_t begin = l->at;
      while (l->at < l->bytes && is_name(l->text[l->at]))
        l->at++;
      status = add(l, CS_TOKEN_NAME, l->text + begin, l->at - begin);
    } else {
      status = lex_operator(l);
    }
    if (status != CS_OK) return status;
  }
  return fail(l, "a tag has no end");
}

/* ---- between tags ------------------------------------------------------------------------ */

/* Where the next tag begins; the end when there is none. */
static size_t find_tag(const lexer *l) {
  size_t at = l->at;
  while (at + 1 < l->bytes &&
         !(l->text[at] == '{' &&
           (l->text[at + 1] == '{' || l->text[at + 1] == '%' || l->text[at + 1] == '#')))
    at++;
  return at + 1 < l->bytes ? at : l->bytes;
}

/* The text's end without the white space that the tag at `tag` takes away. */
static size_t strip_before(const lexer *l, size_t begin, size_t tag) {
  const char control = tag + 2 < l->bytes ? l->text[tag + 2] : 0;
  size_t end = tag;
  if (control == '-') {
    while (end > begin && is_white(l->text[end - 1]))
      end--;
    return end;
  }
  if (control == '+' || l->text[tag + 1] == '{') return end;
  while (end > begin && (l->text[end - 1] == ' ' || l->text[end - 1] == '\t'))
    end--;
  const bool at_line =
      end == 0 || (end > begin ? l->text[end - 1] == '\n' : l->text[begin - 1] == '\n');
  return at_line ? end : tag;
}

/* Behind a tag: what '-' takes away, or the newline that a block or comment does. */
static void strip_after(lexer *l, char control, bool is_block) {
  const size_t begin = l->at;
  if (control == '-') {
    while (l->at < l->bytes && is_white(l->text[l->at]))
      l->at++;
  } else if (is_block && control != '+') {
    if (l->at < l->bytes && l->text[l->at] == '\n') l->at++;
  }
  count_lines(l, begin, l->at);
}

static cs_status lex_comment(lexer *l) {
  const char *end = memmem(l->text + l->at, l->bytes - l->at, "#}", 2);
  if (!end) return fail(l, "a comment has no end");
  const size_t closed = (size_t)(end - l->text);
  const char control = closed > l->at + 2 ? end[-1] : 0;
  count_lines(l, l->at, closed);
  l->at = closed + 2;
  strip_after(l, control == '-' || control == '+' ? control : 0, true);
  return CS_OK;
}

static cs_status lex_tag(lexer *l) {
  const char kind = l->text[l->at + 1];
  if (kind == '#') return lex_comment(l);
  const bool block = kind == '%';
  char control = 0;
  l->at += 2;
  if (l->at < l->bytes && (l->text[l->at] == '-' || l->text[l->at] == '+')) l->at++;
  cs_status status = add(l, block ? CS_TOKEN_OPEN_TAG : CS_TOKEN_OPEN, "", 0);
  if (status == CS_OK) status = lex_inside(l, block ? "%}" : "}}", &control);
  if (status == CS_OK) status = add(l, block ? CS_TOKEN_CLOSE_TAG : CS_TOKEN_CLOSE, "", 0);
  if (status == CS_OK) strip_after(l, control, block);
  return status;
}

cs_status cs_chat_lex(cs_chat_arena *arena, const char *text, size_t bytes, cs_chat_token **out,
                      size_t *n_out, cs_error *error) {
  lexer l = {.arena = arena, .text = text, .bytes = bytes, .line = 1, .error = error};
  if (l.bytes > 0 && text[l.bytes - 1] == '\n') l.bytes--;
  if (l.bytes > 0 && l.bytes < bytes && text[l.bytes - 1] == '\r') l.bytes--;
  while (l.at < l.bytes) {
    const size_t begin = l.at, tag = find_tag(&l);
    const size_t end = tag < l.bytes ? strip_before(&l, begin, tag) : tag;
    cs_status status = end > begin ? add(&l, CS_TOKEN_TEXT, text + begin, end - begin) : CS_OK;
    if (status != CS_OK) return status;
    count_lines(&l, begin, tag);
    l.at = tag;
    if (tag < l.bytes && (status = lex_tag(&l)) != CS_OK) return status;
  }
  const cs_status status = add(&l, CS_TOKEN_END, "", 0);
  *out = l.tokens;
  *n_out = l.n;
  return status;
}
