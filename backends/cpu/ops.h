/* How one operation is checked and run. Every op is an entry of two functions; execute.c finds it
 * by id. `check` sees descriptors only (memory may be NULL) and is the whole truth about what is
 * served: it answers op_query, and is asked again before anything is enqueued. */
#ifndef CPU_OPS_H
#define CPU_OPS_H

#include "cpu.h"

typedef struct cpu_run {
  cs_plugin_device *device;
  const cpu_kernels *kernels;
  cpu_pool *pool;
  unsigned char *workspace; /* at least what the check answered */
} cpu_run;

typedef struct cpu_op_entry {
  /* False with answer->reason set when the op is not served; else fills error class and
   * workspace. */
  bool (*check)(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer);
  /* Runs on the stream's thread with the device's turn. */
  cs_status (*run)(const cpu_run *run, const cs_op *op, cs_error *error);
} cpu_op_entry;

extern const cpu_op_entry cpu_op_gather_rows, cpu_op_rms_norm, cpu_op_matmul, cpu_op_rope,
    cpu_op_kv_write, cpu_op_attention_paged, cpu_op_silu_mul, cpu_op_add, cpu_op_copy, cpu_op_cast,
    cpu_op_argmax, cpu_op_gelu_mul, cpu_op_top_k, cpu_op_moe_route, cpu_op_moe_matmul,
    cpu_op_moe_combine, cpu_op_kv_gather, cpu_op_kv_scatter, cpu_op_kv_copy_blocks;

/* ---- matmuls of a list ---- */

/* How many ops from ops[0], a matmul, on take the same x and may run as one. On
 * several nodes none may: a joint loop would deal its items to threads far from their memory. */
uint32_t cpu_matmul_siblings(const cs_plugin_device *device, const cs_op *ops, uint32_t n_ops);
/* Runs them. */
void cpu_matmul_run(const cpu_run *run, const cs_op *ops, uint32_t n_ops);
/* Tells the pool what the loop of ops[0], a matmul, and its siblings will read first. */
void cpu_matmul_expect(const cpu_run *run, const cs_op *ops, uint32_t n_ops);

/* ---- checks: each says no with a reason and returns false ---- */

bool cpu_no(cs_op_answer *answer, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A plain tensor of this dtype, any rank. */
bool cpu_check_plain(cs_op_answer *answer, const char *name, const cs_tensor *tensor,
                     uint32_t dtype);
/* Plain, of this dtype, with these rows and elements a row. */
bool cpu_check_rows(cs_op_answer *answer, const char *name, const cs_tensor *tensor, uint32_t dtype,
                    uint64_t rows, uint64_t columns);
/* Plain, of this dtype, rank 1 with n elements. */
bool cpu_check_vector(cs_op_answer *answer, const char *name, const cs_tensor *tensor,
                      uint32_t dtype, uint64_t n);

static inline bool cpu_present(const cs_tensor *tensor) {
  return tensor->dtype != CS_DTYPE_NONE;
}

static inline bool cpu_is_float(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 || dtype == CS_DTYPE_F16 || dtype == CS_DTYPE_BF16;
}

/* Index of a float dtype into the kernels' tables. */
static inline uint32_t cpu_float_index(uint32_t dtype) {
  return dtype - CS_DTYPE_F32;
}

static inline size_t cpu_float_bytes(uint32_t dtype) {
  return dtype == CS_DTYPE_F32 ? 4 : 2;
}

/* What a KV plane or a wire may be. */
static inline bool cpu_is_kv(uint32_t dtype) {
  return cpu_is_float(dtype) || dtype == CS_DTYPE_F8_E4M3 || dtype == CS_DTYPE_I8;
}

/* Index of such a dtype into the tables of CPU_N_KV. */
static inline uint32_t cpu_kv_index(uint32_t dtype) {
  return dtype == CS_DTYPE_I8 ? 4 : dtype == CS_DTYPE_F8_E4M3 ? 3 : cpu_float_index(dtype);
}

static inline size_t cpu_kv_bytes(uint32_t dtype) {
  return cpu_is_float(dtype) ? cpu_float_bytes(dtype) : 1;
}

/* ---- operands bound to memory ---- */

typedef struct cpu_rows {
  char *data;
  size_t stride; /* bytes from row to row */
  uint64_t n;
  uint64_t columns;
} cpu_rows;

cpu_rows cpu_rows_of(const cs_tensor *tensor);

static inline float *cpu_row_f32(const cpu_rows *rows, uint64_t i) {
  return (float *)(void *)(rows->data + i * rows->stride);
}

static inline int32_t *cpu_row_i32(const cpu_rows *rows, uint64_t i) {
  return (int32_t *)(void *)(rows->data + i * rows->stride);
}

/* How many rows of this many bytes are worth a hand-over to another thread. */
static inline uint64_t cpu_grain(uint64_t row_bytes) {
  const uint64_t piece_bytes = 32768;
  return row_bytes >= piece_bytes ? 1 : piece_bytes / (row_bytes ? row_bytes : 1);
}

#endif
