/* Values of a chat template: immutable but for namespaces, all in one arena that is freed with the
 * rendering, so that a template can leak nothing. */
#ifndef MODELS_CHAT_VALUE_H
#define MODELS_CHAT_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

typedef enum cs_chat_type {
  CS_CHAT_UNDEFINED,
  CS_CHAT_NONE,
  CS_CHAT_BOOL,
  CS_CHAT_INT,
  CS_CHAT_FLOAT,
  CS_CHAT_STRING,
  CS_CHAT_LIST,
  CS_CHAT_MAP,
  CS_CHAT_FUNCTION /* of the template or of the language */
} cs_chat_type;

typedef struct cs_chat_value {
  cs_chat_type type;
  bool tuple; /* a list that prints with parentheses */
  union {
    bool boolean;
    int64_t integer;
    double number;
    const struct cs_chat_string *string;
    struct cs_chat_list *list;
    struct cs_chat_map *map;
    const struct cs_chat_function *function;
  };
} cs_chat_value;

typedef struct cs_chat_string {
  const char *data; /* NUL-terminated; bytes are UTF-8 */
  size_t bytes;
} cs_chat_string;

typedef struct cs_chat_list {
  cs_chat_value *items;
  size_t n;
  size_t capacity;
} cs_chat_list;

typedef struct cs_chat_entry {
  const cs_chat_string *key;
  cs_chat_value value;
} cs_chat_entry;

typedef struct cs_chat_map { /* in the order of insertion */
  cs_chat_entry *entries;
  size_t n;
  size_t capacity;
} cs_chat_map;

struct cs_chat_run;
typedef struct cs_chat_function {
  const void *macro;  /* a node of the template; NULL for one of the language */
  const char *name;   /* of the latter: "range", or a method: ".split" */
  cs_chat_value self; /* of a method */
  void *caller_scope; /* of a {% call %} block */
} cs_chat_function;

/* ---- the arena, and what a rendering may use ---- */

typedef struct cs_chat_arena {
  struct cs_chat_chunk *chunks;
  size_t left;
  char *at;
  size_t used;
  size_t limit;
} cs_chat_arena;

/* Aligned for any value; NULL when memory or the limit is used up. */
void *cs_chat_allocate(cs_chat_arena *arena, size_t bytes);
void cs_chat_arena_finish(cs_chat_arena *arena);

/* NULL-safe constructors: a value of type UNDEFINED when there is no memory; callers look at
 * cs_chat_arena.limit through the run's status. */
cs_chat_value cs_chat_text(cs_chat_arena *arena, const char *data, size_t bytes);
cs_chat_value cs_chat_new_list(cs_chat_arena *arena);
cs_chat_value cs_chat_new_map(cs_chat_arena *arena);
/* false: no memory. */
bool cs_chat_append(cs_chat_arena *arena, cs_chat_list *list, cs_chat_value item);
bool cs_chat_put(cs_chat_arena *arena, cs_chat_map *map, const cs_chat_string *key,
                 cs_chat_value value);
cs_chat_value cs_chat_from_json(cs_chat_arena *arena, const json_t *json, uint32_t depth);

static inline cs_chat_value cs_chat_int(int64_t value) {
  return (cs_chat_value){.type = CS_CHAT_INT, .integer = value};
}
static inline cs_chat_value cs_chat_bool(bool value) {
  return (cs_chat_value){.type = CS_CHAT_BOOL, .boolean = value};
}
static inline cs_chat_value cs_chat_float(double value) {
  return (cs_chat_value){.type = CS_CHAT_FLOAT, .number = value};
}

/* NULL: no such key. */
const cs_chat_value *cs_chat_find(const cs_chat_map *map, const char *key, size_t bytes);

bool cs_chat_truth(cs_chat_value value);
/* Deep, up to a number of comparisons that only values made to be slow meet: those are unequal.
 * Numbers compare by value. */
bool cs_chat_equal(cs_chat_value a, cs_chat_value b);
/* -1, 0, 1; *ordered false for types that have no order. */
int cs_chat_compare(cs_chat_value a, cs_chat_value b, bool *ordered);

/* ---- text ---- */

typedef struct cs_chat_buffer { /* grows in the arena's budget */
  cs_chat_arena *arena;
  char *data;
  size_t bytes;
  size_t capacity;
  bool failed;
} cs_chat_buffer;

void cs_chat_write(cs_chat_buffer *out, const char *data, size_t bytes);
void cs_chat_write_text(cs_chat_buffer *out, const char *text);
cs_chat_value cs_chat_take(cs_chat_buffer *out);

/* As Jinja prints it: str() of Python; strings inside lists and maps are quoted. */
void cs_chat_print(cs_chat_buffer *out, cs_chat_value value);
/* As transformers' tojson writes it: ", " and ": ", non-ASCII as it is; indent < 0: one line. */
void cs_chat_print_json(cs_chat_buffer *out, cs_chat_value value, int indent, bool sort_keys);

#endif
