/* Rules of matmul and moe_matmul: both read weights that pack.c laid in tiles of 32 rows. */
#include "plan.h"

#define F32_ONLY   CS_DTYPE_BIT(CS_DTYPE_F32)
#define I32_ONLY   CS_DTYPE_BIT(CS_DTYPE_I32)
#define BLOCK      64  /* rows of matmul_block, and its columns on a GPU */
#define MAX_TILES  4   /* of 32 columns that an item of matmul_block takes on a CPU */
#define GROUP      256 /* items of a group on a GPU */
#define FEW_ROWS   3   /* up to here each row streams the weights by itself on a CPU */
#define FEW_ON_GPU 8

bool clc_matmul_module(uint32_t dtype, clc_module *out) {
#define MODULE_ENTRY(NAME, name) [CS_DTYPE_##NAME] = MODULE_MATMUL_##NAME,
  static const clc_module modules[CS_DTYPE_LIMIT] = {CLC_WEIGHT_FORMATS(MODULE_ENTRY)};
  if (dtype >= CS_DTYPE_LIMIT || modules[dtype] == MODULE_BASE) return false;
  *out = modules[dtype];
  return true;
}

/* A packed weight of shape ([n_matrices,] n_out, n_in). */
static bool want_weight(clc_rule_context *context, uint64_t n_matrices, uint64_t n_out,
                        uint64_t n_in) {
  const cs_tensor *weight = &context->op->operands[2];
  if (weight->layout != CS_LAYOUT_PACKED) return clc_refuse(context, "weight is not packed");
  if (!clc_matmul_module(weight->dtype, &context->module))
    return clc_refuse(context, "weight: dtype %u is not served", weight->dtype);
  if (cs_sdk_dtype_bytes(weight->dtype, n_in) == 0 || n_out == 0 || n_matrices == 0)
    return clc_refuse(context, "weight: rows are not whole blocks, or there are none");
  if (n_out > INT32_MAX || n_in > INT32_MAX || n_matrices > INT32_MAX)
    return clc_refuse(context, "weight: extents out of range");
  if (!context->plan) return true;
  if (!weight->memory) return clc_refuse(context, "weight has no memory");
  const clc_memory *memory = clc_memory_of(weight->memory);
  if (memory->device != context->device || memory->dtype != weight->dtype ||
      memory->n_matrices != n_matrices || memory->n_rows != n_out || memory->n_columns != n_in ||
      weight->offset_bytes != 0)
    return clc_refuse(context, "weight is not what weights_pack made");
  return true;
}

/* The arguments that TARGET stands for in the kernels; an op without these operands gives
 * CS_MAX_OPERANDS for their numbers. */
static void arg_target(clc_rule_context *context, uint32_t bias, uint32_t residual, float cap,
                       uint64_t n_out) {
  clc_arg_tensor(context, 0);
  if (bias < CS_MAX_OPERANDS) {
    clc_arg_vector(context, bias);
    clc_arg_tensor(context, residual);
  } else {
    clc_arg_memory(context, NULL);
    clc_arg_u64(context, 0);
    clc_arg_memory(context, NULL);
    clc_arg_u64(context, 0);
    clc_arg_u64(context, 0);
  }
  clc_arg_f32(context, cap);
  clc_arg_u64(context, n_out);
}

static void begin_vector(clc_rule_context *context, uint64_t n_rows, uint64_t n_out) {
  const uint64_t n_tiles = (n_out + CLC_TILE - 1) / CLC_TILE;
  const uint64_t items = context->device->variant == CLC_VARIANT_CPU ? 1 : GROUP;
  clc_step_begin(context, KERNEL_MATMUL_VECTOR, n_rows * items, n_tiles, 1, items);
}

/* How many tiles an item of a CPU takes: many, but leaving every core several items. */
static uint64_t item_tiles(const clc_rule_context *context, uint64_t blocks, uint64_t n_tiles) {
  const uint64_t wanted_items = 4 * (uint64_t)context->device->n_units;
  uint64_t tiles = MAX_TILES;
  while (tiles > 1 && blocks * ((n_tiles + tiles - 1) / tiles) < wanted_items)
    tiles /= 2;
  return tiles;
}

/* Returns how many tiles an item takes. */
static uint64_t begin_block(clc_rule_context *context, uint64_t n_rows, uint64_t n_out) {
  const uint64_t blocks = (n_rows + BLOCK - 1) / BLOCK;
  const uint64_t n_tiles = (n_out + CLC_TILE - 1) / CLC_TILE;
  if (context->device->variant == CLC_VARIANT_CPU) {
    const uint64_t tiles = item_tiles(context, blocks, n_tiles);
    clc_step_begin(context, KERNEL_MATMUL_BLOCK, blocks, (n_tiles + tiles - 1) / tiles, 1, 1);
    return tiles;
  }
  clc_step_begin(context, KERNEL_MATMUL_BLOCK, blocks * GROUP, (n_out + BLOCK - 1) / BLOCK, 1,
                 GROUP);
  return BLOCK / CLC_TILE;
}

/* out(n, n_out) x(n, n_in) weight(n_out, n_in) [bias(n_out)] [residual(n, n_out)] */
bool clc_rule_matmul(clc_rule_context *context) {
  const cs_matmul_params *params = context->op->params;
  const cs_tensor *weight = &context->op->operands[2];
  if (weight->rank != 2) return clc_refuse(context, "weight is not (n_out, n_in)");
  const uint64_t n = cs_sdk_tensor_rows(&context->op->operands[1]);
  const uint64_t n_out = weight->dims[0], n_in = weight->dims[1];
  if (!want_weight(context, 1, n_out, n_in)) return false;
  if (!clc_want_tensor(context, 0, "out", F32_ONLY, n, n_out)) return false;
  if (!clc_want_tensor(context, 1, "x", F32_ONLY, n, n_in)) return false;
  if (clc_has(context, 3) && !clc_want_vector(context, 3, "bias", F32_ONLY, n_out)) return false;
  if (clc_has(context, 4) && !clc_want_tensor(context, 4, "residual", F32_ONLY, n, n_out))
    return false;
  const bool cpu = context->device->variant == CLC_VARIANT_CPU;
  const bool few = n <= (cpu ? FEW_ROWS : FEW_ON_GPU);
  uint64_t tiles = 1;
  if (few)
    begin_vector(context, n, n_out);
  else
    tiles = begin_block(context, n, n_out);
  arg_target(context, 3, 4, params->soft_cap, n_out);
  clc_arg_tensor(context, 1);
  clc_arg_vector(context, 2);
  clc_arg_u64(context, n_in);
  if (!few) {
    clc_arg_u64(context, n);
    if (cpu) clc_arg_u32(context, tiles);
    return true;
  }
  clc_arg_memory(context, NULL); /* no experts */
  clc_arg_u64(context, 0);
  clc_arg_u64(context, 0);
  for (uint32_t i = 0; i < 3; i++)
    clc_arg_u32(context, 1);
  return true;
}

/* out(n * k, n_out) x(n or n * k, n_in) weight(n_experts, n_out, n_in) ids(n, k) */
bool clc_rule_moe_matmul(clc_rule_context *context) {
  const cs_tensor *weight = &context->op->operands[2], *ids = &context->op->operands[3];
  if (weight->rank != 3) return clc_refuse(context, "weight is not (n_experts, n_out, n_in)");
  const uint64_t n = cs_sdk_tensor_rows(ids), k = cs_sdk_tensor_columns(ids);
  const uint64_t x_rows = cs_sdk_tensor_rows(&context->op->operands[1]);
  const uint64_t n_experts = weight->dims[0], n_out = weight->dims[1], n_in = weight->dims[2];
  if (!want_weight(context, n_experts, n_out, n_in)) return false;
  if (!clc_want_tensor(context, 3, "ids", I32_ONLY, n, k)) return false;
  if (x_rows != n && x_rows != n * k) return clc_refuse(context, "x has neither n nor n k rows");
  if (!clc_want_tensor(context, 0, "out", F32_ONLY, n * k, n_out)) return false;
  if (!clc_want_tensor(context, 1, "x", F32_ONLY, x_rows, n_in)) return false;
  begin_vector(context, n * k, n_out);
  arg_target(context, CS_MAX_OPERANDS, CS_MAX_OPERANDS, 0.0f, n_out);
  clc_arg_tensor(context, 1);
  clc_arg_vector(context, 2);
  clc_arg_u64(context, n_in);
  clc_arg_tensor(context, 3);
  clc_arg_u32(context, k);
  clc_arg_u32(context, x_rows == n ? k : 1);
  clc_arg_u32(context, n_experts);
  return true;
}
