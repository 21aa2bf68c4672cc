/* Biases come as one list, so that a script can pass what it keeps as one value. */
#include "cli/sampling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/report.h"

/* "ID=X": false when it is anything else. */
static bool parse_bias(char *item, consort_logit_bias *bias) {
  char *const equals = strchr(item, '=');
  if (!equals) return false;
  *equals = '\0';
  uint64_t id;
  double value = -INFINITY;
  const bool good = cli_parse_u64(item, &id) && id <= INT32_MAX &&
                    (strcmp(equals + 1, "-inf") == 0 || cli_parse_double(equals + 1, &value));
  *equals = '=';
  if (good) *bias = (consort_logit_bias){(int32_t)id, (float)value};
  return good;
}

static int parse_biases(cli_sampling *sampling, uint32_t *n_biases) {
  *n_biases = 0;
  if (!sampling->bias_list) return CLI_DONE;
  size_t n = 1;
  for (const char *c = sampling->bias_list; *c; c++)
    n += *c == ',';
  char *const list = strdup(sampling->bias_list);
  sampling->biases = malloc(n * sizeof *sampling->biases);
  int status = CLI_DONE;
  if (!list || !sampling->biases) status = cli_error("--logit-bias", "out of memory");
  for (char *at = list; at && status == CLI_DONE;) {
    char *const comma = strchr(at, ',');
    if (comma) *comma = '\0';
    if (parse_bias(at, &sampling->biases[*n_biases]))
      ++*n_biases;
    else
      status = cli_usage_error("--logit-bias",
                               "\"%s\" is not a token id and a number (as in "
                               "--logit-bias 42=-1.5,7=-inf)",
                               at);
    at = comma ? comma + 1 : NULL;
  }
  free(list);
  return status;
}

int cli_sampling_apply(cli_sampling *sampling, consort_generate_options *options) {
  options->temperature = (float)sampling->temperature;
  options->top_k = sampling->top_k;
  options->top_p = (float)sampling->top_p;
  options->min_p = (float)sampling->min_p;
  options->seed = sampling->seed;
  options->repetition_penalty = (float)sampling->repetition_penalty;
  options->frequency_penalty = (float)sampling->frequency_penalty;
  options->presence_penalty = (float)sampling->presence_penalty;
  options->n_logprobs = sampling->n_logprobs;
  options->stops = sampling->stops.items;
  options->n_stops = sampling->stops.n;
  const int status = parse_biases(sampling, &options->n_logit_biases);
  options->logit_biases = sampling->biases;
  return status;
}

void cli_sampling_free(cli_sampling *sampling) {
  free(sampling->biases);
  sampling->biases = NULL;
}
