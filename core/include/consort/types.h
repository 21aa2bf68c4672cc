/* Number formats, memory layouts and the tensor, as they cross the plugin ABI. */
#ifndef CONSORT_TYPES_H
#define CONSORT_TYPES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Number formats. Block formats (32 and up) hold GGUF's bytes; a row is a whole number of blocks.
 * In a KV plane, CS_DTYPE_I8 has a scale for each row: see kv.h. */
#define CS_DTYPE_NONE       0
#define CS_DTYPE_F32        1
#define CS_DTYPE_F16        2
#define CS_DTYPE_BF16       3
#define CS_DTYPE_I8         4
#define CS_DTYPE_U8         5
#define CS_DTYPE_I32        6
#define CS_DTYPE_U64        7
#define CS_DTYPE_F8_E4M3    8
#define CS_DTYPE_Q8_0       32 /* 32 weights: f16 scale, 32 int8 */
#define CS_DTYPE_Q4_0       33 /* 32 weights: f16 scale, 32 nibbles, value = (nibble - 8) * scale */
#define CS_DTYPE_Q4_1       34
#define CS_DTYPE_Q5_0       35
#define CS_DTYPE_Q5_1       36
#define CS_DTYPE_Q2_K       37
#define CS_DTYPE_Q3_K       38
#define CS_DTYPE_Q4_K       39
#define CS_DTYPE_Q5_K       40
#define CS_DTYPE_Q6_K       41
#define CS_DTYPE_IQ4_NL     42
#define CS_DTYPE_IQ4_XS     43
#define CS_DTYPE_LIMIT      64 /* every dtype is below: fits the bit masks of cs_device_properties */
#define CS_DTYPE_BIT(dtype) (UINT64_C(1) << (dtype))

/* How a tensor's elements lie in memory. The KV layouts order one cache block whose logical
 * dimensions are always written (n_blocks, block_tokens, n_heads, width); blocks follow each
 * other at row_stride_bytes. */
#define CS_LAYOUT_PLAIN          0 /* row-major */
#define CS_LAYOUT_PACKED         1 /* made by weights_pack; only its device can read it */
#define CS_LAYOUT_KV_TOKEN_MAJOR 2 /* block = (block_tokens, n_heads, width) */
#define CS_LAYOUT_KV_HEAD_MAJOR  3 /* block = (n_heads, block_tokens, width) */
#define CS_LAYOUT_KV_HEAD_MINOR  4 /* block = (block_tokens, width, n_heads) */
#define CS_LAYOUT_BIT(layout)    (UINT32_C(1) << (layout))

#define CS_MAX_RANK 4

/* Physical memory of one device. Defined by the plugin that made it, opaque to everyone else. */
typedef struct cs_plugin_memory cs_plugin_memory;

/* A typed window into device memory. dims[0] counts rows; a row is dims[1] * ... * dims[rank-1]
 * contiguous elements, and only rows are strided. Rank 1 is one contiguous row of dims[0]
 * elements. offset_bytes is a multiple of the device's tensor_align. In descriptors given to
 * op_query, memory is NULL and dims are the largest extents that will ever be enqueued.
 * An operand that an op does not use has dtype CS_DTYPE_NONE. */
typedef struct cs_tensor {
  uint32_t struct_size;
  uint32_t dtype;
  uint32_t layout;
  uint32_t rank;            /* 1 to CS_MAX_RANK */
  cs_plugin_memory *memory; /* borrowed */
  uint64_t offset_bytes;
  uint64_t row_stride_bytes; /* distance between rows; 0 means rows follow without a gap */
  uint64_t dims[CS_MAX_RANK];
} cs_tensor;

#ifdef __cplusplus
}
#endif

#endif
