/* A conversation: messages, and the tokens that a chat template makes of them. */
#ifndef CLI_CHAT_H
#define CLI_CHAT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/consort.h"

typedef struct cli_chat {
  json_t *messages;
  char *template_text; /* NULL: the model's own */
} cli_chat;

/* `system` and `template_path` may be NULL. CLI_DONE, or the exit status after an error line. */
int cli_chat_begin(cli_chat *chat, const char *system, const char *template_path);
void cli_chat_end(cli_chat *chat);

/* Adds what the user says and encodes the conversation up to the beginning of the answer: *tokens
 * is freed with consort_free. CLI_DONE, or the exit status after an error line. */
int cli_chat_ask(cli_chat *chat, const consort_model *model, const char *path, const char *text,
                 int32_t **tokens, size_t *n_tokens);
/* Adds the answer. */
void cli_chat_answer(cli_chat *chat, const char *text, size_t text_bytes);

/* The next line of standard input without its end, after a prompt on a terminal; empty ones are
 * passed over. NULL at the end. Freed by the caller. */
char *cli_chat_read_line(void);

#endif
