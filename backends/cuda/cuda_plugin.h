/* The objects of the CUDA plugin, and what its files offer each other.
 *
 *   plugin.c    the entry and the tables' directory
 *   driver.c    the driver by dlopen, its errors   instance.c  devices and their properties
 *   device.c    opening, kernels                   memory.c    device and pinned memory
 *   pack.c      weights on 16-byte boundaries      peer.c      copies between two GPUs
 *   stream.c    what streams do with the driver    program.c   eager ops and graphs
 *   plan.c      ops into kernel launches; op_query
 *   blas.c      matmuls of many rows by cuBLASLt  external.c   memory shared with other plugins
 *   fp8.c       matrices of e4m3 for these
 *   profile.c   times of ops, by the device       nvml.c       temperature, power, clocks
 *   op_*.c      the rules of each op: what is served, and as which launches
 *   kernels/    CUDA C++, embedded as a fat binary */
#ifndef CUDA_PLUGIN_H
#define CUDA_PLUGIN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "consort/sdk_driver.h"
#include "driver.h"
#include "kernels/args.h"

#define CUDA_TENSOR_ALIGN 64

typedef enum cuda_kernel {
#define CUDA_KERNEL_ID(name) KERNEL_##name,
  CUDA_KERNELS(CUDA_KERNEL_ID)
#undef CUDA_KERNEL_ID
      KERNEL_LIMIT
} cuda_kernel;

const char *cuda_kernel_name(cuda_kernel kernel);

struct cs_plugin_instance {
  const cs_host *host;
  cuda_driver driver;
  uint32_t n_devices;
  uint32_t reserved;
  CUdevice devices[]; /* in the driver's order, those that the kernels can run on */
};

struct cs_plugin_device {
  cs_sdk_device sdk;
  const cuda_driver *driver; /* the instance's */
  CUdevice ordinal;
  uint32_t n_units; /* multiprocessors */
  bool use_graphs;
  bool has_bf16;          /* tensor cores take bf16, not f16 alone */
  bool use_fp8;           /* fp8=always: products of many rows in e4m3 */
  struct cuda_blas *blas; /* NULL: cublaslt=off */
  CUcontext context;      /* the primary one, retained */
  CUmodule module;
  CUfunction kernels[KERNEL_LIMIT];
  pthread_mutex_t clock_mutex;
  CUevent clock_event;    /* the last one whose time is known; NULL before the first */
  uint64_t clock_ns;      /* that time */
  struct cuda_nvml *nvml; /* NULL: no figures */
  cs_device_properties properties;
};

/* 80 for sm_80. */
int cuda_capability(const cuda_driver *driver, CUdevice ordinal);
/* What is known without opening; the uuid names the device across restarts. */
void cuda_describe(const cuda_driver *driver, CUdevice ordinal, cs_device_properties *out);

cs_status cuda_device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                           uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                           cs_error *error);
void cuda_device_close(cs_plugin_device *device);
cs_status cuda_device_properties(cs_plugin_device *device, cs_device_properties *out,
                                 cs_error *error);

/* Makes the device's context current on this thread; each enter has its leave. */
cs_status cuda_enter(cs_plugin_device *device, cs_error *error);
void cuda_leave(cs_plugin_device *device);

/* ---- memory ---- */

struct cs_plugin_memory {
  cs_plugin_device *device;
  CUdeviceptr address; /* of pinned memory too */
  void *host;          /* pinned memory's address, NULL otherwise */
  uint64_t bytes;
  int fd; /* of shared memory, -1 otherwise */
  uint32_t reserved;
  atomic_bool is_recorded; /* a recorded op list has the address in it */
  bool packed;
  uint64_t n_matrices, n_rows, n_columns; /* of a packed weight, with weight.dtype */
  cuda_weight weight;
  cuda_fp8_args fp8; /* the weight in e4m3; out NULL: none */
};

/* A handle with nothing behind it yet. */
cs_status cuda_memory_create(cs_plugin_device *device, uint64_t bytes, cs_plugin_memory **out,
                             cs_error *error);
cs_status cuda_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                               cs_plugin_memory **out, cs_error *error);
void cuda_memory_free(cs_plugin_device *device, cs_plugin_memory *memory);
/* Gives back what the memory holds, with the context current; the handle stays. */
void cuda_memory_release(cs_plugin_memory *memory);
/* external.c: likewise, of shared memory. */
void cuda_shared_release(cs_plugin_memory *memory);

cs_status cuda_weights_pack(cs_plugin_device *device, const cs_weight *weight,
                            cs_plugin_memory **out, cs_packed_info *info, cs_error *error);

/* ---- streams ---- */

struct cs_plugin_stream {
  cs_sdk_stream sdk;
  CUstream stream;
  CUevent *events; /* profile.c: (n_events) */
  uint32_t n_events, reserved;
  uint64_t last_end_ns;
};

extern const cs_sdk_driver cuda_sdk_driver;

/* The range lies in this device's memory. */
cs_status cuda_check_range(const cs_plugin_device *device, const cs_plugin_memory *memory,
                           uint64_t offset, uint64_t bytes, cs_error *error);

/* profile.c: launches a plan op by op, waits for it, and notes the device's times of all its ops in
 * the stream's log. On the stream's thread. */
struct cuda_plan;
cs_status cuda_profile_run(cs_plugin_stream *stream, const cs_sdk_ops *ops,
                           const struct cuda_plan *plan, cs_error *error);
/* Frees the stream's events, with the context current. */
void cuda_profile_finish(cs_plugin_stream *stream);

/* program.c: lists as plans, and plans to be replayed as CUDA graphs. */
cs_status cuda_prepare(cs_plugin_device *device, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                       uint32_t replayed, void **work, cs_error *error);
cs_status cuda_run(cs_plugin_stream *stream, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                   void *work, cs_error *error);
void cuda_discard(void *work);
/* plan.c */
cs_status cuda_judge(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                     cs_error *error);

/* ---- tables ---- */

extern const cs_device_table cuda_device_table;
extern const cs_memory_table cuda_memory_table;
extern const cs_capability_table cuda_capability_table;
extern const cs_peer_table cuda_peer_table;
extern const cs_external_memory_table cuda_external_table;

#endif
