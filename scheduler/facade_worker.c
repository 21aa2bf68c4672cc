/* Workers in other processes as libconsort shows them. Devices that are told one by one are
 * gathered by plugin, so that both kinds of list look alike. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/facade.h"
#include "scheduler/remote.h"
#include "scheduler/service.h"
#include "scheduler/structs.h"

#define MAX_DEVICES       1024
#define TEXT_BYTES        256
#define DEVICE_NAME_BYTES 96

struct consort_worker {
  cs_service *service;
};

/* ---- offering ---- */

/* Adds a name to a list that is long enough. */
static void add_name(char *list, const char *name) {
  if (list[0]) strcat(list, ",");
  strcat(list, name);
}

/* "NAME:INDEX,..." of those that the process's batch job gives; to be freed. NULL: every device.
 * A job's processors alone are no answer where some of its chips are only unclear. */
static cs_status list_offered(const consort_plugin_info *plugins, size_t n_plugins, char **out,
                              cs_error *error) {
  const char *refused = NULL, *unclear = NULL;
  uint32_t n = 0, n_offered = 0, n_chips = 0;
  for (size_t p = 0; p < n_plugins; p++)
    n += plugins[p].n_devices;
  *out = calloc(n + 1, DEVICE_NAME_BYTES);
  if (!*out) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a worker");
  for (size_t p = 0; p < n_plugins; p++)
    for (uint32_t d = 0; d < plugins[p].n_devices; d++) {
      const consort_device_info *const device = &plugins[p].devices[d];
      if (device->offer == CONSORT_OFFER_NO) refused = device->offer_reason;
      if (device->offer == CONSORT_OFFER_NAMED) unclear = device->offer_reason;
      if (device->offer != CONSORT_OFFER_YES) continue;
      add_name(*out, device->name);
      n_offered++;
      n_chips += strcmp(device->type, "gpu") == 0 || strcmp(device->type, "accelerator") == 0;
    }
  if (unclear && n_chips == 0)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%.200s, or name it with --device", unclear);
  if (n_offered == 0)
    return cs_error_set(error, CS_NOT_FOUND, "no device to offer: %.200s",
                        refused ? refused : "there is none");
  if (n_offered == n) {
    free(*out);
    *out = NULL;
  }
  return CS_OK;
}

/* CS_INVALID_ARGUMENT for a device that the job was not given. */
static cs_status check_named(const consort_plugin_info *plugins, size_t n_plugins, const char *list,
                             cs_error *error) {
  for (size_t p = 0; p < n_plugins; p++)
    for (uint32_t d = 0; d < plugins[p].n_devices; d++) {
      const consort_device_info *const device = &plugins[p].devices[d];
      if (device->offer != CONSORT_OFFER_NO) continue;
      const size_t n = strlen(device->name);
      for (const char *at = list; at; at = strchr(at, ','), at += at != NULL)
        if (strncmp(at, device->name, n) == 0 && (!at[n] || at[n] == ',' || at[n] == '?'))
          return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: %.180s", device->name,
                              device->offer_reason);
    }
  return CS_OK;
}

/* What to offer: as told, within what the job has, or all of that. */
static cs_status choose_devices(consort_runtime *runtime, const char *asked, char **out,
                                cs_error *error) {
  consort_plugin_info *plugins;
  size_t n_plugins;
  *out = NULL;
  cs_status status = consort_runtime_plugins(runtime, &plugins, &n_plugins, error);
  if (status) return status;
  if (!asked) {
    status = list_offered(plugins, n_plugins, out, error);
  } else {
    status = check_named(plugins, n_plugins, asked, error);
    if (!status && !(*out = strdup(asked)))
      status = cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a worker");
  }
  consort_free(plugins);
  return status;
}

cs_status consort_worker_create(consort_runtime *runtime, const consort_worker_options *options,
                                consort_worker **out, cs_error *error) {
  if (!out) return cs_error_set(error, CS_INVALID_ARGUMENT, "no place for the worker");
  *out = NULL;
  consort_worker_options known;
  cs_status status = cs_struct_read(&known, sizeof known, options, "worker options", error);
  if (status) return status;
  if (!runtime || !known.listen)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "no runtime or no address to listen on");
  cs_service_options service = {
      .runtime = runtime->core, .listen = known.listen, .model = known.model};
  consort_worker *const worker = calloc(1, sizeof *worker);
  if (!worker) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a worker");
  char *devices = NULL;
  status = cs_secret_read(known.secret_file, &service.secret, error);
  if (!status) status = choose_devices(runtime, known.devices, &devices, error);
  service.devices = devices;
  if (!status) status = cs_service_create(&service, &worker->service, error);
  memset(&service.secret, 0, sizeof service.secret);
  free(devices);
  if (status) {
    free(worker);
    return status;
  }
  *out = worker;
  return CS_OK;
}

const char *consort_worker_address(const consort_worker *worker) {
  return cs_service_address(worker->service);
}

void consort_worker_destroy(consort_worker *worker) {
  if (!worker) return;
  cs_service_destroy(worker->service);
  free(worker);
}

/* ---- asking ---- */

/* A plugin and the texts that its record borrows. */
typedef struct told_plugin {
  char name[TEXT_BYTES];
  char version[TEXT_BYTES];
  char vendor[TEXT_BYTES];
} told_plugin;

typedef struct told_devices {
  cs_plugin_record *records; /* (n_plugins) */
  told_plugin *plugins;      /* likewise */
  uint32_t n_plugins;
  uint32_t n_devices;
  cs_error *error;
} told_devices;

static cs_status add_plugin(told_devices *told, const cs_device_message *device) {
  cs_plugin_record *const records = realloc(told->records, (told->n_plugins + 1) * sizeof *records);
  if (records) told->records = records;
  told_plugin *const plugins = realloc(told->plugins, (told->n_plugins + 1) * sizeof *plugins);
  if (plugins) told->plugins = plugins;
  if (!records || !plugins) return cs_error_set(told->error, CS_OUT_OF_MEMORY, "out of memory");
  memset(&records[told->n_plugins], 0, sizeof *records);
  told_plugin *const added = &plugins[told->n_plugins++];
  cs_blob_read_text(device->plugin, added->name, sizeof added->name);
  cs_blob_read_text(device->version, added->version, sizeof added->version);
  cs_blob_read_text(device->vendor, added->vendor, sizeof added->vendor);
  return CS_OK;
}

static cs_device_properties properties_of(const cs_device_message *device) {
  cs_device_properties properties = {.struct_size = sizeof properties,
                                     .type = device->type,
                                     .flags = device->flags,
                                     .dtypes = device->dtypes,
                                     .kv_dtypes = device->kv_dtypes,
                                     .memory_bytes = device->memory_bytes,
                                     .memory_free_bytes = device->memory_free_bytes,
                                     .concurrency = device->concurrency};
  cs_blob_read_text(device->description, properties.description, sizeof properties.description);
  cs_blob_read_text(device->driver, properties.driver, sizeof properties.driver);
  cs_blob_read_text(device->uuid, properties.uuid, sizeof properties.uuid);
  cs_blob_read_text(device->memory_domain, properties.memory_domain,
                    sizeof properties.memory_domain);
  cs_blob_read_text(device->compute_domain, properties.compute_domain,
                    sizeof properties.compute_domain);
  return properties;
}

/* Devices of a plugin follow each other; a list keeps them in the order of their numbers. */
static cs_status on_device(void *user, const cs_device_message *device) {
  told_devices *const told = user;
  char name[TEXT_BYTES];
  cs_blob_read_text(device->plugin, name, sizeof name);
  if (++told->n_devices > MAX_DEVICES)
    return cs_error_set(told->error, CS_CORRUPT, "more than %d devices", MAX_DEVICES);
  if (told->n_plugins == 0 || strcmp(told->plugins[told->n_plugins - 1].name, name) != 0) {
    const cs_status status = add_plugin(told, device);
    if (status) return status;
  }
  cs_plugin_record *const record = &told->records[told->n_plugins - 1];
  cs_device_properties *const devices =
      realloc(record->devices, (record->status.n_devices + 1) * sizeof *devices);
  if (devices) record->devices = devices;
  cs_device_use *const uses = realloc(record->uses, (record->status.n_devices + 1) * sizeof *uses);
  if (uses) record->uses = uses;
  if (!devices || !uses) return cs_error_set(told->error, CS_OUT_OF_MEMORY, "out of memory");
  uses[record->status.n_devices] = (cs_device_use){.number = device->number,
                                                   .n_sessions = device->n_sessions,
                                                   .n_kv_blocks_used = device->n_kv_blocks_used};
  devices[record->status.n_devices++] = properties_of(device);
  return CS_OK;
}

static cs_status show(told_devices *told, consort_plugin_info **plugins, cs_error *error) {
  for (uint32_t i = 0; i < told->n_plugins; i++) {
    told->records[i].status.name = told->plugins[i].name;
    told->records[i].status.version = told->plugins[i].version;
    told->records[i].status.vendor = told->plugins[i].vendor;
  }
  return cs_plugin_records_lay_out(told->records, told->n_plugins, NULL, plugins, error);
}

static cs_status ask(const cs_fabric_table *table, cs_log *log, const char *address,
                     const cs_secret *secret, told_devices *told, cs_error *error) {
  const cs_net_options options = {
      .table = table, .loopback = cs_net_is_loopback(address), .log = log};
  cs_net *net;
  cs_status status = cs_net_create(&options, &net, error);
  if (status) return status;
  status = cs_remote_devices(net, address, secret, on_device, told, error);
  cs_net_destroy(net);
  return status;
}

cs_status consort_worker_plugins(consort_runtime *runtime, const char *address,
                                 const char *secret_file, consort_plugin_info **plugins,
                                 size_t *n_plugins, cs_error *error) {
  *plugins = NULL;
  *n_plugins = 0;
  const cs_fabric_table *table;
  cs_secret secret;
  told_devices told = {.error = error};
  cs_status status = cs_fabric_find(&table, error);
  if (!status) status = cs_secret_read(secret_file, &secret, error);
  if (!status) status = ask(table, cs_runtime_log(runtime->core), address, &secret, &told, error);
  if (!status) status = show(&told, plugins, error);
  if (!status) *n_plugins = told.n_plugins;
  for (uint32_t i = 0; i < told.n_plugins; i++) {
    free(told.records[i].devices);
    free(told.records[i].uses);
  }
  free(told.records);
  free(told.plugins);
  return status;
}
