/* Inside of a session: the workers of one model, and the router before them. */
#ifndef SCHEDULER_SESSION_H
#define SCHEDULER_SESSION_H

#include <stdint.h>

#include "consort/consort.h"
#include "scheduler/remote.h"
#include "scheduler/router.h"
#include "scheduler/worker.h"

/* Numbers by which workers sign. */
#define CS_SESSION_PREFILL_WORKER 1
#define CS_SESSION_DECODE_WORKER  2
/* The prefill worker's number for its link to the decode worker. */
#define CS_SESSION_DECODE_PEER 0

struct consort_session {
  consort_runtime *runtime; /* borrowed */
  consort_model *model;     /* borrowed */
  char prefill_name[2 * CS_REMOTE_NAME_BYTES];
  char decode_name[2 * CS_REMOTE_NAME_BYTES];
  char reason[256];
  uint32_t n_context;
  bool two_stages;    /* else the decode worker does it all and there is no prefill worker */
  cs_worker *prefill; /* of this process; NULL: there is none, or it is in another one */
  cs_worker *decode;
  cs_remote *remote_prefill; /* likewise the other way round */
  cs_remote *remote_decode;
  cs_net *net; /* NULL when both are here */
  cs_secret secret;
  cs_mailbox *inbox; /* of the router */
  cs_router *router;
  int32_t *ends; /* tokens that end a text */
  uint32_t n_ends;
  consort_fallback *fallbacks;
  size_t n_fallbacks;
};

/* What tests and benchmarks need beyond consort.h. Zero is the default. */
typedef struct cs_session_tuning {
  uint64_t step_timeout_us;
  uint64_t silence_us;
  uint64_t transfer_us;
  uint32_t staged; /* 1: KV goes through host memory even where devices reach each other */
  uint64_t net_silence_us;
} cs_session_tuning;

/* consort_session_create with a tuning (may be NULL). */
cs_status cs_session_create(consort_runtime *runtime, consort_model *model,
                            const consort_session_options *options, const cs_session_tuning *tuning,
                            consort_session **out, cs_error *error);

/* Reaches workers again that were lost in the meantime. At the begin of a request. */
cs_status cs_session_revive(consort_session *session, cs_error *error);

/* One of several prompts. */
typedef struct cs_session_prompt {
  const int32_t *tokens;
  uint32_t n_tokens;
  const consort_generate_options *options; /* NULL: the defaults */
} cs_session_prompt;

/* Generates for all prompts at once; sequences that decode share their steps. results (n_prompts)
 * are zeroed on failure, else as consort_generate_from_tokens fills one. */
cs_status cs_session_generate(consort_session *session, const cs_session_prompt *prompts,
                              uint32_t n_prompts, consort_generate_result *results,
                              cs_error *error);

#endif
