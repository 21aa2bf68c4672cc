/* Lines reach the sink whole, one at a time, and only below the level. */
#include "core_harness.h"

#include <pthread.h>

#include "core/log.h"

typedef struct sink_state {
  int n_lines;
  int n_broken;
  uint32_t level;
  char last[2048];
} sink_state;

static void keep_line(void *user, uint32_t level, const char *line) {
  sink_state *sink = user;
  sink->n_lines++;
  sink->level = level;
  snprintf(sink->last, sizeof sink->last, "%s", line);
  if (strncmp(line, "line ", 5) != 0) sink->n_broken++;
}

static void lines_above_the_level_are_dropped(void **state) {
  (void)state;
  sink_state sink = {0};
  cs_log *log = cs_log_create(CS_LOG_WARN, keep_line, &sink);
  cs_log_write(log, CS_LOG_INFO, "line %d", 1);
  assert_int_equal(sink.n_lines, 0);
  cs_log_write(log, CS_LOG_WARN, "line %d\nand more", 2);
  assert_int_equal(sink.n_lines, 1);
  assert_string_equal(sink.last, "line 2 and more");
  cs_log_write(NULL, CS_LOG_ERROR, "line %d", 3);
  cs_log_destroy(log);
}

static void *write_lines(void *argument) {
  for (int i = 0; i < 500; i++)
    cs_log_write(argument, CS_LOG_ERROR, "line %d", i);
  return NULL;
}

static void threads_take_turns(void **state) {
  (void)state;
  sink_state sink = {0};
  cs_log *log = cs_log_create(CS_LOG_ERROR, keep_line, &sink);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++)
    pthread_create(&threads[i], NULL, write_lines, log);
  for (int i = 0; i < 4; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(sink.n_lines, 2000);
  assert_int_equal(sink.n_broken, 0);
  cs_log_destroy(log);
}

static void levels_have_names(void **state) {
  (void)state;
  assert_int_equal(cs_log_level_from_name("error"), CS_LOG_ERROR);
  assert_int_equal(cs_log_level_from_name("debug"), CS_LOG_DEBUG);
  assert_int_equal(cs_log_level_from_name("loud"), UINT32_MAX);
  assert_int_equal(cs_log_level_from_name(NULL), UINT32_MAX);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lines_above_the_level_are_dropped),
      cmocka_unit_test(threads_take_turns),
      cmocka_unit_test(levels_have_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
