/* A device that lacks an op is measured on the rest: the planner then knows what would fall back.
 * Files are replaced by renaming, so that a reader sees an old one or a new one, never half of it;
 * any doubt about a file is settled by measuring again. */
#include "scheduler/profile.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/dtype.h"
#include "core/error.h"
#include "models/mapped_file.h"
#include "scheduler/probe.h"

#define MATMUL_ROWS      256
#define MATMUL_WIDTH     2048
#define MATVEC_WIDTH     4096
#define ATTENTION_TOKENS 512
#define PATH_BYTES       1024
#define KEY_BYTES        320

/* ---- measuring ---- */

/* Turns "does not run it" into a rate of 0. */
static cs_status forgive_unsupported(cs_status status) {
  return status == CS_UNSUPPORTED ? CS_OK : status;
}

/* Enough copies of a weight to fill `bytes`. */
static uint32_t copies_for(uint64_t bytes, uint64_t weight_bytes) {
  const uint64_t n = (bytes + weight_bytes - 1) / weight_bytes;
  return n < 1 ? 1 : n > 32 ? 32 : (uint32_t)n;
}

static cs_status measure_weights(cs_probe *probe, uint32_t dtype, cs_device_profile *out,
                                 cs_error *error) {
  const uint64_t width = MATMUL_WIDTH, wide = MATVEC_WIDTH;
  uint64_t small_bytes, wide_bytes;
  cs_status status = cs_dtype_bytes(dtype, width * width, &small_bytes);
  if (status == CS_OK) status = cs_dtype_bytes(dtype, wide * wide, &wide_bytes);
  if (status != CS_OK) return cs_error_set(error, status, "no such format for weights");
  const cs_probe_matmul prefill = {dtype, 1, MATMUL_ROWS, width, width};
  const cs_probe_matmul cached = {dtype, 1, 1, width, width};
  const uint32_t n_copies = copies_for(CS_PROFILE_MEMORY_BYTES, wide_bytes);
  const cs_probe_matmul decode = {dtype, n_copies, 1, wide, wide};
  double seconds;
  status = cs_probe_run_matmul(probe, &prefill, &seconds, error);
  if (status == CS_OK)
    out->matmul_flop_per_s = 2.0 * MATMUL_ROWS * (double)(width * width) / seconds;
  if (status == CS_OK) status = cs_probe_run_matmul(probe, &cached, &seconds, error);
  if (status == CS_OK) out->matvec_cached_bytes_per_s = (double)small_bytes / seconds;
  if (status == CS_OK) status = cs_probe_run_matmul(probe, &decode, &seconds, error);
  if (status == CS_OK) out->matvec_bytes_per_s = (double)wide_bytes / seconds;
  return forgive_unsupported(status);
}

cs_status cs_profile_measure(cs_device *device, uint32_t dtype, cs_device_profile *out,
                             cs_error *error) {
  *out = (cs_device_profile){0};
  const uint64_t kv_dtypes = cs_device_get_properties(device)->kv_dtypes;
  const uint32_t kv_dtype = kv_dtypes & CS_DTYPE_BIT(CS_DTYPE_F16) ? CS_DTYPE_F16 : CS_DTYPE_F32;
  cs_probe *probe;
  cs_status status = cs_probe_create(device, &probe, error);
  if (status != CS_OK) return status;
  status = measure_weights(probe, dtype, out, error);
  if (status == CS_OK)
    status = forgive_unsupported(cs_probe_run_attention(probe, kv_dtype, ATTENTION_TOKENS,
                                                        &out->attention_flop_per_s, error));
  if (status == CS_OK)
    status = forgive_unsupported(cs_probe_run_launch(probe, &out->op_us, &out->step_us, error));
  cs_probe_link link = {0};
  if (status == CS_OK) status = cs_probe_run_link(probe, &link, error);
  out->upload_bytes_per_s = link.upload_bytes_per_s;
  out->download_bytes_per_s = link.download_bytes_per_s;
  out->latency_us = link.latency_us;
  cs_probe_destroy(probe);
  return status == CS_OK ? CS_OK : cs_error_prefix(error, status, "%s", cs_device_name(device));
}

/* ---- text form ---- */

#define FIRST_LINE "consort profile 1"
#define LAST_LINE  "end"

static const struct {
  const char *name;
  size_t offset;
} fields[] = {
    {"matmul_flop_per_s", offsetof(cs_device_profile, matmul_flop_per_s)},
    {"matvec_bytes_per_s", offsetof(cs_device_profile, matvec_bytes_per_s)},
    {"matvec_cached_bytes_per_s", offsetof(cs_device_profile, matvec_cached_bytes_per_s)},
    {"attention_flop_per_s", offsetof(cs_device_profile, attention_flop_per_s)},
    {"op_us", offsetof(cs_device_profile, op_us)},
    {"step_us", offsetof(cs_device_profile, step_us)},
    {"upload_bytes_per_s", offsetof(cs_device_profile, upload_bytes_per_s)},
    {"download_bytes_per_s", offsetof(cs_device_profile, download_bytes_per_s)},
    {"latency_us", offsetof(cs_device_profile, latency_us)},
};
#define N_FIELDS (sizeof fields / sizeof fields[0])

size_t cs_profile_write(const cs_device_profile *profile, const char *key,
                        char text[CS_PROFILE_TEXT_BYTES]) {
  size_t used = (size_t)snprintf(text, CS_PROFILE_TEXT_BYTES, "%s\nkey = %s\n", FIRST_LINE, key);
  for (size_t i = 0; i < N_FIELDS && used < CS_PROFILE_TEXT_BYTES; i++) {
    double value;
    memcpy(&value, (const char *)profile + fields[i].offset, sizeof value);
    used += (size_t)snprintf(text + used, CS_PROFILE_TEXT_BYTES - used, "%s = %.6e\n",
                             fields[i].name, value);
  }
  if (used < CS_PROFILE_TEXT_BYTES)
    used += (size_t)snprintf(text + used, CS_PROFILE_TEXT_BYTES - used, "%s\n", LAST_LINE);
  return used < CS_PROFILE_TEXT_BYTES ? used : 0;
}

/* Steps over `expected` and the line feed after it. */
static bool skip_line(const char **at, const char *expected) {
  const size_t bytes = strlen(expected);
  if (strncmp(*at, expected, bytes) != 0 || (*at)[bytes] != '\n') return false;
  *at += bytes + 1;
  return true;
}

bool cs_profile_read(const char *text, const char *key, cs_device_profile *out) {
  char key_line[KEY_BYTES + 16];
  snprintf(key_line, sizeof key_line, "key = %s", key);
  const char *at = text;
  if (!skip_line(&at, FIRST_LINE) || !skip_line(&at, key_line)) return false;
  for (size_t i = 0; i < N_FIELDS; i++) {
    const size_t bytes = strlen(fields[i].name);
    if (strncmp(at, fields[i].name, bytes) != 0 || strncmp(at + bytes, " = ", 3) != 0) return false;
    char *end;
    at += bytes + 3;
    const double value = strtod(at, &end);
    if (at[0] < '0' || at[0] > '9' || *end != '\n' || !isfinite(value) || value < 0) return false;
    memcpy((char *)out + fields[i].offset, &value, sizeof value);
    at = end + 1;
  }
  return skip_line(&at, LAST_LINE) && *at == '\0';
}

/* ---- files ---- */

/* Whatever changes the numbers: the device, its driver, how much of it is ours, the format. */
static void make_key(const cs_device *device, uint32_t dtype, char key[KEY_BYTES]) {
  const cs_device_properties *properties = cs_device_get_properties(device);
  snprintf(key, KEY_BYTES, "%s | %s | %s | %u | %s", cs_device_name(device),
           properties->description, properties->driver, properties->concurrency,
           cs_dtype_find(dtype)->name);
  for (char *c = key; *c; c++)
    if ((unsigned char)*c < ' ') *c = ' ';
}

/* FNV-1a (Fowler, Noll, Vo), 64 bits: names the file. */
static uint64_t hash_key(const char *key) {
  uint64_t hash = 0xcbf29ce484222325;
  for (; *key; key++)
    hash = (hash ^ (unsigned char)*key) * 0x100000001b3;
  return hash;
}

static bool cache_path(const char *key, char path[PATH_BYTES]) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  const unsigned long long hash = hash_key(key);
  int bytes = -1;
  if (cache && cache[0] == '/')
    bytes = snprintf(path, PATH_BYTES, "%s/consort/profiles/%016llx", cache, hash);
  else if (home && home[0] == '/')
    bytes = snprintf(path, PATH_BYTES, "%s/.cache/consort/profiles/%016llx", home, hash);
  return bytes > 0 && bytes < PATH_BYTES;
}

static bool load(const char *path, const char *key, cs_device_profile *out) {
  char text[CS_PROFILE_TEXT_BYTES];
  FILE *file = fopen(path, "rb");
  if (!file) return false;
  const size_t bytes = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[bytes] = '\0';
  return strlen(text) == bytes && cs_profile_read(text, key, out);
}

static void save(char path[PATH_BYTES], const char *key, const cs_device_profile *profile) {
  char text[CS_PROFILE_TEXT_BYTES], unfinished[PATH_BYTES + 32];
  const size_t bytes = cs_profile_write(profile, key, text);
  if (bytes == 0 || !cs_file_make_folders(path)) return;
  snprintf(unfinished, sizeof unfinished, "%s.%ld", path, (long)getpid());
  FILE *file = fopen(unfinished, "wb");
  if (!file) return;
  const bool written = fwrite(text, 1, bytes, file) == bytes;
  if (fclose(file) != 0 || !written || rename(unfinished, path) != 0) remove(unfinished);
}

cs_status cs_profile_get(cs_device *device, uint32_t dtype, bool measure_again,
                         cs_device_profile *out, cs_error *error) {
  char key[KEY_BYTES], path[PATH_BYTES];
  if (!cs_dtype_find(dtype))
    return cs_error_set(error, CS_INVALID_ARGUMENT, "format %u is not known", dtype);
  make_key(device, dtype, key);
  const bool kept = cache_path(key, path);
  if (kept && !measure_again && load(path, key, out)) return CS_OK;
  const cs_status status = cs_profile_measure(device, dtype, out, error);
  if (status == CS_OK && kept) save(path, key, out);
  return status;
}
