/* A block's error has no closed minimum, because the integers depend on the scale that depends on
 * them. Each search starts from a few scales around the one that spans the block's range and
 * alternates between the two halves that do have one: the integers nearest for a scale, and the
 * scale (and minimum) that fits these integers in the least-squares sense (Lloyd's iteration). The
 * scales are then rounded as the format stores them, and the integers chosen once more for what
 * will be read back. */
#include <math.h>
#include <string.h>

#include "consort/half.h"
#include "core/dtype.h"
#include "models/blocks.h"

#define SMALL   32
#define SUPER   256
#define N_TURNS 3

static const float starts[] = {1.0f, 0.92f, 0.84f, 0.76f, 1.06f};
#define N_STARTS (sizeof starts / sizeof starts[0])

static int clamp(int value, int least, int most) {
  return value < least ? least : value > most ? most : value;
}

/* Nearest integer, ties away from zero, of any float. */
static int nearest(float x, int least, int most) {
  if (!(x > (float)least)) return least;
  if (x >= (float)most) return most;
  return clamp((int)lrintf(x), least, most);
}

static float set_half(uint8_t *at, float value) {
  if (value > 65504.0f) value = 65504.0f;
  if (value < -65504.0f) value = -65504.0f;
  const uint16_t bits = cs_f16_from_f32(value);
  memcpy(at, &bits, sizeof bits);
  return cs_f32_from_f16(bits);
}

/* ---- one scale: x ~ scale * q, least <= q <= most ---------------------------------------- */

static float largest(const float *x, int n) {
  float found = 0;
  for (int i = 0; i < n; i++)
    if (fabsf(x[i]) > fabsf(found)) found = x[i];
  return found;
}

/* Error of the block at this scale; *better is the scale that suits its integers best. */
static float scale_error(const float *x, int n, float scale, int least, int most, float *better) {
  float error = 0, xq = 0, qq = 0;
  const float inverse = 1 / scale;
  for (int i = 0; i < n; i++) {
    const float q = (float)nearest(x[i] * inverse, least, most);
    error += (x[i] - scale * q) * (x[i] - scale * q);
    xq += x[i] * q;
    qq += q * q;
  }
  *better = qq > 0 ? xq / qq : scale;
  return error;
}

/* 0 for a block of zeros. A negative scale gives the wider side of the integers to the largest. */
static float find_scale(const float *x, int n, int least, int most) {
  const float extreme = largest(x, n);
  if (fabsf(extreme) < 1e-30f) return 0;
  float best = extreme / (float)least;
  float best_error = INFINITY;
  for (size_t s = 0; s < 2 * N_STARTS; s++) {
    const int side = s % 2 ? most : least;
    float scale = extreme / (float)side * starts[s / 2], better;
    for (int turn = 0; turn <= N_TURNS; turn++) {
      const float error = scale_error(x, n, scale, least, most, &better);
      if (error < best_error) {
        best_error = error;
        best = scale;
      }
      if (better == scale || better == 0 || !isfinite(1 / better)) break;
      scale = better;
    }
  }
  return best;
}

/* ---- a scale and a minimum: x ~ scale * q - minimum, 0 <= q <= most ---------------------- */

typedef struct fit {
  float scale;   /* > 0 */
  float minimum; /* >= 0 where the format has no sign for it */
} fit;

static float fit_error(const float *x, int n, fit f, int most, bool any_sign, fit *better) {
  double sx = 0, sq = 0, sxq = 0, sqq = 0;
  float error = 0;
  const float inverse = 1 / f.scale;
  for (int i = 0; i < n; i++) {
    const float q = (float)nearest((x[i] + f.minimum) * inverse, 0, most);
    const float off = x[i] - (f.scale * q - f.minimum);
    error += off * off;
    sx += x[i];
    sq += q;
    sxq += (double)x[i] * q;
    sqq += (double)q * q;
  }
  *better = f;
  const double spread = n * sqq - sq * sq;
  if (spread <= 0) return error;
  const double scale = (n * sxq - sx * sq) / spread;
  const double minimum = (scale * sq - sx) / n;
  if (any_sign || minimum >= 0)
    *better = (fit){(float)scale, (float)minimum};
  else if (sqq > 0)
    *better = (fit){(float)(sxq / sqq), 0};
  return error;
}

/* scale 0 for a block that is all one value of minimum's. */
static fit find_fit(const float *x, int n, int most, bool any_sign) {
  float low = x[0], high = x[0];
  for (int i = 1; i < n; i++) {
    low = fminf(low, x[i]);
    high = fmaxf(high, x[i]);
  }
  if (!any_sign) low = fminf(low, 0);
  if (high - low < 1e-30f) return (fit){0, -low};
  fit best = {(high - low) / (float)most, -low};
  float best_error = INFINITY;
  for (size_t s = 0; s < N_STARTS; s++) {
    const float middle = any_sign ? (low + high) / 2 : 0;
    fit f = {(high - low) * starts[s] / (float)most, -(middle + (low - middle) * starts[s])};
    for (int turn = 0; turn <= N_TURNS; turn++) {
      fit better;
      const float error = fit_error(x, n, f, most, any_sign, &better);
      if (error < best_error) {
        best_error = error;
        best = f;
      }
      if (!(better.scale > 0) || !isfinite(1 / better.scale)) break;
      f = better;
    }
  }
  return best;
}

/* ---- legacy formats ---------------------------------------------------------------------- */

static float inverse_of(float scale) {
  return scale != 0 ? 1 / scale : 0;
}

static void encode_q8_0(const float *x, uint8_t *to) {
  const float inverse = inverse_of(set_half(to, fabsf(largest(x, SMALL)) / 127));
  for (int i = 0; i < SMALL; i++)
    to[2 + i] = (uint8_t)(int8_t)nearest(x[i] * inverse, -127, 127);
}

static void set_nibble(uint8_t *bytes, int i, int value) {
  if (i < SMALL / 2)
    bytes[i] = (uint8_t)value;
  else
    bytes[i - SMALL / 2] |= (uint8_t)(value << 4);
}

static void encode_q4_0(const float *x, uint8_t *to) {
  const float inverse = inverse_of(set_half(to, find_scale(x, SMALL, -8, 7)));
  for (int i = 0; i < SMALL; i++)
    set_nibble(to + 2, i, nearest(x[i] * inverse, -8, 7) + 8);
}

static void encode_q5_0(const float *x, uint8_t *to) {
  const float inverse = inverse_of(set_half(to, find_scale(x, SMALL, -16, 15)));
  memset(to + 2, 0, 4);
  for (int i = 0; i < SMALL; i++) {
    const int q = nearest(x[i] * inverse, -16, 15) + 16;
    set_nibble(to + 6, i, q & 15);
    to[2 + i / 8] |= (uint8_t)(q >> 4 << i % 8);
  }
}

static void encode_q5_1(const float *x, uint8_t *to) {
  const fit f = find_fit(x, SMALL, 31, true);
  const float inverse = inverse_of(set_half(to, f.scale));
  const float offset = set_half(to + 2, -f.minimum);
  memset(to + 4, 0, 4);
  for (int i = 0; i < SMALL; i++) {
    const int q = nearest((x[i] - offset) * inverse, 0, 31);
    set_nibble(to + 8, i, q & 15);
    to[4 + i / 8] |= (uint8_t)(q >> 4 << i % 8);
  }
}

/* ---- K formats --------------------------------------------------------------------------- */

void cs_blocks_pack_scales(const uint8_t scales[8], const uint8_t minima[8], uint8_t packed[12]) {
  for (int i = 0; i < 4; i++) {
    packed[i] = (uint8_t)(scales[i] | scales[4 + i] >> 4 << 6);
    packed[4 + i] = (uint8_t)(minima[i] | minima[4 + i] >> 4 << 6);
    packed[8 + i] = (uint8_t)((scales[4 + i] & 15) | (minima[4 + i] & 15) << 4);
  }
}

/* Fills the head of a Q4_K or Q5_K block, and the integers. */
static void encode_k(const float *x, int most, uint8_t *head, uint8_t quants[SUPER]) {
  fit fits[8];
  uint8_t scales[8], minima[8];
  float scale = 0, minimum = 0;
  for (int b = 0; b < 8; b++) {
    fits[b] = find_fit(x + b * 32, 32, most, false);
    scale = fmaxf(scale, fits[b].scale);
    minimum = fmaxf(minimum, fits[b].minimum);
  }
  const float d = set_half(head, scale / 63), d_min = set_half(head + 2, minimum / 63);
  for (int b = 0; b < 8; b++) {
    scales[b] = (uint8_t)nearest(fits[b].scale * inverse_of(d), 0, 63);
    minima[b] = (uint8_t)nearest(fits[b].minimum * inverse_of(d_min), 0, 63);
    const float inverse = inverse_of(d * (float)scales[b]);
    const float offset = d_min * (float)minima[b];
    for (int i = b * 32; i < b * 32 + 32; i++)
      quants[i] = (uint8_t)nearest((x[i] + offset) * inverse, 0, most);
  }
  cs_blocks_pack_scales(scales, minima, head + 4);
}

static void encode_q4_k(const float *x, uint8_t *to) {
  uint8_t quants[SUPER];
  encode_k(x, 15, to, quants);
  for (int i = 0; i < SUPER / 2; i++)
    to[16 + i] = (uint8_t)(quants[i / 32 * 64 + i % 32] | quants[i / 32 * 64 + 32 + i % 32] << 4);
}

static void encode_q5_k(const float *x, uint8_t *to) {
  uint8_t quants[SUPER];
  encode_k(x, 31, to, quants);
  memset(to + 16, 0, 32);
  for (int i = 0; i < SUPER; i++)
    to[16 + i % 32] |= (uint8_t)(quants[i] >> 4 << i / 32);
  for (int i = 0; i < SUPER / 2; i++)
    to[48 + i] = (uint8_t)((quants[i / 32 * 64 + i % 32] & 15) |
                           (quants[i / 32 * 64 + 32 + i % 32] & 15) << 4);
}

static void encode_q6_k(const float *x, uint8_t *to) {
  float scales[16], widest = 0;
  for (int b = 0; b < 16; b++) {
    scales[b] = find_scale(x + b * 16, 16, -32, 31);
    if (fabsf(scales[b]) > fabsf(widest)) widest = scales[b];
  }
  memset(to, 0, 192);
  const float d = set_half(to + 208, widest / -128);
  for (int b = 0; b < 16; b++) {
    const int scale = nearest(scales[b] * inverse_of(d), -128, 127);
    const float inverse = inverse_of(d * (float)scale);
    to[192 + b] = (uint8_t)(int8_t)scale;
    for (int i = b * 16; i < b * 16 + 16; i++) {
      const int q = nearest(x[i] * inverse, -32, 31) + 32;
      const int half = i / 128, quarter = i % 128 / 32, at = i % 32;
      to[half * 64 + quarter % 2 * 32 + at] |= (uint8_t)((q & 15) << (quarter < 2 ? 0 : 4));
      to[128 + half * 32 + at] |= (uint8_t)(q >> 4 << quarter * 2);
    }
  }
}

typedef void (*encode_fn)(const float *x, uint8_t *to);

static const encode_fn encoders[CS_DTYPE_LIMIT] = {
    [CS_DTYPE_Q8_0] = encode_q8_0, [CS_DTYPE_Q4_0] = encode_q4_0, [CS_DTYPE_Q5_0] = encode_q5_0,
    [CS_DTYPE_Q5_1] = encode_q5_1, [CS_DTYPE_Q4_K] = encode_q4_k, [CS_DTYPE_Q5_K] = encode_q5_k,
    [CS_DTYPE_Q6_K] = encode_q6_k,
};

bool cs_blocks_can_encode(uint32_t dtype) {
  if (dtype >= CS_DTYPE_LIMIT) return false;
  return encoders[dtype] || dtype == CS_DTYPE_F32 || dtype == CS_DTYPE_F16 ||
         dtype == CS_DTYPE_BF16;
}

cs_status cs_blocks_encode(uint32_t dtype, const float *from, size_t n, void *to) {
  if (!cs_blocks_can_encode(dtype)) return CS_UNSUPPORTED;
  if (!encoders[dtype]) return cs_dtype_convert(dtype, to, CS_DTYPE_F32, from, n);
  const cs_dtype_info *info = cs_dtype_find(dtype);
  uint8_t *block = to;
  for (size_t i = 0; i < n; i += info->block_elements, block += info->block_bytes)
    encoders[dtype](from + i, block);
  return CS_OK;
}
