/* The host side of the CUDA plugin over the fake driver (tests/cuda_driver): order, lifetimes, what
 * every failure becomes, figures, MIG, shared memory and times. No GPU is involved. */
#include "cuda_harness.h"

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

/* Such an op in memory of its own, enqueued on a driver that is broken so. */
typedef struct broken_add {
  cs_plugin_memory *memory;
  cs_tensor operands[3];
  cs_op op;
} broken_add;

static void enqueue_broken(broken_add *add, const char *how) {
  cs_error error = CS_ERROR_INIT;
  add->memory = allocate(512);
  make_add(&add->op, add->operands, add->memory);
  break_driver(how);
  assert_int_equal(f.eager->ops_enqueue(f.stream, &add->op, 1, sizeof add->op, NULL, &error),
                   CS_OK);
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
  broken_add add;
  enqueue_broken(&add, "launch=2,slow=50000");
  assert_int_equal(f.streams->stream_signal(f.stream, f.semaphore, 1, &error), CS_OK);
  f.eager->ops_enqueue(f.stream, &add.op, 1, sizeof add.op, NULL, &error);
  f.streams->stream_signal(f.stream, f.semaphore, 2, &error);
  assert_int_equal(f.semaphores->semaphore_wait(f.semaphore, 2, WAIT_US, &error), CS_FAILED);
  f.memory->memory_free(f.device, add.memory);
}

static void a_lost_device_is_told_and_stays_lost(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *more = NULL;
  cs_plugin_device *again = NULL;
  broken_add add;
  enqueue_broken(&add, "lost=1");
  assert_int_equal(finish(&error), CS_DEVICE_LOST);
  assert_int_equal(f.memory->memory_allocate(f.device, 64, CS_MEMORY_DEVICE, &more, &error),
                   CS_DEVICE_LOST);
  assert_null(more);
  assert_int_equal(f.devices->device_open(f.instance, 0, NULL, 0, 0, &again, &error),
                   CS_NEEDS_NEW_PROCESS);
  assert_null(again);
  f.memory->memory_free(f.device, add.memory);
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

/* ---- rows of a vocabulary ---- */

#define N_VOCAB 70001 /* 18 parts */

/* The largest are at the ends of parts, equal ones in different parts. */
static void fill_logits(float *x, uint64_t n) {
  for (uint64_t i = 0; i < n; i++)
    x[i] = sinf((float)i * 0.9173f);
  x[4095] = x[4096] = x[8192] = 3;
  x[n - 1] = 4;
  x[n - 2] = NAN;
}

static bool before(const float *x, uint32_t a, uint32_t b) {
  const float u = isnan(x[a]) ? -INFINITY : x[a], v = isnan(x[b]) ? -INFINITY : x[b];
  return u > v || (u == v && a < b);
}

static void the_largest_of_long_rows_are_found(void **state) {
  (void)state;
  static const uint32_t ks[] = {1, 5, 1024};
  static float x[2 * N_VOCAB], values[2 * 1024];
  static int32_t ids[2 * 1024];
  cs_error error = CS_ERROR_INIT;
  for (int row = 0; row < 2; row++)
    fill_logits(x + row * N_VOCAB, N_VOCAB);
  x[N_VOCAB + 50000] = 9;
  cs_plugin_memory *in = allocate(sizeof x), *out = allocate(sizeof values + sizeof ids);
  assert_int_equal(f.streams->stream_upload(f.stream, in, 0, x, sizeof x, &error), CS_OK);
  for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++) {
    const uint32_t k = ks[i];
    cs_tensor operands[3] = {tensor(out, 0, 2, k), tensor(out, sizeof values, 2, k),
                             tensor(in, 0, 2, N_VOCAB)};
    operands[1].dtype = CS_DTYPE_I32;
    const cs_op op = {.struct_size = sizeof op,
                      .id = CS_OP_TOP_K,
                      .n_operands = 3,
                      .operand_stride = sizeof(cs_tensor),
                      .operands = operands};
    cs_op_answer answer = {.struct_size = sizeof answer};
    assert_int_equal(f.capability->op_query(f.device, &op, &answer, &error), CS_OK);
    cs_plugin_memory *workspace = allocate(answer.workspace_bytes);
    assert_int_equal(f.eager->ops_enqueue(f.stream, &op, 1, sizeof op, workspace, &error), CS_OK);
    assert_int_equal(f.streams->stream_download(f.stream, values, out, 0, 8 * k, &error), CS_OK);
    assert_int_equal(f.streams->stream_download(f.stream, ids, out, sizeof values, 8 * k, &error),
                     CS_OK);
    assert_int_equal(finish(&error), CS_OK);
    assert_int_equal(ids[0], N_VOCAB - 1);
    assert_int_equal(ids[k], 50000);
    for (uint32_t row = 0; row < 2; row++)
      for (uint32_t j = 0; j < k; j++) {
        const float *logits = x + row * N_VOCAB;
        assert_true(values[row * k + j] == logits[ids[row * k + j]]);
        if (j > 0)
          assert_true(before(logits, (uint32_t)ids[row * k + j - 1], (uint32_t)ids[row * k + j]));
      }
    if (k == 5) assert_true(ids[1] == 4095 && ids[2] == 4096 && ids[3] == 8192);
    f.memory->memory_free(f.device, workspace);
  }
  f.memory->memory_free(f.device, in);
  f.memory->memory_free(f.device, out);
}

/* ---- figures, MIG, shared memory, times ---- */

static void figures_are_told_at_both_ends(void **state) {
  (void)state;
  assert_non_null(strstr(f.logged, "cuda: NVML: 40.00 GiB free, 37 % busy, 41 C, 312.5 W, SM at "
                                   "1980 MHz, memory at 2619 MHz\n"));
  close_device();
  assert_non_null(strstr(f.logged, "W on average\n"));
  open_device(NULL);
}

static void figures_that_are_missing_are_left_out(void **state) {
  (void)state;
  static const struct {
    const char *how, *line;
  } cases[] = {{"nvml_bare=1", "cuda: NVML: 40.00 GiB free\n"},
               {"nvml=9", "cuda: NVML: no library, no figures\n"},
               {"nvml_blind=1", "cuda: NVML: the device is not known\n"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    close_device();
    f.logged[0] = '\0';
    break_driver(cases[i].how);
    open_device(NULL);
    assert_string_equal(f.logged, cases[i].line);
  }
}

static void a_mig_instance_is_a_device_of_its_own(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_instance *instance = NULL;
  cs_plugin_device *device = NULL;
  cs_device_properties p = {.struct_size = sizeof p};
  setenv("CONSORT_FAKE_CUDA", "mig=1,memory=10240,units=14", 1);
  f.logged[0] = '\0';
  assert_int_equal(f.devices->instance_create(&host, &instance, &error), CS_OK);
  assert_int_equal(f.devices->device_info(instance, 0, &p, &error), CS_OK);
  assert_int_equal(strncmp(p.uuid, "MIG-fafafafa-", 13), 0);
  assert_int_equal(p.memory_bytes, UINT64_C(10) << 30);
  assert_int_equal(p.concurrency, 14);
  assert_non_null(strstr(p.description, "MIG 1g.10gb (sm_80, 14 multiprocessors)"));
  assert_int_equal(f.devices->device_open(instance, 0, NULL, 0, 0, &device, &error), CS_OK);
  /* Memory is the instance's, the rest its GPU's. */
  assert_non_null(strstr(f.logged, "NVML: 5.00 GiB free, 37 % busy"));
  assert_int_equal(f.peers->peer_can_copy(device, f.device), 1); /* one and the same here */
  f.devices->device_close(device);
  f.devices->instance_destroy(instance);
}

static void a_gpu_in_mig_mode_without_an_instance_is_told(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_instance *instance = NULL;
  setenv("CONSORT_FAKE_CUDA", "mig=1,devices=0", 1);
  assert_int_equal(f.devices->instance_create(&host, &instance, &error), CS_NOT_FOUND);
  assert_non_null(strstr(error.message, "nvidia-smi mig -cgi"));
}

static void shared_memory_keeps_its_bytes_and_serves_ops(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = allocate(512), *import = NULL;
  cs_op op;
  cs_tensor operands[3];
  int64_t fd = -1;
  float x[64], out[64];
  for (int i = 0; i < 64; i++)
    x[i] = (float)i;
  make_add(&op, operands, memory);
  assert_int_equal(f.streams->stream_upload(f.stream, memory, 0, x, sizeof x, &error), CS_OK);
  assert_int_equal(finish(&error), CS_OK);
  assert_int_equal(f.external->memory_export(f.device, memory, CS_EXTERNAL_FD, &fd, &error), CS_OK);
  assert_int_equal(f.external->memory_import(f.device, CS_EXTERNAL_FD, fd, 512, &import, &error),
                   CS_OK);
  assert_int_equal(f.eager->ops_enqueue(f.stream, &op, 1, sizeof op, NULL, &error), CS_OK);
  assert_int_equal(f.streams->stream_download(f.stream, out, import, 256, sizeof out, &error),
                   CS_OK);
  assert_int_equal(finish(&error), CS_OK);
  for (int i = 0; i < 64; i++)
    assert_true(out[i] == 2 * x[i] &&
                ((float *)f.memory->memory_host_pointer(f.device, import))[64 + i] == out[i]);
  f.memory->memory_free(f.device, import);
  f.memory->memory_free(f.device, memory);
}

static void what_cannot_be_shared_stays_as_it_is(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = allocate(512);
  cs_plugin_program *program = NULL;
  cs_op op;
  cs_tensor operands[3];
  int64_t fd = -1;
  const long before = f.live_objects();
  break_driver("pin=1");
  assert_int_equal(f.external->memory_export(f.device, memory, CS_EXTERNAL_FD, &fd, &error),
                   CS_OUT_OF_MEMORY);
  assert_int_equal(f.live_objects(), before);
  make_add(&op, operands, memory);
  assert_int_equal(f.programs->program_create(f.device, &op, 1, sizeof op, NULL, &program, &error),
                   CS_OK);
  assert_int_equal(f.external->memory_export(f.device, memory, CS_EXTERNAL_FD, &fd, &error),
                   CS_UNSUPPORTED);
  assert_int_equal(fd, -1);
  assert_int_equal(f.programs->program_launch(f.stream, program, &error), CS_OK);
  assert_int_equal(finish(&error), CS_OK);
  f.programs->program_destroy(program);
  f.memory->memory_free(f.device, memory);
}

/* Two streams by one clock: what runs later is told to be later. */
static void ops_are_timed_by_the_device(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  cs_plugin_memory *memory = allocate(512);
  cs_plugin_stream *streams[2] = {f.stream, NULL};
  cs_op ops[3];
  cs_tensor operands[3][3];
  cs_op_time times[4], last = {.end_ns = 0};
  for (int i = 0; i < 3; i++)
    make_add(&ops[i], operands[i], memory);
  assert_int_equal(f.streams->stream_create(f.device, &streams[1], &error), CS_OK);
  break_driver("slow=2000");
  for (int round = 0; round < 4; round++) {
    cs_plugin_stream *stream = streams[round % 2];
    uint32_t n = 0;
    assert_int_equal(f.profile->stream_profile_enable(stream, 1, &error), CS_OK);
    assert_int_equal(f.eager->ops_enqueue(stream, ops, 3, sizeof ops[0], NULL, &error), CS_OK);
    assert_int_equal(f.streams->stream_signal(stream, f.semaphore, ++f.signalled, &error), CS_OK);
    assert_int_equal(f.semaphores->semaphore_wait(f.semaphore, f.signalled, WAIT_US, &error),
                     CS_OK);
    for (int i = 0; i < 4; i++)
      times[i] = (cs_op_time){.struct_size = sizeof times[i]};
    assert_int_equal(f.profile->stream_profile_read(stream, times, 4, sizeof times[0], &n, &error),
                     CS_OK);
    assert_int_equal(n, 3);
    for (int i = 0; i < 3; i++) {
      assert_true(times[i].begin_ns >= last.end_ns);
      assert_true(times[i].end_ns - times[i].begin_ns >= 1900000);
      last = times[i];
    }
  }
  f.streams->stream_destroy(streams[1]);
  f.memory->memory_free(f.device, memory);
}

static void times_without_events_are_an_error_of_the_list(void **state) {
  (void)state;
  cs_error error = CS_ERROR_INIT;
  broken_add add;
  assert_int_equal(f.profile->stream_profile_enable(f.stream, 1, &error), CS_OK);
  enqueue_broken(&add, "event=2");
  assert_int_equal(finish(&error), CS_OUT_OF_MEMORY);
  f.memory->memory_free(f.device, add.memory);
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(the_device_says_that_it_is_fake),
                                     TEST(unknown_options_are_refused),
                                     TEST(bytes_travel_by_way_of_pinned_memory),
                                     TEST(a_wait_may_come_before_its_signal),
                                     TEST(a_refused_launch_names_its_op),
                                     TEST(a_signal_before_the_failure_arrives),
                                     TEST(a_lost_device_is_told_and_stays_lost),
                                     TEST(exhausted_memory_does_no_lasting_harm),
                                     TEST(a_program_is_one_graph_and_repeats),
                                     TEST(two_devices_copy_to_each_other),
                                     TEST(figures_are_told_at_both_ends),
                                     TEST(figures_that_are_missing_are_left_out),
                                     TEST(a_mig_instance_is_a_device_of_its_own),
                                     TEST(a_gpu_in_mig_mode_without_an_instance_is_told),
                                     TEST(shared_memory_keeps_its_bytes_and_serves_ops),
                                     TEST(what_cannot_be_shared_stays_as_it_is),
                                     TEST(ops_are_timed_by_the_device),
                                     TEST(times_without_events_are_an_error_of_the_list),
                                     TEST(the_largest_of_long_rows_are_found)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
