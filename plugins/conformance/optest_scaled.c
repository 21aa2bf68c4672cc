/* KV in int8: planes and wires whose rows have a scale of their own (consort/kv.h). Such an operand
 * is written and read row by row. What an op only moves has to be the same, bit for bit. What it
 * rounds is held against the format's definition: the scale is that of the row's largest element,
 * and each element is the whole number nearest to x / scale, as near as float32 can tell. */
#include "optest_internal.h"

#include <math.h>
#include <string.h>

#include "consort/kv.h"
#include "oracle.h"

#define SCALE_ERROR    0x1p-21 /* relative: a few roundings */
#define QUOTIENT_ERROR 0x1p-13 /* kv.h */

/* Elements of a row, values first .. first + n - 1, lie `step` bytes apart. */
typedef struct scaled_row {
  uint64_t first, n;
  uint64_t element_offset, step;
  uint64_t scale_offset;
} scaled_row;

static bool is_cache(const cs_tensor *tensor) {
  return tensor->rank == 4 && tensor->layout >= CS_LAYOUT_KV_TOKEN_MAJOR;
}

static bool moves(const optest *t) {
  return t->id == CS_OP_KV_GATHER || t->id == CS_OP_KV_SCATTER;
}

bool optest_is_scaled(const optest *t, uint32_t index) {
  const cs_tensor *tensor = &t->operands[index].tensor;
  return tensor->dtype == CS_DTYPE_I8 && (is_cache(tensor) || (moves(t) && index == 0));
}

static bool cache_row(const cs_tensor *tensor, uint64_t index, scaled_row *row) {
  const uint64_t n_tokens = tensor->dims[1], n_heads = tensor->dims[2], width = tensor->dims[3];
  if (index >= tensor->dims[0] * n_tokens * n_heads) return false;
  const uint64_t block = index / (n_tokens * n_heads), token = index / n_heads % n_tokens;
  const uint64_t head = index % n_heads, block_values = n_tokens * n_heads * width;
  const bool head_major = tensor->layout == CS_LAYOUT_KV_HEAD_MAJOR;
  row->first = index * width;
  row->n = width;
  row->element_offset = optest_element_offset(tensor, row->first);
  row->step = width > 1 ? optest_element_offset(tensor, row->first + 1) - row->element_offset : 1;
  row->scale_offset =
      optest_element_offset(tensor, block * block_values) + block_values +
      sizeof(float) * (head_major ? head * n_tokens + token : token * n_heads + head);
  return true;
}

/* K (n_heads, n, width), its scales (n_heads, n), then V likewise. */
static bool wire_row(const optest *t, uint64_t index, scaled_row *row) {
  uint64_t value = 0, byte = 0;
  for (uint32_t plane = 2; plane < 4; plane++) {
    const cs_tensor *cache = &t->operands[plane].tensor;
    if (cache->dtype == CS_DTYPE_NONE) continue;
    const uint64_t width = cache->dims[3];
    const uint64_t n_rows = cache->dims[2] * (uint64_t)t->operands[5].values[1];
    if (index < n_rows) {
      *row = (scaled_row){value + index * width, width, byte + index * width, 1,
                          byte + n_rows * width + index * sizeof(float)};
      return true;
    }
    index -= n_rows;
    value += n_rows * width;
    byte += n_rows * (width + sizeof(float));
  }
  return false;
}

static bool find_row(const optest *t, uint32_t index, uint64_t number, scaled_row *row) {
  const cs_tensor *tensor = &t->operands[index].tensor;
  return is_cache(tensor) ? cache_row(tensor, number, row) : wire_row(t, number, row);
}

/* The row's largest magnitude; infinity where a value is not finite. */
static double largest_of(const double *x, uint64_t n) {
  double largest = 0;
  for (uint64_t i = 0; i < n; i++)
    largest = isfinite(x[i]) ? fmax(largest, fabs(x[i])) : INFINITY;
  return largest;
}

static void encode_row(const scaled_row *row, double *values, unsigned char *window) {
  const double largest = largest_of(values, row->n);
  const float scale = isfinite(largest) ? (float)(largest / CS_KV_I8_LARGEST) : NAN;
  memcpy(window + row->scale_offset, &scale, sizeof scale);
  for (uint64_t i = 0; i < row->n; i++) {
    const int8_t whole = scale > 0 ? (int8_t)nearbyint(values[i] / scale) : 0;
    window[row->element_offset + i * row->step] = (unsigned char)whole;
    values[i] = whole * (double)scale;
  }
}

void optest_encode_scaled(optest *t, uint32_t index) {
  optest_tensor *operand = &t->operands[index];
  scaled_row row;
  for (uint64_t r = 0; find_row(t, index, r, &row); r++)
    encode_row(&row, operand->values + row.first, t->before + operand->tensor.offset_bytes);
}

uint64_t optest_scaled_wire_sum(const optest *t, const unsigned char *image) {
  uint64_t bytes = 0;
  scaled_row row;
  for (uint64_t r = 0; wire_row(t, r, &row); r++)
    bytes += row.n + sizeof(float);
  return oracle_wire_sum(image + t->operands[0].tensor.offset_bytes, bytes);
}

/* ---- comparing ---- */

static bool rounds(const optest *t, uint32_t index) {
  if (t->id == CS_OP_KV_WRITE) return true;
  return moves(t) && t->operands[index == 0 ? 2 : 0].tensor.dtype != CS_DTYPE_I8;
}

/* What is wrong with a row, or NULL; *at is the element. */
static const char *row_fault(const optest *t, uint32_t index, const scaled_row *row, uint64_t *at) {
  const optest_tensor *operand = &t->operands[index];
  const unsigned char *window = t->after + operand->tensor.offset_bytes;
  const double *x = operand->expected + row->first;
  float scale;
  memcpy(&scale, window + row->scale_offset, sizeof scale);
  const double largest = largest_of(x, row->n), right = largest / CS_KV_I8_LARGEST;
  const bool is_none = right < 0x1p-126;
  *at = 0;
  if (isinf(largest)) return isnan(scale) ? NULL : "is not NaN as its row is";
  if (rounds(t, index) && is_none && scale != 0) return "has a scale where it should have none";
  if (rounds(t, index) && !is_none && !(fabs(scale - right) <= SCALE_ERROR * right))
    return "has not its row's scale";
  for (uint64_t i = 0; i < row->n; i++) {
    *at = i;
    const int whole = (int8_t)window[row->element_offset + i * row->step];
    if (!rounds(t, index) && whole * (double)scale != x[i]) return "is not what was moved";
    if (whole == -128 || (rounds(t, index) && is_none && whole != 0)) return "is out of range";
    if (rounds(t, index) && !is_none && !(fabs(whole - x[i] / scale) <= 0.5 + QUOTIENT_ERROR))
      return "is not the nearest";
  }
  return NULL;
}

static void accept_row(optest *t, uint32_t index, const scaled_row *row) {
  const uint64_t offset = t->operands[index].tensor.offset_bytes;
  const uint64_t scale = offset + row->scale_offset;
  memcpy(t->before + scale, t->after + scale, sizeof(float));
  for (uint64_t i = 0; i < row->n; i++) {
    const uint64_t at = offset + row->element_offset + i * row->step;
    t->before[at] = t->after[at];
  }
}

void optest_check_scaled(optest *t, uint32_t index, const char *what) {
  scaled_row row;
  for (uint64_t r = 0; find_row(t, index, r, &row); r++) {
    if (optest_is_untouched(t->operands[index].expected[row.first])) continue;
    uint64_t at;
    const char *fault = row_fault(t, index, &row, &at);
    if (fault)
      kit_fail(t->k, "%s: operand %u, int8 row %llu: element %llu, %.9g, %s", what, index,
               (unsigned long long)r, (unsigned long long)at,
               t->operands[index].expected[row.first + at], fault);
    accept_row(t, index, &row);
  }
}
