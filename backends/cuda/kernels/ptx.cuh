/* The instructions that have no name in CUDA C++, and the form of a kernel. The kernels use these
 * names only; a program that runs them elsewhere supplies its own definitions. */
#ifndef CUDA_KERNELS_PTX_CUH
#define CUDA_KERNELS_PTX_CUH

#define DEVICE static __device__ __forceinline__
/* ...: threads of a block and, where registers must not be traded for more of them, how many blocks
 * a multiprocessor has room for. */
#define KERNEL(name, args_type, ...)                                                               \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__)                                        \
      name(const __grid_constant__ args_type a)

DEVICE float f16_value(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

/* Two floats as 16-bit halves of a word, `low` in the low half, rounded to nearest even. */
DEVICE uint32_t pack_f16(float low, float high) {
  uint16_t l, h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(l) : "f"(low));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(high));
  return (uint32_t)h << 16 | l;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define HAS_BF16_MMA 1
DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
#else
#define HAS_BF16_MMA 0
#endif

/* 16 bytes to shared memory, or as many zeros where bytes is 0; there after copy_async_wait<N> when
 * at most N groups were committed later. Turing copies at once. */
DEVICE void copy_async(void *shared, const void *from, uint32_t bytes) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
#else
  *(uint4 *)shared = bytes ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}

DEVICE void copy_async_commit() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int N> DEVICE void copy_async_wait() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* Four 8 x 8 matrices of halves from shared memory: lane l gives the address of row l % 8 of matrix
 * l / 8; to[i] is row lane / 4, columns lane % 4 * 2 and the next, of matrix i. */
DEVICE void load_matrices(uint32_t to[4], const void *row) {
  const uint32_t from = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

/* c(16, 8) += a(16, 16) b(16, 8) over the warp: PTX ISA, "Matrix Fragments for mma.m16n8k16". */
template <bool BF16> DEVICE void mma_16816(float c[4], const uint32_t a[4], const uint32_t b[2]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if (BF16)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else /* Turing: f16 only, in two halves of k */
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}

#endif
