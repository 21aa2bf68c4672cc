/* One op test for each op at a shape that stands for its use: small ones to be replayed, large ones
 * to be timed. */
#ifndef KIT_REPRESENTATIVE_H
#define KIT_REPRESENTATIVE_H

#include "optest.h"

typedef enum representative_size {
  REPRESENTATIVE_SMALL,
  REPRESENTATIVE_DECODE, /* one token of a model of a billion weights */
  REPRESENTATIVE_PREFILL /* 128 tokens of it; only where the shape makes another case */
} representative_size;

typedef struct representative {
  optest *test;
  double bytes; /* read and written by the op */
  double flops;
  char shape[64];
} representative;

/* False when the op has no such shape or the device lists no KV layout that it needs. The op is
 * neither queried nor placed yet. */
bool representative_build(kit *k, uint32_t op_id, uint32_t dtype, representative_size size,
                          representative *out);

#endif
