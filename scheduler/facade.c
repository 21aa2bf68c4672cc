/* The runtime and its devices as libconsort shows them. A list of plugins is one allocation that is
 * laid out twice, first to measure and then to write, so that callers free one pointer. */
#include "scheduler/facade.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "scheduler/offer.h"
#include "scheduler/structs.h"

const char *consort_version(void) {
  return CONSORT_VERSION;
}

const char *consort_commit(void) {
  return CONSORT_COMMIT;
}

void consort_abi_range(uint32_t *lowest, uint32_t *highest) {
  *lowest = 0;
  *highest = CS_ABI_VERSION;
}

const char *consort_status_name(cs_status status) {
  return cs_status_name(status);
}

void consort_free(void *pointer) {
  free(pointer);
}

/* ---- runtime ---- */

cs_status consort_runtime_create(const consort_runtime_options *options, consort_runtime **out,
                                 cs_error *error) {
  *out = NULL;
  const consort_runtime_options usual = {.struct_size = sizeof usual, .log_level = CS_LOG_WARN};
  consort_runtime_options wanted;
  cs_status status =
      cs_struct_read(&wanted, sizeof wanted, options ? options : &usual, "runtime options", error);
  if (status != CS_OK) return status;
  consort_runtime *runtime = calloc(1, sizeof *runtime);
  if (!runtime) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const cs_runtime_options core_options = {.log_level = wanted.log_level,
                                           .log_sink = wanted.log,
                                           .log_user = wanted.log_user,
                                           .probe = !wanted.skip_probe};
  status = cs_runtime_create(&core_options, &runtime->core, error);
  if (status != CS_OK) {
    free(runtime);
    return status;
  }
  *out = runtime;
  return CS_OK;
}

void consort_runtime_destroy(consort_runtime *runtime) {
  if (!runtime) return;
  cs_runtime_release(runtime->core);
  free(runtime);
}

/* ---- plugins and devices ---- */

/* A block that is filled from the front; with base NULL it only counts. */
typedef struct layout {
  char *base;
  size_t used;
} layout;

static void *take(layout *block, size_t bytes) {
  void *place = block->base ? block->base + block->used : NULL;
  block->used += (bytes + 7) & ~(size_t)7;
  return place;
}

static const char *take_string(layout *block, const char *text) {
  if (!text) return NULL;
  const size_t bytes = strlen(text) + 1;
  char *place = take(block, bytes);
  if (place) memcpy(place, text, bytes);
  return place;
}

static const char *type_name(uint32_t type) {
  switch (type) {
  case CS_DEVICE_TYPE_CPU:
    return "cpu";
  case CS_DEVICE_TYPE_GPU:
    return "gpu";
  default:
    return "accelerator";
  }
}

/* "f32 f16 q8_0" */
static const char *take_dtypes(layout *block, uint64_t mask) {
  char names[512] = "";
  size_t used = 0;
  for (uint32_t dtype = 0; dtype < CS_DTYPE_LIMIT; dtype++) {
    const cs_dtype_info *info = cs_dtype_find(dtype);
    if (!info || !(mask & CS_DTYPE_BIT(dtype)) || used >= sizeof names) continue;
    used +=
        (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? " " : "", info->name);
  }
  return take_string(block, names);
}

static void lay_out_device(layout *block, consort_device_info *out, const char *plugin,
                           const cs_device_use *use, const cs_device_properties *properties,
                           const cs_offer_device *offer) {
  char name[96];
  snprintf(name, sizeof name, "%s:%u", plugin, use->number);
  const consort_device_info info = {
      .struct_size = sizeof info,
      .index = use->number,
      .name = take_string(block, name),
      .type = type_name(properties->type),
      .description = take_string(block, properties->description),
      .driver = take_string(block, properties->driver),
      .uuid = take_string(block, properties->uuid),
      .memory_domain = take_string(block, properties->memory_domain),
      .compute_domain = take_string(block, properties->compute_domain),
      .dtypes = take_dtypes(block, properties->dtypes),
      .kv_dtypes = take_dtypes(block, properties->kv_dtypes),
      .memory_bytes = properties->memory_bytes,
      .memory_free_bytes = properties->memory_free_bytes,
      .concurrency = properties->concurrency,
      .host_resident = (properties->flags & CS_DEVICE_HOST_RESIDENT) != 0,
      .software = (properties->flags & CS_DEVICE_SOFTWARE) != 0,
      .offer = offer->verdict == CS_OFFER_YES       ? CONSORT_OFFER_YES
               : offer->verdict == CS_OFFER_UNCLEAR ? CONSORT_OFFER_NAMED
                                                    : CONSORT_OFFER_NO,
      .offer_reason = take_string(block, offer->reason),
      .kv_blocks_used = use->n_kv_blocks_used,
      .n_sessions = use->n_sessions,
  };
  if (out) *out = info;
}

/* offers: one for each device in order; NULL where they are another process's, which has chosen. */
static void lay_out(layout *block, const cs_plugin_record *records, uint32_t n_plugins,
                    const cs_offer_device *offers) {
  static const cs_offer_device chosen = {.verdict = CS_OFFER_YES};
  consort_plugin_info *plugins = take(block, n_plugins * sizeof *plugins);
  for (uint32_t i = 0; i < n_plugins; i++) {
    const cs_plugin_status *status = &records[i].status;
    consort_device_info *devices = take(block, status->n_devices * sizeof *devices);
    const consort_plugin_info info = {
        .struct_size = sizeof info,
        .n_devices = status->n_devices,
        .name = take_string(block, status->name),
        .version = take_string(block, status->version),
        .vendor = take_string(block, status->vendor),
        .manifest_path = take_string(block, status->manifest_path),
        .library_path = take_string(block, status->library_path),
        .failure = take_string(block, status->failure),
        .devices = devices,
    };
    for (uint32_t j = 0; j < status->n_devices; j++) {
      const cs_device_use unused = {.number = j};
      lay_out_device(block, devices ? devices + j : NULL, status->name,
                     records[i].uses ? &records[i].uses[j] : &unused, &records[i].devices[j],
                     offers ? offers++ : &chosen);
    }
    if (plugins) plugins[i] = info;
  }
}

static cs_status read_plugin(cs_runtime *runtime, uint32_t index, cs_plugin_record *record,
                             cs_error *error) {
  cs_status status = cs_runtime_plugin(runtime, index, &record->status, error);
  if (status != CS_OK) return status;
  const uint32_t n_devices = record->status.n_devices;
  if (n_devices == 0) return CS_OK;
  record->devices = calloc(n_devices, sizeof *record->devices);
  if (!record->devices) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  for (uint32_t i = 0; i < n_devices && status == CS_OK; i++) {
    record->devices[i].struct_size = sizeof record->devices[i];
    status = cs_runtime_device_info(runtime, index, i, &record->devices[i], error);
  }
  return status;
}

/* An environment that cannot be understood is told at each device, and nothing is offered. */
static void decide_offers(cs_offer_device *offers, size_t n) {
  cs_allocation allocation;
  cs_error error = CS_ERROR_INIT;
  cs_status status = cs_allocation_read(&cs_process_environment, &allocation, &error);
  if (!status) status = cs_offer_choose(&allocation, &cs_process_environment, offers, n, &error);
  for (size_t i = 0; i < n && status; i++) {
    offers[i].verdict = CS_OFFER_NO;
    snprintf(offers[i].reason, sizeof offers[i].reason, "%.191s", error.message);
  }
}

/* One for each device, in order; NULL when out of memory. */
static cs_offer_device *create_offers(const cs_plugin_record *records, uint32_t n_plugins) {
  size_t n = 0;
  for (uint32_t i = 0; i < n_plugins; i++)
    n += records[i].status.n_devices;
  cs_offer_device *const offers = calloc(n + 1, sizeof *offers);
  if (!offers) return NULL;
  cs_offer_device *next = offers;
  for (uint32_t i = 0; i < n_plugins; i++)
    for (uint32_t j = 0; j < records[i].status.n_devices; j++)
      *next++ = (cs_offer_device){.plugin = records[i].status.name,
                                  .index = j,
                                  .uuid = records[i].devices[j].uuid,
                                  .on_processors = records[i].devices[j].type == CS_DEVICE_TYPE_CPU,
                                  .visible_devices = records[i].status.visible_devices};
  decide_offers(offers, n);
  return offers;
}

cs_status cs_plugin_records_lay_out(const cs_plugin_record *records, uint32_t n_plugins,
                                    const cs_offer_device *offers, consort_plugin_info **plugins,
                                    cs_error *error) {
  layout block = {0};
  lay_out(&block, records, n_plugins, offers);
  block.base = malloc(block.used + 1);
  if (block.base) {
    block.used = 0;
    lay_out(&block, records, n_plugins, offers);
    *plugins = (consort_plugin_info *)(void *)block.base;
  }
  return block.base ? CS_OK : cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
}

cs_status consort_runtime_plugins(consort_runtime *runtime, consort_plugin_info **plugins,
                                  size_t *n_plugins, cs_error *error) {
  *plugins = NULL;
  *n_plugins = 0;
  const uint32_t n = cs_runtime_n_plugins(runtime->core);
  cs_plugin_record *records = calloc(n ? n : 1, sizeof *records);
  if (!records) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_status status = CS_OK;
  for (uint32_t i = 0; i < n && status == CS_OK; i++)
    status = read_plugin(runtime->core, i, &records[i], error);
  cs_offer_device *const offers = status == CS_OK ? create_offers(records, n) : NULL;
  if (status == CS_OK && !offers) status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  if (status == CS_OK) status = cs_plugin_records_lay_out(records, n, offers, plugins, error);
  free(offers);
  if (status == CS_OK) *n_plugins = n;
  for (uint32_t i = 0; i < n; i++)
    free(records[i].devices);
  free(records);
  return status;
}
