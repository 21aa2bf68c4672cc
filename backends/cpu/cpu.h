/* The CPU plugin's own types. A device is a set of cores with a pool of threads; its memory is the
 * host's; a stream is an SDK queue whose thread is the pool's first participant. */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/sdk.h"

#include "kernels.h"
#include "pool.h"
#include "topology.h"

#define CPU_TENSOR_ALIGN    64
#define CPU_MAX_THREADS     256
#define CPU_HUGE_PAGE_BYTES (UINT64_C(2) << 20)

/* What weights_pack made; dtype CS_DTYPE_NONE in plain memory. See pack.c for the layouts. */
typedef struct cpu_packed {
  uint32_t dtype;
  uint32_t reserved;
  uint64_t n_experts; /* 1 for a plain matrix */
  uint64_t n_out;
  uint64_t n_in;
  uint64_t panel_bytes;  /* distance between panels of CPU_PANEL_COLUMNS rows */
  uint64_t expert_bytes; /* distance between experts */
} cpu_packed;

struct cs_plugin_memory {
  unsigned char *data;
  uint64_t bytes;
  int fd; /* of memory shared with another plugin: mapped through it; -1: the host's own */
  bool is_borrowed; /* data is the host's mapping, read only */
  cpu_packed packed;
};

struct cs_plugin_instance {
  const cs_host *host;
  cpu_topology topology;
  uint32_t n_partitions;
};

/* Whether a matmul rounds its activations; see docs/cpu.md. */
typedef enum cpu_rounding {
  CPU_ROUND_AUTO, /* where the matrix is large enough to gain from it */
  CPU_ROUND_ALWAYS,
  CPU_ROUND_NEVER,
} cpu_rounding;

struct cs_plugin_device {
  const cs_host *host;
  const cs_plugin_instance *instance;
  uint32_t partition;
  uint32_t n_threads;
  const cpu_kernels *kernels;
  cpu_rounding int8;     /* with weights in blocks */
  cpu_rounding bf16;     /* with weights of 16 bits; NEVER where the kernels have no such tile */
  const uint32_t *cores; /* where thread i runs, of units; NULL: not pinned */
  uint32_t units[CPU_MAX_THREADS];
  uint16_t nodes[CPU_MAX_THREADS]; /* whose memory is next to thread i */
  bool spreads; /* packed weights go to the nodes of the threads that read them */
  bool on_node; /* all memory goes to the one node of all threads */
  cpu_pool *pool;
  pthread_mutex_t turn; /* held for one op: streams of one device take turns */
};

/* instance.c */
extern const cs_device_table cpu_device_table;
/* memory.c */
extern const cs_memory_table cpu_memory_table;
extern const cs_external_memory_table cpu_external_table;
/* stream.c */
extern const cs_stream_table cpu_stream_table;
extern const cs_semaphore_table cpu_semaphore_table;
extern const cs_profile_table cpu_profile_table;
/* execute.c */
extern const cs_capability_table cpu_capability_table;
extern const cs_eager_table cpu_eager_table;
extern const cs_program_table cpu_program_table;
extern const cs_peer_table cpu_peer_table;
/* pack.c */
extern const cs_weights_map_table cpu_weights_map_table;

/* Aligned host memory for `bytes`; CS_OUT_OF_MEMORY when the machine has not that much left. */
cs_status cpu_memory_create(cs_plugin_device *device, uint64_t bytes, cs_plugin_memory **out,
                            cs_error *error);
/* Asks for pages of large pieces on the nodes of the threads that begin in them, where that is
 * wanted: `bytes` at `data`, dealt as cpu_pool_for deals items. Before the first touch. */
void cpu_memory_spread(const cs_plugin_device *device, unsigned char *data, uint64_t bytes);
/* A handle for `bytes` of the host's, which stay mapped and are only read. */
cs_status cpu_memory_borrow(cs_plugin_device *device, const void *data, uint64_t bytes,
                            cs_plugin_memory **out, cs_error *error);
void cpu_memory_destroy(cs_plugin_device *device, cs_plugin_memory *memory);

/* Commands of the queue get the stream's device as their context. */
cs_sdk_queue *cpu_stream_queue(cs_plugin_stream *stream);
cs_plugin_device *cpu_stream_device(cs_plugin_stream *stream);
cs_sdk_op_log *cpu_stream_log(cs_plugin_stream *stream);
/* Frees what the commands of execute.c own. */
void cpu_release_command(void *context, cs_sdk_command command, void *payload);

/* weights_pack; pack.c */
cs_status cpu_weights_pack(cs_plugin_device *device, const cs_weight *weight,
                           cs_plugin_memory **out, cs_packed_info *info, cs_error *error);
/* Writes row `row` (of all experts' rows in order) as n_in float32. */
void cpu_packed_row(const cpu_kernels *kernels, const cs_plugin_memory *memory, uint64_t row,
                    float *out);

#endif
