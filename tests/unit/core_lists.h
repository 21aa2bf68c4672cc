/* Op lists for the tests of placement and executor. */
#ifndef TESTS_UNIT_CORE_LISTS_H
#define TESTS_UNIT_CORE_LISTS_H

#include "core/op_list.h"

static inline cs_value list_value(cs_op_list *list, cs_value_kind kind, uint32_t key, uint64_t rows,
                                  uint64_t columns) {
  return cs_op_list_value(
      list,
      &(cs_value_info){
          .kind = kind, .key = key, .dtype = CS_DTYPE_F32, .rank = 2, .dims = {rows, columns}});
}

static inline cs_value list_ids(cs_op_list *list, uint32_t key, uint64_t n) {
  return cs_op_list_value(
      list, &(cs_value_info){
                .kind = CS_VALUE_INPUT, .key = key, .dtype = CS_DTYPE_I32, .rank = 1, .dims = {n}});
}

static inline void list_add(cs_op_list *list, int32_t layer, cs_value out, cs_value a, cs_value b) {
  cs_op_list_op(list, CS_OP_ADD, layer, (cs_value[]){out, a, b}, 3, NULL);
}

static inline void list_copy(cs_op_list *list, int32_t layer, cs_value out, cs_value x) {
  cs_op_list_op(list, CS_OP_COPY, layer, (cs_value[]){out, x}, 2, NULL);
}

#endif
