/* jansson bounds the nesting and checks the text; what is left is to bound the size, as a parsed
 * document takes several times its text, and to name the file and the line. */
#include "models/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "models/mapped_file.h"

cs_status cs_json_parse(const char *label, const void *data, size_t bytes, json_t **out,
                        cs_error *error) {
  json_error_t fault;
  *out = NULL;
  json_t *root = json_loadb(data ? data : "", bytes, JSON_REJECT_DUPLICATES, &fault);
  if (!root) {
    cs_text_make_printable(fault.text);
    return cs_error_set(error, CS_CORRUPT, "%s: line %d: %s", label, fault.line, fault.text);
  }
  if (!json_is_object(root)) {
    json_decref(root);
    return cs_error_set(error, CS_CORRUPT, "%s: not a JSON object", label);
  }
  *out = root;
  return CS_OK;
}

cs_status cs_json_load(const char *path, size_t max_bytes, json_t **out, cs_error *error) {
  *out = NULL;
  char label[CS_FILE_LABEL_BYTES];
  cs_file_label(path, label);
  cs_mapped_file file;
  cs_status status = cs_mapped_file_open(path, label, &file, error);
  if (status != CS_OK) return status;
  if (file.bytes > max_bytes)
    status = cs_error_set(error, CS_CORRUPT, "%s: %zu bytes are more than such a file can have",
                          label, file.bytes);
  else
    status = cs_json_parse(label, file.data, file.bytes, out, error);
  cs_mapped_file_close(&file);
  return status;
}

char *cs_path_join(const char *folder, const char *name) {
  const size_t n = strlen(folder);
  const char *separator = n && folder[n - 1] == '/' ? "" : "/";
  const size_t bytes = n + strlen(name) + 2;
  char *path = malloc(bytes);
  if (path) snprintf(path, bytes, "%s%s%s", folder, separator, name);
  return path;
}
