/* Packed weights of one model for one kind of device, kept in a file and mapped at the next start.
 * A file that cannot be used costs one warning line and is written anew; one that cannot be written
 * costs one warning line. Neither is an error. */
#ifndef SCHEDULER_PACK_CACHE_H
#define SCHEDULER_PACK_CACHE_H

#include <stdint.h>

#include "core/device.h"
#include "models/model.h"

typedef struct cs_pack_cache cs_pack_cache;

/* A weight as a device packs it; bytes is 0 for weights that are not packed there. In the file
 * these records are the table, in the machine's byte order. */
typedef struct cs_pack_entry {
  uint64_t layout_id;
  uint64_t bytes;
  uint64_t offset; /* in the file */
  uint64_t sum;    /* XXH3, 64 bits, of the bytes */
  uint32_t dtype;
  uint32_t usage;
} cs_pack_entry;

/* `entries`, one for each weight of the model, owned by the cache from now on (also on failure),
 * say what the device needs; offset and sum are filled in here. `folder` is made when the file is
 * written. A missing or refused file gives an empty cache. CS_OUT_OF_MEMORY. */
cs_status cs_pack_cache_open(const char *folder, const cs_model *model, cs_device *device,
                             cs_pack_entry *entries, cs_pack_cache **out, cs_error *error);
/* Unmaps: after the buffers that came from it. */
void cs_pack_cache_close(cs_pack_cache *cache);

/* The weight `key`, described by `weight`, from the file, its bytes compared with their checksum;
 * NULL when it has to be packed. Free-threaded. */
cs_buffer *cs_pack_cache_map(cs_pack_cache *cache, size_t key, const cs_weight *weight);

/* Writes the file from `buffers` (one for each weight of the model) unless all of them came from
 * it. */
void cs_pack_cache_store(cs_pack_cache *cache, cs_buffer *const *buffers);

#endif
