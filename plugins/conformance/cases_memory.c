/* Allocation and copies. A model of the memory is kept on the host: every copy is done to both, and
 * in the end all bytes are compared, so that a copy that is one byte too long shows. */
#include <string.h>

#include "memory_model.h"
#include "registry.h"

static void sizes(kit *k, const kit_case *c) {
  (void)c;
  const uint64_t bytes[] = {1, 2, 3, 4, 63, 64, 65, 4095, 4096, 4097, 1000003, 8 << 20};
  for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
    cs_plugin_memory *memory = kit_memory(k, bytes[i]);
    unsigned char first = 0x3c, last = 0xc3, got = 0;
    kit_upload(k, memory, 0, &first, 1);
    kit_upload(k, memory, bytes[i] - 1, &last, 1);
    kit_download(k, &got, memory, bytes[i] - 1, 1);
    kit_check(k, got == last, "the last byte of %llu is lost", (unsigned long long)bytes[i]);
    if (bytes[i] == 1) continue;
    kit_download(k, &got, memory, 0, 1);
    kit_check(k, got == first, "the first byte of %llu is lost", (unsigned long long)bytes[i]);
  }
}

static void too_much(kit *k, const kit_case *c) {
  (void)c;
  const uint64_t bytes[] = {UINT64_C(1) << 60, UINT64_MAX / 2, UINT64_MAX - 63, UINT64_MAX};
  for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
    cs_plugin_memory *memory = (cs_plugin_memory *)k;
    cs_error error = CS_ERROR_INIT;
    const cs_status status =
        k->plugin.memory.memory_allocate(k->device, bytes[i], CS_MEMORY_DEVICE, &memory, &error);
    kit_check(k, status == CS_OUT_OF_MEMORY,
              "allocating %llu bytes is answered with status %d, not CS_OUT_OF_MEMORY",
              (unsigned long long)bytes[i], status);
    kit_check(k, memory == NULL, "a failed allocation leaves a handle behind");
    kit_check(k, error.code == status && error.message[0], "a failed allocation says nothing");
  }
  cs_plugin_memory *small = kit_memory(k, 64);
  kit_upload(k, small, 0, "alive", 6);
  kit_finish(k);
}

static void many(kit *k, const kit_case *c) {
  (void)c;
  enum { N = 200 };
  cs_plugin_memory *memory[N];
  for (uint32_t i = 0; i < N; i++) {
    memory[i] = kit_memory(k, 256 + rng_below(&k->rng, 5000));
    kit_upload(k, memory[i], 128, &i, sizeof i);
    kit_finish(k);
  }
  for (uint32_t i = 0; i < N; i += 2)
    kit_release(k, KIT_MEMORY, memory[i]);
  for (uint32_t i = 1; i < N; i += 2) {
    uint32_t got = 0;
    kit_download(k, &got, memory[i], 128, sizeof got);
    kit_check(k, got == i, "allocation %u holds %u: allocations overlap", i, got);
  }
}

static void host_pointer(kit *k, const kit_case *c) {
  (void)c;
  const bool claims = (k->properties.flags & CS_DEVICE_HOST_RESIDENT) != 0;
  if (!k->plugin.memory.memory_host_pointer) {
    kit_check(k, !claims, "HOST_RESIDENT without memory_host_pointer");
    return;
  }
  cs_plugin_memory *memory = kit_memory(k, 100);
  unsigned char *pointer = k->plugin.memory.memory_host_pointer(k->device, memory);
  kit_check(k, pointer || !claims, "HOST_RESIDENT, but memory_host_pointer answers NULL");
  if (!pointer) return;
  kit_check(k, (uintptr_t)pointer % k->properties.tensor_align == 0,
            "memory is not aligned to tensor_align %u", k->properties.tensor_align);
  memcpy(pointer, "from the host", 14);
  char text[14];
  kit_download(k, text, memory, 0, sizeof text);
  kit_check(k, strcmp(text, "from the host") == 0, "the device does not see what the host wrote");
  kit_upload(k, memory, 0, "to the host..", 14);
  kit_finish(k);
  kit_check(k, memcmp(pointer, "to the host..", 14) == 0,
            "the host does not see what was uploaded");
}

static void staging(kit *k, const kit_case *c) {
  (void)c;
  cs_plugin_memory *memory = NULL;
  cs_error error = CS_ERROR_INIT;
  const cs_status status =
      k->plugin.memory.memory_allocate(k->device, 5000, CS_MEMORY_STAGING, &memory, &error);
  if (status == CS_UNSUPPORTED) {
    kit_check(k, memory == NULL, "a refused allocation leaves a handle behind");
    return;
  }
  kit_check_ok(k, status, &error, "memory_allocate of STAGING");
  kit_track(k, KIT_MEMORY, memory);
  kit_check(k, k->plugin.memory.memory_host_pointer != NULL,
            "STAGING memory without memory_host_pointer");
  unsigned char *pointer = k->plugin.memory.memory_host_pointer(k->device, memory);
  kit_check(k, pointer != NULL, "STAGING memory has no host pointer");
  memset(pointer, 0x42, 5000);
  cs_plugin_memory *device = kit_memory(k, 5000);
  kit_check_ok(k, k->plugin.stream.stream_copy(kit_stream(k), device, 0, memory, 0, 5000, &error),
               &error, "stream_copy from STAGING");
  unsigned char bytes[5000];
  kit_download(k, bytes, device, 0, sizeof bytes);
  for (size_t i = 0; i < sizeof bytes; i++)
    kit_check(k, bytes[i] == 0x42, "byte %zu copied from STAGING is wrong", i);
}

/* ---- copies ---- */

static void copy_model(kit *k, const kit_memory_model *to, const kit_memory_model *from) {
  uint64_t to_offset, from_offset, bytes;
  kit_model_range(k, &to_offset, &bytes);
  from_offset = kit_model_offset(k, bytes);
  const bool overlap = to->memory == from->memory && to_offset < from_offset + bytes &&
                       from_offset < to_offset + bytes;
  if (overlap) return;
  cs_error error = CS_ERROR_INIT;
  kit_check_ok(k,
               k->plugin.stream.stream_copy(kit_stream(k), to->memory, to_offset, from->memory,
                                            from_offset, bytes, &error),
               &error, "stream_copy");
  memcpy(to->bytes + to_offset, from->bytes + from_offset, bytes);
}

static void random_copies(kit *k, const kit_case *c) {
  (void)c;
  const kit_memory_model models[2] = {kit_model_make(k), kit_model_make(k)};
  const int n_steps = k->options->quick ? 300 : 2000;
  for (int i = 0; i < n_steps; i++) {
    const kit_memory_model *model = &models[rng_below(&k->rng, 2)];
    uint64_t offset, bytes;
    kit_model_range(k, &offset, &bytes);
    cs_error error = CS_ERROR_INIT;
    const uint64_t kind = rng_below(&k->rng, 4);
    if (kind == 0) {
      unsigned char *fresh = kit_host_memory(k, bytes);
      kit_random_bytes(k, fresh, bytes);
      kit_upload(k, model->memory, offset, fresh, bytes);
      memcpy(model->bytes + offset, fresh, bytes);
    } else if (kind == 1) {
      const uint32_t value = (uint32_t)rng_below(&k->rng, 256);
      kit_check_ok(
          k,
          k->plugin.stream.stream_fill(kit_stream(k), model->memory, offset, bytes, value, &error),
          &error, "stream_fill");
      memset(model->bytes + offset, (int)value, bytes);
    } else if (kind == 2) {
      copy_model(k, model, &models[rng_below(&k->rng, 2)]);
    } else {
      unsigned char *got = kit_host_memory(k, bytes + 2);
      got[0] = got[bytes + 1] = 0x77;
      kit_download(k, got + 1, model->memory, offset, bytes);
      kit_check(k, memcmp(got + 1, model->bytes + offset, bytes) == 0,
                "downloading %llu bytes from offset %llu gives other bytes",
                (unsigned long long)bytes, (unsigned long long)offset);
      kit_check(k, got[0] == 0x77 && got[bytes + 1] == 0x77,
                "stream_download writes beyond its range");
    }
  }
  kit_model_compare(k, &models[0], "after random copies");
  kit_model_compare(k, &models[1], "after random copies");
}

static void large_copy(kit *k, const kit_case *c) {
  (void)c;
  const size_t bytes = (16 << 20) + 5;
  unsigned char *host = kit_host_memory(k, bytes), *got = kit_host_memory(k, bytes);
  kit_random_bytes(k, host, bytes);
  cs_plugin_memory *a = kit_memory(k, bytes), *b = kit_memory(k, bytes);
  cs_error error = CS_ERROR_INIT;
  kit_upload(k, a, 0, host, bytes);
  kit_check_ok(k, k->plugin.stream.stream_copy(kit_stream(k), b, 0, a, 0, bytes, &error), &error,
               "stream_copy");
  kit_download(k, got, b, 0, bytes);
  kit_check(k, memcmp(host, got, bytes) == 0, "16 MiB come back changed");
}

void kit_add_memory_cases(kit_registry *r) {
  const uint32_t core = KIT_BADGE_CORE;
  kit_add(r, &(kit_case){.badges = core, .run = sizes}, "memory/sizes");
  kit_add(r, &(kit_case){.badges = core, .run = too_much}, "memory/too_much");
  kit_add(r, &(kit_case){.badges = core, .run = many}, "memory/many");
  kit_add(r, &(kit_case){.badges = core, .run = host_pointer}, "memory/host_pointer");
  kit_add(r, &(kit_case){.badges = core, .run = staging}, "memory/staging");
  kit_add(r, &(kit_case){.badges = core, .run = random_copies}, "copies/random");
  kit_add(r, &(kit_case){.badges = core, .run = large_copy}, "copies/large");
}
