/* From op lists to running ops. A list is checked when it is enqueued (or recorded), copied, and
 * then run op by op on the stream's thread. A program is nothing but a kept copy. */
#include "ops.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FEW_ROWS 4 /* of x: a matmul then waits for memory alone */

static const cpu_op_entry *const op_entries[CS_OP_LIMIT] = {
    [CS_OP_GATHER_ROWS] = &cpu_op_gather_rows,
    [CS_OP_RMS_NORM] = &cpu_op_rms_norm,
    [CS_OP_MATMUL] = &cpu_op_matmul,
    [CS_OP_ROPE] = &cpu_op_rope,
    [CS_OP_KV_WRITE] = &cpu_op_kv_write,
    [CS_OP_ATTENTION_PAGED] = &cpu_op_attention_paged,
    [CS_OP_SILU_MUL] = &cpu_op_silu_mul,
    [CS_OP_ADD] = &cpu_op_add,
    [CS_OP_COPY] = &cpu_op_copy,
    [CS_OP_CAST] = &cpu_op_cast,
    [CS_OP_ARGMAX] = &cpu_op_argmax,
    [CS_OP_GELU_MUL] = &cpu_op_gelu_mul,
    [CS_OP_TOP_K] = &cpu_op_top_k,
    [CS_OP_MOE_ROUTE] = &cpu_op_moe_route,
    [CS_OP_MOE_MATMUL] = &cpu_op_moe_matmul,
    [CS_OP_MOE_COMBINE] = &cpu_op_moe_combine,
    [CS_OP_KV_GATHER] = &cpu_op_kv_gather,
    [CS_OP_KV_SCATTER] = &cpu_op_kv_scatter,
    [CS_OP_KV_COPY_BLOCKS] = &cpu_op_kv_copy_blocks,
};

struct cs_plugin_program {
  cs_plugin_device *device;
  cs_sdk_ops *ops;
  cs_plugin_memory *workspace;
};

/* Owns one reference to ops. */
typedef struct ops_command {
  cs_sdk_ops *ops;
  cs_plugin_memory *workspace;
  cs_sdk_op_log *log; /* the stream's, retained */
} ops_command;

/* ---- checks ---- */

bool cpu_no(cs_op_answer *answer, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(answer->reason, sizeof answer->reason, format, arguments);
  va_end(arguments);
  return false;
}

bool cpu_check_plain(cs_op_answer *answer, const char *name, const cs_tensor *tensor,
                     uint32_t dtype) {
  if (!cpu_present(tensor)) return cpu_no(answer, "%s is missing", name);
  if (tensor->layout != CS_LAYOUT_PLAIN) return cpu_no(answer, "%s is not plain", name);
  if (tensor->dtype != dtype)
    return cpu_no(answer, "%s has dtype %u, only %u is served", name, tensor->dtype, dtype);
  return true;
}

bool cpu_check_rows(cs_op_answer *answer, const char *name, const cs_tensor *tensor, uint32_t dtype,
                    uint64_t rows, uint64_t columns) {
  if (!cpu_check_plain(answer, name, tensor, dtype)) return false;
  if (cs_sdk_tensor_rows(tensor) == rows && cs_sdk_tensor_columns(tensor) == columns) return true;
  return cpu_no(answer, "%s is (%llu, %llu), not (%llu, %llu)", name,
                (unsigned long long)cs_sdk_tensor_rows(tensor),
                (unsigned long long)cs_sdk_tensor_columns(tensor), (unsigned long long)rows,
                (unsigned long long)columns);
}

bool cpu_check_vector(cs_op_answer *answer, const char *name, const cs_tensor *tensor,
                      uint32_t dtype, uint64_t n) {
  if (!cpu_check_plain(answer, name, tensor, dtype)) return false;
  if (tensor->rank == 1 && tensor->dims[0] == n) return true;
  return cpu_no(answer, "%s is not a vector of %llu", name, (unsigned long long)n);
}

cpu_rows cpu_rows_of(const cs_tensor *tensor) {
  return (cpu_rows){.data = (char *)tensor->memory->data + tensor->offset_bytes,
                    .stride = cs_sdk_tensor_stride(tensor),
                    .n = cs_sdk_tensor_rows(tensor),
                    .columns = cs_sdk_tensor_columns(tensor)};
}

/* Dimensions whose products fit 63 bits, and a row distance that holds a row and keeps elements
 * aligned. */
static bool check_extents(const cs_tensor *tensor, uint32_t index, cs_op_answer *answer) {
  uint64_t elements = 1;
  for (uint32_t i = 0; i < tensor->rank; i++)
    if (__builtin_mul_overflow(elements, tensor->dims[i], &elements) || elements >> 56)
      return cpu_no(answer, "operand %u is too large", index);
  if (tensor->layout == CS_LAYOUT_PACKED) return true;
  const uint64_t columns = tensor->rank > 1 ? cs_sdk_tensor_columns(tensor) : tensor->dims[0];
  const uint64_t row_bytes = cs_sdk_dtype_bytes(tensor->dtype, columns);
  if (row_bytes == 0 && columns != 0)
    return cpu_no(answer, "operand %u: rows of %llu elements of dtype %u", index,
                  (unsigned long long)columns, tensor->dtype);
  const uint64_t stride = tensor->row_stride_bytes;
  const uint64_t unit = tensor->dtype < CS_DTYPE_Q8_0 ? cs_sdk_dtype_bytes(tensor->dtype, 1) : 1;
  if (tensor->rank > 1 && stride != 0 && (stride < row_bytes || stride % unit != 0))
    return cpu_no(answer, "operand %u: rows of %llu bytes at a distance of %llu", index,
                  (unsigned long long)row_bytes, (unsigned long long)stride);
  return true;
}

static bool check_op(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  const cpu_op_entry *entry = op->id < CS_OP_LIMIT ? op_entries[op->id] : NULL;
  if (!entry) return cpu_no(answer, "no such op");
  for (uint32_t i = 0; i < op->n_operands; i++)
    if (cpu_present(&op->operands[i]) && !check_extents(&op->operands[i], i, answer)) return false;
  return entry->check(device, op, answer);
}

/* The operand's bytes lie in its memory. */
static cs_status check_memory(const cs_op *op, uint32_t index, cs_error *error) {
  const cs_tensor *tensor = &op->operands[index];
  const char *name = cs_sdk_op_name(op->id);
  const cs_plugin_memory *memory = tensor->memory;
  if (!memory)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s: operand %u has no memory", name, index);
  const cpu_packed *packed = &memory->packed;
  if (tensor->layout == CS_LAYOUT_PACKED) {
    const bool expert = tensor->rank == 3;
    if (packed->dtype == tensor->dtype && tensor->rank >= 2 && tensor->rank <= 3 &&
        packed->n_experts == (expert ? tensor->dims[0] : 1) &&
        packed->n_out == tensor->dims[expert ? 1 : 0] &&
        packed->n_in == tensor->dims[expert ? 2 : 1])
      return CS_OK;
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0,
                        "%s: operand %u is not the weight that was packed", name, index);
  }
  const uint64_t rows = cs_sdk_tensor_rows(tensor), stride = cs_sdk_tensor_stride(tensor);
  uint64_t end = 0;
  if (rows > 0 &&
      (__builtin_mul_overflow(rows - 1, stride, &end) ||
       __builtin_add_overflow(end, cs_sdk_dtype_bytes(tensor->dtype, cs_sdk_tensor_columns(tensor)),
                              &end)))
    end = UINT64_MAX;
  if (tensor->offset_bytes > memory->bytes || end > memory->bytes - tensor->offset_bytes)
    return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "%s: operand %u ends past its memory", name,
                        index);
  if (tensor->offset_bytes % CPU_TENSOR_ALIGN != 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s: operand %u begins at byte %llu", name,
                        index, (unsigned long long)tensor->offset_bytes);
  return CS_OK;
}

static cs_status check_enqueue(const cs_plugin_device *device, const cs_op *op,
                               const cs_plugin_memory *workspace, cs_error *error) {
  cs_op_answer answer = {.struct_size = sizeof answer};
  if (!check_op(device, op, &answer))
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "%s: %s", cs_sdk_op_name(op->id), answer.reason);
  if (answer.workspace_bytes > (workspace ? workspace->bytes : 0))
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "%s: a workspace of %llu bytes is needed",
                        cs_sdk_op_name(op->id), (unsigned long long)answer.workspace_bytes);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    if (!cpu_present(&op->operands[i])) continue;
    const cs_status status = check_memory(op, i, error);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

/* A checked copy of a list. */
static cs_status copy_ops(const cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                          uint32_t op_stride, const cs_plugin_memory *workspace, cs_sdk_ops **out,
                          cs_error *error) {
  cs_status status = cs_sdk_ops_create(device->host, ops, n_ops, op_stride, out, error);
  if (status != CS_OK) return status;
  for (uint32_t i = 0; i < n_ops; i++) {
    status = check_enqueue(device, &(*out)->ops[i], workspace, error);
    if (status == CS_OK) continue;
    if (error) error->op_index = (int32_t)i;
    cs_sdk_ops_release(*out);
    *out = NULL;
    return status;
  }
  return CS_OK;
}

/* ---- running ---- */

/* Tells the pool what to fetch while threads wait: the weights of the first matmul from op `next`
 * on, or, behind the last, of the first in the list, which is likely to come again. Returns that
 * matmul's index. */
static uint32_t expect_matmul(const cpu_run *run, const cs_sdk_ops *ops, uint32_t next) {
  for (uint32_t n = 0; n < ops->n_ops; n++) {
    const uint32_t i = (next + n) % ops->n_ops;
    const cs_op *op = &ops->ops[i];
    if (op->id != CS_OP_MATMUL) continue;
    if (cs_sdk_tensor_rows(&op->operands[0]) <= FEW_ROWS)
      cpu_matmul_expect(run, op, ops->n_ops - i);
    return i;
  }
  return ops->n_ops;
}

/* How many ops from op i on run as one: matmuls of the same x, unless each has its time taken. */
static uint32_t count_together(const cpu_run *run, const ops_command *command, uint32_t i,
                               bool timed) {
  const cs_sdk_ops *ops = command->ops;
  if (timed || ops->ops[i].id != CS_OP_MATMUL) return 1;
  return cpu_matmul_siblings(run->device, &ops->ops[i], ops->n_ops - i);
}

static cs_status run_ops(void *context, void *payload, cs_error *error) {
  cs_plugin_device *device = context;
  const ops_command *command = payload;
  const cpu_run run = {.device = device,
                       .kernels = device->kernels,
                       .pool = device->pool,
                       .workspace = command->workspace ? command->workspace->data : NULL};
  uint32_t expected = 0; /* the matmul whose weights are fetched */
  for (uint32_t i = 0, n; i < command->ops->n_ops; i += n) {
    const cs_op *op = &command->ops->ops[i];
    cs_status status = CS_OK;
    pthread_mutex_lock(&device->turn);
    const uint64_t begin_ns = cs_sdk_op_log_begin(command->log);
    n = count_together(&run, command, i, begin_ns != 0);
    if (expected < i + n) expected = expect_matmul(&run, command->ops, i + n);
    if (n > 1)
      cpu_matmul_run(&run, op, n);
    else
      status = op_entries[op->id]->run(&run, op, error);
    cs_sdk_op_log_end(command->log, op->id, begin_ns);
    pthread_mutex_unlock(&device->turn);
    if (status == CS_OK) continue;
    error->op_index = (int32_t)i;
    return status;
  }
  return CS_OK;
}

void cpu_release_command(void *context, cs_sdk_command command, void *payload) {
  (void)context;
  if (command != run_ops) return;
  cs_sdk_ops_release(((ops_command *)payload)->ops);
  cs_sdk_op_log_release(((ops_command *)payload)->log);
}

static cs_status push_ops(cs_plugin_stream *stream, cs_sdk_ops *ops, cs_plugin_memory *workspace,
                          cs_error *error) {
  const ops_command command = {.ops = ops, .workspace = workspace, .log = cpu_stream_log(stream)};
  cs_sdk_op_log_retain(command.log);
  const cs_status status =
      cs_sdk_queue_push(cpu_stream_queue(stream), run_ops, &command, sizeof command, error);
  if (status != CS_OK) {
    cs_sdk_ops_release(ops);
    cs_sdk_op_log_release(command.log);
  }
  return status;
}

static cs_status cpu_ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                                 uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  cs_sdk_ops *copy;
  const cs_status status =
      copy_ops(cpu_stream_device(stream), ops, n_ops, op_stride, workspace, &copy, error);
  return status == CS_OK ? push_ops(stream, copy, workspace, error) : status;
}

/* ---- programs ---- */

static cs_status cpu_program_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                                    uint32_t op_stride, cs_plugin_memory *workspace,
                                    cs_plugin_program **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = device->host;
  cs_plugin_program *program = host->allocate(host->context, sizeof *program, 8);
  if (!program) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a program");
  program->device = device;
  program->workspace = workspace;
  const cs_status status = copy_ops(device, ops, n_ops, op_stride, workspace, &program->ops, error);
  if (status != CS_OK) {
    host->deallocate(host->context, program);
    return status;
  }
  *out = program;
  return CS_OK;
}

static void cpu_program_destroy(cs_plugin_program *program) {
  if (!program) return;
  cs_sdk_ops_release(program->ops);
  program->device->host->deallocate(program->device->host->context, program);
}

static cs_status cpu_program_launch(cs_plugin_stream *stream, cs_plugin_program *program,
                                    cs_error *error) {
  cs_sdk_ops_retain(program->ops);
  return push_ops(stream, program->ops, program->workspace, error);
}

/* ---- capability ---- */

static cs_status cpu_op_query(cs_plugin_device *device, const cs_op *op, cs_op_answer *out,
                              cs_error *error) {
  cs_op_answer answer = {.struct_size = sizeof answer, .support = CS_SUPPORT_NO};
  cs_error refusal = CS_ERROR_INIT;
  cs_sdk_ops *copy;
  const cs_status status = cs_sdk_ops_create(device->host, op, 1, sizeof *op, &copy, &refusal);
  if (status == CS_OUT_OF_MEMORY) return cs_sdk_error(error, status, 0, "no memory for a query");
  if (status != CS_OK) {
    cpu_no(&answer, "%.90s", refusal.message);
  } else {
    if (check_op(device, &copy->ops[0], &answer)) answer.support = CS_SUPPORT_NATIVE;
    cs_sdk_ops_release(copy);
  }
  cs_sdk_struct_write(out, &answer, sizeof answer);
  return CS_OK;
}

const cs_capability_table cpu_capability_table = {
    .struct_size = sizeof(cs_capability_table),
    .op_query = cpu_op_query,
    .weights_pack = cpu_weights_pack,
};

const cs_eager_table cpu_eager_table = {
    .struct_size = sizeof(cs_eager_table),
    .ops_enqueue = cpu_ops_enqueue,
};

const cs_program_table cpu_program_table = {
    .struct_size = sizeof(cs_program_table),
    .program_create = cpu_program_create,
    .program_destroy = cpu_program_destroy,
    .program_launch = cpu_program_launch,
};
