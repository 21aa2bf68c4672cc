/* Sizes of formats and conversions between the floating ones. */
#include "core_harness.h"

#include <math.h>

#include "core/dtype.h"

static void names_and_numbers_agree(void **state) {
  (void)state;
  int n = 0;
  for (uint32_t dtype = 0; dtype < CS_DTYPE_LIMIT + 4; dtype++) {
    const cs_dtype_info *info = cs_dtype_find(dtype);
    if (!info) continue;
    assert_int_equal(cs_dtype_from_name(info->name), dtype);
    n++;
  }
  assert_int_equal(n, 20);
  assert_int_equal(cs_dtype_from_name("q8_0"), CS_DTYPE_Q8_0);
  assert_int_equal(cs_dtype_from_name("nothing"), CS_DTYPE_NONE);
  assert_int_equal(cs_dtype_from_name(NULL), CS_DTYPE_NONE);
}

static void sizes_are_whole_blocks(void **state) {
  (void)state;
  uint64_t bytes = 0;
  assert_int_equal(cs_dtype_bytes(CS_DTYPE_F32, 7, &bytes), CS_OK);
  assert_int_equal(bytes, 28);
  assert_int_equal(cs_dtype_bytes(CS_DTYPE_Q8_0, 64, &bytes), CS_OK);
  assert_int_equal(bytes, 68);
  assert_int_equal(cs_dtype_bytes(CS_DTYPE_Q6_K, 512, &bytes), CS_OK);
  assert_int_equal(bytes, 420);
  assert_int_equal(cs_dtype_bytes(CS_DTYPE_Q4_0, 33, &bytes), CS_INVALID_ARGUMENT);
  assert_int_equal(cs_dtype_bytes(CS_DTYPE_NONE, 1, &bytes), CS_INVALID_ARGUMENT);
  assert_int_equal(cs_dtype_bytes(CS_DTYPE_F32, UINT64_MAX, &bytes), CS_OUT_OF_RANGE);
}

static void every_half_survives_the_way_through_f32(void **state) {
  (void)state;
  const uint32_t formats[] = {CS_DTYPE_F16, CS_DTYPE_BF16};
  for (size_t f = 0; f < 2; f++) {
    for (uint32_t bits = 0; bits < 65536; bits++) {
      const uint16_t half = (uint16_t)bits;
      float value = 0;
      uint16_t back = 0;
      assert_int_equal(cs_dtype_convert(CS_DTYPE_F32, &value, formats[f], &half, 1), CS_OK);
      assert_int_equal(cs_dtype_convert(formats[f], &back, CS_DTYPE_F32, &value, 1), CS_OK);
      if (!isnan(value)) assert_int_equal(back, half);
    }
  }
}

static void conversion_rounds_to_even(void **state) {
  (void)state;
  const float from[] = {1.0f + 0x1p-11f, 1.0f + 0x1.8p-10f, 65519.0f, 65520.0f};
  const uint16_t expected[] = {0x3c00, 0x3c02, 0x7bff, 0x7c00};
  uint16_t to[4];
  assert_int_equal(cs_dtype_convert(CS_DTYPE_F16, to, CS_DTYPE_F32, from, 4), CS_OK);
  assert_memory_equal(to, expected, sizeof to);
  const float from_bf16[] = {1.0f + 0x1p-8f, 1.0f + 0x1.8p-7f, 1.0f + 0x1.02p-8f, 0x1.ffp127f};
  const uint16_t expected_bf16[] = {0x3f80, 0x3f82, 0x3f81, 0x7f80};
  assert_int_equal(cs_dtype_convert(CS_DTYPE_BF16, to, CS_DTYPE_F32, from_bf16, 4), CS_OK);
  assert_memory_equal(to, expected_bf16, sizeof to);
}

static void integers_are_not_converted(void **state) {
  (void)state;
  int32_t from = 1;
  float to = 0;
  assert_int_equal(cs_dtype_convert(CS_DTYPE_F32, &to, CS_DTYPE_I32, &from, 1), CS_UNSUPPORTED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_and_numbers_agree),
      cmocka_unit_test(sizes_are_whole_blocks),
      cmocka_unit_test(every_half_survives_the_way_through_f32),
      cmocka_unit_test(conversion_rounds_to_even),
      cmocka_unit_test(integers_are_not_converted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
