/* One rendering: the tree's meaning, with limits on steps, depth and memory. */
#ifndef MODELS_CHAT_RUN_H
#define MODELS_CHAT_RUN_H

#include <time.h>

#include "models/chat/syntax.h"

typedef struct cs_chat_scope {
  cs_chat_map names;
  struct cs_chat_scope *outer;
} cs_chat_scope;

typedef struct cs_chat_run {
  cs_chat_arena *arena;
  cs_chat_scope *scope;
  cs_chat_buffer *out;
  uint64_t steps_left;
  uint32_t depth;
  uint32_t line;
  cs_chat_kind jump; /* CS_NODE_BREAK or CONTINUE on its way to the loop; else CS_NODE_BLOCK */
  time_t now;
  cs_status status; /* the first failure; after it nothing more is done */
  cs_error *error;
} cs_chat_run;

/* Arguments of a call, evaluated. */
typedef struct cs_chat_arguments {
  const cs_chat_value *list;
  size_t n;
  const cs_chat_map *named; /* NULL: none */
} cs_chat_arguments;

/* The first failure is kept. Returns UNDEFINED, so that `return cs_chat_fail(...)` reads well. */
cs_chat_value cs_chat_fail(cs_chat_run *run, cs_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* UNDEFINED from a constructor means that the memory limit was met. */
cs_chat_value cs_chat_made(cs_chat_run *run, cs_chat_value value);
/* Takes n steps; false when the limit is met, or something failed before. */
bool cs_chat_step(cs_chat_run *run, uint64_t n);
/* The steps for looking through a value once. */
bool cs_chat_look(cs_chat_run *run, cs_chat_value value);

void cs_chat_execute(cs_chat_run *run, const cs_chat_node *node);
cs_chat_value cs_chat_evaluate(cs_chat_run *run, const cs_chat_node *node);
/* Evaluates a call's arguments into the arena. */
cs_chat_arguments cs_chat_evaluate_arguments(cs_chat_run *run, const cs_chat_node *call);
cs_chat_value cs_chat_call(cs_chat_run *run, cs_chat_value function, cs_chat_arguments arguments);
cs_chat_value cs_chat_call_macro(cs_chat_run *run, const cs_chat_function *function,
                                 cs_chat_arguments arguments);
/* The body of a block as a string. */
cs_chat_value cs_chat_capture(cs_chat_run *run, const cs_chat_node *body);

/* obj.name and obj[key], as Jinja looks them up; UNDEFINED when there is none. */
cs_chat_value cs_chat_attribute(cs_chat_run *run, cs_chat_value of, const cs_chat_string *name);
cs_chat_value cs_chat_item(cs_chat_run *run, cs_chat_value of, cs_chat_value key);
/* "a.b.0" of an attribute filter. */
cs_chat_value cs_chat_path(cs_chat_run *run, cs_chat_value of, cs_chat_value path);

cs_chat_value cs_chat_filter(cs_chat_run *run, const cs_chat_string *name, cs_chat_value of,
                             cs_chat_arguments arguments);
bool cs_chat_test(cs_chat_run *run, const cs_chat_string *name, cs_chat_value of,
                  cs_chat_arguments arguments);
/* A method of a string, list or map, by its name; UNDEFINED: it has none of that name. */
cs_chat_value cs_chat_method(cs_chat_run *run, cs_chat_value of, const cs_chat_string *name);
cs_chat_value cs_chat_call_method(cs_chat_run *run, const cs_chat_function *method,
                                  cs_chat_arguments arguments);
cs_chat_value cs_chat_call_builtin(cs_chat_run *run, const char *name, cs_chat_arguments arguments);
/* A function of the language by its name, UNDEFINED when there is none. */
cs_chat_value cs_chat_builtin(cs_chat_run *run, const cs_chat_string *name);

/* The argument at a place or of a name; `usual` when it is not given. */
cs_chat_value cs_chat_argument(cs_chat_arguments arguments, size_t index, const char *name,
                               cs_chat_value usual);
/* What a loop or a list filter goes over: items, keys, or characters. */
cs_chat_value cs_chat_list_of(cs_chat_run *run, cs_chat_value of);
bool cs_chat_contains(cs_chat_run *run, cs_chat_value in, cs_chat_value what);
cs_chat_value cs_chat_to_text(cs_chat_run *run, cs_chat_value value);
cs_chat_value cs_chat_new_text(cs_chat_run *run, const char *data, size_t bytes);
size_t cs_chat_n_characters(const cs_chat_string *string);
cs_chat_value cs_chat_binary(cs_chat_run *run, cs_chat_op op, cs_chat_value a, cs_chat_value b);
/* "%s and %d" with its values. */
cs_chat_value cs_chat_format(cs_chat_run *run, const cs_chat_string *format,
                             cs_chat_arguments arguments);
void cs_chat_trim(const cs_chat_string *string, const cs_chat_string *characters, bool left,
                  bool right, size_t *begin, size_t *end);
cs_chat_value cs_chat_replace(cs_chat_run *run, const cs_chat_string *in,
                              cs_chat_arguments arguments);

#endif
