/* All operands share one arena of device memory, each at an aligned offset with a guard before it,
 * random bytes in between. That way a single download shows both the result and every byte that
 * was touched without leave. */
#include "optest_internal.h"

#include <stdio.h>
#include <string.h>

#include "consort/kv.h"
#include "format.h"

#define GUARD_BYTES          192
#define WORKSPACE_TAIL_BYTES 4096

static const uint32_t written_operands[CS_OP_LIMIT] = {[CS_OP_GATHER_ROWS] = 1,
                                                       [CS_OP_RMS_NORM] = 1 | 16,
                                                       [CS_OP_MATMUL] = 1,
                                                       [CS_OP_ROPE] = 1,
                                                       [CS_OP_KV_WRITE] = 4 | 8,
                                                       [CS_OP_ATTENTION_PAGED] = 1,
                                                       [CS_OP_SILU_MUL] = 1,
                                                       [CS_OP_ADD] = 1,
                                                       [CS_OP_COPY] = 1,
                                                       [CS_OP_CAST] = 1,
                                                       [CS_OP_ARGMAX] = 1,
                                                       [CS_OP_GELU_MUL] = 1,
                                                       [CS_OP_TOP_K] = 1 | 2,
                                                       [CS_OP_MOE_ROUTE] = 1 | 2,
                                                       [CS_OP_MOE_MATMUL] = 1,
                                                       [CS_OP_MOE_COMBINE] = 1,
                                                       [CS_OP_KV_GATHER] = 1 | 2,
                                                       [CS_OP_KV_SCATTER] = 2 | 4 | 8,
                                                       [CS_OP_KV_COPY_BLOCKS] = 1 | 2};

typedef struct op_row {
  const char *name;
  uint32_t error_class;
  uint32_t n_operands;
} op_row;

#define OP_ROW(ID, number, name, column, error_class, n_operands, operands, formula)               \
  [number] = {name, error_class, n_operands},
static const op_row op_rows[CS_OP_LIMIT] = {CS_OP_TABLE(OP_ROW)};
#undef OP_ROW

const char *op_name(uint32_t id) {
  return id < CS_OP_LIMIT && op_rows[id].name ? op_rows[id].name : "?";
}

/* ---- building ---- */

optest *optest_begin(kit *k, uint32_t id, const void *params) {
  optest *t = kit_host_memory(k, sizeof *t);
  t->k = k;
  t->id = id;
  t->params = params;
  t->n_operands = op_rows[id].n_operands;
  t->written = written_operands[id];
  for (uint32_t i = 0; i < CS_MAX_OPERANDS; i++) {
    t->operands[i].tensor.struct_size = sizeof(cs_tensor);
    t->operands[i].alias_of = -1;
  }
  return t;
}

static optest_tensor *describe(optest *t, uint32_t index, uint32_t dtype, uint32_t layout,
                               uint32_t rank, const uint64_t *dims) {
  optest_tensor *operand = &t->operands[index];
  operand->tensor.dtype = dtype;
  operand->tensor.layout = layout;
  operand->tensor.rank = rank;
  operand->count = 1;
  for (uint32_t i = 0; i < rank; i++) {
    operand->tensor.dims[i] = dims[i];
    operand->count *= dims[i];
  }
  operand->values = kit_host_memory(t->k, (size_t)operand->count * sizeof(double));
  return operand;
}

double *optest_operand(optest *t, uint32_t index, uint32_t dtype, uint32_t rank,
                       const uint64_t *dims) {
  return describe(t, index, dtype, CS_LAYOUT_PLAIN, rank, dims)->values;
}

double *optest_cache(optest *t, uint32_t index, uint32_t dtype, uint32_t layout,
                     const uint64_t dims[4]) {
  return describe(t, index, dtype, layout, 4, dims)->values;
}

double *optest_weight(optest *t, uint32_t index, uint32_t dtype, uint32_t usage, uint32_t rank,
                      const uint64_t *dims) {
  optest_tensor *operand = describe(t, index, dtype, CS_LAYOUT_PACKED, rank, dims);
  operand->usage = usage;
  operand->blocks = kit_host_memory(t->k, format_bytes(dtype, operand->count));
  if (format_block_elements(dtype) > 1) {
    format_random_blocks(dtype, &t->k->rng, operand->blocks, operand->count);
  } else {
    const size_t bytes = format_bytes(dtype, 1);
    for (uint64_t i = 0; i < operand->count; i++)
      format_encode(dtype, (char *)operand->blocks + i * bytes, rng_bell(&t->k->rng));
  }
  if (!t->k->is_timing) format_dequantize(dtype, operand->blocks, operand->values, operand->count);
  return operand->values;
}

void optest_alias(optest *t, uint32_t index, uint32_t of) {
  t->operands[index].alias_of = (int)of;
  t->operands[index].gap_elements = t->operands[of].gap_elements;
}

void optest_fill_bell(optest *t, uint32_t index, double scale) {
  optest_tensor *operand = &t->operands[index];
  for (uint64_t i = 0; i < operand->count; i++)
    operand->values[i] = scale * rng_bell(&t->k->rng);
}

/* ---- where elements lie ---- */

static uint64_t columns(const cs_tensor *tensor) {
  if (tensor->rank == 1) return tensor->dims[0];
  uint64_t n = 1;
  for (uint32_t i = 1; i < tensor->rank; i++)
    n *= tensor->dims[i];
  return n;
}

static uint64_t rows(const cs_tensor *tensor) {
  return tensor->rank == 1 ? 1 : tensor->dims[0];
}

static uint64_t row_bytes(const cs_tensor *tensor) {
  return format_bytes(tensor->dtype, columns(tensor)) +
         cs_kv_block_scale_bytes(tensor->dtype, tensor->layout, tensor->rank, tensor->dims);
}

static uint64_t stride_bytes(const cs_tensor *tensor) {
  return tensor->row_stride_bytes ? tensor->row_stride_bytes : row_bytes(tensor);
}

uint64_t optest_window_bytes(const cs_tensor *tensor) {
  return (rows(tensor) - 1) * stride_bytes(tensor) + row_bytes(tensor);
}

/* The place in a block of logical element (token, head, i). */
static uint64_t cache_element(const cs_tensor *tensor, uint64_t column) {
  const uint64_t n_tokens = tensor->dims[1], n_heads = tensor->dims[2], width = tensor->dims[3];
  const uint64_t token = column / (n_heads * width), head = column / width % n_heads;
  const uint64_t i = column % width;
  switch (tensor->layout) {
  case CS_LAYOUT_KV_HEAD_MAJOR:
    return (head * n_tokens + token) * width + i;
  case CS_LAYOUT_KV_HEAD_MINOR:
    return (token * width + i) * n_heads + head;
  default:
    return column;
  }
}

uint64_t optest_element_offset(const cs_tensor *tensor, uint64_t index) {
  const uint64_t n_columns = columns(tensor);
  const uint64_t column = index % n_columns;
  const bool is_cache = tensor->rank == 4 && tensor->layout >= CS_LAYOUT_KV_TOKEN_MAJOR;
  return index / n_columns * stride_bytes(tensor) +
         format_bytes(tensor->dtype, is_cache ? cache_element(tensor, column) : column);
}

/* ---- query ---- */

/* How exact the plugin has to claim to be: the op table, and for matmuls the weights. */
static uint32_t loosest_class(const optest *t) {
  uint32_t loosest = op_rows[t->id].error_class;
  if (t->id == CS_OP_MATMUL || t->id == CS_OP_MOE_MATMUL) {
    const uint32_t dtype = t->operands[2].tensor.dtype;
    if (dtype == CS_DTYPE_F32) loosest = CS_ERROR_F32;
    if (dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16) loosest = CS_ERROR_HALF;
  }
  for (uint32_t i = 0; i < t->n_operands; i++) {
    const cs_tensor *tensor = &t->operands[i].tensor;
    const bool is_half = tensor->dtype == CS_DTYPE_F16 || tensor->dtype == CS_DTYPE_BF16;
    if (is_half && tensor->layout == CS_LAYOUT_PLAIN && loosest == CS_ERROR_F32)
      loosest = CS_ERROR_HALF;
  }
  return loosest;
}

static void set_strides(optest *t) {
  for (uint32_t i = 0; i < t->n_operands; i++) {
    optest_tensor *operand = &t->operands[i];
    if (operand->gap_elements == 0 || operand->tensor.rank < 2) continue;
    operand->tensor.row_stride_bytes =
        row_bytes(&operand->tensor) + format_bytes(operand->tensor.dtype, operand->gap_elements);
  }
}

bool optest_query(optest *t, const char *what) {
  kit *k = t->k;
  set_strides(t);
  cs_tensor operands[CS_MAX_OPERANDS];
  for (uint32_t i = 0; i < t->n_operands; i++)
    operands[i] = t->operands[i].tensor;
  const cs_op op = {.struct_size = sizeof op,
                    .id = t->id,
                    .n_operands = t->n_operands,
                    .operand_stride = sizeof operands[0],
                    .operands = operands,
                    .params = t->params};
  cs_error error = CS_ERROR_INIT;
  t->answer = (cs_op_answer){.struct_size = sizeof t->answer};
  const cs_status status = k->plugin.capability.op_query(k->device, &op, &t->answer, &error);
  if (status != CS_OK) kit_fail(k, "%s: op_query: status %d: %s", what, status, error.message);
  kit_check(k, t->answer.struct_size == sizeof t->answer, "%s: op_query changes struct_size", what);
  if (t->answer.support == CS_SUPPORT_NO) {
    kit_check(k, t->answer.reason[0] && memchr(t->answer.reason, 0, sizeof t->answer.reason),
              "%s: op_query says no without a reason", what);
    kit_unsupported(k, "%s: %s", what, t->answer.reason);
    return false;
  }
  kit_check(k, t->answer.support <= CS_SUPPORT_COMPOSED, "%s: op_query answers %u", what,
            t->answer.support);
  kit_check(k, t->answer.error_class <= loosest_class(t),
            "%s: error class %u is looser than %u, which the contract allows", what,
            t->answer.error_class, loosest_class(t));
  return true;
}

/* ---- placing ---- */

cs_weight optest_source(const optest *t, uint32_t index, cs_weight_part *part) {
  const optest_tensor *operand = &t->operands[index];
  *part = (cs_weight_part){.struct_size = sizeof *part,
                           .dtype = operand->tensor.dtype,
                           .data = operand->blocks,
                           .bytes = format_bytes(operand->tensor.dtype, operand->count)};
  cs_weight weight = {.struct_size = sizeof weight,
                      .source = CS_WEIGHT_GGUF,
                      .dtype = operand->tensor.dtype,
                      .usage = operand->usage,
                      .rank = operand->tensor.rank,
                      .n_parts = 1,
                      .part_stride = sizeof *part,
                      .parts = part};
  memcpy(weight.dims, operand->tensor.dims, sizeof weight.dims);
  return weight;
}

static cs_plugin_memory *pack(optest *t, uint32_t index) {
  kit *k = t->k;
  cs_weight_part part;
  const cs_weight weight = optest_source(t, index, &part);
  cs_packed_info *info = &t->operands[index].packed_info;
  cs_plugin_memory *packed = NULL;
  cs_error error = CS_ERROR_INIT;
  *info = (cs_packed_info){.struct_size = sizeof *info};
  kit_check_ok(k, k->plugin.capability.weights_pack(k->device, &weight, &packed, info, &error),
               &error, "weights_pack");
  kit_check(k, packed != NULL, "weights_pack answers CS_OK and NULL");
  kit_track(k, KIT_MEMORY, packed);
  return packed;
}

cs_plugin_memory *optest_pack_again(optest *t, uint32_t index) {
  return pack(t, index);
}

static void encode(optest *t, uint32_t index) {
  optest_tensor *operand = &t->operands[index];
  if (optest_is_scaled(t, index)) {
    optest_encode_scaled(t, index);
    return;
  }
  unsigned char *window = t->before + operand->tensor.offset_bytes;
  for (uint64_t i = 0; i < operand->count; i++) {
    unsigned char *at = window + optest_element_offset(&operand->tensor, i);
    format_encode(operand->tensor.dtype, at, operand->values[i]);
    operand->values[i] = format_decode(operand->tensor.dtype, at);
  }
}

static bool in_arena(const optest_tensor *operand) {
  return operand->tensor.dtype != CS_DTYPE_NONE && !operand->blocks;
}

/* Written operands that the op also reads: their values are inputs. */
static bool has_input_values(const optest *t, uint32_t index) {
  if (!(t->written >> index & 1)) return true;
  return t->id == CS_OP_KV_COPY_BLOCKS;
}

static void lay_out(optest *t) {
  const uint64_t align = t->k->properties.tensor_align;
  uint64_t end = 0;
  for (uint32_t i = 0; i < t->n_operands; i++) {
    optest_tensor *operand = &t->operands[i];
    if (!in_arena(operand) || operand->alias_of >= 0) continue;
    end = (end + GUARD_BYTES + align - 1) / align * align + align * rng_below(&t->k->rng, 3);
    operand->tensor.offset_bytes = end;
    end += optest_window_bytes(&operand->tensor);
  }
  t->arena_bytes = end + GUARD_BYTES;
  for (uint32_t i = 0; i < t->n_operands; i++)
    if (t->operands[i].alias_of >= 0)
      t->operands[i].tensor = t->operands[t->operands[i].alias_of].tensor;
}

void optest_place(optest *t) {
  kit *k = t->k;
  set_strides(t);
  lay_out(t);
  t->memory = kit_memory(k, t->arena_bytes);
  t->before = kit_host_memory(k, (size_t)t->arena_bytes);
  t->after = kit_host_memory(k, (size_t)t->arena_bytes);
  kit_random_bytes(k, t->before, (size_t)t->arena_bytes);
  for (uint32_t i = 0; i < t->n_operands; i++) {
    optest_tensor *operand = &t->operands[i];
    if (operand->blocks) {
      if (!operand->packed) operand->tensor.memory = operand->packed = pack(t, i);
      continue;
    }
    if (!in_arena(operand)) continue;
    operand->tensor.memory = t->memory;
    if (operand->alias_of >= 0) continue;
    if (has_input_values(t, i)) encode(t, i);
  }
  for (uint32_t i = 0; i < t->n_operands; i++) {
    optest_tensor *operand = &t->operands[i];
    if (!(t->written >> i & 1) || !in_arena(operand)) continue;
    operand->expected = kit_host_memory(k, (size_t)operand->count * sizeof(double));
    for (uint64_t j = 0; j < operand->count; j++)
      operand->expected[j] = optest_untouched();
  }
  if (!k->is_timing) optest_compute_expected(t);
  if (t->answer.workspace_bytes == 0) return;
  t->workspace_bytes = t->answer.workspace_bytes;
  t->workspace = kit_memory(k, t->workspace_bytes + WORKSPACE_TAIL_BYTES);
}

void optest_spoil_row(optest *t, uint32_t index, uint64_t row, double value) {
  const optest_tensor *operand = &t->operands[index];
  const uint64_t n_columns = columns(&operand->tensor);
  unsigned char *window = t->before + operand->tensor.offset_bytes;
  for (uint64_t i = 0; i < n_columns; i += 3)
    format_encode(operand->tensor.dtype,
                  window + optest_element_offset(&operand->tensor, row * n_columns + i), value);
}

void optest_leave_open(optest *t, uint32_t index, uint64_t row) {
  optest_tensor *operand = &t->operands[index];
  const uint64_t n_columns = columns(&operand->tensor);
  if (!operand->open) operand->open = kit_host_memory(t->k, operand->count * sizeof(bool));
  for (uint64_t i = 0; i < n_columns; i++)
    operand->open[row * n_columns + i] = true;
}

cs_op optest_op(const optest *t, cs_tensor operands[CS_MAX_OPERANDS]) {
  for (uint32_t i = 0; i < t->n_operands; i++)
    operands[i] = t->operands[i].tensor;
  return (cs_op){.struct_size = sizeof(cs_op),
                 .id = t->id,
                 .n_operands = t->n_operands,
                 .operand_stride = sizeof operands[0],
                 .operands = operands,
                 .params = t->params};
}

/* ---- running ---- */

static void check_workspace_tail(optest *t, const char *what) {
  unsigned char tail[WORKSPACE_TAIL_BYTES];
  kit_download(t->k, tail, t->workspace, t->workspace_bytes, sizeof tail);
  for (size_t i = 0; i < sizeof tail; i++)
    kit_check(t->k, tail[i] == 0xa5, "%s: byte %zu beyond the workspace was written", what, i);
}

void optest_execute(optest *t, const char *what) {
  kit *k = t->k;
  cs_tensor operands[CS_MAX_OPERANDS];
  const cs_op op = optest_op(t, operands);
  cs_error error = CS_ERROR_INIT;
  if (t->workspace)
    kit_check_ok(k,
                 k->plugin.stream.stream_fill(kit_stream(k), t->workspace, t->workspace_bytes,
                                              WORKSPACE_TAIL_BYTES, 0xa5, &error),
                 &error, "stream_fill");
  kit_upload(k, t->memory, 0, t->before, t->arena_bytes);
  cs_status status = kit_enqueue(k, &op, 1, t->workspace, t->program, &error);
  if (status == CS_OK)
    status = k->plugin.stream.stream_download(kit_stream(k), t->after, t->memory, 0, t->arena_bytes,
                                              &error);
  if (status == CS_OK) status = kit_try_finish(k, &error);
  if (status != CS_OK)
    kit_fail(k, "%s: op_query says yes, running it: status %d, op %d: %.160s", what, status,
             error.op_index, error.message);
  optest_compare(t, what);
  if (t->workspace) check_workspace_tail(t, what);
  k->n_checked++;
}

static void give_back(optest *t) {
  kit *k = t->k;
  for (uint32_t i = 0; i < t->n_operands; i++)
    if (t->operands[i].packed) kit_release(k, KIT_MEMORY, t->operands[i].packed);
  if (t->workspace) kit_release(k, KIT_MEMORY, t->workspace);
  kit_release(k, KIT_MEMORY, t->memory);
}

bool optest_run(optest *t, const char *what) {
  if (!optest_query(t, what)) return false;
  optest_place(t);
  optest_execute(t, what);
  if (t->k->plugin.eager.ops_enqueue) give_back(t); /* else a program still names the memory */
  return true;
}
