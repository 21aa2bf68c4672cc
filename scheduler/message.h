/* What router and workers say to each other: serialized, fixed little-endian, checked when read, so
 * that a worker may live in this process, in another, or on another host.
 *
 *   router -> decode    DECODE, CANCEL, STATS_REQUEST, SHUTDOWN
 *   router -> prefill   PREFILL, CANCEL, ...
 *   prefill -> decode   KV_PIECE ..., KV_END
 *   worker -> router    KV_OFFER, KV_ACCEPT, COMMIT, PROGRESS, TOKEN, LOGITS, STATS
 *                       and for each PREFILL or DECODE exactly one DONE or ERROR
 *
 * Between the two processes when the worker is in another one:
 *   session -> service  ATTACH, PEER, DEVICES_REQUEST
 *   service -> session  LOADING ..., FALLBACK ..., ATTACHED; PEERED; DEVICE ...; or ERROR
 * and to whoever waits for a process that is gone, from its own side of the network: PEER_LOST.
 *
 * A frame is 32 bytes of head (magic, version, kind, bytes, request, epoch, sender) and a body
 * whose fields follow each other as in the structs below. */
#ifndef SCHEDULER_MESSAGE_H
#define SCHEDULER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"
#include "models/sampler.h"

#define CS_MESSAGE_VERSION    2
#define CS_MESSAGE_HEAD_BYTES 32
#define CS_MESSAGE_MAX_BYTES  (UINT64_C(1) << 32)

typedef enum cs_message_kind {
  CS_MESSAGE_PREFILL = 1,
  CS_MESSAGE_DECODE,
  CS_MESSAGE_KV_OFFER,
  CS_MESSAGE_KV_ACCEPT,
  CS_MESSAGE_KV_PIECE,
  CS_MESSAGE_KV_END,
  CS_MESSAGE_COMMIT,
  CS_MESSAGE_TOKEN,
  CS_MESSAGE_LOGITS,
  CS_MESSAGE_DONE,
  CS_MESSAGE_ERROR,
  CS_MESSAGE_CANCEL,
  CS_MESSAGE_STATS_REQUEST,
  CS_MESSAGE_STATS,
  CS_MESSAGE_SENT, /* a worker's transfer engine to its own worker: all pieces are on their way */
  CS_MESSAGE_SHUTDOWN,
  CS_MESSAGE_PROGRESS, /* a chunk of a prompt is computed: the worker is alive */
  CS_MESSAGE_ATTACH,
  CS_MESSAGE_LOADING,
  CS_MESSAGE_FALLBACK,
  CS_MESSAGE_ATTACHED,
  CS_MESSAGE_PEER,
  CS_MESSAGE_PEERED,
  CS_MESSAGE_PEER_LOST, /* carries an error */
  CS_MESSAGE_DEVICES_REQUEST,
  CS_MESSAGE_DEVICE,
  CS_MESSAGE_LIMIT
} cs_message_kind;

/* Bytes inside a frame, borrowed from it once decoded. Little-endian elements, any alignment. */
typedef struct cs_blob {
  const void *data;
  uint64_t bytes;
} cs_blob;

/* The form in which KV crosses: head-major, K (n_kv_heads, n, k_width) then V (n_kv_heads, n,
 * v_width) for n tokens of one layer. */
typedef struct cs_kv_wire {
  uint64_t fingerprint; /* of the model: equal on both sides */
  uint32_t dtype;       /* CS_DTYPE_F32, F16 or BF16 */
  uint32_t n_layers;
  uint32_t n_kv_heads;
  uint32_t k_width;
  uint32_t v_width;
} cs_kv_wire;

/* Compute KV of all `tokens`, positions 0 and up, and send it to a peer. */
typedef struct cs_prefill_message {
  cs_kv_wire wire;  /* what the peer offered to take */
  uint32_t peer;    /* the worker's number for its link to the decode side */
  uint32_t score;   /* 1: send the logits of every position, too */
  uint64_t wait_us; /* longest pause in the transfer */
  cs_blob tokens;   /* int32 */
} cs_prefill_message;

/* Compute from position n_cached on. With n_cached > 0 the KV of the positions before comes from a
 * peer, and nothing is computed until all of it is there and verified. */
typedef struct cs_decode_message {
  uint32_t n_cached; /* less than the number of tokens */
  uint32_t score;    /* 1: logits of every position from n_cached on, and no generation */
  uint32_t n_output; /* tokens to generate at most */
  uint32_t n_prompt; /* tokens before the first generated one; the rest are replayed */
  cs_sampler_params sampler;
  uint64_t wait_us; /* longest pause in the transfer */
  cs_blob biases;   /* cs_logit_bias: int32 and float32 each */
  cs_blob ends;     /* int32: tokens that end the text and are not delivered */
  cs_blob tokens;   /* int32: the prompt and what was generated before */
} cs_decode_message;

typedef struct cs_kv_piece_message {
  uint32_t layer;
  uint32_t first_token;
  uint32_t n_tokens;
  uint32_t dtype;
  uint32_t place; /* 0: the payload has the bytes; else they lie in this berth (transfer_dock.h) */
  uint64_t sum;   /* of the bytes, by the rule of consort/ops.h */
  cs_blob payload;
} cs_kv_piece_message;

typedef struct cs_kv_end_message {
  uint64_t n_pieces;
  uint64_t since_first_us;   /* from the first gather to this message */
  uint64_t since_prefill_us; /* from the end of the last prefill op to this message */
} cs_kv_end_message;

typedef struct cs_commit_message {
  uint64_t n_pieces; /* all verified */
  uint64_t bytes;
  uint64_t transfer_us; /* first gather to commit */
  uint64_t exposed_us;  /* last prefill op to commit */
  uint64_t n_direct;    /* pieces that did not go through host memory */
  uint32_t direct_path; /* by which path they came: CS_KV_PATH_* */
} cs_commit_message;

typedef struct cs_token_message {
  uint32_t index; /* counted from the first generated token of the request */
  int32_t token;
  cs_blob logprobs; /* cs_token_logprob, int32 and float32 each: as many as were asked for */
} cs_token_message;

typedef struct cs_logits_message {
  uint32_t first_row; /* position in the sequence */
  uint32_t n_rows;
  cs_blob rows; /* float32 (n_rows, n_vocab) */
} cs_logits_message;

#define CS_DONE_LENGTH    0 /* as many tokens as asked for, or all of the work */
#define CS_DONE_END       1 /* an end-of-text token */
#define CS_DONE_CANCELLED 2
#define CS_DONE_CONTEXT   3 /* the context is full */
typedef struct cs_done_message {
  uint32_t reason; /* CS_DONE_* */
  uint32_t n_prefill_tokens;
  uint32_t n_decode_tokens;
  uint32_t n_decode_steps;
  uint64_t prefill_us;
  uint64_t decode_us;
} cs_done_message;

/* SENT carries one, too: status 0 when all pieces went out. */
typedef struct cs_error_message {
  int32_t status;
  int32_t op_index;
  int64_t vendor_code;
  cs_blob text; /* not NUL-terminated */
} cs_error_message;

typedef struct cs_stats_message {
  uint32_t n_blocks;
  uint32_t n_blocks_free;
  uint32_t n_requests;
  uint32_t n_steps_cached;
  uint64_t n_steps;
  uint64_t n_tokens;
} cs_stats_message;

/* Make a worker of a device for this session. Numbers as in cs_worker_spec. Texts are not
 * NUL-terminated, here and below. */
typedef struct cs_attach_message {
  uint64_t fingerprint; /* of the model that the session has opened */
  uint64_t step_timeout_us;
  uint32_t number;
  uint32_t n_context;
  uint32_t n_sequences;
  uint32_t n_batch;
  uint32_t kv_dtype;
  uint32_t fallback;
  uint32_t n_threads;
  uint32_t deterministic;
  cs_blob device; /* "NAME:INDEX" */
  cs_blob model;  /* its file's path, or how it is made ("shape:NAME:FORMAT:SEED") */
} cs_attach_message;

typedef struct cs_loading_message {
  uint64_t bytes_done;
  uint64_t bytes_total;
} cs_loading_message;

/* An op that the device does not do. */
typedef struct cs_fallback_message {
  uint32_t op;
  uint32_t count; /* a step */
  uint64_t bytes_per_token;
  cs_blob device; /* that does it instead */
  cs_blob reason;
} cs_fallback_message;

typedef struct cs_attached_message {
  uint32_t kv_dtype;
  cs_blob device;  /* its whole name */
  cs_blob address; /* of the process, for others to join */
} cs_attached_message;

/* Meet the other worker of the session: with no address it is the session's own process. */
typedef struct cs_peer_message {
  uint32_t slot;     /* PREFILL names the peer by this number */
  uint32_t receives; /* 1: KV comes from it, 0: goes to it */
  cs_blob send_key;  /* CS_DOOR_KEY_BYTES, or empty */
  cs_blob receive_key;
  cs_blob address;
} cs_peer_message;

/* One device that a process offers, of n_devices; the only one with n_devices 0 is none. */
typedef struct cs_device_message {
  uint32_t index;
  uint32_t n_devices;
  uint32_t number; /* within its plugin */
  uint32_t type;
  uint64_t flags;
  uint64_t dtypes;
  uint64_t kv_dtypes;
  uint64_t memory_bytes;
  uint64_t memory_free_bytes;
  uint32_t concurrency;
  uint32_t n_sessions;       /* that have a worker on it */
  uint64_t n_kv_blocks_used; /* by their requests */
  cs_blob plugin;
  cs_blob version;
  cs_blob vendor;
  cs_blob description;
  cs_blob driver;
  cs_blob uuid;
  cs_blob memory_domain;
  cs_blob compute_domain;
} cs_device_message;

typedef struct cs_message {
  cs_message_kind kind;
  uint32_t epoch; /* of the request: what comes from an earlier attempt is dropped */
  uint64_t request;
  uint32_t sender; /* the worker's number; 0 from the router */
  union {
    cs_prefill_message prefill;
    cs_decode_message decode;
    cs_kv_wire wire; /* KV_OFFER and KV_ACCEPT */
    cs_kv_piece_message piece;
    cs_kv_end_message end;
    cs_commit_message commit;
    cs_token_message token;
    cs_logits_message logits;
    cs_done_message done;
    cs_error_message error; /* ERROR, SENT and PEER_LOST */
    cs_stats_message stats;
    cs_attach_message attach;
    cs_loading_message loading;
    cs_fallback_message fallback;
    cs_attached_message attached;
    cs_peer_message peer;
    cs_device_message device;
  };
} cs_message;

/* A message in its serialized form. */
typedef struct cs_frame cs_frame;
struct cs_frame {
  uint64_t arrived_us; /* set by the receiving end of a link, its own clock */
  size_t bytes;
  uint8_t *data; /* in the same allocation, aligned to 64 bytes */
  /* Told before the frame is freed; true: it keeps the frame. NULL: nobody. For links that count
   * what is on its way. */
  bool (*on_destroy)(cs_frame *frame);
  void *owner; /* for on_destroy */
};

/* An empty frame of `bytes`; NULL when out of memory. */
cs_frame *cs_frame_create(size_t bytes);
void cs_frame_destroy(cs_frame *frame);

/* Serializes. *out is owned by the caller. */
cs_status cs_message_encode(const cs_message *message, cs_frame **out, cs_error *error);

/* A KV_PIECE of which the frame holds the first frame_bytes at most; *tail (borrowed from the
 * payload) is the rest. */
cs_status cs_message_encode_piece(const cs_message *message, size_t frame_bytes, cs_frame **out,
                                  cs_blob *tail, cs_error *error);

/* Reads. Blobs are borrowed from `data`. CS_CORRUPT names the field that does not fit; any bytes
 * are safe to give. */
cs_status cs_message_decode(const uint8_t *data, size_t bytes, cs_message *out, cs_error *error);

/* "KV_PIECE"; "?" for another number. */
const char *cs_message_kind_name(uint32_t kind);

/* int32 elements of a blob. */
static inline size_t cs_blob_count_i32(cs_blob blob) {
  return (size_t)(blob.bytes / 4);
}
void cs_blob_read_i32(cs_blob blob, int32_t *out);

/* A text as a blob, borrowed, and a blob as a NUL-terminated text, cut to fit. NULs inside a text
 * end it. */
cs_blob cs_blob_of_text(const char *text);
void cs_blob_read_text(cs_blob blob, char *out, size_t out_bytes);

/* An error as a message says it: borrowed from *error. */
cs_error_message cs_message_of_error(cs_status status, const cs_error *error);

/* What an ERROR, SENT or PEER_LOST message says, as an error. Returns its status, never CS_OK. */
cs_status cs_message_get_error(const cs_error_message *message, cs_error *error);

/* Entry for fuzzing: decodes, and encodes again what was accepted. 0, or -1 when that is not the
 * same bytes. */
int cs_message_fuzz(const uint8_t *data, size_t bytes);

#endif
