/* Sizes of tensors. Block formats only have whole blocks, so a broken block has no size. */
#include "consort/kv.h"
#include "consort/sdk.h"

typedef struct dtype_block {
  uint32_t dtype;
  uint32_t elements;
  uint32_t bytes;
} dtype_block;

static const dtype_block dtype_blocks[] = {
    {CS_DTYPE_F32, 1, 4},      {CS_DTYPE_F16, 1, 2},       {CS_DTYPE_BF16, 1, 2},
    {CS_DTYPE_I8, 1, 1},       {CS_DTYPE_U8, 1, 1},        {CS_DTYPE_I32, 1, 4},
    {CS_DTYPE_U64, 1, 8},      {CS_DTYPE_F8_E4M3, 1, 1},   {CS_DTYPE_Q8_0, 32, 34},
    {CS_DTYPE_Q4_0, 32, 18},   {CS_DTYPE_Q4_1, 32, 20},    {CS_DTYPE_Q5_0, 32, 22},
    {CS_DTYPE_Q5_1, 32, 24},   {CS_DTYPE_Q2_K, 256, 84},   {CS_DTYPE_Q3_K, 256, 110},
    {CS_DTYPE_Q4_K, 256, 144}, {CS_DTYPE_Q5_K, 256, 176},  {CS_DTYPE_Q6_K, 256, 210},
    {CS_DTYPE_IQ4_NL, 32, 18}, {CS_DTYPE_IQ4_XS, 256, 136}};

uint64_t cs_sdk_dtype_bytes(uint32_t dtype, uint64_t n) {
  for (size_t i = 0; i < sizeof dtype_blocks / sizeof dtype_blocks[0]; i++) {
    const dtype_block *block = &dtype_blocks[i];
    if (block->dtype != dtype) continue;
    const uint64_t n_blocks = n / block->elements;
    if (n % block->elements != 0 || n_blocks > UINT64_MAX / block->bytes) return 0;
    return n_blocks * block->bytes;
  }
  return 0;
}

uint64_t cs_sdk_tensor_rows(const cs_tensor *tensor) {
  return tensor->rank > 1 ? tensor->dims[0] : 1;
}

uint64_t cs_sdk_tensor_columns(const cs_tensor *tensor) {
  if (tensor->rank <= 1) return tensor->rank ? tensor->dims[0] : 0;
  uint64_t columns = 1;
  for (uint32_t i = 1; i < tensor->rank && i < CS_MAX_RANK; i++)
    columns *= tensor->dims[i];
  return columns;
}

uint64_t cs_sdk_tensor_row_bytes(const cs_tensor *tensor) {
  const uint64_t bytes = cs_sdk_dtype_bytes(tensor->dtype, cs_sdk_tensor_columns(tensor));
  if (bytes == 0) return 0;
  return bytes + cs_kv_block_scale_bytes(tensor->dtype, tensor->layout, tensor->rank, tensor->dims);
}

uint64_t cs_sdk_tensor_stride(const cs_tensor *tensor) {
  return tensor->row_stride_bytes ? tensor->row_stride_bytes : cs_sdk_tensor_row_bytes(tensor);
}
