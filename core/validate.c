/* Placeholder of the books: see validate.h. */
#include "core/validate.h"

#include <stdlib.h>

struct cs_validator {
  cs_log *log;
};

cs_validator *cs_validator_create(cs_log *log) {
  cs_validator *validator = calloc(1, sizeof *validator);
  if (validator) validator->log = log;
  return validator;
}

void cs_validator_destroy(cs_validator *validator) {
  free(validator);
}

void cs_validator_report(cs_validator *validator) {
  (void)validator;
}
