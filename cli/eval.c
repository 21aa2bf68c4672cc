/* consort eval: how well a model predicts a text, and what another placement or another file makes
 * of the same text. The reference comes first on the command line, what is held against it has
 * options of its own. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/setup.h"
#include "cli/text_file.h"

#define HALF           UINT32_MAX
#define DEFAULT_WINDOW 512
#define MAX_TEXT_BYTES ((size_t)1 << 30)

typedef struct eval_flags {
  const char *path;
  const char *text_path;
  uint32_t n_window;
  uint32_t n_skip;
  uint32_t n_windows;
  double nmse_limit;
  cli_placement placement;
  bool compare;
  const char *against_path; /* NULL: the same file */
  const char *against_prefill;
  const char *against_decode;
  const char *against_kv_dtype;
  bool json;
} eval_flags;

/* ---- the text ---- */

static int read_tokens(const eval_flags *flags, const consort_model *model, int32_t **tokens,
                       size_t *n_tokens) {
  char *text;
  size_t n_bytes = 0;
  const int status = cli_read_text(flags->text_path, MAX_TEXT_BYTES, &text, &n_bytes);
  if (status != CLI_DONE) return status;
  if (n_bytes == 0) {
    free(text);
    return cli_error(flags->text_path, "the file is empty");
  }
  cs_error error = CS_ERROR_INIT;
  const cs_status tokenized = consort_tokenize(model, text, n_bytes, 1, tokens, n_tokens, &error);
  free(text);
  return tokenized == CS_OK ? CLI_DONE : cli_library_error(flags->path, &error);
}

/* ---- report ---- */

static double share(uint64_t part, uint64_t whole) {
  return whole ? (double)part / (double)whole : NAN;
}

/* Agreement where the reference is clear: rows without a near tie whose likeliest token is not
 * another. */
static double clear_agreement(const consort_evaluate_result *result) {
  const uint64_t n_clear = result->n_tokens - result->n_near_ties;
  return share(n_clear - result->n_clear_differences, n_clear);
}

static json_t *placement_json(const char *path, const consort_session *session, double perplexity) {
  return json_pack("{so so so so}", "model", cli_json_string(path), "prefill",
                   cli_json_string(consort_session_prefill(session)), "decode",
                   cli_json_string(consort_session_decode(session)), "perplexity",
                   cli_json_number(perplexity));
}

static int print_json(const eval_flags *flags, const consort_session *session,
                      const consort_session *against, const consort_evaluate_result *result) {
  json_t *object = placement_json(flags->path, session, result->perplexity);
  json_object_set_new(object, "perplexity_error", cli_json_number(result->perplexity_error));
  json_object_set_new(object, "bits_per_byte", cli_json_number(result->bits_per_byte));
  json_object_set_new(object, "windows", json_integer(result->n_windows));
  json_object_set_new(object, "tokens", json_integer((json_int_t)result->n_tokens));
  json_object_set_new(object, "text_bytes", json_integer((json_int_t)result->n_text_bytes));
  if (against) {
    const char *const path = flags->against_path ? flags->against_path : flags->path;
    json_object_set_new(object, "against",
                        placement_json(path, against, result->against_perplexity));
    json_object_set_new(
        object, "difference",
        json_pack("{s{so so so so} so so so sI sI}", "kl", "mean", cli_json_number(result->kl_mean),
                  "median", cli_json_number(result->kl_median), "p99",
                  cli_json_number(result->kl_p99), "max", cli_json_number(result->kl_max), "nmse",
                  cli_json_number(result->nmse), "top1_agreement",
                  cli_json_number(share(result->n_same_top, result->n_tokens)),
                  "top1_agreement_clear", cli_json_number(clear_agreement(result)), "near_ties",
                  (json_int_t)result->n_near_ties, "clear_differences",
                  (json_int_t)result->n_clear_differences));
  }
  return cli_print_json(object);
}

static void print_placement(const char *word, const char *path, const consort_session *session) {
  printf("%-12s %s, %s -> %s\n", word, path, consort_session_prefill(session),
         consort_session_decode(session));
}

static int print_text(const eval_flags *flags, const consort_session *session,
                      const consort_session *against, const consort_evaluate_result *result) {
  print_placement("model", flags->path, session);
  printf("%-12s %.4f +- %.4f (%llu tokens in %u windows)\n", "perplexity", result->perplexity,
         result->perplexity_error, (unsigned long long)result->n_tokens, result->n_windows);
  if (isfinite(result->bits_per_byte)) printf("%-12s %.4f\n", "bits/byte", result->bits_per_byte);
  if (against) {
    print_placement("against", flags->against_path ? flags->against_path : flags->path, against);
    printf("%-12s %.4f\n", "perplexity", result->against_perplexity);
    printf("%-12s mean %.3e, median %.3e, 99 %% %.3e, largest %.3e nats\n", "KL", result->kl_mean,
           result->kl_median, result->kl_p99, result->kl_max);
    printf("%-12s %.3e\n", "NMSE", result->nmse);
    printf("%-12s %.3f %% of all tokens\n", "same top-1",
           100 * share(result->n_same_top, result->n_tokens));
    printf("%-12s %.3f %% outside %llu near ties (%llu differ)\n", "",
           100 * clear_agreement(result), (unsigned long long)result->n_near_ties,
           (unsigned long long)result->n_clear_differences);
  }
  return cli_finish_output();
}

/* ---- the evaluation ---- */

static int on_window(void *user, uint32_t n_done, uint32_t n_windows, double perplexity) {
  (void)user;
  if (isatty(STDERR_FILENO)) {
    fprintf(stderr, "\rwindow %u of %u, perplexity %.4f\033[K", n_done, n_windows, perplexity);
    if (n_done == n_windows || cli_interrupted) fprintf(stderr, "\r\033[K");
    fflush(stderr);
  }
  return cli_interrupted;
}

static int evaluate(const eval_flags *flags, consort_session *session, consort_session *against,
                    const int32_t *tokens, size_t n_tokens) {
  const consort_evaluate_options options = {.struct_size = sizeof options,
                                            .n_window = flags->n_window,
                                            .n_skip = flags->n_skip,
                                            .n_windows = flags->n_windows,
                                            .nmse_limit = flags->nmse_limit,
                                            .progress = on_window};
  consort_evaluate_result result = {.struct_size = sizeof result};
  struct sigaction previous;
  cli_interrupt_begin(&previous);
  cs_error error = CS_ERROR_INIT;
  const cs_status status =
      consort_evaluate(session, against, tokens, n_tokens, &options, &result, &error);
  cli_interrupt_end(&previous);
  if (status == CS_CANCELLED && cli_interrupted) return CLI_INTERRUPTED;
  if (status != CS_OK) return cli_library_error(flags->path, &error);
  return flags->json ? print_json(flags, session, against, &result)
                     : print_text(flags, session, against, &result);
}

static int with_against(const eval_flags *flags, consort_runtime *runtime, consort_model *model,
                        consort_session *session, const int32_t *tokens, size_t n_tokens) {
  if (!flags->compare) return evaluate(flags, session, NULL, tokens, n_tokens);
  const char *const path = flags->against_path ? flags->against_path : flags->path;
  cs_error error = CS_ERROR_INIT;
  consort_model *other = model;
  if (flags->against_path && consort_model_open(runtime, path, &other, &error) != CS_OK)
    return cli_library_error(path, &error);
  cli_placement placement = flags->placement;
  if (flags->against_prefill) placement.prefill = flags->against_prefill;
  if (flags->against_decode) placement.decode = flags->against_decode;
  if (flags->against_kv_dtype) placement.kv_dtype = flags->against_kv_dtype;
  consort_session *against;
  int status = cli_session_create(runtime, other, path, &placement, &against);
  if (status == CLI_DONE) {
    status = evaluate(flags, session, against, tokens, n_tokens);
    consort_session_destroy(against);
  }
  if (other != model) consort_model_close(other);
  return status;
}

/* Windows of 512 tokens unless told otherwise, or as many as the model was made for. */
static int choose_window(eval_flags *flags, const consort_model *model) {
  cs_error error = CS_ERROR_INIT;
  consort_model_info info = {.struct_size = sizeof info};
  if (consort_model_get_info(model, &info, &error) != CS_OK)
    return cli_library_error(flags->path, &error);
  if (flags->n_window == 0)
    flags->n_window = info.n_context < DEFAULT_WINDOW ? info.n_context : DEFAULT_WINDOW;
  flags->placement.n_context = flags->n_window;
  return CLI_DONE;
}

static int run_model(eval_flags *flags, consort_runtime *runtime) {
  cs_error error = CS_ERROR_INIT;
  consort_model *model;
  if (consort_model_open(runtime, flags->path, &model, &error) != CS_OK)
    return cli_library_error(flags->path, &error);
  int32_t *tokens = NULL;
  size_t n_tokens = 0;
  int status = choose_window(flags, model);
  if (status == CLI_DONE) status = read_tokens(flags, model, &tokens, &n_tokens);
  consort_session *session;
  if (status == CLI_DONE)
    status = cli_session_create(runtime, model, flags->path, &flags->placement, &session);
  if (status == CLI_DONE) {
    status = with_against(flags, runtime, model, session, tokens, n_tokens);
    consort_session_destroy(session);
  }
  consort_free(tokens);
  consort_model_close(model);
  return status;
}

static bool parse(eval_flags *flags, int argc, char **argv, int *status) {
  const cli_option options[] = {
      {"file", 'f', CLI_OPTION_STRING, &flags->text_path, "TEXT", "text file to predict", 0, 0,
       NULL},
      {"ctx", 0, CLI_OPTION_COUNT, &flags->n_window, "N", "tokens a window (512)", 2, 1 << 20,
       NULL},
      {"skip", 0, CLI_OPTION_COUNT, &flags->n_skip, "N",
       "tokens of each window that are not scored (half of it)", 0, 1 << 20, NULL},
      {"windows", 0, CLI_OPTION_COUNT, &flags->n_windows, "N", "windows at most (all)", 1,
       UINT32_MAX, NULL},
      CLI_PLACEMENT_OPTIONS(&flags->placement),
      {"compare", 0, CLI_OPTION_FLAG, &flags->compare, NULL,
       "hold another placement or file against this one, as the next four say", 0, 0, NULL},
      {"against-model", 0, CLI_OPTION_STRING, &flags->against_path, "MODEL", "another file", 0, 0,
       NULL},
      {"against-prefill", 0, CLI_OPTION_STRING, &flags->against_prefill, "DEV",
       "its device for the unscored tokens", 0, 0, NULL},
      {"against-decode", 0, CLI_OPTION_STRING, &flags->against_decode, "DEV",
       "its device for the scored tokens", 0, 0, NULL},
      {"against-kv-dtype", 0, CLI_OPTION_STRING, &flags->against_kv_dtype, "TYPE",
       "its number format of the KV cache", 0, 0, CLI_KV_DTYPES},
      {"nmse-limit", 0, CLI_OPTION_NUMBER, &flags->nmse_limit, "X",
       "a near tie is less than 6 sqrt(X) RMS(logits) (3e-4)", 1e-12, 1, NULL},
      {"json", 0, CLI_OPTION_FLAG, &flags->json, NULL, "print one JSON object", 0, 0, NULL},
  };
  const cli_operand operands[] = {{.name = "MODEL", .value = &flags->path}};
  const cli_syntax syntax = {
      .command = "eval",
      .usage = "MODEL -f TEXT [--prefill DEV] [--decode DEV] [--compare [--against-...]] [...]",
      .summary = "Perplexity over a text, and how another placement or file differs from it: KL "
                 "divergence and agreement of the likeliest token. The unscored tokens of a window "
                 "come from the prefill device, the scored ones from the decode device.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = sizeof operands / sizeof operands[0],
  };
  if (!cli_options_parse(&syntax, argc, argv, status)) return false;
  const bool told = flags->against_path || flags->against_prefill || flags->against_decode ||
                    flags->against_kv_dtype;
  *status = CLI_DONE;
  if (!flags->text_path)
    *status = cli_usage_error("eval", "-f TEXT is missing");
  else if (flags->compare && !told)
    *status = cli_usage_error("--compare", "needs --against-model, --against-prefill, "
                                           "--against-decode or --against-kv-dtype");
  else if (told && !flags->compare)
    *status = cli_usage_error("--against", "goes with --compare");
  return *status == CLI_DONE;
}

int cli_eval(int argc, char **argv) {
  eval_flags flags = {.n_skip = HALF};
  int status;
  if (!parse(&flags, argc, argv, &status)) return status;
  consort_runtime *runtime;
  if ((status = cli_runtime_create(&runtime)) != CLI_DONE) return status;
  status = run_model(&flags, runtime);
  consort_runtime_destroy(runtime);
  return status;
}
