/* Streams: order, waits before signals, independence of each other, and what a failure does to one.
 * A failure that every device can have is a wait for a semaphore that the host fails. */
#include <string.h>

#include "registry.h"

#define SECOND_US UINT64_C(1000000)

static void wait_for(kit *k, cs_plugin_semaphore *semaphore, uint64_t value, const char *what) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.semaphore.semaphore_wait(semaphore, value, 20 * SECOND_US, &error),
               &error, what);
}

static void enqueue_wait(kit *k, cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                         uint64_t value) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.stream.stream_wait(stream, semaphore, value, &error), &error,
               "stream_wait");
}

static void enqueue_signal(kit *k, cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                           uint64_t value) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.stream.stream_signal(stream, semaphore, value, &error), &error,
               "stream_signal");
}

static void enqueue_fill(kit *k, cs_plugin_stream *stream, cs_plugin_memory *memory, uint64_t bytes,
                         uint32_t value) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.stream.stream_fill(stream, memory, 0, bytes, value, &error), &error,
               "stream_fill");
}

static void host_signal(kit *k, cs_plugin_semaphore *semaphore, uint64_t value) {
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.semaphore.semaphore_signal(semaphore, value, &error), &error,
               "semaphore_signal");
}

/* The value, which must not have failed. */
static uint64_t value_of(kit *k, cs_plugin_semaphore *semaphore) {
  uint64_t value = 0;
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.semaphore.semaphore_query(semaphore, &value, &error), &error,
               "semaphore_query");
  return value;
}

static void check_filled(kit *k, cs_plugin_memory *memory, size_t bytes, unsigned char value,
                         const char *what) {
  unsigned char *got = kit_host_memory(k, bytes);
  kit_download(k, got, memory, 0, bytes);
  for (size_t i = 0; i < bytes; i++)
    kit_check(k, got[i] == value, "%s: byte %zu is 0x%02x and not 0x%02x", what, i, got[i], value);
}

static void in_order(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_stream *stream = kit_stream(k);
  cs_plugin_memory *a = kit_memory(k, 1 << 20), *b = kit_memory(k, 1 << 20);
  cs_error error = CS_ERROR_INIT;
  for (uint32_t i = 0; i < 50; i++) {
    enqueue_fill(k, stream, a, 1 << 20, i);
    kit_check_ok(k, k->plugin.stream.stream_copy(stream, b, 0, a, 0, 1 << 20, &error), &error,
                 "stream_copy");
    enqueue_fill(k, stream, a, 1 << 20, 255 - i);
  }
  check_filled(k, b, 1 << 20, 49, "a copy between two fills");
  check_filled(k, a, 1 << 20, 255 - 49, "the last fill");
}

static void signals_come_in_order(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_stream *stream = kit_stream(k);
  cs_plugin_memory *memory = kit_memory(k, 4 << 20);
  cs_plugin_semaphore *semaphore = kit_semaphore_create(k, 10);
  kit_check(k, value_of(k, semaphore) == 10, "a new semaphore is not at its initial value");
  uint64_t seen = 10;
  for (uint32_t i = 1; i <= 20; i++) {
    enqueue_fill(k, stream, memory, 4 << 20, i);
    enqueue_signal(k, stream, semaphore, 10 + i);
  }
  while (seen < 30) {
    const uint64_t value = value_of(k, semaphore);
    kit_check(k, value >= seen && value <= 30, "a semaphore goes from %llu to %llu",
              (unsigned long long)seen, (unsigned long long)value);
    if (value == seen) wait_for(k, semaphore, seen + 1, "the next signal");
    seen = value;
  }
}

static void wait_before_signal(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_memory *memory = kit_memory(k, 4096);
  cs_plugin_stream *waiting = kit_stream_create(k), *signalling = kit_stream_create(k);
  cs_plugin_semaphore *ready = kit_semaphore_create(k, 0), *done = kit_semaphore_create(k, 0);
  enqueue_wait(k, waiting, ready, 1);
  enqueue_fill(k, waiting, memory, 4096, 2);
  enqueue_signal(k, waiting, done, 1);
  kit_check(k, value_of(k, done) == 0, "a stream does not wait for a signal yet to come");
  enqueue_fill(k, signalling, memory, 4096, 1);
  enqueue_signal(k, signalling, ready, 1);
  wait_for(k, done, 1, "a stream that waited for another");
  check_filled(k, memory, 4096, 2, "two streams ordered by a semaphore");
}

static void host_signal_releases(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_memory *memory = kit_memory(k, 4096);
  cs_plugin_stream *stream = kit_stream(k), *other = kit_stream_create(k);
  enqueue_fill(k, stream, memory, 4096, 7);
  kit_finish(k);
  cs_plugin_semaphore *gate = kit_semaphore_create(k, 0), *done = kit_semaphore_create(k, 0);
  enqueue_wait(k, stream, gate, 5);
  enqueue_fill(k, stream, memory, 4096, 8);
  enqueue_signal(k, stream, done, 1);
  host_signal(k, gate, 4);
  cs_error error = CS_ERROR_INIT;
  const cs_status status = k->plugin.semaphore.semaphore_wait(done, 1, 30000, &error);
  kit_check(k, status == CS_TIMEOUT, "a wait for 5 is released by a signal of 4 (status %d)",
            status);
  unsigned char got = 0;
  kit_check_ok(k, k->plugin.stream.stream_download(other, &got, memory, 0, 1, &error), &error,
               "stream_download");
  cs_plugin_semaphore *read = kit_semaphore_create(k, 0);
  enqueue_signal(k, other, read, 1);
  wait_for(k, read, 1, "a stream beside one that waits");
  kit_check(k, got == 7, "work behind a wait has run already");
  host_signal(k, gate, 9);
  wait_for(k, done, 1, "a stream that the host released");
  check_filled(k, memory, 4096, 8, "work behind a wait that the host released");
}

static void failure_poisons(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_memory *memory = kit_memory(k, 4096);
  cs_plugin_stream *doomed = kit_stream_create(k);
  cs_plugin_semaphore *gate = kit_semaphore_create(k, 0), *before = kit_semaphore_create(k, 0);
  cs_plugin_semaphore *after = kit_semaphore_create(k, 0);
  enqueue_fill(k, doomed, memory, 4096, 1);
  enqueue_signal(k, doomed, before, 1);
  enqueue_wait(k, doomed, gate, 1);
  enqueue_fill(k, doomed, memory, 4096, 2);
  enqueue_signal(k, doomed, after, 1);
  wait_for(k, before, 1, "a signal before the failure");
  cs_error reason = {.struct_size = sizeof reason,
                     .code = CS_CORRUPT,
                     .vendor_code = -77,
                     .op_index = 3,
                     .message = "made up by the kit"};
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.semaphore.semaphore_fail(gate, &reason, &error), &error,
               "semaphore_fail");
  cs_status status = k->plugin.semaphore.semaphore_wait(after, 1, 20 * SECOND_US, &error);
  kit_check(k, status == CS_CORRUPT, "a wait on a poisoned stream's signal: status %d, not %d",
            status, CS_CORRUPT);
  kit_check(k, error.code == CS_CORRUPT && error.op_index == 3 && error.vendor_code == -77,
            "the poison lost its cause: code %d, op %d, vendor code %lld", error.code,
            error.op_index, (long long)error.vendor_code);
  kit_check(k, strstr(error.message, "made up by the kit") != NULL,
            "the poison lost its message: \"%.80s\"", error.message);
  uint64_t value = 0;
  error = (cs_error)CS_ERROR_INIT;
  status = k->plugin.semaphore.semaphore_query(after, &value, &error);
  kit_check(k, status == CS_CORRUPT && error.op_index == 3,
            "semaphore_query of a failed semaphore: status %d", status);
  check_filled(k, memory, 4096, 1, "work behind a failure");
  cs_plugin_semaphore *later = kit_semaphore_create(k, 0);
  status = k->plugin.stream.stream_signal(doomed, later, 1, &error);
  if (status == CS_OK) {
    status = k->plugin.semaphore.semaphore_wait(later, 1, 20 * SECOND_US, &error);
    kit_check(k, status == CS_CORRUPT, "a later signal of a poisoned stream: status %d", status);
  }
}

static void poison_stays_in_its_stream(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_memory *memory = kit_memory(k, 64);
  cs_plugin_stream *doomed = kit_stream_create(k);
  cs_plugin_semaphore *gate = kit_semaphore_create(k, 0), *after = kit_semaphore_create(k, 0);
  const cs_error reason = {.struct_size = sizeof reason, .code = CS_FAILED, .op_index = -1};
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.semaphore.semaphore_fail(gate, &reason, &error), &error,
               "semaphore_fail");
  enqueue_wait(k, doomed, gate, 1);
  enqueue_signal(k, doomed, after, 1);
  kit_check(k, k->plugin.semaphore.semaphore_wait(after, 1, 20 * SECOND_US, &error) == CS_FAILED,
            "waiting for a semaphore that has failed before does not poison");
  enqueue_fill(k, kit_stream(k), memory, 64, 5);
  check_filled(k, memory, 64, 5, "a stream beside a poisoned one");
}

/* A stream may be destroyed while it waits for what never comes. */
static void destroy_is_bounded(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_semaphore *never = kit_semaphore_create(k, 0), *done = kit_semaphore_create(k, 0);
  cs_plugin_memory *memory = kit_memory(k, 64);
  cs_plugin_stream *stream = kit_stream_create(k);
  enqueue_wait(k, stream, never, 1);
  enqueue_fill(k, stream, memory, 64, 1);
  enqueue_signal(k, stream, done, 1);
  const double begin = kit_now_seconds();
  kit_release(k, KIT_STREAM, stream);
  const double seconds = kit_now_seconds() - begin;
  kit_check(k, seconds < 3, "destroying a stream that waits takes %.1f s", seconds);
  uint64_t value = 0;
  cs_error error = CS_ERROR_INIT;
  const cs_status status = k->plugin.semaphore.semaphore_query(done, &value, &error);
  kit_check(k, status != CS_OK || value == 0, "dropped work signals success");
}

static void many_streams(kit *k, const kit_case *c) {
  (void)c;
  enum { N = 8 };
  cs_plugin_stream *streams[N];
  cs_plugin_memory *memory = kit_memory(k, 4096);
  cs_plugin_semaphore *chain = kit_semaphore_create(k, 0);
  for (uint32_t i = 0; i < N; i++)
    streams[i] = kit_stream_create(k);
  for (uint32_t i = N; i-- > 0;) { /* the last one in the chain is enqueued first */
    enqueue_wait(k, streams[i], chain, i);
    enqueue_fill(k, streams[i], memory, 4096, i + 1);
    enqueue_signal(k, streams[i], chain, i + 1);
  }
  wait_for(k, chain, N, "a chain of streams");
  check_filled(k, memory, 4096, N, "a chain of streams");
}

void kit_add_stream_cases(kit_registry *r) {
  const uint32_t core = KIT_BADGE_CORE;
  kit_add(r, &(kit_case){.badges = core, .run = in_order}, "streams/in_order");
  kit_add(r, &(kit_case){.badges = core, .run = signals_come_in_order}, "streams/signals_in_order");
  kit_add(r, &(kit_case){.badges = core, .run = wait_before_signal}, "streams/wait_before_signal");
  kit_add(r, &(kit_case){.badges = core, .run = host_signal_releases},
          "streams/host_signal_releases");
  kit_add(r, &(kit_case){.badges = core, .run = failure_poisons}, "streams/failure_poisons");
  kit_add(r, &(kit_case){.badges = core, .run = poison_stays_in_its_stream},
          "streams/poison_stays_in_its_stream");
  kit_add(r, &(kit_case){.badges = core, .run = destroy_is_bounded}, "streams/destroy_is_bounded");
  kit_add(r, &(kit_case){.badges = core, .run = many_streams}, "streams/chain_of_streams");
}
