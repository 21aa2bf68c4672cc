/* Eager ops and programs. A program is a plan, captured once from a stream into a CUDA graph: a
 * launch of it is one call, whatever the number of kernels. With graphs=off, or where the list is
 * empty, the plan is launched step by step. */
#include "plan.h"

#include <stdatomic.h>
#include <string.h>

struct cs_plugin_program {
  const cs_host *host;
  cs_plugin_device *device;
  cuda_plan *plan;
  CUgraphExec graph;      /* NULL: launch the plan */
  atomic_uint references; /* the owner, and each launch that has not run */
};

static void program_release(cs_plugin_program *program) {
  if (atomic_fetch_sub_explicit(&program->references, 1, memory_order_acq_rel) != 1) return;
  const cs_host *host = program->host;
  if (program->graph && cuda_enter(program->device, NULL) == CS_OK) {
    program->device->driver->GraphExecDestroy(program->graph);
    cuda_leave(program->device);
  }
  cuda_plan_destroy(program->plan);
  host->deallocate(host->context, program);
}

/* ---- on the stream's thread ---- */

static cs_status run_plan(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  cuda_plan *const *plan = payload;
  return cuda_plan_launch(stream->device, *plan, stream->stream, error);
}

static cs_status run_program(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const cs_plugin_program *program = *(cs_plugin_program *const *)payload;
  const cuda_driver *driver = stream->device->driver;
  if (!program->graph)
    return cuda_plan_launch(stream->device, program->plan, stream->stream, error);
  const CUresult code = driver->GraphLaunch(program->graph, stream->stream);
  return code == CUDA_SUCCESS ? CS_OK : cuda_error(driver, error, code, "cuGraphLaunch");
}

void cuda_release_payload(void *context, cs_sdk_command command, void *payload) {
  (void)context;
  if (command == run_plan) cuda_plan_destroy(*(cuda_plan **)payload);
  if (command == run_program) program_release(*(cs_plugin_program **)payload);
}

/* ---- eager ---- */

static cs_status plan_list(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                           uint32_t op_stride, cs_plugin_memory *workspace, cuda_plan **out,
                           cs_error *error) {
  cs_sdk_ops *copy = NULL;
  cs_status status = cs_sdk_ops_create(device->host, ops, n_ops, op_stride, &copy, error);
  if (status != CS_OK) return status;
  status = cuda_plan_ops(device, copy, workspace, out, error);
  cs_sdk_ops_release(copy);
  return status;
}

static cs_status ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  cuda_plan *plan = NULL;
  cs_status status = plan_list(stream->device, ops, n_ops, op_stride, workspace, &plan, error);
  if (status != CS_OK) return status;
  status = cs_sdk_queue_push(stream->queue, run_plan, &plan, sizeof plan, error);
  if (status != CS_OK) cuda_plan_destroy(plan);
  return status;
}

const cs_eager_table cuda_eager_table = {.struct_size = sizeof(cs_eager_table),
                                         .ops_enqueue = ops_enqueue};

/* ---- programs ---- */

/* Records the plan's launches on a stream of its own; other threads may go on using the context. */
static cs_status capture(cs_plugin_program *program, CUgraph *graph, cs_error *error) {
  const cuda_driver *driver = program->device->driver;
  CUstream stream = NULL;
  CUresult code = driver->StreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  if (code != CUDA_SUCCESS) return cuda_error(driver, error, code, "cuStreamCreate");
  cs_status status = CS_OK;
  code = driver->StreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  if (code == CUDA_SUCCESS) {
    status = cuda_plan_launch(program->device, program->plan, stream, error);
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

static cs_status instantiate(cs_plugin_program *program, cs_error *error) {
  const cuda_driver *driver = program->device->driver;
  CUgraph graph = NULL;
  cs_status status = cuda_enter(program->device, error);
  if (status != CS_OK) return status;
  status = capture(program, &graph, error);
  if (status == CS_OK) {
    const CUresult code = driver->GraphInstantiate(&program->graph, graph, 0);
    driver->GraphDestroy(graph);
    if (code != CUDA_SUCCESS) {
      program->graph = NULL;
      status = cuda_error(driver, error, code, "cuGraphInstantiate");
    }
  }
  cuda_leave(program->device);
  return status;
}

static cs_status program_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                                uint32_t op_stride, cs_plugin_memory *workspace,
                                cs_plugin_program **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_plugin_program *program = host->allocate(host->context, sizeof *program, 16);
  if (!program) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
  program->host = host;
  program->device = device;
  program->plan = NULL;
  program->graph = NULL;
  atomic_init(&program->references, 1);
  cs_status status = plan_list(device, ops, n_ops, op_stride, workspace, &program->plan, error);
  if (status == CS_OK && device->use_graphs && program->plan->n_steps > 0)
    status = instantiate(program, error);
  if (status != CS_OK) {
    program_release(program);
    return status;
  }
  *out = program;
  return CS_OK;
}

static void program_destroy(cs_plugin_program *program) {
  if (program) program_release(program);
}

static cs_status program_launch(cs_plugin_stream *stream, cs_plugin_program *program,
                                cs_error *error) {
  if (program->device != stream->device)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the program is not of this device");
  atomic_fetch_add_explicit(&program->references, 1, memory_order_relaxed);
  const cs_status status =
      cs_sdk_queue_push(stream->queue, run_program, &program, sizeof program, error);
  if (status != CS_OK) program_release(program);
  return status;
}

const cs_program_table cuda_program_table = {.struct_size = sizeof(cs_program_table),
                                             .program_create = program_create,
                                             .program_destroy = program_destroy,
                                             .program_launch = program_launch};
