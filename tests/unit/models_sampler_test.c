/* The sampler: its filters, its edges, and that a draw is a function of its arguments alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "models/sampler.h"

static int32_t sample(cs_sampler_params params, uint64_t position, const float *logits, size_t n) {
  int32_t token = -2;
  assert_int_equal(cs_sample(&params, position, logits, n, &token, NULL), CS_OK);
  return token;
}

static void zero_temperature_takes_the_first_of_the_largest(void **state) {
  (void)state;
  const cs_sampler_params greedy = CS_SAMPLER_GREEDY;
  assert_int_equal(sample(greedy, 0, (float[]){1, 3, 2, 3}, 4), 1);
  assert_int_equal(sample(greedy, 0, (float[]){NAN, -5, NAN, -4}, 4), 3);
  assert_int_equal(sample(greedy, 0, (float[]){-INFINITY, -5}, 2), 1);
  assert_int_equal(sample(greedy, 0, (float[]){1, INFINITY}, 2), 1);
  assert_int_equal(sample(greedy, 0, (float[]){-7}, 1), 0);
}

static void top_k_of_one_is_greedy(void **state) {
  (void)state;
  const cs_sampler_params params = {.temperature = 2, .top_k = 1, .top_p = 1};
  for (uint64_t position = 0; position < 100; position++)
    assert_int_equal(sample(params, position, (float[]){1, 1.1f, 1.1f}, 3), 1);
}

static void without_a_finite_logit_there_is_no_token(void **state) {
  (void)state;
  const float nothing[] = {NAN, -INFINITY, NAN};
  cs_sampler_params params = {.temperature = 1, .top_p = 1};
  cs_error error = CS_ERROR_INIT;
  int32_t token;
  assert_int_equal(cs_sample(&params, 0, nothing, 3, &token, &error), CS_FAILED);
  params.temperature = 0;
  assert_int_equal(cs_sample(&params, 0, nothing, 3, &token, &error), CS_FAILED);
  assert_int_equal(cs_sample(&params, 0, nothing, 0, &token, &error), CS_FAILED);
}

static void parameters_out_of_range_are_named(void **state) {
  (void)state;
  const struct {
    cs_sampler_params params;
    const char *name;
  } wrong[] = {
      {{.temperature = -1, .top_p = 1}, "temperature"},
      {{.temperature = NAN, .top_p = 1}, "temperature"},
      {{.temperature = INFINITY, .top_p = 1}, "temperature"},
      {{.temperature = 1, .top_p = 1.5f}, "top_p"},
      {{.temperature = 1, .top_p = NAN}, "top_p"},
      {{.temperature = 1, .top_p = 1, .min_p = -0.1f}, "min_p"},
      {{.temperature = 1, .top_p = 1, .min_p = 2}, "min_p"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    cs_error error = CS_ERROR_INIT;
    int32_t token;
    assert_int_equal(cs_sampler_check(&wrong[i].params, &error), CS_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, wrong[i].name));
    assert_int_equal(cs_sample(&wrong[i].params, 0, (float[]){1}, 1, &token, NULL),
                     CS_INVALID_ARGUMENT);
  }
}

/* Counts draws of 4 tokens with probabilities 0.1, 0.4, 0.3, 0.2. */
static void count_draws(cs_sampler_params params, double shares[4]) {
  const float logits[] = {logf(0.1f), logf(0.4f), logf(0.3f), logf(0.2f)};
  enum { N_DRAWS = 40000 };
  memset(shares, 0, 4 * sizeof shares[0]);
  for (uint64_t position = 0; position < N_DRAWS; position++)
    shares[sample(params, position, logits, 4)] += 1.0 / N_DRAWS;
}

static void assert_shares(cs_sampler_params params, const double expected[4]) {
  double shares[4];
  count_draws(params, shares);
  for (int i = 0; i < 4; i++)
    if (fabs(shares[i] - expected[i]) > (expected[i] > 0 ? 0.012 : 0.0))
      fail_msg("token %d: share %g instead of %g", i, shares[i], expected[i]);
}

static void draws_follow_the_probabilities(void **state) {
  (void)state;
  const cs_sampler_params plain = {.temperature = 1, .top_p = 1, .seed = 7};
  assert_shares(plain, (double[]){0.1, 0.4, 0.3, 0.2});
  const cs_sampler_params top_k = {.temperature = 1, .top_k = 2, .top_p = 1, .seed = 7};
  assert_shares(top_k, (double[]){0, 4.0 / 7, 3.0 / 7, 0});
  const cs_sampler_params all = {.temperature = 1, .top_k = 100, .top_p = 1, .seed = 7};
  assert_shares(all, (double[]){0.1, 0.4, 0.3, 0.2});
  const cs_sampler_params top_p = {.temperature = 1, .top_p = 0.85f, .seed = 7};
  assert_shares(top_p, (double[]){0, 4.0 / 9, 3.0 / 9, 2.0 / 9});
  const cs_sampler_params one = {.temperature = 1, .top_p = 0, .seed = 7};
  assert_shares(one, (double[]){0, 1, 0, 0});
  const cs_sampler_params min_p = {.temperature = 1, .top_p = 1, .min_p = 0.6f, .seed = 7};
  assert_shares(min_p, (double[]){0, 4.0 / 7, 3.0 / 7, 0});
  const cs_sampler_params hot = {.temperature = 1e6f, .top_p = 1, .seed = 7};
  assert_shares(hot, (double[]){0.25, 0.25, 0.25, 0.25});
  const cs_sampler_params cold = {.temperature = 1e-6f, .top_p = 1, .seed = 7};
  assert_shares(cold, (double[]){0, 1, 0, 0});
  const cs_sampler_params squared = {.temperature = 0.5f, .top_p = 1, .seed = 7};
  assert_shares(squared, (double[]){1.0 / 30, 16.0 / 30, 9.0 / 30, 4.0 / 30});
}

/* Probabilities that are exact in binary: the sum meets top_p with the second token. */
static void top_p_ends_with_the_token_that_meets_it(void **state) {
  (void)state;
  const cs_sampler_params params = {.temperature = 1, .top_p = 0.5f, .seed = 9};
  for (uint64_t position = 0; position < 100; position++)
    assert_in_range(sample(params, position, (float[]){1, 1, 1, 1}, 4), 0, 1);
}

static void filters_apply_before_the_temperature(void **state) {
  (void)state;
  const cs_sampler_params params = {
      .temperature = 1e6f, .top_k = 3, .top_p = 0.7f, .min_p = 0.5f, .seed = 3};
  assert_shares(params, (double[]){0, 0.5, 0.5, 0});
}

static void an_infinite_logit_takes_all(void **state) {
  (void)state;
  const cs_sampler_params params = {.temperature = 1, .top_p = 0.9f, .seed = 1};
  for (uint64_t position = 0; position < 50; position++)
    assert_int_equal(sample(params, position, (float[]){5, INFINITY, NAN, -INFINITY}, 4), 1);
}

/* A large vocabulary of pseudo-random logits with many equals. */
static void fill_logits(float *logits, size_t n) {
  uint32_t x = 12345;
  for (size_t i = 0; i < n; i++) {
    x = x * 1664525u + 1013904223u;
    logits[i] = (float)(int32_t)(x >> 20) / 256.0f;
  }
}

/* Recorded once: another machine, compiler or C library has to draw the same. */
static void draws_are_the_same_on_every_machine(void **state) {
  (void)state;
  enum { N = 5000 };
  static float logits[N];
  fill_logits(logits, N);
  const cs_sampler_params params[] = {
      {.temperature = 0.8f, .top_p = 1, .seed = 42},
      {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .seed = 42},
      {.temperature = 1.3f, .top_p = 0.9f, .seed = UINT64_MAX},
  };
  static const int32_t expected[3][6] = {{102, 3127, 1409, 4490, 2675, 4391},
                                         {116, 2263, 2424, 470, 1367, 20},
                                         {3184, 4646, 1413, 2857, 1787, 922}};
  for (size_t i = 0; i < 3; i++)
    for (uint64_t position = 0; position < 6; position++) {
      const int32_t token = sample(params[i], position * 1000003, logits, N);
      if (token != expected[i][position])
        fail_msg("case %zu, draw %d: %d", i, (int)position, token);
      assert_int_equal(sample(params[i], position * 1000003, logits, N), token);
    }
}

static void another_seed_or_position_draws_anew(void **state) {
  (void)state;
  float logits[256] = {0};
  int n_equal_seed = 0;
  int n_equal_position = 0;
  for (uint64_t i = 0; i < 1000; i++) {
    const cs_sampler_params a = {.temperature = 1, .top_p = 1, .seed = i};
    const cs_sampler_params b = {.temperature = 1, .top_p = 1, .seed = i + 1};
    n_equal_seed += sample(a, 5, logits, 256) == sample(b, 5, logits, 256);
    n_equal_position += sample(a, 5, logits, 256) == sample(a, 6, logits, 256);
  }
  assert_in_range(n_equal_seed, 0, 15);
  assert_in_range(n_equal_position, 0, 15);
}

/* ---- penalties, biases and log-probabilities ---- */

static void adjust(const cs_sampler_params *params, const cs_sampler_history *history,
                   const float *logits, float *out) {
  assert_int_equal(cs_sampler_adjust(params, history, logits, 6, out, NULL), CS_OK);
}

static void penalties_count_prompt_and_output_apart(void **state) {
  (void)state;
  const float logits[6] = {2, -2, 3, 4, 5, 6};
  const int32_t tokens[] = {0, 1, 1, 2, 2, 2}; /* of these the last three are output */
  const cs_sampler_history history = {.tokens = tokens, .n_tokens = 6, .n_prompt = 3};
  float out[6];
  const cs_sampler_params repetition = {.top_p = 1, .repetition_penalty = 2};
  adjust(&repetition, &history, logits, out);
  assert_memory_equal(out, ((float[]){1, -4, 1.5f, 4, 5, 6}), sizeof out);
  const cs_sampler_params counted = {
      .top_p = 1, .frequency_penalty = 0.5f, .presence_penalty = 0.25f};
  adjust(&counted, &history, logits, out);
  assert_memory_equal(out, ((float[]){2, -2, 1.25f, 4, 5, 6}), sizeof out);
  const cs_sampler_params none = {.top_p = 1, .repetition_penalty = 1};
  adjust(&none, &history, logits, out);
  assert_memory_equal(out, logits, sizeof out);
}

static void biases_come_after_penalties(void **state) {
  (void)state;
  float logits[6] = {2, 2, 2, 2, 2, 2};
  const int32_t tokens[] = {3};
  const cs_logit_bias biases[] = {{3, 5}, {0, -INFINITY}, {1, 1}, {1, 1}};
  const cs_sampler_history history = {
      .biases = biases, .n_biases = 4, .tokens = tokens, .n_tokens = 1, .n_prompt = 1};
  const cs_sampler_params params = {.top_p = 1, .repetition_penalty = 2};
  adjust(&params, &history, logits, logits); /* in place */
  assert_memory_equal(logits, ((float[]){-INFINITY, 4, 2, 6, 2, 2}), sizeof logits);
  assert_int_equal(sample(params, 1, logits, 6), 3);
}

static void a_bias_names_a_token_and_a_number(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  const cs_logit_bias outside[] = {{1, 0}, {6, 1}};
  assert_int_equal(cs_sampler_check_biases(outside, 2, 6, &error), CS_INVALID_ARGUMENT);
  assert_string_equal(error.message, "logit bias: token 6 is outside the vocabulary of 6");
  const cs_logit_bias bad[] = {{1, NAN}};
  assert_int_equal(cs_sampler_check_biases(bad, 1, 6, &error), CS_INVALID_ARGUMENT);
  assert_int_equal(cs_sampler_check_biases(outside, 1, 6, NULL), CS_OK);
  const cs_logit_bias negative[] = {{-1, 0}};
  assert_int_equal(cs_sampler_check_biases(negative, 1, 6, NULL), CS_INVALID_ARGUMENT);
}

static void what_needs_no_logits_is_the_plain_greedy_choice(void **state) {
  (void)state;
  const cs_sampler_params greedy = CS_SAMPLER_GREEDY;
  assert_true(cs_sampler_is_argmax(&greedy, 0));
  assert_false(cs_sampler_is_argmax(&greedy, 1));
  const cs_sampler_params others[] = {{.temperature = 1, .top_p = 1},
                                      {.top_p = 1, .repetition_penalty = 1.1f},
                                      {.top_p = 1, .frequency_penalty = 0.1f},
                                      {.top_p = 1, .presence_penalty = -0.1f},
                                      {.top_p = 1, .n_logprobs = 1}};
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
    assert_false(cs_sampler_is_argmax(&others[i], 0));
}

static void log_probabilities_are_a_log_softmax(void **state) {
  (void)state;
  const float logits[6] = {0, logf(2), NAN, logf(4), logf(2), -INFINITY};
  cs_token_logprob out[7];
  cs_sampler_logprobs(logits, 6, 4, 7, out);
  const int32_t tokens[7] = {4, 3, 1, 4, 0, 5, -1};
  const double shares[4] = {2 / 9.0, 4 / 9.0, 2 / 9.0, 2 / 9.0};
  for (size_t i = 0; i < 7; i++)
    assert_int_equal(out[i].token, tokens[i]);
  for (size_t i = 0; i < 4; i++)
    assert_true(fabs((double)out[i].logprob - log(shares[i])) < 1e-6);
  assert_true(isinf(out[5].logprob));
  cs_sampler_logprobs((float[]){1, INFINITY}, 2, 1, 1, out);
  assert_true(out[0].logprob == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(zero_temperature_takes_the_first_of_the_largest),
      cmocka_unit_test(top_k_of_one_is_greedy),
      cmocka_unit_test(without_a_finite_logit_there_is_no_token),
      cmocka_unit_test(parameters_out_of_range_are_named),
      cmocka_unit_test(draws_follow_the_probabilities),
      cmocka_unit_test(top_p_ends_with_the_token_that_meets_it),
      cmocka_unit_test(filters_apply_before_the_temperature),
      cmocka_unit_test(an_infinite_logit_takes_all),
      cmocka_unit_test(draws_are_the_same_on_every_machine),
      cmocka_unit_test(another_seed_or_position_draws_anew),
      cmocka_unit_test(penalties_count_prompt_and_output_apart),
      cmocka_unit_test(biases_come_after_penalties),
      cmocka_unit_test(a_bias_names_a_token_and_a_number),
      cmocka_unit_test(what_needs_no_logits_is_the_plain_greedy_choice),
      cmocka_unit_test(log_probabilities_are_a_log_softmax),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
