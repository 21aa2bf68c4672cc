/* Ready eager ops and programs. Both are a prepared list, shared by reference count: an eager list
 * is prepared, pushed and forgotten, so that the push holds the last reference; a program keeps one
 * and each launch takes another, so that it may be destroyed while the stream still has it.
 *
 * A list derived from the plugin's own programs is destroyed by a command behind its launch. That
 * command's payload is freed on the stream's thread after the launch was handed over, so the driver
 * is drained first: a program may not go while it runs. */
#include <stdatomic.h>
#include <string.h>

#include "semaphore.h"
#include "timeline.h"

struct cs_plugin_program {
  const cs_host *host;
  const cs_sdk_driver *driver;
  cs_plugin_device *device;
  cs_sdk_ops *ops;
  cs_plugin_memory *workspace;
  void *work;
  atomic_uint references;
};

static void program_release(cs_plugin_program *program) {
  if (atomic_fetch_sub_explicit(&program->references, 1, memory_order_acq_rel) != 1) return;
  const cs_host *host = program->host;
  if (program->work && program->driver->discard) program->driver->discard(program->work);
  cs_sdk_ops_release(program->ops);
  host->deallocate(host->context, program);
}

/* A checked, prepared list with one reference. */
static cs_status prepare(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                         uint32_t op_stride, cs_plugin_memory *workspace, uint32_t replayed,
                         cs_plugin_program **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = cs_sdk_device_of(device)->host;
  const cs_sdk_driver *driver = cs_sdk_device_of(device)->driver;
  cs_plugin_program *program = host->allocate(host->context, sizeof *program, 16);
  if (!program) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
  program->host = host;
  program->driver = driver;
  program->device = device;
  program->workspace = workspace;
  program->work = NULL;
  atomic_init(&program->references, 1);
  cs_status status = cs_sdk_ops_create(host, ops, n_ops, op_stride, &program->ops, error);
  if (status == CS_OK && driver->prepare)
    status = driver->prepare(device, program->ops, workspace, replayed, &program->work, error);
  if (status != CS_OK)
    program_release(program);
  else
    *out = program;
  return status;
}

/* ---- on the stream's thread ---- */

static cs_status run_program(void *context, void *payload, cs_error *error) {
  const cs_plugin_program *program = *(cs_plugin_program *const *)payload;
  const cs_status status =
      program->driver->run(context, program->ops, program->workspace, program->work, error);
  return cs_sdk_settle(context, status);
}

/* The work is done where the payload is freed, which also happens when the stream was poisoned. */
static cs_status retire_program(void *context, void *payload, cs_error *error) {
  (void)context;
  (void)payload;
  (void)error;
  return CS_OK;
}

void cs_sdk_execute_release(void *context, cs_sdk_command command, void *payload) {
  const cs_sdk_driver *driver = cs_sdk_stream_of(context)->driver;
  if (command == run_program) program_release(*(cs_plugin_program **)payload);
  if (command != retire_program) return;
  cs_error ignored = CS_ERROR_INIT;
  if (driver->drain) (void)driver->drain(context, &ignored);
  driver->program->program_destroy(*(cs_plugin_program **)payload);
}

/* ---- eager ops ---- */

static cs_status enqueue_as_program(cs_plugin_stream *stream, const cs_program_table *table,
                                    const cs_op *ops, uint32_t n_ops, uint32_t op_stride,
                                    cs_plugin_memory *workspace, cs_error *error) {
  cs_sdk_stream *shared = cs_sdk_stream_of(stream);
  cs_plugin_program *program = NULL;
  cs_status status =
      table->program_create(shared->device, ops, n_ops, op_stride, workspace, &program, error);
  if (status != CS_OK) return status;
  status = table->program_launch(stream, program, error);
  if (status != CS_OK) {
    table->program_destroy(program);
    return status;
  }
  /* Should there be no memory for this command, nobody would know when the launch is done: the
   * program is then left to the device rather than destroyed under it. */
  return cs_sdk_queue_retire(shared->queue, retire_program, program, error);
}

static cs_status ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  cs_sdk_stream *shared = cs_sdk_stream_of(stream);
  if (shared->driver->program)
    return enqueue_as_program(stream, shared->driver->program, ops, n_ops, op_stride, workspace,
                              error);
  cs_plugin_program *program;
  cs_status status = prepare(shared->device, ops, n_ops, op_stride, workspace, 0, &program, error);
  if (status != CS_OK) return status;
  status = cs_sdk_queue_push(shared->queue, run_program, &program, sizeof program, error);
  if (status != CS_OK) program_release(program);
  return status;
}

const cs_eager_table cs_sdk_eager_table = {.struct_size = sizeof(cs_eager_table),
                                           .ops_enqueue = ops_enqueue};

/* ---- programs ---- */

static cs_status program_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                                uint32_t op_stride, cs_plugin_memory *workspace,
                                cs_plugin_program **out, cs_error *error) {
  return prepare(device, ops, n_ops, op_stride, workspace, 1, out, error);
}

static void program_destroy(cs_plugin_program *program) {
  if (program) program_release(program);
}

static cs_status program_launch(cs_plugin_stream *stream, cs_plugin_program *program,
                                cs_error *error) {
  cs_sdk_stream *shared = cs_sdk_stream_of(stream);
  if (program->device != shared->device)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "the program is not of this device");
  if (program->driver->eager)
    return program->driver->eager->ops_enqueue(stream, program->ops->ops, program->ops->n_ops,
                                               sizeof(cs_op), program->workspace, error);
  atomic_fetch_add_explicit(&program->references, 1, memory_order_relaxed);
  const cs_status status =
      cs_sdk_queue_push(shared->queue, run_program, &program, sizeof program, error);
  if (status != CS_OK) program_release(program);
  return status;
}

const cs_program_table cs_sdk_program_table = {.struct_size = sizeof(cs_program_table),
                                               .program_create = program_create,
                                               .program_destroy = program_destroy,
                                               .program_launch = program_launch};

/* ---- capability ---- */

cs_status cs_sdk_op_query(cs_plugin_device *device, const cs_op *op, cs_op_answer *out,
                          cs_error *error) {
  const cs_sdk_device *shared = cs_sdk_device_of(device);
  cs_op_answer answer = {.struct_size = sizeof answer};
  cs_sdk_ops *copy = NULL;
  cs_status status = cs_sdk_ops_create(shared->host, op, 1, op ? op->struct_size : 0, &copy, error);
  if (status == CS_OK) {
    status = shared->driver->judge(device, &copy->ops[0], &answer, error);
    cs_sdk_ops_release(copy);
  } else if (status == CS_UNSUPPORTED) { /* an op or a field of a newer host */
    static const char reason[] = "the op or one of its fields is not known";
    memcpy(answer.reason, reason, sizeof reason);
    status = CS_OK;
  }
  if (status == CS_OK) cs_sdk_struct_write(out, &answer, sizeof answer);
  return status;
}
