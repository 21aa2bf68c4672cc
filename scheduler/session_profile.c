/* Times of ops, from the engines of the session's own process: one entry a worker, device and kind
 * of op, so that the shares of one worker on one device add up to one. */
#include <stdlib.h>

#include "core/error.h"
#include "scheduler/facade.h"
#include "scheduler/session.h"

/* The most entries: two workers with two devices each. */
#define MAX_ENTRIES (2 * 2 * CS_OP_LIMIT)

static size_t add_device(const consort_session *session, const cs_worker *worker, uint32_t place,
                         consort_op_time *out, size_t n) {
  const cs_engine *const engine = cs_worker_engine(worker);
  const cs_device *const device = cs_engine_device(engine, place);
  cs_op_total totals[CS_OP_LIMIT];
  uint64_t all_ns = 0;
  if (!device) return n;
  cs_engine_op_totals(engine, place, totals);
  for (uint32_t id = 0; id < CS_OP_LIMIT; id++)
    all_ns += totals[id].ns;
  for (uint32_t id = 0; id < CS_OP_LIMIT; id++) {
    if (totals[id].count == 0) continue;
    out[n++] = (consort_op_time){.struct_size = sizeof *out,
                                 .prefill = worker == session->prefill || !session->two_stages,
                                 .decode = worker == session->decode,
                                 .op = cs_op_name(id),
                                 .device = cs_device_name(device),
                                 .count = totals[id].count,
                                 .ms = (double)totals[id].ns / 1e6,
                                 .share = all_ns ? (double)totals[id].ns / (double)all_ns : 0};
  }
  return n;
}

/* By worker and device, within it the longest first. */
static int compare(const void *left, const void *right) {
  const consort_op_time *const a = left, *const b = right;
  if (a->decode != b->decode) return (int)a->decode - (int)b->decode;
  if (a->device != b->device) return a->device < b->device ? -1 : 1;
  return a->ms < b->ms ? 1 : a->ms > b->ms ? -1 : 0;
}

cs_status consort_session_op_times(const consort_session *session, consort_op_time **out, size_t *n,
                                   cs_error *error) {
  if (!session || !out || !n)
    return cs_error_set(error, CS_INVALID_ARGUMENT, "no session, or no place for op times");
  *n = 0;
  *out = calloc(MAX_ENTRIES, sizeof **out);
  if (!*out) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for op times");
  const cs_worker *const workers[] = {session->prefill, session->decode};
  for (size_t i = 0; i < 2; i++)
    for (uint32_t place = 0; workers[i] && place < 2; place++)
      *n = add_device(session, workers[i], place, *out, *n);
  qsort(*out, *n, sizeof **out, compare);
  return CS_OK;
}
