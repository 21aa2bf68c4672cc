/* Keeps strangers from the ports that UCX listens on.
 *
 * UCX listens wherever it has a way to be reached by, and trusts whoever comes: a few well-formed
 * bytes from a stranger end the process with an assertion (seen with UCX 1.13). Nobody is to be
 * heard before the secret is proved, so the gate in front of those ports is shut unless somebody
 * who has proved it is on the way. */
#ifndef SCHEDULER_UCX_GATE_H
#define SCHEDULER_UCX_GATE_H

#include <stdbool.h>
#include <stddef.h>

#include "consort/status.h"

#define GATE_MAX_SOCKETS 64

typedef struct gate {
  int sockets[GATE_MAX_SOCKETS];
  size_t n_sockets;
  bool open;
} gate;

/* Sockets of this process that listen for others: what was there before and after a library began
 * to listen. */
typedef struct gate_survey {
  int sockets[GATE_MAX_SOCKETS * 4];
  size_t n_sockets;
} gate_survey;

void gate_look_around(gate_survey *survey);

/* A shut gate before all sockets that began to listen since `before`. CS_UNSUPPORTED when they
 * cannot be guarded. */
cs_status gate_create(const gate_survey *before, gate *out, cs_error *error);

/* Connections that are established are not affected. */
void gate_set(gate *self, bool open);

#endif
