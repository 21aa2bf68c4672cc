/* A case ends by returning or by a jump out of the first check that fails. The jump crosses only
 * the kit's own frames: no plugin calls back into a check. After a failure the device is opened
 * afresh, so that one fault is reported once. */
#include "kit.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

double kit_now_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

_Noreturn static void end_case(kit *k, const char *format, va_list arguments) {
  char *message = k->result->message;
  const int used = k->role ? snprintf(message, KIT_MESSAGE_BYTES, "%s: ", k->role) : 0;
  vsnprintf(message + used, KIT_MESSAGE_BYTES - (size_t)used, format, arguments);
  k->result->status = KIT_FAILED;
  longjmp(*k->escape, 1);
}

_Noreturn void kit_fail(kit *k, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  end_case(k, format, arguments);
}

void kit_check(kit *k, bool holds, const char *format, ...) {
  if (holds) return;
  va_list arguments;
  va_start(arguments, format);
  end_case(k, format, arguments);
}

void kit_check_ok(kit *k, cs_status status, const cs_error *error, const char *what) {
  if (status == CS_OK) return;
  kit_fail(k, "%s: status %d, op %d: %.180s", what, status, error->op_index,
           error->code ? error->message : "no error was filled in");
}

void kit_unsupported(kit *k, const char *format, ...) {
  if (k->n_unsupported++ > 0) return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(k->result->message, sizeof k->result->message, format, arguments);
  va_end(arguments);
}

static uint64_t hash_name(const char *name) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  for (; *name; name++)
    hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
  return hash;
}

static void settle(kit *k) {
  kit_result *result = k->result;
  if (result->status == KIT_FAILED) return;
  if (k->n_unsupported == 0) {
    result->status = KIT_PASSED;
    return;
  }
  result->status = KIT_UNSUPPORTED;
  if (k->n_checked == 0) return;
  char first[KIT_MESSAGE_BYTES];
  memcpy(first, result->message, sizeof first);
  snprintf(result->message, sizeof result->message, "%u of %u variants: %.300s", k->n_unsupported,
           k->n_unsupported + k->n_checked, first);
}

void kit_run_case(kit *k, const kit_case *c, kit_result *result) {
  *result = (kit_result){.nmse = -1, .max_error = -1};
  k->result = result;
  k->rng.state = k->options->seed ^ hash_name(c->name);
  k->n_unsupported = 0;
  k->n_checked = 0;
  const double begin = kit_now_seconds();
  jmp_buf escape;
  k->escape = &escape;
  if (setjmp(escape) == 0) {
    if (k->device)
      c->run(k, c);
    else
      kit_fail(k, "the device could not be opened again");
  }
  const bool failed = result->status == KIT_FAILED;
  kit_release_all(k);
  settle(k);
  result->seconds = kit_now_seconds() - begin;
  if (!failed) return;
  kit_close(k);
  char why[KIT_MESSAGE_BYTES];
  kit_open(k, why, sizeof why);
}

bool kit_open(kit *k, char *why, size_t why_bytes) {
  const cs_device_table *table = &k->plugin.device;
  cs_error error = CS_ERROR_INIT;
  k->device = NULL;
  cs_status status = table->instance_create(&k->plugin.host.host, &k->instance, &error);
  if (status != CS_OK || !k->instance) {
    snprintf(why, why_bytes, "instance_create: status %d: %s", status, error.message);
    k->instance = NULL;
    return false;
  }
  const uint32_t n_devices = table->device_count(k->instance);
  if (k->options->device_index >= n_devices) {
    snprintf(why, why_bytes, "device %u of %u", k->options->device_index, n_devices);
    goto err_instance;
  }
  status = table->device_open(k->instance, k->options->device_index, k->options->options,
                              k->options->n_options, sizeof(cs_option), &k->device, &error);
  if (status != CS_OK || !k->device) {
    snprintf(why, why_bytes, "device_open: status %d: %s", status, error.message);
    goto err_instance;
  }
  k->properties = (cs_device_properties){.struct_size = sizeof k->properties};
  status = table->device_properties(k->device, &k->properties, &error);
  if (status == CS_OK) return true;
  snprintf(why, why_bytes, "device_properties: status %d: %s", status, error.message);
  table->device_close(k->device);
err_instance:
  table->instance_destroy(k->instance);
  k->instance = NULL;
  k->device = NULL;
  return false;
}

void kit_close(kit *k) {
  if (k->device) k->plugin.device.device_close(k->device);
  if (k->instance) k->plugin.device.instance_destroy(k->instance);
  k->device = NULL;
  k->instance = NULL;
}

/* ---- a second device ---- */

static void open_neighbour(kit *other, kit *k) {
  const cs_device_table *table = &k->plugin.device;
  const uint32_t index = k->options->device_index;
  const uint32_t next = index + 1 < table->device_count(k->instance) ? index + 1 : index;
  cs_error error = CS_ERROR_INIT;
  other->plugin = k->plugin;
  kit_check_ok(k,
               table->device_open(k->instance, next, k->options->options, k->options->n_options,
                                  sizeof(cs_option), &other->device, &error),
               &error, "opening a second device");
  other->properties = (cs_device_properties){.struct_size = sizeof other->properties};
  kit_check_ok(other, table->device_properties(other->device, &other->properties, &error), &error,
               "device_properties");
}

static void open_first_of(kit *other, const char *path) {
  kit_options *options = kit_host_memory(other, sizeof *options);
  char why[KIT_MESSAGE_BYTES];
  *options = *other->options;
  options->plugin_path = path;
  options->device_index = 0;
  options->n_options = 0;
  other->options = options;
  if (!kit_plugin_load(&other->plugin, path, false, why, sizeof why) ||
      !kit_open(other, why, sizeof why))
    kit_fail(other, "%s: %.200s", path, why);
}

kit *kit_other(kit *k, const char *path) {
  kit *other = kit_host_memory(k, sizeof *other);
  *other = (kit){.options = k->options,
                 .board = k->board,
                 .rng = {rng_u64(&k->rng)},
                 .result = k->result,
                 .escape = k->escape,
                 .role = path ? "on the second plugin" : "on the second device"};
  kit_track(k, KIT_OTHER, other);
  if (path)
    open_first_of(other, path);
  else
    open_neighbour(other, k);
  return other;
}
