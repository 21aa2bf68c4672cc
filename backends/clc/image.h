/* GGUF rows as the records that the kernels read (kernels/weights.cl). */
#ifndef CLC_IMAGE_H
#define CLC_IMAGE_H

#include <stdint.h>

#include "consort/plugin.h"

#define CLC_IMAGE_MAX_BYTES 256 /* of one block */

/* A weight format: what one row's block becomes. Plain formats have blocks of one element, which
 * are their own record; the others a head, if any, and a record for every 32 columns. */
typedef struct clc_format {
  uint32_t dtype;
  uint32_t block; /* elements of a block in GGUF */
  uint32_t head_bytes;
  uint32_t record_bytes;
  uint32_t head_f16; /* fields of 16 bits at the beginning; the rest are bytes */
  uint32_t record_f16;
} clc_format;

/* NULL for a format that is not served. */
const clc_format *clc_format_of(uint32_t dtype);

/* Bytes of one row; n_columns is whole blocks. */
uint64_t clc_image_bytes(const clc_format *format, uint64_t n_columns);

/* One block of GGUF as its head and records, at most CLC_IMAGE_MAX_BYTES. */
void clc_image_block(const clc_format *format, unsigned char *to, const unsigned char *block);

#endif
