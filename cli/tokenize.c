/* consort tokenize: needs the vocabulary only, so it opens files of any architecture, and
 * a tokenizer.json. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/setup.h"

static int print_json(const consort_model *model, const int32_t *tokens, size_t n_tokens) {
  json_t *list = json_array();
  for (size_t i = 0; i < n_tokens; i++)
    json_array_append_new(list, json_pack("{si so}", "id", (int)tokens[i], "piece",
                                          cli_json_string(consort_token_piece(model, tokens[i]))));
  return cli_print_json(json_pack("{so}", "tokens", list));
}

static int print_text(const consort_model *model, const int32_t *tokens, size_t n_tokens) {
  for (size_t i = 0; i < n_tokens; i++) {
    const char *piece = consort_token_piece(model, tokens[i]);
    printf("%7d  %s\n", tokens[i], piece ? piece : "");
  }
  return cli_finish_output();
}

static int tokenize(consort_runtime *runtime, const char *path, const char *text, bool no_special,
                    bool json) {
  cs_error error = CS_ERROR_INIT;
  consort_model *model;
  if (consort_model_open_vocabulary(runtime, path, &model, &error) != CS_OK)
    return cli_library_error(path, &error);
  int status;
  int32_t *tokens;
  size_t n_tokens;
  if (consort_tokenize(model, text, strlen(text), !no_special, &tokens, &n_tokens, &error) !=
      CS_OK) {
    status = cli_library_error(path, &error);
  } else {
    status = json ? print_json(model, tokens, n_tokens) : print_text(model, tokens, n_tokens);
    consort_free(tokens);
  }
  consort_model_close(model);
  return status;
}

int cli_tokenize(int argc, char **argv) {
  const char *path, *text;
  bool no_special = false, json = false;
  const cli_option options[] = {
      {.name = "no-special",
       .kind = CLI_OPTION_FLAG,
       .value = &no_special,
       .help = "add no BOS or EOS, and read special tokens as text"},
      {.name = "json", .kind = CLI_OPTION_FLAG, .value = &json, .help = "print one JSON object"},
  };
  const cli_operand operands[] = {{.name = "MODEL", .value = &path},
                                  {.name = "TEXT", .value = &text}};
  const cli_syntax syntax = {
      .command = "tokenize",
      .usage = "MODEL TEXT [--no-special] [--json]",
      .summary = "Shows the token ids and pieces of TEXT. Works on vocabulary-only files, on a "
                 "tokenizer.json and on a folder with one.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = sizeof operands / sizeof operands[0],
  };
  int status;
  if (!cli_options_parse(&syntax, argc, argv, &status)) return status;
  consort_runtime *runtime;
  if ((status = cli_runtime_create(&runtime)) != CLI_DONE) return status;
  status = tokenize(runtime, path, text, no_special, json);
  consort_runtime_destroy(runtime);
  return status;
}
