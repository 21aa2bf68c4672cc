/* What plugins do with the host's memory, and with memory that others made. */
#include "consort/sdk.h"

#include <string.h>
#include <sys/stat.h>

#define LEAST_BYTES 4096

bool cs_sdk_grow(const cs_host *host, void **array, uint64_t used_bytes, uint64_t wanted_bytes,
                 uint64_t *capacity_bytes) {
  if (wanted_bytes <= *capacity_bytes) return true;
  if (wanted_bytes > SIZE_MAX / 2) return false;
  const uint64_t larger = 2 * wanted_bytes < LEAST_BYTES ? LEAST_BYTES : 2 * wanted_bytes;
  void *copy = host->allocate(host->context, larger, 16);
  if (!copy) return false;
  if (*array) memcpy(copy, *array, used_bytes);
  host->deallocate(host->context, *array);
  *array = copy;
  *capacity_bytes = larger;
  return true;
}

cs_status cs_sdk_check_import(uint32_t type, int64_t handle, uint64_t bytes, cs_error *error) {
  struct stat found;
  if (type != CS_EXTERNAL_FD)
    return cs_sdk_error(error, CS_UNSUPPORTED, 0, "external memory of type %u", type);
  if (bytes == 0 || handle < 0 || handle > INT32_MAX || fstat((int)handle, &found) != 0 ||
      !S_ISREG(found.st_mode) || found.st_size < 0 || (uint64_t)found.st_size < bytes)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "not a descriptor of %llu bytes",
                        (unsigned long long)bytes);
  return CS_OK;
}
