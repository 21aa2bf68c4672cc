/* Filters, found by name in one table. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/chat/run.h"
#include "models/tokenizer_steps.h"
#include "models/utf8.h"

typedef cs_chat_value (*filter)(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments);

static const cs_chat_value nothing = {.type = CS_CHAT_NONE};

static cs_chat_value out_of_memory(cs_chat_run *run) {
  return cs_chat_made(run, (cs_chat_value){0});
}

static cs_chat_value wrong(cs_chat_run *run, const char *name) {
  return cs_chat_fail(run, CS_INVALID_ARGUMENT, "filter \"%s\" does not fit this value", name);
}

/* ---- text -------------------------------------------------------------------------------- */

/* The length of the character at that end when it is to go, 0 when it stays. */
static size_t in_set(const cs_chat_string *s, size_t begin, size_t end, const void *given,
                     const char *set, size_t n_set, bool front) {
  size_t at = front ? begin : end - 1;
  if (begin >= end) return 0;
  while (!front && at > begin && ((unsigned char)s->data[at] & 0xc0) == 0x80)
    at--;
  const int length = cs_utf8_character((const uint8_t *)s->data + at, end - at);
  if (length <= 0) return 0;
  if (memmem(set, n_set, s->data + at, (size_t)length)) return (size_t)length;
  return !given && cs_is_space(cs_utf8_code_point(s->data + at, length)) ? (size_t)length : 0;
}

void cs_chat_trim(const cs_chat_string *s, const cs_chat_string *characters, bool left, bool right,
                  size_t *begin, size_t *end) {
  *begin = 0;
  *end = s->bytes;
  const char *set = characters ? characters->data : " \t\n\r\f\v\x1c\x1d\x1e\x1f";
  const size_t n_set = characters ? characters->bytes : strlen(set);
  for (size_t n = 1; left && n > 0; *begin += n)
    n = in_set(s, *begin, *end, characters, set, n_set, true);
  for (size_t n = 1; right && n > 0; *end -= n)
    n = in_set(s, *begin, *end, characters, set, n_set, false);
}

static cs_chat_value trim(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  size_t begin, end;
  const cs_chat_value text = cs_chat_to_text(run, of);
  const cs_chat_value set = cs_chat_argument(arguments, 0, "chars", nothing);
  if (run->status != CS_OK) return text;
  cs_chat_trim(text.string, set.type == CS_CHAT_STRING ? set.string : NULL, true, true, &begin,
               &end);
  return cs_chat_new_text(run, text.string->data + begin, end - begin);
}

typedef enum letter_case { LOWER, UPPER, CAPITALIZED, TITLE } letter_case;

static cs_chat_value change_case(cs_chat_run *run, cs_chat_value of, letter_case how) {
  cs_chat_value text = cs_chat_to_text(run, of);
  if (run->status == CS_OK) text = cs_chat_new_text(run, text.string->data, text.string->bytes);
  if (run->status != CS_OK) return text;
  char *data = (char *)text.string->data; /* our own copy */
  bool begins = true;
  for (size_t i = 0; i < text.string->bytes; i++) {
    const unsigned char c = (unsigned char)data[i];
    const bool up = how == UPPER || (how == CAPITALIZED && i == 0) || (how == TITLE && begins);
    begins = !isalnum(c) && c < 0x80 && c != '\'';
    if (c < 0x80) data[i] = (char)(up ? toupper(c) : tolower(c));
  }
  return text;
}

static cs_chat_value lower(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  return change_case(run, of, LOWER);
}

static cs_chat_value upper(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  return change_case(run, of, UPPER);
}

static cs_chat_value capitalize(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  return change_case(run, of, CAPITALIZED);
}

static cs_chat_value title(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  return change_case(run, of, TITLE);
}

cs_chat_value cs_chat_replace(cs_chat_run *run, const cs_chat_string *in,
                              cs_chat_arguments arguments) {
  const cs_chat_value from = cs_chat_argument(arguments, 0, "old", nothing);
  const cs_chat_value to = cs_chat_argument(arguments, 1, "new", nothing);
  const cs_chat_value count = cs_chat_argument(arguments, 2, "count", nothing);
  if (from.type != CS_CHAT_STRING || to.type != CS_CHAT_STRING) return wrong(run, "replace");
  int64_t left = count.type == CS_CHAT_INT && count.integer >= 0 ? count.integer : INT64_MAX;
  cs_chat_buffer out = {.arena = run->arena};
  size_t at = 0;
  while (at < in->bytes && from.string->bytes > 0 && left-- > 0) {
    const char *found =
        memmem(in->data + at, in->bytes - at, from.string->data, from.string->bytes);
    if (!found || !cs_chat_step(run, 1)) break;
    cs_chat_write(&out, in->data + at, (size_t)(found - in->data) - at);
    cs_chat_write(&out, to.string->data, to.string->bytes);
    at = (size_t)(found - in->data) + from.string->bytes;
  }
  cs_chat_write(&out, in->data + at, in->bytes - at);
  return cs_chat_made(run, cs_chat_take(&out));
}

static cs_chat_value replace(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value text = cs_chat_to_text(run, of);
  return run->status == CS_OK ? cs_chat_replace(run, text.string, arguments) : text;
}

static cs_chat_value indent(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value width = cs_chat_argument(arguments, 0, "width", cs_chat_int(4));
  const bool first = cs_chat_truth(cs_chat_argument(arguments, 1, "first", nothing));
  const bool blank = cs_chat_truth(cs_chat_argument(arguments, 2, "blank", nothing));
  const cs_chat_value text = cs_chat_to_text(run, of);
  cs_chat_value by = width;
  if (width.type == CS_CHAT_INT)
    by = cs_chat_binary(run, CS_OP_MULTIPLY, cs_chat_new_text(run, " ", 1), width);
  if (run->status != CS_OK || by.type != CS_CHAT_STRING) return wrong(run, "indent");
  cs_chat_buffer out = {.arena = run->arena};
  const char *at = text.string->data, *end = at + text.string->bytes;
  for (bool begins = true; at < end || begins; begins = false) {
    const char *line = memchr(at, '\n', (size_t)(end - at));
    const size_t n = line ? (size_t)(line - at) : (size_t)(end - at);
    if (begins ? first : n > 0 || blank) cs_chat_write(&out, by.string->data, by.string->bytes);
    cs_chat_write(&out, at, n + (line != NULL));
    if (!line || !cs_chat_step(run, 1)) break;
    at = line + 1;
  }
  return cs_chat_made(run, cs_chat_take(&out));
}

static cs_chat_value escape(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  static const struct {
    char character;
    const char *name;
  } names[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&#34;"}, {'\'', "&#39;"}};
  (void)arguments;
  const cs_chat_value text = cs_chat_to_text(run, of);
  cs_chat_buffer out = {.arena = run->arena};
  for (size_t i = 0; run->status == CS_OK && i < text.string->bytes; i++) {
    size_t k = 0;
    while (k < 5 && names[k].character != text.string->data[i])
      k++;
    cs_chat_write(&out, k < 5 ? names[k].name : text.string->data + i,
                  k < 5 ? strlen(names[k].name) : 1);
  }
  return cs_chat_made(run, cs_chat_take(&out));
}

static cs_chat_value to_json(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value width = cs_chat_argument(arguments, 1, "indent", nothing);
  const bool sort = cs_chat_truth(cs_chat_argument(arguments, 3, "sort_keys", nothing));
  cs_chat_buffer out = {.arena = run->arena};
  if (of.type == CS_CHAT_UNDEFINED || of.type == CS_CHAT_FUNCTION) return wrong(run, "tojson");
  cs_chat_print_json(&out, of,
                     width.type == CS_CHAT_INT && width.integer >= 0
                         ? (int)(width.integer > 32 ? 32 : width.integer)
                         : -1,
                     sort);
  return cs_chat_step(run, out.bytes / 64) ? cs_chat_made(run, cs_chat_take(&out)) : nothing;
}

static cs_chat_value as_text(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  return cs_chat_to_text(run, of);
}

static cs_chat_value same(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)run;
  (void)arguments;
  return of;
}

static cs_chat_value format(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  return of.type == CS_CHAT_STRING ? cs_chat_format(run, of.string, arguments)
                                   : wrong(run, "format");
}

/* ---- numbers ----------------------------------------------------------------------------- */

static cs_chat_value to_int(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value usual = cs_chat_argument(arguments, 0, "default", cs_chat_int(0));
  (void)run;
  if (of.type == CS_CHAT_INT) return of;
  if (of.type == CS_CHAT_BOOL) return cs_chat_int(of.boolean);
  double number = of.type == CS_CHAT_FLOAT ? of.number : NAN;
  if (of.type == CS_CHAT_STRING) {
    char *end;
    number = strtod(of.string->data, &end);
    if (end == of.string->data || *end) return usual;
  }
  return number > -9e18 && number < 9e18 ? cs_chat_int((int64_t)number) : usual;
}

static cs_chat_value to_float(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value usual = cs_chat_argument(arguments, 0, "default", cs_chat_float(0));
  char *end;
  (void)run;
  if (of.type == CS_CHAT_FLOAT) return of;
  if (of.type == CS_CHAT_INT) return cs_chat_float((double)of.integer);
  if (of.type != CS_CHAT_STRING) return usual;
  const double number = strtod(of.string->data, &end);
  return end == of.string->data || *end ? usual : cs_chat_float(number);
}

static cs_chat_value absolute(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  if (of.type == CS_CHAT_FLOAT) return cs_chat_float(fabs(of.number));
  if (of.type != CS_CHAT_INT || of.integer == INT64_MIN) return wrong(run, "abs");
  return cs_chat_int(of.integer < 0 ? -of.integer : of.integer);
}

static cs_chat_value round_number(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value digits = cs_chat_argument(arguments, 0, "precision", cs_chat_int(0));
  const cs_chat_value number = to_float(run, of, (cs_chat_arguments){0});
  if (digits.type != CS_CHAT_INT || digits.integer < 0 || digits.integer > 15)
    return wrong(run, "round");
  const double scale = pow(10, (double)digits.integer);
  return cs_chat_float(nearbyint(number.number * scale) / scale);
}

/* ---- lists ------------------------------------------------------------------------------- */

static cs_chat_value length(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  switch (of.type) {
  case CS_CHAT_STRING:
    return cs_chat_int((int64_t)cs_chat_n_characters(of.string));
  case CS_CHAT_LIST:
    return cs_chat_int((int64_t)of.list->n);
  case CS_CHAT_MAP:
    return cs_chat_int((int64_t)of.map->n);
  case CS_CHAT_UNDEFINED:
    return cs_chat_int(0);
  default:
    return wrong(run, "length");
  }
}

static cs_chat_value usual_value(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const bool falsy = cs_chat_truth(cs_chat_argument(arguments, 1, "boolean", nothing));
  const bool missing = of.type == CS_CHAT_UNDEFINED || (falsy && !cs_chat_truth(of));
  if (!missing) return of;
  return cs_chat_argument(arguments, 0, "default_value", cs_chat_new_text(run, "", 0));
}

static cs_chat_value join(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value by = cs_chat_argument(arguments, 0, "d", nothing);
  const cs_chat_value path = cs_chat_argument(arguments, 1, "attribute", nothing);
  const cs_chat_value list = cs_chat_list_of(run, of);
  cs_chat_buffer out = {.arena = run->arena};
  if (run->status != CS_OK) return list;
  for (size_t i = 0; i < list.list->n && cs_chat_step(run, 1); i++) {
    if (i && by.type != CS_CHAT_NONE) cs_chat_print(&out, by);
    cs_chat_print(&out, cs_chat_path(run, list.list->items[i], path));
  }
  return run->status == CS_OK ? cs_chat_made(run, cs_chat_take(&out)) : nothing;
}

static cs_chat_value to_list(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  const cs_chat_value list = cs_chat_list_of(run, of);
  const cs_chat_value copy = cs_chat_made(run, cs_chat_new_list(run->arena));
  for (size_t i = 0; run->status == CS_OK && i < list.list->n && cs_chat_step(run, 1); i++)
    if (!cs_chat_append(run->arena, copy.list, list.list->items[i])) return out_of_memory(run);
  return copy;
}

static cs_chat_value first(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  const cs_chat_value list = cs_chat_list_of(run, of);
  if (run->status != CS_OK || list.list->n == 0) return (cs_chat_value){0};
  return list.list->items[0];
}

static cs_chat_value last(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  const cs_chat_value list = cs_chat_list_of(run, of);
  if (run->status != CS_OK || list.list->n == 0) return (cs_chat_value){0};
  return list.list->items[list.list->n - 1];
}

static cs_chat_value reverse(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value list = to_list(run, of, arguments);
  if (run->status != CS_OK) return list;
  for (size_t i = 0; i < list.list->n / 2; i++) {
    const cs_chat_value item = list.list->items[i];
    list.list->items[i] = list.list->items[list.list->n - 1 - i];
    list.list->items[list.list->n - 1 - i] = item;
  }
  return of.type == CS_CHAT_STRING ? join(run, list, (cs_chat_arguments){0}) : list;
}

/* (key, value) pairs. */
static cs_chat_value items(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  const cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  if (of.type == CS_CHAT_UNDEFINED) return list;
  if (of.type != CS_CHAT_MAP) return wrong(run, "items");
  for (size_t i = 0; run->status == CS_OK && i < of.map->n && cs_chat_step(run, 1); i++) {
    cs_chat_value pair = cs_chat_made(run, cs_chat_new_list(run->arena));
    const cs_chat_value key = {.type = CS_CHAT_STRING, .string = of.map->entries[i].key};
    pair.tuple = true;
    if (run->status != CS_OK || !cs_chat_append(run->arena, pair.list, key) ||
        !cs_chat_append(run->arena, pair.list, of.map->entries[i].value) ||
        !cs_chat_append(run->arena, list.list, pair))
      return out_of_memory(run);
  }
  return list;
}

/* Stable, and without letting case count unless asked: insertion into the sorted part. */
static cs_chat_value sort_by(cs_chat_run *run, cs_chat_value list, cs_chat_value path,
                             bool backwards, bool case_sensitive) {
  for (size_t i = 1; run->status == CS_OK && i < list.list->n; i++) {
    const cs_chat_value item = list.list->items[i];
    size_t at = i;
    for (; at > 0 && cs_chat_step(run, 1); at--) {
      cs_chat_value a = cs_chat_path(run, list.list->items[at - 1], path);
      cs_chat_value b = cs_chat_path(run, item, path);
      bool ordered;
      if (!case_sensitive && a.type == CS_CHAT_STRING) a = change_case(run, a, LOWER);
      if (!case_sensitive && b.type == CS_CHAT_STRING) b = change_case(run, b, LOWER);
      if (run->status != CS_OK) break;
      const int order = cs_chat_compare(a, b, &ordered);
      if (!ordered) return wrong(run, "sort");
      if (backwards ? order >= 0 : order <= 0) break;
      list.list->items[at] = list.list->items[at - 1];
    }
    list.list->items[at] = item;
  }
  return list;
}

static cs_chat_value sort(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const bool backwards = cs_chat_truth(cs_chat_argument(arguments, 0, "reverse", nothing));
  const bool exact = cs_chat_truth(cs_chat_argument(arguments, 1, "case_sensitive", nothing));
  const cs_chat_value path = cs_chat_argument(arguments, 2, "attribute", nothing);
  const cs_chat_value list = to_list(run, of, (cs_chat_arguments){0});
  return run->status == CS_OK ? sort_by(run, list, path, backwards, exact) : list;
}

static cs_chat_value dictsort(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const bool exact = cs_chat_truth(cs_chat_argument(arguments, 0, "case_sensitive", nothing));
  const cs_chat_value by = cs_chat_argument(arguments, 1, "by", nothing);
  const bool backwards = cs_chat_truth(cs_chat_argument(arguments, 2, "reverse", nothing));
  const bool value = by.type == CS_CHAT_STRING && strcmp(by.string->data, "value") == 0;
  const cs_chat_value list = items(run, of, (cs_chat_arguments){0});
  return run->status == CS_OK ? sort_by(run, list, cs_chat_int(value), backwards, exact) : list;
}

static cs_chat_value unique(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  const cs_chat_value list = cs_chat_list_of(run, of);
  const cs_chat_value some = cs_chat_made(run, cs_chat_new_list(run->arena));
  for (size_t i = 0; run->status == CS_OK && i < list.list->n; i++)
    if (!cs_chat_contains(run, some, list.list->items[i]) &&
        !cs_chat_append(run->arena, some.list, list.list->items[i]))
      return out_of_memory(run);
  return some;
}

static cs_chat_value extreme(cs_chat_run *run, cs_chat_value of, int sign) {
  const cs_chat_value list = cs_chat_list_of(run, of);
  cs_chat_value best = {0};
  for (size_t i = 0; run->status == CS_OK && i < list.list->n && cs_chat_step(run, 1); i++) {
    bool ordered = true;
    if (i == 0 || cs_chat_compare(list.list->items[i], best, &ordered) == sign)
      best = list.list->items[i];
    if (!ordered) return wrong(run, "max");
  }
  return best;
}

static cs_chat_value maximum(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  return extreme(run, of, 1);
}

static cs_chat_value minimum(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  (void)arguments;
  return extreme(run, of, -1);
}

static cs_chat_value sum(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value path = cs_chat_argument(arguments, 0, "attribute", nothing);
  cs_chat_value total = cs_chat_argument(arguments, 1, "start", cs_chat_int(0));
  const cs_chat_value list = cs_chat_list_of(run, of);
  for (size_t i = 0; run->status == CS_OK && i < list.list->n && cs_chat_step(run, 1); i++)
    total = cs_chat_binary(run, CS_OP_ADD, total, cs_chat_path(run, list.list->items[i], path));
  return total;
}

/* ---- selecting --------------------------------------------------------------------------- */

/* What follows the first n arguments. */
static cs_chat_arguments after(cs_chat_arguments arguments, size_t n) {
  if (arguments.n <= n) return (cs_chat_arguments){0};
  return (cs_chat_arguments){arguments.list + n, arguments.n - n, NULL};
}

static cs_chat_value pick(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments,
                          bool by_attribute, bool wanted) {
  const cs_chat_value list = cs_chat_list_of(run, of);
  const cs_chat_value some = cs_chat_made(run, cs_chat_new_list(run->arena));
  const cs_chat_value path = by_attribute && arguments.n > 0 ? arguments.list[0] : nothing;
  const cs_chat_arguments rest = after(arguments, by_attribute ? 1 : 0);
  for (size_t i = 0; run->status == CS_OK && i < list.list->n && cs_chat_step(run, 1); i++) {
    const cs_chat_value value = cs_chat_path(run, list.list->items[i], path);
    bool holds = cs_chat_truth(value);
    if (rest.n > 0 && rest.list[0].type == CS_CHAT_STRING)
      holds = cs_chat_test(run, rest.list[0].string, value, after(rest, 1));
    if (holds == wanted && !cs_chat_append(run->arena, some.list, list.list->items[i]))
      return out_of_memory(run);
  }
  return some;
}

static cs_chat_value select_items(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  return pick(run, of, arguments, false, true);
}

static cs_chat_value reject_items(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  return pick(run, of, arguments, false, false);
}

static cs_chat_value selectattr(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  return pick(run, of, arguments, true, true);
}

static cs_chat_value rejectattr(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  return pick(run, of, arguments, true, false);
}

static cs_chat_value map(cs_chat_run *run, cs_chat_value of, cs_chat_arguments arguments) {
  const cs_chat_value path = cs_chat_argument(arguments, arguments.n, "attribute", nothing);
  const cs_chat_value usual = cs_chat_argument(arguments, arguments.n, "default", nothing);
  const bool by_path = path.type != CS_CHAT_NONE;
  const cs_chat_value list = cs_chat_list_of(run, of);
  const cs_chat_value mapped = cs_chat_made(run, cs_chat_new_list(run->arena));
  if (!by_path && (arguments.n == 0 || arguments.list[0].type != CS_CHAT_STRING))
    return wrong(run, "map");
  for (size_t i = 0; run->status == CS_OK && i < list.list->n && cs_chat_step(run, 1); i++) {
    cs_chat_value value = by_path ? cs_chat_path(run, list.list->items[i], path)
                                  : cs_chat_filter(run, arguments.list[0].string,
                                                   list.list->items[i], after(arguments, 1));
    if (value.type == CS_CHAT_UNDEFINED && usual.type != CS_CHAT_NONE) value = usual;
    if (!cs_chat_append(run->arena, mapped.list, value)) return out_of_memory(run);
  }
  return mapped;
}

static const struct {
  const char *name;
  filter apply;
} filters[] = {
    {"abs", absolute},
    {"capitalize", capitalize},
    {"count", length},
    {"d", usual_value},
    {"default", usual_value},
    {"dictsort", dictsort},
    {"e", escape},
    {"escape", escape},
    {"first", first},
    {"float", to_float},
    {"format", format},
    {"indent", indent},
    {"int", to_int},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length},
    {"list", to_list},
    {"lower", lower},
    {"map", map},
    {"max", maximum},
    {"min", minimum},
    {"reject", reject_items},
    {"rejectattr", rejectattr},
    {"replace", replace},
    {"reverse", reverse},
    {"round", round_number},
    {"safe", same},
    {"select", select_items},
    {"selectattr", selectattr},
    {"sort", sort},
    {"string", as_text},
    {"sum", sum},
    {"title", title},
    {"tojson", to_json},
    {"trim", trim},
    {"unique", unique},
    {"upper", upper},
};

cs_chat_value cs_chat_filter(cs_chat_run *run, const cs_chat_string *name, cs_chat_value of,
                             cs_chat_arguments arguments) {
  for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
    if (strcmp(filters[i].name, name->data) == 0)
      return cs_chat_look(run, of) ? filters[i].apply(run, of, arguments) : nothing;
  return cs_chat_fail(run, CS_UNSUPPORTED, "filter \"%.40s\" is not supported", name->data);
}
