/* The required tables, as small as they can be: the SDK's queue and timeline, memory that can be
 * shared, add and matmul in f32. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tables.h"

#define N_DEVICES    2
#define MEMORY_BYTES (UINT64_C(1) << 32)

struct cs_plugin_instance {
  const cs_host *host;
};

/* ---- device ---- */

static cs_status instance_create(const cs_host *host, cs_plugin_instance **out, cs_error *error) {
  *out = host->allocate(host->context, sizeof **out, 8);
  if (!*out) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  (*out)->host = host;
  return CS_OK;
}

static void instance_destroy(cs_plugin_instance *instance) {
  if (instance) instance->host->deallocate(instance->host->context, instance);
}

static uint32_t device_count(cs_plugin_instance *instance) {
  (void)instance;
  return N_DEVICES;
}

static const cs_device_properties device_properties_all = {
    .struct_size = sizeof(cs_device_properties),
    .type = CS_DEVICE_TYPE_ACCELERATOR,
    .flags = CS_DEVICE_SOFTWARE,
    .tensor_align = 64,
    .memory_bytes = MEMORY_BYTES,
    .memory_domain = "host",
    .description = "every optional table",
    .driver = "tables 1",
    .dtypes = CS_DTYPE_BIT(CS_DTYPE_F32),
    .activation_dtype = CS_DTYPE_F32,
    .concurrency = 1,
};

static cs_status device_info(cs_plugin_instance *instance, uint32_t index,
                             cs_device_properties *out, cs_error *error) {
  (void)instance;
  if (index >= N_DEVICES) return cs_sdk_error(error, CS_NOT_FOUND, 0, "there are two devices");
  cs_sdk_struct_write(out, &device_properties_all, sizeof device_properties_all);
  return CS_OK;
}

static cs_status device_properties(cs_plugin_device *device, cs_device_properties *out,
                                   cs_error *error) {
  (void)device;
  (void)error;
  cs_sdk_struct_write(out, &device_properties_all, sizeof device_properties_all);
  return CS_OK;
}

static cs_status device_open(cs_plugin_instance *instance, uint32_t index, const cs_option *options,
                             uint32_t n_options, uint32_t option_stride, cs_plugin_device **out,
                             cs_error *error) {
  const char *broken = "";
  *out = NULL;
  if (index >= N_DEVICES) return cs_sdk_error(error, CS_NOT_FOUND, 0, "there are two devices");
  for (uint32_t i = 0; i < n_options; i++) {
    const cs_option *option = (const void *)((const char *)options + (size_t)i * option_stride);
    if (strcmp(option->key, "break") != 0 || strlen(option->value) >= sizeof(*out)->broken)
      return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "unknown option '%.64s'", option->key);
    broken = option->value;
  }
  *out = instance->host->allocate(instance->host->context, sizeof **out, 8);
  if (!*out) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  (*out)->host = instance->host;
  memset((*out)->broken, 0, sizeof(*out)->broken);
  memcpy((*out)->broken, broken, strlen(broken));
  return CS_OK;
}

static void device_close(cs_plugin_device *device) {
  if (device) device->host->deallocate(device->host->context, device);
}

bool tables_break(const cs_plugin_device *device, const char *name) {
  return strcmp(device->broken, name) == 0;
}

/* ---- memory ---- */

cs_status tables_wrap(cs_plugin_device *device, void *data, uint64_t bytes, int fd,
                      cs_plugin_memory **out, cs_error *error) {
  *out = device->host->allocate(device->host->context, sizeof **out, 8);
  if (!*out) {
    if (fd >= 0) munmap(data, bytes);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  }
  **out = (cs_plugin_memory){.data = data, .bytes = bytes, .fd = fd};
  return CS_OK;
}

cs_status tables_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                          cs_plugin_memory **out, cs_error *error) {
  void *data = MAP_FAILED;
  (void)kind;
  *out = NULL;
  const int fd = bytes <= MEMORY_BYTES ? memfd_create("consort-tables", MFD_CLOEXEC) : -1;
  if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0)
    data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  cs_status status = CS_OUT_OF_MEMORY;
  if (data == MAP_FAILED)
    cs_sdk_error(error, status, 0, "no memory for %llu bytes", (unsigned long long)bytes);
  else
    status = tables_wrap(device, data, bytes, fd, out, error);
  if (status != CS_OK && fd >= 0) close(fd);
  return status;
}

static void memory_free(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (!memory) return;
  if (memory->fd >= 0) {
    munmap(memory->data, memory->bytes);
    close(memory->fd);
  }
  device->host->deallocate(device->host->context, memory);
}

static void *memory_host_pointer(cs_plugin_device *device, cs_plugin_memory *memory) {
  (void)device;
  return memory->data;
}

/* ---- stream ---- */

typedef struct copy_command {
  unsigned char *to;
  const unsigned char *from; /* NULL: fill */
  uint64_t bytes;
  unsigned char value;
} copy_command;

static cs_status run_copy(void *context, void *payload, cs_error *error) {
  (void)context;
  (void)error;
  const copy_command *copy = payload;
  if (copy->from)
    memcpy(copy->to, copy->from, copy->bytes);
  else
    memset(copy->to, copy->value, copy->bytes);
  return CS_OK;
}

cs_status tables_copy(cs_plugin_stream *stream, void *to, const void *from, uint64_t bytes,
                      cs_error *error) {
  const copy_command copy = {.to = to, .from = from, .bytes = bytes};
  return cs_sdk_queue_push(stream->queue, run_copy, &copy, sizeof copy, error);
}

static void run_op(const cs_op *op) {
  const cs_tensor *out = &op->operands[0], *a = &op->operands[1], *b = &op->operands[2];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  const uint64_t n_in = cs_sdk_tensor_columns(a);
  const bool is_add = op->id == CS_OP_ADD;
  const unsigned char *from_b =
      b->memory->data + b->offset_bytes + (is_add ? 0 : TABLES_HEAD_BYTES);
  for (uint64_t i = 0; i < n; i++) {
    float *y =
        (float *)(void *)(out->memory->data + out->offset_bytes + i * cs_sdk_tensor_stride(out));
    const float *x = (const float *)(const void *)(a->memory->data + a->offset_bytes +
                                                   i * cs_sdk_tensor_stride(a));
    for (uint64_t j = 0; j < d; j++) {
      const uint64_t row = is_add ? i * cs_sdk_tensor_stride(b) + j * 4 : j * n_in * 4;
      const float *w = (const float *)(const void *)(from_b + row);
      double sum = is_add ? (double)x[j] + (double)w[0] : 0;
      for (uint64_t c = 0; !is_add && c < n_in; c++)
        sum += (double)x[c] * (double)w[c];
      y[j] = (float)sum;
    }
  }
}

static cs_status run_ops(void *context, void *payload, cs_error *error) {
  (void)error;
  const cs_sdk_ops *ops = *(cs_sdk_ops **)payload;
  for (uint32_t i = 0; i < ops->n_ops; i++) {
    const uint64_t begin_ns = tables_now_ns();
    run_op(&ops->ops[i]);
    tables_note_op(context, ops->ops[i].id, begin_ns, tables_now_ns());
  }
  return CS_OK;
}

static void release_payload(void *context, cs_sdk_command command, void *payload) {
  (void)context;
  if (command == run_ops) cs_sdk_ops_release(*(cs_sdk_ops **)payload);
}

static cs_status stream_create(cs_plugin_device *device, cs_plugin_stream **out, cs_error *error) {
  const cs_host *host = device->host;
  *out = NULL;
  cs_plugin_stream *stream = host->allocate(host->context, sizeof *stream, 16);
  if (!stream) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream");
  memset(stream, 0, sizeof *stream);
  stream->device = device;
  pthread_mutex_init(&stream->profile.mutex, NULL);
  const cs_sdk_queue_options options = {.context = stream, .release = release_payload};
  stream->queue = cs_sdk_queue_create(host, &options);
  if (!stream->queue) {
    host->deallocate(host->context, stream);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a stream's thread");
  }
  *out = stream;
  return CS_OK;
}

static void stream_destroy(cs_plugin_stream *stream) {
  if (!stream) return;
  cs_sdk_queue_destroy(stream->queue);
  pthread_mutex_destroy(&stream->profile.mutex);
  stream->device->host->deallocate(stream->device->host->context, stream);
}

static cs_status stream_upload(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                               const void *from, uint64_t bytes, cs_error *error) {
  return tables_copy(stream, to->data + to_offset, from, bytes, error);
}

static cs_status stream_download(cs_plugin_stream *stream, void *to, const cs_plugin_memory *from,
                                 uint64_t from_offset, uint64_t bytes, cs_error *error) {
  return tables_copy(stream, to, from->data + from_offset, bytes, error);
}

static cs_status stream_copy(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t to_offset,
                             const cs_plugin_memory *from, uint64_t from_offset, uint64_t bytes,
                             cs_error *error) {
  return tables_copy(stream, to->data + to_offset, from->data + from_offset, bytes, error);
}

static cs_status stream_fill(cs_plugin_stream *stream, cs_plugin_memory *to, uint64_t offset,
                             uint64_t bytes, uint32_t value, cs_error *error) {
  const copy_command fill = {
      .to = to->data + offset, .bytes = bytes, .value = (unsigned char)value};
  return cs_sdk_queue_push(stream->queue, run_copy, &fill, sizeof fill, error);
}

/* ---- semaphore ---- */

static cs_sdk_timeline *timeline_of(cs_plugin_semaphore *semaphore) {
  return (cs_sdk_timeline *)(void *)semaphore;
}

static cs_status stream_wait(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                             uint64_t value, cs_error *error) {
  return cs_sdk_queue_wait(stream->queue, timeline_of(semaphore), value, error);
}

static cs_status stream_signal(cs_plugin_stream *stream, cs_plugin_semaphore *semaphore,
                               uint64_t value, cs_error *error) {
  return cs_sdk_queue_signal(stream->queue, timeline_of(semaphore), value, error);
}

static cs_status semaphore_create(cs_plugin_device *device, uint64_t initial,
                                  cs_plugin_semaphore **out, cs_error *error) {
  *out = (cs_plugin_semaphore *)(void *)cs_sdk_timeline_create(device->host, initial);
  return *out ? CS_OK : cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
}

static void semaphore_destroy(cs_plugin_semaphore *semaphore) {
  cs_sdk_timeline_destroy(timeline_of(semaphore));
}

static cs_status semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error) {
  return cs_sdk_timeline_query(timeline_of(semaphore), value, error);
}

static cs_status semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                                cs_error *error) {
  return cs_sdk_timeline_wait(timeline_of(semaphore), value, timeout_us, error);
}

static cs_status semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error) {
  (void)error;
  return cs_sdk_timeline_signal(timeline_of(semaphore), value);
}

static cs_status semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                cs_error *error) {
  (void)error;
  return cs_sdk_timeline_fail(timeline_of(semaphore), reason);
}

/* ---- ops ---- */

static bool serves(const cs_op *op) {
  const uint32_t n_read = op->id == CS_OP_ADD ? 3 : op->id == CS_OP_MATMUL ? op->n_operands : 0;
  for (uint32_t i = 0; i < n_read; i++)
    if (op->operands[i].dtype != (i < 3 ? CS_DTYPE_F32 : CS_DTYPE_NONE)) return false;
  if (op->id != CS_OP_MATMUL) return n_read > 0;
  const cs_matmul_params *params = op->params;
  return op->operands[2].layout == CS_LAYOUT_PACKED && params->soft_cap == 0;
}

static cs_status op_query(cs_plugin_device *device, const cs_op *op, cs_op_answer *out,
                          cs_error *error) {
  (void)device;
  (void)error;
  cs_op_answer answer = {.struct_size = sizeof answer, .reason = "not among its ops"};
  if (serves(op)) {
    answer.support = CS_SUPPORT_NATIVE;
    answer.error_class = CS_ERROR_F32;
    answer.reason[0] = '\0';
  }
  cs_sdk_struct_write(out, &answer, sizeof answer);
  return CS_OK;
}

uint64_t tables_packed_bytes(const cs_weight *weight) {
  return TABLES_HEAD_BYTES + cs_sdk_dtype_bytes(CS_DTYPE_F32, weight->dims[0] * weight->dims[1]);
}

static cs_status weights_pack(cs_plugin_device *device, const cs_weight *weight,
                              cs_plugin_memory **out, cs_packed_info *info, cs_error *error) {
  *out = NULL;
  if (weight->dtype != CS_DTYPE_F32 || weight->rank != 2)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "only f32 weights of rank 2");
  const cs_packed_info packed = {.struct_size = sizeof packed,
                                 .bytes = tables_packed_bytes(weight),
                                 .layout_id = TABLES_LAYOUT_ID};
  const cs_status status = tables_allocate(device, packed.bytes, CS_MEMORY_DEVICE, out, error);
  if (status != CS_OK) return status;
  memcpy((*out)->data, weight->dims, sizeof weight->dims);
  memcpy((*out)->data + TABLES_HEAD_BYTES, weight->parts->data, packed.bytes - TABLES_HEAD_BYTES);
  if (info) cs_sdk_struct_write(info, &packed, sizeof packed);
  return CS_OK;
}

static cs_status ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  cs_sdk_ops *copy;
  (void)workspace;
  cs_status status = cs_sdk_ops_create(stream->device->host, ops, n_ops, op_stride, &copy, error);
  if (status != CS_OK) return status;
  status = cs_sdk_queue_push(stream->queue, run_ops, &copy, sizeof copy, error);
  if (status != CS_OK) cs_sdk_ops_release(copy);
  return status;
}

/* ---- tables ---- */

static const cs_device_table device_table = {.struct_size = sizeof device_table,
                                             .instance_create = instance_create,
                                             .instance_destroy = instance_destroy,
                                             .device_count = device_count,
                                             .device_info = device_info,
                                             .device_open = device_open,
                                             .device_close = device_close,
                                             .device_properties = device_properties};

static const cs_memory_table memory_table = {.struct_size = sizeof memory_table,
                                             .memory_allocate = tables_allocate,
                                             .memory_free = memory_free,
                                             .memory_host_pointer = memory_host_pointer};

static const cs_stream_table stream_table = {.struct_size = sizeof stream_table,
                                             .stream_create = stream_create,
                                             .stream_destroy = stream_destroy,
                                             .stream_upload = stream_upload,
                                             .stream_download = stream_download,
                                             .stream_copy = stream_copy,
                                             .stream_fill = stream_fill,
                                             .stream_wait = stream_wait,
                                             .stream_signal = stream_signal};

static const cs_semaphore_table semaphore_table = {.struct_size = sizeof semaphore_table,
                                                   .semaphore_create = semaphore_create,
                                                   .semaphore_destroy = semaphore_destroy,
                                                   .semaphore_query = semaphore_query,
                                                   .semaphore_wait = semaphore_wait,
                                                   .semaphore_signal = semaphore_signal,
                                                   .semaphore_fail = semaphore_fail};

static const cs_capability_table capability_table = {
    .struct_size = sizeof capability_table, .op_query = op_query, .weights_pack = weights_pack};

static const cs_eager_table eager_table = {.struct_size = sizeof eager_table,
                                           .ops_enqueue = ops_enqueue};

static const void *table(uint32_t id, uint32_t revision) {
  static const void *const tables[] = {
      [CS_TABLE_DEVICE] = &device_table,
      [CS_TABLE_MEMORY] = &memory_table,
      [CS_TABLE_STREAM] = &stream_table,
      [CS_TABLE_SEMAPHORE] = &semaphore_table,
      [CS_TABLE_CAPABILITY] = &capability_table,
      [CS_TABLE_EAGER] = &eager_table,
      [CS_TABLE_EXTERNAL_MEMORY] = &tables_external,
      [CS_TABLE_PEER] = &tables_peer,
      [CS_TABLE_PROFILE] = &tables_profile,
      [CS_TABLE_WEIGHTS_MAP] = &tables_weights_map,
  };
  return revision == 0 && id < sizeof tables / sizeof tables[0] ? tables[id] : NULL;
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  return cs_sdk_query(host, plugin, "tables", "1", "Consort", table);
}
