/* A line is formatted before the lock is taken; the lock only keeps lines whole and sinks simple.
 */
#include "core/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 1024

struct cs_log {
  pthread_mutex_t mutex;
  uint32_t level;
  cs_log_sink sink;
  void *user;
};

static const char *const level_names[] = {
    [CS_LOG_ERROR] = "error",
    [CS_LOG_WARN] = "warn",
    [CS_LOG_INFO] = "info",
    [CS_LOG_DEBUG] = "debug",
};

#define N_LEVELS (sizeof level_names / sizeof level_names[0])

static void write_standard_error(void *user, uint32_t level, const char *line) {
  (void)user;
  fprintf(stderr, "consort: %s: %s\n", level_names[level < N_LEVELS ? level : N_LEVELS - 1], line);
}

cs_log *cs_log_create(uint32_t level, cs_log_sink sink, void *user) {
  cs_log *log = malloc(sizeof *log);
  if (!log) return NULL;
  if (pthread_mutex_init(&log->mutex, NULL) != 0) {
    free(log);
    return NULL;
  }
  log->level = level;
  log->sink = sink ? sink : write_standard_error;
  log->user = user;
  return log;
}

void cs_log_destroy(cs_log *log) {
  if (!log) return;
  pthread_mutex_destroy(&log->mutex);
  free(log);
}

void cs_log_write(cs_log *log, uint32_t level, const char *format, ...) {
  if (!log || level > log->level) return;
  char line[LINE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  for (char *c = line; *c; c++) {
    if ((unsigned char)*c < 0x20) *c = ' ';
  }
  pthread_mutex_lock(&log->mutex);
  log->sink(log->user, level, line);
  pthread_mutex_unlock(&log->mutex);
}

uint32_t cs_log_level_from_name(const char *name) {
  for (uint32_t level = 0; name && level < N_LEVELS; level++) {
    if (strcmp(level_names[level], name) == 0) return level;
  }
  return UINT32_MAX;
}
