/* Which cores a device takes, where its weights go, and who runs which items, on machines that this
 * one is not: topologies that hwloc makes up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cores.h"
#include "numa.h"
#include "pool.h"
#include "sdk_host.h"

#define PATIENCE_S 20

/* ---- cores ---- */

#ifdef CPU_HAVE_HWLOC

static cpu_set_t all_units(void) {
  cpu_set_t set;
  memset(&set, 0xff, sizeof set);
  return set;
}

static void expect_units(const cpu_core *cores, uint32_t n, const uint32_t *units,
                         uint32_t n_units) {
  assert_int_equal(n, n_units);
  for (uint32_t i = 0; i < n; i++)
    assert_int_equal(cores[i].unit, units[i]);
}

#define EXPECT_UNITS(cores, n, ...)                                                                \
  expect_units(cores, n, (const uint32_t[]){__VA_ARGS__},                                          \
               sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

/* The last `n_fast` of `n_units` hardware threads are of a faster kind. */
static uint32_t read_synthetic(const char *description, int n_units, int n_fast,
                               const cpu_set_t *allowed, cpu_core *cores) {
  hwloc_topology_t topology;
  assert_int_equal(hwloc_topology_init(&topology), 0);
  assert_int_equal(hwloc_topology_set_synthetic(topology, description), 0);
  assert_int_equal(hwloc_topology_load(topology), 0);
  for (int kind = 0; kind < 2 && n_fast > 0; kind++) {
    hwloc_bitmap_t units = hwloc_bitmap_alloc();
    hwloc_bitmap_set_range(units, (unsigned)(kind ? n_units - n_fast : 0),
                           (kind ? n_units : n_units - n_fast) - 1);
    assert_int_equal(hwloc_cpukinds_register(topology, units, kind, 0, NULL, 0), 0);
    hwloc_bitmap_free(units);
  }
  const uint32_t n = cpu_cores_of(topology, allowed, cores);
  hwloc_topology_destroy(topology);
  return n;
}

static void cores_of_two_nodes_are_in_the_order_of_nodes(void **state) {
  (void)state;
  cpu_core cores[CPU_MAX_CORES];
  const cpu_set_t all = all_units();
  const uint32_t n = read_synthetic("numa:2 core:4 pu:2", 16, 0, &all, cores);
  EXPECT_UNITS(cores, n, 0, 2, 4, 6, 8, 10, 12, 14); /* one hardware thread a core */
  for (uint32_t i = 0; i < n; i++) {
    assert_int_equal(cores[i].node, i / 4);
    assert_int_equal(cores[i].speed, 0);
  }
  assert_int_equal(cpu_cores_n_nodes(cores, n), 2);
}

/* As on machines that number the first hardware threads of all sockets first. */
static void interleaved_numbers_do_not_mix_nodes(void **state) {
  (void)state;
  cpu_core cores[CPU_MAX_CORES];
  const cpu_set_t all = all_units();
  const uint32_t n = read_synthetic("numa:2 core:2 pu:1(indexes=0,2,1,3)", 4, 0, &all, cores);
  EXPECT_UNITS(cores, n, 0, 2, 1, 3);
  assert_int_equal(cores[1].node, 0);
  assert_int_equal(cores[2].node, 1);
}

static void only_allowed_units_count(void **state) {
  (void)state;
  cpu_core cores[CPU_MAX_CORES];
  cpu_set_t some;
  CPU_ZERO(&some);
  CPU_SET(3, &some); /* the second thread of core 1 */
  CPU_SET(8, &some);
  const uint32_t n = read_synthetic("numa:2 core:4 pu:2", 16, 0, &some, cores);
  EXPECT_UNITS(cores, n, 3, 8);
  assert_int_equal(cores[1].node, 1);
}

static void few_threads_reach_all_nodes(void **state) {
  (void)state;
  cpu_core cores[CPU_MAX_CORES], chosen[CPU_MAX_CORES];
  const cpu_set_t all = all_units();
  const uint32_t n = read_synthetic("numa:2 core:4 pu:1", 8, 0, &all, cores);
  EXPECT_UNITS(chosen, cpu_cores_choose(cores, n, 4, chosen), 0, 2, 4, 6);
  assert_int_equal(cpu_cores_n_nodes(chosen, 4), 2);
  EXPECT_UNITS(chosen, cpu_cores_choose(cores, n, 2, chosen), 0, 4);
  EXPECT_UNITS(chosen, cpu_cores_choose(cores, n, 99, chosen), 0, 1, 2, 3, 4, 5, 6, 7);
}

static void fast_cores_come_first(void **state) {
  (void)state;
  cpu_core cores[CPU_MAX_CORES], chosen[CPU_MAX_CORES];
  const cpu_set_t all = all_units();
  const uint32_t n = read_synthetic("core:8 pu:1", 8, 2, &all, cores);
  assert_int_equal(n, 8);
  EXPECT_UNITS(chosen, cpu_cores_choose(cores, n, 1, chosen), 6);
  EXPECT_UNITS(chosen, cpu_cores_choose(cores, n, 2, chosen), 6, 7);
  EXPECT_UNITS(chosen, cpu_cores_choose(cores, n, 4, chosen), 0, 3, 6, 7);
  EXPECT_UNITS(chosen, cpu_cores_choose(cores, n, 8, chosen), 0, 1, 2, 3, 4, 5, 6, 7);
}

#endif

/* ---- memory ---- */

static void expect_span(const cpu_span *span, uint64_t begin, uint64_t end, uint32_t node) {
  assert_int_equal(span->begin, begin);
  assert_int_equal(span->end, end);
  assert_int_equal(span->node, node);
}

static void memory_is_dealt_as_items_are(void **state) {
  (void)state;
  cpu_span spans[8];
  const uint16_t even[] = {0, 0, 1, 1}, uneven[] = {0, 0, 3}, one[] = {5, 5, 5};
  assert_int_equal(cpu_numa_deal(even, 4, 8000, 1000, spans), 2);
  expect_span(&spans[0], 0, 4000, 0);
  expect_span(&spans[1], 4000, 8000, 1);
  assert_int_equal(cpu_numa_deal(uneven, 3, 12000, 1000, spans), 2);
  expect_span(&spans[0], 0, 8000, 0);
  expect_span(&spans[1], 8000, 12000, 3);
  assert_int_equal(cpu_numa_deal(one, 3, 12345, 1000, spans), 1);
  expect_span(&spans[0], 0, 12345, 5);
}

static void every_byte_is_in_one_span(void **state) {
  (void)state;
  const uint16_t nodes[] = {0, 1, 2, 3, 4, 5, 6, 7};
  cpu_span spans[8];
  for (uint64_t bytes = 1; bytes < 40000; bytes += 777) {
    const uint32_t n = cpu_numa_deal(nodes, 8, bytes, 4096, spans);
    assert_int_equal(spans[0].begin, 0);
    assert_int_equal(spans[n - 1].end, bytes);
    for (uint32_t i = 1; i < n; i++) {
      assert_int_equal(spans[i].begin, spans[i - 1].end);
      assert_int_equal(spans[i].begin % 4096, 0);
    }
  }
}

/* A wish for a node that is not there leaves memory that works. */
static void a_node_that_is_missing_does_no_harm(void **state) {
  (void)state;
  const uint64_t bytes = UINT64_C(1) << 21;
  unsigned char *data = aligned_alloc(1 << 21, bytes);
  const cpu_span spans[] = {{0, bytes / 2, 0}, {bytes / 2, bytes, 1000}};
  cpu_numa_bind(data, spans, 2);
  memset(data, 7, bytes);
  assert_int_equal(data[bytes - 1], 7);
  free(data);
}

/* ---- threads ---- */

static bool wait_for(atomic_uint *value, unsigned wanted) {
  const time_t deadline = time(NULL) + PATIENCE_S;
  while (atomic_load(value) < wanted)
    if (time(NULL) > deadline)
      return false;
    else
      sched_yield();
  return true;
}

#define N_ITEMS 400

typedef struct loop {
  uint32_t n_threads;
  atomic_uint n_begun;
  atomic_uint n_done;
  atomic_uint first[N_ITEMS]; /* 1: a thread's first piece began here */
  atomic_uint runs[N_ITEMS];
  atomic_uint n_of_slow; /* pieces that the slow thread took */
  atomic_bool is_late;
} loop;

static _Thread_local bool has_begun; /* of the caller's thread: set back by each test */
static _Thread_local bool is_slow;

static void count(loop *l, uint64_t begin, uint64_t end) {
  for (uint64_t i = begin; i < end; i++)
    atomic_fetch_add(&l->runs[i], 1);
  atomic_fetch_add(&l->n_done, (unsigned)(end - begin));
}

/* No thread goes on before all have begun, so that none begins with another's items. */
static void begin_together(loop *l, uint64_t begin) {
  if (has_begun) return;
  has_begun = true;
  is_slow = atomic_fetch_add(&l->n_begun, 1) == 1;
  atomic_store(&l->first[begin], 1);
  if (!wait_for(&l->n_begun, l->n_threads)) atomic_store(&l->is_late, true);
}

static void all_alike(void *job, uint64_t begin, uint64_t end) {
  begin_together(job, begin);
  count(job, begin, end);
}

static void each_thread_begins_with_its_own_share(void **state) {
  (void)state;
  cpu_pool *pool = cpu_pool_create(&test_host, 4, NULL);
  assert_non_null(pool);
  has_begun = false;
  loop l = {.n_threads = 4};
  cpu_pool_for(pool, N_ITEMS, 4, all_alike, &l);
  assert_false(atomic_load(&l.is_late));
  for (uint32_t i = 0; i < N_ITEMS; i++) {
    assert_int_equal(atomic_load(&l.first[i]), i % 100 == 0);
    assert_int_equal(atomic_load(&l.runs[i]), 1);
  }
  cpu_pool_destroy(pool);
}

/* One thread does not finish its first piece before all other items are done. */
static void one_is_slow(void *job, uint64_t begin, uint64_t end) {
  loop *l = job;
  begin_together(l, begin);
  if (is_slow) {
    atomic_fetch_add(&l->n_of_slow, 1);
    if (!wait_for(&l->n_done, N_ITEMS - (unsigned)(end - begin))) atomic_store(&l->is_late, true);
  }
  count(l, begin, end);
}

static void nobody_waits_for_the_share_of_a_slow_thread(void **state) {
  (void)state;
  cpu_pool *pool = cpu_pool_create(&test_host, 3, NULL);
  assert_non_null(pool);
  has_begun = false;
  loop l = {.n_threads = 3};
  cpu_pool_for(pool, N_ITEMS, 4, one_is_slow, &l);
  assert_false(atomic_load(&l.is_late));
  assert_int_equal(atomic_load(&l.n_of_slow), 1);
  for (uint32_t i = 0; i < N_ITEMS; i++)
    assert_int_equal(atomic_load(&l.runs[i]), 1);
  cpu_pool_destroy(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#ifdef CPU_HAVE_HWLOC
      cmocka_unit_test(cores_of_two_nodes_are_in_the_order_of_nodes),
      cmocka_unit_test(interleaved_numbers_do_not_mix_nodes),
      cmocka_unit_test(only_allowed_units_count),
      cmocka_unit_test(few_threads_reach_all_nodes),
      cmocka_unit_test(fast_cores_come_first),
#endif
      cmocka_unit_test(memory_is_dealt_as_items_are),
      cmocka_unit_test(every_byte_is_in_one_span),
      cmocka_unit_test(a_node_that_is_missing_does_no_harm),
      cmocka_unit_test(each_thread_begins_with_its_own_share),
      cmocka_unit_test(nobody_waits_for_the_share_of_a_slow_thread),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
