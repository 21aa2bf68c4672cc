/* The units of the chip but those for KV. The matmul unit multiplies int8 by int8 into int32, a
 * group of 32 at a time, sixteen rows of the weight side by side. */
#include <math.h>
#include <string.h>

#include "consort/half.h"
#include "npu.h"

#define Q8_0_BLOCK_BYTES 34
#define TILE_BYTES       (NPU_TILE_ROWS * sizeof(float) + NPU_TILE_ROWS * NPU_GROUP)

/* ---- matmul ---- */

uint64_t npu_packed_bytes(uint64_t n_out, uint64_t n_in) {
  return (n_out + NPU_TILE_ROWS - 1) / NPU_TILE_ROWS * (n_in / NPU_GROUP) * TILE_BYTES;
}

void npu_pack(unsigned char *to, const unsigned char *from, uint64_t n_out, uint64_t n_in) {
  const uint64_t n_groups = n_in / NPU_GROUP;
  memset(to, 0, npu_packed_bytes(n_out, n_in));
  for (uint64_t row = 0; row < n_out; row++)
    for (uint64_t group = 0; group < n_groups; group++) {
      const unsigned char *block = from + (row * n_groups + group) * Q8_0_BLOCK_BYTES;
      unsigned char *tile = to + (row / NPU_TILE_ROWS * n_groups + group) * TILE_BYTES;
      const float scale = cs_f32_from_f16((uint16_t)(block[0] | block[1] << 8));
      const uint64_t lane = row % NPU_TILE_ROWS;
      memcpy(tile + lane * sizeof scale, &scale, sizeof scale);
      memcpy(tile + NPU_TILE_ROWS * sizeof scale + lane * NPU_GROUP, block + 2, NPU_GROUP);
    }
}

/* x(n_in) to int8 with a scale for each group. A group with NaN or infinity gets a NaN scale. */
static void quantize(const float *x, uint64_t n_in, int8_t *quants, float *scales) {
  for (uint64_t g = 0; g < n_in / NPU_GROUP; g++) {
    float largest = 0;
    bool is_finite = true;
    for (uint64_t i = 0; i < NPU_GROUP; i++) {
      const float value = fabsf(x[g * NPU_GROUP + i]);
      is_finite = is_finite && isfinite(value);
      if (value > largest) largest = value;
    }
    scales[g] = is_finite ? largest / 127 : NAN;
    const float inverse = is_finite && scales[g] > 0 ? 1 / scales[g] : 0;
    for (uint64_t i = 0; i < NPU_GROUP; i++) {
      const float value = is_finite && isfinite(inverse) ? x[g * NPU_GROUP + i] * inverse : 0;
      quants[g * NPU_GROUP + i] = (int8_t)lrintf(value);
    }
  }
}

/* One tile of 16 outputs: sums over all groups. */
static void multiply_tile(const unsigned char *tiles, const int8_t *quants, const float *scales,
                          uint64_t n_groups, float sums[NPU_TILE_ROWS]) {
  memset(sums, 0, NPU_TILE_ROWS * sizeof sums[0]);
  for (uint64_t g = 0; g < n_groups; g++, tiles += TILE_BYTES) {
    const float *weight_scales = (const float *)tiles;
    const int8_t *weights = (const int8_t *)(tiles + NPU_TILE_ROWS * sizeof(float));
    for (uint32_t lane = 0; lane < NPU_TILE_ROWS; lane++) {
      int32_t sum = 0;
      for (uint32_t i = 0; i < NPU_GROUP; i++)
        sum += weights[lane * NPU_GROUP + i] * quants[g * NPU_GROUP + i];
      sums[lane] += scales[g] * weight_scales[lane] * (float)sum;
    }
  }
}

void npu_matmul(const npu_run *run, const cs_op *op) {
  const cs_tensor *t = op->operands;
  const uint64_t n = cs_sdk_tensor_rows(&t[0]), n_out = t[2].dims[0], n_in = t[2].dims[1];
  const uint64_t n_groups = n_in / NPU_GROUP;
  const unsigned char *packed = run->base + t[2].memory->offset;
  float *scales = (float *)run->workspace;
  int8_t *quants = (int8_t *)(scales + n_groups);
  const float *bias = t[3].dtype ? npu_row(run, &t[3], 0) : NULL;
  for (uint64_t row = 0; row < n; row++) {
    float *out = npu_row(run, &t[0], row);
    const float *residual = t[4].dtype ? npu_row(run, &t[4], row) : NULL;
    quantize(npu_row(run, &t[1], row), n_in, quants, scales);
    for (uint64_t first = 0; first < n_out; first += NPU_TILE_ROWS) {
      float sums[NPU_TILE_ROWS];
      multiply_tile(packed + first / NPU_TILE_ROWS * n_groups * TILE_BYTES, quants, scales,
                    n_groups, sums);
      for (uint64_t i = first; i < n_out && i < first + NPU_TILE_ROWS; i++)
        out[i] = sums[i - first] + (bias ? bias[i] : 0) + (residual ? residual[i] : 0);
    }
  }
}

/* ---- rows ---- */

void npu_rms_norm(const npu_run *run, const cs_op *op) {
  const cs_tensor *t = op->operands;
  const cs_rms_norm_params *params = op->params;
  const uint64_t n = cs_sdk_tensor_rows(&t[0]), d = cs_sdk_tensor_columns(&t[0]);
  const float *weight = npu_row(run, &t[2], 0);
  for (uint64_t row = 0; row < n; row++) {
    float *out = npu_row(run, &t[0], row);
    const float *x = npu_row(run, &t[1], row);
    const float *add = t[3].dtype ? npu_row(run, &t[3], row) : NULL;
    float *sum = t[4].dtype ? npu_row(run, &t[4], row) : NULL;
    double square = 0;
    for (uint64_t i = 0; i < d; i++) {
      const float s = x[i] + (add ? add[i] : 0);
      out[i] = s;
      square += (double)s * s;
    }
    const double scale = 1 / sqrt(square / (double)d + params->epsilon);
    for (uint64_t i = 0; i < d; i++) {
      const float s = out[i];
      if (sum) sum[i] = s;
      out[i] = (float)(s * scale * weight[i]);
    }
  }
}

void npu_rope(const npu_run *run, const cs_op *op) {
  const cs_tensor *t = op->operands;
  const cs_rope_params *params = op->params;
  const uint64_t n_heads = t[0].dims[1], head_dim = t[0].dims[2], n_pairs = params->n_rot / 2;
  const bool interleaved = params->mode == CS_ROPE_INTERLEAVED;
  const int32_t *positions = npu_row(run, &t[2], 0);
  const float *inv_freq = npu_row(run, &t[3], 0);
  for (uint64_t row = 0; row < t[0].dims[0]; row++)
    for (uint64_t head = 0; head < n_heads; head++) {
      float *out = (float *)npu_row(run, &t[0], row) + head * head_dim;
      const float *x = (const float *)npu_row(run, &t[1], row) + head * head_dim;
      for (uint64_t i = 0; i < n_pairs; i++) {
        const uint64_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + n_pairs;
        const double angle = (double)positions[row] * inv_freq[i];
        const double c = cos(angle) * params->magnitude, s = sin(angle) * params->magnitude;
        const double u = x[a], v = x[b];
        out[a] = (float)(u * c - v * s);
        out[b] = (float)(u * s + v * c);
      }
      if (out != x)
        memcpy(out + 2 * n_pairs, x + 2 * n_pairs, (head_dim - 2 * n_pairs) * sizeof *out);
    }
}

void npu_silu_mul(const npu_run *run, const cs_op *op) {
  const cs_tensor *t = op->operands;
  const uint64_t d = cs_sdk_tensor_columns(&t[0]);
  for (uint64_t row = 0; row < cs_sdk_tensor_rows(&t[0]); row++) {
    float *out = npu_row(run, &t[0], row);
    const float *gate = npu_row(run, &t[1], row), *up = npu_row(run, &t[2], row);
    for (uint64_t i = 0; i < d; i++)
      out[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
  }
}

void npu_add(const npu_run *run, const cs_op *op) {
  const cs_tensor *t = op->operands;
  const uint64_t d = cs_sdk_tensor_columns(&t[0]);
  for (uint64_t row = 0; row < cs_sdk_tensor_rows(&t[0]); row++) {
    float *out = npu_row(run, &t[0], row);
    const float *a = npu_row(run, &t[1], row), *b = npu_row(run, &t[2], row);
    for (uint64_t i = 0; i < d; i++)
      out[i] = a[i] + b[i];
  }
}

void npu_copy(const npu_run *run, const cs_op *op) {
  const cs_tensor *t = op->operands;
  const uint64_t d = cs_sdk_tensor_columns(&t[0]);
  for (uint64_t row = 0; row < cs_sdk_tensor_rows(&t[0]); row++)
    memcpy(npu_row(run, &t[0], row), npu_row(run, &t[1], row), d * sizeof(float));
}
