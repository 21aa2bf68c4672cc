/* One table of formats. Block sizes are GGUF's: a block holds its scales and its weights, and a
 * row is a whole number of blocks. Conversions go through float32, which holds every value of the
 * smaller floats exactly. */
#include "core/dtype.h"

#include <stdbool.h>
#include <string.h>

#include "consort/half.h"

static const cs_dtype_info dtypes[CS_DTYPE_LIMIT] = {
    [CS_DTYPE_F32] = {"f32", 1, 4},         [CS_DTYPE_F16] = {"f16", 1, 2},
    [CS_DTYPE_BF16] = {"bf16", 1, 2},       [CS_DTYPE_I8] = {"i8", 1, 1},
    [CS_DTYPE_U8] = {"u8", 1, 1},           [CS_DTYPE_I32] = {"i32", 1, 4},
    [CS_DTYPE_U64] = {"u64", 1, 8},         [CS_DTYPE_F8_E4M3] = {"f8_e4m3", 1, 1},
    [CS_DTYPE_Q8_0] = {"q8_0", 32, 34},     [CS_DTYPE_Q4_0] = {"q4_0", 32, 18},
    [CS_DTYPE_Q4_1] = {"q4_1", 32, 20},     [CS_DTYPE_Q5_0] = {"q5_0", 32, 22},
    [CS_DTYPE_Q5_1] = {"q5_1", 32, 24},     [CS_DTYPE_Q2_K] = {"q2_k", 256, 84},
    [CS_DTYPE_Q3_K] = {"q3_k", 256, 110},   [CS_DTYPE_Q4_K] = {"q4_k", 256, 144},
    [CS_DTYPE_Q5_K] = {"q5_k", 256, 176},   [CS_DTYPE_Q6_K] = {"q6_k", 256, 210},
    [CS_DTYPE_IQ4_NL] = {"iq4_nl", 32, 18}, [CS_DTYPE_IQ4_XS] = {"iq4_xs", 256, 136},
};

const cs_dtype_info *cs_dtype_find(uint32_t dtype) {
  if (dtype >= CS_DTYPE_LIMIT || !dtypes[dtype].name) return NULL;
  return &dtypes[dtype];
}

uint32_t cs_dtype_from_name(const char *name) {
  for (uint32_t dtype = 0; name && dtype < CS_DTYPE_LIMIT; dtype++) {
    if (dtypes[dtype].name && strcmp(dtypes[dtype].name, name) == 0) return dtype;
  }
  return CS_DTYPE_NONE;
}

cs_status cs_dtype_bytes(uint32_t dtype, uint64_t n_elements, uint64_t *bytes) {
  const cs_dtype_info *info = cs_dtype_find(dtype);
  if (!info || n_elements % info->block_elements != 0) return CS_INVALID_ARGUMENT;
  const uint64_t n_blocks = n_elements / info->block_elements;
  if (n_blocks > UINT64_MAX / info->block_bytes) return CS_OUT_OF_RANGE;
  *bytes = n_blocks * info->block_bytes;
  return CS_OK;
}

static bool is_float(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 || dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16 ||
         dtype == CS_DTYPE_F8_E4M3;
}

static float load(uint32_t dtype, const void *from, size_t i) {
  if (dtype == CS_DTYPE_F32) return ((const float *)from)[i];
  if (dtype == CS_DTYPE_F8_E4M3) return cs_f32_from_e4m3(((const uint8_t *)from)[i]);
  const uint16_t half = ((const uint16_t *)from)[i];
  return dtype == CS_DTYPE_F16 ? cs_f32_from_f16(half) : cs_f32_from_bf16(half);
}

cs_status cs_dtype_convert(uint32_t to_dtype, void *to, uint32_t from_dtype, const void *from,
                           size_t n) {
  if (!is_float(to_dtype) || !is_float(from_dtype)) return CS_UNSUPPORTED;
  if (n == 0) return CS_OK;
  if (to_dtype == from_dtype) {
    memcpy(to, from, n * dtypes[to_dtype].block_bytes);
    return CS_OK;
  }
  for (size_t i = 0; i < n; i++) {
    const float value = load(from_dtype, from, i);
    if (to_dtype == CS_DTYPE_F32) ((float *)to)[i] = value;
    if (to_dtype == CS_DTYPE_F16) ((uint16_t *)to)[i] = cs_f16_from_f32(value);
    if (to_dtype == CS_DTYPE_BF16) ((uint16_t *)to)[i] = cs_bf16_from_f32(value);
    if (to_dtype == CS_DTYPE_F8_E4M3) ((uint8_t *)to)[i] = cs_e4m3_from_f32(value);
  }
  return CS_OK;
}
