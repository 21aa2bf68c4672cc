/* Packed weights. A matrix is cut into panels of 16 rows, so that a vector of weights belongs to 16
 * columns of the result and nothing is ever summed across a vector. In a panel of a
 *   float format   element i of all 16 rows lies side by side: [n_in][16]
 *   block format   groups of blocks, quants and then scales: see blocks.h
 * Rows past the end are zeros with scale zero. A row can be read back, so that tied embeddings need
 * no second copy. The device's threads share the panels out. */
#include "ops.h"

#include <string.h>

#define LAYOUT_VERSION   UINT64_C(3)
#define CACHE_LINE_BYTES 64

static uint64_t round_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

/* Fills the layout's numbers; false when the weight is not served. */
static bool plan_layout(const cs_weight *weight, cpu_packed *packed) {
  const bool expert = weight->rank == 3;
  if (weight->rank != 2 && !expert) return false;
  *packed = (cpu_packed){.dtype = weight->dtype,
                         .n_experts = expert ? weight->dims[0] : 1,
                         .n_out = weight->dims[expert ? 1 : 0],
                         .n_in = weight->dims[expert ? 2 : 1]};
  const uint64_t limit = UINT64_C(1) << 40;
  if (packed->n_out == 0 || packed->n_in == 0 || packed->n_experts == 0 ||
      packed->n_out > limit / packed->n_in ||
      packed->n_experts > limit / (packed->n_out * packed->n_in))
    return false;
  if (cpu_is_float(weight->dtype)) {
    packed->panel_bytes = round_up(
        packed->n_in * CPU_PANEL_COLUMNS * cpu_float_bytes(weight->dtype), CACHE_LINE_BYTES);
  } else {
    if (!cpu_is_block(weight->dtype)) return false;
    const cpu_block_format *format = &cpu_block_formats[cpu_block_index(weight->dtype)];
    if (packed->n_in % (CPU_BLOCK * format->file_blocks) != 0) return false;
    packed->panel_bytes = cpu_blocks_bytes(format->bits, format->scales, packed->n_in / CPU_BLOCK);
  }
  packed->expert_bytes =
      (packed->n_out + CPU_PANEL_COLUMNS - 1) / CPU_PANEL_COLUMNS * packed->panel_bytes;
  return true;
}

/* Source rows of one panel: (columns, file blocks). */
static void pack_blocks(const cpu_packed *packed, const unsigned char *source, uint64_t columns,
                        unsigned char *panel) {
  const cpu_block_format *format = &cpu_block_formats[cpu_block_index(packed->dtype)];
  const uint64_t file_elements = format->file_blocks * CPU_BLOCK;
  const uint64_t file_bytes = cs_sdk_dtype_bytes(packed->dtype, file_elements);
  const uint64_t row_bytes = packed->n_in / file_elements * file_bytes;
  for (uint64_t i = 0; i < packed->n_in; i += file_elements, source += file_bytes)
    for (uint64_t c = 0; c < columns; c++)
      cpu_block_pack(format, source + c * row_bytes, i / CPU_BLOCK, (uint32_t)c, panel);
}

/* Source rows of one panel: (columns, n_in). */
static void pack_floats(const cpu_packed *packed, const unsigned char *source, uint64_t columns,
                        unsigned char *panel) {
  const size_t bytes = cpu_float_bytes(packed->dtype);
  for (uint64_t i = 0; i < packed->n_in; i++)
    for (uint64_t c = 0; c < columns; c++)
      memcpy(panel + (i * CPU_PANEL_COLUMNS + c) * bytes, source + (c * packed->n_in + i) * bytes,
             bytes);
}

typedef struct pack_job {
  cs_plugin_memory *memory;
  const unsigned char *source;
  uint64_t panels; /* an expert */
} pack_job;

static void pack_panels(void *context, uint64_t begin, uint64_t end) {
  const pack_job *job = context;
  const cpu_packed *packed = &job->memory->packed;
  const uint64_t row_bytes = cs_sdk_dtype_bytes(packed->dtype, packed->n_in);
  for (uint64_t p = begin; p < end; p++) {
    const uint64_t e = p / job->panels, first = p % job->panels * CPU_PANEL_COLUMNS;
    const uint64_t left = packed->n_out - first;
    unsigned char *panel =
        job->memory->data + e * packed->expert_bytes + p % job->panels * packed->panel_bytes;
    memset(panel, 0, packed->panel_bytes);
    (cpu_is_float(packed->dtype) ? pack_floats : pack_blocks)(
        packed, job->source + (e * packed->n_out + first) * row_bytes,
        left < CPU_PANEL_COLUMNS ? left : CPU_PANEL_COLUMNS, panel);
  }
}

static void pack_weight(cs_plugin_device *device, cs_plugin_memory *memory,
                        const unsigned char *source) {
  const cpu_packed *packed = &memory->packed;
  pack_job job = {
      .memory = memory, .source = source, .panels = packed->expert_bytes / packed->panel_bytes};
  pthread_mutex_lock(&device->turn);
  cpu_pool_for(device->pool, packed->n_experts * job.panels, 4, pack_panels, &job);
  pthread_mutex_unlock(&device->turn);
}

/* The one part of a GGUF weight, checked against the weight's own numbers. */
static cs_status read_weight(const cs_weight *from, cs_weight *weight, cs_weight_part *part,
                             cs_error *error) {
  cs_status status = cs_sdk_struct_read(weight, sizeof *weight, from, error);
  if (status != CS_OK) return status;
  if (weight->source != CS_WEIGHT_GGUF || weight->n_parts != 1 || !weight->parts)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "weights of source %u in %u parts",
                        weight->source, weight->n_parts);
  return cs_sdk_struct_read(part, sizeof *part, weight->parts, error);
}

cs_status cpu_weights_pack(cs_plugin_device *device, const cs_weight *given, cs_plugin_memory **out,
                           cs_packed_info *info, cs_error *error) {
  *out = NULL;
  cs_weight weight;
  cs_weight_part part;
  cs_status status = read_weight(given, &weight, &part, error);
  if (status != CS_OK) return status;
  cpu_packed packed;
  if (!plan_layout(&weight, &packed) || part.dtype != weight.dtype)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "a weight of dtype %u, rank %u, %llu wide",
                        weight.dtype, weight.rank,
                        (unsigned long long)(weight.rank ? weight.dims[weight.rank - 1] : 0));
  const uint64_t rows = packed.n_experts * packed.n_out;
  if (!part.data || part.bytes < rows * cs_sdk_dtype_bytes(packed.dtype, packed.n_in))
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "a weight part of %llu bytes is too short",
                        (unsigned long long)part.bytes);
  status = cpu_memory_create(device, packed.n_experts * packed.expert_bytes, out, error);
  if (status != CS_OK) return status;
  (*out)->packed = packed;
  pack_weight(device, *out, part.data);
  const cs_packed_info answer = {.struct_size = sizeof answer,
                                 .bytes = (*out)->bytes,
                                 .layout_id = UINT64_C(0x637075) << 40 | LAYOUT_VERSION << 16 |
                                              packed.dtype};
  if (info) cs_sdk_struct_write(info, &answer, sizeof answer);
  return CS_OK;
}

/* ---- reading a row back ---- */

void cpu_packed_row(const cpu_kernels *kernels, const cs_plugin_memory *memory, uint64_t row,
                    float *out) {
  const cpu_packed *packed = &memory->packed;
  const uint64_t in_expert = row % packed->n_out, column = in_expert % CPU_PANEL_COLUMNS;
  const unsigned char *panel = memory->data + row / packed->n_out * packed->expert_bytes +
                               in_expert / CPU_PANEL_COLUMNS * packed->panel_bytes;
  if (cpu_is_float(packed->dtype)) {
    const size_t bytes = cpu_float_bytes(packed->dtype);
    for (uint64_t i = 0; i < packed->n_in; i++)
      kernels->to_f32[cpu_float_index(packed->dtype)](
          &out[i], panel + (i * CPU_PANEL_COLUMNS + column) * bytes, 1);
    return;
  }
  const cpu_block_format *format = &cpu_block_formats[cpu_block_index(packed->dtype)];
  for (uint64_t b = 0; b < packed->n_in / CPU_BLOCK; b++)
    cpu_block_values(format, panel, b, (uint32_t)column, out + b * CPU_BLOCK);
}
