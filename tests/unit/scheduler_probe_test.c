/* A probe of a device that never answers: it ends in time, and what the device may still work on
 * outlives that work. The validation layer is the witness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/error.h"
#include "core/runtime.h"
#include "scheduler/probe.h"

#define SHORT_US 20000

static char findings[1024];

static void note_findings(void *user, uint32_t level, const char *line) {
  (void)user;
  (void)level;
  const size_t used = strlen(findings);
  if (strncmp(line, "validate: ", 10) == 0)
    snprintf(findings + used, sizeof findings - used, "%s\n", line);
}

static cs_runtime *runtime;
static cs_device *device;

static int set_up(void **state) {
  (void)state;
  char path[1024], target[1024];
  const char *plugins = getenv("CONSORT_TEST_PLUGINS");
  cs_error error = CS_ERROR_INIT;
  snprintf(path, sizeof path, "%s-development", plugins);
  snprintf(target, sizeof target, "%s/consort-cpu.so", plugins);
  setenv("CONSORT_FAULT_TARGET", target, 1);
  setenv("CONSORT_VALIDATE", "1", 1);
  unsetenv("CONSORT_FAULT");
  findings[0] = '\0';
  const cs_runtime_options options = {.system_dir = path,
                                      .skip_user_dir = true,
                                      .skip_environment = true,
                                      .log_level = CS_LOG_INFO,
                                      .log_sink = note_findings};
  if (cs_runtime_create(&options, &runtime, &error) != CS_OK) fail_msg("%s", error.message);
  if (cs_device_open(runtime, "fault:0?fault=hang:1", &device, &error) != CS_OK)
    fail_msg("%s", error.message);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  cs_device_release(device);
  cs_runtime_release(runtime);
  return 0;
}

static cs_probe *impatient_probe(void) {
  cs_error error = CS_ERROR_INIT;
  cs_probe *probe = NULL;
  assert_int_equal(cs_probe_create(device, &probe, &error), CS_OK);
  cs_probe_set_deadline(probe, SHORT_US);
  return probe;
}

static void buffers_outlive_a_product_that_hangs(void **state) {
  (void)state;
  const cs_probe_matmul shape = {CS_DTYPE_F32, 2, 4, 64, 64};
  cs_error error = CS_ERROR_INIT;
  cs_probe *probe = impatient_probe();
  double seconds;
  assert_int_equal(cs_probe_run_matmul(probe, &shape, &seconds, &error), CS_TIMEOUT);
  assert_int_not_equal(cs_probe_run_matmul(probe, &shape, &seconds, &error), CS_OK);
  cs_probe_destroy(probe);
  assert_string_equal(findings, "");
}

static void buffers_outlive_attention_that_hangs(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_probe *probe = impatient_probe();
  double rate;
  assert_int_equal(cs_probe_run_attention(probe, CS_DTYPE_F32, 32, &rate, &error), CS_TIMEOUT);
  cs_probe_destroy(probe);
  assert_string_equal(findings, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(buffers_outlive_a_product_that_hangs, set_up, tear_down),
      cmocka_unit_test_setup_teardown(buffers_outlive_attention_that_hangs, set_up, tear_down)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
