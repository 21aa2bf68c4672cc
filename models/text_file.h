/* Small files read whole. */
#ifndef MODELS_TEXT_FILE_H
#define MODELS_TEXT_FILE_H

#include <stddef.h>

#include "consort/status.h"

/* *data is NUL-terminated behind its *bytes and owned by the caller. CS_NOT_FOUND, CS_IO,
 * CS_OUT_OF_RANGE above `limit` bytes; all name the file. */
cs_status cs_file_read(const char *path, size_t limit, char **data, size_t *bytes, cs_error *error);

/* The path of `name` in the folder `path`, or in that of the file `path`. CS_OUT_OF_RANGE: too
 * long. */
cs_status cs_file_beside(const char *path, const char *name, char *to, size_t capacity);

#endif
