/* Two questions: is what was written right, and is nothing else written. The first is asked of
 * every element by NMSE over the operand and by a bound on each element, so that one lost element
 * of a large result shows. For the second, the bytes of right elements are copied over the image of
 * before; then both images have to be equal. */
#include "optest_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "consort/half.h"
#include "format.h"

/* An element may be this many times worse than the root of the NMSE limit allows on average. */
#define ELEMENT_FACTOR 12

double optest_untouched(void) {
  const uint64_t bits = UINT64_C(0x7ffc0dedbeef5678); /* a quiet NaN that no formula gives */
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

bool optest_is_untouched(double value) {
  const double mark = optest_untouched();
  return memcmp(&value, &mark, sizeof value) == 0;
}

double optest_nmse_limit(uint32_t error_class, uint32_t dtype) {
  const double own = error_class == CS_ERROR_INT8   ? CS_NMSE_LIMIT_INT8
                     : error_class == CS_ERROR_HALF ? CS_NMSE_LIMIT_HALF
                                                    : CS_NMSE_LIMIT_F32;
  const bool rounds = dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16;
  return rounds && own < CS_NMSE_LIMIT_HALF ? CS_NMSE_LIMIT_HALF : own;
}

static bool is_float(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 || dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16 ||
         dtype == CS_DTYPE_F8_E4M3;
}

/* Where an element sits, as words: "operand 0, row 3, column 17". */
static void element_name(const optest *t, uint32_t index, uint64_t i, char *to, size_t bytes) {
  const cs_tensor *tensor = &t->operands[index].tensor;
  const uint64_t rows = tensor->rank == 1 ? 1 : tensor->dims[0];
  const uint64_t columns = t->operands[index].count / rows;
  snprintf(to, bytes, "operand %u, row %llu, column %llu", index, (unsigned long long)(i / columns),
           (unsigned long long)(i % columns));
}

static void check_exact(optest *t, uint32_t index, const char *what) {
  const optest_tensor *operand = &t->operands[index];
  const uint32_t dtype = operand->tensor.dtype;
  const size_t bytes = format_bytes(dtype, 1);
  for (uint64_t i = 0; i < operand->count; i++) {
    if (optest_is_untouched(operand->expected[i])) continue;
    const uint64_t at = operand->tensor.offset_bytes + optest_element_offset(&operand->tensor, i);
    unsigned char right[8];
    format_encode(dtype, right, operand->expected[i]);
    const double got = format_decode(dtype, t->after + at);
    const bool both_nan = is_float(dtype) && isnan(got) && isnan(operand->expected[i]);
    if (memcmp(right, t->after + at, bytes) != 0 && !both_nan) {
      char name[80];
      element_name(t, index, i, name, sizeof name);
      kit_fail(t->k, "%s: %s is %.9g and not, bit for bit, %.9g", what, name, got,
               operand->expected[i]);
    }
    memcpy(t->before + at, t->after + at, bytes);
  }
}

typedef struct error_sums {
  double error_squares;
  double value_squares;
  double max_error;
  uint64_t count;
} error_sums;

/* Sums over finite elements; others have to be the same NaN or infinity. */
static error_sums sum_errors(optest *t, uint32_t index, const char *what) {
  const optest_tensor *operand = &t->operands[index];
  error_sums sums = {0};
  for (uint64_t i = 0; i < operand->count; i++) {
    const double right = operand->expected[i];
    if (optest_is_untouched(right)) continue;
    const uint64_t at = operand->tensor.offset_bytes + optest_element_offset(&operand->tensor, i);
    const double got = format_decode(operand->tensor.dtype, t->after + at);
    const bool same_kind = isnan(right) ? isnan(got) : isinf(right) ? got == right : isfinite(got);
    if (!same_kind) {
      char name[80];
      element_name(t, index, i, name, sizeof name);
      kit_fail(t->k, "%s: %s is %.9g and not %.9g", what, name, got, right);
    }
    if (!isfinite(right)) continue;
    sums.error_squares += (got - right) * (got - right);
    sums.value_squares += right * right;
    sums.count++;
    if (fabs(got - right) > sums.max_error) sums.max_error = fabs(got - right);
  }
  return sums;
}

static void check_elements(optest *t, uint32_t index, const error_sums *sums, double limit,
                           const char *what) {
  const optest_tensor *operand = &t->operands[index];
  const double rms = sums->count ? sqrt(sums->value_squares / (double)sums->count) : 0;
  const size_t bytes = format_bytes(operand->tensor.dtype, 1);
  for (uint64_t i = 0; i < operand->count; i++) {
    const double right = operand->expected[i];
    if (optest_is_untouched(right)) continue;
    const uint64_t at = operand->tensor.offset_bytes + optest_element_offset(&operand->tensor, i);
    const double got = format_decode(operand->tensor.dtype, t->after + at);
    if (isfinite(right) && fabs(got - right) > ELEMENT_FACTOR * sqrt(limit) * (rms + fabs(right))) {
      char name[80];
      element_name(t, index, i, name, sizeof name);
      kit_fail(t->k, "%s: %s is %.9g and not %.9g", what, name, got, right);
    }
    memcpy(t->before + at, t->after + at, bytes);
  }
}

static void check_close(optest *t, uint32_t index, const char *what) {
  const optest_tensor *operand = &t->operands[index];
  const double limit = optest_nmse_limit(t->answer.error_class, operand->tensor.dtype);
  error_sums sums = sum_errors(t, index, what);
  if (sums.value_squares < operand->power) sums.value_squares = operand->power;
  const double nmse = sums.value_squares > 0   ? sums.error_squares / sums.value_squares
                      : sums.error_squares > 0 ? INFINITY
                                               : 0;
  kit_result *result = t->k->result;
  if (nmse > result->nmse) result->nmse = nmse;
  if (sums.max_error > result->max_error) result->max_error = sums.max_error;
  check_elements(t, index, &sums, limit, what);
  kit_check(t->k, nmse <= limit, "%s: operand %u has NMSE %.3g, its class allows %.3g", what, index,
            nmse, limit);
}

static void check_rest(optest *t, const char *what) {
  for (uint64_t i = 0; i < t->arena_bytes; i++) {
    if (t->before[i] == t->after[i]) continue;
    uint32_t nearest = 0;
    uint64_t start = 0;
    for (uint32_t j = 0; j < t->n_operands; j++) {
      const cs_tensor *tensor = &t->operands[j].tensor;
      if (tensor->memory != t->memory || tensor->offset_bytes > i) continue;
      if (tensor->offset_bytes >= start) nearest = j;
      if (tensor->offset_bytes >= start) start = tensor->offset_bytes;
    }
    kit_fail(t->k,
             "%s: a byte that is not the op's was written, %llu bytes after the start of operand "
             "%u (a window of %llu)",
             what, (unsigned long long)(i - start), nearest,
             (unsigned long long)optest_window_bytes(&t->operands[nearest].tensor));
  }
}

/* Elements left open count as untouched that happen to be equal. */
static void settle_open(optest *t, uint32_t index) {
  const optest_tensor *operand = &t->operands[index];
  const size_t bytes = format_bytes(operand->tensor.dtype, 1);
  for (uint64_t i = 0; operand->open && i < operand->count; i++) {
    if (!operand->open[i]) continue;
    const uint64_t at = operand->tensor.offset_bytes + optest_element_offset(&operand->tensor, i);
    memcpy(t->before + at, t->after + at, bytes);
    operand->expected[i] = optest_untouched();
  }
}

void optest_compare(optest *t, const char *what) {
  if (t->id == CS_OP_KV_GATHER && optest_is_scaled(t, 0)) { /* the sum is over what was rounded */
    const uint64_t sum = optest_scaled_wire_sum(t, t->after);
    memcpy(t->operands[1].expected, &sum, sizeof sum);
  }
  for (uint32_t i = 0; i < t->n_operands; i++) {
    if (!t->operands[i].expected) continue;
    settle_open(t, i);
    if (optest_is_scaled(t, i))
      optest_check_scaled(t, i, what);
    else if (t->answer.error_class == CS_ERROR_EXACT || !is_float(t->operands[i].tensor.dtype))
      check_exact(t, i, what);
    else
      check_close(t, i, what);
  }
  check_rest(t, what);
}
