/* Status codes and the error record, shared by the plugin ABI and everything above it. */
#ifndef CONSORT_STATUS_H
#define CONSORT_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t cs_status;

/* Numbers are never used again for another meaning. A status this side does not know is a failure.
 */
#define CS_OK                0
#define CS_INVALID_ARGUMENT  1  /* the caller broke a rule of the contract */
#define CS_OUT_OF_RANGE      2  /* an offset, index or size lies outside its object */
#define CS_UNSUPPORTED       3  /* a legal request that this side does not serve */
#define CS_OUT_OF_MEMORY     4  /* host or device memory is exhausted */
#define CS_TIMEOUT           5  /* the deadline passed first; nothing else changed */
#define CS_FAILED            6  /* the operation ran and failed */
#define CS_DEVICE_LOST       7  /* sticky: only destroy calls still do anything */
#define CS_NEEDS_NEW_PROCESS 8  /* the device can be opened again only by a new process */
#define CS_NOT_FOUND         9  /* no such file, device, plugin or name */
#define CS_CORRUPT           10 /* data contradicts its own format, size or checksum */
#define CS_IO                11 /* the operating system refused to read or write */
#define CS_CANCELLED         12 /* ended on request */
#define CS_EXHAUSTED         13 /* a bounded pool or queue is full; later it may not be */

#define CS_ERROR_MESSAGE_BYTES 256

/* What went wrong. Owned by the caller, filled by the callee only on failure; every function that
 * takes one accepts NULL. `message` is one line without a final full stop, NUL-terminated. */
typedef struct cs_error {
  uint32_t struct_size; /* set by the caller: sizeof(cs_error) */
  cs_status code;
  int64_t vendor_code; /* the driver's own number, 0 where there is none */
  int32_t op_index;    /* index into the op list that failed, -1 where none is to blame */
  uint32_t reserved;
  char message[CS_ERROR_MESSAGE_BYTES];
} cs_error;

#define CS_ERROR_INIT                                                                              \
  { .struct_size = sizeof(cs_error), .op_index = -1 }

#ifdef __cplusplus
}
#endif

#endif
