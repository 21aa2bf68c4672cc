/* Each step of a plugin's start can fail on its own machine for its own reason, so each reason is
 * kept as one line that the user reads beside the plugin's name; other plugins are not touched.
 * A library stays open for the life of the process: drivers start threads that run its code. */
#include "core/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"

#define DEVICES_MAX 1024

cs_module *cs_module_create(cs_manifest *manifest) {
  cs_module *module = calloc(1, sizeof *module);
  if (!module) return NULL;
  if (pthread_mutex_init(&module->mutex, NULL) != 0) {
    free(module);
    return NULL;
  }
  module->manifest = *manifest;
  *manifest = (cs_manifest){0};
  return module;
}

void cs_module_destroy(cs_module *module) {
  if (!module) return;
  if (module->instance) module->tables.device.instance_destroy(module->instance);
  cs_manifest_finish(&module->manifest);
  free(module->failure);
  pthread_mutex_destroy(&module->mutex);
  free(module);
}

void cs_module_refuse(cs_module *module, const char *failure) {
  module->tried = true;
  free(module->failure);
  module->failure = strdup(failure);
}

static cs_status open_library(cs_module *module, cs_plugin_query_fn *query, cs_error *error) {
  const char *path = module->manifest.library;
  if (access(path, R_OK) != 0) {
    return cs_error_set(error, CS_NOT_FOUND, "library %s is missing", path);
  }
  module->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!module->library) return cs_error_set(error, CS_FAILED, "%s", dlerror());
  void *symbol = dlsym(module->library, CS_PLUGIN_QUERY_SYMBOL);
  if (!symbol) {
    return cs_error_set(error, CS_UNSUPPORTED, "%s has no " CS_PLUGIN_QUERY_SYMBOL, path);
  }
  memcpy(query, &symbol, sizeof *query);
  return CS_OK;
}

static cs_status negotiate(cs_module *module, cs_plugin_query_fn query, const cs_host *host,
                           cs_error *error) {
  cs_plugin *plugin = &module->plugin;
  *plugin = (cs_plugin){.struct_size = sizeof *plugin};
  const cs_status status = query(host, plugin);
  if (status != CS_OK) {
    return cs_error_set(error, status, "refuses plugin ABI %u to %u (%s)", host->abi_min,
                        host->abi_max, cs_status_name(status));
  }
  if (plugin->abi_version < host->abi_min || plugin->abi_version > host->abi_max) {
    return cs_error_set(error, CS_UNSUPPORTED, "picked plugin ABI %u, this host speaks %u to %u",
                        plugin->abi_version, host->abi_min, host->abi_max);
  }
  if (!plugin->name || !plugin->version || !plugin->vendor || !plugin->table) {
    return cs_error_set(error, CS_UNSUPPORTED, "leaves name, version, vendor or table unset");
  }
  if (strcmp(plugin->name, module->manifest.name) != 0) {
    return cs_error_set(error, CS_UNSUPPORTED, "calls itself \"%.40s\"", plugin->name);
  }
  return cs_tables_read(plugin, &module->tables, error);
}

static cs_status start_instance(cs_module *module, const cs_host *host, cs_error *error) {
  const cs_device_table *table = &module->tables.device;
  error->message[0] = '\0';
  const cs_status status = table->instance_create(host, &module->instance, error);
  if (status != CS_OK || !module->instance) {
    module->instance = NULL;
    const cs_status code = status == CS_OK ? CS_FAILED : status;
    char reason[CS_ERROR_MESSAGE_BYTES];
    snprintf(reason, sizeof reason, "%.*s", (int)sizeof reason - 1, error->message);
    if (reason[0] != '\0') return cs_error_set(error, code, "%s", reason);
    return cs_error_set(error, code, "does not start (%s)", cs_status_name(code));
  }
  const uint32_t n_devices = table->device_count(module->instance);
  if (n_devices > 0 && n_devices <= DEVICES_MAX) {
    module->n_devices = n_devices;
    return CS_OK;
  }
  table->instance_destroy(module->instance);
  module->instance = NULL;
  if (n_devices == 0) return cs_error_set(error, CS_NOT_FOUND, "has no device");
  return cs_error_set(error, CS_UNSUPPORTED, "reports %u devices", n_devices);
}

static cs_status load(cs_module *module, const cs_host *host, const char *probe, cs_error *error) {
  cs_status status = cs_manifest_check_host(&module->manifest, error);
  if (status == CS_OK && probe)
    status = cs_plugin_probe(probe, module->manifest.library, CS_PROBE_TIMEOUT_MS, error);
  cs_plugin_query_fn query = NULL;
  if (status == CS_OK) status = open_library(module, &query, error);
  if (status == CS_OK) status = negotiate(module, query, host, error);
  if (status == CS_OK) status = start_instance(module, host, error);
  return status;
}

void cs_module_load(cs_module *module, const cs_host *host, cs_log *log, const char *probe) {
  pthread_mutex_lock(&module->mutex);
  if (!module->tried) {
    cs_error error = CS_ERROR_INIT;
    if (load(module, host, probe, &error) != CS_OK) {
      cs_module_refuse(module, error.message);
      cs_log_write(log, CS_LOG_INFO, "plugin %s: %s", module->manifest.name, error.message);
    }
    module->tried = true;
  }
  pthread_mutex_unlock(&module->mutex);
}

const char *cs_module_failure(const cs_module *module) {
  if (module->instance) return NULL;
  return module->failure ? module->failure : "out of memory";
}

static bool is_power_of_two(uint32_t n) {
  return n != 0 && (n & (n - 1)) == 0;
}

cs_status cs_properties_check(cs_device_properties *properties, cs_error *error) {
  cs_device_properties *p = properties;
  p->memory_domain[sizeof p->memory_domain - 1] = '\0';
  p->compute_domain[sizeof p->compute_domain - 1] = '\0';
  p->uuid[sizeof p->uuid - 1] = '\0';
  p->description[sizeof p->description - 1] = '\0';
  p->driver[sizeof p->driver - 1] = '\0';
  if (!is_power_of_two(p->tensor_align) || p->tensor_align < 4 || p->tensor_align > 256) {
    return cs_error_set(error, CS_CORRUPT, "reports a tensor_align of %u", p->tensor_align);
  }
  if (p->kv_layouts == 0) return CS_OK;
  if (p->kv_layout > 31 || !(p->kv_layouts & CS_LAYOUT_BIT(p->kv_layout))) {
    return cs_error_set(error, CS_CORRUPT, "prefers KV layout %u that it does not have",
                        p->kv_layout);
  }
  if (!is_power_of_two(p->kv_block_tokens_min) || !is_power_of_two(p->kv_block_tokens_max) ||
      p->kv_block_tokens_min > p->kv_block_tokens_max) {
    return cs_error_set(error, CS_CORRUPT, "reports KV blocks of %u to %u tokens",
                        p->kv_block_tokens_min, p->kv_block_tokens_max);
  }
  return CS_OK;
}

cs_status cs_module_device_info(cs_module *module, uint32_t index, cs_device_properties *out,
                                cs_error *error) {
  *out = (cs_device_properties){.struct_size = sizeof *out};
  cs_status status = module->tables.device.device_info(module->instance, index, out, error);
  if (status == CS_OK) status = cs_properties_check(out, error);
  if (status == CS_OK) return CS_OK;
  return cs_error_prefix(error, status, "%s:%u", module->manifest.name, index);
}
