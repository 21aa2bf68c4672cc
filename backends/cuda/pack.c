/* Weights as the kernels read them: 16 bytes a lane. GGUF's blocks of 18, 34 or 210 bytes lie on no
 * such boundary, so the quants of a matrix come first, row after row without gaps, and what a block
 * has beside them (kernels/quants.cuh) follows for all its rows. Blocks of 144 and 176 bytes stay
 * as they are. Rows of plain formats are padded with zeros to whole 16 bytes. Matmul and gather
 * read the same bytes; a matrix (expert) starts on 256 bytes.
 *
 * Rows are repacked a slice at a time through a host buffer, so that a large weight costs little
 * host memory; rows that need no change are copied from where they are. */
#include "fp8.h"

#include <string.h>

#define LAYOUT_SPLIT 1
#define SLICE_BYTES  (UINT64_C(4) << 20)
#define MATRIX_ALIGN 256

typedef struct source {
  const unsigned char *data;
  uint32_t dtype;
  bool blocks; /* a block format */
  uint64_t n_matrices, n_rows, n_columns;
  uint64_t row_bytes;        /* in the source */
  uint64_t n_blocks;         /* of a row, in block formats */
  uint64_t packed_row_bytes; /* without what lies beside the rows */
  uint64_t scale_row_bytes;  /* that */
  uint64_t matrix_bytes;     /* packed */
} source;

static uint64_t round_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

static cs_status measure(source *from, cs_error *error) {
  from->blocks = from->dtype >= CS_DTYPE_Q8_0;
  from->row_bytes = cs_sdk_dtype_bytes(from->dtype, from->n_columns);
  if (from->row_bytes == 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "rows of %llu are not whole blocks",
                        (unsigned long long)from->n_columns);
  from->packed_row_bytes = round_up(from->row_bytes, 16);
  if (from->blocks) {
    from->n_blocks = from->row_bytes / CUDA_BLOCK_BYTES(from->dtype);
    from->packed_row_bytes = from->n_blocks * CUDA_QUANT_BYTES(from->dtype);
    from->scale_row_bytes = from->n_blocks * CUDA_SCALE_BYTES(from->dtype);
  }
  const uint64_t row = from->packed_row_bytes + from->scale_row_bytes;
  if (from->n_rows > (UINT64_MAX / 4 / row) ||
      from->n_matrices > UINT64_MAX / 4 / round_up(from->n_rows * row, MATRIX_ALIGN))
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "the weight's size overflows");
  from->matrix_bytes = round_up(from->n_rows * row, MATRIX_ALIGN);
  return CS_OK;
}

/* Reads and checks the descriptor: sizes are bounded so that later products fit. */
static cs_status read_source(const cs_plugin_device *device, const cs_weight *weight, source *out,
                             cs_error *error) {
  if (weight->source != CS_WEIGHT_GGUF || weight->n_parts != 1 || !weight->parts)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "a weight of source %u in %u parts",
                        weight->source, weight->n_parts);
  if (weight->dtype >= CS_DTYPE_LIMIT || !(device->properties.dtypes & CS_DTYPE_BIT(weight->dtype)))
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "weights of dtype %u", weight->dtype);
  if (weight->rank != 2 && weight->rank != 3)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "a weight of rank %u", weight->rank);
  if (weight->usage == 0 || (weight->usage & ~(CS_USAGE_MATMUL | CS_USAGE_GATHER)) != 0)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "a weight for usage %u", weight->usage);
  cs_weight_part part;
  cs_status status = cs_sdk_struct_read(&part, sizeof part, weight->parts, error);
  if (status != CS_OK) return status;
  const uint64_t *dims = weight->dims + (weight->rank == 3);
  *out = (source){.data = part.data,
                  .dtype = weight->dtype,
                  .n_matrices = weight->rank == 3 ? weight->dims[0] : 1,
                  .n_rows = dims[0],
                  .n_columns = dims[1]};
  if (out->n_matrices == 0 || out->n_rows == 0 || out->n_columns == 0 ||
      out->n_matrices > INT32_MAX || out->n_rows > INT32_MAX || out->n_columns > INT32_MAX)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "a weight with an extent of 0 or above 2^31");
  status = measure(out, error);
  if (status != CS_OK) return status;
  const uint64_t bytes = out->n_matrices * out->n_rows * out->row_bytes;
  if (part.dtype != weight->dtype || !part.data || part.bytes != bytes)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "a part of %llu bytes, not %llu",
                        (unsigned long long)part.bytes, (unsigned long long)bytes);
  return CS_OK;
}

/* What a block has beside the rows, from GGUF's order. */
static void pack_scales(uint32_t dtype, unsigned char *scales, const unsigned char *block) {
  switch (dtype) {
  case CS_DTYPE_Q5_0: /* d, bits */
    memcpy(scales, block + 2, 4);
    memcpy(scales + 4, block, 2);
    memset(scales + 6, 0, 2);
    break;
  case CS_DTYPE_Q5_1: /* d, m, bits */
    memcpy(scales, block + 4, 4);
    memcpy(scales + 4, block, 4);
    break;
  case CS_DTYPE_Q6_K: /* d comes last */
    memcpy(scales, block + CUDA_QUANT_BYTES(CUDA_Q6_K), 2);
    break;
  default:
    memcpy(scales, block, CUDA_SCALE_BYTES(dtype));
  }
}

/* One row into its quants (zero-padded) and scales. */
static void pack_row(const source *from, unsigned char *quants, unsigned char *scales,
                     const unsigned char *row) {
  if (!from->blocks) {
    memcpy(quants, row, from->row_bytes);
    memset(quants + from->row_bytes, 0, from->packed_row_bytes - from->row_bytes);
    return;
  }
  const size_t block_bytes = CUDA_BLOCK_BYTES(from->dtype);
  const size_t quant_bytes = CUDA_QUANT_BYTES(from->dtype);
  const size_t head_bytes = from->dtype == CS_DTYPE_Q6_K ? 0 : block_bytes - quant_bytes;
  for (uint64_t i = 0; i < from->n_blocks; i++, row += block_bytes) {
    pack_scales(from->dtype, scales + i * CUDA_SCALE_BYTES(from->dtype), row);
    memcpy(quants + i * quant_bytes, row + head_bytes, quant_bytes);
  }
}

/* Rows first to first + n - 1 of a matrix by way of the slice. */
static CUresult upload_rows(const cs_plugin_memory *memory, const source *from, uint64_t matrix,
                            uint64_t first, uint64_t n, unsigned char *slice) {
  const cuda_driver *driver = memory->device->driver;
  const uint64_t row_bytes = from->packed_row_bytes, scale_bytes = from->scale_row_bytes;
  unsigned char *scales = slice + n * row_bytes;
  for (uint64_t i = 0; i < n; i++)
    pack_row(from, slice + i * row_bytes, scales + i * scale_bytes,
             from->data + (matrix * from->n_rows + first + i) * from->row_bytes);
  const CUdeviceptr to = memory->address + matrix * from->matrix_bytes;
  CUresult code = driver->MemcpyHtoD(to + first * row_bytes, slice, n * row_bytes);
  if (code == CUDA_SUCCESS && scale_bytes)
    code = driver->MemcpyHtoD(to + from->n_rows * row_bytes + first * scale_bytes, scales,
                              n * scale_bytes);
  return code;
}

static CUresult upload_matrix(const cs_plugin_memory *memory, const source *from, uint64_t matrix,
                              unsigned char *slice, uint64_t slice_rows) {
  if (!slice)
    return memory->device->driver->MemcpyHtoD(memory->address + matrix * from->matrix_bytes,
                                              from->data + matrix * from->n_rows * from->row_bytes,
                                              from->n_rows * from->row_bytes);
  CUresult code = CUDA_SUCCESS;
  for (uint64_t row = 0; row < from->n_rows && code == CUDA_SUCCESS; row += slice_rows) {
    const uint64_t left = from->n_rows - row;
    code = upload_rows(memory, from, matrix, row, left < slice_rows ? left : slice_rows, slice);
  }
  return code;
}

static cs_status upload(const cs_plugin_memory *memory, const source *from, cs_error *error) {
  const cs_host *host = memory->device->sdk.host;
  const uint64_t row_bytes = from->packed_row_bytes + from->scale_row_bytes;
  const bool as_it_is = from->packed_row_bytes == from->row_bytes;
  uint64_t slice_rows = SLICE_BYTES / row_bytes ? SLICE_BYTES / row_bytes : 1;
  if (slice_rows > from->n_rows) slice_rows = from->n_rows;
  unsigned char *slice =
      as_it_is ? NULL : host->allocate(host->context, slice_rows * row_bytes, 64);
  if (!as_it_is && !slice)
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no host memory to pack a weight");
  cs_status status = cuda_enter(memory->device, error);
  if (status == CS_OK) {
    CUresult code = CUDA_SUCCESS;
    for (uint64_t i = 0; i < from->n_matrices && code == CUDA_SUCCESS; i++)
      code = upload_matrix(memory, from, i, slice, slice_rows);
    cuda_leave(memory->device);
    if (code != CUDA_SUCCESS)
      status = cuda_error(memory->device->driver, error, code, "cuMemcpyHtoD");
  }
  host->deallocate(host->context, slice);
  return status;
}

/* The weight once more as e4m3, `offset` bytes into its memory. */
static cs_status add_fp8(cs_plugin_memory *memory, uint64_t offset, cs_error *error) {
  const cuda_weight *weight = &memory->weight;
  const cuda_rows rows = {weight->data, weight->row_bytes / 2};
  void *base = (void *)((uintptr_t)weight->data + offset);
  cs_status status = cuda_enter(memory->device, error);
  if (status != CS_OK) return status;
  memory->fp8 = cuda_fp8_place(base, rows, weight->dtype, memory->n_rows, memory->n_columns);
  const CUresult code = cuda_fp8_convert(memory->device, &memory->fp8);
  cuda_leave(memory->device);
  if (code == CUDA_SUCCESS) return CS_OK;
  return cuda_error(memory->device->driver, error, code, "a weight in FP8");
}

cs_status cuda_weights_pack(cs_plugin_device *device, const cs_weight *weight_in,
                            cs_plugin_memory **out, cs_packed_info *info, cs_error *error) {
  *out = NULL;
  cs_weight weight;
  source from = {0};
  cs_status status = cs_sdk_struct_read(&weight, sizeof weight, weight_in, error);
  if (status == CS_OK) status = read_source(device, &weight, &from, error);
  if (status != CS_OK) return status;
  const bool fp8 = from.n_matrices == 1 && (weight.usage & CS_USAGE_MATMUL) != 0 &&
                   cuda_fp8_suits(device, from.dtype, from.n_rows);
  const uint64_t plain_bytes = from.n_matrices * from.matrix_bytes;
  const uint64_t bytes = plain_bytes + (fp8 ? cuda_fp8_bytes(from.n_rows, from.n_columns) : 0);
  cs_plugin_memory *memory = NULL;
  status = cuda_memory_allocate(device, bytes, CS_MEMORY_DEVICE, &memory, error);
  if (status != CS_OK) return status;
  const uintptr_t address = (uintptr_t)memory->address;
  memory->packed = true;
  memory->n_matrices = from.n_matrices;
  memory->n_rows = from.n_rows;
  memory->n_columns = from.n_columns;
  memory->weight = (cuda_weight){.data = (void *)address,
                                 .scales = (void *)(address + from.n_rows * from.packed_row_bytes),
                                 .row_bytes = from.packed_row_bytes,
                                 .matrix_bytes = from.matrix_bytes,
                                 .scale_row_bytes = from.scale_row_bytes,
                                 .dtype = from.dtype};
  status = upload(memory, &from, error);
  if (status == CS_OK && fp8) status = add_fp8(memory, plain_bytes, error);
  if (status != CS_OK) {
    cuda_memory_free(device, memory);
    return status;
  }
  const cs_packed_info packed = {
      .struct_size = sizeof packed, .bytes = bytes, .layout_id = LAYOUT_SPLIT};
  if (info) cs_sdk_struct_write(info, &packed, sizeof packed);
  *out = memory;
  return CS_OK;
}
