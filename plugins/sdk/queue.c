/* The queue is a linked list that one thread empties a batch at a time. An idle thread looks again
 * for a few microseconds before it sleeps: commands of one step follow each other closely, and a
 * wake-up costs more than all of them. Waiting for a timeline happens here, on the queue's thread,
 * which is what makes a wait before its signal legal for any driver. */
#include "timeline.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define QUEUE_IDLE_LOOKS       2000 /* about 20 us of pauses */
#define QUEUE_DESTROY_SECONDS  2
#define QUEUE_PAYLOAD_BYTES    65536
#define QUEUE_RECYCLED_PAYLOAD 128 /* nodes up to this size are kept for the next push */
#define QUEUE_RECYCLED_NODES   64

typedef enum node_kind { NODE_COMMAND, NODE_WAIT, NODE_SIGNAL } node_kind;

typedef struct queue_node {
  struct queue_node *next;
  node_kind kind;
  bool recyclable;
  cs_sdk_command command;
  cs_sdk_timeline *timeline; /* retained */
  uint64_t value;
  _Alignas(16) unsigned char payload[];
} queue_node;

struct cs_sdk_queue {
  const cs_host *host;
  cs_sdk_queue_options options;
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t pushed;
  pthread_cond_t ended;
  queue_node *first; /* pushed, not yet taken */
  queue_node **last;
  queue_node *recycled;
  uint32_t n_recycled;
  cs_sdk_timeline *waiting_on; /* what the thread blocks on, so that destroy can wake it */
  bool sleeping;
  bool finished;  /* the thread is past its last use of the queue but this flag */
  bool abandoned; /* destroy gave up waiting: the thread frees the queue */
  bool poisoned;
  cs_error poison;
  atomic_int stop;
  atomic_uint pending; /* nodes pushed so far: what an idle thread looks at */
  unsigned idle_looks;
};

static void queue_free(cs_sdk_queue *queue) {
  const cs_host *host = queue->host;
  while (queue->recycled) {
    queue_node *node = queue->recycled;
    queue->recycled = node->next;
    host->deallocate(host->context, node);
  }
  pthread_cond_destroy(&queue->ended);
  pthread_cond_destroy(&queue->pushed);
  pthread_mutex_destroy(&queue->mutex);
  if (queue->options.finish) queue->options.finish(queue->options.context);
  host->deallocate(host->context, queue);
}

/* ---- the queue's thread ---- */

static inline void look_again(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Blocks until there is work or the queue stops; takes all there is. NULL: stop. */
static queue_node *queue_take(cs_sdk_queue *queue, unsigned *seen) {
  for (unsigned i = 0; i < queue->idle_looks; i++) {
    if (atomic_load_explicit(&queue->pending, memory_order_relaxed) != *seen) break;
    if (atomic_load_explicit(&queue->stop, memory_order_relaxed)) break;
    look_again();
  }
  pthread_mutex_lock(&queue->mutex);
  while (!queue->first && !atomic_load(&queue->stop)) {
    queue->sleeping = true;
    pthread_cond_wait(&queue->pushed, &queue->mutex);
    queue->sleeping = false;
  }
  queue_node *batch = queue->first;
  queue->first = NULL;
  queue->last = &queue->first;
  *seen = atomic_load_explicit(&queue->pending, memory_order_relaxed);
  pthread_mutex_unlock(&queue->mutex);
  return batch;
}

static void queue_poison(cs_sdk_queue *queue, cs_status status, const cs_error *error) {
  pthread_mutex_lock(&queue->mutex);
  queue->poison = *error;
  queue->poison.struct_size = sizeof queue->poison;
  if (queue->poison.code != status) { /* the command told no details */
    cs_sdk_error(&queue->poison, status, 0, "a command failed with status %d", status);
  }
  queue->poisoned = true;
  pthread_mutex_unlock(&queue->mutex);
}

static cs_status node_wait(cs_sdk_queue *queue, queue_node *node, cs_error *error) {
  pthread_mutex_lock(&queue->mutex);
  queue->waiting_on = node->timeline;
  pthread_mutex_unlock(&queue->mutex);
  const cs_status status =
      cs_sdk_timeline_wait_unless(node->timeline, node->value, &queue->stop, error);
  pthread_mutex_lock(&queue->mutex);
  queue->waiting_on = NULL;
  pthread_mutex_unlock(&queue->mutex);
  return status;
}

static cs_status node_signal(cs_sdk_queue *queue, queue_node *node, cs_error *error) {
  if (queue->options.signal)
    return queue->options.signal(queue->options.context, node->timeline, node->value, error);
  if (queue->options.drain) {
    const cs_status status = queue->options.drain(queue->options.context, error);
    if (status != CS_OK) return status;
  }
  return cs_sdk_timeline_signal(node->timeline, node->value);
}

/* Only the queue's thread writes `poisoned`, so that it may read it without the mutex. */
static void node_run(cs_sdk_queue *queue, queue_node *node) {
  const bool stopping = atomic_load_explicit(&queue->stop, memory_order_acquire);
  if (!queue->poisoned && !stopping) {
    cs_error error = CS_ERROR_INIT;
    cs_status status;
    if (node->kind == NODE_COMMAND)
      status = node->command(queue->options.context, node->payload, &error);
    else if (node->kind == NODE_WAIT)
      status = node_wait(queue, node, &error);
    else
      status = node_signal(queue, node, &error);
    if (status == CS_OK) return;
    if (!(node->kind == NODE_WAIT && status == CS_CANCELLED && atomic_load(&queue->stop)))
      queue_poison(queue, status, &error);
  }
  if (node->kind != NODE_SIGNAL) return;
  if (queue->options.signal && queue->options.drain && !stopping) { /* earlier signals come first */
    cs_error ignored = CS_ERROR_INIT;
    queue->options.drain(queue->options.context, &ignored);
  }
  cs_error dropped = CS_ERROR_INIT;
  cs_sdk_error(&dropped, CS_CANCELLED, 0, "the stream was destroyed before this signal");
  cs_sdk_timeline_fail(node->timeline, queue->poisoned ? &queue->poison : &dropped);
}

static void node_end(cs_sdk_queue *queue, queue_node *node) {
  if (node->kind == NODE_COMMAND && queue->options.release)
    queue->options.release(queue->options.context, node->command, node->payload);
  if (node->timeline) cs_sdk_timeline_release(node->timeline);
  if (node->recyclable) {
    pthread_mutex_lock(&queue->mutex);
    const bool keep = queue->n_recycled < QUEUE_RECYCLED_NODES;
    if (keep) {
      node->next = queue->recycled;
      queue->recycled = node;
      queue->n_recycled++;
    }
    pthread_mutex_unlock(&queue->mutex);
    if (keep) return;
  }
  queue->host->deallocate(queue->host->context, node);
}

static void *queue_thread(void *argument) {
  cs_sdk_queue *queue = argument;
  if (queue->options.start) queue->options.start(queue->options.context);
  unsigned seen = 0;
  for (queue_node *node; (node = queue_take(queue, &seen)) != NULL;) {
    while (node) {
      queue_node *next = node->next;
      node_run(queue, node);
      node_end(queue, node);
      node = next;
    }
  }
  pthread_mutex_lock(&queue->mutex);
  const bool abandoned = queue->abandoned;
  queue->finished = true;
  pthread_cond_signal(&queue->ended);
  pthread_mutex_unlock(&queue->mutex);
  if (abandoned) queue_free(queue);
  return NULL;
}

/* ---- creation and destruction ---- */

static bool queue_init_locks(cs_sdk_queue *queue) {
  pthread_condattr_t attributes;
  if (pthread_condattr_init(&attributes) != 0) return false;
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  if (pthread_mutex_init(&queue->mutex, NULL) != 0) goto err_attributes;
  if (pthread_cond_init(&queue->pushed, NULL) != 0) goto err_mutex;
  if (pthread_cond_init(&queue->ended, &attributes) != 0) goto err_pushed;
  pthread_condattr_destroy(&attributes);
  return true;

err_pushed:
  pthread_cond_destroy(&queue->pushed);
err_mutex:
  pthread_mutex_destroy(&queue->mutex);
err_attributes:
  pthread_condattr_destroy(&attributes);
  return false;
}

/* Signals of the process are for the host's threads. */
static int start_thread(pthread_t *thread, void *(*entry)(void *), void *argument) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int status = pthread_create(thread, NULL, entry, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

static bool several_cores(void) {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) > 1;
}

cs_sdk_queue *cs_sdk_queue_create(const cs_host *host, const cs_sdk_queue_options *options) {
  cs_sdk_queue *queue = host->allocate(host->context, sizeof *queue, 64);
  if (!queue) return NULL;
  memset(queue, 0, sizeof *queue);
  queue->host = host;
  queue->options = *options;
  queue->last = &queue->first;
  queue->idle_looks = several_cores() ? QUEUE_IDLE_LOOKS : 0;
  atomic_init(&queue->stop, 0);
  atomic_init(&queue->pending, 0);
  if (!queue_init_locks(queue)) goto err_free;
  if (start_thread(&queue->thread, queue_thread, queue) != 0) goto err_locks;
  return queue;

err_locks:
  pthread_cond_destroy(&queue->ended);
  pthread_cond_destroy(&queue->pushed);
  pthread_mutex_destroy(&queue->mutex);
err_free:
  host->deallocate(host->context, queue);
  return NULL;
}

void cs_sdk_queue_destroy(cs_sdk_queue *queue) {
  if (!queue) return;
  struct timespec deadline;
  clock_gettime(CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += QUEUE_DESTROY_SECONDS;
  pthread_mutex_lock(&queue->mutex);
  atomic_store(&queue->stop, 1);
  pthread_cond_signal(&queue->pushed);
  if (queue->waiting_on) cs_sdk_timeline_wake(queue->waiting_on);
  int waited = 0;
  while (!queue->finished && waited != ETIMEDOUT)
    waited = pthread_cond_timedwait(&queue->ended, &queue->mutex, &deadline);
  const bool finished = queue->finished;
  const pthread_t thread = queue->thread;
  queue->abandoned = !finished;
  if (!finished) pthread_detach(thread);
  pthread_mutex_unlock(&queue->mutex);
  if (!finished) return;
  pthread_join(thread, NULL);
  queue_free(queue);
}

/* ---- pushing ---- */

/* A node for payload_bytes: a recycled one where it fits. */
static queue_node *node_create(cs_sdk_queue *queue, size_t payload_bytes) {
  const bool small = payload_bytes <= QUEUE_RECYCLED_PAYLOAD;
  queue_node *node = NULL;
  if (small) {
    pthread_mutex_lock(&queue->mutex);
    node = queue->recycled;
    if (node) {
      queue->recycled = node->next;
      queue->n_recycled--;
    }
    pthread_mutex_unlock(&queue->mutex);
    payload_bytes = QUEUE_RECYCLED_PAYLOAD;
  }
  if (!node)
    node = queue->host->allocate(queue->host->context, sizeof *node + payload_bytes,
                                 _Alignof(queue_node));
  if (node) {
    memset(node, 0, sizeof *node);
    node->recyclable = small;
  }
  return node;
}

static void queue_append(cs_sdk_queue *queue, queue_node *node) {
  pthread_mutex_lock(&queue->mutex);
  *queue->last = node;
  queue->last = &node->next;
  atomic_fetch_add_explicit(&queue->pending, 1, memory_order_relaxed);
  const bool wake = queue->sleeping;
  if (wake) pthread_cond_signal(&queue->pushed);
  pthread_mutex_unlock(&queue->mutex);
}

static cs_status push_command(cs_sdk_queue *queue, cs_sdk_command command, const void *payload,
                              size_t payload_bytes, cs_error *error) {
  queue_node *node = node_create(queue, payload_bytes);
  if (!node) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to enqueue a command");
  node->kind = NODE_COMMAND;
  node->command = command;
  if (payload_bytes) memcpy(node->payload, payload, payload_bytes);
  queue_append(queue, node);
  return CS_OK;
}

cs_status cs_sdk_queue_push(cs_sdk_queue *queue, cs_sdk_command command, const void *payload,
                            size_t payload_bytes, cs_error *error) {
  if (payload_bytes > QUEUE_PAYLOAD_BYTES)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "a payload of %zu bytes is over %d",
                        payload_bytes, QUEUE_PAYLOAD_BYTES);
  pthread_mutex_lock(&queue->mutex);
  const cs_status poison = queue->poisoned ? queue->poison.code : CS_OK;
  if (queue->poisoned && error) cs_sdk_struct_write(error, &queue->poison, sizeof queue->poison);
  pthread_mutex_unlock(&queue->mutex);
  if (poison != CS_OK) return poison;
  return push_command(queue, command, payload, payload_bytes, error);
}

cs_status cs_sdk_queue_retire(cs_sdk_queue *queue, cs_sdk_command command, void *owned,
                              cs_error *error) {
  return push_command(queue, command, &owned, sizeof owned, error);
}

static cs_status push_timeline(cs_sdk_queue *queue, node_kind kind, cs_sdk_timeline *timeline,
                               uint64_t value, cs_error *error) {
  queue_node *node = node_create(queue, 0);
  if (!node) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to enqueue a semaphore");
  node->kind = kind;
  node->timeline = timeline;
  node->value = value;
  cs_sdk_timeline_retain(timeline);
  queue_append(queue, node);
  return CS_OK;
}

cs_status cs_sdk_queue_wait(cs_sdk_queue *queue, cs_sdk_timeline *timeline, uint64_t value,
                            cs_error *error) {
  return push_timeline(queue, NODE_WAIT, timeline, value, error);
}

cs_status cs_sdk_queue_signal(cs_sdk_queue *queue, cs_sdk_timeline *timeline, uint64_t value,
                              cs_error *error) {
  return push_timeline(queue, NODE_SIGNAL, timeline, value, error);
}
