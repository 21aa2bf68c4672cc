/* The wire form on the host: the checksum by its formula, and blocks of every layout that come out
 * as they went in. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "consort/types.h"
#include "scheduler/wire.h"

static uint64_t mixed(uint64_t index, uint64_t word) {
  uint64_t z = (index << 32 | word) + UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

static void the_sum_is_that_of_the_contract(void **state) {
  (void)state;
  const uint8_t bytes[] = {1, 2, 3, 4, 5, 6};
  assert_true(cs_wire_sum(bytes, 0) == 0);
  assert_true(cs_wire_sum(bytes, 4) == mixed(0, 0x04030201));
  assert_true(cs_wire_sum(bytes, 6) == mixed(0, 0x04030201) + mixed(1, 0x0605));
}

/* Of any length and alignment: whole vectors, single words and a short last one. */
static void the_sum_of_many_words_is_that_of_each(void **state) {
  (void)state;
  uint8_t bytes[400];
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = (uint8_t)(i * 151 + 200);
  for (size_t first = 0; first < 5; first++)
    for (size_t n = 0; n + first <= sizeof bytes; n++) {
      uint64_t sum = 0;
      for (size_t at = 0; at < n; at += 4) {
        uint64_t word = 0;
        for (size_t i = 0; i < 4 && at + i < n; i++)
          word |= (uint64_t)bytes[first + at + i] << 8 * i;
        sum += mixed(at / 4, word);
      }
      assert_true(cs_wire_sum(bytes + first, n) == sum);
    }
}

static void the_sum_sees_every_bit_and_every_exchange(void **state) {
  (void)state;
  uint8_t bytes[64];
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = (uint8_t)(i * 37);
  const uint64_t right = cs_wire_sum(bytes, sizeof bytes);
  for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    assert_true(cs_wire_sum(bytes, sizeof bytes) != right);
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
  }
  uint8_t exchanged[64];
  memcpy(exchanged, bytes + 32, 32);
  memcpy(exchanged + 32, bytes, 32);
  assert_true(cs_wire_sum(exchanged, sizeof exchanged) != right);
}

#define N_HEADS  3
#define WIDTH    8
#define N_TOKENS 17
#define N_BLOCKS 4

static const uint32_t kv_dtypes[] = {CS_DTYPE_F32, CS_DTYPE_F16, CS_DTYPE_BF16, CS_DTYPE_F8_E4M3,
                                     CS_DTYPE_I8};
static const uint32_t kv_layouts[] = {CS_LAYOUT_KV_TOKEN_MAJOR, CS_LAYOUT_KV_HEAD_MAJOR,
                                      CS_LAYOUT_KV_HEAD_MINOR};

static size_t wire_bytes(uint32_t dtype) {
  return N_TOKENS * N_HEADS * (size_t)cs_wire_row_bytes(dtype, WIDTH);
}

/* Blocks of a plane whose tokens `first` on have the values of a float32 wire; the rest is noise.
 */
static uint8_t *filled_blocks(const cs_wire_plane *plane, uint32_t first, const float *values) {
  const size_t bytes = N_BLOCKS * cs_wire_block_bytes(plane);
  uint8_t *const blocks = malloc(bytes);
  for (size_t i = 0; i < bytes; i++)
    blocks[i] = (uint8_t)(i * 37);
  cs_wire_scatter(plane, blocks, first, N_TOKENS, CS_DTYPE_F32, values);
  return blocks;
}

/* Each row in other sizes, up to 2.5; exact in all formats but int8. */
static void fill_values(float *values) {
  for (int i = 0; i < N_TOKENS * N_HEADS * WIDTH; i++)
    values[i] = (float)(i * 7 % 21 - 10) / 4.0f * ldexpf(1, i / WIDTH % 5 - 4);
}

static void round_trip(uint32_t layout, uint32_t dtype, uint32_t wire_dtype) {
  const cs_wire_plane plane = {dtype, layout, 8, N_HEADS, WIDTH};
  const size_t bytes = N_BLOCKS * cs_wire_block_bytes(&plane);
  const uint32_t first = 5; /* begins and ends inside a block */
  float values[N_TOKENS * N_HEADS * WIDTH], back[N_TOKENS * N_HEADS * WIDTH];
  fill_values(values);
  uint8_t *const blocks = filled_blocks(&plane, first, values), *const copy = malloc(bytes);
  uint8_t *const emptied = calloc(1, bytes);
  uint8_t *const wire = malloc(wire_bytes(wire_dtype));
  uint8_t *const again = malloc(wire_bytes(wire_dtype));
  cs_wire_gather(&plane, blocks, first, N_TOKENS, wire_dtype, wire);
  cs_wire_scatter(&plane, emptied, first, N_TOKENS, wire_dtype, wire);
  cs_wire_gather(&plane, emptied, first, N_TOKENS, wire_dtype, again);
  const bool is_int8 = dtype == CS_DTYPE_I8 || wire_dtype == CS_DTYPE_I8;
  if (!is_int8 || dtype == wire_dtype) assert_memory_equal(wire, again, wire_bytes(wire_dtype));
  cs_wire_gather(&plane, emptied, first, N_TOKENS, CS_DTYPE_F32, back);
  for (int i = 0; i < N_TOKENS * N_HEADS * WIDTH; i++) {
    const float largest = ldexpf(2.5f, i / WIDTH % 5 - 4);
    const float eighth = dtype == CS_DTYPE_F8_E4M3 || wire_dtype == CS_DTYPE_F8_E4M3
                             ? fabsf(values[i]) / 16 + 0x1p-10f
                             : 0; /* what rounding to 4 bits may lose after int8 did */
    const float most = is_int8 ? largest / 127 + eighth * 1.1f : 0;
    assert_true(fabsf(back[i] - values[i]) <= most);
  }
  memcpy(copy, blocks, bytes);
  cs_wire_scatter(&plane, copy, first, N_TOKENS, wire_dtype, wire);
  if (!is_int8 || dtype == wire_dtype)
    assert_memory_equal(copy, blocks, bytes); /* the others stayed, these are the same */
  free(blocks);
  free(copy);
  free(wire);
  free(again);
  free(emptied);
}

static void blocks_come_out_as_they_went_in(void **state) {
  (void)state;
  for (size_t l = 0; l < 3; l++)
    for (size_t i = 0; i < 25; i++)
      round_trip(kv_layouts[l], kv_dtypes[i / 5], kv_dtypes[i % 5]);
}

/* Every other token of the blocks keeps its elements and its scale. */
static void a_scatter_of_int8_leaves_other_tokens_alone(void **state) {
  (void)state;
  float values[N_TOKENS * N_HEADS * WIDTH], before[8 * N_HEADS * WIDTH], after[8 * N_HEADS * WIDTH];
  fill_values(values);
  for (size_t l = 0; l < 3; l++) {
    const cs_wire_plane plane = {CS_DTYPE_I8, kv_layouts[l], 8, N_HEADS, WIDTH};
    uint8_t *const blocks = filled_blocks(&plane, 0, values);
    cs_wire_gather(&plane, blocks, 0, 8, CS_DTYPE_F32, before);
    cs_wire_scatter(&plane, blocks, 8, 9, CS_DTYPE_F32, values);
    cs_wire_gather(&plane, blocks, 0, 8, CS_DTYPE_F32, after);
    assert_memory_equal(before, after, sizeof before);
    free(blocks);
  }
}

static void layouts_agree_on_the_wire(void **state) {
  (void)state;
  /* 2 tokens, 2 heads, 2 wide, one block of 2: element (token, head, e) = 100 t + 10 h + e. */
  float token_major[8], head_major[8], head_minor[8], wire[8];
  const float expected[8] = {0, 1, 100, 101, 10, 11, 110, 111};
  for (int t = 0; t < 2; t++)
    for (int h = 0; h < 2; h++)
      for (int e = 0; e < 2; e++) {
        const float value = (float)(100 * t + 10 * h + e);
        token_major[(t * 2 + h) * 2 + e] = value;
        head_major[(h * 2 + t) * 2 + e] = value;
        head_minor[(t * 2 + e) * 2 + h] = value;
      }
  const float *const blocks[] = {token_major, head_major, head_minor};
  for (uint32_t i = 0; i < 3; i++) {
    const cs_wire_plane plane = {CS_DTYPE_F32, CS_LAYOUT_KV_TOKEN_MAJOR + i, 2, 2, 2};
    cs_wire_gather(&plane, blocks[i], 0, 2, CS_DTYPE_F32, wire);
    assert_memory_equal(wire, expected, sizeof expected);
  }
}

static void pairs_that_cannot_be_converted_are_named(void **state) {
  (void)state;
  const cs_kv_wire mine = {7, CS_DTYPE_F16, 4, 2, 8, 8};
  const struct {
    cs_kv_wire theirs;
    const char *word;
  } cases[] = {{{8, CS_DTYPE_F16, 4, 2, 8, 8}, "models"},
               {{7, CS_DTYPE_F16, 5, 2, 8, 8}, "layers"},
               {{7, CS_DTYPE_F16, 4, 4, 8, 8}, "heads"},
               {{7, CS_DTYPE_F16, 4, 2, 16, 8}, "key width"},
               {{7, CS_DTYPE_Q8_0, 4, 2, 8, 8}, "q8_0"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    cs_error error = CS_ERROR_INIT;
    assert_int_equal(cs_wire_check(&mine, &cases[i].theirs, &error), CS_UNSUPPORTED);
    assert_non_null(strstr(error.message, cases[i].word));
  }
  for (size_t i = 0; i < 5; i++) {
    const cs_kv_wire other_dtype = {7, kv_dtypes[i], 4, 2, 8, 8};
    assert_int_equal(cs_wire_check(&mine, &other_dtype, NULL), CS_OK);
  }
}

static void sizes_are_checked(void **state) {
  (void)state;
  uint64_t bytes;
  const cs_kv_wire wire = {0, CS_DTYPE_F16, 4, 2, 8, 16};
  assert_int_equal(cs_wire_bytes(&wire, 10, &bytes), CS_OK);
  assert_true(bytes == 10 * 2 * (8 + 16) * 2);
  const cs_kv_wire scaled = {0, CS_DTYPE_I8, 4, 2, 8, 16};
  assert_int_equal(cs_wire_bytes(&scaled, 10, &bytes), CS_OK);
  assert_true(bytes == 10 * 2 * (8 + 4 + 16 + 4));
  const cs_kv_wire huge = {0, CS_DTYPE_F32, 4, UINT32_MAX, UINT32_MAX, UINT32_MAX};
  assert_int_equal(cs_wire_bytes(&huge, UINT32_MAX, &bytes), CS_OUT_OF_RANGE);
  const cs_kv_wire blocks = {0, CS_DTYPE_Q8_0, 4, 2, 8, 8};
  assert_int_equal(cs_wire_bytes(&blocks, 1, &bytes), CS_UNSUPPORTED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_sum_is_that_of_the_contract),
      cmocka_unit_test(the_sum_of_many_words_is_that_of_each),
      cmocka_unit_test(the_sum_sees_every_bit_and_every_exchange),
      cmocka_unit_test(blocks_come_out_as_they_went_in),
      cmocka_unit_test(a_scatter_of_int8_leaves_other_tokens_alone),
      cmocka_unit_test(layouts_agree_on_the_wire),
      cmocka_unit_test(pairs_that_cannot_be_converted_are_named),
      cmocka_unit_test(sizes_are_checked),
  };
  return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
