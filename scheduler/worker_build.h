/* From names to a worker: which device, which fallback, which KV dtype, and whether it fits. A
 * session does so for its own process, a service for those who attach. */
#ifndef SCHEDULER_WORKER_BUILD_H
#define SCHEDULER_WORKER_BUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/worker.h"

#define CS_WORKER_DEFAULT_BATCH           512
#define CS_WORKER_DEFAULT_STEP_TIMEOUT_US UINT64_C(300000000)

typedef struct cs_worker_spec {
  cs_model *model;   /* retained by the worker */
  cs_device *device; /* likewise */
  uint32_t number;   /* by which it signs; not 0 */
  uint32_t n_context;
  uint32_t n_sequences; /* 0: 1 */
  uint32_t n_batch;     /* 0: CS_WORKER_DEFAULT_BATCH */
  uint32_t kv_dtype;    /* CS_DTYPE_NONE: what the device does best */
  uint32_t fallback;    /* CONSORT_FALLBACK_* */
  uint32_t n_threads;   /* for host cores; 0: all */
  bool deterministic;
  bool profile;             /* time ops where devices can */
  const char *pack_folder;  /* for packed weights, until it has started; NULL: none */
  uint64_t step_timeout_us; /* 0: CS_WORKER_DEFAULT_STEP_TIMEOUT_US */
} cs_worker_spec;

/* "NAME:INDEX". n_threads (0: all) goes to devices that live on the host's cores. */
cs_status cs_worker_open_device(cs_runtime *runtime, const char *name, uint32_t n_threads,
                                cs_device **out, cs_error *error);

/* "f16" or NULL to CS_DTYPE_*, NONE for NULL. CS_INVALID_ARGUMENT for what no cache can be. */
cs_status cs_worker_kv_dtype(const char *name, uint32_t *dtype, cs_error *error);

/* As cs_worker_create: loads nothing. */
cs_status cs_worker_build(cs_runtime *runtime, const cs_worker_spec *spec, cs_worker **out,
                          cs_error *error);

/* Whether n workers (NULL ones are left out) fit in memory together. */
cs_status cs_worker_check_memory(cs_worker *const *workers, size_t n, cs_error *error);

#endif
