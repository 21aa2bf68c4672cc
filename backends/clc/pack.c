/* Weights in the order the matmul kernels read them: tiles of 32 rows, transposed, so that 32
 * neighbouring outputs of one column lie side by side. One layout serves both variants: on a CPU a
 * column is two float16, on a GPU 32 items read it at once. The last tile is filled with zeros.
 *
 *   plain formats  [tile][column][32 rows]
 *   Q8_0           [tile][block]{32 f16 scales, [32 columns][32 rows] int8}
 *   Q4_0           [tile][block]{32 f16 scales, [16 bytes][32 rows]}
 *
 * A weight that is only gathered from stays in rows. Bytes are the same either way. */
#include "clc.h"

#include <string.h>

#define LAYOUT_ROWS  1
#define LAYOUT_TILES 2

uint64_t clc_tiles_bytes(uint32_t dtype, uint64_t n_rows, uint64_t n_columns) {
  const uint64_t n_tiles = (n_rows + CLC_TILE - 1) / CLC_TILE;
  return n_tiles * CLC_TILE * cs_sdk_dtype_bytes(dtype, n_columns);
}

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

/* One tile of `rows` source rows, row_bytes apart, into `to`, which is zeroed. */
static void pack_tile(uint32_t dtype, unsigned char *to, const unsigned char *from,
                      size_t row_bytes, uint32_t rows) {
  const size_t block_bytes = cs_sdk_dtype_bytes(dtype, 32);
  switch (dtype) {
  case CS_DTYPE_F32:
    transpose_u32((uint32_t *)(void *)to, from, row_bytes, row_bytes / 4, rows);
    break;
  case CS_DTYPE_F16:
  case CS_DTYPE_BF16:
    transpose_u16((uint16_t *)(void *)to, from, row_bytes, row_bytes / 2, rows);
    break;
  default: /* blocks of 32: an f16 scale and the weights' bytes */
    for (size_t at = 0; at < row_bytes; at += block_bytes) {
      unsigned char *block = to + at * CLC_TILE;
      transpose_u16((uint16_t *)(void *)block, from + at, row_bytes, 1, rows);
      transpose_u8(block + 2 * CLC_TILE, from + at + 2, row_bytes, block_bytes - 2, rows);
    }
  }
}

uint64_t clc_units(const clc_source *source) {
  const uint64_t tiles = (source->n_rows + CLC_TILE - 1) / CLC_TILE;
  return source->n_matrices * (source->packing == PACKING_TILES ? tiles : source->n_rows);
}

uint64_t clc_unit_bytes(const clc_source *source) {
  return source->packing == PACKING_TILES ? CLC_TILE * source->row_bytes : source->row_bytes;
}

void clc_pack(const clc_source *source, uint64_t first, uint64_t n, unsigned char *to) {
  if (source->packing == PACKING_ROWS) {
    memcpy(to, source->data + first * source->row_bytes, n * source->row_bytes);
    return;
  }
  const uint64_t tile_bytes = clc_unit_bytes(source);
  const uint64_t matrix_tiles = clc_units(source) / source->n_matrices;
  for (uint64_t tile = first; tile < first + n; tile++, to += tile_bytes) {
    const uint64_t row = tile % matrix_tiles * CLC_TILE;
    const uint64_t left = source->n_rows - row;
    const uint32_t n_rows = left < CLC_TILE ? (uint32_t)left : CLC_TILE;
    if (n_rows < CLC_TILE) memset(to, 0, tile_bytes);
    pack_tile(source->dtype, to,
              source->data + (tile / matrix_tiles * source->n_rows + row) * source->row_bytes,
              source->row_bytes, n_rows);
  }
}

/* Reads and checks the descriptor: sizes are bounded so that later products fit. */
static cs_status read_source(const cs_weight *weight, clc_source *out, cs_error *error) {
  if (weight->source != CS_WEIGHT_GGUF || weight->n_parts != 1 || !weight->parts)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "a weight of source %u in %u parts",
                        weight->source, weight->n_parts);
  cs_device_properties served = {.struct_size = sizeof served};
  clc_describe(&served);
  if (weight->dtype >= CS_DTYPE_LIMIT || !(served.dtypes & CS_DTYPE_BIT(weight->dtype)))
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "weights of dtype %u", weight->dtype);
  if (weight->rank != 2 && weight->rank != 3)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "a weight of rank %u", weight->rank);
  cs_weight_part part;
  const cs_status status = cs_sdk_struct_read(&part, sizeof part, weight->parts, error);
  if (status != CS_OK) return status;
  const uint64_t *dims = weight->dims + (weight->rank == 3);
  *out = (clc_source){.data = part.data,
                      .dtype = weight->dtype,
                      .packing = weight->usage & CS_USAGE_MATMUL ? PACKING_TILES : PACKING_ROWS,
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
  if (out->n_matrices > UINT64_MAX / padded / out->row_bytes)
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
  shared->packing = source.packing;
  shared->dtype = source.dtype;
  shared->n_matrices = source.n_matrices;
  shared->n_rows = source.n_rows;
  shared->n_columns = source.n_columns;
  status = driver->memory_pack(device, memory, &source, error);
  if (status != CS_OK) {
    driver->memory_free(device, memory);
    return status;
  }
  const bool tiles = source.packing == PACKING_TILES;
  const cs_packed_info packed = {.struct_size = sizeof packed,
                                 .bytes = bytes,
                                 .layout_id = tiles ? LAYOUT_TILES : LAYOUT_ROWS};
  if (info) cs_sdk_struct_write(info, &packed, sizeof packed);
  *out = memory;
  return CS_OK;
}
