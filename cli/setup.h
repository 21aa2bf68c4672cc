/* What several commands begin with: a runtime with its log, a model, a session placed by flags. */
#ifndef CLI_SETUP_H
#define CLI_SETUP_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/options.h"
#include "consort/consort.h"

/* Creates the runtime with the log level of CONSORT_LOG. CLI_DONE, or the exit status after an
 * error line. */
int cli_runtime_create(consort_runtime **out);

/* Flags that say where and how a model runs. Zero-initialise. */
typedef struct cli_placement {
  const char *prefill;
  const char *decode;
  const char *kv_dtype;
  const char *prefill_kv_dtype;
  const char *fallback;
  const char *secret_file;
  uint32_t n_context;
  uint32_t n_threads;
  uint32_t n_sequences;
  uint32_t n_prompt_tokens; /* for the planner; 0: its usual ones */
  uint32_t n_output_tokens;
  bool profile; /* have ops timed */
  bool pack_cache;
} cli_placement;

#define CLI_MAX_THREADS 4096
#define CLI_KV_DTYPES   "f32|f16|bf16|fp8|int8"

/* Rows of an option table that fill a cli_placement. */
#define CLI_PLACEMENT_OPTIONS(placement)                                                           \
  {.name = "prefill",                                                                              \
   .kind = CLI_OPTION_STRING,                                                                      \
   .value = &(placement)->prefill,                                                                 \
   .argument = "DEV",                                                                              \
   .help = "device for the prompt, as consort devices names it, or HOST:PORT/DEV"},                \
      {.name = "decode",                                                                           \
       .kind = CLI_OPTION_STRING,                                                                  \
       .value = &(placement)->decode,                                                              \
       .argument = "DEV",                                                                          \
       .help = "device for the tokens after it"},                                                  \
      {.name = "kv-dtype",                                                                         \
       .kind = CLI_OPTION_STRING,                                                                  \
       .value = &(placement)->kv_dtype,                                                            \
       .argument = "TYPE",                                                                         \
       .help = "number format of the KV cache",                                                    \
       .choices = CLI_KV_DTYPES},                                                                  \
      {.name = "prefill-kv-dtype",                                                                 \
       .kind = CLI_OPTION_STRING,                                                                  \
       .value = &(placement)->prefill_kv_dtype,                                                    \
       .argument = "TYPE",                                                                         \
       .help = "that of the prefill device, where it is another one",                              \
       .choices = CLI_KV_DTYPES},                                                                  \
      {.name = "fallback",                                                                         \
       .kind = CLI_OPTION_STRING,                                                                  \
       .value = &(placement)->fallback,                                                            \
       .argument = "POLICY",                                                                       \
       .help = "when a device lacks an op",                                                        \
       .choices = "strict|warn|allow"},                                                            \
      {.name = "secret-file",                                                                      \
       .kind = CLI_OPTION_STRING,                                                                  \
       .value = &(placement)->secret_file,                                                         \
       .argument = "FILE",                                                                         \
       .help = "holds the secret of workers in other processes (CONSORT_SECRET)"},                 \
      {.name = "pack-cache",                                                                       \
       .kind = CLI_OPTION_FLAG,                                                                    \
       .value = &(placement)->pack_cache,                                                          \
       .help = "keep packed weights on disk, map them at the next start"},                         \
  {                                                                                                \
    .name = "threads", .kind = CLI_OPTION_COUNT, .value = &(placement)->n_threads,                 \
    .argument = "N", .help = "host cores to use (all that are allowed)", .minimum = 1,             \
    .maximum = CLI_MAX_THREADS                                                                     \
  }

/* Opens a session on `model`, showing progress on a terminal. CLI_DONE, or the exit status after
 * an error line. */
int cli_session_create(consort_runtime *runtime, consort_model *model, const char *model_name,
                       const cli_placement *placement, consort_session **out);

#endif
