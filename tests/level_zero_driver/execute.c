/* What was submitted runs here, one command at a time, on the thread that waits: an early read of a
 * result sees what was there before. Between two barriers of a queue any command whose events are
 * signalled may be next; with the shuffle on, a random one is. A kernel that writes outside its
 * memory, or that PoCL refuses, fails the queue. */
#include "driver.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLICE_NS 1000000 /* how long a waiting thread sleeps before it looks again */

static ze_command_queue_handle_t queues;

void test_queue_add(ze_command_queue_handle_t queue) {
  queue->next = queues;
  queues = queue;
}

void test_queue_remove(ze_command_queue_handle_t queue) {
  ze_command_queue_handle_t *link = &queues;
  while (*link && *link != queue)
    link = &(*link)->next;
  if (*link) *link = queue->next;
}

bool test_queue_idle(void *queue) {
  const ze_command_queue_handle_t q = queue;
  return q->pending.n == 0 || q->failed;
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t draw(uint64_t limit) {
  test_gpu.random = test_gpu.random * 6364136223846793005u + 1442695040888963407u;
  return (test_gpu.random >> 33) % limit;
}

/* ---- one command ---- */

static bool events_ready(const test_command *command) {
  for (uint32_t i = 0; i < command->n_waits; i++)
    if (!command->waits[i]->signalled) return false;
  return true;
}

static bool is_barrier(const test_command *command) {
  return command->kind == TEST_BARRIER || command->kind == TEST_WAIT;
}

static bool run(const test_command *command) {
  switch (command->kind) {
  case TEST_COPY:
    memmove(command->to, command->from, command->bytes);
    return true;
  case TEST_FILL:
    for (size_t i = 0; i < command->bytes; i++)
      ((unsigned char *)command->to)[i] = command->pattern[i % command->pattern_bytes];
    return true;
  case TEST_LAUNCH:
    return test_launch(command->kernel, command->args, command->group, command->groups) &&
           test_canaries_intact();
  case TEST_RESET:
    command->signal->signalled = false;
    return true;
  default:
    return true;
  }
}

static uint64_t n_copies[2]; /* by group */

uint64_t ze_cpu_test_copies(uint32_t ordinal) {
  pthread_mutex_lock(&test_mutex);
  const uint64_t n = ordinal <= TEST_COPY_GROUP ? n_copies[ordinal] : 0;
  pthread_mutex_unlock(&test_mutex);
  return n;
}

static void complete(ze_command_queue_handle_t queue, test_command *command) {
  const uint64_t begin = now_ns();
  test_unlock_memory();
  const bool ok = run(command);
  if (!ok) {
    fprintf(stderr, "ze_cpu_test: a command failed: the queue is lost\n");
    queue->failed = true;
  }
  command->done = true;
  if (command->kind == TEST_COPY) n_copies[queue->ordinal]++;
  if (command->signal && command->kind != TEST_RESET) {
    command->signal->signalled = true;
    command->signal->begin_ns = begin;
    command->signal->end_ns = now_ns();
  }
}

/* ---- choosing ---- */

/* How many commands from the front compete: all up to and with the first barrier that has not run.
 * A barrier without events competes only when nothing before it is left; one with events waits for
 * these alone, as the standard says of zeCommandListAppendBarrier. */
static size_t window(const test_commands *pending) {
  bool all_done = true;
  for (size_t i = 0; i < pending->n; i++) {
    const test_command *command = &pending->items[i];
    if (!command->done && is_barrier(command)) return all_done || command->n_waits > 0 ? i + 1 : i;
    all_done = all_done && command->done;
  }
  return pending->n;
}

/* The command to run next, or NULL. In order unless shuffled. */
static test_command *choose(ze_command_queue_handle_t queue) {
  test_commands *pending = &queue->pending;
  const size_t n_window = window(pending);
  const size_t first = test_gpu.shuffle && n_window > 0 ? (size_t)draw(n_window) : 0;
  for (size_t i = 0; i < n_window; i++) {
    test_command *command = &pending->items[(first + i) % n_window];
    if (!command->done && events_ready(command)) return command;
  }
  return NULL;
}

/* Completed commands leave from the front, so that fences and barriers can count. */
static void retire(ze_command_queue_handle_t queue) {
  size_t n = 0;
  while (n < queue->pending.n && queue->pending.items[n].done)
    test_command_finish(&queue->pending.items[n++]);
  queue->n_retired += n;
  queue->pending.n -= n;
  memmove(queue->pending.items, queue->pending.items + n,
          queue->pending.n * sizeof *queue->pending.items);
}

bool test_step(void) {
  size_t n_queues = 0;
  for (ze_command_queue_handle_t q = queues; q; q = q->next)
    n_queues++;
  if (n_queues == 0) return false;
  size_t skip = test_gpu.shuffle ? (size_t)draw(n_queues) : 0;
  for (size_t tried = 0; tried < n_queues; tried++, skip++) {
    ze_command_queue_handle_t queue = queues;
    for (size_t i = 0; i < skip % n_queues; i++)
      queue = queue->next;
    if (queue->failed) continue;
    test_command *command = choose(queue);
    if (!command) continue;
    complete(queue, command);
    retire(queue);
    pthread_cond_broadcast(&test_moved);
    return true;
  }
  return false;
}

/* ---- waiting ---- */

static void sleep_a_slice(void) {
  test_lock_memory();
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += SLICE_NS;
  if (until.tv_nsec >= 1000000000) {
    until.tv_nsec -= 1000000000;
    until.tv_sec++;
  }
  pthread_cond_timedwait(&test_moved, &test_mutex, &until);
}

static bool any_failed(void) {
  for (ze_command_queue_handle_t q = queues; q; q = q->next)
    if (q->failed) return true;
  return false;
}

static ze_result_t run_until(bool (*done)(void *of), void *of, uint64_t timeout_ns) {
  const uint64_t begin = now_ns();
  while (!done(of)) {
    if (any_failed()) return ZE_RESULT_ERROR_DEVICE_LOST;
    if (test_step()) continue;
    if (timeout_ns != UINT64_MAX && now_ns() - begin >= timeout_ns) return ZE_RESULT_NOT_READY;
    sleep_a_slice();
  }
  return any_failed() ? ZE_RESULT_ERROR_DEVICE_LOST : ZE_RESULT_SUCCESS;
}

ze_result_t test_wait(bool (*done)(void *of), void *of, uint64_t timeout_ns) {
  const ze_result_t result = run_until(done, of, timeout_ns);
  test_lock_memory();
  return result;
}

ze_result_t test_submit(ze_command_queue_handle_t queue, const test_commands *commands) {
  for (size_t i = 0; i < commands->n; i++) {
    test_command copy = commands->items[i];
    copy.done = false;
    copy.waits = NULL;
    copy.args = NULL;
    if (copy.n_waits > 0) {
      copy.waits = malloc(copy.n_waits * sizeof(ze_event_handle_t));
      if (!copy.waits) return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
      memcpy(copy.waits, commands->items[i].waits, copy.n_waits * sizeof(ze_event_handle_t));
    }
    if (commands->items[i].args) {
      copy.args = malloc(TEST_MAX_ARGS * sizeof *copy.args);
      if (copy.args) memcpy(copy.args, commands->items[i].args, TEST_MAX_ARGS * sizeof *copy.args);
    }
    if ((commands->items[i].args && !copy.args) || !test_commands_push(&queue->pending, &copy)) {
      test_command_finish(&copy);
      return ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY;
    }
    queue->n_submitted++;
  }
  if (!test_gpu.defer)
    while (test_step())
      continue;
  test_lock_memory();
  pthread_cond_broadcast(&test_moved);
  return ZE_RESULT_SUCCESS;
}
