/* Files that are read whole are configuration and vocabularies: a limit keeps a wrong path, a
 * model's weights say, from filling memory. */
#include "models/text_file.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/error.h"
#include "models/mapped_file.h"

cs_status cs_file_read(const char *path, size_t limit, char **data, size_t *bytes,
                       cs_error *error) {
  *data = NULL;
  *bytes = 0;
  FILE *file = fopen(path, "rb");
  if (!file) return cs_error_set(error, CS_NOT_FOUND, "%s: cannot be opened", path);
  cs_status status = CS_OK;
  struct stat about;
  if (fstat(fileno(file), &about) != 0 || !S_ISREG(about.st_mode))
    status = cs_error_set(error, CS_IO, "%s: not a file", path);
  else if ((uint64_t)about.st_size > limit)
    status = cs_error_set(error, CS_OUT_OF_RANGE, "%s: larger than %zu MiB", path, limit >> 20);
  else if (!(*data = malloc((size_t)about.st_size + 1)))
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "%s: out of memory", path);
  else if (fread(*data, 1, (size_t)about.st_size, file) != (size_t)about.st_size)
    status = cs_error_set(error, CS_IO, "%s: cannot be read", path);
  fclose(file);
  if (status == CS_OK) {
    *bytes = (size_t)about.st_size;
    (*data)[*bytes] = '\0';
  } else {
    free(*data);
    *data = NULL;
  }
  return status;
}

cs_status cs_file_beside(const char *path, const char *name, char *to, size_t capacity) {
  const bool folder = cs_file_is_folder(path);
  const char *slash = strrchr(path, '/');
  const int length = folder ? (int)strlen(path) : slash ? (int)(slash - path) : 0;
  const int written =
      snprintf(to, capacity, "%.*s%s%s", length, path, folder || slash ? "/" : "", name);
  return written >= 0 && (size_t)written < capacity ? CS_OK : CS_OUT_OF_RANGE;
}
