/* Heads of a token are rows of `width` contiguous elements in two of the three block layouts, so
 * rows are what is copied and converted; the head-minor layout goes element by element. */
#include "scheduler/wire.h"

#include <string.h>

#include "core/dtype.h"
#include "core/error.h"

uint64_t cs_wire_sum(const void *data, size_t bytes) {
  const uint8_t *const from = data;
  uint64_t sum = 0;
  for (size_t at = 0; at < bytes; at += 4) {
    uint32_t word = 0;
    const size_t n = bytes - at < 4 ? bytes - at : 4;
    for (size_t i = 0; i < n; i++)
      word |= (uint32_t)from[at + i] << (8 * i);
    uint64_t z = ((uint64_t)(at / 4) << 32 | word) + UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    sum += z ^ z >> 31;
  }
  return sum;
}

uint32_t cs_wire_element_bytes(uint32_t dtype) {
  const cs_dtype_info *const info = cs_dtype_find(dtype);
  if (!info || info->block_elements != 1 || info->block_bytes > 4) return 0;
  return info->block_bytes;
}

static bool is_float(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 || dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16;
}

bool cs_wire_can_convert(uint32_t from_dtype, uint32_t to_dtype) {
  if (from_dtype == to_dtype) return cs_wire_element_bytes(from_dtype) != 0;
  return is_float(from_dtype) && is_float(to_dtype);
}

cs_status cs_wire_bytes(const cs_kv_wire *wire, uint32_t n_tokens, uint64_t *bytes) {
  const uint64_t element = cs_wire_element_bytes(wire->dtype);
  if (element == 0) return CS_UNSUPPORTED;
  const uint64_t widths = (uint64_t)wire->k_width + wire->v_width;
  uint64_t product;
  if (__builtin_mul_overflow(widths * element, (uint64_t)wire->n_kv_heads, &product) ||
      __builtin_mul_overflow(product, (uint64_t)n_tokens, &product))
    return CS_OUT_OF_RANGE;
  *bytes = product;
  return CS_OK;
}

cs_status cs_wire_check(const cs_kv_wire *mine, const cs_kv_wire *theirs, cs_error *error) {
  if (mine->fingerprint != theirs->fingerprint)
    return cs_error_set(error, CS_UNSUPPORTED,
                        "KV transfer: the two devices hold different models");
  const struct {
    const char *name;
    uint32_t mine, theirs;
  } fields[] = {{"layers", mine->n_layers, theirs->n_layers},
                {"KV heads", mine->n_kv_heads, theirs->n_kv_heads},
                {"key width", mine->k_width, theirs->k_width},
                {"value width", mine->v_width, theirs->v_width}};
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
    if (fields[i].mine != fields[i].theirs)
      return cs_error_set(error, CS_UNSUPPORTED, "KV transfer: %s differ (%u and %u)",
                          fields[i].name, fields[i].mine, fields[i].theirs);
  if (cs_wire_can_convert(mine->dtype, theirs->dtype)) return CS_OK;
  const cs_dtype_info *const from = cs_dtype_find(mine->dtype);
  const cs_dtype_info *const to = cs_dtype_find(theirs->dtype);
  return cs_error_set(error, CS_UNSUPPORTED, "KV transfer: %s cannot be turned into %s",
                      from ? from->name : "?", to ? to->name : "?");
}

size_t cs_wire_block_bytes(const cs_wire_plane *plane) {
  return (size_t)plane->block_tokens * plane->n_heads * plane->width *
         cs_wire_element_bytes(plane->dtype);
}

/* Index of element 0 of (token, head) in its block, and the distance to element 1. */
static size_t row_start(const cs_wire_plane *plane, uint32_t token, uint32_t head, size_t *step) {
  *step = 1;
  if (plane->layout == CS_LAYOUT_KV_HEAD_MAJOR)
    return ((size_t)head * plane->block_tokens + token) * plane->width;
  if (plane->layout == CS_LAYOUT_KV_HEAD_MINOR) {
    *step = plane->n_heads;
    return (size_t)token * plane->width * plane->n_heads + head;
  }
  return ((size_t)token * plane->n_heads + head) * plane->width;
}

static void convert(uint32_t to_dtype, void *to, uint32_t from_dtype, const void *from, size_t n) {
  if (to_dtype == from_dtype)
    memcpy(to, from, n * cs_wire_element_bytes(to_dtype));
  else
    (void)cs_dtype_convert(to_dtype, to, from_dtype, from, n);
}

/* One row between block and wire, in either direction. */
static void move_row(const cs_wire_plane *plane, uint8_t *block, uint32_t token, uint32_t head,
                     uint32_t wire_dtype, uint8_t *wire, bool to_wire) {
  const size_t cache_element = cs_wire_element_bytes(plane->dtype);
  const size_t wire_element = cs_wire_element_bytes(wire_dtype);
  size_t step;
  const size_t start = row_start(plane, token, head, &step);
  const size_t n_runs = step == 1 ? 1 : plane->width;
  const size_t run = step == 1 ? plane->width : 1;
  for (size_t i = 0; i < n_runs; i++) {
    uint8_t *const cached = block + (start + i * step) * cache_element;
    uint8_t *const wired = wire + i * wire_element;
    if (to_wire)
      convert(wire_dtype, wired, plane->dtype, cached, run);
    else
      convert(plane->dtype, cached, wire_dtype, wired, run);
  }
}

static void move(const cs_wire_plane *plane, uint8_t *blocks, uint32_t first, uint32_t n_tokens,
                 uint32_t wire_dtype, uint8_t *wire, bool to_wire) {
  const size_t block_bytes = cs_wire_block_bytes(plane);
  const size_t row_bytes = (size_t)plane->width * cs_wire_element_bytes(wire_dtype);
  for (uint32_t head = 0; head < plane->n_heads; head++)
    for (uint32_t i = 0; i < n_tokens; i++) {
      const uint32_t token = first + i;
      move_row(plane, blocks + token / plane->block_tokens * block_bytes,
               token % plane->block_tokens, head, wire_dtype,
               wire + ((size_t)head * n_tokens + i) * row_bytes, to_wire);
    }
}

void cs_wire_gather(const cs_wire_plane *plane, const void *blocks, uint32_t first,
                    uint32_t n_tokens, uint32_t wire_dtype, void *wire) {
  move(plane, (uint8_t *)(uintptr_t)blocks, first, n_tokens, wire_dtype, wire, true);
}

void cs_wire_scatter(const cs_wire_plane *plane, void *blocks, uint32_t first, uint32_t n_tokens,
                     uint32_t wire_dtype, const void *wire) {
  move(plane, blocks, first, n_tokens, wire_dtype, (uint8_t *)(uintptr_t)wire, false);
}
