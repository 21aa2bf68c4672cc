/* A zero tail means "as before", so a newer caller that uses nothing new is served. */
#include "scheduler/structs.h"

#include <stdint.h>
#include <string.h>

#include "core/error.h"

static cs_status check_size(const void *given, const char *what, uint32_t *bytes, cs_error *error) {
  memcpy(bytes, given, sizeof *bytes);
  if (*bytes >= sizeof *bytes) return CS_OK;
  return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: struct_size is not set", what);
}

cs_status cs_struct_read(void *known, size_t known_bytes, const void *given, const char *what,
                         cs_error *error) {
  memset(known, 0, known_bytes);
  uint32_t given_bytes = 0;
  if (given) {
    const cs_status status = check_size(given, what, &given_bytes, error);
    if (status != CS_OK) return status;
    memcpy(known, given, given_bytes < known_bytes ? given_bytes : known_bytes);
  }
  for (size_t i = known_bytes; i < given_bytes; i++)
    if (((const unsigned char *)given)[i] != 0)
      return cs_error_set(error, CS_UNSUPPORTED, "%s: a field at byte %zu is not known here", what,
                          i);
  const uint32_t struct_size = (uint32_t)known_bytes;
  memcpy(known, &struct_size, sizeof struct_size);
  return CS_OK;
}

cs_status cs_struct_write(void *given, const void *known, size_t known_bytes, const char *what,
                          cs_error *error) {
  if (!given) return cs_error_set(error, CS_INVALID_ARGUMENT, "%s: no struct to fill", what);
  uint32_t given_bytes;
  const cs_status status = check_size(given, what, &given_bytes, error);
  if (status != CS_OK) return status;
  const size_t bytes = given_bytes < known_bytes ? given_bytes : known_bytes;
  memcpy((char *)given + sizeof given_bytes, (const char *)known + sizeof given_bytes,
         bytes - sizeof given_bytes);
  return CS_OK;
}
