/* Where pieces of KV land without a way through host memory: berths, which are buffers on the
 * receiver's devices that a sender of the same process can have its own device write to. A message
 * then names the berth instead of carrying the bytes; sums are checked as ever.
 *
 * A berth is taken by the sender, written to by its device, named in a piece, claimed by the
 * receiver when that piece arrives, and given back by whoever has it last. Free-threaded. */
#ifndef SCHEDULER_TRANSFER_DOCK_H
#define SCHEDULER_TRANSFER_DOCK_H

#include <stdint.h>

#include "core/device.h"
#include "scheduler/worker_cache.h"

#define CS_DOCK_BERTHS 8

/* How bytes reach a berth; as commits report it. */
#define CS_KV_PATH_STAGED 0 /* through host memory: no berth at all */
#define CS_KV_PATH_PEER   1 /* copied by the sender's device, or on one device */
#define CS_KV_PATH_SHARED 2 /* memory of the receiver's device that the sender's device maps */

typedef struct cs_dock cs_dock;

typedef struct cs_berth {
  uint32_t place;    /* for the message; never 0 */
  uint32_t path;     /* CS_KV_PATH_PEER or SHARED */
  cs_buffer *target; /* what a stream of the sender's device copies to; borrowed */
} cs_berth;

/* `cache` of the receiver, borrowed until destroy; nobody uses the dock then. */
cs_status cs_dock_create(cs_kv_cache *cache, cs_dock **out, cs_error *error);
void cs_dock_destroy(cs_dock *dock);

/* A berth of at least `bytes` for a piece of `layer` from a device. CS_UNSUPPORTED when the two
 * devices have no direct path (or lost it by cs_dock_fail), CS_EXHAUSTED when all berths are in use
 * for longer than a moment: the piece then goes the staged way. */
cs_status cs_dock_take(cs_dock *dock, cs_device *from, uint32_t layer, uint64_t bytes,
                       cs_berth *out, cs_error *error);
/* The receiver's claim: its buffer, and by which path the bytes came. CS_CORRUPT when no piece is
 * to be expected there. */
cs_status cs_dock_claim(cs_dock *dock, uint32_t place, uint32_t layer, cs_buffer **buffer,
                        uint32_t *path, cs_error *error);
/* As give, for a piece that nobody will take; nothing when it has been claimed already. */
void cs_dock_drop(cs_dock *dock, uint32_t place);
/* The berth is free again, or, when the place is not (any more) a taken one, nothing. */
void cs_dock_give(cs_dock *dock, uint32_t place);
/* A piece did not arrive, or not whole: berths of this path are handed out no more. */
void cs_dock_fail(cs_dock *dock, uint32_t place);

#endif
