/* The buffer grows with what comes, since pipes and devices do not say how long they are. */
#include "cli/text_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/report.h"

#define FIRST_BYTES (1u << 16)

/* 0, or an errno: EFBIG beyond max_bytes. */
static int read_stream(FILE *file, size_t max_bytes, char **text, size_t *n_bytes) {
  size_t capacity = FIRST_BYTES, n = 0;
  char *buffer = malloc(capacity);
  int problem = buffer ? 0 : ENOMEM;
  while (!problem) {
    const size_t room = capacity - 1 - n, came = fread(buffer + n, 1, room, file);
    n += came;
    if (n > max_bytes) problem = EFBIG;
    if (came < room || problem) break;
    char *const grown = realloc(buffer, capacity *= 2);
    if (grown)
      buffer = grown;
    else
      problem = ENOMEM;
  }
  if (!problem && ferror(file)) problem = errno ? errno : EIO;
  if (problem) {
    free(buffer);
    return problem;
  }
  buffer[n] = '\0';
  *text = buffer;
  *n_bytes = n;
  return 0;
}

int cli_read_text(const char *path, size_t max_bytes, char **text, size_t *n_bytes) {
  *text = NULL;
  size_t n = 0;
  FILE *const file = fopen(path, "rb");
  const int problem = file ? read_stream(file, max_bytes, text, &n) : errno;
  if (file) fclose(file);
  if (n_bytes) *n_bytes = n;
  if (problem == EFBIG) return cli_error(path, "larger than %zu bytes", max_bytes);
  return problem ? cli_error(path, "cannot be read: %s", strerror(problem)) : CLI_DONE;
}
