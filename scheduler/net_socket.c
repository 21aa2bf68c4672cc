/* Only what the door needs. Names are resolved by the system, ports are always numbers. */
#include "scheduler/net_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/error.h"
#include "scheduler/transport.h"

#define BACKLOG 64

static cs_status resolve(const char *address, int flags, struct addrinfo **out, cs_error *error) {
  char host[256];
  const char *const colon = strrchr(address, ':');
  const bool bracketed = address[0] == '[';
  const char *const from = address + bracketed;
  const size_t bytes = colon && colon > from ? (size_t)(colon - from) - bracketed : 0;
  *out = NULL;
  if (bytes == 0 || bytes >= sizeof host || !colon[1] || (bracketed && colon[-1] != ']') ||
      (!bracketed && memchr(from, ':', bytes)) ||
      strspn(colon + 1, "0123456789") != strlen(colon + 1) || strlen(colon + 1) > 5)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s is no HOST:PORT", address);
  memcpy(host, from, bytes);
  host[bytes] = '\0';
  const struct addrinfo hints = {
      .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags};
  const int failed = getaddrinfo(host, colon + 1, &hints, out);
  if (failed)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: %s", address, gai_strerror(failed));
  return CS_OK;
}

static bool is_loopback(const struct sockaddr *address) {
  if (address->sa_family == AF_INET) {
    struct sockaddr_in v4;
    memcpy(&v4, address, sizeof v4);
    return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
  }
  struct sockaddr_in6 v6;
  memcpy(&v6, address, sizeof v6);
  return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

bool cs_socket_is_loopback(const char *address) {
  struct addrinfo *found;
  if (resolve(address, 0, &found, NULL)) return false;
  bool all = true;
  for (const struct addrinfo *at = found; at; at = at->ai_next)
    all = all && is_loopback(at->ai_addr);
  freeaddrinfo(found);
  return all;
}

static void tell_name(const struct sockaddr *address, socklen_t bytes, char *name) {
  char host[CS_SOCKET_NAME_BYTES - 16], port[8];
  if (getnameinfo(address, bytes, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV))
    snprintf(name, CS_SOCKET_NAME_BYTES, "?");
  else
    snprintf(name, CS_SOCKET_NAME_BYTES, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static cs_status open_listener(const struct addrinfo *at, int *out) {
  const int one = 1;
  *out = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (*out < 0) return CS_IO;
  setsockopt(*out, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (!bind(*out, at->ai_addr, at->ai_addrlen) && !listen(*out, BACKLOG)) return CS_OK;
  const int failed = errno;
  close(*out);
  errno = failed;
  return CS_IO;
}

cs_status cs_socket_listen(const char *address, int *out, char *name, cs_error *error) {
  struct addrinfo *found;
  cs_status status = resolve(address, AI_PASSIVE, &found, error);
  if (status) return status;
  if (open_listener(found, out)) {
    status = cs_error_set(error, CS_IO, "cannot listen on %s: %s", address, strerror(errno));
  } else {
    struct sockaddr_storage bound;
    socklen_t bytes = sizeof bound;
    getsockname(*out, (struct sockaddr *)&bound, &bytes);
    tell_name((struct sockaddr *)&bound, bytes, name);
  }
  freeaddrinfo(found);
  return status;
}

bool cs_socket_wait(int socket, short events, uint64_t deadline_us) {
  for (;;) {
    const uint64_t now_us = cs_now_us();
    if (now_us >= deadline_us) return false;
    struct pollfd one = {.fd = socket, .events = events};
    const uint64_t left_ms = (deadline_us - now_us) / 1000 + 1;
    const int n = poll(&one, 1, left_ms > 60000 ? 60000 : (int)left_ms);
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return false;
  }
}

/* 0 or an errno. */
static int connect_one(const struct addrinfo *at, uint64_t deadline_us, int *out) {
  const int one = 1;
  *out = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (*out < 0) return errno;
  setsockopt(*out, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  int failed = connect(*out, at->ai_addr, at->ai_addrlen) ? errno : 0;
  if (failed == EINPROGRESS) {
    socklen_t bytes = sizeof failed;
    if (!cs_socket_wait(*out, POLLOUT, deadline_us))
      failed = ETIMEDOUT;
    else if (getsockopt(*out, SOL_SOCKET, SO_ERROR, &failed, &bytes))
      failed = errno;
  }
  if (failed) close(*out);
  return failed;
}

cs_status cs_socket_connect(const char *address, uint64_t timeout_us, int *out, cs_error *error) {
  struct addrinfo *found;
  const cs_status status = resolve(address, 0, &found, error);
  if (status) return status;
  const uint64_t deadline_us = cs_now_us() + timeout_us;
  int failed = EHOSTUNREACH;
  for (const struct addrinfo *at = found; at && failed; at = at->ai_next)
    failed = connect_one(at, deadline_us, out);
  freeaddrinfo(found);
  if (!failed) return CS_OK;
  return cs_error_set(error, failed == ETIMEDOUT ? CS_TIMEOUT : CS_IO,
                      "no worker answers at %s: %s", address, strerror(failed));
}

int cs_socket_accept(int listener, char *name) {
  struct sockaddr_storage from;
  socklen_t bytes = sizeof from;
  const int one = 1;
  const int accepted =
      accept4(listener, (struct sockaddr *)&from, &bytes, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (accepted < 0) return -1;
  setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  tell_name((struct sockaddr *)&from, bytes, name);
  return accepted;
}
