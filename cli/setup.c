/* Log lines below "error" are shown as they come. Lines at "error" are the same failures that the
 * command is about to report in its one error line, so they appear only when CONSORT_LOG asks. */
#include "cli/setup.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/paths.h"
#include "cli/progress.h"
#include "cli/report.h"

#define LOG_ERROR 0
#define LOG_WARN  1

static const char *const level_names[] = {"error", "warn", "info", "debug"};
#define N_LEVELS (sizeof level_names / sizeof level_names[0])

static void print_log_line(void *user, uint32_t level, const char *line) {
  (void)user;
  if (level == LOG_ERROR && !getenv("CONSORT_LOG")) return;
  if (level == LOG_ERROR)
    fprintf(stderr, "consort: log: %s\n", line);
  else
    fprintf(stderr, "consort: %s: %s\n", level < N_LEVELS ? level_names[level] : "log", line);
}

static int log_level(uint32_t *level) {
  const char *wanted = getenv("CONSORT_LOG");
  *level = LOG_WARN;
  if (!wanted || !*wanted) return CLI_DONE;
  for (*level = 0; *level < N_LEVELS; ++*level)
    if (strcmp(wanted, level_names[*level]) == 0) return CLI_DONE;
  return cli_usage_error("CONSORT_LOG", "\"%s\" is none of error, warn, info, debug", wanted);
}

int cli_runtime_create(consort_runtime **out) {
  consort_runtime_options options = {.struct_size = sizeof options, .log = print_log_line};
  const int status = log_level(&options.log_level);
  if (status != CLI_DONE) return status;
  cs_error error = CS_ERROR_INIT;
  if (consort_runtime_create(&options, out, &error) == CS_OK) return CLI_DONE;
  return cli_library_error("runtime", &error);
}

static void show_progress(void *user, const char *device, uint64_t bytes_done,
                          uint64_t bytes_total) {
  char what[96];
  snprintf(what, sizeof what, "loading weights on %s", device);
  cli_progress_show(what, bytes_done, bytes_total, user);
}

static uint32_t fallback_policy(const char *name) {
  if (name && strcmp(name, "strict") == 0) return CONSORT_FALLBACK_STRICT;
  if (name && strcmp(name, "allow") == 0) return CONSORT_FALLBACK_ALLOW;
  return CONSORT_FALLBACK_WARN;
}

static int find_pack_folder(char *path, size_t path_bytes) {
  if (cli_cache_folder("packed", path, path_bytes)) return CLI_DONE;
  if (errno == ENAMETOOLONG) return cli_error("--pack-cache", "the folder's path is too long");
  return cli_error("--pack-cache", "none of CONSORT_CACHE, XDG_CACHE_HOME and HOME says where to");
}

int cli_session_create(consort_runtime *runtime, consort_model *model, const char *model_name,
                       const cli_placement *placement, consort_session **out) {
  int last_percent = -1;
  char pack_folder[PATH_MAX];
  const int found =
      placement->pack_cache ? find_pack_folder(pack_folder, sizeof pack_folder) : CLI_DONE;
  if (found != CLI_DONE) return found;
  const consort_session_options options = {
      .struct_size = sizeof options,
      .n_context = placement->n_context,
      .prefill = placement->prefill,
      .decode = placement->decode,
      .kv_dtype = placement->kv_dtype,
      .prefill_kv_dtype = placement->prefill_kv_dtype,
      .fallback = fallback_policy(placement->fallback),
      .n_threads = placement->n_threads,
      .progress = isatty(STDERR_FILENO) ? show_progress : NULL,
      .progress_user = &last_percent,
      .n_sequences = placement->n_sequences,
      .n_prompt_tokens = placement->n_prompt_tokens,
      .n_output_tokens = placement->n_output_tokens,
      .secret_file = placement->secret_file,
      .profile = placement->profile,
      .pack_cache = placement->pack_cache ? pack_folder : NULL,
  };
  cs_error error = CS_ERROR_INIT;
  if (consort_session_create(runtime, model, &options, out, &error) == CS_OK) return CLI_DONE;
  cli_progress_clear(&last_percent);
  return cli_library_error(model_name, &error);
}
