/* The objects of the Level Zero plugin, and what its files offer each other. Kernels, op rules,
 * packing and the tables of streams, semaphores and ops are backends/clc.
 *
 *   plugin.c    the entry and the tables' directory   api.c     the loader
 *   instance.c  drivers and devices                   device.c  opening, options, properties
 *   memory.c    allocations                           module.c  SPIR-V, kernels, appending plans
 *   lanes.c     the order of lists and queues         stream.c  copies, launches, replays
 *   peer.c      copies between devices                sysman.c  free memory, temperature, power */
#ifndef LEVEL_ZERO_LEVEL_ZERO_H
#define LEVEL_ZERO_LEVEL_ZERO_H

#include <pthread.h>
#include <stdatomic.h>

#include "api.h"
#include "clc/clc.h"

#define LEVEL_ZERO_MAX_DRIVERS 8
#define LEVEL_ZERO_NO_ORDINAL  UINT32_MAX

/* ---- instance ---- */

/* What everything else needs until its end: shared by reference count, because a stream that the
 * device keeps busy may outlive the instance. One context a driver, so that its devices can reach
 * each other's memory. */
typedef struct level_zero_root {
  const cs_host *host;
  level_zero_api api;
  uint32_t n_drivers;
  atomic_uint references;
  pthread_rwlock_t handles; /* LEVEL_ZERO_CREATE reads, destroying writes */
  ze_driver_handle_t drivers[LEVEL_ZERO_MAX_DRIVERS];
  ze_context_handle_t contexts[LEVEL_ZERO_MAX_DRIVERS];
} level_zero_root;

void level_zero_root_retain(level_zero_root *root);
void level_zero_root_release(level_zero_root *root);

/* Nothing is created while something is destroyed: in intercept mode, or with two drivers, the
 * loader forgets a handle only after the driver has destroyed it, and with it one that has got the
 * same address in between. Creating goes on side by side; destroying comes in brackets. */
#define LEVEL_ZERO_CREATE(root, name, ...)                                                         \
  do {                                                                                             \
    pthread_rwlock_rdlock(&(root)->handles);                                                       \
    const ze_result_t created_ = (root)->api.name(__VA_ARGS__);                                    \
    pthread_rwlock_unlock(&(root)->handles);                                                       \
    if (created_ != ZE_RESULT_SUCCESS) return level_zero_error(error, created_, #name);            \
  } while (0)
void level_zero_destroy_begin(level_zero_root *root);
void level_zero_destroy_end(level_zero_root *root);

typedef struct level_zero_found {
  ze_device_handle_t device;
  uint32_t driver; /* index into the root's */
} level_zero_found;

struct cs_plugin_instance {
  level_zero_root *root;
  uint32_t n_devices;
  uint32_t reserved;
  level_zero_found devices[]; /* in the loader's order */
};

/* The variant that suits a device's type. */
clc_variant level_zero_default_variant(const level_zero_root *root, const level_zero_found *found);

/* Fills everything that does not depend on the device being open. */
void level_zero_describe(const level_zero_root *root, const level_zero_found *found,
                         clc_variant variant, cs_device_properties *out);

/* ---- device ---- */

struct cs_plugin_device {
  clc_device common;
  level_zero_root *root; /* retained */
  level_zero_found found;
  ze_context_handle_t context;
  uint32_t compute_ordinal;
  uint32_t copy_ordinal; /* of copy engines, or LEVEL_ZERO_NO_ORDINAL */
  uint64_t max_allocation_bytes;
  bool shared;                /* memory for ops is the host's, too */
  level_zero_figures figures; /* when it was opened */
  cs_device_properties properties;
  pthread_mutex_t mutex; /* guards what follows */
  uint64_t allocated_bytes;
  ze_module_handle_t modules[MODULE_LIMIT];
  /* For recordings, one at a time. */
  pthread_mutex_t record_mutex;
  ze_kernel_handle_t kernels[MODULE_LIMIT][KERNEL_LIMIT];
};

cs_status level_zero_device_open(cs_plugin_instance *instance, uint32_t index,
                                 const cs_option *options, uint32_t n_options,
                                 uint32_t option_stride, cs_plugin_device **out, cs_error *error);
void level_zero_device_close(cs_plugin_device *device);
cs_status level_zero_device_properties(cs_plugin_device *device, cs_device_properties *out,
                                       cs_error *error);

/* ---- memory ---- */

struct cs_plugin_memory {
  clc_memory common;
  unsigned char *pointer; /* the device's address, and the host's for staging */
  uint32_t kind;          /* CS_MEMORY_* */
};

cs_status level_zero_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                     cs_plugin_memory **out, cs_error *error);
void level_zero_memory_free(cs_plugin_device *device, cs_plugin_memory *memory);
cs_status level_zero_memory_pack(cs_plugin_device *device, cs_plugin_memory *memory,
                                 const clc_source *source, cs_error *error);

/* Host memory that devices of the context reach. */
cs_status level_zero_host_allocate(const level_zero_api *api, ze_context_handle_t context,
                                   uint64_t bytes, unsigned char **out, cs_error *error);

/* ---- modules ---- */

cs_status level_zero_module_require(cs_plugin_device *device, clc_module module, cs_error *error);

/* Appends every step of a plan, each followed by a barrier. `kernels` keeps the kernel objects,
 * which one thread at a time may use; they must outlive the list. */
cs_status level_zero_append_plan(cs_plugin_device *device,
                                 ze_kernel_handle_t kernels[MODULE_LIMIT][KERNEL_LIMIT],
                                 ze_command_list_handle_t list, const clc_plan *plan,
                                 cs_error *error);
void level_zero_kernels_destroy(level_zero_root *root,
                                ze_kernel_handle_t kernels[MODULE_LIMIT][KERNEL_LIMIT]);

/* ---- lanes ---- */

/* A stream hands its work to three queues of the driver, none of which knows the others' order. */
typedef enum level_zero_lane {
  LANE_COMPUTE, /* an immediate list */
  LANE_COPY,    /* an immediate list on a copy engine; LANE_COMPUTE where there is none */
  LANE_REPLAY,  /* a queue for recorded lists */
  LANE_IDLE     /* no lane: all is done */
} level_zero_lane;

#define LEVEL_ZERO_EVENTS 32

typedef struct level_zero_lanes {
  level_zero_root *root;             /* borrowed */
  ze_command_list_handle_t lists[2]; /* LANE_COMPUTE and LANE_COPY; the latter may be NULL */
  ze_command_queue_handle_t queue;
  ze_event_pool_handle_t pool;
  ze_event_handle_t events[LEVEL_ZERO_EVENTS];
  ze_command_list_handle_t signals[LEVEL_ZERO_EVENTS]; /* recorded: signal or await an event on */
  ze_command_list_handle_t awaits[LEVEL_ZERO_EVENTS];  /* the queue */
  ze_fence_handle_t fences[LEVEL_ZERO_EVENTS];         /* one a submission to the queue */
  uint32_t n_events, n_fences;                         /* used since the lanes were idle */
  level_zero_lane last;
} level_zero_lanes;

cs_status level_zero_lanes_create(const cs_plugin_device *device, level_zero_lanes *out,
                                  cs_error *error);
/* The device uses them no more. */
void level_zero_lanes_destroy(level_zero_lanes *lanes);
/* Events or fences are nearly used up: wait before the next call of enter. */
bool level_zero_lanes_full(const level_zero_lanes *lanes);
/* Work given to `lane` from now on runs after all work given to any. */
cs_status level_zero_lanes_enter(level_zero_lanes *lanes, level_zero_lane lane, cs_error *error);
/* Gives the queue a recorded list; LANE_REPLAY was entered last. */
cs_status level_zero_lanes_replay(level_zero_lanes *lanes, ze_command_list_handle_t list,
                                  cs_error *error);
/* Waits until all is done. CS_TIMEOUT when it takes longer. */
cs_status level_zero_lanes_wait(level_zero_lanes *lanes, uint64_t timeout_ns, cs_error *error);

/* ---- streams ---- */

struct cs_plugin_stream {
  clc_stream common;
  level_zero_root *root; /* retained */
  ze_context_handle_t context;
  level_zero_lanes lanes;
  unsigned char *staging; /* for host memory that the device cannot reach; made when first needed */
  uint64_t staging_used;
  ze_kernel_handle_t kernels[MODULE_LIMIT][KERNEL_LIMIT];
};

/* Prepares a zeroed stream whose common.device is set. */
cs_status level_zero_stream_start(cs_plugin_stream *stream, cs_error *error);
void level_zero_stream_finish(cs_plugin_stream *stream);
cs_status level_zero_stream_drain(cs_plugin_stream *stream, cs_error *error);
/* Gives the copy lane a copy between addresses that the device reaches. */
cs_status level_zero_stream_move(cs_plugin_stream *stream, void *to, const void *from,
                                 uint64_t bytes, cs_error *error);

extern const clc_driver level_zero_driver;

/* ---- tables ---- */

extern const cs_device_table level_zero_device_table;
extern const cs_memory_table level_zero_memory_table;
extern const cs_peer_table level_zero_peer_table;

#endif
