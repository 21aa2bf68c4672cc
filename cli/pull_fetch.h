/* Files over HTTP: fetched beside their place, continued where they were cut, checked, then moved
 * there in one step. */
#ifndef CLI_PULL_FETCH_H
#define CLI_PULL_FETCH_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#define PULL_SHA256_TEXT 65 /* 64 hexadecimal digits and NUL */

typedef struct pull_request {
  const char *url;
  const char *token;                  /* sent to the URL's own host alone; NULL: none */
  volatile sig_atomic_t *interrupted; /* ends the transfer when not 0 */
} pull_request;

typedef struct pull_file {
  const char *path;              /* its folder exists */
  uint64_t n_bytes;              /* 0: unknown */
  char sha256[PULL_SHA256_TEXT]; /* "": unknown */
} pull_file;

/* Once, before all others. CLI_DONE, or an exit status after an error line, as for the rest. */
int pull_begin(void);
void pull_end(void);

/* Fetches into file->path; what was fetched before an interruption stays beside it as
 * PATH.part for the next time. */
int pull_fetch_file(const pull_request *request, const pull_file *file);

/* Fetches a short answer, NUL-terminated, freed by the caller. */
int pull_fetch_text(const pull_request *request, size_t max_bytes, char **text, size_t *n_bytes);

/* The URL without user, password and query, which may be secrets. */
void pull_shown_url(const char *url, char *out, size_t out_bytes);

#endif
