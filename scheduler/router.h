/* The router: takes requests, tells workers what to do, keeps the journal, and hands out what
 * comes back. It knows workers only by their links. Used by one thread at a time. */
#ifndef SCHEDULER_ROUTER_H
#define SCHEDULER_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/journal.h"
#include "scheduler/transport.h"

typedef struct cs_router cs_router;

typedef struct cs_router_options {
  cs_mailbox *inbox; /* where workers answer; borrowed until destroy */
  cs_link *prefill;  /* borrowed until destroy; NULL when the decode worker does it all */
  cs_link *decode;
  uint32_t prefill_number; /* of the workers, as they sign */
  uint32_t decode_number;
  uint32_t decode_peer; /* the prefill worker's number for its link to the decode worker */
  uint64_t silence_us;  /* a worker that says nothing for so long has failed; 0: 360 s */
  uint64_t transfer_us; /* longest pause in a KV transfer; 0: 300 s */
  uint64_t grace_us;    /* how long a side that was told to stop is waited for; 0: 10 s */
} cs_router_options;

cs_status cs_router_create(const cs_router_options *options, cs_router **out, cs_error *error);
void cs_router_destroy(cs_router *router);

typedef struct cs_router_request {
  const int32_t *tokens; /* copied, like all below */
  uint32_t n_tokens;
  uint32_t n_output; /* at least 1 unless scoring */
  cs_sampler_params sampler;
  const cs_logit_bias *biases;
  uint32_t n_biases;
  const int32_t *ends; /* tokens that end the text */
  uint32_t n_ends;
  bool score;     /* logits of every position instead of generation */
  uint32_t split; /* scoring: rows before it come from the prefill worker */
} cs_router_request;

/* Sends a request on its way. *id names it from now on. */
cs_status cs_router_submit(cs_router *router, const cs_router_request *request, uint64_t *id,
                           cs_error *error);

typedef enum cs_router_event_kind {
  CS_ROUTER_TOKEN,
  CS_ROUTER_LOGITS,
  CS_ROUTER_FINISHED, /* the last of a request */
  CS_ROUTER_FAILED    /* likewise; `error` says why */
} cs_router_event_kind;

/* How a request went. */
typedef struct cs_router_report {
  cs_done_message prefill; /* zero when the decode worker did it all */
  cs_done_message decode;
  cs_commit_message transfer;
  bool transferred;
} cs_router_report;

typedef struct cs_router_event {
  cs_router_event_kind kind;
  uint64_t request;
  uint32_t index; /* TOKEN: counted from the first generated */
  int32_t token;
  cs_blob logprobs;   /* TOKEN: cs_token_logprob, as many as were asked for; borrowed like rows */
  uint32_t first_row; /* LOGITS */
  uint32_t n_rows;
  cs_blob rows; /* borrowed until the next call */
  cs_router_report report;
  cs_error error;
} cs_router_event;

/* The next thing that happens to any request. CS_TIMEOUT when nothing did. */
cs_status cs_router_next(cs_router *router, uint64_t timeout_us, cs_router_event *event);

/* Ends a request early: its FINISHED (reason cancelled) or FAILED still comes, when both sides
 * have given their blocks back. */
void cs_router_cancel(cs_router *router, uint64_t id);

/* Asks a worker for its counters and waits for them; no request is under way. */
cs_status cs_router_stats(cs_router *router, bool of_prefill, uint64_t timeout_us,
                          cs_stats_message *out, cs_error *error);

#endif
