/* The inner loops, one table an instruction set. All tables compute the same formulas over the same
 * memory layouts; which one a device uses is chosen when it is opened. */
#ifndef CPU_KERNELS_H
#define CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blocks.h"

/* Float formats by index: CS_DTYPE_F32, F16, BF16 in this order. */
#define CPU_N_FLOATS 3
/* KV formats by index: those, then CS_DTYPE_F8_E4M3 and I8, whose elements are taken as whole
 * numbers: who calls brings in the scales. */
#define CPU_N_KV 5

/* Matmul tiles: a panel of up to 12 rows of x against a panel of 16 rows (columns of the result)
 * of weights. */
#define CPU_PANEL_ROWS 12

/* Score tiles: up to 6 query vectors against 4 keys. */
#define CPU_SCORE_ROWS 6
#define CPU_SCORE_KEYS 4

/* Rows of attention weights that share a pass over V. */
#define CPU_MIX_ROWS 4

/* Attention of many queries as two matmuls a tile of keys; attention_many.c says how. A group is 16
 * queries, the lanes of a vector; n keys are a multiple of CPU_FORM_KEYS, at most a tile of
 * CPU_FORM_TILE. Packed forms are the form's own: queries take (width + CPU_FORM_EXTRA) x 16 floats
 * of memory at most, keys and values of a tile CPU_FORM_TILE x (width + 15) each. */
#define CPU_FORM_KEYS  8
#define CPU_FORM_TILE  64
#define CPU_FORM_EXTRA 3

struct cpu_kernels;
typedef struct cpu_attention_form {
  float unit; /* scores are in powers of e to this: 1, or log2(e) for powers of 2 */
  /* rows (n, width), at most 16: one group. Lanes past n are zero. `exact`, here and below: keys
   * are bf16 numbers. */
  void (*pack_queries)(const float *rows, size_t n, size_t width, bool exact, float *out);
  /* rows (CPU_FORM_TILE, width), zero past n. */
  void (*pack_keys)(const struct cpu_kernels *kernels, const float *rows, size_t n, size_t width,
                    bool exact, float *out);
  void (*pack_values)(const float *rows, size_t n, size_t width, float *out);
  /* scores(n, 16) = keys * q */
  void (*score)(const struct cpu_kernels *kernels, const float *q, const float *keys, size_t n,
                size_t width, bool exact, float *scores);
  /* One step of 16 online softmaxes: turns scores into weights, the form's own, relative to
   * largest[16], which it raises where it must; adds them to total[16]. False: nothing was raised;
   * else what was summed before has to be scaled by shrink[16], as total was. A score of -INFINITY
   * counts for nothing. */
  bool (*soften)(const struct cpu_kernels *kernels, float *scores, size_t n, float *largest,
                 float *total, float *shrink);
  float (*weight)(const float *scores, size_t key, size_t lane);
  /* sums(width, 16) += transpose(values) * weights; sums has rows up to a multiple of 16. */
  void (*mix)(const struct cpu_kernels *kernels, const float *values, const float *scores, size_t n,
              size_t width, float *sums);
} cpu_attention_form;

typedef struct cpu_kernels {
  const char *name;
  const cpu_block_kernels *blocks;

  /* out[r * 16 + c] += sum over i of panel[i * rows + r] * weights[i * 16 + c]; weights in the
   * indexed float format. The order of summation does not depend on rows. */
  void (*float_tile[CPU_N_FLOATS])(uint32_t rows, const float *panel, const void *weights, size_t n,
                                   float *out);

  /* As float_tile, for f16 and bf16 weights against x rounded to bf16, in pairs: panel[i * rows +
   * r] holds elements 2i and 2i + 1. NULL where the table has none; see cpu_kernels_have_bf16. */
  void (*bf16_tile[2])(uint32_t rows, const uint32_t *panel, const uint16_t *weights,
                       size_t n_pairs, float *out);

  /* Products of bf16 pairs, for machines that can run bf16_tile; NULL where the table has none. */
  const cpu_attention_form *bf16_attention;

  /* out[r * 4 + c] = sum over i of q[r][i] * k[c][i]; rows 1 to 6, always 4 keys, k[c] at
   * k + c * k_stride_bytes in the indexed KV format. */
  void (*score_tile[CPU_N_KV])(uint32_t rows, const float *const *q, const void *k,
                               size_t k_stride_bytes, size_t n, float *out);

  /* out[r][j] += sum over t of p[r * p_stride + t] * v[t][j]; rows 1 to 4, out rows out_stride
   * floats apart, v[t] at v + t * v_stride_bytes in the indexed KV format. */
  void (*mix_tile[CPU_N_KV])(uint32_t rows, const float *p, size_t p_stride, size_t n_tokens,
                             const void *v, size_t v_stride_bytes, size_t width, float *out,
                             size_t out_stride);

  /* out[i * 8 + r] = x[r * stride + i] for 8 rows and i < n. */
  void (*transpose8)(const float *x, size_t stride, size_t n, float *out);
  /* One step of 16 online softmaxes over scores (n, 16): raises largest[16], turns scores into
   * exp(score - largest), adds them to total[16], scaled before by shrink[16] = exp(the old largest
   * - the new). A score of -INFINITY counts for nothing. */
  bool (*soften)(float *scores, size_t n, float *largest, float *total, float *shrink);

  /* The verification sum of n whole words, the first of which has this index. */
  uint64_t (*word_sum)(const unsigned char *bytes, uint64_t first, size_t n);

  /* x[i] = exp(x[i] - shift); returns the sum. */
  float (*exp_sum)(float *x, size_t n, float shift);
  void (*silu_mul)(float *out, const float *gate, const float *up, size_t n);
  void (*add)(float *out, const float *a, const float *b, size_t n);
  double (*sum_squares)(const float *x, size_t n);
  /* out = x * scale * weight */
  void (*scale_mul)(float *out, const float *x, float scale, const float *weight, size_t n);
  void (*to_f32[CPU_N_KV])(float *out, const void *x, size_t n);
  void (*from_f32[CPU_N_KV - 1])(void *out, const float *x, size_t n); /* not to I8 */
} cpu_kernels;

extern const cpu_kernels cpu_kernels_generic;
extern const cpu_kernels cpu_kernels_avx2;
extern const cpu_kernels cpu_kernels_avx2vnni, cpu_kernels_avx2vnni_evex; /* blocks_avx2vnni.c */
extern const cpu_kernels cpu_kernels_avx512;
extern const cpu_kernels cpu_kernels_neon, cpu_kernels_neon_dotprod, cpu_kernels_neon_i8mm;

/* Of the tables avx512 and neon-i8mm, for processors that have dot products of bf16, too. */
void cpu_bf16_tile_f16(uint32_t rows, const uint32_t *panel, const uint16_t *weights,
                       size_t n_pairs, float *out);
void cpu_bf16_tile_bf16(uint32_t rows, const uint32_t *panel, const uint16_t *weights,
                        size_t n_pairs, float *out);

extern const cpu_attention_form cpu_bf16_attention;

/* Whether the table's bf16_tile exists and this machine can run it. */
bool cpu_kernels_have_bf16(const cpu_kernels *kernels);

/* The fastest table this machine can run, or the named one (docs/cpu.md); NULL when the name is
 * unknown or the machine cannot run it. */
const cpu_kernels *cpu_kernels_find(const char *name);

/* The names that this machine can run, best first, with commas, into bytes > 0. */
void cpu_kernels_names(char *to, size_t bytes);

#endif
