/* Inside of devices, buffers, streams and semaphores, for the files that make up the front door. */
#ifndef CORE_DEVICE_PRIVATE_H
#define CORE_DEVICE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "core/device.h"
#include "core/runtime_private.h"

struct cs_device {
  atomic_uint refs;
  cs_runtime *runtime; /* retained */
  cs_module *module;
  const cs_tables *tables;
  cs_plugin_device *handle;
  cs_device_properties properties;
  char name[CS_PLUGIN_NAME_BYTES + 16];
  uint32_t index;
  char *options;               /* as written after '?', "" for none; owned */
  struct cs_device *next_open; /* in runtime->open_devices */
  atomic_bool lost;
  cs_record *record; /* NULL unless validating, like those below */
};

struct cs_buffer {
  cs_device *device;        /* retained */
  cs_plugin_memory *memory; /* NULL for host memory standing in for staging */
  void *host;               /* that host memory, else NULL */
  uint64_t bytes;
  uint32_t kind;
  bool packed;
  cs_record *record;
};

/* A program made for one call of cs_stream_ops, kept until its launch is over. */
typedef struct cs_retired_program {
  struct cs_retired_program *next;
  cs_plugin_program *program;
  uint64_t value; /* of the stream's own semaphore, when it may go */
} cs_retired_program;

struct cs_stream {
  cs_device *device; /* retained */
  cs_plugin_stream *handle;
  cs_plugin_semaphore *own; /* made when first needed; NULL before */
  uint64_t own_value;       /* last value enqueued on it */
  cs_retired_program *retired;
  cs_record *record;
};

struct cs_semaphore {
  atomic_uint refs;
  cs_device *device; /* retained */
  cs_plugin_semaphore *handle;
  cs_record *record;
};

struct cs_program {
  cs_device *device; /* retained */
  cs_plugin_program *handle;
  cs_record *record;
};

/* Destroy calls of a healthy plugin end well before this: a slower one has left work behind. */
#define CS_SLOW_DESTROY_US UINT64_C(1900000)

/* The rest of cs_device_result, for a call that failed: completes the plugin's error, puts the
 * device's name before it and remembers a lost device. Returns status. */
cs_status cs_device_call_failed(cs_device *device, cs_status status, cs_error *error,
                                const char *what);
cs_status cs_device_is_lost(cs_device *device, cs_error *error);

/* ---- validation: one branch where it is switched off ---- */

static inline cs_status cs_handle_check(cs_record *record, cs_error *error) {
  return record ? cs_record_check(record, error) : CS_OK;
}

static inline bool cs_handle_may_destroy(cs_record *record) {
  return !record || cs_record_may_destroy(record);
}

/* Frees a handle, or leaves that to the books. */
static inline void cs_handle_free(void *handle, cs_record *record) {
  if (record) {
    cs_record_bury(record);
  } else {
    free(handle);
  }
}

/* Every call but destroy passes here first: nothing more is asked of a lost device. */
static inline cs_status cs_device_enter(cs_device *device, cs_error *error) {
  if (!atomic_load_explicit(&device->lost, memory_order_relaxed)) {
    if (error) error->code = CS_OK;
    return CS_OK;
  }
  return cs_device_is_lost(device, error);
}

static inline cs_status cs_device_result(cs_device *device, cs_status status, cs_error *error,
                                         const char *what) {
  if (status == CS_OK) return CS_OK;
  return cs_device_call_failed(device, status, error, what);
}

/* Longer waits than this are broken off and told as a timeout: no wait is without a deadline, and
 * plugins need not guard their clocks against overflow. */
static inline uint64_t cs_wait_limit_us(uint64_t timeout_us) {
  const uint64_t a_day_us = UINT64_C(24) * 3600 * 1000000;
  return timeout_us < a_day_us ? timeout_us : a_day_us;
}

/* Whether [offset, offset + bytes) lies inside [0, limit). */
static inline bool cs_range_fits(uint64_t offset, uint64_t bytes, uint64_t limit) {
  return offset <= limit && bytes <= limit - offset;
}

/* A buffer of memory that the plugin has made some other way; takes it over in any case. */
cs_status cs_buffer_adopt(cs_device *device, cs_plugin_memory *memory, uint64_t bytes,
                          cs_buffer **out, cs_error *error);

/* Ops as a plugin may see them: id, operand count, strides, and each operand's dtype, rank,
 * extents, alignment and, with `bound`, memory. CS_INVALID_ARGUMENT names op and operand. */
cs_status cs_ops_check(const cs_device *device, const cs_op *ops, uint32_t n_ops, bool bound,
                       cs_error *error);

#endif
