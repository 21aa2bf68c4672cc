/* The sending half of the transfer engine: a thread that takes each layer's KV out of the cache
 * while prefill goes on, and sends it as pieces.
 *
 * begin, add and finish are called by the worker's thread. */
#ifndef SCHEDULER_TRANSFER_OUT_H
#define SCHEDULER_TRANSFER_OUT_H

#include <stdint.h>

#include "core/device.h"
#include "models/kv_pool.h"
#include "scheduler/transfer_dock.h"
#include "scheduler/transport.h"
#include "scheduler/worker_cache.h"

typedef struct cs_sender cs_sender;
typedef struct cs_sending cs_sending; /* one request's pieces; owned by the worker */

/* `own`: the worker's own inbox, told CS_MESSAGE_SENT when a request's pieces are out (or failed).
 * cache and links are borrowed until destroy. */
cs_status cs_sender_create(cs_kv_cache *cache, uint32_t max_tokens, uint32_t max_blocks,
                           cs_link *own, cs_sender **out, cs_error *error);
/* Ends after the piece under way. */
void cs_sender_destroy(cs_sender *sender);

typedef struct cs_sending_options {
  uint64_t request;
  uint32_t epoch;
  uint32_t wire_dtype;          /* what the other side takes */
  uint64_t wait_us;             /* deadline of each wait */
  const cs_kv_sequence *blocks; /* all reserved; the table is copied */
  cs_link *to;
  cs_dock *dock; /* of the receiver behind `to`; NULL where it is not in this process */
} cs_sending_options;

/* CS_OUT_OF_MEMORY. *out is finished or cancelled, and destroyed when its SENT has arrived. */
cs_status cs_sender_begin(cs_sender *sender, const cs_sending_options *options, cs_sending **out,
                          cs_error *error);
/* Tokens of one layer can be taken as soon as `ready` (retained here) reaches `value`. */
cs_status cs_sender_add(cs_sender *sender, cs_sending *sending, uint32_t layer,
                        uint32_t first_token, uint32_t n_tokens, cs_semaphore *ready,
                        uint64_t value, cs_error *error);
/* Nothing more comes; prefill was over at prefill_end_us. SENT follows in any case. */
void cs_sender_finish(cs_sender *sender, cs_sending *sending, uint64_t prefill_end_us);
/* As finish, or after it while SENT has not arrived: what is not on its way yet is dropped and the
 * other side gets no end. */
void cs_sender_cancel(cs_sender *sender, cs_sending *sending);

/* After its SENT has arrived or its sender is gone. */
void cs_sending_destroy(cs_sending *sending);

#endif
