/* Statements. A loop's body and a macro have scopes of their own; `if` has none: as in Jinja, what
 * a loop sets is gone after it, and a namespace is how a template keeps it. */
#include <string.h>

#include "models/chat/run.h"

static void out_of_memory(cs_chat_run *run) {
  cs_chat_made(run, (cs_chat_value){0});
}

static void set_name(cs_chat_run *run, const cs_chat_string *name, cs_chat_value value) {
  if (cs_chat_step(run, 1 + run->scope->names.n / 16) &&
      !cs_chat_put(run->arena, &run->scope->names, name, value))
    out_of_memory(run);
}

static void assign(cs_chat_run *run, const cs_chat_node *target, cs_chat_value value) {
  if (target->kind == CS_NODE_NAME) {
    set_name(run, target->text, value);
    return;
  }
  const cs_chat_value of = cs_chat_evaluate(run, target->a);
  if (of.type != CS_CHAT_MAP)
    cs_chat_fail(run, CS_INVALID_ARGUMENT, "\"%.40s\" is no namespace", target->a->text->data);
  else if (!cs_chat_put(run->arena, of.map, target->text, value))
    out_of_memory(run);
}

/* One value to one name, or the items of a list to as many. */
static void assign_all(cs_chat_run *run, const cs_chat_node *node, cs_chat_value value) {
  if (node->n_items == 1) {
    assign(run, node->items[0], value);
    return;
  }
  const cs_chat_value list = cs_chat_list_of(run, value);
  if (run->status == CS_OK && list.list->n != node->n_items)
    cs_chat_fail(run, CS_INVALID_ARGUMENT, "%zu values for %zu names", list.list->n, node->n_items);
  for (size_t i = 0; i < node->n_items && run->status == CS_OK; i++)
    assign(run, node->items[i], list.list->items[i]);
}

cs_chat_value cs_chat_capture(cs_chat_run *run, const cs_chat_node *body) {
  cs_chat_buffer captured = {.arena = run->arena};
  cs_chat_buffer *const out = run->out;
  run->out = &captured;
  cs_chat_execute(run, body);
  run->out = out;
  return run->status == CS_OK ? cs_chat_made(run, cs_chat_take(&captured)) : (cs_chat_value){0};
}

static cs_chat_scope *push_scope(cs_chat_run *run, cs_chat_scope *outer) {
  cs_chat_scope *scope = cs_chat_allocate(run->arena, sizeof *scope);
  if (!scope) {
    out_of_memory(run);
    return NULL;
  }
  *scope = (cs_chat_scope){.outer = outer};
  run->scope = scope;
  return scope;
}

/* ---- set --------------------------------------------------------------------------------- */

/* The filters of {% set x | f %} or {% filter f %}, innermost first, over a text. */
static cs_chat_value apply_filters(cs_chat_run *run, const cs_chat_node *filter,
                                   cs_chat_value text) {
  if (filter->a) text = apply_filters(run, filter->a, text);
  const cs_chat_arguments arguments = cs_chat_evaluate_arguments(run, filter);
  return run->status == CS_OK ? cs_chat_filter(run, filter->text, text, arguments) : text;
}

static void execute_set(cs_chat_run *run, const cs_chat_node *node) {
  cs_chat_value value;
  if (node->a) {
    value = cs_chat_evaluate(run, node->a);
  } else {
    cs_chat_scope *const scope = run->scope;
    if (!push_scope(run, scope)) return;
    value = cs_chat_capture(run, node->b);
    run->scope = scope;
    if (node->d && run->status == CS_OK) value = apply_filters(run, node->d, value);
  }
  if (run->status == CS_OK) assign_all(run, node, value);
}

/* ---- for --------------------------------------------------------------------------------- */

static void put(cs_chat_run *run, cs_chat_map *map, const char *name, cs_chat_value value) {
  const size_t bytes = strlen(name);
  cs_chat_value *known = (cs_chat_value *)cs_chat_find(map, name, bytes);
  if (known) {
    *known = value;
    return;
  }
  const cs_chat_value key = cs_chat_new_text(run, name, bytes);
  if (run->status == CS_OK && !cs_chat_put(run->arena, map, key.string, value)) out_of_memory(run);
}

/* The variable "loop": a map that every round fills anew. */
static void describe_round(cs_chat_run *run, cs_chat_map *loop, const cs_chat_list *list,
                           size_t i) {
  const int64_t n = (int64_t)list->n, at = (int64_t)i;
  put(run, loop, "index", cs_chat_int(at + 1));
  put(run, loop, "index0", cs_chat_int(at));
  put(run, loop, "revindex", cs_chat_int(n - at));
  put(run, loop, "revindex0", cs_chat_int(n - at - 1));
  put(run, loop, "first", cs_chat_bool(at == 0));
  put(run, loop, "last", cs_chat_bool(at == n - 1));
  put(run, loop, "length", cs_chat_int(n));
  put(run, loop, "previtem", i > 0 ? list->items[i - 1] : (cs_chat_value){0});
  put(run, loop, "nextitem", i + 1 < list->n ? list->items[i + 1] : (cs_chat_value){0});
}

/* The items that the loop's own condition lets through. */
static cs_chat_value select_items(cs_chat_run *run, const cs_chat_node *node,
                                  const cs_chat_list *all) {
  cs_chat_scope *const outer = run->scope;
  const cs_chat_value some = cs_chat_made(run, cs_chat_new_list(run->arena));
  for (size_t i = 0; i < all->n && run->status == CS_OK; i++) {
    if (!push_scope(run, outer)) break;
    assign_all(run, node, all->items[i]);
    if (!cs_chat_truth(cs_chat_evaluate(run, node->d))) continue;
    if (!cs_chat_append(run->arena, some.list, all->items[i])) out_of_memory(run);
  }
  run->scope = outer;
  return some;
}

static void execute_for(cs_chat_run *run, const cs_chat_node *node) {
  cs_chat_scope *const outer = run->scope;
  cs_chat_value list = cs_chat_list_of(run, cs_chat_evaluate(run, node->a));
  if (run->status == CS_OK && node->d) list = select_items(run, node, list.list);
  const cs_chat_value loop = cs_chat_made(run, cs_chat_new_map(run->arena));
  if (run->status != CS_OK) return;
  const size_t n = list.list->n;
  for (size_t i = 0; i < n && cs_chat_step(run, 1); i++) {
    if (!push_scope(run, outer)) break;
    describe_round(run, loop.map, list.list, i);
    put(run, &run->scope->names, "loop", loop);
    assign_all(run, node, list.list->items[i]);
    cs_chat_execute(run, node->b);
    const cs_chat_kind jump = run->jump;
    run->jump = CS_NODE_BLOCK;
    if (jump == CS_NODE_BREAK) break;
  }
  run->scope = outer;
  if (n == 0 && node->c) cs_chat_execute(run, node->c);
}

/* ---- macros ------------------------------------------------------------------------------ */

static cs_chat_value make_macro(cs_chat_run *run, const cs_chat_node *node) {
  cs_chat_function *function = cs_chat_allocate(run->arena, sizeof *function);
  if (!function) {
    out_of_memory(run);
    return (cs_chat_value){0};
  }
  *function = (cs_chat_function){.macro = node, .name = "", .caller_scope = run->scope};
  return (cs_chat_value){.type = CS_CHAT_FUNCTION, .function = function};
}

static void bind_parameters(cs_chat_run *run, const cs_chat_node *macro,
                            cs_chat_arguments arguments) {
  for (size_t i = 0; i < macro->n_items && run->status == CS_OK; i++) {
    const cs_chat_node *parameter = macro->items[i];
    const bool given =
        i < arguments.n || (arguments.named && cs_chat_find(arguments.named, parameter->text->data,
                                                            parameter->text->bytes));
    cs_chat_value value = {0};
    if (given)
      value = cs_chat_argument(arguments, i, parameter->text->data, value);
    else if (parameter->kind == CS_NODE_KEYWORD)
      value = cs_chat_evaluate(run, parameter->a);
    set_name(run, parameter->text, value);
  }
  const cs_chat_value *caller = arguments.named ? cs_chat_find(arguments.named, "caller", 6) : NULL;
  if (caller) put(run, &run->scope->names, "caller", *caller);
}

cs_chat_value cs_chat_call_macro(cs_chat_run *run, const cs_chat_function *function,
                                 cs_chat_arguments arguments) {
  const cs_chat_node *macro = function->macro;
  cs_chat_scope *const scope = run->scope;
  if (macro->kind == CS_NODE_MACRO && arguments.n > macro->n_items)
    return cs_chat_fail(run, CS_INVALID_ARGUMENT, "macro \"%.40s\" takes %zu arguments",
                        macro->text->data, macro->n_items);
  if (!push_scope(run, function->caller_scope)) return (cs_chat_value){0};
  if (macro->kind == CS_NODE_MACRO) bind_parameters(run, macro, arguments);
  const cs_chat_value text = cs_chat_capture(run, macro->b);
  run->scope = scope;
  run->jump = CS_NODE_BLOCK;
  return text;
}

/* The body of {% call %} becomes the argument "caller". */
static void execute_call_block(cs_chat_run *run, const cs_chat_node *node) {
  const cs_chat_value caller = make_macro(run, node);
  const cs_chat_value function = cs_chat_evaluate(run, node->a->a);
  const cs_chat_arguments arguments = cs_chat_evaluate_arguments(run, node->a);
  if (run->status != CS_OK) return;
  put(run, (cs_chat_map *)arguments.named, "caller", caller);
  if (run->status == CS_OK) cs_chat_print(run->out, cs_chat_call(run, function, arguments));
}

/* ---- everything -------------------------------------------------------------------------- */

static void execute(cs_chat_run *run, const cs_chat_node *node) {
  switch (node->kind) {
  case CS_NODE_BLOCK:
    for (size_t i = 0; i < node->n_items && run->status == CS_OK && run->jump == CS_NODE_BLOCK; i++)
      cs_chat_execute(run, node->items[i]);
    break;
  case CS_NODE_TEXT:
    cs_chat_write(run->out, node->value.string->data, node->value.string->bytes);
    break;
  case CS_NODE_PRINT: {
    const cs_chat_value value = cs_chat_evaluate(run, node->a);
    if (run->status == CS_OK) cs_chat_print(run->out, value);
    break;
  }
  case CS_NODE_SET:
    execute_set(run, node);
    break;
  case CS_NODE_IF:
    if (cs_chat_truth(cs_chat_evaluate(run, node->a)))
      cs_chat_execute(run, node->b);
    else if (node->c)
      cs_chat_execute(run, node->c);
    break;
  case CS_NODE_FOR:
    execute_for(run, node);
    break;
  case CS_NODE_MACRO:
    set_name(run, node->text, make_macro(run, node));
    break;
  case CS_NODE_CALL_BLOCK:
    execute_call_block(run, node);
    break;
  case CS_NODE_FILTER_BLOCK: {
    const cs_chat_value text = cs_chat_capture(run, node->b);
    const cs_chat_value made = run->status == CS_OK ? apply_filters(run, node->a, text) : text;
    if (run->status == CS_OK) cs_chat_print(run->out, made);
    break;
  }
  case CS_NODE_BREAK:
  case CS_NODE_CONTINUE:
    run->jump = node->kind;
    break;
  default:
    cs_chat_fail(run, CS_CORRUPT, "no statement");
  }
}

void cs_chat_execute(cs_chat_run *run, const cs_chat_node *node) {
  enum { MAX_DEPTH = 200 };
  if (!node || !cs_chat_step(run, 1)) return;
  if (run->depth >= MAX_DEPTH) {
    cs_chat_fail(run, CS_OUT_OF_RANGE, "it is nested deeper than a template may");
    return;
  }
  run->depth++;
  run->line = node->line;
  execute(run, node);
  run->depth--;
  if (run->out->failed) out_of_memory(run);
}
