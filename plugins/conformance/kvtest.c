/* The smallest set of KV shapes that a case has to walk through is decided here, from what the
 * device says of itself. */
#include "kvtest.h"

#include "format.h"

const char *kv_layout_name(uint32_t layout) {
  switch (layout) {
  case CS_LAYOUT_KV_TOKEN_MAJOR:
    return "token_major";
  case CS_LAYOUT_KV_HEAD_MAJOR:
    return "head_major";
  case CS_LAYOUT_KV_HEAD_MINOR:
    return "head_minor";
  default:
    return "preferred";
  }
}

uint32_t kv_layout(kit *k, uint32_t wanted) {
  if (k->properties.kv_layouts == 0) {
    kit_unsupported(k, "the device lists no KV layout");
    return CS_LAYOUT_PLAIN;
  }
  if (wanted == 0) return k->properties.kv_layout;
  if (k->properties.kv_layouts & CS_LAYOUT_BIT(wanted)) return wanted;
  kit_unsupported(k, "the device does not list the layout %s", kv_layout_name(wanted));
  return CS_LAYOUT_PLAIN;
}

bool kv_has_dtype(kit *k, uint32_t dtype) {
  if (k->properties.kv_dtypes & CS_DTYPE_BIT(dtype)) return true;
  kit_unsupported(k, "the device does not list %s among its KV dtypes", format_name(dtype));
  return false;
}

uint64_t kv_next_block(const kit *k, uint64_t tokens) {
  for (uint64_t next = tokens ? 2 * tokens : 16; next <= 128; next *= 2)
    if (next >= k->properties.kv_block_tokens_min && next <= k->properties.kv_block_tokens_max)
      return next;
  return 0;
}

void kv_fill(optest *t, uint32_t index, double scale) {
  optest_fill_bell(t, index, scale);
}

void kv_random_blocks(kit *k, double *table, uint64_t n, uint64_t n_blocks) {
  bool *taken = kit_host_memory(k, n_blocks * sizeof *taken);
  for (uint64_t i = 0; i < n; i++) {
    uint64_t block = rng_below(&k->rng, n_blocks);
    while (taken[block])
      block = (block + 1) % n_blocks;
    taken[block] = true;
    table[i] = (double)block;
  }
}
