/* The journal: no token is lost, repeated or exchanged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/journal.h"

static const int32_t prompt[] = {1, 2, 3};
static const cs_sampler_params greedy = CS_SAMPLER_GREEDY;

static void accepted_tokens_follow_the_prompt(void **state) {
  (void)state;
  cs_journal *const journal = cs_journal_create();
  cs_journal_entry *entry;
  assert_int_equal(cs_journal_open(journal, 7, prompt, 3, 2, &greedy, &entry, NULL), CS_OK);
  assert_int_equal(cs_journal_accept(entry, 0, 40, NULL), CS_OK);
  assert_int_equal(cs_journal_accept(entry, 1, 41, NULL), CS_OK);
  assert_int_equal(entry->n_tokens, 5);
  assert_int_equal(entry->tokens[3], 40);
  assert_int_equal(entry->tokens[4], 41);
  assert_int_equal(cs_journal_accept(entry, 2, 42, NULL), CS_CORRUPT); /* more than asked for */
  cs_journal_destroy(journal);
}

static void a_token_may_come_twice_in_a_row(void **state) {
  (void)state;
  cs_journal *const journal = cs_journal_create();
  cs_journal_entry *entry;
  assert_int_equal(cs_journal_open(journal, 7, prompt, 3, 3, &greedy, &entry, NULL), CS_OK);
  for (uint32_t i = 0; i < 3; i++)
    assert_int_equal(cs_journal_accept(entry, i, 40, NULL), CS_OK);
  assert_int_equal(entry->n_tokens, 6);
  for (uint32_t i = 3; i < 6; i++)
    assert_int_equal(entry->tokens[i], 40);
  cs_journal_destroy(journal);
}

static void tokens_out_of_order_are_refused(void **state) {
  (void)state;
  cs_journal *const journal = cs_journal_create();
  cs_journal_entry *entry;
  assert_int_equal(cs_journal_open(journal, 7, prompt, 3, 5, &greedy, &entry, NULL), CS_OK);
  assert_int_equal(cs_journal_accept(entry, 1, 40, NULL), CS_CORRUPT); /* lost */
  assert_int_equal(cs_journal_accept(entry, 0, 40, NULL), CS_OK);
  assert_int_equal(cs_journal_accept(entry, 0, 40, NULL), CS_CORRUPT); /* repeated */
  assert_int_equal(entry->n_tokens, 4);
  cs_journal_destroy(journal);
}

static void entries_are_found_until_closed(void **state) {
  (void)state;
  cs_journal *const journal = cs_journal_create();
  cs_journal_entry *a, *b;
  assert_int_equal(cs_journal_open(journal, 1, prompt, 3, 5, &greedy, &a, NULL), CS_OK);
  assert_int_equal(cs_journal_open(journal, 2, prompt, 2, 5, &greedy, &b, NULL), CS_OK);
  assert_int_equal(cs_journal_open(journal, 2, prompt, 2, 5, &greedy, &b, NULL),
                   CS_INVALID_ARGUMENT);
  assert_ptr_equal(cs_journal_find(journal, 1), a);
  cs_journal_close(journal, 1);
  assert_null(cs_journal_find(journal, 1));
  assert_non_null(cs_journal_find(journal, 2));
  cs_journal_destroy(journal);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(accepted_tokens_follow_the_prompt),
      cmocka_unit_test(a_token_may_come_twice_in_a_row),
      cmocka_unit_test(tokens_out_of_order_are_refused),
      cmocka_unit_test(entries_are_found_until_closed),
  };
  return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
