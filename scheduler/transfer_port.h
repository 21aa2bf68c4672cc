/* The end of a KV transfer at one device: a stream, two slots that take turns, and the ops that
 * turn blocks of the cache into wire bytes and back, or the host where the device has no such op.
 * Used by one thread at a time. */
#ifndef SCHEDULER_TRANSFER_PORT_H
#define SCHEDULER_TRANSFER_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/worker_cache.h"

#define CS_PORT_SLOTS 2

typedef struct cs_port cs_port;

typedef struct cs_port_options {
  cs_kv_cache *cache;  /* borrowed until destroy */
  cs_device *device;   /* retained */
  uint32_t op;         /* CS_OP_KV_GATHER or CS_OP_KV_SCATTER */
  uint32_t wire_dtype; /* of all pieces of this port */
  uint32_t max_tokens; /* of one piece */
  uint32_t max_blocks; /* of one sequence */
  bool on_host;        /* do not ask for the op: the host does it in any case */
} cs_port_options;

cs_status cs_port_create(const cs_port_options *options, cs_port **out, cs_error *error);
/* Waits for what is under way. */
void cs_port_destroy(cs_port *port);
cs_device *cs_port_device(const cs_port *port); /* borrowed */
uint32_t cs_port_wire_dtype(const cs_port *port);

/* Which tokens of which sequence: `blocks` is its block table, copied. */
typedef struct cs_port_range {
  const int32_t *blocks;
  uint32_t n_blocks;
  uint32_t layer;
  uint32_t first_token;
  uint32_t n_tokens;
} cs_port_range;

/* Whether the device itself gathers or scatters, so that wire bytes may stay in device memory. */
bool cs_port_has_op(const cs_port *port);
/* Bytes of the largest piece. */
uint64_t cs_port_wire_bytes(const cs_port *port);

/* Enqueues reading into slot `slot`, which is idle, once `after` (of this device) has reached
 * `value`. `target` (may be NULL) is a buffer that this device reaches: the wire bytes go there and
 * not to the host; cs_port_has_op must hold. */
cs_status cs_port_gather(cs_port *port, uint32_t slot, const cs_port_range *range,
                         cs_semaphore *after, uint64_t value, cs_buffer *target, cs_error *error);
/* Waits for it. *wire (cs_wire_bytes of it; NULL with a target) and *sum are valid until the slot
 * is used again. */
cs_status cs_port_finish_gather(cs_port *port, uint32_t slot, uint64_t timeout_us,
                                const void **wire, uint64_t *sum, cs_error *error);

/* Enqueues writing `wire` (copied) from slot `slot`, which is idle; or, with `source`, the wire
 * bytes at the beginning of that buffer of this device, left alone until the slot is finished;
 * cs_port_has_op must hold then. */
cs_status cs_port_scatter(cs_port *port, uint32_t slot, const cs_port_range *range,
                          const void *wire, cs_buffer *source, uint64_t timeout_us,
                          cs_error *error);
/* Waits for it. *sum is of the bytes that were read where they were written to the cache. */
cs_status cs_port_finish_scatter(cs_port *port, uint32_t slot, uint64_t timeout_us, uint64_t *sum,
                                 cs_error *error);

#endif
