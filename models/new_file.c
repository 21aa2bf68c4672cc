/* The bytes are on disk before the name is: a crash leaves the old file, or none, and at worst a
 * partial one under a name that nobody opens. */
#include "models/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"

static void forget(cs_new_file *file) {
  free(file->path);
  free(file->temporary);
  *file = (cs_new_file){0};
}

cs_status cs_new_file_create(const char *path, cs_new_file *out, cs_error *error) {
  const size_t bytes = strlen(path) + 32;
  *out = (cs_new_file){.path = strdup(path), .temporary = malloc(bytes)};
  cs_status status = CS_OK;
  if (!out->path || !out->temporary) {
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
    goto err_forget;
  }
  snprintf(out->temporary, bytes, "%s.partial-%ld", path, (long)getpid());
  const int fd = open(out->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  out->stream = fd >= 0 ? fdopen(fd, "wb") : NULL;
  if (out->stream) return CS_OK;
  status = cs_error_set(error, CS_IO, "%s: %s", out->temporary, strerror(errno));
  if (fd >= 0) {
    close(fd);
    unlink(out->temporary);
  }

err_forget:
  forget(out);
  return status;
}

cs_status cs_new_file_write(cs_new_file *file, const void *data, size_t bytes, cs_error *error) {
  if (bytes == 0 || fwrite(data, 1, bytes, file->stream) == bytes) return CS_OK;
  return cs_error_set(error, CS_IO, "%s: %s", file->temporary, strerror(errno));
}

cs_status cs_new_file_finish(cs_new_file *file, cs_error *error) {
  bool written = fflush(file->stream) == 0 && fsync(fileno(file->stream)) == 0;
  if (fclose(file->stream) != 0) written = false;
  cs_status status = CS_OK;
  if (!written || rename(file->temporary, file->path) != 0) {
    status = cs_error_set(error, CS_IO, "%s: %s", file->path, strerror(errno));
    unlink(file->temporary);
  }
  forget(file);
  return status;
}

void cs_new_file_abandon(cs_new_file *file) {
  if (!file->stream) return;
  fclose(file->stream);
  unlink(file->temporary);
  forget(file);
}
