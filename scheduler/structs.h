/* Structs of consort.h that cross the library's boundary: callers compiled against an older or a
 * newer header are served as far as both sides understand each other. */
#ifndef SCHEDULER_STRUCTS_H
#define SCHEDULER_STRUCTS_H

#include <stddef.h>

#include "consort/status.h"

/* Copies the caller's options into *known and zeroes what an older caller does not have. NULL
 * `given` is all zero. CS_INVALID_ARGUMENT names `what` when struct_size was not set,
 * CS_UNSUPPORTED when a newer caller uses a field that this side does not know. */
cs_status cs_struct_read(void *known, size_t known_bytes, const void *given, const char *what,
                         cs_error *error);

/* Copies *known to the caller's struct, as much as fits into its struct_size, which stays. */
cs_status cs_struct_write(void *given, const void *known, size_t known_bytes, const char *what,
                          cs_error *error);

#endif
