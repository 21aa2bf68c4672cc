/* Packed weights. A matrix is cut into panels of 16 rows, so that a vector of weights belongs to 16
 * columns of the result and nothing is ever summed across a vector. In a panel of a
 *   float format   element i of all 16 rows lies side by side: [n_in][16]
 *   block format   groups of blocks, quants and then scales: see blocks.h
 * Rows past the end are zeros with scale zero. A row can be read back, so that tied embeddings need
 * no second copy. The device's threads share the panels out. All kernels read this one layout, so
 * the instruction set is no part of it. Behind the panels stands a seal: bytes that were kept on
 * disk are used in place, and the seal says which weight they are. */
#include "ops.h"

#include <string.h>

#define LAYOUT_VERSION   UINT64_C(4)
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

/* The last cache line of packed bytes. */
typedef struct seal {
  char magic[8];
  uint64_t layout_id;
  uint64_t n_experts;
  uint64_t n_out;
  uint64_t n_in;
  uint64_t reserved[3];
} seal;
_Static_assert(sizeof(seal) == CACHE_LINE_BYTES, "a seal is one cache line");

static uint64_t panels_bytes(const cpu_packed *packed) {
  return packed->n_experts * packed->expert_bytes;
}

static cs_packed_info describe(const cpu_packed *packed) {
  return (cs_packed_info){.struct_size = sizeof(cs_packed_info),
                          .bytes = panels_bytes(packed) + sizeof(seal),
                          .layout_id =
                              UINT64_C(0x637075) << 40 | LAYOUT_VERSION << 16 | packed->dtype};
}

static seal seal_of(const cpu_packed *packed) {
  return (seal){.magic = "CPUPACK",
                .layout_id = describe(packed).layout_id,
                .n_experts = packed->n_experts,
                .n_out = packed->n_out,
                .n_in = packed->n_in};
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
  for (uint64_t e = 0; e < packed->n_experts; e++)
    cpu_memory_spread(device, memory->data + e * packed->expert_bytes, packed->expert_bytes);
  pthread_mutex_lock(&device->turn);
  cpu_pool_for(device->pool, packed->n_experts * job.panels, 4, pack_panels, &job);
  pthread_mutex_unlock(&device->turn);
}

/* The one part of a GGUF weight, and the layout that it gets. */
static cs_status read_weight(const cs_weight *from, cs_weight *weight, cs_weight_part *part,
                             cpu_packed *packed, cs_error *error) {
  cs_status status = cs_sdk_struct_read(weight, sizeof *weight, from, error);
  if (status != CS_OK) return status;
  if (weight->source != CS_WEIGHT_GGUF || weight->n_parts != 1 || !weight->parts)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "weights of source %u in %u parts",
                        weight->source, weight->n_parts);
  status = cs_sdk_struct_read(part, sizeof *part, weight->parts, error);
  if (status != CS_OK) return status;
  if (plan_layout(weight, packed) && part->dtype == weight->dtype) return CS_OK;
  return cs_sdk_error(error, CS_UNSUPPORTED, 0, "a weight of dtype %u, rank %u, %llu wide",
                      weight->dtype, weight->rank,
                      (unsigned long long)(weight->rank ? weight->dims[weight->rank - 1] : 0));
}

cs_status cpu_weights_pack(cs_plugin_device *device, const cs_weight *given, cs_plugin_memory **out,
                           cs_packed_info *info, cs_error *error) {
  *out = NULL;
  cs_weight weight;
  cs_weight_part part;
  cpu_packed packed = {0};
  cs_status status = read_weight(given, &weight, &part, &packed, error);
  if (status != CS_OK) return status;
  const uint64_t rows = packed.n_experts * packed.n_out;
  if (!part.data || part.bytes < rows * cs_sdk_dtype_bytes(packed.dtype, packed.n_in))
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "a weight part of %llu bytes is too short",
                        (unsigned long long)part.bytes);
  const cs_packed_info answer = describe(&packed);
  status = cpu_memory_create(device, answer.bytes, out, error);
  if (status != CS_OK) return status;
  (*out)->packed = packed;
  pack_weight(device, *out, part.data);
  const seal last = seal_of(&packed);
  memcpy((*out)->data + panels_bytes(&packed), &last, sizeof last);
  if (info) cs_sdk_struct_write(info, &answer, sizeof answer);
  return CS_OK;
}

/* ---- packed bytes on disk ---- */

static cs_status cpu_weights_layout(cs_plugin_device *device, const cs_weight *given,
                                    cs_packed_info *out, cs_error *error) {
  (void)device;
  cs_weight weight;
  cs_weight_part part;
  cpu_packed packed = {0};
  const cs_status status = read_weight(given, &weight, &part, &packed, error);
  if (status != CS_OK) return status;
  const cs_packed_info answer = describe(&packed);
  cs_sdk_struct_write(out, &answer, sizeof answer);
  return CS_OK;
}

static cs_status cpu_weights_save(cs_plugin_device *device, cs_plugin_memory *packed, void *to,
                                  uint64_t bytes, cs_error *error) {
  (void)device;
  if (packed->packed.dtype == CS_DTYPE_NONE || bytes != packed->bytes)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "not a packed weight of %llu bytes",
                        (unsigned long long)bytes);
  memcpy(to, packed->data, bytes);
  return CS_OK;
}

static cs_status cpu_weights_map(cs_plugin_device *device, const cs_weight *given,
                                 uint64_t layout_id, const void *from, uint64_t bytes,
                                 cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  cs_weight weight;
  cs_weight_part part;
  cpu_packed packed = {0};
  cs_status status = read_weight(given, &weight, &part, &packed, error);
  if (status != CS_OK) return status;
  const cs_packed_info expected = describe(&packed);
  if (layout_id != expected.layout_id)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "bytes of layout 0x%llx, not 0x%llx",
                        (unsigned long long)layout_id, (unsigned long long)expected.layout_id);
  const seal last = seal_of(&packed);
  if (!from || bytes != expected.bytes ||
      memcmp((const unsigned char *)from + panels_bytes(&packed), &last, sizeof last) != 0)
    return cs_sdk_error(error, CS_CORRUPT, 0, "%llu bytes that are not this weight's",
                        (unsigned long long)bytes);
  const bool in_place = (uintptr_t)from % CPU_TENSOR_ALIGN == 0;
  status = in_place ? cpu_memory_borrow(device, from, bytes, out, error)
                    : cpu_memory_create(device, bytes, out, error);
  if (status != CS_OK) return status;
  if (!in_place) memcpy((*out)->data, from, bytes);
  (*out)->packed = packed;
  return CS_OK;
}

const cs_weights_map_table cpu_weights_map_table = {
    .struct_size = sizeof(cs_weights_map_table),
    .weights_layout = cpu_weights_layout,
    .weights_save = cpu_weights_save,
    .weights_map = cpu_weights_map,
};

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
