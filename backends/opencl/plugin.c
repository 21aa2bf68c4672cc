/* The entry: tables by id. */
#include "opencl.h"

static const void *table(uint32_t id, uint32_t revision) {
  if (revision != 0) return NULL;
  switch (id) {
  case CS_TABLE_DEVICE:
    return &opencl_device_table;
  case CS_TABLE_MEMORY:
    return &opencl_memory_table;
  default:
    return clc_table(id);
  }
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  return cs_sdk_query(host, plugin, "opencl", "0.1.0", "Consort", table);
}
