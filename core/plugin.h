/* One plugin: from its manifest to a started instance with checked tables. Private to core. */
#ifndef CORE_PLUGIN_H
#define CORE_PLUGIN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "core/log.h"
#include "core/manifest.h"

/* What this side knows of a plugin's tables: entries that the plugin does not have are NULL. An
 * optional table that is absent is all zero. */
typedef struct cs_tables {
  cs_device_table device;
  cs_memory_table memory;
  cs_stream_table stream;
  cs_semaphore_table semaphore;
  cs_capability_table capability;
  cs_eager_table eager;
  cs_program_table program;
  cs_kv_layout_table kv_layout;
  cs_external_memory_table external_memory;
  cs_peer_table peer;
  cs_profile_table profile;
  cs_weights_map_table weights_map;
} cs_tables;

/* Host-side services that a plugin calls. Outlives the runtime when the plugin may still use it. */
typedef struct cs_host_services {
  cs_host host;
  cs_log *log;
} cs_host_services;

typedef struct cs_module {
  cs_manifest manifest; /* without a library when the manifest itself is broken */
  pthread_mutex_t mutex;
  bool tried;    /* guarded by mutex; what follows is constant once it is true */
  char *failure; /* NULL when started; owned, one line */
  void *library; /* never closed: a driver's threads may outlive their instance */
  cs_plugin plugin;
  cs_plugin_instance *instance;
  uint32_t n_devices;
  cs_tables tables;
  atomic_bool leaked; /* a stream outlasted its destroy: its thread may still call the host */
} cs_module;

/* Takes over the manifest's strings and zeroes it. NULL when out of memory. */
cs_module *cs_module_create(cs_manifest *manifest);

/* Ends the instance and frees the module's own memory. */
void cs_module_destroy(cs_module *module);

/* Opens the library, negotiates the version, checks the tables and starts the instance, unless
 * that was tried before; the outcome is in module->failure. `probe` (may be NULL) is a program that
 * does it first, so that a crash is told instead of taking the host down. Free-threaded. */
void cs_module_load(cs_module *module, const cs_host *host, cs_log *log, const char *probe);

/* Stores a failure as if loading had been tried. */
void cs_module_refuse(cs_module *module, const char *failure);

/* Why a module that was tried has no instance, NULL when it has one. */
const char *cs_module_failure(const cs_module *module);

/* Properties of a device of a started module, checked. Free-threaded. */
cs_status cs_module_device_info(cs_module *module, uint32_t index, cs_device_properties *out,
                                cs_error *error);

/* CS_CORRUPT when properties break the contract; ends strings that the plugin left open. */
cs_status cs_properties_check(cs_device_properties *properties, cs_error *error);

/* ---- core/plugin_tables.c ---- */

/* Copies the tables that `plugin` hands out by the size rules of the ABI and checks that every
 * required entry is there. CS_UNSUPPORTED or CS_CORRUPT names table and entry. */
cs_status cs_tables_read(const cs_plugin *plugin, cs_tables *out, cs_error *error);

/* Whether the plugin handed out this table, whole enough to be used. */
bool cs_tables_has(const cs_tables *tables, uint32_t table_id);

/* ---- core/plugin_probe.c ---- */

#define CS_PROBE_PROGRAM    "consort-probe"
#define CS_PROBE_DESCRIPTOR 3
#define CS_PROBE_END        "." /* the last byte of a probe that came to its own end */
#define CS_PROBE_TIMEOUT_MS 10000

/* Has the program `probe` start the plugin and end it. CS_FAILED when that crashed or ended the
 * process, CS_TIMEOUT when it did not answer in time, CS_IO when the program could not run; CS_OK
 * whenever it lived, whatever the plugin answered. */
cs_status cs_plugin_probe(const char *probe, const char *library, uint32_t timeout_ms,
                          cs_error *error);

#endif
