/* The links lock only to take a reference of the connection: a send that waits for credit holds up
 * nobody who wants to replace it. */
#include "scheduler/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

#define CONTROL_BYTES ((size_t)1 << 20)
#define CONNECT_US    UINT64_C(2500000)
#define SEND_US       UINT64_C(2000000)
#define ANSWER_US     UINT64_C(5000000)
#define LOAD_US       UINT64_C(300000000) /* without a word */
#define POLL_US       UINT64_C(100000)
#define MAX_FALLBACKS 1024
#define ANSWERS_CONTROL                                                                            \
  (CS_NET_ALLOW(CS_MESSAGE_LOADING) | CS_NET_ALLOW(CS_MESSAGE_FALLBACK) |                          \
   CS_NET_ALLOW(CS_MESSAGE_ATTACHED) | CS_NET_ALLOW(CS_MESSAGE_PEERED) |                           \
   CS_NET_ALLOW(CS_MESSAGE_DEVICE) | CS_NET_ALLOW(CS_MESSAGE_ERROR))
#define ANSWERS_REQUESTS                                                                           \
  (CS_NET_ALLOW(CS_MESSAGE_KV_OFFER) | CS_NET_ALLOW(CS_MESSAGE_KV_ACCEPT) |                        \
   CS_NET_ALLOW(CS_MESSAGE_COMMIT) | CS_NET_ALLOW(CS_MESSAGE_PROGRESS) |                           \
   CS_NET_ALLOW(CS_MESSAGE_TOKEN) | CS_NET_ALLOW(CS_MESSAGE_LOGITS) |                              \
   CS_NET_ALLOW(CS_MESSAGE_DONE) | CS_NET_ALLOW(CS_MESSAGE_ERROR) |                                \
   CS_NET_ALLOW(CS_MESSAGE_STATS))
#define ANSWERS_KV (CS_NET_ALLOW(CS_MESSAGE_KV_PIECE) | CS_NET_ALLOW(CS_MESSAGE_KV_END))

typedef struct remote_link {
  cs_link link;
  cs_remote *remote;
  cs_net_channel channel;
} remote_link;

struct cs_remote {
  cs_remote_options options;
  char address[CS_REMOTE_NAME_BYTES];
  char device[CS_REMOTE_NAME_BYTES];
  char name[2 * CS_REMOTE_NAME_BYTES];
  remote_link requests;
  remote_link kv;
  cs_mailbox *control;
  cs_mailbox *kv_receiver; /* borrowed; told of a loss, too */
  uint8_t fabric_address[CS_FABRIC_MAX_ADDRESS_BYTES];
  size_t fabric_address_bytes;
  cs_remote_fallback *fallbacks;
  size_t n_fallbacks;
  pthread_mutex_t mutex;
  cs_connection *connection; /* guarded by mutex for the links; else the owner's */
};

/* ---- names ---- */

bool cs_remote_is_name(const char *name) {
  const char *const slash = name ? strchr(name, '/') : NULL;
  const char *const options = name ? strchr(name, '?') : NULL;
  return slash && (!options || slash < options);
}

cs_status cs_remote_split(const char *name, char *address, char *device, cs_error *error) {
  const char *const slash = strchr(name, '/');
  const size_t address_bytes = slash ? (size_t)(slash - name) : 0;
  if (address_bytes == 0 || address_bytes >= CS_REMOTE_NAME_BYTES || !slash[1] ||
      strlen(slash + 1) >= CS_REMOTE_NAME_BYTES)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%.100s is no HOST:PORT/DEVICE", name);
  memcpy(address, name, address_bytes);
  address[address_bytes] = '\0';
  strcpy(device, slash + 1);
  return CS_OK;
}

/* ---- links ---- */

static cs_status remote_send_lent(cs_link *link, cs_frame *frame, cs_blob tail, uint64_t timeout_us,
                                  cs_error *error) {
  remote_link *const self = (remote_link *)link;
  cs_remote *const remote = self->remote;
  pthread_mutex_lock(&remote->mutex);
  cs_connection *const connection = remote->connection;
  if (connection) cs_connection_retain(connection);
  pthread_mutex_unlock(&remote->mutex);
  if (!connection) {
    cs_frame_destroy(frame);
    return cs_error_set(error, CS_CANCELLED, "worker %s is not connected", remote->name);
  }
  cs_link *const inner = cs_connection_link(connection, self->channel);
  const cs_status status = tail.bytes > 0 ? inner->send_lent(inner, frame, tail, timeout_us, error)
                                          : inner->send(inner, frame, timeout_us, error);
  cs_connection_release(connection);
  return status;
}

static cs_status remote_send(cs_link *link, cs_frame *frame, uint64_t timeout_us, cs_error *error) {
  return remote_send_lent(link, frame, (cs_blob){NULL, 0}, timeout_us, error);
}

static cs_status say(cs_remote *remote, const cs_message *message, cs_error *error) {
  return cs_link_send_message(cs_connection_link(remote->connection, CS_NET_CONTROL), message,
                              SEND_US, error);
}

/* ---- loss ---- */

static void post_loss(cs_mailbox *mailbox, uint32_t sender, const cs_error *why) {
  const cs_message message = {
      .kind = CS_MESSAGE_PEER_LOST, .sender = sender, .error = cs_message_of_error(why->code, why)};
  cs_frame *frame;
  if (!cs_message_encode(&message, &frame, NULL)) (void)cs_mailbox_post(mailbox, frame);
}

static void on_lost(void *user, const cs_error *why) {
  cs_remote *const remote = user;
  cs_error named = *why;
  cs_error_prefix(&named, why->code, "worker %s", remote->name);
  post_loss(remote->options.answers, remote->options.attach.number, &named);
  if (remote->kv_receiver) post_loss(remote->kv_receiver, remote->options.attach.number, &named);
}

void cs_remote_disconnect(cs_remote *remote) {
  if (!remote) return;
  pthread_mutex_lock(&remote->mutex);
  cs_connection *const connection = remote->connection;
  remote->connection = NULL;
  pthread_mutex_unlock(&remote->mutex);
  if (!connection) return;
  cs_connection_close(connection);
  cs_connection_release(connection);
}

cs_status cs_remote_status(cs_remote *remote, cs_error *error) {
  if (remote->connection) return cs_connection_status(remote->connection, error);
  return cs_error_set(error, CS_CANCELLED, "worker %s is not connected", remote->name);
}

/* ---- asking and waiting ---- */

/* The next control message: *frame is owned by the caller. */
static cs_status hear(cs_connection *connection, cs_mailbox *control, uint64_t timeout_us,
                      cs_message *message, cs_frame **frame, cs_error *error) {
  const uint64_t end_us = cs_now_us() + timeout_us;
  do {
    if (!cs_mailbox_receive(control, POLL_US, frame)) {
      cs_status status = cs_message_decode((*frame)->data, (*frame)->bytes, message, error);
      if (!status && message->kind == CS_MESSAGE_ERROR)
        status = cs_message_get_error(&message->error, error);
      if (status) cs_frame_destroy(*frame);
      return status;
    }
    const cs_status status = cs_connection_status(connection, error);
    if (status) return status;
  } while (cs_now_us() < end_us);
  return cs_error_set(error, CS_TIMEOUT, "did not answer for %.0f s", (double)timeout_us / 1e6);
}

static void forget_control(cs_remote *remote) {
  cs_frame *frame;
  while (!cs_mailbox_receive(remote->control, 0, &frame))
    cs_frame_destroy(frame);
}

static cs_status name_it(const cs_remote *remote, cs_status status, cs_error *error) {
  return status ? cs_error_prefix(error, status, "worker %s", remote->name) : CS_OK;
}

cs_status cs_remote_begin(cs_remote *remote, cs_error *error) {
  cs_connection *connection;
  cs_remote_disconnect(remote);
  forget_control(remote);
  cs_status status = cs_net_connect(remote->options.net, remote->address, remote->options.secret,
                                    CONNECT_US, &connection, error);
  if (status) return status;
  cs_connection_bind(connection, CS_NET_CONTROL, remote->control, ANSWERS_CONTROL);
  cs_connection_bind(connection, CS_NET_REQUESTS, remote->options.answers, ANSWERS_REQUESTS);
  pthread_mutex_lock(&remote->mutex);
  remote->connection = connection;
  pthread_mutex_unlock(&remote->mutex);
  cs_message message = {.kind = CS_MESSAGE_ATTACH, .attach = remote->options.attach};
  message.attach.device = cs_blob_of_text(remote->device);
  return name_it(remote, say(remote, &message, error), error);
}

static cs_status take_fallback(cs_remote *remote, const cs_fallback_message *told,
                               cs_error *error) {
  cs_remote_fallback *const more =
      remote->n_fallbacks < MAX_FALLBACKS
          ? realloc(remote->fallbacks, (remote->n_fallbacks + 1) * sizeof *more)
          : NULL;
  if (!more) return cs_error_set(error, CS_OUT_OF_MEMORY, "too many fallbacks");
  remote->fallbacks = more;
  cs_remote_fallback *const added = &more[remote->n_fallbacks++];
  *added = (cs_remote_fallback){
      .op = told->op, .count = told->count, .bytes_per_token = told->bytes_per_token};
  cs_blob_read_text(told->device, added->device, sizeof added->device);
  cs_blob_read_text(told->reason, added->reason, sizeof added->reason);
  return CS_OK;
}

static cs_status take_attached(cs_remote *remote, const cs_attached_message *told,
                               cs_error *error) {
  char device[CS_REMOTE_NAME_BYTES];
  if (told->address.bytes == 0 || told->address.bytes > sizeof remote->fabric_address)
    return cs_error_set(error, CS_CORRUPT, "an address of %llu bytes",
                        (unsigned long long)told->address.bytes);
  remote->fabric_address_bytes = (size_t)told->address.bytes;
  memcpy(remote->fabric_address, told->address.data, remote->fabric_address_bytes);
  cs_blob_read_text(told->device, device, sizeof device);
  snprintf(remote->name, sizeof remote->name, "%s/%s", remote->address, device);
  cs_connection_on_lost(remote->connection, on_lost, remote);
  return CS_OK;
}

cs_status cs_remote_finish(cs_remote *remote, cs_error *error) {
  free(remote->fallbacks);
  remote->fallbacks = NULL;
  remote->n_fallbacks = 0;
  for (bool attached = false; !attached;) {
    cs_message message;
    cs_frame *frame;
    cs_status status = hear(remote->connection, remote->control, LOAD_US, &message, &frame, error);
    if (status) return name_it(remote, status, error);
    if (message.kind == CS_MESSAGE_FALLBACK)
      status = take_fallback(remote, &message.fallback, error);
    else if (message.kind == CS_MESSAGE_LOADING && remote->options.progress)
      remote->options.progress(remote->options.progress_user, remote->name,
                               message.loading.bytes_done, message.loading.bytes_total);
    attached = message.kind == CS_MESSAGE_ATTACHED;
    if (attached) status = take_attached(remote, &message.attached, error);
    cs_frame_destroy(frame);
    if (status) return name_it(remote, status, error);
  }
  return CS_OK;
}

/* ---- peers ---- */

static cs_status expect_peered(cs_remote *remote, cs_error *error) {
  cs_message message;
  cs_frame *frame;
  cs_status status = hear(remote->connection, remote->control, ANSWER_US, &message, &frame, error);
  if (!status && message.kind != CS_MESSAGE_PEERED)
    status = cs_error_set(error, CS_CORRUPT, "answered %s to PEER",
                          cs_message_kind_name((uint32_t)message.kind));
  if (!status) cs_frame_destroy(frame);
  return name_it(remote, status, error);
}

static cs_status meet_here(cs_remote *from, cs_mailbox *here, uint32_t slot, cs_error *error) {
  const cs_message message = {.kind = CS_MESSAGE_PEER, .peer = {.slot = slot}};
  from->kv_receiver = here;
  cs_connection_bind(from->connection, CS_NET_KV, here, ANSWERS_KV);
  const cs_status status = say(from, &message, error);
  return status ? name_it(from, status, error) : expect_peered(from, error);
}

cs_status cs_remote_meet(cs_remote *from, cs_remote *to, cs_mailbox *here, uint32_t slot,
                         cs_error *error) {
  if (!to) return meet_here(from, here, slot, error);
  uint8_t keys[2][CS_DOOR_KEY_BYTES];
  const cs_fabric_table *table;
  cs_status status = cs_fabric_find(&table, error);
  if (status) return status;
  table->random(keys, sizeof keys);
  cs_message message = {.kind = CS_MESSAGE_PEER,
                        .peer = {.slot = slot,
                                 .send_key = {keys[0], CS_DOOR_KEY_BYTES},
                                 .receive_key = {keys[1], CS_DOOR_KEY_BYTES},
                                 .address = {to->fabric_address, to->fabric_address_bytes}}};
  status = name_it(from, say(from, &message, error), error);
  message.peer.receives = 1;
  message.peer.send_key.data = keys[1];
  message.peer.receive_key.data = keys[0];
  message.peer.address = (cs_blob){from->fabric_address, from->fabric_address_bytes};
  if (!status) status = name_it(to, say(to, &message, error), error);
  if (!status) status = expect_peered(from, error);
  return status ? status : expect_peered(to, error);
}

/* ---- devices ---- */

static cs_status hear_devices(cs_connection *connection, cs_mailbox *control,
                              cs_status (*told)(void *user, const cs_device_message *device),
                              void *user, cs_error *error) {
  uint32_t n_left = 1;
  while (n_left > 0) {
    cs_message message;
    cs_frame *frame;
    cs_status status = hear(connection, control, ANSWER_US, &message, &frame, error);
    if (status) return status;
    if (message.kind != CS_MESSAGE_DEVICE)
      status = cs_error_set(error, CS_CORRUPT, "answered %s to DEVICES_REQUEST",
                            cs_message_kind_name((uint32_t)message.kind));
    else if (message.device.n_devices > 0)
      status = told(user, &message.device);
    n_left = message.kind == CS_MESSAGE_DEVICE && message.device.n_devices > message.device.index
                 ? message.device.n_devices - message.device.index - 1
                 : 0;
    cs_frame_destroy(frame);
    if (status) return status;
  }
  return CS_OK;
}

cs_status cs_remote_devices(cs_net *net, const char *address, const cs_secret *secret,
                            cs_status (*told)(void *user, const cs_device_message *device),
                            void *user, cs_error *error) {
  cs_mailbox *control;
  cs_connection *connection;
  cs_status status = cs_mailbox_create(CONTROL_BYTES, &control, error);
  if (status) return status;
  status = cs_net_connect(net, address, secret, CONNECT_US, &connection, error);
  if (!status) {
    const cs_message question = {.kind = CS_MESSAGE_DEVICES_REQUEST};
    cs_connection_bind(connection, CS_NET_CONTROL, control, ANSWERS_CONTROL);
    status = cs_link_send_message(cs_connection_link(connection, CS_NET_CONTROL), &question,
                                  SEND_US, error);
    if (!status) status = hear_devices(connection, control, told, user, error);
    if (status) cs_error_prefix(error, status, "worker %s", address);
    cs_connection_close(connection);
    cs_connection_release(connection);
  }
  cs_mailbox_destroy(control);
  return status;
}

/* ---- life ---- */

cs_status cs_remote_create(const cs_remote_options *options, cs_remote **out, cs_error *error) {
  *out = NULL;
  cs_remote *const remote = calloc(1, sizeof *remote);
  if (!remote) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a session");
  const cs_link lent_link = {remote_send, remote_send_lent, CS_FABRIC_PART_BYTES};
  remote->options = *options;
  remote->requests = (remote_link){lent_link, remote, CS_NET_REQUESTS};
  remote->kv = (remote_link){lent_link, remote, CS_NET_KV};
  pthread_mutex_init(&remote->mutex, NULL);
  cs_status status = cs_remote_split(options->name, remote->address, remote->device, error);
  if (!status) status = cs_mailbox_create(CONTROL_BYTES, &remote->control, error);
  if (status) {
    cs_remote_destroy(remote);
    return status;
  }
  snprintf(remote->name, sizeof remote->name, "%s", options->name);
  *out = remote;
  return CS_OK;
}

void cs_remote_destroy(cs_remote *remote) {
  if (!remote) return;
  cs_remote_disconnect(remote);
  if (remote->control) cs_mailbox_destroy(remote->control);
  pthread_mutex_destroy(&remote->mutex);
  free(remote->fallbacks);
  free(remote);
}

cs_link *cs_remote_requests(cs_remote *remote) {
  return &remote->requests.link;
}

cs_link *cs_remote_kv(cs_remote *remote) {
  return &remote->kv.link;
}

const char *cs_remote_name(const cs_remote *remote) {
  return remote->name;
}

size_t cs_remote_n_fallbacks(const cs_remote *remote) {
  return remote->n_fallbacks;
}

const cs_remote_fallback *cs_remote_fallbacks(const cs_remote *remote) {
  return remote->fallbacks;
}
