/* What files of vector loops share: loops over arrays of vectors are unrolled and functions
 * inlined, so that the arrays are registers. */
#ifndef CPU_VECTOR_H
#define CPU_VECTOR_H

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#endif
