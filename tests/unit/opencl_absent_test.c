/* Without any OpenCL platform the plugin says so in one line and starts nothing. */
#include "opencl_harness.h"

static void no_platform_is_one_clear_line(void **state) {
  (void)state;
  harness h;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(harness_load(&h, &error), CS_NOT_FOUND);
  assert_null(h.instance);
  assert_non_null(strstr(error.message, "no OpenCL platform is installed"));
  assert_null(strchr(error.message, '\n'));
}

int main(void) {
  setenv("OCL_ICD_VENDORS", "/nonexistent", 1); /* before the loader is */
  const struct CMUnitTest tests[] = {cmocka_unit_test(no_platform_is_one_clear_line)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
