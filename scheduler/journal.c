/* A handful of requests are open at a time, so a list serves; an entry's tokens are reserved in
 * full when it is opened, so that accepting one cannot fail for want of memory. */
#include "scheduler/journal.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"

typedef struct journal_node {
  cs_journal_entry entry; /* first: an entry is found in its journal_node */
  struct journal_node *next;
} journal_node;

struct cs_journal {
  journal_node *first;
};

cs_journal *cs_journal_create(void) {
  return calloc(1, sizeof(cs_journal));
}

static void node_free(journal_node *node) {
  free(node->entry.tokens);
  free(node);
}

void cs_journal_destroy(cs_journal *journal) {
  if (!journal) return;
  while (journal->first) {
    journal_node *const next = journal->first->next;
    node_free(journal->first);
    journal->first = next;
  }
  free(journal);
}

cs_status cs_journal_open(cs_journal *journal, uint64_t request, const int32_t *prompt,
                          uint32_t n_prompt, uint32_t n_output, const cs_sampler_params *sampler,
                          cs_journal_entry **out, cs_error *error) {
  *out = NULL;
  if (cs_journal_find(journal, request))
    return cs_error_set(error, CS_INVALID_ARGUMENT, "request %llu is open already",
                        (unsigned long long)request);
  journal_node *const added = calloc(1, sizeof *added);
  int32_t *const tokens = malloc(((size_t)n_prompt + n_output + 1) * sizeof *tokens);
  if (!added || !tokens) {
    free(added);
    free(tokens);
    return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a request of %u tokens", n_prompt);
  }
  if (n_prompt > 0) memcpy(tokens, prompt, n_prompt * sizeof *tokens);
  added->entry = (cs_journal_entry){.request = request,
                                    .epoch = 1,
                                    .n_output = n_output,
                                    .sampler = *sampler,
                                    .n_prompt = n_prompt,
                                    .n_tokens = n_prompt,
                                    .tokens = tokens};
  added->next = journal->first;
  journal->first = added;
  *out = &added->entry;
  return CS_OK;
}

cs_journal_entry *cs_journal_find(cs_journal *journal, uint64_t request) {
  for (journal_node *at = journal->first; at; at = at->next)
    if (at->entry.request == request) return &at->entry;
  return NULL;
}

cs_status cs_journal_accept(cs_journal_entry *entry, uint32_t index, int32_t token,
                            cs_error *error) {
  if (index != entry->n_tokens - entry->n_prompt || index >= entry->n_output)
    return cs_error_set(error, CS_CORRUPT, "request %llu: token %u came where %u was next",
                        (unsigned long long)entry->request, index,
                        entry->n_tokens - entry->n_prompt);
  entry->tokens[entry->n_tokens++] = token;
  return CS_OK;
}

void cs_journal_close(cs_journal *journal, uint64_t request) {
  for (journal_node **at = &journal->first; *at; at = &(*at)->next)
    if ((*at)->entry.request == request) {
      journal_node *const closed = *at;
      *at = closed->next;
      node_free(closed);
      return;
    }
}
