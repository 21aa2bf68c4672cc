/* JSON files of any origin, through jansson. */
#ifndef MODELS_JSON_H
#define MODELS_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "consort/status.h"

/* One JSON object in `bytes` bytes; *out is a reference of the caller's. Errors begin with `label`
 * and stay on one line. CS_CORRUPT for what is no JSON object or names a member twice. */
cs_status cs_json_parse(const char *label, const void *data, size_t bytes, json_t **out,
                        cs_error *error);

/* The same of a file of at most max_bytes. */
cs_status cs_json_load(const char *path, size_t max_bytes, json_t **out, cs_error *error);

/* "FOLDER/NAME", to be freed by the caller; NULL when out of memory. */
char *cs_path_join(const char *folder, const char *name);

#endif
