/* The rate at which pieces of KV go from one process to another: through a link of the network
 * layer as the transfer engine uses it (credits, order, one mailbox). First from the two slots that
 * the engine gathers them into, which is the link alone; then from all over a KV cache, with every
 * piece's checksum made by the sender and verified by the receiver. The other process is this
 * program again.
 *
 *   transfer_bench [LAYERS PIECES_A_LAYER PIECE_BYTES ROUNDS]
 *
 * Prints one JSON object; tests/bench/transfer_bench.py puts UCX's own figure beside it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "scheduler/net.h"
#include "scheduler/transfer_port.h"
#include "scheduler/wire.h"

#define INBOX_BYTES ((size_t)256 << 20)
#define WAIT_US     UINT64_C(20000000)

static void expect(cs_status status, const cs_error *error) {
  if (!status) return;
  fprintf(stderr, "transfer_bench: %s\n", error->message);
  exit(1);
}

static cs_net *open_net(const char *listen, void (*on_connection)(void *, cs_connection *),
                        void *user) {
  cs_error error = CS_ERROR_INIT;
  cs_net_options options = {
      .listen = listen, .loopback = true, .on_connection = on_connection, .user = user};
  cs_net *net;
  expect(cs_fabric_find(&options.table, &error), &error);
  expect(cs_net_create(&options, &net, &error), &error);
  return net;
}

/* ---- the receiver ---- */

typedef struct receiver {
  cs_mailbox *inbox;
  cs_connection *connection;
} receiver;

static void on_connection(void *user, cs_connection *connection) {
  receiver *const self = user;
  cs_connection_retain(connection);
  cs_connection_bind(connection, CS_NET_KV, self->inbox,
                     CS_NET_ALLOW(CS_MESSAGE_KV_PIECE) | CS_NET_ALLOW(CS_MESSAGE_KV_END));
  self->connection = connection;
}

/* Answers each KV_END with the number of pieces that were right. */
static int receive(void) {
  receiver self = {0};
  cs_error error = CS_ERROR_INIT;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  expect(cs_mailbox_create(INBOX_BYTES, &self.inbox, &error), &error);
  cs_net *const net = open_net("127.0.0.1:0", on_connection, &self);
  printf("%s\n", cs_net_listens_on(net));
  fflush(stdout);
  uint64_t n_right = 0;
  for (;;) {
    cs_frame *frame;
    cs_message message;
    if (cs_mailbox_receive(self.inbox, WAIT_US, &frame)) return 0;
    expect(cs_message_decode(frame->data, frame->bytes, &message, &error), &error);
    const cs_kv_piece_message *const piece = &message.piece;
    if (message.kind == CS_MESSAGE_KV_PIECE) {
      n_right += piece->sum == 0 ||
                 piece->sum == cs_wire_sum(piece->payload.data, (size_t)piece->payload.bytes);
    } else {
      const cs_message answer = {.kind = CS_MESSAGE_COMMIT, .commit = {.n_pieces = n_right}};
      expect(cs_link_send_message(cs_connection_link(self.connection, CS_NET_REQUESTS), &answer,
                                  WAIT_US, &error),
             &error);
      n_right = 0;
    }
    cs_frame_destroy(frame);
  }
}

/* ---- the sender ---- */

typedef struct plan {
  uint32_t n_layers;
  uint32_t n_pieces; /* a layer */
  uint64_t piece_bytes;
  uint32_t n_rounds;
} plan;

/* Seconds of one transfer, from the first piece to the receiver's word that all are right. */
static double transfer(cs_connection *connection, cs_mailbox *answers, const plan *p,
                       const uint8_t *kv, bool verifies) {
  cs_error error = CS_ERROR_INIT;
  cs_link *const link = cs_connection_link(connection, CS_NET_KV);
  const uint64_t begin_us = cs_now_us();
  for (uint32_t i = 0; i < p->n_layers * p->n_pieces; i++) {
    const uint8_t *const bytes = kv + (verifies ? i : i % CS_PORT_SLOTS) * p->piece_bytes;
    const cs_message message = {
        .kind = CS_MESSAGE_KV_PIECE,
        .piece = {.layer = i / p->n_pieces,
                  .sum = verifies ? cs_wire_sum(bytes, (size_t)p->piece_bytes) : 0,
                  .payload = {bytes, p->piece_bytes}}};
    expect(cs_link_send_message(link, &message, WAIT_US, &error), &error);
  }
  const cs_message end = {.kind = CS_MESSAGE_KV_END};
  cs_frame *frame;
  cs_message answer;
  expect(cs_link_send_message(link, &end, WAIT_US, &error), &error);
  expect(cs_mailbox_receive(answers, WAIT_US, &frame), &error);
  expect(cs_message_decode(frame->data, frame->bytes, &answer, &error), &error);
  if (answer.commit.n_pieces != p->n_layers * p->n_pieces) {
    fprintf(stderr, "transfer_bench: pieces were damaged\n");
    exit(1);
  }
  cs_frame_destroy(frame);
  return (double)(cs_now_us() - begin_us) / 1e6;
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The median of the rounds, in MB/s. */
static double rate(cs_connection *connection, cs_mailbox *answers, const plan *p, const uint8_t *kv,
                   bool verifies) {
  double *const seconds = calloc(p->n_rounds, sizeof *seconds);
  transfer(connection, answers, p, kv, verifies);
  for (uint32_t i = 0; i < p->n_rounds; i++)
    seconds[i] = transfer(connection, answers, p, kv, verifies);
  qsort(seconds, p->n_rounds, sizeof *seconds, compare);
  const double median = seconds[p->n_rounds / 2];
  free(seconds);
  return (double)p->n_layers * p->n_pieces * (double)p->piece_bytes / median / 1e6;
}

static void start_receiver(const char *self, char *address, size_t bytes) {
  int ends[2];
  if (pipe(ends)) exit(1);
  if (fork() == 0) {
    dup2(ends[1], 1);
    close(ends[0]);
    execl(self, self, "receive", NULL);
    _exit(1);
  }
  close(ends[1]);
  FILE *const said = fdopen(ends[0], "r");
  if (!said || !fgets(address, (int)bytes, said)) exit(1);
  address[strcspn(address, "\n")] = '\0';
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "receive") == 0) return receive();
  plan p = {.n_layers = 16, .n_pieces = 8, .piece_bytes = UINT64_C(1) << 20, .n_rounds = 9};
  if (argc == 5)
    p = (plan){(uint32_t)atoi(argv[1]), (uint32_t)atoi(argv[2]), strtoull(argv[3], NULL, 10),
               (uint32_t)atoi(argv[4])};
  char address[80];
  cs_error error = CS_ERROR_INIT;
  const size_t kv_bytes = (size_t)p.n_layers * p.n_pieces * (size_t)p.piece_bytes;
  uint8_t *const kv = malloc(kv_bytes);
  for (size_t i = 0; i < kv_bytes; i++)
    kv[i] = (uint8_t)(i * 2654435761u >> 13);
  start_receiver(argv[0], address, sizeof address);
  cs_net *const net = open_net(NULL, NULL, NULL);
  cs_mailbox *answers;
  cs_connection *connection;
  const cs_secret none = {.n_bytes = 0};
  expect(cs_mailbox_create(INBOX_BYTES, &answers, &error), &error);
  expect(cs_net_connect(net, address, &none, WAIT_US, &connection, &error), &error);
  cs_connection_bind(connection, CS_NET_REQUESTS, answers, CS_NET_ALLOW(CS_MESSAGE_COMMIT));
  const double plain = rate(connection, answers, &p, kv, false);
  const double verified = rate(connection, answers, &p, kv, true);
  printf("{\"bytes\": %zu, \"link_mb_per_s\": %.0f, \"verified_mb_per_s\": %.0f}\n", kv_bytes,
         plain, verified);
  cs_connection_close(connection);
  cs_connection_release(connection);
  cs_net_destroy(net);
  cs_mailbox_destroy(answers);
  free(kv);
  return 0;
}
