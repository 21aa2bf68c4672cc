/* Sizes and names of number formats. */
#ifndef CORE_DTYPE_H
#define CORE_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"
#include "consort/types.h"

typedef struct cs_dtype_info {
  const char *name;        /* "f32", "q8_0" */
  uint32_t block_elements; /* 1 for plain formats */
  uint32_t block_bytes;
} cs_dtype_info;

/* NULL for a number that names no format. Static. */
const cs_dtype_info *cs_dtype_find(uint32_t dtype);

/* CS_DTYPE_NONE for an unknown name. */
uint32_t cs_dtype_from_name(const char *name);

/* Bytes of n_elements contiguous elements. CS_INVALID_ARGUMENT when they are not whole blocks or
 * the dtype is unknown, CS_OUT_OF_RANGE on overflow. */
cs_status cs_dtype_bytes(uint32_t dtype, uint64_t n_elements, uint64_t *bytes);

/* Converts n elements between F32, F16, BF16 (any pair), rounding to nearest even. */
cs_status cs_dtype_convert(uint32_t to_dtype, void *to, uint32_t from_dtype, const void *from,
                           size_t n);

#endif
