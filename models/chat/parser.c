/* Recursive descent over Jinja's grammar, from `or` down to literals; filters and attributes bind
 * tightest. Depth is limited, for a template of ten thousand brackets must not use up the stack. */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/chat/syntax.h"

#define MAX_DEPTH 100

typedef struct parser {
  cs_chat_arena *arena;
  const cs_chat_token *at;
  uint32_t depth;
  cs_status status; /* the first failure: after it every function returns NULL */
  cs_error *error;
} parser;

static cs_chat_node *parse_expression(parser *p);
static cs_chat_node *parse_block(parser *p, const char *const *ends);

static cs_chat_node *fail(parser *p, const char *reason) {
  if (p->status == CS_OK)
    p->status = cs_error_set(p->error, CS_CORRUPT, "line %u: %s", p->at->line, reason);
  return NULL;
}

static cs_chat_node *no_memory(parser *p) {
  if (p->status == CS_OK)
    p->status = cs_error_set(p->error, CS_OUT_OF_MEMORY, "the template is too large");
  return NULL;
}

static cs_chat_node *make(parser *p, cs_chat_kind kind) {
  cs_chat_node *node = p->status == CS_OK ? cs_chat_allocate(p->arena, sizeof *node) : NULL;
  if (!node) return no_memory(p);
  *node = (cs_chat_node){.kind = kind, .line = p->at->line};
  return node;
}

static bool add_item(parser *p, cs_chat_node *node, cs_chat_node *item) {
  if (p->status != CS_OK) return false;
  if ((node->n_items & (node->n_items - 1)) == 0) { /* a power of two is full */
    cs_chat_node **larger =
        cs_chat_allocate(p->arena, (node->n_items ? 2 * node->n_items : 1) * sizeof *larger);
    if (!larger) return no_memory(p) != NULL;
    if (node->n_items) memcpy(larger, node->items, node->n_items * sizeof *larger);
    node->items = larger;
  }
  node->items[node->n_items++] = item;
  return true;
}

static bool is_text(const parser *p, cs_chat_token_kind kind, const char *text) {
  return p->at->kind == kind && strcmp(p->at->text->data, text) == 0;
}

static bool is_operator(const parser *p, const char *text) {
  return is_text(p, CS_TOKEN_OPERATOR, text);
}

static bool is_word(const parser *p, const char *text) {
  return is_text(p, CS_TOKEN_NAME, text);
}

static bool take_operator(parser *p, const char *text) {
  if (!is_operator(p, text)) return false;
  p->at++;
  return true;
}

static bool take_word(parser *p, const char *text) {
  if (!is_word(p, text)) return false;
  p->at++;
  return true;
}

static bool expect(parser *p, const char *text) {
  if (p->status == CS_OK && !take_operator(p, text)) {
    char reason[40] = "expected \"";
    strcat(strcat(reason, text), "\"");
    fail(p, reason);
  }
  return p->status == CS_OK;
}

static const cs_chat_string *expect_name(parser *p) {
  if (p->status == CS_OK && p->at->kind != CS_TOKEN_NAME) fail(p, "expected a name");
  return p->status == CS_OK ? (p->at++)->text : NULL;
}

/* ---- literals and what follows them ------------------------------------------------------ */

/* "(a, b=c)" behind its opening parenthesis. */
static bool parse_arguments(parser *p, cs_chat_node *call) {
  while (p->status == CS_OK && !take_operator(p, ")")) {
    cs_chat_node *argument;
    const bool keyword = p->at->kind == CS_TOKEN_NAME && p->at[1].kind == CS_TOKEN_OPERATOR &&
                         strcmp(p->at[1].text->data, "=") == 0;
    if (take_operator(p, "*")) {
      argument = make(p, CS_NODE_SPREAD);
      if (argument) argument->a = parse_expression(p);
    } else if (keyword) {
      argument = make(p, CS_NODE_KEYWORD);
      if (!argument) return false;
      argument->text = p->at->text;
      p->at += 2;
      argument->a = parse_expression(p);
    } else {
      argument = parse_expression(p);
    }
    if (!add_item(p, call, argument)) return false;
    if (!is_operator(p, ")") && !expect(p, ",")) return false;
  }
  return p->status == CS_OK;
}

/* Expressions up to `end`; *comma tells whether a comma was among them. */
static bool parse_items(parser *p, cs_chat_node *list, const char *end, bool *comma) {
  *comma = false;
  while (p->status == CS_OK && !take_operator(p, end)) {
    if (!add_item(p, list, parse_expression(p))) return false;
    if (is_operator(p, end)) continue;
    if (!expect(p, ",")) return false;
    *comma = true;
  }
  return p->status == CS_OK;
}

static cs_chat_node *parse_map(parser *p) {
  cs_chat_node *node = make(p, CS_NODE_MAP);
  while (node && p->status == CS_OK && !take_operator(p, "}")) {
    if (!add_item(p, node, parse_expression(p)) || !expect(p, ":") ||
        !add_item(p, node, parse_expression(p)))
      return NULL;
    if (!is_operator(p, "}") && !expect(p, ",")) return NULL;
  }
  return node;
}

static cs_chat_node *parse_parenthesis(parser *p) {
  cs_chat_node *node = make(p, CS_NODE_TUPLE);
  bool comma;
  if (!node || !parse_items(p, node, ")", &comma)) return NULL;
  return node->n_items == 1 && !comma ? node->items[0] : node;
}

static cs_chat_node *parse_string(parser *p) {
  cs_chat_buffer text = {.arena = p->arena};
  cs_chat_node *node = make(p, CS_NODE_LITERAL);
  while (p->at->kind == CS_TOKEN_STRING) { /* neighbours are one */
    cs_chat_write(&text, p->at->text->data, p->at->text->bytes);
    p->at++;
  }
  if (!node) return NULL;
  node->value = cs_chat_take(&text);
  return node->value.type == CS_CHAT_STRING ? node : no_memory(p);
}

static cs_chat_node *parse_number(parser *p) {
  cs_chat_node *node = make(p, CS_NODE_LITERAL);
  if (!node) return NULL;
  const cs_chat_token *token = p->at++;
  node->value = token->kind == CS_TOKEN_INT ? cs_chat_int(strtoll(token->text->data, NULL, 10))
                                            : cs_chat_float(strtod(token->text->data, NULL));
  return node;
}

static cs_chat_node *parse_name(parser *p) {
  static const struct {
    const char *name;
    cs_chat_value value;
  } constants[] = {{"true", {.type = CS_CHAT_BOOL, .boolean = true}},
                   {"True", {.type = CS_CHAT_BOOL, .boolean = true}},
                   {"false", {.type = CS_CHAT_BOOL}},
                   {"False", {.type = CS_CHAT_BOOL}},
                   {"none", {.type = CS_CHAT_NONE}},
                   {"None", {.type = CS_CHAT_NONE}}};
  cs_chat_node *node = make(p, CS_NODE_NAME);
  if (!node) return NULL;
  node->text = (p->at++)->text;
  for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
    if (strcmp(node->text->data, constants[i].name) != 0) continue;
    node->kind = CS_NODE_LITERAL;
    node->value = constants[i].value;
  }
  return node;
}

static cs_chat_node *parse_primary(parser *p) {
  if (p->at->kind == CS_TOKEN_NAME) return parse_name(p);
  if (p->at->kind == CS_TOKEN_STRING) return parse_string(p);
  if (p->at->kind == CS_TOKEN_INT || p->at->kind == CS_TOKEN_FLOAT) return parse_number(p);
  if (take_operator(p, "(")) return parse_parenthesis(p);
  if (take_operator(p, "{")) return parse_map(p);
  if (!take_operator(p, "[")) return fail(p, "expected an expression");
  cs_chat_node *node = make(p, CS_NODE_LIST);
  bool comma;
  return node && parse_items(p, node, "]", &comma) ? node : NULL;
}

/* "[i]" or "[i:j:k]" behind its opening bracket. */
static cs_chat_node *parse_subscript(parser *p, cs_chat_node *of) {
  cs_chat_node *part[3] = {NULL};
  size_t n = 0;
  bool slice = false;
  while (p->status == CS_OK && !is_operator(p, "]")) {
    if (take_operator(p, ":")) {
      slice = true;
      if (++n > 2) return fail(p, "a slice has three parts at most");
      continue;
    }
    part[n] = parse_expression(p);
    if (!is_operator(p, "]") && !is_operator(p, ":")) return fail(p, "expected \"]\"");
  }
  if (!expect(p, "]")) return NULL;
  cs_chat_node *node = make(p, slice ? CS_NODE_SLICE : CS_NODE_INDEX);
  if (!node) return NULL;
  node->a = of;
  if (!slice) {
    node->b = part[0];
    return part[0] ? node : fail(p, "an empty index");
  }
  for (size_t i = 0; i < 3; i++)
    if (!add_item(p, node, part[i])) return NULL;
  return node;
}

static cs_chat_node *parse_filter(parser *p, cs_chat_node *of) {
  cs_chat_node *node = make(p, CS_NODE_FILTER);
  if (!node) return NULL;
  node->a = of;
  node->text = expect_name(p);
  if (p->status == CS_OK && take_operator(p, "(") && !parse_arguments(p, node)) return NULL;
  return p->status == CS_OK ? node : NULL;
}

static cs_chat_node *parse_attribute(parser *p, cs_chat_node *of) {
  cs_chat_node *node = make(p, CS_NODE_ATTRIBUTE);
  if (!node) return NULL;
  node->a = of;
  if (p->at->kind == CS_TOKEN_INT) { /* a.0 */
    node->kind = CS_NODE_INDEX;
    node->b = parse_number(p);
    return node;
  }
  node->text = expect_name(p);
  return node->text ? node : NULL;
}

static bool starts_operand(const parser *p) {
  static const char *const words[] = {"and", "or", "else", "is", "in", "if", "not", "recursive"};
  if (p->at->kind == CS_TOKEN_NAME) {
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
      if (is_word(p, words[i])) return false;
    return true;
  }
  return p->at->kind == CS_TOKEN_STRING || p->at->kind == CS_TOKEN_INT ||
         p->at->kind == CS_TOKEN_FLOAT || is_operator(p, "[") || is_operator(p, "{");
}

static cs_chat_node *parse_postfix(parser *p, cs_chat_node *node);

static cs_chat_node *parse_test(parser *p, cs_chat_node *of) {
  cs_chat_node *node = make(p, CS_NODE_TEST);
  if (!node) return NULL;
  node->a = of;
  node->negated = take_word(p, "not");
  node->text = expect_name(p);
  if (!node->text) return NULL;
  if (take_operator(p, "(")) return parse_arguments(p, node) ? node : NULL;
  if (starts_operand(p)) { /* "is divisibleby 3" */
    cs_chat_node *operand = parse_primary(p);
    if (!add_item(p, node, operand ? parse_postfix(p, operand) : NULL)) return NULL;
  }
  return node;
}

static cs_chat_node *parse_postfix(parser *p, cs_chat_node *node) {
  uint32_t n = 0;
  while (node && p->status == CS_OK) {
    if (++n > 1000) return fail(p, "too long a chain");
    if (take_operator(p, ".")) {
      node = parse_attribute(p, node);
    } else if (take_operator(p, "[")) {
      node = parse_subscript(p, node);
    } else if (take_operator(p, "(")) {
      cs_chat_node *call = make(p, CS_NODE_CALL);
      if (!call) return NULL;
      call->a = node;
      node = parse_arguments(p, call) ? call : NULL;
    } else {
      return node;
    }
  }
  return p->status == CS_OK ? node : NULL;
}

/* Filters and tests bind less than a sign does. */
static cs_chat_node *parse_filters(parser *p, cs_chat_node *node) {
  while (node && p->status == CS_OK) {
    if (take_operator(p, "|"))
      node = parse_filter(p, node);
    else if (take_word(p, "is"))
      node = parse_test(p, node);
    else if (is_operator(p, ".") || is_operator(p, "[") || is_operator(p, "("))
      node = parse_postfix(p, node);
    else
      break;
  }
  return p->status == CS_OK ? node : NULL;
}

/* ---- operators --------------------------------------------------------------------------- */

static cs_chat_node *binary(parser *p, cs_chat_op op, cs_chat_node *a, cs_chat_node *b) {
  cs_chat_node *node = a && b ? make(p, CS_NODE_BINARY) : NULL;
  if (!node) return NULL;
  node->op = op;
  node->a = a;
  node->b = b;
  return node;
}

static cs_chat_node *parse_unary(parser *p) {
  if (is_operator(p, "-") || is_operator(p, "+")) {
    cs_chat_node *node = make(p, CS_NODE_UNARY);
    if (!node || p->depth >= MAX_DEPTH) return fail(p, "nested too deep");
    node->op = is_operator(p, "-") ? CS_OP_MINUS : CS_OP_PLUS;
    p->at++;
    p->depth++;
    node->a = parse_unary(p);
    p->depth--;
    return node->a ? parse_filters(p, node) : NULL;
  }
  cs_chat_node *primary = parse_primary(p);
  return parse_filters(p, primary ? parse_postfix(p, primary) : NULL);
}

typedef struct level {
  const char *text[4];
  cs_chat_op op[4];
} level;

static const level levels[] = {
    {{"+", "-"}, {CS_OP_ADD, CS_OP_SUBTRACT}},
    {{"~"}, {CS_OP_CONCAT}},
    {{"*", "/", "//", "%"}, {CS_OP_MULTIPLY, CS_OP_DIVIDE, CS_OP_FLOOR_DIVIDE, CS_OP_MODULO}},
    {{"**"}, {CS_OP_POWER}},
};

static cs_chat_node *parse_level(parser *p, size_t index) {
  if (index == sizeof levels / sizeof levels[0]) return parse_unary(p);
  cs_chat_node *node = parse_level(p, index + 1);
  while (node && p->status == CS_OK) {
    size_t i = 0;
    while (i < 4 && levels[index].text[i] && !is_operator(p, levels[index].text[i]))
      i++;
    if (i == 4 || !levels[index].text[i]) break;
    p->at++;
    node = binary(p, levels[index].op[i], node, parse_level(p, index + 1));
  }
  return p->status == CS_OK ? node : NULL;
}

static bool take_comparison(parser *p, cs_chat_op *op) {
  static const char *const texts[] = {"==", "!=", "<", "<=", ">", ">="};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    *op = (cs_chat_op)(CS_OP_EQUAL + i);
    if (take_operator(p, texts[i])) return true;
  }
  *op = CS_OP_IN;
  if (take_word(p, "in")) return true;
  *op = CS_OP_NOT_IN;
  if (!is_word(p, "not") || p->at[1].kind != CS_TOKEN_NAME ||
      strcmp(p->at[1].text->data, "in") != 0)
    return false;
  p->at += 2;
  return true;
}

static cs_chat_node *parse_comparison(parser *p) {
  cs_chat_node *node = parse_level(p, 0);
  cs_chat_node *right = node;
  cs_chat_op op;
  for (bool first = true; node && p->status == CS_OK && take_comparison(p, &op); first = false) {
    cs_chat_node *left = right;
    right = parse_level(p, 0);
    cs_chat_node *pair = binary(p, op, left, right); /* a < b < c: both hold */
    node = first ? pair : binary(p, CS_OP_AND, node, pair);
  }
  return p->status == CS_OK ? node : NULL;
}

static cs_chat_node *parse_not(parser *p) {
  if (!take_word(p, "not")) return parse_comparison(p);
  cs_chat_node *node = make(p, CS_NODE_UNARY);
  if (!node || p->depth >= MAX_DEPTH) return fail(p, "nested too deep");
  node->op = CS_OP_NOT;
  p->depth++;
  node->a = parse_not(p);
  p->depth--;
  return node->a ? node : NULL;
}

static cs_chat_node *parse_and(parser *p) {
  cs_chat_node *node = parse_not(p);
  while (node && take_word(p, "and"))
    node = binary(p, CS_OP_AND, node, parse_not(p));
  return node;
}

static cs_chat_node *parse_or(parser *p) {
  cs_chat_node *node = parse_and(p);
  while (node && take_word(p, "or"))
    node = binary(p, CS_OP_OR, node, parse_and(p));
  return node;
}

static cs_chat_node *parse_expression(parser *p) {
  if (p->status != CS_OK) return NULL;
  if (++p->depth > MAX_DEPTH) return fail(p, "nested too deep");
  cs_chat_node *node = parse_or(p);
  while (node && take_word(p, "if")) {
    cs_chat_node *whole = make(p, CS_NODE_CONDITIONAL);
    if (!whole) return NULL;
    whole->a = node;
    whole->b = parse_or(p);
    if (take_word(p, "else")) whole->c = parse_expression(p);
    node = p->status == CS_OK ? whole : NULL;
  }
  p->depth--;
  return p->status == CS_OK ? node : NULL;
}

/* An expression, or several with commas: a tuple. */
static cs_chat_node *parse_tuple(parser *p) {
  cs_chat_node *first = parse_expression(p);
  if (!first || !is_operator(p, ",")) return first;
  cs_chat_node *node = make(p, CS_NODE_TUPLE);
  if (!node || !add_item(p, node, first)) return NULL;
  while (take_operator(p, ",") && p->at->kind != CS_TOKEN_CLOSE_TAG &&
         p->at->kind != CS_TOKEN_CLOSE)
    if (!add_item(p, node, parse_expression(p))) return NULL;
  return p->status == CS_OK ? node : NULL;
}

/* ---- statements -------------------------------------------------------------------------- */

static bool close_tag(parser *p) {
  if (p->status == CS_OK && p->at->kind != CS_TOKEN_CLOSE_TAG) fail(p, "expected \"%}\"");
  if (p->status != CS_OK) return false;
  p->at++;
  return true;
}

/* "{% WORD %}" with one of the words that end the block; the tag is at its word. */
static bool take_end(parser *p, const char *word) {
  if (!take_word(p, word)) {
    fail(p, "a block is not closed");
    return false;
  }
  return close_tag(p);
}

/* Names, or "ns.name", with commas and maybe parentheses. */
static bool parse_targets(parser *p, cs_chat_node *node) {
  const bool parenthesis = take_operator(p, "(");
  do {
    cs_chat_node *target = make(p, CS_NODE_NAME);
    if (!target || !(target->text = expect_name(p))) return false;
    if (take_operator(p, ".")) {
      cs_chat_node *attribute = make(p, CS_NODE_ATTRIBUTE);
      if (!attribute || !(attribute->text = expect_name(p))) return false;
      attribute->a = target;
      target = attribute;
    }
    if (!add_item(p, node, target)) return false;
  } while (take_operator(p, ","));
  return parenthesis ? expect(p, ")") : p->status == CS_OK;
}

static cs_chat_node *parse_if(parser *p) {
  static const char *const ends[] = {"elif", "else", "endif", NULL};
  static const char *const last[] = {"endif", NULL};
  cs_chat_node *node = make(p, CS_NODE_IF);
  if (!node || ++p->depth > MAX_DEPTH) return fail(p, "nested too deep");
  node->a = parse_expression(p);
  if (!close_tag(p) || !(node->b = parse_block(p, ends))) return NULL;
  if (take_word(p, "elif")) {
    node->c = parse_if(p);
    p->depth--;
    return node->c ? node : NULL;
  }
  if (take_word(p, "else") && (!close_tag(p) || !(node->c = parse_block(p, last)))) return NULL;
  p->depth--;
  return take_end(p, "endif") ? node : NULL;
}

static cs_chat_node *parse_for(parser *p) {
  static const char *const ends[] = {"else", "endfor", NULL};
  static const char *const last[] = {"endfor", NULL};
  cs_chat_node *node = make(p, CS_NODE_FOR);
  if (!node || !parse_targets(p, node)) return NULL;
  if (!take_word(p, "in")) return fail(p, "expected \"in\"");
  node->a = parse_or(p);
  if (take_word(p, "if")) node->d = parse_expression(p);
  if (is_word(p, "recursive")) return fail(p, "recursive loops are not supported");
  if (!close_tag(p) || !(node->b = parse_block(p, ends))) return NULL;
  if (take_word(p, "else") && (!close_tag(p) || !(node->c = parse_block(p, last)))) return NULL;
  return take_end(p, "endfor") ? node : NULL;
}

static cs_chat_node *parse_set(parser *p) {
  static const char *const ends[] = {"endset", NULL};
  cs_chat_node *node = make(p, CS_NODE_SET);
  if (!node || !parse_targets(p, node)) return NULL;
  if (take_operator(p, "=")) {
    node->a = parse_tuple(p);
    return close_tag(p) ? node : NULL;
  }
  while (take_operator(p, "|")) /* {% set x | trim %} */
    if (!(node->d = parse_filter(p, node->d))) return NULL;
  if (!close_tag(p) || !(node->b = parse_block(p, ends))) return NULL;
  return take_end(p, "endset") ? node : NULL;
}

static cs_chat_node *parse_macro(parser *p) {
  static const char *const ends[] = {"endmacro", NULL};
  cs_chat_node *node = make(p, CS_NODE_MACRO);
  if (!node || !(node->text = expect_name(p)) || !expect(p, "(") || !parse_arguments(p, node))
    return NULL;
  for (size_t i = 0; i < node->n_items; i++)
    if (node->items[i]->kind != CS_NODE_NAME && node->items[i]->kind != CS_NODE_KEYWORD)
      return fail(p, "a macro's parameter is no name");
  if (!close_tag(p) || !(node->b = parse_block(p, ends))) return NULL;
  take_word(p, "endmacro");
  if (p->at->kind == CS_TOKEN_NAME) p->at++; /* {% endmacro name %} */
  return close_tag(p) ? node : NULL;
}

static cs_chat_node *parse_call_block(parser *p) {
  static const char *const ends[] = {"endcall", NULL};
  cs_chat_node *node = make(p, CS_NODE_CALL_BLOCK);
  if (!node) return NULL;
  node->a = parse_expression(p);
  if (node->a && node->a->kind != CS_NODE_CALL) return fail(p, "{% call %} needs a call");
  if (!close_tag(p) || !(node->b = parse_block(p, ends))) return NULL;
  return take_end(p, "endcall") ? node : NULL;
}

static cs_chat_node *parse_filter_block(parser *p) {
  static const char *const ends[] = {"endfilter", NULL};
  cs_chat_node *node = make(p, CS_NODE_FILTER_BLOCK);
  if (!node) return NULL;
  do
    node->a = parse_filter(p, node->a);
  while (node->a && take_operator(p, "|"));
  if (!close_tag(p) || !(node->b = parse_block(p, ends))) return NULL;
  return take_end(p, "endfilter") ? node : NULL;
}

/* {% generation %} marks the assistant's part for training; here it is its content. */
static cs_chat_node *parse_generation(parser *p) {
  static const char *const ends[] = {"endgeneration", NULL};
  if (!close_tag(p)) return NULL;
  cs_chat_node *body = parse_block(p, ends);
  return body && take_end(p, "endgeneration") ? body : NULL;
}

static cs_chat_node *parse_plain(parser *p, cs_chat_kind kind) {
  cs_chat_node *node = make(p, kind);
  return node && close_tag(p) ? node : NULL;
}

static cs_chat_node *parse_tag(parser *p) {
  if (take_word(p, "if")) {
    const uint32_t depth = p->depth;
    cs_chat_node *node = parse_if(p);
    p->depth = depth;
    return node;
  }
  if (take_word(p, "for")) return parse_for(p);
  if (take_word(p, "set")) return parse_set(p);
  if (take_word(p, "macro")) return parse_macro(p);
  if (take_word(p, "call")) return parse_call_block(p);
  if (take_word(p, "filter")) return parse_filter_block(p);
  if (take_word(p, "generation")) return parse_generation(p);
  if (take_word(p, "break")) return parse_plain(p, CS_NODE_BREAK);
  if (take_word(p, "continue")) return parse_plain(p, CS_NODE_CONTINUE);
  if (p->status == CS_OK && p->at->kind == CS_TOKEN_NAME)
    p->status = cs_error_set(p->error, CS_UNSUPPORTED, "line %u: tag \"%.40s\" is not supported",
                             p->at->line, p->at->text->data);
  return fail(p, "expected a tag's name");
}

static cs_chat_node *parse_text(parser *p) {
  cs_chat_node *node = make(p, CS_NODE_TEXT);
  if (!node) return NULL;
  node->value = (cs_chat_value){.type = CS_CHAT_STRING, .string = (p->at++)->text};
  return node;
}

static cs_chat_node *parse_print(parser *p) {
  cs_chat_node *node = make(p, CS_NODE_PRINT);
  if (!node) return NULL;
  p->at++;
  node->a = parse_tuple(p);
  if (node->a && p->at->kind != CS_TOKEN_CLOSE) return fail(p, "expected \"}}\"");
  p->at += p->status == CS_OK;
  return node->a ? node : NULL;
}

static bool ends_block(const parser *p, const char *const *ends) {
  for (; ends && *ends; ends++)
    if (p->at[1].kind == CS_TOKEN_NAME && strcmp(p->at[1].text->data, *ends) == 0) return true;
  return false;
}

/* Statements up to a tag whose word is one of `ends`, which is left to be taken; or to the end. */
static cs_chat_node *parse_block(parser *p, const char *const *ends) {
  cs_chat_node *block = make(p, CS_NODE_BLOCK);
  if (!block || ++p->depth > MAX_DEPTH) return fail(p, "nested too deep");
  while (p->status == CS_OK) {
    cs_chat_node *node = NULL;
    if (p->at->kind == CS_TOKEN_END) {
      if (ends) return fail(p, "a block is not closed");
      break;
    }
    if (p->at->kind == CS_TOKEN_TEXT) {
      node = parse_text(p);
    } else if (p->at->kind == CS_TOKEN_OPEN) {
      node = parse_print(p);
    } else {
      const bool ended = ends_block(p, ends);
      p->at++;
      if (ended) break;
      node = parse_tag(p);
    }
    if (!add_item(p, block, node)) return NULL;
  }
  p->depth--;
  return p->status == CS_OK ? block : NULL;
}

cs_status cs_chat_parse(cs_chat_arena *arena, const cs_chat_token *tokens, size_t n_tokens,
                        cs_chat_node **out, cs_error *error) {
  parser p = {.arena = arena, .at = tokens, .error = error};
  *out = n_tokens > 0 ? parse_block(&p, NULL) : NULL;
  return p.status;
}
