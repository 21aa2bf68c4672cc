/* The driver's side of a stream: an in-order command queue. Kernel objects hold arguments and are
 * not thread-safe, so each stream has its own. */
#include <string.h>
#include <time.h>

#include "clc/plan.h"
#include "opencl.h"

#define FINISH_POLL_NS    200000
#define FINISH_TIMEOUT_NS INT64_C(2000000000)

struct cs_plugin_stream {
  clc_stream common;
  cl_command_queue commands;
  cl_kernel kernels[MODULE_LIMIT][KERNEL_LIMIT]; /* made when first launched */
};

static cs_status upload(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error) {
  const cl_int code =
      clEnqueueWriteBuffer(stream->commands, copy->to->buffer, CL_FALSE, copy->to_offset,
                           copy->bytes, copy->host_from, 0, NULL, NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueWriteBuffer");
}

static cs_status download(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error) {
  const cl_int code =
      clEnqueueReadBuffer(stream->commands, copy->from->buffer, CL_FALSE, copy->from_offset,
                          copy->bytes, copy->host_to, 0, NULL, NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueReadBuffer");
}

static cs_status copy_within(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error) {
  const cl_int code =
      clEnqueueCopyBuffer(stream->commands, copy->from->buffer, copy->to->buffer, copy->from_offset,
                          copy->to_offset, copy->bytes, 0, NULL, NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueCopyBuffer");
}

static cs_status fill(cs_plugin_stream *stream, const clc_copy *copy, cs_error *error) {
  const cl_int code = clEnqueueFillBuffer(stream->commands, copy->to->buffer, &copy->value, 1,
                                          copy->to_offset, copy->bytes, 0, NULL, NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clEnqueueFillBuffer");
}

static cs_status launch_step(cs_plugin_stream *stream, const clc_plan *plan, const clc_step *step,
                             cs_error *error) {
  cl_kernel *kernel = &stream->kernels[step->module][step->kernel];
  if (!*kernel) {
    const cs_status status =
        opencl_kernel_create(stream->common.device, step->module, step->kernel, kernel, error);
    if (status != CS_OK) return status;
  }
  cl_int code = CL_SUCCESS;
  for (uint32_t i = 0; i < step->n_arguments && code == CL_SUCCESS; i++) {
    const clc_argument *argument = &plan->arguments[step->first_argument + i];
    const cs_plugin_memory *memory = argument->value.memory;
    code = argument->bytes
               ? clSetKernelArg(*kernel, i, argument->bytes, &argument->value)
               : clSetKernelArg(*kernel, i, sizeof(cl_mem), memory ? &memory->buffer : NULL);
  }
  const size_t local[3] = {step->local, 1, 1};
  if (code == CL_SUCCESS)
    code = clEnqueueNDRangeKernel(stream->commands, *kernel, 3, NULL, step->global, local, 0, NULL,
                                  NULL);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, clc_kernel_name(step->kernel));
}

static cs_status launch(cs_plugin_stream *stream, const clc_plan *plan, cs_error *error) {
  for (uint32_t i = 0; i < plan->n_steps; i++) {
    const cs_status status = launch_step(stream, plan, &plan->steps[i], error);
    if (status == CS_OK) continue;
    error->op_index = (int32_t)plan->steps[i].op_index;
    return status;
  }
  const cl_int code = clFlush(stream->commands);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clFlush");
}

static cs_status drain(cs_plugin_stream *stream, cs_error *error) {
  const cl_int code = clFinish(stream->commands);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clFinish");
}

/* ---- starting and finishing ---- */

static cs_status start(cs_plugin_stream *stream, cs_error *error) {
  const cs_plugin_device *device = stream->common.device;
  cl_int code = CL_SUCCESS;
  stream->commands = clCreateCommandQueue(device->context, device->found.device, 0, &code);
  return code == CL_SUCCESS ? CS_OK : opencl_error(error, code, "clCreateCommandQueue");
}

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

/* OpenCL's objects outlive the device that way. */
static void finish(cs_plugin_stream *stream) {
  finish_within_deadline(stream->commands);
  for (uint32_t i = 0; i < MODULE_LIMIT; i++)
    for (uint32_t j = 0; j < KERNEL_LIMIT; j++)
      if (stream->kernels[i][j]) clReleaseKernel(stream->kernels[i][j]);
  clReleaseCommandQueue(stream->commands);
}

const clc_driver opencl_driver = {.sdk = {CLC_DRIVER_SHARED,
                                          .stream_bytes = sizeof(cs_plugin_stream), .start = start,
                                          .finish = finish, .drain = drain, .upload = upload,
                                          .download = download, .copy = copy_within, .fill = fill},
                                  .module_require = opencl_module_require,
                                  .memory_allocate = opencl_memory_allocate,
                                  .memory_free = opencl_memory_free,
                                  .memory_pack = opencl_memory_pack,
                                  .launch = launch};
