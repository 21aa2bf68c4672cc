/* What the parts of this plugin share: the handles that consort/plugin.h leaves to it. */
#ifndef PLUGIN_H
#define PLUGIN_H

#include "consort/sdk_driver.h"

struct cs_plugin_instance {
  const cs_host *host; /* valid for the life of the process */
};

struct cs_plugin_device {
  cs_sdk_device sdk; /* first: the SDK's tables find `driver` through it */
};

struct cs_plugin_memory {
  unsigned char *bytes; /* your chip's address instead */
  uint64_t n_bytes;
};

extern const cs_device_table device_table;
extern const cs_memory_table memory_table;
extern const cs_capability_table capability_table;
extern const cs_sdk_driver driver; /* streams, semaphores, ops and programs over the SDK */

/* Allocates and frees memory for ops: also what weights_pack returns. */
cs_status memory_create(cs_plugin_device *device, uint64_t n_bytes, cs_plugin_memory **out,
                        cs_error *error);
void memory_destroy(cs_plugin_device *device, cs_plugin_memory *memory);

/* op_query for one op, and running one op that it said yes to, on the stream's thread. */
cs_status op_judge(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                   cs_error *error);
cs_status op_run(const cs_op *op, cs_error *error);

#endif
