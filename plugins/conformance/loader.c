/* The loader does what the contract promises a plugin and nothing more: it looks up one symbol,
 * offers an allocator and a log, and copies the tables. Allocations carry a header with their size,
 * because deallocate is not told it. */
#include "loader.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct block_header {
  void *start;
  uint64_t bytes;
} block_header;

static void *host_allocate(void *context, uint64_t bytes, uint64_t alignment) {
  kit_host *host = context;
  if (alignment < _Alignof(max_align_t)) alignment = _Alignof(max_align_t);
  if (bytes > SIZE_MAX / 2 || alignment > SIZE_MAX / 4) return NULL;
  char *start = malloc((size_t)(bytes + alignment + sizeof(block_header)));
  if (!start) return NULL;
  const uintptr_t first = (uintptr_t)start + sizeof(block_header);
  char *aligned = start + (((first + alignment - 1) & ~(alignment - 1)) - (uintptr_t)start);
  const block_header header = {.start = start, .bytes = bytes};
  memcpy(aligned - sizeof header, &header, sizeof header);
  atomic_fetch_add(&host->live_bytes, (long long)bytes);
  atomic_fetch_add(&host->live_blocks, 1);
  return aligned;
}

static void host_deallocate(void *context, void *pointer) {
  kit_host *host = context;
  if (!pointer) return;
  block_header header;
  memcpy(&header, (char *)pointer - sizeof header, sizeof header);
  atomic_fetch_sub(&host->live_bytes, (long long)header.bytes);
  atomic_fetch_sub(&host->live_blocks, 1);
  free(header.start);
}

static void host_log(void *context, uint32_t level, const char *line) {
  kit_host *host = context;
  if (host->verbose) fprintf(stderr, "plugin log %u: %s\n", level, line);
}

void kit_host_init(kit_host *host, bool verbose) {
  memset(host, 0, sizeof *host);
  host->verbose = verbose;
  host->host = (cs_host){.struct_size = sizeof host->host,
                         .abi_min = 0,
                         .abi_max = CS_ABI_VERSION,
                         .context = host,
                         .allocate = host_allocate,
                         .deallocate = host_deallocate,
                         .log = host_log};
}

static bool copy_table(const cs_plugin *plugin, uint32_t id, void *to, uint32_t to_bytes) {
  memset(to, 0, to_bytes);
  const void *table = plugin->table(id, 0);
  if (!table) return false;
  uint32_t bytes;
  memcpy(&bytes, table, sizeof bytes);
  memcpy(to, table, bytes < to_bytes ? bytes : to_bytes);
  return true;
}

static bool copy_tables(kit_plugin *plugin, char *why, size_t why_bytes) {
  const cs_plugin *identity = &plugin->identity;
  const struct {
    uint32_t id;
    void *to;
    uint32_t bytes;
    const char *required_name; /* NULL: optional */
  } tables[] = {
      {CS_TABLE_DEVICE, &plugin->device, sizeof plugin->device, "device"},
      {CS_TABLE_MEMORY, &plugin->memory, sizeof plugin->memory, "memory"},
      {CS_TABLE_STREAM, &plugin->stream, sizeof plugin->stream, "stream"},
      {CS_TABLE_SEMAPHORE, &plugin->semaphore, sizeof plugin->semaphore, "semaphore"},
      {CS_TABLE_CAPABILITY, &plugin->capability, sizeof plugin->capability, "capability"},
      {CS_TABLE_EAGER, &plugin->eager, sizeof plugin->eager, NULL},
      {CS_TABLE_PROGRAM, &plugin->program, sizeof plugin->program, NULL},
      {CS_TABLE_KV_LAYOUT, &plugin->kv_layout, sizeof plugin->kv_layout, NULL},
      {CS_TABLE_EXTERNAL_MEMORY, &plugin->external_memory, sizeof plugin->external_memory, NULL},
      {CS_TABLE_PEER, &plugin->peer, sizeof plugin->peer, NULL},
      {CS_TABLE_PROFILE, &plugin->profile, sizeof plugin->profile, NULL},
      {CS_TABLE_WEIGHTS_MAP, &plugin->weights_map, sizeof plugin->weights_map, NULL},
  };
  for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
    const bool is_there = copy_table(identity, tables[i].id, tables[i].to, tables[i].bytes);
    if (is_there || !tables[i].required_name) continue;
    snprintf(why, why_bytes, "the required %s table is absent", tables[i].required_name);
    return false;
  }
  if (!plugin->eager.ops_enqueue && !plugin->program.program_launch) {
    snprintf(why, why_bytes, "neither the eager nor the program table is there");
    return false;
  }
  return true;
}

bool kit_plugin_load(kit_plugin *plugin, const char *path, bool verbose, char *why,
                     size_t why_bytes) {
  memset(plugin, 0, sizeof *plugin);
  kit_host_init(&plugin->host, verbose);
  plugin->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!plugin->library) {
    snprintf(why, why_bytes, "%s", dlerror());
    return false;
  }
  void *symbol = dlsym(plugin->library, CS_PLUGIN_QUERY_SYMBOL);
  if (!symbol) {
    snprintf(why, why_bytes, "no symbol " CS_PLUGIN_QUERY_SYMBOL);
    return false;
  }
  memcpy(&plugin->query, &symbol, sizeof symbol);
  plugin->identity.struct_size = sizeof plugin->identity;
  const cs_status status = plugin->query(&plugin->host.host, &plugin->identity);
  if (status != CS_OK) {
    snprintf(why, why_bytes, "cs_plugin_query answers status %d to ABI 0 to %d", status,
             CS_ABI_VERSION);
    return false;
  }
  if (!plugin->identity.name || !plugin->identity.table) {
    snprintf(why, why_bytes, "cs_plugin_query leaves the name or the table function NULL");
    return false;
  }
  return copy_tables(plugin, why, why_bytes);
}
