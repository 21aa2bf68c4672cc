/* The KV block manager: what is taken comes back, and a refusal changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "models/kv_pool.h"

static void blocks_are_taken_when_positions_need_them(void **state) {
  (void)state;
  cs_kv_pool *pool;
  cs_kv_sequence sequence = {0};
  assert_int_equal(cs_kv_pool_create(4, 16, &pool, NULL), CS_OK);
  assert_int_equal(cs_kv_sequence_reserve(pool, &sequence, 0, NULL), CS_OK);
  assert_int_equal(sequence.n_blocks, 0);
  const uint32_t needed[][2] = {{1, 1}, {15, 1}, {16, 1}, {17, 2}, {5, 2}, {64, 4}};
  for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
    assert_int_equal(cs_kv_sequence_reserve(pool, &sequence, needed[i][0], NULL), CS_OK);
    assert_int_equal(sequence.n_blocks, needed[i][1]);
    assert_int_equal(cs_kv_pool_n_free(pool), 4 - needed[i][1]);
  }
  cs_kv_sequence_release(pool, &sequence);
  assert_int_equal(cs_kv_pool_n_free(pool), 4);
  cs_kv_pool_destroy(pool);
}

static void every_slot_belongs_to_one_position(void **state) {
  (void)state;
  cs_kv_pool *pool;
  cs_kv_sequence sequences[3] = {{0}, {0}, {0}};
  uint8_t seen[8 * 4] = {0};
  assert_int_equal(cs_kv_pool_create(8, 4, &pool, NULL), CS_OK);
  for (uint64_t n = 1; n <= 10; n++)
    for (int s = 0; s < 3; s++)
      if (n <= 8 || s == 0)
        assert_int_equal(cs_kv_sequence_reserve(pool, &sequences[s], n, NULL), CS_OK);
  for (int s = 0; s < 3; s++) {
    for (uint64_t p = 0; p < sequences[s].n_blocks * UINT64_C(4); p++) {
      const int32_t slot = cs_kv_sequence_slot(pool, &sequences[s], p);
      assert_in_range(slot, 0, 31);
      assert_int_equal(slot, sequences[s].blocks[p / 4] * 4 + (int32_t)(p % 4));
      assert_int_equal(seen[slot]++, 0);
    }
    assert_int_equal(cs_kv_sequence_slot(pool, &sequences[s], sequences[s].n_blocks * 4), -1);
  }
  for (int s = 0; s < 3; s++)
    cs_kv_sequence_release(pool, &sequences[s]);
  assert_int_equal(cs_kv_pool_n_free(pool), 8);
  cs_kv_pool_destroy(pool);
}

static void an_exhausted_pool_gives_nothing_at_all(void **state) {
  (void)state;
  cs_kv_pool *pool;
  cs_kv_sequence a = {0};
  cs_kv_sequence b = {0};
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_kv_pool_create(3, 16, &pool, NULL), CS_OK);
  assert_int_equal(cs_kv_sequence_reserve(pool, &a, 20, NULL), CS_OK);
  const int32_t first = a.blocks[0];
  assert_int_equal(cs_kv_sequence_reserve(pool, &b, 17, &error), CS_EXHAUSTED);
  assert_int_equal(b.n_blocks, 0);
  assert_int_equal(cs_kv_pool_n_free(pool), 1);
  assert_int_equal(cs_kv_sequence_reserve(pool, &a, UINT64_MAX, &error), CS_EXHAUSTED);
  assert_non_null(strstr(error.message, "1 of 3 are free"));
  assert_int_equal(a.n_blocks, 2);
  assert_int_equal(a.blocks[0], first);
  assert_int_equal(cs_kv_sequence_reserve(pool, &b, 16, NULL), CS_OK);
  assert_int_equal(cs_kv_pool_n_free(pool), 0);
  cs_kv_sequence_release(pool, &b);
  cs_kv_sequence_release(pool, &b);
  cs_kv_sequence_release(pool, &a);
  assert_int_equal(cs_kv_pool_n_free(pool), 3);
  assert_null(a.blocks);
  cs_kv_pool_destroy(pool);
}

static void pools_that_slots_cannot_number_are_refused(void **state) {
  (void)state;
  cs_kv_pool *pool;
  assert_int_equal(cs_kv_pool_create(0, 16, &pool, NULL), CS_INVALID_ARGUMENT);
  assert_int_equal(cs_kv_pool_create(16, 0, &pool, NULL), CS_INVALID_ARGUMENT);
  assert_int_equal(cs_kv_pool_create(1u << 27, 16, &pool, NULL), CS_OUT_OF_RANGE);
  assert_null(pool);
  cs_kv_pool_destroy(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(blocks_are_taken_when_positions_need_them),
      cmocka_unit_test(every_slot_belongs_to_one_position),
      cmocka_unit_test(an_exhausted_pool_gives_nothing_at_all),
      cmocka_unit_test(pools_that_slots_cannot_number_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
