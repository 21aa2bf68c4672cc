/* A rendering gets what transformers gives a template: messages, tools, documents,
 * add_generation_prompt, bos_token, eos_token, and whatever the caller adds. */
#include "models/chat/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/error.h"
#include "models/chat/run.h"
#include "models/gguf.h"
#include "models/mapped_file.h"
#include "models/text_file.h"

#define MAX_TEMPLATE_BYTES (1u << 20)
#define MAX_TREE_BYTES     (64u << 20)
#define MAX_RUN_BYTES      (256u << 20)
#define MAX_STEPS          5000000u
#define MAX_CONFIG_BYTES   (64u << 20)

struct cs_chat_template {
  cs_chat_arena arena;
  cs_chat_node *root;
};

cs_status cs_chat_template_create(const char *text, size_t bytes, cs_chat_template **out,
                                  cs_error *error) {
  *out = NULL;
  if (bytes > MAX_TEMPLATE_BYTES)
    return cs_error_set(error, CS_OUT_OF_RANGE, "chat template: %zu bytes are too many", bytes);
  cs_chat_template *chat = calloc(1, sizeof *chat);
  if (!chat) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  chat->arena.limit = MAX_TREE_BYTES;
  cs_chat_token *tokens;
  size_t n_tokens;
  cs_status status = cs_chat_lex(&chat->arena, text, bytes, &tokens, &n_tokens, error);
  if (status == CS_OK) status = cs_chat_parse(&chat->arena, tokens, n_tokens, &chat->root, error);
  if (status != CS_OK) {
    cs_error_prefix(error, status, "chat template");
    cs_chat_template_destroy(chat);
    return status;
  }
  *out = chat;
  return CS_OK;
}

void cs_chat_template_destroy(cs_chat_template *chat) {
  if (!chat) return;
  cs_chat_arena_finish(&chat->arena);
  free(chat);
}

/* ---- variables --------------------------------------------------------------------------- */

static void define(cs_chat_run *run, const char *name, cs_chat_value value) {
  const cs_chat_value key = cs_chat_new_text(run, name, strlen(name));
  if (run->status == CS_OK && !cs_chat_put(run->arena, &run->scope->names, key.string, value))
    cs_chat_made(run, (cs_chat_value){0});
}

static cs_chat_value parse_json(cs_chat_run *run, const char *what, const char *text) {
  json_error_t where;
  json_t *json = json_loads(text, JSON_ALLOW_NUL, &where);
  if (!json) return cs_chat_fail(run, CS_INVALID_ARGUMENT, "%s: %s", what, where.text);
  const cs_chat_value value = cs_chat_made(run, cs_chat_from_json(run->arena, json, 0));
  json_decref(json);
  return value;
}

static void define_all(cs_chat_run *run, const cs_chat_input *input) {
  const cs_chat_value none = {.type = CS_CHAT_NONE};
  const char *bos = input->bos ? input->bos : "", *eos = input->eos ? input->eos : "";
  define(run, "messages", parse_json(run, "messages", input->messages_json));
  define(run, "tools", input->tools_json ? parse_json(run, "tools", input->tools_json) : none);
  define(run, "documents", none);
  define(run, "add_generation_prompt", cs_chat_bool(input->add_generation_prompt));
  define(run, "bos_token", cs_chat_new_text(run, bos, strlen(bos)));
  define(run, "eos_token", cs_chat_new_text(run, eos, strlen(eos)));
  if (!input->variables_json || run->status != CS_OK) return;
  const cs_chat_value more = parse_json(run, "variables", input->variables_json);
  if (more.type != CS_CHAT_MAP) {
    cs_chat_fail(run, CS_INVALID_ARGUMENT, "variables: no JSON object");
    return;
  }
  for (size_t i = 0; i < more.map->n; i++)
    define(run, more.map->entries[i].key->data, more.map->entries[i].value);
}

cs_status cs_chat_render(const cs_chat_template *chat, const cs_chat_input *input, char **text,
                         size_t *bytes, cs_error *error) {
  *text = NULL;
  *bytes = 0;
  cs_chat_arena arena = {.limit = MAX_RUN_BYTES};
  cs_chat_buffer out = {.arena = &arena};
  cs_chat_scope scope = {.outer = NULL};
  cs_chat_run run = {.arena = &arena,
                     .scope = &scope,
                     .out = &out,
                     .steps_left = MAX_STEPS,
                     .jump = CS_NODE_BLOCK,
                     .now = input->now ? (time_t)input->now : time(NULL),
                     .error = error};
  define_all(&run, input);
  if (run.status == CS_OK) cs_chat_execute(&run, chat->root);
  if (run.status == CS_OK && !(*text = malloc(out.bytes + 1)))
    run.status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  if (run.status == CS_OK) {
    if (out.bytes) memcpy(*text, out.data, out.bytes);
    (*text)[out.bytes] = '\0';
    *bytes = out.bytes;
  }
  cs_chat_arena_finish(&arena);
  return run.status;
}

/* ---- where templates are kept ------------------------------------------------------------ */

static cs_status copy(const char *data, size_t bytes, char **text, size_t *n, cs_error *error) {
  *text = malloc(bytes + 1);
  if (!*text) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  memcpy(*text, data, bytes);
  (*text)[bytes] = '\0';
  *n = bytes;
  return CS_OK;
}

static cs_status not_found(const char *path, cs_error *error) {
  return cs_error_set(error, CS_NOT_FOUND, "%s: the model has no chat template", path);
}

static cs_status find_in_gguf(const cs_gguf *gguf, bool tools, char **text, size_t *bytes,
                              cs_error *error) {
  cs_gguf_string found;
  if (!(tools && cs_gguf_get_string(gguf, "tokenizer.chat_template.tool_use", &found)) &&
      !cs_gguf_get_string(gguf, "tokenizer.chat_template", &found))
    return not_found(cs_gguf_path(gguf), error);
  return copy(found.data, found.bytes, text, bytes, error);
}

/* "chat_template" is a string or a list of {"name", "template"}. */
static const json_t *choose(const json_t *config, bool tools) {
  const json_t *value = json_object_get(config, "chat_template");
  const json_t *chosen = json_is_string(value) ? value : NULL;
  for (size_t i = 0; i < json_array_size(value); i++) {
    const json_t *entry = json_array_get(value, i);
    const char *name = json_string_value(json_object_get(entry, "name"));
    if (!name || !json_is_string(json_object_get(entry, "template"))) continue;
    if (strcmp(name, tools ? "tool_use" : "default") == 0 || !chosen)
      chosen = json_object_get(entry, "template");
  }
  return chosen;
}

static cs_status find_in_config(const char *file, const char *path, bool tools, char **text,
                                size_t *bytes, cs_error *error) {
  json_error_t where;
  char *data;
  size_t n;
  cs_status status = cs_file_read(file, MAX_CONFIG_BYTES, &data, &n, error);
  if (status != CS_OK) return not_found(path, error);
  json_t *config = json_loadb(data, n, JSON_ALLOW_NUL, &where);
  free(data);
  if (!config)
    return cs_error_set(error, CS_CORRUPT, "%s, line %d: %s", file, where.line, where.text);
  const json_t *chosen = choose(config, tools);
  status = chosen ? copy(json_string_value(chosen), json_string_length(chosen), text, bytes, error)
                  : not_found(path, error);
  json_decref(config);
  return status;
}

cs_status cs_chat_template_find(const cs_gguf *gguf, const char *path, bool tools, char **text,
                                size_t *bytes, cs_error *error) {
  *text = NULL;
  *bytes = 0;
  if (gguf && !cs_file_is_folder(path)) return find_in_gguf(gguf, tools, text, bytes, error);
  char file[4096];
  struct stat about;
  if (cs_file_beside(path, "chat_template.jinja", file, sizeof file) != CS_OK)
    return not_found(path, error);
  if (stat(file, &about) == 0) return cs_file_read(file, MAX_TEMPLATE_BYTES, text, bytes, error);
  if (cs_file_beside(path, "tokenizer_config.json", file, sizeof file) != CS_OK)
    return not_found(path, error);
  return find_in_config(file, path, tools, text, bytes, error);
}
