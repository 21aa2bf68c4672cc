/* Names, which both forms of the modules share. */
#include "modules.h"

static const char *const kernel_names[KERNEL_LIMIT] = {
    [KERNEL_ADD] = "add",
    [KERNEL_SILU_MUL] = "silu_mul",
    [KERNEL_GELU_MUL] = "gelu_mul",
    [KERNEL_CAST] = "cast",
    [KERNEL_COPY_WORDS] = "copy_words",
    [KERNEL_COPY_BYTES] = "copy_bytes",
    [KERNEL_ROPE] = "rope",
    [KERNEL_GATHER_ROWS] = "gather_rows",
    [KERNEL_GATHER_TILES] = "gather_tiles",
    [KERNEL_RMS_NORM] = "rms_norm",
    [KERNEL_ARGMAX] = "argmax",
    [KERNEL_TOP_K] = "top_k",
    [KERNEL_KV_WRITE] = "kv_write",
    [KERNEL_KV_MOVE] = "kv_move",
    [KERNEL_WIRE_SUM] = "wire_sum",
    [KERNEL_WIRE_SUM_FINISH] = "wire_sum_finish",
    [KERNEL_KV_COPY_BLOCKS] = "kv_copy_blocks",
    [KERNEL_MOE_ROUTE] = "moe_route",
    [KERNEL_MOE_COMBINE] = "moe_combine",
    [KERNEL_MATMUL_VECTOR] = "matmul_vector",
    [KERNEL_MATMUL_BLOCK] = "matmul_block",
    [KERNEL_ATTENTION_PAGED] = "attention_paged",
};

const char *clc_kernel_name(clc_kernel kernel) {
  return kernel_names[kernel];
}

const char *clc_variant_name(clc_variant variant) {
  return variant == CLC_VARIANT_CPU ? "cpu" : "gpu";
}
