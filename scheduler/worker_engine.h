/* The engine of one worker: a model on one device group, running batches. No threads, no messages:
 * worker.c drives it. Used by one thread at a time. */
#ifndef SCHEDULER_WORKER_ENGINE_H
#define SCHEDULER_WORKER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/executor.h"
#include "models/forward.h"
#include "models/kv_pool.h"
#include "models/model.h"
#include "scheduler/weights.h"
#include "scheduler/worker_cache.h"

typedef struct cs_engine cs_engine;

typedef struct cs_engine_options {
  cs_model *model;     /* retained */
  cs_device *primary;  /* retained */
  cs_device *fallback; /* retained; host-resident; NULL where none is needed or there is none */
  cs_fallback_policy policy;
  uint32_t kv_dtype;
  uint32_t n_context;       /* positions of one sequence */
  uint32_t n_sequences;     /* at once; the cache holds n_context tokens for each */
  uint32_t n_batch;         /* tokens a prefill step */
  uint64_t step_timeout_us; /* 0: the executor's own */
  bool pad_shapes;          /* as always for a device that only replays recorded programs */
  bool profile;             /* time ops where devices can */
  const char *pack_folder;  /* for packed weights, until loaded; NULL: none */
} cs_engine_options;

/* Decides what runs where; loads nothing. CS_UNSUPPORTED names the op that no device runs. */
cs_status cs_engine_create(const cs_engine_options *options, cs_engine **out, cs_error *error);
void cs_engine_destroy(cs_engine *engine);

/* Bytes of weights and KV cache that the engine will take on device 0 (primary), 1 (fallback). */
uint64_t cs_engine_needed_bytes(const cs_engine *engine, uint32_t device);
const cs_placement *cs_engine_placement(const cs_engine *engine);
cs_device *cs_engine_device(const cs_engine *engine, uint32_t device); /* borrowed; may be NULL */
/* cs_executor_op_totals of a loaded engine. Free-threaded. */
void cs_engine_op_totals(const cs_engine *engine, uint32_t device, cs_op_total out[CS_OP_LIMIT]);

/* Loads weights and makes cache and executor. Once, before the first batch. */
cs_status cs_engine_load(cs_engine *engine, cs_weights_progress progress, void *user,
                         cs_error *error);

const cs_weights *cs_engine_weights(const cs_engine *engine); /* borrowed; NULL before loading */
const cs_engine_options *cs_engine_get_options(const cs_engine *engine);
cs_kv_cache *cs_engine_cache(const cs_engine *engine);
cs_kv_pool *cs_engine_pool(const cs_engine *engine);
/* The widest block table: blocks of n_context tokens. */
uint32_t cs_engine_max_blocks(const cs_engine *engine);
/* Most rows whose logits one batch can give. */
uint32_t cs_engine_max_logit_rows(const cs_engine *engine);
uint32_t cs_engine_n_steps_cached(const cs_engine *engine);
/* The device was lost or a batch did not end in time: there is no point in running another. */
bool cs_engine_is_broken(const cs_engine *engine);

/* Some tokens of one sequence: positions first_position and up, whose blocks are reserved. */
typedef struct cs_batch_sequence {
  const int32_t *tokens; /* n_tokens of them */
  uint32_t n_tokens;
  uint32_t first_position;
  uint32_t n_logit_rows; /* of the last tokens; 0 when the goal is CS_FORWARD_KV */
  const cs_kv_sequence *blocks;
} cs_batch_sequence;

typedef struct cs_batch {
  const cs_batch_sequence *sequences;
  uint32_t n_sequences;
  cs_forward_goal goal;
  bool read_logits; /* with CS_FORWARD_LOGITS or ARGMAX: logits are wanted on the host */
} cs_batch;

/* Enqueues one batch; cs_engine_wait must follow before the next. `on_mark` as in cs_step_run. */
cs_status cs_engine_run(cs_engine *engine, const cs_batch *batch, cs_mark_fn on_mark, void *user,
                        cs_error *error);
/* Waits for it. logits (rows, n_vocab) and argmax (rows) are borrowed until the next run, rows in
 * the order of the sequences; NULL where the goal has none. */
cs_status cs_engine_wait(cs_engine *engine, const float **logits, const int32_t **argmax,
                         cs_error *error);

#endif
