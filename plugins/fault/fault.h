/* The fault plugin: every device of another plugin, broken on demand.
 *
 * CONSORT_FAULT_TARGET names the library to wrap; CONSORT_FAULT, or the device option `fault`,
 * lists the faults, separated by commas. N counts from 1; a launch is one ops_enqueue or
 * program_launch.
 *
 *   alloc:N          the Nth allocation or packed weight fails with CS_OUT_OF_MEMORY
 *   launch:N:STATUS  the Nth launch fails while it runs, at its op 0, with this status
 *   hang:N           the Nth launch never ends
 *   lost:N           the device is lost in the Nth launch
 *   crash:N          the process crashes in the Nth launch
 *   slow:US          every launch starts so many microseconds late
 *   reorder          launches of every second stream start 5 ms late
 *   corrupt-kv       four bytes of every gathered piece of KV change after it was summed
 *   lie              op_query says yes to everything
 *   skip-write       the last four bytes of each result keep their old value
 *   noise            results are off by twice the NMSE that their class allows
 *   write-before     each op also writes the four bytes before its result,
 *   write-after      the four bytes after it,
 *   write-between    the four bytes after its first row, where rows have a gap,
 *   write-input      or the first four bytes of its second operand: the memory of an op has to
 *                    reach that far, as the kit's does
 *   leak             every allocation takes 64 KiB from the host until the device is closed,
 *   leak-driver      or takes them behind the host's back
 */
#ifndef FAULT_H
#define FAULT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "consort/sdk.h"

typedef enum fault_kind {
  FAULT_ALLOC,
  FAULT_LAUNCH,
  FAULT_HANG,
  FAULT_LOST,
  FAULT_CRASH,
  FAULT_SLOW,
  FAULT_REORDER,
  FAULT_CORRUPT_KV,
  FAULT_LIE,
  FAULT_SKIP_WRITE,
  FAULT_NOISE,
  FAULT_WRITE_BEFORE,
  FAULT_WRITE_AFTER,
  FAULT_WRITE_BETWEEN,
  FAULT_WRITE_INPUT,
  FAULT_LEAK,
  FAULT_LEAK_DRIVER,
  FAULT_N
} fault_kind;

typedef struct fault_plan {
  bool on[FAULT_N];
  uint64_t argument[FAULT_N];
  cs_status launch_status;
} fault_plan;

/* Adds the faults of a list like "alloc:3,slow:500"; CS_INVALID_ARGUMENT names what is wrong. */
cs_status fault_plan_parse(fault_plan *plan, const char *list, cs_error *error);

/* The wrapped plugin. Its tables are copied; absent ones are zero. */
typedef struct fault_target {
  void *library;
  cs_plugin identity;
  cs_device_table device;
  cs_memory_table memory;
  cs_stream_table stream;
  cs_semaphore_table semaphore;
  cs_capability_table capability;
  cs_eager_table eager;
  cs_program_table program;
} fault_target;

cs_status fault_target_load(const cs_host *host, const char *path, fault_target *out,
                            cs_error *error);

struct cs_plugin_instance {
  const cs_host *host;
  fault_target target;
  fault_plan plan; /* from the environment */
  cs_plugin_instance *inner;
};

/* Memory handles are the target's own. The other objects are wrapped, because their functions are
 * given nothing else to find the target by. */
struct cs_plugin_device {
  const cs_host *host;
  const fault_target *target;
  fault_plan plan;
  cs_plugin_device *inner;
  cs_sdk_queue *timer; /* releases launches that are to start late; NULL when none are */
  cs_plugin_memory *zeros;
  cs_plugin_memory *scratch;
  atomic_uint n_allocations;
  atomic_uint n_launches;
  atomic_uint n_streams;
  atomic_bool lost;
  pthread_mutex_t mutex;
  cs_plugin_semaphore *semaphores; /* alive, so that losing the device can fail them */
  struct fault_gate *gates;        /* the target's semaphores that late launches wait for */
  struct fault_leak *leaks;
};

typedef struct fault_leak {
  struct fault_leak *next;
  bool is_hosts;
} fault_leak;

typedef struct fault_gate {
  struct fault_gate *next;
  cs_plugin_semaphore *inner;
} fault_gate;

struct cs_plugin_semaphore {
  cs_plugin_device *device;
  cs_plugin_semaphore *inner;
  cs_plugin_semaphore *next, **link;
};

struct cs_plugin_stream {
  cs_plugin_device *device;
  cs_plugin_stream *inner;
  cs_plugin_semaphore *gate; /* the target's */
  uint64_t gate_value;
  uint64_t delay_us;
};

struct cs_plugin_program {
  cs_plugin_device *device;
  cs_plugin_program *inner;
  cs_sdk_ops *ops;
};

extern const cs_device_table fault_device_table;
extern const cs_memory_table fault_memory_table;
extern const cs_stream_table fault_stream_table;
extern const cs_semaphore_table fault_semaphore_table;
extern const cs_capability_table fault_capability_table;
extern const cs_eager_table fault_eager_table;
extern const cs_program_table fault_program_table;

/* CS_DEVICE_LOST once it is, else CS_OK. */
cs_status fault_check_lost(cs_plugin_device *device, cs_error *error);
/* Marks the device lost and fails its semaphores. */
void fault_lose(cs_plugin_device *device);

/* A semaphore of the target that lives until the device is closed. */
cs_status fault_gate_create(cs_plugin_device *device, cs_plugin_semaphore **out, cs_error *error);

/* What has to happen on the stream before a launch: failures, hangs, delays. */
cs_status fault_before_launch(cs_plugin_stream *stream, cs_error *error);
/* What has to happen after these ops have run: corrupted KV. */
cs_status fault_after_ops(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                          cs_error *error);
/* Whether results are to be spoiled op by op. */
bool fault_spoils_results(const cs_plugin_device *device);
/* Spoiling one op: `save` before it, `spoil` after it. */
cs_status fault_save_result(cs_plugin_stream *stream, const cs_op *op, cs_error *error);
cs_status fault_spoil_result(cs_plugin_stream *stream, const cs_op *op, cs_plugin_memory *workspace,
                             cs_error *error);

#endif
