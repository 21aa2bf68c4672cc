/* Runs a fuzz target over the files of a folder, each in memory of exactly its size. Status 0 when
 * all were run, 1 when the folder or a file cannot be read, or there is none. */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int replay_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return -1;
  long bytes = -1;
  if (fseek(file, 0, SEEK_END) == 0) bytes = ftell(file);
  uint8_t *data = bytes >= 0 ? malloc(bytes ? (size_t)bytes : 1) : NULL;
  int status = -1;
  rewind(file);
  if (data && fread(data, 1, (size_t)bytes, file) == (size_t)bytes) {
    LLVMFuzzerTestOneInput(data, (size_t)bytes);
    status = 0;
  }
  free(data);
  fclose(file);
  return status;
}

int main(int n_arguments, char **arguments) {
  if (n_arguments != 2) {
    fprintf(stderr, "usage: %s FOLDER\n", arguments[0]);
    return 1;
  }
  DIR *folder = opendir(arguments[1]);
  if (!folder) {
    fprintf(stderr, "%s: cannot be read\n", arguments[1]);
    return 1;
  }
  int n_files = 0;
  int n_failed = 0;
  for (const struct dirent *entry; (entry = readdir(folder));) {
    char path[4096];
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", arguments[1], entry->d_name);
    n_files++;
    if (replay_file(path) != 0) {
      fprintf(stderr, "%s: cannot be read\n", path);
      n_failed++;
    }
  }
  closedir(folder);
  printf("%d files\n", n_files);
  return n_files == 0 || n_failed > 0;
}
