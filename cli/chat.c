/* Every turn renders the whole conversation again: a template may say something about an earlier
 * turn that depends on a later one. */
#include "cli/chat.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/report.h"
#include "cli/text_file.h"

#define MAX_TEMPLATE_BYTES (1u << 20)

static void add_message(cli_chat *chat, const char *role, const char *text, size_t bytes) {
  json_array_append_new(chat->messages,
                        json_pack("{ss so}", "role", role, "content", cli_json_text(text, bytes)));
}

int cli_chat_begin(cli_chat *chat, const char *system, const char *template_path) {
  *chat = (cli_chat){.messages = json_array()};
  if (system) add_message(chat, "system", system, strlen(system));
  if (!template_path) return CLI_DONE;
  return cli_read_text(template_path, MAX_TEMPLATE_BYTES, &chat->template_text, NULL);
}

void cli_chat_end(cli_chat *chat) {
  json_decref(chat->messages);
  free(chat->template_text);
}

int cli_chat_ask(cli_chat *chat, const consort_model *model, const char *path, const char *text,
                 int32_t **tokens, size_t *n_tokens) {
  *tokens = NULL;
  add_message(chat, "user", text, strlen(text));
  char *messages = json_dumps(chat->messages, JSON_COMPACT);
  const consort_chat_options options = {
      .struct_size = sizeof options, .messages = messages, .chat_template = chat->template_text};
  cs_error error = CS_ERROR_INIT;
  char *rendered = NULL;
  size_t bytes = 0;
  cs_status status = consort_chat_render(model, &options, &rendered, &bytes, &error);
  if (status == CS_OK)
    status = consort_tokenize(model, rendered, bytes, 2, tokens, n_tokens, &error);
  consort_free(rendered);
  free(messages);
  if (status == CS_NOT_FOUND)
    return cli_error(path, "the model has no chat template (give one with --chat-template FILE)");
  return status == CS_OK ? CLI_DONE : cli_library_error(path, &error);
}

void cli_chat_answer(cli_chat *chat, const char *text, size_t text_bytes) {
  add_message(chat, "assistant", text, text_bytes);
}

char *cli_chat_read_line(void) {
  char *line = NULL;
  size_t capacity = 0;
  for (;;) {
    if (isatty(STDIN_FILENO)) fputs("> ", stderr);
    ssize_t n = getline(&line, &capacity, stdin);
    if (n < 0) break;
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
      line[--n] = '\0';
    if (n > 0) return line;
  }
  free(line);
  return NULL;
}
