/* What the two halves of a worker share: worker.c takes messages and picks batches,
 * worker_request.c is the life of one request. */
#ifndef SCHEDULER_WORKER_INTERNAL_H
#define SCHEDULER_WORKER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "scheduler/transfer_in.h"
#include "scheduler/transfer_out.h"
#include "scheduler/worker.h"

typedef enum request_stage {
  STAGE_QUEUED,    /* waits for blocks */
  STAGE_RECEIVING, /* waits for KV from a peer */
  STAGE_PREFILL,   /* has tokens to compute before it can sample */
  STAGE_DECODE,    /* one token a step */
  STAGE_SENDING    /* prefill is over (or failed); its KV is on its way out */
} request_stage;

typedef struct cs_request {
  struct cs_request *next;
  uint64_t id;
  uint32_t epoch;
  request_stage stage;
  bool is_prefill; /* for a peer, else for generation or scoring here */
  bool score;
  bool cancelled;
  int32_t *tokens; /* (capacity) */
  uint32_t n_tokens;
  uint32_t capacity;
  uint32_t n_prompt;
  uint32_t n_done;   /* positions whose KV is in the cache */
  uint32_t n_cached; /* of these, from a peer */
  uint32_t n_output;
  cs_sampler_params sampler;
  cs_logit_bias *biases;
  size_t n_biases;
  bool reads_logits; /* to sample: their argmax alone is not enough */
  int32_t *ends;
  uint32_t n_ends;
  uint64_t wait_us;
  uint64_t heard_us; /* of the peer */
  cs_kv_wire wire;   /* what the peer takes */
  uint32_t peer;
  cs_kv_sequence blocks;
  cs_sending *sending;
  cs_receipt *receipt;
  cs_done_message stats;
  cs_status status; /* kept while STAGE_SENDING */
  cs_error error;
} cs_request;

struct cs_worker {
  cs_worker_options options;
  cs_engine *engine;
  cs_mailbox *inbox;
  cs_link *router;
  cs_link *peers[CS_WORKER_MAX_PEERS];
  cs_dock *docks[CS_WORKER_MAX_PEERS]; /* NULL: pieces to this peer go with their messages */
  cs_sender *sender;
  cs_receiver *receiver;
  cs_request *requests;  /* oldest first */
  uint64_t last_decoded; /* request whose turn was last, when decoding one by one */
  uint64_t n_steps;
  uint64_t n_tokens;
  atomic_uint n_blocks_used; /* what the thread last knew */
  pthread_t thread;
  bool started;
  bool stopping;    /* the thread's */
  cs_status broken; /* what ended the engine; told to every later request */
  cs_error broken_error;
};

/* ---- worker_request.c ---- */

/* To the router; a router that is gone is no error here. */
void cs_worker_tell(cs_worker *worker, const cs_request *request, cs_message *message);

/* From a PREFILL or DECODE message; on failure the router has been told. */
void cs_request_open(cs_worker *worker, const cs_message *message);
cs_request *cs_request_find(cs_worker *worker, uint64_t id, uint32_t epoch);

/* Takes blocks and leaves STAGE_QUEUED (or fails, and is gone); false when there are too few. */
bool cs_request_admit(cs_worker *worker, cs_request *request);
/* The end of a request, one way or another: tells the router, gives blocks back, frees it. One
 * that is sending lives on until its pieces are out. */
void cs_request_finish(cs_worker *worker, cs_request *request, uint32_t reason);
void cs_request_fail(cs_worker *worker, cs_request *request, cs_status status,
                     const cs_error *error);
void cs_request_cancel(cs_worker *worker, cs_request *request);

/* Messages of a transfer. */
void cs_request_take_piece(cs_worker *worker, cs_request *request,
                           const cs_kv_piece_message *piece);
void cs_request_take_end(cs_worker *worker, cs_request *request, const cs_kv_end_message *end,
                         uint64_t arrived_us);
void cs_request_take_sent(cs_worker *worker, cs_request *request, const cs_error_message *sent);

/* All positions of a prefill for a peer are computed. */
void cs_request_prefilled(cs_worker *worker, cs_request *request);
/* Rows of logits for positions n_done and up, when scoring. */
void cs_request_scored(cs_worker *worker, cs_request *request, const float *logits,
                       uint32_t n_rows);
/* The last position gave `logits` (NULL unless the request reads them) and `argmax`: picks the next
 * token. */
void cs_request_sample(cs_worker *worker, cs_request *request, const float *logits, int32_t argmax);

/* Without telling anyone. */
void cs_request_free(cs_worker *worker, cs_request *request);

#endif
