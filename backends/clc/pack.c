/* Weights in the order the matmul kernels read them: tiles of 32 rows, transposed, so that 32
 * neighbouring outputs of one column lie side by side. One layout serves both variants: on a CPU a
 * column is two float16, on a GPU 32 items read it at once. The last tile is filled with zeros.
 *
 *   plain formats  [tile][column][32 rows]
 *   the others     [tile][super-block]{head, [32 columns]{record}}, each field of a head or record
 *                  with 32 rows side by side; image.c makes them for one row
 *
 * Bytes are those of GGUF, but for the K formats' scales, which take a byte each. */
#include <string.h>

#include "clc.h"
#include "image.h"

#define LAYOUT_TILES 3

/* to[i][row] = from[row][i] for n units of 1, 2 or 4 bytes; rows of `from` are stride apart. A few
 * columns at a time, so that the lines written stay in the nearest cache. */
#define TRANSPOSE_COLUMNS 64
#define TRANSPOSE(NAME, TYPE)                                                                      \
  static void NAME(TYPE *to, const unsigned char *from, size_t stride, size_t n, uint32_t rows) {  \
    for (size_t first = 0; first < n; first += TRANSPOSE_COLUMNS) {                                \
      const size_t end = n - first < TRANSPOSE_COLUMNS ? n : first + TRANSPOSE_COLUMNS;            \
      for (uint32_t row = 0; row < rows; row++) {                                                  \
        const unsigned char *source = from + row * stride;                                         \
        for (size_t i = first; i < end; i++)                                                       \
          memcpy(&to[i * CLC_TILE + row], source + i * sizeof(TYPE), sizeof(TYPE));                \
      }                                                                                            \
    }                                                                                              \
  }
TRANSPOSE(transpose_u8, uint8_t)
TRANSPOSE(transpose_u16, uint16_t)
TRANSPOSE(transpose_u32, uint32_t)

/* Fields of `rows` images, CLC_IMAGE_MAX_BYTES apart: n_f16 of 16 bits, the rest bytes. */
static void transpose_fields(unsigned char *to, const unsigned char *images, uint32_t bytes,
                             uint32_t n_f16, uint32_t rows) {
  transpose_u16((uint16_t *)(void *)to, images, CLC_IMAGE_MAX_BYTES, n_f16, rows);
  transpose_u8(to + 2 * n_f16 * CLC_TILE, images + 2 * n_f16, CLC_IMAGE_MAX_BYTES,
               bytes - 2 * n_f16, rows);
}

/* One block of each of `rows` rows, row_bytes apart. */
static void pack_block(const clc_format *format, unsigned char *to, const unsigned char *from,
                       size_t row_bytes, uint32_t rows) {
  unsigned char images[CLC_TILE * CLC_IMAGE_MAX_BYTES];
  for (uint32_t row = 0; row < rows; row++)
    clc_image_block(format, images + row * CLC_IMAGE_MAX_BYTES, from + row * row_bytes);
  if (format->head_bytes > 0)
    transpose_fields(to, images, format->head_bytes, format->head_f16, rows);
  for (uint32_t at = format->head_bytes; at < clc_image_bytes(format, format->block);
       at += format->record_bytes)
    transpose_fields(to + at * CLC_TILE, images + at, format->record_bytes, format->record_f16,
                     rows);
}

/* One tile of `rows` source rows into `to`, which is zeroed where there are fewer than a tile's. */
static void pack_tile(const clc_source *source, unsigned char *to, const unsigned char *from,
                      uint32_t rows) {
  const clc_format *format = source->format;
  const size_t row_bytes = source->row_bytes, n = source->n_columns / format->block;
  if (format->block == 1 && format->record_bytes == 4) {
    transpose_u32((uint32_t *)(void *)to, from, row_bytes, n, rows);
  } else if (format->block == 1) {
    transpose_u16((uint16_t *)(void *)to, from, row_bytes, n, rows);
  } else {
    const size_t packed_bytes = clc_image_bytes(format, format->block) * CLC_TILE;
    for (size_t i = 0; i < n; i++)
      pack_block(format, to + i * packed_bytes, from + i * (row_bytes / n), row_bytes, rows);
  }
}

uint64_t clc_units(const clc_source *source) {
  return source->n_matrices * ((source->n_rows + CLC_TILE - 1) / CLC_TILE);
}

uint64_t clc_unit_bytes(const clc_source *source) {
  return CLC_TILE * clc_image_bytes(source->format, source->n_columns);
}

void clc_pack(const clc_source *source, uint64_t first, uint64_t n, unsigned char *to) {
  const uint64_t tile_bytes = clc_unit_bytes(source);
  const uint64_t matrix_tiles = clc_units(source) / source->n_matrices;
  for (uint64_t tile = first; tile < first + n; tile++, to += tile_bytes) {
    const uint64_t row = tile % matrix_tiles * CLC_TILE;
    const uint64_t left = source->n_rows - row;
    const uint32_t n_rows = left < CLC_TILE ? (uint32_t)left : CLC_TILE;
    if (n_rows < CLC_TILE) memset(to, 0, tile_bytes);
    pack_tile(source, to,
              source->data + (tile / matrix_tiles * source->n_rows + row) * source->row_bytes,
              n_rows);
  }
}

/* Reads and checks the descriptor: sizes are bounded so that later products fit. */
static cs_status read_source(const cs_weight *weight, clc_source *out, cs_error *error) {
  if (weight->source != CS_WEIGHT_GGUF || weight->n_parts != 1 || !weight->parts)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "a weight of source %u in %u parts",
                        weight->source, weight->n_parts);
  const clc_format *format = clc_format_of(weight->dtype);
  if (!format) return cs_sdk_error(error, CS_UNSUPPORTED, 0, "weights of dtype %u", weight->dtype);
  if (weight->rank != 2 && weight->rank != 3)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "a weight of rank %u", weight->rank);
  cs_weight_part part;
  const cs_status status = cs_sdk_struct_read(&part, sizeof part, weight->parts, error);
  if (status != CS_OK) return status;
  const uint64_t *dims = weight->dims + (weight->rank == 3);
  *out = (clc_source){.data = part.data,
                      .format = format,
                      .n_matrices = weight->rank == 3 ? weight->dims[0] : 1,
                      .n_rows = dims[0],
                      .n_columns = dims[1]};
  if (out->n_matrices == 0 || out->n_rows == 0 || out->n_columns == 0 ||
      out->n_matrices > INT32_MAX || out->n_rows > INT32_MAX || out->n_columns > INT32_MAX)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "a weight with an extent of 0 or above 2^31");
  out->row_bytes = cs_sdk_dtype_bytes(weight->dtype, out->n_columns);
  if (out->row_bytes == 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "rows of %llu are not whole blocks",
                        (unsigned long long)out->n_columns);
  const uint64_t padded = (out->n_rows + CLC_TILE - 1) / CLC_TILE * CLC_TILE;
  if (out->n_matrices > UINT64_MAX / padded / clc_image_bytes(format, out->n_columns) ||
      out->n_matrices > UINT64_MAX / padded / out->row_bytes)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "the weight's size overflows");
  const uint64_t bytes = out->n_matrices * out->n_rows * out->row_bytes;
  if (part.dtype != weight->dtype || !part.data || part.bytes != bytes)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "a part of %llu bytes, not %llu",
                        (unsigned long long)part.bytes, (unsigned long long)bytes);
  return CS_OK;
}

cs_status clc_weights_pack(cs_plugin_device *device, const cs_weight *weight_in,
                           cs_plugin_memory **out, cs_packed_info *info, cs_error *error) {
  *out = NULL;
  const clc_driver *driver = clc_driver_of(device);
  cs_weight weight;
  clc_source source = {0};
  cs_status status = cs_sdk_struct_read(&weight, sizeof weight, weight_in, error);
  if (status == CS_OK) status = read_source(&weight, &source, error);
  if (status != CS_OK) return status;
  if (weight.usage == 0 || (weight.usage & ~(CS_USAGE_MATMUL | CS_USAGE_GATHER)) != 0)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "a weight for usage %u", weight.usage);
  const uint64_t bytes = clc_units(&source) * clc_unit_bytes(&source);
  cs_plugin_memory *memory = NULL;
  status = driver->memory_allocate(device, bytes, CS_MEMORY_DEVICE, &memory, error);
  if (status != CS_OK) return status;
  clc_memory *shared = clc_memory_of(memory);
  shared->dtype = weight.dtype;
  shared->n_matrices = source.n_matrices;
  shared->n_rows = source.n_rows;
  shared->n_columns = source.n_columns;
  status = driver->memory_pack(device, memory, &source, error);
  if (status != CS_OK) {
    driver->memory_free(device, memory);
    return status;
  }
  const cs_packed_info packed = {
      .struct_size = sizeof packed, .bytes = bytes, .layout_id = LAYOUT_TILES};
  if (info) cs_sdk_struct_write(info, &packed, sizeof packed);
  *out = memory;
  return CS_OK;
}
