/* Items are taken in the order in which they come alive, and each gets the lowest gap between
 * those alive with it. The forward pass has few values alive at once, so this stays close to the
 * peak of what is alive, and it is simple enough to be checked by eye. */
#include "core/arena.h"

#include <stdlib.h>

#include "core/error.h"

uint64_t cs_arena_round(uint64_t bytes) {
  if (bytes > UINT64_MAX - CS_ARENA_ALIGN) return UINT64_MAX;
  return (bytes + CS_ARENA_ALIGN - 1) / CS_ARENA_ALIGN * CS_ARENA_ALIGN;
}

static int compare_first(const void *a, const void *b) {
  const cs_arena_item *left = *(cs_arena_item *const *)a;
  const cs_arena_item *right = *(cs_arena_item *const *)b;
  if (left->first != right->first) return left->first < right->first ? -1 : 1;
  return left < right ? -1 : left > right;
}

/* Drops the items that are over before `now`; keeps the order. */
static size_t drop_dead(cs_arena_item **alive, size_t n_alive, uint32_t now) {
  size_t n_kept = 0;
  for (size_t i = 0; i < n_alive; i++) {
    if (alive[i]->last >= now) alive[n_kept++] = alive[i];
  }
  return n_kept;
}

/* Puts `item` into the lowest gap between the alive ones, which lie in order of offset. */
static size_t insert(cs_arena_item **alive, size_t n_alive, cs_arena_item *item) {
  const uint64_t needed = cs_arena_round(item->bytes);
  uint64_t gap_begin = 0;
  size_t place = 0;
  while (place < n_alive && alive[place]->offset - gap_begin < needed) {
    gap_begin = alive[place]->offset + cs_arena_round(alive[place]->bytes);
    place++;
  }
  item->offset = gap_begin;
  for (size_t i = n_alive; i > place; i--)
    alive[i] = alive[i - 1];
  alive[place] = item;
  return n_alive + 1;
}

cs_status cs_arena_assign(cs_arena_item *items, size_t n_items, uint64_t *total_bytes,
                          cs_error *error) {
  *total_bytes = 0;
  uint64_t sum = 0;
  for (size_t i = 0; i < n_items; i++) {
    if (__builtin_add_overflow(sum, cs_arena_round(items[i].bytes), &sum)) {
      return cs_error_set(error, CS_OUT_OF_RANGE, "activations larger than any memory");
    }
  }
  if (n_items == 0) return CS_OK;
  cs_arena_item **order = malloc(n_items * sizeof(cs_arena_item *));
  cs_arena_item **alive = malloc(n_items * sizeof(cs_arena_item *));
  if (!order || !alive) {
    free(order);
    free(alive);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory to lay out an arena");
  }
  for (size_t i = 0; i < n_items; i++)
    order[i] = &items[i];
  qsort(order, n_items, sizeof *order, compare_first);
  size_t n_alive = 0;
  for (size_t i = 0; i < n_items; i++) {
    n_alive = drop_dead(alive, n_alive, order[i]->first);
    n_alive = insert(alive, n_alive, order[i]);
    const uint64_t end = order[i]->offset + cs_arena_round(order[i]->bytes);
    if (end > *total_bytes) *total_bytes = end;
  }
  free(order);
  free(alive);
  return CS_OK;
}
