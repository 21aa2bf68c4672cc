/* Values that are alive together never share bytes, and dead ones give theirs back. */
#include "core_harness.h"

#include <time.h>

#include "core/arena.h"

static bool apart(const cs_arena_item *a, const cs_arena_item *b) {
  const bool in_time = a->last < b->first || b->last < a->first;
  const bool in_space = a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset;
  return in_time || in_space;
}

static void values_alive_together_never_overlap(void **state) {
  (void)state;
  const unsigned seed = (unsigned)time(NULL);
  print_message("seed %u\n", seed);
  srand(seed);
  for (int round = 0; round < 200; round++) {
    cs_arena_item items[64];
    const size_t n = 1 + (size_t)rand() % 64;
    for (size_t i = 0; i < n; i++) {
      const uint32_t first = (uint32_t)rand() % 40;
      items[i] = (cs_arena_item){.first = first,
                                 .last = first + (uint32_t)rand() % 10,
                                 .bytes = 1 + (uint64_t)rand() % 5000};
    }
    uint64_t total = 0;
    assert_ok(cs_arena_assign(items, n, &total, error));
    for (size_t i = 0; i < n; i++) {
      assert_int_equal(items[i].offset % CS_ARENA_ALIGN, 0);
      assert_true(items[i].offset + items[i].bytes <= total);
      for (size_t j = 0; j < i; j++)
        assert_true(apart(&items[i], &items[j]));
    }
  }
}

static void dead_values_give_their_bytes_back(void **state) {
  (void)state;
  cs_arena_item items[100];
  for (uint32_t i = 0; i < 100; i++)
    items[i] = (cs_arena_item){.first = i, .last = i + 1, .bytes = 1000};
  uint64_t total = 0;
  assert_ok(cs_arena_assign(items, 100, &total, error));
  assert_int_equal(total, 2 * 1024);
}

static void sizes_that_overflow_are_refused(void **state) {
  (void)state;
  cs_arena_item items[2] = {{.bytes = UINT64_MAX / 2 + 1}, {.bytes = UINT64_MAX / 2 + 1}};
  uint64_t total = 0;
  assert_fails(CS_OUT_OF_RANGE, "larger", cs_arena_assign(items, 2, &total, error));
  items[0].bytes = UINT64_MAX;
  assert_fails(CS_OUT_OF_RANGE, "larger", cs_arena_assign(items, 2, &total, error));
}

static void nothing_needs_nothing(void **state) {
  (void)state;
  uint64_t total = 1;
  assert_ok(cs_arena_assign(NULL, 0, &total, error));
  assert_int_equal(total, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_alive_together_never_overlap),
      cmocka_unit_test(dead_values_give_their_bytes_back),
      cmocka_unit_test(sizes_that_overflow_are_refused),
      cmocka_unit_test(nothing_needs_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
