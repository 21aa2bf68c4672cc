/* Placements of made-up devices, whose best choice can be told by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/predict.h"

/* A model of a thousand million parameters in one byte each. */
static const cs_model_costs large = {.matmul_parameters = 1000000000,
                                     .matmul_bytes = 1000000000,
                                     .weight_bytes = 1000000000,
                                     .kv_bytes_per_token = 32768,
                                     .attention_flop_per_pair = 131072,
                                     .n_layers = 16,
                                     .n_ops = 200};

static const cs_workload usual = {.n_prompt = 512, .n_output = 128, .n_context = 640};

static cs_stage_device device(double flop_per_s, double bytes_per_s, const char *domain) {
  const cs_stage_device made = {.profile = {.matmul_flop_per_s = flop_per_s,
                                            .matvec_bytes_per_s = bytes_per_s,
                                            .matvec_cached_bytes_per_s = 4 * bytes_per_s,
                                            .attention_flop_per_s = flop_per_s,
                                            .op_us = 1,
                                            .step_us = 10,
                                            .upload_bytes_per_s = 1e10,
                                            .download_bytes_per_s = 1e10,
                                            .latency_us = 10},
                                .memory_domain = domain,
                                .compute_domain = domain,
                                .memory_bytes = UINT64_C(16) << 30};
  return made;
}

static size_t best_of_pairs(const cs_stage_device *devices, const cs_workload *workload,
                            cs_prediction predictions[4]) {
  for (size_t i = 0; i < 4; i++)
    cs_predict(&large, workload, &devices[i / 2], &devices[i % 2], &predictions[i]);
  return cs_predict_best(predictions, 4);
}

static void the_times_of_one_device_add_up(void **state) {
  (void)state;
  const cs_stage_device one = device(1e12, 1e11, "");
  cs_prediction p;
  cs_predict(&large, &usual, &one, &one, &p);
  const double prefill_ms = 2.0 * 1e9 * 512 / 1e12 * 1e3;
  assert_true(p.ttft_ms > prefill_ms && p.ttft_ms < prefill_ms * 1.1);
  assert_true(p.tpot_ms > 10 && p.tpot_ms < 11); /* 1 GB at 100 GB/s */
  assert_true(fabs(p.total_ms - (p.ttft_ms + 127 * p.tpot_ms)) < 1e-6);
  assert_true(p.transfer_ms == 0);
  assert_string_equal(p.note, "");
}

static void unlike_devices_are_split_by_what_they_are_good_at(void **state) {
  (void)state;
  const cs_stage_device devices[2] = {device(1e13, 2e10, "a"), device(2e11, 4e11, "b")};
  cs_prediction p[4];
  assert_int_equal(best_of_pairs(devices, &usual, p), 1); /* prefill on 0, decode on 1 */
  assert_true(p[1].total_ms < p[0].total_ms && p[1].total_ms < p[3].total_ms);
}

static void one_device_serves_both_stages_when_it_is_better_at_both(void **state) {
  (void)state;
  const cs_stage_device devices[2] = {device(1e12, 1e11, "a"), device(1e11, 1e10, "b")};
  cs_prediction p[4];
  assert_int_equal(best_of_pairs(devices, &usual, p), 0);
}

static void transfer_is_hidden_by_prefill_unless_they_share_cores(void **state) {
  (void)state;
  const cs_stage_device apart[2] = {device(1e12, 1e11, "a"), device(1e12, 1e11, "b")};
  const cs_stage_device together[2] = {device(1e12, 1e11, "host"), device(1e12, 1e11, "host")};
  cs_prediction hidden, shown;
  cs_predict(&large, &usual, &apart[0], &apart[1], &hidden);
  cs_predict(&large, &usual, &together[0], &together[1], &shown);
  assert_true(hidden.transfer_ms > 0);
  assert_true(shown.transfer_ms > 10 * hidden.transfer_ms);
}

static void devices_of_one_memory_need_room_for_two_copies(void **state) {
  (void)state;
  cs_stage_device devices[2] = {device(1e12, 1e11, "host"), device(1e12, 1e11, "host")};
  devices[0].memory_bytes = devices[1].memory_bytes = 1500000000;
  cs_prediction alone, both;
  cs_predict(&large, &usual, &devices[0], &devices[0], &alone);
  cs_predict(&large, &usual, &devices[0], &devices[1], &both);
  assert_true(alone.fits);
  assert_false(both.fits);
  assert_string_equal(both.note, "does not fit");
  devices[1].memory_domain = "other";
  cs_predict(&large, &usual, &devices[0], &devices[1], &both);
  assert_true(both.fits);
}

static void each_device_needs_room_of_its_own(void **state) {
  (void)state;
  cs_stage_device devices[2] = {device(1e12, 1e11, "a"), device(1e12, 1e11, "b")};
  devices[0].memory_bytes = 500000000;
  cs_prediction p[4];
  assert_int_equal(best_of_pairs(devices, &usual, p), 3);
  for (size_t i = 0; i < 3; i++)
    assert_false(p[i].fits);
}

static void a_context_that_is_too_long_does_not_fit(void **state) {
  (void)state;
  cs_stage_device one = device(1e12, 1e11, "");
  one.memory_bytes = UINT64_C(2) << 30;
  cs_workload workload = usual;
  cs_prediction p;
  cs_predict(&large, &workload, &one, &one, &p);
  assert_true(p.fits);
  workload.n_context = UINT32_MAX;
  cs_predict(&large, &workload, &one, &one, &p);
  assert_false(p.fits);
}

static void an_slo_outweighs_total_time(void **state) {
  (void)state;
  const cs_stage_device devices[2] = {device(1e13, 2e10, "a"), device(1e12, 4e10, "b")};
  cs_workload workload = usual;
  cs_prediction p[4];
  const size_t fastest = best_of_pairs(devices, &workload, p);
  assert_int_equal(fastest, 1);
  workload.slo_ttft_ms = p[0].ttft_ms + (p[1].ttft_ms - p[0].ttft_ms) / 2; /* only 0 meets it */
  assert_int_equal(best_of_pairs(devices, &workload, p), 0);
  assert_string_equal(p[1].note, "misses the SLO");
  assert_true(p[1].goodput == 0 && p[0].goodput > 0);
}

static void a_rate_asks_for_stages_that_overlap(void **state) {
  (void)state;
  /* Alone, device 0 is a little faster; only two devices at once keep up. */
  const cs_stage_device devices[2] = {device(1e12, 1e11, "a"), device(9e11, 9e10, "b")};
  cs_workload workload = usual;
  cs_prediction p[4];
  assert_int_equal(best_of_pairs(devices, &workload, p), 0);
  workload.rate = p[0].goodput * 1.1;
  const size_t best = best_of_pairs(devices, &workload, p);
  assert_true(best == 1 || best == 2);
  assert_string_equal(p[0].note, "cannot keep up with the rate");
}

static void a_device_that_lacks_an_op_is_chosen_last(void **state) {
  (void)state;
  cs_stage_device devices[2] = {device(1e13, 1e12, "a"), device(1e10, 1e9, "b")};
  devices[0].profile.matmul_flop_per_s = 0;
  devices[0].profile.matvec_bytes_per_s = 0;
  cs_prediction p[4];
  assert_int_equal(best_of_pairs(devices, &usual, p), 3);
  assert_string_equal(p[0].note, "an op is missing there");
}

static void a_prompt_of_one_token_is_predicted(void **state) {
  (void)state;
  const cs_stage_device devices[2] = {device(1e13, 2e10, "a"), device(2e11, 4e11, "b")};
  const cs_workload workload = {.n_prompt = 1, .n_output = 1, .n_context = 2};
  cs_prediction p[4];
  best_of_pairs(devices, &workload, p);
  for (size_t i = 0; i < 4; i++)
    assert_true(isfinite(p[i].total_ms) && p[i].total_ms > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_times_of_one_device_add_up),
      cmocka_unit_test(unlike_devices_are_split_by_what_they_are_good_at),
      cmocka_unit_test(one_device_serves_both_stages_when_it_is_better_at_both),
      cmocka_unit_test(transfer_is_hidden_by_prefill_unless_they_share_cores),
      cmocka_unit_test(devices_of_one_memory_need_room_for_two_copies),
      cmocka_unit_test(each_device_needs_room_of_its_own),
      cmocka_unit_test(a_context_that_is_too_long_does_not_fit),
      cmocka_unit_test(an_slo_outweighs_total_time),
      cmocka_unit_test(a_rate_asks_for_stages_that_overlap),
      cmocka_unit_test(a_device_that_lacks_an_op_is_chosen_last),
      cmocka_unit_test(a_prompt_of_one_token_is_predicted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
