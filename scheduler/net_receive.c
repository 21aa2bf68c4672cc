/* A connection's receiving side. A frame's memory is allocated when the first of its parts comes,
 * and each part goes to its place in it. The frame stays in its channel's list until it and all
 * before it are whole: what is large is fetched by the fabric and may be overtaken by what is
 * small, so parts are counted one by one. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/net_internal.h"

static uint64_t get_integer(const uint8_t *from, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; i++)
    value |= (uint64_t)from[i] << (8 * i);
  return value;
}

static net_header get_header(const uint8_t *bytes) {
  const uint8_t *const fields = bytes + CS_DOOR_KEY_BYTES;
  net_header header = {.value = get_integer(fields, 8),
                       .total = (uint32_t)get_integer(fields + 8, 4),
                       .offset = (uint32_t)get_integer(fields + 12, 4),
                       .type = fields[16],
                       .channel = fields[17]};
  memcpy(header.key, bytes, CS_DOOR_KEY_BYTES);
  return header;
}

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

/* ---- frames, and the parts they come in ---- */

/* What is wrong with a frame that begins to arrive, or NULL. With the mutex held, like the next. */
static const char *check_frame(const net_channel_state *channel, const net_header *header) {
  const uint64_t held = channel->received_bytes - channel->consumed_bytes;
  const uint64_t bytes = header->total, number = header->value;
  if (bytes < CS_MESSAGE_HEAD_BYTES || bytes > CS_NET_MAX_FRAME_BYTES)
    return "it sent a message of an impossible length";
  if (held > 0 && (held > CS_NET_WINDOW_BYTES || bytes > CS_NET_WINDOW_BYTES - held))
    return "it sent more than it had credit for";
  if (number < channel->n_received || number - channel->n_received >= NET_HELD_FRAMES)
    return "it sent a message out of sequence";
  return NULL;
}

static uint32_t count_parts(uint32_t total) {
  return total / CS_FABRIC_PART_BYTES + (total % CS_FABRIC_PART_BYTES != 0);
}

/* All parts but the last are CS_FABRIC_PART_BYTES long. */
static bool is_part(const net_header *header, size_t bytes) {
  if (header->offset >= header->total || header->offset % CS_FABRIC_PART_BYTES != 0) return false;
  const uint32_t rest = header->total - header->offset;
  return bytes == (rest < CS_FABRIC_PART_BYTES ? rest : CS_FABRIC_PART_BYTES);
}

static net_transfer *find_arriving(const net_channel_state *channel, uint64_t number) {
  net_transfer *at = channel->arriving;
  while (at && at->number != number)
    at = at->next;
  return at;
}

static void insert_arriving(net_channel_state *channel, net_transfer *transfer) {
  net_transfer **at = &channel->arriving;
  while (*at && (*at)->number < transfer->number)
    at = &(*at)->next;
  transfer->next = *at;
  *at = transfer;
}

/* Memory of large frames is used again, the last that was given back first: to map and clear pages
 * for each costs as much as to fill them. With the mutex held. */
static cs_frame *take_spare(cs_connection *connection, size_t bytes) {
  for (uint32_t i = connection->n_spares; i-- > 0;) {
    cs_frame *const spare = connection->spares[i];
    if (spare->bytes != bytes) continue;
    connection->spares[i] = connection->spares[--connection->n_spares];
    return spare;
  }
  return cs_frame_create(bytes);
}

/* Keeps `frame`; returns what is to be freed: it, another in its place, or NULL. */
static cs_frame *keep_spare(cs_connection *connection, cs_frame *frame) {
  if (frame->bytes < CS_FABRIC_PART_BYTES || frame->bytes > NET_SPARE_BYTES || connection->lost)
    return frame;
  frame->on_destroy = NULL;
  if (connection->n_spares < NET_SPARE_FRAMES) {
    connection->spares[connection->n_spares++] = frame;
    return NULL;
  }
  cs_frame *const former = connection->spares[0];
  connection->spares[0] = frame;
  return former;
}

/* Gives credit: from whichever thread destroyed the frame. */
static bool on_frame_destroy(cs_frame *frame) {
  net_channel_state *const channel = frame->owner;
  cs_connection *const connection = channel->link.connection;
  pthread_mutex_lock(&connection->mutex);
  channel->consumed_bytes += frame->bytes;
  const bool due = channel->consumed_bytes - channel->told_bytes >= NET_CREDIT_STEP;
  if (due && !connection->lost && !connection->closed) net_wake(connection->net);
  cs_frame *const freed = keep_spare(connection, frame);
  pthread_mutex_unlock(&connection->mutex);
  if (freed != frame) cs_frame_destroy(freed);
  cs_connection_release(connection);
  return freed != frame;
}

/* A frame of which nothing was there yet; with the mutex held. */
static const char *begin_frame(cs_connection *connection, const net_header *header,
                               net_transfer **out) {
  net_channel_state *const channel = &connection->channels[header->channel];
  const char *const why = check_frame(channel, header);
  if (why) return why;
  const uint32_t n_parts = count_parts(header->total);
  net_transfer *const transfer = calloc(1, sizeof *transfer + n_parts);
  cs_frame *const frame = transfer ? take_spare(connection, header->total) : NULL;
  if (!frame) {
    free(transfer);
    return "there is no memory for its message";
  }
  transfer->connection = connection;
  transfer->frame = frame;
  transfer->number = header->value;
  transfer->channel = header->channel;
  transfer->n_missing = n_parts;
  channel->received_bytes += header->total;
  insert_arriving(channel, transfer);
  *out = transfer;
  return NULL;
}

/* With the mutex held. */
static const char *begin_part(cs_connection *connection, const net_header *header, size_t bytes,
                              net_transfer **out) {
  net_transfer *transfer = find_arriving(&connection->channels[header->channel], header->value);
  if (!transfer) {
    const char *const why = begin_frame(connection, header, &transfer);
    if (why) return why;
  }
  if (transfer->frame->bytes != header->total || !is_part(header, bytes))
    return "it sent a part that does not fit";
  uint8_t *const begun = &transfer->parts[header->offset / CS_FABRIC_PART_BYTES];
  if (*begun) return "it sent a part twice";
  *begun = 1;
  transfer->n_open++;
  *out = transfer;
  return NULL;
}

/* Memory for what a beat says; NULL: none, or too much. */
static void *begin_beat(cs_connection *connection, size_t bytes, void **token) {
  if (bytes == 0 || bytes > CS_FABRIC_WAY_BYTES) return NULL;
  net_transfer *const beat = calloc(1, sizeof *beat + bytes);
  if (!beat) return NULL;
  beat->n_said = (uint32_t)bytes;
  beat->connection = connection;
  cs_connection_retain(connection);
  *token = beat;
  return beat->parts;
}

/* Takes over the beat. The first one is answered at once: the other may wait for it. */
static void take_beat(net_transfer *beat, bool whole) {
  cs_connection *const connection = beat->connection;
  const cs_fabric_table *const table = connection->net->options.table;
  const bool right =
      whole && connection->peer && table->learn(connection->peer, beat->parts, beat->n_said);
  pthread_mutex_lock(&connection->mutex);
  if (right && !connection->met) connection->said_us = 0;
  connection->met |= right;
  pthread_mutex_unlock(&connection->mutex);
  if (whole && connection->peer && !right)
    net_connection_lose(connection, CS_CORRUPT, "it sent a beat that says nothing");
  free(beat);
  cs_connection_release(connection);
}

void *net_on_arriving(void *user, const uint8_t *bytes_of_header, size_t bytes, void **token) {
  cs_net *const net = user;
  const net_header header = get_header(bytes_of_header);
  cs_connection *const connection = find_by_key(net, header.key);
  if (!connection || header.channel >= CS_NET_CHANNELS) return NULL;
  net_transfer *transfer = NULL;
  const char *why = NULL;
  pthread_mutex_lock(&connection->mutex);
  connection->heard_us = cs_now_us();
  const bool lost = connection->lost;
  if (!lost && header.type == NET_FRAME) why = begin_part(connection, &header, bytes, &transfer);
  pthread_mutex_unlock(&connection->mutex);
  if (!lost && header.type == NET_CREDIT) take_credit(connection, &header);
  if (why) net_connection_lose(connection, CS_CORRUPT, "%s", why);
  if (!lost && header.type == NET_BEAT) return begin_beat(connection, bytes, token);
  if (!transfer) return NULL;
  cs_connection_retain(connection);
  *token = transfer;
  return transfer->frame->data + header.offset;
}

/* The next frame of a channel if it is whole; with the mutex held. */
static net_transfer *take_next(net_channel_state *channel) {
  net_transfer *const first = channel->arriving;
  if (!first || first->n_missing > 0 || first->number != channel->n_received) return NULL;
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

/* Takes a frame that will not come out of its list. With the mutex held. */
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
  if (!transfer->frame) {
    take_beat(transfer, whole);
    return;
  }
  cs_connection *const connection = transfer->connection;
  net_channel_state *const channel = &connection->channels[transfer->channel];
  pthread_mutex_lock(&connection->mutex);
  transfer->n_open--;
  transfer->n_missing -= whole;
  const bool wanted = whole && !connection->lost;
  const bool complete = wanted && transfer->n_missing == 0;
  if (connection->lost && transfer->n_open == 0) forget_arriving(channel, transfer);
  pthread_mutex_unlock(&connection->mutex);
  if (complete) deliver(connection, channel);
  if (!wanted) net_connection_lose(connection, CS_FAILED, "a message broke off");
  cs_connection_release(connection);
}

/* What the fabric still writes to ends with net_on_arrived. */
void net_drop_arriving(cs_connection *connection) {
  pthread_mutex_lock(&connection->mutex);
  for (int i = 0; i < CS_NET_CHANNELS; i++) {
    net_channel_state *const channel = &connection->channels[i];
    for (net_transfer *at = channel->arriving, *next; at; at = next) {
      next = at->next;
      if (at->n_open == 0) forget_arriving(channel, at);
    }
  }
  pthread_mutex_unlock(&connection->mutex);
}

void net_on_lost(void *user, void *peer_user, const char *why) {
  (void)user;
  net_connection_lose(peer_user, CS_FAILED, "%s", why);
}
