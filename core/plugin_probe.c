/* A plugin is first started by a small program of its own (core/probe), which says how far it came.
 * It is spawned, not forked: a fork of a process with threads inherits locks that nobody in the
 * child will ever release. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/plugin.h"

static const char *const stages[] = {"loaded", "queried", "started", "ended"};
enum { LAST_STAGE = sizeof stages / sizeof stages[0] - 1 };

/* What the probe told until it closed its end. */
typedef struct probe_report {
  int n_stages;
  bool ended; /* it came to its own end */
} probe_report;

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* false when the deadline passes first. */
static bool read_report(int pipe_end, uint32_t timeout_ms, probe_report *out) {
  const int64_t deadline_ms = now_ms() + timeout_ms;
  *out = (probe_report){0};
  for (;;) {
    const int64_t left_ms = deadline_ms - now_ms();
    struct pollfd poll_end = {.fd = pipe_end, .events = POLLIN};
    if (left_ms <= 0) return false;
    if (poll(&poll_end, 1, (int)left_ms) <= 0) continue;
    char buffer[16];
    const ssize_t n = read(pipe_end, buffer, sizeof buffer);
    if (n == 0) return true;
    for (ssize_t i = 0; i < n; i++) {
      if (buffer[i] == CS_PROBE_END[0])
        out->ended = true;
      else
        out->n_stages++;
    }
  }
}

/* Starts the probe with no signal blocked, its output nowhere and `pipe_end` as its descriptor 3.
 * An errno. */
static int spawn(const char *probe, const char *library, int pipe_end, pid_t *child) {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  char *const arguments[] = {(char *)(uintptr_t)probe, (char *)(uintptr_t)library, NULL};
  int code = posix_spawn_file_actions_init(&files);
  if (code) return code;
  code = posix_spawnattr_init(&attributes);
  if (code) goto err_files;
  code = posix_spawnattr_setsigmask(&attributes, &none);
  if (!code) code = posix_spawnattr_setsigdefault(&attributes, &all);
  if (!code)
    code = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  /* First, as the pipe may itself be one of the descriptors below. */
  if (!code) code = posix_spawn_file_actions_adddup2(&files, pipe_end, CS_PROBE_DESCRIPTOR);
  for (int fd = 0; fd < 3 && !code; fd++)
    code = posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
  if (!code) code = posix_spawn(child, probe, &files, &attributes, arguments, environ);
  posix_spawnattr_destroy(&attributes);
err_files:
  posix_spawn_file_actions_destroy(&files);
  return code;
}

/* 0 where the host's own handling of SIGCHLD took the answer. */
static int wait_for(pid_t child) {
  int outcome = 0;
  pid_t waited;
  do
    waited = waitpid(child, &outcome, 0);
  while (waited < 0 && errno == EINTR);
  return waited == child ? outcome : 0;
}

cs_status cs_plugin_probe(const char *probe, const char *library, uint32_t timeout_ms,
                          cs_error *error) {
  int ends[2];
  pid_t child = 0;
  probe_report report;
  if (pipe2(ends, O_CLOEXEC) != 0)
    return cs_error_set(error, CS_IO, "cannot be probed: %s", strerror(errno));
  const int code = spawn(probe, library, ends[1], &child);
  close(ends[1]);
  if (code) {
    close(ends[0]);
    return cs_error_set(error, CS_IO, "cannot be probed: %s: %s", probe, strerror(code));
  }
  const bool answered = read_report(ends[0], timeout_ms, &report);
  close(ends[0]);
  if (!answered) kill(child, SIGKILL);
  const int outcome = wait_for(child);
  const char *stage = stages[report.n_stages < LAST_STAGE ? report.n_stages : LAST_STAGE];
  if (!answered)
    return cs_error_set(error, CS_TIMEOUT, "did not answer within %.1f s when %s",
                        timeout_ms / 1000.0, stage);
  if (report.ended) return CS_OK;
  if (WIFSIGNALED(outcome))
    return cs_error_set(error, CS_FAILED, "crashed with signal %d when %s", WTERMSIG(outcome),
                        stage);
  return cs_error_set(error, CS_FAILED, "ended the process (status %d) when %s",
                      WEXITSTATUS(outcome), stage);
}
