/* The plugin ABI: the whole contract between Consort and a device.
 *
 * A plugin is a shared library with one exported symbol, cs_plugin_query, and a manifest beside it
 * (docs/plugin-guide.md). It hands out tables of functions by id and revision. The host checks
 * every argument before it calls through, owns policy and lifetimes, and never dereferences a
 * handle. The plugin owns physical memory, keeps no mutable globals, and never exits, aborts,
 * throws, prints or installs signal handlers.
 *
 * Read it in this order, which is the order of calls as well:
 *
 *   entry        cs_plugin_query hands out the tables that follow
 *   device       instance_create starts the driver; devices are listed, described and opened
 *   memory       allocations; the host keeps policy and sizes
 *   capability   op_query at load, for every op of a model at its largest extents; weights_pack
 *   stream       copies and ops in order, with waits and signals around them
 *   semaphore    what streams wait for and signal, and what the host waits for once a step
 *   execution    ops as they come (eager), or recorded once and launched often (program)
 *   optional     what a device may have on top; nobody misses it
 *
 * A first plugin is memory, copies and one op (docs/plugin-guide.md); the SDK has streams and
 * semaphores ready (consort/sdk_driver.h). The ops themselves are in consort/ops.h.
 *
 * Rules that hold for every struct and every function (docs/abi.md):
 *   - struct_size comes first. A larger struct than you know is accepted when the bytes beyond are
 *     zero and refused with CS_UNSUPPORTED when not. Never write past the size the caller gave.
 *   - Arrays cross as pointer, count and element stride.
 *   - What can fail returns cs_status and fills `error` (may be NULL) on failure; an output handle
 *     is then NULL.
 *   - An absent table or a NULL optional entry means "unsupported", never a failed start.
 *   - Device, memory, semaphore and query calls may come from any thread at any time; one stream
 *     is used by one thread at a time. Callbacks to the host are never made under a plugin's lock.
 *   - Everything enqueued on a stream is asynchronous and runs in order. No host-side wait is
 *     without a deadline.
 *   - After CS_DEVICE_LOST only destroy calls are made; each returns within 2 s, leaking if it
 * must.
 */
#ifndef CONSORT_PLUGIN_H
#define CONSORT_PLUGIN_H

#include "consort/ops.h"
#include "consort/status.h"
#include "consort/types.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CS_ABI_VERSION 0 /* the newest version that this header describes */

/* Handles: each type is defined by the plugin, in its own source. */
typedef struct cs_plugin_instance cs_plugin_instance;
typedef struct cs_plugin_device cs_plugin_device;
typedef struct cs_plugin_stream cs_plugin_stream;
typedef struct cs_plugin_semaphore cs_plugin_semaphore;
typedef struct cs_plugin_program cs_plugin_program;

/* ---- entry ------------------------------------------------------------------------------- */

#define CS_LOG_ERROR 0
#define CS_LOG_WARN  1
#define CS_LOG_INFO  2
#define CS_LOG_DEBUG 3

/* What the host offers. Valid for the life of the process. Free-threaded. */
typedef struct cs_host {
  uint32_t struct_size;
  uint32_t abi_min; /* the host speaks abi_min to abi_max */
  uint32_t abi_max;
  uint32_t reserved;
  void *context; /* first argument of the functions below */
  /* Host memory, aligned to `alignment` (a power of two, at least 8); NULL when there is none. */
  void *(*allocate)(void *context, uint64_t bytes, uint64_t alignment);
  void (*deallocate)(void *context, void *pointer); /* NULL is fine */
  void (*log)(void *context, uint32_t level, const char *line);
} cs_host;

#define CS_TABLE_DEVICE          1 /* required */
#define CS_TABLE_MEMORY          2 /* required */
#define CS_TABLE_STREAM          3 /* required */
#define CS_TABLE_SEMAPHORE       4 /* required */
#define CS_TABLE_CAPABILITY      5 /* required */
#define CS_TABLE_EAGER           6 /* this, */
#define CS_TABLE_PROGRAM         7 /* or this, or both */
#define CS_TABLE_KV_LAYOUT       8 /* 8 and up are optional */
#define CS_TABLE_EXTERNAL_MEMORY 9
#define CS_TABLE_PEER            10
#define CS_TABLE_PROFILE         11
#define CS_TABLE_WEIGHTS_MAP     12

/* What the plugin answers. Strings are static in the plugin. */
typedef struct cs_plugin {
  uint32_t struct_size; /* set by the host */
  uint32_t abi_version; /* the version the plugin picked */
  const char *name;     /* "cpu": lower case, digits, '-' and '_'; the device names begin with it */
  const char *version;
  const char *vendor;
  /* The table with this id at this revision, NULL when there is none. Tables are static and their
   * first member is struct_size. Revision 0 is all there is in ABI version 0. */
  const void *(*table)(uint32_t id, uint32_t revision);
} cs_plugin;

/* The entry. Does no work: no driver is touched before instance_create. CS_UNSUPPORTED when no
 * version in abi_min..abi_max suits. */
#if defined(_WIN32)
#define CS_PLUGIN_EXPORT __declspec(dllexport)
#else
#define CS_PLUGIN_EXPORT __attribute__((visibility("default")))
#endif
typedef cs_status (*cs_plugin_query_fn)(const cs_host *host, cs_plugin *plugin);
CS_PLUGIN_EXPORT cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin);
#define CS_PLUGIN_QUERY_SYMBOL "cs_plugin_query"

/* ---- device ------------------------------------------------------------------------------ */

typedef struct cs_option {
  const char *key;
  const char *value;
} cs_option;

#define CS_DEVICE_TYPE_CPU         1
#define CS_DEVICE_TYPE_GPU         2
#define CS_DEVICE_TYPE_ACCELERATOR 3

#define CS_DEVICE_HOST_RESIDENT UINT32_C(1) /* memory is the host's: memory_host_pointer works */
#define CS_DEVICE_SOFTWARE      UINT32_C(2) /* a simulation or an emulator, not a chip's own driver */

/* What a device is. Filled by device_info (without opening) as far as known, and by
 * device_properties (opened) in full. */
typedef struct cs_device_properties {
  uint32_t struct_size;
  uint32_t type;              /* CS_DEVICE_TYPE_* */
  uint32_t flags;             /* CS_DEVICE_* */
  uint32_t tensor_align;      /* bytes, a power of two from 4 to 256 */
  uint64_t memory_bytes;      /* physical memory that allocations come from */
  uint64_t memory_free_bytes; /* at the time of the call; 0 unknown */
  /* Devices with equal non-empty strings share memory (or arithmetic units and its bandwidth):
   * pools in one memory domain divide it, pairs in one compute domain are profiled together. */
  char memory_domain[32];       /* "host" for the RAM of this machine */
  char compute_domain[32];      /* "host" for the cores of this machine */
  char uuid[64];                /* stable across restarts; empty where there is none */
  char description[96];         /* "AMD EPYC (2 cores)" */
  char driver[64];              /* name and version: the key of cached measurements */
  uint64_t dtypes;              /* CS_DTYPE_BIT of what matmul weights may be */
  uint64_t kv_dtypes;           /* CS_DTYPE_BIT of what the KV cache may be */
  uint32_t kv_layouts;          /* CS_LAYOUT_BIT of the KV layouts */
  uint32_t kv_layout;           /* the preferred one */
  uint32_t kv_block_tokens_min; /* powers of two */
  uint32_t kv_block_tokens_max;
  uint32_t activation_dtype; /* preferred; CS_DTYPE_F32 is always accepted by the minimal ops */
  uint32_t concurrency;      /* compute units or threads: information */
} cs_device_properties;

typedef struct cs_device_table {
  uint32_t struct_size;
  uint32_t reserved;
  /* Starts the driver. On failure the error's message says why in one line ("no OpenCL platform");
   * the host prints it and goes on without this plugin. The host keeps `host` valid. */
  cs_status (*instance_create)(const cs_host *host, cs_plugin_instance **out, cs_error *error);
  void (*instance_destroy)(cs_plugin_instance *instance);
  /* Devices are numbered from 0 in a stable order. */
  uint32_t (*device_count)(cs_plugin_instance *instance);
  cs_status (*device_info)(cs_plugin_instance *instance, uint32_t index, cs_device_properties *out,
                           cs_error *error);
  /* Options come from "NAME:INDEX?key=value&key=value"; an unknown key is
   * CS_INVALID_ARGUMENT. CS_NEEDS_NEW_PROCESS when a lost device cannot return. */
  cs_status (*device_open)(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                           uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                           cs_error *error);
  /* Everything made on the device has been destroyed before. */
  void (*device_close)(cs_plugin_device *device);
  cs_status (*device_properties)(cs_plugin_device *device, cs_device_properties *out,
                                 cs_error *error);
} cs_device_table;

/* ---- memory ------------------------------------------------------------------------------ */

#define CS_MEMORY_DEVICE 0 /* for ops */
#define CS_MEMORY_STAGING                                                                          \
  1 /* host-visible, fast to copy from and to: memory_host_pointer works                           \
     */

typedef struct cs_memory_table {
  uint32_t struct_size;
  uint32_t reserved;
  /* `bytes` > 0, contents undefined, aligned to at least tensor_align. CS_OUT_OF_MEMORY is no
   * lasting harm; CS_UNSUPPORTED for STAGING makes the host use its own memory. */
  cs_status (*memory_allocate)(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                               cs_plugin_memory **out, cs_error *error);
  /* No enqueued work may still use it. Also frees what weights_pack made. */
  void (*memory_free)(cs_plugin_device *device, cs_plugin_memory *memory);
  /* Optional. The host address, valid until memory_free, or NULL when the host cannot reach it.
   * The host touches it only while no enqueued work does. */
  void *(*memory_host_pointer)(cs_plugin_device *device, cs_plugin_memory *memory);
} cs_memory_table;

/* ---- stream ------------------------------------------------------------------------------ */

/* All entries but create and destroy enqueue and return at once. A failure of enqueued work
 * poisons the stream: what follows is skipped and its signals become semaphore_fail with the
 * first error, whose op_index counts within the failed list. */
typedef struct cs_stream_table {
  uint32_t struct_size;
  uint32_t reserved;
  cs_status (*stream_create)(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error);
  /* Drops work that has not started; waits up to 2 s for what has. */
  void (*stream_destroy)(cs_plugin_stream *stream);
  /* Host memory must stay valid and untouched until a later signal has arrived. */
  cs_status (*stream_upload)(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const void *from, uint64_t bytes, cs_error *error);
  cs_status (*stream_download)(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                               uint64_t from_offset, uint64_t bytes, cs_error *error);
  /* Both on this device; ranges do not overlap. */
  cs_status (*stream_copy)(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                           const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                           cs_error *error);
  /* Every byte becomes `value`. */
  cs_status (*stream_fill)(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                           uint64_t bytes, uint32_t value, cs_error *error);
  /* Later work starts when the semaphore (of this device) has reached `value`; a failed semaphore
   * poisons the stream. Legal before the signal is enqueued anywhere. */
  cs_status (*stream_wait)(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore, uint64_t value,
                           cs_error *error);
  /* The semaphore (of this device) becomes `value` when all earlier work is done and visible. */
  cs_status (*stream_signal)(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error);
} cs_stream_table;

/* ---- semaphore --------------------------------------------------------------------------- */

/* A 64-bit timeline that only grows, until it fails: then every wait, present and future, ends
 * with the stored error. Signals to a failed semaphore, and to a value not above the current one,
 * change nothing. */
typedef struct cs_semaphore_table {
  uint32_t struct_size;
  uint32_t reserved;
  cs_status (*semaphore_create)(cs_plugin_device *device, uint64_t initial,
                                cs_plugin_semaphore **out, cs_error *error);
  /* Nothing waits on it or will signal it any more. */
  void (*semaphore_destroy)(cs_plugin_semaphore *semaphore);
  /* The current value; the stored error when failed. Never blocks. */
  cs_status (*semaphore_query)(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error);
  /* Blocks until `value` is reached, failure, or CS_TIMEOUT. 0 polls. */
  cs_status (*semaphore_wait)(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                              cs_error *error);
  /* From the host; both release waits that streams have enqueued. A reason is never CS_TIMEOUT,
   * which could not be told from "not yet". */
  cs_status (*semaphore_signal)(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error);
  cs_status (*semaphore_fail)(cs_plugin_semaphore *semaphore, const cs_error *reason,
                              cs_error *error);
} cs_semaphore_table;

/* ---- capability -------------------------------------------------------------------------- */

#define CS_SUPPORT_NO       0
#define CS_SUPPORT_NATIVE   1
#define CS_SUPPORT_COMPOSED 2 /* served, by several steps inside the plugin */

typedef struct cs_op_answer {
  uint32_t struct_size;
  uint32_t support;     /* CS_SUPPORT_* */
  uint32_t error_class; /* CS_ERROR_* that the result keeps */
  uint32_t reserved;
  uint64_t workspace_bytes; /* to be passed at enqueue; grows with the extents */
  char reason[96];          /* for NO: one phrase */
} cs_op_answer;

/* One stored piece of a weight: GGUF formats have a single part. */
typedef struct cs_weight_part {
  uint32_t struct_size;
  uint32_t dtype;
  const void *data; /* host memory, borrowed until weights_pack returns */
  uint64_t bytes;
} cs_weight_part;

#define CS_WEIGHT_GGUF  0 /* one part, rows of dims[rank-1] elements in `dtype` */
#define CS_USAGE_MATMUL UINT32_C(1)
#define CS_USAGE_GATHER UINT32_C(2)

typedef struct cs_weight {
  uint32_t struct_size;
  uint32_t source; /* CS_WEIGHT_* */
  uint32_t dtype;
  uint32_t usage; /* CS_USAGE_*, one or both */
  uint32_t rank;  /* 2: (n_out, n_in); 3: (n_experts, n_out, n_in) */
  uint32_t n_parts;
  uint32_t part_stride;
  uint32_t reserved;
  uint64_t dims[CS_MAX_RANK];
  const cs_weight_part *parts; /* borrowed until weights_pack returns */
} cs_weight;

typedef struct cs_packed_info {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t bytes;     /* device memory taken */
  uint64_t layout_id; /* names the packed bytes: equal ids, equal bytes for equal sources */
} cs_packed_info;

typedef struct cs_capability_table {
  uint32_t struct_size;
  uint32_t reserved;
  /* May this op run here? Operands carry the largest extents; a yes holds for the device's
   * lifetime and for every smaller extent, and enqueueing keeps it. */
  cs_status (*op_query)(cs_plugin_device *device, const cs_op *op, cs_op_answer *out,
                        cs_error *error);
  /* Copies a weight into the chip's own layout, as matmul, moe_matmul or gather_rows reads it.
   * The result is passed as a tensor of layout CS_LAYOUT_PACKED with the source's dtype and dims.
   * Free-threaded, so that loading can run in parallel. */
  cs_status (*weights_pack)(cs_plugin_device *device, const cs_weight *weight,
                            cs_plugin_memory **out, cs_packed_info *info, cs_error *error);
} cs_capability_table;

/* ---- execution --------------------------------------------------------------------------- */

/* Runs ops as they come. */
typedef struct cs_eager_table {
  uint32_t struct_size;
  uint32_t reserved;
  /* Enqueues n_ops operations, copying what the descriptors point to. `workspace` (NULL when no
   * op asked for any) serves one op after the other and holds the largest request. Only ops that
   * op_query allowed, at extents within those asked for. */
  cs_status (*ops_enqueue)(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                           uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error);
} cs_eager_table;

/* Records once, runs often with the same memory: a CUDA graph, a command list. */
typedef struct cs_program_table {
  uint32_t struct_size;
  uint32_t reserved;
  /* Descriptors are copied; the memory they name must outlive the program. */
  cs_status (*program_create)(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                              uint32_t op_stride, cs_plugin_memory *workspace,
                              cs_plugin_program **out, cs_error *error);
  void (*program_destroy)(cs_plugin_program *program); /* not while a launch of it is pending */
  cs_status (*program_launch)(cs_plugin_stream *stream, cs_plugin_program *program,
                              cs_error *error);
} cs_program_table;

/* ---- optional tables --------------------------------------------------------------------- */

/* For devices whose best KV layout depends on the shape of the heads. Without it the host uses
 * kv_layout and the smallest allowed block of at least 16 tokens. */
typedef struct cs_kv_layout_table {
  uint32_t struct_size;
  uint32_t reserved;
  cs_status (*kv_layout_preferred)(cs_plugin_device *device, uint32_t dtype, uint64_t n_kv_heads,
                                   uint64_t width, uint32_t *layout, uint32_t *block_tokens,
                                   cs_error *error);
} cs_kv_layout_table;

/* A POSIX file descriptor, mapped from its beginning; the importer owns it once it succeeds. */
#define CS_EXTERNAL_FD 1

/* Memory shared with another plugin or process. Whoever exports keeps the memory and frees it after
 * all imports of it; memory_free of an import only ends the sharing. At the first export no
 * enqueued work uses the memory, and host addresses of it that were asked for before are no longer
 * valid. What one side has written is there for the other once the host has seen the writing work's
 * signal. */
typedef struct cs_external_memory_table {
  uint32_t struct_size;
  uint32_t types; /* bit (1 << CS_EXTERNAL_*) of what both functions serve */
  cs_status (*memory_export)(cs_plugin_device *device, cs_plugin_memory *memory, uint32_t type,
                             int64_t *handle, cs_error *error);
  cs_status (*memory_import)(cs_plugin_device *device, uint32_t type, int64_t handle,
                             uint64_t bytes, cs_plugin_memory **out, cs_error *error);
} cs_external_memory_table;

/* Copies between two devices of one plugin without the host's memory. An order in time as with
 * stream_copy: `from` is read after earlier work of the stream, and the bytes are there for
 * `to_device` once the host has seen a later signal. */
typedef struct cs_peer_table {
  uint32_t struct_size;
  uint32_t reserved;
  uint32_t (*peer_can_copy)(cs_plugin_device *to, cs_plugin_device *from); /* 0 or 1 */
  /* Enqueued on a stream of `from`'s device. */
  cs_status (*stream_peer_copy)(cs_plugin_stream *stream, cs_plugin_device *to_device,
                                cs_plugin_memory *to, uint64_t to_offset,
                                const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                                cs_error *error);
} cs_peer_table;

typedef struct cs_op_time {
  uint32_t struct_size;
  uint32_t op_id;
  uint64_t begin_ns; /* the device's clock */
  uint64_t end_ns;
} cs_op_time;

/* Device-side times of the ops that a stream has run while it was switched on (it begins off), one
 * record an op in the order they ran, by one clock a device: a later op never begins before an
 * earlier one of its stream ends. */
typedef struct cs_profile_table {
  uint32_t struct_size;
  uint32_t reserved;
  cs_status (*stream_profile_enable)(cs_plugin_stream *stream, uint32_t on, cs_error *error);
  /* At most `capacity` records that were not read before, oldest first; *n_read 0 when none are
   * left. Of ops that the host has waited for all are there. */
  cs_status (*stream_profile_read)(cs_plugin_stream *stream, cs_op_time *out, uint32_t capacity,
                                   uint32_t stride, uint32_t *n_read, cs_error *error);
} cs_profile_table;

/* Packed weights kept on disk. weights_map takes bytes that weights_save wrote on a device with
 * the same layout_id; they stay mapped and unchanged until memory_free. weights_layout and
 * weights_map read a weight's numbers only: the data of its parts may be NULL. */
typedef struct cs_weights_map_table {
  uint32_t struct_size;
  uint32_t reserved;
  cs_status (*weights_layout)(cs_plugin_device *device, const cs_weight *weight,
                              cs_packed_info *out, cs_error *error);
  cs_status (*weights_save)(cs_plugin_device *device, cs_plugin_memory *packed, void *to,
                            uint64_t bytes, cs_error *error);
  cs_status (*weights_map)(cs_plugin_device *device, const cs_weight *weight, uint64_t layout_id,
                           const void *from, uint64_t bytes, cs_plugin_memory **out,
                           cs_error *error);
} cs_weights_map_table;

#ifdef __cplusplus
}
#endif

#endif
