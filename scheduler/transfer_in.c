/* A piece is enqueued and the next one taken before its checksum is known: the cache blocks belong
 * to the request but nobody reads them before the commit, so a wrong piece that was written does
 * no harm. A verdict that comes late is kept in the receipt and told by its next call. Links keep
 * order, so each layer's pieces come in order of tokens, and that is all that has to be counted. */
#include "scheduler/transfer_in.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "scheduler/transfer_port.h"
#include "scheduler/wire.h"

#define MAX_PORTS       2
#define QUIESCE_TIMEOUT UINT64_C(5000000)

struct cs_receipt {
  cs_receiver *receiver;
  uint64_t request;
  const cs_kv_sequence *blocks;
  uint32_t n_cached;
  uint32_t *next_token; /* (n_layers) */
  uint64_t n_pieces;
  uint64_t n_direct;
  uint32_t direct_path;
  uint64_t bytes;
  cs_status status; /* the first failure */
  cs_error error;
};

typedef struct receive_slot {
  cs_receipt *receipt; /* NULL: idle */
  uint64_t expected_sum;
  uint32_t place; /* given back when the slot is done; 0: none */
  uint32_t layer;
  uint32_t first_token;
  uint32_t n_tokens;
} receive_slot;

typedef struct receive_port {
  cs_port *port; /* NULL until needed */
  receive_slot slots[CS_PORT_SLOTS];
  uint32_t next_slot;
} receive_port;

struct cs_receiver {
  cs_kv_cache *cache;
  uint32_t max_tokens;
  uint32_t max_blocks;
  receive_port ports[MAX_PORTS]; /* one a device */
  cs_dock *dock;
};

cs_status cs_receiver_create(cs_kv_cache *cache, uint32_t max_tokens, uint32_t max_blocks,
                             cs_receiver **out, cs_error *error) {
  *out = calloc(1, sizeof **out);
  if (!*out) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for KV transfer");
  **out = (cs_receiver){.cache = cache, .max_tokens = max_tokens, .max_blocks = max_blocks};
  const cs_status status = cs_dock_create(cache, &(*out)->dock, error);
  if (status) {
    free(*out);
    *out = NULL;
  }
  return status;
}

void cs_receiver_destroy(cs_receiver *receiver) {
  if (!receiver) return;
  for (uint32_t i = 0; i < MAX_PORTS; i++)
    cs_port_destroy(receiver->ports[i].port);
  cs_dock_destroy(receiver->dock);
  free(receiver);
}

cs_dock *cs_receiver_dock(cs_receiver *receiver) {
  return receiver->dock;
}

/* A repeated message must not free what the first one reads: only a place that nobody claimed. */
void cs_receiver_drop(cs_receiver *receiver, const cs_kv_piece_message *piece) {
  if (piece->place) cs_dock_drop(receiver->dock, piece->place);
}

cs_kv_wire cs_receiver_wire(const cs_receiver *receiver) {
  return cs_kv_cache_form(receiver->cache)->wire;
}

cs_status cs_receipt_create(cs_receiver *receiver, uint64_t request, const cs_kv_sequence *blocks,
                            uint32_t n_cached, cs_receipt **out, cs_error *error) {
  *out = NULL;
  cs_receipt *const receipt = calloc(1, sizeof *receipt);
  const uint32_t n_layers = cs_receiver_wire(receiver).n_layers;
  uint32_t *const next_token = calloc((size_t)n_layers + 1, sizeof *next_token);
  if (!receipt || !next_token) {
    free(receipt);
    free(next_token);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for KV transfer");
  }
  *receipt = (cs_receipt){.receiver = receiver,
                          .request = request,
                          .blocks = blocks,
                          .n_cached = n_cached,
                          .next_token = next_token,
                          .error = CS_ERROR_INIT};
  *out = receipt;
  return CS_OK;
}

static cs_status fail(cs_receipt *receipt, cs_status status, const cs_error *error) {
  if (receipt->status) return status;
  receipt->status = status;
  receipt->error = *error;
  return status;
}

static cs_status fail_piece(cs_receipt *receipt, uint32_t layer, uint32_t first_token,
                            uint32_t n_tokens, const char *why) {
  cs_error error = CS_ERROR_INIT;
  const cs_status status =
      cs_error_set(&error, CS_CORRUPT, "KV piece of request %llu, layer %u, tokens %u to %llu: %s",
                   (unsigned long long)receipt->request, layer, first_token,
                   (unsigned long long)first_token + (n_tokens ? n_tokens - 1 : 0), why);
  return fail(receipt, status, &error);
}

static cs_status told(const cs_receipt *receipt, cs_error *error) {
  if (receipt->status && error && error->struct_size >= sizeof *error) *error = receipt->error;
  return receipt->status;
}

static void finish_slot(receive_port *port, uint32_t index, uint64_t timeout_us) {
  receive_slot *const slot = &port->slots[index];
  cs_receipt *const receipt = slot->receipt;
  if (!receipt) return;
  slot->receipt = NULL;
  cs_error error = CS_ERROR_INIT;
  uint64_t sum;
  const cs_status status = cs_port_finish_scatter(port->port, index, timeout_us, &sum, &error);
  if (status)
    fail(receipt, status, &error);
  else if (sum != slot->expected_sum)
    fail_piece(receipt, slot->layer, slot->first_token, slot->n_tokens,
               "damaged on the way, its checksum differs");
  if (!slot->place) return;
  /* Doubtful bytes on a direct path: the next pieces go through host memory. */
  if (status || sum != slot->expected_sum) cs_dock_fail(receipt->receiver->dock, slot->place);
  cs_dock_give(receipt->receiver->dock, slot->place);
}

static void finish_all(cs_receiver *receiver, uint64_t timeout_us) {
  for (uint32_t i = 0; i < MAX_PORTS; i++)
    for (uint32_t k = 0; k < CS_PORT_SLOTS; k++)
      finish_slot(&receiver->ports[i], (receiver->ports[i].next_slot + k) % CS_PORT_SLOTS,
                  timeout_us);
}

void cs_receipt_destroy(cs_receipt *receipt) {
  if (!receipt) return;
  finish_all(receipt->receiver, QUIESCE_TIMEOUT);
  free(receipt->next_token);
  free(receipt);
}

static cs_status find_port(cs_receiver *receiver, cs_device *device, receive_port **out,
                           cs_error *error) {
  const cs_port_options options = {.cache = receiver->cache,
                                   .device = device,
                                   .op = CS_OP_KV_SCATTER,
                                   .wire_dtype = cs_receiver_wire(receiver).dtype,
                                   .max_tokens = receiver->max_tokens,
                                   .max_blocks = receiver->max_blocks};
  for (uint32_t i = 0; i < MAX_PORTS; i++) {
    *out = &receiver->ports[i];
    if (!(*out)->port) return cs_port_create(&options, &(*out)->port, error);
    if (cs_port_device((*out)->port) == device) return CS_OK;
  }
  return cs_error_set(error, CS_EXHAUSTED, "KV transfer: too many devices");
}

/* Whether the piece is the next of its layer, in the form that was asked for. */
static cs_status check_piece(cs_receipt *receipt, const cs_kv_piece_message *piece) {
  const cs_kv_wire wire = cs_receiver_wire(receipt->receiver);
  const char *why = NULL;
  uint64_t bytes = 0;
  if (piece->layer >= wire.n_layers)
    why = "there is no such layer";
  else if (piece->first_token != receipt->next_token[piece->layer])
    why = "not the next one";
  else if (piece->n_tokens == 0 || piece->n_tokens > receipt->n_cached - piece->first_token)
    why = "past the end of what was asked for";
  else if (piece->dtype != wire.dtype)
    why = "not in the number format asked for";
  else if (cs_wire_bytes(&wire, piece->n_tokens, &bytes) ||
           piece->payload.bytes != (piece->place ? 0 : bytes))
    why = "of the wrong size";
  if (!why) return CS_OK;
  return fail_piece(receipt, piece->layer, piece->first_token, piece->n_tokens, why);
}

/* The buffer that the piece names, large enough for it; NULL when its payload has the bytes. */
static cs_status claim(cs_receipt *receipt, const receive_port *port,
                       const cs_kv_piece_message *piece, uint64_t bytes, cs_buffer **source,
                       cs_error *error) {
  *source = NULL;
  if (!piece->place) return CS_OK;
  const cs_status status = cs_dock_claim(receipt->receiver->dock, piece->place, piece->layer,
                                         source, &receipt->direct_path, error);
  if (status) return status;
  receipt->n_direct++;
  if (cs_port_has_op(port->port) && cs_buffer_bytes(*source) >= bytes) return CS_OK;
  cs_dock_give(receipt->receiver->dock, piece->place);
  return cs_error_set(error, CS_CORRUPT, "what lies at place %u cannot be taken", piece->place);
}

static cs_status write_piece(cs_receipt *receipt, const cs_kv_piece_message *piece, uint64_t bytes,
                             uint64_t timeout_us, cs_error *error) {
  cs_receiver *const receiver = receipt->receiver;
  receive_port *port;
  cs_buffer *source = NULL;
  cs_status status =
      find_port(receiver, cs_kv_cache_device(receiver->cache, piece->layer), &port, error);
  if (!status) status = claim(receipt, port, piece, bytes, &source, error);
  if (status) return status;
  const uint32_t slot = port->next_slot;
  finish_slot(port, slot, timeout_us);
  const cs_port_range range = {.blocks = receipt->blocks->blocks,
                               .n_blocks = receipt->blocks->n_blocks,
                               .layer = piece->layer,
                               .first_token = piece->first_token,
                               .n_tokens = piece->n_tokens};
  port->slots[slot] = (receive_slot){.receipt = receipt,
                                     .expected_sum = piece->sum,
                                     .place = piece->place,
                                     .layer = piece->layer,
                                     .first_token = piece->first_token,
                                     .n_tokens = piece->n_tokens};
  port->next_slot = (slot + 1) % CS_PORT_SLOTS;
  status =
      cs_port_scatter(port->port, slot, &range, piece->payload.data, source, timeout_us, error);
  if (!status) return CS_OK;
  port->slots[slot].receipt = NULL;
  if (source) cs_dock_give(receiver->dock, piece->place);
  return status;
}

cs_status cs_receipt_piece(cs_receipt *receipt, const cs_kv_piece_message *piece,
                           uint64_t timeout_us, cs_error *error) {
  if (receipt->status || check_piece(receipt, piece)) {
    cs_receiver_drop(receipt->receiver, piece);
    return told(receipt, error);
  }
  cs_error own = CS_ERROR_INIT;
  const cs_kv_wire wire = cs_receiver_wire(receipt->receiver);
  uint64_t bytes = 0;
  (void)cs_wire_bytes(&wire, piece->n_tokens, &bytes); /* it was computed by check_piece */
  const cs_status status = write_piece(receipt, piece, bytes, timeout_us, &own);
  if (status) {
    fail(receipt, status, &own);
    cs_receiver_drop(receipt->receiver, piece);
  }
  receipt->next_token[piece->layer] += piece->n_tokens;
  receipt->n_pieces++;
  receipt->bytes += bytes;
  return told(receipt, error);
}

void cs_receipt_progress(const cs_receipt *receipt, uint32_t *layer, uint32_t *n_tokens) {
  const uint32_t n_layers = cs_receiver_wire(receipt->receiver).n_layers;
  for (*layer = 0; *layer + 1 < n_layers; ++*layer)
    if (receipt->next_token[*layer] < receipt->n_cached) break;
  *n_tokens = receipt->next_token[*layer];
}

cs_status cs_receipt_commit(cs_receipt *receipt, uint64_t n_pieces_sent, uint64_t timeout_us,
                            cs_commit_message *out, cs_error *error) {
  finish_all(receipt->receiver, timeout_us);
  if (receipt->status) return told(receipt, error);
  uint32_t layer, n_tokens;
  cs_receipt_progress(receipt, &layer, &n_tokens);
  if (n_tokens < receipt->n_cached || receipt->n_pieces != n_pieces_sent)
    fail_piece(receipt, layer, n_tokens, receipt->n_cached - n_tokens, "missing");
  if (receipt->status) return told(receipt, error);
  out->n_pieces = receipt->n_pieces;
  out->bytes = receipt->bytes;
  out->n_direct = receipt->n_direct;
  out->direct_path = receipt->direct_path;
  return CS_OK;
}
