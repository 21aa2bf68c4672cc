/* Reading an architecture's metadata: each value is checked against its range, and errors name the
 * file and the key. */
#ifndef MODELS_CONFIG_READER_H
#define MODELS_CONFIG_READER_H

#include "models/gguf.h"

#define CS_CONFIG_KEY_BYTES 96

typedef struct cs_config_reader {
  const char *prefix; /* of keys: "llama" */
  const cs_gguf *gguf;
  cs_error *error;
  char key[CS_CONFIG_KEY_BYTES]; /* the key that was asked for last */
} cs_config_reader;

/* "llama.block_count" for "block_count", kept in reader->key. */
const char *cs_config_key(cs_config_reader *reader, const char *suffix);

/* An integer from 1 to `most`. An absent key leaves *value as it is when that is not 0, and is
 * CS_CORRUPT when it is. */
cs_status cs_config_read_count(cs_config_reader *reader, const char *suffix, uint32_t most,
                               uint32_t *value);

/* The same, but the key may be absent and may be 0. */
cs_status cs_config_read_optional_count(cs_config_reader *reader, const char *suffix, uint32_t most,
                                        uint32_t *value);

/* A finite number above 0; absent keys as in cs_config_read_count. */
cs_status cs_config_read_positive(cs_config_reader *reader, const char *suffix, double *value);

#endif
