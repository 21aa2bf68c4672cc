/* consort devices: loads every plugin that a manifest announces, so that a driver problem shows
 * here first, in one line beside the plugins that work. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/setup.h"

/* Whether a worker started here offers it. */
static const char *offer_name(const consort_device_info *device) {
  return device->offer == CONSORT_OFFER_YES     ? "yes"
         : device->offer == CONSORT_OFFER_NAMED ? "named"
                                                : "no";
}

static json_t *device_json(const consort_device_info *device) {
  return json_pack(
      "{so so so so so so so so so so so so sI sI si sb sb si sI}", "name",
      cli_json_string(device->name), "type", cli_json_string(device->type), "description",
      cli_json_string(device->description), "driver", cli_json_string(device->driver), "uuid",
      cli_json_string(device->uuid), "memory_domain", cli_json_string(device->memory_domain),
      "compute_domain", cli_json_string(device->compute_domain), "dtypes",
      cli_json_string(device->dtypes), "kv_dtypes", cli_json_string(device->kv_dtypes), "offer",
      cli_json_string(offer_name(device)), "offer_reason", cli_json_string(device->offer_reason),
      "index", json_integer(device->index), "memory_bytes", (json_int_t)device->memory_bytes,
      "memory_free_bytes", (json_int_t)device->memory_free_bytes, "concurrency",
      (int)device->concurrency, "host_resident", (int)device->host_resident, "software",
      (int)device->software, "sessions", (int)device->n_sessions, "kv_blocks_used",
      (json_int_t)device->kv_blocks_used);
}

static json_t *plugin_json(const consort_plugin_info *plugin) {
  json_t *devices = json_array();
  for (uint32_t i = 0; i < plugin->n_devices; i++)
    json_array_append_new(devices, device_json(&plugin->devices[i]));
  return json_pack("{so so so so so so so}", "name", cli_json_string(plugin->name), "version",
                   cli_json_string(plugin->version), "vendor", cli_json_string(plugin->vendor),
                   "manifest", cli_json_string(plugin->manifest_path), "library",
                   cli_json_string(plugin->library_path), "failure",
                   cli_json_string(plugin->failure), "devices", devices);
}

static int print_json(const consort_plugin_info *plugins, size_t n_plugins) {
  json_t *list = json_array();
  for (size_t i = 0; i < n_plugins; i++)
    json_array_append_new(list, plugin_json(&plugins[i]));
  return cli_print_json(json_pack("{so}", "plugins", list));
}

static void print_device(const consort_device_info *device) {
  char memory[CLI_BYTES_TEXT];
  printf("  %-12s %s, %s%s\n", device->name, device->description,
         cli_format_bytes(device->memory_bytes, memory), device->software ? " (simulated)" : "");
  printf("  %-12s %s; weights %s; KV %s\n", "", device->driver, device->dtypes, device->kv_dtypes);
  if (getenv("SLURM_JOB_ID") && device->offer_reason[0])
    printf("  %-12s offered by a worker here: %s: %s\n", "", offer_name(device),
           device->offer_reason);
}

static int print_text(const consort_plugin_info *plugins, size_t n_plugins, const char *worker) {
  if (n_plugins == 0 && worker)
    printf("%s offers no device\n", worker);
  else if (n_plugins == 0)
    printf("no plugin found: set CONSORT_PLUGIN_PATH to a folder of manifests\n");
  for (size_t i = 0; i < n_plugins; i++) {
    const consort_plugin_info *plugin = &plugins[i];
    if (plugin->failure) {
      printf("%s: no device: %s\n", plugin->name, plugin->failure);
      continue;
    }
    printf("%s %s (%s)%s\n", plugin->name, plugin->version, plugin->vendor,
           plugin->n_devices ? "" : ": no device");
    for (uint32_t j = 0; j < plugin->n_devices; j++)
      print_device(&plugin->devices[j]);
  }
  return cli_finish_output();
}

int cli_devices(int argc, char **argv) {
  bool json = false;
  const char *worker = NULL, *secret_file = NULL;
  const cli_option options[] = {
      {"worker", 0, CLI_OPTION_STRING, &worker, "HOST:PORT",
       "devices that a worker in another process offers", 0, 0, NULL},
      {"secret-file", 0, CLI_OPTION_STRING, &secret_file, "FILE",
       "holds the worker's secret (CONSORT_SECRET)", 0, 0, NULL},
      {"json", 0, CLI_OPTION_FLAG, &json, NULL, "print one JSON object", 0, 0, NULL}};
  const cli_syntax syntax = {
      .command = "devices",
      .usage = "[--worker HOST:PORT] [--json]",
      .summary = "Shows every plugin and its devices, or why a plugin has none.",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
  };
  int status;
  if (!cli_options_parse(&syntax, argc, argv, &status)) return status;

  consort_runtime *runtime;
  if ((status = cli_runtime_create(&runtime)) != CLI_DONE) return status;
  cs_error error = CS_ERROR_INIT;
  consort_plugin_info *plugins;
  size_t n_plugins;
  const cs_status listed =
      worker ? consort_worker_plugins(runtime, worker, secret_file, &plugins, &n_plugins, &error)
             : consort_runtime_plugins(runtime, &plugins, &n_plugins, &error);
  if (listed != CS_OK) {
    status = cli_library_error("devices", &error);
  } else {
    status = json ? print_json(plugins, n_plugins) : print_text(plugins, n_plugins, worker);
    consort_free(plugins);
  }
  consort_runtime_destroy(runtime);
  return status;
}
