/* A file that appears complete or not at all. */
#ifndef MODELS_NEW_FILE_H
#define MODELS_NEW_FILE_H

#include <stddef.h>
#include <stdio.h>

#include "consort/status.h"

/* {0} is one that was not created; abandoning it is fine. */
typedef struct cs_new_file {
  FILE *stream;
  char *path;      /* owned, as is the next */
  char *temporary; /* beside the path; what errors name */
} cs_new_file;

/* Opens a file of another name beside `path`. CS_OUT_OF_MEMORY, CS_IO. */
cs_status cs_new_file_create(const char *path, cs_new_file *out, cs_error *error);
/* Appends. CS_IO. */
cs_status cs_new_file_write(cs_new_file *file, const void *data, size_t bytes, cs_error *error);
/* Syncs what was written to the disk, then gives it its name: an older file of that name is
 * replaced. The file is closed also on failure, and nothing is left of it then. CS_IO. */
cs_status cs_new_file_finish(cs_new_file *file, cs_error *error);
/* Closes and removes what was not finished. */
void cs_new_file_abandon(cs_new_file *file);

#endif
