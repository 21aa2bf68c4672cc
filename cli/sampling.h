/* Flags that say how tokens are chosen and where the text ends. */
#ifndef CLI_SAMPLING_H
#define CLI_SAMPLING_H

#include <stdint.h>

#include "cli/options.h"
#include "consort/consort.h"

/* Zero-initialise. */
typedef struct cli_sampling {
  double temperature;
  uint32_t top_k;
  double top_p;
  double min_p;
  uint64_t seed;
  double repetition_penalty;
  double frequency_penalty;
  double presence_penalty;
  uint32_t n_logprobs;
  const char *bias_list;
  cli_strings stops;
  consort_logit_bias *biases; /* owned, made by cli_sampling_apply */
} cli_sampling;

/* Rows of an option table that fill a cli_sampling. */
#define CLI_SAMPLING_OPTIONS(sampling)                                                             \
  {"temp",                                                                                         \
   0,                                                                                              \
   CLI_OPTION_NUMBER,                                                                              \
   &(sampling)->temperature,                                                                       \
   "T",                                                                                            \
   "temperature (0: the likeliest token)",                                                         \
   0,                                                                                              \
   100,                                                                                            \
   NULL},                                                                                          \
      {"top-k",                                                                                    \
       0,                                                                                          \
       CLI_OPTION_COUNT,                                                                           \
       &(sampling)->top_k,                                                                         \
       "K",                                                                                        \
       "sample from the K likeliest (0: all)",                                                     \
       0,                                                                                          \
       UINT32_MAX,                                                                                 \
       NULL},                                                                                      \
      {"top-p",                                                                                    \
       0,                                                                                          \
       CLI_OPTION_NUMBER,                                                                          \
       &(sampling)->top_p,                                                                         \
       "P",                                                                                        \
       "sample from the likeliest that make up P (1: all)",                                        \
       0,                                                                                          \
       1,                                                                                          \
       NULL},                                                                                      \
      {"min-p",                                                                                    \
       0,                                                                                          \
       CLI_OPTION_NUMBER,                                                                          \
       &(sampling)->min_p,                                                                         \
       "P",                                                                                        \
       "drop tokens below P times the likeliest (0: none)",                                        \
       0,                                                                                          \
       1,                                                                                          \
       NULL},                                                                                      \
      {"seed", 0, CLI_OPTION_SEED, &(sampling)->seed, "S", "seed of the sampler (0)", 0, 0, NULL}, \
      {"repetition-penalty",                                                                       \
       0,                                                                                          \
       CLI_OPTION_NUMBER,                                                                          \
       &(sampling)->repetition_penalty,                                                            \
       "X",                                                                                        \
       "divide logits of tokens seen before by X (1: off)",                                        \
       0,                                                                                          \
       100,                                                                                        \
       NULL},                                                                                      \
      {"frequency-penalty",                                                                        \
       0,                                                                                          \
       CLI_OPTION_NUMBER,                                                                          \
       &(sampling)->frequency_penalty,                                                             \
       "X",                                                                                        \
       "take X from a token's logit for each time it was generated",                               \
       -100,                                                                                       \
       100,                                                                                        \
       NULL},                                                                                      \
      {"presence-penalty",                                                                         \
       0,                                                                                          \
       CLI_OPTION_NUMBER,                                                                          \
       &(sampling)->presence_penalty,                                                              \
       "X",                                                                                        \
       "take X from the logit of each token that was generated",                                   \
       -100,                                                                                       \
       100,                                                                                        \
       NULL},                                                                                      \
      {"logit-bias",                                                                               \
       0,                                                                                          \
       CLI_OPTION_STRING,                                                                          \
       &(sampling)->bias_list,                                                                     \
       "ID=X,...",                                                                                 \
       "add X to the logit of token ID (-inf bans it)",                                            \
       0,                                                                                          \
       0,                                                                                          \
       NULL},                                                                                      \
      {"stop",                                                                                     \
       0,                                                                                          \
       CLI_OPTION_STRINGS,                                                                         \
       &(sampling)->stops,                                                                         \
       "TEXT",                                                                                     \
       "end before TEXT; may be given again",                                                      \
       0,                                                                                          \
       0,                                                                                          \
       NULL},                                                                                      \
  {                                                                                                \
    "logprobs", 0, CLI_OPTION_COUNT, &(sampling)->n_logprobs, "N",                                 \
        "tell the log-probabilities of each token and the N - 1 likeliest", 1,                     \
        CONSORT_MAX_LOGPROBS, NULL                                                                 \
  }

/* Fills the options' members that `sampling` says, borrowed until cli_sampling_free. CLI_DONE, or
 * the exit status after an error line. */
int cli_sampling_apply(cli_sampling *sampling, consort_generate_options *options);
void cli_sampling_free(cli_sampling *sampling);

#endif
