/* Program binaries on disk, one file each: a header with key, size and hash, then the bytes. A file
 * that is cut short, foreign or damaged is as good as none. Files appear by rename, so that
 * processes that start together never read half of one. */
#include "opencl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CACHE_MAGIC     "CSCLBIN1"
#define MAX_BINARY_SIZE (256u << 20)
#define PATH_BYTES      1024

typedef struct cache_header {
  char magic[8];
  uint64_t key;
  uint64_t bytes;
  uint64_t hash;
} cache_header;

/* $XDG_CACHE_HOME/consort/opencl or ~/.cache/consort/opencl; false where neither is set. */
static bool cache_folder(char *out, size_t bytes) {
  const char *base = getenv("XDG_CACHE_HOME");
  const char *home = getenv("HOME");
  int n = -1;
  if (base && base[0] == '/')
    n = snprintf(out, bytes, "%s/consort/opencl", base);
  else if (home && home[0] == '/')
    n = snprintf(out, bytes, "%s/.cache/consort/opencl", home);
  return n > 0 && (size_t)n < bytes;
}

static bool cache_path(uint64_t key, char *out, size_t bytes) {
  char folder[PATH_BYTES];
  if (!cache_folder(folder, sizeof folder)) return false;
  const int n = snprintf(out, bytes, "%s/%016llx.bin", folder, (unsigned long long)key);
  return n > 0 && (size_t)n < bytes;
}

/* Makes every missing folder of a path, readable by the user alone. */
static void make_folders(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(path, 0700);
    *slash = '/';
  }
  mkdir(path, 0700);
}

static bool read_all(int file, void *to, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = read(file, (char *)to + done, bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += (size_t)n;
  }
  return true;
}

static bool write_all(int file, const void *from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = write(file, (const char *)from + done, bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += (size_t)n;
  }
  return true;
}

void *opencl_cache_load(const cs_host *host, uint64_t key, size_t *bytes) {
  char path[PATH_BYTES + 32];
  if (!cache_path(key, path, sizeof path)) return NULL;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return NULL;
  cache_header header;
  struct stat status;
  void *binary = NULL;
  if (!read_all(file, &header, sizeof header) || fstat(file, &status) != 0) goto end;
  if (memcmp(header.magic, CACHE_MAGIC, sizeof header.magic) != 0 || header.key != key) goto end;
  if (header.bytes == 0 || header.bytes > MAX_BINARY_SIZE ||
      (uint64_t)status.st_size != sizeof header + header.bytes)
    goto end;
  binary = host->allocate(host->context, header.bytes, 16);
  if (!binary) goto end;
  if (!read_all(file, binary, header.bytes) ||
      opencl_hash(OPENCL_HASH_START, binary, header.bytes) != header.hash) {
    host->deallocate(host->context, binary);
    binary = NULL;
  }
  *bytes = header.bytes;
end:
  close(file);
  return binary;
}

void opencl_cache_store(const cs_host *host, uint64_t key, const void *data, size_t bytes) {
  char folder[PATH_BYTES], path[PATH_BYTES + 32], temporary[PATH_BYTES + 32];
  if (bytes > MAX_BINARY_SIZE || !cache_folder(folder, sizeof folder)) return;
  if (!cache_path(key, path, sizeof path)) return;
  make_folders(folder);
  snprintf(temporary, sizeof temporary, "%s/new-XXXXXX", folder);
  const int file = mkostemp(temporary, O_CLOEXEC);
  if (file < 0) return;
  cache_header header = {
      .key = key, .bytes = bytes, .hash = opencl_hash(OPENCL_HASH_START, data, bytes)};
  memcpy(header.magic, CACHE_MAGIC, sizeof header.magic);
  const bool written = write_all(file, &header, sizeof header) && write_all(file, data, bytes);
  const bool closed = close(file) == 0;
  if (written && closed && rename(temporary, path) == 0) return;
  unlink(temporary);
  if (host->log) host->log(host->context, CS_LOG_DEBUG, "opencl: a program binary was not cached");
}
