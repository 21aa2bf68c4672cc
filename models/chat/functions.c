/* Tests, methods and functions of the language. Lists have no methods that change them: as in
 * transformers' sandbox, a template can only make new ones. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "models/chat/run.h"

static const cs_chat_value nothing = {.type = CS_CHAT_NONE};

static cs_chat_value out_of_memory(cs_chat_run *run) {
  return cs_chat_made(run, (cs_chat_value){0});
}

/* ---- tests ------------------------------------------------------------------------------- */

static bool is_type(const char *name, cs_chat_value v, bool *known) {
  *known = true;
  if (strcmp(name, "defined") == 0) return v.type != CS_CHAT_UNDEFINED;
  if (strcmp(name, "undefined") == 0) return v.type == CS_CHAT_UNDEFINED;
  if (strcmp(name, "none") == 0) return v.type == CS_CHAT_NONE;
  if (strcmp(name, "string") == 0) return v.type == CS_CHAT_STRING;
  if (strcmp(name, "mapping") == 0) return v.type == CS_CHAT_MAP;
  if (strcmp(name, "boolean") == 0) return v.type == CS_CHAT_BOOL;
  if (strcmp(name, "integer") == 0) return v.type == CS_CHAT_INT;
  if (strcmp(name, "float") == 0) return v.type == CS_CHAT_FLOAT;
  if (strcmp(name, "callable") == 0) return v.type == CS_CHAT_FUNCTION;
  if (strcmp(name, "true") == 0) return v.type == CS_CHAT_BOOL && v.boolean;
  if (strcmp(name, "false") == 0) return v.type == CS_CHAT_BOOL && !v.boolean;
  if (strcmp(name, "number") == 0)
    return v.type == CS_CHAT_INT || v.type == CS_CHAT_FLOAT || v.type == CS_CHAT_BOOL;
  if (strcmp(name, "iterable") == 0 || strcmp(name, "sequence") == 0)
    return v.type == CS_CHAT_LIST || v.type == CS_CHAT_MAP || v.type == CS_CHAT_STRING ||
           v.type == CS_CHAT_UNDEFINED;
  *known = false;
  return false;
}

static bool is_case(cs_chat_value v, int (*other)(int), int (*own)(int)) {
  bool any = false;
  if (v.type != CS_CHAT_STRING) return false;
  for (size_t i = 0; i < v.string->bytes; i++) {
    const unsigned char c = (unsigned char)v.string->data[i];
    if (c < 0x80 && other(c)) return false;
    any = any || (c < 0x80 && own(c));
  }
  return any;
}

static bool remainder_is(cs_chat_run *run, cs_chat_value v, int64_t by, int64_t rest) {
  if (v.type != CS_CHAT_INT || by == 0) {
    cs_chat_fail(run, CS_INVALID_ARGUMENT, "a test that needs a whole number");
    return false;
  }
  return by == -1 ? rest == 0 : (v.integer % by + by) % by == rest;
}

static bool compares(cs_chat_run *run, const char *name, cs_chat_value v, cs_chat_value other,
                     bool *known) {
  static const struct {
    const char *names[3];
    cs_chat_op op;
  } tests[] = {{{"eq", "equalto", "=="}, CS_OP_EQUAL},
               {{"ne", "!=", ""}, CS_OP_NOT_EQUAL},
               {{"lt", "lessthan", "<"}, CS_OP_LESS},
               {{"le", "<=", ""}, CS_OP_LESS_EQUAL},
               {{"gt", "greaterthan", ">"}, CS_OP_GREATER},
               {{"ge", ">=", ""}, CS_OP_GREATER_EQUAL},
               {{"in", "", ""}, CS_OP_IN}};
  *known = true;
  for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
    for (size_t k = 0; k < 3; k++)
      if (strcmp(tests[i].names[k], name) == 0)
        return cs_chat_truth(cs_chat_binary(run, tests[i].op, v, other));
  *known = false;
  return false;
}

bool cs_chat_test(cs_chat_run *run, const cs_chat_string *name, cs_chat_value v,
                  cs_chat_arguments arguments) {
  const cs_chat_value other = cs_chat_argument(arguments, 0, "other", nothing);
  bool known;
  if (!cs_chat_look(run, v)) return false;
  bool holds = is_type(name->data, v, &known);
  if (known) return holds;
  holds = compares(run, name->data, v, other, &known);
  if (known) return holds;
  if (strcmp(name->data, "sameas") == 0) return v.type == other.type && cs_chat_equal(v, other);
  if (strcmp(name->data, "lower") == 0) return is_case(v, isupper, islower);
  if (strcmp(name->data, "upper") == 0) return is_case(v, islower, isupper);
  if (strcmp(name->data, "even") == 0) return remainder_is(run, v, 2, 0);
  if (strcmp(name->data, "odd") == 0) return remainder_is(run, v, 2, 1);
  if (strcmp(name->data, "divisibleby") == 0)
    return remainder_is(run, v, other.type == CS_CHAT_INT ? other.integer : 0, 0);
  cs_chat_fail(run, CS_UNSUPPORTED, "test \"%.40s\" is not supported", name->data);
  return false;
}

/* ---- methods ----------------------------------------------------------------------------- */

static const char *const string_methods[] = {
    ".strip",      ".lstrip",       ".rstrip",       ".split",   ".rsplit",
    ".splitlines", ".startswith",   ".endswith",     ".replace", ".upper",
    ".lower",      ".title",        ".capitalize",   ".find",    ".index",
    ".count",      ".join",         ".isdigit",      ".isalpha", ".isalnum",
    ".isspace",    ".removeprefix", ".removesuffix", ".format",  NULL};
static const char *const map_methods[] = {".get", ".items", ".keys", ".values", ".copy", NULL};
static const char *const list_methods[] = {".index", ".count", NULL};

cs_chat_value cs_chat_method(cs_chat_run *run, cs_chat_value of, const cs_chat_string *name) {
  const char *const *methods = of.type == CS_CHAT_STRING ? string_methods
                               : of.type == CS_CHAT_MAP  ? map_methods
                               : of.type == CS_CHAT_LIST ? list_methods
                                                         : NULL;
  while (methods && *methods && strcmp(*methods + 1, name->data) != 0)
    methods++;
  if (!methods || !*methods) return (cs_chat_value){0};
  cs_chat_function *function = cs_chat_allocate(run->arena, sizeof *function);
  if (!function) return out_of_memory(run);
  *function = (cs_chat_function){.name = *methods, .self = of};
  return (cs_chat_value){.type = CS_CHAT_FUNCTION, .function = function};
}

static bool is_named(const char *name, const char *what) {
  return strcmp(name, what) == 0;
}

static cs_chat_value wrong(cs_chat_run *run, const char *name) {
  return cs_chat_fail(run, CS_INVALID_ARGUMENT, "\"%s\" does not take these arguments", name);
}

static cs_chat_value strip(cs_chat_run *run, const cs_chat_string *s, const char *name,
                           cs_chat_arguments arguments) {
  const cs_chat_value set = cs_chat_argument(arguments, 0, "chars", nothing);
  size_t begin, end;
  cs_chat_trim(s, set.type == CS_CHAT_STRING ? set.string : NULL, name[1] != 'r', name[1] != 'l',
               &begin, &end);
  return cs_chat_new_text(run, s->data + begin, end - begin);
}

static bool add_part(cs_chat_run *run, cs_chat_list *list, const char *data, size_t bytes) {
  const cs_chat_value part = cs_chat_new_text(run, data, bytes);
  if (run->status == CS_OK && !cs_chat_append(run->arena, list, part)) out_of_memory(run);
  return cs_chat_step(run, 1);
}

static bool is_white(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
}

/* At white space, any number of it, as split() without an argument does. */
static cs_chat_value split_words(cs_chat_run *run, const cs_chat_string *s, int64_t limit) {
  const cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  size_t at = 0;
  while (run->status == CS_OK) {
    while (at < s->bytes && is_white(s->data[at]))
      at++;
    if (at == s->bytes) break;
    size_t end = at;
    if (limit-- == 0) {
      end = s->bytes;
    } else {
      while (end < s->bytes && !is_white(s->data[end]))
        end++;
    }
    if (!add_part(run, list.list, s->data + at, end - at)) break;
    at = end;
  }
  return list;
}

static cs_chat_value split(cs_chat_run *run, const cs_chat_string *s, cs_chat_arguments arguments) {
  const cs_chat_value by = cs_chat_argument(arguments, 0, "sep", nothing);
  const cs_chat_value count = cs_chat_argument(arguments, 1, "maxsplit", nothing);
  int64_t limit = count.type == CS_CHAT_INT ? count.integer : -1;
  if (by.type == CS_CHAT_NONE) return split_words(run, s, limit);
  if (by.type != CS_CHAT_STRING || by.string->bytes == 0) return wrong(run, "split");
  const cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  size_t at = 0;
  while (run->status == CS_OK) {
    const char *found =
        limit-- == 0 ? NULL
                     : memmem(s->data + at, s->bytes - at, by.string->data, by.string->bytes);
    const size_t end = found ? (size_t)(found - s->data) : s->bytes;
    if (!add_part(run, list.list, s->data + at, end - at) || !found) break;
    at = end + by.string->bytes;
  }
  return list;
}

/* From the right: the last `limit` borders are found first. */
static cs_chat_value rsplit(cs_chat_run *run, const cs_chat_string *s,
                            cs_chat_arguments arguments) {
  const cs_chat_value by = cs_chat_argument(arguments, 0, "sep", nothing);
  const cs_chat_value count = cs_chat_argument(arguments, 1, "maxsplit", nothing);
  const cs_chat_arguments alone = {&by, 1, NULL};
  const cs_chat_value all = split(run, s, alone);
  if (run->status != CS_OK || count.type != CS_CHAT_INT || count.integer < 0 ||
      (int64_t)all.list->n <= count.integer + 1)
    return all;
  if (by.type != CS_CHAT_STRING) return wrong(run, "rsplit");
  const size_t n = (size_t)count.integer;
  size_t bytes = s->bytes;
  for (size_t i = all.list->n - n; i < all.list->n; i++)
    bytes -= all.list->items[i].string->bytes + by.string->bytes;
  const cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  if (run->status != CS_OK || !add_part(run, list.list, s->data, bytes)) return list;
  for (size_t i = all.list->n - n; i < all.list->n; i++)
    if (!cs_chat_append(run->arena, list.list, all.list->items[i])) return out_of_memory(run);
  return list;
}

static cs_chat_value splitlines(cs_chat_run *run, const cs_chat_string *s) {
  const cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  for (size_t at = 0; run->status == CS_OK && at < s->bytes;) {
    size_t end = at;
    while (end < s->bytes && s->data[end] != '\n' && s->data[end] != '\r')
      end++;
    if (!add_part(run, list.list, s->data + at, end - at)) break;
    at = end + 1 + (end + 1 < s->bytes && s->data[end] == '\r' && s->data[end + 1] == '\n');
  }
  return list;
}

static bool has_affix(const cs_chat_string *s, cs_chat_value affix, bool front) {
  if (affix.type != CS_CHAT_STRING || affix.string->bytes > s->bytes) return false;
  const char *at = front ? s->data : s->data + s->bytes - affix.string->bytes;
  return memcmp(at, affix.string->data, affix.string->bytes) == 0;
}

/* startswith and endswith take one string or a tuple of them. */
static cs_chat_value test_affix(cs_chat_run *run, const cs_chat_string *s, bool front,
                                cs_chat_arguments arguments) {
  const cs_chat_value affix = cs_chat_argument(arguments, 0, "prefix", nothing);
  if (affix.type == CS_CHAT_STRING) return cs_chat_bool(has_affix(s, affix, front));
  if (affix.type != CS_CHAT_LIST) return wrong(run, front ? "startswith" : "endswith");
  for (size_t i = 0; i < affix.list->n; i++)
    if (has_affix(s, affix.list->items[i], front)) return cs_chat_bool(true);
  return cs_chat_bool(false);
}

static cs_chat_value remove_affix(cs_chat_run *run, const cs_chat_string *s, bool front,
                                  cs_chat_arguments arguments) {
  const cs_chat_value affix = cs_chat_argument(arguments, 0, "prefix", nothing);
  const size_t bytes = has_affix(s, affix, front) ? affix.string->bytes : 0;
  return cs_chat_new_text(run, s->data + (front ? bytes : 0), s->bytes - bytes);
}

static cs_chat_value find(cs_chat_run *run, const cs_chat_string *s, cs_chat_arguments arguments,
                          bool must) {
  const cs_chat_value what = cs_chat_argument(arguments, 0, "sub", nothing);
  if (what.type != CS_CHAT_STRING) return wrong(run, "find");
  const char *found = memmem(s->data, s->bytes, what.string->data, what.string->bytes);
  if (!found && must) return cs_chat_fail(run, CS_INVALID_ARGUMENT, "\"index\" finds nothing");
  const cs_chat_string before = {s->data, found ? (size_t)(found - s->data) : 0};
  return cs_chat_int(found ? (int64_t)cs_chat_n_characters(&before) : -1);
}

static cs_chat_value count(cs_chat_run *run, const cs_chat_string *s, cs_chat_arguments arguments) {
  const cs_chat_value what = cs_chat_argument(arguments, 0, "sub", nothing);
  int64_t n = 0;
  if (what.type != CS_CHAT_STRING || what.string->bytes == 0) return wrong(run, "count");
  const char *at = s->data, *end = at + s->bytes;
  while ((at = memmem(at, (size_t)(end - at), what.string->data, what.string->bytes))) {
    at += what.string->bytes;
    n++;
  }
  return cs_chat_int(n);
}

static cs_chat_value test_characters(const cs_chat_string *s, const char *name) {
  for (size_t i = 0; i < s->bytes; i++) {
    const unsigned char c = (unsigned char)s->data[i];
    const bool letter = isalpha(c) || c >= 0x80, digit = isdigit(c);
    const bool holds = is_named(name, ".isdigit")   ? digit
                       : is_named(name, ".isalpha") ? letter
                       : is_named(name, ".isalnum") ? letter || digit
                                                    : is_white((char)c);
    if (!holds) return cs_chat_bool(false);
  }
  return cs_chat_bool(s->bytes > 0);
}

/* "{} and {0}" with its values. */
static cs_chat_value format_braces(cs_chat_run *run, const cs_chat_string *s,
                                   cs_chat_arguments arguments) {
  cs_chat_buffer out = {.arena = run->arena};
  size_t next = 0;
  for (size_t i = 0; i < s->bytes && cs_chat_step(run, 1); i++) {
    const char c = s->data[i];
    if ((c == '{' || c == '}') && i + 1 < s->bytes && s->data[i + 1] == c) {
      cs_chat_write(&out, &c, 1);
      i++;
    } else if (c != '{') {
      cs_chat_write(&out, &c, 1);
    } else {
      const char *end = memchr(s->data + i, '}', s->bytes - i);
      if (!end) return wrong(run, "format");
      const size_t bytes = (size_t)(end - s->data) - i - 1;
      const cs_chat_value name = cs_chat_new_text(run, s->data + i + 1, bytes);
      if (run->status != CS_OK) return name;
      const bool digits = isdigit((unsigned char)name.string->data[0]);
      const size_t index = bytes == 0 ? next++
                           : digits   ? (size_t)strtoul(name.string->data, NULL, 10)
                                      : SIZE_MAX;
      const cs_chat_value value =
          cs_chat_argument(arguments, index, name.string->data, (cs_chat_value){0});
      if (value.type == CS_CHAT_UNDEFINED) return wrong(run, "format");
      cs_chat_print(&out, value);
      i += bytes + 1;
    }
  }
  return run->status == CS_OK ? cs_chat_made(run, cs_chat_take(&out)) : nothing;
}

static cs_chat_value as_filter(cs_chat_run *run, const char *name, cs_chat_value of,
                               cs_chat_arguments arguments) {
  const cs_chat_string text = {name, strlen(name)};
  return cs_chat_filter(run, &text, of, arguments);
}

static cs_chat_value call_string(cs_chat_run *run, const char *name, cs_chat_value self,
                                 cs_chat_arguments arguments) {
  const cs_chat_string *s = self.string;
  if (strstr(name, "strip")) return strip(run, s, name, arguments);
  if (is_named(name, ".split")) return split(run, s, arguments);
  if (is_named(name, ".rsplit")) return rsplit(run, s, arguments);
  if (is_named(name, ".splitlines")) return splitlines(run, s);
  if (is_named(name, ".startswith")) return test_affix(run, s, true, arguments);
  if (is_named(name, ".endswith")) return test_affix(run, s, false, arguments);
  if (is_named(name, ".removeprefix")) return remove_affix(run, s, true, arguments);
  if (is_named(name, ".removesuffix")) return remove_affix(run, s, false, arguments);
  if (is_named(name, ".replace")) return cs_chat_replace(run, s, arguments);
  if (is_named(name, ".find")) return find(run, s, arguments, false);
  if (is_named(name, ".index")) return find(run, s, arguments, true);
  if (is_named(name, ".count")) return count(run, s, arguments);
  if (is_named(name, ".format")) return format_braces(run, s, arguments);
  if (is_named(name, ".join"))
    return as_filter(run, "join", cs_chat_argument(arguments, 0, "iterable", nothing),
                     (cs_chat_arguments){&self, 1, NULL});
  if (strncmp(name, ".is", 3) == 0) return test_characters(s, name);
  return as_filter(run, name + 1, self, (cs_chat_arguments){0}); /* upper, lower, title, ... */
}

static cs_chat_value call_map(cs_chat_run *run, const char *name, cs_chat_value self,
                              cs_chat_arguments arguments) {
  if (is_named(name, ".get")) {
    const cs_chat_value key = cs_chat_argument(arguments, 0, "key", nothing);
    const cs_chat_value *found = key.type == CS_CHAT_STRING
                                     ? cs_chat_find(self.map, key.string->data, key.string->bytes)
                                     : NULL;
    return found ? *found : cs_chat_argument(arguments, 1, "default", nothing);
  }
  if (is_named(name, ".items")) return as_filter(run, "items", self, (cs_chat_arguments){0});
  if (is_named(name, ".copy")) return self;
  const cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  for (size_t i = 0; run->status == CS_OK && i < self.map->n && cs_chat_step(run, 1); i++) {
    const cs_chat_value key = {.type = CS_CHAT_STRING, .string = self.map->entries[i].key};
    if (!cs_chat_append(run->arena, list.list,
                        is_named(name, ".keys") ? key : self.map->entries[i].value))
      return out_of_memory(run);
  }
  return list;
}

static cs_chat_value call_list(cs_chat_run *run, const char *name, const cs_chat_list *list,
                               cs_chat_arguments arguments) {
  const cs_chat_value what = cs_chat_argument(arguments, 0, "value", nothing);
  int64_t n = 0;
  for (size_t i = 0; i < list->n && cs_chat_step(run, 1); i++) {
    if (!cs_chat_equal(list->items[i], what)) continue;
    if (is_named(name, ".index")) return cs_chat_int((int64_t)i);
    n++;
  }
  if (is_named(name, ".index"))
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "\"index\" finds nothing");
  return cs_chat_int(n);
}

cs_chat_value cs_chat_call_method(cs_chat_run *run, const cs_chat_function *method,
                                  cs_chat_arguments arguments) {
  if (!cs_chat_look(run, method->self)) return nothing;
  if (method->self.type == CS_CHAT_STRING)
    return call_string(run, method->name, method->self, arguments);
  if (method->self.type == CS_CHAT_MAP) return call_map(run, method->name, method->self, arguments);
  return call_list(run, method->name, method->self.list, arguments);
}

/* ---- functions --------------------------------------------------------------------------- */

static cs_chat_value range(cs_chat_run *run, cs_chat_arguments arguments) {
  int64_t part[3] = {0, 0, 1};
  for (size_t i = 0; i < arguments.n && i < 3; i++) {
    if (arguments.list[i].type != CS_CHAT_INT) return wrong(run, "range");
    part[i] = arguments.list[i].integer;
  }
  if (arguments.n == 0 || part[2] == 0) return wrong(run, "range");
  if (arguments.n == 1) {
    part[1] = part[0];
    part[0] = 0;
  }
  const cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  for (int64_t i = part[0]; part[2] > 0 ? i < part[1] : i > part[1];) {
    if (!cs_chat_step(run, 1)) break;
    if (!cs_chat_append(run->arena, list.list, cs_chat_int(i))) return out_of_memory(run);
    if (__builtin_add_overflow(i, part[2], &i)) break;
  }
  return list;
}

/* namespace(a=1) and dict(a=1); a map as first argument is copied. */
static cs_chat_value new_map(cs_chat_run *run, cs_chat_arguments arguments) {
  const cs_chat_value map = cs_chat_made(run, cs_chat_new_map(run->arena));
  const cs_chat_map *parts[2] = {NULL, arguments.named};
  if (arguments.n > 0 && arguments.list[0].type == CS_CHAT_MAP) parts[0] = arguments.list[0].map;
  for (size_t k = 0; k < 2; k++)
    for (size_t i = 0; run->status == CS_OK && parts[k] && i < parts[k]->n && cs_chat_step(run, 1);
         i++)
      if (!cs_chat_put(run->arena, map.map, parts[k]->entries[i].key, parts[k]->entries[i].value))
        return out_of_memory(run);
  return map;
}

static cs_chat_value strftime_now(cs_chat_run *run, cs_chat_arguments arguments) {
  const cs_chat_value format = cs_chat_argument(arguments, 0, "format", nothing);
  char text[256];
  struct tm parts;
  if (format.type != CS_CHAT_STRING || format.string->bytes > 64) return wrong(run, "strftime_now");
  localtime_r(&run->now, &parts);
  const size_t n = strftime(text, sizeof text, format.string->data, &parts);
  return cs_chat_new_text(run, text, n);
}

static cs_chat_value raise_exception(cs_chat_run *run, cs_chat_arguments arguments) {
  const cs_chat_value reason = cs_chat_argument(arguments, 0, "message", nothing);
  return cs_chat_fail(run, CS_INVALID_ARGUMENT, "it refuses this conversation: %s",
                      reason.type == CS_CHAT_STRING ? reason.string->data : "no reason given");
}

static const struct {
  cs_chat_function function;
  cs_chat_value (*call)(cs_chat_run *run, cs_chat_arguments arguments);
} functions[] = {
    {{.name = "range"}, range},
    {{.name = "namespace"}, new_map},
    {{.name = "dict"}, new_map},
    {{.name = "strftime_now"}, strftime_now},
    {{.name = "raise_exception"}, raise_exception},
};

cs_chat_value cs_chat_builtin(cs_chat_run *run, const cs_chat_string *name) {
  (void)run;
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
    if (strcmp(functions[i].function.name, name->data) == 0)
      return (cs_chat_value){.type = CS_CHAT_FUNCTION, .function = &functions[i].function};
  return (cs_chat_value){0};
}

cs_chat_value cs_chat_call_builtin(cs_chat_run *run, const char *name,
                                   cs_chat_arguments arguments) {
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
    if (strcmp(functions[i].function.name, name) == 0)
      return cs_chat_step(run, 1) ? functions[i].call(run, arguments) : nothing;
  return (cs_chat_value){0};
}
