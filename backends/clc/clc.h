/* What the plugins for OpenCL C devices share: the kernels, the rules that turn ops into launches
 * of them, the layout of packed weights, and the SDK's streams over them. A static library; OpenCL
 * takes the kernels as text, Level Zero as SPIR-V made from the same files. It knows no driver: a
 * plugin puts the structs below first in its own and gives a table of what differs.
 *
 *   modules.h  kernels/ by name, as text and as SPIR-V     pack.c    weights in tiles
 *   plan.c     ops into steps; op_query                    stream.c  what streams do with plans
 *   op_*.c     the rules of each op: what is served,       image.c   GGUF blocks as the kernels
 *              and as which kernel launches                          read them */
#ifndef CLC_CLC_H
#define CLC_CLC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "consort/sdk_driver.h"
#include "modules.h"

#define CLC_TENSOR_ALIGN    64
#define CLC_TILE            32         /* rows of a packed weight tile: TILE in kernels/common.cl */
#define CLC_GPU_GROUP_ITEMS 256        /* the largest group of the gpu variant */
#define CLC_GPU_LOCAL_BYTES (9 * 1024) /* and its local memory */

typedef struct clc_plan clc_plan;
typedef struct clc_source clc_source;
typedef cs_sdk_stream clc_stream; /* first in struct cs_plugin_stream */
typedef cs_sdk_copy clc_copy;

/* What a plugin does its own way. */
typedef struct clc_driver {
  cs_sdk_driver sdk; /* begins with CLC_DRIVER_SHARED */
  /* Builds a module unless that was done. Free-threaded. */
  cs_status (*module_require)(cs_plugin_device *device, clc_module module, cs_error *error);
  /* Device memory; of memory_allocate's contract. */
  cs_status (*memory_allocate)(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                               cs_plugin_memory **out, cs_error *error);
  void (*memory_free)(cs_plugin_device *device, cs_plugin_memory *memory);
  /* Fills memory with all units of a source (clc_pack), done when it returns. Free-threaded. */
  cs_status (*memory_pack)(cs_plugin_device *device, cs_plugin_memory *memory,
                           const clc_source *source, cs_error *error);
  /* On the stream's thread. */
  cs_status (*launch)(cs_plugin_stream *stream, const clc_plan *plan, cs_error *error);
  /* Optional, all or none: a plan as the driver's own recording. `discard` may come from any
   * thread, when no replay is under way, and when the device is closed. */
  cs_status (*record)(cs_plugin_device *device, const clc_plan *plan, void **recording,
                      cs_error *error);
  void (*discard)(void *recording);
  cs_status (*replay)(cs_plugin_stream *stream, void *recording, cs_error *error);
} clc_driver;

/* The entries of cs_sdk_driver that the plugins share. */
#define CLC_DRIVER_SHARED                                                                          \
  .check_range = clc_check_range, .judge = clc_judge, .prepare = clc_prepare, .run = clc_run,      \
  .discard = clc_discard

/* ---- objects: the first member of the plugin's struct of the same purpose ---- */

typedef struct clc_device { /* of struct cs_plugin_device */
  cs_sdk_device sdk;        /* its driver is the first member of a clc_driver */
  clc_variant variant;
  uint32_t n_units; /* compute units */
} clc_device;

typedef struct clc_memory { /* of struct cs_plugin_memory */
  const clc_device *device;
  uint64_t bytes;
  uint32_t dtype; /* of packed weights, as are the dims; CS_DTYPE_NONE: not packed */
  uint32_t reserved;
  uint64_t n_matrices;
  uint64_t n_rows;
  uint64_t n_columns;
} clc_memory;

static inline const clc_device *clc_device_of(const cs_plugin_device *device) {
  return (const clc_device *)(const void *)device;
}

static inline clc_memory *clc_memory_of(const cs_plugin_memory *memory) {
  return (clc_memory *)(void *)(uintptr_t)memory;
}

static inline const clc_driver *clc_driver_of(const cs_plugin_device *device) {
  return (const clc_driver *)(const void *)clc_device_of(device)->sdk.driver;
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
  const struct clc_format *format;
  uint64_t n_matrices, n_rows, n_columns, row_bytes; /* row_bytes as in GGUF */
};

/* A source is packed unit by unit, so that a plugin may go through a small buffer: a unit is a tile
 * of CLC_TILE rows. */
uint64_t clc_units(const clc_source *source);
uint64_t clc_unit_bytes(const clc_source *source);
/* Writes the units first to first + n - 1 to `to`. */
void clc_pack(const clc_source *source, uint64_t first, uint64_t n, unsigned char *to);

cs_status clc_weights_pack(cs_plugin_device *device, const cs_weight *weight,
                           cs_plugin_memory **out, cs_packed_info *info, cs_error *error);

/* ---- streams and ops: entries of cs_sdk_driver ---- */

/* CS_OUT_OF_RANGE unless the range lies in memory of this device. */
cs_status clc_check_range(const cs_plugin_device *device, const cs_plugin_memory *memory,
                          uint64_t offset, uint64_t bytes, cs_error *error);

cs_status clc_judge(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                    cs_error *error);
/* A list becomes a plan; one to be replayed the driver's own recording too. */
cs_status clc_prepare(cs_plugin_device *device, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                      uint32_t replayed, void **work, cs_error *error);
cs_status clc_run(cs_plugin_stream *stream, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                  void *work, cs_error *error);
void clc_discard(void *work);

/* The tables that the plugins share, by CS_TABLE_*; NULL for those each has for itself. */
const void *clc_table(uint32_t id);

#endif
