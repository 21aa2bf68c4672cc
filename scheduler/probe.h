/* Times small pieces of work on a device, through the same front door as real work. What comes back
 * is the fastest of several runs: the device's ability, not its neighbours' noise. */
#ifndef SCHEDULER_PROBE_H
#define SCHEDULER_PROBE_H

#include <stdint.h>

#include "core/device.h"

typedef struct cs_probe cs_probe; /* used by one thread at a time */

/* The device is retained. */
cs_status cs_probe_create(cs_device *device, cs_probe **out, cs_error *error);
void cs_probe_destroy(cs_probe *probe);

/* How long one measurement may take, 20 s unless told; it then ends with CS_TIMEOUT, and the probe
 * is good for no more work. */
void cs_probe_set_deadline(cs_probe *probe, uint64_t deadline_us);

/* A matrix product out(n_rows, n_out) = x(n_rows, n_in) * transpose(weight(n_out, n_in)). n_copies
 * weights are used in turn, so that together they can exceed the device's caches. */
typedef struct cs_probe_matmul {
  uint32_t dtype; /* of the weights */
  uint32_t n_copies;
  uint64_t n_rows;
  uint64_t n_out;
  uint64_t n_in;
} cs_probe_matmul;

/* *seconds: one product. CS_UNSUPPORTED when the device does not run it. */
cs_status cs_probe_run_matmul(cs_probe *probe, const cs_probe_matmul *shape, double *seconds,
                              cs_error *error);

/* Causal self-attention over n_tokens with a cache in `kv_dtype`, 8 heads of 64. *flop_per_s
 * counts 2 * 2 * n_heads * head_dim for each pair of positions. CS_UNSUPPORTED likewise. */
cs_status cs_probe_run_attention(cs_probe *probe, uint32_t kv_dtype, uint32_t n_tokens,
                                 double *flop_per_s, cs_error *error);

/* *op_us: one op that does next to nothing, among others in a list. *step_us: enqueueing a list of
 * one such op and waiting for it. */
cs_status cs_probe_run_launch(cs_probe *probe, double *op_us, double *step_us, cs_error *error);

typedef struct cs_probe_link {
  double upload_bytes_per_s; /* host to device, in pieces of megabytes */
  double download_bytes_per_s;
  double latency_us; /* a copy of a few bytes, waited for */
} cs_probe_link;
cs_status cs_probe_run_link(cs_probe *probe, cs_probe_link *out, cs_error *error);

/* A copy of `bytes` within the device: bytes read and bytes written, both counted. */
cs_status cs_probe_run_copy(cs_probe *probe, uint64_t bytes, double *bytes_per_s, cs_error *error);

#endif
