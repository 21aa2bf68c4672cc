/* The KV block manager: which blocks of the cache belong to whom. Numbers only; the bytes are the
 * worker's. */
#ifndef MODELS_KV_POOL_H
#define MODELS_KV_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

typedef struct cs_kv_pool cs_kv_pool; /* used by one thread at a time */

cs_status cs_kv_pool_create(uint32_t n_blocks, uint32_t block_tokens, cs_kv_pool **out,
                            cs_error *error);
void cs_kv_pool_destroy(cs_kv_pool *pool);
uint32_t cs_kv_pool_n_blocks(const cs_kv_pool *pool);
uint32_t cs_kv_pool_n_free(const cs_kv_pool *pool);
uint32_t cs_kv_pool_block_tokens(const cs_kv_pool *pool);

/* The blocks of one sequence, in order of position. Zero-initialise before first use. */
typedef struct cs_kv_sequence {
  int32_t *blocks; /* owned */
  uint32_t n_blocks;
  uint32_t capacity;
  uint64_t n_tokens; /* positions whose KV is in the cache */
} cs_kv_sequence;

/* Takes blocks until `n_tokens` positions fit. All or nothing: CS_EXHAUSTED when the pool has too
 * few. */
cs_status cs_kv_sequence_reserve(cs_kv_pool *pool, cs_kv_sequence *sequence, uint64_t n_tokens,
                                 cs_error *error);
/* The cache slot of a position; -1 when it was not reserved. */
int32_t cs_kv_sequence_slot(const cs_kv_pool *pool, const cs_kv_sequence *sequence,
                            uint64_t position);
/* Gives all blocks back and zeroes the sequence. */
void cs_kv_sequence_release(cs_kv_pool *pool, cs_kv_sequence *sequence);

#endif
