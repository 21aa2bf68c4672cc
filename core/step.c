/* A run enqueues everything and returns: both streams, the forwards between them and the copies of
 * the outputs are under way before the host waits once, at the end. Each piece but the last
 * signals a semaphore of its own, only so that a failure can be told with its place in the list. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/error.h"
#include "core/executor_private.h"

static uint64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t left_us(const cs_step *step) {
  const uint64_t now = now_us();
  return step->deadline_us > now ? step->deadline_us - now : 0;
}

/* ---- preparing ---- */

static void *copy_array(const void *from, size_t n, size_t bytes) {
  void *copy = calloc(n + 1, bytes);
  if (copy && n > 0) memcpy(copy, from, n * bytes);
  return copy;
}

static cs_status copy_list(cs_step *step, const cs_op_list *list, cs_error *error) {
  step->n_ops = cs_op_list_n_ops(list);
  step->n_values = cs_op_list_n_values(list);
  step->nodes = copy_array(cs_op_list_ops(list), step->n_ops, sizeof *step->nodes);
  step->values = copy_array(cs_op_list_values(list), step->n_values, sizeof *step->values);
  step->marks = copy_array(cs_op_list_marks(list), cs_op_list_n_marks(list), sizeof *step->marks);
  step->ops = calloc(step->n_ops + 1, sizeof *step->ops);
  step->tensors = calloc(step->n_ops + 1, CS_MAX_OPERANDS * sizeof *step->tensors);
  step->slot_of = malloc((step->n_values + 1) * sizeof *step->slot_of);
  if (!step->nodes || !step->values || !step->marks || !step->ops || !step->tensors ||
      !step->slot_of) {
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a step");
  }
  memset(step->slot_of, 0xff, (step->n_values + 1) * sizeof *step->slot_of);
  return CS_OK;
}

/* Records a piece where its device wants or needs that. */
static cs_status record(cs_step *step, cs_step_piece *piece, cs_error *error) {
  const cs_lane *lane = &step->executor->lanes[piece->cut.place];
  const bool can_record = cs_device_has_program(lane->device);
  if (cs_device_has_eager(lane->device) && !(can_record && step->executor->prefer_program)) {
    return CS_OK;
  }
  return cs_program_create(lane->device, &step->ops[piece->cut.first_op], piece->cut.n_ops,
                           lane->workspace, &piece->program, error);
}

static cs_status make_done(cs_step *step, cs_error *error) {
  for (size_t k = 0; k + 1 < step->cut.n_pieces; k++) {
    cs_step_piece *piece = &step->pieces[k];
    cs_device *device = step->executor->lanes[piece->cut.place].device;
    cs_semaphore_release(piece->done);
    piece->done = NULL;
    const cs_status status = cs_semaphore_create(device, step->run, &piece->done, error);
    if (status != CS_OK) return status;
  }
  step->stale = false;
  return CS_OK;
}

static cs_status make_pieces(cs_step *step, cs_error *error) {
  step->pieces = calloc(step->cut.n_pieces, sizeof *step->pieces);
  if (!step->pieces) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a step");
  uint32_t crossing = 0;
  for (uint32_t k = 0; k < step->cut.n_pieces; k++) {
    cs_step_piece *piece = &step->pieces[k];
    piece->cut = step->cut.pieces[k];
    piece->first_in = crossing;
    while (crossing < step->cut.n_crossings && step->cut.crossings[crossing].to_piece == k)
      crossing++;
    piece->n_in = crossing - piece->first_in;
    const cs_status status = record(step, piece, error);
    if (status != CS_OK) return status;
  }
  return make_done(step, error);
}

static cs_status make_staging(cs_step *step, cs_error *error) {
  const cs_executor *executor = step->executor;
  cs_device *device = executor->placement->devices[CS_PLACE_PRIMARY];
  cs_status status = CS_OK;
  if (step->input_bytes) {
    status =
        cs_buffer_create(device, step->input_bytes, CS_MEMORY_STAGING, &step->input_staging, error);
  }
  if (status == CS_OK && step->output_bytes) {
    status = cs_buffer_create(device, step->output_bytes, CS_MEMORY_STAGING, &step->output_staging,
                              error);
  }
  if (status == CS_OK && step->cut.staging_bytes) {
    status = cs_buffer_create(device, step->cut.staging_bytes, CS_MEMORY_STAGING,
                              &step->crossing_staging, error);
  }
  if (status == CS_OK && step->input_staging) {
    memset(cs_buffer_host_pointer(step->input_staging), 0, step->input_bytes);
  }
  return status;
}

cs_status cs_executor_prepare(cs_executor *executor, const cs_op_list *list, cs_step **out,
                              cs_error *error) {
  *out = NULL;
  cs_step *step = calloc(1, sizeof *step);
  if (!step) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a step");
  step->executor = executor;
  cs_status status = copy_list(step, list, error);
  if (status == CS_OK) status = cs_cut_list(list, executor->placement, &step->cut, error);
  if (status == CS_OK) status = cs_step_bind(step, error);
  if (status == CS_OK) status = make_staging(step, error);
  if (status == CS_OK) status = make_pieces(step, error);
  if (status != CS_OK) {
    cs_step_destroy(step);
    return status;
  }
  *out = step;
  return CS_OK;
}

void cs_step_destroy(cs_step *step) {
  if (!step) return;
  if (step->executor->running == step) cs_step_wait(step, NULL);
  for (size_t k = 0; step->pieces && k < step->cut.n_pieces; k++) {
    cs_program_destroy(step->pieces[k].program);
    cs_semaphore_release(step->pieces[k].done);
  }
  cs_buffer_destroy(step->input_staging);
  cs_buffer_destroy(step->output_staging);
  cs_buffer_destroy(step->crossing_staging);
  cs_cut_finish(&step->cut);
  free(step->pieces);
  free(step->nodes);
  free(step->values);
  free(step->marks);
  free(step->ops);
  free(step->tensors);
  free(step->slot_of);
  free(step->inputs);
  free(step->outputs);
  free(step);
}

static void *find_port(cs_port *ports, size_t n, cs_buffer *staging, uint32_t key,
                       uint64_t *bytes) {
  for (size_t i = 0; i < n; i++) {
    if (ports[i].key != key) continue;
    if (bytes) *bytes = ports[i].bytes;
    return (char *)cs_buffer_host_pointer(staging) + ports[i].offset;
  }
  if (bytes) *bytes = 0;
  return NULL;
}

void *cs_step_input(cs_step *step, uint32_t key, uint64_t *bytes) {
  return find_port(step->inputs, step->n_inputs, step->input_staging, key, bytes);
}

const void *cs_step_output(const cs_step *step, uint32_t key, uint64_t *bytes) {
  return find_port(step->outputs, step->n_outputs, step->output_staging, key, bytes);
}

/* ---- running ---- */

static cs_status upload_inputs(cs_step *step, cs_error *error) {
  cs_status status = CS_OK;
  for (uint32_t place = 0; place < CS_N_PLACES && step->input_bytes; place++) {
    cs_lane *lane = &step->executor->lanes[place];
    if (status != CS_OK || !(step->cut.input_places & 1u << place)) continue;
    status =
        cs_stream_upload(lane->stream, lane->inputs, 0, cs_buffer_host_pointer(step->input_staging),
                         step->input_bytes, error);
  }
  return status;
}

/* Waits for the values that come from the other device, then uploads them. */
static cs_status receive(cs_step *step, const cs_step_piece *piece, cs_error *error) {
  cs_lane *lane = &step->executor->lanes[piece->cut.place];
  if (piece->n_in == 0) return CS_OK;
  const char *staging = cs_buffer_host_pointer(step->crossing_staging);
  cs_status status =
      cs_stream_wait(lane->stream, lane->inbound, step->pieces[piece->cut.wait_piece].value, error);
  for (uint32_t i = 0; i < piece->n_in && status == CS_OK; i++) {
    const cs_crossing *crossing = &step->cut.crossings[piece->first_in + i];
    const cs_slot *slot = &step->executor->slots[step->slot_of[crossing->value]];
    status = cs_stream_upload(lane->stream, lane->arena, slot->offsets[piece->cut.place],
                              staging + crossing->staging_offset, crossing->bytes, error);
  }
  return status;
}

static cs_status run_ops(cs_step *step, const cs_step_piece *piece, cs_error *error) {
  cs_lane *lane = &step->executor->lanes[piece->cut.place];
  if (piece->program) return cs_program_launch(lane->stream, piece->program, error);
  return cs_stream_ops(lane->stream, &step->ops[piece->cut.first_op], piece->cut.n_ops,
                       lane->workspace, error);
}

static cs_status send_values(cs_step *step, const cs_step_piece *piece, uint32_t index,
                             cs_error *error) {
  cs_lane *lane = &step->executor->lanes[piece->cut.place];
  cs_status status = CS_OK;
  for (size_t i = 0; i < step->cut.n_crossings && piece->cut.n_out && status == CS_OK; i++) {
    const cs_crossing *crossing = &step->cut.crossings[i];
    if (crossing->from_piece != index) continue;
    const cs_slot *slot = &step->executor->slots[step->slot_of[crossing->value]];
    char *staging = cs_buffer_host_pointer(step->crossing_staging);
    status = cs_stream_download(lane->stream, staging + crossing->staging_offset, lane->arena,
                                slot->offsets[piece->cut.place], crossing->bytes, error);
  }
  return status;
}

/* Signals what others wait for: the lane's timeline, forwarded when values cross, and the piece's
 * own semaphore. */
static cs_status signal_piece(cs_step *step, cs_step_piece *piece, cs_error *error) {
  cs_lane *lane = &step->executor->lanes[piece->cut.place];
  cs_lane *other = &step->executor->lanes[!piece->cut.place];
  cs_status status = CS_OK;
  if (piece->cut.n_out > 0 || piece->cut.n_marks > 0) {
    status = cs_stream_signal(lane->stream, lane->own, lane->own_value + 1, error);
    if (status != CS_OK) return status;
    piece->value = ++lane->own_value;
  }
  if (piece->cut.n_out > 0) {
    status = cs_semaphore_bridge(lane->own, piece->value, other->inbound, piece->value,
                                 left_us(step), error);
  }
  if (status == CS_OK && piece->done) {
    status = cs_stream_signal(lane->stream, piece->done, step->run, error);
  }
  return status;
}

static cs_status announce(cs_step *step, const cs_step_piece *piece, cs_mark_fn on_mark, void *user,
                          cs_error *error) {
  const cs_lane *lane = &step->executor->lanes[piece->cut.place];
  cs_status status = CS_OK;
  for (uint32_t i = 0; i < piece->cut.n_marks && on_mark && status == CS_OK; i++) {
    status =
        on_mark(user, step->marks[piece->cut.first_mark + i].tag, lane->own, piece->value, error);
  }
  return status;
}

static cs_status run_piece(cs_step *step, uint32_t index, cs_mark_fn on_mark, void *user,
                           cs_error *error) {
  cs_step_piece *piece = &step->pieces[index];
  cs_status status = receive(step, piece, error);
  if (status == CS_OK) status = run_ops(step, piece, error);
  if (status == CS_OK) status = send_values(step, piece, index, error);
  if (status == CS_OK) status = signal_piece(step, piece, error);
  if (status == CS_OK) status = announce(step, piece, on_mark, user, error);
  return status;
}

static cs_status finish_run(cs_step *step, cs_error *error) {
  cs_status status = CS_OK;
  for (size_t i = 0; i < step->n_outputs && status == CS_OK; i++) {
    const cs_port *port = &step->outputs[i];
    cs_lane *lane = &step->executor->lanes[port->place];
    char *staging = cs_buffer_host_pointer(step->output_staging);
    status = cs_stream_download(lane->stream, staging + port->offset, lane->arena,
                                port->arena_offset, port->bytes, error);
  }
  for (uint32_t place = 0; place < CS_N_PLACES && status == CS_OK; place++) {
    cs_lane *lane = &step->executor->lanes[place];
    if (!(step->cut.used_places & 1u << place)) continue;
    status = cs_stream_signal(lane->stream, lane->own, lane->own_value + 1, error);
    if (status == CS_OK) lane->own_value++;
  }
  return status;
}

/* Puts the op's place in the whole list into an error that counts within a piece. */
static void name_op(const cs_step *step, const cs_step_piece *piece, cs_error *error) {
  if (error->op_index < 0 || (uint32_t)error->op_index >= piece->cut.n_ops) return;
  error->op_index += (int32_t)piece->cut.first_op;
  const cs_op_node *node = &step->nodes[error->op_index];
  if (node->layer >= 0) {
    cs_error_prefix(error, error->code, "op %d %s of layer %d", error->op_index,
                    cs_op_name(node->id), node->layer);
  } else {
    cs_error_prefix(error, error->code, "op %d %s", error->op_index, cs_op_name(node->id));
  }
}

/* Where nobody can tell which op it was: those that were under way. */
static void name_range(const cs_step *step, size_t first, size_t n_pieces, cs_error *error) {
  const cs_piece *last = &step->pieces[n_pieces - 1].cut;
  error->op_index = (int32_t)step->pieces[first].cut.first_op;
  cs_error_prefix(error, error->code, "ops %d to %u were under way", error->op_index,
                  last->first_op + last->n_ops - 1);
}

/* Puts the failure of the first of the leading n_pieces that failed into *error. Calls that find
 * their stream poisoned return its first error too, so the one who made it must be looked for. A
 * lost device answers no more: then only a step of one piece can name its op; and a device that
 * hangs tells no op at all. */
static void find_culprit(const cs_step *step, size_t n_pieces, cs_error *error) {
  if (error->code == CS_DEVICE_LOST && n_pieces > 1) {
    name_range(step, 0, n_pieces, error);
    return;
  }
  for (size_t k = 0; k < n_pieces; k++) {
    const cs_step_piece *piece = &step->pieces[k];
    if (piece->done && k + 1 < n_pieces) {
      cs_error failure = CS_ERROR_INIT;
      const cs_status status = cs_semaphore_wait(piece->done, step->run, left_us(step), &failure);
      if (status == CS_TIMEOUT && error->code == CS_TIMEOUT) {
        name_range(step, k, n_pieces, error);
        return;
      }
      if (status == CS_OK || status == CS_TIMEOUT) continue;
      *error = failure;
    } else if (k + 1 < n_pieces) {
      continue;
    }
    if (error->code == CS_TIMEOUT)
      name_range(step, k, n_pieces, error);
    else
      name_op(step, piece, error);
    return;
  }
}

/* A run that could not be enqueued whole: what waits for the rest is failed, and streams and
 * semaphores are made anew before the next run. */
static void abandon(cs_step *step, const cs_error *reason) {
  cs_executor_drop_streams(step->executor, reason);
  step->executor->running = NULL;
  step->stale = true;
}

cs_status cs_step_run(cs_step *step, cs_mark_fn on_mark, void *user, cs_error *error) {
  cs_executor *executor = step->executor;
  cs_error local = CS_ERROR_INIT;
  if (!error) error = &local;
  if (executor->running) cs_step_wait(executor->running, NULL);
  cs_status status = cs_executor_revive(executor, error);
  if (status == CS_OK && step->stale) status = make_done(step, error);
  if (status != CS_OK) return status;
  step->run++;
  step->deadline_us = now_us() + executor->timeout_us;
  executor->running = step;
  status = upload_inputs(step, error);
  size_t n_begun = 0;
  while (n_begun < step->cut.n_pieces && status == CS_OK)
    status = run_piece(step, (uint32_t)n_begun++, on_mark, user, error);
  if (status == CS_OK) status = finish_run(step, error);
  if (status == CS_OK) return CS_OK;
  find_culprit(step, n_begun, error);
  abandon(step, error);
  return error->code;
}

/* ---- waiting ---- */

cs_status cs_step_wait(cs_step *step, cs_error *error) {
  cs_executor *executor = step->executor;
  cs_error local = CS_ERROR_INIT;
  if (!error) error = &local;
  if (executor->running != step) return CS_OK;
  cs_status status = CS_OK;
  bool late = false;
  for (uint32_t place = 0; place < CS_N_PLACES; place++) {
    cs_lane *lane = &executor->lanes[place];
    if (!(step->cut.used_places & 1u << place)) continue;
    cs_error failure = CS_ERROR_INIT;
    const cs_status end = cs_semaphore_wait(lane->own, lane->own_value, left_us(step), &failure);
    uint64_t reached = 0;
    if (end == CS_TIMEOUT && cs_semaphore_query(lane->own, &reached, NULL) == CS_OK) late = true;
    if (end == CS_OK) cs_profile_collect(&executor->profile, place, lane);
    if (end == CS_OK || status != CS_OK) continue;
    status = end;
    *error = failure;
  }
  executor->running = NULL;
  if (status == CS_OK) return CS_OK;
  find_culprit(step, step->cut.n_pieces, error);
  if (late) {
    cs_error_prefix(error, status, "a step did not end within %llu ms",
                    (unsigned long long)(executor->timeout_us / 1000));
  }
  step->stale = true;
  executor->stuck = late;
  cs_executor_drop_streams(executor, error);
  return error->code;
}
