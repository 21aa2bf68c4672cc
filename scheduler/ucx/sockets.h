/* UCX's TCP sockets, told apart by their two ends, as UCX names none: who knows where both
 * processes listen knows which sockets are between them, and a process that connects tells the
 * other from where. */
#ifndef SCHEDULER_UCX_SOCKETS_H
#define SCHEDULER_UCX_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOCKETS_MAX_ENDS   16 /* in a list */
#define SOCKETS_END_BYTES  20
#define SOCKETS_LIST_BYTES (1 + SOCKETS_MAX_ENDS * SOCKETS_END_BYTES)

/* Address and port of sockets; equal ends have equal bytes. Its first 1 + n * SOCKETS_END_BYTES
 * bytes are what crosses between processes. */
typedef struct socket_ends {
  uint8_t n;
  uint8_t ends[SOCKETS_MAX_ENDS][SOCKETS_END_BYTES]; /* family, port, address */
} socket_ends;

/* Where this process is, or whom it talks to; false when it is no TCP socket, or not connected. */
bool socket_own_end(int socket, uint8_t *end);
bool socket_other_end(int socket, uint8_t *end);
bool socket_ends_have(const socket_ends *list, const uint8_t *end);
/* Does nothing when there is no room. */
void socket_ends_add(socket_ends *list, const uint8_t *end);
size_t socket_ends_bytes(const socket_ends *list);
/* The length of the list at the beginning of `data`; 0 when there is none. */
size_t socket_ends_read(const uint8_t *data, size_t bytes, socket_ends *out);

/* A number that no other socket has as long as the system runs. */
uint64_t socket_identity(int socket);

/* Calls `visit` for each open descriptor of this process. */
void sockets_visit(void (*visit)(void *user, int descriptor), void *user);

/* Nothing is read from it or written to it any more: the other side is told, what came is dropped,
 * and what comes is refused. */
void socket_shut(int socket);

#endif
