/* consort bench: tokens per second, always beside the share of a limit measured in the same run,
 * since a rate alone tells nothing about what is left to gain. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/setup.h"

#define MAX_RESULTS  8
#define FORMAT_BYTES 16
#define SHAPE_SEED   1

typedef struct bench_flags {
  const char *path;
  const char *shape;
  const char *format;
  const char *write_to;
  cli_placement placement;
  consort_bench_options bench;
  bool no_limits;
  bool json;
} bench_flags;

static json_t *result_json(const consort_bench_result *result) {
  return json_pack("{ss so so ss so so so so so so}", "test", result->test, "tokens_per_s",
                   cli_json_number(result->tokens_per_s), "stddev", cli_json_number(result->stddev),
                   "device", result->device, "bandwidth_fraction",
                   cli_json_number(result->bandwidth_fraction), "bandwidth_fraction_low",
                   cli_json_number(result->bandwidth_fraction_low), "bandwidth_fraction_high",
                   cli_json_number(result->bandwidth_fraction_high), "compute_fraction",
                   cli_json_number(result->compute_fraction), "bandwidth_bytes_per_s",
                   cli_json_number(result->bandwidth_bytes_per_s), "compute_flop_per_s",
                   cli_json_number(result->compute_flop_per_s));
}

static int print_json(const char *name, const consort_session *session,
                      const consort_bench_result *results, size_t n_results) {
  json_t *list = json_array();
  for (size_t i = 0; i < n_results; i++)
    json_array_append_new(list, result_json(&results[i]));
  return cli_print_json(json_pack("{so so so so}", "model", cli_json_string(name), "prefill",
                                  cli_json_string(consort_session_prefill(session)), "decode",
                                  cli_json_string(consort_session_decode(session)), "results",
                                  list));
}

/* "57.5 % of 604 GFLOP/s" in a column of its own. */
static void print_share(double fraction, double limit, double unit, const char *unit_name) {
  char text[48] = "";
  if (isfinite(fraction))
    snprintf(text, sizeof text, "%5.1f %% of %.4g %s", fraction * 100, limit / unit, unit_name);
  printf("  %-26s", text);
}

static int print_text(const char *name, const consort_bench_result *results, size_t n_results) {
  printf("%s\n  %-10s %-12s %20s  %-26s  %s\n", name, "test", "device", "tokens/s",
         "share of arithmetic peak", "share of memory bandwidth");
  for (size_t i = 0; i < n_results; i++) {
    const consort_bench_result *result = &results[i];
    char rate[32];
    snprintf(rate, sizeof rate, "%.2f ± %.2f", result->tokens_per_s, result->stddev);
    printf("  %-10s %-12s %21s", result->test, result->device, rate); /* ± has two bytes */
    print_share(result->compute_fraction, result->compute_flop_per_s, 1e9, "GFLOP/s");
    print_share(result->bandwidth_fraction, result->bandwidth_bytes_per_s, 1e9, "GB/s");
    if (isfinite(result->bandwidth_fraction_low))
      printf(" (quartiles %.1f, %.1f)", result->bandwidth_fraction_low * 100,
             result->bandwidth_fraction_high * 100);
    printf("\n");
  }
  return cli_finish_output();
}

static int measure(const bench_flags *flags, const char *name, consort_session *session) {
  consort_bench_result results[MAX_RESULTS];
  memset(results, 0, sizeof results);
  for (size_t i = 0; i < MAX_RESULTS; i++)
    results[i].struct_size = sizeof results[i];
  size_t n_results;
  cs_error error = CS_ERROR_INIT;
  if (consort_bench(session, &flags->bench, results, MAX_RESULTS, &n_results, &error) != CS_OK)
    return cli_library_error(name, &error);
  return flags->json ? print_json(name, session, results, n_results)
                     : print_text(name, results, n_results);
}

static cs_status open_model(const bench_flags *flags, consort_runtime *runtime,
                            consort_model **model, cs_error *error) {
  if (flags->path) return consort_model_open(runtime, flags->path, model, error);
  char format[FORMAT_BYTES] = "";
  for (size_t i = 0; flags->format[i] && i + 1 < sizeof format; i++)
    format[i] = (char)tolower((unsigned char)flags->format[i]);
  return consort_model_open_shape(runtime, flags->shape, format, SHAPE_SEED, model, error);
}

static void show_written(void *user, uint64_t bytes_done, uint64_t bytes_total) {
  cli_progress_show("writing weights", bytes_done, bytes_total, user);
}

static int write_model(const bench_flags *flags, const char *name, const consort_model *model) {
  int last_percent = -1;
  cs_error error = CS_ERROR_INIT;
  if (consort_model_write(model, flags->write_to, isatty(STDERR_FILENO) ? show_written : NULL,
                          &last_percent, &error) != CS_OK) {
    cli_progress_clear(&last_percent);
    return cli_library_error(name, &error);
  }
  if (flags->json)
    return cli_print_json(json_pack("{so}", "written", cli_json_string(flags->write_to)));
  printf("%s written to %s\n", name, flags->write_to);
  return cli_finish_output();
}

static int measure_placed(const bench_flags *flags, const char *name, consort_runtime *runtime,
                          consort_model *model) {
  consort_session *session;
  int status = cli_session_create(runtime, model, name, &flags->placement, &session);
  if (status != CLI_DONE) return status;
  const char *reason = consort_session_reason(session);
  if (reason[0]) fprintf(stderr, "consort: plan: %s\n", reason);
  status = measure(flags, name, session);
  consort_session_destroy(session);
  return status;
}

static int bench_model(const bench_flags *flags, consort_runtime *runtime) {
  char name[256];
  if (flags->path)
    snprintf(name, sizeof name, "%s", flags->path);
  else
    snprintf(name, sizeof name, "%s %s", flags->shape, flags->format);
  cs_error error = CS_ERROR_INIT;
  consort_model *model;
  if (open_model(flags, runtime, &model, &error) != CS_OK) return cli_library_error(name, &error);
  const int status = flags->write_to ? write_model(flags, name, model)
                                     : measure_placed(flags, name, runtime, model);
  consort_model_close(model);
  return status;
}

static bool parse(bench_flags *flags, int argc, char **argv, int *status) {
  consort_bench_options *bench = &flags->bench;
  const cli_option options[] = {
      {"shape", 0, CLI_OPTION_STRING, &flags->shape, "NAME",
       "random weights made in memory instead of a file: llama-tiny, llama-160m, llama-1b, "
       "llama-8b",
       0, 0, NULL},
      {"format", 0, CLI_OPTION_STRING, &flags->format, "FORMAT",
       "their number format, as in Q8_0, Q4_0, Q4_K_M, F16, BF16", 0, 0, NULL},
      {"write", 0, CLI_OPTION_STRING, &flags->write_to, "FILE",
       "write them as a GGUF file, for other programs, and measure nothing", 0, 0, NULL},
      CLI_PLACEMENT_OPTIONS(&flags->placement),
      {"n-prompt", 'p', CLI_OPTION_COUNT, &bench->n_prompt_tokens, "N", "prompt tokens (512)", 1,
       1 << 20, NULL},
      {"n-output", 'n', CLI_OPTION_COUNT, &bench->n_output_tokens, "N", "generated tokens (128)", 1,
       1 << 20, NULL},
      {"batch", 'b', CLI_OPTION_COUNT, &bench->n_batch, "BATCH", "sequences decoded at once (1)", 1,
       1024, NULL},
      {"repetitions", 'r', CLI_OPTION_COUNT, &bench->n_repetitions, "R", "repetitions (3)", 1, 1000,
       NULL},
      {"no-limits", 0, CLI_OPTION_FLAG, &flags->no_limits, NULL,
       "measure rates alone, which takes less time", 0, 0, NULL},
      {"json", 0, CLI_OPTION_FLAG, &flags->json, NULL, "print one JSON object", 0, 0, NULL},
  };
  const cli_operand operands[] = {{.name = "MODEL", .value = &flags->path, .optional = true}};
  const cli_syntax syntax = {
      .command = "bench",
      .usage = "(MODEL | --shape NAME --format FORMAT [--write FILE]) [--prefill DEV] "
               "[--decode DEV] [-p N] [-n N] [...]",
      .summary = "Measures prefill (ppN) and decode (tgN) in tokens per second, with the share of "
                 "the arithmetic peak\nand of the memory bandwidth measured in the same run.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = sizeof operands / sizeof operands[0],
  };
  if (!cli_options_parse(&syntax, argc, argv, status)) return false;
  if (!flags->path == !flags->shape) {
    *status = cli_usage_error("bench", "needs either MODEL or --shape NAME");
    return false;
  }
  if (flags->write_to && !flags->shape) {
    *status = cli_usage_error("bench", "--write needs --shape NAME");
    return false;
  }
  if (!flags->format) flags->format = "Q8_0";
  bench->skip_limits = flags->no_limits;
  flags->placement.n_context = bench->n_prompt_tokens + bench->n_output_tokens + 2;
  flags->placement.n_sequences = bench->n_batch;
  return true;
}

int cli_bench(int argc, char **argv) {
  bench_flags flags = {
      .bench = {.struct_size = sizeof flags.bench,
                .n_prompt_tokens = 512,
                .n_output_tokens = 128,
                .n_batch = 1,
                .n_repetitions = 3},
  };
  int status;
  if (!parse(&flags, argc, argv, &status)) return status;
  consort_runtime *runtime;
  if ((status = cli_runtime_create(&runtime)) != CLI_DONE) return status;
  status = bench_model(&flags, runtime);
  consort_runtime_destroy(runtime);
  return status;
}
