/* A KV plane bound to memory, whatever its layout. */
#ifndef CPU_KV_H
#define CPU_KV_H

#include "ops.h"

/* Element (block, token, head, j) lies at data + block * block_bytes + token * token_bytes +
 * head * head_bytes + j * element_bytes. An int8 plane (kv.h of the ABI) is never head-minor, so
 * its rows follow each other by width bytes, and their scales lie in the same order at scales_at of
 * the block. */
typedef struct cpu_kv {
  unsigned char *data;
  size_t block_bytes;
  size_t token_bytes;
  size_t head_bytes;
  size_t element_bytes;
  uint64_t n_blocks;
  uint64_t block_tokens;
  uint64_t n_heads;
  uint64_t width;
  size_t scales_at; /* 0: the dtype has none */
  uint32_t dtype;
  bool contiguous; /* a head's elements of one token lie side by side */
} cpu_kv;

/* One head of one token. */
typedef struct cpu_kv_row {
  unsigned char *data;
  float *scale; /* NULL where the dtype has none */
} cpu_kv_row;

/* A cache plane of a served layout and dtype. */
bool cpu_check_kv(cs_op_answer *answer, const char *name, const cs_tensor *tensor);
cpu_kv cpu_kv_of(const cs_tensor *tensor);

static inline unsigned char *cpu_kv_at(const cpu_kv *kv, uint64_t block, uint64_t token,
                                       uint64_t head) {
  return kv->data + block * kv->block_bytes + token * kv->token_bytes + head * kv->head_bytes;
}

/* The scale of a row; those of tokens that follow are cpu_kv_scale_step further. */
static inline float *cpu_kv_scale_at(const cpu_kv *kv, uint64_t block, uint64_t token,
                                     uint64_t head) {
  if (kv->scales_at == 0) return NULL;
  unsigned char *scales = kv->data + block * kv->block_bytes + kv->scales_at;
  return (float *)(void *)scales + (token * kv->token_bytes + head * kv->head_bytes) / kv->width;
}

static inline size_t cpu_kv_scale_step(const cpu_kv *kv) {
  return kv->token_bytes / kv->width;
}

static inline cpu_kv_row cpu_kv_row_at(const cpu_kv *kv, uint64_t block, uint64_t token,
                                       uint64_t head) {
  return (cpu_kv_row){cpu_kv_at(kv, block, token, head), cpu_kv_scale_at(kv, block, token, head)};
}

/* One head's `width` elements of one token, as float32, in and out. */
void cpu_kv_load(const cpu_kernels *kernels, const cpu_kv *kv, cpu_kv_row from, float *out);
void cpu_kv_store(const cpu_kernels *kernels, const cpu_kv *kv, cpu_kv_row to, const float *x);

#endif
