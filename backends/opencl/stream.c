/* Streams, semaphores, eager ops and programs.
 *
 * OpenCL cannot wait for something that nobody has enqueued yet, so a stream is the SDK's queue:
 * its thread takes commands in order, waits for timelines, and enqueues to an in-order command
 * queue. A signal is given after clFinish. Plans arrive with all arguments in place; a program is a
 * plan that is kept. Kernel objects hold arguments and are not thread-safe: each stream has its
 * own. */
#include "plan.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define FINISH_POLL_NS    200000
#define FINISH_TIMEOUT_NS INT64_C(2000000000)

struct cs_plugin_stream {
  const cs_host *host;
  cs_plugin_device *device;
  cs_sdk_queue *queue;
  cl_command_queue commands;
  cl_kernel kernels[MODULE_LIMIT][KERNEL_LIMIT]; /* made when first launched */
};

struct cs_plugin_semaphore {
  cs_plugin_device *device;
  cs_sdk_timeline *timeline;
};

struct cs_plugin_program {
  const cs_host *host;
  cs_plugin_device *device;
  opencl_plan *plan;
  atomic_uint references; /* the owner, and each launch that has not run */
};

/* ---- commands, on the stream's thread ---- */

typedef struct copy_command {
  cs_plugin_memory *to;
  const cs_plugin_memory *from;
  void *host_to;
  const void *host_from;
  uint64_t to_offset, from_offset, bytes;
  unsigned char value;
} copy_command;

static cs_status run_upload(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const copy_command *copy = payload;
  const cl_int code =
      clEnqueueWriteBuffer(stream->commands, copy->to->buffer, CL_FALSE, copy->to_offset,
                           copy->bytes, copy->host_from, 0, NULL, NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueWriteBuffer");
}

static cs_status run_download(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const copy_command *copy = payload;
  const cl_int code =
      clEnqueueReadBuffer(stream->commands, copy->from->buffer, CL_FALSE, copy->from_offset,
                          copy->bytes, copy->host_to, 0, NULL, NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueReadBuffer");
}

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const copy_command *copy = payload;
  const cl_int code =
      clEnqueueCopyBuffer(stream->commands, copy->from->buffer, copy->to->buffer, copy->from_offset,
                          copy->to_offset, copy->bytes, 0, NULL, NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueCopyBuffer");
}

static cs_status run_fill(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const copy_command *copy = payload;
  const cl_int code = clEnqueueFillBuffer(stream->commands, copy->to->buffer, &copy->value, 1,
                                          copy->to_offset, copy->bytes, 0, NULL, NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueFillBuffer");
}

static cs_status launch_step(cs_plugin_stream *stream, const opencl_plan *plan,
                             const opencl_step *step, cs_error *error) {
  cl_kernel *kernel = &stream->kernels[step->module][step->kernel];
  if (!*kernel) {
    const cs_status status =
        opencl_kernel_create(stream->device, step->module, step->kernel, kernel, error);
    if (status != CS_OK) return status;
  }
  cl_int code = CL_SUCCESS;
  for (uint32_t i = 0; i < step->n_arguments && code == CL_SUCCESS; i++) {
    const opencl_argument *argument = &plan->arguments[step->first_argument + i];
    code = clSetKernelArg(*kernel, i, argument->bytes, &argument->value);
  }
  const size_t local[3] = {step->local, 1, 1};
  if (code == CL_SUCCESS)
    code = clEnqueueNDRangeKernel(stream->commands, *kernel, 3, NULL, step->global, local, 0, NULL,
                                  NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, opencl_kernel_name(step->kernel));
}

static cs_status launch_plan(cs_plugin_stream *stream, const opencl_plan *plan, cs_error *error) {
  for (uint32_t i = 0; i < plan->n_steps; i++) {
    const cs_status status = launch_step(stream, plan, &plan->steps[i], error);
    if (status == CS_OK) continue;
    error->op_index = (int32_t)plan->steps[i].op_index;
    return status;
  }
  const cl_int code = clFlush(stream->commands);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clFlush");
}

static cs_status run_plan(void *context, void *payload, cs_error *error) {
  opencl_plan *const *plan = payload;
  return launch_plan(context, *plan, error);
}

static cs_status run_program(void *context, void *payload, cs_error *error) {
  cs_plugin_program *const *program = payload;
  return launch_plan(context, (*program)->plan, error);
}

static void program_release(cs_plugin_program *program) {
  if (atomic_fetch_sub_explicit(&program->references, 1, memory_order_acq_rel) != 1) return;
  const cs_host *host = program->host;
  opencl_plan_destroy(program->plan);
  host->deallocate(host->context, program);
}

static void release_payload(void *context, cs_sdk_command command, void *payload) {
  (void)context;
  if (command == run_plan) opencl_plan_destroy(*(opencl_plan **)payload);
  if (command == run_program) program_release(*(cs_plugin_program **)payload);
}

static cs_status drain(void *context, cs_error *error) {
  cs_plugin_stream *stream = context;
  const cl_int code = clFinish(stream->commands);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clFinish");
}

/* ---- stream ---- */

/* Waits up to 2 s for what the driver has started: clFinish has no deadline. */
static void finish_within_deadline(cl_command_queue commands) {
  cl_event event;
  if (clEnqueueMarkerWithWaitList(commands, 0, NULL, &event) != CL_SUCCESS) return;
  clFlush(commands);
  for (int64_t waited = 0; waited < FINISH_TIMEOUT_NS; waited += FINISH_POLL_NS) {
    cl_int state = CL_COMPLETE;
    const cl_int code =
        clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof state, &state, NULL);
    if (code != CL_SUCCESS || state <= CL_COMPLETE) break;
    nanosleep(&(struct timespec){0, FINISH_POLL_NS}, NULL);
  }
  clReleaseEvent(event);
}

/* Called when nothing uses the stream any more; OpenCL's objects outlive the device that way. */
static void stream_finish(void *context) {
  cs_plugin_stream *stream = context;
  finish_within_deadline(stream->commands);
  for (uint32_t i = 0; i < MODULE_LIMIT; i++)
    for (uint32_t j = 0; j < KERNEL_LIMIT; j++)
      if (stream->kernels[i][j]) clReleaseKernel(stream->kernels[i][j]);
  clReleaseCommandQueue(stream->commands);
  stream->host->deallocate(stream->host->context, stream);
}

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_plugin_stream *stream = host->allocate(host->context, sizeof *stream, 16);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  memset(stream, 0, sizeof *stream);
  stream->host = host;
  stream->device = device;
  cl_int code = CL_SUCCESS;
  stream->commands = clCreateCommandQueue(device->context, device->found.device, 0, &code);
  if (code != CL_SUCCESS) {
    host->deallocate(host->context, stream);
    return opencl_error(error, code, "clCreateCommandQueue");
  }
  const cs_sdk_queue_options options = {
      .context = stream, .drain = drain, .release = release_payload, .finish = stream_finish};
  stream->queue = cs_sdk_queue_create(host, &options);
  if (!stream->queue) {
    stream_finish(stream);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory or thread for a stream");
  }
  *out = stream;
  return CS_OK;
}

static void stream_destroy(cs_plugin_stream *stream) {
  if (stream) cs_sdk_queue_destroy(stream->queue);
}

/* The range lies in this device's memory. */
static cs_status check_range(const cs_plugin_stream *stream, const cs_plugin_memory *memory,
                             uint64_t offset, uint64_t bytes, cs_error *error) {
  if (!memory || memory->device != stream->device)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the memory is not of this device");
  if (bytes > memory->bytes || offset > memory->bytes - bytes)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "%llu bytes at %llu end outside the memory",
                        (unsigned long long)bytes, (unsigned long long)offset);
  return CS_OK;
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  const cs_status status = check_range(stream, to, to_offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const copy_command copy = {.to = to, .to_offset = to_offset, .host_from = from, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_upload, &copy, sizeof copy, error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  const cs_status status = check_range(stream, from, from_offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const copy_command copy = {
      .from = from, .from_offset = from_offset, .host_to = to, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_download, &copy, sizeof copy, error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  cs_status status = check_range(stream, to, to_offset, bytes, error);
  if (status == CS_OK) status = check_range(stream, from, from_offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const copy_command copy = {
      .to = to, .from = from, .to_offset = to_offset, .from_offset = from_offset, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_copy, &copy, sizeof copy, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  const cs_status status = check_range(stream, to, offset, bytes, error);
  if (status != CS_OK || bytes == 0) return status;
  const copy_command copy = {
      .to = to, .to_offset = offset, .bytes = bytes, .value = (unsigned char)value};
  return cs_sdk_queue_push(stream->queue, run_fill, &copy, sizeof copy, error);
}

static cs_status check_semaphore(const cs_plugin_stream *stream,
                                 const cs_plugin_semaphore *semaphore, cs_error *error) {
  if (semaphore && semaphore->device == stream->device) return CS_OK;
  return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the semaphore is not of this device");
}

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  const cs_status status = check_semaphore(stream, semaphore, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_wait(stream->queue, semaphore->timeline, value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  const cs_status status = check_semaphore(stream, semaphore, error);
  if (status != CS_OK) return status;
  return cs_sdk_queue_signal(stream->queue, semaphore->timeline, value, error);
}

const cs_stream_table opencl_stream_table = {.struct_size = sizeof(cs_stream_table),
                                             .stream_create = stream_create,
                                             .stream_destroy = stream_destroy,
                                             .stream_upload = stream_upload,
                                             .stream_download = stream_download,
                                             .stream_copy = stream_copy,
                                             .stream_fill = stream_fill,
                                             .stream_wait = stream_wait,
                                             .stream_signal = stream_signal};

/* ---- semaphore ---- */

static cs_status semaphore_create(cs_plugin_device *device, uint64_t initial,
                                  cs_plugin_semaphore **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_plugin_semaphore *semaphore = host->allocate(host->context, sizeof *semaphore, 16);
  if (!semaphore) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
  semaphore->device = device;
  semaphore->timeline = cs_sdk_timeline_create(host, initial);
  if (!semaphore->timeline) {
    host->deallocate(host->context, semaphore);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
  }
  *out = semaphore;
  return CS_OK;
}

static void semaphore_destroy(cs_plugin_semaphore *semaphore) {
  if (!semaphore) return;
  const cs_host *host = semaphore->device->host;
  cs_sdk_timeline_destroy(semaphore->timeline);
  host->deallocate(host->context, semaphore);
}

static cs_status semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error) {
  return cs_sdk_timeline_query(semaphore->timeline, value, error);
}

static cs_status semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                                cs_error *error) {
  return cs_sdk_timeline_wait(semaphore->timeline, value, timeout_us, error);
}

static cs_status semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error) {
  (void)error;
  return cs_sdk_timeline_signal(semaphore->timeline, value);
}

static cs_status semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                cs_error *error) {
  (void)error;
  return cs_sdk_timeline_fail(semaphore->timeline, reason);
}

const cs_semaphore_table opencl_semaphore_table = {.struct_size = sizeof(cs_semaphore_table),
                                                   .semaphore_create = semaphore_create,
                                                   .semaphore_destroy = semaphore_destroy,
                                                   .semaphore_query = semaphore_query,
                                                   .semaphore_wait = semaphore_wait,
                                                   .semaphore_signal = semaphore_signal,
                                                   .semaphore_fail = semaphore_fail};

/* ---- eager ops and programs ---- */

static cs_status plan_list(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                           uint32_t op_stride, cs_plugin_memory *workspace, opencl_plan **out,
                           cs_error *error) {
  cs_sdk_ops *copy = NULL;
  cs_status status = cs_sdk_ops_create(device->host, ops, n_ops, op_stride, &copy, error);
  if (status != CS_OK) return status;
  status = opencl_plan_ops(device, copy, workspace, out, error);
  cs_sdk_ops_release(copy);
  return status;
}

static cs_status ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  opencl_plan *plan = NULL;
  cs_status status = plan_list(stream->device, ops, n_ops, op_stride, workspace, &plan, error);
  if (status != CS_OK) return status;
  status = cs_sdk_queue_push(stream->queue, run_plan, &plan, sizeof plan, error);
  if (status != CS_OK) opencl_plan_destroy(plan);
  return status;
}

const cs_eager_table opencl_eager_table = {.struct_size = sizeof(cs_eager_table),
                                           .ops_enqueue = ops_enqueue};

static cs_status program_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                                uint32_t op_stride, cs_plugin_memory *workspace,
                                cs_plugin_program **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_plugin_program *program = host->allocate(host->context, sizeof *program, 16);
  if (!program) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
  program->host = host;
  program->device = device;
  atomic_init(&program->references, 1);
  const cs_status status =
      plan_list(device, ops, n_ops, op_stride, workspace, &program->plan, error);
  if (status != CS_OK) {
    host->deallocate(host->context, program);
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

const cs_program_table opencl_program_table = {.struct_size = sizeof(cs_program_table),
                                               .program_create = program_create,
                                               .program_destroy = program_destroy,
                                               .program_launch = program_launch};
