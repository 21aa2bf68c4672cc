/* Heads of a token are rows of `width` contiguous elements in two of the three block layouts, so
 * rows are what is copied and converted; the head-minor layout goes element by element. The wire of
 * n tokens is a head-major block of n tokens, so that both ends of a copy are planes. */
#include "scheduler/wire.h"

#include <string.h>

#include "consort/kv.h"
#include "core/dtype.h"
#include "core/error.h"

#define ROW_PIECE 64 /* elements converted at a time */

bool cs_wire_is_kv_dtype(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 || dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16 ||
         dtype == CS_DTYPE_F8_E4M3 || dtype == CS_DTYPE_I8;
}

uint32_t cs_wire_element_bytes(uint32_t dtype) {
  if (!cs_wire_is_kv_dtype(dtype)) return 0;
  return cs_dtype_find(dtype)->block_bytes;
}

bool cs_wire_can_convert(uint32_t from_dtype, uint32_t to_dtype) {
  return cs_wire_is_kv_dtype(from_dtype) && cs_wire_is_kv_dtype(to_dtype);
}

uint64_t cs_wire_row_bytes(uint32_t dtype, uint32_t width) {
  return (uint64_t)width * cs_wire_element_bytes(dtype) + (width ? cs_kv_scale_bytes(dtype) : 0);
}

cs_status cs_wire_bytes(const cs_kv_wire *wire, uint32_t n_tokens, uint64_t *bytes) {
  if (cs_wire_element_bytes(wire->dtype) == 0) return CS_UNSUPPORTED;
  const uint64_t rows =
      cs_wire_row_bytes(wire->dtype, wire->k_width) + cs_wire_row_bytes(wire->dtype, wire->v_width);
  uint64_t product;
  if (__builtin_mul_overflow(rows, (uint64_t)wire->n_kv_heads, &product) ||
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
  return (size_t)plane->block_tokens * plane->n_heads *
         (size_t)cs_wire_row_bytes(plane->dtype, plane->width);
}

/* ---- rows ---- */

/* One head of one token in its block. */
typedef struct row_place {
  uint32_t dtype;
  uint32_t width;
  uint8_t *elements;
  size_t step_bytes; /* from element to element */
  uint8_t *scale;    /* NULL where the dtype has none */
} row_place;

static row_place place_of(const cs_wire_plane *plane, uint8_t *block, uint32_t token,
                          uint32_t head) {
  const size_t element = cs_wire_element_bytes(plane->dtype);
  const bool head_major = plane->layout == CS_LAYOUT_KV_HEAD_MAJOR;
  const size_t row = head_major ? (size_t)head * plane->block_tokens + token
                                : (size_t)token * plane->n_heads + head;
  const size_t n_elements = (size_t)plane->block_tokens * plane->n_heads * plane->width;
  row_place place = {plane->dtype, plane->width, block + row * plane->width * element, element,
                     NULL};
  if (plane->layout == CS_LAYOUT_KV_HEAD_MINOR) {
    place.elements = block + ((size_t)token * plane->width * plane->n_heads + head) * element;
    place.step_bytes = plane->n_heads * element;
  }
  const size_t scale_bytes = (size_t)cs_kv_scale_bytes(plane->dtype);
  if (scale_bytes) place.scale = block + n_elements + row * scale_bytes;
  return place;
}

/* Elements one by one or as one run, without their scale. */
static void copy_elements(const row_place *to, const row_place *from) {
  const size_t element = cs_wire_element_bytes(to->dtype);
  if (to->step_bytes == element && from->step_bytes == element) {
    memcpy(to->elements, from->elements, to->width * element);
    return;
  }
  for (uint32_t i = 0; i < to->width; i++)
    memcpy(to->elements + i * to->step_bytes, from->elements + i * from->step_bytes, element);
}

/* Elements first to first + n - 1 as float32, and back. */
static void load_elements(const row_place *from, uint32_t first, uint32_t n, float *x) {
  const size_t element = cs_wire_element_bytes(from->dtype);
  float scale = 0;
  if (from->scale) memcpy(&scale, from->scale, sizeof scale);
  const uint32_t run = from->step_bytes == element ? n : 1;
  for (uint32_t i = 0; i < n; i += run) {
    const uint8_t *const at = from->elements + (first + i) * from->step_bytes;
    if (from->scale)
      cs_kv_f32_from_i8(x + i, (const int8_t *)at, scale, run);
    else
      (void)cs_dtype_convert(CS_DTYPE_F32, x + i, from->dtype, at, run);
  }
}

static void store_elements(const row_place *to, uint32_t first, uint32_t n, const float *x,
                           float scale) {
  const size_t element = cs_wire_element_bytes(to->dtype);
  const uint32_t run = to->step_bytes == element ? n : 1;
  for (uint32_t i = 0; i < n; i += run) {
    uint8_t *const at = to->elements + (first + i) * to->step_bytes;
    if (to->scale)
      cs_kv_i8_round((int8_t *)at, x + i, scale, run);
    else
      (void)cs_dtype_convert(to->dtype, at, CS_DTYPE_F32, x + i, run);
  }
}

static uint32_t piece(const row_place *row, uint32_t first) {
  return row->width - first < ROW_PIECE ? row->width - first : ROW_PIECE;
}

static void convert_row(const row_place *to, const row_place *from) {
  float x[ROW_PIECE], scale = 0;
  if (to->scale) {
    float largest = 0;
    for (uint32_t i = 0; i < to->width; i += ROW_PIECE) {
      load_elements(from, i, piece(from, i), x);
      largest = cs_kv_i8_largest(x, piece(from, i), largest);
    }
    scale = cs_kv_i8_scale(largest);
    memcpy(to->scale, &scale, sizeof scale);
  }
  for (uint32_t i = 0; i < to->width; i += ROW_PIECE) {
    load_elements(from, i, piece(from, i), x);
    store_elements(to, i, piece(to, i), x, scale);
  }
}

static void move_row(const row_place *to, const row_place *from) {
  if (to->dtype != from->dtype) {
    convert_row(to, from);
    return;
  }
  copy_elements(to, from);
  if (to->scale) memcpy(to->scale, from->scale, sizeof(float));
}

static void move(const cs_wire_plane *plane, uint8_t *blocks, uint32_t first, uint32_t n_tokens,
                 uint32_t wire_dtype, uint8_t *wire, bool to_wire) {
  const size_t block_bytes = cs_wire_block_bytes(plane);
  const cs_wire_plane wire_plane = {wire_dtype, CS_LAYOUT_KV_HEAD_MAJOR, n_tokens, plane->n_heads,
                                    plane->width};
  for (uint32_t head = 0; head < plane->n_heads; head++)
    for (uint32_t i = 0; i < n_tokens; i++) {
      const uint32_t token = first + i;
      const row_place cached = place_of(plane, blocks + token / plane->block_tokens * block_bytes,
                                        token % plane->block_tokens, head);
      const row_place wired = place_of(&wire_plane, wire, i, head);
      move_row(to_wire ? &wired : &cached, to_wire ? &cached : &wired);
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
