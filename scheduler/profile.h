/* What a device can do, measured in less than about a second and kept on disk. */
#ifndef SCHEDULER_PROFILE_H
#define SCHEDULER_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/device.h"

/* A rate of 0 means that the device does not run that op. */
typedef struct cs_device_profile {
  double matmul_flop_per_s;         /* a prefill step: 256 rows, weights (2048, 2048) */
  double matvec_bytes_per_s;        /* a decode step: one row, weights from memory */
  double matvec_cached_bytes_per_s; /* the same with weights that a cache may hold */
  double attention_flop_per_s;      /* causal, 512 tokens, KV in f16, or f32 where it must be */
  double op_us;                     /* each op of a list, however small */
  double step_us;                   /* enqueueing a list and waiting for it */
  double upload_bytes_per_s;
  double download_bytes_per_s;
  double latency_us; /* a copy of a few bytes, waited for */
} cs_device_profile;

/* The weights that count as cached, and those that do not. */
#define CS_PROFILE_CACHED_BYTES (UINT64_C(8) << 20)
#define CS_PROFILE_MEMORY_BYTES (UINT64_C(64) << 20)

/* Measures now. dtype: of the weights. */
cs_status cs_profile_measure(cs_device *device, uint32_t dtype, cs_device_profile *out,
                             cs_error *error);

/* What was measured before for this device, driver and dtype, where that is on disk and whole;
 * else measures, and keeps the result where a folder for it can be made:
 * $XDG_CACHE_HOME/consort/profiles or ~/.cache/consort/profiles. */
cs_status cs_profile_get(cs_device *device, uint32_t dtype, bool measure_again,
                         cs_device_profile *out, cs_error *error);

/* Text form, for the cache. Reading takes nothing but exactly what writing made for the same key;
 * false otherwise. */
#define CS_PROFILE_TEXT_BYTES 2048
size_t cs_profile_write(const cs_device_profile *profile, const char *key,
                        char text[CS_PROFILE_TEXT_BYTES]);
bool cs_profile_read(const char *text, const char *key, cs_device_profile *out);

#endif
