/* The executor: results equal a plain interpretation of the list, on one device and cut over two,
 * eagerly and recorded; marks, deadlines and failures are told with their place in the list. */
#include "core_harness.h"

#include <pthread.h>
#include <time.h>

#include "core/executor.h"
#include "core/executor_private.h"
#include "core_lists.h"

#define COLUMNS 5

static cs_runtime *runtime;

static int open_runtime(void **state) {
  (void)state;
  runtime = harness_runtime("good");
  return 0;
}

static int close_runtime(void **state) {
  (void)state;
  cs_runtime_release(runtime);
  return harness_n_findings;
}

/* ---- random lists and their plain interpretation ---- */

typedef struct recipe {
  unsigned seed;
  int n_ops;
  int n_marks; /* one after every n-th op; 0: none */
} recipe;

/* Adds, products (silu_mul, which the fake takes for a plain product) and copies of values made
 * before; some ops write over their own operand. Inputs 1 and 2, outputs 10 and 11. */
static cs_op_list *random_list(const recipe *r, uint64_t rows, int n_ops) {
  cs_op_list *list = cs_op_list_create();
  cs_value values[256];
  int n_values = 2;
  unsigned seed = r->seed;
  values[0] = list_value(list, CS_VALUE_INPUT, 1, rows, COLUMNS);
  values[1] = list_value(list, CS_VALUE_INPUT, 2, rows, COLUMNS);
  for (int i = 0; i < n_ops; i++) {
    const int window = n_values < 6 ? n_values : 6;
    const cs_value a = values[n_values - 1 - rand_r(&seed) % window];
    const cs_value b = values[n_values - 1 - rand_r(&seed) % window];
    const int kind = rand_r(&seed) % 3;
    const bool in_place = rand_r(&seed) % 4 == 0 && a > 1;
    const cs_value out = in_place ? a : cs_op_list_activation(list, CS_DTYPE_F32, rows, COLUMNS);
    if (kind == 0) list_copy(list, i, out, b);
    if (kind == 1) list_add(list, i, out, a, b);
    if (kind == 2) cs_op_list_op(list, CS_OP_SILU_MUL, i, (cs_value[]){out, a, b}, 3, NULL);
    if (!in_place) values[n_values++] = out;
    if (r->n_marks && i % r->n_marks == r->n_marks - 1) cs_op_list_mark(list, (uint32_t)i);
  }
  const cs_value first = list_value(list, CS_VALUE_OUTPUT, 10, rows, COLUMNS);
  const cs_value second = list_value(list, CS_VALUE_OUTPUT, 11, rows, COLUMNS);
  list_add(list, -1, first, values[n_values - 1], values[n_values - 2]);
  list_copy(list, -1, second, first);
  assert_ok(cs_op_list_finish(list, error));
  return list;
}

/* Runs the list on the host: out[i] of output 10. */
static void interpret(const cs_op_list *list, const float *in1, const float *in2, size_t n,
                      float *out) {
  const size_t n_values = cs_op_list_n_values(list);
  float *all = calloc(n_values * n, sizeof *all);
  for (size_t v = 0; v < n_values; v++) {
    const cs_value_info *value = &cs_op_list_values(list)[v];
    if (value->kind != CS_VALUE_INPUT) continue;
    memcpy(&all[v * n], value->key == 1 ? in1 : in2, n * sizeof *all);
  }
  for (size_t i = 0; i < cs_op_list_n_ops(list); i++) {
    const cs_op_node *node = &cs_op_list_ops(list)[i];
    float *to = &all[node->operands[0] * n];
    const float *a = &all[node->operands[1] * n];
    const float *b = node->id == CS_OP_COPY ? a : &all[node->operands[2] * n];
    for (size_t k = 0; k < n; k++) {
      to[k] = node->id == CS_OP_COPY ? a[k] : node->id == CS_OP_ADD ? a[k] + b[k] : a[k] * b[k];
    }
  }
  memcpy(out, &all[(n_values - 2) * n], n * sizeof *out);
  free(all);
}

static cs_status no_owned_values(void *user, cs_device *device, const cs_value_info *value,
                                 cs_tensor *tensor, cs_error *error) {
  (void)user;
  (void)device;
  (void)value;
  (void)tensor;
  return cs_error_set(error, CS_FAILED, "this list has no weights");
}

/* ---- one bench: devices, placement, executor ---- */

typedef struct bench {
  cs_device *primary, *fallback;
  cs_placement *placement;
  cs_executor *executor;
} bench;

static bench open_bench(const cs_op_list *largest, const char *primary, const char *fallback,
                        bool prefer_program, uint64_t timeout_us) {
  bench b = {.primary = harness_device(runtime, primary)};
  if (fallback) b.fallback = harness_device(runtime, fallback);
  assert_ok(
      cs_placement_create(largest, b.primary, b.fallback, CS_FALLBACK_ALLOW, &b.placement, error));
  const cs_executor_options options = {.placement = b.placement,
                                       .largest = largest,
                                       .resolve = no_owned_values,
                                       .prefer_program = prefer_program,
                                       .timeout_us = timeout_us};
  assert_ok(cs_executor_create(&options, &b.executor, error));
  return b;
}

static void close_bench(bench *b) {
  cs_executor_destroy(b->executor);
  cs_placement_destroy(b->placement);
  cs_device_release(b->primary);
  cs_device_release(b->fallback);
}

static void fill_inputs(cs_step *step, unsigned seed) {
  for (uint32_t key = 1; key <= 2; key++) {
    uint64_t bytes = 0;
    float *input = cs_step_input(step, key, &bytes);
    assert_non_null(input);
    for (size_t i = 0; i < bytes / sizeof *input; i++)
      input[i] = (float)(rand_r(&seed) % 1000) / 999.0f;
  }
}

static void step_equals_interpretation(cs_step *step, const cs_op_list *list, unsigned seed) {
  uint64_t bytes = 0, second_bytes = 0;
  fill_inputs(step, seed);
  assert_ok(cs_step_run(step, NULL, NULL, error));
  assert_ok(cs_step_wait(step, error));
  const float *out = cs_step_output(step, 10, &bytes);
  const float *second = cs_step_output(step, 11, &second_bytes);
  assert_int_equal(bytes, second_bytes);
  float *expected = malloc(bytes);
  interpret(list, cs_step_input(step, 1, NULL), cs_step_input(step, 2, NULL), bytes / sizeof *out,
            expected);
  assert_memory_equal(out, expected, bytes);
  assert_memory_equal(second, expected, bytes);
  free(expected);
}

static void lists_run_alike_on(const char *primary, const char *fallback, bool prefer_program) {
  const unsigned first_seed = (unsigned)time(NULL);
  print_message("seed %u\n", first_seed);
  for (unsigned round = 0; round < 12; round++) {
    const recipe r = {first_seed + round, 10 + (int)round * 12, (int)(round % 3) * 4};
    cs_op_list *largest = random_list(&r, 33, r.n_ops);
    cs_op_list *smaller = random_list(&r, 3, r.n_ops);
    bench b = open_bench(largest, primary, fallback, prefer_program, 0);
    cs_step *large_step = NULL, *small_step = NULL;
    assert_ok(cs_executor_prepare(b.executor, largest, &large_step, error));
    assert_ok(cs_executor_prepare(b.executor, smaller, &small_step, error));
    for (unsigned i = 0; i < 3; i++) {
      step_equals_interpretation(large_step, largest, i);
      step_equals_interpretation(small_step, smaller, i);
    }
    cs_step_destroy(large_step);
    cs_step_destroy(small_step);
    close_bench(&b);
    cs_op_list_destroy(largest);
    cs_op_list_destroy(smaller);
  }
}

static void one_device_computes_the_list(void **state) {
  (void)state;
  lists_run_alike_on("fake:0", NULL, false);
}

static void a_device_that_only_records_computes_the_list(void **state) {
  (void)state;
  lists_run_alike_on("recorded:0", NULL, false);
}

static void recording_is_preferred_where_asked_for(void **state) {
  (void)state;
  lists_run_alike_on("twin:0", NULL, true);
}

static void values_cross_to_the_fallback_and_back(void **state) {
  (void)state;
  lists_run_alike_on("fake:0?deny=add", "twin:0", false);
}

static void values_cross_between_recorded_devices_without_staging(void **state) {
  (void)state;
  lists_run_alike_on("recorded:0?deny=copy&staging=0", "recorded:1", true);
}

static void slow_devices_still_wait_for_each_other(void **state) {
  (void)state;
  lists_run_alike_on("fake:0?deny=silu_mul&delay_us=50", "fake:1?delay_us=20", false);
}

/* Whether the product of two copies takes the first one's bytes, which are read later, or cross to
 * another device, where asked for. */
static bool product_replaces(bool read_later, const char *primary, const char *fallback) {
  cs_op_list *list = cs_op_list_create();
  cs_value values[5];
  for (uint32_t i = 0; i < 2; i++)
    values[i] = list_value(list, CS_VALUE_INPUT, i + 1, 3, COLUMNS);
  for (uint32_t i = 2; i < 5; i++)
    values[i] = cs_op_list_activation(list, CS_DTYPE_F32, 3, COLUMNS);
  list_copy(list, 0, values[2], values[0]);
  list_copy(list, 0, values[3], values[1]);
  cs_op_list_op(list, CS_OP_SILU_MUL, 0, (cs_value[]){values[4], values[2], values[3]}, 3, NULL);
  const cs_value out = list_value(list, CS_VALUE_OUTPUT, 10, 3, COLUMNS);
  list_add(list, 0, out, values[4], read_later ? values[2] : values[4]);
  assert_ok(cs_op_list_finish(list, error));
  bench b = open_bench(list, primary, fallback, false, 0);
  const cs_slot *slots = b.executor->slots;
  const bool same = slots[values[2]].offsets[0] == slots[values[4]].offsets[0];
  close_bench(&b);
  cs_op_list_destroy(list);
  return same;
}

static void a_product_takes_the_bytes_of_an_input_that_nobody_reads_later(void **state) {
  (void)state;
  assert_true(product_replaces(false, "fake:0", NULL));
  assert_false(product_replaces(true, "fake:0", NULL));
  assert_false(product_replaces(true, "fake:0?deny=add", "twin:0"));
}

/* The failure of one run, told by either half. */
static cs_status run_and_wait(cs_step *step, cs_error *error) {
  const cs_status status = cs_step_run(step, NULL, NULL, error);
  return status == CS_OK ? cs_step_wait(step, error) : status;
}

/* ---- marks ---- */

typedef struct mark_record {
  uint32_t n;
  uint32_t tags[64];
  cs_semaphore *semaphores[64]; /* retained */
  uint64_t values[64];
} mark_record;

static cs_status keep_mark(void *user, uint32_t tag, cs_semaphore *semaphore, uint64_t value,
                           cs_error *error) {
  mark_record *record = user;
  if (record->n == 64) return cs_error_set(error, CS_EXHAUSTED, "too many marks");
  record->tags[record->n] = tag;
  record->semaphores[record->n] = semaphore;
  record->values[record->n] = value;
  cs_semaphore_retain(semaphore);
  record->n++;
  return CS_OK;
}

/* A random list, its bench, and a step of it. */
typedef struct rig {
  cs_op_list *list;
  bench bench;
  cs_step *step;
} rig;

static rig open_rig(const recipe *r, const char *primary, const char *fallback, bool program,
                    uint64_t timeout_us) {
  rig g = {.list = random_list(r, 4, r->n_ops)};
  g.bench = open_bench(g.list, primary, fallback, program, timeout_us);
  assert_ok(cs_executor_prepare(g.bench.executor, g.list, &g.step, error));
  return g;
}

static void close_rig(rig *g) {
  cs_step_destroy(g->step);
  close_bench(&g->bench);
  cs_op_list_destroy(g->list);
}

static void marks_are_announced_in_order_and_reached(void **state) {
  (void)state;
  const recipe r = {7, 40, 5};
  rig g = open_rig(&r, "fake:0?deny=add", "fake:1", false, 0);
  mark_record record = {0};
  fill_inputs(g.step, 1);
  assert_ok(cs_step_run(g.step, keep_mark, &record, error));
  assert_int_equal(record.n, 8);
  for (uint32_t i = 0; i < record.n; i++) {
    assert_int_equal(record.tags[i], i * 5 + 4);
    assert_ptr_equal(cs_semaphore_device(record.semaphores[i]),
                     cs_placement_device(g.bench.placement, i * 5 + 4));
    assert_ok(cs_semaphore_wait(record.semaphores[i], record.values[i], 10000000, error));
    cs_semaphore_release(record.semaphores[i]);
  }
  assert_ok(cs_step_wait(g.step, error));
  close_rig(&g);
}

static cs_status refuse_mark(void *user, uint32_t tag, cs_semaphore *semaphore, uint64_t value,
                             cs_error *error) {
  (void)user;
  (void)semaphore;
  (void)value;
  return cs_error_set(error, CS_EXHAUSTED, "no room for layer %u", tag);
}

static void a_refused_mark_stops_the_run_and_the_next_one_works(void **state) {
  (void)state;
  const recipe r = {7, 40, 5};
  rig g = open_rig(&r, "fake:0?deny=add", "fake:1", false, 0);
  fill_inputs(g.step, 1);
  assert_fails(CS_EXHAUSTED, "no room for layer 4", cs_step_run(g.step, refuse_mark, NULL, error));
  assert_ok(cs_step_wait(g.step, error));
  step_equals_interpretation(g.step, g.list, 3);
  close_rig(&g);
}

/* ---- failures ---- */

static void a_failed_op_is_named_by_its_place_in_the_list(void **state) {
  (void)state;
  const recipe r = {11, 30, 4};
  cs_op_list *list = random_list(&r, 4, r.n_ops);
  const size_t n_ops = cs_op_list_n_ops(list);
  for (size_t bad = 0; bad < n_ops; bad += 3) {
    char spec[64], expected[64];
    snprintf(spec, sizeof spec, "fake:0?fail_op=%zu", bad + 1);
    bench b = open_bench(list, spec, NULL, false, 0);
    cs_step *step = NULL;
    cs_error failure = CS_ERROR_INIT;
    assert_ok(cs_executor_prepare(b.executor, list, &step, error));
    fill_inputs(step, 1);
    assert_int_equal(run_and_wait(step, &failure), CS_FAILED);
    assert_int_equal(failure.op_index, bad);
    const cs_op_node *node = &cs_op_list_ops(list)[bad];
    snprintf(expected, sizeof expected, "op %zu %s", bad, cs_op_name(node->id));
    assert_int_equal(strncmp(failure.message, expected, strlen(expected)), 0);
    assert_non_null(strstr(failure.message, "fake:0: injected"));
    step_equals_interpretation(step, list, 5); /* only that one op failed */
    cs_step_destroy(step);
    close_bench(&b);
  }
  cs_op_list_destroy(list);
}

static void a_failure_on_one_device_reaches_the_other(void **state) {
  (void)state;
  const recipe r = {13, 60, 0};
  rig g = open_rig(&r, "fake:0?deny=add", "fake:1?fail_op=3", false, 0);
  size_t n_seen = 0, bad = 0;
  while (n_seen < 3)
    n_seen += cs_placement_device(g.bench.placement, bad++) == g.bench.fallback;
  bad--;
  cs_error failure = CS_ERROR_INIT;
  fill_inputs(g.step, 1);
  assert_int_equal(run_and_wait(g.step, &failure), CS_FAILED);
  assert_int_equal(failure.op_index, bad);
  assert_non_null(strstr(failure.message, "fake:1: injected"));
  step_equals_interpretation(g.step, g.list, 5);
  close_rig(&g);
}

static void an_enqueue_that_is_refused_names_its_op(void **state) {
  (void)state;
  const recipe r = {11, 30, 10};
  rig g = open_rig(&r, "fake:0?refuse_op=2", NULL, false, 0);
  cs_error failure = CS_ERROR_INIT;
  fill_inputs(g.step, 1);
  assert_int_equal(cs_step_run(g.step, NULL, NULL, &failure), CS_FAILED);
  assert_int_equal(failure.op_index, 10);
  assert_non_null(strstr(failure.message, "fake:0: refused"));
  step_equals_interpretation(g.step, g.list, 5);
  close_rig(&g);
}

static void a_lost_device_names_the_op_and_refuses_the_next_run(void **state) {
  (void)state;
  const recipe r = {11, 30, 0};
  rig g = open_rig(&r, "fake:0?lost_op=9", NULL, false, 0);
  cs_error failure = CS_ERROR_INIT;
  fill_inputs(g.step, 1);
  assert_int_equal(run_and_wait(g.step, &failure), CS_DEVICE_LOST);
  assert_int_equal(failure.op_index, 8);
  assert_fails(CS_DEVICE_LOST, "fake:0: the device is lost", run_and_wait(g.step, error));
  close_rig(&g);
}

/* Long after the deadline of a step, within the grace of a stream that is dropped. */
static void *end_in_a_second(void *hang) {
  sleep(1);
  harness_hang_end(hang);
  return NULL;
}

static void a_step_that_hangs_ends_at_its_deadline(void **state) {
  (void)state;
  pthread_t thread;
  const recipe r = {17, 20, 0};
  harness_hang hang = harness_hang_open("fake:0?hang_op=5&hang_fd=");
  rig g = open_rig(&r, hang.spec, NULL, false, 50000);
  fill_inputs(g.step, 1);
  assert_ok(cs_step_run(g.step, NULL, NULL, error));
  assert_int_equal(pthread_create(&thread, NULL, end_in_a_second, &hang), 0);
  assert_fails(CS_TIMEOUT, "a step did not end within 50 ms", cs_step_wait(g.step, error));
  assert_fails(CS_TIMEOUT, "an earlier step has never ended",
               cs_step_run(g.step, NULL, NULL, error));
  pthread_join(thread, NULL);
  close_rig(&g);
  harness_hang_close(&hang);
}

static void an_executor_may_go_while_a_step_runs(void **state) {
  (void)state;
  const recipe r = {19, 50, 5};
  cs_op_list *list = random_list(&r, 4, r.n_ops);
  bench b = open_bench(list, "fake:0?deny=add&delay_us=200", "fake:1", false, 0);
  cs_step *step = NULL;
  mark_record record = {0};
  assert_ok(cs_executor_prepare(b.executor, list, &step, error));
  fill_inputs(step, 1);
  assert_ok(cs_step_run(step, keep_mark, &record, error));
  cs_step_destroy(step);
  close_bench(&b);
  for (uint32_t i = 0; i < record.n; i++)
    cs_semaphore_release(record.semaphores[i]);
  cs_op_list_destroy(list);
}

/* ---- lists that do not fit ---- */

static void a_leading_part_of_the_largest_list_is_accepted(void **state) {
  (void)state;
  cs_op_list *largest = cs_op_list_create();
  cs_op_list *part = cs_op_list_create();
  const cs_value in = list_value(largest, CS_VALUE_INPUT, 1, 8, COLUMNS);
  const cs_value unused = list_value(largest, CS_VALUE_INPUT, 2, 8, COLUMNS);
  const cs_value middle = list_value(largest, CS_VALUE_OUTPUT, 10, 8, COLUMNS);
  const cs_value end = list_value(largest, CS_VALUE_OUTPUT, 11, 8, COLUMNS);
  list_copy(largest, 0, middle, in);
  list_add(largest, 1, end, middle, unused);
  const cs_value part_in = list_value(part, CS_VALUE_INPUT, 1, 2, COLUMNS);
  const cs_value part_out = list_value(part, CS_VALUE_OUTPUT, 10, 2, COLUMNS);
  list_copy(part, 0, part_out, part_in);
  bench b = open_bench(largest, "fake:0", NULL, false, 0);
  cs_step *step = NULL;
  assert_ok(cs_executor_prepare(b.executor, part, &step, error));
  uint64_t bytes = 0;
  float *input = cs_step_input(step, 1, &bytes);
  assert_int_equal(bytes, 2 * COLUMNS * sizeof *input);
  for (int i = 0; i < 2 * COLUMNS; i++)
    input[i] = (float)i;
  assert_null(cs_step_input(step, 2, &bytes));
  assert_null(cs_step_output(step, 11, NULL));
  assert_ok(cs_step_run(step, NULL, NULL, error));
  assert_ok(cs_step_wait(step, error));
  assert_memory_equal(cs_step_output(step, 10, NULL), input, 2 * COLUMNS * sizeof *input);
  cs_step_destroy(step);
  close_bench(&b);
  cs_op_list_destroy(largest);
  cs_op_list_destroy(part);
}

static void lists_unlike_the_largest_are_refused(void **state) {
  (void)state;
  const recipe r = {23, 20, 0};
  const recipe other = {24, 20, 0};
  cs_op_list *largest = random_list(&r, 4, r.n_ops);
  cs_op_list *too_large = random_list(&r, 5, r.n_ops);
  cs_op_list *too_long = random_list(&r, 4, r.n_ops + 1);
  cs_op_list *unlike = random_list(&other, 4, r.n_ops);
  bench b = open_bench(largest, "fake:0", NULL, false, 0);
  cs_step *step = NULL;
  assert_fails(CS_INVALID_ARGUMENT, "larger than in the largest list",
               cs_executor_prepare(b.executor, too_large, &step, error));
  assert_fails(CS_INVALID_ARGUMENT, "a list of 23 ops under a placement of 22",
               cs_executor_prepare(b.executor, too_long, &step, error));
  assert_fails(CS_INVALID_ARGUMENT, "op ", cs_executor_prepare(b.executor, unlike, &step, error));
  assert_null(step);
  close_bench(&b);
  cs_op_list_destroy(largest);
  cs_op_list_destroy(too_large);
  cs_op_list_destroy(too_long);
  cs_op_list_destroy(unlike);
}

static void a_value_read_before_it_is_written_is_refused(void **state) {
  (void)state;
  cs_op_list *list = cs_op_list_create();
  const cs_value x = cs_op_list_activation(list, CS_DTYPE_F32, 2, COLUMNS);
  const cs_value out = list_value(list, CS_VALUE_OUTPUT, 1, 2, COLUMNS);
  list_copy(list, 0, out, x);
  cs_device *device = harness_device(runtime, "fake:0");
  cs_placement *placement = NULL;
  assert_ok(cs_placement_create(list, device, NULL, CS_FALLBACK_STRICT, &placement, error));
  cs_executor *executor = NULL;
  const cs_executor_options options = {
      .placement = placement, .largest = list, .resolve = no_owned_values};
  assert_fails(CS_INVALID_ARGUMENT, "op 0 copy: operand 1 is read before it is written",
               cs_executor_create(&options, &executor, error));
  assert_null(executor);
  cs_placement_destroy(placement);
  cs_device_release(device);
  cs_op_list_destroy(list);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_device_computes_the_list),
      cmocka_unit_test(a_product_takes_the_bytes_of_an_input_that_nobody_reads_later),
      cmocka_unit_test(a_device_that_only_records_computes_the_list),
      cmocka_unit_test(recording_is_preferred_where_asked_for),
      cmocka_unit_test(values_cross_to_the_fallback_and_back),
      cmocka_unit_test(values_cross_between_recorded_devices_without_staging),
      cmocka_unit_test(slow_devices_still_wait_for_each_other),
      cmocka_unit_test(marks_are_announced_in_order_and_reached),
      cmocka_unit_test(a_refused_mark_stops_the_run_and_the_next_one_works),
      cmocka_unit_test(a_failed_op_is_named_by_its_place_in_the_list),
      cmocka_unit_test(a_failure_on_one_device_reaches_the_other),
      cmocka_unit_test(an_enqueue_that_is_refused_names_its_op),
      cmocka_unit_test(a_lost_device_names_the_op_and_refuses_the_next_run),
      cmocka_unit_test(a_step_that_hangs_ends_at_its_deadline),
      cmocka_unit_test(an_executor_may_go_while_a_step_runs),
      cmocka_unit_test(a_leading_part_of_the_largest_list_is_accepted),
      cmocka_unit_test(lists_unlike_the_largest_are_refused),
      cmocka_unit_test(a_value_read_before_it_is_written_is_refused),
  };
  return cmocka_run_group_tests(tests, open_runtime, close_runtime);
}
