/* The thread takes control messages one after the other. When the connection is lost its mailbox is
 * closed, which ends the thread; it closes every connection before it destroys the worker, so that
 * nothing waits for credit that will not come. */
#include "scheduler/service_guest.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"
#include "core/executor.h"
#include "scheduler/worker_build.h"

#define CONTROL_BYTES  ((size_t)1 << 20)
#define SEND_US        UINT64_C(2000000)
#define IDLE_US        UINT64_C(1000000)
#define LOADING_US     UINT64_C(100000) /* between two reports */
#define MAX_PATH_BYTES 4096
#define ASKED_CONTROL                                                                              \
  (CS_NET_ALLOW(CS_MESSAGE_ATTACH) | CS_NET_ALLOW(CS_MESSAGE_PEER) |                               \
   CS_NET_ALLOW(CS_MESSAGE_DEVICES_REQUEST))
#define ASKED_REQUESTS                                                                             \
  (CS_NET_ALLOW(CS_MESSAGE_PREFILL) | CS_NET_ALLOW(CS_MESSAGE_DECODE) |                            \
   CS_NET_ALLOW(CS_MESSAGE_CANCEL) | CS_NET_ALLOW(CS_MESSAGE_STATS_REQUEST))
#define ASKED_KV (CS_NET_ALLOW(CS_MESSAGE_KV_PIECE) | CS_NET_ALLOW(CS_MESSAGE_KV_END))

struct cs_guest {
  cs_guest_options options;
  cs_guest *next;
  cs_mailbox *control;
  pthread_t thread;
  atomic_bool over;
  pthread_mutex_t mutex;  /* guards `shown` */
  const cs_worker *shown; /* the worker, while others may look at it */
  cs_worker *worker;      /* what follows is the thread's */
  cs_model *model;
  cs_connection *peers[CS_WORKER_MAX_PEERS];
  cs_connection **left; /* peers before those: the worker may still name their links */
  size_t n_left;
  uint64_t told_us; /* when loading was reported last */
};

/* ---- answers ---- */

static cs_status answer(cs_guest *guest, const cs_message *message, cs_error *error) {
  return cs_link_send_message(cs_connection_link(guest->options.connection, CS_NET_CONTROL),
                              message, SEND_US, error);
}

static void answer_error(cs_guest *guest, cs_status status, const cs_error *error) {
  const cs_message message = {.kind = CS_MESSAGE_ERROR,
                              .error = cs_message_of_error(status, error)};
  (void)answer(guest, &message, NULL);
}

static void on_loading(void *user, const char *device, uint64_t bytes_done, uint64_t bytes_total) {
  (void)device;
  cs_guest *const guest = user;
  const uint64_t now_us = cs_now_us();
  if (bytes_done < bytes_total && now_us - guest->told_us < LOADING_US) return;
  guest->told_us = now_us;
  cs_net_expect(guest->options.net); /* the peer is next, once both have loaded */
  const cs_message message = {.kind = CS_MESSAGE_LOADING, .loading = {bytes_done, bytes_total}};
  (void)answer(guest, &message, NULL);
}

/* ---- use ---- */

static void show_worker(cs_guest *guest, const cs_worker *worker) {
  pthread_mutex_lock(&guest->mutex);
  guest->shown = worker;
  pthread_mutex_unlock(&guest->mutex);
}

void cs_guest_add_use(cs_guest *guest, const char *device, uint32_t *n_sessions,
                      uint64_t *n_kv_blocks_used) {
  pthread_mutex_lock(&guest->mutex);
  const cs_worker *const worker = guest->shown;
  if (worker &&
      strcmp(cs_device_name(cs_engine_device(cs_worker_engine(worker), 0)), device) == 0) {
    ++*n_sessions;
    *n_kv_blocks_used += cs_worker_blocks_used(worker);
  }
  pthread_mutex_unlock(&guest->mutex);
}

/* ---- attaching ---- */

/* "shape:NAME:FORMAT:SEED" */
static cs_status open_shape(char *text, cs_model **out, cs_error *error) {
  char *rest = text;
  strsep(&rest, ":");
  const char *const shape = strsep(&rest, ":");
  const char *const format = rest ? strsep(&rest, ":") : NULL;
  const uint32_t dtype = format ? cs_dtype_from_name(format) : CS_DTYPE_NONE;
  if (!shape || dtype == CS_DTYPE_NONE || !rest)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a model that is no file and no known shape");
  return cs_model_open_shape(shape, dtype, strtoull(rest, NULL, 10), out, error);
}

static cs_status open_model(cs_guest *guest, const cs_attach_message *asked, cs_error *error) {
  char text[MAX_PATH_BYTES];
  cs_blob_read_text(asked->model, text, sizeof text);
  cs_status status;
  if (guest->options.model)
    status = cs_model_open(guest->options.model, &guest->model, error);
  else if (strncmp(text, "shape:", 6) == 0)
    status = open_shape(text, &guest->model, error);
  else
    status = cs_model_open(text, &guest->model, error);
  if (status) return status;
  const uint64_t own = cs_model_fingerprint(guest->model);
  if (own == asked->fingerprint) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT,
                      "its model is another one: fingerprint %016llx there, %016llx here",
                      (unsigned long long)own, (unsigned long long)asked->fingerprint);
}

static cs_status open_device(cs_guest *guest, const cs_attach_message *asked, cs_device **out,
                             cs_error *error) {
  char name[256];
  *out = NULL;
  cs_blob_read_text(asked->device, name, sizeof name);
  cs_device *device;
  const cs_status status =
      cs_worker_open_device(guest->options.runtime, name, asked->n_threads, &device, error);
  if (status) return status;
  if (cs_service_offers(guest->options.service, cs_device_name(device))) {
    *out = device;
    return CS_OK;
  }
  cs_device_release(device);
  return cs_error_set(error, CS_NOT_FOUND, "device %.80s is not offered", name);
}

static cs_status build(cs_guest *guest, const cs_attach_message *asked, cs_device *device,
                       cs_error *error) {
  const cs_worker_spec spec = {.model = guest->model,
                               .device = device,
                               .number = asked->number,
                               .n_context = asked->n_context,
                               .n_sequences = asked->n_sequences,
                               .n_batch = asked->n_batch,
                               .kv_dtype = asked->kv_dtype,
                               .fallback = asked->fallback,
                               .n_threads = asked->n_threads,
                               .deterministic = asked->deterministic != 0,
                               .step_timeout_us = asked->step_timeout_us};
  cs_status status = cs_worker_build(guest->options.runtime, &spec, &guest->worker, error);
  if (!status) status = cs_worker_check_memory(&guest->worker, 1, error);
  if (status) return status;
  cs_link *const to_router = cs_connection_link(guest->options.connection, CS_NET_REQUESTS);
  return cs_worker_start(guest->worker,
                         guest->options.wrap_answers
                             ? guest->options.wrap_answers(guest->options.wrap_user, to_router)
                             : to_router,
                         on_loading, guest, error);
}

static cs_status tell_attached(cs_guest *guest, cs_error *error) {
  const cs_engine *const engine = cs_worker_engine(guest->worker);
  const cs_placement *const placement = cs_engine_placement(engine);
  const cs_fallback_entry *const entries = cs_placement_fallbacks(placement);
  cs_status status = CS_OK;
  for (size_t i = 0; i < cs_placement_n_fallbacks(placement) && !status; i++) {
    const cs_message message = {.kind = CS_MESSAGE_FALLBACK,
                                .fallback = {.op = entries[i].op_id,
                                             .count = entries[i].count,
                                             .bytes_per_token = entries[i].bytes_a_row,
                                             .device = cs_blob_of_text(entries[i].device),
                                             .reason = cs_blob_of_text(entries[i].reason)}};
    status = answer(guest, &message, error);
  }
  const cs_message message = {
      .kind = CS_MESSAGE_ATTACHED,
      .attached = {.kv_dtype = cs_engine_get_options(engine)->kv_dtype,
                   .device = cs_blob_of_text(cs_device_name(cs_engine_device(engine, 0))),
                   .address = cs_net_address(guest->options.net)}};
  return status ? status : answer(guest, &message, error);
}

static cs_status attach(cs_guest *guest, const cs_attach_message *asked, cs_error *error) {
  cs_device *device;
  if (guest->worker || guest->model)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a session attaches once");
  if (asked->number == 0)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a worker needs a number");
  cs_status status = open_device(guest, asked, &device, error);
  if (!status) status = open_model(guest, asked, error);
  if (!status) status = build(guest, asked, device, error);
  if (device) cs_device_release(device);
  if (status) return status;
  show_worker(guest, guest->worker);
  cs_mailbox *const inbox = cs_worker_inbox(guest->worker);
  cs_connection_bind(guest->options.connection, CS_NET_REQUESTS, inbox, ASKED_REQUESTS);
  cs_connection_bind(guest->options.connection, CS_NET_KV, inbox, ASKED_KV);
  return tell_attached(guest, error);
}

/* ---- peers ---- */

static void on_peer_lost(void *user, const cs_error *why) {
  cs_error named = *why;
  cs_error_prefix(&named, why->code, "KV from the prefill worker");
  const cs_message message = {.kind = CS_MESSAGE_PEER_LOST,
                              .error = cs_message_of_error(why->code, &named)};
  cs_frame *frame;
  if (!cs_message_encode(&message, &frame, NULL)) (void)cs_mailbox_post(user, frame);
}

static cs_status join(cs_guest *guest, const cs_peer_message *asked, cs_connection **out,
                      cs_error *error) {
  if (asked->send_key.bytes != CS_DOOR_KEY_BYTES || asked->receive_key.bytes != CS_DOOR_KEY_BYTES ||
      asked->address.bytes > CS_FABRIC_MAX_ADDRESS_BYTES)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "a peer without keys");
  return cs_net_join(guest->options.net, asked->address, asked->send_key.data,
                     asked->receive_key.data, out, error);
}

/* Closes it, but keeps it until the worker is gone. */
static cs_status leave_peer(cs_guest *guest, uint32_t slot, cs_error *error) {
  if (!guest->peers[slot]) return CS_OK;
  cs_connection **const left = realloc(guest->left, (guest->n_left + 1) * sizeof *left);
  if (!left) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a peer");
  guest->left = left;
  guest->left[guest->n_left++] = guest->peers[slot];
  cs_connection_close(guest->peers[slot]);
  guest->peers[slot] = NULL;
  return CS_OK;
}

static cs_status meet(cs_guest *guest, const cs_peer_message *asked, cs_error *error) {
  if (!guest->worker || asked->slot >= CS_WORKER_MAX_PEERS)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "no worker, or no slot %u", asked->slot);
  cs_connection *connection = guest->options.connection;
  if (asked->address.bytes > 0) {
    cs_status status = leave_peer(guest, asked->slot, error);
    if (!status) status = join(guest, asked, &connection, error);
    if (status) return status;
    guest->peers[asked->slot] = connection;
  }
  cs_status status = CS_OK;
  if (asked->receives) {
    cs_mailbox *const inbox = cs_worker_inbox(guest->worker);
    cs_connection_bind(connection, CS_NET_KV, inbox, ASKED_KV);
    if (connection != guest->options.connection)
      cs_connection_on_lost(connection, on_peer_lost, inbox);
  } else {
    cs_link *const link = cs_connection_link(connection, CS_NET_KV);
    status = cs_worker_connect(
        guest->worker, asked->slot,
        guest->options.wrap_kv ? guest->options.wrap_kv(guest->options.wrap_user, link) : link,
        error);
  }
  const cs_message message = {.kind = CS_MESSAGE_PEERED};
  return status ? status : answer(guest, &message, error);
}

/* ---- devices ---- */

typedef struct device_list {
  cs_guest *guest;
  uint32_t n_devices; /* offered */
  uint32_t index;     /* of the next to tell */
} device_list;

static cs_status tell_device(device_list *list, const cs_plugin_status *plugin, uint32_t number,
                             const cs_device_properties *properties, cs_error *error) {
  char name[96];
  uint32_t n_sessions;
  uint64_t n_kv_blocks_used;
  snprintf(name, sizeof name, "%s:%u", plugin->name, number);
  cs_service_use(list->guest->options.service, name, &n_sessions, &n_kv_blocks_used);
  const cs_message message = {
      .kind = CS_MESSAGE_DEVICE,
      .device = {.index = list->index++,
                 .n_devices = list->n_devices,
                 .number = number,
                 .type = properties->type,
                 .flags = properties->flags,
                 .dtypes = properties->dtypes,
                 .kv_dtypes = properties->kv_dtypes,
                 .memory_bytes = properties->memory_bytes,
                 .memory_free_bytes = properties->memory_free_bytes,
                 .concurrency = properties->concurrency,
                 .n_sessions = n_sessions,
                 .n_kv_blocks_used = n_kv_blocks_used,
                 .plugin = cs_blob_of_text(plugin->name),
                 .version = cs_blob_of_text(plugin->version),
                 .vendor = cs_blob_of_text(plugin->vendor),
                 .description = cs_blob_of_text(properties->description),
                 .driver = cs_blob_of_text(properties->driver),
                 .uuid = cs_blob_of_text(properties->uuid),
                 .memory_domain = cs_blob_of_text(properties->memory_domain),
                 .compute_domain = cs_blob_of_text(properties->compute_domain)}};
  return answer(list->guest, &message, error);
}

/* Counts what is offered, or with n_devices set tells it. */
static cs_status walk_devices(device_list *list, bool tells, uint32_t *n_found, cs_error *error) {
  cs_runtime *const runtime = list->guest->options.runtime;
  cs_status status = CS_OK;
  for (uint32_t p = 0; p < cs_runtime_n_plugins(runtime) && !status; p++) {
    cs_plugin_status plugin;
    if (cs_runtime_plugin(runtime, p, &plugin, NULL) || plugin.failure) continue;
    for (uint32_t d = 0; d < plugin.n_devices && !status; d++) {
      char name[96];
      cs_device_properties properties = {.struct_size = sizeof properties};
      snprintf(name, sizeof name, "%s:%u", plugin.name, d);
      if (!cs_service_offers(list->guest->options.service, name) ||
          cs_runtime_device_info(runtime, p, d, &properties, NULL))
        continue;
      ++*n_found;
      if (tells) status = tell_device(list, &plugin, d, &properties, error);
    }
  }
  return status;
}

static cs_status tell_devices(cs_guest *guest, cs_error *error) {
  device_list list = {.guest = guest};
  uint32_t n_told = 0;
  (void)walk_devices(&list, false, &list.n_devices, error);
  const cs_message none = {.kind = CS_MESSAGE_DEVICE};
  return list.n_devices ? walk_devices(&list, true, &n_told, error) : answer(guest, &none, error);
}

/* ---- the thread ---- */

static void take(cs_guest *guest, const cs_frame *frame) {
  cs_error error = CS_ERROR_INIT;
  cs_message message;
  cs_status status = cs_message_decode(frame->data, frame->bytes, &message, &error);
  if (!status && message.kind == CS_MESSAGE_ATTACH)
    status = attach(guest, &message.attach, &error);
  else if (!status && message.kind == CS_MESSAGE_PEER)
    status = meet(guest, &message.peer, &error);
  else if (!status)
    status = tell_devices(guest, &error);
  if (status) answer_error(guest, status, &error);
}

static void clean_up(cs_guest *guest) {
  for (uint32_t i = 0; i < CS_WORKER_MAX_PEERS; i++)
    if (guest->peers[i]) cs_connection_close(guest->peers[i]);
  cs_connection_close(guest->options.connection);
  show_worker(guest, NULL);
  cs_worker_destroy(guest->worker);
  for (uint32_t i = 0; i < CS_WORKER_MAX_PEERS; i++)
    cs_connection_release(guest->peers[i]);
  for (size_t i = 0; i < guest->n_left; i++)
    cs_connection_release(guest->left[i]);
  free(guest->left);
  if (guest->model) cs_model_release(guest->model);
}

static void *guest_main(void *argument) {
  cs_guest *const guest = argument;
  for (;;) {
    cs_frame *frame;
    const cs_status status = cs_mailbox_receive(guest->control, IDLE_US, &frame);
    if (status == CS_CANCELLED) break;
    if (status) continue;
    take(guest, frame);
    cs_frame_destroy(frame);
  }
  clean_up(guest);
  cs_log_write(cs_runtime_log(guest->options.runtime), CS_LOG_INFO, "%s: gone",
               cs_connection_name(guest->options.connection));
  atomic_store(&guest->over, true);
  return NULL;
}

static void on_lost(void *user, const cs_error *why) {
  (void)why;
  cs_mailbox_close(user);
}

/* ---- life ---- */

static void guest_free(cs_guest *guest) {
  pthread_mutex_destroy(&guest->mutex);
  cs_connection_close(guest->options.connection);
  cs_connection_release(guest->options.connection);
  if (guest->control) cs_mailbox_destroy(guest->control);
  free(guest);
}

cs_status cs_guest_create(const cs_guest_options *options, cs_guest **out, cs_error *error) {
  *out = NULL;
  cs_guest *const guest = calloc(1, sizeof *guest);
  if (!guest) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a session");
  guest->options = *options;
  pthread_mutex_init(&guest->mutex, NULL);
  cs_connection_retain(options->connection);
  cs_status status = cs_mailbox_create(CONTROL_BYTES, &guest->control, error);
  if (!status && pthread_create(&guest->thread, NULL, guest_main, guest))
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "no thread for a session");
  if (status) {
    guest_free(guest);
    return status;
  }
  cs_connection_bind(options->connection, CS_NET_CONTROL, guest->control, ASKED_CONTROL);
  cs_connection_on_lost(options->connection, on_lost, guest->control);
  *out = guest;
  return CS_OK;
}

bool cs_guest_is_over(cs_guest *guest) {
  return atomic_load(&guest->over);
}

void cs_guest_destroy(cs_guest *guest) {
  cs_mailbox_close(guest->control);
  pthread_join(guest->thread, NULL);
  guest_free(guest);
}

cs_guest *cs_guest_next(const cs_guest *guest) {
  return guest->next;
}

void cs_guest_set_next(cs_guest *guest, cs_guest *next) {
  guest->next = next;
}
