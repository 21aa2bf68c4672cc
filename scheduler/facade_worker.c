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

#define MAX_DEVICES 1024
#define TEXT_BYTES  256

struct consort_worker {
  cs_service *service;
};

/* ---- offering ---- */

cs_status consort_worker_create(consort_runtime *runtime, const consort_worker_options *options,
                                consort_worker **out, cs_error *error) {
  if (!out) return cs_error_set(error, CS_INVALID_ARGUMENT, "no place for the worker");
  *out = NULL;
  consort_worker_options known;
  cs_status status = cs_struct_read(&known, sizeof known, options, "worker options", error);
  if (status) return status;
  if (!runtime || !known.listen)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "no runtime or no address to listen on");
  cs_service_options service = {.runtime = runtime->core,
                                .listen = known.listen,
                                .devices = known.devices,
                                .model = known.model};
  consort_worker *const worker = calloc(1, sizeof *worker);
  if (!worker) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a worker");
  status = cs_secret_read(known.secret_file, &service.secret, error);
  if (!status) status = cs_service_create(&service, &worker->service, error);
  memset(&service.secret, 0, sizeof service.secret);
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
  uint32_t *const numbers =
      realloc(record->numbers, (record->status.n_devices + 1) * sizeof *numbers);
  if (numbers) record->numbers = numbers;
  if (!devices || !numbers) return cs_error_set(told->error, CS_OUT_OF_MEMORY, "out of memory");
  numbers[record->status.n_devices] = device->number;
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
    free(told.records[i].numbers);
  }
  free(told.records);
  free(told.plugins);
  return status;
}
