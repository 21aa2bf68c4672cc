/* Expressions. What Python would raise an exception for is an error here too: a template that meets
 * one refuses the conversation instead of printing nonsense. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/chat/run.h"
#include "models/utf8.h"

#define MAX_DEPTH 200

/* ---- failing, and limits ----------------------------------------------------------------- */

cs_chat_value cs_chat_fail(cs_chat_run *run, cs_status code, const char *format, ...) {
  char message[200];
  va_list arguments;
  if (run->status != CS_OK) return (cs_chat_value){0};
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  for (char *at = message; *at; at++)
    if ((unsigned char)*at < 0x20 || *at == 0x7f) *at = ' ';
  run->status = cs_error_set(run->error, code, "chat template, line %u: %s", run->line, message);
  return (cs_chat_value){0};
}

cs_chat_value cs_chat_made(cs_chat_run *run, cs_chat_value value) {
  if (value.type == CS_CHAT_UNDEFINED)
    cs_chat_fail(run, CS_OUT_OF_RANGE, "it needs more memory than a template may");
  return value;
}

bool cs_chat_step(cs_chat_run *run, uint64_t n) {
  if (run->status != CS_OK) return false;
  if (n > run->steps_left) {
    cs_chat_fail(run, CS_OUT_OF_RANGE, "it takes more steps than a template may");
    return false;
  }
  run->steps_left -= n;
  return true;
}

bool cs_chat_look(cs_chat_run *run, cs_chat_value value) {
  const size_t n = value.type == CS_CHAT_STRING ? value.string->bytes / 64
                   : value.type == CS_CHAT_MAP  ? value.map->n / 16
                   : value.type == CS_CHAT_LIST ? value.list->n / 16
                                                : 0;
  return cs_chat_step(run, 1 + n);
}

cs_chat_value cs_chat_new_text(cs_chat_run *run, const char *data, size_t bytes) {
  return cs_chat_made(run, cs_chat_text(run->arena, data, bytes));
}

cs_chat_value cs_chat_to_text(cs_chat_run *run, cs_chat_value value) {
  if (value.type == CS_CHAT_STRING) return value;
  cs_chat_buffer out = {.arena = run->arena};
  cs_chat_print(&out, value);
  return cs_chat_made(run, cs_chat_take(&out));
}

size_t cs_chat_n_characters(const cs_chat_string *s) {
  size_t n = 0;
  for (size_t i = 0; i < s->bytes; i++)
    n += ((unsigned char)s->data[i] & 0xc0) != 0x80;
  return n;
}

/* Byte offset of a character. */
static size_t offset_of(const cs_chat_string *s, size_t index) {
  size_t at = 0;
  for (; at < s->bytes; at++)
    if (((unsigned char)s->data[at] & 0xc0) != 0x80 && index-- == 0) break;
  return at;
}

/* ---- lists of things --------------------------------------------------------------------- */

static cs_chat_value characters_of(cs_chat_run *run, const cs_chat_string *s) {
  cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  for (size_t at = 0; run->status == CS_OK && at < s->bytes;) {
    size_t end = at + 1;
    while (end < s->bytes && ((unsigned char)s->data[end] & 0xc0) == 0x80)
      end++;
    if (!cs_chat_step(run, 1)) break;
    const cs_chat_value character = cs_chat_new_text(run, s->data + at, end - at);
    if (!cs_chat_append(run->arena, list.list, character)) cs_chat_made(run, (cs_chat_value){0});
    at = end;
  }
  return list;
}

cs_chat_value cs_chat_list_of(cs_chat_run *run, cs_chat_value of) {
  switch (of.type) {
  case CS_CHAT_LIST:
    return of;
  case CS_CHAT_STRING:
    return characters_of(run, of.string);
  case CS_CHAT_UNDEFINED:
    return cs_chat_made(run, cs_chat_new_list(run->arena));
  case CS_CHAT_MAP: {
    cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
    for (size_t i = 0; run->status == CS_OK && i < of.map->n; i++) {
      const cs_chat_value key = {.type = CS_CHAT_STRING, .string = of.map->entries[i].key};
      if (!cs_chat_append(run->arena, list.list, key)) cs_chat_made(run, (cs_chat_value){0});
    }
    return list;
  }
  default:
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "a value that is no list is gone over");
  }
}

bool cs_chat_contains(cs_chat_run *run, cs_chat_value in, cs_chat_value what) {
  if (!cs_chat_look(run, in)) return false;
  if (in.type == CS_CHAT_STRING) {
    if (what.type != CS_CHAT_STRING) {
      cs_chat_fail(run, CS_INVALID_ARGUMENT, "\"in\" a string looks for a string");
      return false;
    }
    return memmem(in.string->data, in.string->bytes, what.string->data, what.string->bytes) != NULL;
  }
  if (in.type == CS_CHAT_MAP)
    return what.type == CS_CHAT_STRING &&
           cs_chat_find(in.map, what.string->data, what.string->bytes) != NULL;
  if (in.type != CS_CHAT_LIST) {
    if (in.type != CS_CHAT_UNDEFINED)
      cs_chat_fail(run, CS_INVALID_ARGUMENT, "\"in\" needs a list, a map or a string");
    return false;
  }
  for (size_t i = 0; i < in.list->n && cs_chat_step(run, 1); i++)
    if (cs_chat_equal(in.list->items[i], what)) return true;
  return false;
}

/* ---- attributes and items ---------------------------------------------------------------- */

cs_chat_value cs_chat_attribute(cs_chat_run *run, cs_chat_value of, const cs_chat_string *name) {
  if (of.type == CS_CHAT_UNDEFINED)
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "\"%.40s\" of something undefined", name->data);
  if (!cs_chat_look(run, of)) return of;
  const cs_chat_value method = cs_chat_method(run, of, name);
  if (method.type != CS_CHAT_UNDEFINED) return method;
  const cs_chat_value *found =
      of.type == CS_CHAT_MAP ? cs_chat_find(of.map, name->data, name->bytes) : NULL;
  return found ? *found : (cs_chat_value){0};
}

static bool to_index(cs_chat_value key, size_t n, size_t *index) {
  if (key.type != CS_CHAT_INT && key.type != CS_CHAT_BOOL) return false;
  int64_t value = key.type == CS_CHAT_INT ? key.integer : key.boolean;
  if (value < 0) value += (int64_t)n;
  if (value < 0 || value >= (int64_t)n) return false;
  *index = (size_t)value;
  return true;
}

cs_chat_value cs_chat_item(cs_chat_run *run, cs_chat_value of, cs_chat_value key) {
  size_t index;
  if (of.type == CS_CHAT_UNDEFINED)
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "an item of something undefined");
  if (!cs_chat_look(run, of)) return of;
  if (of.type == CS_CHAT_MAP && key.type == CS_CHAT_STRING) {
    const cs_chat_value *found = cs_chat_find(of.map, key.string->data, key.string->bytes);
    return found ? *found : cs_chat_method(run, of, key.string);
  }
  if (of.type == CS_CHAT_LIST && to_index(key, of.list->n, &index)) return of.list->items[index];
  if (of.type == CS_CHAT_STRING && to_index(key, cs_chat_n_characters(of.string), &index)) {
    const size_t begin = offset_of(of.string, index), end = offset_of(of.string, index + 1);
    return cs_chat_new_text(run, of.string->data + begin, end - begin);
  }
  return key.type == CS_CHAT_STRING ? cs_chat_method(run, of, key.string) : (cs_chat_value){0};
}

cs_chat_value cs_chat_path(cs_chat_run *run, cs_chat_value of, cs_chat_value path) {
  if (path.type == CS_CHAT_INT) return cs_chat_item(run, of, path);
  if (path.type != CS_CHAT_STRING) return of;
  const char *at = path.string->data, *end = at + path.string->bytes;
  while (run->status == CS_OK) {
    const char *dot = memchr(at, '.', (size_t)(end - at));
    const size_t bytes = dot ? (size_t)(dot - at) : (size_t)(end - at);
    const bool digits = bytes > 0 && strspn(at, "0123456789") >= bytes;
    if (digits)
      of = cs_chat_item(run, of, cs_chat_int(strtoll(at, NULL, 10)));
    else
      of = cs_chat_item(run, of, cs_chat_new_text(run, at, bytes));
    if (!dot) break;
    at = dot + 1;
  }
  return of;
}

/* ---- slices ------------------------------------------------------------------------------ */

typedef struct range {
  int64_t begin;
  int64_t end;
  int64_t step;
} range;

static int64_t clamp(int64_t value, int64_t n, int64_t low, int64_t high) {
  if (value < 0) value = value < -n ? -1 : value + n;
  return value < low ? low : value > high ? high : value;
}

/* Python's rules for [a:b:c] over n items. */
static range slice_range(cs_chat_run *run, const cs_chat_node *node, int64_t n) {
  cs_chat_value part[3];
  range r = {0, n, 1};
  for (int i = 0; i < 3; i++) {
    part[i] = node->items[i] ? cs_chat_evaluate(run, node->items[i])
                             : (cs_chat_value){.type = CS_CHAT_NONE};
    if (part[i].type != CS_CHAT_NONE && part[i].type != CS_CHAT_INT)
      cs_chat_fail(run, CS_INVALID_ARGUMENT, "a slice needs numbers");
  }
  if (part[2].type == CS_CHAT_INT) r.step = part[2].integer;
  if (r.step == 0 || r.step == INT64_MIN)
    cs_chat_fail(run, CS_INVALID_ARGUMENT, "a slice's step is zero");
  if (r.step < 0) r = (range){n - 1, -1, r.step};
  const int64_t low = r.step < 0 ? -1 : 0, high = r.step < 0 ? n - 1 : n;
  if (part[0].type == CS_CHAT_INT) r.begin = clamp(part[0].integer, n, low, high);
  if (part[1].type == CS_CHAT_INT) r.end = clamp(part[1].integer, n, low, high);
  return r;
}

static cs_chat_value slice(cs_chat_run *run, const cs_chat_node *node) {
  const cs_chat_value of = cs_chat_evaluate(run, node->a);
  if (of.type == CS_CHAT_UNDEFINED)
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "a slice of something undefined");
  if (of.type != CS_CHAT_STRING && of.type != CS_CHAT_LIST)
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "a slice needs a list or a string");
  const bool text = of.type == CS_CHAT_STRING;
  const int64_t n = (int64_t)(text ? cs_chat_n_characters(of.string) : of.list->n);
  const range r = slice_range(run, node, n);
  if (run->status != CS_OK) return (cs_chat_value){0};
  if (text && r.step == 1) {
    const size_t begin = offset_of(of.string, (size_t)r.begin);
    const size_t end = r.end > r.begin ? offset_of(of.string, (size_t)r.end) : begin;
    return cs_chat_new_text(run, of.string->data + begin, end - begin);
  }
  const cs_chat_value list = cs_chat_list_of(run, of);
  cs_chat_value part = cs_chat_made(run, cs_chat_new_list(run->arena));
  cs_chat_buffer joined = {.arena = run->arena};
  for (int64_t i = r.begin; run->status == CS_OK && (r.step > 0 ? i < r.end : i > r.end);
       i += r.step) {
    if (!cs_chat_step(run, 1)) break;
    if (text)
      cs_chat_write(&joined, list.list->items[i].string->data, list.list->items[i].string->bytes);
    else if (!cs_chat_append(run->arena, part.list, list.list->items[i]))
      return cs_chat_made(run, (cs_chat_value){0});
    if (r.step > n || -r.step > n) break;
  }
  return text ? cs_chat_made(run, cs_chat_take(&joined)) : part;
}

/* ---- calls ------------------------------------------------------------------------------- */

static void add_argument(cs_chat_run *run, const cs_chat_node *item, cs_chat_list *list,
                         cs_chat_map *named) {
  const bool plain = item->kind != CS_NODE_KEYWORD && item->kind != CS_NODE_SPREAD;
  const cs_chat_value value = cs_chat_evaluate(run, plain ? item : item->a);
  bool added = run->status == CS_OK;
  if (added && plain) {
    added = cs_chat_append(run->arena, list, value);
  } else if (added && item->kind == CS_NODE_KEYWORD) {
    added = cs_chat_put(run->arena, named, item->text, value);
  } else if (added) {
    const cs_chat_value all = cs_chat_list_of(run, value);
    for (size_t i = 0; run->status == CS_OK && added && i < all.list->n; i++)
      added = cs_chat_step(run, 1) && cs_chat_append(run->arena, list, all.list->items[i]);
  }
  if (!added) cs_chat_made(run, (cs_chat_value){0});
}

cs_chat_arguments cs_chat_evaluate_arguments(cs_chat_run *run, const cs_chat_node *call) {
  const cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  const cs_chat_value named = cs_chat_made(run, cs_chat_new_map(run->arena));
  if (run->status != CS_OK) return (cs_chat_arguments){0};
  for (size_t i = 0; i < call->n_items && run->status == CS_OK; i++)
    add_argument(run, call->items[i], list.list, named.map);
  return (cs_chat_arguments){list.list->items, list.list->n, named.map};
}

cs_chat_value cs_chat_argument(cs_chat_arguments arguments, size_t index, const char *name,
                               cs_chat_value usual) {
  const cs_chat_value *named =
      arguments.named ? cs_chat_find(arguments.named, name, strlen(name)) : NULL;
  if (named) return *named;
  return index < arguments.n ? arguments.list[index] : usual;
}

cs_chat_value cs_chat_call(cs_chat_run *run, cs_chat_value function, cs_chat_arguments arguments) {
  if (function.type != CS_CHAT_FUNCTION)
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "something that is no function is called");
  if (function.function->macro) return cs_chat_call_macro(run, function.function, arguments);
  if (function.function->name[0] == '.')
    return cs_chat_call_method(run, function.function, arguments);
  return cs_chat_call_builtin(run, function.function->name, arguments);
}

static cs_chat_value call(cs_chat_run *run, const cs_chat_node *node) {
  const cs_chat_value function = cs_chat_evaluate(run, node->a);
  if (run->status == CS_OK && function.type == CS_CHAT_UNDEFINED)
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "\"%.40s\" is undefined and cannot be called",
                        node->a->text ? node->a->text->data : "");
  const cs_chat_arguments arguments = cs_chat_evaluate_arguments(run, node);
  return run->status == CS_OK ? cs_chat_call(run, function, arguments) : (cs_chat_value){0};
}

/* ---- operators --------------------------------------------------------------------------- */

static cs_chat_value unary(cs_chat_run *run, const cs_chat_node *node) {
  const cs_chat_value a = cs_chat_evaluate(run, node->a);
  if (node->op == CS_OP_NOT) return cs_chat_bool(!cs_chat_truth(a));
  if (a.type == CS_CHAT_FLOAT) return cs_chat_float(node->op == CS_OP_MINUS ? -a.number : a.number);
  if (a.type != CS_CHAT_INT || a.integer == INT64_MIN)
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "a sign before something that is no number");
  return cs_chat_int(node->op == CS_OP_MINUS ? -a.integer : a.integer);
}

static cs_chat_value evaluate_binary(cs_chat_run *run, const cs_chat_node *node) {
  const cs_chat_value a = cs_chat_evaluate(run, node->a);
  if (node->op == CS_OP_AND) return cs_chat_truth(a) ? cs_chat_evaluate(run, node->b) : a;
  if (node->op == CS_OP_OR) return cs_chat_truth(a) ? a : cs_chat_evaluate(run, node->b);
  const cs_chat_value b = cs_chat_evaluate(run, node->b);
  return run->status == CS_OK ? cs_chat_binary(run, node->op, a, b) : a;
}

static cs_chat_value find_name(cs_chat_run *run, const cs_chat_string *name) {
  for (const cs_chat_scope *scope = run->scope; scope; scope = scope->outer) {
    if (!cs_chat_step(run, 1 + scope->names.n / 16)) return (cs_chat_value){0};
    const cs_chat_value *found = cs_chat_find(&scope->names, name->data, name->bytes);
    if (found) return *found;
  }
  return cs_chat_builtin(run, name);
}

static cs_chat_value make_list(cs_chat_run *run, const cs_chat_node *node) {
  cs_chat_value list = cs_chat_made(run, cs_chat_new_list(run->arena));
  list.tuple = node->kind == CS_NODE_TUPLE;
  for (size_t i = 0; i < node->n_items && run->status == CS_OK; i++)
    if (!cs_chat_append(run->arena, list.list, cs_chat_evaluate(run, node->items[i])))
      cs_chat_made(run, (cs_chat_value){0});
  return list;
}

static cs_chat_value make_map(cs_chat_run *run, const cs_chat_node *node) {
  const cs_chat_value map = cs_chat_made(run, cs_chat_new_map(run->arena));
  for (size_t i = 0; i + 1 < node->n_items && run->status == CS_OK; i += 2) {
    const cs_chat_value key = cs_chat_to_text(run, cs_chat_evaluate(run, node->items[i]));
    const cs_chat_value value = cs_chat_evaluate(run, node->items[i + 1]);
    if (!cs_chat_look(run, map)) return map;
    if (!cs_chat_put(run->arena, map.map, key.string, value)) cs_chat_made(run, (cs_chat_value){0});
  }
  return map;
}

static cs_chat_value test(cs_chat_run *run, const cs_chat_node *node) {
  const cs_chat_value of = cs_chat_evaluate(run, node->a);
  const cs_chat_arguments arguments = cs_chat_evaluate_arguments(run, node);
  if (run->status != CS_OK) return (cs_chat_value){0};
  return cs_chat_bool(cs_chat_test(run, node->text, of, arguments) != node->negated);
}

static cs_chat_value evaluate(cs_chat_run *run, const cs_chat_node *node) {
  switch (node->kind) {
  case CS_NODE_LITERAL:
    return node->value;
  case CS_NODE_NAME:
    return find_name(run, node->text);
  case CS_NODE_LIST:
  case CS_NODE_TUPLE:
    return make_list(run, node);
  case CS_NODE_MAP:
    return make_map(run, node);
  case CS_NODE_ATTRIBUTE: {
    const cs_chat_value of = cs_chat_evaluate(run, node->a);
    return run->status == CS_OK ? cs_chat_attribute(run, of, node->text) : of;
  }
  case CS_NODE_INDEX: {
    const cs_chat_value of = cs_chat_evaluate(run, node->a);
    const cs_chat_value key = cs_chat_evaluate(run, node->b);
    return run->status == CS_OK ? cs_chat_item(run, of, key) : of;
  }
  case CS_NODE_SLICE:
    return slice(run, node);
  case CS_NODE_CALL:
    return call(run, node);
  case CS_NODE_FILTER: {
    const cs_chat_value of = cs_chat_evaluate(run, node->a);
    const cs_chat_arguments arguments = cs_chat_evaluate_arguments(run, node);
    return run->status == CS_OK ? cs_chat_filter(run, node->text, of, arguments) : of;
  }
  case CS_NODE_TEST:
    return test(run, node);
  case CS_NODE_UNARY:
    return unary(run, node);
  case CS_NODE_BINARY:
    return evaluate_binary(run, node);
  case CS_NODE_CONDITIONAL:
    if (cs_chat_truth(cs_chat_evaluate(run, node->b))) return cs_chat_evaluate(run, node->a);
    return node->c ? cs_chat_evaluate(run, node->c) : (cs_chat_value){0};
  default:
    return cs_chat_fail(run, CS_CORRUPT, "no expression");
  }
}

cs_chat_value cs_chat_evaluate(cs_chat_run *run, const cs_chat_node *node) {
  if (!node || !cs_chat_step(run, 1)) return (cs_chat_value){0};
  if (run->depth >= MAX_DEPTH)
    return cs_chat_fail(run, CS_OUT_OF_RANGE, "it is nested deeper than a template may");
  run->depth++;
  run->line = node->line;
  const cs_chat_value value = evaluate(run, node);
  run->depth--;
  return run->status == CS_OK ? value : (cs_chat_value){0};
}
