/* Errors and the struct size rule. Every write is bounded by the size that the other side stated,
 * so that plugin and host may be of different ages. */
#include "consort/sdk.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

cs_status cs_sdk_error(cs_error *error, cs_status code, int64_t vendor_code, const char *format,
                       ...) {
  if (!error) return code;
  cs_error record = {
      .struct_size = sizeof record, .code = code, .vendor_code = vendor_code, .op_index = -1};
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(record.message, sizeof record.message, format, arguments);
  va_end(arguments);
  cs_sdk_struct_write(error, &record, sizeof record);
  return code;
}

cs_status cs_sdk_struct_read(void *to, uint32_t to_bytes, const void *from, cs_error *error) {
  uint32_t from_bytes;
  memcpy(&from_bytes, from, sizeof from_bytes);
  if (from_bytes < sizeof from_bytes)
    return cs_sdk_error(error, CS_INVALID_ARGUMENT, 0, "struct_size %u is too small", from_bytes);
  const unsigned char *bytes = from;
  for (uint32_t i = to_bytes; i < from_bytes; i++)
    if (bytes[i] != 0)
      return cs_sdk_error(error, CS_UNSUPPORTED, 0,
                          "a struct of %u bytes uses fields that this side does not know (%u)",
                          from_bytes, to_bytes);
  memset(to, 0, to_bytes);
  memcpy(to, from, from_bytes < to_bytes ? from_bytes : to_bytes);
  memcpy(to, &to_bytes, sizeof to_bytes);
  return CS_OK;
}

void cs_sdk_struct_write(void *to, const void *from, uint32_t from_bytes) {
  uint32_t to_bytes;
  memcpy(&to_bytes, to, sizeof to_bytes);
  const uint32_t known = to_bytes < from_bytes ? to_bytes : from_bytes;
  if (known <= sizeof to_bytes) return;
  memcpy((char *)to + sizeof to_bytes, (const char *)from + sizeof to_bytes,
         known - sizeof to_bytes);
}

cs_status cs_sdk_query(const cs_host *host, cs_plugin *plugin, const char *name,
                       const char *version, const char *vendor,
                       const void *(*table)(uint32_t id, uint32_t revision)) {
  if (!host || !plugin) return CS_INVALID_ARGUMENT;
  const uint32_t newest = CS_ABI_VERSION;
  cs_host known;
  const cs_status status = cs_sdk_struct_read(&known, sizeof known, host, NULL);
  if (status != CS_OK) return status;
  if (known.abi_min > newest) return CS_UNSUPPORTED;
  const cs_plugin answer = {.struct_size = sizeof answer,
                            .abi_version = known.abi_max < newest ? known.abi_max : newest,
                            .name = name,
                            .version = version,
                            .vendor = vendor,
                            .table = table};
  cs_sdk_struct_write(plugin, &answer, sizeof answer);
  return CS_OK;
}
