/* Weights in blocks with a scale, GGUF's formats: how a panel of 16 columns holds them, and the
 * inner loops over them, one table an instruction set.
 *
 * A weight is scale * quant - scale * zero, or scale * quant + min; quants are unsigned. A panel is
 * a row of groups: the quants of some blocks (32 elements of 16 columns), then their scales, padded
 * to cache lines. So a panel is one stream of bytes, which is what a single row of x needs to read
 * at the memory's rate. Word j of column c is its elements 4j to 4j + 3; a vector is one word of
 * all columns, 64 bytes. A block of
 *   8 bits        8 vectors, one a word
 *   4, 5, 6 bits  4 vectors: words 0 to 3 in low nibbles, 4 to 7 in high nibbles; then
 *   5 bits        a vector whose byte bits j are the fifth bits of word j
 *   6 bits        two vectors, words 0 to 3 and 4 to 7, whose bits 2(j % 4), 2(j % 4) + 1 are the
 *                 upper bits of word j
 * For the scales see cpu_scales; a last group that is not full ends in zeros. */
#ifndef CPU_BLOCKS_H
#define CPU_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CPU_PANEL_COLUMNS 16
#define CPU_BLOCK         32 /* elements of a block */
#define CPU_SUPER         8  /* blocks of a K format that share two factors */

/* Formats by index. */
enum {
  CPU_Q8_0,
  CPU_Q4_0,
  CPU_Q4_1,
  CPU_Q5_0,
  CPU_Q5_1,
  CPU_Q4_K,
  CPU_Q5_K,
  CPU_Q6_K,
  CPU_N_BLOCK_FORMATS,
};

/* The scales of a group. */
typedef enum cpu_scales {
  CPU_SCALES_F16,     /* 2 blocks: f16 scale[2][16] */
  CPU_SCALES_F16_MIN, /* 1 block: f16 scale[16], f16 min[16] */
  /* 8 blocks: f16 d[16], f16 d_min[16], u8 s[8][16], u8 m[8][16]; scale d * s, min -d_min * m */
  CPU_SCALES_K,
  /* 8 blocks: f16 d[16], i8 s[16][16]; scale d * s of each half of a block */
  CPU_SCALES_HALVES,
} cpu_scales;

typedef struct cpu_block_format {
  uint32_t dtype;
  uint32_t bits;
  cpu_scales scales;
  uint32_t file_blocks; /* blocks of 32 in one of the file's */
} cpu_block_format;

extern const cpu_block_format cpu_block_formats[CPU_N_BLOCK_FORMATS];

/* The index of a dtype, or CPU_N_BLOCK_FORMATS for one that is not a block format. */
uint32_t cpu_block_index(uint32_t dtype);

static inline bool cpu_is_block(uint32_t dtype) {
  return cpu_block_index(dtype) < CPU_N_BLOCK_FORMATS;
}

/* Bytes of one block's quants in a panel. */
static inline size_t cpu_quant_bytes(uint32_t bits) {
  return bits == 8 ? 512 : 256 + (bits - 4) * 64;
}

static inline size_t cpu_group_blocks(cpu_scales scales) {
  if (scales == CPU_SCALES_F16) return 2;
  return scales == CPU_SCALES_F16_MIN ? 1 : CPU_SUPER;
}

/* Where in a group its scales begin, and the bytes that they take with their padding. */
static inline size_t cpu_group_scales(uint32_t bits, cpu_scales scales) {
  return cpu_group_blocks(scales) * cpu_quant_bytes(bits);
}
static inline size_t cpu_scale_bytes(cpu_scales scales) {
  return scales == CPU_SCALES_F16 || scales == CPU_SCALES_F16_MIN ? 64 : 320;
}

/* Bytes of n_blocks blocks of a panel. */
static inline size_t cpu_blocks_bytes(uint32_t bits, cpu_scales scales, size_t n_blocks) {
  const size_t group = cpu_group_blocks(scales);
  return (n_blocks + group - 1) / group *
         (cpu_group_scales(bits, scales) + cpu_scale_bytes(scales));
}

/* ---- activations ---- */

/* What a panel of quantized activations says of a block beside its quants and scale. */
typedef enum cpu_x_extra {
  CPU_X_START,  /* int32: -offset * sum(q), which undoes the offset of unsigned weights */
  CPU_X_STARTS, /* int32[2]: the same for each half of the block */
  CPU_X_SUM,    /* float: scale * sum(q), which meets the minima */
  /* One scale for 8 blocks, whose quants come first; then for all 8 blocks: */
  CPU_X_SUPER_SUMS,   /* int16[8]: sum(q) of each block, which meet the minima */
  CPU_X_SUPER_STARTS, /* int32[16]: as CPU_X_STARTS */
} cpu_x_extra;

static inline cpu_x_extra cpu_x_extra_of(cpu_scales scales) {
  if (scales == CPU_SCALES_HALVES) return CPU_X_STARTS;
  return scales == CPU_SCALES_F16 ? CPU_X_START : CPU_X_SUM;
}

/* What is taken from a quant before it meets its scale: half its range where there are no minima.
 */
static inline int32_t cpu_block_zero(uint32_t bits, cpu_scales scales) {
  return cpu_x_extra_of(scales) == CPU_X_SUM ? 0 : 1 << (bits - 1);
}

static inline bool cpu_x_is_super(cpu_x_extra extra) {
  return extra == CPU_X_SUPER_SUMS || extra == CPU_X_SUPER_STARTS;
}

/* A panel of `rows` quantized rows: for each block int8_t q[rows][32]; float scale[rows]; then the
 * extra, 4 bytes [rows], or [2][rows] for two starts. */
static inline size_t cpu_x_block_bytes(cpu_x_extra extra, size_t rows) {
  return rows * (CPU_BLOCK + (extra == CPU_X_STARTS ? 12 : 8));
}

/* The same for each 8 blocks under one scale: int8_t q[8][rows][32]; float scale[rows]; then the
 * extra, int16_t[4][rows][2] sums or int32_t[16][rows] starts. */
static inline size_t cpu_x_super_bytes(cpu_x_extra extra, size_t rows) {
  return rows * (CPU_SUPER * CPU_BLOCK + 4 + (extra == CPU_X_SUPER_SUMS ? 16 : 64));
}

/* Bytes of the first n_blocks blocks of a panel of x. */
static inline size_t cpu_x_bytes(cpu_x_extra extra, size_t rows, size_t n_blocks) {
  if (cpu_x_is_super(extra)) return n_blocks / CPU_SUPER * cpu_x_super_bytes(extra, rows);
  return n_blocks * cpu_x_block_bytes(extra, rows);
}

/* Writes what follows a block's quants for row `row`, from the sums of its halves' quants. */
static inline void cpu_x_finish(char *block, uint32_t row, uint32_t rows, float scale, int32_t low,
                                int32_t high, cpu_x_extra extra, int32_t offset) {
  char *at = block + (size_t)rows * CPU_BLOCK + (size_t)row * 4;
  const size_t step = (size_t)rows * 4;
  const float sum = scale * (float)(low + high);
  const int32_t start = -offset * (extra == CPU_X_START ? low + high : low);
  const int32_t second = -offset * high;
  memcpy(at, &scale, 4);
  if (extra == CPU_X_SUM)
    memcpy(at + step, &sum, 4);
  else
    memcpy(at + step, &start, 4);
  if (extra == CPU_X_STARTS) memcpy(at + 2 * step, &second, 4);
}

typedef struct cpu_block_kernels {
  int32_t offset[CPU_N_BLOCK_FORMATS]; /* of the tiles' weights, for quantize_row */
  bool has_super;                      /* tiles of K formats take x in the CPU_X_SUPER forms */

  /* Quantizes row `row` of a panel of `rows`. What shares a scale with NaN or infinity gets the
   * scale NaN. */
  void (*quantize_row)(const float *x, size_t n_blocks, uint32_t row, uint32_t rows,
                       cpu_x_extra extra, int32_t offset, void *panel);

  /* Adds to out[r * 16 + c] for a panel of x, up to 12 rows, and one of weights, or for whole
   * groups of both. */
  void (*tile[CPU_N_BLOCK_FORMATS])(uint32_t rows, const void *panel, const void *weights,
                                    size_t n_blocks, float *out);

  /* The values of a panel of weights, or of whole groups of it: out[i * 16 + c] for 32 * n_blocks
   * elements i. */
  void (*floats[CPU_N_BLOCK_FORMATS])(const void *weights, size_t n_blocks, float *out);
} cpu_block_kernels;

/* What the table's tiles of a format expect. */
static inline cpu_x_extra cpu_x_extra_for(const cpu_block_kernels *kernels, cpu_scales scales) {
  if (kernels->has_super && scales == CPU_SCALES_K) return CPU_X_SUPER_SUMS;
  if (kernels->has_super && scales == CPU_SCALES_HALVES) return CPU_X_SUPER_STARTS;
  return cpu_x_extra_of(scales);
}

extern const cpu_block_kernels cpu_blocks_generic;
extern const cpu_block_kernels cpu_blocks_avx2;
extern const cpu_block_kernels cpu_blocks_avx2vnni, cpu_blocks_avx2vnni_evex;
extern const cpu_block_kernels cpu_blocks_avx512;
extern const cpu_block_kernels cpu_blocks_neon, cpu_blocks_neon_dotprod, cpu_blocks_neon_i8mm;

/* X(name, index, bits, scales): every format, for tables. */
#define CPU_BLOCK_TABLE(X)                                                                         \
  X(q8_0, CPU_Q8_0, 8, CPU_SCALES_F16)                                                             \
  X(q4_0, CPU_Q4_0, 4, CPU_SCALES_F16)                                                             \
  X(q4_1, CPU_Q4_1, 4, CPU_SCALES_F16_MIN)                                                         \
  X(q5_0, CPU_Q5_0, 5, CPU_SCALES_F16)                                                             \
  X(q5_1, CPU_Q5_1, 5, CPU_SCALES_F16_MIN)                                                         \
  X(q4_k, CPU_Q4_K, 4, CPU_SCALES_K)                                                               \
  X(q5_k, CPU_Q5_K, 5, CPU_SCALES_K)                                                               \
  X(q6_k, CPU_Q6_K, 6, CPU_SCALES_HALVES)

/* ---- packing ---- */

/* Writes one file block of a row, block `first` on, into column c of a panel whose bytes are zero.
 */
void cpu_block_pack(const cpu_block_format *format, const unsigned char *file_block, size_t first,
                    uint32_t c, unsigned char *panel);
/* The 32 values of column c of a block, from its quants and the scales of its group, of which it is
 * block b. */
void cpu_block_column(uint32_t bits, cpu_scales kind, const void *quants, const void *scales,
                      size_t b, uint32_t c, float *out);
/* The same of block b of a panel. */
void cpu_block_values(const cpu_block_format *format, const unsigned char *panel, size_t b,
                      uint32_t c, float *out);

/* Quant of element i of column c in one block; scale and min of block b of a group. */
int32_t cpu_block_quant(uint32_t bits, const unsigned char *quants, uint32_t c, uint32_t i);
float cpu_block_scale(cpu_scales kind, const unsigned char *scales, size_t b, uint32_t c,
                      uint32_t half);
float cpu_block_min(cpu_scales kind, const unsigned char *scales, size_t b, uint32_t c);

#endif
