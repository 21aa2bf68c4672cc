/* Slurm leaves stale values behind: a step inherits the environment of the script that started it,
 * and a step without devices gets no variable that says so. So each variable counts only where
 * Slurm itself would have set it, and whatever cannot be read is refused instead of skipped: a
 * worker must never serve on a chip that belongs to another job. */
#include "scheduler/allocation.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device_spec.h"
#include "core/error.h"

#define ORDINAL_MAX      65535
#define VALUE_BYTES_MAX  16384
#define RESERVED_STEPS   UINT64_C(0xfffffff0) /* batch script, interactive, extern and the like */
#define SHOWN_BYTES      40
#define NO_DEVICES       "NoDevFiles" /* Slurm's own word for a list of nothing */
#define MAP_VARIABLE     "CONSORT_SLURM_DEVICES"
#define STEP_VARIABLE    "SLURM_STEP_GPUS"
#define JOB_VARIABLE     "SLURM_JOB_GPUS"
#define ON_NODE_VARIABLE "SLURM_GPUS_ON_NODE"

static const char *process_get(const void *user, const char *name) {
  (void)user;
  return getenv(name);
}

const cs_environment cs_process_environment = {.get = process_get};

/* ---- values ---- */

static cs_status refuse(const char *variable, const char *value, const char *why, cs_error *error) {
  char shown[SHOWN_BYTES];
  size_t n = 0;
  for (; value[n] && n + 1 < sizeof shown; n++)
    shown[n] = isprint((unsigned char)value[n]) ? value[n] : '?';
  shown[n] = '\0';
  return cs_error_set(error, CS_INVALID_ARGUMENT, "%s=\"%s%s\": %s", variable, shown,
                      value[n] ? "..." : "", why);
}

/* Decimal digits alone, at most `limit`. */
static bool read_number(const char *text, size_t n, uint64_t limit, uint64_t *out) {
  *out = 0;
  if (n == 0 || n > 10) return false;
  for (size_t i = 0; i < n; i++) {
    if (!isdigit((unsigned char)text[i])) return false;
    *out = *out * 10 + (uint64_t)(text[i] - '0');
  }
  return *out <= limit;
}

/* *found is false when the variable is not set; Slurm sets no empty numbers. */
static cs_status read_variable(const cs_environment *environment, const char *name, uint64_t limit,
                               bool *found, uint64_t *out, cs_error *error) {
  const char *const value = environment->get(environment->user, name);
  *out = 0;
  *found = value != NULL;
  if (!value || read_number(value, strlen(value), limit, out)) return CS_OK;
  return refuse(name, value, "not a number in its range", error);
}

/* The next entry of a list, and the rest in *rest (NULL after the last). */
static size_t next_entry(const char **rest, const char **entry) {
  *entry = *rest;
  const size_t n = strcspn(*entry, ",");
  *rest = (*entry)[n] == ',' ? *entry + n + 1 : NULL;
  return n;
}

static bool contains(const uint32_t *numbers, uint32_t n, uint64_t number) {
  for (uint32_t i = 0; i < n; i++)
    if (numbers[i] == number) return true;
  return false;
}

/* ---- devices ---- */

/* Letters, digits and what stands in UUIDs and names of partitions. */
static bool is_identifier(const char *text, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!isalnum((unsigned char)text[i]) && !strchr("-_/.:", text[i])) return false;
  return n > 0;
}

static cs_status read_ordinals(const char *variable, const char *value, cs_allocation *out,
                               cs_error *error) {
  const char *entry;
  if (strlen(value) > VALUE_BYTES_MAX) return refuse(variable, value, "is too long", error);
  for (const char *rest = value; rest;) {
    uint64_t ordinal;
    const size_t n = next_entry(&rest, &entry);
    if (!read_number(entry, n, ORDINAL_MAX, &ordinal))
      return refuse(variable, value, "not a list of device ordinals like 0,2", error);
    if (contains(out->ordinals, out->n_ordinals, ordinal))
      return refuse(variable, value, "names a device twice", error);
    if (out->n_ordinals == CS_ALLOCATION_MAX)
      return refuse(variable, value, "names too many devices", error);
    out->ordinals[out->n_ordinals++] = (uint32_t)ordinal;
  }
  out->ordinals_from = variable;
  out->n_given = out->n_ordinals;
  return CS_OK;
}

/* Which of the two lists counts, and what stands in when Slurm set neither. */
static cs_status read_devices(const cs_environment *environment, cs_allocation *out,
                              cs_error *error) {
  const char *const variable = out->in_step ? STEP_VARIABLE : JOB_VARIABLE;
  const char *const value = environment->get(environment->user, variable);
  if (value) return read_ordinals(variable, value, out, error);
  bool found;
  uint64_t n;
  const cs_status status =
      read_variable(environment, ON_NODE_VARIABLE, CS_ALLOCATION_MAX, &found, &n, error);
  if (!status) out->n_given = (uint32_t)n;
  return status;
}

static cs_status read_map(const cs_environment *environment, cs_allocation *out, cs_error *error) {
  const char *const value = environment->get(environment->user, MAP_VARIABLE);
  if (!value) return CS_OK;
  if (strlen(value) > VALUE_BYTES_MAX) return refuse(MAP_VARIABLE, value, "is too long", error);
  const char *entry;
  for (const char *rest = value; rest;) {
    cs_device_spec spec;
    const size_t n = next_entry(&rest, &entry);
    if (out->n_map == CS_ALLOCATION_MAX)
      return refuse(MAP_VARIABLE, value, "names too many devices", error);
    char *const name = out->map[out->n_map];
    if (n >= CS_ALLOCATION_NAME_BYTES)
      return refuse(MAP_VARIABLE, value, "a name is too long", error);
    memcpy(name, entry, n);
    if (!is_identifier(name, n) || !strchr(name, ':') || cs_device_spec_parse(name, &spec, NULL))
      return refuse(MAP_VARIABLE, value, "not a list of NAME:INDEX or NAME:UUID", error);
    for (uint32_t i = 0; i < out->n_map; i++)
      if (strcmp(out->map[i], name) == 0)
        return refuse(MAP_VARIABLE, value, "names a device twice", error);
    out->n_map++;
  }
  return CS_OK;
}

static cs_status read_job(const cs_environment *environment, cs_allocation *out, cs_error *error) {
  bool found;
  uint64_t number;
  cs_status status =
      read_variable(environment, "SLURM_JOB_ID", UINT32_MAX, &out->in_job, &number, error);
  if (status || !out->in_job) return status;
  status = read_variable(environment, "SLURM_STEP_ID", UINT32_MAX, &found, &number, error);
  if (status) return status;
  out->in_step = found && number < RESERVED_STEPS;
  status = read_variable(environment, "SLURM_SHARDS_ON_NODE", UINT32_MAX, &found, &number, error);
  if (status) return status;
  out->n_shards = (uint32_t)number;
  status = read_variable(environment, "SLURM_CPUS_ON_NODE", ORDINAL_MAX, &found, &number, error);
  if (status) return status;
  out->n_processors = (uint32_t)number;
  status = read_devices(environment, out, error);
  return status ? status : read_map(environment, out, error);
}

cs_status cs_allocation_read(const cs_environment *environment, cs_allocation *out,
                             cs_error *error) {
  memset(out, 0, sizeof *out);
  const cs_status status = read_job(environment, out, error);
  if (status) memset(out, 0, sizeof *out);
  return status;
}

/* ---- what a driver leaves visible ---- */

/* Length of the entry's device: "0" of "0.1", all of an identifier. */
static size_t device_length(const char *entry, size_t n) {
  const size_t n_digits = strspn(entry, "0123456789");
  return n_digits > 0 && n_digits < n && entry[n_digits] == '.' ? n_digits : n;
}

/* Whether an earlier entry of the list is of the same device. */
static bool seen_before(const char *value, const char *entry, size_t n) {
  const size_t length = device_length(entry, n);
  for (const char *rest = value, *other; rest;) {
    const size_t other_n = next_entry(&rest, &other);
    if (other == entry) return false;
    if (device_length(other, other_n) == length && memcmp(other, entry, length) == 0) return true;
  }
  return false;
}

cs_status cs_allocation_count_visible(const char *variable, const char *value, uint32_t *n_devices,
                                      cs_error *error) {
  *n_devices = 0;
  const char *entry;
  if (strlen(value) > VALUE_BYTES_MAX) return refuse(variable, value, "is too long", error);
  if (value[0] == '\0' || strcmp(value, NO_DEVICES) == 0) return CS_OK;
  uint32_t count = 0;
  bool hidden = false;
  for (const char *rest = value; rest;) {
    const size_t n = next_entry(&rest, &entry);
    if (!is_identifier(entry, n))
      return refuse(variable, value, "not a list of device numbers or identifiers", error);
    hidden |= n == 2 && memcmp(entry, "-1", 2) == 0;
    if (hidden || seen_before(value, entry, n)) continue;
    if (count == CS_ALLOCATION_MAX) return refuse(variable, value, "names too many devices", error);
    count++;
  }
  *n_devices = count;
  return CS_OK;
}

void cs_allocation_print(const cs_allocation *allocation, char *out, size_t bytes) {
  size_t used = 0;
  out[0] = '\0';
  for (uint32_t i = 0; i < allocation->n_ordinals && used < bytes; i++)
    used +=
        (size_t)snprintf(out + used, bytes - used, "%s%u", i ? "," : "", allocation->ordinals[i]);
}
