/* Offsets for values that live for a while: two that are never alive together may share bytes. */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

#define CS_ARENA_ALIGN 256

/* One value: alive from `first` to `last`, both included. */
typedef struct cs_arena_item {
  uint32_t first;
  uint32_t last;
  uint64_t bytes;
  uint64_t offset; /* filled: a multiple of CS_ARENA_ALIGN */
} cs_arena_item;

/* Fills the offsets and *total_bytes (a multiple of CS_ARENA_ALIGN). CS_OUT_OF_RANGE when the sum
 * overflows, CS_OUT_OF_MEMORY. */
cs_status cs_arena_assign(cs_arena_item *items, size_t n_items, uint64_t *total_bytes,
                          cs_error *error);

/* bytes rounded up to CS_ARENA_ALIGN; UINT64_MAX on overflow. */
uint64_t cs_arena_round(uint64_t bytes);

#endif
