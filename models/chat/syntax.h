/* A chat template as a tree, made once and then only read. */
#ifndef MODELS_CHAT_SYNTAX_H
#define MODELS_CHAT_SYNTAX_H

#include "models/chat/value.h"

typedef enum cs_chat_kind {
  /* expressions */
  CS_NODE_LITERAL,     /* value */
  CS_NODE_NAME,        /* text */
  CS_NODE_LIST,        /* items */
  CS_NODE_TUPLE,       /* items */
  CS_NODE_MAP,         /* items: key, value, key, value */
  CS_NODE_ATTRIBUTE,   /* a.text */
  CS_NODE_INDEX,       /* a[b] */
  CS_NODE_SLICE,       /* a[items[0]:items[1]:items[2]], each may be NULL */
  CS_NODE_CALL,        /* a(items) */
  CS_NODE_FILTER,      /* a|text(items); a NULL: of a {% filter %} block */
  CS_NODE_TEST,        /* a is text(items); negated */
  CS_NODE_UNARY,       /* op a */
  CS_NODE_BINARY,      /* a op b */
  CS_NODE_CONDITIONAL, /* a if b else c; c may be NULL */
  CS_NODE_KEYWORD,     /* text=a, an argument */
  CS_NODE_SPREAD,      /* *a, arguments */
  /* statements */
  CS_NODE_BLOCK,        /* items in a row */
  CS_NODE_TEXT,         /* value */
  CS_NODE_PRINT,        /* a */
  CS_NODE_SET,          /* items are targets, a the value; a NULL: the block b */
  CS_NODE_IF,           /* a: condition, b: then, c: else or NULL */
  CS_NODE_FOR,          /* items: targets; a: over, b: body, c: else, d: condition */
  CS_NODE_MACRO,        /* text: name; items: parameters (NAME or KEYWORD); b: body */
  CS_NODE_CALL_BLOCK,   /* a: the call, b: body */
  CS_NODE_FILTER_BLOCK, /* a: the filter, b: body */
  CS_NODE_BREAK,
  CS_NODE_CONTINUE
} cs_chat_kind;

typedef enum cs_chat_op {
  CS_OP_OR,
  CS_OP_AND,
  CS_OP_NOT,
  CS_OP_EQUAL,
  CS_OP_NOT_EQUAL,
  CS_OP_LESS,
  CS_OP_LESS_EQUAL,
  CS_OP_GREATER,
  CS_OP_GREATER_EQUAL,
  CS_OP_IN,
  CS_OP_NOT_IN,
  CS_OP_CONCAT,
  CS_OP_ADD,
  CS_OP_SUBTRACT,
  CS_OP_MULTIPLY,
  CS_OP_DIVIDE,
  CS_OP_FLOOR_DIVIDE,
  CS_OP_MODULO,
  CS_OP_POWER,
  CS_OP_PLUS,
  CS_OP_MINUS
} cs_chat_op;

typedef struct cs_chat_node {
  cs_chat_kind kind;
  cs_chat_op op;
  bool negated;
  uint32_t line;
  const cs_chat_string *text;
  cs_chat_value value;
  struct cs_chat_node *a;
  struct cs_chat_node *b;
  struct cs_chat_node *c;
  struct cs_chat_node *d;
  struct cs_chat_node **items;
  size_t n_items;
} cs_chat_node;

/* ---- tokens ---- */

typedef enum cs_chat_token_kind {
  CS_TOKEN_END,
  CS_TOKEN_TEXT,      /* between tags */
  CS_TOKEN_OPEN,      /* {{ */
  CS_TOKEN_CLOSE,     /* }} */
  CS_TOKEN_OPEN_TAG,  /* {% */
  CS_TOKEN_CLOSE_TAG, /* %} */
  CS_TOKEN_NAME,
  CS_TOKEN_STRING,
  CS_TOKEN_INT,
  CS_TOKEN_FLOAT,
  CS_TOKEN_OPERATOR /* text is the operator */
} cs_chat_token_kind;

typedef struct cs_chat_token {
  cs_chat_token_kind kind;
  uint32_t line;
  const cs_chat_string *text; /* escapes are undone, white space control is done */
} cs_chat_token;

/* Cuts a template into tokens in the arena. With trim_blocks and lstrip_blocks, as transformers
 * sets them. The errors name the line. */
cs_status cs_chat_lex(cs_chat_arena *arena, const char *text, size_t bytes, cs_chat_token **out,
                      size_t *n_out, cs_error *error);
/* The tree, in the arena. CS_CORRUPT names line and reason, CS_UNSUPPORTED a tag. */
cs_status cs_chat_parse(cs_chat_arena *arena, const cs_chat_token *tokens, size_t n_tokens,
                        cs_chat_node **out, cs_error *error);

#endif
