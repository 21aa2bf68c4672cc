/* Stop strings: found across pieces, never shown in part, and nothing else is kept back for long.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/answer_text.h"

static cs_answer_text begin(const char *const *stops, uint32_t n_stops) {
  cs_answer_text answer;
  assert_int_equal(cs_answer_text_init(&answer, stops, n_stops, NULL), CS_OK);
  return answer;
}

static void add(cs_answer_text *answer, const char *piece, const char *shown) {
  assert_int_equal(cs_answer_text_append(answer, piece, strlen(piece), NULL), CS_OK);
  assert_int_equal(answer->n_shown, strlen(shown));
  assert_memory_equal(answer->text, shown, strlen(shown));
}

static void without_stops_all_is_shown(void **state) {
  (void)state;
  cs_answer_text answer = begin(NULL, 0);
  add(&answer, "Once", "Once");
  add(&answer, "", "Once");
  add(&answer, " upon a time", "Once upon a time");
  assert_false(answer.stopped);
  cs_answer_text_free(&answer);
}

static void a_stop_is_found_across_pieces(void **state) {
  (void)state;
  cs_answer_text answer = begin((const char *[]){"\n\nUser:"}, 1);
  add(&answer, "Hello.\n", "Hello.");
  add(&answer, "\nUs", "Hello.");
  add(&answer, "er: and more", "Hello.");
  assert_true(answer.stopped);
  assert_string_equal(answer.text, "Hello.");
  add(&answer, "late", "Hello.");
  cs_answer_text_free(&answer);
}

static void what_turns_out_not_to_stop_is_shown(void **state) {
  (void)state;
  cs_answer_text answer = begin((const char *[]){"abac"}, 1);
  add(&answer, "aba", "");
  add(&answer, "b", "ab"); /* "ab" may begin it again */
  add(&answer, "ac", "ab");
  assert_true(answer.stopped);
  assert_string_equal(answer.text, "ab");
  cs_answer_text_free(&answer);
}

static void what_is_kept_back_comes_at_the_end(void **state) {
  (void)state;
  cs_answer_text answer = begin((const char *[]){"###", "\n\n"}, 2);
  add(&answer, "a ##", "a ");
  cs_answer_text_end(&answer);
  assert_int_equal(answer.n_shown, 4);
  assert_string_equal(answer.text, "a ##");
  assert_false(answer.stopped);
  cs_answer_text_free(&answer);
}

static void the_first_of_several_stops_counts(void **state) {
  (void)state;
  cs_answer_text answer = begin((const char *[]){"world", "lo w", "o"}, 3);
  add(&answer, "Hello world", "Hel"); /* "lo w" begins before "o" */
  cs_answer_text_free(&answer);
}

static void pieces_longer_than_the_buffer_grow_it(void **state) {
  (void)state;
  cs_answer_text answer = begin((const char *[]){"END"}, 1);
  for (int i = 0; i < 500; i++)
    assert_int_equal(cs_answer_text_append(&answer, "0123456789", 10, NULL), CS_OK);
  assert_int_equal(answer.n_shown, 5000);
  assert_int_equal(cs_answer_text_append(&answer, "E", 1, NULL), CS_OK);
  assert_int_equal(answer.n_shown, 5000);
  cs_answer_text_free(&answer);
}

static void a_stop_must_be_text(void **state) {
  (void)state;
  cs_answer_text answer;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_answer_text_init(&answer, (const char *[]){"ok", ""}, 2, &error),
                   CS_INVALID_ARGUMENT);
  assert_string_equal(error.message, "stop string 1 is empty");
  cs_answer_text_free(&answer);
  assert_int_equal(cs_answer_text_init(&answer, (const char *[]){"\xff"}, 1, &error),
                   CS_INVALID_ARGUMENT);
  assert_string_equal(error.message, "stop string 0 is not UTF-8");
  cs_answer_text_free(&answer);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(without_stops_all_is_shown),
      cmocka_unit_test(a_stop_is_found_across_pieces),
      cmocka_unit_test(what_turns_out_not_to_stop_is_shown),
      cmocka_unit_test(what_is_kept_back_comes_at_the_end),
      cmocka_unit_test(the_first_of_several_stops_counts),
      cmocka_unit_test(pieces_longer_than_the_buffer_grow_it),
      cmocka_unit_test(a_stop_must_be_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
