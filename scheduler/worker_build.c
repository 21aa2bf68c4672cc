/* A fallback device is opened only when the asked-for device says no to something: most do not
 * need one, and opening it would start its threads. */
#include "scheduler/worker_build.h"

#include <stdio.h>
#include <string.h>

#include "consort/consort.h"
#include "core/dtype.h"
#include "core/error.h"
#include "scheduler/wire.h"

/* ---- devices ---- */

/* `n_threads` goes to devices that live on the host's cores: every host-resident plugin takes it
 * as the option "threads". */
cs_status cs_worker_open_device(cs_runtime *runtime, const char *name, uint32_t n_threads,
                                cs_device **out, cs_error *error) {
  const cs_status status = cs_device_open(runtime, name, out, error);
  if (status || n_threads == 0 || strchr(name, '?')) return status;
  if (!(cs_device_get_properties(*out)->flags & CS_DEVICE_HOST_RESIDENT)) return CS_OK;
  char with_threads[128];
  snprintf(with_threads, sizeof with_threads, "%s?threads=%u", name, n_threads);
  cs_device_release(*out);
  *out = NULL;
  return cs_device_open(runtime, with_threads, out, error);
}

/* The first host-resident device that is not `primary`; simulations come last. */
static cs_status find_fallback(cs_runtime *runtime, const cs_device *primary, uint32_t n_threads,
                               cs_device **out) {
  for (uint32_t software = 0; software < 2; software++)
    for (uint32_t p = 0; p < cs_runtime_n_plugins(runtime); p++) {
      cs_plugin_status plugin;
      if (cs_runtime_plugin(runtime, p, &plugin, NULL) || plugin.failure) continue;
      for (uint32_t d = 0; d < plugin.n_devices; d++) {
        cs_device_properties properties = {.struct_size = sizeof properties};
        if (cs_runtime_device_info(runtime, p, d, &properties, NULL)) continue;
        if (!(properties.flags & CS_DEVICE_HOST_RESIDENT)) continue;
        if (!!(properties.flags & CS_DEVICE_SOFTWARE) != software) continue;
        char name[80];
        snprintf(name, sizeof name, "%s:%u", plugin.name, d);
        if (strcmp(name, cs_device_name(primary)) == 0) continue;
        if (!cs_worker_open_device(runtime, name, n_threads, out, NULL)) return CS_OK;
      }
    }
  return CS_NOT_FOUND;
}

/* ---- workers ---- */

static cs_fallback_policy policy_of(uint32_t fallback) {
  return fallback == CONSORT_FALLBACK_STRICT  ? CS_FALLBACK_STRICT
         : fallback == CONSORT_FALLBACK_ALLOW ? CS_FALLBACK_ALLOW
                                              : CS_FALLBACK_WARN;
}

cs_status cs_worker_kv_dtype(const char *name, uint32_t *dtype, cs_error *error) {
  *dtype = CS_DTYPE_NONE;
  if (!name) return CS_OK;
  *dtype = strcmp(name, "int8") == 0  ? CS_DTYPE_I8
           : strcmp(name, "fp8") == 0 ? CS_DTYPE_F8_E4M3
                                      : cs_dtype_from_name(name);
  if (cs_wire_is_kv_dtype(*dtype)) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT,
                      "KV dtype %s: there are f32, f16, bf16, fp8 and int8", name);
}

static uint32_t best_kv_dtype(const cs_device *device) {
  const uint64_t can = cs_device_get_properties(device)->kv_dtypes;
  const bool half = can & CS_DTYPE_BIT(CS_DTYPE_F16) || !(can & CS_DTYPE_BIT(CS_DTYPE_F32));
  return half ? CS_DTYPE_F16 : CS_DTYPE_F32;
}

/* With the device alone first, and with a fallback only where that is not enough. */
static cs_status plan_worker(cs_runtime *runtime, const cs_worker_spec *spec,
                             cs_worker_options *worker, cs_worker **out, cs_error *error) {
  const cs_fallback_policy policy = policy_of(spec->fallback);
  worker->engine.policy = CS_FALLBACK_STRICT;
  cs_error refusal = CS_ERROR_INIT;
  cs_status status = cs_worker_create(worker, out, &refusal);
  if (status == CS_UNSUPPORTED && policy != CS_FALLBACK_STRICT &&
      !find_fallback(runtime, spec->device, spec->n_threads, &worker->engine.fallback)) {
    worker->engine.policy = policy;
    refusal = (cs_error)CS_ERROR_INIT;
    status = cs_worker_create(worker, out, &refusal);
    cs_device_release(worker->engine.fallback);
  }
  if (status && error && error->struct_size >= sizeof *error) *error = refusal;
  return status;
}

cs_status cs_worker_build(cs_runtime *runtime, const cs_worker_spec *spec, cs_worker **out,
                          cs_error *error) {
  cs_worker_options worker = {
      .engine = {.model = spec->model,
                 .primary = spec->device,
                 .kv_dtype = spec->kv_dtype ? spec->kv_dtype : best_kv_dtype(spec->device),
                 .n_context = spec->n_context,
                 .n_sequences = spec->n_sequences ? spec->n_sequences : 1,
                 .n_batch = spec->n_batch ? spec->n_batch : CS_WORKER_DEFAULT_BATCH,
                 .profile = spec->profile,
                 .pack_folder = spec->pack_folder,
                 .step_timeout_us = spec->step_timeout_us ? spec->step_timeout_us
                                                          : CS_WORKER_DEFAULT_STEP_TIMEOUT_US},
      .number = spec->number,
      .deterministic = spec->deterministic,
      .log = cs_runtime_log(runtime)};
  return plan_worker(runtime, spec, &worker, out, error);
}

/* ---- memory ---- */

static double mebibytes(uint64_t bytes) {
  return (double)bytes / (1024.0 * 1024.0);
}

/* What the workers will take of the memory that `device` belongs to. */
static uint64_t needed_with(cs_worker *const *workers, size_t n, const cs_device *device) {
  const char *const domain = cs_device_get_properties(device)->memory_domain;
  uint64_t needed = 0;
  for (size_t i = 0; i < n; i++)
    for (uint32_t d = 0; workers[i] && d < 2; d++) {
      const cs_engine *const engine = cs_worker_engine(workers[i]);
      const cs_device *const other = cs_engine_device(engine, d);
      if (!other) continue;
      const char *const its_domain = cs_device_get_properties(other)->memory_domain;
      if (other != device && (!domain[0] || strcmp(domain, its_domain) != 0)) continue;
      if (__builtin_add_overflow(needed, cs_engine_needed_bytes(engine, d), &needed))
        return UINT64_MAX;
    }
  return needed;
}

cs_status cs_worker_check_memory(cs_worker *const *workers, size_t n, cs_error *error) {
  for (size_t i = 0; i < n; i++)
    for (uint32_t d = 0; workers[i] && d < 2; d++) {
      const cs_engine *const engine = cs_worker_engine(workers[i]);
      const cs_device *const device = cs_engine_device(engine, d);
      if (!device) continue;
      const cs_device_properties *const properties = cs_device_get_properties(device);
      const uint64_t available =
          properties->memory_free_bytes ? properties->memory_free_bytes : properties->memory_bytes;
      const uint64_t needed = needed_with(workers, n, device);
      if (available == 0 || needed <= available) continue;
      return cs_error_set(error, CS_OUT_OF_MEMORY,
                          "%s has not enough memory: weights and a context of %u tokens need "
                          "%.0f MiB, %.0f MiB are available",
                          cs_device_name(device), cs_engine_get_options(engine)->n_context,
                          mebibytes(needed), mebibytes(available));
    }
  return CS_OK;
}
