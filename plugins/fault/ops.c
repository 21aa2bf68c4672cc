/* Ops that come out wrong. Spoiling is done with the target's own copies and ops, so that it works
 * on any device: a saved end of the result is copied back, or the result is scaled by a rope whose
 * angles are all zero. */
#include <math.h>
#include <string.h>

#include "fault.h"

#define STRAY_BYTES 4
#define STRAY_VALUE 0x5b

static uint64_t last_bytes_offset(const cs_tensor *tensor) {
  return tensor->offset_bytes + (cs_sdk_tensor_rows(tensor) - 1) * cs_sdk_tensor_stride(tensor) +
         cs_sdk_tensor_row_bytes(tensor) - 4;
}

static bool has_result(const cs_op *op) {
  return op->id != CS_OP_KV_WRITE && op->id != CS_OP_KV_SCATTER && op->id != CS_OP_KV_COPY_BLOCKS &&
         op->operands[0].dtype != CS_DTYPE_NONE &&
         cs_sdk_dtype_bytes(op->operands[0].dtype, cs_sdk_tensor_columns(op->operands)) >= 4;
}

bool fault_spoils_results(const cs_plugin_device *device) {
  const bool *on = device->plan.on;
  return on[FAULT_SKIP_WRITE] || on[FAULT_NOISE] || on[FAULT_WRITE_BEFORE] ||
         on[FAULT_WRITE_AFTER] || on[FAULT_WRITE_BETWEEN] || on[FAULT_WRITE_INPUT];
}

cs_status fault_save_result(cs_plugin_stream *stream, const cs_op *op, cs_error *error) {
  const cs_plugin_device *device = stream->device;
  if (!device->plan.on[FAULT_SKIP_WRITE] || !has_result(op)) return CS_OK;
  return device->target->stream.stream_copy(stream->inner, device->scratch, 0,
                                            op->operands[0].memory, last_bytes_offset(op->operands),
                                            4, error);
}

static cs_status run_inner(cs_plugin_stream *stream, const cs_op *op, cs_plugin_memory *workspace,
                           cs_error *error) {
  const fault_target *target = stream->device->target;
  return target->eager.ops_enqueue(stream->inner, op, 1, sizeof *op, workspace, error);
}

/* The NMSE that the target claims for this op, doubled, as a factor on every element. */
static float noise_factor(const cs_plugin_device *device, const cs_op *op) {
  cs_op_answer answer = {.struct_size = sizeof answer};
  device->target->capability.op_query(device->inner, op, &answer, NULL);
  const double limit = answer.error_class == CS_ERROR_INT8   ? CS_NMSE_LIMIT_INT8
                       : answer.error_class == CS_ERROR_HALF ? CS_NMSE_LIMIT_HALF
                                                             : CS_NMSE_LIMIT_F32;
  return (float)(1 + sqrt(2 * limit));
}

static cs_status scale_result(cs_plugin_stream *stream, const cs_op *op,
                              cs_plugin_memory *workspace, cs_error *error) {
  const cs_plugin_device *device = stream->device;
  const cs_tensor *result = &op->operands[0];
  const uint64_t n = cs_sdk_tensor_rows(result), d = cs_sdk_tensor_columns(result);
  if (result->dtype != CS_DTYPE_F32 || op->id == CS_OP_COPY || op->id == CS_OP_CAST || d < 2)
    return CS_OK;
  cs_tensor operands[4] = {*result, *result, *result, *result};
  for (int i = 0; i < 2; i++) {
    operands[i].rank = 3;
    operands[i].dims[0] = n;
    operands[i].dims[1] = 1;
    operands[i].dims[2] = d;
    operands[i].row_stride_bytes = cs_sdk_tensor_stride(result);
  }
  for (int i = 2; i < 4; i++) { /* positions and inverse frequencies, all zero */
    operands[i] = (cs_tensor){.struct_size = sizeof operands[i],
                              .dtype = i == 2 ? CS_DTYPE_I32 : CS_DTYPE_F32,
                              .rank = 1,
                              .memory = device->zeros,
                              .dims = {i == 2 ? n : d / 2}};
  }
  const cs_rope_params params = {.struct_size = sizeof params,
                                 .n_rot = (uint32_t)(d / 2 * 2),
                                 .magnitude = noise_factor(device, op)};
  const cs_op scale = {.struct_size = sizeof scale,
                       .id = CS_OP_ROPE,
                       .n_operands = 4,
                       .operand_stride = sizeof operands[0],
                       .operands = operands,
                       .params = &params};
  return run_inner(stream, &scale, workspace, error);
}

/* Bytes that are not the op's to write. */
static cs_status write_astray(cs_plugin_stream *stream, const cs_op *op, cs_error *error) {
  const cs_plugin_device *device = stream->device;
  const bool *on = device->plan.on;
  const cs_tensor *out = &op->operands[0], *in = &op->operands[1];
  const uint64_t stride = cs_sdk_tensor_stride(out), begin = out->offset_bytes;
  const bool has_gap =
      cs_sdk_tensor_rows(out) > 1 && stride >= cs_sdk_tensor_row_bytes(out) + STRAY_BYTES;
  const bool has_input = in->dtype != CS_DTYPE_NONE && in->layout != CS_LAYOUT_PACKED;
  const struct {
    bool wanted;
    cs_plugin_memory *memory;
    uint64_t offset;
  } strays[] = {
      {on[FAULT_WRITE_BEFORE] && begin >= STRAY_BYTES, out->memory, begin - STRAY_BYTES},
      {on[FAULT_WRITE_AFTER], out->memory, last_bytes_offset(out) + 4},
      {on[FAULT_WRITE_BETWEEN] && has_gap, out->memory, begin + cs_sdk_tensor_row_bytes(out)},
      {on[FAULT_WRITE_INPUT] && has_input, in->memory, in->offset_bytes},
  };
  cs_status status = CS_OK;
  for (size_t i = 0; i < sizeof strays / sizeof strays[0] && status == CS_OK; i++)
    if (strays[i].wanted)
      status = device->target->stream.stream_fill(stream->inner, strays[i].memory, strays[i].offset,
                                                  STRAY_BYTES, STRAY_VALUE, error);
  return status;
}

cs_status fault_spoil_result(cs_plugin_stream *stream, const cs_op *op, cs_plugin_memory *workspace,
                             cs_error *error) {
  const cs_plugin_device *device = stream->device;
  if (!has_result(op)) return CS_OK;
  cs_status status = write_astray(stream, op, error);
  if (status == CS_OK && device->plan.on[FAULT_NOISE])
    status = scale_result(stream, op, workspace, error);
  if (status != CS_OK) return status;
  if (!device->plan.on[FAULT_SKIP_WRITE]) return CS_OK;
  return device->target->stream.stream_copy(stream->inner, op->operands[0].memory,
                                            last_bytes_offset(op->operands), device->scratch, 0, 4,
                                            error);
}

cs_status fault_after_ops(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                          cs_error *error) {
  const cs_plugin_device *device = stream->device;
  cs_status status = CS_OK;
  for (uint32_t i = 0; i < n_ops && status == CS_OK; i++)
    if (device->plan.on[FAULT_CORRUPT_KV] && ops[i].id == CS_OP_KV_GATHER)
      status = device->target->stream.stream_fill(stream->inner, ops[i].operands[0].memory,
                                                  ops[i].operands[0].offset_bytes, 4, 0x5a, error);
  return status;
}

/* ---- eager ---- */

static cs_status enqueue_spoiled(cs_plugin_stream *stream, const cs_sdk_ops *copy,
                                 cs_plugin_memory *workspace, cs_error *error) {
  cs_status status = CS_OK;
  for (uint32_t i = 0; i < copy->n_ops && status == CS_OK; i++) {
    status = fault_save_result(stream, &copy->ops[i], error);
    if (status == CS_OK) status = run_inner(stream, &copy->ops[i], workspace, error);
    if (status == CS_OK) status = fault_spoil_result(stream, &copy->ops[i], workspace, error);
  }
  return status;
}

static cs_status ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  cs_plugin_device *device = stream->device;
  cs_sdk_ops *copy = NULL;
  if (!device->target->eager.ops_enqueue)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "the target runs no eager ops");
  cs_status status = cs_sdk_ops_create(device->host, ops, n_ops, op_stride, &copy, error);
  if (status != CS_OK) return status;
  status = fault_before_launch(stream, error);
  if (status == CS_OK && fault_spoils_results(device))
    status = enqueue_spoiled(stream, copy, workspace, error);
  else if (status == CS_OK)
    status =
        device->target->eager.ops_enqueue(stream->inner, ops, n_ops, op_stride, workspace, error);
  if (status == CS_OK) status = fault_after_ops(stream, copy->ops, copy->n_ops, error);
  cs_sdk_ops_release(copy);
  return status;
}

/* ---- programs ---- */

static cs_status program_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                                uint32_t op_stride, cs_plugin_memory *workspace,
                                cs_plugin_program **out, cs_error *error) {
  *out = NULL;
  cs_status status = fault_check_lost(device, error);
  if (status != CS_OK) return status;
  if (!device->target->program.program_create)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "the target records no programs");
  const cs_host *host = device->host;
  cs_plugin_program *program = host->allocate(host->context, sizeof *program, 16);
  if (!program) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
  program->device = device;
  status = cs_sdk_ops_create(host, ops, n_ops, op_stride, &program->ops, error);
  if (status != CS_OK) goto err_free;
  status = device->target->program.program_create(device->inner, ops, n_ops, op_stride, workspace,
                                                  &program->inner, error);
  if (status != CS_OK) goto err_ops;
  *out = program;
  return CS_OK;
err_ops:
  cs_sdk_ops_release(program->ops);
err_free:
  host->deallocate(host->context, program);
  return status;
}

static void program_destroy(cs_plugin_program *program) {
  if (!program) return;
  const cs_host *host = program->device->host;
  program->device->target->program.program_destroy(program->inner);
  cs_sdk_ops_release(program->ops);
  host->deallocate(host->context, program);
}

static cs_status program_launch(cs_plugin_stream *stream, cs_plugin_program *program,
                                cs_error *error) {
  cs_status status = fault_before_launch(stream, error);
  if (status != CS_OK) return status;
  status = stream->device->target->program.program_launch(stream->inner, program->inner, error);
  if (status != CS_OK) return status;
  return fault_after_ops(stream, program->ops->ops, program->ops->n_ops, error);
}

const cs_eager_table fault_eager_table = {.struct_size = sizeof fault_eager_table,
                                          .ops_enqueue = ops_enqueue};

const cs_program_table fault_program_table = {.struct_size = sizeof fault_program_table,
                                              .program_create = program_create,
                                              .program_destroy = program_destroy,
                                              .program_launch = program_launch};

/* ---- entry ---- */

static const void *table(uint32_t id, uint32_t revision) {
  if (revision != 0) return NULL;
  switch (id) {
  case CS_TABLE_DEVICE:
    return &fault_device_table;
  case CS_TABLE_MEMORY:
    return &fault_memory_table;
  case CS_TABLE_STREAM:
    return &fault_stream_table;
  case CS_TABLE_SEMAPHORE:
    return &fault_semaphore_table;
  case CS_TABLE_CAPABILITY:
    return &fault_capability_table;
  case CS_TABLE_EAGER:
    return &fault_eager_table;
  case CS_TABLE_PROGRAM:
    return &fault_program_table;
  default:
    return NULL;
  }
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  return cs_sdk_query(host, plugin, "fault", FAULT_VERSION, "Consort", table);
}
