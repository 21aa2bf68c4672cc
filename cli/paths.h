/* Where things lie beside the program, in a build tree and in an installed prefix alike. */
#ifndef CLI_PATHS_H
#define CLI_PATHS_H

#include <stdbool.h>
#include <stddef.h>

/* Writes the program's folder, a slash and `relative` to path. false, with errno set, when the
 * folder cannot be found or the path does not fit. */
bool cli_beside_program(const char *relative, char *path, size_t path_bytes);

/* Writes the folder of one kind of things that are kept: $CONSORT_CACHE/KIND, or consort/KIND below
 * $XDG_CACHE_HOME or ~/.cache. false, with errno set, when no variable says where or the path does
 * not fit. */
bool cli_cache_folder(const char *kind, char *path, size_t path_bytes);

#endif
