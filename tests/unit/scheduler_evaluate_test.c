/* Perplexity, divergence and agreement of rows whose values are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "scheduler/evaluate_rows.h"

static void expect_near(double value, double expected) {
  if (!(fabs(value - expected) <= 1e-6 * (1 + fabs(expected))))
    fail_msg("%.12g instead of %.12g", value, expected);
}

static void add(cs_evaluation *sums, const float *logits, const float *other, int32_t next) {
  assert_int_equal(cs_evaluation_add(sums, logits, other, 4, next, 1e-4, NULL), CS_OK);
}

static void equal_logits_have_the_vocabularys_size_as_perplexity(void **state) {
  (void)state;
  cs_evaluation sums = {0};
  for (int i = 0; i < 5; i++)
    add(&sums, (float[]){3, 3, 3, 3}, NULL, i % 4);
  expect_near(cs_evaluation_perplexity(&sums), 4);
  expect_near(cs_evaluation_perplexity_error(&sums), 0);
  assert_true(isnan(cs_evaluation_mean_divergence(&sums)));
  cs_evaluation_free(&sums);
}

static void perplexity_is_the_geometric_mean(void **state) {
  (void)state;
  cs_evaluation sums = {0};
  const float logits[] = {logf(1), logf(2), logf(4), logf(1)}; /* 1/8, 1/4, 1/2, 1/8 */
  add(&sums, logits, NULL, 0);
  add(&sums, logits, NULL, 2);
  expect_near(cs_evaluation_perplexity(&sums), 4); /* sqrt(8 * 2) */
  /* Of ln 8 and ln 2 the standard deviation is ln(4) / sqrt(2), the standard error ln(4) / 2. */
  expect_near(cs_evaluation_perplexity_error(&sums), 4 * log(4) / 2);
  cs_evaluation_free(&sums);
}

static void divergence_is_that_of_kullback_and_leibler(void **state) {
  (void)state;
  cs_evaluation sums = {0};
  const float p[] = {logf(4) + 100, logf(2) + 100, logf(1) + 100, logf(1) + 100};
  const float q[] = {logf(2), logf(4), logf(1), logf(1)};
  add(&sums, p, p, 0);
  add(&sums, p, q, 0);
  add(&sums, p, p, 0);
  const double expected = 0.5 * log(2) - 0.25 * log(2);
  expect_near(cs_evaluation_mean_divergence(&sums), expected / 3);
  expect_near(cs_evaluation_divergence(&sums, 1), expected);
  expect_near(cs_evaluation_divergence(&sums, 0.5), 0);
  assert_int_equal(sums.n_same_top, 2);
  cs_evaluation_free(&sums);
}

static void near_ties_are_those_of_the_reference(void **state) {
  (void)state;
  cs_evaluation sums = {0};
  const float clear[] = {10, 0, 0, 0}, tie[] = {10, 9.9f, 0, 0}, other[] = {0, 10, 0, 0};
  add(&sums, clear, other, 0); /* threshold 6 * 0.01 * 5 = 0.3 */
  assert_int_equal(sums.n_near_ties, 0);
  assert_int_equal(sums.n_clear_differences, 1);
  add(&sums, tie, other, 0);
  assert_int_equal(sums.n_near_ties, 1);
  assert_int_equal(sums.n_clear_differences, 1);
  add(&sums, other, tie, 0);
  assert_int_equal(sums.n_near_ties, 1);
  assert_int_equal(sums.n_clear_differences, 2);
  assert_int_equal(sums.n_same_top, 0);
  cs_evaluation_free(&sums);
}

static void logits_that_are_no_numbers_are_refused(void **state) {
  (void)state;
  cs_evaluation sums = {0};
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_evaluation_add(&sums, (float[]){0, NAN, 0, 0}, NULL, 4, 0, 1e-4, &error),
                   CS_CORRUPT);
  assert_string_equal(error.message, "logit 1 is not finite");
  const float good[] = {0, 1, 0, 0};
  assert_int_equal(cs_evaluation_add(&sums, good, (float[]){0, 0, 0, INFINITY}, 4, 0, 1e-4, NULL),
                   CS_CORRUPT);
  assert_int_equal(sums.n_rows, 0);
  cs_evaluation_free(&sums);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equal_logits_have_the_vocabularys_size_as_perplexity),
      cmocka_unit_test(perplexity_is_the_geometric_mean),
      cmocka_unit_test(divergence_is_that_of_kullback_and_leibler),
      cmocka_unit_test(near_ties_are_those_of_the_reference),
      cmocka_unit_test(logits_that_are_no_numbers_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
