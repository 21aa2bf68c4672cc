/* One buffer a plane keeps every allocation well below what drivers allow for a single one, and
 * lets a layer that falls back live on another device. */
#include "scheduler/worker_cache.h"

#include <stdlib.h>

#include "core/error.h"
#include "scheduler/wire.h"

typedef struct cache_layer {
  cs_device *device; /* borrowed from the placement */
  cs_buffer *planes[2];
} cache_layer;

struct cs_kv_cache {
  cs_cache_form form;
  cache_layer *layers;
};

uint64_t cs_cache_plane_bytes(const cs_cache_form *form, uint32_t v) {
  const uint32_t width = v ? form->wire.v_width : form->wire.k_width;
  uint64_t bytes = cs_wire_row_bytes(form->wire.dtype, width);
  if (__builtin_mul_overflow(bytes, (uint64_t)form->wire.n_kv_heads, &bytes) ||
      __builtin_mul_overflow(bytes, (uint64_t)form->block_tokens, &bytes) ||
      __builtin_mul_overflow(bytes, (uint64_t)form->n_blocks, &bytes))
    return UINT64_MAX;
  return bytes;
}

uint64_t cs_cache_bytes(const cs_cache_form *form, const cs_placement *placement, uint32_t device) {
  uint64_t bytes = 0;
  for (uint32_t key = 0; key < 2 * form->wire.n_layers; key++)
    if (cs_placement_users(placement, CS_VALUE_CACHE, key) >> device & 1u)
      if (__builtin_add_overflow(bytes, cs_cache_plane_bytes(form, key & 1u), &bytes))
        return UINT64_MAX;
  return bytes;
}

static cs_status create_layer(const cs_cache_form *form, cs_device *device, cache_layer *layer,
                              cs_error *error) {
  layer->device = device;
  for (uint32_t v = 0; v < 2; v++) {
    const uint64_t bytes = cs_cache_plane_bytes(form, v);
    if (bytes == 0) continue;
    const cs_status status =
        cs_buffer_create(device, bytes, CS_MEMORY_DEVICE, &layer->planes[v], error);
    if (status)
      return cs_error_prefix(error, status, "%s: KV cache of %llu tokens", cs_device_name(device),
                             (unsigned long long)form->n_blocks * form->block_tokens);
  }
  return CS_OK;
}

cs_status cs_kv_cache_create(const cs_cache_form *form, const cs_placement *placement,
                             cs_device *primary, cs_device *fallback, cs_kv_cache **out,
                             cs_error *error) {
  *out = NULL;
  cs_kv_cache *const cache = calloc(1, sizeof *cache);
  cache_layer *const layers = calloc((size_t)form->wire.n_layers + 1, sizeof *layers);
  if (!cache || !layers) {
    free(cache);
    free(layers);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for the list of KV planes");
  }
  *cache = (cs_kv_cache){.form = *form, .layers = layers};
  for (uint32_t i = 0; i < form->wire.n_layers; i++) {
    const uint32_t users = cs_placement_users(placement, CS_VALUE_CACHE, 2 * i);
    const cs_status status =
        create_layer(form, users & 1u || !fallback ? primary : fallback, &layers[i], error);
    if (status) {
      cs_kv_cache_destroy(cache);
      return status;
    }
  }
  *out = cache;
  return CS_OK;
}

void cs_kv_cache_destroy(cs_kv_cache *cache) {
  if (!cache) return;
  for (uint32_t i = 0; i < cache->form.wire.n_layers; i++) {
    cs_buffer_destroy(cache->layers[i].planes[0]);
    cs_buffer_destroy(cache->layers[i].planes[1]);
  }
  free(cache->layers);
  free(cache);
}

const cs_cache_form *cs_kv_cache_form(const cs_kv_cache *cache) {
  return &cache->form;
}

cs_device *cs_kv_cache_device(const cs_kv_cache *cache, uint32_t layer) {
  return cache->layers[layer].device;
}

cs_buffer *cs_kv_cache_buffer(const cs_kv_cache *cache, uint32_t layer, uint32_t v) {
  return cache->layers[layer].planes[v];
}

void cs_kv_cache_tensor(const cs_kv_cache *cache, uint32_t layer, uint32_t v, cs_tensor *tensor) {
  const cs_cache_form *const form = &cache->form;
  *tensor = (cs_tensor){
      .struct_size = sizeof *tensor,
      .dtype = form->wire.dtype,
      .layout = form->layout,
      .rank = 4,
      .memory = cs_buffer_memory(cache->layers[layer].planes[v]),
      .dims = {form->n_blocks, form->block_tokens, form->wire.n_kv_heads,
               v ? form->wire.v_width : form->wire.k_width},
  };
}
