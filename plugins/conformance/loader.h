/* A plugin library, loaded by path: the kit's own small loader, and the host it offers. */
#ifndef KIT_LOADER_H
#define KIT_LOADER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/plugin.h"

#define KIT_LOG_BYTES 256

/* Counts what the plugin takes from the host, so that leaks show. Free-threaded. */
typedef struct kit_host {
  cs_host host;
  atomic_llong live_bytes;
  atomic_llong live_blocks;
  bool verbose;
  char last_log[KIT_LOG_BYTES]; /* the latest line; torn when threads log at once */
} kit_host;

/* Tables are copied by the struct size rule: an entry the plugin does not know is NULL, and an
 * absent table has struct_size 0. */
typedef struct kit_plugin {
  void *library;
  cs_plugin_query_fn query;
  kit_host host;
  cs_plugin identity;
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
} kit_plugin;

/* Fills a host that speaks the ABI versions of these headers. */
void kit_host_init(kit_host *host, bool verbose);

/* Loads and queries. On failure `why` says what is wrong in one line. The library stays loaded:
 * drivers seldom survive an unload. */
bool kit_plugin_load(kit_plugin *plugin, const char *path, bool verbose, char *why,
                     size_t why_bytes);

#endif
