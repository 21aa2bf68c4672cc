/* Streams. The SDK's tables do the waiting, the signals and the order; what the chip does is copy
 * and run, each on the stream's thread after all before it. A driver with queues of its own hands
 * work to them here, waits for them in `drain`, and makes and frees its queue in `start` and
 * `finish` (consort/sdk_driver.h). */
#include "plugin.h"

#include <string.h>

struct cs_plugin_stream {
  cs_sdk_stream sdk; /* first; your driver's queue behind it */
};

/* Between device memory and device or host memory. */
static cs_status move(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  (void)stream;
  (void)error;
  memcpy(copy->to ? copy->to->bytes + copy->to_offset : copy->host_to,
         copy->from ? copy->from->bytes + copy->from_offset : copy->host_from, copy->bytes);
  return CS_OK;
}

static cs_status fill(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  (void)stream;
  (void)error;
  memset(copy->to->bytes + copy->to_offset, copy->value, copy->bytes);
  return CS_OK;
}

/* A list, eager or launched as a program. A driver that records makes its recording in `prepare`.
 */
static cs_status run(cs_plugin_stream *stream, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                     void *work, cs_error *error) {
  (void)stream;
  (void)workspace;
  (void)work;
  for (uint32_t i = 0; i < ops->n_ops; i++) {
    const cs_status status = op_run(&ops->ops[i], error);
    if (status == CS_OK) continue;
    if (error) error->op_index = (int32_t)i;
    return status;
  }
  return CS_OK;
}

const cs_sdk_driver driver = {.stream_bytes = sizeof(cs_plugin_stream),
                              .upload = move,
                              .download = move,
                              .copy = move,
                              .fill = fill,
                              .judge = op_judge,
                              .run = run};
