/* The plugin's entry: the tables it hands out. */
#include "cpu.h"

static const void *cpu_table(uint32_t id, uint32_t revision) {
  if (revision != 0) return NULL;
  switch (id) {
  case CS_TABLE_DEVICE:
    return &cpu_device_table;
  case CS_TABLE_MEMORY:
    return &cpu_memory_table;
  case CS_TABLE_STREAM:
    return &cpu_stream_table;
  case CS_TABLE_SEMAPHORE:
    return &cpu_semaphore_table;
  case CS_TABLE_CAPABILITY:
    return &cpu_capability_table;
  case CS_TABLE_EAGER:
    return &cpu_eager_table;
  case CS_TABLE_PROGRAM:
    return &cpu_program_table;
  case CS_TABLE_PROFILE:
    return &cpu_profile_table;
  case CS_TABLE_EXTERNAL_MEMORY:
    return &cpu_external_table;
  case CS_TABLE_PEER:
    return &cpu_peer_table;
  case CS_TABLE_WEIGHTS_MAP:
    return &cpu_weights_map_table;
  default:
    return NULL;
  }
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  return cs_sdk_query(host, plugin, "cpu", CPU_VERSION, "Consort", cpu_table);
}
