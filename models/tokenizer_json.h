/* The inside of reading a tokenizer.json: one file with the vocabulary, one with the steps. */
#ifndef MODELS_TOKENIZER_JSON_H
#define MODELS_TOKENIZER_JSON_H

#include <jansson.h>

#include "models/tokenizer_internal.h"

typedef struct cs_json_reader {
  const char *name; /* of the file, in errors */
  cs_tokenizer *tokenizer;
  cs_error *error;
  uint32_t depth; /* of sequences within sequences */
} cs_json_reader;

/* Fills the error with "NAME: " and a reason, on one line whatever the file holds. */
cs_status cs_json_fail(const cs_json_reader *reader, cs_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same around what a callee said. */
cs_status cs_json_fail_with(const cs_json_reader *reader, cs_status code, const char *what,
                            const cs_error *why);

bool cs_json_bool(const json_t *object, const char *key, bool usual);
/* "" when absent or no string. */
const char *cs_json_text(const json_t *object, const char *key);

/* A token of the configuration, a string or an object whose "content" is one; -1: none. */
int32_t cs_json_token(const cs_tokenizer *tokenizer, const json_t *config, const char *key);

/* Each takes the section of that name; NULL and JSON's null mean none. */
cs_status cs_json_normalizer(cs_json_reader *reader, const json_t *section);
cs_status cs_json_pre_tokenizer(cs_json_reader *reader, const json_t *section);
cs_status cs_json_post_processor(cs_json_reader *reader, const json_t *section);
cs_status cs_json_decoder(cs_json_reader *reader, const json_t *section);

#endif
