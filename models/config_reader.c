/* Metadata comes from files of any origin, so that a value is believed only within the range that
 * its use can bear; what is refused is refused with the key's full name. */
#include "models/config_reader.h"

#include <math.h>
#include <stdio.h>

const char *cs_config_key(cs_config_reader *reader, const char *suffix) {
  snprintf(reader->key, sizeof reader->key, "%s.%s", reader->prefix, suffix);
  return reader->key;
}

static cs_status read_whole(cs_config_reader *r, const char *key, uint64_t least, uint32_t most,
                            uint32_t *value) {
  uint64_t found;
  if (!cs_gguf_get_u64(r->gguf, key, &found))
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT, "key \"%s\" is %s", key,
                        cs_gguf_has(r->gguf, key) ? "not a whole number" : "missing");
  if (found < least || found > most)
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT, "key \"%s\": %llu is out of range", key,
                        (unsigned long long)found);
  *value = (uint32_t)found;
  return CS_OK;
}

cs_status cs_config_read_count(cs_config_reader *r, const char *suffix, uint32_t most,
                               uint32_t *value) {
  const char *key = cs_config_key(r, suffix);
  if (!cs_gguf_has(r->gguf, key) && *value != 0) return CS_OK;
  return read_whole(r, key, 1, most, value);
}

cs_status cs_config_read_optional_count(cs_config_reader *r, const char *suffix, uint32_t most,
                                        uint32_t *value) {
  const char *key = cs_config_key(r, suffix);
  return cs_gguf_has(r->gguf, key) ? read_whole(r, key, 0, most, value) : CS_OK;
}

cs_status cs_config_read_positive(cs_config_reader *r, const char *suffix, double *value) {
  const char *key = cs_config_key(r, suffix);
  if (!cs_gguf_has(r->gguf, key) && *value != 0) return CS_OK;
  if (!cs_gguf_get_f64(r->gguf, key, value))
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT, "key \"%s\" is %s", key,
                        cs_gguf_has(r->gguf, key) ? "not a floating-point number" : "missing");
  if (!isfinite(*value) || *value <= 0)
    return cs_gguf_fail(r->gguf, r->error, CS_CORRUPT, "key \"%s\": %g is out of range", key,
                        *value);
  return CS_OK;
}
