/* The op list of the forward pass: its order, its operands, and that goals and shapes agree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_builder.h"
#include "models/forward.h"

static const cs_forward_shape usual = {.n_tokens = 16,
                                       .n_seqs = 2,
                                       .max_blocks = 4,
                                       .n_logit_rows = 3,
                                       .goal = CS_FORWARD_ARGMAX,
                                       .kv_dtype = CS_DTYPE_F16,
                                       .kv_layout = CS_LAYOUT_KV_HEAD_MAJOR,
                                       .kv_block_tokens = 16,
                                       .kv_n_blocks = 8};

static cs_model *open_tiny(const tiny_options *options) {
  gguf_builder g = {0};
  char path[64];
  cs_model *model;
  add_tiny(&g, options);
  write_gguf(&g, path);
  assert_int_equal(cs_model_open(path, &model, NULL), CS_OK);
  unlink(path);
  return model;
}

static cs_op_list *emit(const cs_model *model, const cs_forward_shape *shape) {
  cs_op_list *list;
  cs_error error = CS_ERROR_INIT;
  if (cs_forward_emit(model, shape, &list, &error) != CS_OK) fail_msg("%s", error.message);
  return list;
}

static const cs_value_info *operand(const cs_op_list *list, size_t op, uint32_t i) {
  const cs_value value = cs_op_list_ops(list)[op].operands[i];
  return value == CS_VALUE_NONE ? NULL : &cs_op_list_values(list)[value];
}

/* Elements in a row, as the ABI counts them: all dimensions but the first. */
static uint64_t row_elements(const cs_value_info *value) {
  uint64_t n = 1;
  for (uint32_t i = 1; i < value->rank; i++)
    n *= value->dims[i];
  return n;
}

static void ops_stand_in_the_order_of_the_model(void **state) {
  (void)state;
  static const uint32_t layer[] = {
      CS_OP_RMS_NORM, CS_OP_MATMUL,   CS_OP_MATMUL,          CS_OP_MATMUL, CS_OP_ROPE,
      CS_OP_ROPE,     CS_OP_KV_WRITE, CS_OP_ATTENTION_PAGED, CS_OP_MATMUL, CS_OP_RMS_NORM,
      CS_OP_MATMUL,   CS_OP_MATMUL,   CS_OP_SILU_MUL,        CS_OP_MATMUL};
  static const uint32_t tail[] = {CS_OP_GATHER_ROWS, CS_OP_RMS_NORM, CS_OP_MATMUL, CS_OP_ARGMAX};
  enum { N_LAYER = sizeof layer / sizeof layer[0], N_TAIL = sizeof tail / sizeof tail[0] };
  cs_model *model = open_tiny(&(tiny_options){0});
  cs_op_list *list = emit(model, &usual);
  const cs_op_node *ops = cs_op_list_ops(list);
  assert_int_equal(cs_op_list_n_ops(list), 1 + TINY_LAYERS * N_LAYER + N_TAIL);
  assert_int_equal(ops[0].id, CS_OP_GATHER_ROWS);
  for (int l = 0; l < TINY_LAYERS; l++)
    for (int i = 0; i < N_LAYER; i++) {
      assert_int_equal(ops[1 + l * N_LAYER + i].id, layer[i]);
      assert_int_equal(ops[1 + l * N_LAYER + i].layer, l);
    }
  for (int i = 0; i < N_TAIL; i++) {
    assert_int_equal(ops[1 + TINY_LAYERS * N_LAYER + i].id, tail[i]);
    assert_int_equal(ops[1 + TINY_LAYERS * N_LAYER + i].layer, -1);
  }
  cs_op_list_destroy(list);
  cs_model_release(model);
}

static void a_mark_stands_after_each_kv_write(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){0});
  cs_op_list *list = emit(model, &usual);
  assert_int_equal(cs_op_list_n_marks(list), TINY_LAYERS);
  for (uint32_t l = 0; l < TINY_LAYERS; l++) {
    const cs_op_mark mark = cs_op_list_marks(list)[l];
    const cs_op_node *op = &cs_op_list_ops(list)[mark.after_op];
    assert_int_equal(mark.tag, l);
    assert_int_equal(op->id, CS_OP_KV_WRITE);
    assert_int_equal(op->layer, l);
    assert_int_equal(operand(list, mark.after_op, 2)->key, 2 * l);
    assert_int_equal(operand(list, mark.after_op, 3)->key, 2 * l + 1);
  }
  cs_op_list_destroy(list);
  cs_model_release(model);
}

/* `part` begins `whole`: equal ops, operands, values and marks. */
static void assert_leading_part(const cs_op_list *part, const cs_op_list *whole) {
  assert_true(cs_op_list_n_ops(part) <= cs_op_list_n_ops(whole));
  assert_true(cs_op_list_n_values(part) <= cs_op_list_n_values(whole));
  assert_memory_equal(cs_op_list_ops(part), cs_op_list_ops(whole),
                      cs_op_list_n_ops(part) * sizeof(cs_op_node));
  assert_memory_equal(cs_op_list_marks(part), cs_op_list_marks(whole),
                      cs_op_list_n_marks(part) * sizeof(cs_op_mark));
  for (size_t i = 0; i < cs_op_list_n_values(part); i++) {
    const cs_value_info *a = &cs_op_list_values(part)[i];
    const cs_value_info *b = &cs_op_list_values(whole)[i];
    assert_true(a->kind == b->kind && a->key == b->key && a->dtype == b->dtype);
    assert_true(a->rank == b->rank && a->layout == b->layout && a->usage == b->usage);
    assert_memory_equal(a->dims, b->dims, sizeof a->dims);
  }
}

static void each_goal_is_a_leading_part_of_the_next(void **state) {
  (void)state;
  for (int tied = 0; tied < 2; tied++) {
    cs_model *model = open_tiny(&(tiny_options){.tied = tied, .biases = tied});
    cs_forward_shape shape = usual;
    cs_op_list *lists[3];
    for (int goal = 0; goal < 3; goal++) {
      shape.goal = (cs_forward_goal)goal;
      lists[goal] = emit(model, &shape);
      if (goal > 0) {
        assert_true(cs_op_list_n_ops(lists[goal - 1]) < cs_op_list_n_ops(lists[goal]));
        assert_leading_part(lists[goal - 1], lists[goal]);
      }
    }
    const size_t last = cs_op_list_n_ops(lists[0]) - 1;
    assert_int_equal(cs_op_list_ops(lists[0])[last].id, CS_OP_KV_WRITE);
    assert_int_equal(cs_op_list_marks(lists[0])[TINY_LAYERS - 1].after_op, last);
    for (int goal = 0; goal < 3; goal++)
      cs_op_list_destroy(lists[goal]);
    cs_model_release(model);
  }
}

static void the_nth_op_is_the_same_for_every_shape(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){0});
  const cs_forward_shape decode = {.n_tokens = 1,
                                   .n_seqs = 1,
                                   .max_blocks = 1,
                                   .n_logit_rows = 1,
                                   .goal = CS_FORWARD_ARGMAX,
                                   .kv_dtype = CS_DTYPE_F32,
                                   .kv_block_tokens = 32,
                                   .kv_n_blocks = 1};
  cs_op_list *a = emit(model, &usual);
  cs_op_list *b = emit(model, &decode);
  assert_int_equal(cs_op_list_n_ops(a), cs_op_list_n_ops(b));
  assert_int_equal(cs_op_list_n_values(a), cs_op_list_n_values(b));
  assert_memory_equal(cs_op_list_ops(a), cs_op_list_ops(b),
                      cs_op_list_n_ops(a) * sizeof(cs_op_node));
  cs_op_list_destroy(a);
  cs_op_list_destroy(b);
  cs_model_release(model);
}

static void every_activation_is_written_once_before_it_is_read(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){.biases = 1});
  cs_op_list *list = emit(model, &usual);
  uint8_t *written = calloc(cs_op_list_n_values(list), 1);
  assert_non_null(written);
  for (size_t i = 0; i < cs_op_list_n_ops(list); i++) {
    const cs_op_node *op = &cs_op_list_ops(list)[i];
    const uint32_t writes = cs_op_written_operands(op->id);
    for (int pass = 0; pass < 2; pass++)
      for (uint32_t k = 0; k < op->n_operands; k++) {
        const cs_value_info *value = operand(list, i, k);
        if (!value || (value->kind != CS_VALUE_ACTIVATION && value->kind != CS_VALUE_OUTPUT))
          continue;
        const int is_write = writes >> k & 1;
        if (pass == 0 && !is_write) assert_int_equal(written[op->operands[k]], 1);
        if (pass == 1 && is_write) assert_int_equal(written[op->operands[k]]++, 0);
      }
  }
  for (size_t i = 0; i < cs_op_list_n_values(list); i++)
    if (cs_op_list_values(list)[i].kind == CS_VALUE_ACTIVATION) assert_int_equal(written[i], 1);
  free(written);
  cs_op_list_destroy(list);
  cs_model_release(model);
}

static void assert_matmul_fits(const cs_op_list *list, size_t op) {
  const cs_value_info *out = operand(list, op, 0);
  const cs_value_info *x = operand(list, op, 1);
  const cs_value_info *weight = operand(list, op, 2);
  assert_int_equal(weight->layout, CS_LAYOUT_PACKED);
  assert_true(weight->usage & CS_USAGE_MATMUL);
  assert_int_equal(out->dims[0], x->dims[0]);
  assert_int_equal(row_elements(out), weight->dims[0]);
  assert_int_equal(row_elements(x), weight->dims[1]);
  if (operand(list, op, 3)) assert_int_equal(operand(list, op, 3)->dims[0], weight->dims[0]);
  if (operand(list, op, 4))
    assert_memory_equal(operand(list, op, 4)->dims, out->dims, sizeof out->dims);
}

static void operands_fit_each_other(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){.biases = 1});
  cs_op_list *list = emit(model, &usual);
  size_t n_biases = 0;
  for (size_t i = 0; i < cs_op_list_n_ops(list); i++) {
    const cs_op_node *op = &cs_op_list_ops(list)[i];
    if (op->id == CS_OP_MATMUL) {
      assert_matmul_fits(list, i);
      n_biases += operand(list, i, 3) != NULL;
    }
    if (op->id == CS_OP_RMS_NORM) {
      assert_int_equal(operand(list, i, 2)->dims[0], row_elements(operand(list, i, 1)));
      assert_int_equal(operand(list, i, 2)->layout, CS_LAYOUT_PLAIN);
      assert_true(op->params.rms_norm.epsilon == 1e-5f);
    }
    if (op->id == CS_OP_ROPE) {
      assert_int_equal(operand(list, i, 0)->dims[2], TINY_HEAD);
      assert_int_equal(op->params.rope.n_rot, TINY_HEAD);
      assert_true(op->params.rope.magnitude == 1.0f);
      assert_int_equal(operand(list, i, 3)->dims[0], TINY_HEAD / 2);
    }
    if (op->id == CS_OP_ATTENTION_PAGED) {
      assert_true(op->params.attention.scale == (float)(1 / sqrt(TINY_HEAD)));
      assert_int_equal(operand(list, i, 1)->dims[1], TINY_HEADS);
      assert_int_equal(operand(list, i, 2)->dims[2], TINY_KV_HEADS);
      assert_int_equal(operand(list, i, 2)->layout, CS_LAYOUT_KV_HEAD_MAJOR);
      assert_int_equal(operand(list, i, 2)->dtype, CS_DTYPE_F16);
      assert_int_equal(operand(list, i, 4)->key, CS_INPUT_BLOCK_TABLE);
      assert_int_equal(operand(list, i, 5)->dims[0], 3);
    }
  }
  assert_int_equal(n_biases, 3 * TINY_LAYERS);
  cs_op_list_destroy(list);
  cs_model_release(model);
}

/* The last matmul of the list. */
static size_t find_head(const cs_op_list *list) {
  size_t at = cs_op_list_n_ops(list);
  while (cs_op_list_ops(list)[--at].id != CS_OP_MATMUL)
    ;
  return at;
}

static void only_logits_that_are_read_are_an_output(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){0});
  for (int read = 0; read < 2; read++) {
    cs_forward_shape shape = usual;
    shape.read_logits = read;
    cs_op_list *list = emit(model, &shape);
    const cs_value_info *logits = operand(list, find_head(list), 0);
    assert_int_equal(logits->kind, read ? CS_VALUE_OUTPUT : CS_VALUE_ACTIVATION);
    assert_int_equal(logits->key, CS_OUTPUT_LOGITS);
    assert_int_equal(logits->dims[0], 3);
    assert_int_equal(logits->dims[1], VOCAB_SIZE);
    const cs_value_info *best = operand(list, cs_op_list_n_ops(list) - 1, 0);
    assert_int_equal(best->kind, CS_VALUE_OUTPUT);
    assert_int_equal(best->key, CS_OUTPUT_ARGMAX);
    cs_op_list_destroy(list);
  }
  cs_model_release(model);
}

static void tied_embeddings_are_one_value(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){.tied = 1});
  cs_op_list *list = emit(model, &usual);
  assert_int_equal(cs_op_list_ops(list)[0].operands[1],
                   cs_op_list_ops(list)[find_head(list)].operands[2]);
  assert_int_equal(operand(list, 0, 1)->usage, CS_USAGE_GATHER | CS_USAGE_MATMUL);
  cs_op_list_destroy(list);
  cs_model_release(model);
}

static void empty_shapes_are_refused(void **state) {
  (void)state;
  cs_model *model = open_tiny(&(tiny_options){0});
  cs_error error = CS_ERROR_INIT;
  cs_op_list *list;
  cs_forward_shape shape = usual;
  shape.n_tokens = 0;
  assert_int_equal(cs_forward_emit(model, &shape, &list, &error), CS_INVALID_ARGUMENT);
  assert_non_null(strstr(error.message, "n_tokens"));
  shape = usual;
  shape.n_logit_rows = 0;
  assert_int_equal(cs_forward_emit(model, &shape, &list, &error), CS_INVALID_ARGUMENT);
  shape.goal = CS_FORWARD_KV;
  assert_int_equal(cs_forward_emit(model, &shape, &list, &error), CS_OK);
  cs_op_list_destroy(list);
  shape.kv_n_blocks = UINT64_C(1) << 30;
  assert_int_equal(cs_forward_emit(model, &shape, &list, &error), CS_OUT_OF_RANGE);
  assert_null(list);
  cs_model_release(model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ops_stand_in_the_order_of_the_model),
      cmocka_unit_test(a_mark_stands_after_each_kv_write),
      cmocka_unit_test(each_goal_is_a_leading_part_of_the_next),
      cmocka_unit_test(the_nth_op_is_the_same_for_every_shape),
      cmocka_unit_test(every_activation_is_written_once_before_it_is_read),
      cmocka_unit_test(operands_fit_each_other),
      cmocka_unit_test(only_logits_that_are_read_are_an_output),
      cmocka_unit_test(tied_embeddings_are_one_value),
      cmocka_unit_test(empty_shapes_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
