/* consort logits: what tests and other programs compare. KV is f32 unless told otherwise, so that
 * differences come from the devices and not from the cache. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/npy.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/setup.h"

#define NO_SPLIT UINT32_MAX

typedef struct logits_flags {
  const char *path;
  const char *token_list;
  const char *device;
  const char *output;
  uint32_t split;
  cli_placement placement;
  int32_t *tokens; /* owned */
  size_t n_tokens;
} logits_flags;

/* Reads "1,2,3" into flags->tokens. */
static int parse_tokens(logits_flags *flags) {
  size_t n = 1;
  for (const char *c = flags->token_list; *c; c++)
    n += *c == ',';
  flags->tokens = malloc(n * sizeof *flags->tokens);
  char *list = strdup(flags->token_list);
  int status = CLI_DONE;
  if (!flags->tokens || !list) status = cli_error("--tokens", "out of memory");
  for (char *at = list; at && status == CLI_DONE;) {
    char *comma = strchr(at, ',');
    if (comma) *comma = '\0';
    uint64_t id;
    if (!cli_parse_u64(at, &id) || id > INT32_MAX)
      status = cli_usage_error("--tokens", "\"%s\" is not a token id (as in --tokens 1,2,3)", at);
    else
      flags->tokens[flags->n_tokens++] = (int32_t)id;
    at = comma ? comma + 1 : NULL;
  }
  free(list);
  return status;
}

/* One of the two ways to say where: --device, or --prefill, --decode and --split. */
static int check_flags(logits_flags *flags) {
  cli_placement *placement = &flags->placement;
  if (!flags->token_list) return cli_usage_error("logits", "--tokens is missing");
  if (!flags->output) return cli_usage_error("logits", "-o FILE is missing");
  const int status = parse_tokens(flags);
  if (status != CLI_DONE) return status;
  if (!placement->kv_dtype) placement->kv_dtype = "f32";
  if (flags->device) {
    if (placement->prefill || placement->decode || flags->split != NO_SPLIT)
      return cli_usage_error("--device", "goes without --prefill, --decode and --split");
    placement->prefill = placement->decode = flags->device;
    flags->split = 0;
    return CLI_DONE;
  }
  if (!placement->prefill || !placement->decode || flags->split == NO_SPLIT)
    return cli_usage_error("logits", "needs --device, or --prefill, --decode and --split");
  if (flags->split > flags->n_tokens)
    return cli_usage_error("--split", "%u is more than the %zu tokens", flags->split,
                           flags->n_tokens);
  return CLI_DONE;
}

static int check_vocabulary(const logits_flags *flags, uint32_t n_vocab) {
  for (size_t i = 0; i < flags->n_tokens; i++)
    if ((uint32_t)flags->tokens[i] >= n_vocab)
      return cli_error(flags->path, "token %d is outside its vocabulary of %u", flags->tokens[i],
                       n_vocab);
  return CLI_DONE;
}

static int compute(const logits_flags *flags, consort_session *session, uint32_t n_vocab) {
  if (flags->n_tokens > SIZE_MAX / sizeof(float) / n_vocab)
    return cli_error(flags->path, "logits of %zu tokens do not fit in memory", flags->n_tokens);
  float *logits = malloc(flags->n_tokens * n_vocab * sizeof *logits);
  if (!logits)
    return cli_error(flags->path, "logits of %zu tokens do not fit in memory", flags->n_tokens);
  cs_error error = CS_ERROR_INIT;
  int status;
  if (consort_logits(session, flags->tokens, flags->n_tokens, flags->split, logits, &error) !=
      CS_OK)
    status = cli_library_error(flags->path, &error);
  else
    status = cli_npy_write(flags->output, logits, flags->n_tokens, n_vocab);
  free(logits);
  return status;
}

static int run_model(const logits_flags *flags, consort_runtime *runtime) {
  cs_error error = CS_ERROR_INIT;
  consort_model *model;
  if (consort_model_open(runtime, flags->path, &model, &error) != CS_OK)
    return cli_library_error(flags->path, &error);
  consort_model_info info = {.struct_size = sizeof info};
  consort_session *session;
  int status;
  if (consort_model_get_info(model, &info, &error) != CS_OK)
    status = cli_library_error(flags->path, &error);
  else
    status = check_vocabulary(flags, info.n_vocab);
  if (status == CLI_DONE)
    status = cli_session_create(runtime, model, flags->path, &flags->placement, &session);
  if (status == CLI_DONE) {
    status = compute(flags, session, info.n_vocab);
    consort_session_destroy(session);
  }
  consort_model_close(model);
  return status;
}

static bool parse(logits_flags *flags, int argc, char **argv, int *status) {
  const cli_option options[] = {
      {"tokens", 0, CLI_OPTION_STRING, &flags->token_list, "1,2,3", "token ids", 0, 0, NULL},
      {"device", 0, CLI_OPTION_STRING, &flags->device, "DEV", "device for all rows", 0, 0, NULL},
      CLI_PLACEMENT_OPTIONS(&flags->placement),
      {"split", 0, CLI_OPTION_COUNT, &flags->split, "K",
       "the first K rows come from the prefill device, the rest from the decode device", 0,
       UINT32_MAX - 1, NULL},
      {"output", 'o', CLI_OPTION_STRING, &flags->output, "FILE.npy", "file to write", 0, 0, NULL},
  };
  const cli_operand operands[] = {{.name = "MODEL", .value = &flags->path}};
  const cli_syntax syntax = {
      .command = "logits",
      .usage = "MODEL --tokens 1,2,3 (--device DEV | --prefill DEV --decode DEV --split K) "
               "-o FILE.npy",
      .summary = "Writes the logits of every position, float32 (n_tokens, n_vocab). KV is f32 "
                 "unless told otherwise.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = sizeof operands / sizeof operands[0],
  };
  if (!cli_options_parse(&syntax, argc, argv, status)) return false;
  *status = check_flags(flags);
  return *status == CLI_DONE;
}

int cli_logits(int argc, char **argv) {
  logits_flags flags = {.split = NO_SPLIT};
  int status;
  if (parse(&flags, argc, argv, &status)) {
    flags.placement.n_context = (uint32_t)flags.n_tokens;
    consort_runtime *runtime;
    if ((status = cli_runtime_create(&runtime)) == CLI_DONE) {
      status = run_model(&flags, runtime);
      consort_runtime_destroy(runtime);
    }
  }
  free(flags.tokens);
  return status;
}
