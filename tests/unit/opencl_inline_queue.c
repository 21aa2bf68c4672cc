/* The SDK's queue without a thread: a command runs when it is pushed. Linked into a copy of the
 * OpenCL plugin for oclgrind, whose check for uninitialized values follows host copies only on the
 * thread that made the context. Good for lists of commands that wait for nothing from outside. */
#include "timeline.h"

#include <string.h>

struct cs_sdk_queue {
  const cs_host *host;
  cs_sdk_queue_options options;
  cs_status status;
  cs_error error;
};

cs_sdk_queue *cs_sdk_queue_create(const cs_host *host, const cs_sdk_queue_options *options) {
  cs_sdk_queue *queue = host->allocate(host->context, sizeof *queue, 16);
  if (!queue) return NULL;
  memset(queue, 0, sizeof *queue);
  queue->host = host;
  queue->options = *options;
  queue->error = (cs_error)CS_ERROR_INIT;
  return queue;
}

void cs_sdk_queue_destroy(cs_sdk_queue *queue) {
  const cs_host *host = queue->host;
  if (queue->options.finish) queue->options.finish(queue->options.context);
  host->deallocate(host->context, queue);
}

cs_status cs_sdk_queue_push(cs_sdk_queue *queue, cs_sdk_command command, const void *payload,
                            size_t payload_bytes, cs_error *error) {
  _Alignas(16) unsigned char copy[256];
  (void)error;
  if (payload_bytes > sizeof copy) return CS_UNSUPPORTED;
  memcpy(copy, payload, payload_bytes);
  if (queue->status == CS_OK) queue->status = command(queue->options.context, copy, &queue->error);
  if (queue->options.release) queue->options.release(queue->options.context, command, copy);
  return CS_OK;
}

cs_status cs_sdk_queue_retire(cs_sdk_queue *queue, cs_sdk_command command, void *owned,
                              cs_error *error) {
  return cs_sdk_queue_push(queue, command, &owned, sizeof owned, error);
}

cs_status cs_sdk_queue_wait(cs_sdk_queue *queue, cs_sdk_timeline *timeline, uint64_t value,
                            cs_error *error) {
  (void)error;
  if (queue->status == CS_OK)
    queue->status = cs_sdk_timeline_wait(timeline, value, 1000000, &queue->error);
  return CS_OK;
}

cs_status cs_sdk_queue_signal(cs_sdk_queue *queue, cs_sdk_timeline *timeline, uint64_t value,
                              cs_error *error) {
  (void)error;
  if (queue->status == CS_OK && queue->options.drain)
    queue->status = queue->options.drain(queue->options.context, &queue->error);
  if (queue->status == CS_OK) return cs_sdk_timeline_signal(timeline, value);
  return cs_sdk_timeline_fail(timeline, &queue->error);
}
