/* The null plugin: a device whose ops do nothing. Memory, copies, streams and semaphores are real,
 * on host memory, so that everything above a plugin can run on it. It is the smallest plugin that
 * uses the SDK, made to be cloned: a new backend begins as this file, with its driver's calls in
 * place of malloc and memcpy, and an op_query that says yes only to what it serves. */
#include <string.h>

#include "consort/sdk_driver.h"

#define NULL_MEMORY_BYTES (UINT64_C(1) << 34) /* what the device claims to have */
#define NULL_TENSOR_ALIGN 64

struct cs_plugin_instance {
  const cs_host *host;
};

struct cs_plugin_device {
  cs_sdk_device sdk;
};

struct cs_plugin_memory {
  unsigned char *data;
  uint64_t bytes;
};

struct cs_plugin_stream {
  cs_sdk_stream sdk;
};

static const cs_sdk_driver null_driver;

/* ---- device ---- */

static cs_status null_instance_create(const cs_host *host, cs_plugin_instance **out,
                                      cs_error *error) {
  *out = host->allocate(host->context, sizeof **out, 8);
  if (!*out) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the instance");
  (*out)->host = host;
  return CS_OK;
}

static void null_instance_destroy(cs_plugin_instance *instance) {
  if (instance) instance->host->deallocate(instance->host->context, instance);
}

static uint32_t null_device_count(cs_plugin_instance *instance) {
  (void)instance;
  return 1;
}

static const cs_device_properties null_properties = {
    .struct_size = sizeof(cs_device_properties),
    .type = CS_DEVICE_TYPE_ACCELERATOR,
    .flags = CS_DEVICE_SOFTWARE,
    .tensor_align = NULL_TENSOR_ALIGN,
    .memory_bytes = NULL_MEMORY_BYTES,
    .memory_domain = "host",
    .description = "does nothing",
    .driver = "consort-null " NULL_VERSION,
    .dtypes = CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16) |
              CS_DTYPE_BIT(CS_DTYPE_BF16) | CS_DTYPE_BIT(CS_DTYPE_Q8_0) |
              CS_DTYPE_BIT(CS_DTYPE_Q4_0),
    .kv_dtypes = CS_DTYPE_BIT(CS_DTYPE_F32) | CS_DTYPE_BIT(CS_DTYPE_F16),
    .kv_layouts = CS_LAYOUT_BIT(CS_LAYOUT_KV_HEAD_MAJOR),
    .kv_layout = CS_LAYOUT_KV_HEAD_MAJOR,
    .kv_block_tokens_min = 16,
    .kv_block_tokens_max = 128,
    .activation_dtype = CS_DTYPE_F32,
    .concurrency = 1,
};

static cs_status null_device_info(cs_plugin_instance *instance, uint32_t index,
                                  cs_device_properties *out, cs_error *error) {
  (void)instance;
  if (index != 0) return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is one device");
  cs_sdk_struct_write(out, &null_properties, sizeof null_properties);
  return CS_OK;
}

static cs_status null_device_properties(cs_plugin_device *device, cs_device_properties *out,
                                        cs_error *error) {
  (void)device;
  (void)error;
  cs_sdk_struct_write(out, &null_properties, sizeof null_properties);
  return CS_OK;
}

static cs_status null_device_open(cs_plugin_instance *instance, uint32_t index,
                                  const cs_option *options, uint32_t n_options,
                                  uint32_t option_stride, cs_plugin_device **out, cs_error *error) {
  (void)option_stride;
  *out = NULL;
  if (index != 0) return cs_sdk_error(error, CS_NOT_FOUND, 0, "there is one device");
  if (n_options > 0)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "unknown option '%.64s': there are none",
                        options[0].key);
  *out = instance->host->allocate(instance->host->context, sizeof **out, 8);
  if (!*out) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for the device");
  (*out)->sdk = (cs_sdk_device){.host = instance->host, .driver = &null_driver};
  return CS_OK;
}

static void null_device_close(cs_plugin_device *device) {
  if (device) device->sdk.host->deallocate(device->sdk.host->context, device);
}

/* ---- memory ---- */

static cs_status null_memory_allocate(cs_plugin_device *device, uint64_t bytes, uint32_t kind,
                                      cs_plugin_memory **out, cs_error *error) {
  (void)kind;
  *out = NULL;
  const cs_host *host = device->sdk.host;
  cs_plugin_memory *memory = host->allocate(host->context, sizeof *memory, 8);
  if (!memory) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a handle");
  memory->data =
      bytes <= NULL_MEMORY_BYTES ? host->allocate(host->context, bytes, NULL_TENSOR_ALIGN) : NULL;
  memory->bytes = bytes;
  if (!memory->data) {
    host->deallocate(host->context, memory);
    return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for %llu bytes",
                        (unsigned long long)bytes);
  }
  *out = memory;
  return CS_OK;
}

static void null_memory_free(cs_plugin_device *device, cs_plugin_memory *memory) {
  if (!memory) return;
  device->sdk.host->deallocate(device->sdk.host->context, memory->data);
  device->sdk.host->deallocate(device->sdk.host->context, memory);
}

static void *null_memory_host_pointer(cs_plugin_device *device, cs_plugin_memory *memory) {
  (void)device;
  return memory->data;
}

/* ---- streams: the SDK's, over these copies ---- */

static cs_status null_move(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  (void)stream;
  (void)error;
  memcpy(copy->to ? copy->to->data + copy->to_offset : copy->host_to,
         copy->from ? copy->from->data + copy->from_offset : copy->host_from, copy->bytes);
  return CS_OK;
}

static cs_status null_fill(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  (void)stream;
  (void)error;
  memset(copy->to->data + copy->to_offset, copy->value, copy->bytes);
  return CS_OK;
}

static const cs_sdk_driver null_driver = {.stream_bytes = sizeof(cs_plugin_stream),
                                          .upload = null_move,
                                          .download = null_move,
                                          .copy = null_move,
                                          .fill = null_fill};

/* ---- capability and ops ---- */

static cs_status null_op_query(cs_plugin_device *device, const cs_op *op, cs_op_answer *out,
                               cs_error *error) {
  (void)device;
  (void)op;
  (void)error;
  const cs_op_answer yes = {
      .struct_size = sizeof yes, .support = CS_SUPPORT_NATIVE, .error_class = CS_ERROR_F32};
  cs_sdk_struct_write(out, &yes, sizeof yes);
  return CS_OK;
}

static cs_status null_weights_pack(cs_plugin_device *device, const cs_weight *weight,
                                   cs_plugin_memory **out, cs_packed_info *info, cs_error *error) {
  (void)weight;
  const cs_packed_info packed = {.struct_size = sizeof packed, .bytes = 64, .layout_id = 1};
  const cs_status status = null_memory_allocate(device, packed.bytes, 0, out, error);
  if (status == CS_OK && info) cs_sdk_struct_write(info, &packed, sizeof packed);
  return status;
}

/* A real plugin gives null_driver a `run` and hands out cs_sdk_eager_table and
 * cs_sdk_program_table. */
static cs_status null_ops_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                                  uint32_t op_stride, cs_plugin_memory *workspace,
                                  cs_error *error) {
  (void)stream;
  (void)ops;
  (void)n_ops;
  (void)op_stride;
  (void)workspace;
  (void)error;
  return CS_OK;
}

/* ---- tables ---- */

static const cs_device_table null_device_table = {
    .struct_size = sizeof(cs_device_table),
    .instance_create = null_instance_create,
    .instance_destroy = null_instance_destroy,
    .device_count = null_device_count,
    .device_info = null_device_info,
    .device_open = null_device_open,
    .device_close = null_device_close,
    .device_properties = null_device_properties,
};

static const cs_memory_table null_memory_table = {
    .struct_size = sizeof(cs_memory_table),
    .memory_allocate = null_memory_allocate,
    .memory_free = null_memory_free,
    .memory_host_pointer = null_memory_host_pointer,
};

static const cs_capability_table null_capability_table = {
    .struct_size = sizeof(cs_capability_table),
    .op_query = null_op_query,
    .weights_pack = null_weights_pack,
};

static const cs_eager_table null_eager_table = {
    .struct_size = sizeof(cs_eager_table),
    .ops_enqueue = null_ops_enqueue,
};

static const void *null_table(uint32_t id, uint32_t revision) {
  static const void *const tables[] = {
      [CS_TABLE_DEVICE] = &null_device_table,
      [CS_TABLE_MEMORY] = &null_memory_table,
      [CS_TABLE_STREAM] = &cs_sdk_stream_table,
      [CS_TABLE_SEMAPHORE] = &cs_sdk_semaphore_table,
      [CS_TABLE_CAPABILITY] = &null_capability_table,
      [CS_TABLE_EAGER] = &null_eager_table,
  };
  return revision == 0 && id < sizeof tables / sizeof tables[0] ? tables[id] : NULL;
}

cs_status cs_plugin_query(const cs_host *host, cs_plugin *plugin) {
  return cs_sdk_query(host, plugin, "null", NULL_VERSION, "Consort", null_table);
}
