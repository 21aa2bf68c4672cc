/* A child process runs the same start as the host will. It says by single bytes on a pipe how far
 * it came, so that a crash can be told with its place; what it answers otherwise does not matter,
 * as the host asks again itself. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/plugin.h"

#define DEADLINE_MS 5000
#define N_TRIES     2

static const char *const stages[] = {"loaded", "queried", "started", "ended"};
enum { LAST_STAGE = sizeof stages / sizeof stages[0] - 1 };

static void tell_stage(int pipe_end) {
  while (write(pipe_end, "+", 1) < 0 && errno == EINTR) {
  }
}

static void quieten_child(void) {
  static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP};
  for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
    signal(fatal[i], SIG_DFL);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  const int nowhere = open("/dev/null", O_RDWR);
  if (nowhere < 0) return;
  dup2(nowhere, STDOUT_FILENO);
  dup2(nowhere, STDERR_FILENO);
}

/* Loads, queries, starts and ends the plugin, telling each stage. */
static void run_child(const char *library, const cs_host *host, int pipe_end) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  tell_stage(pipe_end);
  cs_plugin_query_fn query = NULL;
  void *symbol = handle ? dlsym(handle, CS_PLUGIN_QUERY_SYMBOL) : NULL;
  memcpy(&query, &symbol, sizeof query);
  cs_plugin plugin = {.struct_size = sizeof plugin};
  cs_tables tables;
  if (!query || query(host, &plugin) != CS_OK || !plugin.table) return;
  if (cs_tables_read(&plugin, &tables, NULL) != CS_OK) return;
  tell_stage(pipe_end);
  cs_plugin_instance *instance = NULL;
  cs_error error = CS_ERROR_INIT;
  if (tables.device.instance_create(host, &instance, &error) != CS_OK) return;
  tables.device.device_count(instance);
  tell_stage(pipe_end);
  tables.device.instance_destroy(instance);
}

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Counts the stages told until the child closes its end; -1 when the deadline passes first. */
static int count_stages(int pipe_end) {
  const int64_t deadline_ms = now_ms() + DEADLINE_MS;
  int n_stages = 0;
  for (;;) {
    const int64_t left_ms = deadline_ms - now_ms();
    struct pollfd poll_end = {.fd = pipe_end, .events = POLLIN};
    if (left_ms <= 0) return -1;
    if (poll(&poll_end, 1, (int)left_ms) <= 0) continue;
    char buffer[16];
    const ssize_t n = read(pipe_end, buffer, sizeof buffer);
    if (n == 0) return n_stages;
    if (n > 0) n_stages += (int)n;
  }
}

/* One child. CS_TIMEOUT when it did not answer. */
static cs_status probe_once(const char *library, const cs_host *host, cs_error *error) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return cs_error_set(error, CS_IO, "cannot be probed: %s", strerror(errno));
  }
  const pid_t child = fork();
  if (child < 0) {
    close(ends[0]);
    close(ends[1]);
    return cs_error_set(error, CS_IO, "cannot be probed: %s", strerror(errno));
  }
  if (child == 0) {
    quieten_child();
    run_child(library, host, ends[1]);
    _exit(0);
  }
  close(ends[1]);
  const int n_stages = count_stages(ends[0]);
  close(ends[0]);
  if (n_stages < 0) kill(child, SIGKILL);
  int outcome = 0;
  while (waitpid(child, &outcome, 0) < 0 && errno == EINTR) {
  }
  if (n_stages < 0) {
    return cs_error_set(error, CS_TIMEOUT, "did not answer within %d s of a probe, tried %d times",
                        DEADLINE_MS / 1000, N_TRIES);
  }
  if (!WIFSIGNALED(outcome)) return CS_OK;
  const char *stage = stages[n_stages < LAST_STAGE ? n_stages : LAST_STAGE];
  return cs_error_set(error, CS_FAILED, "crashed with signal %d when %s", WTERMSIG(outcome), stage);
}

/* The child of a process with threads inherits whatever locks they held at that moment and may wait
 * for one for ever: a second child seldom meets the same. */
cs_status cs_plugin_probe(const char *library, const cs_host *host, cs_error *error) {
  cs_status status = CS_TIMEOUT;
  for (int i = 0; i < N_TRIES && status == CS_TIMEOUT; i++)
    status = probe_once(library, host, error);
  return status;
}
