/* A worker: one device group and a thread that serves requests on it. It is told what to do, and
 * answers, by messages alone (message.h); in between it batches what it has - all decoding
 * sequences in one step, prompts in chunks. */
#ifndef SCHEDULER_WORKER_H
#define SCHEDULER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/log.h"
#include "scheduler/transfer_dock.h"
#include "scheduler/transport.h"
#include "scheduler/worker_engine.h"

typedef struct cs_worker cs_worker;

typedef struct cs_worker_options {
  cs_engine_options engine;
  uint32_t number;    /* in what it says to the router; not 0 */
  bool deterministic; /* chunks begin at fixed positions and sequences are decoded one by one */
  cs_log *log;        /* borrowed until destroy; may be NULL */
} cs_worker_options;

/* Plans (cs_engine_create); loads and starts nothing. */
cs_status cs_worker_create(const cs_worker_options *options, cs_worker **out, cs_error *error);
/* Ends the thread: requests under way are dropped. */
void cs_worker_destroy(cs_worker *worker);

/* For reports and memory planning; not to be driven from outside. */
const cs_engine *cs_worker_engine(const cs_worker *worker);

/* Loads weights and starts the thread. Answers go to `router`, borrowed until destroy. */
cs_status cs_worker_start(cs_worker *worker, cs_link *router, cs_weights_progress progress,
                          void *progress_user, cs_error *error);

/* KV blocks that its requests hold. Free-threaded. */
uint32_t cs_worker_blocks_used(const cs_worker *worker);

/* Where messages for the worker go: borrowed. The box is for connections to be bound to. */
cs_link *cs_worker_link(cs_worker *worker);
cs_mailbox *cs_worker_inbox(cs_worker *worker);

#define CS_WORKER_MAX_PEERS 16
/* The link behind peer number `peer` of PREFILL: borrowed until destroy. While no request that
 * names it is under way. */
cs_status cs_worker_connect(cs_worker *worker, uint32_t peer, cs_link *link, cs_error *error);
/* Where peers of this process may put pieces of KV for this worker, started: borrowed. */
cs_dock *cs_worker_dock(cs_worker *worker);
/* Gives pieces for a connected peer the way through its dock, where devices can. Borrowed until
 * destroy; at the same times as connect. */
void cs_worker_connect_dock(cs_worker *worker, uint32_t peer, cs_dock *dock);

#endif
