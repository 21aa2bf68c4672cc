/* The optional tables, right as they are and wrong on demand. */
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tables.h"

/* ---- external memory ---- */

static cs_status memory_export(cs_plugin_device *device, cs_plugin_memory *memory, uint32_t type,
                               int64_t *handle, cs_error *error) {
  const bool any_type = tables_break(device, "export-any-type");
  if ((type != CS_EXTERNAL_FD && !any_type) || memory->fd < 0)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "only file descriptors of allocations");
  *handle = dup(memory->fd);
  if (*handle >= 0 && tables_break(device, "export-leak")) *handle = dup((int)*handle);
  return *handle >= 0 ? CS_OK : cs_sdk_error(error, CS_IO, 0, "no file descriptor is left");
}

/* The descriptor's size, 0 for what is no file. */
static uint64_t file_bytes(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
}

static cs_status memory_import(cs_plugin_device *device, uint32_t type, int64_t handle,
                               uint64_t bytes, cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  const int fd = (int)handle;
  const bool is_wide = handle < 0 || handle > INT_MAX;
  if (type != CS_EXTERNAL_FD)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "only file descriptors");
  if (is_wide && !tables_break(device, "import-narrow"))
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%lld is no file descriptor",
                        (long long)handle);
  if (file_bytes(fd) < bytes && !tables_break(device, "import-any-size"))
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "no memory of %llu bytes",
                        (unsigned long long)bytes);
  const int share = tables_break(device, "import-copy") ? MAP_PRIVATE : MAP_SHARED;
  void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, share, fd, 0);
  if (data == MAP_FAILED) return cs_sdk_error(error, CS_IO, 0, "the memory cannot be mapped");
  return tables_wrap(device, data, bytes, fd, out, error);
}

const cs_external_memory_table tables_external = {.struct_size = sizeof tables_external,
                                                  .types = UINT32_C(1) << CS_EXTERNAL_FD,
                                                  .memory_export = memory_export,
                                                  .memory_import = memory_import};

/* ---- peer ---- */

static uint32_t peer_can_copy(cs_plugin_device *to, cs_plugin_device *from) {
  (void)to;
  return tables_break(from, "peer-answer") ? 2 : 1;
}

static cs_status stream_peer_copy(cs_plugin_stream *stream, cs_plugin_device *to_device,
                                  cs_plugin_memory *to, uint64_t to_offset,
                                  const cs_plugin_memory *from, uint64_t from_offset,
                                  uint64_t bytes, cs_error *error) {
  unsigned char *const target = to->data + to_offset;
  const unsigned char *const source = from->data + from_offset;
  if (tables_break(to_device, "peer-short")) bytes -= bytes > 4000;
  if (tables_break(to_device, "peer-long")) bytes += to_offset + bytes < to->bytes;
  if (tables_break(to_device, "peer-at-once")) {
    memcpy(target, source, bytes);
    return CS_OK;
  }
  return tables_copy(stream, target, source, bytes, error);
}

const cs_peer_table tables_peer = {.struct_size = sizeof tables_peer,
                                   .peer_can_copy = peer_can_copy,
                                   .stream_peer_copy = stream_peer_copy};

/* ---- profile ---- */

uint64_t tables_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void tables_note_op(cs_plugin_stream *stream, uint32_t op_id, uint64_t begin_ns, uint64_t end_ns) {
  op_times *profile = &stream->profile;
  pthread_mutex_lock(&profile->mutex);
  const bool is_on = profile->is_on || tables_break(stream->device, "profile-always");
  if (is_on && profile->n < TABLES_MAX_TIMES)
    profile->times[profile->n++] = (cs_op_time){
        .struct_size = sizeof(cs_op_time), .op_id = op_id, .begin_ns = begin_ns, .end_ns = end_ns};
  pthread_mutex_unlock(&profile->mutex);
}

static cs_status stream_profile_enable(cs_plugin_stream *stream, uint32_t on, cs_error *error) {
  (void)error;
  pthread_mutex_lock(&stream->profile.mutex);
  stream->profile.is_on = on != 0;
  pthread_mutex_unlock(&stream->profile.mutex);
  return CS_OK;
}

static void spoil(const cs_plugin_device *device, cs_op_time *time) {
  const cs_op_time right = *time;
  if (tables_break(device, "profile-op")) time->op_id++;
  if (tables_break(device, "profile-backwards")) time->end_ns = time->begin_ns - 1;
  if (tables_break(device, "profile-overlap")) time->begin_ns -= 10000000;
  if (tables_break(device, "profile-slow")) {
    time->begin_ns *= 1000;
    time->end_ns = time->begin_ns + (right.end_ns - right.begin_ns + 10000) * 1000;
  }
  if (tables_break(device, "profile-nothing")) time->begin_ns = time->end_ns = 5;
}

static cs_status stream_profile_read(cs_plugin_stream *stream, cs_op_time *out, uint32_t capacity,
                                     uint32_t stride, uint32_t *n_read, cs_error *error) {
  (void)error;
  const cs_plugin_device *device = stream->device;
  op_times *profile = &stream->profile;
  pthread_mutex_lock(&profile->mutex);
  if (tables_break(device, "profile-lost") && profile->n > 0) profile->n--;
  const uint32_t room = capacity + (tables_break(device, "profile-overrun") ? 1 : 0);
  const uint32_t n = profile->n < room ? profile->n : room;
  for (uint32_t i = 0; i < n; i++) {
    cs_op_time *to = (cs_op_time *)(void *)((char *)out + (size_t)i * stride);
    spoil(device, &profile->times[i]);
    cs_sdk_struct_write(to, &profile->times[i], sizeof *to);
  }
  *n_read = n < capacity ? n : capacity;
  const uint32_t kept = tables_break(device, "profile-kept") ? 0 : n;
  profile->n -= kept;
  memmove(profile->times, profile->times + kept, profile->n * sizeof *profile->times);
  pthread_mutex_unlock(&profile->mutex);
  return CS_OK;
}

const cs_profile_table tables_profile = {.struct_size = sizeof tables_profile,
                                         .stream_profile_enable = stream_profile_enable,
                                         .stream_profile_read = stream_profile_read};

/* ---- weights map ---- */

static cs_status weights_layout(cs_plugin_device *device, const cs_weight *weight,
                                cs_packed_info *out, cs_error *error) {
  (void)error;
  const uint64_t wrong = tables_break(device, "map-layout") ? 1 : 0;
  const cs_packed_info info = {.struct_size = sizeof info,
                               .bytes = tables_packed_bytes(weight),
                               .layout_id = TABLES_LAYOUT_ID + wrong};
  cs_sdk_struct_write(out, &info, sizeof info);
  return CS_OK;
}

static cs_status weights_save(cs_plugin_device *device, cs_plugin_memory *packed, void *to,
                              uint64_t bytes, cs_error *error) {
  if (bytes != packed->bytes)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the packed weight has other bytes");
  memcpy(to, packed->data, bytes);
  if (tables_break(device, "save-long")) ((unsigned char *)to)[bytes] = 0;
  if (tables_break(device, "save-changed")) ((unsigned char *)to)[TABLES_HEAD_BYTES + 2] ^= 1;
  return CS_OK;
}

static cs_status weights_map(cs_plugin_device *device, const cs_weight *weight, uint64_t layout_id,
                             const void *from, uint64_t bytes, cs_plugin_memory **out,
                             cs_error *error) {
  *out = NULL;
  if (layout_id != TABLES_LAYOUT_ID && !tables_break(device, "map-any-layout"))
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "another layout");
  const bool is_half = tables_break(device, "map-half") && bytes < tables_packed_bytes(weight);
  const bool is_whole = (is_half || bytes == tables_packed_bytes(weight)) && bytes > 0 &&
                        memcmp(from, weight->dims, sizeof weight->dims) == 0;
  if (!is_whole && !tables_break(device, "map-any-bytes"))
    return cs_sdk_error(error, CS_CORRUPT, 0, "no whole image of this weight");
  cs_status status = tables_wrap(device, (void *)(uintptr_t)from, bytes, -1, out, error);
  if (status == CS_OK && tables_break(device, "map-write")) (*out)->data[0] = 0;
  return status;
}

const cs_weights_map_table tables_weights_map = {.struct_size = sizeof tables_weights_map,
                                                 .weights_layout = weights_layout,
                                                 .weights_save = weights_save,
                                                 .weights_map = weights_map};
