/* The validation layer (CONSORT_VALIDATE=1): what the checks of the front door cannot see without
 * keeping books. NULL is a validator that is switched off; every call then does nothing.
 *
 * It finds: handles that are used after destroy or never were one, tensors outside their buffer,
 * a stream used by two threads at once, buffers destroyed or read by the host before the work that
 * uses them was waited for, and objects that are alive when the last owner leaves. */
#ifndef CORE_VALIDATE_H
#define CORE_VALIDATE_H

#include <stdint.h>

#include "core/log.h"

typedef struct cs_validator cs_validator;

/* NULL when out of memory. Findings go to `log` as errors. */
cs_validator *cs_validator_create(cs_log *log);
void cs_validator_destroy(cs_validator *validator);

/* Logs every object that is still alive. */
void cs_validator_report(cs_validator *validator);

#endif
