/* consort run: text leaves as it is made, so that a reader on a pipe sees it token by token;
 * Ctrl-C ends the generation, not the program, and a second one ends that too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/chat.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/sampling.h"
#include "cli/setup.h"

typedef struct run_flags {
  const char *path;
  const char *prompt;
  uint32_t n_tokens;
  cli_placement placement;
  cli_sampling sampling;
  bool stats;
  bool json;
  bool chat;
  const char *system;
  const char *template_path;
} run_flags;

static int on_token(void *user, int32_t token, const char *text, size_t text_bytes) {
  const run_flags *flags = user;
  (void)token;
  if (!flags->json) {
    fwrite(text, 1, text_bytes, stdout);
    if (fflush(stdout) != 0) return 1;
  }
  return cli_interrupted;
}

/* ---- report ---- */

static json_t *fallbacks_json(const consort_session *session) {
  json_t *list = json_array();
  for (size_t i = 0; i < consort_session_n_fallbacks(session); i++) {
    consort_fallback fallback = {.struct_size = sizeof fallback};
    if (consort_session_fallback(session, i, &fallback, NULL) != CS_OK) continue;
    json_array_append_new(list, json_pack("{so so si sI so so}", "op", cli_json_string(fallback.op),
                                          "device", cli_json_string(fallback.device), "count",
                                          (int)fallback.count, "bytes",
                                          (json_int_t)fallback.bytes_per_token, "asked_device",
                                          cli_json_string(fallback.asked_device), "reason",
                                          cli_json_string(fallback.reason)));
  }
  return list;
}

static const char *finish_name(uint32_t finish) {
  static const char *const names[] = {[CONSORT_FINISH_LENGTH] = "length",
                                      [CONSORT_FINISH_END] = "end",
                                      [CONSORT_FINISH_CANCELLED] = "cancelled",
                                      [CONSORT_FINISH_CONTEXT] = "context",
                                      [CONSORT_FINISH_STOP] = "stop"};
  return finish < sizeof names / sizeof names[0] ? names[finish] : "unknown";
}

static json_t *logprob_json(consort_token_logprob entry) {
  return json_pack("{si so}", "token", (int)entry.token, "logprob",
                   cli_json_number((double)entry.logprob));
}

/* Of each token its own, and under "top" the likeliest. */
static json_t *logprobs_json(const consort_generate_result *result) {
  json_t *list = json_array();
  for (uint32_t i = 0; result->logprobs && i < result->n_tokens; i++) {
    const consort_token_logprob *const row = result->logprobs + (size_t)i * result->n_logprobs;
    json_t *one = logprob_json(row[0]), *top = json_array();
    for (uint32_t k = 1; k < result->n_logprobs && row[k].token >= 0; k++)
      json_array_append_new(top, logprob_json(row[k]));
    json_object_set_new(one, "top", top);
    json_array_append_new(list, one);
  }
  return list;
}

/* How the KV cache was moved. */
static const char *path_name(const consort_generate_result *result) {
  if (result->kv_pieces == 0) return "none";
  if (result->kv_direct == 0) return "staged";
  return result->kv_path == CONSORT_KV_SHARED ? "shared" : "peer";
}

/* Empty unless --stats had ops timed and a device can. */
static json_t *op_times_json(const consort_session *session) {
  consort_op_time *times = NULL;
  size_t n = 0;
  json_t *list = json_array();
  if (consort_session_op_times(session, &times, &n, NULL) != CS_OK) return list;
  for (size_t i = 0; i < n; i++)
    json_array_append_new(
        list, json_pack("{so so sb sb sI so so}", "op", cli_json_string(times[i].op), "device",
                        cli_json_string(times[i].device), "prefill", (int)times[i].prefill,
                        "decode", (int)times[i].decode, "count", (json_int_t)times[i].count, "ms",
                        cli_json_number(times[i].ms), "share", cli_json_number(times[i].share)));
  consort_free(times);
  return list;
}

static int print_json(const consort_session *session, const consort_generate_result *result) {
  json_t *tokens = json_array();
  for (uint32_t i = 0; i < result->n_tokens; i++)
    json_array_append_new(tokens, json_integer(result->tokens[i]));
  json_t *transfer = json_pack(
      "{sI so so sI sb ss sI}", "bytes", (json_int_t)result->kv_bytes, "ms",
      cli_json_number(result->kv_ms), "exposed_ms", cli_json_number(result->kv_exposed_ms),
      "pieces", (json_int_t)result->kv_pieces, "verified", (int)result->kv_verified, "path",
      path_name(result), "direct_pieces", (json_int_t)result->kv_direct);
  return cli_print_json(
      json_pack("{so so ss so si so so s{so so} s{so so} so so so so}", "text",
                cli_json_text(result->text, result->text_bytes), "tokens", tokens, "finish",
                finish_name(result->finish), "logprobs", logprobs_json(result), "prompt_tokens",
                (int)result->n_prompt_tokens, "ttft_ms", cli_json_number(result->ttft_ms),
                "tpot_ms", cli_json_number(result->tpot_ms), "prefill", "device",
                cli_json_string(consort_session_prefill(session)), "tokens_per_s",
                cli_json_number(result->prefill_tokens_per_s), "decode", "device",
                cli_json_string(consort_session_decode(session)), "tokens_per_s",
                cli_json_number(result->decode_tokens_per_s), "kv_transfer", transfer, "fallbacks",
                fallbacks_json(session), "op_times", op_times_json(session), "plan",
                cli_json_string(consort_session_reason(session))));
}

static void print_fallbacks(const consort_session *session) {
  const size_t n_fallbacks = consort_session_n_fallbacks(session);
  if (n_fallbacks == 0) fprintf(stderr, "  %-12s none\n", "fallbacks");
  for (size_t i = 0; i < n_fallbacks; i++) {
    consort_fallback fallback = {.struct_size = sizeof fallback};
    if (consort_session_fallback(session, i, &fallback, NULL) != CS_OK) continue;
    char bytes[CLI_BYTES_TEXT];
    fprintf(stderr, "  %-12s %s: %u a step on %s instead of %s, %s a token (%s)\n",
            i ? "" : "fallbacks", fallback.op, fallback.count, fallback.device,
            fallback.asked_device, cli_format_bytes(fallback.bytes_per_token, bytes),
            fallback.reason);
  }
}

static void print_op_times(const consort_session *session) {
  consort_op_time *times = NULL;
  size_t n = 0;
  if (consort_session_op_times(session, &times, &n, NULL) != CS_OK) return;
  for (size_t i = 0; i < n; i++) {
    const bool first =
        i == 0 || times[i].device != times[i - 1].device || times[i].decode != times[i - 1].decode;
    const char *work = !times[i].decode ? "prefill" : !times[i].prefill ? "decode" : "all";
    if (first) fprintf(stderr, "  %-12s %s, %s\n", "device time", times[i].device, work);
    fprintf(stderr, "  %-12s %-16s %8.2f ms %5.1f %%  %8llu times\n", "", times[i].op, times[i].ms,
            100 * times[i].share, (unsigned long long)times[i].count);
  }
  consort_free(times);
}

static void print_stats(const consort_session *session, const consort_generate_result *result) {
  char bytes[CLI_BYTES_TEXT];
  fprintf(stderr, "  %-12s %-14s %10.1f tokens/s  %6u tokens\n", "prefill",
          consort_session_prefill(session), result->prefill_tokens_per_s, result->n_prompt_tokens);
  fprintf(stderr, "  %-12s %-14s %10.1f tokens/s  %6u tokens\n", "decode",
          consort_session_decode(session), result->decode_tokens_per_s, result->n_tokens);
  fprintf(stderr, "  %-12s %25.2f ms\n", "TTFT", result->ttft_ms);
  fprintf(stderr, "  %-12s %25.2f ms\n", "TPOT", result->tpot_ms);
  if (result->kv_pieces == 0) {
    fprintf(stderr, "  %-12s nothing moved\n", "KV");
  } else {
    fprintf(stderr, "  %-12s %s in %llu pieces, %s, %s\n", "KV moved",
            cli_format_bytes(result->kv_bytes, bytes), (unsigned long long)result->kv_pieces,
            path_name(result), result->kv_verified ? "all verified" : "not verified");
    fprintf(stderr, "  %-12s %.2f ms, of which %.2f ms exposed\n", "KV transfer", result->kv_ms,
            result->kv_exposed_ms);
  }
  print_fallbacks(session);
  print_op_times(session);
}

/* ---- the run ---- */

static int report(const run_flags *flags, const consort_session *session,
                  const consort_generate_result *result) {
  if (!flags->json) putchar('\n');
  const int status = flags->json ? print_json(session, result) : cli_finish_output();
  if (flags->stats) print_stats(session, result);
  return cli_interrupted ? CLI_INTERRUPTED : status;
}

/* From tokens or, with these NULL, from the prompt; the answer is added to `chat` (may be NULL). */
static int generate(run_flags *flags, consort_session *session, const int32_t *tokens,
                    size_t n_tokens, cli_chat *chat) {
  consort_generate_options options = {.struct_size = sizeof options,
                                      .n_tokens = flags->n_tokens,
                                      .on_token = on_token,
                                      .user = flags};
  int status = cli_sampling_apply(&flags->sampling, &options);
  if (status != CLI_DONE) return status;
  struct sigaction previous;
  cli_interrupt_begin(&previous);
  cs_error error = CS_ERROR_INIT;
  consort_generate_result result = {.struct_size = sizeof result};
  const cs_status generated =
      tokens ? consort_generate_from_tokens(session, tokens, n_tokens, &options, &result, &error)
             : consort_generate(session, flags->prompt, &options, &result, &error);
  cli_interrupt_end(&previous);

  if (generated == CS_OK && chat) cli_chat_answer(chat, result.text, result.text_bytes);
  if (generated == CS_OK)
    status = report(flags, session, &result);
  else if (cli_interrupted)
    status = CLI_INTERRUPTED;
  else
    status = cli_library_error(flags->path, &error);
  consort_free(result.tokens);
  consort_free(result.text);
  consort_free(result.logprobs);
  return status;
}

static int take_turn(run_flags *flags, const consort_model *model, consort_session *session,
                     cli_chat *chat, const char *text) {
  int32_t *tokens;
  size_t n_tokens;
  int status = cli_chat_ask(chat, model, flags->path, text, &tokens, &n_tokens);
  if (status != CLI_DONE) return status;
  status = generate(flags, session, tokens, n_tokens, chat);
  consort_free(tokens);
  return status;
}

/* One turn from --prompt, or one for each line of standard input. On a terminal Ctrl-C ends an
 * answer and not the conversation. */
static int converse(run_flags *flags, const consort_model *model, consort_session *session) {
  cli_chat chat;
  int status = cli_chat_begin(&chat, flags->system, flags->template_path);
  if (status == CLI_DONE && flags->prompt) {
    status = take_turn(flags, model, session, &chat, flags->prompt);
  } else {
    char *line;
    while (status == CLI_DONE && (line = cli_chat_read_line())) {
      status = take_turn(flags, model, session, &chat, line);
      free(line);
      if (status != CLI_INTERRUPTED || !isatty(STDIN_FILENO)) continue;
      cli_interrupted = 0;
      status = CLI_DONE;
    }
  }
  cli_chat_end(&chat);
  return status;
}

/* 0 when the text cannot be encoded: generating tells why. */
static uint32_t count_tokens(const consort_model *model, const char *text) {
  int32_t *tokens = NULL;
  size_t n_tokens = 0;
  if (consort_tokenize(model, text, strlen(text), 1, &tokens, &n_tokens, NULL) != CS_OK) return 0;
  consort_free(tokens);
  return n_tokens > UINT32_MAX ? UINT32_MAX : (uint32_t)n_tokens;
}

static int run_model(run_flags *flags, consort_runtime *runtime) {
  cs_error error = CS_ERROR_INIT;
  consort_model *model;
  if (consort_model_open(runtime, flags->path, &model, &error) != CS_OK)
    return cli_library_error(flags->path, &error);
  cli_placement placement = flags->placement;
  placement.n_prompt_tokens = flags->prompt ? count_tokens(model, flags->prompt) : 0;
  placement.n_output_tokens = flags->n_tokens;
  placement.profile = flags->stats;
  consort_session *session;
  int status = cli_session_create(runtime, model, flags->path, &placement, &session);
  if (status == CLI_DONE) {
    const char *reason = consort_session_reason(session);
    if (reason[0]) fprintf(stderr, "consort: plan: %s\n", reason);
    status =
        flags->chat ? converse(flags, model, session) : generate(flags, session, NULL, 0, NULL);
    consort_session_destroy(session);
  }
  consort_model_close(model);
  return status;
}

static bool parse(run_flags *flags, int argc, char **argv, int *status) {
  const cli_option options[] = {
      {"prompt", 'p', CLI_OPTION_STRING, &flags->prompt, "PROMPT", "text to go on from", 0, 0,
       NULL},
      {"n-tokens", 'n', CLI_OPTION_COUNT, &flags->n_tokens, "N", "tokens to generate at most (128)",
       1, 1 << 20, NULL},
      CLI_PLACEMENT_OPTIONS(&flags->placement),
      {"ctx", 0, CLI_OPTION_COUNT, &flags->placement.n_context, "N",
       "context in tokens (the model's own, at most 4096)", 1, UINT32_MAX, NULL},
      CLI_SAMPLING_OPTIONS(&flags->sampling),
      {"chat", 0, CLI_OPTION_FLAG, &flags->chat, NULL,
       "answer the prompt, or each line of standard input, by the model's chat template", 0, 0,
       NULL},
      {"system", 0, CLI_OPTION_STRING, &flags->system, "TEXT", "with --chat: a system message", 0,
       0, NULL},
      {"chat-template", 0, CLI_OPTION_STRING, &flags->template_path, "FILE",
       "with --chat: a Jinja template to use instead of the model's", 0, 0, NULL},
      {"stats", 0, CLI_OPTION_FLAG, &flags->stats, NULL,
       "print times, KV transfer and the time of each op at the end", 0, 0, NULL},
      {"json", 0, CLI_OPTION_FLAG, &flags->json, NULL, "print one JSON object", 0, 0, NULL},
  };
  const cli_operand operands[] = {{.name = "MODEL", .value = &flags->path}};
  const cli_syntax syntax = {
      .command = "run",
      .usage = "MODEL (-p PROMPT | --chat) [-n N] [--prefill DEV] [--decode DEV] [...]",
      .summary = "Generates text. Without --prefill and --decode the planner chooses and says why.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = sizeof operands / sizeof operands[0],
  };
  if (!cli_options_parse(&syntax, argc, argv, status)) return false;
  if (!flags->chat && (flags->system || flags->template_path)) {
    *status = cli_usage_error("run", "--system and --chat-template need --chat");
    return false;
  }
  if (flags->prompt || (flags->chat && !flags->json)) return true;
  *status = cli_usage_error("run", "-p PROMPT is missing");
  return false;
}

int cli_run(int argc, char **argv) {
  run_flags flags = {0};
  int status;
  if (!parse(&flags, argc, argv, &status)) return status;
  consort_runtime *runtime;
  if ((status = cli_runtime_create(&runtime)) != CLI_DONE) return status;
  status = run_model(&flags, runtime);
  consort_runtime_destroy(runtime);
  cli_sampling_free(&flags.sampling);
  return status;
}
