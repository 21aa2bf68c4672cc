/* The SDK's struct size rule, version choice, tensor sizes and op copies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "consort/sdk.h"
#include "sdk_host.h"

typedef struct sample {
  uint32_t struct_size;
  uint32_t a;
  uint32_t b;
  uint32_t c;
} sample;

static void a_smaller_struct_is_zero_extended(void **state) {
  (void)state;
  const sample from = {.struct_size = 8, .a = 7, .b = 8, .c = 9};
  sample to = {.a = 1, .b = 1, .c = 1};
  assert_int_equal(cs_sdk_struct_read(&to, sizeof to, &from, NULL), CS_OK);
  assert_int_equal(to.struct_size, sizeof to);
  assert_int_equal(to.a, 7);
  assert_int_equal(to.b, 0);
  assert_int_equal(to.c, 0);
}

static void a_larger_struct_needs_a_zero_tail(void **state) {
  (void)state;
  sample from = {.struct_size = sizeof from, .a = 7, .b = 8, .c = 0};
  sample to = {.c = 5};
  assert_int_equal(cs_sdk_struct_read(&to, 12, &from, NULL), CS_OK);
  assert_int_equal(to.b, 8);
  assert_int_equal(to.c, 5);
  from.c = 0x01000000;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_sdk_struct_read(&to, 12, &from, &error), CS_UNSUPPORTED);
  assert_int_equal(error.code, CS_UNSUPPORTED);
  from.struct_size = 3;
  assert_int_equal(cs_sdk_struct_read(&to, 12, &from, NULL), CS_INVALID_ARGUMENT);
}

static void an_output_keeps_to_the_receivers_size(void **state) {
  (void)state;
  const sample from = {.struct_size = sizeof from, .a = 1, .b = 2, .c = 3};
  sample to = {.struct_size = 12, .c = 77};
  cs_sdk_struct_write(&to, &from, sizeof from);
  assert_int_equal(to.struct_size, 12);
  assert_int_equal(to.b, 2);
  assert_int_equal(to.c, 77);
  sample small = {.struct_size = 4, .a = 55};
  cs_sdk_struct_write(&small, &from, sizeof from);
  assert_int_equal(small.a, 55);
}

static void errors_are_cut_to_fit(void **state) {
  (void)state;
  char text[400];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(cs_sdk_error(&error, CS_IO, 5, "%s", text), CS_IO);
  assert_int_equal(strlen(error.message), CS_ERROR_MESSAGE_BYTES - 1);
  assert_int_equal(cs_sdk_error(NULL, CS_IO, 5, "%s", text), CS_IO);
}

static void a_host_that_is_too_new_is_refused(void **state) {
  (void)state;
  cs_host host = test_host;
  cs_plugin plugin = {.struct_size = sizeof plugin};
  host.abi_max = 9;
  assert_int_equal(cs_sdk_query(&host, &plugin, "x", "1", "v", NULL), CS_OK);
  assert_int_equal(plugin.abi_version, CS_ABI_VERSION);
  host.abi_min = 9;
  assert_int_equal(cs_sdk_query(&host, &plugin, "x", "1", "v", NULL), CS_UNSUPPORTED);
}

static void tensor_sizes_follow_the_rule_of_rows(void **state) {
  (void)state;
  cs_tensor tensor = {.dtype = CS_DTYPE_Q8_0, .rank = 3, .dims = {5, 2, 32}};
  assert_int_equal(cs_sdk_tensor_rows(&tensor), 5);
  assert_int_equal(cs_sdk_tensor_columns(&tensor), 64);
  assert_int_equal(cs_sdk_tensor_stride(&tensor), 68);
  tensor.row_stride_bytes = 100;
  assert_int_equal(cs_sdk_tensor_stride(&tensor), 100);
  tensor.rank = 1;
  assert_int_equal(cs_sdk_tensor_rows(&tensor), 1);
  assert_int_equal(cs_sdk_tensor_columns(&tensor), 5);
  assert_int_equal(cs_sdk_dtype_bytes(CS_DTYPE_Q4_0, 33), 0);
  assert_int_equal(cs_sdk_dtype_bytes(CS_DTYPE_F32, UINT64_MAX), 0);
  assert_int_equal(cs_sdk_dtype_bytes(63, 32), 0);
}

static cs_tensor row(uint64_t n) {
  return (cs_tensor){
      .struct_size = sizeof(cs_tensor), .dtype = CS_DTYPE_F32, .rank = 2, .dims = {n, 4}};
}

static void ops_are_copied_deeply(void **state) {
  (void)state;
  cs_tensor operands[5] = {row(2), row(2), row(1)};
  operands[3].struct_size = operands[4].struct_size = sizeof(cs_tensor);
  cs_rms_norm_params params = {.struct_size = sizeof params, .epsilon = 0.5f};
  cs_op op = {.struct_size = sizeof op,
              .id = CS_OP_RMS_NORM,
              .n_operands = 5,
              .operand_stride = sizeof(cs_tensor),
              .operands = operands,
              .params = &params};
  cs_sdk_ops *copy = NULL;
  assert_int_equal(cs_sdk_ops_create(&test_host, &op, 1, sizeof op, &copy, NULL), CS_OK);
  memset(operands, 0xff, sizeof operands);
  params.epsilon = 9.0f;
  assert_int_equal(copy->n_ops, 1);
  assert_int_equal(copy->ops[0].operands[1].dims[0], 2);
  const cs_rms_norm_params *copied = copy->ops[0].params;
  assert_true(copied->epsilon == 0.5f);
  cs_sdk_ops_retain(copy);
  cs_sdk_ops_release(copy);
  cs_sdk_ops_release(copy);
}

static void broken_ops_are_refused_with_their_index(void **state) {
  (void)state;
  cs_tensor operands[3] = {row(2), row(2), row(2)};
  cs_op ops[2] = {{.struct_size = sizeof(cs_op),
                   .id = CS_OP_ADD,
                   .n_operands = 3,
                   .operand_stride = sizeof(cs_tensor),
                   .operands = operands}};
  ops[1] = ops[0];
  ops[1].n_operands = 2;
  cs_error error = CS_ERROR_INIT;
  cs_sdk_ops *copy = NULL;
  assert_int_equal(cs_sdk_ops_create(&test_host, ops, 2, sizeof ops[0], &copy, &error),
                   CS_INVALID_ARGUMENT);
  assert_int_equal(error.op_index, 1);
  assert_null(copy);
  ops[1] = ops[0];
  ops[1].id = 63;
  assert_int_equal(cs_sdk_ops_create(&test_host, ops, 2, sizeof ops[0], &copy, &error),
                   CS_UNSUPPORTED);
  ops[1] = ops[0];
  operands[2].rank = 5;
  assert_int_equal(cs_sdk_ops_create(&test_host, ops, 2, sizeof ops[0], &copy, &error),
                   CS_INVALID_ARGUMENT);
  assert_int_equal(error.op_index, 0);
  ops[0].id = CS_OP_GATHER_ROWS; /* has params, none given */
  operands[2].rank = 1;
  assert_int_equal(cs_sdk_ops_create(&test_host, ops, 1, sizeof ops[0], &copy, &error),
                   CS_INVALID_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_smaller_struct_is_zero_extended),
      cmocka_unit_test(a_larger_struct_needs_a_zero_tail),
      cmocka_unit_test(an_output_keeps_to_the_receivers_size),
      cmocka_unit_test(errors_are_cut_to_fit),
      cmocka_unit_test(a_host_that_is_too_new_is_refused),
      cmocka_unit_test(tensor_sizes_follow_the_rule_of_rows),
      cmocka_unit_test(ops_are_copied_deeply),
      cmocka_unit_test(broken_ops_are_refused_with_their_index),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
