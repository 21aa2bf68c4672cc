/* An error is one line: what a plugin or the operating system put in may hold line feeds, so
 * every message is cleaned once, where it enters the record. */
#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const status_names[] = {
    [CS_OK] = "no error",
    [CS_INVALID_ARGUMENT] = "invalid argument",
    [CS_OUT_OF_RANGE] = "out of range",
    [CS_UNSUPPORTED] = "unsupported",
    [CS_OUT_OF_MEMORY] = "out of memory",
    [CS_TIMEOUT] = "deadline passed",
    [CS_FAILED] = "failed",
    [CS_DEVICE_LOST] = "device lost",
    [CS_NEEDS_NEW_PROCESS] = "needs a new process",
    [CS_NOT_FOUND] = "not found",
    [CS_CORRUPT] = "corrupt",
    [CS_IO] = "input or output error",
    [CS_CANCELLED] = "cancelled",
    [CS_EXHAUSTED] = "exhausted",
};

const char *cs_status_name(cs_status status) {
  const size_t n_names = sizeof status_names / sizeof status_names[0];
  if (status < 0 || (size_t)status >= n_names) return "unknown status";
  return status_names[status];
}

static void flatten(char *message) {
  for (char *c = message; *c; c++) {
    if ((unsigned char)*c < 0x20) *c = ' ';
  }
}

cs_status cs_error_set(cs_error *error, cs_status code, const char *format, ...) {
  if (!error) return code;
  error->code = code;
  error->vendor_code = 0;
  error->op_index = -1;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  flatten(error->message);
  return code;
}

cs_status cs_error_prefix(cs_error *error, cs_status status, const char *format, ...) {
  if (!error) return status;
  char prefix[CS_ERROR_MESSAGE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(prefix, sizeof prefix, format, arguments);
  va_end(arguments);
  char rest[CS_ERROR_MESSAGE_BYTES];
  error->message[sizeof error->message - 1] = '\0';
  memcpy(rest, error->message, sizeof rest);
  const int n = snprintf(error->message, sizeof error->message, "%s: ", prefix);
  if (n > 0 && (size_t)n < sizeof error->message) {
    snprintf(error->message + n, sizeof error->message - (size_t)n, "%s", rest);
  }
  flatten(error->message);
  return error->code;
}
