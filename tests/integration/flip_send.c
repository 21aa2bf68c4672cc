/* Preloaded into a process, flips one bit of what it sends to others over IP: in the middle of the
 * Nth send of at least 1 KiB, N from CONSORT_TEST_FLIP. The checksums of TCP are made after it, so
 * that only the receiver's own checks can notice. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define SMALLEST 1024
#define LARGEST  (1u << 20)

typedef ssize_t (*sendmsg_fn)(int, const struct msghdr *, int);

static atomic_int n_sent;

static int is_ip(int socket) {
  struct sockaddr_storage address;
  socklen_t bytes = sizeof address;
  return getsockname(socket, (struct sockaddr *)&address, &bytes) == 0 &&
         (address.ss_family == AF_INET || address.ss_family == AF_INET6);
}

static int is_the_one(int socket, size_t bytes) {
  const char *const number = getenv("CONSORT_TEST_FLIP");
  return number && bytes >= SMALLEST && is_ip(socket) &&
         atomic_fetch_add(&n_sent, 1) + 1 == atoi(number);
}

static ssize_t pass_on(int socket, const struct msghdr *message, int flags) {
  void *const symbol = dlsym(RTLD_NEXT, "sendmsg");
  sendmsg_fn next;
  memcpy(&next, &symbol, sizeof next);
  return next(socket, message, flags);
}

/* Sends a flipped copy of the beginning: whoever sends must bear that not all was taken. */
static ssize_t send_flipped(int socket, const struct msghdr *message, int flags) {
  static char copy[LARGEST];
  size_t used = 0;
  for (size_t i = 0; i < message->msg_iovlen; i++) {
    const struct iovec *const part = &message->msg_iov[i];
    const size_t n = part->iov_len < LARGEST - used ? part->iov_len : LARGEST - used;
    memcpy(copy + used, part->iov_base, n);
    used += n;
    if (n < part->iov_len) break;
  }
  copy[used / 2] ^= 1;
  struct iovec whole = {.iov_base = copy, .iov_len = used};
  struct msghdr flipped = *message;
  flipped.msg_iov = &whole;
  flipped.msg_iovlen = 1;
  return pass_on(socket, &flipped, flags);
}

static size_t length_of(const struct msghdr *message) {
  size_t bytes = 0;
  for (size_t i = 0; i < message->msg_iovlen; i++)
    bytes += message->msg_iov[i].iov_len;
  return bytes;
}

__attribute__((visibility("default"))) ssize_t sendmsg(int socket, const struct msghdr *message,
                                                       int flags) {
  return is_the_one(socket, length_of(message)) ? send_flipped(socket, message, flags)
                                                : pass_on(socket, message, flags);
}

__attribute__((visibility("default"))) ssize_t send(int socket, const void *data, size_t bytes,
                                                    int flags) {
  struct iovec part = {.iov_base = (void *)(size_t)data, .iov_len = bytes};
  const struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  return sendmsg(socket, &message, flags);
}
