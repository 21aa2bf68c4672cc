/* What the plugins for OpenCL C devices share: the kernels, the rules that turn ops into launches
 * of them, the layout of packed weights, and streams over the SDK's queue. A static library; OpenCL
 * takes the kernels as text, Level Zero as SPIR-V made from the same files. It knows no driver: a
 * plugin puts the structs below first in its own and gives a table of what differs.
 *
 *   modules.h  kernels/ by name, as text and as SPIR-V     pack.c    weights in tiles
 *   plan.c     ops into steps; op_query                    stream.c  streams, eager ops, programs
 *   op_*.c     the rules of each op: what is served, and as which kernel launches */
#ifndef CLC_CLC_H
#define CLC_CLC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "consort/sdk.h"
#include "modules.h"

#define CLC_TENSOR_ALIGN    64
#define CLC_TILE            32         /* rows of a packed weight tile: TILE in kernels/common.cl */
#define CLC_GPU_GROUP_ITEMS 256        /* the largest group of the gpu variant */
#define CLC_GPU_LOCAL_BYTES (9 * 1024) /* and its local memory */

typedef struct clc_plan clc_plan;
typedef struct clc_source clc_source;
typedef struct clc_copy clc_copy;

/* What a plugin does its own way. Stream entries run on the stream's thread, in order, each after
 * all before it; they return when the driver has the work. */
typedef struct clc_driver {
  /* Builds a module unless that was done. Free-threaded. */
  cs_status (*module_require)(cs_plugin_device *device, clc_module module, cs_error *error);
  /* Device memory; of memory_allocate's contract. */
  cs_status (*memory_allocate)(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                               cs_plugin_memory **out, cs_error *error);
  void (*memory_free)(cs_plugin_device *device, cs_plugin_memory *memory);
  /* Fills memory with all units of a source (clc_pack), done when it returns. Free-threaded. */
  cs_status (*memory_pack)(cs_plugin_device *device, cs_plugin_memory *memory,
                           const clc_source *source, cs_error *error);

  size_t stream_bytes; /* of struct cs_plugin_stream */
  /* What the driver needs for a stream, which is zeroed but for its first member; on the caller's
   * thread. */
  cs_status (*stream_start)(cs_plugin_stream *stream, cs_error *error);
  /* Undoes that, from whichever thread; waits up to 2 s for the device. */
  void (*stream_finish)(cs_plugin_stream *stream);
  /* Returns when everything handed over is done and visible. */
  cs_status (*stream_drain)(cs_plugin_stream *stream, cs_error *error);
  cs_status (*upload)(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error);
  cs_status (*download)(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error);
  cs_status (*copy)(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error);
  cs_status (*fill)(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error);
  cs_status (*launch)(cs_plugin_stream *stream, const clc_plan *plan, cs_error *error);
  /* Optional, all or none: a plan as the driver's own recording. `discard` may come from any
   * thread, when no replay is under way, and when the device is closed. */
  cs_status (*record)(cs_plugin_device *device, const clc_plan *plan, void **recording,
                      cs_error *error);
  void (*discard)(void *recording);
  cs_status (*replay)(cs_plugin_stream *stream, void *recording, cs_error *error);
} clc_driver;

/* ---- objects: the first member of the plugin's struct of the same purpose ---- */

typedef struct clc_device { /* of struct cs_plugin_device */
  const cs_host *host;
  const clc_driver *driver;
  clc_variant variant;
  uint32_t n_units; /* compute units */
} clc_device;

/* How packed weights lie (pack.c). */
typedef enum clc_packing { PACKING_NONE, PACKING_ROWS, PACKING_TILES } clc_packing;

typedef struct clc_memory { /* of struct cs_plugin_memory */
  const clc_device *device;
  uint64_t bytes;
  clc_packing packing;
  uint32_t dtype; /* of packed weights, as are the dims */
  uint64_t n_matrices;
  uint64_t n_rows;
  uint64_t n_columns;
} clc_memory;

typedef struct clc_stream { /* of struct cs_plugin_stream */
  const cs_host *host;
  const clc_driver *driver;
  cs_plugin_device *device; /* not in stream_finish: it may be closed by then */
  cs_sdk_queue *queue;
} clc_stream;

static inline const clc_device *clc_device_of(const cs_plugin_device *device) {
  return (const clc_device *)(const void *)device;
}

static inline clc_memory *clc_memory_of(const cs_plugin_memory *memory) {
  return (clc_memory *)(void *)(uintptr_t)memory;
}

static inline clc_stream *clc_stream_of(const cs_plugin_stream *stream) {
  return (clc_stream *)(void *)(uintptr_t)stream;
}

/* ---- devices ---- */

/* Fills what the kernels decide: dtypes, KV layouts, alignment. */
void clc_describe(cs_device_properties *out);

/* Reads "cpu" or "gpu"; CS_INVALID_ARGUMENT for anything else. */
cs_status clc_parse_variant(const char *text, clc_variant *out, cs_error *error);

/* CS_UNSUPPORTED where the gpu variant's fixed groups do not fit the device. */
cs_status clc_check_groups(clc_variant variant, uint64_t group_items, uint64_t local_bytes,
                           cs_error *error);

/* ---- weights ---- */

/* A weight as read from its descriptor; sizes are bounded so that later products fit. */
struct clc_source {
  const unsigned char *data;
  uint32_t dtype;
  clc_packing packing;
  uint64_t n_matrices, n_rows, n_columns, row_bytes;
};

/* A source is packed unit by unit, so that a plugin may go through a small buffer: a unit is a tile
 * of CLC_TILE rows, or one row. */
uint64_t clc_units(const clc_source *source);
uint64_t clc_unit_bytes(const clc_source *source);
/* Writes the units first to first + n - 1 to `to`. */
void clc_pack(const clc_source *source, uint64_t first, uint64_t n, unsigned char *to);

/* Bytes of one matrix in tiles of CLC_TILE rows. The caller has bounded the extents. */
uint64_t clc_tiles_bytes(uint32_t dtype, uint64_t n_rows, uint64_t n_columns);

cs_status clc_weights_pack(cs_plugin_device *device, const cs_weight *weight,
                           cs_plugin_memory **out, cs_packed_info *info, cs_error *error);

/* ---- streams ---- */

/* A copy or a fill; what the command does not use is zero. */
struct clc_copy {
  cs_plugin_memory *to;
  const cs_plugin_memory *from;
  void *host_to;
  const void *host_from;
  uint64_t to_offset, from_offset, bytes;
  unsigned char value;
};

/* CS_OUT_OF_RANGE unless the range lies in memory of this device. */
cs_status clc_check_range(const cs_plugin_device *device, const cs_plugin_memory *memory,
                          uint64_t offset, uint64_t bytes, cs_error *error);

/* The tables that the plugins share, by CS_TABLE_*; NULL for those each has for itself. */
const void *clc_table(uint32_t id);

extern const cs_capability_table clc_capability_table;

#endif
