/* A KV plane bound to memory, whatever its layout. */
#ifndef CPU_KV_H
#define CPU_KV_H

#include "ops.h"

/* Element (block, token, head, j) lies at data + block * block_bytes + token * token_bytes +
 * head * head_bytes + j * element_bytes. */
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
  uint32_t dtype;
  bool contiguous; /* a head's elements of one token lie side by side */
} cpu_kv;

/* A cache plane of a served layout and dtype. */
bool cpu_check_kv(cs_op_answer *answer, const char *name, const cs_tensor *tensor);
cpu_kv cpu_kv_of(const cs_tensor *tensor);

static inline unsigned char *cpu_kv_at(const cpu_kv *kv, uint64_t block, uint64_t token,
                                       uint64_t head) {
  return kv->data + block * kv->block_bytes + token * kv->token_bytes + head * kv->head_bytes;
}

/* One head's `width` elements of one token, as float32, in and out. */
void cpu_kv_load(const cpu_kernels *kernels, const cpu_kv *kv, const unsigned char *from,
                 float *out);
void cpu_kv_store(const cpu_kernels *kernels, const cpu_kv *kv, unsigned char *to, const float *x);

#endif
