/* The network's thread: sockets of strangers and of peers, the fabric, and time. Other threads only
 * leave something for it (a connection, a frame, a credit) and wake it.
 *
 * As long as anything moves, and a moment longer, it does not sleep; then it arms the fabric's
 * descriptor and polls until the next beat, so that an idle process costs nothing but its beats. */
#include "scheduler/net.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/error.h"
#include "scheduler/net_internal.h"
#include "scheduler/net_socket.h"

#define MAX_ROUNDS     64 /* of the fabric before others have a turn */
#define TICK_MS        100
#define IDLE_TICK_MS   1000
#define BUSY_POLL_US   UINT64_C(1000) /* between looks at sockets while messages move */
#define LINGER_US      UINT64_C(60)   /* after the last message: the next one often follows */
#define MAX_GAP_US     UINT64_C(400000)
#define MIN_SILENCE_MS 500
#define MAX_SILENCE_MS 600000

void net_wake(cs_net *net) {
  const uint64_t one = 1;
  if (atomic_exchange(&net->woken, true)) return;
  if (write(net->wake, &one, sizeof one) < 0) atomic_store(&net->woken, false);
}

/* In this order: who comes in between writes nothing, and finds what it left looked at next. */
static void drain_wake(cs_net *net) {
  uint64_t count;
  while (read(net->wake, &count, sizeof count) > 0) {
  }
  atomic_store(&net->woken, false);
}

/* ---- the fabric's way in ---- */

/* Open before the other side can know where to come: a SYN that is dropped costs a second. */
void cs_net_expect(cs_net *net) {
  pthread_mutex_lock(&net->mutex);
  net->open_until_us = cs_now_us() + CS_NET_OPEN_US;
  net->options.table->let_in(net->fabric, true);
  pthread_mutex_unlock(&net->mutex);
}

static void shut_when_late(cs_net *net, uint64_t now_us) {
  pthread_mutex_lock(&net->mutex);
  if (net->open_until_us && now_us >= net->open_until_us) {
    net->options.table->let_in(net->fabric, false);
    net->open_until_us = 0;
  }
  pthread_mutex_unlock(&net->mutex);
}

/* ---- connections ---- */

/* From the thread: an endpoint, and a place in the list. Takes over the reference. */
static void adopt(cs_net *net, cs_connection *connection) {
  cs_error error = CS_ERROR_INIT;
  connection->next = net->connections;
  net->connections = connection;
  net->n_connections++;
  pthread_mutex_lock(&connection->mutex);
  connection->heard_us = cs_now_us();
  pthread_mutex_unlock(&connection->mutex);
  const cs_status status =
      net->options.table->connect(net->fabric, connection->address, connection->address_bytes,
                                  connection, &connection->peer, &error);
  if (status) net_connection_lose(connection, status, "%s", error.message);
}

static void leave_for_thread(cs_net *net, cs_connection *connection) {
  cs_connection_retain(connection);
  pthread_mutex_lock(&net->mutex);
  connection->next = net->incoming;
  net->incoming = connection;
  pthread_mutex_unlock(&net->mutex);
  net_wake(net);
}

static void adopt_incoming(cs_net *net) {
  pthread_mutex_lock(&net->mutex);
  cs_connection *first = net->incoming;
  net->incoming = NULL;
  pthread_mutex_unlock(&net->mutex);
  while (first) {
    cs_connection *const next = first->next;
    adopt(net, first);
    first = next;
  }
}

/* gap_us: how long this thread itself did not run, which is not the peer's fault. */
static void check_silence(cs_net *net, cs_connection *connection, uint64_t now_us,
                          uint64_t gap_us) {
  pthread_mutex_lock(&connection->mutex);
  if (gap_us >= MAX_GAP_US) connection->heard_us += gap_us;
  const uint64_t silent_us = now_us > connection->heard_us ? now_us - connection->heard_us : 0;
  pthread_mutex_unlock(&connection->mutex);
  if (silent_us >= net->options.silence_us)
    net_connection_lose(connection, CS_TIMEOUT, "it said nothing for %.1f s",
                        (double)silent_us / 1e6);
}

static void reap_connections(cs_net *net) {
  for (cs_connection **at = &net->connections; *at;) {
    cs_connection *const connection = *at;
    pthread_mutex_lock(&connection->mutex);
    const bool over = connection->lost || connection->closed;
    pthread_mutex_unlock(&connection->mutex);
    if (!over) {
      at = &connection->next;
      continue;
    }
    *at = connection->next;
    net->n_connections--;
    net_connection_detach(connection);
    cs_connection_release(connection);
  }
}

/* A peer says nothing on its socket any more: what comes is its end, or against the rules. */
static void read_socket(cs_connection *connection) {
  uint8_t byte;
  const ssize_t n = recv(connection->socket, &byte, 1, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0)
    net_connection_lose(connection, CS_CORRUPT, "it broke the rules of the door");
  else
    net_connection_lose(connection, CS_FAILED, "the other process has ended");
}

/* ---- strangers ---- */

static void shut_door(net_door *door) {
  if (door->socket >= 0) close(door->socket);
  door->socket = -1;
}

static void open_door(cs_net *net, int socket, const char *name) {
  for (int i = 0; i < NET_DOORS; i++) {
    net_door *const door = &net->doors[i];
    if (door->socket >= 0) continue;
    uint8_t key[CS_DOOR_KEY_BYTES];
    net->options.table->random(key, sizeof key);
    cs_door_init(&door->door, net->options.table, &net->options.secret, net->address.data,
                 (size_t)net->address.bytes, key, true);
    strcpy(door->name, name);
    door->deadline_us = cs_now_us() + NET_DOOR_US;
    door->socket = socket;
    return;
  }
  close(socket);
}

static void accept_strangers(cs_net *net) {
  char name[CS_SOCKET_NAME_BYTES];
  for (int i = 0; i < NET_DOORS; i++) {
    const int socket = cs_socket_accept(net->listener, name);
    if (socket < 0) return;
    open_door(net, socket, name);
  }
}

/* The stranger has become a peer. */
static void let_in(cs_net *net, net_door *door) {
  cs_connection *connection;
  cs_error error = CS_ERROR_INIT;
  const net_connection_options options = {
      .socket = door->socket,
      .name = door->name,
      .send_key = door->door.other_key,
      .receive_key = door->door.own_key,
      .address = {door->door.other_address, door->door.other_address_bytes}};
  if (net->n_connections >= CS_NET_MAX_CONNECTIONS ||
      net_connection_create(net, &options, &connection, &error)) {
    cs_log_write(net->options.log, CS_LOG_WARN, "%s: too many connections", door->name);
    shut_door(door);
    return;
  }
  door->socket = -1;
  adopt(net, connection);
  cs_log_write(net->options.log, CS_LOG_INFO, "%s: connected", connection->name);
  if (net->options.on_connection) net->options.on_connection(net->options.user, connection);
}

/* False: nothing more can be sent to this socket. */
static bool flush_door(net_door *door) {
  cs_door *const state = &door->door;
  while (state->out_bytes > 0) {
    const ssize_t n = send(door->socket, state->out, state->out_bytes, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    state->out_bytes -= (size_t)n;
    memmove(state->out, state->out + n, state->out_bytes);
  }
  return true;
}

/* Bytes that a stranger sent; a part at a time, so that no stranger takes more than its turn. */
static void serve_door(cs_net *net, net_door *door) {
  uint8_t bytes[512];
  cs_error error = CS_ERROR_INIT;
  const ssize_t n = recv(door->socket, bytes, sizeof bytes, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  cs_status status = n > 0 ? CS_OK : CS_CANCELLED;
  if (n > 0) status = cs_door_take(&door->door, bytes, (size_t)n, &error);
  if (door->door.state == CS_DOOR_OPEN) cs_net_expect(net);
  if (!flush_door(door) && !status) status = CS_CANCELLED;
  if (status) {
    cs_log_write(net->options.log, CS_LOG_INFO, "%s: not let in: %s", door->name,
                 n > 0 ? error.message : "it went away");
    shut_door(door);
  } else if (door->door.state == CS_DOOR_OPEN && door->door.out_bytes == 0) {
    let_in(net, door);
  }
}

static void expire_doors(cs_net *net, uint64_t now_us) {
  for (int i = 0; net->doors && i < NET_DOORS; i++)
    if (net->doors[i].socket >= 0 && now_us >= net->doors[i].deadline_us) shut_door(&net->doors[i]);
}

/* ---- the thread ---- */

enum { POLL_WAKE, POLL_FABRIC, POLL_LISTENER, POLL_FIXED };
#define POLL_LIMIT (POLL_FIXED + NET_DOORS + 4 * CS_NET_MAX_CONNECTIONS)

typedef struct net_poll {
  struct pollfd fds[POLL_LIMIT];
  void *who[POLL_LIMIT]; /* a net_door or a cs_connection */
  nfds_t n;
  nfds_t n_doors;
} net_poll;

static void add_poll(net_poll *polled, int socket, short events, void *who) {
  if (polled->n == POLL_LIMIT) return;
  polled->who[polled->n] = who;
  polled->fds[polled->n++] = (struct pollfd){.fd = socket, .events = events};
}

static void fill_poll(cs_net *net, net_poll *polled) {
  polled->n = 0;
  add_poll(polled, net->wake, POLLIN, NULL);
  add_poll(polled, net->options.table->descriptor(net->fabric), POLLIN, NULL);
  add_poll(polled, net->listener, POLLIN, NULL);
  for (int i = 0; net->doors && i < NET_DOORS; i++) {
    net_door *const door = &net->doors[i];
    const bool talks = door->socket >= 0 && door->door.out_bytes > 0;
    if (door->socket >= 0) add_poll(polled, door->socket, talks ? POLLOUT : POLLIN, door);
  }
  polled->n_doors = polled->n - POLL_FIXED;
  for (cs_connection *at = net->connections; at; at = at->next)
    if (at->socket >= 0) add_poll(polled, at->socket, POLLIN, at);
}

static void serve_poll(cs_net *net, net_poll *polled) {
  if (polled->fds[POLL_WAKE].revents) drain_wake(net);
  for (nfds_t i = POLL_FIXED; i < polled->n; i++) {
    if (!polled->fds[i].revents) continue;
    if (i >= POLL_FIXED + polled->n_doors) {
      read_socket(polled->who[i]);
      continue;
    }
    net_door *const door = polled->who[i];
    if (polled->fds[i].revents & POLLOUT) {
      if (!flush_door(door))
        shut_door(door);
      else if (door->door.state == CS_DOOR_OPEN && door->door.out_bytes == 0)
        let_in(net, door);
    } else {
      serve_door(net, door);
    }
  }
  if (polled->fds[POLL_LISTENER].revents) accept_strangers(net);
}

static bool progress_fabric(cs_net *net) {
  int rounds = 0;
  while (rounds < MAX_ROUNDS && net->options.table->progress(net->fabric))
    rounds++;
  return rounds > 0;
}

static bool is_stopping(cs_net *net) {
  pthread_mutex_lock(&net->mutex);
  const bool stopping = net->stopping;
  pthread_mutex_unlock(&net->mutex);
  return stopping;
}

static void *net_main(void *argument) {
  cs_net *const net = argument;
  net_poll polled = {.n = 0};
  uint64_t last_us = cs_now_us(), polled_us = 0, moved_us = 0;
  while (!is_stopping(net)) {
    adopt_incoming(net);
    const bool worked = progress_fabric(net);
    const uint64_t now_us = cs_now_us();
    for (cs_connection *at = net->connections; at; at = at->next) {
      net_connection_pump(at, now_us);
      check_silence(net, at, now_us, now_us - last_us);
    }
    last_us = now_us;
    reap_connections(net);
    expire_doors(net, now_us);
    shut_when_late(net, now_us);
    const bool more = progress_fabric(net) || worked;
    if (more) moved_us = now_us;
    if (!more && now_us - moved_us < LINGER_US) {
      sched_yield();
      continue;
    }
    const bool sleeps = !more && net->options.table->arm(net->fabric);
    const bool busy = net->connections || (net->doors && polled.n_doors > 0);
    if (!sleeps && now_us - polled_us < BUSY_POLL_US) continue;
    polled_us = now_us;
    fill_poll(net, &polled);
    if (poll(polled.fds, polled.n, !sleeps ? 0 : busy ? TICK_MS : IDLE_TICK_MS) > 0)
      serve_poll(net, &polled);
  }
  return NULL;
}

/* ---- life ---- */

static uint64_t choose_silence(uint64_t asked_us) {
  const char *const given = getenv("CONSORT_NET_TIMEOUT_MS");
  if (asked_us) return asked_us;
  char *end;
  const unsigned long ms = given ? strtoul(given, &end, 10) : 0;
  if (!given || *end || ms < MIN_SILENCE_MS || ms > MAX_SILENCE_MS) return CS_NET_SILENCE_US;
  return ms * 1000;
}

static cs_status listen_for_strangers(cs_net *net, cs_error *error) {
  const char *const address = net->options.listen;
  if (!address) return CS_OK;
  if (!cs_socket_is_loopback(address) && net->options.secret.n_bytes == 0) {
    cs_status status = cs_socket_listen(address, &net->listener, net->listens_on, error);
    if (net->listener >= 0) close(net->listener);
    net->listener = -1;
    if (status) return status;
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        "%s can be reached from outside: a secret is needed (--secret-file or "
                        "CONSORT_SECRET)",
                        address);
  }
  net->doors = calloc(NET_DOORS, sizeof *net->doors);
  if (!net->doors) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for the network");
  for (int i = 0; i < NET_DOORS; i++)
    net->doors[i].socket = -1;
  return cs_socket_listen(address, &net->listener, net->listens_on, error);
}

static cs_status open_fabric(cs_net *net, cs_error *error) {
  const cs_fabric_options options = {.events = {.user = net,
                                                .arriving = net_on_arriving,
                                                .arrived = net_on_arrived,
                                                .sent = net_on_sent,
                                                .lost = net_on_lost},
                                     .loopback = net->options.loopback};
  const cs_status status = net->options.table->open(&options, &net->fabric, error);
  if (status) return status;
  size_t bytes;
  net->address.data = net->options.table->address(net->fabric, &bytes);
  net->address.bytes = bytes;
  return CS_OK;
}

static void net_free(cs_net *net) {
  if (net->fabric) net->options.table->close(net->fabric);
  for (int i = 0; net->doors && i < NET_DOORS; i++)
    shut_door(&net->doors[i]);
  if (net->listener >= 0) close(net->listener);
  if (net->wake >= 0) close(net->wake);
  net->options.table->wipe(&net->options.secret, sizeof net->options.secret);
  pthread_mutex_destroy(&net->mutex);
  free(net->doors);
  free(net);
}

cs_status cs_net_create(const cs_net_options *options, cs_net **out, cs_error *error) {
  *out = NULL;
  cs_net *const net = calloc(1, sizeof *net);
  if (!net) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for the network");
  net->options = *options;
  net->options.silence_us = choose_silence(options->silence_us);
  net->listener = -1;
  net->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  pthread_mutex_init(&net->mutex, NULL);
  cs_status status = net->wake < 0 ? cs_error_set(error, CS_IO, "network: %s", strerror(errno))
                                   : listen_for_strangers(net, error);
  if (!status) status = open_fabric(net, error);
  if (!status && pthread_create(&net->thread, NULL, net_main, net))
    status = cs_error_set(error, CS_OUT_OF_MEMORY, "no thread for the network");
  if (status) {
    net_free(net);
    return status;
  }
  *out = net;
  return CS_OK;
}

void cs_net_destroy(cs_net *net) {
  if (!net) return;
  pthread_mutex_lock(&net->mutex);
  net->stopping = true;
  pthread_mutex_unlock(&net->mutex);
  net_wake(net);
  pthread_join(net->thread, NULL);
  adopt_incoming(net);
  for (cs_connection *at = net->connections; at; at = at->next)
    cs_connection_close(at);
  reap_connections(net);
  net_free(net);
}

const char *cs_net_listens_on(const cs_net *net) {
  return net->listens_on;
}

cs_blob cs_net_address(const cs_net *net) {
  return net->address;
}

bool cs_net_is_loopback(const char *address) {
  return cs_socket_is_loopback(address);
}

/* ---- going to others ---- */

static cs_status send_all(int socket, cs_door *door, uint64_t deadline_us) {
  while (door->out_bytes > 0) {
    const ssize_t n = send(socket, door->out, door->out_bytes, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return CS_IO;
    if (n < 0 && !cs_socket_wait(socket, POLLOUT, deadline_us)) return CS_TIMEOUT;
    if (n < 0) continue;
    door->out_bytes -= (size_t)n;
    memmove(door->out, door->out + n, door->out_bytes);
  }
  return CS_OK;
}

/* Until the door is open. */
static cs_status pass_door(int socket, cs_door *door, uint64_t deadline_us, cs_error *error) {
  while (door->state != CS_DOOR_OPEN) {
    uint8_t bytes[512];
    cs_status status = send_all(socket, door, deadline_us);
    if (!status && !cs_socket_wait(socket, POLLIN, deadline_us)) status = CS_TIMEOUT;
    if (status == CS_TIMEOUT)
      return cs_error_set(error, status, "it does not answer as a worker does");
    const ssize_t n = status ? 0 : recv(socket, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return cs_error_set(error, CS_IO, "it ended the connection");
    status = cs_door_take(door, bytes, (size_t)n, error);
    if (status) return status;
  }
  return CS_OK;
}

cs_status cs_net_connect(cs_net *net, const char *address, const cs_secret *secret,
                         uint64_t timeout_us, cs_connection **out, cs_error *error) {
  *out = NULL;
  int socket;
  uint8_t key[CS_DOOR_KEY_BYTES];
  const uint64_t deadline_us = cs_now_us() + timeout_us;
  cs_door *const door = malloc(sizeof *door);
  if (!door) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a connection");
  cs_status status = cs_socket_connect(address, timeout_us, &socket, error);
  if (status) {
    free(door);
    return status;
  }
  cs_net_expect(net);
  net->options.table->random(key, sizeof key);
  cs_door_init(door, net->options.table, secret, net->address.data, (size_t)net->address.bytes, key,
               false);
  status = pass_door(socket, door, deadline_us, error);
  const net_connection_options options = {
      .socket = socket,
      .name = address,
      .send_key = door->other_key,
      .receive_key = key,
      .address = {door->other_address, door->other_address_bytes}};
  if (status)
    status = cs_error_prefix(error, status, "worker %s", address);
  else
    status = net_connection_create(net, &options, out, error);
  if (status)
    close(socket);
  else
    leave_for_thread(net, *out);
  free(door);
  return status;
}

cs_status cs_net_join(cs_net *net, cs_blob address, const uint8_t *send_key,
                      const uint8_t *receive_key, cs_connection **out, cs_error *error) {
  const net_connection_options options = {.socket = -1,
                                          .name = "the other worker",
                                          .send_key = send_key,
                                          .receive_key = receive_key,
                                          .address = address};
  cs_net_expect(net);
  const cs_status status = net_connection_create(net, &options, out, error);
  if (!status) leave_for_thread(net, *out);
  return status;
}
