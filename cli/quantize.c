/* consort quantize: one line a tensor as it is written, and the sum of it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/setup.h"

typedef struct quantize_state {
  json_t *tensors; /* NULL for text */
  bool shows_progress;
  uint64_t bytes;
  double error; /* sums over all tensors: of squared errors, and of squares */
  double power;
} quantize_state;

static void show_progress(const consort_quantized_tensor *tensor) {
  const int percent = tensor->total_bytes
                          ? (int)((double)tensor->done_bytes * 100 / (double)tensor->total_bytes)
                          : 100;
  if (tensor->done_bytes < tensor->total_bytes)
    fprintf(stderr, "\rquantizing %3d %%  %-40.40s", percent, tensor->name);
  else
    fprintf(stderr, "\r\033[K");
  fflush(stderr);
}

static void take_notice(void *user, const char *line) {
  (void)user;
  fprintf(stderr, "consort: %s\n", line);
}

static int take_tensor(void *user, const consort_quantized_tensor *tensor) {
  quantize_state *state = user;
  const double squares = tensor->rmse * tensor->rmse * (double)tensor->n_elements;
  state->bytes += tensor->bytes;
  if (strcmp(tensor->from, tensor->to) != 0 && tensor->nmse > 0) {
    state->error += squares;
    state->power += squares / tensor->nmse;
  }
  if (state->tensors)
    json_array_append_new(state->tensors,
                          json_pack("{so so so sI so so}", "name", cli_json_string(tensor->name),
                                    "from", cli_json_string(tensor->from), "to",
                                    cli_json_string(tensor->to), "bytes", (json_int_t)tensor->bytes,
                                    "nmse", cli_json_number(tensor->nmse), "rmse",
                                    cli_json_number(tensor->rmse)));
  else
    printf("%-32s %5s -> %-5s  NMSE %8.2e  RMSE %8.2e\n", tensor->name, tensor->from, tensor->to,
           tensor->nmse, tensor->rmse);
  if (state->shows_progress) show_progress(tensor);
  return 0;
}

static int print_end(const char *path, const char *type, const quantize_state *state) {
  const double nmse = state->power > 0 ? state->error / state->power : 0;
  char bytes[CLI_BYTES_TEXT];
  if (state->tensors)
    return cli_print_json(json_pack("{so so sI so sO}", "path", cli_json_string(path), "type",
                                    cli_json_string(type), "bytes", (json_int_t)state->bytes,
                                    "nmse", cli_json_number(nmse), "tensors", state->tensors));
  printf("%s: %s of weights, NMSE %.2e over what was rounded\n", path,
         cli_format_bytes(state->bytes, bytes), nmse);
  return cli_finish_output();
}

int cli_quantize(int argc, char **argv) {
  const char *from, *to, *type = NULL;
  uint32_t n_threads = 0;
  bool json = false;
  const cli_option options[] = {
      {.name = "type",
       .letter = 't',
       .kind = CLI_OPTION_STRING,
       .value = &type,
       .argument = "TYPE",
       .help = "Q8_0, Q4_0, Q4_K_M or Q6_K",
       .choices = "Q8_0|Q4_0|Q4_K_M|Q6_K"},
      {.name = "threads",
       .kind = CLI_OPTION_COUNT,
       .value = &n_threads,
       .argument = "N",
       .help = "threads (one for each core)",
       .minimum = 1,
       .maximum = 64},
      {.name = "json", .kind = CLI_OPTION_FLAG, .value = &json, .help = "print one JSON object"}};
  const cli_operand operands[] = {{.name = "IN", .value = &from}, {.name = "OUT", .value = &to}};
  const cli_syntax syntax = {
      .command = "quantize",
      .usage = "IN OUT --type TYPE [--threads N] [--json]",
      .summary =
          "Writes the model IN, a GGUF file or a folder of safetensors, as the GGUF file OUT "
          "with its matrices in TYPE, and reports the error of each tensor. OUT appears "
          "complete or not at all.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = operands,
      .n_operands = sizeof operands / sizeof operands[0],
  };
  int status;
  if (!cli_options_parse(&syntax, argc, argv, &status)) return status;
  if (!type) return cli_usage_error("quantize", "--type TYPE is missing");
  quantize_state state = {.tensors = json ? json_array() : NULL,
                          .shows_progress = isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO)};
  const consort_quantize_options wanted = {.struct_size = sizeof wanted,
                                           .n_threads = n_threads,
                                           .type = type,
                                           .progress = take_tensor,
                                           .progress_user = &state,
                                           .notice = take_notice};
  cs_error error = CS_ERROR_INIT;
  if (consort_quantize(from, to, &wanted, &error) == CS_OK)
    status = print_end(to, type, &state);
  else
    status = cli_library_error(from, &error);
  json_decref(state.tensors);
  return status;
}
