/* The kernel knows where the program's file is; argv[0] need not. */
#include "cli/paths.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool cli_beside_program(const char *relative, char *path, size_t path_bytes) {
  const ssize_t bytes = readlink("/proc/self/exe", path, path_bytes);
  if (bytes <= 0) return false;
  size_t folder_bytes = (size_t)bytes;
  while (folder_bytes > 0 && path[folder_bytes - 1] != '/')
    folder_bytes--;
  if ((size_t)bytes == path_bytes || folder_bytes + strlen(relative) >= path_bytes) {
    errno = ENAMETOOLONG;
    return false;
  }
  strcpy(path + folder_bytes, relative);
  return true;
}

bool cli_cache_folder(const char *kind, char *path, size_t path_bytes) {
  static const struct {
    const char *variable, *below;
  } places[] = {{"CONSORT_CACHE", ""}, {"XDG_CACHE_HOME", "/consort"}, {"HOME", "/.cache/consort"}};
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    const char *const root = getenv(places[i].variable);
    if (!root || !root[0]) continue;
    const int bytes = snprintf(path, path_bytes, "%s%s/%s", root, places[i].below, kind);
    errno = ENAMETOOLONG;
    return bytes > 0 && (size_t)bytes < path_bytes;
  }
  errno = ENOENT;
  return false;
}
