/* Formats of weights on the host: equal bits with the gguf package, and small errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "models/blocks.h"

typedef struct record {
  char name[8];
  uint32_t n_elements;
  uint32_t n_bytes;
} record;

static void every_format_decodes_to_the_same_bits_as_the_gguf_package(void **state) {
  (void)state;
  char path[4096];
  snprintf(path, sizeof path, "%s/tests/data/blocks.bin", getenv("CONSORT_TEST_SOURCE"));
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  record r;
  int n_formats = 0;
  while (fread(&r, sizeof r, 1, file) == 1) {
    uint8_t *bytes = malloc(r.n_bytes);
    float *expected = malloc(r.n_elements * sizeof *expected);
    float *found = malloc(r.n_elements * sizeof *found);
    assert_int_equal(fread(bytes, 1, r.n_bytes, file), r.n_bytes);
    assert_int_equal(fread(expected, sizeof *expected, r.n_elements, file), r.n_elements);
    const uint32_t dtype = cs_dtype_from_name(r.name);
    assert_int_not_equal(dtype, CS_DTYPE_NONE);
    assert_int_equal(cs_blocks_decode(dtype, bytes, r.n_elements, found), CS_OK);
    for (uint32_t i = 0; i < r.n_elements; i++)
      if (memcmp(&found[i], &expected[i], sizeof found[i]) != 0)
        fail_msg("%s: element %u is %a, not %a", r.name, i, (double)found[i], (double)expected[i]);
    free(bytes);
    free(expected);
    free(found);
    n_formats++;
  }
  fclose(file);
  assert_int_equal(n_formats, 14);
}

static float next_normal(uint64_t *seed) { /* a sum of twelve uniform numbers */
  float sum = -6;
  for (int i = 0; i < 12; i++) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    sum += (float)(*seed >> 40) * 0x1p-24f;
  }
  return sum;
}

static double encoding_error(uint32_t dtype, const float *x, size_t n) {
  static uint8_t bytes[1 << 16];
  static float y[1 << 13];
  assert_int_equal(cs_blocks_encode(dtype, x, n, bytes), CS_OK);
  assert_int_equal(cs_blocks_decode(dtype, bytes, n, y), CS_OK);
  double error = 0, power = 0;
  for (size_t i = 0; i < n; i++) {
    assert_true(isfinite(y[i]));
    error += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
    power += (double)x[i] * x[i];
  }
  return power > 0 ? error / power : error;
}

static const struct {
  uint32_t dtype;
  double limit; /* NMSE on normal numbers */
} formats[] = {{CS_DTYPE_F16, 1e-7},    {CS_DTYPE_BF16, 5e-6},   {CS_DTYPE_Q8_0, 4.5e-5},
               {CS_DTYPE_Q6_K, 4e-4},   {CS_DTYPE_Q5_0, 1.6e-3}, {CS_DTYPE_Q5_1, 1.5e-3},
               {CS_DTYPE_Q5_K, 1.5e-3}, {CS_DTYPE_Q4_0, 6.5e-3}, {CS_DTYPE_Q4_K, 6e-3}};
#define N_FORMATS (sizeof formats / sizeof formats[0])

static void encoding_errors_are_small(void **state) {
  (void)state;
  static float x[1 << 13];
  uint64_t seed = 3;
  for (size_t i = 0; i < sizeof x / sizeof x[0]; i++)
    x[i] = 0.02f * next_normal(&seed);
  for (size_t f = 0; f < N_FORMATS; f++) {
    const double error = encoding_error(formats[f].dtype, x, sizeof x / sizeof x[0]);
    printf("%s %.2e\n", cs_dtype_find(formats[f].dtype)->name, error);
    assert_true(error <= formats[f].limit);
  }
}

static void values_at_the_edges_stay_finite(void **state) {
  (void)state;
  float x[256];
  const float edges[] = {0, 1e-40f, -3e-9f, 1, -1, 60000, -65504, 1e30f, NAN, INFINITY};
  for (size_t e = 0; e < sizeof edges / sizeof edges[0]; e++) {
    for (size_t f = 2; f < N_FORMATS; f++) {
      uint8_t bytes[512];
      float y[256];
      for (int i = 0; i < 256; i++)
        x[i] = i % 3 ? edges[e] : 0;
      assert_int_equal(cs_blocks_encode(formats[f].dtype, x, 256, bytes), CS_OK);
      assert_int_equal(cs_blocks_decode(formats[f].dtype, bytes, 256, y), CS_OK);
      for (int i = 0; i < 256; i++)
        assert_true(isfinite(y[i]));
    }
  }
}

static void zeros_and_a_constant_come_back(void **state) {
  (void)state;
  float x[256] = {0};
  for (size_t f = 0; f < N_FORMATS; f++)
    assert_true(encoding_error(formats[f].dtype, x, 256) == 0);
  for (int i = 0; i < 256; i++)
    x[i] = 0.75f;
  for (size_t f = 0; f < N_FORMATS; f++)
    assert_true(encoding_error(formats[f].dtype, x, 256) < 2e-5);
}

static void scales_pack_and_unpack(void **state) {
  (void)state;
  uint8_t scales[8], minima[8], packed[12], s[8], m[8];
  for (int i = 0; i < 8; i++) {
    scales[i] = (uint8_t)((i * 23 + 5) & 63);
    minima[i] = (uint8_t)((i * 41 + 60) & 63);
  }
  cs_blocks_pack_scales(scales, minima, packed);
  cs_blocks_unpack_scales(packed, s, m);
  assert_memory_equal(s, scales, 8);
  assert_memory_equal(m, minima, 8);
}

static void other_dtypes_are_refused(void **state) {
  (void)state;
  float x[32] = {0};
  assert_int_equal(cs_blocks_decode(CS_DTYPE_I32, x, 32, x), CS_UNSUPPORTED);
  assert_int_equal(cs_blocks_decode(999, x, 32, x), CS_UNSUPPORTED);
  assert_int_equal(cs_blocks_encode(CS_DTYPE_Q2_K, x, 32, x), CS_UNSUPPORTED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_format_decodes_to_the_same_bits_as_the_gguf_package),
      cmocka_unit_test(encoding_errors_are_small),
      cmocka_unit_test(values_at_the_edges_stay_finite),
      cmocka_unit_test(zeros_and_a_constant_come_back),
      cmocka_unit_test(scales_pack_and_unpack),
      cmocka_unit_test(other_dtypes_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
