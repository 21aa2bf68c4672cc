/* Steps are made for one shape each and kept, the most recently used ones first: decoding repeats
 * a shape for hundreds of tokens. A device that runs eagerly gets shapes without padding; one that
 * only replays recorded programs gets powers of two, so that a few recordings serve all. */
#include "scheduler/worker_engine.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"

#define MAX_STEPS          16
#define SCORE_ROWS         64
#define CACHE_KEY_LAYER(k) ((k) / 2)
#define CACHE_KEY_V(k)     ((k) % 2)

typedef struct step_shape {
  uint32_t n_tokens;
  uint32_t n_seqs;
  uint32_t n_logit_rows;
  uint32_t goal;
  uint32_t read_logits;
  uint32_t marks; /* someone asks when a layer's KV is written */
} step_shape;

typedef struct cached_step {
  step_shape shape;
  cs_step *step;
} cached_step;

struct cs_engine {
  cs_engine_options options;
  cs_cache_form form;
  uint32_t max_blocks;
  uint32_t max_tokens;
  uint32_t max_logit_rows;
  bool buckets;
  bool minimal_ops;
  cs_repacking repacking;
  cs_op_list *largest;
  cs_placement *placement;
  cs_weights *weights;
  cs_kv_cache *cache;
  cs_kv_pool *pool;
  cs_executor *executor;
  cached_step steps[MAX_STEPS]; /* most recently used first */
  uint32_t n_steps;
  cs_step *running;
  bool broken;
};

/* ---- planning ---- */

static cs_status emit(const cs_engine *engine, const step_shape *shape, cs_op_list **out,
                      cs_error *error) {
  const cs_forward_shape forward = {
      .n_tokens = shape->n_tokens,
      .n_seqs = shape->n_seqs,
      .max_blocks = engine->max_blocks,
      .n_logit_rows = shape->n_logit_rows,
      .goal = (cs_forward_goal)shape->goal,
      .minimal_ops = engine->minimal_ops,
      .without_marks = !shape->marks,
      .read_logits = shape->read_logits != 0,
      .kv_dtype = engine->form.wire.dtype,
      .kv_layout = engine->form.layout,
      .kv_block_tokens = engine->form.block_tokens,
      .kv_n_blocks = engine->form.n_blocks,
      .stored_as = engine->repacking,
  };
  return cs_forward_emit(engine->options.model, &forward, out, error);
}

/* The cache as `device` likes it, and what follows from its block size. */
static cs_status choose_form(cs_engine *engine, cs_device *device, cs_error *error) {
  const cs_engine_options *const options = &engine->options;
  const cs_model_config *const config = cs_model_get_config(options->model);
  cs_cache_form *const form = &engine->form;
  form->wire = (cs_kv_wire){.fingerprint = cs_model_fingerprint(options->model),
                            .dtype = options->kv_dtype,
                            .n_layers = config->n_layers,
                            .n_kv_heads = config->n_kv_heads,
                            .k_width = config->k_width,
                            .v_width = config->v_width};
  const cs_status status =
      cs_device_kv_preference(device, options->kv_dtype, config->n_kv_heads, config->k_width,
                              &form->layout, &form->block_tokens, error);
  if (status) return status;
  const uint64_t per_sequence =
      ((uint64_t)options->n_context + form->block_tokens - 1) / form->block_tokens;
  if (per_sequence * options->n_sequences > INT32_MAX / form->block_tokens)
    return cs_error_set(error, CS_OUT_OF_RANGE, "%u sequences of %u tokens are too many",
                        options->n_sequences, options->n_context);
  engine->max_blocks = (uint32_t)per_sequence;
  form->n_blocks = (uint32_t)per_sequence * options->n_sequences;
  return CS_OK;
}

/* The largest list, with a cache as `form_device` likes it. */
static cs_status emit_largest(cs_engine *engine, cs_device *form_device, cs_op_list **out,
                              cs_error *error) {
  const cs_status status = choose_form(engine, form_device, error);
  if (status) return status;
  const step_shape largest = {.n_tokens = engine->max_tokens,
                              .n_seqs = engine->options.n_sequences,
                              .n_logit_rows = engine->max_logit_rows,
                              .goal = CS_FORWARD_ARGMAX,
                              .read_logits = 1};
  return emit(engine, &largest, out, error);
}

static cs_status place(cs_engine *engine, cs_device *form_device, cs_fallback_policy policy,
                       cs_error *error) {
  cs_op_list_destroy(engine->largest);
  cs_placement_destroy(engine->placement);
  engine->largest = NULL;
  engine->placement = NULL;
  const cs_status status = emit_largest(engine, form_device, &engine->largest, error);
  if (status) return status;
  return cs_placement_create(engine->largest, engine->options.primary, engine->options.fallback,
                             policy, &engine->placement, error);
}

/* Where attention falls back, the cache follows the wish of the device that has it. */
static cs_status place_with_cache(cs_engine *engine, cs_fallback_policy policy, cs_error *error) {
  cs_device *const fallback = engine->options.fallback;
  const cs_status status = place(engine, engine->options.primary, policy, error);
  if (!fallback) return status;
  if (status == CS_UNSUPPORTED) return place(engine, fallback, policy, error);
  if (status || cs_placement_users(engine->placement, CS_VALUE_CACHE, 0) != 2u) return status;
  return place(engine, fallback, policy, error);
}

#define MATMUL_WEIGHT   2
#define MATMUL_RESIDUAL 4

/* Whether the device does a matmul of some weight format, but not with the residual added: it is of
 * the minimal column then, and gets two ops. One matmul a format is asked for. */
static bool wants_minimal_ops(const cs_op_list *list, cs_device *device) {
  const cs_op_node *const ops = cs_op_list_ops(list);
  const cs_value_info *const values = cs_op_list_values(list);
  uint64_t asked = 0;
  for (size_t i = 0; i < cs_op_list_n_ops(list); i++) {
    if (ops[i].id != CS_OP_MATMUL || ops[i].operands[MATMUL_RESIDUAL] == CS_VALUE_NONE) continue;
    const uint64_t format = CS_DTYPE_BIT(values[ops[i].operands[MATMUL_WEIGHT]].dtype);
    if (asked & format) continue;
    asked |= format;
    if (!cs_device_runs(device, list, i, 0) &&
        cs_device_runs(device, list, i, 1u << MATMUL_RESIDUAL))
      return true;
  }
  return false;
}

static void choose_formats(cs_engine *engine) {
  char text[128];
  cs_device *const device = engine->options.primary;
  cs_repacking_choose(engine->options.model, device, engine->repacking);
  if (cs_repacking_describe(engine->repacking, text, sizeof text))
    cs_log_write(cs_runtime_log(cs_device_runtime(device)), CS_LOG_WARN, "%s: %s",
                 cs_device_name(device), text);
}

static cs_status place_ops(cs_engine *engine, cs_error *error) {
  choose_formats(engine);
  cs_device *const primary = engine->options.primary, *const fallback = engine->options.fallback;
  cs_op_list *fused = NULL;
  cs_status status = emit_largest(engine, primary, &fused, error);
  if (status == CS_UNSUPPORTED && fallback) /* the primary keeps no such cache */
    status = emit_largest(engine, fallback, &fused, error);
  if (status) return status;
  engine->minimal_ops = wants_minimal_ops(fused, primary);
  cs_op_list_destroy(fused);
  return place_with_cache(engine, engine->options.policy, error);
}

cs_status cs_engine_create(const cs_engine_options *options, cs_engine **out, cs_error *error) {
  *out = NULL;
  cs_engine *const engine = calloc(1, sizeof *engine);
  if (!engine) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for an engine");
  engine->options = *options;
  cs_engine_options *const own = &engine->options;
  if (own->n_batch > own->n_context) own->n_batch = own->n_context;
  engine->max_tokens = own->n_batch > own->n_sequences ? own->n_batch : own->n_sequences;
  const uint32_t score_rows = own->n_batch < SCORE_ROWS ? own->n_batch : SCORE_ROWS;
  engine->max_logit_rows = score_rows > own->n_sequences ? score_rows : own->n_sequences;
  engine->buckets = own->pad_shapes || !cs_device_has_eager(own->primary);
  cs_model_retain(own->model);
  cs_device_retain(own->primary);
  if (own->fallback) cs_device_retain(own->fallback);
  const cs_status status = place_ops(engine, error);
  if (status) {
    cs_engine_destroy(engine);
    return status;
  }
  *out = engine;
  return CS_OK;
}

void cs_engine_destroy(cs_engine *engine) {
  if (!engine) return;
  for (uint32_t i = 0; i < engine->n_steps; i++)
    cs_step_destroy(engine->steps[i].step);
  cs_executor_destroy(engine->executor);
  cs_kv_pool_destroy(engine->pool);
  cs_kv_cache_destroy(engine->cache);
  cs_weights_destroy(engine->weights);
  cs_placement_destroy(engine->placement);
  cs_op_list_destroy(engine->largest);
  if (engine->options.fallback) cs_device_release(engine->options.fallback);
  cs_device_release(engine->options.primary);
  cs_model_release(engine->options.model);
  free(engine);
}

uint64_t cs_engine_needed_bytes(const cs_engine *engine, uint32_t device) {
  const uint64_t weights =
      cs_weights_bytes(engine->options.model, engine->placement, engine->repacking, device);
  const uint64_t cache = cs_cache_bytes(&engine->form, engine->placement, device);
  return cache > UINT64_MAX - weights ? UINT64_MAX : weights + cache;
}

/* ---- binding ---- */

static cs_status resolve(void *user, cs_device *device, const cs_value_info *value,
                         cs_tensor *tensor, cs_error *error) {
  const cs_engine *const engine = user;
  if (value->kind == CS_VALUE_WEIGHT)
    return cs_weights_find(engine->weights, device, value->key, tensor, error);
  const uint32_t layer = CACHE_KEY_LAYER(value->key);
  if (value->kind != CS_VALUE_CACHE || layer >= engine->form.wire.n_layers ||
      cs_kv_cache_device(engine->cache, layer) != device)
    return cs_error_set(error, CS_NOT_FOUND, "no such value on %s", cs_device_name(device));
  cs_tensor plane;
  cs_kv_cache_tensor(engine->cache, layer, CACHE_KEY_V(value->key), &plane);
  tensor->memory = plane.memory;
  tensor->offset_bytes = plane.offset_bytes;
  tensor->row_stride_bytes = plane.row_stride_bytes;
  tensor->layout = plane.layout;
  tensor->rank = plane.rank;
  memcpy(tensor->dims, plane.dims, sizeof tensor->dims);
  return CS_OK;
}

const cs_weights *cs_engine_weights(const cs_engine *engine) {
  return engine->weights;
}

const cs_engine_options *cs_engine_get_options(const cs_engine *engine) {
  return &engine->options;
}

const cs_placement *cs_engine_placement(const cs_engine *engine) {
  return engine->placement;
}

cs_device *cs_engine_device(const cs_engine *engine, uint32_t device) {
  return device == 0 ? engine->options.primary : engine->options.fallback;
}

void cs_engine_op_totals(const cs_engine *engine, uint32_t device, cs_op_total out[CS_OP_LIMIT]) {
  cs_executor_op_totals(engine->executor, device, out);
}

cs_kv_cache *cs_engine_cache(const cs_engine *engine) {
  return engine->cache;
}

cs_kv_pool *cs_engine_pool(const cs_engine *engine) {
  return engine->pool;
}

uint32_t cs_engine_max_blocks(const cs_engine *engine) {
  return engine->max_blocks;
}

uint32_t cs_engine_max_logit_rows(const cs_engine *engine) {
  return engine->max_logit_rows;
}

uint32_t cs_engine_n_steps_cached(const cs_engine *engine) {
  return engine->n_steps;
}

bool cs_engine_is_broken(const cs_engine *engine) {
  return engine->broken;
}

/* ---- running ---- */

static uint32_t bucket(uint32_t n, uint32_t limit) {
  uint32_t size = 1;
  while (size < n)
    size *= 2;
  return size < limit ? size : limit;
}

static step_shape shape_of(const cs_engine *engine, const cs_batch *batch, bool marks) {
  step_shape shape = {.n_seqs = batch->n_sequences,
                      .goal = (uint32_t)batch->goal,
                      .read_logits = batch->read_logits,
                      .marks = marks};
  for (uint32_t i = 0; i < batch->n_sequences; i++) {
    shape.n_tokens += batch->sequences[i].n_tokens;
    shape.n_logit_rows += batch->sequences[i].n_logit_rows;
  }
  if (!engine->buckets) return shape;
  shape.n_tokens = bucket(shape.n_tokens, engine->max_tokens);
  shape.n_seqs = bucket(shape.n_seqs, engine->options.n_sequences);
  if (shape.n_logit_rows > 0)
    shape.n_logit_rows = bucket(shape.n_logit_rows, engine->max_logit_rows);
  return shape;
}

static void move_to_front(cs_engine *engine, uint32_t index) {
  const cached_step used = engine->steps[index];
  memmove(&engine->steps[1], &engine->steps[0], index * sizeof used);
  engine->steps[0] = used;
}

static cs_status find_step(cs_engine *engine, const step_shape *shape, cs_error *error) {
  for (uint32_t i = 0; i < engine->n_steps; i++)
    if (memcmp(&engine->steps[i].shape, shape, sizeof *shape) == 0) {
      move_to_front(engine, i);
      return CS_OK;
    }
  cs_op_list *list;
  cs_status status = emit(engine, shape, &list, error);
  if (status) return status;
  cs_step *step;
  status = cs_executor_prepare(engine->executor, list, &step, error);
  cs_op_list_destroy(list);
  if (status) return status;
  if (engine->n_steps == MAX_STEPS) cs_step_destroy(engine->steps[--engine->n_steps].step);
  engine->steps[engine->n_steps] = (cached_step){*shape, step};
  move_to_front(engine, engine->n_steps++);
  return CS_OK;
}

/* Everything is padding until a sequence is written over it. */
static void fill(int32_t *values, size_t n, int32_t value) {
  for (size_t i = 0; values && i < n; i++)
    values[i] = value;
}

static void write_inputs(cs_engine *engine, const cs_batch *batch, const step_shape *shape,
                         cs_step *step) {
  uint64_t bytes;
  int32_t *const tokens = cs_step_input(step, CS_INPUT_TOKENS, &bytes);
  int32_t *const positions = cs_step_input(step, CS_INPUT_POSITIONS, &bytes);
  int32_t *const slots = cs_step_input(step, CS_INPUT_SLOTS, &bytes);
  int32_t *const table = cs_step_input(step, CS_INPUT_BLOCK_TABLE, &bytes);
  int32_t *const offsets = cs_step_input(step, CS_INPUT_SEQ_OFFSETS, &bytes);
  int32_t *const lengths = cs_step_input(step, CS_INPUT_KV_LENGTHS, &bytes);
  int32_t *const rows = cs_step_input(step, CS_INPUT_LOGIT_ROWS, &bytes);
  fill(tokens, shape->n_tokens, -1);
  fill(positions, shape->n_tokens, 0);
  fill(slots, shape->n_tokens, -1);
  fill(table, (size_t)shape->n_seqs * engine->max_blocks, -1);
  fill(lengths, shape->n_seqs, 0);
  fill(rows, shape->n_logit_rows, -1);
  uint32_t row = 0, logit_row = 0;
  for (uint32_t s = 0; s < batch->n_sequences; s++) {
    const cs_batch_sequence *const sequence = &batch->sequences[s];
    const uint32_t n = sequence->n_tokens;
    if (offsets) offsets[s] = (int32_t)row;
    if (lengths) lengths[s] = (int32_t)(sequence->first_position + n);
    if (table)
      memcpy(table + (size_t)s * engine->max_blocks, sequence->blocks->blocks,
             sequence->blocks->n_blocks * sizeof *table);
    for (uint32_t i = 0; i < n; i++, row++) {
      const uint32_t position = sequence->first_position + i;
      tokens[row] = sequence->tokens[i];
      positions[row] = (int32_t)position;
      slots[row] = cs_kv_sequence_slot(engine->pool, sequence->blocks, position);
      if (rows && i >= n - sequence->n_logit_rows) rows[logit_row++] = (int32_t)row;
    }
  }
  if (offsets)
    fill(offsets + batch->n_sequences, shape->n_seqs + 1 - batch->n_sequences, (int32_t)row);
}

/* The executor starts anew after a failure, but not on a device that is lost or does not end. */
static void note_failure(cs_engine *engine, cs_status status) {
  engine->broken =
      status == CS_DEVICE_LOST || status == CS_NEEDS_NEW_PROCESS || status == CS_TIMEOUT;
}

cs_status cs_engine_run(cs_engine *engine, const cs_batch *batch, cs_mark_fn on_mark, void *user,
                        cs_error *error) {
  const step_shape shape = shape_of(engine, batch, on_mark != NULL);
  engine->running = NULL;
  const cs_status status = find_step(engine, &shape, error);
  if (status) return status;
  cs_step *const step = engine->steps[0].step;
  write_inputs(engine, batch, &shape, step);
  engine->running = step;
  const cs_status run = cs_step_run(step, on_mark, user, error);
  if (run) note_failure(engine, run);
  return run;
}

cs_status cs_engine_wait(cs_engine *engine, const float **logits, const int32_t **argmax,
                         cs_error *error) {
  const cs_status status = cs_step_wait(engine->running, error);
  if (status) {
    note_failure(engine, status);
    return status;
  }
  uint64_t bytes;
  if (logits) *logits = cs_step_output(engine->running, CS_OUTPUT_LOGITS, &bytes);
  if (argmax) *argmax = cs_step_output(engine->running, CS_OUTPUT_ARGMAX, &bytes);
  return CS_OK;
}

/* ---- loading, with a first run ---- */

#define WARM_UP_ROWS 32 /* enough for the kernels of many rows */

/* One step of padding: it reads and writes no sequence. */
static cs_status run_padding(cs_engine *engine, uint32_t n_tokens, cs_error *error) {
  const step_shape shape = {
      .n_tokens = n_tokens, .n_seqs = 1, .n_logit_rows = 1, .goal = CS_FORWARD_ARGMAX};
  cs_status status = find_step(engine, &shape, error);
  if (status) return status;
  cs_step *const step = engine->steps[0].step;
  write_inputs(engine, &(cs_batch){0}, &shape, step);
  status = cs_step_run(step, NULL, NULL, error);
  return status ? status : cs_step_wait(step, error);
}

/* A driver that compiles when a kernel first runs does so now, and not in the first request. */
static cs_status warm_up(cs_engine *engine, cs_error *error) {
  const cs_device_properties *properties = cs_device_get_properties(engine->options.primary);
  if (properties->flags & CS_DEVICE_HOST_RESIDENT) return CS_OK;
  const cs_status status = run_padding(engine, 1, error);
  if (status || engine->max_tokens < WARM_UP_ROWS) return status;
  return run_padding(engine, WARM_UP_ROWS, error);
}

/* The host's own cores: checking and copying a list each time would take time from its ops. */
static bool computes_on_host(const cs_device *device) {
  const cs_device_properties *properties = cs_device_get_properties(device);
  return properties->flags & CS_DEVICE_HOST_RESIDENT &&
         strcmp(properties->compute_domain, "host") == 0;
}

cs_status cs_engine_load(cs_engine *engine, cs_weights_progress progress, void *user,
                         cs_error *error) {
  const cs_engine_options *const options = &engine->options;
  cs_status status = cs_kv_cache_create(&engine->form, engine->placement, options->primary,
                                        options->fallback, &engine->cache, error);
  if (status) return status;
  status =
      cs_kv_pool_create(engine->form.n_blocks, engine->form.block_tokens, &engine->pool, error);
  if (status) return status;
  status = cs_weights_load(options->model, engine->largest, engine->placement, options->primary,
                           options->fallback, options->pack_folder, progress, user,
                           &engine->weights, error);
  if (status) return status;
  const cs_executor_options executor = {.placement = engine->placement,
                                        .largest = engine->largest,
                                        .resolve = resolve,
                                        .user = engine,
                                        .prefer_program = computes_on_host(options->primary),
                                        .profile = options->profile,
                                        .timeout_us = options->step_timeout_us};
  status = cs_executor_create(&executor, &engine->executor, error);
  return status ? status : warm_up(engine, error);
}
