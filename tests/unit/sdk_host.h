/* A host for tests that call a plugin or the SDK without core: allocation only. */
#ifndef TESTS_SDK_HOST_H
#define TESTS_SDK_HOST_H

#include <stdlib.h>

#include "consort/plugin.h"

static inline void *test_host_allocate(void *context, uint64_t bytes, uint64_t alignment) {
  (void)context;
  const uint64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  return aligned_alloc(alignment, rounded);
}

static inline void test_host_deallocate(void *context, void *pointer) {
  (void)context;
  free(pointer);
}

static inline void test_host_log(void *context, uint32_t level, const char *line) {
  (void)context;
  (void)level;
  (void)line;
}

static const cs_host test_host = {.struct_size = sizeof test_host,
                                  .allocate = test_host_allocate,
                                  .deallocate = test_host_deallocate,
                                  .log = test_host_log};

#endif
