/* Weights are larger than memory is free, and most of a file is read once, by the device that packs
 * it: a mapping lets the kernel decide what stays. */
#include "models/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

static cs_status map(int file, const char *label, cs_mapped_file *out, cs_error *error) {
  struct stat information;
  if (fstat(file, &information) != 0)
    return cs_error_set(error, CS_IO, "%s: %s", label, strerror(errno));
  if (!S_ISREG(information.st_mode))
    return cs_error_set(error, CS_IO, "%s: not a regular file", label);
  if (information.st_size == 0) return CS_OK;
  void *data = mmap(NULL, (size_t)information.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (data == MAP_FAILED)
    return cs_error_set(error, CS_IO, "%s: cannot map: %s", label, strerror(errno));
  out->data = data;
  out->bytes = (size_t)information.st_size;
  return CS_OK;
}

cs_status cs_mapped_file_open(const char *path, const char *label, cs_mapped_file *out,
                              cs_error *error) {
  *out = (cs_mapped_file){0};
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    const bool absent = errno == ENOENT || errno == ENOTDIR;
    return cs_error_set(error, absent ? CS_NOT_FOUND : CS_IO, "%s: %s", label,
                        absent ? "no such file" : strerror(errno));
  }
  const cs_status status = map(file, label, out, error);
  close(file);
  return status;
}

void cs_mapped_file_close(cs_mapped_file *file) {
  if (file->data) munmap((void *)file->data, file->bytes);
  *file = (cs_mapped_file){0};
}

void cs_text_make_printable(char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

void cs_file_label(const char *path, char label[CS_FILE_LABEL_BYTES]) {
  const size_t length = strlen(path);
  const bool is_long = length >= CS_FILE_LABEL_BYTES;
  snprintf(label, CS_FILE_LABEL_BYTES, "%s%s", is_long ? "..." : "",
           is_long ? path + length - (CS_FILE_LABEL_BYTES - 4) : path);
  cs_text_make_printable(label);
}

bool cs_file_is_folder(const char *path) {
  struct stat information;
  return stat(path, &information) == 0 && S_ISDIR(information.st_mode);
}

bool cs_file_make_folders(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    const bool made = mkdir(path, 0700) == 0 || errno == EEXIST;
    *slash = '/';
    if (!made) return false;
  }
  return true;
}
