/* A plugin for the tests of core: two devices in host memory, a handful of float32 ops, and faults
 * on demand. Faults of a start are chosen when it is compiled (FAKE_FAULT), faults of a run by
 * device options:
 *   deny=NAME+NAME  op_query says no          fail_op=N   the Nth op fails
 *   lost_op=N       the Nth op loses the device   refuse_op=N the Nth enqueue is refused at once
 *   delay_us=N      every op takes that long      staging=0   the host cannot reach its memory
 *   hang_op=N, hang_fd=F   the Nth op hangs       fill_fd=F   the call that enqueues a fill hangs
 * What hangs says a byte on the socket F and goes on when one comes back. */
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "consort/plugin.h"
#include "consort/sdk.h"

#define FAKE_NONE          0
#define FAKE_ABI_HUGE      1
#define FAKE_QUERY_REFUSES 2
#define FAKE_NO_STREAMS    3
#define FAKE_NULL_ENTRY    4
#define FAKE_UNKNOWN_TAIL  5
#define FAKE_ZERO_TAIL     6
#define FAKE_CRASH_QUERY   7
#define FAKE_CRASH_START   8
#define FAKE_NO_DRIVER     9
#define FAKE_NO_DEVICES    10
#define FAKE_OTHER_NAME    11
#define FAKE_BAD_ALIGN     12
#define FAKE_NO_EXECUTION  13
#define FAKE_SILENT        14
#define FAKE_ABORT_QUERY   15
#define FAKE_EXIT_START    16
#define FAKE_HANG_START    17
#define FAKE_CRASH_END     18

#ifndef FAKE_FAULT
#define FAKE_FAULT FAKE_NONE
#endif
#ifndef FAKE_EAGER
#define FAKE_EAGER 1
#endif
#ifndef FAKE_PROGRAM
#define FAKE_PROGRAM 0
#endif

#define N_DEVICES 2

struct cs_plugin_instance {
  const cs_host *host;
};

struct cs_plugin_device {
  const cs_host *host;
  uint32_t index;
  char deny[64];
  uint64_t fail_op, lost_op, hang_op, hang_fd, delay_us, refuse_op, fill_fd;
  bool staging;
  atomic_ullong n_ops;      /* run so far */
  atomic_ullong n_enqueued; /* calls so far */
};

struct cs_plugin_memory {
  uint64_t bytes;
  _Alignas(256) unsigned char data[];
};

struct cs_plugin_stream {
  cs_plugin_device *device;
  cs_sdk_queue *queue;
};

struct cs_plugin_program {
  cs_sdk_ops *ops;
};

/* ---- instance and device ---- */

static cs_status instance_create(const cs_host *host, cs_plugin_instance **out, cs_error *error) {
  *out = NULL;
  if (FAKE_FAULT == FAKE_CRASH_START) raise(SIGSEGV);
  if (FAKE_FAULT == FAKE_EXIT_START) exit(3);
  if (FAKE_FAULT == FAKE_HANG_START) pause();
  if (FAKE_FAULT == FAKE_SILENT) return CS_FAILED;
  if (FAKE_FAULT == FAKE_NO_DRIVER) {
    return cs_sdk_error(error, CS_NOT_FOUND, 0, "no driver\nfor a fake");
  }
  cs_plugin_instance *instance = host->allocate(host->context, sizeof *instance, 16);
  if (!instance) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory");
  instance->host = host;
  *out = instance;
  return CS_OK;
}

static void instance_destroy(cs_plugin_instance *instance) {
  if (FAKE_FAULT == FAKE_CRASH_END) raise(SIGSEGV);
  instance->host->deallocate(instance->host->context, instance);
}

static uint32_t device_count(cs_plugin_instance *instance) {
  (void)instance;
  return FAKE_FAULT == FAKE_NO_DEVICES ? 0 : N_DEVICES;
}

static cs_status device_info(cs_plugin_instance *instance, uint32_t index,
                             cs_device_properties *out, cs_error *error) {
  (void)instance;
  (void)error;
  cs_device_properties p = {.struct_size = sizeof p,
                            .type = CS_DEVICE_TYPE_ACCELERATOR,
                            .flags = CS_DEVICE_HOST_RESIDENT | CS_DEVICE_SOFTWARE,
                            .tensor_align = FAKE_FAULT == FAKE_BAD_ALIGN ? 3 : 64,
                            .memory_bytes = 1u << 30,
                            .memory_domain = "host",
                            .compute_domain = "host",
                            .description = "fake",
                            .driver = "fake 1",
                            .dtypes = CS_DTYPE_BIT(CS_DTYPE_F32),
                            .kv_dtypes = CS_DTYPE_BIT(CS_DTYPE_F32),
                            .kv_layouts = CS_LAYOUT_BIT(CS_LAYOUT_KV_TOKEN_MAJOR),
                            .kv_layout = CS_LAYOUT_KV_TOKEN_MAJOR,
                            .kv_block_tokens_min = 8,
                            .kv_block_tokens_max = 64,
                            .activation_dtype = CS_DTYPE_F32,
                            .concurrency = 1};
  strcpy(p.uuid, index == 0 ? "FAKE-0000-aa" : "FAKE-0001-bb");
  cs_sdk_struct_write(out, &p, sizeof p);
  return CS_OK;
}

static uint64_t *number_option(cs_plugin_device *device, const char *key) {
  if (strcmp(key, "fail_op") == 0) return &device->fail_op;
  if (strcmp(key, "lost_op") == 0) return &device->lost_op;
  if (strcmp(key, "hang_op") == 0) return &device->hang_op;
  if (strcmp(key, "hang_fd") == 0) return &device->hang_fd;
  if (strcmp(key, "delay_us") == 0) return &device->delay_us;
  if (strcmp(key, "refuse_op") == 0) return &device->refuse_op;
  if (strcmp(key, "fill_fd") == 0) return &device->fill_fd;
  return NULL;
}

static cs_status device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                             uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                             cs_error *error) {
  *out = NULL;
  cs_plugin_device *device = calloc(1, sizeof *device);
  if (!device) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory");
  device->host = instance->host;
  device->index = index;
  device->staging = true;
  for (uint32_t i = 0; i < n_options; i++) {
    const cs_option *option =
        (const cs_option *)((const char *)options + (size_t)i * option_stride);
    uint64_t *number = number_option(device, option->key);
    if (number) {
      *number = strtoull(option->value, NULL, 10);
    } else if (strcmp(option->key, "deny") == 0 && strlen(option->value) < sizeof device->deny) {
      strcpy(device->deny, option->value);
    } else if (strcmp(option->key, "staging") == 0) {
      device->staging = strcmp(option->value, "0") != 0;
    } else {
      free(device);
      return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "unknown option %s", option->key);
    }
  }
  *out = device;
  return CS_OK;
}

static void device_close(cs_plugin_device *device) {
  free(device);
}

static cs_status device_properties(cs_plugin_device *device, cs_device_properties *out,
                                   cs_error *error) {
  return device_info(NULL, device->index, out, error);
}

/* ---- memory ---- */

static cs_status memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                 cs_plugin_memory **out, cs_error *error) {
  *out = NULL;
  if (kind == CS_MEMORY_STAGING && !device->staging) {
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "no staging memory");
  }
  if (bytes > UINT64_C(1) << 32) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "too much");
  const cs_host *host = device->host;
  cs_plugin_memory *memory = host->allocate(host->context, sizeof *memory + bytes, 256);
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory");
  memory->bytes = bytes;
  memset(memory->data, 0xcd, bytes);
  *out = memory;
  return CS_OK;
}

static void memory_free(cs_plugin_device *device, cs_plugin_memory *memory) {
  device->host->deallocate(device->host->context, memory);
}

static void *memory_host_pointer(cs_plugin_device *device, cs_plugin_memory *memory) {
  return device->staging ? memory->data : NULL;
}

/* ---- ops ---- */

static float *rows_of(const cs_tensor *t, uint64_t row) {
  return (float *)(t->memory->data + t->offset_bytes + row * cs_sdk_tensor_stride(t));
}

static void run_op(const cs_op *op) {
  const cs_tensor *out = &op->operands[0];
  const uint64_t n_rows = cs_sdk_tensor_rows(out), n_columns = cs_sdk_tensor_columns(out);
  for (uint64_t row = 0; row < n_rows; row++) {
    float *to = rows_of(out, row);
    const float *a = rows_of(&op->operands[1], row);
    if (op->id == CS_OP_COPY) {
      memmove(to, a, n_columns * sizeof *to);
      continue;
    }
    const float *b = rows_of(&op->operands[2], row);
    for (uint64_t i = 0; i < n_columns; i++)
      to[i] = op->id == CS_OP_ADD ? a[i] + b[i] : a[i] * b[i];
  }
}

static void sleep_us(uint64_t us) {
  const struct timespec time = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
  nanosleep(&time, NULL);
}

static void hang(uint64_t socket) {
  char byte = 0;
  if (write((int)socket, &byte, 1) == 1) (void)!read((int)socket, &byte, 1);
}

typedef struct ops_payload {
  cs_sdk_ops *ops;
} ops_payload;

static cs_status run_ops(void *context, void *payload, cs_error *error) {
  cs_plugin_device *device = ((cs_plugin_stream *)context)->device;
  const cs_sdk_ops *ops = ((ops_payload *)payload)->ops;
  for (uint32_t i = 0; i < ops->n_ops; i++) {
    const uint64_t number = atomic_fetch_add(&device->n_ops, 1) + 1;
    if (device->delay_us) sleep_us(device->delay_us);
    if (number == device->hang_op) hang(device->hang_fd);
    if (number == device->fail_op || number == device->lost_op) {
      const cs_status code = number == device->lost_op ? CS_DEVICE_LOST : CS_FAILED;
      cs_sdk_error(error, code, 42, "injected");
      if (error) error->op_index = (int32_t)i;
      return code;
    }
    run_op(&ops->ops[i]);
  }
  return CS_OK;
}

static cs_status op_query(cs_plugin_device *device, const cs_op *op, cs_op_answer *out,
                          cs_error *error) {
  (void)error;
  cs_op_answer answer = {.struct_size = sizeof answer,
                         .support = CS_SUPPORT_NATIVE,
                         .error_class = CS_ERROR_F32,
                         .workspace_bytes = op->id == CS_OP_ADD ? 512 : 0};
  char name[32] = "+";
  char denied[72] = "+";
  strcat(strcat(name, cs_sdk_op_name(op->id)), "+");
  strcat(strcat(denied, device->deny), "+");
  if (strstr(denied, name)) {
    answer.support = CS_SUPPORT_NO;
    strcpy(answer.reason, "denied by option");
  }
  cs_sdk_struct_write(out, &answer, sizeof answer);
  return CS_OK;
}

static cs_status weights_pack(cs_plugin_device *device, const cs_weight *weight,
                              cs_plugin_memory **out, cs_packed_info *info, cs_error *error) {
  const cs_status status =
      memory_allocate(device, weight->parts[0].bytes, CS_MEMORY_DEVICE, out, error);
  if (status != CS_OK) return status;
  memcpy((*out)->data, weight->parts[0].data, weight->parts[0].bytes);
  const cs_packed_info packed = {.struct_size = sizeof packed, .bytes = weight->parts[0].bytes};
  cs_sdk_struct_write(info, &packed, sizeof packed);
  return CS_OK;
}

/* ---- stream ---- */

typedef struct move_payload {
  void *to;
  const void *from;
  uint64_t bytes;
  uint32_t value;
} move_payload;

static cs_status run_move(void *context, void *payload, cs_error *error) {
  (void)context;
  (void)error;
  const move_payload *move = payload;
  if (move->from) {
    memcpy(move->to, move->from, move->bytes);
  } else {
    memset(move->to, (int)move->value, move->bytes);
  }
  return CS_OK;
}

static void release_payload(void *context, cs_sdk_command command, void *payload) {
  (void)context;
  if (command == run_ops) cs_sdk_ops_release(((ops_payload *)payload)->ops);
}

static void finish_stream(void *context) {
  free(context);
}

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  *out = NULL;
  cs_plugin_stream *stream = calloc(1, sizeof *stream);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory");
  stream->device = device;
  stream->queue = cs_sdk_queue_create(
      device->host, &(cs_sdk_queue_options){
                        .context = stream, .release = release_payload, .finish = finish_stream});
  if (!stream->queue) {
    free(stream);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no queue");
  }
  *out = stream;
  return CS_OK;
}

static void stream_destroy(cs_plugin_stream *stream) {
  cs_sdk_queue_destroy(stream->queue);
}

static cs_status push_move(cs_plugin_stream *stream, const move_payload *move, cs_error *error) {
  return cs_sdk_queue_push(stream->queue, run_move, move, sizeof *move, error);
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  return push_move(stream, &(move_payload){to->data + to_offset, from, bytes, 0}, error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  return push_move(stream, &(move_payload){to, from->data + from_offset, bytes, 0}, error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  return push_move(
      stream, &(move_payload){to->data + to_offset, from->data + from_offset, bytes, 0}, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  if (stream->device->fill_fd) hang(stream->device->fill_fd);
  return push_move(stream, &(move_payload){to->data + offset, NULL, bytes, value}, error);
}

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  return cs_sdk_queue_wait(stream->queue, (cs_sdk_timeline *)semaphore, value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  return cs_sdk_queue_signal(stream->queue, (cs_sdk_timeline *)semaphore, value, error);
}

static cs_status push_ops(cs_plugin_stream *stream, cs_sdk_ops *ops, cs_error *error) {
  const uint64_t number = atomic_fetch_add(&stream->device->n_enqueued, 1) + 1;
  cs_status status = CS_OK;
  if (number == stream->device->refuse_op) {
    status = cs_sdk_error(error, CS_FAILED, 7, "refused");
    if (error) error->op_index = 0;
  }
  if (status == CS_OK) {
    status =
        cs_sdk_queue_push(stream->queue, run_ops, &(ops_payload){ops}, sizeof(ops_payload), error);
  }
  if (status != CS_OK) cs_sdk_ops_release(ops);
  return status;
}

static cs_status ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  (void)workspace;
  cs_sdk_ops *copy = NULL;
  const cs_status status =
      cs_sdk_ops_create(stream->device->host, ops, n_ops, op_stride, &copy, error);
  return status == CS_OK ? push_ops(stream, copy, error) : status;
}

/* ---- program ---- */

static cs_status program_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                                uint32_t op_stride, cs_plugin_memory *workspace,
                                cs_plugin_program **out, cs_error *error) {
  (void)workspace;
  *out = NULL;
  cs_plugin_program *program = calloc(1, sizeof *program);
  if (!program) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory");
  const cs_status status =
      cs_sdk_ops_create(device->host, ops, n_ops, op_stride, &program->ops, error);
  if (status != CS_OK) {
    free(program);
    return status;
  }
  *out = program;
  return CS_OK;
}

static void program_destroy(cs_plugin_program *program) {
  cs_sdk_ops_release(program->ops);
  free(program);
}

static cs_status program_launch(cs_plugin_stream *stream, cs_plugin_program *program,
                                cs_error *error) {
  cs_sdk_ops_retain(program->ops);
  return push_ops(stream, program->ops, error);
}

/* ---- semaphore ---- */

static cs_status semaphore_create(cs_plugin_device *device, uint64_t initial,
                                  cs_plugin_semaphore **out, cs_error *error) {
  *out = (cs_plugin_semaphore *)cs_sdk_timeline_create(device->host, initial);
  return *out ? CS_OK : cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory");
}

static void semaphore_destroy(cs_plugin_semaphore *semaphore) {
  cs_sdk_timeline_destroy((cs_sdk_timeline *)semaphore);
}

static cs_status semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error) {
  return cs_sdk_timeline_query((cs_sdk_timeline *)semaphore, value, error);
}

static cs_status semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                                cs_error *error) {
  return cs_sdk_timeline_wait((cs_sdk_timeline *)semaphore, value, timeout_us, error);
}

static cs_status semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error) {
  (void)error;
  return cs_sdk_timeline_signal((cs_sdk_timeline *)semaphore, value);
}

static cs_status semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                cs_error *error) {
  (void)error;
  return cs_sdk_timeline_fail((cs_sdk_timeline *)semaphore, reason);
}

/* ---- tables ---- */

static const cs_device_table device_table = {
    .struct_size = sizeof device_table,
    .instance_create = instance_create,
    .instance_destroy = instance_destroy,
    .device_count = device_count,
    .device_info = device_info,
    .device_open = device_open,
    .device_close = device_close,
    .device_properties = device_properties,
};

static const cs_memory_table memory_table = {
    .struct_size = sizeof memory_table,
    .memory_allocate = memory_allocate,
    .memory_free = memory_free,
    .memory_host_pointer = memory_host_pointer,
};

static const cs_stream_table stream_table = {
    .struct_size = sizeof stream_table,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_upload = stream_upload,
    .stream_download = stream_download,
    .stream_copy = stream_copy,
    .stream_fill = FAKE_FAULT == FAKE_NULL_ENTRY ? NULL : stream_fill,
    .stream_wait = stream_wait,
    .stream_signal = stream_signal,
};

static const cs_semaphore_table semaphore_table = {
    .struct_size = sizeof semaphore_table,
    .semaphore_create = semaphore_create,
    .semaphore_destroy = semaphore_destroy,
    .semaphore_query = semaphore_query,
    .semaphore_wait = semaphore_wait,
    .semaphore_signal = semaphore_signal,
    .semaphore_fail = semaphore_fail,
};

/* A newer plugin: one entry more than this ABI has, set or not. */
static const struct newer_capability_table {
  cs_capability_table known;
  void (*added)(void);
} capability_table = {
    .known = {.struct_size = FAKE_FAULT == FAKE_UNKNOWN_TAIL || FAKE_FAULT == FAKE_ZERO_TAIL
                                 ? sizeof capability_table
                                 : sizeof capability_table.known,
              .op_query = op_query,
              .weights_pack = weights_pack},
    .added = FAKE_FAULT == FAKE_UNKNOWN_TAIL ? abort : NULL,
};

static const cs_eager_table eager_table = {
    .struct_size = sizeof eager_table,
    .ops_enqueue = ops_enqueue,
};

static const cs_program_table program_table = {
    .struct_size = sizeof program_table,
    .program_create = program_create,
    .program_destroy = program_destroy,
    .program_launch = program_launch,
};

static const void *find_table(uint32_t id, uint32_t revision) {
  if (revision != 0) return NULL;
  switch (id) {
  case CS_TABLE_DEVICE:
    return &device_table;
  case CS_TABLE_MEMORY:
    return &memory_table;
  case CS_TABLE_STREAM:
    return FAKE_FAULT == FAKE_NO_STREAMS ? NULL : &stream_table;
  case CS_TABLE_SEMAPHORE:
    return &semaphore_table;
  case CS_TABLE_CAPABILITY:
    return &capability_table;
  case CS_TABLE_EAGER:
    return FAKE_EAGER && FAKE_FAULT != FAKE_NO_EXECUTION ? &eager_table : NULL;
  case CS_TABLE_PROGRAM:
    return FAKE_PROGRAM ? &program_table : NULL;
  default:
    return NULL;
  }
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  if (FAKE_FAULT == FAKE_CRASH_QUERY) raise(SIGSEGV);
  if (FAKE_FAULT == FAKE_ABORT_QUERY) abort();
  if (FAKE_FAULT == FAKE_QUERY_REFUSES) return CS_UNSUPPORTED;
  const char *name = FAKE_FAULT == FAKE_OTHER_NAME ? "somebody-else" : FAKE_NAME;
  const cs_status status = cs_sdk_query(host, plugin, name, "1.0", "tests", find_table);
  if (FAKE_FAULT == FAKE_ABI_HUGE) plugin->abi_version = 4000000000u;
  return status;
}
