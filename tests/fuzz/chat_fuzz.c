/* Any bytes as a chat template over a fixed conversation: it gives a text or fails with one line,
 * within its limits. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "models/chat/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  cs_error error = CS_ERROR_INIT;
  cs_chat_template *chat;
  const cs_chat_input input = {
      .messages_json =
          "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"h\\u00e9"
          "\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{"
          "\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,true]}}}]}]",
      .tools_json = "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]",
      .bos = "<s>",
      .eos = "</s>",
      .now = 1,
      .add_generation_prompt = true};
  if (cs_chat_template_create((const char *)data, n_bytes, &chat, &error) == CS_OK) {
    char *text;
    size_t bytes;
    if (cs_chat_render(chat, &input, &text, &bytes, &error) == CS_OK)
      FUZZ_CHECK(text && text[bytes] == '\0');
    else
      FUZZ_CHECK(!text && error.message[0] && !strchr(error.message, '\n'));
    free(text);
  } else {
    FUZZ_CHECK(!chat && error.message[0] && !strchr(error.message, '\n'));
  }
  cs_chat_template_destroy(chat);
  return 0;
}
