/* A connection's sending side, and its life. Two locks, because a frame that cannot be delivered is
 * destroyed while it is being delivered, and destroying it gives credit: `delivery` is held while
 * mailboxes are filled, `mutex` never is.
 *
 * Frames go in parts, so that each that comes shows that the sender lives, however slow the way is,
 * and so that the fabric puts it together in the receiver's memory and nowhere before. The end of a
 * message may be lent: it is sent from where it lies, and the sender waits until it has left. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/error.h"
#include "scheduler/net_internal.h"

/* ---- headers ---- */

static void put_header(const net_header *header, uint8_t *out) {
  memset(out, 0, CS_FABRIC_HEADER_BYTES);
  memcpy(out, header->key, CS_DOOR_KEY_BYTES);
  for (int i = 0; i < 8; i++)
    out[CS_DOOR_KEY_BYTES + i] = (uint8_t)(header->value >> (8 * i));
  for (int i = 0; i < 4; i++) {
    out[CS_DOOR_KEY_BYTES + 8 + i] = (uint8_t)(header->total >> (8 * i));
    out[CS_DOOR_KEY_BYTES + 12 + i] = (uint8_t)(header->offset >> (8 * i));
  }
  out[CS_DOOR_KEY_BYTES + 16] = header->type;
  out[CS_DOOR_KEY_BYTES + 17] = header->channel;
}

/* ---- sending ---- */

/* With the mutex held. */
static bool has_window(const net_channel_state *channel, uint64_t bytes) {
  const uint64_t on_way = channel->sent_bytes - channel->credited_bytes;
  return on_way == 0 || (on_way <= CS_NET_WINDOW_BYTES && bytes <= CS_NET_WINDOW_BYTES - on_way);
}

static void append_outgoing(cs_connection *connection, net_transfer *transfer) {
  if (connection->last_outgoing)
    connection->last_outgoing->next = transfer;
  else
    connection->outgoing = transfer;
  connection->last_outgoing = transfer;
}

static cs_status refuse(cs_frame *frame, cs_error *error, const cs_error *why) {
  cs_frame_destroy(frame);
  if (error && error->struct_size >= sizeof *error) *error = *why;
  return why->code;
}

/* Why it cannot be sent now, after waiting for room in the window; with the mutex held. */
static cs_status wait_for_window(cs_connection *connection, const net_channel_state *channel,
                                 uint64_t bytes, uint64_t timeout_us, cs_error *why) {
  const struct timespec deadline = cs_deadline_after(timeout_us);
  bool late = false;
  while (!connection->lost && !connection->closed && !late && !has_window(channel, bytes))
    late = pthread_cond_timedwait(&connection->changed, &connection->mutex, &deadline) != 0;
  if (connection->lost) {
    *why = connection->why;
    return why->code;
  }
  if (connection->closed) return cs_error_set(why, CS_CANCELLED, "the connection is closed");
  if (has_window(channel, bytes)) return CS_OK;
  return cs_error_set(why, CS_TIMEOUT, "%s took no message for %.1f s", connection->name,
                      (double)timeout_us / 1e6);
}

/* Frame and tail, and waits for the end of the loan where there is one. */
static cs_status send_frame(net_link *self, cs_frame *frame, net_loan *loan, uint64_t timeout_us,
                            cs_error *error) {
  cs_connection *const connection = self->connection;
  net_channel_state *const channel = &connection->channels[self->channel];
  const uint64_t bytes = (uint64_t)frame->bytes + (loan ? loan->tail.bytes : 0);
  cs_error why = CS_ERROR_INIT;
  net_transfer *const transfer = calloc(1, sizeof *transfer);
  if (!transfer)
    cs_error_set(&why, CS_OUT_OF_MEMORY, "no memory for a message");
  else if (bytes > CS_NET_MAX_FRAME_BYTES)
    cs_error_set(&why, CS_OUT_OF_RANGE, "a message of %llu bytes is too long",
                 (unsigned long long)bytes);
  if (why.code) {
    free(transfer);
    return refuse(frame, error, &why);
  }
  pthread_mutex_lock(&connection->mutex);
  if (wait_for_window(connection, channel, bytes, timeout_us, &why)) {
    pthread_mutex_unlock(&connection->mutex);
    free(transfer);
    return refuse(frame, error, &why);
  }
  *transfer = (net_transfer){.connection = connection,
                             .frame = frame,
                             .loan = loan,
                             .number = channel->n_sent++,
                             .channel = self->channel};
  channel->sent_bytes += bytes;
  cs_connection_retain(connection);
  append_outgoing(connection, transfer);
  net_wake(connection->net);
  while (loan && !loan->over)
    pthread_cond_wait(&connection->changed, &connection->mutex);
  if (loan && !loan->whole) why = connection->why;
  pthread_mutex_unlock(&connection->mutex);
  if (why.code && error && error->struct_size >= sizeof *error) *error = why;
  return why.code;
}

static cs_status connection_send(cs_link *link, cs_frame *frame, uint64_t timeout_us,
                                 cs_error *error) {
  return send_frame((net_link *)link, frame, NULL, timeout_us, error);
}

static cs_status connection_send_lent(cs_link *link, cs_frame *frame, cs_blob tail,
                                      uint64_t timeout_us, cs_error *error) {
  net_loan loan = {.tail = tail};
  return send_frame((net_link *)link, frame, &loan, timeout_us, error);
}

/* One message of the fabric. The transfer ends when all of them have left. */
static cs_status send_part(net_transfer *transfer, const net_header *header, const uint8_t *data,
                           size_t bytes) {
  cs_connection *const connection = transfer->connection;
  uint8_t packed[CS_FABRIC_HEADER_BYTES];
  cs_error error = CS_ERROR_INIT;
  put_header(header, packed);
  transfer->n_open++;
  const cs_status status = connection->peer
                               ? connection->net->options.table->send(connection->peer, packed,
                                                                      data, bytes, transfer, &error)
                               : cs_error_set(&error, CS_CANCELLED, "closed");
  if (!status) return CS_OK;
  net_connection_lose(connection, status, "%s", error.message);
  net_on_sent(connection->net, transfer, false);
  return status;
}

/* `bytes` from `data` on, which lie header->offset bytes behind the frame's beginning. */
static cs_status send_parts(net_transfer *transfer, net_header *header, const uint8_t *data,
                            size_t bytes) {
  cs_status status = CS_OK;
  for (size_t at = 0; at < bytes && !status;) {
    const size_t n = bytes - at < CS_FABRIC_PART_BYTES ? bytes - at : CS_FABRIC_PART_BYTES;
    status = send_part(transfer, header, data + at, n);
    header->offset += (uint32_t)n;
    at += n;
  }
  return status;
}

/* Takes over the transfer. */
static void send_now(net_transfer *transfer) {
  const cs_frame *const frame = transfer->frame;
  const cs_blob tail = transfer->loan ? transfer->loan->tail : (cs_blob){NULL, 0};
  net_header header = {.value = transfer->number,
                       .total = (uint32_t)(frame->bytes + tail.bytes),
                       .type = NET_FRAME,
                       .channel = transfer->channel};
  memcpy(header.key, transfer->connection->send_key, CS_DOOR_KEY_BYTES);
  transfer->n_open = 1; /* until all parts are handed over */
  cs_status status = send_parts(transfer, &header, frame->data, frame->bytes);
  if (!status) status = send_parts(transfer, &header, tail.data, (size_t)tail.bytes);
  net_on_sent(transfer->connection->net, transfer, !status);
}

static void send_frames(net_transfer *first) {
  while (first) {
    net_transfer *const next = first->next;
    send_now(first);
    first = next;
  }
}

static void send_header(cs_connection *connection, net_type type, uint8_t channel, uint64_t value) {
  net_header header = {.value = value, .type = (uint8_t)type, .channel = channel};
  memcpy(header.key, connection->send_key, CS_DOOR_KEY_BYTES);
  const bool speaks = type == NET_BEAT;
  net_transfer *const transfer = calloc(1, sizeof *transfer + (speaks ? CS_FABRIC_WAY_BYTES : 0));
  if (!transfer || !connection->peer) { /* the next beat brings it */
    free(transfer);
    return;
  }
  transfer->connection = connection;
  if (speaks)
    transfer->n_said =
        (uint32_t)connection->net->options.table->describe(connection->peer, transfer->parts);
  cs_connection_retain(connection);
  pthread_mutex_lock(&connection->mutex);
  connection->n_beats_open++;
  pthread_mutex_unlock(&connection->mutex);
  (void)send_part(transfer, &header, transfer->parts, transfer->n_said);
}

/* What waits to be sent, once the other side has been met. With the mutex held. */
static net_transfer *take_outgoing(cs_connection *connection) {
  if (!connection->met) return NULL;
  net_transfer *const first = connection->outgoing;
  connection->outgoing = connection->last_outgoing = NULL;
  return first;
}

void net_connection_pump(cs_connection *connection, uint64_t now_us) {
  uint64_t credits[CS_NET_CHANNELS];
  bool due[CS_NET_CHANNELS];
  pthread_mutex_lock(&connection->mutex);
  net_transfer *const first = take_outgoing(connection);
  const bool beat = now_us - connection->said_us >= CS_NET_BEAT_US && connection->n_beats_open == 0;
  bool says = beat || first;
  for (int i = 0; i < CS_NET_CHANNELS; i++) {
    net_channel_state *const channel = &connection->channels[i];
    const uint64_t untold = channel->consumed_bytes - channel->told_bytes;
    due[i] = untold >= NET_CREDIT_STEP || (beat && untold > 0);
    credits[i] = channel->consumed_bytes;
    if (due[i]) channel->told_bytes = channel->consumed_bytes;
    says |= due[i];
  }
  if (says) connection->said_us = now_us;
  pthread_mutex_unlock(&connection->mutex);
  send_frames(first);
  for (uint8_t i = 0; i < CS_NET_CHANNELS; i++)
    if (due[i]) send_header(connection, NET_CREDIT, i, credits[i]);
  if (beat) send_header(connection, NET_BEAT, 0, 0);
}

void net_on_sent(void *user, void *token, bool whole) {
  (void)user;
  net_transfer *const transfer = token;
  cs_connection *const connection = transfer->connection;
  if (!whole) net_connection_lose(connection, CS_FAILED, "a message did not reach it");
  transfer->broken |= !whole;
  if (--transfer->n_open > 0) return;
  const bool lent = transfer->loan != NULL;
  pthread_mutex_lock(&connection->mutex);
  if (!transfer->frame) connection->n_beats_open--;
  if (lent) {
    transfer->loan->over = true;
    transfer->loan->whole = !transfer->broken;
  }
  pthread_mutex_unlock(&connection->mutex);
  if (lent) pthread_cond_broadcast(&connection->changed);
  cs_frame_destroy(transfer->frame);
  free(transfer);
  cs_connection_release(connection);
}

/* ---- the end ---- */

void net_connection_lose(cs_connection *connection, cs_status status, const char *format, ...) {
  char text[160];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  pthread_mutex_lock(&connection->delivery);
  pthread_mutex_lock(&connection->mutex);
  const bool first = !connection->lost;
  if (first) {
    connection->lost = true;
    cs_error_set(&connection->why, status, "lost: %s", text);
  }
  const cs_error why = connection->why;
  pthread_cond_broadcast(&connection->changed);
  pthread_mutex_unlock(&connection->mutex);
  if (first && connection->told) connection->told(connection->told_user, &why);
  pthread_mutex_unlock(&connection->delivery);
}

static void drop_outgoing(cs_connection *connection) {
  pthread_mutex_lock(&connection->mutex);
  net_transfer *first = connection->outgoing;
  connection->outgoing = connection->last_outgoing = NULL;
  pthread_mutex_unlock(&connection->mutex);
  while (first) {
    net_transfer *const next = first->next;
    first->n_open = 1;
    net_on_sent(connection->net, first, false);
    first = next;
  }
}

void net_connection_detach(cs_connection *connection) {
  net_connection_lose(connection, CS_CANCELLED, "closed");
  if (connection->peer) connection->net->options.table->disconnect(connection->peer);
  connection->peer = NULL;
  if (connection->socket >= 0) close(connection->socket);
  connection->socket = -1;
  drop_outgoing(connection);
  net_drop_arriving(connection);
}

/* ---- for everyone ---- */

cs_status net_connection_create(cs_net *net, const net_connection_options *options,
                                cs_connection **out, cs_error *error) {
  *out = NULL;
  cs_connection *const connection = calloc(1, sizeof *connection);
  void *const address = malloc((size_t)options->address.bytes + 1);
  if (!connection || !address) {
    free(connection);
    free(address);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a connection");
  }
  memcpy(address, options->address.data, (size_t)options->address.bytes);
  connection->references = 1;
  connection->net = net;
  connection->socket = options->socket;
  connection->address = address;
  connection->address_bytes = (size_t)options->address.bytes;
  connection->why = (cs_error)CS_ERROR_INIT;
  connection->heard_us = cs_now_us();
  snprintf(connection->name, sizeof connection->name, "%s", options->name);
  memcpy(connection->send_key, options->send_key, CS_DOOR_KEY_BYTES);
  memcpy(connection->receive_key, options->receive_key, CS_DOOR_KEY_BYTES);
  pthread_mutex_init(&connection->delivery, NULL);
  pthread_mutex_init(&connection->mutex, NULL);
  cs_condition_init(&connection->changed);
  for (uint8_t i = 0; i < CS_NET_CHANNELS; i++)
    connection->channels[i].link =
        (net_link){{connection_send, connection_send_lent, CS_FABRIC_PART_BYTES}, connection, i};
  *out = connection;
  return CS_OK;
}

void cs_connection_retain(cs_connection *connection) {
  atomic_fetch_add(&connection->references, 1);
}

void cs_connection_release(cs_connection *connection) {
  if (!connection || atomic_fetch_sub(&connection->references, 1) != 1) return;
  while (connection->n_spares > 0)
    cs_frame_destroy(connection->spares[--connection->n_spares]);
  free(connection->address);
  pthread_cond_destroy(&connection->changed);
  pthread_mutex_destroy(&connection->mutex);
  pthread_mutex_destroy(&connection->delivery);
  free(connection);
}

void cs_connection_bind(cs_connection *connection, cs_net_channel channel, cs_mailbox *mailbox,
                        uint64_t allowed) {
  pthread_mutex_lock(&connection->delivery);
  connection->channels[channel].mailbox = mailbox;
  connection->channels[channel].allowed = allowed;
  pthread_mutex_unlock(&connection->delivery);
}

cs_link *cs_connection_link(cs_connection *connection, cs_net_channel channel) {
  return &connection->channels[channel].link.link;
}

void cs_connection_on_lost(cs_connection *connection,
                           void (*told)(void *user, const cs_error *error), void *user) {
  cs_error why = CS_ERROR_INIT;
  pthread_mutex_lock(&connection->delivery);
  connection->told = told;
  connection->told_user = user;
  if (cs_connection_status(connection, &why) && told) told(user, &why);
  pthread_mutex_unlock(&connection->delivery);
}

cs_status cs_connection_status(cs_connection *connection, cs_error *error) {
  pthread_mutex_lock(&connection->mutex);
  const cs_status status = connection->lost ? connection->why.code : CS_OK;
  if (status && error && error->struct_size >= sizeof *error) *error = connection->why;
  pthread_mutex_unlock(&connection->mutex);
  return status;
}

void cs_connection_close(cs_connection *connection) {
  pthread_mutex_lock(&connection->delivery);
  connection->told = NULL;
  for (int i = 0; i < CS_NET_CHANNELS; i++)
    connection->channels[i].mailbox = NULL;
  pthread_mutex_unlock(&connection->delivery);
  pthread_mutex_lock(&connection->mutex);
  connection->closed = true;
  pthread_cond_broadcast(&connection->changed);
  if (!connection->lost) net_wake(connection->net);
  pthread_mutex_unlock(&connection->mutex);
}

const char *cs_connection_name(const cs_connection *connection) {
  return connection->name;
}
