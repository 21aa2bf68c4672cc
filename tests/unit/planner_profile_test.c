/* The text form of profiles: what is read is exactly what was written, or nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/profile.h"
#include "scheduler/structs.h"

static const cs_device_profile sample = {.matmul_flop_per_s = 6.5e11,
                                         .matvec_bytes_per_s = 2.25e10,
                                         .matvec_cached_bytes_per_s = 9e10,
                                         .attention_flop_per_s = 0,
                                         .op_us = 1.5,
                                         .step_us = 20,
                                         .upload_bytes_per_s = 1e10,
                                         .download_bytes_per_s = 1.25e10,
                                         .latency_us = 7};

static void a_profile_survives_its_text_form(void **state) {
  (void)state;
  char text[CS_PROFILE_TEXT_BYTES];
  cs_device_profile read;
  memset(&read, 0xff, sizeof read);
  const size_t bytes = cs_profile_write(&sample, "device | driver 1", text);
  assert_int_equal(bytes, strlen(text));
  assert_true(cs_profile_read(text, "device | driver 1", &read));
  assert_memory_equal(&read, &sample, sizeof sample);
}

static void another_device_or_driver_is_measured_again(void **state) {
  (void)state;
  char text[CS_PROFILE_TEXT_BYTES];
  cs_device_profile read;
  cs_profile_write(&sample, "device | driver 1", text);
  assert_false(cs_profile_read(text, "device | driver 2", &read));
  assert_false(cs_profile_read(text, "device | driver", &read));
}

static void a_profile_cut_at_any_place_is_measured_again(void **state) {
  (void)state;
  char text[CS_PROFILE_TEXT_BYTES], cut[CS_PROFILE_TEXT_BYTES];
  cs_device_profile read;
  const size_t bytes = cs_profile_write(&sample, "device", text);
  for (size_t n = 0; n < bytes; n++) {
    memcpy(cut, text, n);
    cut[n] = '\0';
    assert_false(cs_profile_read(cut, "device", &read));
  }
}

static void numbers_that_cannot_be_are_measured_again(void **state) {
  (void)state;
  static const char *const wrong[] = {"nan", "-1", "inf", "1e999", "", "12x"};
  char text[CS_PROFILE_TEXT_BYTES], changed[CS_PROFILE_TEXT_BYTES + 32];
  cs_device_profile read;
  cs_profile_write(&sample, "device", text);
  char *value = strstr(text, "op_us = ") + strlen("op_us = ");
  const char *rest = strchr(value, '\n');
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(value - text), text, wrong[i], rest);
    assert_false(cs_profile_read(changed, "device", &read));
  }
}

static void a_key_that_is_too_long_is_not_written(void **state) {
  (void)state;
  char text[CS_PROFILE_TEXT_BYTES], key[CS_PROFILE_TEXT_BYTES + 1];
  memset(key, 'k', sizeof key - 1);
  key[sizeof key - 1] = '\0';
  assert_int_equal(cs_profile_write(&sample, key, text), 0);
}

typedef struct options {
  uint32_t struct_size;
  uint32_t first;
  uint32_t second;
  uint32_t third;
} options;

static void options_of_other_sizes_are_served_as_far_as_both_know(void **state) {
  (void)state;
  options known, given = {.struct_size = 8, .first = 1, .second = 2};
  assert_int_equal(cs_struct_read(&known, sizeof known, &given, "o", NULL), CS_OK);
  assert_int_equal(known.first, 1);
  assert_int_equal(known.second, 0); /* beyond what the caller has */

  given = (options){.struct_size = sizeof given, .first = 1};
  assert_int_equal(cs_struct_read(&known, 8, &given, "o", NULL), CS_OK);
  given.third = 3;
  assert_int_equal(cs_struct_read(&known, 8, &given, "o", NULL), CS_UNSUPPORTED);
  given.struct_size = 0;
  assert_int_equal(cs_struct_read(&known, sizeof known, &given, "o", NULL), CS_INVALID_ARGUMENT);
}

static void results_never_leave_the_callers_struct(void **state) {
  (void)state;
  const options known = {.struct_size = sizeof known, .first = 1, .second = 2, .third = 3};
  options given = {.struct_size = 8, .second = 77};
  assert_int_equal(cs_struct_write(&given, &known, sizeof known, "o", NULL), CS_OK);
  assert_int_equal(given.struct_size, 8);
  assert_int_equal(given.first, 1);
  assert_int_equal(given.second, 77);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_profile_survives_its_text_form),
      cmocka_unit_test(another_device_or_driver_is_measured_again),
      cmocka_unit_test(a_profile_cut_at_any_place_is_measured_again),
      cmocka_unit_test(numbers_that_cannot_be_are_measured_again),
      cmocka_unit_test(a_key_that_is_too_long_is_not_written),
      cmocka_unit_test(options_of_other_sizes_are_served_as_far_as_both_know),
      cmocka_unit_test(results_never_leave_the_callers_struct),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
