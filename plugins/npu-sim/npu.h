/* A simulated NPU, as unlike a GPU as the contract allows: recorded programs only, matmuls in int8
 * only, memory that the host cannot touch, KV blocks of 128 tokens with the head as the innermost
 * dimension. It is a test of the contract and of fallback, not of speed: kernels are plain loops.
 */
#ifndef NPU_H
#define NPU_H

#include <pthread.h>
#include <stdbool.h>

#include "consort/sdk_driver.h"

#define NPU_TENSOR_ALIGN 128
#define NPU_BLOCK_TOKENS 128
#define NPU_PAGE_BYTES   4096 /* allocations begin on pages, so that each can be shared alone */
#define NPU_GROUP        32   /* weights and activations that share a scale */
#define NPU_TILE_ROWS    16   /* rows of a weight that are packed together */
#define NPU_MAX_WIDTH    512  /* of a value head: what the accumulators hold */

/* ---- memory: memory.c ---- */

/* Device memory is one mapping that nobody may read or write, except while the device itself works
 * (npu_memory_open to npu_memory_close): a host pointer into it would trap. */
typedef struct npu_memory {
  const cs_host *host;
  unsigned char *base;
  uint64_t bytes;
  pthread_mutex_t mutex;
  uint32_t n_open;
  cs_plugin_memory *first; /* allocations, by offset */
  uint64_t taken_bytes;
} npu_memory;

struct cs_plugin_memory {
  uint64_t offset;
  uint64_t bytes; /* whole pages */
  int fd;         /* what its pages are shared through; -1: they are not */
  cs_plugin_memory *next;
};

cs_status npu_memory_init(npu_memory *memory, const cs_host *host, uint64_t bytes, cs_error *error);
void npu_memory_finish(npu_memory *memory);
cs_status npu_memory_take(npu_memory *memory, uint64_t bytes, cs_plugin_memory **out,
                          cs_error *error);
void npu_memory_give(npu_memory *memory, cs_plugin_memory *allocation);
/* May be called by several threads at once; counted. */
void npu_memory_open(npu_memory *memory);
void npu_memory_close(npu_memory *memory);

/* ---- device ---- */

struct cs_plugin_device {
  cs_sdk_device sdk;
  npu_memory memory;
};

extern const cs_memory_table npu_memory_table;
extern const cs_external_memory_table npu_external_table;
extern const cs_capability_table npu_capability_table;
extern const cs_sdk_driver npu_driver;

/* ---- ops ---- */

/* Where an op runs: the opened memory, and the workspace in it. */
typedef struct npu_run {
  unsigned char *base;
  unsigned char *workspace;
} npu_run;

/* A kernel. Operands were checked when the program was made. */
typedef void (*npu_kernel)(const npu_run *run, const cs_op *op);

/* Answers op_query; *kernel (may be NULL) is the one that runs the op. */
void npu_answer(const cs_op *op, cs_op_answer *answer, npu_kernel *kernel);

/* Bytes of a weight in the packed layout: for each tile of 16 rows and each group of 32 columns, 16
 * float32 scales, then 16 x 32 int8. Rows beyond the last are zero. */
uint64_t npu_packed_bytes(uint64_t n_out, uint64_t n_in);
/* Packs GGUF Q8_0 rows. */
void npu_pack(unsigned char *to, const unsigned char *from, uint64_t n_out, uint64_t n_in);

void npu_matmul(const npu_run *run, const cs_op *op);
void npu_rms_norm(const npu_run *run, const cs_op *op);
void npu_rope(const npu_run *run, const cs_op *op);
void npu_silu_mul(const npu_run *run, const cs_op *op);
void npu_add(const npu_run *run, const cs_op *op);
void npu_copy(const npu_run *run, const cs_op *op);
void npu_kv_write(const npu_run *run, const cs_op *op);
void npu_attention(const npu_run *run, const cs_op *op);
void npu_kv_gather(const npu_run *run, const cs_op *op);
void npu_kv_scatter(const npu_run *run, const cs_op *op);

/* The first byte of a row of an operand. */
static inline void *npu_row(const npu_run *run, const cs_tensor *tensor, uint64_t row) {
  return run->base + tensor->memory->offset + tensor->offset_bytes +
         row * cs_sdk_tensor_stride(tensor);
}

#endif
