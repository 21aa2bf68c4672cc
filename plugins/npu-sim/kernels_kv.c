/* The units for KV. A plane is (n_blocks, 128, width, n_heads): the head is innermost, because the
 * chip's lanes are heads. */
#include <math.h>
#include <string.h>

#include "consort/half.h"
#include "npu.h"

static float load(uint32_t dtype, const unsigned char *at) {
  float f32;
  uint16_t half;
  if (dtype == CS_DTYPE_F32) {
    memcpy(&f32, at, sizeof f32);
    return f32;
  }
  memcpy(&half, at, sizeof half);
  return dtype == CS_DTYPE_F16 ? cs_f32_from_f16(half) : cs_f32_from_bf16(half);
}

static void store(uint32_t dtype, unsigned char *at, float value) {
  if (dtype == CS_DTYPE_F32) {
    memcpy(at, &value, sizeof value);
    return;
  }
  const uint16_t half = dtype == CS_DTYPE_F16 ? cs_f16_from_f32(value) : cs_bf16_from_f32(value);
  memcpy(at, &half, sizeof half);
}

static uint64_t element_bytes(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 ? 4 : 2;
}

/* Element (token of block, head, i) of a plane. */
static unsigned char *element(const npu_run *run, const cs_tensor *plane, uint64_t block,
                              uint64_t token, uint64_t head, uint64_t i) {
  const uint64_t n_heads = plane->dims[2], width = plane->dims[3];
  return (unsigned char *)npu_row(run, plane, block) +
         ((token * width + i) * n_heads + head) * element_bytes(plane->dtype);
}

void npu_kv_write(const npu_run *run, const cs_op *op) {
  const cs_tensor *t = op->operands;
  const int32_t *slots = npu_row(run, &t[4], 0);
  for (uint32_t which = 0; which < 2; which++) {
    const cs_tensor *rows = &t[which], *plane = &t[2 + which];
    if (!rows->dtype) continue;
    const uint64_t n_heads = rows->dims[1], width = rows->dims[2];
    for (uint64_t row = 0; row < rows->dims[0]; row++) {
      if (slots[row] < 0) continue;
      const float *x = npu_row(run, rows, row);
      const uint64_t slot = (uint64_t)slots[row];
      for (uint64_t i = 0; i < n_heads * width; i++)
        store(plane->dtype,
              element(run, plane, slot / NPU_BLOCK_TOKENS, slot % NPU_BLOCK_TOKENS, i / width,
                      i % width),
              x[i]);
    }
  }
}

/* ---- attention ---- */

typedef struct attention {
  const npu_run *run;
  const cs_tensor *k_cache, *v_cache;
  const int32_t *table;
  uint64_t kv_head, k_width, v_width;
  double scale;
} attention;

/* One head of one row over positions 0 to last: the running softmax keeps the largest score so far
 * and scales what was summed whenever a larger one comes. */
static void attend(const attention *a, const float *q, float *out, uint64_t last) {
  double sums[NPU_MAX_WIDTH] = {0}, total = 0, largest = -INFINITY;
  for (uint64_t p = 0; p <= last; p++) {
    const uint64_t block = (uint64_t)a->table[p / NPU_BLOCK_TOKENS], token = p % NPU_BLOCK_TOKENS;
    double score = 0;
    for (uint64_t i = 0; i < a->k_width; i++)
      score += (double)q[i] *
               load(a->k_cache->dtype, element(a->run, a->k_cache, block, token, a->kv_head, i));
    score *= a->scale;
    if (score > largest) {
      const double shrink = exp(largest - score);
      for (uint64_t i = 0; i < a->v_width; i++)
        sums[i] *= shrink;
      total *= shrink;
      largest = score;
    }
    const double weight = exp(score - largest);
    total += weight;
    for (uint64_t i = 0; i < a->v_width; i++)
      sums[i] += weight *
                 load(a->v_cache->dtype, element(a->run, a->v_cache, block, token, a->kv_head, i));
  }
  for (uint64_t i = 0; i < a->v_width; i++)
    out[i] = (float)(sums[i] / total);
}

void npu_attention(const npu_run *run, const cs_op *op) {
  const cs_tensor *t = op->operands;
  const uint64_t n_heads = t[1].dims[1], n_kv_heads = t[2].dims[2];
  attention a = {.run = run,
                 .k_cache = &t[2],
                 .v_cache = &t[3],
                 .k_width = t[1].dims[2],
                 .v_width = t[0].dims[2],
                 .scale = ((const cs_attention_params *)op->params)->scale};
  const int32_t *offsets = npu_row(run, &t[5], 0), *lengths = npu_row(run, &t[6], 0);
  for (uint64_t seq = 0; seq < t[4].dims[0]; seq++) {
    a.table = npu_row(run, &t[4], seq);
    for (int32_t row = offsets[seq]; row < offsets[seq + 1] && lengths[seq] > 0; row++) {
      const uint64_t last = (uint64_t)(lengths[seq] - (offsets[seq + 1] - row));
      for (uint64_t head = 0; head < n_heads; head++) {
        a.kv_head = head / (n_heads / n_kv_heads);
        attend(&a, (const float *)npu_row(run, &t[1], (uint64_t)row) + head * a.k_width,
               (float *)npu_row(run, &t[0], (uint64_t)row) + head * a.v_width, last);
      }
    }
  }
}

/* ---- the wire ---- */

/* The order-independent sum of consort/ops.h over the bytes of the wire. */
static uint64_t wire_sum(const unsigned char *wire, uint64_t bytes) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i * 4 < bytes; i++) {
    uint32_t word = 0;
    for (uint32_t j = 0; j < 4 && i * 4 + j < bytes; j++)
      word |= (uint32_t)wire[i * 4 + j] << (8 * j);
    uint64_t z = (i << 32 | word) + UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    sum += z ^ z >> 31;
  }
  return sum;
}

/* Moves tokens between planes and wire (n_kv_heads, n, width); returns the bytes of the wire. */
static uint64_t move(const npu_run *run, const cs_op *op, bool gather) {
  const cs_tensor *t = op->operands;
  const int32_t *table = npu_row(run, &t[4], 0), *range = npu_row(run, &t[5], 0);
  const uint64_t first = (uint64_t)range[0], n = (uint64_t)range[1];
  unsigned char *start = npu_row(run, &t[0], 0), *wire = start;
  for (uint32_t which = 2; which < 4; which++) {
    const cs_tensor *plane = &t[which];
    if (!plane->dtype) continue;
    const uint64_t n_heads = plane->dims[2], width = plane->dims[3];
    for (uint64_t i = 0; i < n_heads * n * width; i++, wire += element_bytes(t[0].dtype)) {
      const uint64_t position = first + i / width % n;
      unsigned char *at = element(run, plane, (uint64_t)table[position / NPU_BLOCK_TOKENS],
                                  position % NPU_BLOCK_TOKENS, i / (n * width), i % width);
      if (gather)
        store(t[0].dtype, wire, load(plane->dtype, at));
      else
        store(plane->dtype, at, load(t[0].dtype, wire));
    }
  }
  return (uint64_t)(wire - start);
}

static void put_sum(const npu_run *run, const cs_op *op, uint64_t bytes) {
  const uint64_t sum = wire_sum(npu_row(run, &op->operands[0], 0), bytes);
  memcpy(npu_row(run, &op->operands[1], 0), &sum, sizeof sum);
}

void npu_kv_gather(const npu_run *run, const cs_op *op) {
  put_sum(run, op, move(run, op, true));
}

void npu_kv_scatter(const npu_run *run, const cs_op *op) {
  put_sum(run, op, move(run, op, false));
}
