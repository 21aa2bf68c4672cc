/* The file's name is a hash of all that decides its bytes, so that nothing has to be compared with
 * the model's weights. Bytes are compared with their checksum when they are mapped: that reads them
 * once, which brings them into memory before the first token needs them, and a damaged disk shows
 * itself in a line instead of in the answers. A file is written under another name and renamed, so
 * that of two processes each sees a whole one. */
#include "scheduler/pack_cache.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "core/error.h"
#include "core/log.h"
#include "models/mapped_file.h"

#define MAGIC "CSPACKED"
/* Also to be raised when cs_repack gives other bytes. */
#define VERSION     1
#define PAGE_BYTES  UINT64_C(4096)
#define TEMPORARY   ".XXXXXX"
#define LABEL_BYTES CS_FILE_LABEL_BYTES

typedef struct file_head {
  char magic[8];
  uint32_t version;
  uint32_t n_entries;
  uint64_t identity;
  uint64_t file_bytes;
  uint64_t table_sum;
  uint64_t head_sum; /* of what stands before it */
} file_head;

struct cs_pack_cache {
  const cs_model *model; /* retained by who opens */
  cs_device *device;     /* likewise */
  cs_log *log;
  cs_pack_entry *entries;
  size_t n_entries;
  uint64_t identity;
  uint64_t file_bytes; /* of a whole file */
  cs_mapped_file file;
  atomic_bool is_incomplete; /* something had to be packed */
  char path[PATH_MAX];
};

/* ---- what decides the bytes ---- */

static uint64_t stamp_file(const char *path, uint64_t seed) {
  struct stat found;
  if (stat(path, &found) != 0 || !S_ISREG(found.st_mode)) return 0;
  const int64_t numbers[] = {found.st_size, found.st_mtim.tv_sec, found.st_mtim.tv_nsec};
  return XXH64(numbers, sizeof numbers, seed);
}

/* The sum over all files of a folder, in whatever order they come. */
static uint64_t stamp_folder(const char *path) {
  DIR *const folder = opendir(path);
  uint64_t sum = 0;
  for (struct dirent *at; folder && (at = readdir(folder));) {
    char name[PATH_MAX];
    const int bytes = snprintf(name, sizeof name, "%s/%s", path, at->d_name);
    if (bytes < (int)sizeof name) sum += stamp_file(name, XXH64(at->d_name, strlen(at->d_name), 0));
  }
  if (folder) closedir(folder);
  return sum;
}

/* Sizes and times of the model's files: the fingerprint knows only samples of the weights. Of a
 * model in several GGUF files ("-00001-of-00003.gguf") the whole folder counts. */
static uint64_t stamp_source(const cs_model *model) {
  const char *const path = cs_model_path(model);
  if (cs_file_is_folder(path)) return stamp_folder(path);
  const char *const slash = strrchr(path, '/');
  if (!strstr(slash ? slash : path, "-of-")) return stamp_file(path, 0);
  char folder[PATH_MAX] = ".";
  if (slash) snprintf(folder, sizeof folder, "%.*s", (int)(slash - path + 1), path);
  return stamp_folder(folder);
}

static uint64_t identify(const cs_pack_cache *cache) {
  const char *const name = cs_device_name(cache->device);
  const uint64_t numbers[] = {VERSION, cs_model_fingerprint(cache->model),
                              stamp_source(cache->model), cache->n_entries};
  uint64_t hash = XXH64(name, strcspn(name, ":"), 0);
  hash = XXH64(numbers, sizeof numbers, hash);
  for (size_t i = 0; i < cache->n_entries; i++) {
    cs_pack_entry entry = cache->entries[i];
    entry.sum = 0;
    hash = XXH64(&entry, sizeof entry, hash);
  }
  return hash;
}

/* Each weight on a page of its own: false on overflow. */
static bool lay_out(cs_pack_cache *cache) {
  uint64_t at = sizeof(file_head) + cache->n_entries * sizeof *cache->entries;
  for (size_t i = 0; i < cache->n_entries; i++) {
    cs_pack_entry *const entry = &cache->entries[i];
    entry->offset = entry->sum = 0;
    if (entry->bytes == 0) continue;
    entry->offset = at = (at + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (__builtin_add_overflow(at, entry->bytes, &at) || at > INT64_MAX / 2) return false;
  }
  cache->file_bytes = at;
  return true;
}

/* ---- reading ---- */

static void refuse(cs_pack_cache *cache, const char *reason) {
  char label[LABEL_BYTES];
  if (atomic_exchange(&cache->is_incomplete, true)) return;
  cs_file_label(cache->path, label);
  cs_log_write(cache->log, CS_LOG_WARN, "pack cache: %s: %s: weights are packed anew", label,
               reason);
}

/* Why the file is not used; NULL when head and table are right. Takes over the checksums. */
static const char *read_table(cs_pack_cache *cache) {
  const cs_mapped_file *const file = &cache->file;
  const size_t table_bytes = cache->n_entries * sizeof *cache->entries;
  file_head head;
  if (file->bytes < sizeof head) return "it is cut short";
  memcpy(&head, file->data, sizeof head);
  if (memcmp(head.magic, MAGIC, sizeof head.magic) != 0) return "it holds no packed weights";
  if (head.version != VERSION) return "it is of another version";
  if (head.head_sum != XXH3_64bits(&head, offsetof(file_head, head_sum)))
    return "its head does not match its checksum";
  if (head.identity != cache->identity || head.n_entries != cache->n_entries)
    return "it is of another model or layout";
  if (head.file_bytes != cache->file_bytes || file->bytes != head.file_bytes)
    return "it is cut short";
  if (head.table_sum != XXH3_64bits(file->data + sizeof head, table_bytes))
    return "its table does not match its checksum";
  for (size_t i = 0; i < cache->n_entries; i++) {
    cs_pack_entry entry, *const expected = &cache->entries[i];
    memcpy(&entry, file->data + sizeof head + i * sizeof entry, sizeof entry);
    expected->sum = entry.sum;
    if (memcmp(&entry, expected, sizeof entry) != 0) return "its table is of other weights";
  }
  return NULL;
}

static void find_file(cs_pack_cache *cache) {
  char label[LABEL_BYTES];
  cs_error error = CS_ERROR_INIT;
  cs_file_label(cache->path, label);
  const cs_status status = cs_mapped_file_open(cache->path, label, &cache->file, &error);
  const char *const reason = status ? error.message : read_table(cache);
  if (!reason) return;
  if (status == CS_NOT_FOUND)
    atomic_store(&cache->is_incomplete, true);
  else
    refuse(cache, reason);
  cs_mapped_file_close(&cache->file);
}

cs_status cs_pack_cache_open(const char *folder, const cs_model *model, cs_device *device,
                             cs_pack_entry *entries, cs_pack_cache **out, cs_error *error) {
  cs_pack_cache *const cache = calloc(1, sizeof *cache);
  *out = cache;
  if (!cache) {
    free(entries);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a pack cache");
  }
  cache->model = model;
  cache->device = device;
  cache->log = cs_runtime_log(cs_device_runtime(device));
  cache->entries = entries;
  cache->n_entries = cs_model_n_weights(model);
  atomic_init(&cache->is_incomplete, false);
  const bool fits = lay_out(cache);
  cache->identity = identify(cache);
  const char *const name = cs_device_name(device);
  const int bytes = snprintf(cache->path, sizeof cache->path, "%s/%016llx-%.*s-%016llx", folder,
                             (unsigned long long)cs_model_fingerprint(model),
                             (int)strcspn(name, ":"), name, (unsigned long long)cache->identity);
  if (!fits || bytes < 0 || (size_t)bytes >= sizeof cache->path) {
    cs_pack_cache_close(cache);
    *out = NULL;
    return cs_error_set(error, CS_OUT_OF_RANGE, "the pack cache's path or size is out of range");
  }
  find_file(cache);
  return CS_OK;
}

void cs_pack_cache_close(cs_pack_cache *cache) {
  if (!cache) return;
  cs_mapped_file_close(&cache->file);
  free(cache->entries);
  free(cache);
}

cs_buffer *cs_pack_cache_map(cs_pack_cache *cache, size_t key, const cs_weight *weight) {
  const cs_pack_entry *const entry = &cache->entries[key];
  cs_buffer *buffer;
  cs_error error = CS_ERROR_INIT;
  if (!cache->file.data) return NULL;
  const uint8_t *const data = cache->file.data + entry->offset;
  if (XXH3_64bits(data, (size_t)entry->bytes) != entry->sum) {
    refuse(cache, "a weight does not match its checksum");
    return NULL;
  }
  if (cs_buffer_map_packed(cache->device, weight, entry->layout_id, data, entry->bytes, &buffer,
                           &error) == CS_OK)
    return buffer;
  refuse(cache, error.message);
  return NULL;
}

/* ---- writing ---- */

static cs_status write_at(int fd, const void *from, size_t bytes, uint64_t offset,
                          cs_error *error) {
  const char *at = from;
  while (bytes > 0) {
    const ssize_t n = pwrite(fd, at, bytes, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return cs_error_set(error, CS_IO, "%s", strerror(n < 0 ? errno : ENOSPC));
    at += n;
    offset += (uint64_t)n;
    bytes -= (size_t)n;
  }
  return CS_OK;
}

static cs_status write_weights(cs_pack_cache *cache, cs_buffer *const *buffers, int fd,
                               cs_error *error) {
  uint64_t most = 1;
  for (size_t i = 0; i < cache->n_entries; i++)
    most = cache->entries[i].bytes > most ? cache->entries[i].bytes : most;
  void *const bytes = malloc((size_t)most);
  if (!bytes) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a weight");
  cs_status status = CS_OK;
  for (size_t i = 0; i < cache->n_entries && !status; i++) {
    cs_pack_entry *const entry = &cache->entries[i];
    if (entry->bytes == 0) continue;
    if (!buffers[i] || cs_buffer_bytes(buffers[i]) != entry->bytes)
      status = cs_error_set(error, CS_FAILED, "weight %zu has other bytes than were announced", i);
    else
      status = cs_buffer_save_packed(buffers[i], bytes, error);
    if (status) break;
    entry->sum = XXH3_64bits(bytes, (size_t)entry->bytes);
    status = write_at(fd, bytes, (size_t)entry->bytes, entry->offset, error);
  }
  free(bytes);
  return status;
}

static cs_status write_table(const cs_pack_cache *cache, int fd, cs_error *error) {
  const size_t table_bytes = cache->n_entries * sizeof *cache->entries;
  file_head head = {.magic = {0},
                    .version = VERSION,
                    .n_entries = (uint32_t)cache->n_entries,
                    .identity = cache->identity,
                    .file_bytes = cache->file_bytes,
                    .table_sum = XXH3_64bits(cache->entries, table_bytes)};
  memcpy(head.magic, MAGIC, sizeof head.magic);
  head.head_sum = XXH3_64bits(&head, offsetof(file_head, head_sum));
  const cs_status status = write_at(fd, &head, sizeof head, 0, error);
  return status ? status : write_at(fd, cache->entries, table_bytes, sizeof head, error);
}

static cs_status write_file(cs_pack_cache *cache, cs_buffer *const *buffers, cs_error *error) {
  char temporary[PATH_MAX + sizeof TEMPORARY];
  if (!cs_file_make_folders(cache->path)) return cs_error_set(error, CS_IO, "%s", strerror(errno));
  snprintf(temporary, sizeof temporary, "%s" TEMPORARY, cache->path);
  const int fd = mkstemp(temporary);
  if (fd < 0) return cs_error_set(error, CS_IO, "%s", strerror(errno));
  cs_status status = write_weights(cache, buffers, fd, error);
  if (!status) status = write_table(cache, fd, error);
  if (!status && fsync(fd) != 0) status = cs_error_set(error, CS_IO, "%s", strerror(errno));
  if (close(fd) != 0 && !status) status = cs_error_set(error, CS_IO, "%s", strerror(errno));
  if (!status && rename(temporary, cache->path) != 0)
    status = cs_error_set(error, CS_IO, "%s", strerror(errno));
  if (status) unlink(temporary);
  return status;
}

void cs_pack_cache_store(cs_pack_cache *cache, cs_buffer *const *buffers) {
  char label[LABEL_BYTES];
  cs_error error = CS_ERROR_INIT;
  const char *const name = cs_device_name(cache->device);
  cs_file_label(cache->path, label);
  if (!atomic_load(&cache->is_incomplete))
    cs_log_write(cache->log, CS_LOG_INFO, "pack cache: %s: %s uses %llu bytes of it", label, name,
                 (unsigned long long)cache->file_bytes);
  else if (write_file(cache, buffers, &error))
    cs_log_write(cache->log, CS_LOG_WARN, "pack cache: %s: not written: %s", label, error.message);
  else
    cs_log_write(cache->log, CS_LOG_INFO, "pack cache: %s: written from %s, %llu bytes", label,
                 name, (unsigned long long)cache->file_bytes);
}
