/* What the tests of the OpenCL plugin share: the plugin through its tables, and fields, which are
 * tensors with guard bytes around and between their rows. */
#ifndef TESTS_OPENCL_HARNESS_H
#define TESTS_OPENCL_HARNESS_H

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
#include <time.h>

#include <cmocka.h>

#include "consort/half.h"
#include "consort/plugin.h"
#include "sdk_host.h"

#define GUARD_BYTES 64
#define GUARD_VALUE 0xA5
#define WAIT_US     120000000

typedef struct harness {
  void *library;
  cs_plugin plugin;
  const cs_device_table *device_table;
  const cs_memory_table *memory_table;
  const cs_stream_table *stream_table;
  const cs_semaphore_table *semaphore_table;
  const cs_capability_table *capability_table;
  const cs_eager_table *eager_table;
  const cs_program_table *program_table;
  cs_plugin_instance *instance;
  cs_plugin_device *device;
  cs_plugin_stream *stream;
  cs_plugin_semaphore *semaphore;
  uint64_t signalled;
} harness;

/* ---- opening ---- */

/* Loads the plugin and creates its instance; the status is instance_create's. */
static inline cs_status harness_load(harness *h, cs_error *error) {
  memset(h, 0, sizeof *h);
  const char *folder = getenv("CONSORT_TEST_PLUGINS");
  assert_non_null(folder);
  char path[1024];
  snprintf(path, sizeof path, "%s/consort-opencl.so", folder);
  h->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!h->library) fail_msg("%s", dlerror());
  cs_plugin_query_fn query;
  *(void **)&query = dlsym(h->library, CS_PLUGIN_QUERY_SYMBOL);
  assert_non_null(*(void **)&query);
  h->plugin.struct_size = sizeof h->plugin;
  assert_int_equal(query(&test_host, &h->plugin), CS_OK);
  h->device_table = h->plugin.table(CS_TABLE_DEVICE, 0);
  h->memory_table = h->plugin.table(CS_TABLE_MEMORY, 0);
  h->stream_table = h->plugin.table(CS_TABLE_STREAM, 0);
  h->semaphore_table = h->plugin.table(CS_TABLE_SEMAPHORE, 0);
  h->capability_table = h->plugin.table(CS_TABLE_CAPABILITY, 0);
  h->eager_table = h->plugin.table(CS_TABLE_EAGER, 0);
  h->program_table = h->plugin.table(CS_TABLE_PROGRAM, 0);
  return h->device_table->instance_create(&test_host, &h->instance, error);
}

static inline void require_ok(cs_status status, const cs_error *error) {
  if (status != CS_OK) fail_msg("status %d: %s", status, error->message);
}

/* Opens device 0 with one option and makes a stream and a semaphore. */
static inline void harness_open(harness *h, const char *key, const char *value) {
  cs_error error = CS_ERROR_INIT;
  const cs_option option = {key, value};
  require_ok(h->device_table->device_open(h->instance, 0, &option, key ? 1 : 0, sizeof option,
                                          &h->device, &error),
             &error);
  require_ok(h->stream_table->stream_create(h->device, &h->stream, &error), &error);
  require_ok(h->semaphore_table->semaphore_create(h->device, 0, &h->semaphore, &error), &error);
  h->signalled = 0;
}

static inline void harness_close(harness *h) {
  if (h->stream) h->stream_table->stream_destroy(h->stream);
  if (h->semaphore) h->semaphore_table->semaphore_destroy(h->semaphore);
  if (h->device) h->device_table->device_close(h->device);
  h->stream = NULL;
  h->semaphore = NULL;
  h->device = NULL;
}

static inline void harness_unload(harness *h) {
  if (h->instance) h->device_table->instance_destroy(h->instance);
  h->instance = NULL;
}

/* Waits for everything enqueued; the status is the stream's. */
static inline cs_status harness_finish(harness *h, cs_error *error) {
  const uint64_t value = ++h->signalled;
  const cs_status status = h->stream_table->stream_signal(h->stream, h->semaphore, value, error);
  if (status != CS_OK) return status;
  return h->semaphore_table->semaphore_wait(h->semaphore, value, WAIT_US, error);
}

/* ---- numbers ---- */

static uint64_t random_state;

static inline void seed_random(void) {
  const char *given = getenv("CONSORT_TEST_SEED");
  random_state = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;
  print_message("CONSORT_TEST_SEED=%llu\n", (unsigned long long)random_state);
}

static inline uint64_t random_word(void) {
  uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* CONSORT_TEST_FILTER: only the tests whose names match ("*gpu*"). */
static inline void filter_tests(void) {
  cmocka_set_test_filter(getenv("CONSORT_TEST_FILTER"));
}

/* In -1 to 1. */
static inline float random_float(void) {
  return (float)((double)(random_word() >> 11) * 0x1p-52 - 1.0);
}

/* Under a slow device (CONSORT_TEST_SMALL) only a share of the cases runs, and none that is large:
 * cost counts what a case computes. */
static inline bool chosen(size_t cost) {
  if (!getenv("CONSORT_TEST_SMALL")) return true;
  return cost <= 40000 && random_word() % 4 == 0;
}

static inline double nmse(const double *reference, const double *got, size_t n) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < n; i++) {
    error += (got[i] - reference[i]) * (got[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  return norm > 0 ? error / norm : error;
}

/* ---- fields ---- */

typedef struct field {
  uint32_t dtype;
  size_t rows, columns, stride; /* stride in elements; 1 row of a block format is bytes */
  size_t element_bytes, bytes;
  unsigned char *data;  /* guard, rows, guard: as it was uploaded */
  unsigned char *after; /* as it came back */
  cs_plugin_memory *memory;
  cs_tensor tensor;
} field;

static inline size_t dtype_bytes(uint32_t dtype) {
  switch (dtype) {
  case CS_DTYPE_F16:
  case CS_DTYPE_BF16:
    return 2;
  case CS_DTYPE_I8:
  case CS_DTYPE_U8:
    return 1;
  case CS_DTYPE_U64:
    return 8;
  default:
    return 4;
  }
}

static inline unsigned char *field_at(const field *f, unsigned char *base, size_t row, size_t i) {
  return base + GUARD_BYTES + (row * f->stride + i) * f->element_bytes;
}

static inline void field_set(field *f, size_t row, size_t i, double value) {
  unsigned char *at = field_at(f, f->data, row, i);
  const float single = (float)value;
  const int32_t integer = (int32_t)value;
  const uint16_t half =
      f->dtype == CS_DTYPE_F16 ? cs_f16_from_f32(single) : cs_bf16_from_f32(single);
  if (f->dtype == CS_DTYPE_I32)
    memcpy(at, &integer, 4);
  else if (f->dtype == CS_DTYPE_F32)
    memcpy(at, &single, 4);
  else
    memcpy(at, &half, 2);
}

static inline double field_read(const field *f, unsigned char *base, size_t row, size_t i) {
  const unsigned char *at = field_at(f, base, row, i);
  float single;
  int32_t integer;
  uint16_t half;
  memcpy(&half, at, 2);
  if (f->dtype == CS_DTYPE_F16) return (double)cs_f32_from_f16(half);
  if (f->dtype == CS_DTYPE_BF16) return (double)cs_f32_from_bf16(half);
  memcpy(&single, at, 4);
  memcpy(&integer, at, 4);
  return f->dtype == CS_DTYPE_I32 ? (double)integer : (double)single;
}

/* What was uploaded. */
static inline double field_get(const field *f, size_t row, size_t i) {
  return field_read(f, f->data, row, i);
}

/* What field_download brought back. */
static inline double field_result(const field *f, size_t row, size_t i) {
  return field_read(f, f->after, row, i);
}

/* rows x columns elements with `pad` elements of guard after each row; contents are guard bytes. */
static inline field field_make(uint32_t dtype, size_t rows, size_t columns, size_t pad) {
  field f = {.dtype = dtype, .rows = rows, .columns = columns, .stride = columns + pad};
  f.element_bytes = dtype_bytes(dtype);
  f.bytes = 2 * GUARD_BYTES + rows * f.stride * f.element_bytes;
  f.data = malloc(f.bytes);
  f.after = malloc(f.bytes);
  memset(f.data, GUARD_VALUE, f.bytes);
  f.tensor = (cs_tensor){.struct_size = sizeof(cs_tensor),
                         .dtype = dtype,
                         .rank = 2,
                         .offset_bytes = GUARD_BYTES,
                         .row_stride_bytes = f.stride * f.element_bytes,
                         .dims = {rows, columns}};
  return f;
}

static inline field field_random(uint32_t dtype, size_t rows, size_t columns, size_t pad) {
  field f = field_make(dtype, rows, columns, pad);
  for (size_t row = 0; row < rows; row++)
    for (size_t i = 0; i < columns; i++)
      field_set(&f, row, i, (double)random_float());
  return f;
}

static inline void field_shape3(field *f, size_t heads) {
  f->tensor.rank = 3;
  f->tensor.dims[1] = heads;
  f->tensor.dims[2] = f->columns / heads;
}

static inline void field_vector(field *f) {
  f->tensor.rank = 1;
  f->tensor.dims[0] = f->rows * f->columns;
  f->tensor.row_stride_bytes = 0;
}

static inline void field_upload(harness *h, field *f) {
  cs_error error = CS_ERROR_INIT;
  if (!f->memory)
    require_ok(
        h->memory_table->memory_allocate(h->device, f->bytes, CS_MEMORY_DEVICE, &f->memory, &error),
        &error);
  f->tensor.memory = f->memory;
  require_ok(h->stream_table->stream_upload(h->stream, f->memory, 0, f->data, f->bytes, &error),
             &error);
}

/* Reads back and checks the guards around and between the rows. */
static inline void field_download(harness *h, field *f) {
  cs_error error = CS_ERROR_INIT;
  require_ok(h->stream_table->stream_download(h->stream, f->after, f->memory, 0, f->bytes, &error),
             &error);
  require_ok(harness_finish(h, &error), &error);
  for (size_t i = 0; i < f->bytes; i++) {
    const size_t in = i - GUARD_BYTES;
    const bool data = i >= GUARD_BYTES && i < f->bytes - GUARD_BYTES &&
                      in / f->element_bytes % f->stride < f->columns;
    if (!data && f->after[i] != GUARD_VALUE) fail_msg("guard byte %zu was written", i);
  }
}

static inline void field_free(harness *h, field *f) {
  if (f->memory) h->memory_table->memory_free(h->device, f->memory);
  free(f->data);
  free(f->after);
  memset(f, 0, sizeof *f);
}

static const cs_tensor no_tensor = {.struct_size = sizeof(cs_tensor)};

/* ---- ops ---- */

static inline cs_op_answer ask(harness *h, uint32_t id, const cs_tensor *operands, uint32_t n,
                               const void *params) {
  cs_tensor bare[CS_MAX_OPERANDS];
  for (uint32_t i = 0; i < n; i++) {
    bare[i] = operands[i];
    bare[i].memory = NULL;
  }
  const cs_op op = {.struct_size = sizeof op,
                    .id = id,
                    .n_operands = n,
                    .operand_stride = sizeof(cs_tensor),
                    .operands = bare,
                    .params = params};
  cs_op_answer answer = {.struct_size = sizeof answer};
  cs_error error = CS_ERROR_INIT;
  require_ok(h->capability_table->op_query(h->device, &op, &answer, &error), &error);
  return answer;
}

/* Asks, enqueues and waits; fails the test where the device says no. */
static inline void run_op(harness *h, uint32_t id, const cs_tensor *operands, uint32_t n,
                          const void *params) {
  const cs_op_answer answer = ask(h, id, operands, n, params);
  if (answer.support == CS_SUPPORT_NO) fail_msg("op %u: %s", id, answer.reason);
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *workspace = NULL;
  if (answer.workspace_bytes)
    require_ok(h->memory_table->memory_allocate(h->device, answer.workspace_bytes, CS_MEMORY_DEVICE,
                                                &workspace, &error),
               &error);
  const cs_op op = {.struct_size = sizeof op,
                    .id = id,
                    .n_operands = n,
                    .operand_stride = sizeof(cs_tensor),
                    .operands = operands,
                    .params = params};
  require_ok(h->eager_table->ops_enqueue(h->stream, &op, 1, sizeof op, workspace, &error), &error);
  require_ok(harness_finish(h, &error), &error);
  if (workspace) h->memory_table->memory_free(h->device, workspace);
}

/* The field against a reference of rows x columns. */
static inline void check_nmse(const field *f, const double *reference, double limit,
                              const char *what) {
  const size_t n = f->rows * f->columns;
  double *got = malloc(n * sizeof *got);
  for (size_t i = 0; i < n; i++)
    got[i] = field_result(f, i / f->columns, i % f->columns);
  const double error = nmse(reference, got, n);
  free(got);
  if (!(error <= limit)) fail_msg("%s: NMSE %g is above %g", what, error, limit);
}

#endif
