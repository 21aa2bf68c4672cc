/* Every measurement is a closure that enqueues its work; one loop warms it up, repeats it for a
 * fixed span and keeps the fastest run. Weights are arbitrary bits that are normal numbers in every
 * format, because subnormal ones would slow some processors down. */
#include "scheduler/probe.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/dtype.h"
#include "core/error.h"
#include "core/op_list.h"

#define SPAN_SECONDS     0.06 /* how long one measurement repeats its work */
#define MIN_RUNS         3
#define DEADLINE_US      (20 * UINT64_C(1000000))
#define MAX_WEIGHTS      64
#define SMALL_OPS        64
#define LINK_BYTES       (UINT64_C(4) << 20)
#define ATTENTION_HEADS  8
#define ATTENTION_WIDTH  64
#define ATTENTION_BLOCKS 256 /* most entries of the block table */

struct cs_probe {
  cs_device *device; /* retained */
  cs_stream *stream; /* owned; NULL once it was given up */
  uint64_t deadline_us;
};

cs_status cs_probe_create(cs_device *device, cs_probe **out, cs_error *error) {
  *out = NULL;
  cs_probe *probe = calloc(1, sizeof *probe);
  if (!probe) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  const cs_status status = cs_stream_create(device, &probe->stream, error);
  if (status != CS_OK) {
    free(probe);
    return status;
  }
  cs_device_retain(device);
  probe->device = device;
  probe->deadline_us = DEADLINE_US;
  *out = probe;
  return CS_OK;
}

void cs_probe_destroy(cs_probe *probe) {
  if (!probe) return;
  cs_stream_destroy(probe->stream);
  cs_device_release(probe->device);
  free(probe);
}

void cs_probe_set_deadline(cs_probe *probe, uint64_t deadline_us) {
  probe->deadline_us = deadline_us;
}

/* Waits for what was enqueued. Work that takes too long may still run, and no buffer of it may go:
 * the stream goes first, which ends it. */
static cs_status wait_for_all(cs_probe *probe, cs_error *error) {
  const cs_status status = cs_stream_synchronize(probe->stream, probe->deadline_us, error);
  if (status == CS_TIMEOUT) {
    cs_stream_destroy(probe->stream);
    probe->stream = NULL;
  }
  return status;
}

/* ---- the measuring loop ---- */

typedef cs_status (*enqueue_fn)(cs_probe *probe, void *work, cs_error *error);

static double now_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static cs_status run_once(cs_probe *probe, enqueue_fn enqueue, void *work, double *seconds,
                          cs_error *error) {
  const double begin = now_seconds();
  cs_status status = enqueue(probe, work, error);
  if (status == CS_OK) status = wait_for_all(probe, error);
  *seconds = now_seconds() - begin;
  return status;
}

static cs_status measure(cs_probe *probe, enqueue_fn enqueue, void *work, double *fastest,
                         cs_error *error) {
  double seconds;
  cs_status status = run_once(probe, enqueue, work, &seconds, error);
  *fastest = DBL_MAX;
  const double begin = now_seconds();
  for (int i = 0; status == CS_OK && (i < MIN_RUNS || now_seconds() - begin < SPAN_SECONDS); i++) {
    status = run_once(probe, enqueue, work, &seconds, error);
    if (status == CS_OK && seconds < *fastest) *fastest = seconds > 1e-9 ? seconds : 1e-9;
  }
  return status;
}

/* ---- lists of ops ---- */

typedef struct op_work {
  cs_op ops[SMALL_OPS];
  cs_tensor operands[SMALL_OPS][CS_MAX_OPERANDS];
  uint32_t n_ops;
  cs_buffer *workspace; /* owned */
} op_work;

static cs_status enqueue_ops(cs_probe *probe, void *work, cs_error *error) {
  op_work *list = work;
  return cs_stream_ops(probe->stream, list->ops, list->n_ops, list->workspace, error);
}

static cs_tensor tensor_of(uint32_t dtype, uint32_t layout, uint32_t rank, const uint64_t *dims) {
  cs_tensor tensor = {.struct_size = sizeof tensor, .dtype = dtype, .layout = layout, .rank = rank};
  memcpy(tensor.dims, dims, rank * sizeof *dims);
  return tensor;
}

static cs_tensor absent_tensor(void) {
  return (cs_tensor){.struct_size = sizeof(cs_tensor), .dtype = CS_DTYPE_NONE};
}

static cs_op op_of(uint32_t id, const cs_tensor *operands, const void *params) {
  return (cs_op){.struct_size = sizeof(cs_op),
                 .id = id,
                 .n_operands = cs_op_operand_count(id),
                 .operand_stride = sizeof(cs_tensor),
                 .operands = operands,
                 .params = params};
}

/* Asks whether the device runs the op, and makes the workspace it wants. */
static cs_status admit(cs_probe *probe, const cs_op *op, cs_buffer **workspace, cs_error *error) {
  cs_tensor extents[CS_MAX_OPERANDS];
  memcpy(extents, op->operands, op->n_operands * sizeof *extents);
  for (uint32_t i = 0; i < op->n_operands; i++) {
    extents[i].memory = NULL;
    extents[i].offset_bytes = 0;
  }
  cs_op asked = *op;
  asked.operands = extents;
  cs_op_answer answer = {.struct_size = sizeof answer};
  const cs_status status = cs_device_op_query(probe->device, &asked, &answer, error);
  if (status != CS_OK) return status;
  if (answer.support == CS_SUPPORT_NO)
    return cs_error_set(error, CS_UNSUPPORTED, "%s: %s", cs_op_name(op->id), answer.reason);
  if (answer.workspace_bytes == 0) return CS_OK;
  return cs_buffer_create(probe->device, answer.workspace_bytes, CS_MEMORY_DEVICE, workspace,
                          error);
}

/* A buffer of zeros, or of `from` where that is not NULL. */
static cs_status filled_buffer(cs_probe *probe, uint64_t bytes, const void *from, cs_buffer **out,
                               cs_error *error) {
  cs_status status = cs_buffer_create(probe->device, bytes, CS_MEMORY_DEVICE, out, error);
  if (status != CS_OK) return status;
  status = from ? cs_stream_upload(probe->stream, *out, 0, from, bytes, error)
                : cs_stream_fill(probe->stream, *out, 0, bytes, 0, error);
  if (status != CS_OK) return status;
  return wait_for_all(probe, error);
}

static void destroy_buffers(cs_buffer **buffers, size_t n_buffers) {
  for (size_t i = 0; i < n_buffers; i++)
    cs_buffer_destroy(buffers[i]);
}

/* ---- matmul ---- */

typedef struct matmul_work {
  op_work list;
  cs_matmul_params params;
  cs_buffer *weights[MAX_WEIGHTS];
  cs_buffer *activations[2]; /* out, x */
} matmul_work;

static cs_status pack_weights(cs_probe *probe, const cs_probe_matmul *shape, matmul_work *work,
                              cs_error *error) {
  uint64_t row_bytes;
  cs_status status = cs_dtype_bytes(shape->dtype, shape->n_in, &row_bytes);
  if (status != CS_OK) return cs_error_set(error, status, "matmul: no such weights");
  const uint64_t n_words = row_bytes * shape->n_out / 8;
  uint64_t *source = malloc(n_words * 8 + 8);
  if (!source) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  uint64_t state = 0x9e3779b97f4a7c15;
  for (uint64_t i = 0; i <= n_words; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    source[i] = (state & 0x3333333333333333) | 0x1111111111111111;
  }
  const cs_weight_part part = {.struct_size = sizeof part,
                               .dtype = shape->dtype,
                               .data = source,
                               .bytes = row_bytes * shape->n_out};
  const cs_weight weight = {.struct_size = sizeof weight,
                            .source = CS_WEIGHT_GGUF,
                            .dtype = shape->dtype,
                            .usage = CS_USAGE_MATMUL,
                            .rank = 2,
                            .n_parts = 1,
                            .part_stride = sizeof part,
                            .dims = {shape->n_out, shape->n_in},
                            .parts = &part};
  for (uint32_t i = 0; i < shape->n_copies && status == CS_OK; i++) {
    cs_packed_info info = {.struct_size = sizeof info};
    status = cs_buffer_create_packed(probe->device, &weight, &work->weights[i], &info, error);
  }
  free(source);
  return status;
}

static cs_status set_up_matmul(cs_probe *probe, const cs_probe_matmul *shape, matmul_work *work,
                               cs_error *error) {
  const uint64_t out_dims[2] = {shape->n_rows, shape->n_out};
  const uint64_t x_dims[2] = {shape->n_rows, shape->n_in};
  const uint64_t weight_dims[2] = {shape->n_out, shape->n_in};
  work->params.struct_size = sizeof work->params;
  cs_tensor operands[5] = {tensor_of(CS_DTYPE_F32, CS_LAYOUT_PLAIN, 2, out_dims),
                           tensor_of(CS_DTYPE_F32, CS_LAYOUT_PLAIN, 2, x_dims),
                           tensor_of(shape->dtype, CS_LAYOUT_PACKED, 2, weight_dims),
                           absent_tensor(), absent_tensor()};
  const cs_op op = op_of(CS_OP_MATMUL, operands, &work->params);
  cs_status status = admit(probe, &op, &work->list.workspace, error);
  if (status == CS_OK) status = pack_weights(probe, shape, work, error);
  const uint64_t n_values[2] = {shape->n_rows * shape->n_out, shape->n_rows * shape->n_in};
  for (int i = 0; i < 2 && status == CS_OK; i++) {
    status = filled_buffer(probe, n_values[i] * sizeof(float), NULL, &work->activations[i], error);
    if (status == CS_OK) operands[i].memory = cs_buffer_memory(work->activations[i]);
  }
  if (status != CS_OK) return status;
  for (uint32_t i = 0; i < shape->n_copies; i++) {
    operands[2].memory = cs_buffer_memory(work->weights[i]);
    memcpy(work->list.operands[i], operands, sizeof operands);
    work->list.ops[i] = op_of(CS_OP_MATMUL, work->list.operands[i], &work->params);
  }
  work->list.n_ops = shape->n_copies;
  return CS_OK;
}

cs_status cs_probe_run_matmul(cs_probe *probe, const cs_probe_matmul *shape, double *seconds,
                              cs_error *error) {
  *seconds = 0;
  if (shape->n_copies == 0 || shape->n_copies > MAX_WEIGHTS)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "1 to %d copies of a weight", MAX_WEIGHTS);
  matmul_work *work = calloc(1, sizeof *work);
  if (!work) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_status status = set_up_matmul(probe, shape, work, error);
  if (status == CS_OK) status = measure(probe, enqueue_ops, &work->list, seconds, error);
  *seconds /= shape->n_copies;
  destroy_buffers(work->weights, shape->n_copies);
  destroy_buffers(work->activations, 2);
  cs_buffer_destroy(work->list.workspace);
  free(work);
  return status;
}

/* ---- attention ---- */

typedef struct attention_work {
  op_work list;
  cs_attention_params params;
  cs_buffer *buffers[7]; /* of the first seven operands */
} attention_work;

/* Operands of one sequence whose queries are all its positions; n_bytes is what each needs. */
static cs_status describe_attention(cs_probe *probe, uint32_t kv_dtype, uint32_t n_tokens,
                                    cs_tensor operands[8], uint64_t n_bytes[7], cs_error *error) {
  uint32_t layout, block_tokens;
  cs_status status = cs_device_kv_preference(probe->device, kv_dtype, ATTENTION_HEADS,
                                             ATTENTION_WIDTH, &layout, &block_tokens, error);
  if (status != CS_OK) return status;
  const uint64_t n_blocks = (n_tokens + block_tokens - 1) / block_tokens;
  if (n_blocks > ATTENTION_BLOCKS)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "attention over too many blocks");
  const uint64_t rows[3] = {n_tokens, ATTENTION_HEADS, ATTENTION_WIDTH};
  const uint64_t cache[4] = {n_blocks, block_tokens, ATTENTION_HEADS, ATTENTION_WIDTH};
  const uint64_t table[2] = {1, n_blocks}, offsets[1] = {2}, lengths[1] = {1};
  operands[0] = operands[1] = tensor_of(CS_DTYPE_F32, CS_LAYOUT_PLAIN, 3, rows);
  operands[2] = operands[3] = tensor_of(kv_dtype, layout, 4, cache);
  operands[4] = tensor_of(CS_DTYPE_I32, CS_LAYOUT_PLAIN, 2, table);
  operands[5] = tensor_of(CS_DTYPE_I32, CS_LAYOUT_PLAIN, 1, offsets);
  operands[6] = tensor_of(CS_DTYPE_I32, CS_LAYOUT_PLAIN, 1, lengths);
  operands[7] = absent_tensor();
  for (int i = 0; i < 7 && status == CS_OK; i++) {
    uint64_t n_elements = 1;
    for (uint32_t d = 0; d < operands[i].rank; d++)
      n_elements *= operands[i].dims[d];
    status = cs_dtype_bytes(operands[i].dtype, n_elements, &n_bytes[i]);
  }
  return status == CS_OK ? CS_OK : cs_error_set(error, status, "attention: no such cache");
}

static cs_status set_up_attention(cs_probe *probe, uint32_t kv_dtype, uint32_t n_tokens,
                                  attention_work *work, cs_error *error) {
  cs_tensor *operands = work->list.operands[0];
  uint64_t n_bytes[7];
  cs_status status = describe_attention(probe, kv_dtype, n_tokens, operands, n_bytes, error);
  if (status != CS_OK) return status;
  work->params = (cs_attention_params){.struct_size = sizeof work->params, .scale = 0.125f};
  work->list.ops[0] = op_of(CS_OP_ATTENTION_PAGED, operands, &work->params);
  work->list.n_ops = 1;
  status = admit(probe, &work->list.ops[0], &work->list.workspace, error);
  int32_t table[ATTENTION_BLOCKS];
  for (int32_t i = 0; i < ATTENTION_BLOCKS; i++)
    table[i] = i;
  const int32_t offsets[2] = {0, (int32_t)n_tokens}, lengths[1] = {(int32_t)n_tokens};
  const void *contents[7] = {NULL, NULL, NULL, NULL, table, offsets, lengths};
  for (int i = 0; i < 7 && status == CS_OK; i++) {
    status = filled_buffer(probe, n_bytes[i], contents[i], &work->buffers[i], error);
    if (status == CS_OK) operands[i].memory = cs_buffer_memory(work->buffers[i]);
  }
  return status;
}

cs_status cs_probe_run_attention(cs_probe *probe, uint32_t kv_dtype, uint32_t n_tokens,
                                 double *flop_per_s, cs_error *error) {
  *flop_per_s = 0;
  attention_work *work = calloc(1, sizeof *work);
  if (!work) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  double seconds;
  cs_status status = set_up_attention(probe, kv_dtype, n_tokens, work, error);
  if (status == CS_OK) status = measure(probe, enqueue_ops, &work->list, &seconds, error);
  if (status == CS_OK) {
    const double n_pairs = 0.5 * n_tokens * (n_tokens + 1.0);
    *flop_per_s = 4 * n_pairs * ATTENTION_HEADS * ATTENTION_WIDTH / seconds;
  }
  destroy_buffers(work->buffers, 7);
  cs_buffer_destroy(work->list.workspace);
  free(work);
  return status;
}

/* ---- launch cost ---- */

cs_status cs_probe_run_launch(cs_probe *probe, double *op_us, double *step_us, cs_error *error) {
  const uint64_t dims[2] = {1, 64};
  op_work *list = calloc(1, sizeof *list);
  if (!list) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_buffer *buffers[3] = {NULL};
  cs_status status = CS_OK;
  for (int i = 0; i < 3 && status == CS_OK; i++)
    status = filled_buffer(probe, dims[1] * sizeof(float), NULL, &buffers[i], error);
  for (uint32_t i = 0; i < SMALL_OPS && status == CS_OK; i++) {
    for (int j = 0; j < 3; j++) {
      list->operands[i][j] = tensor_of(CS_DTYPE_F32, CS_LAYOUT_PLAIN, 2, dims);
      list->operands[i][j].memory = cs_buffer_memory(buffers[j]);
    }
    list->ops[i] = op_of(CS_OP_ADD, list->operands[i], NULL);
  }
  double one = 0, many = 0;
  if (status == CS_OK) status = admit(probe, &list->ops[0], &list->workspace, error);
  list->n_ops = 1;
  if (status == CS_OK) status = measure(probe, enqueue_ops, list, &one, error);
  list->n_ops = SMALL_OPS;
  if (status == CS_OK) status = measure(probe, enqueue_ops, list, &many, error);
  *step_us = one * 1e6;
  *op_us = many > one ? (many - one) * 1e6 / (SMALL_OPS - 1) : 0;
  destroy_buffers(buffers, 3);
  cs_buffer_destroy(list->workspace);
  free(list);
  return status;
}

/* ---- copies ---- */

typedef struct copy_work {
  cs_buffer *from; /* NULL: the host's */
  cs_buffer *to;   /* likewise */
  void *host;
  uint64_t bytes;
} copy_work;

static cs_status enqueue_copy(cs_probe *probe, void *work, cs_error *error) {
  copy_work *copy = work;
  if (!copy->from)
    return cs_stream_upload(probe->stream, copy->to, 0, copy->host, copy->bytes, error);
  if (!copy->to)
    return cs_stream_download(probe->stream, copy->host, copy->from, 0, copy->bytes, error);
  return cs_stream_copy(probe->stream, copy->to, 0, copy->from, 0, copy->bytes, error);
}

cs_status cs_probe_run_link(cs_probe *probe, cs_probe_link *out, cs_error *error) {
  *out = (cs_probe_link){0};
  void *host = calloc(1, LINK_BYTES);
  if (!host) return cs_error_set(error, CS_OUT_OF_MEMORY, "out of memory");
  cs_buffer *buffer = NULL;
  double up = 1, down = 1, few = 1;
  cs_status status = filled_buffer(probe, LINK_BYTES, NULL, &buffer, error);
  copy_work upload = {.to = buffer, .host = host, .bytes = LINK_BYTES};
  copy_work download = {.from = buffer, .host = host, .bytes = LINK_BYTES};
  if (status == CS_OK) status = measure(probe, enqueue_copy, &upload, &up, error);
  if (status == CS_OK) status = measure(probe, enqueue_copy, &download, &down, error);
  download.bytes = 64;
  if (status == CS_OK) status = measure(probe, enqueue_copy, &download, &few, error);
  if (status == CS_OK)
    *out = (cs_probe_link){.upload_bytes_per_s = (double)LINK_BYTES / up,
                           .download_bytes_per_s = (double)LINK_BYTES / down,
                           .latency_us = few * 1e6};
  cs_buffer_destroy(buffer);
  free(host);
  return status;
}

cs_status cs_probe_run_copy(cs_probe *probe, uint64_t bytes, double *bytes_per_s, cs_error *error) {
  *bytes_per_s = 0;
  copy_work copy = {.bytes = bytes};
  double seconds;
  cs_status status = filled_buffer(probe, bytes, NULL, &copy.from, error);
  if (status == CS_OK) status = filled_buffer(probe, bytes, NULL, &copy.to, error);
  if (status == CS_OK) status = measure(probe, enqueue_copy, &copy, &seconds, error);
  if (status == CS_OK) *bytes_per_s = 2 * (double)bytes / seconds;
  cs_buffer_destroy(copy.from);
  cs_buffer_destroy(copy.to);
  return status;
}
