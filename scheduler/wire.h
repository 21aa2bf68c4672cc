/* The wire layout of KV, for devices that do not convert it themselves: the host's own gather and
 * scatter, and the checksum. */
#ifndef SCHEDULER_WIRE_H
#define SCHEDULER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/message.h"

/* The order-independent sum of consort/ops.h over `bytes` bytes, zero-padded to words. */
uint64_t cs_wire_sum(const void *data, size_t bytes);

/* Whether KV may be of this dtype: f32, f16, bf16, fp8 (e4m3) or int8 with scales (kv.h). */
bool cs_wire_is_kv_dtype(uint32_t dtype);

/* Bytes of one head of one token, its scale included. */
uint64_t cs_wire_row_bytes(uint32_t dtype, uint32_t width);

/* Bytes of one piece: K then V of n_tokens of one layer. CS_UNSUPPORTED for a dtype that KV cannot
 * have, CS_OUT_OF_RANGE on overflow. */
cs_status cs_wire_bytes(const cs_kv_wire *wire, uint32_t n_tokens, uint64_t *bytes);

/* Bytes of one element of a KV dtype; 0 for what cannot be one. */
uint32_t cs_wire_element_bytes(uint32_t dtype);

/* Whether the host can turn rows of one dtype into the other. */
bool cs_wire_can_convert(uint32_t from_dtype, uint32_t to_dtype);

/* CS_UNSUPPORTED, naming the field, when KV of `mine` cannot be turned into `theirs`. */
cs_status cs_wire_check(const cs_kv_wire *mine, const cs_kv_wire *theirs, cs_error *error);

/* One plane (K or V) of a cache in host memory. */
typedef struct cs_wire_plane {
  uint32_t dtype;
  uint32_t layout; /* CS_LAYOUT_KV_* */
  uint32_t block_tokens;
  uint32_t n_heads;
  uint32_t width;
} cs_wire_plane;

/* Dense bytes of one block, its scales included. */
size_t cs_wire_block_bytes(const cs_wire_plane *plane);

/* `blocks`: the blocks that hold the tokens, one after the other; the first token is number
 * `first` of the first block. `wire`: (n_heads, n_tokens, width) in wire_dtype, then its scales. */
void cs_wire_gather(const cs_wire_plane *plane, const void *blocks, uint32_t first,
                    uint32_t n_tokens, uint32_t wire_dtype, void *wire);
/* The inverse: other tokens of the blocks stay as they are. */
void cs_wire_scatter(const cs_wire_plane *plane, void *blocks, uint32_t first, uint32_t n_tokens,
                     uint32_t wire_dtype, const void *wire);

#endif
