/* The supervising process never touches a driver, so that forking it is always safe. A child that
 * dies is replaced by one that goes on with the next case. */
#include "supervise.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "perf.h"

#define NO_CASE UINT32_MAX

static size_t board_bytes(const kit_registry *registry) {
  return sizeof(kit_board) + registry->n_cases * sizeof(kit_result);
}

kit_board *kit_board_create(const kit_registry *registry) {
  kit_board *board =
      mmap(NULL, board_bytes(registry), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return board == MAP_FAILED ? NULL : board;
}

void kit_board_destroy(kit_board *board, const kit_registry *registry) {
  munmap(board, board_bytes(registry));
}

static void copy_text(char *to, size_t bytes, const char *from) {
  snprintf(to, bytes, "%s", from ? from : "");
}

static void describe(const kit *k, kit_board *board) {
  const cs_plugin *identity = &k->plugin.identity;
  copy_text(board->plugin_name, sizeof board->plugin_name, identity->name);
  copy_text(board->plugin_version, sizeof board->plugin_version, identity->version);
  copy_text(board->plugin_vendor, sizeof board->plugin_vendor, identity->vendor);
  copy_text(board->device_description, sizeof board->device_description, k->properties.description);
  copy_text(board->device_driver, sizeof board->device_driver, k->properties.driver);
  board->device_type = k->properties.type;
  board->device_flags = k->properties.flags;
}

/* Loads the plugin and runs the wanted cases from `first` on. */
static bool run_cases(const kit_options *options, const kit_registry *registry, kit_board *board,
                      size_t first, kit_progress_fn progress, void *user) {
  kit k = {.options = options, .board = board};
  if (!kit_plugin_load(&k.plugin, options->plugin_path, options->verbose, board->setup_error,
                       sizeof board->setup_error))
    return false;
  if (!kit_open(&k, board->setup_error, sizeof board->setup_error)) return false;
  describe(&k, board);
  for (size_t i = first; i < registry->n_cases; i++) {
    if (!registry->wanted[i]) continue;
    atomic_store(&board->current, (uint32_t)i);
    kit_run_case(&k, &registry->cases[i], &board->results[i]);
    if (progress) progress(user, &registry->cases[i], &board->results[i]);
  }
  atomic_store(&board->current, NO_CASE);
  if (k.device) kit_measure(&k, registry);
  kit_close(&k);
  free(k.resources);
  return true;
}

typedef struct watch {
  const kit_options *options;
  const kit_registry *registry;
  kit_board *board;
  kit_progress_fn progress;
  void *user;
  size_t n_reported; /* cases below were handed to progress */
} watch;

static void report_finished(watch *w) {
  uint32_t current = atomic_load(&w->board->current);
  if (current == NO_CASE) current = (uint32_t)w->registry->n_cases;
  for (; w->n_reported < current; w->n_reported++)
    if (w->registry->wanted[w->n_reported])
      w->progress(w->user, &w->registry->cases[w->n_reported], &w->board->results[w->n_reported]);
}

/* Waits for the child, killing it when one case takes longer than it may. */
static int wait_for_child(watch *w, pid_t child, bool *was_hung) {
  const struct timespec nap = {.tv_nsec = 5 * 1000 * 1000};
  uint32_t seen = NO_CASE;
  double since = kit_now_seconds();
  int status = 0;
  *was_hung = false;
  while (waitpid(child, &status, WNOHANG) == 0) {
    report_finished(w);
    const uint32_t current = atomic_load(&w->board->current);
    if (current != seen) {
      seen = current;
      since = kit_now_seconds();
    }
    const bool measures = current == NO_CASE;
    const double limit = w->options->timeout_seconds * (measures ? 5.0 : 1.0);
    if (!*was_hung && kit_now_seconds() - since > limit) {
      *was_hung = true;
      kill(child, SIGKILL);
    }
    nanosleep(&nap, NULL);
  }
  return status;
}

static void blame_current_case(watch *w, uint32_t current, int status, bool was_hung) {
  kit_result *result = &w->board->results[current];
  *result = (kit_result){.status = KIT_FAILED, .nmse = -1, .max_error = -1};
  if (was_hung)
    snprintf(result->message, sizeof result->message, "the plugin hung for more than %u s",
             w->options->timeout_seconds);
  else if (WIFSIGNALED(status))
    snprintf(result->message, sizeof result->message, "the plugin crashed with signal %d (%s)",
             WTERMSIG(status), strsignal(WTERMSIG(status)));
  else
    snprintf(result->message, sizeof result->message,
             "the process ended from inside the plugin with status %d", WEXITSTATUS(status));
}

/* Runs one child from `first` on; returns where the next one has to go on. */
static size_t run_child(watch *w, size_t first) {
  const size_t n_cases = w->registry->n_cases;
  atomic_store(&w->board->current, (uint32_t)first);
  fflush(NULL);
  const pid_t child = fork();
  if (child < 0) {
    snprintf(w->board->setup_error, KIT_MESSAGE_BYTES, "fork: %s", strerror(errno));
    return n_cases;
  }
  if (child == 0) {
    if (run_cases(w->options, w->registry, w->board, first, NULL, NULL))
      atomic_store(&w->board->finished, 1);
    exit(0);
  }
  bool was_hung;
  const int status = wait_for_child(w, child, &was_hung);
  if (w->board->setup_error[0]) return n_cases;
  const uint32_t current = atomic_load(&w->board->current);
  if (current != NO_CASE) {
    blame_current_case(w, current, status, was_hung);
    atomic_store(&w->board->current, current + 1);
    report_finished(w);
    return current + 1;
  }
  report_finished(w);
  if (!atomic_load(&w->board->finished) || status != 0)
    snprintf(
        w->board->setup_error, KIT_MESSAGE_BYTES, "the plugin did not survive %s (wait status %d)",
        atomic_load(&w->board->finished) ? "the end of its process" : "the measurements", status);
  return n_cases;
}

bool kit_supervise(const kit_options *options, const kit_registry *registry, kit_board *board,
                   kit_progress_fn progress, void *user) {
  if (options->in_process) return run_cases(options, registry, board, 0, progress, user);
  watch w = {
      .options = options, .registry = registry, .board = board, .progress = progress, .user = user};
  for (size_t next = 0; next < registry->n_cases;)
    next = run_child(&w, next);
  return board->setup_error[0] == '\0';
}
