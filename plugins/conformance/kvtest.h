/* What the cases of KV ops share: which layouts, block sizes and dtypes a device claims, and random
 * caches and block tables. */
#ifndef KIT_KVTEST_H
#define KIT_KVTEST_H

#include "optest.h"

/* The device's preferred layout for 0, else the layout itself; CS_LAYOUT_PLAIN (with a note that
 * the variant is unsupported) when the device does not list it. */
uint32_t kv_layout(kit *k, uint32_t wanted);
/* Notes "unsupported" when the device does not list the cache dtype. */
bool kv_has_dtype(kit *k, uint32_t dtype);
/* The next block size after `tokens` that the device allows, from 16 to 128; 0 at the end. Start
 * with 0. */
uint64_t kv_next_block(const kit *k, uint64_t tokens);

/* Random values for a whole plane. */
void kv_fill(optest *t, uint32_t index, double scale);
/* n distinct blocks of n_blocks, in random order. */
void kv_random_blocks(kit *k, double *table, uint64_t n, uint64_t n_blocks);

const char *kv_layout_name(uint32_t layout);

#endif
