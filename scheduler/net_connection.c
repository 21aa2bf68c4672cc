/* Two locks, because a frame that cannot be delivered is destroyed while it is being delivered, and
 * destroying it gives credit: `delivery` is held while mailboxes are filled, `mutex` never is.
 *
 * A frame's memory is allocated when its head has come, and it stays in its channel's list until
 * all frames before it are whole: large frames are fetched and may be overtaken by small ones. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/error.h"
#include "scheduler/net_internal.h"

#define CREDIT_STEP (CS_NET_WINDOW_BYTES / 8)

/* ---- headers ---- */

static void put_header(const net_header *header, uint8_t *out) {
  memset(out, 0, CS_FABRIC_HEADER_BYTES);
  memcpy(out, header->key, CS_DOOR_KEY_BYTES);
  for (int i = 0; i < 8; i++)
    out[CS_DOOR_KEY_BYTES + i] = (uint8_t)(header->value >> (8 * i));
  out[CS_DOOR_KEY_BYTES + 8] = header->type;
  out[CS_DOOR_KEY_BYTES + 9] = header->channel;
}

static net_header get_header(const uint8_t *bytes) {
  net_header header = {.type = bytes[CS_DOOR_KEY_BYTES + 8],
                       .channel = bytes[CS_DOOR_KEY_BYTES + 9]};
  memcpy(header.key, bytes, CS_DOOR_KEY_BYTES);
  for (int i = 0; i < 8; i++)
    header.value |= (uint64_t)bytes[CS_DOOR_KEY_BYTES + i] << (8 * i);
  return header;
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

static cs_status connection_send(cs_link *link, cs_frame *frame, uint64_t timeout_us,
                                 cs_error *error) {
  net_link *const self = (net_link *)link;
  cs_connection *const connection = self->connection;
  net_channel_state *const channel = &connection->channels[self->channel];
  const struct timespec deadline = cs_deadline_after(timeout_us);
  cs_error why = CS_ERROR_INIT;
  net_transfer *const transfer = calloc(1, sizeof *transfer);
  if (!transfer)
    cs_error_set(&why, CS_OUT_OF_MEMORY, "no memory for a message");
  else if (frame->bytes > CS_NET_MAX_FRAME_BYTES)
    cs_error_set(&why, CS_OUT_OF_RANGE, "a message of %zu bytes is too long", frame->bytes);
  if (why.code) {
    free(transfer);
    return refuse(frame, error, &why);
  }
  bool late = false;
  pthread_mutex_lock(&connection->mutex);
  while (!connection->lost && !connection->closed && !late && !has_window(channel, frame->bytes))
    late = pthread_cond_timedwait(&connection->changed, &connection->mutex, &deadline) != 0;
  if (connection->lost) {
    why = connection->why;
  } else if (connection->closed) {
    cs_error_set(&why, CS_CANCELLED, "the connection is closed");
  } else if (!has_window(channel, frame->bytes)) {
    cs_error_set(&why, CS_TIMEOUT, "%s took no message for %.1f s", connection->name,
                 (double)timeout_us / 1e6);
  } else {
    *transfer = (net_transfer){.connection = connection,
                               .frame = frame,
                               .number = channel->n_sent++,
                               .channel = self->channel};
    channel->sent_bytes += frame->bytes;
    cs_connection_retain(connection);
    append_outgoing(connection, transfer);
    net_wake(connection->net);
  }
  pthread_mutex_unlock(&connection->mutex);
  if (!why.code) return CS_OK;
  free(transfer);
  return refuse(frame, error, &why);
}

/* Takes over the transfer. */
static void send_now(cs_connection *connection, net_transfer *transfer, const net_header *header) {
  uint8_t bytes[CS_FABRIC_HEADER_BYTES];
  cs_error error = CS_ERROR_INIT;
  put_header(header, bytes);
  const cs_frame *const frame = transfer->frame;
  const cs_status status =
      connection->net->options.table->send(connection->peer, bytes, frame ? frame->data : NULL,
                                           frame ? frame->bytes : 0, transfer, &error);
  if (!status) return;
  net_on_sent(connection->net, transfer, false);
  net_connection_lose(connection, status, "%s", error.message);
}

static void send_frames(cs_connection *connection, net_transfer *first) {
  while (first) {
    net_transfer *const next = first->next;
    net_header header = {.value = first->number, .type = NET_FRAME, .channel = first->channel};
    memcpy(header.key, connection->send_key, CS_DOOR_KEY_BYTES);
    if (connection->peer)
      send_now(connection, first, &header);
    else
      net_on_sent(connection->net, first, false);
    first = next;
  }
}

static void send_header(cs_connection *connection, net_type type, uint8_t channel, uint64_t value) {
  net_header header = {.value = value, .type = (uint8_t)type, .channel = channel};
  memcpy(header.key, connection->send_key, CS_DOOR_KEY_BYTES);
  net_transfer *const transfer = calloc(1, sizeof *transfer);
  if (!transfer || !connection->peer) { /* the next beat brings it */
    free(transfer);
    return;
  }
  transfer->connection = connection;
  cs_connection_retain(connection);
  pthread_mutex_lock(&connection->mutex);
  connection->n_beats_open++;
  pthread_mutex_unlock(&connection->mutex);
  send_now(connection, transfer, &header);
}

void net_connection_pump(cs_connection *connection, uint64_t now_us) {
  uint64_t credits[CS_NET_CHANNELS];
  bool due[CS_NET_CHANNELS];
  pthread_mutex_lock(&connection->mutex);
  net_transfer *const first = connection->outgoing;
  connection->outgoing = connection->last_outgoing = NULL;
  const bool beat = now_us - connection->said_us >= CS_NET_BEAT_US && connection->n_beats_open == 0;
  bool says = beat || first;
  for (int i = 0; i < CS_NET_CHANNELS; i++) {
    net_channel_state *const channel = &connection->channels[i];
    const uint64_t untold = channel->consumed_bytes - channel->told_bytes;
    due[i] = untold >= CREDIT_STEP || (beat && untold > 0);
    credits[i] = channel->consumed_bytes;
    if (due[i]) channel->told_bytes = channel->consumed_bytes;
    says |= due[i];
  }
  if (says) connection->said_us = now_us;
  pthread_mutex_unlock(&connection->mutex);
  send_frames(connection, first);
  for (uint8_t i = 0; i < CS_NET_CHANNELS; i++)
    if (due[i]) send_header(connection, NET_CREDIT, i, credits[i]);
  if (beat) send_header(connection, NET_BEAT, 0, 0);
}

void net_on_sent(void *user, void *token, bool whole) {
  (void)user;
  net_transfer *const transfer = token;
  cs_connection *const connection = transfer->connection;
  if (!transfer->frame) {
    pthread_mutex_lock(&connection->mutex);
    connection->n_beats_open--;
    pthread_mutex_unlock(&connection->mutex);
  }
  if (!whole) net_connection_lose(connection, CS_FAILED, "a message did not reach it");
  cs_frame_destroy(transfer->frame);
  free(transfer);
  cs_connection_release(connection);
}

/* ---- receiving ---- */

static cs_connection *find_by_key(cs_net *net, const uint8_t *key) {
  for (cs_connection *at = net->connections; at; at = at->next)
    if (net->options.table->equal(at->receive_key, key, CS_DOOR_KEY_BYTES)) return at;
  return NULL;
}

static void take_credit(cs_connection *connection, const net_header *header) {
  net_channel_state *const channel = &connection->channels[header->channel];
  pthread_mutex_lock(&connection->mutex);
  const bool right =
      header->value >= channel->credited_bytes && header->value <= channel->sent_bytes;
  if (right) channel->credited_bytes = header->value;
  pthread_cond_broadcast(&connection->changed);
  pthread_mutex_unlock(&connection->mutex);
  if (!right) net_connection_lose(connection, CS_CORRUPT, "it broke the rules of credit");
}

/* What is wrong with a frame that begins to arrive, or NULL. With the mutex held. */
static const char *check_frame(const net_channel_state *channel, uint64_t number, size_t bytes) {
  const uint64_t held = channel->received_bytes - channel->consumed_bytes;
  if (bytes < CS_MESSAGE_HEAD_BYTES || bytes > CS_NET_MAX_FRAME_BYTES)
    return "it sent a message of an impossible length";
  if (held > 0 && (held > CS_NET_WINDOW_BYTES || bytes > CS_NET_WINDOW_BYTES - held))
    return "it sent more than it had credit for";
  if (number < channel->n_received || number - channel->n_received >= NET_HELD_FRAMES)
    return "it sent a message out of sequence";
  for (const net_transfer *at = channel->arriving; at; at = at->next)
    if (at->number == number) return "it sent a message twice";
  return NULL;
}

static void insert_arriving(net_channel_state *channel, net_transfer *transfer) {
  net_transfer **at = &channel->arriving;
  while (*at && (*at)->number < transfer->number)
    at = &(*at)->next;
  transfer->next = *at;
  *at = transfer;
}

/* Gives credit: from whichever thread destroyed the frame. */
static void on_frame_destroy(cs_frame *frame) {
  net_channel_state *const channel = frame->owner;
  cs_connection *const connection = channel->link.connection;
  pthread_mutex_lock(&connection->mutex);
  channel->consumed_bytes += frame->bytes;
  const bool due = channel->consumed_bytes - channel->told_bytes >= CREDIT_STEP;
  if (due && !connection->lost && !connection->closed) net_wake(connection->net);
  pthread_mutex_unlock(&connection->mutex);
  cs_connection_release(connection);
}

void *net_on_arriving(void *user, const uint8_t *bytes_of_header, size_t bytes, void **token) {
  cs_net *const net = user;
  const net_header header = get_header(bytes_of_header);
  cs_connection *const connection = find_by_key(net, header.key);
  if (!connection || header.channel >= CS_NET_CHANNELS) return NULL;
  pthread_mutex_lock(&connection->mutex);
  connection->heard_us = cs_now_us();
  const bool lost = connection->lost;
  pthread_mutex_unlock(&connection->mutex);
  if (lost || header.type == NET_BEAT) return NULL;
  if (header.type == NET_CREDIT) {
    take_credit(connection, &header);
    return NULL;
  }
  net_channel_state *const channel = &connection->channels[header.channel];
  net_transfer *const transfer = calloc(1, sizeof *transfer);
  cs_frame *const frame = bytes <= CS_NET_MAX_FRAME_BYTES ? cs_frame_create(bytes) : NULL;
  pthread_mutex_lock(&connection->mutex);
  const char *why = check_frame(channel, header.value, bytes);
  if (!why && (!transfer || !frame)) why = "there is no memory for its message";
  if (!why) {
    *transfer = (net_transfer){.connection = connection,
                               .frame = frame,
                               .number = header.value,
                               .channel = header.channel};
    channel->received_bytes += bytes;
    insert_arriving(channel, transfer);
  }
  pthread_mutex_unlock(&connection->mutex);
  if (why) {
    free(transfer);
    cs_frame_destroy(frame);
    net_connection_lose(connection, CS_CORRUPT, "%s", why);
    return NULL;
  }
  cs_connection_retain(connection);
  *token = transfer;
  return frame->data;
}

/* The next frame of a channel if it is whole; with the mutex held. */
static net_transfer *take_next(net_channel_state *channel) {
  net_transfer *const first = channel->arriving;
  if (!first || !first->whole || first->number != channel->n_received) return NULL;
  channel->arriving = first->next;
  channel->n_received++;
  return first;
}

static void deliver(cs_connection *connection, net_channel_state *channel) {
  pthread_mutex_lock(&connection->delivery);
  for (;;) {
    pthread_mutex_lock(&connection->mutex);
    net_transfer *const next = take_next(channel);
    pthread_mutex_unlock(&connection->mutex);
    if (!next) break;
    cs_frame *const frame = next->frame;
    free(next);
    const uint32_t kind = (uint32_t)frame->data[6] | (uint32_t)frame->data[7] << 8;
    const bool allowed = kind < 64 && (channel->allowed & CS_NET_ALLOW(kind)) != 0;
    if (!channel->mailbox || !allowed) {
      cs_frame_destroy(frame);
      pthread_mutex_unlock(&connection->delivery);
      net_connection_lose(connection, CS_CORRUPT, "it sent a %s where none may come",
                          cs_message_kind_name(kind));
      return;
    }
    frame->on_destroy = on_frame_destroy;
    frame->owner = channel;
    cs_connection_retain(connection);
    (void)cs_mailbox_post(channel->mailbox, frame); /* closed: nobody waits for it any more */
  }
  pthread_mutex_unlock(&connection->delivery);
}

/* Takes a frame that will not come out of its list. */
static void forget_arriving(net_channel_state *channel, net_transfer *transfer) {
  net_transfer **at = &channel->arriving;
  while (*at != transfer)
    at = &(*at)->next;
  *at = transfer->next;
  cs_frame_destroy(transfer->frame);
  free(transfer);
}

void net_on_arrived(void *user, void *token, bool whole) {
  (void)user;
  net_transfer *const transfer = token;
  cs_connection *const connection = transfer->connection;
  net_channel_state *const channel = &connection->channels[transfer->channel];
  pthread_mutex_lock(&connection->mutex);
  const bool wanted = whole && !connection->lost;
  transfer->whole = true;
  if (!wanted) forget_arriving(channel, transfer);
  pthread_mutex_unlock(&connection->mutex);
  if (wanted)
    deliver(connection, channel);
  else
    net_connection_lose(connection, CS_FAILED, "a message broke off");
  cs_connection_release(connection);
}

void net_on_lost(void *user, void *peer_user, const char *why) {
  (void)user;
  net_connection_lose(peer_user, CS_FAILED, "%s", why);
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
    net_on_sent(connection->net, first, false);
    first = next;
  }
}

/* Frames that are whole and wait for one before them; the others are the fabric's. */
static void drop_arriving(cs_connection *connection) {
  pthread_mutex_lock(&connection->mutex);
  for (int i = 0; i < CS_NET_CHANNELS; i++) {
    net_channel_state *const channel = &connection->channels[i];
    for (net_transfer *at = channel->arriving, *next; at; at = next) {
      next = at->next;
      if (at->whole) forget_arriving(channel, at);
    }
  }
  pthread_mutex_unlock(&connection->mutex);
}

void net_connection_detach(cs_connection *connection) {
  net_connection_lose(connection, CS_CANCELLED, "closed");
  if (connection->peer) connection->net->options.table->disconnect(connection->peer);
  connection->peer = NULL;
  if (connection->socket >= 0) close(connection->socket);
  connection->socket = -1;
  drop_outgoing(connection);
  drop_arriving(connection);
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
    connection->channels[i].link = (net_link){{connection_send}, connection, i};
  *out = connection;
  return CS_OK;
}

void cs_connection_retain(cs_connection *connection) {
  atomic_fetch_add(&connection->references, 1);
}

void cs_connection_release(cs_connection *connection) {
  if (!connection || atomic_fetch_sub(&connection->references, 1) != 1) return;
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
