/* The host side of the CUDA plugin over the fake driver (tests/cuda_driver): order, lifetimes, what
 * every failure becomes, and the shapes of kernels that the conformance kit is too small for. No
 * GPU is involved. Every test ends with no object of the driver left. */
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "consort/half.h"
#include "consort/plugin.h"

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
  long (*live_objects)(void);
  void (*reset)(void);
  cs_plugin_instance *instance;
  cs_plugin_device *device;
  cs_plugin_stream *stream;
  cs_plugin_semaphore *semaphore;
  uint64_t signalled;
} fixture;

static fixture f;

static void *host_allocate(void *context, uint64_t bytes, uint64_t alignment) {
  (void)context;
  void *pointer = NULL;
  return posix_memalign(&pointer, alignment < 8 ? 8 : alignment, bytes) == 0 ? pointer : NULL;
}

static void host_deallocate(void *context, void *pointer) {
  (void)context;
  free(pointer);
}

static const cs_host host = {
    .struct_size = sizeof(cs_host), .allocate = host_allocate, .deallocate = host_deallocate};

static void load_plugin(void) {
  char path[1024];
  snprintf(path, sizeof path, "%s/consort-cuda.so", getenv("CONSORT_TEST_PLUGINS"));
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library || !driver) fail_msg("%s", dlerror());
  *(void **)&f.live_objects = dlsym(driver, "fakeLiveObjects");
  *(void **)&f.reset = dlsym(driver, "fakeReset");
  if (!*(void **)&f.reset) fail_msg("libcuda.so.1 is not the fake driver");
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
}

static int set_up(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  if (!f.devices) load_plugin();
  unsetenv("CONSORT_FAKE_CUDA");
  f.reset();
  f.signalled = 0;
  assert_int_equal(f.devices->instance_create(&host, &f.instance, &error), CS_OK);
  assert_int_equal(f.devices->device_open(f.instance, 0, NULL, 0, 0, &f.device, &error), CS_OK);
  assert_int_equal(f.streams->stream_create(f.device, &f.stream, &error), CS_OK);
  assert_int_equal(f.semaphores->semaphore_create(f.device, 0, &f.semaphore, &error), CS_OK);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  unsetenv("CONSORT_FAKE_CUDA");
  f.reset();
  f.streams->stream_destroy(f.stream);
  f.semaphores->semaphore_destroy(f.semaphore);
  f.devices->device_close(f.device);
  f.devices->instance_destroy(f.instance);
  for (int i = 0; i < 2000 && f.live_objects() != 0; i++)
    usleep(1000); /* a destroyed stream ends on its own thread */
  assert_int_equal(f.live_objects(), 0);
  return 0;
}

/* Breaks the driver from here on; counters begin at 0. */
static void break_driver(const char *how) {
  f.reset();
  setenv("CONSORT_FAKE_CUDA", how, 1);
}

static cs_status finish(cs_error *error) {
  const cs_status status = f.streams->stream_signal(f.stream, f.semaphore, ++f.signalled, error);
  if (status != CS_OK) return status;
  return f.semaphores->semaphore_wait(f.semaphore, f.signalled, WAIT_US, error);
}

static cs_plugin_memory *allocate(uint64_t bytes) {
  cs_plugin_memory *memory = NULL;
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(f.memory->memory_allocate(f.device, bytes, CS_MEMORY_DEVICE, &memory, &error),
                   CS_OK);
  return memory;
}

static cs_tensor tensor(cs_plugin_memory *memory, uint64_t offset, uint64_t rows,
                        uint64_t columns) {
  return (cs_tensor){.struct_size = sizeof(cs_tensor),
                     .dtype = CS_DTYPE_F32,
                     .rank = 2,
                     .memory = memory,
                     .offset_bytes = offset,
                     .dims = {rows, columns}};
}

/* x + x into out, both 64 floats of one memory. */
static void make_add(cs_op *op, cs_tensor operands[3], cs_plugin_memory *memory) {
  operands[0] = tensor(memory, 256, 1, 64);
  operands[1] = operands[2] = tensor(memory, 0, 1, 64);
  *op = (cs_op){.struct_size = sizeof *op,
                .id = CS_OP_ADD,
                .n_operands = 3,
                .operand_stride = sizeof(cs_tensor),
                .operands = operands};
}

/* ---- tests ---- */

static void the_device_says_that_it_is_fake(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_device_properties p = {.struct_size = sizeof p};
  assert_int_equal(f.devices->device_properties(f.device, &p, &error), CS_OK);
  assert_non_null(strstr(p.description, "fake"));
  assert_int_equal(p.type, CS_DEVICE_TYPE_GPU);
  assert_true(p.memory_free_bytes <= p.memory_bytes && p.memory_free_bytes > 0);
  assert_int_equal(strlen(p.uuid), strlen("GPU-") + 36);
}

static void unknown_options_are_refused(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_device *device = (cs_plugin_device *)&error;
  const cs_option unknown = {"speed", "11"}, wrong = {"graphs", "maybe"}, off = {"graphs", "off"};
  assert_int_equal(
      f.devices->device_open(f.instance, 0, &unknown, 1, sizeof unknown, &device, &error),
      CS_INVALID_ARGUMENT);
  assert_null(device);
  assert_int_equal(f.devices->device_open(f.instance, 0, &wrong, 1, sizeof wrong, &device, &error),
                   CS_INVALID_ARGUMENT);
  assert_int_equal(f.devices->device_open(f.instance, 0, &off, 1, sizeof off, &device, &error),
                   CS_OK);
  f.devices->device_close(device);
}

static void bytes_travel_by_way_of_pinned_memory(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *staging = NULL, *device = allocate(1000);
  assert_int_equal(f.memory->memory_allocate(f.device, 1000, CS_MEMORY_STAGING, &staging, &error),
                   CS_OK);
  unsigned char *bytes = f.memory->memory_host_pointer(f.device, staging), back[1000];
  assert_non_null(bytes);
  assert_null(f.memory->memory_host_pointer(f.device, device));
  for (int i = 0; i < 1000; i++)
    bytes[i] = (unsigned char)(i * 7);
  assert_int_equal(f.streams->stream_copy(f.stream, device, 0, staging, 0, 1000, &error), CS_OK);
  assert_int_equal(f.streams->stream_fill(f.stream, device, 10, 5, 9, &error), CS_OK);
  assert_int_equal(f.streams->stream_download(f.stream, back, device, 0, 1000, &error), CS_OK);
  assert_int_equal(finish(&error), CS_OK);
  assert_memory_equal(back + 15, bytes + 15, 985);
  assert_int_equal(back[12], 9);
  assert_int_equal(f.streams->stream_copy(f.stream, device, 1, staging, 0, 1000, &error),
                   CS_OUT_OF_RANGE);
  f.memory->memory_free(f.device, staging);
  f.memory->memory_free(f.device, device);
}

static void a_wait_may_come_before_its_signal(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_semaphore *gate = NULL;
  assert_int_equal(f.semaphores->semaphore_create(f.device, 0, &gate, &error), CS_OK);
  assert_int_equal(f.streams->stream_wait(f.stream, gate, 1, &error), CS_OK);
  assert_int_equal(f.streams->stream_signal(f.stream, f.semaphore, 1, &error), CS_OK);
  assert_int_equal(f.semaphores->semaphore_wait(f.semaphore, 1, 20000, &error), CS_TIMEOUT);
  assert_int_equal(f.semaphores->semaphore_signal(gate, 1, &error), CS_OK);
  assert_int_equal(f.semaphores->semaphore_wait(f.semaphore, 1, WAIT_US, &error), CS_OK);
  f.semaphores->semaphore_destroy(gate);
}

static void a_refused_launch_names_its_op(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = allocate(512);
  cs_op ops[3];
  cs_tensor operands[3][3];
  for (int i = 0; i < 3; i++)
    make_add(&ops[i], operands[i], memory);
  break_driver("launch=2");
  assert_int_equal(f.eager->ops_enqueue(f.stream, ops, 3, sizeof ops[0], NULL, &error), CS_OK);
  assert_int_equal(finish(&error), CS_FAILED);
  assert_int_equal(error.op_index, 1);
  assert_int_equal(error.vendor_code, 701);
  f.memory->memory_free(f.device, memory);
}

/* The signal before the failure still arrives, however late the work is. */
static void a_signal_before_the_failure_arrives(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = allocate(512);
  cs_op op;
  cs_tensor operands[3];
  make_add(&op, operands, memory);
  break_driver("launch=2,slow=50000");
  assert_int_equal(f.eager->ops_enqueue(f.stream, &op, 1, sizeof op, NULL, &error), CS_OK);
  assert_int_equal(f.streams->stream_signal(f.stream, f.semaphore, 1, &error), CS_OK);
  f.eager->ops_enqueue(f.stream, &op, 1, sizeof op, NULL, &error);
  f.streams->stream_signal(f.stream, f.semaphore, 2, &error);
  assert_int_equal(f.semaphores->semaphore_wait(f.semaphore, 2, WAIT_US, &error), CS_FAILED);
  f.memory->memory_free(f.device, memory);
}

static void a_lost_device_is_told_and_stays_lost(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = allocate(512), *more = NULL;
  cs_plugin_device *again = NULL;
  cs_op op;
  cs_tensor operands[3];
  make_add(&op, operands, memory);
  break_driver("lost=1");
  assert_int_equal(f.eager->ops_enqueue(f.stream, &op, 1, sizeof op, NULL, &error), CS_OK);
  assert_int_equal(finish(&error), CS_DEVICE_LOST);
  assert_int_equal(f.memory->memory_allocate(f.device, 64, CS_MEMORY_DEVICE, &more, &error),
                   CS_DEVICE_LOST);
  assert_null(more);
  assert_int_equal(f.devices->device_open(f.instance, 0, NULL, 0, 0, &again, &error),
                   CS_NEEDS_NEW_PROCESS);
  assert_null(again);
  f.memory->memory_free(f.device, memory);
}

static void exhausted_memory_does_no_lasting_harm(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = NULL;
  assert_int_equal(
      f.memory->memory_allocate(f.device, UINT64_C(1) << 50, CS_MEMORY_DEVICE, &memory, &error),
      CS_OUT_OF_MEMORY);
  assert_null(memory);
  break_driver("alloc=1");
  assert_int_equal(f.memory->memory_allocate(f.device, 64, CS_MEMORY_STAGING, &memory, &error),
                   CS_OUT_OF_MEMORY);
  f.memory->memory_free(f.device, allocate(64));
}

static void a_program_is_one_graph_and_repeats(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = allocate(512);
  cs_plugin_program *program = NULL;
  cs_op ops[2];
  cs_tensor operands[2][3];
  float x[64], out[64];
  make_add(&ops[0], operands[0], memory);
  make_add(&ops[1], operands[1], memory);
  operands[1][1] = operands[1][0]; /* out = out + x: 3 x in all */
  break_driver("graph=1");
  const long before = f.live_objects();
  assert_int_equal(
      f.programs->program_create(f.device, ops, 2, sizeof ops[0], NULL, &program, &error),
      CS_OUT_OF_MEMORY);
  assert_null(program);
  for (int i = 0; i < 2000 && f.live_objects() != before; i++)
    usleep(1000);
  assert_int_equal(f.live_objects(), before);
  assert_int_equal(
      f.programs->program_create(f.device, ops, 2, sizeof ops[0], NULL, &program, &error), CS_OK);
  for (int round = 1; round <= 3; round++) {
    for (int i = 0; i < 64; i++)
      x[i] = (float)(i * round);
    assert_int_equal(f.streams->stream_upload(f.stream, memory, 0, x, sizeof x, &error), CS_OK);
    assert_int_equal(f.programs->program_launch(f.stream, program, &error), CS_OK);
    assert_int_equal(f.streams->stream_download(f.stream, out, memory, 256, sizeof out, &error),
                     CS_OK);
    assert_int_equal(finish(&error), CS_OK);
    for (int i = 0; i < 64; i++)
      assert_true(out[i] == 3.0f * x[i]);
  }
  f.programs->program_destroy(program);
  f.memory->memory_free(f.device, memory);
}

static void two_devices_copy_to_each_other(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_instance *instance = NULL;
  cs_plugin_device *other = NULL;
  cs_plugin_memory *from = allocate(128), *to = NULL;
  setenv("CONSORT_FAKE_CUDA", "devices=2", 1);
  assert_int_equal(f.devices->instance_create(&host, &instance, &error), CS_OK);
  assert_int_equal(f.devices->device_count(instance), 2);
  assert_int_equal(f.devices->device_open(instance, 1, NULL, 0, 0, &other, &error), CS_OK);
  assert_int_equal(f.memory->memory_allocate(other, 128, CS_MEMORY_DEVICE, &to, &error), CS_OK);
  assert_int_equal(f.peers->peer_can_copy(other, f.device), 1);
  assert_int_equal(f.streams->stream_fill(f.stream, from, 0, 128, 7, &error), CS_OK);
  assert_int_equal(f.peers->stream_peer_copy(f.stream, other, to, 0, from, 0, 128, &error), CS_OK);
  assert_int_equal(f.peers->stream_peer_copy(f.stream, other, to, 1, from, 0, 128, &error),
                   CS_OUT_OF_RANGE);
  assert_int_equal(finish(&error), CS_OK);
  f.memory->memory_free(other, to);
  f.memory->memory_free(f.device, from);
  f.devices->device_close(other);
  f.devices->instance_destroy(instance);
}

/* ---- the large tile: n and n_out beyond 128 ---- */

#define TILE_N   131
#define TILE_OUT 133
#define TILE_IN  96

static float weight_value(const unsigned char *blocks, uint32_t row, uint32_t column) {
  const unsigned char *block = blocks + (row * (TILE_IN / 32) + column / 32) * 34;
  uint16_t scale;
  memcpy(&scale, block, 2);
  return cs_f32_from_f16(scale) * (float)(int8_t)block[2 + column % 32];
}

static cs_plugin_memory *pack_weight(unsigned char *blocks, size_t bytes) {
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *packed = NULL;
  for (size_t i = 0; i < bytes; i++)
    blocks[i] = (unsigned char)(i * 131 + (i >> 5));
  for (size_t i = 0; i < bytes; i += 34) {
    const uint16_t scale = cs_f16_from_f32(0.01f + (float)(i % 7) * 0.002f);
    memcpy(blocks + i, &scale, 2);
  }
  const cs_weight_part part = {
      .struct_size = sizeof part, .dtype = CS_DTYPE_Q8_0, .data = blocks, .bytes = bytes};
  const cs_weight weight = {.struct_size = sizeof weight,
                            .dtype = CS_DTYPE_Q8_0,
                            .usage = CS_USAGE_MATMUL,
                            .rank = 2,
                            .n_parts = 1,
                            .part_stride = sizeof part,
                            .dims = {TILE_OUT, TILE_IN},
                            .parts = &part};
  assert_int_equal(f.capability->weights_pack(f.device, &weight, &packed, NULL, &error), CS_OK);
  return packed;
}

static void a_matmul_of_large_tiles_is_right(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  static unsigned char blocks[TILE_OUT * (TILE_IN / 32) * 34];
  static float x[TILE_N * TILE_IN], out[TILE_N * TILE_OUT];
  cs_plugin_memory *packed = pack_weight(blocks, sizeof blocks);
  cs_plugin_memory *in_memory = allocate(sizeof x), *out_memory = allocate(sizeof out);
  for (int i = 0; i < TILE_N * TILE_IN; i++)
    x[i] = sinf((float)i * 0.37f);
  const cs_matmul_params params = {.struct_size = sizeof params};
  cs_tensor operands[5] = {tensor(out_memory, 0, TILE_N, TILE_OUT),
                           tensor(in_memory, 0, TILE_N, TILE_IN),
                           tensor(packed, 0, TILE_OUT, TILE_IN)};
  operands[2].dtype = CS_DTYPE_Q8_0;
  operands[2].layout = CS_LAYOUT_PACKED;
  for (int i = 3; i < 5; i++)
    operands[i] = (cs_tensor){.struct_size = sizeof(cs_tensor), .rank = 1};
  const cs_op op = {.struct_size = sizeof op,
                    .id = CS_OP_MATMUL,
                    .n_operands = 5,
                    .operand_stride = sizeof(cs_tensor),
                    .operands = operands,
                    .params = &params};
  assert_int_equal(f.streams->stream_upload(f.stream, in_memory, 0, x, sizeof x, &error), CS_OK);
  assert_int_equal(f.eager->ops_enqueue(f.stream, &op, 1, sizeof op, NULL, &error), CS_OK);
  assert_int_equal(f.streams->stream_download(f.stream, out, out_memory, 0, sizeof out, &error),
                   CS_OK);
  assert_int_equal(finish(&error), CS_OK);
  double difference = 0, norm = 0;
  for (uint32_t i = 0; i < TILE_N; i++)
    for (uint32_t j = 0; j < TILE_OUT; j++) {
      double sum = 0;
      for (uint32_t k = 0; k < TILE_IN; k++)
        sum += (double)x[i * TILE_IN + k] * (double)weight_value(blocks, j, k);
      difference += pow((double)out[i * TILE_OUT + j] - sum, 2);
      norm += sum * sum;
    }
  assert_true(difference / norm < CS_NMSE_LIMIT_HALF);
  f.memory->memory_free(f.device, packed);
  f.memory->memory_free(f.device, in_memory);
  f.memory->memory_free(f.device, out_memory);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(the_device_says_that_it_is_fake),      TEST(unknown_options_are_refused),
      TEST(bytes_travel_by_way_of_pinned_memory), TEST(a_wait_may_come_before_its_signal),
      TEST(a_refused_launch_names_its_op),        TEST(a_signal_before_the_failure_arrives),
      TEST(a_lost_device_is_told_and_stays_lost), TEST(exhausted_memory_does_no_lasting_harm),
      TEST(a_program_is_one_graph_and_repeats),   TEST(two_devices_copy_to_each_other),
      TEST(a_matmul_of_large_tiles_is_right)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
