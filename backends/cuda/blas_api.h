/* What the plugin uses of cuBLASLt, declared here because a machine that builds the plugin may have
 * nvcc without the library's headers. Names, numbers and structs are those of cublasLt.h in the
 * toolkits 12 and 13; a test holds them against that header. */
#ifndef CUDA_BLAS_API_H
#define CUDA_BLAS_API_H

#include <stddef.h>
#include <stdint.h>

#define BLAS_SUCCESS          0
#define BLAS_COMPUTE_F32      68 /* CUBLAS_COMPUTE_32F */
#define BLAS_F32              0  /* CUDA_R_32F */
#define BLAS_F16              2
#define BLAS_BF16             14
#define BLAS_F8_E4M3          28
#define BLAS_TRANSPOSE        1 /* CUBLAS_OP_T */
#define BLAS_DESC_TRANSPOSE_A 3 /* CUBLASLT_MATMUL_DESC_TRANSA */
#define BLAS_DESC_EPILOGUE    7
#define BLAS_DESC_BIAS        8  /* ..._BIAS_POINTER */
#define BLAS_DESC_SCALE_A     17 /* ..._A_SCALE_POINTER */
#define BLAS_DESC_SCALE_B     18
#define BLAS_EPILOGUE_BIAS    4
#define BLAS_PREFER_WORKSPACE 1 /* CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES */
#define BLAS_PREFER_ALIGN_A   5 /* ..._MIN_ALIGNMENT_A_BYTES; B, C and D follow */

typedef struct blas_algorithm {
  uint64_t data[8];
} blas_algorithm;

typedef struct blas_heuristic {
  blas_algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
} blas_heuristic;

/* X(name, arguments): int cublasLtNAME arguments. */
#define BLAS_CALLS(X)                                                                              \
  X(Create, (void **handle))                                                                       \
  X(Destroy, (void *handle))                                                                       \
  X(MatmulDescCreate, (void **desc, int compute, int scale))                                       \
  X(MatmulDescDestroy, (void *desc))                                                               \
  X(MatmulDescSetAttribute, (void *desc, int attribute, const void *value, size_t bytes))          \
  X(MatrixLayoutCreate, (void **layout, int type, uint64_t rows, uint64_t columns, int64_t ld))    \
  X(MatrixLayoutDestroy, (void *layout))                                                           \
  X(MatmulPreferenceCreate, (void **preference))                                                   \
  X(MatmulPreferenceDestroy, (void *preference))                                                   \
  X(MatmulPreferenceSetAttribute,                                                                  \
    (void *preference, int attribute, const void *value, size_t bytes))                            \
  X(MatmulAlgoGetHeuristic, (void *handle, void *desc, void *a, void *b, void *c, void *d,         \
                             void *preference, int wanted, blas_heuristic *out, int *n))           \
  X(Matmul,                                                                                        \
    (void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,    \
     void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,     \
     const blas_algorithm *algorithm, void *workspace, size_t workspace_bytes, void *stream))

typedef struct blas_api {
#define BLAS_MEMBER(name, arguments) int(*name) arguments;
  BLAS_CALLS(BLAS_MEMBER)
#undef BLAS_MEMBER
} blas_api;

#endif
