/* What the tests of core share: cmocka's includes, a runtime over the fake plugins, small asserts.
 */
#ifndef TESTS_UNIT_CORE_HARNESS_H
#define TESTS_UNIT_CORE_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/device.h"
#include "core/error.h"
#include "core/runtime.h"

/* Drops a line, but shows and counts what the validation layer found. */
static int harness_n_findings;

static inline void harness_drop_line(void *user, uint32_t level, const char *line) {
  (void)user;
  (void)level;
  if (strncmp(line, "validate: ", 10) != 0) return;
  harness_n_findings++;
  print_error("%s\n", line);
}

/* A runtime that sees one folder of fake plugins and nothing of the machine. */
static inline cs_runtime *harness_runtime(const char *folder) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", CORE_TEST_PLUGINS, folder);
  cs_error error = CS_ERROR_INIT;
  cs_runtime *runtime = NULL;
  const cs_runtime_options options = {.system_dir = path,
                                      .skip_user_dir = true,
                                      .skip_environment = true,
                                      .log_level = CS_LOG_INFO,
                                      .log_sink = harness_drop_line};
  if (cs_runtime_create(&options, &runtime, &error) != CS_OK) fail_msg("%s", error.message);
  return runtime;
}

/* A pair of sockets for what hangs in a fake plugin, which is given the second end. */
typedef struct harness_hang {
  int ends[2];
  char spec[64];
} harness_hang;

/* `device` ends with the name of the option: "fake:0?hang_op=1&hang_fd=". */
static inline harness_hang harness_hang_open(const char *device) {
  harness_hang hang;
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, hang.ends), 0);
  snprintf(hang.spec, sizeof hang.spec, "%s%d", device, hang.ends[1]);
  return hang;
}

/* Returns when it hangs. */
static inline void harness_hang_wait(const harness_hang *hang) {
  char byte;
  assert_int_equal(read(hang->ends[0], &byte, 1), 1);
}

static inline void harness_hang_end(const harness_hang *hang) {
  assert_int_equal(write(hang->ends[0], "", 1), 1);
}

static inline void harness_hang_close(harness_hang *hang) {
  close(hang->ends[0]);
  close(hang->ends[1]);
}

static inline cs_device *harness_device(cs_runtime *runtime, const char *spec) {
  cs_error error = CS_ERROR_INIT;
  cs_device *device = NULL;
  if (cs_device_open(runtime, spec, &device, &error) != CS_OK) fail_msg("%s", error.message);
  return device;
}

#define assert_ok(call)                                                                            \
  do {                                                                                             \
    cs_error assert_error = CS_ERROR_INIT;                                                         \
    cs_error *const error = &assert_error;                                                         \
    const cs_status assert_status = (call);                                                        \
    if (assert_status != CS_OK) {                                                                  \
      fail_msg("%s: %s (%s)", #call, cs_status_name(assert_status), assert_error.message);         \
    }                                                                                              \
  } while (0)

/* The call, which names its error `error`, fails with `expected` and a message that holds `text`.
 */
#define assert_fails(expected, text, call)                                                         \
  do {                                                                                             \
    cs_error assert_error = CS_ERROR_INIT;                                                         \
    cs_error *const error = &assert_error;                                                         \
    assert_int_equal((call), (expected));                                                          \
    assert_int_equal(assert_error.code, (expected));                                               \
    if (!strstr(assert_error.message, text)) {                                                     \
      fail_msg("\"%s\" does not hold \"%s\"", assert_error.message, text);                         \
    }                                                                                              \
  } while (0)

#endif
