/* The op list remembers the first failure and collects how weights are read. */
#include "core_harness.h"

#include "consort/plugin.h"
#include "core/op_list.h"

static cs_value weight(cs_op_list *list, uint32_t key) {
  return cs_op_list_value(list, &(cs_value_info){.kind = CS_VALUE_WEIGHT,
                                                 .key = key,
                                                 .dtype = CS_DTYPE_Q8_0,
                                                 .layout = CS_LAYOUT_PACKED,
                                                 .rank = 2,
                                                 .dims = {64, 64}});
}

static void a_list_holds_what_was_appended(void **state) {
  (void)state;
  cs_op_list *list = cs_op_list_create();
  cs_value previous = cs_op_list_activation(list, CS_DTYPE_F32, 2, 64);
  for (int i = 0; i < 300; i++) {
    const cs_value next = cs_op_list_activation(list, CS_DTYPE_F32, 2, 64);
    cs_op_list_op(list, CS_OP_ADD, i, (cs_value[]){next, previous, previous}, 3, NULL);
    if (i % 100 == 0) cs_op_list_mark(list, (uint32_t)i);
    previous = next;
  }
  assert_ok(cs_op_list_finish(list, error));
  assert_int_equal(cs_op_list_n_ops(list), 300);
  assert_int_equal(cs_op_list_n_values(list), 301);
  assert_int_equal(cs_op_list_n_marks(list), 3);
  assert_int_equal(cs_op_list_marks(list)[1].after_op, 100);
  assert_int_equal(cs_op_list_marks(list)[1].tag, 100);
  assert_int_equal(cs_op_list_ops(list)[299].layer, 299);
  assert_int_equal(cs_op_list_ops(list)[299].operands[0], 300);
  assert_int_equal(cs_op_list_ops(list)[299].operands[3], CS_VALUE_NONE);
  cs_op_list_destroy(list);
}

static void usage_of_a_tied_weight_is_collected(void **state) {
  (void)state;
  cs_op_list *list = cs_op_list_create();
  const cs_value tied = weight(list, 1);
  const cs_value x = cs_op_list_activation(list, CS_DTYPE_F32, 2, 64);
  const cs_value y = cs_op_list_activation(list, CS_DTYPE_F32, 2, 64);
  const cs_op_params params = {.gather_rows = {sizeof params.gather_rows, 1.0f}};
  cs_op_list_op(list, CS_OP_GATHER_ROWS, -1, (cs_value[]){x, tied, y}, 3, &params);
  assert_int_equal(cs_op_list_values(list)[tied].usage, CS_USAGE_GATHER);
  const cs_op_params matmul = {.matmul = {sizeof matmul.matmul, 0.0f}};
  cs_op_list_op(list, CS_OP_MATMUL, -1, (cs_value[]){y, x, tied, CS_VALUE_NONE, CS_VALUE_NONE}, 5,
                &matmul);
  assert_int_equal(cs_op_list_values(list)[tied].usage, CS_USAGE_GATHER | CS_USAGE_MATMUL);
  assert_ok(cs_op_list_finish(list, error));
  cs_op_list_destroy(list);
}

static void a_wrong_operand_count_is_told_at_the_end(void **state) {
  (void)state;
  cs_op_list *list = cs_op_list_create();
  const cs_value x = cs_op_list_activation(list, CS_DTYPE_F32, 2, 64);
  cs_op_list_op(list, CS_OP_ADD, 0, (cs_value[]){x, x}, 2, NULL);
  cs_op_list_op(list, CS_OP_ADD, 0, (cs_value[]){x, x, x}, 3, NULL);
  assert_int_equal(cs_op_list_n_ops(list), 0);
  assert_fails(CS_INVALID_ARGUMENT, "add", cs_op_list_finish(list, error));
  cs_op_list_destroy(list);
}

static void an_operand_outside_the_list_is_told(void **state) {
  (void)state;
  cs_op_list *list = cs_op_list_create();
  cs_op_list_op(list, CS_OP_COPY, 0, (cs_value[]){0, 1}, 2, NULL);
  assert_fails(CS_INVALID_ARGUMENT, "copy: operand 0", cs_op_list_finish(list, error));
  cs_op_list_destroy(list);
}

static void the_op_table_knows_what_is_written(void **state) {
  (void)state;
  assert_int_equal(cs_op_written_operands(CS_OP_ADD), 1);
  assert_int_equal(cs_op_written_operands(CS_OP_RMS_NORM), 1 | 16);
  assert_int_equal(cs_op_written_operands(CS_OP_KV_WRITE), 4 | 8);
  assert_int_equal(cs_op_written_operands(CS_OP_KV_SCATTER), 2 | 4 | 8);
  assert_int_equal(cs_op_written_operands(CS_OP_NONE), 0);
  assert_string_equal(cs_op_name(CS_OP_ATTENTION_PAGED), "attention_paged");
  assert_string_equal(cs_op_name(9999), "?");
  for (uint32_t id = 1; id < CS_OP_LIMIT; id++) {
    const uint32_t n_operands = cs_op_operand_count(id);
    assert_in_range(n_operands, 1, CS_MAX_OPERANDS);
    assert_true(cs_op_written_operands(id) < 1u << n_operands);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_list_holds_what_was_appended),
      cmocka_unit_test(usage_of_a_tied_weight_is_collected),
      cmocka_unit_test(a_wrong_operand_count_is_told_at_the_end),
      cmocka_unit_test(an_operand_outside_the_list_is_told),
      cmocka_unit_test(the_op_table_knows_what_is_written),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
