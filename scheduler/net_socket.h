/* Plain TCP sockets for the door: parsing addresses, listening, connecting with a deadline. */
#ifndef SCHEDULER_NET_SOCKET_H
#define SCHEDULER_NET_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consort/status.h"

#define CS_SOCKET_NAME_BYTES 80

/* "HOST:PORT" or "[HOST]:PORT": whether every address that it stands for is of this host alone. */
bool cs_socket_is_loopback(const char *address);

/* A non-blocking socket; `name` (CS_SOCKET_NAME_BYTES) tells the address with the real port. */
cs_status cs_socket_listen(const char *address, int *out, char *name, cs_error *error);

/* A non-blocking socket that is connected. */
cs_status cs_socket_connect(const char *address, uint64_t timeout_us, int *out, cs_error *error);

/* The next that came; -1 when there is none. */
int cs_socket_accept(int listener, char *name);

/* Waits for `events` of poll(2) until deadline_us of cs_now_us: false when it passed. */
bool cs_socket_wait(int socket, short events, uint64_t deadline_us);

#endif
