/* Devices are shared: a process that names the same one twice gets one handle, so that its memory
 * is counted once and its streams can be ordered. The list of open ones is under the runtime's
 * lock, and so is the last release, which makes "find and retain" safe. */
#include "core/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device_private.h"
#include "core/device_spec.h"
#include "core/error.h"

/* ---- failures ---- */

cs_status cs_device_is_lost(cs_device *device, cs_error *error) {
  return cs_error_set(error, CS_DEVICE_LOST, "%s: the device is lost", device->name);
}

/* Whether a message begins "NAME:INDEX: ": a failure that the bridge carried here from another
 * device keeps that one's name. */
static bool names_a_device(const char *message) {
  const size_t name = strspn(message, "abcdefghijklmnopqrstuvwxyz0123456789-_");
  if (name == 0 || message[name] != ':') return false;
  const size_t digits = strspn(message + name + 1, "0123456789");
  return digits > 0 && strncmp(message + name + 1 + digits, ": ", 2) == 0;
}

cs_status cs_device_call_failed(cs_device *device, cs_status status, cs_error *error,
                                const char *what) {
  if (status == CS_DEVICE_LOST) atomic_store(&device->lost, true);
  if (!error) return status;
  if (error->code != status || error->message[0] == '\0') {
    cs_error_set(error, status, "%s (%s)", what, cs_status_name(status));
  }
  if (!names_a_device(error->message)) cs_error_prefix(error, status, "%s", device->name);
  return status;
}

/* ---- opening ---- */

typedef struct text_list {
  char *text;
  size_t bytes;
  size_t n;
  const char *separator;
} text_list;

static void list_add(text_list *list, const char *name, const char *between, const char *rest) {
  if (list->n >= list->bytes) return;
  const int n = snprintf(list->text + list->n, list->bytes - list->n, "%s%s%s%s",
                         list->n ? list->separator : "", name, between, rest);
  if (n > 0) list->n += (size_t)n;
}

/* What there is instead: "there are cpu:0, x:1; y: no driver found". Loads every plugin. */
static cs_status tell_devices(cs_runtime *runtime, const char *text, cs_error *error) {
  char devices[CS_ERROR_MESSAGE_BYTES] = "";
  char failures[CS_ERROR_MESSAGE_BYTES] = "";
  text_list there = {devices, sizeof devices, 0, ", "};
  text_list not_there = {failures, sizeof failures, 0, "; "};
  for (uint32_t i = 0; i < cs_runtime_n_plugins(runtime); i++) {
    cs_plugin_status plugin;
    if (cs_runtime_plugin(runtime, i, &plugin, NULL) != CS_OK) continue;
    if (plugin.failure) list_add(&not_there, plugin.name, ": ", plugin.failure);
    for (uint32_t d = 0; d < plugin.n_devices; d++) {
      char index[16];
      snprintf(index, sizeof index, "%u", d);
      list_add(&there, plugin.name, ":", index);
    }
  }
  return cs_error_set(error, CS_NOT_FOUND, "no device \"%s\": there %s %s%s%s", text,
                      there.n ? "are" : "is", there.n ? devices : "none", not_there.n ? "; " : "",
                      failures);
}

/* The index of the device with that UUID; CS_NOT_FOUND without a message when there is none. */
static cs_status find_uuid(cs_module *module, const char *uuid, uint32_t *index, cs_error *error) {
  for (uint32_t i = 0; i < module->n_devices; i++) {
    cs_device_properties properties;
    const cs_status status = cs_module_device_info(module, i, &properties, error);
    if (status != CS_OK) return status;
    *index = i;
    if (properties.uuid[0] != '\0' && strcmp(properties.uuid, uuid) == 0) return CS_OK;
  }
  return CS_NOT_FOUND;
}

/* Finds module and index of a parsed spec. */
static cs_status locate(cs_runtime *runtime, const char *text, const cs_device_spec *spec,
                        cs_module **module, uint32_t *index, cs_error *error) {
  *module = cs_runtime_find_module(runtime, spec->name);
  *index = spec->index;
  if (!*module) return tell_devices(runtime, text, error);
  const char *failure = cs_module_failure(*module);
  if (failure) {
    return cs_error_set(error, CS_NOT_FOUND, "no device \"%s\": %s: %s", text, spec->name, failure);
  }
  if (spec->uuid) {
    const cs_status status = find_uuid(*module, spec->uuid, index, error);
    return status == CS_NOT_FOUND ? tell_devices(runtime, text, error) : status;
  }
  return *index < (*module)->n_devices ? CS_OK : tell_devices(runtime, text, error);
}

static cs_status read_properties(cs_device *device, cs_error *error) {
  device->properties = (cs_device_properties){.struct_size = sizeof device->properties};
  cs_status status =
      device->tables->device.device_properties(device->handle, &device->properties, error);
  if (status == CS_OK) status = cs_properties_check(&device->properties, error);
  return cs_device_result(device, status, error, "does not tell its properties");
}

/* Called under the runtime's lock. */
static cs_status open_new(cs_runtime *runtime, cs_module *module, uint32_t index,
                          const cs_device_spec *spec, cs_device **out, cs_error *error) {
  cs_device *device = calloc(1, sizeof *device);
  if (!device) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a device");
  cs_status status = CS_OK;
  atomic_init(&device->refs, 1);
  atomic_init(&device->lost, false);
  device->runtime = runtime;
  device->module = module;
  device->tables = &module->tables;
  device->index = index;
  snprintf(device->name, sizeof device->name, "%s:%u", module->manifest.name, index);
  device->options = strdup(spec->options_text);
  if (!device->options) {
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a device");
    goto err_free;
  }
  if (error) error->code = CS_OK;
  status =
      device->tables->device.device_open(module->instance, index, spec->options, spec->n_options,
                                         sizeof(cs_option), &device->handle, error);
  if (status == CS_OK && !device->handle) status = CS_FAILED;
  status = cs_device_result(device, status, error, "does not open");
  if (status != CS_OK) goto err_free;
  status = read_properties(device, error);
  if (status != CS_OK) goto err_close;
  cs_runtime_retain_internal(runtime);
  device->next_open = runtime->open_devices;
  runtime->open_devices = device;
  device->record = cs_record_create(runtime->validator, CS_RECORD_DEVICE, device, device->name);
  *out = device;
  return CS_OK;

err_close:
  device->tables->device.device_close(device->handle);
err_free:
  free(device->options);
  free(device);
  return status;
}

/* The open device that these names mean, retained; NULL when it is not open or lost. Under the
 * runtime's lock. */
static cs_device *find_open(cs_runtime *runtime, const cs_module *module, uint32_t index,
                            const char *options) {
  for (cs_device *device = runtime->open_devices; device; device = device->next_open) {
    if (device->module != module || device->index != index) continue;
    if (strcmp(device->options, options) != 0 || atomic_load(&device->lost)) continue;
    cs_device_retain(device);
    return device;
  }
  return NULL;
}

cs_status cs_device_open(cs_runtime *runtime, const char *spec, cs_device **out, cs_error *error) {
  *out = NULL;
  cs_device_spec parsed;
  cs_status status = cs_device_spec_parse(spec, &parsed, error);
  if (status != CS_OK) return status;
  cs_module *module = NULL;
  uint32_t index = 0;
  status = locate(runtime, spec, &parsed, &module, &index, error);
  if (status != CS_OK) return status;
  pthread_mutex_lock(&runtime->mutex);
  *out = find_open(runtime, module, index, parsed.options_text);
  if (!*out) status = open_new(runtime, module, index, &parsed, out, error);
  pthread_mutex_unlock(&runtime->mutex);
  return status;
}

void cs_device_retain(cs_device *device) {
  atomic_fetch_add(&device->refs, 1);
}

void cs_device_release(cs_device *device) {
  if (!device) return;
  cs_runtime *runtime = device->runtime;
  pthread_mutex_lock(&runtime->mutex);
  const bool last = atomic_fetch_sub(&device->refs, 1) == 1;
  if (last) {
    cs_device **link = &runtime->open_devices;
    while (*link != device)
      link = &(*link)->next_open;
    *link = device->next_open;
  }
  pthread_mutex_unlock(&runtime->mutex);
  if (!last) return;
  device->tables->device.device_close(device->handle);
  free(device->options);
  cs_handle_free(device, device->record);
  cs_runtime_release_internal(runtime);
}

/* ---- questions ---- */

const char *cs_device_name(const cs_device *device) {
  return device->name;
}

const cs_device_properties *cs_device_get_properties(const cs_device *device) {
  return &device->properties;
}

bool cs_device_has_eager(const cs_device *device) {
  return device->tables->eager.ops_enqueue != NULL;
}

bool cs_device_has_program(const cs_device *device) {
  return device->tables->program.program_launch != NULL;
}

bool cs_device_has_table(const cs_device *device, uint32_t table_id) {
  return cs_tables_has(device->tables, table_id);
}

cs_runtime *cs_device_runtime(const cs_device *device) {
  return device->runtime;
}

cs_status cs_device_op_query(cs_device *device, const cs_op *op, cs_op_answer *out,
                             cs_error *error) {
  cs_status status = cs_ops_check(device, op, 1, false, error);
  if (status == CS_OK) status = cs_device_enter(device, error);
  if (status != CS_OK) return status;
  *out = (cs_op_answer){.struct_size = sizeof *out};
  status = device->tables->capability.op_query(device->handle, op, out, error);
  out->reason[sizeof out->reason - 1] = '\0';
  if (status == CS_OK && out->support > CS_SUPPORT_COMPOSED) {
    return cs_error_set(error, CS_CORRUPT, "%s: answers %u when asked for an op", device->name,
                        out->support);
  }
  return cs_device_result(device, status, error, "does not answer for an op");
}

cs_status cs_device_kv_preference(cs_device *device, uint32_t dtype, uint64_t n_kv_heads,
                                  uint64_t width, uint32_t *layout, uint32_t *block_tokens,
                                  cs_error *error) {
  const cs_device_properties *p = &device->properties;
  if (p->kv_layouts == 0) {
    return cs_error_set(error, CS_UNSUPPORTED, "%s: keeps no KV cache", device->name);
  }
  *layout = p->kv_layout;
  *block_tokens = p->kv_block_tokens_min < 16 ? 16 : p->kv_block_tokens_min;
  if (*block_tokens > p->kv_block_tokens_max) *block_tokens = p->kv_block_tokens_max;
  if (!device->tables->kv_layout.kv_layout_preferred) return CS_OK;
  cs_status status = cs_device_enter(device, error);
  if (status != CS_OK) return status;
  status = device->tables->kv_layout.kv_layout_preferred(device->handle, dtype, n_kv_heads, width,
                                                         layout, block_tokens, error);
  if (status != CS_OK) return cs_device_result(device, status, error, "prefers no KV layout");
  if (*layout > 31 || !(p->kv_layouts & CS_LAYOUT_BIT(*layout)) ||
      *block_tokens < p->kv_block_tokens_min || *block_tokens > p->kv_block_tokens_max) {
    return cs_error_set(error, CS_CORRUPT, "%s: prefers a KV layout outside its own properties",
                        device->name);
  }
  return CS_OK;
}
