/* Plans that run. A list to be replayed is captured once from a stream into a CUDA graph: a launch
 * of it is one call, whatever the number of kernels. With graphs=off, where the list is empty, and
 * while ops are timed, the plan is launched step by step. */
#include "plan.h"

/* Records the plan's launches on a stream of its own. Relaxed: cuBLASLt loads a kernel where it is
 * first used, which stricter modes forbid, and nothing here depends on what they protect. */
static cs_status capture(cuda_plan *plan, CUgraph *graph, cs_error *error) {
  const cuda_driver *driver = plan->device->driver;
  CUstream stream = NULL;
  CUresult code = driver->StreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  if (code != CUDA_SUCCESS) return cuda_error(driver, error, code, "cuStreamCreate");
  cs_status status = CS_OK;
  code = driver->StreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
  if (code == CUDA_SUCCESS) {
    status = cuda_plan_launch(plan->device, plan, stream, error);
    code = driver->StreamEndCapture(stream, graph);
  }
  driver->StreamDestroy(stream);
  if (status == CS_OK && code != CUDA_SUCCESS)
    status = cuda_error(driver, error, code, "cuStreamBeginCapture or cuStreamEndCapture");
  if (status != CS_OK && *graph) {
    driver->GraphDestroy(*graph);
    *graph = NULL;
  }
  return status;
}

static cs_status instantiate(cuda_plan *plan, cs_error *error) {
  const cuda_driver *driver = plan->device->driver;
  CUgraph graph = NULL;
  cs_status status = cuda_enter(plan->device, error);
  if (status != CS_OK) return status;
  status = capture(plan, &graph, error);
  if (status == CS_OK) {
    const CUresult code = driver->GraphInstantiate(&plan->graph, graph, 0);
    driver->GraphDestroy(graph);
    if (code != CUDA_SUCCESS) {
      plan->graph = NULL;
      status = cuda_error(driver, error, code, "cuGraphInstantiate");
    }
  }
  cuda_leave(plan->device);
  return status;
}

cs_status cuda_prepare(cs_plugin_device *device, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                       uint32_t replayed, void **work, cs_error *error) {
  cuda_plan *plan = NULL;
  cs_status status = cuda_plan_ops(device, ops, workspace, replayed != 0, &plan, error);
  if (status == CS_OK && replayed && device->use_graphs && plan->n_steps > 0)
    status = instantiate(plan, error);
  if (status != CS_OK)
    cuda_discard(plan);
  else
    *work = plan;
  return status;
}

cs_status cuda_run(cs_plugin_stream *stream, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                   void *work, cs_error *error) {
  (void)workspace;
  const cuda_plan *plan = work;
  if (cs_sdk_op_log_begin(stream->sdk.log)) return cuda_profile_run(stream, ops, plan, error);
  const cuda_driver *driver = plan->device->driver;
  if (!plan->graph) return cuda_plan_launch(plan->device, plan, stream->stream, error);
  const CUresult code = driver->GraphLaunch(plan->graph, stream->stream);
  return code == CUDA_SUCCESS ? CS_OK : cuda_error(driver, error, code, "cuGraphLaunch");
}

void cuda_discard(void *work) {
  cuda_plan *plan = work;
  if (plan && plan->graph && cuda_enter(plan->device, NULL) == CS_OK) {
    plan->device->driver->GraphExecDestroy(plan->graph);
    cuda_leave(plan->device);
  }
  cuda_plan_destroy(plan);
}
