/* The front door: names of devices, shared handles, and every check before a plugin is called. */
#include "core_harness.h"

#include "core/device_spec.h"

static cs_runtime *runtime;

static int open_runtime(void **state) {
  (void)state;
  runtime = harness_runtime("good");
  return 0;
}

static int close_runtime(void **state) {
  (void)state;
  cs_runtime_release(runtime);
  return 0;
}

/* ---- names ---- */

static void specs_are_read(void **state) {
  (void)state;
  cs_device_spec spec;
  assert_ok(cs_device_spec_parse("cpu", &spec, error));
  assert_string_equal(spec.name, "cpu");
  assert_int_equal(spec.index, 0);
  assert_null(spec.uuid);
  assert_ok(cs_device_spec_parse("my-chip:12?threads=2&path=a:b=c", &spec, error));
  assert_string_equal(spec.name, "my-chip");
  assert_int_equal(spec.index, 12);
  assert_int_equal(spec.n_options, 2);
  assert_string_equal(spec.options[0].key, "threads");
  assert_string_equal(spec.options[1].value, "a:b=c");
  assert_string_equal(spec.options_text, "threads=2&path=a:b=c");
  assert_ok(cs_device_spec_parse("x:GPU-12ab?y=", &spec, error));
  assert_string_equal(spec.uuid, "GPU-12ab");
  assert_string_equal(spec.options[0].value, "");
}

static void bad_specs_are_refused(void **state) {
  (void)state;
  cs_device_spec spec;
  char text[2048];
  memset(text, 'a', sizeof text);
  text[sizeof text - 1] = '\0';
  assert_fails(CS_INVALID_ARGUMENT, "begin with a name", cs_device_spec_parse("", &spec, error));
  assert_fails(CS_INVALID_ARGUMENT, "begin with a name", cs_device_spec_parse(":1", &spec, error));
  assert_fails(CS_INVALID_ARGUMENT, "no index", cs_device_spec_parse("cpu:", &spec, error));
  assert_fails(CS_INVALID_ARGUMENT, "out of range",
               cs_device_spec_parse("cpu:99999999", &spec, error));
  assert_fails(CS_INVALID_ARGUMENT, "option \"x\" is not",
               cs_device_spec_parse("cpu:0?x", &spec, error));
  assert_fails(CS_INVALID_ARGUMENT, "option \"=1\" is not",
               cs_device_spec_parse("cpu:0?=1", &spec, error));
  assert_fails(CS_INVALID_ARGUMENT, "\"a\" is given twice",
               cs_device_spec_parse("cpu:0?a=1&a=2", &spec, error));
  assert_fails(CS_INVALID_ARGUMENT, "at most", cs_device_spec_parse(text, &spec, error));
  assert_fails(CS_INVALID_ARGUMENT, "at most", cs_device_spec_parse(NULL, &spec, error));
}

static void an_unknown_device_names_what_there_is(void **state) {
  (void)state;
  cs_device *device = NULL;
  assert_fails(CS_NOT_FOUND,
               "no device \"foo:0\": there are fake:0, fake:1, recorded:0, recorded:1, twin:0",
               cs_device_open(runtime, "foo:0", &device, error));
  assert_fails(CS_NOT_FOUND, "no device \"fake:2\"",
               cs_device_open(runtime, "fake:2", &device, error));
  assert_fails(CS_NOT_FOUND, "no device \"fake:FAKE-x\"",
               cs_device_open(runtime, "fake:FAKE-x", &device, error));
  assert_null(device);
}

static void an_unknown_option_is_refused_by_name(void **state) {
  (void)state;
  cs_device *device = NULL;
  assert_fails(CS_INVALID_ARGUMENT, "fake:0: unknown option colour",
               cs_device_open(runtime, "fake:0?colour=red", &device, error));
}

static void the_same_device_is_opened_once(void **state) {
  (void)state;
  cs_device *first = harness_device(runtime, "fake:1");
  cs_device *by_uuid = harness_device(runtime, "fake:FAKE-0001-bb");
  cs_device *other = harness_device(runtime, "fake:0");
  cs_device *other_options = harness_device(runtime, "fake:1?delay_us=1");
  assert_ptr_equal(first, by_uuid);
  assert_ptr_not_equal(first, other);
  assert_ptr_not_equal(first, other_options);
  assert_string_equal(cs_device_name(first), "fake:1");
  assert_int_equal(cs_device_get_properties(first)->tensor_align, 64);
  assert_true(cs_device_has_eager(first));
  assert_false(cs_device_has_program(first));
  assert_true(cs_device_has_table(first, CS_TABLE_EAGER));
  assert_false(cs_device_has_table(first, CS_TABLE_PEER));
  cs_device_release(first);
  cs_device_release(by_uuid);
  cs_device_release(other);
  cs_device_release(other_options);
}

static void a_device_keeps_the_runtime_alive(void **state) {
  (void)state;
  cs_runtime *own = harness_runtime("good");
  cs_device *device = harness_device(own, "fake");
  cs_runtime_release(own);
  cs_stream *stream = NULL;
  assert_ok(cs_stream_create(device, &stream, error));
  cs_device_release(device);
  assert_ok(cs_stream_synchronize(stream, 1000000, error));
  cs_stream_destroy(stream);
}

static void a_kv_block_has_at_least_sixteen_tokens(void **state) {
  (void)state;
  cs_device *device = harness_device(runtime, "fake:0");
  uint32_t layout = 0, block_tokens = 0;
  assert_ok(cs_device_kv_preference(device, CS_DTYPE_F32, 4, 64, &layout, &block_tokens, error));
  assert_int_equal(layout, CS_LAYOUT_KV_TOKEN_MAJOR);
  assert_int_equal(block_tokens, 16);
  cs_device_release(device);
}

/* ---- memory and copies ---- */

typedef struct desk {
  cs_device *device;
  cs_stream *stream;
  cs_buffer *buffer; /* 4096 bytes */
} desk;

static desk open_desk(const char *spec) {
  desk d = {.device = harness_device(runtime, spec)};
  assert_ok(cs_stream_create(d.device, &d.stream, error));
  assert_ok(cs_buffer_create(d.device, 4096, CS_MEMORY_DEVICE, &d.buffer, error));
  return d;
}

static void close_desk(desk *d) {
  cs_stream_destroy(d->stream);
  cs_buffer_destroy(d->buffer);
  cs_device_release(d->device);
}

static void bytes_make_the_round_trip(void **state) {
  (void)state;
  desk d = open_desk("fake:0");
  uint8_t from[1000], to[1000] = {0};
  for (size_t i = 0; i < sizeof from; i++)
    from[i] = (uint8_t)(i * 7);
  assert_ok(cs_stream_fill(d.stream, d.buffer, 0, 4096, 0xab, error));
  assert_ok(cs_stream_upload(d.stream, d.buffer, 100, from, sizeof from, error));
  assert_ok(cs_stream_copy(d.stream, d.buffer, 2000, d.buffer, 100, 1000, error));
  assert_ok(cs_stream_download(d.stream, to, d.buffer, 2000, sizeof to, error));
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  assert_memory_equal(from, to, sizeof to);
  const uint8_t *host = cs_buffer_host_pointer(d.buffer);
  assert_int_equal(host[99], 0xab);
  assert_int_equal(host[3000], 0xab);
  close_desk(&d);
}

static void ranges_outside_a_buffer_are_refused(void **state) {
  (void)state;
  desk d = open_desk("fake:0");
  uint8_t host[16];
  assert_fails(CS_OUT_OF_RANGE, "of a buffer of 4096",
               cs_stream_upload(d.stream, d.buffer, 4090, host, 7, error));
  assert_fails(CS_OUT_OF_RANGE, "fake:0",
               cs_stream_download(d.stream, host, d.buffer, UINT64_MAX, 2, error));
  assert_fails(CS_OUT_OF_RANGE, "fake:0",
               cs_stream_fill(d.stream, d.buffer, 1, UINT64_MAX, 0, error));
  assert_fails(CS_INVALID_ARGUMENT, "overlap",
               cs_stream_copy(d.stream, d.buffer, 0, d.buffer, 10, 11, error));
  assert_fails(CS_INVALID_ARGUMENT, "without",
               cs_stream_upload(d.stream, d.buffer, 0, host, 0, error));
  assert_fails(CS_INVALID_ARGUMENT, "nowhere",
               cs_stream_upload(d.stream, d.buffer, 0, NULL, 1, error));
  assert_fails(CS_INVALID_ARGUMENT, "without", cs_stream_upload(d.stream, NULL, 0, host, 1, error));
  assert_fails(CS_INVALID_ARGUMENT, "without", cs_stream_upload(NULL, d.buffer, 0, host, 1, error));
  close_desk(&d);
}

static void handles_of_another_device_are_refused(void **state) {
  (void)state;
  desk a = open_desk("fake:0"), b = open_desk("fake:1");
  uint8_t host[16];
  cs_semaphore *semaphore = NULL;
  assert_ok(cs_semaphore_create(b.device, 0, &semaphore, error));
  assert_fails(CS_INVALID_ARGUMENT, "buffer of another device",
               cs_stream_upload(a.stream, b.buffer, 0, host, 1, error));
  assert_fails(CS_INVALID_ARGUMENT, "buffer of another device",
               cs_stream_copy(a.stream, a.buffer, 0, b.buffer, 0, 1, error));
  assert_fails(CS_INVALID_ARGUMENT, "semaphore of another device",
               cs_stream_wait(a.stream, semaphore, 1, error));
  assert_fails(CS_INVALID_ARGUMENT, "semaphore of another device",
               cs_stream_signal(a.stream, semaphore, 1, error));
  cs_semaphore_release(semaphore);
  close_desk(&a);
  close_desk(&b);
}

static void impossible_buffers_are_refused(void **state) {
  (void)state;
  cs_device *device = harness_device(runtime, "fake:0");
  cs_buffer *buffer = NULL;
  assert_fails(CS_INVALID_ARGUMENT, "0 bytes", cs_buffer_create(device, 0, 0, &buffer, error));
  assert_fails(CS_INVALID_ARGUMENT, "kind 9", cs_buffer_create(device, 8, 9, &buffer, error));
  assert_fails(CS_OUT_OF_MEMORY, "fake:0: too much",
               cs_buffer_create(device, UINT64_C(1) << 50, 0, &buffer, error));
  assert_null(buffer);
  cs_device_release(device);
}

static void host_memory_stands_in_for_staging(void **state) {
  (void)state;
  desk d = open_desk("fake:0?staging=0");
  cs_buffer *staging = NULL;
  assert_ok(cs_buffer_create(d.device, 4096, CS_MEMORY_STAGING, &staging, error));
  assert_null(cs_buffer_memory(staging));
  assert_null(cs_buffer_host_pointer(d.buffer));
  uint8_t *host = cs_buffer_host_pointer(staging);
  memset(host, 0x5a, 4096);
  assert_ok(cs_stream_copy(d.stream, d.buffer, 0, staging, 0, 2048, error));
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  memset(host, 0, 4096);
  assert_ok(cs_stream_copy(d.stream, staging, 2048, d.buffer, 0, 2048, error));
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  assert_int_equal(host[2047], 0);
  assert_int_equal(host[2048], 0x5a);
  assert_fails(CS_UNSUPPORTED, "two buffers of host memory",
               cs_stream_copy(d.stream, staging, 0, staging, 2048, 10, error));
  assert_fails(CS_INVALID_ARGUMENT, "host memory",
               cs_stream_fill(d.stream, staging, 0, 10, 0, error));
  cs_buffer_destroy(staging);
  close_desk(&d);
}

/* ---- weights ---- */

static void weights_are_packed_or_refused(void **state) {
  (void)state;
  cs_device *device = harness_device(runtime, "fake:0");
  const float data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const cs_weight_part part = {sizeof part, CS_DTYPE_F32, data, sizeof data};
  cs_weight weight = {.struct_size = sizeof weight,
                      .source = CS_WEIGHT_GGUF,
                      .dtype = CS_DTYPE_F32,
                      .usage = CS_USAGE_MATMUL,
                      .rank = 2,
                      .n_parts = 1,
                      .part_stride = sizeof part,
                      .dims = {2, 4},
                      .parts = &part};
  cs_buffer *buffer = NULL;
  cs_packed_info info = {0};
  assert_ok(cs_buffer_create_packed(device, &weight, &buffer, &info, error));
  assert_int_equal(cs_buffer_bytes(buffer), 32);
  assert_int_equal(info.bytes, 32);
  cs_buffer_destroy(buffer);
  weight.dims[0] = 3;
  assert_fails(CS_INVALID_ARGUMENT, "fewer bytes",
               cs_buffer_create_packed(device, &weight, &buffer, &info, error));
  weight.dims[0] = UINT64_MAX;
  assert_fails(CS_INVALID_ARGUMENT, "overflow",
               cs_buffer_create_packed(device, &weight, &buffer, &info, error));
  weight.dims[0] = 2;
  weight.usage = 0;
  assert_fails(CS_INVALID_ARGUMENT, "no usage",
               cs_buffer_create_packed(device, &weight, &buffer, &info, error));
  weight.usage = CS_USAGE_GATHER;
  weight.rank = 1;
  assert_fails(CS_INVALID_ARGUMENT, "rank",
               cs_buffer_create_packed(device, &weight, &buffer, &info, error));
  assert_null(buffer);
  cs_device_release(device);
}

/* ---- ops ---- */

/* out = a + b over three rows of four floats at bytes 0, 256 and 512 of the desk's buffer. */
static cs_op add_op(desk *d, cs_tensor tensors[3]) {
  for (size_t i = 0; i < 3; i++) {
    tensors[i] = (cs_tensor){.struct_size = sizeof tensors[i],
                             .dtype = CS_DTYPE_F32,
                             .rank = 2,
                             .memory = cs_buffer_memory(d->buffer),
                             .offset_bytes = i * 256,
                             .dims = {3, 4}};
  }
  return (cs_op){.struct_size = sizeof(cs_op),
                 .id = CS_OP_ADD,
                 .n_operands = 3,
                 .operand_stride = sizeof(cs_tensor),
                 .operands = tensors};
}

static void add_runs_on(const char *spec) {
  desk d = open_desk(spec);
  cs_tensor tensors[3];
  const cs_op op = add_op(&d, tensors);
  float a[12], sum[12];
  for (int i = 0; i < 12; i++)
    a[i] = (float)i;
  assert_ok(cs_stream_upload(d.stream, d.buffer, 256, a, sizeof a, error));
  assert_ok(cs_stream_upload(d.stream, d.buffer, 512, a, sizeof a, error));
  for (int round = 0; round < 5; round++)
    assert_ok(cs_stream_ops(d.stream, &op, 1, NULL, error));
  assert_ok(cs_stream_download(d.stream, sum, d.buffer, 0, sizeof sum, error));
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  for (int i = 0; i < 12; i++)
    assert_true(sum[i] == 2.0f * (float)i);
  close_desk(&d);
}

static void ops_run_eagerly(void **state) {
  (void)state;
  add_runs_on("fake:0");
}

static void ops_run_on_a_device_that_only_records(void **state) {
  (void)state;
  add_runs_on("recorded:0");
}

static void programs_run_again_and_again(void **state) {
  (void)state;
  desk d = open_desk("twin:0");
  cs_tensor tensors[3];
  cs_op op = add_op(&d, tensors);
  tensors[1].offset_bytes = 0; /* out = out + b */
  cs_program *program = NULL;
  float one[12], sum[12];
  for (int i = 0; i < 12; i++)
    one[i] = 1.0f;
  assert_ok(cs_program_create(d.device, &op, 1, NULL, &program, error));
  assert_ok(cs_stream_fill(d.stream, d.buffer, 0, 256, 0, error));
  assert_ok(cs_stream_upload(d.stream, d.buffer, 512, one, sizeof one, error));
  for (int round = 0; round < 7; round++)
    assert_ok(cs_program_launch(d.stream, program, error));
  assert_ok(cs_stream_download(d.stream, sum, d.buffer, 0, sizeof sum, error));
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  for (int i = 0; i < 12; i++)
    assert_true(sum[i] == 7.0f);
  cs_program_destroy(program);
  close_desk(&d);
  desk other = open_desk("fake:0");
  assert_fails(CS_UNSUPPORTED, "records no programs",
               cs_program_create(other.device, &op, 1, NULL, &program, error));
  close_desk(&other);
}

static void broken_ops_never_reach_the_plugin(void **state) {
  (void)state;
  desk d = open_desk("fake:0");
  cs_tensor t[3];
  const cs_op good = add_op(&d, t);
  cs_op op = good;
#define REFUSED(text)                                                                              \
  assert_fails(CS_INVALID_ARGUMENT, text, cs_stream_ops(d.stream, &op, 1, NULL, error));           \
  op = add_op(&d, t)
  op.id = 12345;
  REFUSED("unknown id");
  op.n_operands = 2;
  REFUSED("wrong number of operands");
  op.operand_stride = 8;
  REFUSED("no operands");
  op.struct_size = 8;
  REFUSED("struct_size");
  t[1].dtype = CS_DTYPE_NONE;
  REFUSED("op 0 add: operand 1 is missing");
  t[2].dtype = CS_DTYPE_NONE;
  REFUSED("op 0 add: operand 2 is missing");
  t[2].rank = 5;
  REFUSED("operand 2 has a rank");
  t[0].dims[1] = 0;
  REFUSED("empty dimension");
  t[0].dims[0] = UINT64_MAX / 2;
  REFUSED("overflow");
  t[0].offset_bytes = 4;
  REFUSED("tensor_align");
  t[0].memory = NULL;
  REFUSED("no memory");
  t[0].layout = 77;
  REFUSED("unknown layout");
  t[0].dtype = 31;
  REFUSED("unknown dtype");
  op.id = CS_OP_ROPE;
  op.n_operands = 4;
  REFUSED("no parameters");
#undef REFUSED
  assert_fails(CS_INVALID_ARGUMENT, "list of 0", cs_stream_ops(d.stream, &op, 0, NULL, error));
  close_desk(&d);
}

static void a_failed_op_poisons_the_stream(void **state) {
  (void)state;
  desk d = open_desk("fake:0?fail_op=2");
  cs_tensor t[3];
  const cs_op op = add_op(&d, t);
  const cs_op ops[3] = {op, op, op};
  cs_semaphore *semaphore = NULL;
  assert_ok(cs_semaphore_create(d.device, 0, &semaphore, error));
  assert_ok(cs_stream_ops(d.stream, ops, 3, NULL, error));
  assert_ok(cs_stream_signal(d.stream, semaphore, 1, error));
  cs_error failure = CS_ERROR_INIT;
  assert_int_equal(cs_semaphore_wait(semaphore, 1, 10000000, &failure), CS_FAILED);
  assert_int_equal(failure.op_index, 1);
  assert_int_equal(failure.vendor_code, 42);
  assert_string_equal(failure.message, "fake:0: injected");
  cs_semaphore_release(semaphore);
  close_desk(&d);
}

static void a_lost_device_stays_lost(void **state) {
  (void)state;
  desk d = open_desk("fake:0?lost_op=1");
  cs_tensor t[3];
  const cs_op op = add_op(&d, t);
  assert_ok(cs_stream_ops(d.stream, &op, 1, NULL, error));
  assert_fails(CS_DEVICE_LOST, "injected", cs_stream_synchronize(d.stream, 10000000, error));
  assert_fails(CS_DEVICE_LOST, "the device is lost", cs_stream_ops(d.stream, &op, 1, NULL, error));
  cs_buffer *buffer = NULL;
  assert_fails(CS_DEVICE_LOST, "the device is lost",
               cs_buffer_create(d.device, 10, 0, &buffer, error));
  cs_device *again = harness_device(runtime, "fake:0?lost_op=1");
  assert_ptr_not_equal(again, d.device);
  cs_device_release(again);
  close_desk(&d);
}

static void a_deadline_leaves_the_work_running(void **state) {
  (void)state;
  harness_hang hang = harness_hang_open("fake:0?hang_op=1&hang_fd=");
  desk d = open_desk(hang.spec);
  cs_tensor t[3];
  const cs_op op = add_op(&d, t);
  assert_ok(cs_stream_ops(d.stream, &op, 1, NULL, error));
  assert_fails(CS_TIMEOUT, "", cs_stream_synchronize(d.stream, 20000, error));
  harness_hang_end(&hang);
  assert_ok(cs_stream_synchronize(d.stream, 10000000, error));
  close_desk(&d);
  harness_hang_close(&hang);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(specs_are_read),
      cmocka_unit_test(bad_specs_are_refused),
      cmocka_unit_test(an_unknown_device_names_what_there_is),
      cmocka_unit_test(an_unknown_option_is_refused_by_name),
      cmocka_unit_test(the_same_device_is_opened_once),
      cmocka_unit_test(a_device_keeps_the_runtime_alive),
      cmocka_unit_test(a_kv_block_has_at_least_sixteen_tokens),
      cmocka_unit_test(bytes_make_the_round_trip),
      cmocka_unit_test(ranges_outside_a_buffer_are_refused),
      cmocka_unit_test(handles_of_another_device_are_refused),
      cmocka_unit_test(impossible_buffers_are_refused),
      cmocka_unit_test(host_memory_stands_in_for_staging),
      cmocka_unit_test(weights_are_packed_or_refused),
      cmocka_unit_test(ops_run_eagerly),
      cmocka_unit_test(ops_run_on_a_device_that_only_records),
      cmocka_unit_test(programs_run_again_and_again),
      cmocka_unit_test(broken_ops_never_reach_the_plugin),
      cmocka_unit_test(a_failed_op_poisons_the_stream),
      cmocka_unit_test(a_lost_device_stays_lost),
      cmocka_unit_test(a_deadline_leaves_the_work_running),
  };
  return cmocka_run_group_tests(tests, open_runtime, close_runtime);
}
