/* One function for each body visits its fields in order, and serves three passes: measuring,
 * writing and reading. So the two directions cannot drift apart, and a reader checks every length
 * where a writer writes it. */
#include "scheduler/message.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

#define FRAME_MAGIC     UINT32_C(0x4d435343) /* "CSCM" */
#define FRAME_ALIGNMENT 64

typedef enum codec_pass { PASS_MEASURE, PASS_WRITE, PASS_READ } codec_pass;

typedef struct message_codec {
  codec_pass pass;
  uint8_t *to;         /* writing */
  const uint8_t *from; /* reading */
  size_t at;
  size_t limit;
  uint64_t lent_bytes;   /* writing: of the last blob, left out at its end */
  const char *bad_field; /* the first that did not fit */
} message_codec;

static bool codec_take(message_codec *codec, size_t bytes, const char *field) {
  if (codec->bad_field) return false;
  if (codec->pass != PASS_MEASURE && bytes > codec->limit - codec->at) {
    codec->bad_field = field;
    return false;
  }
  return true;
}

static void codec_integer(message_codec *codec, uint64_t *value, size_t bytes, const char *field) {
  if (!codec_take(codec, bytes, field)) return;
  if (codec->pass == PASS_WRITE)
    for (size_t i = 0; i < bytes; i++)
      codec->to[codec->at + i] = (uint8_t)(*value >> (8 * i));
  if (codec->pass == PASS_READ) {
    *value = 0;
    for (size_t i = 0; i < bytes; i++)
      *value |= (uint64_t)codec->from[codec->at + i] << (8 * i);
  }
  codec->at += bytes;
}

static void codec_u64(message_codec *codec, uint64_t *value, const char *field) {
  codec_integer(codec, value, 8, field);
}

static void codec_i64(message_codec *codec, int64_t *value, const char *field) {
  uint64_t bits = (uint64_t)*value;
  codec_integer(codec, &bits, 8, field);
  memcpy(value, &bits, sizeof bits);
}

static void codec_u32(message_codec *codec, uint32_t *value, const char *field) {
  uint64_t wide = *value;
  codec_integer(codec, &wide, 4, field);
  *value = (uint32_t)wide;
}

static void codec_i32(message_codec *codec, int32_t *value, const char *field) {
  uint32_t bits;
  memcpy(&bits, value, sizeof bits);
  codec_u32(codec, &bits, field);
  memcpy(value, &bits, sizeof bits);
}

static void codec_f32(message_codec *codec, float *value, const char *field) {
  uint32_t bits;
  memcpy(&bits, value, sizeof bits);
  codec_u32(codec, &bits, field);
  memcpy(value, &bits, sizeof bits);
}

/* A length and that many bytes, a multiple of `element` of them. */
static void codec_blob(message_codec *codec, cs_blob *blob, size_t element, const char *field) {
  codec_u64(codec, &blob->bytes, field);
  if (blob->bytes % element != 0 || blob->bytes > CS_MESSAGE_MAX_BYTES) {
    if (!codec->bad_field) codec->bad_field = field;
    return;
  }
  if (!codec_take(codec, (size_t)blob->bytes, field)) return;
  if (codec->pass == PASS_READ) blob->data = codec->from + codec->at;
  if (codec->pass == PASS_WRITE && blob->bytes > codec->lent_bytes)
    memcpy(codec->to + codec->at, blob->data, (size_t)(blob->bytes - codec->lent_bytes));
  codec->at += (size_t)blob->bytes;
}

static void visit_wire(message_codec *codec, cs_kv_wire *wire) {
  codec_u64(codec, &wire->fingerprint, "fingerprint");
  codec_u32(codec, &wire->dtype, "dtype");
  codec_u32(codec, &wire->n_layers, "n_layers");
  codec_u32(codec, &wire->n_kv_heads, "n_kv_heads");
  codec_u32(codec, &wire->k_width, "k_width");
  codec_u32(codec, &wire->v_width, "v_width");
}

static void visit_prefill(message_codec *codec, cs_prefill_message *body) {
  visit_wire(codec, &body->wire);
  codec_u32(codec, &body->peer, "peer");
  codec_u32(codec, &body->score, "score");
  codec_u64(codec, &body->wait_us, "wait_us");
  codec_blob(codec, &body->tokens, 4, "tokens");
}

static void visit_decode(message_codec *codec, cs_decode_message *body) {
  codec_u32(codec, &body->n_cached, "n_cached");
  codec_u32(codec, &body->score, "score");
  codec_u32(codec, &body->n_output, "n_output");
  codec_u32(codec, &body->n_prompt, "n_prompt");
  codec_f32(codec, &body->sampler.temperature, "temperature");
  codec_u32(codec, &body->sampler.top_k, "top_k");
  codec_f32(codec, &body->sampler.top_p, "top_p");
  codec_f32(codec, &body->sampler.min_p, "min_p");
  codec_u64(codec, &body->sampler.seed, "seed");
  codec_f32(codec, &body->sampler.repetition_penalty, "repetition_penalty");
  codec_f32(codec, &body->sampler.frequency_penalty, "frequency_penalty");
  codec_f32(codec, &body->sampler.presence_penalty, "presence_penalty");
  codec_u32(codec, &body->sampler.n_logprobs, "n_logprobs");
  codec_u64(codec, &body->wait_us, "wait_us");
  codec_blob(codec, &body->biases, sizeof(cs_logit_bias), "biases");
  codec_blob(codec, &body->ends, 4, "ends");
  codec_blob(codec, &body->tokens, 4, "tokens");
}

static void visit_piece(message_codec *codec, cs_kv_piece_message *body) {
  codec_u32(codec, &body->layer, "layer");
  codec_u32(codec, &body->first_token, "first_token");
  codec_u32(codec, &body->n_tokens, "n_tokens");
  codec_u32(codec, &body->dtype, "dtype");
  codec_u32(codec, &body->place, "place");
  codec_u64(codec, &body->sum, "sum");
  codec_blob(codec, &body->payload, 1, "payload");
}

static void visit_end(message_codec *codec, cs_kv_end_message *body) {
  codec_u64(codec, &body->n_pieces, "n_pieces");
  codec_u64(codec, &body->since_first_us, "since_first_us");
  codec_u64(codec, &body->since_prefill_us, "since_prefill_us");
}

static void visit_commit(message_codec *codec, cs_commit_message *body) {
  codec_u64(codec, &body->n_pieces, "n_pieces");
  codec_u64(codec, &body->bytes, "bytes");
  codec_u64(codec, &body->transfer_us, "transfer_us");
  codec_u64(codec, &body->exposed_us, "exposed_us");
  codec_u64(codec, &body->n_direct, "n_direct");
  codec_u32(codec, &body->direct_path, "direct_path");
}

static void visit_done(message_codec *codec, cs_done_message *body) {
  codec_u32(codec, &body->reason, "reason");
  codec_u32(codec, &body->n_prefill_tokens, "n_prefill_tokens");
  codec_u32(codec, &body->n_decode_tokens, "n_decode_tokens");
  codec_u32(codec, &body->n_decode_steps, "n_decode_steps");
  codec_u64(codec, &body->prefill_us, "prefill_us");
  codec_u64(codec, &body->decode_us, "decode_us");
}

static void visit_stats(message_codec *codec, cs_stats_message *body) {
  codec_u32(codec, &body->n_blocks, "n_blocks");
  codec_u32(codec, &body->n_blocks_free, "n_blocks_free");
  codec_u32(codec, &body->n_requests, "n_requests");
  codec_u32(codec, &body->n_steps_cached, "n_steps_cached");
  codec_u64(codec, &body->n_steps, "n_steps");
  codec_u64(codec, &body->n_tokens, "n_tokens");
}

static void visit_error(message_codec *codec, cs_error_message *body) {
  codec_i32(codec, &body->status, "status");
  codec_i32(codec, &body->op_index, "op_index");
  codec_i64(codec, &body->vendor_code, "vendor_code");
  codec_blob(codec, &body->text, 1, "text");
}

static void visit_attach(message_codec *codec, cs_attach_message *body) {
  codec_u64(codec, &body->fingerprint, "fingerprint");
  codec_u64(codec, &body->step_timeout_us, "step_timeout_us");
  codec_u32(codec, &body->number, "number");
  codec_u32(codec, &body->n_context, "n_context");
  codec_u32(codec, &body->n_sequences, "n_sequences");
  codec_u32(codec, &body->n_batch, "n_batch");
  codec_u32(codec, &body->kv_dtype, "kv_dtype");
  codec_u32(codec, &body->fallback, "fallback");
  codec_u32(codec, &body->n_threads, "n_threads");
  codec_u32(codec, &body->deterministic, "deterministic");
  codec_blob(codec, &body->device, 1, "device");
  codec_blob(codec, &body->model, 1, "model");
}

static void visit_fallback(message_codec *codec, cs_fallback_message *body) {
  codec_u32(codec, &body->op, "op");
  codec_u32(codec, &body->count, "count");
  codec_u64(codec, &body->bytes_per_token, "bytes_per_token");
  codec_blob(codec, &body->device, 1, "device");
  codec_blob(codec, &body->reason, 1, "reason");
}

static void visit_attached(message_codec *codec, cs_attached_message *body) {
  codec_u32(codec, &body->kv_dtype, "kv_dtype");
  codec_blob(codec, &body->device, 1, "device");
  codec_blob(codec, &body->address, 1, "address");
}

static void visit_peer(message_codec *codec, cs_peer_message *body) {
  codec_u32(codec, &body->slot, "slot");
  codec_u32(codec, &body->receives, "receives");
  codec_blob(codec, &body->send_key, 1, "send_key");
  codec_blob(codec, &body->receive_key, 1, "receive_key");
  codec_blob(codec, &body->address, 1, "address");
}

static void visit_device(message_codec *codec, cs_device_message *body) {
  codec_u32(codec, &body->index, "index");
  codec_u32(codec, &body->n_devices, "n_devices");
  codec_u32(codec, &body->number, "number");
  codec_u32(codec, &body->type, "type");
  codec_u64(codec, &body->flags, "flags");
  codec_u64(codec, &body->dtypes, "dtypes");
  codec_u64(codec, &body->kv_dtypes, "kv_dtypes");
  codec_u64(codec, &body->memory_bytes, "memory_bytes");
  codec_u64(codec, &body->memory_free_bytes, "memory_free_bytes");
  codec_u32(codec, &body->concurrency, "concurrency");
  codec_u32(codec, &body->n_sessions, "n_sessions");
  codec_u64(codec, &body->n_kv_blocks_used, "n_kv_blocks_used");
  codec_blob(codec, &body->plugin, 1, "plugin");
  codec_blob(codec, &body->version, 1, "version");
  codec_blob(codec, &body->vendor, 1, "vendor");
  codec_blob(codec, &body->description, 1, "description");
  codec_blob(codec, &body->driver, 1, "driver");
  codec_blob(codec, &body->uuid, 1, "uuid");
  codec_blob(codec, &body->memory_domain, 1, "memory_domain");
  codec_blob(codec, &body->compute_domain, 1, "compute_domain");
}

/* What is said before and beside the requests. */
static void visit_service_body(message_codec *codec, cs_message *message) {
  switch (message->kind) {
  case CS_MESSAGE_ATTACH:
    visit_attach(codec, &message->attach);
    break;
  case CS_MESSAGE_LOADING:
    codec_u64(codec, &message->loading.bytes_done, "bytes_done");
    codec_u64(codec, &message->loading.bytes_total, "bytes_total");
    break;
  case CS_MESSAGE_FALLBACK:
    visit_fallback(codec, &message->fallback);
    break;
  case CS_MESSAGE_ATTACHED:
    visit_attached(codec, &message->attached);
    break;
  case CS_MESSAGE_PEER:
    visit_peer(codec, &message->peer);
    break;
  case CS_MESSAGE_DEVICE:
    visit_device(codec, &message->device);
    break;
  default:
    break; /* the others are their kind alone */
  }
}

static void visit_body(message_codec *codec, cs_message *message) {
  switch (message->kind) {
  case CS_MESSAGE_PREFILL:
    visit_prefill(codec, &message->prefill);
    break;
  case CS_MESSAGE_DECODE:
    visit_decode(codec, &message->decode);
    break;
  case CS_MESSAGE_KV_OFFER:
  case CS_MESSAGE_KV_ACCEPT:
    visit_wire(codec, &message->wire);
    break;
  case CS_MESSAGE_KV_PIECE:
    visit_piece(codec, &message->piece);
    break;
  case CS_MESSAGE_KV_END:
    visit_end(codec, &message->end);
    break;
  case CS_MESSAGE_COMMIT:
    visit_commit(codec, &message->commit);
    break;
  case CS_MESSAGE_TOKEN:
    codec_u32(codec, &message->token.index, "index");
    codec_i32(codec, &message->token.token, "token");
    codec_blob(codec, &message->token.logprobs, sizeof(cs_token_logprob), "logprobs");
    break;
  case CS_MESSAGE_LOGITS:
    codec_u32(codec, &message->logits.first_row, "first_row");
    codec_u32(codec, &message->logits.n_rows, "n_rows");
    codec_blob(codec, &message->logits.rows, 4, "rows");
    break;
  case CS_MESSAGE_DONE:
    visit_done(codec, &message->done);
    break;
  case CS_MESSAGE_SENT:
  case CS_MESSAGE_ERROR:
  case CS_MESSAGE_PEER_LOST:
    visit_error(codec, &message->error);
    break;
  case CS_MESSAGE_STATS:
    visit_stats(codec, &message->stats);
    break;
  default:
    visit_service_body(codec, message);
    break;
  }
}

static void visit_head(message_codec *codec, cs_message *message, uint64_t *bytes) {
  uint32_t magic = FRAME_MAGIC;
  uint64_t version = CS_MESSAGE_VERSION;
  uint64_t kind = (uint64_t)message->kind;
  codec_u32(codec, &magic, "magic");
  codec_integer(codec, &version, 2, "version");
  codec_integer(codec, &kind, 2, "kind");
  codec_u64(codec, bytes, "bytes");
  codec_u64(codec, &message->request, "request");
  codec_u32(codec, &message->epoch, "epoch");
  codec_u32(codec, &message->sender, "sender");
  message->kind = (cs_message_kind)kind;
  if (codec->bad_field || codec->pass != PASS_READ) return;
  if (magic != FRAME_MAGIC)
    codec->bad_field = "magic";
  else if (version != CS_MESSAGE_VERSION)
    codec->bad_field = "version";
  else if (kind < 1 || kind >= CS_MESSAGE_LIMIT)
    codec->bad_field = "kind";
  else if (*bytes != codec->limit)
    codec->bad_field = "bytes";
}

cs_frame *cs_frame_create(size_t bytes) {
  if (bytes > SIZE_MAX - 2 * FRAME_ALIGNMENT) return NULL;
  const size_t body = (bytes + FRAME_ALIGNMENT - 1) / FRAME_ALIGNMENT * FRAME_ALIGNMENT;
  cs_frame *const frame = aligned_alloc(FRAME_ALIGNMENT, FRAME_ALIGNMENT + body);
  if (!frame) return NULL;
  *frame = (cs_frame){.bytes = bytes, .data = (uint8_t *)frame + FRAME_ALIGNMENT};
  return frame;
}

void cs_frame_destroy(cs_frame *frame) {
  if (frame && frame->on_destroy && frame->on_destroy(frame)) return;
  free(frame);
}

static cs_status encoded_bytes(const cs_message *message, uint64_t *bytes, cs_error *error) {
  cs_message copy = *message;
  message_codec codec = {.pass = PASS_MEASURE};
  visit_head(&codec, &copy, bytes);
  visit_body(&codec, &copy);
  if (codec.bad_field)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s message: field %s has an impossible length",
                        cs_message_kind_name((uint32_t)message->kind), codec.bad_field);
  *bytes = codec.at;
  return CS_OK;
}

/* Without the last lent_bytes of the last field. */
static cs_status encode(const cs_message *message, uint64_t lent_bytes, uint64_t bytes,
                        cs_frame **out, cs_error *error) {
  cs_frame *const frame = cs_frame_create((size_t)(bytes - lent_bytes));
  if (!frame) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a message");
  cs_message copy = *message;
  message_codec codec = {
      .pass = PASS_WRITE, .to = frame->data, .limit = (size_t)bytes, .lent_bytes = lent_bytes};
  visit_head(&codec, &copy, &bytes);
  visit_body(&codec, &copy);
  *out = frame;
  return CS_OK;
}

cs_status cs_message_encode(const cs_message *message, cs_frame **out, cs_error *error) {
  *out = NULL;
  uint64_t bytes = 0;
  const cs_status status = encoded_bytes(message, &bytes, error);
  return status ? status : encode(message, 0, bytes, out, error);
}

/* A piece has one blob, which is its last field. */
cs_status cs_message_encode_piece(const cs_message *message, size_t frame_bytes, cs_frame **out,
                                  cs_blob *tail, cs_error *error) {
  *out = NULL;
  *tail = (cs_blob){NULL, 0};
  uint64_t bytes = 0;
  const cs_blob *const payload = &message->piece.payload;
  const cs_status status = encoded_bytes(message, &bytes, error);
  if (status) return status;
  if (bytes > frame_bytes && bytes - frame_bytes <= payload->bytes) {
    tail->bytes = bytes - frame_bytes;
    tail->data = (const uint8_t *)payload->data + (payload->bytes - tail->bytes);
  }
  return encode(message, tail->bytes, bytes, out, error);
}

cs_status cs_message_decode(const uint8_t *data, size_t bytes, cs_message *out, cs_error *error) {
  memset(out, 0, sizeof *out);
  message_codec codec = {.pass = PASS_READ, .from = data, .limit = bytes};
  uint64_t stated_bytes = 0;
  visit_head(&codec, out, &stated_bytes);
  if (!codec.bad_field) visit_body(&codec, out);
  if (!codec.bad_field && codec.at != bytes) codec.bad_field = "end";
  if (codec.bad_field)
    return cs_error_set(error, CS_CORRUPT, "message of %zu bytes: field %s does not fit", bytes,
                        codec.bad_field);
  return CS_OK;
}

const char *cs_message_kind_name(uint32_t kind) {
  static const char *const names[CS_MESSAGE_LIMIT] = {
      [CS_MESSAGE_PREFILL] = "PREFILL",   [CS_MESSAGE_DECODE] = "DECODE",
      [CS_MESSAGE_KV_OFFER] = "KV_OFFER", [CS_MESSAGE_KV_ACCEPT] = "KV_ACCEPT",
      [CS_MESSAGE_KV_PIECE] = "KV_PIECE", [CS_MESSAGE_KV_END] = "KV_END",
      [CS_MESSAGE_COMMIT] = "COMMIT",     [CS_MESSAGE_TOKEN] = "TOKEN",
      [CS_MESSAGE_LOGITS] = "LOGITS",     [CS_MESSAGE_DONE] = "DONE",
      [CS_MESSAGE_ERROR] = "ERROR",       [CS_MESSAGE_CANCEL] = "CANCEL",
      [CS_MESSAGE_STATS] = "STATS",       [CS_MESSAGE_STATS_REQUEST] = "STATS_REQUEST",
      [CS_MESSAGE_SHUTDOWN] = "SHUTDOWN", [CS_MESSAGE_SENT] = "SENT",
      [CS_MESSAGE_PROGRESS] = "PROGRESS", [CS_MESSAGE_ATTACH] = "ATTACH",
      [CS_MESSAGE_LOADING] = "LOADING",   [CS_MESSAGE_FALLBACK] = "FALLBACK",
      [CS_MESSAGE_ATTACHED] = "ATTACHED", [CS_MESSAGE_PEER] = "PEER",
      [CS_MESSAGE_PEERED] = "PEERED",     [CS_MESSAGE_PEER_LOST] = "PEER_LOST",
      [CS_MESSAGE_DEVICE] = "DEVICE",     [CS_MESSAGE_DEVICES_REQUEST] = "DEVICES_REQUEST",
  };
  return kind < CS_MESSAGE_LIMIT && names[kind] ? names[kind] : "?";
}

void cs_blob_read_i32(cs_blob blob, int32_t *out) {
  const uint8_t *const bytes = blob.data;
  for (size_t i = 0; i < cs_blob_count_i32(blob); i++) {
    const uint32_t bits = (uint32_t)bytes[4 * i] | (uint32_t)bytes[4 * i + 1] << 8 |
                          (uint32_t)bytes[4 * i + 2] << 16 | (uint32_t)bytes[4 * i + 3] << 24;
    memcpy(&out[i], &bits, sizeof bits);
  }
}

cs_blob cs_blob_of_text(const char *text) {
  return (cs_blob){text, text ? strlen(text) : 0};
}

void cs_blob_read_text(cs_blob blob, char *out, size_t out_bytes) {
  const size_t bytes = blob.bytes < out_bytes - 1 ? (size_t)blob.bytes : out_bytes - 1;
  if (bytes > 0) memcpy(out, blob.data, bytes);
  out[bytes] = '\0';
}

cs_error_message cs_message_of_error(cs_status status, const cs_error *error) {
  return (cs_error_message){.status = status,
                            .op_index = error->op_index,
                            .vendor_code = error->vendor_code,
                            .text = cs_blob_of_text(error->message)};
}

cs_status cs_message_get_error(const cs_error_message *message, cs_error *error) {
  const cs_status status = message->status ? message->status : CS_FAILED;
  const int bytes = message->text.bytes < CS_ERROR_MESSAGE_BYTES ? (int)message->text.bytes
                                                                 : CS_ERROR_MESSAGE_BYTES;
  cs_error_set(error, status, "%.*s", bytes, bytes ? (const char *)message->text.data : "");
  if (!error) return status;
  error->op_index = message->op_index;
  error->vendor_code = message->vendor_code;
  return status;
}

int cs_message_fuzz(const uint8_t *data, size_t bytes) {
  cs_message message;
  if (cs_message_decode(data, bytes, &message, NULL)) return 0;
  cs_frame *frame;
  if (cs_message_encode(&message, &frame, NULL)) return 0;
  const int same = frame->bytes == bytes && memcmp(frame->data, data, bytes) == 0;
  cs_frame_destroy(frame);
  return same ? 0 : -1;
}
