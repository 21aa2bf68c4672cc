/* The validation layer (CONSORT_VALIDATE=1): what the checks of the front door cannot see without
 * keeping books. It finds
 *   - handles that are used or destroyed again after their destroy,
 *   - tensors that reach outside their buffer or name memory of no live buffer of the device,
 *   - a stream used by two threads at once,
 *   - buffers and programs destroyed before the work that uses them was waited for,
 *   - objects that are alive when the runtime's last owner leaves.
 * Each finding is one line in the log at CS_LOG_ERROR that begins "validate: "; calls that can fail
 * return CS_INVALID_ARGUMENT. Waits are followed through streams and the bridge, so that waiting
 * for the end of a chain counts for all of it.
 *
 * Every handle holds a record, NULL when the layer is off: then the calls below are skipped by one
 * branch. Handles that were destroyed keep their memory until the runtime goes, so that a late use
 * is a finding and not a crash. All functions are free-threaded. */
#ifndef CORE_VALIDATE_H
#define CORE_VALIDATE_H

#include <stdbool.h>
#include <stdint.h>

#include "consort/plugin.h"
#include "core/log.h"

typedef struct cs_validator cs_validator;
typedef struct cs_record cs_record;

typedef enum cs_record_kind {
  CS_RECORD_DEVICE,
  CS_RECORD_BUFFER,
  CS_RECORD_STREAM,
  CS_RECORD_SEMAPHORE,
  CS_RECORD_PROGRAM
} cs_record_kind;

/* NULL when out of memory. Findings go to `log` as errors. */
cs_validator *cs_validator_create(cs_log *log);
/* Frees the books and every handle that was buried. NULL is fine. */
void cs_validator_destroy(cs_validator *validator);
/* Logs every object that is alive; NULL is fine. */
void cs_validator_report(cs_validator *validator);

/* A new handle. `device` is its device's name, copied. NULL when validator is NULL or out of
 * memory: the handle is then not watched. */
cs_record *cs_record_create(cs_validator *validator, cs_record_kind kind, void *handle,
                            const char *device);
/* What a buffer's tensors may reach; packed memory has no extents of its own. */
void cs_record_set_memory(cs_record *record, const cs_plugin_memory *memory, uint64_t bytes,
                          bool packed);

/* CS_INVALID_ARGUMENT when the handle was destroyed. */
cs_status cs_record_check(cs_record *record, cs_error *error);
/* Before a destroy: false, and a finding, when it has happened before. Also a finding: work that
 * uses the object may still run. */
bool cs_record_may_destroy(cs_record *record);
/* Instead of free(handle). */
void cs_record_bury(cs_record *record);

/* One call on a stream begins and ends; a second thread in between is a finding. */
cs_status cs_record_enter(cs_record *stream, cs_error *error);
void cs_record_leave(cs_record *stream);

/* What the call between enter and leave enqueued. */
void cs_record_uses_buffer(cs_record *stream, cs_record *buffer);
cs_status cs_record_uses_ops(cs_record *stream, const cs_op *ops, uint32_t n_ops, cs_error *error);
void cs_record_uses_program(cs_record *stream, cs_record *program);
void cs_record_waits(cs_record *stream, cs_record *semaphore, uint64_t value);
void cs_record_signals(cs_record *stream, cs_record *semaphore, uint64_t value);
void cs_record_forwards(cs_record *from, uint64_t from_value, cs_record *to, uint64_t to_value);

/* The memory that a program's ops name; checks their extents like cs_record_uses_ops. */
cs_status cs_record_set_ops(cs_record *program, const cs_op *ops, uint32_t n_ops, cs_error *error);

/* The host has seen a semaphore at `value` (UINT64_MAX: it failed), or a stream idle. */
void cs_record_reached(cs_record *semaphore, uint64_t value);
void cs_record_idle(cs_record *stream);

#endif
