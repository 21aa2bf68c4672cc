/* Which devices there are. A failed zeInit is final for the process, and asking on for drivers may
 * crash the loader, so the first failure ends the search. Counts are always asked for first: not
 * every driver corrects one that is too large. */
#include "level_zero.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEVICES  64
#define MAX_MEMORIES 16

/* ---- finding ---- */

static cs_status find_drivers(level_zero_root *root, cs_error *error) {
  const level_zero_api *api = &root->api;
  const ze_result_t result = api->zeInit(0);
  if (result != ZE_RESULT_SUCCESS)
    return cs_sdk_error(error, CS_NOT_FOUND, result,
                        "no Level Zero driver is installed that can start (zeInit: 0x%x)",
                        (unsigned)result);
  uint32_t n = 0;
  LEVEL_ZERO_TRY(api, zeDriverGet, &n, NULL);
  if (n == 0) return cs_sdk_error(error, CS_NOT_FOUND, 0, "no Level Zero driver is installed");
  if (n > LEVEL_ZERO_MAX_DRIVERS) n = LEVEL_ZERO_MAX_DRIVERS;
  LEVEL_ZERO_TRY(api, zeDriverGet, &n, root->drivers);
  const ze_context_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_CONTEXT_DESC};
  for (; root->n_drivers < n; root->n_drivers++)
    LEVEL_ZERO_TRY(api, zeContextCreate, root->drivers[root->n_drivers], &desc,
                   &root->contexts[root->n_drivers]);
  return CS_OK;
}

static uint32_t find_devices(const level_zero_root *root, level_zero_found found[MAX_DEVICES]) {
  uint32_t n_found = 0;
  for (uint32_t d = 0; d < root->n_drivers; d++) {
    ze_device_handle_t devices[MAX_DEVICES];
    uint32_t n = 0;
    if (root->api.zeDeviceGet(root->drivers[d], &n, NULL) != ZE_RESULT_SUCCESS) continue;
    if (n > MAX_DEVICES - n_found) n = MAX_DEVICES - n_found;
    if (n == 0 || root->api.zeDeviceGet(root->drivers[d], &n, devices) != ZE_RESULT_SUCCESS)
      continue;
    for (uint32_t i = 0; i < n; i++)
      found[n_found++] = (level_zero_found){devices[i], d};
  }
  return n_found;
}

static cs_status instance_new(level_zero_root *root, cs_plugin_instance **out, cs_error *error) {
  level_zero_found found[MAX_DEVICES];
  const uint32_t n = find_devices(root, found);
  if (n == 0) return cs_sdk_error(error, CS_NOT_FOUND, 0, "the Level Zero driver has no device");
  const cs_host *host = root->host;
  cs_plugin_instance *instance =
      host->allocate(host->context, sizeof *instance + n * sizeof *found, 16);
  if (!instance) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  *instance = (cs_plugin_instance){.root = root, .n_devices = n};
  memcpy(instance->devices, found, n * sizeof *found);
  *out = instance;
  return CS_OK;
}

static cs_status instance_create(const cs_host *host, cs_plugin_instance **out, cs_error *error) {
  *out = NULL;
  level_zero_root *root = host->allocate(host->context, sizeof *root, 16);
  if (!root) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  memset(root, 0, sizeof *root);
  if (pthread_rwlock_init(&root->handles, NULL) != 0) {
    host->deallocate(host->context, root);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no lock for the instance");
  }
  root->host = host;
  atomic_init(&root->references, 1);
  cs_status status = level_zero_api_load(&root->api, error);
  if (status == CS_OK) status = find_drivers(root, error);
  if (status == CS_OK) status = instance_new(root, out, error);
  if (status != CS_OK) level_zero_root_release(root);
  return status;
}

void level_zero_root_retain(level_zero_root *root) {
  atomic_fetch_add_explicit(&root->references, 1, memory_order_relaxed);
}

void level_zero_root_release(level_zero_root *root) {
  if (atomic_fetch_sub_explicit(&root->references, 1, memory_order_acq_rel) != 1) return;
  for (uint32_t i = 0; i < root->n_drivers; i++)
    root->api.zeContextDestroy(root->contexts[i]);
  pthread_rwlock_destroy(&root->handles);
  root->host->deallocate(root->host->context, root);
}

void level_zero_destroy_begin(level_zero_root *root) {
  pthread_rwlock_wrlock(&root->handles);
}

void level_zero_destroy_end(level_zero_root *root) {
  pthread_rwlock_unlock(&root->handles);
}

static void instance_destroy(cs_plugin_instance *instance) {
  if (!instance) return;
  const cs_host *host = instance->root->host;
  level_zero_root_release(instance->root);
  host->deallocate(host->context, instance);
}

static uint32_t device_count(cs_plugin_instance *instance) {
  return instance->n_devices;
}

/* ---- properties ---- */

static ze_device_properties_t properties_of(const level_zero_root *root,
                                            const level_zero_found *found) {
  ze_device_properties_t properties = {.stype = ZE_STRUCTURE_TYPE_DEVICE_PROPERTIES};
  root->api.zeDeviceGetProperties(found->device, &properties);
  return properties;
}

clc_variant level_zero_default_variant(const level_zero_root *root, const level_zero_found *found) {
  return properties_of(root, found).type == ZE_DEVICE_TYPE_CPU ? CLC_VARIANT_CPU : CLC_VARIANT_GPU;
}

static uint64_t memory_bytes(const level_zero_root *root, const level_zero_found *found) {
  ze_device_memory_properties_t memories[MAX_MEMORIES];
  for (uint32_t i = 0; i < MAX_MEMORIES; i++)
    memories[i] =
        (ze_device_memory_properties_t){.stype = ZE_STRUCTURE_TYPE_DEVICE_MEMORY_PROPERTIES};
  uint32_t n = 0;
  uint64_t bytes = 0;
  if (root->api.zeDeviceGetMemoryProperties(found->device, &n, NULL) != ZE_RESULT_SUCCESS) return 0;
  if (n > MAX_MEMORIES) n = MAX_MEMORIES;
  if (root->api.zeDeviceGetMemoryProperties(found->device, &n, memories) != ZE_RESULT_SUCCESS)
    return 0;
  for (uint32_t i = 0; i < n; i++)
    bytes += memories[i].totalSize;
  return bytes;
}

static void describe_uuid(const ze_device_uuid_t *uuid, char *out, size_t bytes) {
  for (size_t i = 0; i < sizeof uuid->id && 2 * i + 3 <= bytes; i++)
    snprintf(out + 2 * i, 3, "%02x", uuid->id[i]);
}

/* An integrated device takes its memory from the host's; others are alone in their domain. */
static void describe_domains(const ze_device_properties_t *device, cs_device_properties *out) {
  const uint8_t *id = device->uuid.id;
  uint64_t name = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  for (size_t i = 0; i < sizeof device->uuid.id; i++)
    name = (name ^ id[i]) * UINT64_C(0x100000001b3);
  snprintf(out->compute_domain, sizeof out->compute_domain, "level_zero-%016llx",
           (unsigned long long)name);
  if (device->flags & ZE_DEVICE_PROPERTY_FLAG_INTEGRATED)
    snprintf(out->memory_domain, sizeof out->memory_domain, "host");
  else
    memcpy(out->memory_domain, out->compute_domain, sizeof out->memory_domain);
}

void level_zero_describe(const level_zero_root *root, const level_zero_found *found,
                         clc_variant variant, cs_device_properties *out) {
  const ze_device_properties_t device = properties_of(root, found);
  ze_driver_properties_t driver = {.stype = ZE_STRUCTURE_TYPE_DRIVER_PROPERTIES};
  root->api.zeDriverGetProperties(root->drivers[found->driver], &driver);
  *out = (cs_device_properties){.struct_size = sizeof *out};
  clc_describe(out);
  out->type = device.type == ZE_DEVICE_TYPE_GPU   ? CS_DEVICE_TYPE_GPU
              : device.type == ZE_DEVICE_TYPE_CPU ? CS_DEVICE_TYPE_CPU
                                                  : CS_DEVICE_TYPE_ACCELERATOR;
  out->memory_bytes = memory_bytes(root, found);
  out->memory_free_bytes = out->memory_bytes;
  out->concurrency = device.numSlices * device.numSubslicesPerSlice * device.numEUsPerSubslice;
  describe_uuid(&device.uuid, out->uuid, sizeof out->uuid);
  describe_domains(&device, out);
  snprintf(out->driver, sizeof out->driver, "Level Zero driver %u.%u.%u, %s kernels",
           driver.driverVersion >> 24, driver.driverVersion >> 16 & 0xff,
           driver.driverVersion & 0xffff, clc_variant_name(variant));
  snprintf(out->description, sizeof out->description, "%.60s (%u execution units)", device.name,
           out->concurrency);
}

static cs_status device_info(cs_plugin_instance *instance, uint32_t index,
                             cs_device_properties *out, cs_error *error) {
  if (index >= instance->n_devices)
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is no Level Zero device %u", index);
  const level_zero_found *found = &instance->devices[index];
  cs_device_properties properties;
  level_zero_describe(instance->root, found, level_zero_default_variant(instance->root, found),
                      &properties);
  cs_sdk_struct_write(out, &properties, sizeof properties);
  return CS_OK;
}

const cs_device_table level_zero_device_table = {.struct_size = sizeof(cs_device_table),
                                                 .instance_create = instance_create,
                                                 .instance_destroy = instance_destroy,
                                                 .device_count = device_count,
                                                 .device_info = device_info,
                                                 .device_open = level_zero_device_open,
                                                 .device_close = level_zero_device_close,
                                                 .device_properties = level_zero_device_properties};
