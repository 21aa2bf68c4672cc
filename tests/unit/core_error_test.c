/* Errors are one line, cut to fit, and keep what a callee put in. */
#include "core_harness.h"

static void a_message_is_one_line(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  error.op_index = 5;
  assert_int_equal(cs_error_set(&error, CS_IO, "two\nlines %d", 7), CS_IO);
  assert_string_equal(error.message, "two lines 7");
  assert_int_equal(error.code, CS_IO);
  assert_int_equal(error.op_index, -1);
}

static void a_long_message_is_cut(void **state) {
  (void)state;
  char text[1000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  cs_error error = CS_ERROR_INIT;
  cs_error_set(&error, CS_IO, "%s", text);
  assert_int_equal(strlen(error.message), CS_ERROR_MESSAGE_BYTES - 1);
  assert_int_equal(cs_error_prefix(&error, CS_IO, "%s", text), CS_IO);
  assert_int_equal(strlen(error.message), CS_ERROR_MESSAGE_BYTES - 1);
}

static void a_prefix_keeps_code_and_op(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_error_set(&error, CS_FAILED, "why");
  error.op_index = 3;
  error.vendor_code = 99;
  assert_int_equal(cs_error_prefix(&error, CS_IO, "what %d", 1), CS_FAILED);
  assert_string_equal(error.message, "what 1: why");
  assert_int_equal(error.op_index, 3);
  assert_int_equal(error.vendor_code, 99);
}

static void a_missing_record_is_fine(void **state) {
  (void)state;
  assert_int_equal(cs_error_set(NULL, CS_CORRUPT, "x"), CS_CORRUPT);
  assert_int_equal(cs_error_prefix(NULL, CS_CORRUPT, "x"), CS_CORRUPT);
}

static void every_status_has_a_name(void **state) {
  (void)state;
  for (cs_status status = CS_OK; status <= CS_EXHAUSTED; status++)
    assert_string_not_equal(cs_status_name(status), "unknown status");
  assert_string_equal(cs_status_name(-1), "unknown status");
  assert_string_equal(cs_status_name(1000), "unknown status");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_message_is_one_line),      cmocka_unit_test(a_long_message_is_cut),
      cmocka_unit_test(a_prefix_keeps_code_and_op), cmocka_unit_test(a_missing_record_is_fine),
      cmocka_unit_test(every_status_has_a_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
