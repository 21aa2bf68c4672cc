/* A fuzz target is this one function, as libFuzzer calls it; replay.c calls it over a corpus. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* For what must hold whatever the input is. */
#define FUZZ_CHECK(condition)                                                                      \
  do {                                                                                             \
    if (!(condition)) __builtin_trap();                                                            \
  } while (0)

#endif
