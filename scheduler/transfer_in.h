/* The receiving half of the transfer engine: pieces are written into reserved blocks of the cache,
 * their checksums compared, and a request is committed once, when all of it is there and right.
 * Used by the worker's thread. */
#ifndef SCHEDULER_TRANSFER_IN_H
#define SCHEDULER_TRANSFER_IN_H

#include <stdint.h>

#include "models/kv_pool.h"
#include "scheduler/message.h"
#include "scheduler/transfer_dock.h"
#include "scheduler/worker_cache.h"

typedef struct cs_receiver cs_receiver;
typedef struct cs_receipt cs_receipt; /* of one request */

/* `cache` is borrowed until destroy. */
cs_status cs_receiver_create(cs_kv_cache *cache, uint32_t max_tokens, uint32_t max_blocks,
                             cs_receiver **out, cs_error *error);
void cs_receiver_destroy(cs_receiver *receiver);

/* Where senders of this process may put pieces; borrowed. */
cs_dock *cs_receiver_dock(cs_receiver *receiver);
/* Frees what holds a piece that nobody will take any more. */
void cs_receiver_drop(cs_receiver *receiver, const cs_kv_piece_message *piece);

/* The form in which pieces have to come. */
cs_kv_wire cs_receiver_wire(const cs_receiver *receiver);

/* Expects the KV of positions 0 to n_cached - 1 of every layer in `blocks` (borrowed, reserved). */
cs_status cs_receipt_create(cs_receiver *receiver, uint64_t request, const cs_kv_sequence *blocks,
                            uint32_t n_cached, cs_receipt **out, cs_error *error);
/* Waits until nothing is being written for it any more. */
void cs_receipt_destroy(cs_receipt *receipt);

/* Takes one piece, from its payload or its place. CS_CORRUPT names the piece (request, layer,
 * tokens) that is repeated, out of order, of the wrong form, or was damaged on the way; that may be
 * an earlier one. */
cs_status cs_receipt_piece(cs_receipt *receipt, const cs_kv_piece_message *piece,
                           uint64_t timeout_us, cs_error *error);
/* After the sender's end: waits, verifies all. CS_CORRUPT names the first piece that is missing or
 * damaged. Fills n_pieces, bytes and
 * the direct ones' count and path of *out. */
cs_status cs_receipt_commit(cs_receipt *receipt, uint64_t n_pieces_sent, uint64_t timeout_us,
                            cs_commit_message *out, cs_error *error);
/* The first layer that is not complete and how many of its tokens are there, for messages. */
void cs_receipt_progress(const cs_receipt *receipt, uint32_t *layer, uint32_t *n_tokens);

#endif
