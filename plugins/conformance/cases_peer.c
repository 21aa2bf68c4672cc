/* The peer table: copies between two devices of one plugin, against a model of both memories on the
 * host, so that a copy that is one byte too long shows. Where the plugin has one device, that is
 * opened twice. */
#include <string.h>

#include "memory_model.h"
#include "registry.h"

#define LARGE_BYTES ((UINT64_C(4) << 20) + 5)

/* The device to copy to, or NULL where there is no such copy. */
static kit *peer_of(kit *k) {
  const cs_peer_table *table = &k->plugin.peer;
  if (!table->peer_can_copy || !table->stream_peer_copy) {
    kit_unsupported(k, "the plugin has no peer table");
    return NULL;
  }
  kit *other = kit_other(k, NULL);
  const uint32_t can_copy = table->peer_can_copy(other->device, k->device);
  kit_check(k, can_copy <= 1, "peer_can_copy answers %u, not 0 or 1", can_copy);
  if (can_copy) return other;
  kit_unsupported(k, "peer_can_copy says no to the second device");
  return NULL;
}

static void copy(kit *k, kit *other, cs_plugin_memory *to, uint64_t to_offset,
                 const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k,
               k->plugin.peer.stream_peer_copy(kit_stream(k), other->device, to, to_offset, from,
                                               from_offset, bytes, &error),
               &error, "stream_peer_copy");
}

/* Between two copies the source changes on the same stream: each copy has to see it as it was. */
static void copy_and_change(kit *k, kit *other, const kit_memory_model *to,
                            const kit_memory_model *from) {
  uint64_t at, bytes;
  kit_model_range(k, &at, &bytes);
  const uint64_t there = kit_model_offset(k, bytes);
  const uint32_t value = (uint32_t)rng_below(&k->rng, 256);
  cs_error error = CS_ERROR_INIT;
  copy(k, other, to->memory, there, from->memory, at, bytes);
  memcpy(to->bytes + there, from->bytes + at, bytes);
  kit_check_ok(k,
               k->plugin.stream.stream_fill(kit_stream(k), from->memory, at, bytes, value, &error),
               &error, "stream_fill");
  memset(from->bytes + at, (int)value, bytes);
}

static void check_both(kit *k, kit *other, const kit_memory_model *to,
                       const kit_memory_model *from) {
  kit_finish(k);
  kit_model_compare(other, to, "the memory that was copied to");
  kit_model_compare(k, from, "the memory that was copied from");
}

/* The first copies are held back until all are enqueued, so that one which does not wait for its
 * turn is wrong however fast the device is; the others run as they come. */
static void random_copies(kit *k, const kit_case *c) {
  (void)c;
  kit *other = peer_of(k);
  if (!other) return;
  const kit_memory_model from = kit_model_make(k), to = kit_model_make(other);
  cs_plugin_semaphore *gate = kit_semaphore_create(k, 0);
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.stream.stream_wait(kit_stream(k), gate, 1, &error), &error,
               "stream_wait");
  for (int i = 0; i < 40; i++) copy_and_change(k, other, &to, &from);
  kit_check_ok(k, k->plugin.semaphore.semaphore_signal(gate, 1, &error), &error,
               "semaphore_signal");
  check_both(k, other, &to, &from);
  for (int i = 0; i < 260; i++) copy_and_change(k, other, &to, &from);
  check_both(k, other, &to, &from);
}

static void large_copy(kit *k, const kit_case *c) {
  (void)c;
  kit *other = peer_of(k);
  if (!other) return;
  unsigned char *sent = kit_host_memory(k, LARGE_BYTES), *got = kit_host_memory(k, LARGE_BYTES);
  kit_random_bytes(k, sent, LARGE_BYTES);
  cs_plugin_memory *from = kit_memory(k, LARGE_BYTES), *to = kit_memory(other, LARGE_BYTES);
  kit_upload(k, from, 0, sent, LARGE_BYTES);
  copy(k, other, to, 0, from, 0, LARGE_BYTES);
  kit_finish(k);
  kit_download(other, got, to, 0, LARGE_BYTES);
  kit_check(k, memcmp(sent, got, LARGE_BYTES) == 0, "4 MiB arrive changed");
}

/* A copy behind a failure is skipped, and the failure is told. */
static void after_failure(kit *k, const kit_case *c) {
  (void)c;
  kit *other = peer_of(k);
  if (!other) return;
  const kit_memory_model from = kit_model_make(k), to = kit_model_make(other);
  cs_plugin_semaphore *gate = kit_semaphore_create(k, 0);
  cs_plugin_stream *stream = kit_stream_create(k);
  cs_plugin_semaphore *done = kit_semaphore_create(k, 0);
  cs_error error = CS_ERROR_INIT, reason = CS_ERROR_INIT;
  reason.code = CS_FAILED;
  memcpy(reason.message, "on purpose", 11);
  kit_check_ok(k, k->plugin.stream.stream_wait(stream, gate, 1, &error), &error, "stream_wait");
  kit_check_ok(k,
               k->plugin.peer.stream_peer_copy(stream, other->device, to.memory, 0, from.memory, 0,
                                               KIT_MODEL_BYTES, &error),
               &error, "stream_peer_copy");
  kit_check_ok(k, k->plugin.stream.stream_signal(stream, done, 1, &error), &error, "stream_signal");
  kit_check_ok(k, k->plugin.semaphore.semaphore_fail(gate, &reason, &error), &error,
               "semaphore_fail");
  const cs_status status = k->plugin.semaphore.semaphore_wait(done, 1, 10000000, &error);
  kit_check(k, status == CS_FAILED, "the signal after a failed wait ends with status %d", status);
  kit_model_compare(other, &to, "a copy behind a failed wait");
}

void kit_add_peer_cases(kit_registry *r) {
  kit_add(r, &(kit_case){.run = random_copies}, "peer/random");
  kit_add(r, &(kit_case){.run = large_copy}, "peer/large");
  kit_add(r, &(kit_case){.run = after_failure}, "peer/after_failure");
}
