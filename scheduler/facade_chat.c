/* Chat templates as libconsort shows them. The template is parsed for each call: that takes less
 * than a millisecond, and a model stays immutable. */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/chat/chat.h"
#include "scheduler/facade.h"
#include "scheduler/structs.h"

static const char *spelling(const consort_model *model, int32_t id) {
  return id >= 0 ? cs_tokenizer_piece(model->tokenizer, id) : NULL;
}

static cs_status render(const consort_model *model, const consort_chat_options *options,
                        const char *template_text, size_t template_bytes, char **text,
                        size_t *text_bytes, cs_error *error) {
  cs_chat_template *chat;
  cs_status status = cs_chat_template_create(template_text, template_bytes, &chat, error);
  if (status) return status;
  cs_chat_input input = {.messages_json = options->messages,
                         .tools_json = options->tools,
                         .variables_json = options->variables,
                         .add_generation_prompt = !options->no_generation_prompt};
  if (model->tokenizer) {
    input.bos = spelling(model, cs_tokenizer_bos(model->tokenizer));
    input.eos = spelling(model, cs_tokenizer_eos(model->tokenizer));
  }
  status = cs_chat_render(chat, &input, text, text_bytes, error);
  cs_chat_template_destroy(chat);
  return status;
}

cs_status consort_chat_render(const consort_model *model, const consort_chat_options *given,
                              char **text, size_t *text_bytes, cs_error *error) {
  *text = NULL;
  *text_bytes = 0;
  consort_chat_options options = {.struct_size = sizeof options};
  cs_status status = cs_struct_read(&options, sizeof options, given, "chat options", error);
  if (status) return status;
  if (!options.messages) return cs_error_set(error, CS_INVALID_ARGUMENT, "no messages");
  if (options.chat_template)
    return render(model, &options, options.chat_template, strlen(options.chat_template), text,
                  text_bytes, error);
  const cs_model *inner = model->model ? model->model : model->vocabulary;
  char *own;
  size_t own_bytes;
  status = cs_chat_template_find(cs_model_gguf(inner), cs_model_path(inner), options.tools != NULL,
                                 &own, &own_bytes, error);
  if (!status) status = render(model, &options, own, own_bytes, text, text_bytes, error);
  free(own);
  return status;
}
