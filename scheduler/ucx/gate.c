/* A socket filter that drops everything, attached to a listening socket, also drops the packets
 * that ask for a connection: to a stranger the port does not answer. Sockets that were accepted
 * before have no filter, since they got theirs from the listener when they were made.
 *
 * UCX does not tell its sockets: they are those that appeared while it started. */
#include "gate.h"

#include <errno.h>
#include <linux/filter.h>
#include <string.h>
#include <sys/socket.h>

#include "core/error.h"
#include "sockets.h"

static bool listens_for_others(int socket) {
  int listening = 0, domain = 0;
  socklen_t bytes = sizeof listening;
  if (getsockopt(socket, SOL_SOCKET, SO_ACCEPTCONN, &listening, &bytes) != 0 || !listening)
    return false;
  bytes = sizeof domain;
  return getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 &&
         (domain == AF_INET || domain == AF_INET6);
}

static void note_listener(void *user, int descriptor) {
  gate_survey *const survey = user;
  const size_t limit = sizeof survey->sockets / sizeof *survey->sockets;
  if (survey->n_sockets < limit && listens_for_others(descriptor))
    survey->sockets[survey->n_sockets++] = descriptor;
}

void gate_look_around(gate_survey *survey) {
  survey->n_sockets = 0;
  sockets_visit(note_listener, survey);
}

static bool was_there(const gate_survey *survey, int socket) {
  for (size_t i = 0; i < survey->n_sockets; i++)
    if (survey->sockets[i] == socket) return true;
  return false;
}

static bool shut_one(int socket) {
  struct sock_filter drop_all[] = {{.code = BPF_RET | BPF_K, .k = 0}};
  const struct sock_fprog program = {.len = 1, .filter = drop_all};
  return setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
}

cs_status gate_create(const gate_survey *before, gate *out, cs_error *error) {
  gate_survey now;
  *out = (gate){.open = false};
  gate_look_around(&now);
  for (size_t i = 0; i < now.n_sockets; i++) {
    if (was_there(before, now.sockets[i])) continue;
    if (out->n_sockets == GATE_MAX_SOCKETS || !shut_one(now.sockets[i]))
      return cs_error_set(error, CS_UNSUPPORTED, "network: its ports cannot be guarded: %s",
                          out->n_sockets == GATE_MAX_SOCKETS ? "too many" : strerror(errno));
    out->sockets[out->n_sockets++] = now.sockets[i];
  }
  return CS_OK;
}

void gate_set(gate *self, bool open) {
  if (self->open == open) return;
  const int nothing = 0;
  for (size_t i = 0; i < self->n_sockets; i++) {
    if (open)
      (void)setsockopt(self->sockets[i], SOL_SOCKET, SO_DETACH_FILTER, &nothing, sizeof nothing);
    else
      (void)shut_one(self->sockets[i]);
  }
  self->open = open;
}
