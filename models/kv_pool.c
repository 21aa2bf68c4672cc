/* Free blocks are a stack: what was given back last is taken next, while it may still be in a
 * cache. A reservation first makes sure that nothing can fail any more, then takes, so that a
 * refused one leaves pool and sequence as they were. */
#include "models/kv_pool.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"

struct cs_kv_pool {
  uint32_t n_blocks;
  uint32_t block_tokens;
  uint32_t n_free;
  int32_t *free_blocks; /* the last one is taken first */
};

cs_status cs_kv_pool_create(uint32_t n_blocks, uint32_t block_tokens, cs_kv_pool **out,
                            cs_error *error) {
  *out = NULL;
  if (n_blocks == 0 || block_tokens == 0)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "KV pool: no blocks, or blocks of no tokens");
  if (n_blocks > INT32_MAX / block_tokens)
    return cs_error_set(error, CS_OUT_OF_RANGE,
                        "KV pool: %u blocks of %u tokens are more than a slot can number", n_blocks,
                        block_tokens);
  cs_kv_pool *pool = calloc(1, sizeof *pool);
  if (!pool) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  pool->free_blocks = malloc(n_blocks * sizeof *pool->free_blocks);
  if (!pool->free_blocks) {
    free(pool);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  }
  for (uint32_t i = 0; i < n_blocks; i++)
    pool->free_blocks[i] = (int32_t)(n_blocks - 1 - i);
  pool->n_blocks = n_blocks;
  pool->block_tokens = block_tokens;
  pool->n_free = n_blocks;
  *out = pool;
  return CS_OK;
}

void cs_kv_pool_destroy(cs_kv_pool *pool) {
  if (!pool) return;
  free(pool->free_blocks);
  free(pool);
}

uint32_t cs_kv_pool_n_blocks(const cs_kv_pool *pool) {
  return pool->n_blocks;
}

uint32_t cs_kv_pool_n_free(const cs_kv_pool *pool) {
  return pool->n_free;
}

uint32_t cs_kv_pool_block_tokens(const cs_kv_pool *pool) {
  return pool->block_tokens;
}

static cs_status grow(cs_kv_sequence *sequence, uint32_t n_blocks, cs_error *error) {
  if (n_blocks <= sequence->capacity) return CS_OK;
  uint32_t capacity = sequence->capacity < INT32_MAX / 2 ? 2 * sequence->capacity : n_blocks;
  if (capacity < n_blocks) capacity = n_blocks;
  int32_t *blocks = realloc(sequence->blocks, capacity * sizeof *blocks);
  if (!blocks) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  sequence->blocks = blocks;
  sequence->capacity = capacity;
  return CS_OK;
}

cs_status cs_kv_sequence_reserve(cs_kv_pool *pool, cs_kv_sequence *sequence, uint64_t n_tokens,
                                 cs_error *error) {
  const uint64_t n_needed = n_tokens / pool->block_tokens + (n_tokens % pool->block_tokens != 0);
  if (n_needed <= sequence->n_blocks) return CS_OK;
  if (n_needed - sequence->n_blocks > pool->n_free)
    return cs_error_set(error, CS_EXHAUSTED,
                        "KV pool: %llu more blocks of %u tokens are needed, %u of %u are free",
                        (unsigned long long)(n_needed - sequence->n_blocks), pool->block_tokens,
                        pool->n_free, pool->n_blocks);
  const cs_status status = grow(sequence, (uint32_t)n_needed, error);
  if (status != CS_OK) return status;
  while (sequence->n_blocks < n_needed)
    sequence->blocks[sequence->n_blocks++] = pool->free_blocks[--pool->n_free];
  return CS_OK;
}

int32_t cs_kv_sequence_slot(const cs_kv_pool *pool, const cs_kv_sequence *sequence,
                            uint64_t position) {
  const uint64_t index = position / pool->block_tokens;
  if (index >= sequence->n_blocks) return -1;
  return sequence->blocks[index] * (int32_t)pool->block_tokens +
         (int32_t)(position % pool->block_tokens);
}

void cs_kv_sequence_release(cs_kv_pool *pool, cs_kv_sequence *sequence) {
  while (sequence->n_blocks > 0)
    pool->free_blocks[pool->n_free++] = sequence->blocks[--sequence->n_blocks];
  free(sequence->blocks);
  memset(sequence, 0, sizeof *sequence);
}
