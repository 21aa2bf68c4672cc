/* The same work again and again: does memory come back. Resident memory is read after a warm-up,
 * because drivers keep pools, and once more at the end. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "format.h"
#include "registry.h"
#include "representative.h"

/* A sanitizer keeps what was freed; leaks are then its business. */
#if defined(__has_feature) /* Clang's way; GCC defines a macro */
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(SANITIZED) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ALLOWED_GROWTH_BYTES (1LL << 40)
#else
#define ALLOWED_GROWTH_BYTES (8LL << 20)
#endif

/* 0 where the system does not tell. */
static long long resident_bytes(void) {
  long long size = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file) return 0;
  if (fscanf(file, "%lld %lld", &size, &resident) != 2) resident = 0;
  fclose(file);
  return resident * sysconf(_SC_PAGESIZE);
}

static uint32_t some_weight_dtype(const kit *k) {
  for (uint32_t dtype = CS_DTYPE_LIMIT - 1; dtype > 0; dtype--)
    if ((k->properties.dtypes & CS_DTYPE_BIT(dtype)) && format_bytes(dtype, 256)) return dtype;
  return CS_DTYPE_F32;
}

/* Every kind of object, one matmul where the device has one. */
static void cycle(kit *k) {
  representative r;
  kit_result *result = k->result;
  const uint32_t n_unsupported = k->n_unsupported;
  cs_plugin_memory *memory = kit_memory(k, 1 << 20);
  cs_plugin_semaphore *gate = kit_semaphore_create(k, 0);
  cs_plugin_stream *stream = kit_stream(k);
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k, k->plugin.stream.stream_wait(stream, gate, 1, &error), &error, "stream_wait");
  kit_check_ok(k, k->plugin.stream.stream_fill(stream, memory, 0, 1 << 20, 3, &error), &error,
               "stream_fill");
  kit_check_ok(k, k->plugin.semaphore.semaphore_signal(gate, 1, &error), &error,
               "semaphore_signal");
  kit_finish(k);
  if (representative_build(k, CS_OP_MATMUL, some_weight_dtype(k), REPRESENTATIVE_SMALL, &r) &&
      optest_query(r.test, r.shape)) {
    optest_place(r.test);
    optest_execute(r.test, r.shape);
  }
  kit_release_all(k);
  k->n_unsupported = n_unsupported;
  result->message[0] = '\0';
}

static void soak_case(kit *k, const kit_case *c) {
  (void)c;
  const double seconds = k->options->soak_seconds ? k->options->soak_seconds
                         : k->options->quick      ? 1
                                                  : 5;
  const double begin = kit_now_seconds();
  uint32_t n_cycles = 0;
  while (n_cycles < 20 || kit_now_seconds() - begin < seconds * 0.4) {
    cycle(k);
    n_cycles++;
  }
  const long long resident = resident_bytes();
  const long long host_bytes = k->plugin.host.live_bytes;
  const long long host_blocks = k->plugin.host.live_blocks;
  const uint32_t n_warm = n_cycles;
  while (n_cycles < 2 * n_warm || kit_now_seconds() - begin < seconds) {
    cycle(k);
    n_cycles++;
  }
  const uint32_t n_more = n_cycles - n_warm;
  const long long grown = resident_bytes() - resident;
  kit_check(k, k->plugin.host.live_bytes - host_bytes < 65536,
            "memory taken from the host grew by %lld bytes in %u cycles",
            (long long)k->plugin.host.live_bytes - host_bytes, n_more);
  kit_check(k, k->plugin.host.live_blocks - host_blocks < (long long)n_more / 2 + 16,
            "blocks taken from the host grew by %lld in %u cycles",
            (long long)k->plugin.host.live_blocks - host_blocks, n_more);
  kit_check(k, grown < ALLOWED_GROWTH_BYTES, "resident memory grew by %lld bytes in %u cycles",
            grown, n_more);
}

/* What an opening takes from the host is back after closing. */
static void close_returns_all(kit *k, const kit_case *c) {
  (void)c;
  char why[KIT_MESSAGE_BYTES];
  kit_close(k);
  const long long blocks = k->plugin.host.live_blocks;
  kit_check(k, kit_open(k, why, sizeof why), "opening again: %.200s", why);
  cycle(k);
  kit_close(k);
  const long long after = k->plugin.host.live_blocks;
  kit_check(k, kit_open(k, why, sizeof why), "opening again: %.200s", why);
  kit_check(k, after <= blocks, "%lld blocks of host memory are not given back by closing",
            after - blocks);
}

void kit_add_soak_cases(kit_registry *r) {
  kit_add(r, &(kit_case){.badges = KIT_BADGE_CORE, .run = close_returns_all},
          "soak/close_returns_all");
  kit_add(r, &(kit_case){.badges = KIT_BADGE_CORE, .run = soak_case}, "soak/cycles");
}
