/* The size is a prime, so that no offset from the end is aligned by chance. */
#include "memory_model.h"

kit_memory_model kit_model_make(kit *k) {
  const kit_memory_model model = {kit_memory(k, KIT_MODEL_BYTES),
                                  kit_host_memory(k, KIT_MODEL_BYTES)};
  kit_random_bytes(k, model.bytes, KIT_MODEL_BYTES);
  kit_upload(k, model.memory, 0, model.bytes, KIT_MODEL_BYTES);
  kit_finish(k);
  return model;
}

void kit_model_compare(kit *k, const kit_memory_model *model, const char *what) {
  unsigned char *got = kit_host_memory(k, KIT_MODEL_BYTES);
  kit_download(k, got, model->memory, 0, KIT_MODEL_BYTES);
  for (size_t i = 0; i < KIT_MODEL_BYTES; i++)
    kit_check(k, got[i] == model->bytes[i], "%s: byte %zu is 0x%02x and not 0x%02x", what, i,
              got[i], model->bytes[i]);
}

void kit_model_range(kit *k, uint64_t *offset, uint64_t *bytes) {
  static const uint64_t edges[] = {1, 3, 4, 5, 63, 64, 65, 255, 256, 257, 4095, 4096, 4097};
  *bytes = rng_below(&k->rng, 2) ? edges[rng_below(&k->rng, sizeof edges / sizeof edges[0])]
                                 : 1 + rng_below(&k->rng, 9000);
  *offset = kit_model_offset(k, *bytes);
}

uint64_t kit_model_offset(kit *k, uint64_t bytes) {
  return rng_below(&k->rng, KIT_MODEL_BYTES - bytes + 1);
}
