/* The entry: tables by id. */
#include "cuda_plugin.h"

static const void *table(uint32_t id, uint32_t revision) {
  if (revision != 0) return NULL;
  switch (id) {
  case CS_TABLE_DEVICE:
    return &cuda_device_table;
  case CS_TABLE_MEMORY:
    return &cuda_memory_table;
  case CS_TABLE_STREAM:
    return &cs_sdk_stream_table;
  case CS_TABLE_SEMAPHORE:
    return &cs_sdk_semaphore_table;
  case CS_TABLE_CAPABILITY:
    return &cuda_capability_table;
  case CS_TABLE_EAGER:
    return &cs_sdk_eager_table;
  case CS_TABLE_PROGRAM:
    return &cs_sdk_program_table;
  case CS_TABLE_PROFILE:
    return &cs_sdk_profile_table;
  case CS_TABLE_EXTERNAL_MEMORY:
    return &cuda_external_table;
  case CS_TABLE_PEER:
    return &cuda_peer_table;
  default:
    return NULL;
  }
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  return cs_sdk_query(host, plugin, "cuda", "0.1.0", "Consort", table);
}
