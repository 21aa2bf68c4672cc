/* The log: one line a call, a level, a sink. Prompts, tokens and secrets never go here. */
#ifndef CORE_LOG_H
#define CORE_LOG_H

#include <stdint.h>

#include "consort/plugin.h"

/* Receives one finished line without a line feed. Called from any thread, one call at a time. */
typedef void (*cs_log_sink)(void *user, uint32_t level, const char *line);

typedef struct cs_log cs_log;

/* level: lines above it are dropped (CS_LOG_WARN is the usual one). A NULL sink writes
 * "consort: LEVEL: LINE" to standard error. */
cs_log *cs_log_create(uint32_t level, cs_log_sink sink, void *user);
void cs_log_destroy(cs_log *log);

/* A NULL log drops the line. */
void cs_log_write(cs_log *log, uint32_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "error", "warn", "info" or "debug" to CS_LOG_*; UINT32_MAX for anything else. */
uint32_t cs_log_level_from_name(const char *name);

#endif
