/* What a Slurm job was given, told by its environment alone, and which devices follow from it. The
 * environments are those that Slurm 22.05 made for the requests named beside them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/offer.h"

/* "NAME=VALUE", ... NULL */
static const char *get(const void *user, const char *name) {
  const size_t n = strlen(name);
  for (const char *const *line = user; *line; line++)
    if (strncmp(*line, name, n) == 0 && (*line)[n] == '=') return *line + n + 1;
  return NULL;
}

#define ENVIRONMENT(...)                                                                           \
  {                                                                                                \
    .get = get, .user = (const char *const[]) {                                                    \
      __VA_ARGS__, NULL                                                                            \
    }                                                                                              \
  }
#define STEP "SLURM_JOB_ID=7", "SLURM_STEP_ID=0"

static cs_status read_it(const cs_environment *environment, cs_allocation *out, cs_error *error) {
  *error = (cs_error)CS_ERROR_INIT;
  return cs_allocation_read(environment, out, error);
}

static void assert_refused(const cs_environment *environment, const char *words) {
  cs_allocation allocation;
  cs_error error;
  assert_int_equal(read_it(environment, &allocation, &error), CS_INVALID_ARGUMENT);
  if (!strstr(error.message, words)) fail_msg("\"%s\" is not in \"%s\"", words, error.message);
  assert_null(strpbrk(error.message, "\n\r\x1b"));
  assert_false(allocation.in_job);
}

/* ---- reading ---- */

static void without_a_job_the_rest_is_ignored(void **state) {
  (void)state;
  const cs_environment environment = ENVIRONMENT("SLURM_STEP_GPUS=nonsense");
  cs_allocation allocation;
  cs_error error;
  assert_int_equal(read_it(&environment, &allocation, &error), CS_OK);
  assert_false(allocation.in_job);
  assert_int_equal(allocation.n_given, 0);
}

static void a_step_has_its_own_ordinals(void **state) {
  (void)state;
  const cs_environment environment =
      ENVIRONMENT(STEP, "SLURM_STEP_GPUS=2,0", "SLURM_JOB_GPUS=0,1,2,3", "SLURM_SHARDS_ON_NODE=3",
                  "SLURM_CPUS_ON_NODE=4", "SLURM_GPUS_ON_NODE=2");
  cs_allocation allocation;
  cs_error error;
  assert_int_equal(read_it(&environment, &allocation, &error), CS_OK);
  assert_true(allocation.in_job && allocation.in_step);
  assert_int_equal(allocation.n_given, 2);
  assert_int_equal(allocation.n_ordinals, 2);
  assert_int_equal(allocation.ordinals[0], 2);
  assert_int_equal(allocation.ordinals[1], 0);
  assert_string_equal(allocation.ordinals_from, "SLURM_STEP_GPUS");
  assert_int_equal(allocation.n_shards, 3);
  assert_int_equal(allocation.n_processors, 4);
  char text[4];
  cs_allocation_print(&allocation, text, sizeof text);
  assert_string_equal(text, "2,0");
  cs_allocation_print(&allocation, text, 2);
  assert_string_equal(text, "2");
}

/* srun --gres=none inside a batch job of one device: SLURM_JOB_GPUS is the script's. */
static void a_step_without_devices_does_not_take_the_script_s(void **state) {
  (void)state;
  const cs_environment environment = ENVIRONMENT(STEP, "SLURM_JOB_GPUS=0");
  cs_allocation allocation;
  cs_error error;
  assert_int_equal(read_it(&environment, &allocation, &error), CS_OK);
  assert_int_equal(allocation.n_given, 0);
  assert_null(allocation.ordinals_from);
}

static void a_batch_script_and_an_interactive_step_have_the_job_s(void **state) {
  (void)state;
  const cs_environment environments[] = {
      ENVIRONMENT("SLURM_JOB_ID=7", "SLURM_JOB_GPUS=1"),
      ENVIRONMENT("SLURM_JOB_ID=7", "SLURM_STEP_ID=4294967290", "SLURM_JOB_GPUS=1")};
  for (size_t i = 0; i < 2; i++) {
    cs_allocation allocation;
    cs_error error;
    assert_int_equal(read_it(&environments[i], &allocation, &error), CS_OK);
    assert_int_equal(allocation.n_ordinals, 1);
    assert_int_equal(allocation.ordinals[0], 1);
    assert_string_equal(allocation.ordinals_from, "SLURM_JOB_GPUS");
  }
}

static void a_value_that_cannot_be_read_names_its_variable(void **state) {
  (void)state;
  static const char *const values[] = {"SLURM_STEP_GPUS=",      "SLURM_STEP_GPUS=0,",
                                       "SLURM_STEP_GPUS=,0",    "SLURM_STEP_GPUS=0,,1",
                                       "SLURM_STEP_GPUS=0 1",   "SLURM_STEP_GPUS=-1",
                                       "SLURM_STEP_GPUS=0x1",   "SLURM_STEP_GPUS=0-3",
                                       "SLURM_STEP_GPUS=65536", "SLURM_STEP_GPUS=99999999999999",
                                       "SLURM_STEP_GPUS=0\n1",  "SLURM_STEP_GPUS=\x1b[2J"};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    const cs_environment environment = ENVIRONMENT(STEP, values[i]);
    assert_refused(&environment, "SLURM_STEP_GPUS=");
  }
  static const char *const others[] = {"SLURM_SHARDS_ON_NODE=", "SLURM_SHARDS_ON_NODE=1.5",
                                       "SLURM_CPUS_ON_NODE=two", "SLURM_CPUS_ON_NODE=65536",
                                       "SLURM_GPUS_ON_NODE=257"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    const cs_environment environment = ENVIRONMENT(STEP, others[i]);
    assert_refused(&environment, "not a number in its range");
  }
  const cs_environment twice = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=1,2,1");
  assert_refused(&twice, "twice");
  const cs_environment job = ENVIRONMENT("SLURM_JOB_ID=seven");
  assert_refused(&job, "SLURM_JOB_ID=\"seven\"");
}

static void too_many_devices_are_refused(void **state) {
  (void)state;
  static char text[8192] = "SLURM_STEP_GPUS=0";
  size_t used = strlen(text);
  for (int i = 1; i <= CS_ALLOCATION_MAX; i++)
    used += (size_t)snprintf(text + used, sizeof text - used, ",%d", i);
  const cs_environment environment = ENVIRONMENT(STEP, text);
  assert_refused(&environment, "too many");
}

static void the_operator_s_list_is_read_strictly(void **state) {
  (void)state;
  static const char *const values[] = {
      "CONSORT_SLURM_DEVICES=",          "CONSORT_SLURM_DEVICES=a:0,",
      "CONSORT_SLURM_DEVICES=a",         "CONSORT_SLURM_DEVICES=:0",
      "CONSORT_SLURM_DEVICES=a:0?x=1",   "CONSORT_SLURM_DEVICES=a:",
      "CONSORT_SLURM_DEVICES=a:9999999", "CONSORT_SLURM_DEVICES=a:0,a:0"};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    const cs_environment environment = ENVIRONMENT(STEP, values[i]);
    assert_refused(&environment, "CONSORT_SLURM_DEVICES=");
  }
}

static void a_driver_s_list_is_counted(void **state) {
  (void)state;
  static const struct {
    const char *value;
    uint32_t n;
  } good[] = {{"", 0},    {"NoDevFiles", 0},  {"-1", 0},     {"0", 1},
              {"3,1", 2}, {"0.0,0.1,1.0", 2}, {"0,-1,1", 1}, {"GPU-5fe8a2c1-0000-1111,MIG-1/2", 2}};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    uint32_t n;
    assert_int_equal(cs_allocation_count_visible("V", good[i].value, &n, NULL), CS_OK);
    assert_int_equal(n, good[i].n);
  }
  static const char *const bad[] = {"0,", ",", "0, 1", "0;1", "\n"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    cs_error error = CS_ERROR_INIT;
    uint32_t n;
    assert_int_equal(cs_allocation_count_visible("V", bad[i], &n, &error), CS_INVALID_ARGUMENT);
    assert_int_equal(strncmp(error.message, "V=\"", 3), 0);
  }
}

/* ---- choosing ---- */

/* A node with processors twice, two chips of one vendor and, from `x` on, one of another. */
enum { HOST, TYPE_A0, TYPE_A1, OTHER_HOST, TYPE_X0, N_DEVICES };

static void make_devices(cs_offer_device devices[N_DEVICES]) {
  const cs_offer_device all[N_DEVICES] = {
      {.plugin = "host", .on_processors = true},
      {.plugin = "a", .index = 0, .uuid = "A-0", .visible_devices = "A_VISIBLE"},
      {.plugin = "a", .index = 1, .uuid = "A-1", .visible_devices = "A_VISIBLE"},
      {.plugin = "x", .index = 0, .on_processors = true},
      {.plugin = "x", .index = 1, .uuid = ""}};
  memcpy(devices, all, sizeof all);
}

/* One letter for each of the first n devices: y, n, u. */
static void assert_verdicts(const cs_environment *environment, size_t n, const char *expected,
                            size_t of, const char *reason) {
  cs_offer_device devices[N_DEVICES];
  cs_allocation allocation;
  cs_error error;
  make_devices(devices);
  assert_int_equal(read_it(environment, &allocation, &error), CS_OK);
  const cs_status status = cs_offer_choose(&allocation, environment, devices, n, &error);
  if (status) fail_msg("%s", error.message);
  char verdicts[N_DEVICES + 1] = "";
  for (size_t i = 0; i < n; i++)
    verdicts[i] = "nyu"[devices[i].verdict];
  assert_string_equal(verdicts, expected);
  if (!strstr(devices[of].reason, reason))
    fail_msg("\"%s\" is not in \"%s\"", reason, devices[of].reason);
}

static void assert_contradiction(const cs_environment *environment, size_t n, const char *words) {
  cs_offer_device devices[N_DEVICES];
  cs_allocation allocation;
  cs_error error;
  make_devices(devices);
  assert_int_equal(read_it(environment, &allocation, &error), CS_OK);
  assert_int_equal(cs_offer_choose(&allocation, environment, devices, n, &error),
                   CS_INVALID_ARGUMENT);
  if (!strstr(error.message, words)) fail_msg("\"%s\" is not in \"%s\"", words, error.message);
}

static void outside_a_job_all_is_offered(void **state) {
  (void)state;
  const cs_environment environment = ENVIRONMENT("A_VISIBLE=1");
  assert_verdicts(&environment, N_DEVICES, "yyyyy", TYPE_A0, "no Slurm job");
}

static void a_job_without_devices_has_processors_only(void **state) {
  (void)state;
  const cs_environment environment =
      ENVIRONMENT(STEP, "SLURM_CPUS_ON_NODE=2", "A_VISIBLE=0", "SLURM_JOB_GPUS=1");
  assert_verdicts(&environment, N_DEVICES, "ynnyn", TYPE_A0, "no SLURM_STEP_GPUS");
  assert_verdicts(&environment, N_DEVICES, "ynnyn", HOST, "SLURM_CPUS_ON_NODE=2");
}

/* Flags=no_gpu_env: no driver's variable is set, so that the ordinal is the index. */
static void an_ordinal_is_an_index_where_no_driver_hides(void **state) {
  (void)state;
  const cs_environment environment =
      ENVIRONMENT(STEP, "SLURM_STEP_GPUS=1", "SLURM_SHARDS_ON_NODE=3");
  assert_verdicts(&environment, 3, "yny", TYPE_A1, "SLURM_STEP_GPUS=1, shared: SLURM_SHARDS_ON");
  assert_verdicts(&environment, 3, "yny", TYPE_A0, "does not name it");
}

/* Without the flag Slurm sets the driver's variable too, and what is left is numbered anew. */
static void a_driver_s_variable_replaces_the_ordinals(void **state) {
  (void)state;
  const cs_environment environment = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=2,3", "A_VISIBLE=2,3");
  assert_verdicts(&environment, 3, "yyy", TYPE_A0, "A_VISIBLE leaves it");
  const cs_environment none = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=2", "A_VISIBLE=NoDevFiles");
  assert_verdicts(&none, 3, "ynn", TYPE_A0, "hides every device");
}

/* The user's own variable, carried into the job by srun. */
static void a_variable_that_leaves_more_than_was_given_is_refused(void **state) {
  (void)state;
  const cs_environment environment = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=1", "A_VISIBLE=0,1");
  assert_contradiction(&environment, 3, "A_VISIBLE leaves 2 devices, the job was given 1");
  const cs_environment unreadable = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=1", "A_VISIBLE=0 1");
  assert_contradiction(&unreadable, 3, "A_VISIBLE=\"0 1\"");
}

/* ConstrainDevices=yes leaves SLURM_STEP_GPUS as it was, and the driver shows the rest from 0. */
static void a_device_cgroup_is_seen_by_the_count(void **state) {
  (void)state;
  const cs_environment whole = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=2,5");
  assert_verdicts(&whole, 3, "yyy", TYPE_A0, "the driver shows no others");
  const cs_environment partial = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=5");
  assert_verdicts(&partial, 3, "yuu", TYPE_A0, "the driver shows 2 devices");
}

static void ordinals_that_may_mean_two_plugins_are_offered_by_name_only(void **state) {
  (void)state;
  const cs_environment environment = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=0");
  assert_verdicts(&environment, N_DEVICES, "yunyu", TYPE_X0, "may mean a:0 or x:1");
  const cs_environment governed = ENVIRONMENT(STEP, "SLURM_STEP_GPUS=0", "A_VISIBLE=0");
  assert_verdicts(&governed, N_DEVICES, "yyyyu", TYPE_X0, "A_VISIBLE says");
}

/* --gpus-per-task binds devices to tasks without naming them. */
static void devices_that_no_variable_names_are_offered_by_name_only(void **state) {
  (void)state;
  const cs_environment environment = ENVIRONMENT(STEP, "SLURM_GPUS_ON_NODE=2");
  assert_verdicts(&environment, 3, "yuu", TYPE_A0, "SLURM_GPUS_ON_NODE=2, but no variable says");
}

static void the_operator_s_list_names_the_device_of_an_ordinal(void **state) {
  (void)state;
  const cs_environment environment =
      ENVIRONMENT(STEP, "SLURM_STEP_GPUS=0,2", "CONSORT_SLURM_DEVICES=x:1,a:1,a:A-0");
  assert_verdicts(&environment, N_DEVICES, "yynyy", TYPE_A0, "number 2 of CONSORT_SLURM_DEVICES");
  assert_verdicts(&environment, N_DEVICES, "yynyy", TYPE_A1, "another device");
  const cs_environment beyond =
      ENVIRONMENT(STEP, "SLURM_STEP_GPUS=2", "CONSORT_SLURM_DEVICES=x:1,a:1");
  assert_contradiction(&beyond, N_DEVICES, "names 2 devices, SLURM_STEP_GPUS=2 asks for number 2");
  const cs_environment gone =
      ENVIRONMENT(STEP, "SLURM_STEP_GPUS=0", "CONSORT_SLURM_DEVICES=a:7,a:1");
  assert_contradiction(&gone, N_DEVICES, "a:7 (number 0) is not there");
  const cs_environment hidden =
      ENVIRONMENT(STEP, "SLURM_STEP_GPUS=0", "CONSORT_SLURM_DEVICES=a:0,a:1", "A_VISIBLE=1");
  assert_contradiction(&hidden, N_DEVICES, "no certain number while A_VISIBLE is set");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(without_a_job_the_rest_is_ignored),
      cmocka_unit_test(a_step_has_its_own_ordinals),
      cmocka_unit_test(a_step_without_devices_does_not_take_the_script_s),
      cmocka_unit_test(a_batch_script_and_an_interactive_step_have_the_job_s),
      cmocka_unit_test(a_value_that_cannot_be_read_names_its_variable),
      cmocka_unit_test(too_many_devices_are_refused),
      cmocka_unit_test(the_operator_s_list_is_read_strictly),
      cmocka_unit_test(a_driver_s_list_is_counted),
      cmocka_unit_test(outside_a_job_all_is_offered),
      cmocka_unit_test(a_job_without_devices_has_processors_only),
      cmocka_unit_test(an_ordinal_is_an_index_where_no_driver_hides),
      cmocka_unit_test(a_driver_s_variable_replaces_the_ordinals),
      cmocka_unit_test(a_variable_that_leaves_more_than_was_given_is_refused),
      cmocka_unit_test(a_device_cgroup_is_seen_by_the_count),
      cmocka_unit_test(ordinals_that_may_mean_two_plugins_are_offered_by_name_only),
      cmocka_unit_test(devices_that_no_variable_names_are_offered_by_name_only),
      cmocka_unit_test(the_operator_s_list_names_the_device_of_an_ordinal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
