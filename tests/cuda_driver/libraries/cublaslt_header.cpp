/* Holds the plugin's declarations of cuBLASLt against the toolkit's header, where that is
 * installed.
 */
#include <cstddef>

#include "blas_api.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
static_assert(BLAS_COMPUTE_F32 == CUBLAS_COMPUTE_32F && BLAS_TRANSPOSE == CUBLAS_OP_T);
static_assert(BLAS_F32 == CUDA_R_32F && BLAS_F16 == CUDA_R_16F && BLAS_BF16 == CUDA_R_16BF);
static_assert(BLAS_F8_E4M3 == CUDA_R_8F_E4M3);
static_assert(BLAS_DESC_SCALE_A == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
static_assert(BLAS_DESC_SCALE_B == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
static_assert(BLAS_DESC_TRANSPOSE_A == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(BLAS_DESC_EPILOGUE == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(BLAS_DESC_BIAS == CUBLASLT_MATMUL_DESC_BIAS_POINTER);
static_assert(BLAS_EPILOGUE_BIAS == CUBLASLT_EPILOGUE_BIAS);
static_assert(BLAS_PREFER_WORKSPACE == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(BLAS_PREFER_ALIGN_A == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(BLAS_PREFER_ALIGN_A + 3 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(sizeof(blas_algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(blas_heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(blas_heuristic, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));
#endif
