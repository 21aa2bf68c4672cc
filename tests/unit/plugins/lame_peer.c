/* The CPU plugin under another name, whose copies between devices go wrong as LAME_PEER says:
 * "refuse" (the call fails), "poison" (the stream fails later), "short" (a byte is not copied), or
 * that takes part in no sharing of memory ("alone"). It is told where the CPU plugin lies by
 * LAME_PEER_TARGET. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "consort/sdk.h"

static const void *(*target_table)(uint32_t id, uint32_t revision); /* set once, by the query */

static cs_status poison(cs_plugin_stream *stream, cs_plugin_device *device) {
  const cs_semaphore_table *semaphores = target_table(CS_TABLE_SEMAPHORE, 0);
  const cs_stream_table *streams = target_table(CS_TABLE_STREAM, 0);
  cs_plugin_semaphore *gate = NULL; /* left to the device: the stream still waits for it */
  cs_error reason = CS_ERROR_INIT;
  cs_sdk_error(&reason, CS_FAILED, 0, "the link went down");
  cs_status status = semaphores->semaphore_create(device, 0, &gate, NULL);
  if (status == CS_OK) status = semaphores->semaphore_fail(gate, &reason, NULL);
  if (status == CS_OK) status = streams->stream_wait(stream, gate, 1, NULL);
  if (gate) semaphores->semaphore_destroy(gate); /* the stream keeps what it waits for */
  return status;
}

static cs_status peer_copy(cs_plugin_stream *stream, cs_plugin_device *to_device,
                           cs_plugin_memory *to, uint64_t to_offset, const cs_plugin_memory *from,
                           uint64_t from_offset, uint64_t bytes, cs_error *error) {
  const cs_peer_table *peer = target_table(CS_TABLE_PEER, 0);
  const char *how = getenv("LAME_PEER");
  if (how && strcmp(how, "refuse") == 0)
    return cs_sdk_error(error, CS_FAILED, 0, "the link is down");
  if (how && strcmp(how, "poison") == 0) return poison(stream, to_device);
  if (how && strcmp(how, "short") == 0) bytes--;
  return peer->stream_peer_copy(stream, to_device, to, to_offset, from, from_offset, bytes, error);
}

static cs_status memory_export(cs_plugin_device *device, cs_plugin_memory *memory, uint32_t type,
                               int64_t *handle, cs_error *error) {
  const cs_external_memory_table *external = target_table(CS_TABLE_EXTERNAL_MEMORY, 0);
  const char *how = getenv("LAME_PEER");
  if (how && strcmp(how, "alone") == 0)
    return cs_sdk_error(error, CS_FAILED, 0, "this memory is not shared");
  return external->memory_export(device, memory, type, handle, error);
}

static const void *find_table(uint32_t id, uint32_t revision) {
  static cs_peer_table peer;
  static cs_external_memory_table external;
  if (id == CS_TABLE_EXTERNAL_MEMORY && revision == 0) {
    external = *(const cs_external_memory_table *)target_table(id, revision);
    external.memory_export = memory_export;
    return &external;
  }
  if (id != CS_TABLE_PEER || revision != 0) return target_table(id, revision);
  peer = *(const cs_peer_table *)target_table(id, revision);
  peer.stream_peer_copy = peer_copy;
  return &peer;
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  void *library = dlopen(getenv("LAME_PEER_TARGET"), RTLD_NOW | RTLD_LOCAL);
  void *symbol = library ? dlsym(library, CS_PLUGIN_QUERY_SYMBOL) : NULL;
  cs_plugin_query_fn query = NULL;
  memcpy(&query, &symbol, sizeof query);
  if (!query || query(host, plugin) != CS_OK) return CS_FAILED;
  target_table = plugin->table;
  return cs_sdk_query(host, plugin, "lame-peer", "1.0", "tests", find_table);
}
