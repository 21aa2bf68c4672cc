/* The journal: for each request what a worker needs to take it over from another - prompt,
 * accepted tokens, sampling parameters with their seed. Sampling is a pure function of logits,
 * seed and position, so these are all the state there is. */
#ifndef SCHEDULER_JOURNAL_H
#define SCHEDULER_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include "models/sampler.h"

typedef struct cs_journal cs_journal; /* used by one thread at a time */

typedef struct cs_journal_entry {
  uint64_t request;
  uint32_t epoch;    /* of the present attempt */
  uint32_t n_output; /* tokens to generate at most */
  cs_sampler_params sampler;
  uint32_t n_prompt;
  uint32_t n_tokens; /* prompt and accepted */
  int32_t *tokens;   /* (n_prompt + n_output) reserved; owned by the journal */
} cs_journal_entry;

/* NULL when out of memory. */
cs_journal *cs_journal_create(void);
void cs_journal_destroy(cs_journal *journal);

/* Copies the prompt. *out is borrowed until cs_journal_close. */
cs_status cs_journal_open(cs_journal *journal, uint64_t request, const int32_t *prompt,
                          uint32_t n_prompt, uint32_t n_output, const cs_sampler_params *sampler,
                          cs_journal_entry **out, cs_error *error);
/* NULL when it is not open. */
cs_journal_entry *cs_journal_find(cs_journal *journal, uint64_t request);
/* Accepts generated token `index`: CS_CORRUPT unless it is the next one, so that none is lost or
 * repeated. */
cs_status cs_journal_accept(cs_journal_entry *entry, uint32_t index, int32_t token,
                            cs_error *error);
void cs_journal_close(cs_journal *journal, uint64_t request);

#endif
