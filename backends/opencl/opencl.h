/* The objects of the OpenCL plugin, and what its files offer each other. Kernels, op rules, packing
 * and the tables of streams, semaphores and ops are backends/clc.
 *
 *   plugin.c    the entry and the tables' directory
 *   instance.c  platforms and devices          device.c   opening, options, properties
 *   program.c   modules of kernels             cache.c    their binaries on disk
 *   memory.c    buffers                        stream.c   command queues */
#ifndef OPENCL_OPENCL_H
#define OPENCL_OPENCL_H

#include <CL/cl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clc/clc.h"

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

/* The variant that suits a device's type. */
clc_variant opencl_default_variant(cl_device_id device);

/* Fills everything that does not depend on the device being open. */
void opencl_describe(const opencl_found *found, clc_variant variant, uint32_t index,
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

struct cs_plugin_device {
  clc_device common;
  opencl_found found;
  uint32_t index;
  bool use_cache;
  cl_context context;
  cl_command_queue transfers; /* for packing weights; free-threaded */
  uint64_t max_allocation_bytes;
  uint64_t memory_bytes;
  cs_device_properties properties;
  pthread_mutex_t mutex; /* guards what follows */
  cl_program programs[MODULE_LIMIT];
  uint64_t allocated_bytes;
};

/* Builds a module unless that was done. Free-threaded; CS_FAILED with the compiler's first line. */
cs_status opencl_module_require(cs_plugin_device *device, clc_module module, cs_error *error);

/* A kernel of a module that opencl_module_require has built, owned by the caller. */
cs_status opencl_kernel_create(cs_plugin_device *device, clc_module module, clc_kernel kernel,
                               cl_kernel *out, cs_error *error);

/* 64-bit FNV-1a, continued from `hash`; start with OPENCL_HASH_START. */
#define OPENCL_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t opencl_hash(uint64_t hash, const void *data, size_t bytes);

/* The cached binary under `key`, owned by the caller (the host's allocator); NULL: none. */
void *opencl_cache_load(const cs_host *host, uint64_t key, size_t *bytes);
/* Failing to store is no error: the next process compiles again. */
void opencl_cache_store(const cs_host *host, uint64_t key, const void *data, size_t bytes);

/* ---- memory ---- */

struct cs_plugin_memory {
  clc_memory common;
  cl_mem buffer;
};

cs_status opencl_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                 cs_plugin_memory **out, cs_error *error);
void opencl_memory_free(cs_plugin_device *device, cs_plugin_memory *memory);

cs_status opencl_memory_pack(cs_plugin_device *device, cs_plugin_memory *memory,
                             const clc_source *source, cs_error *error);

/* ---- errors ---- */

/* "CL_OUT_OF_RESOURCES"; "an OpenCL error" for a rarer number. */
const char *opencl_error_name(cl_int code);
/* Fills *error with the call that failed and its code. */
cs_status opencl_error(cs_error *error, cl_int code, const char *call);

/* ---- tables ---- */

extern const cs_device_table opencl_device_table;
extern const cs_memory_table opencl_memory_table;
extern const clc_driver opencl_driver;

#endif
