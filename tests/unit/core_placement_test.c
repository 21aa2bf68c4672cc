/* Placement: who runs what, which ops move together, and what the report counts. */
#include "core_harness.h"

#include "core/executor.h"
#include "core_lists.h"

#define ROWS      8
#define N_HEADS   4
#define HEAD_DIM  16
#define N_COLUMNS (N_HEADS * HEAD_DIM)

static cs_runtime *runtime;

static int open_runtime(void **state) {
  (void)state;
  runtime = harness_runtime("good");
  return 0;
}

static int close_runtime(void **state) {
  (void)state;
  cs_runtime_release(runtime);
  return 0;
}

static cs_value heads(cs_op_list *list) {
  return cs_op_list_value(list, &(cs_value_info){.kind = CS_VALUE_ACTIVATION,
                                                 .dtype = CS_DTYPE_F32,
                                                 .rank = 3,
                                                 .dims = {ROWS, N_HEADS, HEAD_DIM}});
}

static cs_value plane(cs_op_list *list, uint32_t key) {
  return cs_op_list_value(list, &(cs_value_info){.kind = CS_VALUE_CACHE,
                                                 .key = key,
                                                 .dtype = CS_DTYPE_F32,
                                                 .layout = CS_LAYOUT_KV_TOKEN_MAJOR,
                                                 .rank = 4,
                                                 .dims = {10, 16, N_HEADS, HEAD_DIM}});
}

/* Two layers of: q = x + x, kv_write(q, q), out = attention(q), x = x + out. */
static cs_op_list *attention_list(void) {
  cs_op_list *list = cs_op_list_create();
  const cs_value input = list_value(list, CS_VALUE_INPUT, 1, ROWS, N_COLUMNS);
  const cs_value slots = list_ids(list, 2, ROWS);
  const cs_value table = list_value(list, CS_VALUE_INPUT, 3, 1, 10);
  cs_value x = cs_op_list_activation(list, CS_DTYPE_F32, ROWS, N_COLUMNS);
  list_copy(list, -1, x, input);
  for (int32_t layer = 0; layer < 2; layer++) {
    const cs_value q = heads(list);
    const cs_value k_cache = plane(list, (uint32_t)layer * 2);
    const cs_value v_cache = plane(list, (uint32_t)layer * 2 + 1);
    const cs_value out = heads(list);
    const cs_value next = cs_op_list_activation(list, CS_DTYPE_F32, ROWS, N_COLUMNS);
    const cs_op_params params = {.attention = {.struct_size = sizeof params.attention}};
    list_add(list, layer, q, x, x);
    cs_op_list_op(list, CS_OP_KV_WRITE, layer, (cs_value[]){q, q, k_cache, v_cache, slots}, 5,
                  NULL);
    cs_op_list_op(list, CS_OP_ATTENTION_PAGED, layer,
                  (cs_value[]){out, q, k_cache, v_cache, table, slots, slots, CS_VALUE_NONE}, 8,
                  &params);
    list_add(list, layer, next, x, out);
    x = next;
  }
  const cs_value result = list_value(list, CS_VALUE_OUTPUT, 4, ROWS, N_COLUMNS);
  list_copy(list, -1, result, x);
  assert_ok(cs_op_list_finish(list, error));
  return list;
}

static void a_device_that_can_do_all_gets_all(void **state) {
  (void)state;
  cs_op_list *list = attention_list();
  cs_device *primary = harness_device(runtime, "fake:0");
  cs_device *fallback = harness_device(runtime, "twin:0");
  cs_placement *placement = NULL;
  assert_ok(cs_placement_create(list, primary, fallback, CS_FALLBACK_STRICT, &placement, error));
  for (size_t i = 0; i < cs_op_list_n_ops(list); i++)
    assert_ptr_equal(cs_placement_device(placement, i), primary);
  assert_int_equal(cs_placement_n_fallbacks(placement), 0);
  assert_int_equal(cs_placement_users(placement, CS_VALUE_CACHE, 3), 1);
  assert_int_equal(cs_placement_users(placement, CS_VALUE_CACHE, 99), 0);
  cs_placement_destroy(placement);
  cs_device_release(primary);
  cs_device_release(fallback);
  cs_op_list_destroy(list);
}

static void a_denied_op_takes_its_cache_partners_along(void **state) {
  (void)state;
  cs_op_list *list = attention_list();
  cs_device *primary = harness_device(runtime, "fake:0?deny=attention_paged");
  cs_device *fallback = harness_device(runtime, "twin:0");
  cs_placement *placement = NULL;
  assert_ok(cs_placement_create(list, primary, fallback, CS_FALLBACK_WARN, &placement, error));
  for (size_t i = 0; i < cs_op_list_n_ops(list); i++) {
    const uint32_t id = cs_op_list_ops(list)[i].id;
    const bool falls_back = id == CS_OP_KV_WRITE || id == CS_OP_ATTENTION_PAGED;
    assert_ptr_equal(cs_placement_device(placement, i), falls_back ? fallback : primary);
  }
  assert_int_equal(cs_placement_users(placement, CS_VALUE_CACHE, 3), 2);
  assert_int_equal(cs_placement_n_fallbacks(placement), 2);
  const cs_fallback_entry *entries = cs_placement_fallbacks(placement);
  assert_int_equal(entries[0].op_id, CS_OP_KV_WRITE);
  assert_string_equal(entries[0].reason, "its KV cache lives with another op");
  assert_string_equal(entries[0].device, "twin:0");
  assert_int_equal(entries[0].count, 2);
  assert_int_equal(entries[0].bytes_a_row, 2 * N_COLUMNS * 4); /* q, in each layer */
  assert_int_equal(entries[1].op_id, CS_OP_ATTENTION_PAGED);
  assert_string_equal(entries[1].reason, "denied by option");
  assert_int_equal(entries[1].count, 2);
  assert_int_equal(entries[1].bytes_a_row, 2 * N_COLUMNS * 4); /* out; q is there already */
  cs_placement_destroy(placement);
  cs_device_release(primary);
  cs_device_release(fallback);
  cs_op_list_destroy(list);
}

static void an_op_that_nobody_runs_is_refused_by_name(void **state) {
  (void)state;
  cs_op_list *list = attention_list();
  cs_device *primary = harness_device(runtime, "fake:0?deny=attention_paged");
  cs_device *fallback = harness_device(runtime, "twin:0?deny=attention_paged");
  cs_placement *placement = NULL;
  assert_fails(CS_UNSUPPORTED,
               "op 3 attention_paged of layer 0: fake:0 says no: denied by option; so does twin:0",
               cs_placement_create(list, primary, fallback, CS_FALLBACK_ALLOW, &placement, error));
  assert_fails(CS_UNSUPPORTED, "there is no device to fall back to",
               cs_placement_create(list, primary, NULL, CS_FALLBACK_ALLOW, &placement, error));
  assert_fails(CS_UNSUPPORTED, "there is no device to fall back to",
               cs_placement_create(list, primary, primary, CS_FALLBACK_ALLOW, &placement, error));
  assert_fails(CS_UNSUPPORTED, "op 2 kv_write of layer 0",
               cs_placement_create(list, primary, fallback, CS_FALLBACK_STRICT, &placement, error));
  assert_null(placement);
  cs_device_release(primary);
  cs_device_release(fallback);
  cs_op_list_destroy(list);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_device_that_can_do_all_gets_all),
      cmocka_unit_test(a_denied_op_takes_its_cache_partners_along),
      cmocka_unit_test(an_op_that_nobody_runs_is_refused_by_name),
  };
  return cmocka_run_group_tests(tests, open_runtime, close_runtime);
}
