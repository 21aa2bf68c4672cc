/* The external memory table: what is exported and imported again is one memory under two handles,
 * and what is no memory is refused. A descriptor that was exported belongs to the kit until an
 * import has taken it. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "registry.h"

#define MANY_BYTES (UINT64_C(64) << 20) /* more than any rounding up of a small allocation */

static bool has_external(kit *k) {
  const cs_external_memory_table *table = &k->plugin.external_memory;
  if (!table->memory_export || !table->memory_import)
    kit_unsupported(k, "the plugin has no external memory table");
  else if (!(table->types >> CS_EXTERNAL_FD & 1))
    kit_unsupported(k, "the plugin shares no memory by file descriptor");
  else
    return true;
  return false;
}

static int export_fd(kit *k, cs_plugin_memory *memory) {
  cs_error error = CS_ERROR_INIT;
  int64_t handle = -1;
  kit_check_ok(
      k,
      k->plugin.external_memory.memory_export(k->device, memory, CS_EXTERNAL_FD, &handle, &error),
      &error, "memory_export");
  kit_check(k, handle >= 0 && handle <= INT_MAX && fcntl((int)handle, F_GETFD) >= 0,
            "memory_export gives %lld, which is no open file descriptor", (long long)handle);
  return (int)handle;
}

/* On the device of `k`, which owns the descriptor from then on. */
static cs_plugin_memory *import_fd(kit *k, int fd, uint64_t bytes) {
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = NULL;
  const cs_status status = k->plugin.external_memory.memory_import(k->device, CS_EXTERNAL_FD, fd,
                                                                   bytes, &memory, &error);
  if (status != CS_OK) close(fd);
  kit_check_ok(k, status, &error, "memory_import");
  kit_check(k, memory != NULL, "memory_import answers CS_OK and NULL");
  kit_track(k, KIT_MEMORY, memory);
  return memory;
}

static void compare(kit *k, const cs_plugin_memory *memory, const unsigned char *right,
                    uint64_t bytes, const char *what) {
  unsigned char *got = kit_host_memory(k, (size_t)bytes);
  kit_download(k, got, memory, 0, bytes);
  for (uint64_t i = 0; i < bytes; i++)
    kit_check(k, got[i] == right[i], "%s: byte %llu of %llu is 0x%02x and not 0x%02x", what,
              (unsigned long long)i, (unsigned long long)bytes, got[i], right[i]);
}

/* Exported by `k`, imported by `to`: both see what either writes. */
static void share(kit *k, kit *to, uint64_t bytes) {
  unsigned char *right = kit_host_memory(k, (size_t)bytes);
  cs_plugin_memory *memory = kit_memory(k, bytes);
  kit_random_bytes(k, right, (size_t)bytes);
  kit_upload(k, memory, 0, right, bytes);
  kit_finish(k);
  cs_plugin_memory *imported = import_fd(to, export_fd(k, memory), bytes);
  compare(to, imported, right, bytes, "the import shows other bytes");
  right[bytes / 2] ^= 0xff;
  kit_upload(to, imported, bytes / 2, right + bytes / 2, 1);
  kit_finish(to);
  compare(k, memory, right, bytes, "what was written through the import is not there");
  right[bytes - 1] ^= 0xff;
  kit_upload(k, memory, bytes - 1, right + bytes - 1, 1);
  kit_finish(k);
  compare(to, imported, right, bytes, "what was written after the import is not there");
  kit_release(to, KIT_MEMORY, imported);
  compare(k, memory, right, bytes, "after the import was freed");
  kit_release(k, KIT_MEMORY, memory);
}

static const uint64_t shared_bytes[] = {1, 4096, 100003};
#define N_SHARED (sizeof shared_bytes / sizeof shared_bytes[0])

static void round_trip(kit *k, const kit_case *c) {
  (void)c;
  if (!has_external(k)) return;
  for (size_t i = 0; i < N_SHARED; i++)
    share(k, k, shared_bytes[i]);
}

static void second_device(kit *k, const kit_case *c) {
  (void)c;
  if (!has_external(k)) return;
  kit *other = kit_other(k, NULL);
  for (size_t i = 0; i < N_SHARED; i++)
    share(k, other, shared_bytes[i]);
}

static uint32_t open_descriptors(void) {
  DIR *folder = opendir("/proc/self/fd");
  uint32_t n = 0;
  while (folder && readdir(folder))
    n++;
  if (folder) closedir(folder);
  return n;
}

static void descriptors(kit *k, const kit_case *c) {
  (void)c;
  if (!has_external(k)) return;
  share(k, k, 4096);
  const uint32_t before = open_descriptors();
  for (int i = 0; i < 8; i++)
    share(k, k, 4096);
  const uint32_t after = open_descriptors();
  kit_check(k, after == before, "%u file descriptors are open after 8 imports, %u were before",
            after, before);
}

static void expect_refusal(kit *k, uint32_t type, int64_t handle, uint64_t bytes,
                           const char *what) {
  cs_plugin_memory *memory = (cs_plugin_memory *)k;
  cs_error error = CS_ERROR_INIT;
  const cs_status status =
      k->plugin.external_memory.memory_import(k->device, type, handle, bytes, &memory, &error);
  if (status == CS_OK && memory) kit_track(k, KIT_MEMORY, memory);
  kit_check(k, status != CS_OK, "memory_import takes %s", what);
  kit_check(k, memory == NULL, "refusing %s, memory_import leaves a handle behind", what);
  kit_check(k, error.code == status && error.message[0], "memory_import refuses %s without a word",
            what);
}

/* A refused descriptor stays the caller's, but a plugin that closed it does no lasting harm. */
static void give_up(int fd) {
  if (fcntl(fd, F_GETFD) >= 0) close(fd);
}

static void bad_handles(kit *k, const kit_case *c) {
  (void)c;
  int ends[2];
  if (!has_external(k)) return;
  cs_plugin_memory *memory = kit_memory(k, 4096);
  const int fd = export_fd(k, memory);
  expect_refusal(k, CS_EXTERNAL_FD, -1, 4096, "descriptor -1");
  expect_refusal(k, CS_EXTERNAL_FD, INT_MAX, 4096, "a descriptor that is not open");
  expect_refusal(k, CS_EXTERNAL_FD, (INT64_C(1) << 32) + fd, 4096, "a handle of more than 32 bits");
  expect_refusal(k, CS_EXTERNAL_FD, fd, MANY_BYTES, "64 MiB of an allocation of 4096 bytes");
  kit_check(k, pipe(ends) == 0, "the kit can open no pipe");
  expect_refusal(k, CS_EXTERNAL_FD, ends[0], 4096, "a pipe");
  give_up(ends[0]);
  give_up(ends[1]);
  expect_refusal(k, 31, fd, 4096, "a type of handle that there is not");
  give_up(fd);
  cs_error error = CS_ERROR_INIT;
  int64_t handle = -1;
  const cs_status status =
      k->plugin.external_memory.memory_export(k->device, memory, 31, &handle, &error);
  kit_check(k, status != CS_OK, "memory_export gives a type of handle that there is not");
  share(k, k, 4096);
}

void kit_add_external_cases(kit_registry *r) {
  kit_add(r, &(kit_case){.run = round_trip}, "external/round_trip");
  kit_add(r, &(kit_case){.run = second_device}, "external/second_device");
  kit_add(r, &(kit_case){.run = descriptors}, "external/descriptors");
  kit_add(r, &(kit_case){.run = bad_handles}, "external/bad_handles");
}
