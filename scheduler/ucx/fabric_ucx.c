/* Messages by UCX: one context and one worker, driven by a single thread, so that the worker needs
 * no locks of its own and a message costs one wake-up at most. Endpoints are made from worker
 * addresses that were exchanged by peers who had proved themselves; the library itself listens on
 * no port that is told to anyone else.
 *
 * Endpoints ask for error reports, which also makes a close by force end every request. Before that
 * close their sockets are shut: UCX 1.13 keeps the socket of an endpoint that is closed, to hear of
 * the other side's close, and when that comes while data of its own still wait for room, it frees
 * the socket's state and then goes on to write from it. From a socket that is shut it reads nothing
 * more and lets go of it at once.
 *
 * Data go
 * to where the receiver wants them: what is small comes with its header and is copied, what is
 * large is announced and fetched (rendezvous). The limit between them is the library's own where
 * there is hardware that fetches. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucp/api/ucp.h>
#include <ucs/debug/log_def.h>

#include "core/error.h"
#include "fabric_hash.h"
#include "gate.h"
#include "scheduler/fabric.h"
#include "sockets.h"

#define MESSAGE_ID    7
#define CLOSE_ROUNDS  100000
#define TCP_BUFFER    "4m"
#define TCP_SEGMENT   "65584" /* a part, our header and the library's 8 bytes */
#define LOOPBACK_NAME "lo"
#define EAGER_LIMIT   "1m"
#define RDMA_FOLDER   "/sys/class/infiniband"
#define MAX_OWN       SOCKETS_MAX_ENDS

_Static_assert(SOCKETS_LIST_BYTES <= CS_FABRIC_WAY_BYTES, "a description fits");

struct cs_fabric {
  cs_fabric_events events;
  ucp_context_h context;
  ucp_worker_h worker;
  uint8_t *address; /* where it listens, then the library's */
  size_t address_bytes;
  int descriptor;
  gate gate;
  socket_ends listens;
  cs_fabric_peer *peers;
  uint64_t n_open;         /* requests that have not come back */
  ucs_status_ptr_t *dying; /* closes under way */
  size_t n_dying;
};

struct cs_fabric_peer {
  cs_fabric *fabric;
  cs_fabric_peer *next;
  ucp_ep_h endpoint;
  void *user;
  socket_ends listens;    /* where it is connected to */
  socket_ends comes_from; /* as it says */
  uint64_t own[MAX_OWN];  /* identities of sockets that connected to it */
  size_t n_own;
  bool told; /* that it was lost */
};

/* Of a send or a fetch. `header` has to last as long as the request. */
typedef struct fabric_request {
  cs_fabric *fabric;
  void *token;
  uint8_t header[CS_FABRIC_HEADER_BYTES];
} fabric_request;

_Static_assert(CS_FABRIC_PART_BYTES + CS_FABRIC_HEADER_BYTES + 8 == 65584, "TCP_SEGMENT");

static cs_status fail(cs_error *error, const char *what, ucs_status_t status) {
  return cs_error_set(error, status == UCS_ERR_NO_MEMORY ? CS_OUT_OF_MEMORY : CS_FAILED,
                      "network: %s: %s", what, ucs_status_string(status));
}

/* ---- messages ---- */

static void on_sent(void *request, ucs_status_t status, void *user) {
  fabric_request *const mine = user;
  mine->fabric->n_open--;
  mine->fabric->events.sent(mine->fabric->events.user, mine->token, status == UCS_OK);
  free(mine);
  if (request) ucp_request_free(request);
}

static void on_fetched(void *request, ucs_status_t status, size_t bytes, void *user) {
  (void)bytes;
  fabric_request *const mine = user;
  mine->fabric->n_open--;
  mine->fabric->events.arrived(mine->fabric->events.user, mine->token, status == UCS_OK);
  free(mine);
  if (request) ucp_request_free(request);
}

static void fetch(cs_fabric *fabric, void *descriptor, void *to, size_t bytes, void *token) {
  fabric_request *const mine = calloc(1, sizeof *mine);
  if (!mine) {
    fabric->events.arrived(fabric->events.user, token, false);
    return;
  }
  *mine = (fabric_request){.fabric = fabric, .token = token};
  const ucp_request_param_t param = {.op_attr_mask =
                                         UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                     .cb.recv_am = on_fetched,
                                     .user_data = mine};
  fabric->n_open++;
  const ucs_status_ptr_t started =
      ucp_am_recv_data_nbx(fabric->worker, descriptor, to, bytes, &param);
  if (!started)
    on_fetched(NULL, UCS_OK, bytes, mine);
  else if (UCS_PTR_IS_ERR(started))
    on_fetched(NULL, UCS_PTR_STATUS(started), 0, mine);
}

static ucs_status_t on_message(void *user, const void *header, size_t header_bytes, void *data,
                               size_t bytes, const ucp_am_recv_param_t *param) {
  cs_fabric *const fabric = user;
  if (header_bytes != CS_FABRIC_HEADER_BYTES) return UCS_OK;
  void *token = NULL;
  void *const to = fabric->events.arriving(fabric->events.user, header, bytes, &token);
  if (!to) return UCS_OK; /* refused: the library drops what it holds or tells the sender */
  if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) {
    fetch(fabric, data, to, bytes, token);
    return UCS_INPROGRESS;
  }
  if (bytes > 0) memcpy(to, data, bytes);
  fabric->events.arrived(fabric->events.user, token, true);
  return UCS_OK;
}

static cs_status fabric_send(cs_fabric_peer *peer, const void *header, const void *data,
                             size_t bytes, void *token, cs_error *error) {
  cs_fabric *const fabric = peer->fabric;
  fabric_request *const mine = calloc(1, sizeof *mine);
  if (!mine) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a message");
  mine->fabric = fabric;
  mine->token = token;
  memcpy(mine->header, header, sizeof mine->header);
  const ucp_request_param_t param = {.op_attr_mask =
                                         UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                     .cb.send = on_sent,
                                     .user_data = mine};
  fabric->n_open++;
  const ucs_status_ptr_t started = ucp_am_send_nbx(peer->endpoint, MESSAGE_ID, mine->header,
                                                   sizeof mine->header, data, bytes, &param);
  if (UCS_PTR_IS_ERR(started)) {
    fabric->n_open--;
    free(mine);
    return fail(error, "a message was not sent", UCS_PTR_STATUS(started));
  }
  if (!started) on_sent(NULL, UCS_OK, mine);
  return CS_OK;
}

/* ---- peers ---- */

static void on_lost(void *user, ucp_ep_h endpoint, ucs_status_t status) {
  (void)endpoint;
  cs_fabric_peer *const peer = user;
  if (peer->told) return;
  peer->told = true;
  peer->fabric->events.lost(peer->fabric->events.user, peer->user, ucs_status_string(status));
}

/* ---- the sockets of a way ---- */

static bool owns(const cs_fabric_peer *peer, uint64_t identity) {
  for (size_t i = 0; i < peer->n_own; i++)
    if (peer->own[i] == identity) return true;
  return false;
}

/* Two ways may lead to the same process: a socket belongs to the one that was made first. */
static bool connected_to(const cs_fabric_peer *peer, int socket) {
  uint8_t end[SOCKETS_END_BYTES];
  if (!socket_other_end(socket, end) || !socket_ends_have(&peer->listens, end)) return false;
  const uint64_t identity = socket_identity(socket);
  for (const cs_fabric_peer *at = peer->fabric->peers; at; at = at->next)
    if (at != peer && owns(at, identity)) return false;
  return true;
}

static bool accepted_from(const cs_fabric_peer *peer, int socket) {
  uint8_t own[SOCKETS_END_BYTES], other[SOCKETS_END_BYTES];
  return socket_own_end(socket, own) && socket_ends_have(&peer->fabric->listens, own) &&
         socket_other_end(socket, other) && socket_ends_have(&peer->comes_from, other);
}

static void note_own(void *user, int descriptor) {
  cs_fabric_peer *const peer = user;
  if (peer->n_own < MAX_OWN && connected_to(peer, descriptor))
    peer->own[peer->n_own++] = socket_identity(descriptor);
}

static void shut_if_between(void *user, int descriptor) {
  const cs_fabric_peer *const peer = user;
  if (connected_to(peer, descriptor) || accepted_from(peer, descriptor)) socket_shut(descriptor);
}

typedef struct description {
  const cs_fabric_peer *peer;
  socket_ends ends;
} description;

static void describe_own(void *user, int descriptor) {
  description *const out = user;
  uint8_t end[SOCKETS_END_BYTES];
  if (connected_to(out->peer, descriptor) && socket_own_end(descriptor, end))
    socket_ends_add(&out->ends, end);
}

static size_t fabric_describe(const cs_fabric_peer *peer, uint8_t *out) {
  description described = {.peer = peer};
  sockets_visit(describe_own, &described);
  memcpy(out, &described.ends, socket_ends_bytes(&described.ends));
  return socket_ends_bytes(&described.ends);
}

static bool fabric_learn(cs_fabric_peer *peer, const uint8_t *data, size_t bytes) {
  return bytes > 0 && socket_ends_read(data, bytes, &peer->comes_from) == bytes;
}

/* ---- peers ---- */

static cs_status fabric_connect(cs_fabric *fabric, const void *address, size_t bytes,
                                void *peer_user, cs_fabric_peer **out, cs_error *error) {
  *out = NULL;
  cs_fabric_peer *const peer = calloc(1, sizeof *peer);
  if (!peer) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a connection");
  *peer = (cs_fabric_peer){.fabric = fabric, .user = peer_user};
  const size_t at = socket_ends_read(address, bytes, &peer->listens);
  const ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                                                UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                                UCP_EP_PARAM_FIELD_ERR_HANDLER,
                                  .address = (const ucp_address_t *)((const uint8_t *)address + at),
                                  .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                                  .err_handler = {.cb = on_lost, .arg = peer}};
  ucs_status_t status = UCS_ERR_INVALID_ADDR;
  if (at > 0 && at < bytes) status = ucp_ep_create(fabric->worker, &params, &peer->endpoint);
  if (status != UCS_OK) {
    free(peer);
    return fail(error, "there is no way to the other process", status);
  }
  sockets_visit(note_own, peer);
  peer->next = fabric->peers;
  fabric->peers = peer;
  *out = peer;
  return CS_OK;
}

static void forget_peer(cs_fabric_peer *peer) {
  cs_fabric_peer **at = &peer->fabric->peers;
  while (*at != peer)
    at = &(*at)->next;
  *at = peer->next;
  free(peer);
}

/* Forgets closes that are done. */
static void reap(cs_fabric *fabric) {
  size_t kept = 0;
  for (size_t i = 0; i < fabric->n_dying; i++) {
    if (ucp_request_check_status(fabric->dying[i]) == UCS_INPROGRESS)
      fabric->dying[kept++] = fabric->dying[i];
    else
      ucp_request_free(fabric->dying[i]);
  }
  fabric->n_dying = kept;
}

static void fabric_disconnect(cs_fabric_peer *peer) {
  cs_fabric *const fabric = peer->fabric;
  peer->told = true;
  sockets_visit(shut_if_between, peer);
  const ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                     .flags = UCP_EP_CLOSE_FLAG_FORCE};
  const ucs_status_ptr_t closing = ucp_ep_close_nbx(peer->endpoint, &param);
  forget_peer(peer);
  if (!UCS_PTR_IS_PTR(closing)) return;
  ucs_status_ptr_t *const dying =
      realloc(fabric->dying, (fabric->n_dying + 1) * sizeof *fabric->dying);
  if (!dying) { /* the library frees it when it is done */
    ucp_request_free(closing);
    return;
  }
  fabric->dying = dying;
  fabric->dying[fabric->n_dying++] = closing;
}

/* ---- progress ---- */

static bool fabric_progress(cs_fabric *fabric) {
  const bool worked = ucp_worker_progress(fabric->worker) != 0;
  if (fabric->n_dying > 0) reap(fabric);
  return worked;
}

static bool fabric_arm(cs_fabric *fabric) {
  return ucp_worker_arm(fabric->worker) == UCS_OK;
}

static int fabric_descriptor(const cs_fabric *fabric) {
  return fabric->descriptor;
}

static const void *fabric_address(const cs_fabric *fabric, size_t *bytes) {
  *bytes = fabric->address_bytes;
  return fabric->address;
}

/* ---- the library's own log ---- */

/* It writes to standard output, which is not its own here, and what it reports is told by `lost`
 * and in errors. Who sets UCX_LOG_LEVEL wants to see it. */
static ucs_log_func_rc_t on_log(const char *file, unsigned line, const char *function,
                                ucs_log_level_t level, const ucs_log_component_config_t *component,
                                const char *message, va_list arguments) {
  (void)function, (void)component;
  if (level != UCS_LOG_LEVEL_FATAL && !getenv("UCX_LOG_LEVEL")) return UCS_LOG_FUNC_RC_STOP;
  char text[512];
  vsnprintf(text, sizeof text, message, arguments);
  fprintf(stderr, "UCX %s:%u: %s\n", file, line, text);
  return UCS_LOG_FUNC_RC_STOP;
}

static void fabric_let_in(cs_fabric *fabric, bool open) {
  gate_set(&fabric->gate, open);
}

/* ---- life ---- */

static bool has_rdma(void) {
  DIR *const folder = opendir(RDMA_FOLDER);
  bool found = false;
  if (!folder) return false;
  for (const struct dirent *entry; !found && (entry = readdir(folder));)
    found = entry->d_name[0] != '.';
  closedir(folder);
  return found;
}

/* Sets what the user has not set: socket buffers of 4 MiB more than double the rate of messages
 * over TCP, a part of a frame fits into one segment, so that it is sent from where it lies and
 * comes in one call, and is not announced first, which costs TCP more than it saves; and who talks
 * to this host alone needs no other interface. Fields of a transport are named without it here:
 * "TCP_SNDBUF" is the variable's name, which this call warns about. */
static ucs_status_t configure(ucp_config_t *config, bool loopback) {
  ucs_status_t status = UCS_OK;
  if (!getenv("UCX_TCP_SNDBUF")) status = ucp_config_modify(config, "SNDBUF", TCP_BUFFER);
  if (status == UCS_OK && !getenv("UCX_TCP_RCVBUF"))
    status = ucp_config_modify(config, "RCVBUF", TCP_BUFFER);
  if (status == UCS_OK && !getenv("UCX_TCP_RX_SEG_SIZE"))
    status = ucp_config_modify(config, "RX_SEG_SIZE", TCP_SEGMENT);
  if (status == UCS_OK && !getenv("UCX_RNDV_THRESH") && !has_rdma())
    status = ucp_config_modify(config, "RNDV_THRESH", EAGER_LIMIT);
  if (status == UCS_OK && loopback && !getenv("UCX_NET_DEVICES"))
    status = ucp_config_modify(config, "NET_DEVICES", LOOPBACK_NAME);
  return status;
}

static ucs_status_t make_context(cs_fabric *fabric, bool loopback) {
  ucp_config_t *config;
  ucs_status_t status = ucp_config_read(NULL, NULL, &config);
  if (status != UCS_OK) return status;
  const ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME,
                               .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
                               .name = "consort"};
  status = configure(config, loopback);
  if (status == UCS_OK) status = ucp_init(&params, config, &fabric->context);
  ucp_config_release(config);
  return status;
}

static ucs_status_t make_worker(cs_fabric *fabric) {
  const ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                      .thread_mode = UCS_THREAD_MODE_SERIALIZED};
  ucs_status_t status = ucp_worker_create(fabric->context, &params, &fabric->worker);
  if (status != UCS_OK) return status;
  const ucp_am_handler_param_t handler = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                                                        UCP_AM_HANDLER_PARAM_FIELD_CB |
                                                        UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                          .id = MESSAGE_ID,
                                          .cb = on_message,
                                          .arg = fabric};
  status = ucp_worker_set_am_recv_handler(fabric->worker, &handler);
  if (status == UCS_OK) status = ucp_worker_get_efd(fabric->worker, &fabric->descriptor);
  return status;
}

/* What others connect with: where it listens, and the library's address. */
static ucs_status_t make_address(cs_fabric *fabric) {
  ucp_address_t *library;
  size_t bytes;
  for (size_t i = 0; i < fabric->gate.n_sockets; i++) {
    uint8_t end[SOCKETS_END_BYTES];
    if (!socket_own_end(fabric->gate.sockets[i], end)) continue;
    if (fabric->listens.n == SOCKETS_MAX_ENDS) return UCS_ERR_EXCEEDS_LIMIT;
    socket_ends_add(&fabric->listens, end);
  }
  ucs_status_t status = ucp_worker_get_address(fabric->worker, &library, &bytes);
  if (status != UCS_OK) return status;
  const size_t before = socket_ends_bytes(&fabric->listens);
  fabric->address_bytes = before + bytes;
  fabric->address = malloc(fabric->address_bytes);
  if (fabric->address_bytes > CS_FABRIC_MAX_ADDRESS_BYTES)
    status = UCS_ERR_EXCEEDS_LIMIT;
  else if (!fabric->address)
    status = UCS_ERR_NO_MEMORY;
  if (status == UCS_OK) {
    memcpy(fabric->address, &fabric->listens, before);
    memcpy(fabric->address + before, library, bytes);
  }
  ucp_worker_release_address(fabric->worker, library);
  return status;
}

static void fabric_close(cs_fabric *fabric) {
  if (!fabric) return;
  for (int i = 0; fabric->worker && i < CLOSE_ROUNDS && (fabric->n_dying || fabric->n_open); i++)
    fabric_progress(fabric);
  if (fabric->worker) ucp_worker_destroy(fabric->worker);
  if (fabric->context) ucp_cleanup(fabric->context);
  ucs_log_pop_handler();
  free(fabric->dying);
  free(fabric->address);
  free(fabric);
}

static cs_status fabric_open(const cs_fabric_options *options, cs_fabric **out, cs_error *error) {
  *out = NULL;
  cs_fabric *const fabric = calloc(1, sizeof *fabric);
  if (!fabric) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for the network");
  ucs_log_push_handler(on_log);
  fabric->events = options->events;
  fabric->descriptor = -1;
  gate_survey before;
  gate_look_around(&before);
  ucs_status_t status = make_context(fabric, options->loopback);
  if (status == UCS_OK) status = make_worker(fabric);
  cs_status guarded = CS_OK;
  if (status == UCS_OK) guarded = gate_create(&before, &fabric->gate, error);
  if (status == UCS_OK && !guarded) status = make_address(fabric);
  if (status == UCS_OK && !guarded) {
    *out = fabric;
    return CS_OK;
  }
  fabric_close(fabric);
  if (guarded) return guarded;
  return fail(error, "UCX does not start (UCX_LOG_LEVEL=info says more)", status);
}

__attribute__((visibility("default"))) const cs_fabric_table *cs_fabric_query(void);

const cs_fabric_table *cs_fabric_query(void) {
  static const cs_fabric_table table = {.version = CS_FABRIC_VERSION,
                                        .open = fabric_open,
                                        .close = fabric_close,
                                        .address = fabric_address,
                                        .descriptor = fabric_descriptor,
                                        .progress = fabric_progress,
                                        .arm = fabric_arm,
                                        .connect = fabric_connect,
                                        .describe = fabric_describe,
                                        .learn = fabric_learn,
                                        .disconnect = fabric_disconnect,
                                        .send = fabric_send,
                                        .let_in = fabric_let_in,
                                        .hash_init = cs_fabric_hash_init,
                                        .random = cs_fabric_random,
                                        .prove = cs_fabric_prove,
                                        .equal = cs_fabric_equal,
                                        .wipe = cs_fabric_wipe};
  return &table;
}
