/* What the SDK's ready streams and programs ask of these plugins. Plans arrive at the stream's
 * thread with all arguments in place; a program is a plan that is kept, or the driver's recording
 * of it. */
#include <string.h>

#include "plan.h"

cs_status clc_check_range(const cs_plugin_device *device, const cs_plugin_memory *memory,
                          uint64_t offset, uint64_t bytes, cs_error *error) {
  if (!memory || clc_memory_of(memory)->device != clc_device_of(device))
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the memory is not of this device");
  const uint64_t size = clc_memory_of(memory)->bytes;
  if (bytes > size || offset > size - bytes)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "%llu bytes at %llu end outside the memory",
                        (unsigned long long)bytes, (unsigned long long)offset);
  return CS_OK;
}

cs_status clc_prepare(cs_plugin_device *device, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                      uint32_t replayed, void **work, cs_error *error) {
  clc_plan *plan = NULL;
  cs_status status = clc_plan_ops(device, ops, workspace, &plan, error);
  if (status == CS_OK && replayed && plan->driver->record)
    status = plan->driver->record(device, plan, &plan->recording, error);
  if (status != CS_OK)
    clc_discard(plan);
  else
    *work = plan;
  return status;
}

cs_status clc_run(cs_plugin_stream *stream, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                  void *work, cs_error *error) {
  (void)ops;
  (void)workspace;
  const clc_plan *plan = work;
  return plan->recording ? plan->driver->replay(stream, plan->recording, error)
                         : plan->driver->launch(stream, plan, error);
}

void clc_discard(void *work) {
  clc_plan *plan = work;
  if (plan && plan->recording) plan->driver->discard(plan->recording);
  clc_plan_destroy(plan);
}

const void *clc_table(uint32_t id) {
  static const cs_capability_table capability = {.struct_size = sizeof capability,
                                                 .op_query = cs_sdk_op_query,
                                                 .weights_pack = clc_weights_pack};
  switch (id) {
  case CS_TABLE_STREAM:
    return &cs_sdk_stream_table;
  case CS_TABLE_SEMAPHORE:
    return &cs_sdk_semaphore_table;
  case CS_TABLE_CAPABILITY:
    return &capability;
  case CS_TABLE_EAGER:
    return &cs_sdk_eager_table;
  case CS_TABLE_PROGRAM:
    return &cs_sdk_program_table;
  default:
    return NULL;
  }
}
