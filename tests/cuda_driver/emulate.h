/* Runs CUDA C++ kernels on the CPU: what the kernels use of the language and of PTX, defined for
 * g++.
 *
 * One block runs at a time, and of a block one thread at a time: each is a fiber that gives way
 * where the block or its warp must meet (__syncthreads, __shfl_*, mma). So __shared__ is a static
 * variable, and nothing here needs a lock: the driver runs one kernel at a time. A meeting that
 * some thread of the block or warp never comes to is an error, as is a thread that ends while
 * others wait. */
#ifndef CUDA_DRIVER_EMULATE_H
#define CUDA_DRIVER_EMULATE_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "consort/half.h"

namespace emulate {

struct index3 {
  uint32_t x, y, z;
};

/* Of the running fiber. */
struct thread_state {
  index3 thread, block, grid;
  uint32_t lane;
};
extern thread_state current;

enum meeting { MEET_BLOCK, MEET_WARP };
/* Returns when every thread of the block or warp has called it. */
void meet(meeting where);

/* Each lane leaves up to 64 bytes and, after the warp has met, sees all 32. */
const unsigned char (*exchange(const void *mine, size_t bytes))[64];

/* Asynchronous copies of the running fiber: a group's bytes move when it waits for the group, not
 * before; a fiber that ends without waiting never moves them. */
void copy_later(void *to, const void *from, uint32_t bytes);
void commit_copies();
void wait_for_copies(uint32_t groups_left);

typedef void (*kernel_body)(const void *arguments);
struct kernel {
  const char *name;
  size_t argument_bytes;
  uint32_t max_threads;
  kernel_body body;
  kernel *next;
  kernel(const char *name, size_t argument_bytes, uint32_t max_threads, kernel_body body);
};
kernel *find(const char *name);

/* Runs every block; false and a reason where threads failed to meet. */
bool run(const kernel *what, index3 grid, uint32_t threads, const void *arguments,
         const char **reason);

} // namespace emulate

#define threadIdx    (emulate::current.thread)
#define blockIdx     (emulate::current.block)
#define gridDim      (emulate::current.grid)
#define __shared__   static
#define __align__(n) __attribute__((aligned(n)))
#define DEVICE       static inline
#define HAS_BF16_MMA 1

#define KERNEL(name, args_type, threads, ...)                                                      \
  static void name##_body(const args_type &a);                                                     \
  static emulate::kernel name##_entry(#name, sizeof(args_type), threads, [](const void *p) {       \
    name##_body(*static_cast<const args_type *>(p));                                               \
  });                                                                                              \
  static void name##_body([[maybe_unused]] const args_type &a)

struct uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
static inline uint2 make_uint2(uint32_t x, uint32_t y) {
  return {x, y};
}
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}

static inline float __uint_as_float(uint32_t bits) {
  return cs_f32_from_bits(bits);
}
static inline uint32_t __float_as_uint(float value) {
  return cs_f32_to_bits(value);
}
template <typename T> static inline T __ldcs(const T *from) {
  return *from;
}

/* Selector nibble i picks byte i of the result from the eight bytes of high:low. */
static inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = (uint64_t)high << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++)
    result |= (uint32_t)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}

static inline void __syncthreads() {
  emulate::meet(emulate::MEET_BLOCK);
}

template <typename T> static inline T __shfl_xor_sync(uint32_t, T value, int distance) {
  const auto all = emulate::exchange(&value, sizeof value);
  T other;
  memcpy(&other, all[emulate::current.lane ^ (uint32_t)distance], sizeof other);
  return other;
}

DEVICE float f16_value(uint16_t bits) {
  return cs_f32_from_f16(bits);
}
DEVICE uint32_t pack_f16(float low, float high) {
  return (uint32_t)cs_f16_from_f32(high) << 16 | cs_f16_from_f32(low);
}
DEVICE uint32_t pack_bf16(float low, float high) {
  return (uint32_t)cs_bf16_from_f32(high) << 16 | cs_bf16_from_f32(low);
}

DEVICE void copy_async(void *to, const void *from, uint32_t bytes) {
  emulate::copy_later(to, from, bytes);
}
DEVICE void copy_async_commit() {
  emulate::commit_copies();
}
template <int N> DEVICE void copy_async_wait() {
  emulate::wait_for_copies(N);
}

static inline uint32_t atomicAdd(uint32_t *to, uint32_t value) {
  const uint32_t before = *to;
  *to += value;
  return before;
}

/* ldmatrix.x4: word lane % 4 of row lane / 4 of each matrix, whose rows eight lanes each name. */
DEVICE void load_matrices(uint32_t to[4], const void *row) {
  const auto all = emulate::exchange(&row, sizeof row);
  for (uint32_t i = 0; i < 4; i++) {
    const char *from;
    memcpy(&from, all[8 * i + emulate::current.lane / 4], sizeof from);
    memcpy(&to[i], from + 4 * (emulate::current.lane % 4), sizeof to[i]);
  }
}

template <bool BF16> DEVICE float half_of(uint32_t word, uint32_t i) {
  const uint16_t bits = (uint16_t)(word >> 16 * i);
  return BF16 ? cs_f32_from_bf16(bits) : cs_f32_from_f16(bits);
}

/* c(16, 8) += a(16, 16) b(16, 8). PTX ISA, "Matrix Fragments for mma.m16n8k16", with g = lane / 4
 * and t = lane % 4: a[i] holds row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next; b[i] holds
 * rows 2 t + 8 i and the next, column g; c[i] is row g + 8 (i / 2), column 2 t + i % 2. */
template <bool BF16> DEVICE void mma_16816(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto all = emulate::exchange(mine, sizeof mine);
  const uint32_t g = emulate::current.lane / 4, t = emulate::current.lane % 4;
  float left[2][16], right[16][2];
  for (uint32_t u = 0; u < 4; u++) {
    uint32_t words[6];
    memcpy(words, all[4 * g + u], sizeof words);
    for (uint32_t i = 0; i < 4; i++)
      for (uint32_t e = 0; e < 2; e++)
        left[i % 2][2 * u + 8 * (i / 2) + e] = half_of<BF16>(words[i], e);
    for (uint32_t n = 0; n < 2; n++) {
      memcpy(words, all[4 * (2 * t + n) + u], sizeof words);
      for (uint32_t i = 0; i < 2; i++)
        for (uint32_t e = 0; e < 2; e++)
          right[2 * u + 8 * i + e][n] = half_of<BF16>(words[4 + i], e);
    }
  }
  for (uint32_t i = 0; i < 4; i++)
    for (uint32_t k = 0; k < 16; k++)
      c[i] += left[i / 2][k] * right[k][i % 2];
}

#endif
