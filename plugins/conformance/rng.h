/* Random numbers that a printed seed gives again on every machine (splitmix64). */
#ifndef KIT_RNG_H
#define KIT_RNG_H

#include <stdint.h>

typedef struct kit_rng {
  uint64_t state;
} kit_rng;

static inline uint64_t rng_u64(kit_rng *rng) {
  uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

/* 0 to limit - 1; limit > 0. */
static inline uint64_t rng_below(kit_rng *rng, uint64_t limit) {
  return rng_u64(rng) % limit;
}

/* Uniform in [low, high). */
static inline double rng_uniform(kit_rng *rng, double low, double high) {
  return low + (high - low) * (double)(rng_u64(rng) >> 11) * 0x1p-53;
}

/* Mean 0, variance 1, within +-3.5: the sum of four uniforms, bell-shaped as activations are. */
static inline double rng_bell(kit_rng *rng) {
  double sum = 0;
  for (int i = 0; i < 4; i++)
    sum += rng_uniform(rng, -1, 1);
  return sum * 0.8660254037844386;
}

#endif
