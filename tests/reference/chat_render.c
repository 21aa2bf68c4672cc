/* Renders conversations for chat_compare.py: reads "TEMPLATE\0INPUT\0" again and again, INPUT a
 * JSON object with messages, tools, variables, bos and eos, and writes "ok" or "error" and the
 * text, each ended by a zero byte. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/chat/chat.h"

static char *dump(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return value && !json_is_null(value) ? json_dumps(value, JSON_COMPACT) : NULL;
}

static void answer(const char *status, const char *text) {
  printf("%s%c%s%c", status, 0, text, 0);
}

static void render(const char *template_text, const char *input_text) {
  json_t *json = json_loads(input_text, JSON_ALLOW_NUL, NULL);
  char *messages = dump(json, "messages"), *tools = dump(json, "tools");
  char *variables = dump(json, "variables"), *text = NULL;
  const cs_chat_input input = {.messages_json = messages ? messages : "[]",
                               .tools_json = tools,
                               .variables_json = variables,
                               .bos = json_string_value(json_object_get(json, "bos")),
                               .eos = json_string_value(json_object_get(json, "eos")),
                               .add_generation_prompt =
                                   json_is_true(json_object_get(json, "add_generation_prompt"))};
  cs_error error = CS_ERROR_INIT;
  cs_chat_template *chat;
  size_t bytes;
  cs_status status = cs_chat_template_create(template_text, strlen(template_text), &chat, &error);
  if (status == CS_OK) status = cs_chat_render(chat, &input, &text, &bytes, &error);
  answer(status == CS_OK ? "ok" : "error", status == CS_OK ? text : error.message);
  cs_chat_template_destroy(chat);
  free(text);
  free(variables);
  free(tools);
  free(messages);
  json_decref(json);
}

int main(void) {
  char *template_text = NULL, *input = NULL;
  size_t template_capacity = 0, input_capacity = 0;
  while (getdelim(&template_text, &template_capacity, 0, stdin) > 0 &&
         getdelim(&input, &input_capacity, 0, stdin) > 0)
    render(template_text, input);
  free(template_text);
  free(input);
  return 0;
}
