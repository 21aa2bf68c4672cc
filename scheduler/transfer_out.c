/* Pieces are pipelined over the two slots of a port: the next is enqueued on the device before the
 * previous one is waited for and sent. When nothing is queued the last one is finished at once, so
 * that a piece never waits for the next. The first failure is kept and everything after it
 * skipped; SENT tells it.
 *
 * Where the receiver has a dock, the device puts the bytes there and the message only names the
 * place. When that fails, or cannot be had, the piece goes through host memory: it is still in the
 * cache, so it is taken out once more. */
#include "scheduler/transfer_out.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/transfer_port.h"
#include "scheduler/wire.h"

#define MAX_PORTS 4 /* two devices, and a change of wire dtype */

struct cs_sending {
  uint64_t request;
  uint32_t epoch;
  uint32_t wire_dtype;
  uint64_t wait_us;
  cs_link *to;
  cs_dock *dock;
  int32_t *blocks;
  uint32_t n_blocks;
  struct send_job *end; /* made at the beginning, so that ending cannot fail; NULL once queued */
  atomic_int cancelled;
  bool direct_failed; /* what follows is the sender thread's */
  uint64_t n_pieces;
  uint64_t first_us;
  cs_status status;
  cs_error error;
};

typedef struct send_job {
  struct send_job *next;
  cs_sending *sending;
  cs_semaphore *ready; /* NULL: the end */
  uint64_t value;
  uint64_t prefill_end_us;
  uint32_t layer;
  uint32_t first_token;
  uint32_t n_tokens;
  uint32_t place; /* in the dock; 0: the bytes go with the message */
  bool again;     /* the direct path failed: a second, staged try */
} send_job;

/* A port and what its slots hold. */
typedef struct send_port {
  cs_port *port;
  send_job *under_way[CS_PORT_SLOTS]; /* owned */
  uint32_t next_slot;
} send_port;

struct cs_sender {
  cs_kv_cache *cache;
  uint32_t max_tokens;
  uint32_t max_blocks;
  cs_link *own;
  send_port ports[MAX_PORTS]; /* the thread's */
  uint32_t n_ports;
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  send_job *first; /* guarded by mutex */
  send_job *last;
  bool stopping;
};

/* ---- the thread ---- */

static void job_free(send_job *job) {
  if (job->ready) cs_semaphore_release(job->ready);
  free(job);
}

static void fail(cs_sending *sending, cs_status status, const cs_error *error) {
  if (sending->status) return;
  sending->status = status;
  sending->error = *error;
}

static bool skipped(cs_sending *sending) {
  return sending->status || atomic_load(&sending->cancelled);
}

static cs_status find_port(cs_sender *sender, cs_device *device, uint32_t dtype, send_port **out,
                           cs_error *error) {
  for (uint32_t i = 0; i < sender->n_ports; i++) {
    *out = &sender->ports[i];
    if (cs_port_device((*out)->port) == device && cs_port_wire_dtype((*out)->port) == dtype)
      return CS_OK;
  }
  if (sender->n_ports == MAX_PORTS)
    return cs_error_set(error, CS_EXHAUSTED, "KV transfer: too many forms at once");
  *out = &sender->ports[sender->n_ports];
  memset(*out, 0, sizeof **out);
  const cs_port_options options = {.cache = sender->cache,
                                   .device = device,
                                   .op = CS_OP_KV_GATHER,
                                   .wire_dtype = dtype,
                                   .max_tokens = sender->max_tokens,
                                   .max_blocks = sender->max_blocks};
  const cs_status status = cs_port_create(&options, &(*out)->port, error);
  if (!status) sender->n_ports++;
  return status;
}

static cs_status tell(const cs_sending *sending, const cs_message *message, cs_error *error) {
  const cs_status status = cs_link_send_message(sending->to, message, sending->wait_us, error);
  return status ? cs_error_prefix(error, status, "KV to the decode worker") : CS_OK;
}

static cs_status send_piece(cs_sender *sender, const send_job *job, const void *wire, uint64_t sum,
                            cs_error *error) {
  cs_sending *const sending = job->sending;
  cs_kv_wire form = cs_kv_cache_form(sender->cache)->wire;
  form.dtype = sending->wire_dtype;
  uint64_t bytes = 0;
  const cs_status status = cs_wire_bytes(&form, job->n_tokens, &bytes);
  if (status) return cs_error_set(error, status, "KV piece of %u tokens", job->n_tokens);
  const cs_message message = {.kind = CS_MESSAGE_KV_PIECE,
                              .epoch = sending->epoch,
                              .request = sending->request,
                              .piece = {.layer = job->layer,
                                        .first_token = job->first_token,
                                        .n_tokens = job->n_tokens,
                                        .dtype = sending->wire_dtype,
                                        .place = job->place,
                                        .sum = sum,
                                        .payload = {wire, job->place ? 0 : bytes}}};
  return tell(sending, &message, error);
}

static cs_port_range range_of(const send_job *job) {
  return (cs_port_range){.blocks = job->sending->blocks,
                         .n_blocks = job->sending->n_blocks,
                         .layer = job->layer,
                         .first_token = job->first_token,
                         .n_tokens = job->n_tokens};
}

/* Takes a berth where there is one; the target is NULL when the piece goes the staged way. */
static cs_buffer *take_berth(cs_sender *sender, const cs_port *port, send_job *job) {
  cs_berth berth;
  cs_sending *const sending = job->sending;
  cs_error error = CS_ERROR_INIT;
  if (!sending->dock || job->again || !cs_port_has_op(port)) return NULL;
  if (cs_dock_take(sending->dock, cs_kv_cache_device(sender->cache, job->layer), job->layer,
                   cs_port_wire_bytes(port), &berth, &error))
    return NULL;
  job->place = berth.place;
  return berth.target;
}

/* Its path is not to be used again, and this piece goes the staged way. */
static void leave_berth(send_job *job) {
  job->again = true;
  if (!job->place) return;
  cs_dock_fail(job->sending->dock, job->place);
  cs_dock_give(job->sending->dock, job->place);
  job->sending->direct_failed = true;
  job->place = 0;
}

static cs_status gather(cs_sender *sender, send_port *port, uint32_t slot, send_job *job,
                        cs_error *error) {
  const cs_port_range range = range_of(job);
  cs_buffer *const target = take_berth(sender, port->port, job);
  return cs_port_gather(port->port, slot, &range, job->ready, job->value, target, error);
}

/* A piece that did not get to its berth, or was broken off with one that did not. One that hangs
 * has used up its time, and a lost device stays lost. */
static bool may_try_again(const send_job *job, cs_status status) {
  if (!status || status == CS_TIMEOUT || status == CS_DEVICE_LOST || skipped(job->sending))
    return false;
  return job->place || job->sending->direct_failed;
}

static cs_status gather_again(cs_sender *sender, send_port *port, uint32_t slot, send_job *job,
                              const void **wire, uint64_t *sum, cs_error *error) {
  cs_sending *const sending = job->sending;
  leave_berth(job);
  const cs_status status = gather(sender, port, slot, job, error);
  return status ? status
                : cs_port_finish_gather(port->port, slot, sending->wait_us, wire, sum, error);
}

static void finish_slot(cs_sender *sender, send_port *port, uint32_t slot) {
  send_job *const job = port->under_way[slot];
  if (!job) return;
  port->under_way[slot] = NULL;
  cs_sending *const sending = job->sending;
  cs_error error = CS_ERROR_INIT;
  const void *wire;
  uint64_t sum;
  cs_status status = cs_port_finish_gather(port->port, slot, sending->wait_us, &wire, &sum, &error);
  if (may_try_again(job, status))
    status = gather_again(sender, port, slot, job, &wire, &sum, &error);
  const bool sends = !status && !skipped(sending);
  if (sends) status = send_piece(sender, job, wire, sum, &error);
  if (job->place && status) cs_dock_fail(sending->dock, job->place);
  /* Into the berth of a copy that hangs somebody may still write: nobody gets it again. */
  if (job->place && (status || !sends) && status != CS_TIMEOUT)
    cs_dock_give(sending->dock, job->place);
  if (status)
    fail(sending, status, &error);
  else
    sending->n_pieces++;
  job_free(job);
}

static void finish_all(cs_sender *sender) {
  for (uint32_t i = 0; i < sender->n_ports; i++)
    for (uint32_t k = 0; k < CS_PORT_SLOTS; k++)
      finish_slot(sender, &sender->ports[i], (sender->ports[i].next_slot + k) % CS_PORT_SLOTS);
}

static bool is_idle(const cs_sender *sender) {
  for (uint32_t i = 0; i < sender->n_ports; i++)
    for (uint32_t k = 0; k < CS_PORT_SLOTS; k++)
      if (sender->ports[i].under_way[k]) return false;
  return true;
}

static void start_piece(cs_sender *sender, send_job *job) {
  cs_sending *const sending = job->sending;
  cs_device *const device = cs_kv_cache_device(sender->cache, job->layer);
  cs_error error = CS_ERROR_INIT;
  send_port *port;
  if (skipped(sending)) {
    job_free(job);
    return;
  }
  if (sending->first_us == 0) sending->first_us = cs_now_us();
  cs_status status = find_port(sender, device, sending->wire_dtype, &port, &error);
  if (!status) {
    finish_slot(sender, port, port->next_slot);
    status = gather(sender, port, port->next_slot, job, &error);
    if (status && job->place) { /* not even enqueued: once more without the berth */
      leave_berth(job);
      status = gather(sender, port, port->next_slot, job, &error);
    }
  }
  if (status) {
    fail(sending, status, &error);
    job_free(job);
    return;
  }
  port->under_way[port->next_slot] = job;
  port->next_slot = (port->next_slot + 1) % CS_PORT_SLOTS;
}

static void end_sending(cs_sender *sender, send_job *job) {
  cs_sending *const sending = job->sending;
  cs_error error = CS_ERROR_INIT;
  finish_all(sender);
  const uint64_t now_us = cs_now_us();
  if (!skipped(sending)) {
    const uint64_t first_us = sending->first_us ? sending->first_us : now_us;
    const cs_message message = {.kind = CS_MESSAGE_KV_END,
                                .epoch = sending->epoch,
                                .request = sending->request,
                                .end = {.n_pieces = sending->n_pieces,
                                        .since_first_us = now_us - first_us,
                                        .since_prefill_us = now_us - job->prefill_end_us}};
    const cs_status status = tell(sending, &message, &error);
    if (status) fail(sending, status, &error);
  }
  const cs_message sent = {
      .kind = CS_MESSAGE_SENT,
      .epoch = sending->epoch,
      .request = sending->request,
      .error = {.status = sending->status,
                .op_index = sending->error.op_index,
                .vendor_code = sending->error.vendor_code,
                .text = {sending->error.message, strlen(sending->error.message)}}};
  job_free(job);
  (void)cs_link_send_message(sender->own, &sent, sending->wait_us, NULL);
}

static send_job *take_job(cs_sender *sender) {
  pthread_mutex_lock(&sender->mutex);
  while (!sender->first && !sender->stopping && is_idle(sender))
    pthread_cond_wait(&sender->changed, &sender->mutex);
  send_job *const job = sender->first;
  if (job) {
    sender->first = job->next;
    if (!job->next) sender->last = NULL;
  }
  pthread_mutex_unlock(&sender->mutex);
  return job;
}

static void *sender_main(void *argument) {
  cs_sender *const sender = argument;
  for (;;) {
    send_job *const job = take_job(sender);
    if (!job && is_idle(sender)) return NULL; /* stopping */
    if (!job)
      finish_all(sender);
    else if (job->ready)
      start_piece(sender, job);
    else
      end_sending(sender, job);
  }
}

/* ---- the worker's side ---- */

cs_status cs_sender_create(cs_kv_cache *cache, uint32_t max_tokens, uint32_t max_blocks,
                           cs_link *own, cs_sender **out, cs_error *error) {
  *out = NULL;
  cs_sender *const sender = calloc(1, sizeof *sender);
  if (!sender) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for KV transfer");
  *sender =
      (cs_sender){.cache = cache, .max_tokens = max_tokens, .max_blocks = max_blocks, .own = own};
  pthread_mutex_init(&sender->mutex, NULL);
  pthread_cond_init(&sender->changed, NULL);
  if (pthread_create(&sender->thread, NULL, sender_main, sender)) {
    pthread_cond_destroy(&sender->changed);
    pthread_mutex_destroy(&sender->mutex);
    free(sender);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no thread for KV transfer");
  }
  *out = sender;
  return CS_OK;
}

void cs_sender_destroy(cs_sender *sender) {
  if (!sender) return;
  pthread_mutex_lock(&sender->mutex);
  sender->stopping = true;
  for (send_job *job = sender->first; job; job = job->next)
    atomic_store(&job->sending->cancelled, 1);
  pthread_cond_broadcast(&sender->changed);
  pthread_mutex_unlock(&sender->mutex);
  pthread_join(sender->thread, NULL);
  for (uint32_t i = 0; i < sender->n_ports; i++)
    cs_port_destroy(sender->ports[i].port);
  pthread_cond_destroy(&sender->changed);
  pthread_mutex_destroy(&sender->mutex);
  free(sender);
}

cs_status cs_sender_begin(cs_sender *sender, const cs_sending_options *options, cs_sending **out,
                          cs_error *error) {
  (void)sender;
  *out = NULL;
  const uint32_t n_blocks = options->blocks->n_blocks;
  cs_sending *const sending = calloc(1, sizeof *sending);
  int32_t *const blocks = malloc((n_blocks + 1) * sizeof *blocks);
  send_job *const end = calloc(1, sizeof *end);
  if (!sending || !blocks || !end) {
    free(sending);
    free(blocks);
    free(end);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for KV transfer");
  }
  memcpy(blocks, options->blocks->blocks, n_blocks * sizeof *blocks);
  *sending = (cs_sending){.request = options->request,
                          .epoch = options->epoch,
                          .wire_dtype = options->wire_dtype,
                          .wait_us = options->wait_us,
                          .to = options->to,
                          .dock = options->dock,
                          .blocks = blocks,
                          .n_blocks = n_blocks,
                          .end = end,
                          .error = CS_ERROR_INIT};
  end->sending = sending;
  *out = sending;
  return CS_OK;
}

static void push_job(cs_sender *sender, send_job *job) {
  pthread_mutex_lock(&sender->mutex);
  if (sender->last)
    sender->last->next = job;
  else
    sender->first = job;
  sender->last = job;
  pthread_cond_signal(&sender->changed);
  pthread_mutex_unlock(&sender->mutex);
}

cs_status cs_sender_add(cs_sender *sender, cs_sending *sending, uint32_t layer,
                        uint32_t first_token, uint32_t n_tokens, cs_semaphore *ready,
                        uint64_t value, cs_error *error) {
  send_job *const job = malloc(sizeof *job);
  if (!job) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for KV transfer");
  cs_semaphore_retain(ready);
  *job = (send_job){.sending = sending,
                    .ready = ready,
                    .value = value,
                    .layer = layer,
                    .first_token = first_token,
                    .n_tokens = n_tokens};
  push_job(sender, job);
  return CS_OK;
}

void cs_sender_finish(cs_sender *sender, cs_sending *sending, uint64_t prefill_end_us) {
  send_job *const end = sending->end;
  sending->end = NULL;
  end->prefill_end_us = prefill_end_us;
  push_job(sender, end);
}

void cs_sender_cancel(cs_sender *sender, cs_sending *sending) {
  atomic_store(&sending->cancelled, 1);
  if (sending->end) cs_sender_finish(sender, sending, cs_now_us());
}

void cs_sending_destroy(cs_sending *sending) {
  if (!sending) return;
  free(sending->end);
  free(sending->blocks);
  free(sending);
}
