/* The KV formats of 8 bits: their numbers by definition, the bound on what rounding loses, and the
 * bytes that planes of them take. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "consort/kv.h"
#include "core/cut.h"
#include "core/error.h"

static double e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  const double magnitude =
      exponent ? ldexp(1 + fraction / 8.0, exponent - 7) : ldexp(fraction / 8.0, -6);
  return bits & 0x80 ? -magnitude : magnitude;
}

static void every_e4m3_number_survives(void **state) {
  (void)state;
  for (uint32_t bits = 0; bits < 256; bits++) {
    const float value = cs_f32_from_e4m3((uint8_t)bits);
    if ((bits & 0x7f) == 0x7f) {
      assert_true(isnan(value));
    } else {
      assert_true(value == (float)e4m3((uint8_t)bits));
      assert_int_equal(!!signbit(value), bits >> 7);
    }
    assert_int_equal(cs_e4m3_from_f32(value), bits);
  }
}

static void e4m3_rounds_to_the_nearest_even(void **state) {
  (void)state;
  for (uint32_t bits = 0; bits < 0x7e; bits++) {
    const float low = cs_f32_from_e4m3((uint8_t)bits), high = cs_f32_from_e4m3((uint8_t)(bits + 1));
    const float middle = (low + high) / 2;
    assert_int_equal(cs_e4m3_from_f32(middle), bits % 2 ? bits + 1 : bits);
    assert_int_equal(cs_e4m3_from_f32(nextafterf(middle, 0)), bits);
    assert_int_equal(cs_e4m3_from_f32(nextafterf(middle, INFINITY)), bits + 1);
    assert_int_equal(cs_e4m3_from_f32(-nextafterf(middle, 0)), bits | 0x80);
  }
  const float large[] = {448, 464, 465, 1e30f, INFINITY};
  for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
    assert_int_equal(cs_e4m3_from_f32(large[i]), 0x7e);
    assert_int_equal(cs_e4m3_from_f32(-large[i]), 0xfe);
  }
  assert_int_equal(cs_e4m3_from_f32(NAN) & 0x7f, 0x7f);
}

static void int8_loses_half_a_step_at_most(void **state) {
  (void)state;
  uint32_t seed = 1;
  for (int trial = 0; trial < 2000; trial++) {
    float x[20], back[20], again[20];
    int8_t codes[20], second[20];
    for (size_t i = 0; i < 20; i++) {
      seed = seed * 1664525 + 1013904223;
      x[i] = ((float)(seed >> 8) * 0x1p-24f - 0.5f) * ldexpf(1, trial % 200 - 100);
    }
    const float scale = cs_kv_i8_from_f32(codes, x, 20);
    cs_kv_f32_from_i8(back, codes, scale, 20);
    float largest = 0;
    for (size_t i = 0; i < 20; i++) {
      assert_true(fabsf(x[i] - back[i]) <= scale * 0.50001f);
      largest = fmaxf(largest, fabsf(x[i]));
    }
    assert_true(fabsf(scale - largest / 127) <= scale * 0x1p-22f);
    cs_kv_f32_from_i8(again, second, cs_kv_i8_from_f32(second, back, 20), 20);
    assert_memory_equal(second, codes, sizeof codes);
  }
}

static void int8_rounds_halves_to_even(void **state) {
  (void)state;
  const float x[] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 125.5f};
  const int8_t expected[] = {127, 0, 2, 2, 0, -2, -2, 126};
  int8_t codes[8];
  assert_true(cs_kv_i8_from_f32(codes, x, 8) == 1);
  assert_memory_equal(codes, expected, sizeof codes);
}

static void int8_rows_at_the_ends(void **state) {
  (void)state;
  const float rows[][2] = {{0, -0.0f}, {0x1p-126f, 0}, {0x1.fffffep127f, -1}};
  int8_t codes[2];
  assert_true(cs_kv_i8_from_f32(codes, rows[0], 2) == 0 && codes[0] == 0 && codes[1] == 0);
  assert_true(cs_kv_i8_from_f32(codes, rows[1], 2) == 0 && codes[0] == 0);
  assert_true(cs_kv_i8_from_f32(codes, rows[2], 2) > 0x1p120f && codes[0] == 127);
  const float bad[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < 3; i++) {
    const float row[] = {1, bad[i]};
    const float scale = cs_kv_i8_from_f32(codes, row, 2);
    assert_true(isnan(scale) && isnan((float)codes[0] * scale));
    assert_int_equal(codes[0] | codes[1], 0);
  }
}

static void planes_of_int8_count_their_scales(void **state) {
  (void)state;
  const uint64_t dims[] = {5, 16, 3, 64};
  const uint64_t scales = 16 * 3 * 4;
  assert_true(cs_kv_block_scale_bytes(CS_DTYPE_I8, CS_LAYOUT_KV_HEAD_MAJOR, 4, dims) == scales);
  assert_true(cs_kv_block_scale_bytes(CS_DTYPE_I8, CS_LAYOUT_PLAIN, 4, dims) == 0);
  assert_true(cs_kv_block_scale_bytes(CS_DTYPE_F8_E4M3, CS_LAYOUT_KV_HEAD_MAJOR, 4, dims) == 0);
  cs_value_info value = {.kind = CS_VALUE_CACHE,
                         .dtype = CS_DTYPE_I8,
                         .layout = CS_LAYOUT_KV_TOKEN_MAJOR,
                         .rank = 4,
                         .dims = {5, 16, 3, 64}};
  uint64_t bytes;
  assert_int_equal(cs_value_bytes(&value, &bytes, NULL), CS_OK);
  assert_true(bytes == 5 * (16 * 3 * 64 + scales));
  value.dims[0] = UINT64_MAX / (16 * 3 * 64);
  assert_int_equal(cs_value_bytes(&value, &bytes, NULL), CS_OUT_OF_RANGE);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_e4m3_number_survives),
      cmocka_unit_test(e4m3_rounds_to_the_nearest_even),
      cmocka_unit_test(int8_loses_half_a_step_at_most),
      cmocka_unit_test(int8_rounds_halves_to_even),
      cmocka_unit_test(int8_rows_at_the_ends),
      cmocka_unit_test(planes_of_int8_count_their_scales),
  };
  return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
