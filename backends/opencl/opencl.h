/* The objects of the OpenCL plugin, and what its files offer each other.
 *
 *   plugin.c    the entry and the tables' directory
 *   instance.c  platforms and devices          device.c   opening, options, properties
 *   program.c   modules of kernels             cache.c    their binaries on disk
 *   memory.c    buffers                        pack.c     weights in tiles
 *   stream.c    streams, eager ops, programs   plan.c     ops into steps; op_query
 *   op_*.c      the rules of each op: what is served, and as which kernel launches */
#ifndef OPENCL_OPENCL_H
#define OPENCL_OPENCL_H

#include <CL/cl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "consort/sdk.h"

#define OPENCL_TENSOR_ALIGN 64
#define OPENCL_TILE         32 /* rows of a packed weight tile: TILE in kernels/common.cl */

/* ---- instance ---- */

typedef struct opencl_found {
  cl_platform_id platform;
  cl_device_id device;
} opencl_found;

struct cs_plugin_instance {
  const cs_host *host;
  uint32_t n_devices;
  uint32_t reserved;
  opencl_found devices[]; /* ordered by platform name, then as the platform lists them */
};

/* Which of the kernels a device runs. */
typedef enum opencl_variant { OPENCL_VARIANT_CPU, OPENCL_VARIANT_GPU } opencl_variant;

/* The variant that suits a device's type. */
opencl_variant opencl_variant_default(cl_device_id device);

/* Fills everything that does not depend on the device being open. */
void opencl_describe(const opencl_found *found, opencl_variant variant, uint32_t index,
                     cs_device_properties *out);

/* A string property of a device or platform, trimmed; empty where there is none. */
void opencl_device_text(cl_device_id device, cl_device_info name, char *out, size_t bytes);
void opencl_platform_text(cl_platform_id platform, cl_platform_info name, char *out, size_t bytes);

/* Entries of the device table that device.c holds. */
cs_status opencl_device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                             uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                             cs_error *error);
void opencl_device_close(cs_plugin_device *device);
cs_status opencl_device_properties(cs_plugin_device *device, cs_device_properties *out,
                                   cs_error *error);

/* ---- modules and kernels ---- */

typedef enum opencl_module {
  MODULE_BASE,
  MODULE_MATMUL_F32,
  MODULE_MATMUL_F16,
  MODULE_MATMUL_BF16,
  MODULE_MATMUL_Q8_0,
  MODULE_MATMUL_Q4_0,
  MODULE_ATTENTION_F32,
  MODULE_ATTENTION_F16,
  MODULE_ATTENTION_BF16,
  MODULE_LIMIT
} opencl_module;

typedef enum opencl_kernel {
  KERNEL_ADD,
  KERNEL_SILU_MUL,
  KERNEL_GELU_MUL,
  KERNEL_CAST,
  KERNEL_COPY_WORDS,
  KERNEL_COPY_BYTES,
  KERNEL_ROPE,
  KERNEL_GATHER_ROWS,
  KERNEL_RMS_NORM,
  KERNEL_ARGMAX,
  KERNEL_TOP_K,
  KERNEL_KV_WRITE,
  KERNEL_KV_MOVE,
  KERNEL_WIRE_SUM,
  KERNEL_WIRE_SUM_FINISH,
  KERNEL_KV_COPY_BLOCKS,
  KERNEL_MOE_ROUTE,
  KERNEL_MOE_COMBINE,
  KERNEL_MATMUL_VECTOR,
  KERNEL_MATMUL_BLOCK,
  KERNEL_ATTENTION_PAGED,
  KERNEL_LIMIT
} opencl_kernel;

const char *opencl_kernel_name(opencl_kernel kernel);

struct cs_plugin_device {
  const cs_host *host;
  opencl_found found;
  uint32_t index;
  opencl_variant variant;
  bool use_cache;
  cl_context context;
  cl_command_queue transfers; /* for packing weights; free-threaded */
  uint64_t max_allocation_bytes;
  uint64_t memory_bytes;
  uint32_t n_units;
  cs_device_properties properties;
  pthread_mutex_t mutex; /* guards what follows */
  cl_program programs[MODULE_LIMIT];
  uint64_t allocated_bytes;
};

/* Builds a module unless that was done. Free-threaded; CS_FAILED with the compiler's first line. */
cs_status opencl_module_require(cs_plugin_device *device, opencl_module module, cs_error *error);

/* A kernel of a module that opencl_module_require has built, owned by the caller. */
cs_status opencl_kernel_create(cs_plugin_device *device, opencl_module module, opencl_kernel kernel,
                               cl_kernel *out, cs_error *error);

/* 64-bit FNV-1a, continued from `hash`; start with OPENCL_HASH_START. */
#define OPENCL_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t opencl_hash(uint64_t hash, const void *data, size_t bytes);

/* The cached binary under `key`, owned by the caller (the host's allocator); NULL: none. */
void *opencl_cache_load(const cs_host *host, uint64_t key, size_t *bytes);
/* Failing to store is no error: the next process compiles again. */
void opencl_cache_store(const cs_host *host, uint64_t key, const void *data, size_t bytes);

/* ---- memory ---- */

/* How packed weights lie (pack.c). */
typedef enum opencl_packing { PACKING_NONE, PACKING_ROWS, PACKING_TILES } opencl_packing;

struct cs_plugin_memory {
  cs_plugin_device *device;
  cl_mem buffer;
  uint64_t bytes;
  opencl_packing packing;
  uint32_t dtype; /* of packed weights, as are the dims */
  uint64_t n_matrices;
  uint64_t n_rows;
  uint64_t n_columns;
};

cs_status opencl_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                 cs_plugin_memory **out, cs_error *error);
void opencl_memory_free(cs_plugin_device *device, cs_plugin_memory *memory);

/* Bytes of one matrix in tiles of OPENCL_TILE rows. The caller has bounded the extents. */
uint64_t opencl_tiles_bytes(uint32_t dtype, uint64_t n_rows, uint64_t n_columns);

cs_status opencl_weights_pack(cs_plugin_device *device, const cs_weight *weight,
                              cs_plugin_memory **out, cs_packed_info *info, cs_error *error);

/* ---- errors ---- */

/* "CL_OUT_OF_RESOURCES"; "an OpenCL error" for a rarer number. */
const char *opencl_error_name(cl_int code);
/* Fills *error with the call that failed and its code. */
cs_status opencl_error(cs_error *error, cl_int code, const char *call);

/* ---- tables ---- */

extern const cs_device_table opencl_device_table;
extern const cs_memory_table opencl_memory_table;
extern const cs_stream_table opencl_stream_table;
extern const cs_semaphore_table opencl_semaphore_table;
extern const cs_capability_table opencl_capability_table;
extern const cs_eager_table opencl_eager_table;
extern const cs_program_table opencl_program_table;

#endif
