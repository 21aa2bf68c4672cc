/* What the SDK's streams and programs ask of this chip. A stream's thread takes commands in order,
 * which is what the front end of such a chip does; each opens device memory for as long as it runs.
 * Programs are the only way to run ops: the plugin hands out no eager table. */
#include <string.h>

#include "npu.h"

struct cs_plugin_stream {
  cs_sdk_stream sdk;
};

/* A list as recorded. */
typedef struct recording {
  const cs_host *host;
  npu_kernel kernels[]; /* one an op */
} recording;

static cs_status move(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  (void)error;
  cs_plugin_device *device = stream->sdk.device;
  npu_memory_open(&device->memory);
  unsigned char *base = device->memory.base;
  void *to = copy->to ? base + copy->to->offset + copy->to_offset : copy->host_to;
  const void *from = copy->from ? base + copy->from->offset + copy->from_offset : copy->host_from;
  memcpy(to, from, copy->bytes);
  npu_memory_close(&device->memory);
  return CS_OK;
}

static cs_status fill(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  (void)error;
  cs_plugin_device *device = stream->sdk.device;
  npu_memory_open(&device->memory);
  memset(device->memory.base + copy->to->offset + copy->to_offset, copy->value, copy->bytes);
  npu_memory_close(&device->memory);
  return CS_OK;
}

static cs_status judge(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                       cs_error *error) {
  (void)device;
  (void)error;
  npu_answer(op, answer, NULL);
  return CS_OK;
}

static cs_status record(cs_plugin_device *device, const cs_sdk_ops *ops,
                        cs_plugin_memory *workspace, uint32_t replayed, void **work,
                        cs_error *error) {
  (void)replayed;
  const cs_host *host = device->sdk.host;
  recording *recorded = host->allocate(
      host->context, sizeof *recorded + ops->n_ops * sizeof recorded->kernels[0], 16);
  if (!recorded) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
  recorded->host = host;
  for (uint32_t i = 0; i < ops->n_ops; i++) {
    cs_op_answer answer;
    npu_answer(&ops->ops[i], &answer, &recorded->kernels[i]);
    const bool lacks_workspace = answer.workspace_bytes > (workspace ? workspace->bytes : 0);
    if (answer.support != CS_SUPPORT_NO && !lacks_workspace) continue;
    const cs_status status =
        cs_sdk_error(error, lacks_workspace ? CS_INVALID_ARGUMENT : CS_UNSUPPORTED, 0, "%s: %.96s",
                     cs_sdk_op_name(ops->ops[i].id),
                     lacks_workspace ? "the workspace is too small" : answer.reason);
    if (error && error->struct_size >= sizeof *error) error->op_index = (int32_t)i;
    host->deallocate(host->context, recorded);
    return status;
  }
  *work = recorded;
  return CS_OK;
}

static cs_status run(cs_plugin_stream *stream, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                     void *work, cs_error *error) {
  (void)error;
  cs_plugin_device *device = stream->sdk.device;
  const recording *recorded = work;
  npu_memory_open(&device->memory);
  const npu_run at = {.base = device->memory.base,
                      .workspace = workspace ? device->memory.base + workspace->offset : NULL};
  for (uint32_t i = 0; i < ops->n_ops; i++) {
    const uint64_t begin_ns = cs_sdk_op_log_begin(stream->sdk.log);
    recorded->kernels[i](&at, &ops->ops[i]);
    cs_sdk_op_log_end(stream->sdk.log, ops->ops[i].id, begin_ns);
  }
  npu_memory_close(&device->memory);
  return CS_OK;
}

static void discard(void *work) {
  recording *recorded = work;
  recorded->host->deallocate(recorded->host->context, recorded);
}

const cs_sdk_driver npu_driver = {.stream_bytes = sizeof(cs_plugin_stream),
                                  .upload = move,
                                  .download = move,
                                  .copy = move,
                                  .fill = fill,
                                  .judge = judge,
                                  .prepare = record,
                                  .run = run,
                                  .discard = discard};
