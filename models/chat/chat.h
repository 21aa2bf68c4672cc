/* Chat templates: the subset of Jinja that published models use, interpreted. A template comes from
 * a file that somebody made, so that a rendering has limits: steps, depth, memory and output. */
#ifndef MODELS_CHAT_CHAT_H
#define MODELS_CHAT_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

typedef struct cs_chat_template cs_chat_template; /* immutable and free-threaded */

/* Parses `bytes` bytes of template. CS_CORRUPT names the line and what is wrong there,
 * CS_UNSUPPORTED a tag that is not known. */
cs_status cs_chat_template_create(const char *text, size_t bytes, cs_chat_template **out,
                                  cs_error *error);
void cs_chat_template_destroy(cs_chat_template *chat);

typedef struct cs_chat_input {
  const char *messages_json; /* [{"role": "user", "content": "..."}, ...] */
  const char *tools_json;    /* a list of functions as JSON schemas; NULL: none */
  const char
      *variables_json; /* an object of further variables, which may replace others; or NULL */
  const char *bos;     /* spellings; NULL: "" */
  const char *eos;
  int64_t now; /* for strftime_now, seconds since 1970; 0: the clock */
  bool add_generation_prompt;
} cs_chat_input;

/* The text that the model is to go on from: *text is NUL-terminated, allocated with malloc and the
 * caller's. CS_INVALID_ARGUMENT when the template refuses the conversation or its values do not
 * fit, CS_OUT_OF_RANGE when it meets a limit, CS_UNSUPPORTED names a filter or test that is not
 * known.
 */
cs_status cs_chat_render(const cs_chat_template *chat, const cs_chat_input *input, char **text,
                         size_t *bytes, cs_error *error);

typedef struct cs_gguf cs_gguf;

/* The template of a model, of its GGUF file or, where `path` is a folder or gguf is NULL, of that
 * folder:
 * chat_template.jinja, else "chat_template" in tokenizer_config.json. `tools`: the one for tools,
 * where there are several. NUL-terminated and the caller's. CS_NOT_FOUND: it has none. */
cs_status cs_chat_template_find(const cs_gguf *gguf, const char *path, bool tools, char **text,
                                size_t *bytes, cs_error *error);

#endif
