/* The CUDA plugin over the fake driver and its libraries (tests/cuda_driver), for tests of its host
 * side. Each test begins with one open device and ends with no object of the driver left. */
#ifndef CUDA_HARNESS_H
#define CUDA_HARNESS_H

#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "consort/half.h"
#include "consort/plugin.h"
#include "sdk_host.h"

#define WAIT_US 20000000

typedef struct fixture {
  const cs_device_table *devices;
  const cs_memory_table *memory;
  const cs_stream_table *streams;
  const cs_semaphore_table *semaphores;
  const cs_capability_table *capability;
  const cs_eager_table *eager;
  const cs_program_table *programs;
  const cs_peer_table *peers;
  const cs_profile_table *profile;
  const cs_external_memory_table *external;
  long (*live_objects)(void);
  void (*reset)(void);
  long (*blas_live)(void), (*blas_matmuls)(void), (*blas_fp8)(void), (*blas_questions)(void);
  long (*nvml_live)(void);
  cs_plugin_instance *instance;
  cs_plugin_device *device;
  cs_plugin_stream *stream;
  cs_plugin_semaphore *semaphore;
  uint64_t signalled;
  char logged[4096]; /* lines since set_up */
} fixture;

static fixture f;

static void host_log(void *context, uint32_t level, const char *line) {
  (void)context;
  (void)level;
  const size_t used = strlen(f.logged);
  snprintf(f.logged + used, sizeof f.logged - used, "%s\n", line);
}

static const cs_host host = {.struct_size = sizeof(cs_host),
                             .allocate = test_host_allocate,
                             .deallocate = test_host_deallocate,
                             .log = host_log};

static void *find_symbol(const char *library, const char *name) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  void *symbol = handle ? dlsym(handle, name) : NULL;
  if (!symbol) fail_msg("%s is not the fake one", library);
  return symbol;
}

static void load_plugin(void) {
  char path[1024];
  snprintf(path, sizeof path, "%s/consort-cuda.so", getenv("CONSORT_TEST_PLUGINS"));
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) fail_msg("%s", dlerror());
  *(void **)&f.live_objects = find_symbol("libcuda.so.1", "fakeLiveObjects");
  *(void **)&f.reset = find_symbol("libcuda.so.1", "fakeReset");
  *(void **)&f.blas_live = find_symbol("libcublasLt.so.13", "fakeBlasLiveObjects");
  *(void **)&f.blas_matmuls = find_symbol("libcublasLt.so.13", "fakeBlasMatmuls");
  *(void **)&f.blas_fp8 = find_symbol("libcublasLt.so.13", "fakeBlasFp8");
  *(void **)&f.blas_questions = find_symbol("libcublasLt.so.13", "fakeBlasQuestions");
  *(void **)&f.nvml_live = find_symbol("libnvidia-ml.so.1", "fakeNvmlLive");
  cs_plugin_query_fn query;
  *(void **)&query = dlsym(library, CS_PLUGIN_QUERY_SYMBOL);
  cs_plugin plugin = {.struct_size = sizeof plugin};
  assert_int_equal(query(&host, &plugin), CS_OK);
  f.devices = plugin.table(CS_TABLE_DEVICE, 0);
  f.memory = plugin.table(CS_TABLE_MEMORY, 0);
  f.streams = plugin.table(CS_TABLE_STREAM, 0);
  f.semaphores = plugin.table(CS_TABLE_SEMAPHORE, 0);
  f.capability = plugin.table(CS_TABLE_CAPABILITY, 0);
  f.eager = plugin.table(CS_TABLE_EAGER, 0);
  f.programs = plugin.table(CS_TABLE_PROGRAM, 0);
  f.peers = plugin.table(CS_TABLE_PEER, 0);
  f.profile = plugin.table(CS_TABLE_PROFILE, 0);
  f.external = plugin.table(CS_TABLE_EXTERNAL_MEMORY, 0);
}

/* Opens another device in the place of the fixture's, with `options` or NULL. */
static inline void open_device(const cs_option *options) {
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(f.devices->device_open(f.instance, 0, options, options != NULL,
                                          sizeof(cs_option), &f.device, &error),
                   CS_OK);
  assert_int_equal(f.streams->stream_create(f.device, &f.stream, &error), CS_OK);
  assert_int_equal(f.semaphores->semaphore_create(f.device, 0, &f.semaphore, &error), CS_OK);
}

static inline void close_device(void) {
  f.streams->stream_destroy(f.stream);
  f.semaphores->semaphore_destroy(f.semaphore);
  f.devices->device_close(f.device);
  f.signalled = 0;
}

static int set_up(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  if (!f.devices) load_plugin();
  unsetenv("CONSORT_FAKE_CUDA");
  f.reset();
  f.signalled = 0;
  f.logged[0] = '\0';
  assert_int_equal(f.devices->instance_create(&host, &f.instance, &error), CS_OK);
  open_device(NULL);
  f.blas_matmuls(), f.blas_fp8(), f.blas_questions();
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  unsetenv("CONSORT_FAKE_CUDA");
  f.reset();
  close_device();
  f.devices->instance_destroy(f.instance);
  for (int i = 0; i < 2000 && f.live_objects() != 0; i++)
    usleep(1000); /* a destroyed stream ends on its own thread */
  assert_int_equal(f.live_objects(), 0);
  assert_int_equal(f.blas_live(), 0);
  assert_int_equal(f.nvml_live(), 0);
  return 0;
}

/* Breaks the driver from here on; counters begin at 0. */
static inline void break_driver(const char *how) {
  f.reset();
  setenv("CONSORT_FAKE_CUDA", how, 1);
}

static inline cs_status finish(cs_error *error) {
  const cs_status status = f.streams->stream_signal(f.stream, f.semaphore, ++f.signalled, error);
  if (status != CS_OK) return status;
  return f.semaphores->semaphore_wait(f.semaphore, f.signalled, WAIT_US, error);
}

static inline cs_plugin_memory *allocate(uint64_t bytes) {
  cs_plugin_memory *memory = NULL;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(f.memory->memory_allocate(f.device, bytes, CS_MEMORY_DEVICE, &memory, &error),
                   CS_OK);
  return memory;
}

static inline cs_tensor tensor(cs_plugin_memory *memory, uint64_t offset, uint64_t rows,
                               uint64_t columns) {
  return (cs_tensor){.struct_size = sizeof(cs_tensor),
                     .dtype = CS_DTYPE_F32,
                     .rank = 2,
                     .memory = memory,
                     .offset_bytes = offset,
                     .dims = {rows, columns}};
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
