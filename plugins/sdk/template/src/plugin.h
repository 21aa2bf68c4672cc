/* What the parts of this plugin share: the handles that consort/plugin.h leaves to it. */
#ifndef PLUGIN_H
#define PLUGIN_H

#include "consort/sdk.h"

struct cs_plugin_instance {
  const cs_host *host; /* valid for the life of the process */
};

struct cs_plugin_device {
  const cs_host *host;
};

struct cs_plugin_memory {
  unsigned char *bytes; /* your chip's address instead */
  uint64_t n_bytes;
};

extern const cs_device_table device_table;
extern const cs_memory_table memory_table;
extern const cs_stream_table stream_table;
extern const cs_semaphore_table semaphore_table;
extern const cs_capability_table capability_table;
extern const cs_eager_table eager_table;

/* Allocates and frees memory for ops: also what weights_pack returns. */
cs_status memory_create(cs_plugin_device *device, uint64_t n_bytes, cs_plugin_memory **out,
                        cs_error *error);
void memory_destroy(cs_plugin_device *device, cs_plugin_memory *memory);

/* Runs one op that capability_table said yes to. On the stream's thread. */
cs_status op_run(const cs_op *op, cs_error *error);

/* For ops_enqueue: the queue that carries a stream's commands. */
cs_sdk_queue *stream_queue(cs_plugin_stream *stream);
cs_plugin_device *stream_device(cs_plugin_stream *stream);

#endif
