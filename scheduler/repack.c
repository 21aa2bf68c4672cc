/* A device that lacks one format would otherwise hand most of its work to the host's cores. The
 * question is asked with the model's own matrices, because an answer may depend on their extents.
 */
#include "scheduler/repack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "models/blocks.h"

static cs_tensor plain(uint32_t dtype, uint64_t rows, uint64_t columns) {
  return (cs_tensor){.struct_size = sizeof(cs_tensor),
                     .dtype = dtype,
                     .layout = CS_LAYOUT_PLAIN,
                     .rank = 2,
                     .dims = {rows, columns}};
}

/* Whether the device multiplies one row by this weight in `dtype`. */
static bool reads(cs_device *device, const cs_model_weight *weight, uint32_t dtype) {
  const bool experts = weight->rank == 3;
  const uint64_t n_out = weight->dims[weight->rank - 2], n_in = weight->dims[weight->rank - 1];
  cs_tensor matrix = {.struct_size = sizeof matrix,
                      .dtype = dtype,
                      .layout = CS_LAYOUT_PACKED,
                      .rank = weight->rank};
  memcpy(matrix.dims, weight->dims, sizeof matrix.dims);
  const cs_tensor absent = {.struct_size = sizeof absent};
  const cs_tensor operands[] = {plain(CS_DTYPE_F32, 1, n_out), plain(CS_DTYPE_F32, 1, n_in), matrix,
                                experts ? plain(CS_DTYPE_I32, 1, 1) : absent, absent};
  const cs_matmul_params params = {.struct_size = sizeof params};
  const cs_op op = {.struct_size = sizeof op,
                    .id = experts ? CS_OP_MOE_MATMUL : CS_OP_MATMUL,
                    .n_operands = experts ? 4 : 5,
                    .operand_stride = sizeof operands[0],
                    .operands = operands,
                    .params = experts ? NULL : &params};
  cs_op_answer answer = {.struct_size = sizeof answer};
  return cs_device_op_query(device, &op, &answer, NULL) == CS_OK && answer.support != CS_SUPPORT_NO;
}

void cs_repacking_choose(const cs_model *model, cs_device *device, cs_repacking repacking) {
  bool keeps[CS_DTYPE_LIMIT] = {false};
  memset(repacking, 0, sizeof(cs_repacking));
  for (size_t key = 0; key < cs_model_n_weights(model); key++) {
    const cs_model_weight *weight = cs_model_weight_at(model, key);
    const uint32_t dtype = weight->dtype;
    if (!(weight->usage & CS_USAGE_MATMUL) || cs_dtype_find(dtype)->block_elements == 1) continue;
    if (keeps[dtype] || reads(device, weight, dtype)) continue;
    keeps[dtype] = !reads(device, weight, CS_DTYPE_Q8_0);
    repacking[dtype] = keeps[dtype] ? 0 : CS_DTYPE_Q8_0;
  }
}

bool cs_repacking_describe(const cs_repacking repacking, char *text, size_t text_bytes) {
  size_t at = 0;
  for (uint32_t dtype = 0; dtype < CS_DTYPE_LIMIT && at < text_bytes; dtype++) {
    if (!repacking[dtype]) continue;
    at += (size_t)snprintf(text + at, text_bytes - at, "%s%s", at ? ", " : "weights in ",
                           cs_dtype_find(dtype)->name);
  }
  if (at == 0) return false;
  if (at < text_bytes) snprintf(text + at, text_bytes - at, " are stored as q8_0");
  return true;
}

static uint64_t count(const cs_model_weight *weight) {
  uint64_t n = 1;
  for (uint32_t i = 0; i < weight->rank; i++)
    n *= weight->dims[i];
  return n;
}

uint64_t cs_repacked_bytes(const cs_model_weight *weight, const cs_repacking repacking) {
  uint64_t bytes = weight->bytes;
  if (weight->usage && repacking[weight->dtype])
    cs_dtype_bytes(repacking[weight->dtype], count(weight), &bytes);
  return bytes;
}

cs_status cs_repack(const cs_model_weight *weight, uint32_t dtype, const void **data,
                    uint64_t *bytes, void **owned, cs_error *error) {
  cs_status status = cs_model_weight_bytes_of(weight, data, owned, error);
  *bytes = weight->bytes;
  if (status != CS_OK || dtype == weight->dtype) return status;
  const uint64_t row = weight->dims[weight->rank - 1], n_rows = count(weight) / row;
  const size_t from_bytes = (size_t)(weight->bytes / n_rows);
  float *values = malloc((size_t)row * sizeof *values);
  uint64_t row_bytes = 0;
  status = cs_dtype_bytes(dtype, row, &row_bytes);
  uint8_t *packed = status == CS_OK ? malloc((size_t)(row_bytes * n_rows)) : NULL;
  if (status == CS_OK && (!values || !packed))
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  for (uint64_t i = 0; status == CS_OK && i < n_rows; i++) {
    const uint8_t *from = (const uint8_t *)*data + i * from_bytes;
    status = cs_blocks_decode(weight->dtype, from, (size_t)row, values);
    if (status == CS_OK)
      status = cs_blocks_encode(dtype, values, (size_t)row, packed + i * row_bytes);
  }
  free(values);
  free(*owned);
  *data = *owned = packed;
  *bytes = row_bytes * n_rows;
  if (status == CS_OK) return CS_OK;
  free(packed);
  *data = *owned = NULL;
  return status;
}
