/* The executor: runs an op list on a primary device, with a host-resident fallback device for the
 * ops that the primary says no to. Lists are cut into segments where the device changes and where
 * a mark is announced; a segment runs eagerly or as a recorded program. The host waits once a
 * step. */
#ifndef CORE_EXECUTOR_H
#define CORE_EXECUTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/device.h"
#include "core/op_list.h"

typedef enum cs_fallback_policy {
  CS_FALLBACK_STRICT, /* planning fails */
  CS_FALLBACK_WARN,   /* one line a kind of op in the log */
  CS_FALLBACK_ALLOW
} cs_fallback_policy;

/* Finds the memory of a weight or a cache plane on a device: fills tensor->memory, offset_bytes,
 * row_stride_bytes and, for a cache, layout and dims. Called while a step is prepared. */
typedef cs_status (*cs_resolve_fn)(void *user, cs_device *device, const cs_value_info *value,
                                   cs_tensor *tensor, cs_error *error);

/* ---- placement: which device runs which op, fixed at load ---- */

typedef struct cs_placement cs_placement;

/* Asks `primary` for every op of the largest list, and `fallback` (may be NULL) for those it says
 * no to. A kv_write or attention_paged that falls back takes its partner of the same layer with
 * it, as their cache lives with them. CS_UNSUPPORTED names op, layer, device and reason when
 * neither can, or when the policy is strict. Devices are retained. */
cs_status cs_placement_create(const cs_op_list *largest, cs_device *primary, cs_device *fallback,
                              cs_fallback_policy policy, cs_placement **out, cs_error *error);
void cs_placement_destroy(cs_placement *placement);
/* The device of op `index`: borrowed. */
cs_device *cs_placement_device(const cs_placement *placement, size_t op_index);
/* Which devices need a weight or cache value of this key: bit 0 primary, bit 1 fallback. */
uint32_t cs_placement_users(const cs_placement *placement, cs_value_kind kind, uint32_t key);

/* Whether a device runs op `index` of a list, without the operands in the mask `dropped` (bit 0 is
 * operand 0). For choosing between ways to write a list, before it is placed. */
bool cs_device_runs(cs_device *device, const cs_op_list *list, size_t index, uint32_t dropped);

/* One line of the fallback report. */
typedef struct cs_fallback_entry {
  uint32_t op_id;
  uint32_t count;       /* ops a step */
  uint64_t bytes_a_row; /* activation bytes that cross devices, both ways, for each row */
  const char *device;   /* where they run instead; borrowed from the placement */
  const char *reason;   /* the primary's; borrowed */
} cs_fallback_entry;
size_t cs_placement_n_fallbacks(const cs_placement *placement);
const cs_fallback_entry *cs_placement_fallbacks(const cs_placement *placement);

/* ---- executor ---- */

typedef struct cs_executor cs_executor;
typedef struct cs_step cs_step;

typedef struct cs_executor_options {
  const cs_placement *placement; /* borrowed until destroy */
  const cs_op_list *largest;     /* sizes the arenas; borrowed during create only */
  cs_resolve_fn resolve;
  void *user;
  bool prefer_program; /* record segments where the device can do both */
  bool profile;        /* sum up the times of ops where devices offer them */
  uint64_t timeout_us; /* deadline of one step; 0: 60 s */
} cs_executor_options;

/* One stream a device, one activation arena a device. Used by one thread at a time. */
cs_status cs_executor_create(const cs_executor_options *options, cs_executor **out,
                             cs_error *error);
void cs_executor_destroy(cs_executor *executor);

/* What the ops of one kind took on a device, by its own clock. */
typedef struct cs_op_total {
  uint64_t count;
  uint64_t ns;
} cs_op_total;
/* The sums over all steps that have ended on the primary (0) or fallback (1) device, by op id; zero
 * where nothing was timed. Free-threaded. */
void cs_executor_op_totals(cs_executor *executor, uint32_t device, cs_op_total out[CS_OP_LIMIT]);

/* Binds a list to memory: the same ops as the largest, or a leading part of them, with smaller
 * extents. What the largest list gives out (CS_VALUE_OUTPUT) a later one may keep as an activation.
 * The step is owned by the caller, reads and writes the executor's arenas, and is run again and
 * again. */
cs_status cs_executor_prepare(cs_executor *executor, const cs_op_list *list, cs_step **out,
                              cs_error *error);
/* Before its executor. Waits for a run that is under way. */
void cs_step_destroy(cs_step *step);

/* Where the host writes the bytes of input `key` before a run; NULL when the list has none.
 * Valid until the step is destroyed; not to be touched while a run is under way. */
void *cs_step_input(cs_step *step, uint32_t key, uint64_t *bytes);
/* Where the bytes of output `key` are after cs_step_wait; likewise. */
const void *cs_step_output(const cs_step *step, uint32_t key, uint64_t *bytes);

/* Told when a mark has been reached: `semaphore` (of the device that ran the op before the mark)
 * will reach `value`. Called while the run is being enqueued, so the work is usually still under
 * way; retain the semaphore to keep it. A failing return stops the run. */
typedef cs_status (*cs_mark_fn)(void *user, uint32_t tag, cs_semaphore *semaphore, uint64_t value,
                                cs_error *error);

/* Enqueues one run: inputs, segments, outputs. `on_mark` may be NULL. */
cs_status cs_step_run(cs_step *step, cs_mark_fn on_mark, void *user, cs_error *error);
/* Waits for the last run of this executor: outputs are then readable. */
cs_status cs_step_wait(cs_step *step, cs_error *error);

#endif
