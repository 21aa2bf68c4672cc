/* Checks of operands, with a reason in words. Extents are bounded first, so that the products and
 * sums behind it cannot wrap. */
#include "consort/sdk.h"

#include <stdarg.h>
#include <stdio.h>

#define MAX_EXTENT UINT64_C(0x7fffffff) /* of rows and of columns: kernels count with 32 bits */

bool cs_sdk_refuse(char *reason, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, CS_SDK_REASON_BYTES, format, arguments);
  va_end(arguments);
  return false;
}

uint64_t cs_sdk_dtype_unit(uint32_t dtype) {
  const uint64_t bytes = cs_sdk_dtype_bytes(dtype, 1);
  return bytes ? bytes : 1;
}

static bool extents_bounded(const cs_tensor *tensor) {
  uint64_t columns = 1;
  for (uint32_t i = 0; i < tensor->rank; i++) {
    if (tensor->dims[i] > MAX_EXTENT) return false;
    if (i > 0 || tensor->rank == 1) columns *= tensor->dims[i];
    if (columns > MAX_EXTENT) return false;
  }
  return true;
}

bool cs_sdk_check_tensor(const cs_tensor *tensor, const char *name, uint64_t dtypes, uint64_t rows,
                         uint64_t columns, char *reason) {
  if (tensor->dtype >= CS_DTYPE_LIMIT || !(dtypes & CS_DTYPE_BIT(tensor->dtype)))
    return cs_sdk_refuse(reason, "%s: dtype %u is not served", name, tensor->dtype);
  if (tensor->layout != CS_LAYOUT_PLAIN) return cs_sdk_refuse(reason, "%s is not plain", name);
  if (!extents_bounded(tensor) || columns == 0)
    return cs_sdk_refuse(reason, "%s: extents out of range", name);
  if (cs_sdk_tensor_rows(tensor) != rows || cs_sdk_tensor_columns(tensor) != columns)
    return cs_sdk_refuse(reason, "%s: shape does not fit the other operands", name);
  const uint64_t row_bytes = cs_sdk_dtype_bytes(tensor->dtype, columns);
  const uint64_t stride = cs_sdk_tensor_stride(tensor);
  const uint64_t unit = cs_sdk_dtype_unit(tensor->dtype);
  if (row_bytes == 0) return cs_sdk_refuse(reason, "%s: rows are not whole blocks", name);
  if (stride % unit != 0 || tensor->offset_bytes % unit != 0)
    return cs_sdk_refuse(reason, "%s: offset or stride is not whole elements", name);
  if (rows > 1 && stride < row_bytes) return cs_sdk_refuse(reason, "%s: rows overlap", name);
  return true;
}

bool cs_sdk_check_vector(const cs_tensor *tensor, const char *name, uint64_t dtypes,
                         uint64_t columns, char *reason) {
  const uint64_t rows = cs_sdk_tensor_rows(tensor);
  const uint64_t row_columns = cs_sdk_tensor_columns(tensor);
  if (!extents_bounded(tensor) || rows * row_columns != columns)
    return cs_sdk_refuse(reason, "%s: shape does not fit the other operands", name);
  if (rows > 1 && cs_sdk_tensor_stride(tensor) != cs_sdk_dtype_bytes(tensor->dtype, row_columns))
    return cs_sdk_refuse(reason, "%s is not contiguous", name);
  return cs_sdk_check_tensor(tensor, name, dtypes, rows, row_columns, reason);
}

bool cs_sdk_check_window(const cs_tensor *tensor, const char *name, uint64_t memory_bytes,
                         char *reason) {
  const uint64_t rows = cs_sdk_tensor_rows(tensor), stride = cs_sdk_tensor_stride(tensor);
  const uint64_t row_bytes = cs_sdk_tensor_row_bytes(tensor);
  uint64_t end = 0;
  if (rows == 0 || row_bytes == 0) return true;
  if (__builtin_mul_overflow(rows - 1, stride, &end) ||
      __builtin_add_overflow(end, row_bytes, &end) ||
      __builtin_add_overflow(end, tensor->offset_bytes, &end) || end > memory_bytes)
    return cs_sdk_refuse(reason, "%s ends outside its memory", name);
  return true;
}
