/* Inside of the executor and its steps. */
#ifndef CORE_EXECUTOR_PRIVATE_H
#define CORE_EXECUTOR_PRIVATE_H

#include <pthread.h>

#include "core/cut.h"
#include "core/executor.h"
#include "core/placement_private.h"

/* What the executor keeps on one device. */
typedef struct cs_lane {
  cs_device *device;     /* borrowed from the placement; NULL when nothing runs there */
  cs_stream *stream;     /* NULL after a failed step, until the next run */
  cs_semaphore *own;     /* signalled by the stream: marks, crossings, the end */
  uint64_t own_value;    /* last value enqueued on it */
  cs_semaphore *inbound; /* forwarded by the bridge: the other lane's `own`, value by value */
  cs_buffer *arena;      /* activations and outputs; NULL when there are none */
  cs_buffer *inputs;     /* step inputs; NULL when no op here reads any */
  cs_buffer *workspace;  /* NULL when no op here asked for any */
} cs_lane;

/* Sums of op times; core/profile.c. */
typedef struct cs_profile {
  bool on;
  pthread_mutex_t mutex;
  cs_op_total totals[CS_N_PLACES][CS_OP_LIMIT]; /* under the mutex */
} cs_profile;

/* A value of the largest list, as every later list must fit it. */
typedef struct cs_slot {
  cs_value_kind kind;
  uint64_t bytes;
  uint64_t offsets[CS_N_PLACES]; /* in the arenas; UINT64_MAX where it has no bytes */
} cs_slot;

struct cs_executor {
  const cs_placement *placement; /* borrowed */
  cs_resolve_fn resolve;
  void *user;
  bool prefer_program;
  uint64_t timeout_us;
  cs_lane lanes[CS_N_PLACES];
  size_t n_ops; /* of the largest list, like all below */
  cs_op_node *ops;
  size_t n_values;
  cs_slot *slots;
  uint64_t input_bytes;
  cs_step *running; /* the step whose last run has not been waited for */
  bool stuck;       /* a step never ended: its work may still touch the arenas */
  cs_profile profile;
};

/* One piece as it runs. */
typedef struct cs_step_piece {
  cs_piece cut;
  uint32_t first_in; /* crossings that arrive at its start */
  uint32_t n_in;
  cs_program *program; /* NULL: eager */
  cs_semaphore *done;  /* reaches the run's number; tells which piece failed. NULL for the last */
  uint64_t value;      /* of the lane's own semaphore in this run, once it is enqueued */
} cs_step_piece;

typedef struct cs_port {
  uint32_t key;
  uint32_t place; /* outputs: where they are made */
  uint64_t bytes;
  uint64_t offset;       /* in the step's staging of its kind */
  uint64_t arena_offset; /* outputs: in the arena of their place */
} cs_port;

struct cs_step {
  cs_executor *executor;
  size_t n_ops;
  cs_op_node *nodes;  /* (n_ops): own copy, holds the params */
  cs_op *ops;         /* (n_ops) */
  cs_tensor *tensors; /* (n_ops, CS_MAX_OPERANDS) */
  size_t n_values;
  cs_value_info *values; /* own copy */
  uint32_t *slot_of;     /* (n_values): index into executor->slots; UINT32_MAX for none */
  cs_op_mark *marks;
  cs_cut cut;
  cs_step_piece *pieces;
  size_t n_inputs, n_outputs;
  cs_port *inputs;
  cs_port *outputs;
  uint64_t input_bytes, output_bytes;
  cs_buffer *input_staging; /* NULL when there is nothing of the kind, like the next two */
  cs_buffer *output_staging;
  cs_buffer *crossing_staging;
  uint64_t run;         /* number of the last run, from 1 */
  uint64_t deadline_us; /* of the last run, on the monotonic clock */
  bool stale;           /* its `done` semaphores have failed with the last run */
};

/* ---- core/executor.c ---- */

/* Makes streams and semaphores anew where a failure took them away. */
cs_status cs_executor_revive(cs_executor *executor, cs_error *error);
/* Ends all work on the streams and drops them. With a reason, whoever still waits for a signal of
 * theirs is told so. */
void cs_executor_drop_streams(cs_executor *executor, const cs_error *reason);

/* ---- core/profile.c ---- */

/* Switches times on for a lane's new stream, where the device has them. */
void cs_profile_start(cs_profile *profile, cs_lane *lane);
/* Adds what has run. After a wait for it. */
void cs_profile_collect(cs_profile *profile, uint32_t place, cs_lane *lane);

/* ---- core/step_bind.c ---- */

/* Fills ops and tensors of a step whose cut is made: checks it against the largest list, lays out
 * inputs and outputs, resolves weights and caches. */
cs_status cs_step_bind(cs_step *step, cs_error *error);

#endif
