/* Ops without a shape of their own: gated activations, add, copy, cast. */
#include "ops.h"

#include <math.h>
#include <string.h>

/* ---- silu_mul, gelu_mul, add ---- */

typedef void (*binary_kernel)(float *out, const float *a, const float *b, size_t n);

typedef struct binary_job {
  binary_kernel kernel;
  cpu_rows out;
  cpu_rows a;
  cpu_rows b;
} binary_job;

static bool check_binary(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *out = &op->operands[0];
  const uint64_t n = cs_sdk_tensor_rows(out), d = cs_sdk_tensor_columns(out);
  answer->error_class = CS_ERROR_F32;
  return cpu_check_plain(answer, "out", out, CS_DTYPE_F32) &&
         cpu_check_rows(answer, "the first input", &op->operands[1], CS_DTYPE_F32, n, d) &&
         cpu_check_rows(answer, "the second input", &op->operands[2], CS_DTYPE_F32, n, d);
}

static void binary_rows(void *context, uint64_t begin, uint64_t end) {
  const binary_job *job = context;
  for (uint64_t i = begin; i < end; i++)
    job->kernel(cpu_row_f32(&job->out, i), cpu_row_f32(&job->a, i), cpu_row_f32(&job->b, i),
                job->out.columns);
}

static cs_status run_binary(const cpu_run *run, const cs_op *op, binary_kernel kernel) {
  binary_job job = {.kernel = kernel,
                    .out = cpu_rows_of(&op->operands[0]),
                    .a = cpu_rows_of(&op->operands[1]),
                    .b = cpu_rows_of(&op->operands[2])};
  cpu_pool_for(run->pool, job.out.n, cpu_grain(job.out.columns * 8), binary_rows, &job);
  return CS_OK;
}

static cs_status run_silu_mul(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  return run_binary(run, op, run->kernels->silu_mul);
}

static cs_status run_add(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  return run_binary(run, op, run->kernels->add);
}

/* (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which loses nothing where tanh is near -1. */
static void gelu_mul(float *out, const float *gate, const float *up, size_t n) {
  const float two_sqrt_2_over_pi = 1.5957691f;
  for (size_t i = 0; i < n; i++) {
    const float g = gate[i];
    out[i] = g / (1 + expf(-two_sqrt_2_over_pi * (g + 0.044715f * g * g * g))) * up[i];
  }
}

static cs_status run_gelu_mul(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  return run_binary(run, op, gelu_mul);
}

const cpu_op_entry cpu_op_silu_mul = {.check = check_binary, .run = run_silu_mul};
const cpu_op_entry cpu_op_gelu_mul = {.check = check_binary, .run = run_gelu_mul};
const cpu_op_entry cpu_op_add = {.check = check_binary, .run = run_add};

/* ---- copy and cast ---- */

#define CAST_PIECE 256

typedef struct cast_job {
  const cpu_kernels *kernels;
  cpu_rows out;
  cpu_rows x;
  size_t row_bytes;
  uint32_t out_dtype;
  uint32_t x_dtype;
} cast_job;

static bool check_copy(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *out = &op->operands[0], *x = &op->operands[1];
  answer->error_class = CS_ERROR_EXACT;
  return cpu_check_rows(answer, "out", out, x->dtype, cs_sdk_tensor_rows(x),
                        cs_sdk_tensor_columns(x)) &&
         cpu_check_plain(answer, "x", x, out->dtype);
}

static void copy_rows(void *context, uint64_t begin, uint64_t end) {
  const cast_job *job = context;
  for (uint64_t i = begin; i < end; i++)
    memmove(job->out.data + i * job->out.stride, job->x.data + i * job->x.stride, job->row_bytes);
}

static cs_status run_copy(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  cast_job job = {.out = cpu_rows_of(&op->operands[0]), .x = cpu_rows_of(&op->operands[1])};
  job.row_bytes = cs_sdk_dtype_bytes(op->operands[1].dtype, job.x.columns);
  cpu_pool_for(run->pool, job.x.n, cpu_grain(job.row_bytes), copy_rows, &job);
  return CS_OK;
}

static bool check_cast(const cs_plugin_device *device, const cs_op *op, cs_op_answer *answer) {
  (void)device;
  const cs_tensor *out = &op->operands[0], *x = &op->operands[1];
  if (!cpu_is_float(out->dtype) || !cpu_is_float(x->dtype))
    return cpu_no(answer, "cast from dtype %u to %u", x->dtype, out->dtype);
  answer->error_class = CS_ERROR_EXACT;
  return cpu_check_plain(answer, "x", x, x->dtype) &&
         cpu_check_rows(answer, "out", out, out->dtype, cs_sdk_tensor_rows(x),
                        cs_sdk_tensor_columns(x));
}

/* Every pair goes through float32, which holds both 16-bit formats exactly. */
static void cast_rows(void *context, uint64_t begin, uint64_t end) {
  const cast_job *job = context;
  const size_t out_bytes = cpu_float_bytes(job->out_dtype), x_bytes = cpu_float_bytes(job->x_dtype);
  float piece[CAST_PIECE];
  for (uint64_t i = begin; i < end; i++)
    for (uint64_t j = 0; j < job->x.columns; j += CAST_PIECE) {
      const size_t left = job->x.columns - j, n = left < CAST_PIECE ? left : CAST_PIECE;
      job->kernels->to_f32[cpu_float_index(job->x_dtype)](
          piece, job->x.data + i * job->x.stride + j * x_bytes, n);
      job->kernels->from_f32[cpu_float_index(job->out_dtype)](
          job->out.data + i * job->out.stride + j * out_bytes, piece, n);
    }
}

static cs_status run_cast(const cpu_run *run, const cs_op *op, cs_error *error) {
  (void)error;
  cast_job job = {.kernels = run->kernels,
                  .out = cpu_rows_of(&op->operands[0]),
                  .x = cpu_rows_of(&op->operands[1]),
                  .out_dtype = op->operands[0].dtype,
                  .x_dtype = op->operands[1].dtype};
  cpu_pool_for(run->pool, job.x.n, cpu_grain(job.x.columns * 4), cast_rows, &job);
  return CS_OK;
}

const cpu_op_entry cpu_op_copy = {.check = check_copy, .run = run_copy};
const cpu_op_entry cpu_op_cast = {.check = check_cast, .run = run_cast};
