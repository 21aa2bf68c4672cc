/* The arenas are laid out once, for the largest list: every later list has the same ops, so its
 * values take the slots of their counterparts, and addresses are fixed before any recording. */
#include "core/executor.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/error.h"
#include "core/executor_private.h"

#define DEFAULT_TIMEOUT_US UINT64_C(60000000)

static cs_status no_memory(cs_error *error) {
  return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for an executor");
}

/* ---- streams ---- */

void cs_executor_drop_streams(cs_executor *executor, const cs_error *reason) {
  for (uint32_t place = 0; place < CS_N_PLACES; place++) {
    cs_lane *lane = &executor->lanes[place];
    if (reason && lane->inbound) cs_semaphore_fail(lane->inbound, reason, NULL);
    cs_stream_destroy(lane->stream);
    if (reason && lane->own) cs_semaphore_fail(lane->own, reason, NULL);
    cs_semaphore_release(lane->own);
    cs_semaphore_release(lane->inbound);
    lane->stream = NULL;
    lane->own = NULL;
    lane->inbound = NULL;
  }
}

static cs_status start_lane(cs_lane *lane, uint64_t inbound_value, cs_error *error) {
  cs_status status = cs_stream_create(lane->device, &lane->stream, error);
  if (status == CS_OK) {
    status = cs_semaphore_create(lane->device, lane->own_value, &lane->own, error);
  }
  if (status == CS_OK) {
    status = cs_semaphore_create(lane->device, inbound_value, &lane->inbound, error);
  }
  return status;
}

cs_status cs_executor_revive(cs_executor *executor, cs_error *error) {
  if (executor->stuck) {
    return cs_error_set(error, CS_TIMEOUT, "an earlier step has never ended");
  }
  for (uint32_t place = 0; place < CS_N_PLACES; place++) {
    cs_lane *lane = &executor->lanes[place];
    if (!lane->device || lane->stream) continue;
    const cs_status status = start_lane(lane, executor->lanes[!place].own_value, error);
    if (status == CS_OK) {
      cs_profile_start(&executor->profile, lane);
      continue;
    }
    cs_executor_drop_streams(executor, NULL);
    return status;
  }
  return CS_OK;
}

/* ---- layout ---- */

static bool crosses(const cs_cut *cut, cs_value v) {
  for (size_t i = 0; i < cut->n_crossings; i++) {
    if (cut->crossings[i].value == v) return true;
  }
  return false;
}

/* Whether the result of op i may take the place of its first input: the op allows that, nobody
 * reads the input later, and no copy of it is still to be made. Gated activations alone: theirs are
 * the widest values of a layer. */
static bool replaces_input(const cs_executor *executor, const cs_cut *cut, uint32_t i,
                           uint32_t place) {
  const cs_op_node *op = &executor->ops[i];
  if (op->id != CS_OP_SILU_MUL && op->id != CS_OP_GELU_MUL) return false;
  const cs_value out = op->operands[0], in = op->operands[1];
  const cs_slot *slots = executor->slots;
  return slots[out].kind == CS_VALUE_ACTIVATION && slots[in].kind == CS_VALUE_ACTIVATION &&
         slots[out].bytes == slots[in].bytes && in != op->operands[2] &&
         cut->lives[out].first[place] == i && cut->lives[in].last[place] == i && !crosses(cut, in);
}

/* owners[v]: the value whose bytes v has, itself for most. Lives of owners grow by theirs. */
static void share_bytes(const cs_executor *executor, cs_cut *cut, uint32_t place,
                        uint32_t *owners) {
  for (uint32_t v = 0; v < executor->n_values; v++)
    owners[v] = v;
  for (uint32_t i = 0; i < executor->n_ops; i++) {
    if (executor->placement->places[i] != place || !replaces_input(executor, cut, i, place))
      continue;
    const cs_value out = executor->ops[i].operands[0];
    owners[out] = owners[executor->ops[i].operands[1]];
    cut->lives[owners[out]].last[place] = cut->lives[out].last[place];
  }
}

/* Gives every value that lives at `place` its offset; *bytes is the arena's size. */
static cs_status lay_out(cs_executor *executor, cs_cut *cut, uint32_t place, uint64_t *bytes,
                         cs_error *error) {
  cs_arena_item *items = calloc(executor->n_values + 1, sizeof *items);
  uint32_t *values = calloc(executor->n_values + 1, sizeof *values);
  uint32_t *owners = calloc(executor->n_values + 1, sizeof *owners);
  cs_status status = CS_OK;
  size_t n = 0;
  if (!items || !values || !owners) {
    status = no_memory(error);
    goto out;
  }
  share_bytes(executor, cut, place, owners);
  for (uint32_t v = 0; v < executor->n_values; v++) {
    const cs_value_life *life = &cut->lives[v];
    if (life->first[place] == UINT32_MAX || owners[v] != v) continue;
    values[n] = v;
    items[n++] = (cs_arena_item){
        .first = life->first[place], .last = life->last[place], .bytes = executor->slots[v].bytes};
  }
  status = cs_arena_assign(items, n, bytes, error);
  for (size_t i = 0; i < n; i++)
    executor->slots[values[i]].offsets[place] = items[i].offset;
  for (uint32_t v = 0; v < executor->n_values; v++)
    executor->slots[v].offsets[place] = executor->slots[owners[v]].offsets[place];
out:
  free(items);
  free(values);
  free(owners);
  return status;
}

/* Copies what later lists are compared with. */
static cs_status keep_largest(cs_executor *executor, const cs_op_list *largest, cs_error *error) {
  const cs_value_info *values = cs_op_list_values(largest);
  executor->n_ops = cs_op_list_n_ops(largest);
  executor->n_values = cs_op_list_n_values(largest);
  executor->ops = malloc((executor->n_ops + 1) * sizeof *executor->ops);
  executor->slots = calloc(executor->n_values + 1, sizeof *executor->slots);
  if (!executor->ops || !executor->slots) return no_memory(error);
  memcpy(executor->ops, cs_op_list_ops(largest), executor->n_ops * sizeof *executor->ops);
  for (size_t v = 0; v < executor->n_values; v++) {
    cs_slot *slot = &executor->slots[v];
    *slot = (cs_slot){.kind = values[v].kind, .offsets = {UINT64_MAX, UINT64_MAX}};
    if (values[v].kind == CS_VALUE_WEIGHT || values[v].kind == CS_VALUE_CACHE) continue;
    const cs_status status = cs_value_bytes(&values[v], &slot->bytes, error);
    if (status != CS_OK) return status;
    if (values[v].kind != CS_VALUE_INPUT) continue;
    if (__builtin_add_overflow(executor->input_bytes, cs_arena_round(slot->bytes),
                               &executor->input_bytes)) {
      return cs_error_set(error, CS_OUT_OF_RANGE, "step inputs larger than any memory");
    }
  }
  return CS_OK;
}

/* Makes a buffer unless there is nothing to hold. */
static cs_status make_buffer(cs_device *device, uint64_t bytes, cs_buffer **out, const char *what,
                             cs_error *error) {
  if (bytes == 0) return CS_OK;
  const cs_status status = cs_buffer_create(device, bytes, CS_MEMORY_DEVICE, out, error);
  return status == CS_OK ? CS_OK : cs_error_prefix(error, status, "%s", what);
}

static cs_status make_lane(cs_executor *executor, cs_cut *cut, uint32_t place, cs_error *error) {
  cs_lane *lane = &executor->lanes[place];
  lane->device = executor->placement->devices[place];
  uint64_t arena_bytes = 0;
  cs_status status = lay_out(executor, cut, place, &arena_bytes, error);
  if (status == CS_OK) {
    status = make_buffer(lane->device, arena_bytes, &lane->arena, "activations", error);
  }
  if (status == CS_OK && cut->input_places & 1u << place) {
    status = make_buffer(lane->device, executor->input_bytes, &lane->inputs, "step inputs", error);
  }
  if (status == CS_OK) {
    status = make_buffer(lane->device, executor->placement->workspace_bytes[place],
                         &lane->workspace, "workspace", error);
  }
  return status;
}

/* ---- life ---- */

cs_status cs_executor_create(const cs_executor_options *options, cs_executor **out,
                             cs_error *error) {
  *out = NULL;
  if (!options || !options->placement || !options->largest || !options->resolve ||
      cs_op_list_n_ops(options->largest) != options->placement->n_ops) {
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        "an executor needs a resolver, a placement and the list it was made for");
  }
  cs_executor *executor = calloc(1, sizeof *executor);
  if (!executor) return no_memory(error);
  if (pthread_mutex_init(&executor->profile.mutex, NULL) != 0) {
    free(executor);
    return no_memory(error);
  }
  executor->profile.on = options->profile;
  executor->placement = options->placement;
  executor->resolve = options->resolve;
  executor->user = options->user;
  executor->prefer_program = options->prefer_program;
  executor->timeout_us = options->timeout_us ? options->timeout_us : DEFAULT_TIMEOUT_US;
  cs_cut cut = {0};
  cs_status status = keep_largest(executor, options->largest, error);
  if (status == CS_OK) status = cs_cut_list(options->largest, options->placement, &cut, error);
  for (uint32_t place = 0; place < CS_N_PLACES && status == CS_OK; place++) {
    if (cut.used_places & 1u << place) status = make_lane(executor, &cut, place, error);
  }
  cs_cut_finish(&cut);
  if (status == CS_OK) status = cs_executor_revive(executor, error);
  if (status != CS_OK) {
    cs_executor_destroy(executor);
    return status;
  }
  *out = executor;
  return CS_OK;
}

void cs_executor_destroy(cs_executor *executor) {
  if (!executor) return;
  cs_error reason = CS_ERROR_INIT;
  cs_error_set(&reason, CS_CANCELLED, "the executor is gone");
  cs_executor_drop_streams(executor, executor->running ? &reason : NULL);
  for (uint32_t place = 0; place < CS_N_PLACES; place++) {
    cs_buffer_destroy(executor->lanes[place].arena);
    cs_buffer_destroy(executor->lanes[place].inputs);
    cs_buffer_destroy(executor->lanes[place].workspace);
  }
  free(executor->ops);
  free(executor->slots);
  pthread_mutex_destroy(&executor->profile.mutex);
  free(executor);
}
