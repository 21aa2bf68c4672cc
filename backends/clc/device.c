/* What the kernels decide about a device. */
#include "clc.h"

#include <string.h>

void clc_describe(cs_device_properties *out) {
  out->tensor_align = CLC_TENSOR_ALIGN;
  out->kv_dtypes = CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) |
                   CS_DTYPE_BIT(CS_DTYPE_BF16) | CS_DTYPE_BIT(CS_DTYPE_F8_E4M3) |
                   CS_DTYPE_BIT(CS_DTYPE_I8);
#define DTYPE_BIT(NAME, name) CS_DTYPE_BIT(CS_DTYPE_##NAME) |
  out->dtypes = CLC_WEIGHT_FORMATS(DTYPE_BIT) 0;
  out->kv_layouts =
      CS_LAYOUT_BIT(CS_LAYOUT_KV_TOKEN_MAJOR) | CS_LAYOUT_BIT(CS_LAYOUT_KV_HEAD_MAJOR);
  out->kv_layout = CS_LAYOUT_KV_HEAD_MAJOR;
  out->kv_block_tokens_min = 16;
  out->kv_block_tokens_max = 128;
  out->activation_dtype = CS_DTYPE_F32;
}

cs_status clc_parse_variant(const char *text, clc_variant *out, cs_error *error) {
  if (strcmp(text, "cpu") == 0)
    *out = CLC_VARIANT_CPU;
  else if (strcmp(text, "gpu") == 0)
    *out = CLC_VARIANT_GPU;
  else
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "variant=%.32s: must be cpu or gpu", text);
  return CS_OK;
}

cs_status clc_check_groups(clc_variant variant, uint64_t group_items, uint64_t local_bytes,
                           cs_error *error) {
  if (variant == CLC_VARIANT_GPU &&
      (group_items < CLC_GPU_GROUP_ITEMS || local_bytes < CLC_GPU_LOCAL_BYTES))
    return cs_sdk_error(error, CS_UNSUPPORTED, 0,
                        "the device has groups of %llu items and %llu bytes of local memory, "
                        "the gpu kernels need %d and %d",
                        (unsigned long long)group_items, (unsigned long long)local_bytes,
                        CLC_GPU_GROUP_ITEMS, CLC_GPU_LOCAL_BYTES);
  return CS_OK;
}
