/* A libcublasLt.so.13 for tests: the dozen calls that the plugin makes, computed on the CPU when
 * the fake driver's stream comes to them. It refuses what the real library refuses, and an
 * algorithm that was chosen for another shape. CONSORT_FAKE_CUDA (driver.cpp) breaks it:
 *   blas_create  what cublasLtCreate answers   blas_none  no algorithm is found
 *   blas_matmul  this cublasLtMatmul fails     fp8_none   no algorithm for FP8 is found */
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "consort/half.h"

#include "blas_api.h"
#include "setting.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

enum { NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };

extern "C" int fakeEnqueue(void *stream, void (*run)(const void *), const void *data, size_t bytes);

namespace {

std::atomic<long> n_live{0}, n_matmuls{0}, n_fp8{0}, n_asked{0};

struct desc {
  int transpose_a = 0, epilogue = 1;
  const float *bias = nullptr;
  const float *scale_a = nullptr, *scale_b = nullptr; /* of FP8; 1 where none is given */
};

struct layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};

struct preference {
  uint64_t workspace = 0;
  uint32_t align[4] = {256, 256, 256, 256};
};

/* d(m, n) = scales transpose(a(k, m)) b(k, n) + bias + beta c, column-major. */
struct product {
  layout a, b, c, d;
  const void *a_data, *b_data;
  const float *c_data, *bias, *scale_a, *scale_b;
  float *d_data;
  float beta;
  void *workspace;
};

double element(const layout &l, const void *data, uint64_t row, uint64_t column) {
  const uint64_t at = column * uint64_t(l.ld) + row;
  if (l.type == BLAS_F8_E4M3) return cs_f32_from_e4m3(static_cast<const uint8_t *>(data)[at]);
  const uint16_t bits = static_cast<const uint16_t *>(data)[at];
  return l.type == BLAS_F16 ? cs_f32_from_f16(bits) : cs_f32_from_bf16(bits);
}

void multiply(const void *from) {
  product p;
  memcpy(&p, from, sizeof p);
  memset(p.workspace, 0xa5, 4096); /* it is the call's to write */
  const double scale = double(p.scale_a ? *p.scale_a : 1) * double(p.scale_b ? *p.scale_b : 1);
  for (uint64_t j = 0; j < p.d.columns; j++)
    for (uint64_t i = 0; i < p.d.rows; i++) {
      double sum = 0;
      for (uint64_t k = 0; k < p.a.rows; k++)
        sum += element(p.a, p.a_data, k, i) * element(p.b, p.b_data, k, j);
      sum = sum * scale + (p.bias ? p.bias[i] : 0);
      if (p.beta != 0) sum += p.beta * p.c_data[j * uint64_t(p.c.ld) + i];
      p.d_data[j * uint64_t(p.d.ld) + i] = float(sum);
    }
}

/* FP8: whole 16 elements in the directions that tensor cores take, no bias in float32. */
bool fits_fp8(const desc &what, const layout &a) {
  return a.type != BLAS_F8_E4M3 || (what.epilogue != BLAS_EPILOGUE_BIAS && a.rows % 16 == 0 &&
                                    a.columns % 16 == 0 && a.ld % 16 == 0);
}

bool fits(const desc &what, const layout &a, const layout &b, const layout &c, const layout &d) {
  return what.transpose_a == BLAS_TRANSPOSE && a.type == b.type && a.type != BLAS_F32 &&
         c.type == BLAS_F32 && d.type == BLAS_F32 && a.rows == b.rows && a.columns == d.rows &&
         b.columns == d.columns && c.rows == d.rows && c.columns == d.columns &&
         a.ld >= int64_t(a.rows) && b.ld >= int64_t(b.rows) && c.ld >= int64_t(c.rows) &&
         d.ld >= int64_t(d.rows) && a.ld % 8 == 0 && b.ld % 8 == 0 && fits_fp8(what, a);
}

} // namespace

/* Handles, descriptors, layouts and preferences that have not been destroyed. */
EXPORT long fakeBlasLiveObjects() {
  return n_live;
}

/* Products that ran or were recorded, those among them in FP8, and algorithms asked for, since the
 * last question. */
EXPORT long fakeBlasMatmuls() {
  return n_matmuls.exchange(0);
}
EXPORT long fakeBlasFp8() {
  return n_fp8.exchange(0);
}
EXPORT long fakeBlasQuestions() {
  return n_asked.exchange(0);
}

EXPORT int cublasLtCreate(void **handle) {
  const int code = int(setting("blas_create", BLAS_SUCCESS));
  if (code != BLAS_SUCCESS) return code;
  *handle = new int(0);
  n_live++;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtDestroy(void *handle) {
  delete static_cast<int *>(handle);
  n_live--;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatmulDescCreate(void **out, int compute, int scale) {
  if (compute != BLAS_COMPUTE_F32 || scale != BLAS_F32) return NOT_SUPPORTED;
  *out = new desc;
  n_live++;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatmulDescDestroy(void *what) {
  delete static_cast<desc *>(what);
  n_live--;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatmulDescSetAttribute(void *to, int attribute, const void *value,
                                          size_t bytes) {
  auto *what = static_cast<desc *>(to);
  if (bytes == sizeof(int) && attribute == BLAS_DESC_TRANSPOSE_A)
    memcpy(&what->transpose_a, value, bytes);
  else if (bytes == sizeof(int) && attribute == BLAS_DESC_EPILOGUE)
    memcpy(&what->epilogue, value, bytes);
  else if (bytes == sizeof(void *) && attribute == BLAS_DESC_BIAS)
    memcpy(&what->bias, value, bytes);
  else if (bytes == sizeof(void *) && attribute == BLAS_DESC_SCALE_A)
    memcpy(&what->scale_a, value, bytes);
  else if (bytes == sizeof(void *) && attribute == BLAS_DESC_SCALE_B)
    memcpy(&what->scale_b, value, bytes);
  else
    return INVALID_VALUE;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatrixLayoutCreate(void **out, int type, uint64_t rows, uint64_t columns,
                                      int64_t ld) {
  *out = new layout{type, rows, columns, ld};
  n_live++;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatrixLayoutDestroy(void *what) {
  delete static_cast<layout *>(what);
  n_live--;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatmulPreferenceCreate(void **out) {
  *out = new preference;
  n_live++;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatmulPreferenceDestroy(void *what) {
  delete static_cast<preference *>(what);
  n_live--;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatmulPreferenceSetAttribute(void *to, int attribute, const void *value,
                                                size_t bytes) {
  auto *what = static_cast<preference *>(to);
  const int operand = attribute - BLAS_PREFER_ALIGN_A;
  if (bytes == sizeof(uint64_t) && attribute == BLAS_PREFER_WORKSPACE)
    memcpy(&what->workspace, value, bytes);
  else if (bytes == sizeof(uint32_t) && operand >= 0 && operand < 4)
    memcpy(&what->align[operand], value, bytes);
  else
    return INVALID_VALUE;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *what, void *a, void *b, void *c,
                                          void *d, void *prefer, int wanted, blas_heuristic *out,
                                          int *n) {
  const auto &d_layout = *static_cast<layout *>(d);
  const auto &given = *static_cast<preference *>(prefer);
  *n = 0;
  n_asked++;
  if (!handle || wanted < 1 || given.align[0] < 16 || given.align[1] < 16) return INVALID_VALUE;
  if (setting("blas_none", 0) ||
      (setting("fp8_none", 0) && static_cast<layout *>(a)->type == BLAS_F8_E4M3) ||
      !fits(*static_cast<desc *>(what), *static_cast<layout *>(a), *static_cast<layout *>(b),
            *static_cast<layout *>(c), d_layout))
    return NOT_SUPPORTED;
  *out = {};
  out->algorithm.data[0] = d_layout.rows;
  out->algorithm.data[1] = d_layout.columns;
  out->workspace_bytes = given.workspace;
  *n = 1;
  return BLAS_SUCCESS;
}

EXPORT int cublasLtMatmul(void *handle, void *what, const void *alpha, const void *a,
                          void *a_layout, const void *b, void *b_layout, const void *beta,
                          const void *c, void *c_layout, void *d, void *d_layout,
                          const blas_algorithm *algorithm, void *workspace, size_t workspace_bytes,
                          void *stream) {
  static std::atomic<long> n_calls{0};
  const auto &kind = *static_cast<desc *>(what);
  const product p = {*static_cast<layout *>(a_layout),
                     *static_cast<layout *>(b_layout),
                     *static_cast<layout *>(c_layout),
                     *static_cast<layout *>(d_layout),
                     a,
                     b,
                     static_cast<const float *>(c),
                     kind.epilogue == BLAS_EPILOGUE_BIAS ? kind.bias : nullptr,
                     kind.scale_a,
                     kind.scale_b,
                     static_cast<float *>(d),
                     *static_cast<const float *>(beta),
                     workspace};
  if (!handle || *static_cast<const float *>(alpha) != 1 || !fits(kind, p.a, p.b, p.c, p.d) ||
      algorithm->data[0] != p.d.rows || algorithm->data[1] != p.d.columns || !workspace ||
      workspace_bytes < 4096)
    return INVALID_VALUE;
  if (setting("blas_matmul", 0) && ++n_calls >= setting("blas_matmul", 0)) return EXECUTION_FAILED;
  n_matmuls++;
  n_fp8 += p.a.type == BLAS_F8_E4M3;
  return fakeEnqueue(stream, multiply, &p, sizeof p) == 0 ? BLAS_SUCCESS : EXECUTION_FAILED;
}
