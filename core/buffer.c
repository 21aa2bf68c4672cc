/* A staging buffer must exist on every device, because transfers are written against it: where a
 * plugin has no pinned memory of its own, plain host memory serves, and only the speed differs. */
#include <stdlib.h>

#include "core/device_private.h"
#include "core/dtype.h"
#include "core/error.h"

#define HOST_ALIGN 256

static cs_buffer *new_buffer(cs_device *device, uint64_t bytes, uint32_t kind) {
  cs_buffer *buffer = calloc(1, sizeof *buffer);
  if (!buffer) return NULL;
  buffer->device = device;
  buffer->bytes = bytes;
  buffer->kind = kind;
  return buffer;
}

/* The last step of a creation: the device is retained, and the books are told. */
static void keep_books(cs_buffer *buffer) {
  cs_device *device = buffer->device;
  cs_device_retain(device);
  buffer->record =
      cs_record_create(device->runtime->validator, CS_RECORD_BUFFER, buffer, device->name);
  cs_record_set_memory(buffer->record, buffer->memory, buffer->bytes, buffer->packed);
}

static cs_status no_memory(const cs_device *device, uint64_t bytes, cs_error *error) {
  return cs_error_set(error, CS_OUT_OF_MEMORY, "%s: no memory for %llu bytes", device->name,
                      (unsigned long long)bytes);
}

/* Plugin memory that the host can reach, or CS_UNSUPPORTED with nothing allocated. */
static cs_status allocate_staging(cs_buffer *buffer, cs_error *error) {
  const cs_memory_table *table = &buffer->device->tables->memory;
  cs_plugin_device *handle = buffer->device->handle;
  if (!table->memory_host_pointer) return CS_UNSUPPORTED;
  const cs_status status =
      table->memory_allocate(handle, buffer->bytes, CS_MEMORY_STAGING, &buffer->memory, error);
  if (status != CS_OK) return status;
  if (table->memory_host_pointer(handle, buffer->memory)) return CS_OK;
  table->memory_free(handle, buffer->memory);
  buffer->memory = NULL;
  return CS_UNSUPPORTED;
}

static cs_status allocate_host(cs_buffer *buffer, cs_error *error) {
  if (buffer->bytes > SIZE_MAX / 2 ||
      posix_memalign(&buffer->host, HOST_ALIGN, (size_t)buffer->bytes) != 0) {
    buffer->host = NULL;
    return no_memory(buffer->device, buffer->bytes, error);
  }
  return CS_OK;
}

cs_status cs_buffer_create(cs_device *device, uint64_t bytes, uint32_t kind, cs_buffer **out,
                           cs_error *error) {
  *out = NULL;
  if (bytes == 0 || kind > CS_MEMORY_STAGING) {
    return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: a buffer of %llu bytes and kind %u",
                        device->name, (unsigned long long)bytes, kind);
  }
  cs_status status = cs_device_enter(device, error);
  if (status != CS_OK) return status;
  cs_buffer *buffer = new_buffer(device, bytes, kind);
  if (!buffer) return no_memory(device, bytes, error);
  if (kind == CS_MEMORY_STAGING) {
    status = allocate_staging(buffer, error);
    if (status == CS_UNSUPPORTED) {
      status = allocate_host(buffer, error);
      if (status != CS_OK) goto err_free;
    }
  } else {
    status =
        device->tables->memory.memory_allocate(device->handle, bytes, kind, &buffer->memory, error);
    if (status == CS_OK && !buffer->memory) status = CS_FAILED;
  }
  status = cs_device_result(device, status, error, "does not allocate memory");
  if (status != CS_OK) goto err_free;
  keep_books(buffer);
  *out = buffer;
  return CS_OK;

err_free:
  free(buffer);
  return status;
}

cs_status cs_buffer_adopt(cs_device *device, cs_plugin_memory *memory, uint64_t bytes,
                          cs_buffer **out, cs_error *error) {
  *out = new_buffer(device, bytes, CS_MEMORY_DEVICE);
  if (!*out) {
    device->tables->memory.memory_free(device->handle, memory);
    return no_memory(device, sizeof **out, error);
  }
  (*out)->memory = memory;
  keep_books(*out);
  return CS_OK;
}

static cs_status check_weight(const cs_device *device, const cs_weight *weight, bool with_data,
                              cs_error *error) {
  const char *fault = NULL;
  uint64_t n = 1;
  if (!weight || weight->struct_size < sizeof *weight)
    fault = "no description";
  else if (weight->rank < 2 || weight->rank > CS_MAX_RANK)
    fault = "a rank outside 2 to 4";
  else if (weight->n_parts == 0 || !weight->parts || weight->part_stride < sizeof(cs_weight_part))
    fault = "no parts";
  else if (weight->usage == 0)
    fault = "no usage";
  else if (!cs_dtype_find(weight->dtype))
    fault = "an unknown dtype";
  for (uint32_t i = 0; !fault && i < weight->rank; i++) {
    if (weight->dims[i] == 0 || __builtin_mul_overflow(n, weight->dims[i], &n)) {
      fault = "dimensions that are empty or overflow";
    }
  }
  const unsigned char *at = weight && !fault ? (const unsigned char *)weight->parts : NULL;
  for (uint32_t i = 0; !fault && i < weight->n_parts; i++, at += weight->part_stride) {
    const cs_weight_part *part = (const cs_weight_part *)at;
    if ((with_data && !part->data) || part->bytes == 0) fault = "an empty part";
  }
  uint64_t bytes = 0;
  if (!fault && weight->source == CS_WEIGHT_GGUF &&
      (cs_dtype_bytes(weight->dtype, n, &bytes) != CS_OK || weight->parts[0].bytes < bytes)) {
    fault = "fewer bytes than its dimensions need";
  }
  if (!fault) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: a weight with %s", device->name, fault);
}

cs_status cs_buffer_create_packed(cs_device *device, const cs_weight *weight, cs_buffer **out,
                                  cs_packed_info *info, cs_error *error) {
  *out = NULL;
  cs_status status = check_weight(device, weight, true, error);
  if (status == CS_OK) status = cs_device_enter(device, error);
  if (status != CS_OK) return status;
  cs_buffer *buffer = new_buffer(device, 0, CS_MEMORY_DEVICE);
  if (!buffer) return no_memory(device, sizeof *buffer, error);
  cs_packed_info packed = {.struct_size = sizeof packed};
  status = device->tables->capability.weights_pack(device->handle, weight, &buffer->memory, &packed,
                                                   error);
  if (status == CS_OK && !buffer->memory) status = CS_FAILED;
  status = cs_device_result(device, status, error, "does not pack a weight");
  if (status != CS_OK) {
    free(buffer);
    return status;
  }
  buffer->bytes = packed.bytes;
  buffer->packed = true;
  keep_books(buffer);
  if (info) *info = packed;
  *out = buffer;
  return CS_OK;
}

/* ---- packed weights on disk ---- */

static cs_status enter_map(cs_device *device, cs_error *error) {
  if (!cs_device_has_table(device, CS_TABLE_WEIGHTS_MAP))
    return cs_error_set(error, CS_UNSUPPORTED, "%s keeps no packed weights on disk", device->name);
  return cs_device_enter(device, error);
}

cs_status cs_device_packed_layout(cs_device *device, const cs_weight *weight, cs_packed_info *out,
                                  cs_error *error) {
  cs_packed_info info = {.struct_size = sizeof info};
  cs_status status = check_weight(device, weight, false, error);
  if (status == CS_OK) status = enter_map(device, error);
  if (status != CS_OK) return status;
  status = device->tables->weights_map.weights_layout(device->handle, weight, &info, error);
  status = cs_device_result(device, status, error, "does not tell a weight's layout");
  if (status == CS_OK) *out = info;
  return status;
}

cs_status cs_buffer_save_packed(cs_buffer *buffer, void *to, cs_error *error) {
  cs_device *device = buffer->device;
  cs_status status = enter_map(device, error);
  if (status == CS_OK && !buffer->packed)
    status = cs_error_set(error, CS_INVALID_ARGUMENT, "%s: not a packed weight", device->name);
  if (status != CS_OK) return status;
  status = device->tables->weights_map.weights_save(device->handle, buffer->memory, to,
                                                    buffer->bytes, error);
  return cs_device_result(device, status, error, "does not save a packed weight");
}

cs_status cs_buffer_map_packed(cs_device *device, const cs_weight *weight, uint64_t layout_id,
                               const void *from, uint64_t bytes, cs_buffer **out, cs_error *error) {
  *out = NULL;
  cs_status status = check_weight(device, weight, false, error);
  if (status == CS_OK) status = enter_map(device, error);
  if (status != CS_OK) return status;
  cs_buffer *buffer = new_buffer(device, bytes, CS_MEMORY_DEVICE);
  if (!buffer) return no_memory(device, sizeof *buffer, error);
  status = device->tables->weights_map.weights_map(device->handle, weight, layout_id, from, bytes,
                                                   &buffer->memory, error);
  if (status == CS_OK && !buffer->memory) status = CS_FAILED;
  status = cs_device_result(device, status, error, "does not map a packed weight");
  if (status != CS_OK) {
    free(buffer);
    return status;
  }
  buffer->packed = true;
  keep_books(buffer);
  *out = buffer;
  return CS_OK;
}

void cs_buffer_destroy(cs_buffer *buffer) {
  if (!buffer || !cs_handle_may_destroy(buffer->record)) return;
  if (buffer->memory) {
    buffer->device->tables->memory.memory_free(buffer->device->handle, buffer->memory);
  }
  free(buffer->host);
  cs_device *device = buffer->device;
  cs_handle_free(buffer, buffer->record);
  cs_device_release(device);
}

uint64_t cs_buffer_bytes(const cs_buffer *buffer) {
  return buffer->bytes;
}

cs_device *cs_buffer_device(const cs_buffer *buffer) {
  return buffer->device;
}

void *cs_buffer_host_pointer(cs_buffer *buffer) {
  const cs_memory_table *table = &buffer->device->tables->memory;
  if (buffer->host) return buffer->host;
  if (!table->memory_host_pointer || atomic_load(&buffer->device->lost)) return NULL;
  return table->memory_host_pointer(buffer->device->handle, buffer->memory);
}

cs_plugin_memory *cs_buffer_memory(cs_buffer *buffer) {
  return buffer->memory;
}
