/* What a case has made. A list in order of making; release goes by kind, because a stream may
 * still use programs, semaphores and memory. */
#include "kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Work gets this share of the time that a case has: the case can then still say what hung. */
#define FINISH_SHARE 4

void kit_track(kit *k, kit_kind kind, void *handle) {
  if (k->n_resources == k->resource_capacity) {
    const size_t capacity = k->resource_capacity ? 2 * k->resource_capacity : 64;
    kit_resource *resources = realloc(k->resources, capacity * sizeof *resources);
    if (!resources) kit_fail(k, "the kit has no memory for %zu resources", capacity);
    k->resources = resources;
    k->resource_capacity = capacity;
  }
  k->resources[k->n_resources++] = (kit_resource){kind, handle};
}

/* What the second device said no to counts for the case. */
static void close_other(kit *k, kit *other) {
  k->n_unsupported += other->n_unsupported;
  k->n_checked += other->n_checked;
  kit_release_all(other);
  kit_close(other);
  free(other->resources);
}

static void destroy(kit *k, kit_resource resource) {
  switch (resource.kind) {
  case KIT_OTHER:
    close_other(k, resource.handle);
    break;
  case KIT_STREAM:
    k->plugin.stream.stream_destroy(resource.handle);
    break;
  case KIT_PROGRAM:
    k->plugin.program.program_destroy(resource.handle);
    break;
  case KIT_SEMAPHORE:
    k->plugin.semaphore.semaphore_destroy(resource.handle);
    break;
  case KIT_MEMORY:
    k->plugin.memory.memory_free(k->device, resource.handle);
    break;
  case KIT_HOST:
    free(resource.handle);
    break;
  }
}

void kit_release(kit *k, kit_kind kind, void *handle) {
  for (size_t i = k->n_resources; i-- > 0;) {
    if (k->resources[i].kind != kind || k->resources[i].handle != handle) continue;
    k->resources[i] = k->resources[--k->n_resources];
    destroy(k, (kit_resource){kind, handle});
    return;
  }
}

void kit_release_all(kit *k) {
  for (int kind = KIT_STREAM; kind <= KIT_HOST; kind++)
    for (size_t i = k->n_resources; i-- > 0;)
      if (k->resources[i].kind == (kit_kind)kind) destroy(k, k->resources[i]);
  k->n_resources = 0;
  k->stream = NULL;
  k->done = NULL;
  k->done_value = 0;
}

void *kit_host_memory(kit *k, size_t bytes) {
  void *memory = calloc(1, bytes ? bytes : 1);
  if (!memory) kit_fail(k, "the kit has no memory for %zu bytes", bytes);
  kit_track(k, KIT_HOST, memory);
  return memory;
}

cs_plugin_memory *kit_memory(kit *k, uint64_t bytes) {
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = NULL;
  kit_check_ok(
      k, k->plugin.memory.memory_allocate(k->device, bytes, CS_MEMORY_DEVICE, &memory, &error),
      &error, "memory_allocate");
  kit_check(k, memory != NULL, "memory_allocate answers CS_OK and NULL");
  kit_track(k, KIT_MEMORY, memory);
  return memory;
}

cs_plugin_stream *kit_stream_create(kit *k) {
  cs_error error = CS_ERROR_INIT;
  cs_plugin_stream *stream = NULL;
  kit_check_ok(k, k->plugin.stream.stream_create(k->device, &stream, &error), &error,
               "stream_create");
  kit_check(k, stream != NULL, "stream_create answers CS_OK and NULL");
  kit_track(k, KIT_STREAM, stream);
  return stream;
}

cs_plugin_semaphore *kit_semaphore_create(kit *k, uint64_t initial) {
  cs_error error = CS_ERROR_INIT;
  cs_plugin_semaphore *semaphore = NULL;
  kit_check_ok(k, k->plugin.semaphore.semaphore_create(k->device, initial, &semaphore, &error),
               &error, "semaphore_create");
  kit_check(k, semaphore != NULL, "semaphore_create answers CS_OK and NULL");
  kit_track(k, KIT_SEMAPHORE, semaphore);
  return semaphore;
}

cs_plugin_stream *kit_stream(kit *k) {
  if (!k->stream) {
    k->done = kit_semaphore_create(k, 0);
    k->done_value = 0;
    k->stream = kit_stream_create(k);
  }
  return k->stream;
}

cs_status kit_try_finish(kit *k, cs_error *error) {
  cs_plugin_stream *stream = kit_stream(k);
  const uint64_t value = ++k->done_value;
  cs_status status = k->plugin.stream.stream_signal(stream, k->done, value, error);
  if (status != CS_OK) return status;
  const uint64_t timeout_us = UINT64_C(1000000) * k->options->timeout_seconds / FINISH_SHARE;
  status = k->plugin.semaphore.semaphore_wait(k->done, value, timeout_us, error);
  return status;
}

void kit_finish(kit *k) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, kit_try_finish(k, &error), &error, "waiting for the stream");
}

void kit_upload(kit *k, cs_plugin_memory *to, uint64_t offset, const void *from, uint64_t bytes) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.stream.stream_upload(kit_stream(k), to, offset, from, bytes, &error),
               &error, "stream_upload");
}

void kit_download(kit *k, void *to, const cs_plugin_memory *from, uint64_t offset, uint64_t bytes) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.stream.stream_download(kit_stream(k), to, from, offset, bytes, &error),
               &error, "stream_download");
  kit_finish(k);
}

cs_status kit_enqueue(kit *k, const cs_op *ops, uint32_t n_ops, cs_plugin_memory *workspace,
                      bool program, cs_error *error) {
  cs_plugin_stream *stream = kit_stream(k);
  if (k->plugin.eager.ops_enqueue && !program)
    return k->plugin.eager.ops_enqueue(stream, ops, n_ops, sizeof *ops, workspace, error);
  cs_plugin_program *made = NULL;
  const cs_program_table *table = &k->plugin.program;
  const cs_status status =
      table->program_create(k->device, ops, n_ops, sizeof *ops, workspace, &made, error);
  if (status != CS_OK) return status;
  kit_track(k, KIT_PROGRAM, made);
  return table->program_launch(stream, made, error);
}

void kit_random_bytes(kit *k, void *to, size_t bytes) {
  unsigned char *out = to;
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = rng_u64(&k->rng);
    memcpy(out + i, &word, bytes - i < 8 ? bytes - i : 8);
  }
}
