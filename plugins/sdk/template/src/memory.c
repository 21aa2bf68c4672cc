/* Memory. Here it is the host's; a chip's allocator takes the place of allocate and deallocate.
 * The host keeps handles and offsets only, so nothing else changes when it does. */
#include "plugin.h"

#define MEMORY_BYTES (UINT64_C(1) << 32) /* as the properties say */

cs_status memory_create(cs_plugin_device *device, uint64_t n_bytes, cs_plugin_memory **out,
                        cs_error *error) {
  const cs_host *host = device->sdk.host;
  *out = NULL;
  if (n_bytes > MEMORY_BYTES)
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "%llu bytes do not fit on the device",
                        (unsigned long long)n_bytes);
  cs_plugin_memory *memory = host->allocate(host->context, sizeof *memory, 8);
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  memory->n_bytes = n_bytes;
  memory->bytes = host->allocate(host->context, n_bytes, 64);
  if (!memory->bytes) {
    host->deallocate(host->context, memory);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no room for %llu bytes",
                        (unsigned long long)n_bytes);
  }
  *out = memory;
  return CS_OK;
}

void memory_destroy(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (!memory) return;
  device->sdk.host->deallocate(device->sdk.host->context, memory->bytes);
  device->sdk.host->deallocate(device->sdk.host->context, memory);
}

static cs_status memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                 cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  if (kind != CS_MEMORY_DEVICE)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "no staging memory: the host uses its own");
  return memory_create(device, bytes, out, error);
}

const cs_memory_table memory_table = {
    .struct_size = sizeof memory_table,
    .memory_allocate = memory_allocate,
    .memory_free = memory_destroy,
};
