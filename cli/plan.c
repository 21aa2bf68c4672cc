/* consort plan: the planner's whole table, so that a placement can be argued with. */
#include <stdio.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/setup.h"

typedef struct plan_flags {
  const char *path;
  consort_plan_options plan;
  bool measure_again;
  bool json;
} plan_flags;

static json_t *candidates_json(const consort_plan *plan) {
  json_t *list = json_array();
  for (size_t i = 0; i < consort_plan_n_candidates(plan); i++) {
    consort_candidate candidate = {.struct_size = sizeof candidate};
    if (consort_plan_candidate(plan, i, &candidate, NULL) != CS_OK) continue;
    json_array_append_new(
        list,
        json_pack("{so so sb so so so so sI so so}", "prefill", cli_json_string(candidate.prefill),
                  "decode", cli_json_string(candidate.decode), "chosen", (int)candidate.chosen,
                  "ttft_ms", cli_json_number(candidate.ttft_ms), "tpot_ms",
                  cli_json_number(candidate.tpot_ms), "total_ms",
                  cli_json_number(candidate.total_ms), "transfer_ms",
                  cli_json_number(candidate.transfer_ms), "memory_bytes",
                  (json_int_t)candidate.memory_bytes, "goodput", cli_json_number(candidate.goodput),
                  "note", cli_json_string(candidate.note)));
  }
  return list;
}

static int print_json(const consort_plan *plan) {
  return cli_print_json(
      json_pack("{so so so so}", "prefill", cli_json_string(consort_plan_prefill(plan)), "decode",
                cli_json_string(consort_plan_decode(plan)), "reason",
                cli_json_string(consort_plan_reason(plan)), "candidates", candidates_json(plan)));
}

static int print_text(const consort_plan *plan) {
  printf("  %-14s %-14s %10s %10s %10s %10s %10s %10s\n", "prefill", "decode", "TTFT ms", "TPOT ms",
         "total ms", "exposed", "requests/s", "memory");
  for (size_t i = 0; i < consort_plan_n_candidates(plan); i++) {
    consort_candidate candidate = {.struct_size = sizeof candidate};
    if (consort_plan_candidate(plan, i, &candidate, NULL) != CS_OK) continue;
    char memory[CLI_BYTES_TEXT];
    printf("%c %-14s %-14s %10.2f %10.3f %10.1f %10.2f %10.3g %10s  %s\n",
           candidate.chosen ? '*' : ' ', candidate.prefill, candidate.decode, candidate.ttft_ms,
           candidate.tpot_ms, candidate.total_ms, candidate.transfer_ms, candidate.goodput,
           cli_format_bytes(candidate.memory_bytes, memory), candidate.note);
  }
  printf("%s\n", consort_plan_reason(plan));
  return cli_finish_output();
}

static int plan_model(const plan_flags *flags, consort_runtime *runtime) {
  cs_error error = CS_ERROR_INIT;
  consort_model *model;
  if (consort_model_open(runtime, flags->path, &model, &error) != CS_OK)
    return cli_library_error(flags->path, &error);
  consort_plan *plan;
  int status;
  if (consort_plan_create(runtime, model, &flags->plan, &plan, &error) != CS_OK) {
    status = cli_library_error(flags->path, &error);
  } else {
    status = flags->json ? print_json(plan) : print_text(plan);
    consort_plan_destroy(plan);
  }
  consort_model_close(model);
  return status;
}

static bool parse(plan_flags *flags, int argc, char **argv, int *status) {
  consort_plan_options *plan = &flags->plan;
  const cli_option options[] = {
      {"devices", 0, CLI_OPTION_STRING, &plan->devices, "LIST",
       "devices to choose from, as in cpu:0,opencl:0 (all)", 0, 0, NULL},
      {"prompt-tokens", 0, CLI_OPTION_COUNT, &plan->n_prompt_tokens, "N",
       "tokens in a prompt (512)", 1, 1 << 24, NULL},
      {"output-tokens", 0, CLI_OPTION_COUNT, &plan->n_output_tokens, "N", "tokens generated (128)",
       1, 1 << 24, NULL},
      {"rate", 0, CLI_OPTION_NUMBER, &plan->rate, "R", "requests a second (one at a time)", 1e-9,
       1e9, NULL},
      {"slo-ttft", 0, CLI_OPTION_NUMBER, &plan->slo_ttft_ms, "MS",
       "longest time to the first token", 1e-6, 1e12, NULL},
      {"slo-tpot", 0, CLI_OPTION_NUMBER, &plan->slo_tpot_ms, "MS", "longest time a token", 1e-6,
       1e12, NULL},
      {"kv-dtype", 0, CLI_OPTION_STRING, &plan->kv_dtype, "TYPE",
       "number format of the KV cache (f16)", 0, 0, CLI_KV_DTYPES},
      {"measure-again", 0, CLI_OPTION_FLAG, &flags->measure_again, NULL,
       "do not use cached measurements", 0, 0, NULL},
      {"json", 0, CLI_OPTION_FLAG, &flags->json, NULL, "print one JSON object", 0, 0, NULL},
  };
  const cli_operand operands[] = {{.name = "MODEL", .value = &flags->path}};
  const cli_syntax syntax = {
      .command = "plan",
      .usage = "MODEL [--devices LIST] [--prompt-tokens N] [--output-tokens N] [--rate R] [...]",
      .summary = "Measures the devices and predicts every placement of prefill and decode on them.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = sizeof operands / sizeof operands[0],
  };
  if (!cli_options_parse(&syntax, argc, argv, status)) return false;
  plan->measure_again = flags->measure_again;
  return true;
}

int cli_plan(int argc, char **argv) {
  plan_flags flags = {.plan = {.struct_size = sizeof flags.plan}};
  int status;
  if (!parse(&flags, argc, argv, &status)) return status;
  consort_runtime *runtime;
  if ((status = cli_runtime_create(&runtime)) != CLI_DONE) return status;
  status = plan_model(&flags, runtime);
  consort_runtime_destroy(runtime);
  return status;
}
