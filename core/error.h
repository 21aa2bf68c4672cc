/* Filling and naming errors; the record itself is consort/status.h. */
#ifndef CORE_ERROR_H
#define CORE_ERROR_H

#include "consort/status.h"

/* "out of memory" for CS_OUT_OF_MEMORY; never NULL. */
const char *cs_status_name(cs_status status);

/* Fills *error (may be NULL) with code, op_index -1 and a printf-style one-line message, cut to
 * fit. Returns code, so that failing paths read `return cs_error_set(error, CS_..., ...)`. */
cs_status cs_error_set(cs_error *error, cs_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "WHAT: " before the message of an error that a callee filled; keeps the rest. Returns
 * error->code, or `status` when error is NULL. */
cs_status cs_error_prefix(cs_error *error, cs_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
