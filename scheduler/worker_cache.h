/* The KV cache of one worker: for each layer a K and a V buffer, on the device whose ops use them.
 */
#ifndef SCHEDULER_WORKER_CACHE_H
#define SCHEDULER_WORKER_CACHE_H

#include <stdint.h>

#include "core/executor.h"
#include "models/model.h"
#include "scheduler/message.h"

/* The shape of a cache. */
typedef struct cs_cache_form {
  cs_kv_wire wire; /* model, dtype, layers, heads and widths */
  uint32_t layout; /* CS_LAYOUT_KV_* */
  uint32_t block_tokens;
  uint32_t n_blocks;
} cs_cache_form;

typedef struct cs_kv_cache cs_kv_cache;

/* Bytes of one plane; v: 0 for K, 1 for V. UINT64_MAX on overflow. */
uint64_t cs_cache_plane_bytes(const cs_cache_form *form, uint32_t v);
/* Bytes of all planes that `placement` puts on device 0 (primary) or 1 (fallback). */
uint64_t cs_cache_bytes(const cs_cache_form *form, const cs_placement *placement, uint32_t device);

cs_status cs_kv_cache_create(const cs_cache_form *form, const cs_placement *placement,
                             cs_device *primary, cs_device *fallback, cs_kv_cache **out,
                             cs_error *error);
void cs_kv_cache_destroy(cs_kv_cache *cache);

const cs_cache_form *cs_kv_cache_form(const cs_kv_cache *cache);
/* Where a layer's KV lives: borrowed. */
cs_device *cs_kv_cache_device(const cs_kv_cache *cache, uint32_t layer);
cs_buffer *cs_kv_cache_buffer(const cs_kv_cache *cache, uint32_t layer, uint32_t v);
/* Fills a whole tensor: (n_blocks, block_tokens, n_kv_heads, width). */
void cs_kv_cache_tensor(const cs_kv_cache *cache, uint32_t layer, uint32_t v, cs_tensor *tensor);

#endif
