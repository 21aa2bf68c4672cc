/* A file of any origin, mapped to be read. */
#ifndef MODELS_MAPPED_FILE_H
#define MODELS_MAPPED_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

#define CS_FILE_LABEL_BYTES 104

typedef struct cs_mapped_file {
  const uint8_t *data; /* NULL for an empty file */
  size_t bytes;
} cs_mapped_file;

/* Maps `path`; errors begin with `label`: CS_NOT_FOUND, CS_IO (also for what is no regular file).
 * A file that shrinks while it is mapped ends the process by SIGBUS, as with every mapping. */
cs_status cs_mapped_file_open(const char *path, const char *label, cs_mapped_file *out,
                              cs_error *error);
void cs_mapped_file_close(cs_mapped_file *file);

/* The path as errors show it: on one line, cut in front where it is long. */
void cs_file_label(const char *path, char label[CS_FILE_LABEL_BYTES]);

/* Replaces control characters, so that text from a file stays on one line. */
void cs_text_make_printable(char *text);

/* Creates every folder on the way to `path`, for its owner alone; false with errno set. `path` is
 * the same afterwards. */
bool cs_file_make_folders(char *path);

/* false also when there is nothing at `path`. */
bool cs_file_is_folder(const char *path);

#endif
