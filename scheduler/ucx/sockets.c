/* Sockets are found where the system lists a process's descriptors. Descriptors that are closed or
 * used again meanwhile do no harm: both ends have to fit. */
#include "sockets.h"

#include <dirent.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

_Static_assert(sizeof(socket_ends) == SOCKETS_LIST_BYTES, "no padding");

static bool pack(const struct sockaddr_storage *name, uint8_t *end) {
  memset(end, 0, SOCKETS_END_BYTES);
  end[0] = name->ss_family == AF_INET6;
  if (name->ss_family == AF_INET) {
    const struct sockaddr_in *const in = (const struct sockaddr_in *)name;
    memcpy(end + 2, &in->sin_port, 2);
    memcpy(end + 4, &in->sin_addr, sizeof in->sin_addr);
    return true;
  }
  if (name->ss_family != AF_INET6) return false;
  const struct sockaddr_in6 *const in6 = (const struct sockaddr_in6 *)name;
  memcpy(end + 2, &in6->sin6_port, 2);
  memcpy(end + 4, &in6->sin6_addr, sizeof in6->sin6_addr);
  return true;
}

static bool is_stream(int socket) {
  int type = 0;
  socklen_t bytes = sizeof type;
  return getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 && type == SOCK_STREAM;
}

bool socket_own_end(int socket, uint8_t *end) {
  struct sockaddr_storage name;
  socklen_t bytes = sizeof name;
  return is_stream(socket) && getsockname(socket, (struct sockaddr *)&name, &bytes) == 0 &&
         pack(&name, end);
}

bool socket_other_end(int socket, uint8_t *end) {
  struct sockaddr_storage name;
  socklen_t bytes = sizeof name;
  return is_stream(socket) && getpeername(socket, (struct sockaddr *)&name, &bytes) == 0 &&
         pack(&name, end);
}

bool socket_ends_have(const socket_ends *list, const uint8_t *end) {
  for (uint8_t i = 0; i < list->n; i++)
    if (memcmp(list->ends[i], end, SOCKETS_END_BYTES) == 0) return true;
  return false;
}

void socket_ends_add(socket_ends *list, const uint8_t *end) {
  if (list->n < SOCKETS_MAX_ENDS) memcpy(list->ends[list->n++], end, SOCKETS_END_BYTES);
}

size_t socket_ends_bytes(const socket_ends *list) {
  return 1 + (size_t)list->n * SOCKETS_END_BYTES;
}

size_t socket_ends_read(const uint8_t *data, size_t bytes, socket_ends *out) {
  memset(out, 0, sizeof *out);
  if (bytes == 0 || data[0] > SOCKETS_MAX_ENDS) return 0;
  const size_t needed = 1 + (size_t)data[0] * SOCKETS_END_BYTES;
  if (bytes < needed) return 0;
  memcpy(out, data, needed);
  return needed;
}

uint64_t socket_identity(int socket) {
  uint64_t cookie = 0;
  socklen_t bytes = sizeof cookie;
  return getsockopt(socket, SOL_SOCKET, SO_COOKIE, &cookie, &bytes) == 0 ? cookie : 0;
}

void sockets_visit(void (*visit)(void *user, int descriptor), void *user) {
  DIR *const folder = opendir("/proc/self/fd");
  if (!folder) return;
  for (const struct dirent *entry; (entry = readdir(folder));) {
    char *end;
    const long number = strtol(entry->d_name, &end, 10);
    if (*end == '\0' && end != entry->d_name) visit(user, (int)number);
  }
  closedir(folder);
}

/* In this order: what comes after the shutdown is refused by the system. */
void socket_shut(int socket) {
  uint8_t dropped[4096];
  (void)shutdown(socket, SHUT_RDWR);
  while (recv(socket, dropped, sizeof dropped, MSG_DONTWAIT) > 0) {
  }
}
