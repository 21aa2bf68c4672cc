/* Device, memory, semaphore and query calls from several threads at once, and one stream a thread.
 * Threads report by a text of their own: only the case's thread may end the case. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "format.h"
#include "registry.h"

#define N_THREADS 4

typedef struct worker {
  kit *k;
  uint32_t number;
  uint32_t n_rounds;
  uint32_t weight_dtype; /* CS_DTYPE_NONE: nothing can be packed */
  kit_rng rng;
  char message[160];
} worker;

static bool say(worker *w, cs_status status, const cs_error *error, const char *what) {
  if (status == CS_OK) return true;
  snprintf(w->message, sizeof w->message, "thread %u, %s: status %d: %.80s", w->number, what,
           status, error->message);
  return false;
}

static bool pack_something(worker *w) {
  if (w->weight_dtype == CS_DTYPE_NONE) return true;
  const uint64_t n_out = 1 + rng_below(&w->rng, 40), n_in = 256;
  unsigned char blocks[40 * 256 * 4];
  if (format_block_elements(w->weight_dtype) > 1)
    format_random_blocks(w->weight_dtype, &w->rng, blocks, n_out * n_in);
  else
    memset(blocks, 0, sizeof blocks);
  const cs_weight_part part = {.struct_size = sizeof part,
                               .dtype = w->weight_dtype,
                               .data = blocks,
                               .bytes = format_bytes(w->weight_dtype, n_out * n_in)};
  const cs_weight weight = {.struct_size = sizeof weight,
                            .dtype = w->weight_dtype,
                            .usage = CS_USAGE_MATMUL,
                            .rank = 2,
                            .n_parts = 1,
                            .part_stride = sizeof part,
                            .dims = {n_out, n_in},
                            .parts = &part};
  cs_plugin_memory *packed = NULL;
  cs_packed_info info = {.struct_size = sizeof info};
  cs_error error = CS_ERROR_INIT;
  const kit *k = w->k;
  if (!say(w, k->plugin.capability.weights_pack(k->device, &weight, &packed, &info, &error), &error,
           "weights_pack"))
    return false;
  k->plugin.memory.memory_free(k->device, packed);
  return true;
}

static bool query_something(worker *w) {
  cs_tensor operands[3];
  memset(operands, 0, sizeof operands);
  for (int i = 0; i < 3; i++) {
    operands[i] = (cs_tensor){.struct_size = sizeof operands[i], .dtype = CS_DTYPE_F32, .rank = 2};
    operands[i].dims[0] = 1 + rng_below(&w->rng, 100);
    operands[i].dims[1] = 64;
  }
  const cs_op op = {.struct_size = sizeof op,
                    .id = CS_OP_ADD,
                    .n_operands = 3,
                    .operand_stride = sizeof operands[0],
                    .operands = operands};
  cs_op_answer answer = {.struct_size = sizeof answer};
  cs_error error = CS_ERROR_INIT;
  const kit *k = w->k;
  return say(w, k->plugin.capability.op_query(k->device, &op, &answer, &error), &error, "op_query");
}

/* Writes a pattern of its own and reads it back through its own stream. */
static bool move_something(worker *w, cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                           uint64_t value) {
  const kit *k = w->k;
  const uint64_t bytes = 1 + rng_below(&w->rng, 20000);
  unsigned char sent[20000], got[20000];
  memset(sent, (int)(w->number * 50 + value % 50), sizeof sent);
  cs_plugin_memory *memory = NULL;
  cs_error error = CS_ERROR_INIT;
  if (!say(w, k->plugin.memory.memory_allocate(k->device, bytes, CS_MEMORY_DEVICE, &memory, &error),
           &error, "memory_allocate"))
    return false;
  bool fine = say(w, k->plugin.stream.stream_upload(stream, memory, 0, sent, bytes, &error), &error,
                  "stream_upload") &&
              say(w, k->plugin.stream.stream_download(stream, got, memory, 0, bytes, &error),
                  &error, "stream_download") &&
              say(w, k->plugin.stream.stream_signal(stream, semaphore, value, &error), &error,
                  "stream_signal") &&
              say(w, k->plugin.semaphore.semaphore_wait(semaphore, value, 20000000, &error), &error,
                  "semaphore_wait");
  if (fine && memcmp(sent, got, bytes) != 0) {
    snprintf(w->message, sizeof w->message, "thread %u reads back other bytes than it wrote",
             w->number);
    fine = false;
  }
  k->plugin.memory.memory_free(k->device, memory);
  return fine;
}

static void *work(void *argument) {
  worker *w = argument;
  const kit *k = w->k;
  cs_plugin_stream *stream = NULL;
  cs_plugin_semaphore *semaphore = NULL;
  cs_error error = CS_ERROR_INIT;
  if (!say(w, k->plugin.semaphore.semaphore_create(k->device, 0, &semaphore, &error), &error,
           "semaphore_create"))
    return NULL;
  if (say(w, k->plugin.stream.stream_create(k->device, &stream, &error), &error, "stream_create")) {
    for (uint32_t i = 1; i <= w->n_rounds; i++)
      if (!pack_something(w) || !query_something(w) || !move_something(w, stream, semaphore, i))
        break;
    k->plugin.stream.stream_destroy(stream);
  }
  k->plugin.semaphore.semaphore_destroy(semaphore);
  return NULL;
}

static uint32_t any_weight_dtype(const kit *k) {
  for (uint32_t dtype = 1; dtype < CS_DTYPE_LIMIT; dtype++)
    if ((k->properties.dtypes & CS_DTYPE_BIT(dtype)) && format_bytes(dtype, 256)) return dtype;
  return CS_DTYPE_NONE;
}

static void all_calls(kit *k, const kit_case *c) {
  (void)c;
  pthread_t threads[N_THREADS];
  worker *workers = kit_host_memory(k, N_THREADS * sizeof *workers);
  uint32_t n_started = 0;
  for (; n_started < N_THREADS; n_started++) {
    workers[n_started] = (worker){.k = k,
                                  .number = n_started,
                                  .n_rounds = k->options->quick ? 60 : 400,
                                  .weight_dtype = any_weight_dtype(k),
                                  .rng = {rng_u64(&k->rng)}};
    if (pthread_create(&threads[n_started], NULL, work, &workers[n_started]) != 0) break;
  }
  for (uint32_t i = 0; i < n_started; i++)
    pthread_join(threads[i], NULL);
  kit_check(k, n_started == N_THREADS, "only %u threads could be started", n_started);
  for (uint32_t i = 0; i < N_THREADS; i++)
    kit_check(k, !workers[i].message[0], "%s", workers[i].message);
}

typedef struct waiter {
  kit *k;
  cs_plugin_semaphore *semaphore;
  uint64_t value;
  cs_status status;
} waiter;

static void *wait_once(void *argument) {
  waiter *w = argument;
  w->status = w->k->plugin.semaphore.semaphore_wait(w->semaphore, w->value, 20000000, NULL);
  return NULL;
}

static void many_waiters(kit *k, const kit_case *c) {
  (void)c;
  pthread_t threads[N_THREADS];
  waiter waiters[N_THREADS];
  cs_plugin_semaphore *semaphore = kit_semaphore_create(k, 0);
  uint32_t n_started = 0;
  for (; n_started < N_THREADS; n_started++) {
    waiters[n_started] = (waiter){k, semaphore, n_started + 1, -1};
    if (pthread_create(&threads[n_started], NULL, wait_once, &waiters[n_started]) != 0) break;
  }
  for (uint32_t i = 1; i <= N_THREADS; i++)
    k->plugin.semaphore.semaphore_signal(semaphore, i, NULL);
  for (uint32_t i = 0; i < n_started; i++)
    pthread_join(threads[i], NULL);
  kit_check(k, n_started == N_THREADS, "only %u threads could be started", n_started);
  for (uint32_t i = 0; i < N_THREADS; i++)
    kit_check(k, waiters[i].status == CS_OK, "waiter %u ends with status %d", i, waiters[i].status);
}

void kit_add_thread_cases(kit_registry *r) {
  const uint32_t core = KIT_BADGE_CORE;
  kit_add(r, &(kit_case){.badges = core, .run = all_calls}, "threads/all_calls");
  kit_add(r, &(kit_case){.badges = core, .run = many_waiters}, "threads/many_waiters");
}
