/* The SDK's ready tables over a chip that only counts: what a plugin gets from cs_sdk_driver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "consort/sdk_driver.h"
#include "sdk_host.h"

#define WAIT_US UINT64_C(20000000)

typedef struct chip_record {
  uint32_t n_started, n_finished;
  uint32_t n_run; /* ops that ran */
  uint32_t n_prepared, n_replayed, n_discarded;
  uint32_t n_created, n_launched, n_destroyed; /* the chip's own programs */
  uint32_t n_drained;
  uint32_t n_drained_before_destroy;
  uint32_t fail_at; /* the op index at which run fails; UINT32_MAX: none */
} chip_record;

struct cs_plugin_device {
  cs_sdk_device sdk;
  chip_record record;
};

struct cs_plugin_stream {
  cs_sdk_stream sdk;
  chip_record *record;
};

struct cs_plugin_memory {
  const cs_plugin_device *device;
  uint8_t bytes[64];
};

/* ---- the chip ---- */

static cs_status start(cs_plugin_stream *stream, cs_error *error) {
  (void)error;
  stream->record = &stream->sdk.device->record;
  stream->record->n_started++;
  return CS_OK;
}

static void finish(cs_plugin_stream *stream) {
  stream->record->n_finished++;
}

static cs_status drain(cs_plugin_stream *stream, cs_error *error) {
  (void)error;
  stream->record->n_drained++;
  return CS_OK;
}

static cs_status check_range(const cs_plugin_device *device, const cs_plugin_memory *memory,
                             uint64_t offset, uint64_t bytes, cs_error *error) {
  if (memory->device == device && offset <= 64 && bytes <= 64 - offset) return CS_OK;
  return cs_sdk_error(error, CS_OUT_OF_RANGE, 0, "not in this memory");
}

static cs_status move(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  (void)stream;
  (void)error;
  memcpy(copy->to ? copy->to->bytes + copy->to_offset : copy->host_to,
         copy->from ? copy->from->bytes + copy->from_offset : copy->host_from, copy->bytes);
  return CS_OK;
}

static cs_status fill(cs_plugin_stream *stream, const cs_sdk_copy *copy, cs_error *error) {
  (void)stream;
  (void)error;
  memset(copy->to->bytes + copy->to_offset, copy->value, copy->bytes);
  return CS_OK;
}

static cs_status judge(cs_plugin_device *device, const cs_op *op, cs_op_answer *answer,
                       cs_error *error) {
  (void)device;
  (void)error;
  if (op->id == CS_OP_ADD) answer->support = CS_SUPPORT_NATIVE;
  return CS_OK;
}

static cs_status prepare(cs_plugin_device *device, const cs_sdk_ops *ops,
                         cs_plugin_memory *workspace, uint32_t replayed, void **work,
                         cs_error *error) {
  (void)workspace;
  for (uint32_t i = 0; i < ops->n_ops; i++)
    if (ops->ops[i].id != CS_OP_ADD)
      return cs_sdk_error(error, CS_UNSUPPORTED, 0, "%s", cs_sdk_op_name(ops->ops[i].id));
  device->record.n_prepared++;
  device->record.n_replayed += replayed;
  *work = &device->record;
  return CS_OK;
}

static cs_status run(cs_plugin_stream *stream, const cs_sdk_ops *ops, cs_plugin_memory *workspace,
                     void *work, cs_error *error) {
  (void)workspace;
  assert_ptr_equal(work, stream->record);
  for (uint32_t i = 0; i < ops->n_ops; i++, stream->record->n_run++) {
    cs_sdk_op_log_end(stream->sdk.log, ops->ops[i].id, cs_sdk_op_log_begin(stream->sdk.log));
    if (i != stream->record->fail_at) continue;
    cs_sdk_error(error, CS_FAILED, 7, "op %u broke", i);
    error->op_index = (int32_t)i;
    return CS_FAILED;
  }
  return CS_OK;
}

static void discard(void *work) {
  chip_record *record = work;
  record->n_discarded++;
}

#define CHIP_COPIES                                                                                \
  .stream_bytes = sizeof(cs_plugin_stream), .start = start, .finish = finish, .drain = drain,      \
  .check_range = check_range, .upload = move, .download = move, .copy = move, .fill = fill,        \
  .judge = judge

static const cs_sdk_driver prepared = {CHIP_COPIES, .prepare = prepare, .run = run,
                                       .discard = discard};

/* A chip with programs of its own; a handle is the number of ops. */
static cs_status own_create(cs_plugin_device *device, const cs_op *ops, uint32_t n_ops,
                            uint32_t op_stride, cs_plugin_memory *workspace,
                            cs_plugin_program **out, cs_error *error) {
  (void)ops;
  (void)op_stride;
  (void)workspace;
  (void)error;
  device->record.n_created++;
  *out = (cs_plugin_program *)(uintptr_t)n_ops;
  return CS_OK;
}

static chip_record *destroyed_on; /* a handle of this chip does not lead to its device */

static void own_destroy(cs_plugin_program *program) {
  (void)program;
  destroyed_on->n_destroyed++;
  destroyed_on->n_drained_before_destroy = destroyed_on->n_drained;
}

static cs_status own_launched(void *context, void *payload, cs_error *error) {
  cs_plugin_stream *stream = context;
  const uint32_t n_ops = *(const uint32_t *)payload;
  if (stream->record->fail_at < n_ops) return cs_sdk_error(error, CS_FAILED, 7, "the list broke");
  stream->record->n_run += n_ops;
  return CS_OK;
}

static cs_status own_launch(cs_plugin_stream *stream, cs_plugin_program *program, cs_error *error) {
  const uint32_t n_ops = (uint32_t)(uintptr_t)program;
  stream->record->n_launched++;
  return cs_sdk_queue_push(stream->sdk.queue, own_launched, &n_ops, sizeof n_ops, error);
}

static const cs_program_table own_programs = {.struct_size = sizeof own_programs,
                                              .program_create = own_create,
                                              .program_destroy = own_destroy,
                                              .program_launch = own_launch};
static const cs_sdk_driver with_programs = {CHIP_COPIES, .program = &own_programs};

/* A chip with eager ops of its own. */
static cs_status own_enqueue(cs_plugin_stream *stream, const cs_op *ops, uint32_t n_ops,
                             uint32_t op_stride, cs_plugin_memory *workspace, cs_error *error) {
  (void)workspace;
  for (uint32_t i = 0; i < n_ops; i++) {
    const cs_op *op = (const cs_op *)(const void *)((const uint8_t *)ops + (size_t)i * op_stride);
    assert_int_equal(op->id, CS_OP_ADD);
    assert_int_equal(op->operands[0].dims[0], i + 1);
  }
  stream->record->n_launched++;
  return cs_sdk_queue_push(stream->sdk.queue, own_launched, &n_ops, sizeof n_ops, error);
}

static const cs_eager_table own_eager = {.struct_size = sizeof own_eager,
                                         .ops_enqueue = own_enqueue};
static const cs_sdk_driver with_eager = {CHIP_COPIES, .eager = &own_eager};

/* ---- the host's side ---- */

typedef struct rig {
  cs_plugin_device device;
  cs_plugin_stream *stream;
  cs_plugin_semaphore *done;
  uint64_t value;
  cs_op ops[3];
  cs_tensor operands[3][3];
} rig;

static void rig_open(rig *r, const cs_sdk_driver *driver) {
  memset(r, 0, sizeof *r);
  r->device.sdk = (cs_sdk_device){.host = &test_host, .driver = driver};
  r->device.record.fail_at = UINT32_MAX;
  destroyed_on = &r->device.record;
  assert_int_equal(cs_sdk_stream_table.stream_create(&r->device, &r->stream, NULL), CS_OK);
  assert_int_equal(cs_sdk_semaphore_table.semaphore_create(&r->device, 0, &r->done, NULL), CS_OK);
  for (uint32_t i = 0; i < 3; i++) {
    for (uint32_t j = 0; j < 3; j++)
      r->operands[i][j] = (cs_tensor){
          .struct_size = sizeof(cs_tensor), .dtype = CS_DTYPE_F32, .rank = 2, .dims = {i + 1, 4}};
    r->ops[i] = (cs_op){.struct_size = sizeof(cs_op),
                        .id = CS_OP_ADD,
                        .n_operands = 3,
                        .operand_stride = sizeof(cs_tensor),
                        .operands = r->operands[i]};
  }
}

static void rig_close(rig *r) {
  cs_sdk_stream_table.stream_destroy(r->stream);
  cs_sdk_semaphore_table.semaphore_destroy(r->done);
  assert_int_equal(r->device.record.n_started, 1);
  assert_int_equal(r->device.record.n_finished, 1);
}

static cs_status enqueue(rig *r, cs_error *error) {
  return cs_sdk_eager_table.ops_enqueue(r->stream, r->ops, 3, sizeof r->ops[0], NULL, error);
}

/* Signals behind what was enqueued and waits for that. */
static cs_status settle(rig *r, cs_error *error) {
  assert_int_equal(cs_sdk_stream_table.stream_signal(r->stream, r->done, ++r->value, NULL), CS_OK);
  return cs_sdk_semaphore_table.semaphore_wait(r->done, r->value, WAIT_US, error);
}

/* ---- tests ---- */

static void copies_keep_their_order_and_their_ranges(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &prepared);
  cs_plugin_memory a = {.device = &r.device}, b = {.device = &r.device}, strange = {0};
  const char text[] = "consort";
  char back[sizeof text] = "";
  assert_int_equal(cs_sdk_stream_table.stream_fill(r.stream, &a, 0, 64, 0x11, NULL), CS_OK);
  assert_int_equal(cs_sdk_stream_table.stream_upload(r.stream, &a, 8, text, sizeof text, NULL),
                   CS_OK);
  assert_int_equal(cs_sdk_stream_table.stream_copy(r.stream, &b, 16, &a, 8, sizeof text, NULL),
                   CS_OK);
  assert_int_equal(cs_sdk_stream_table.stream_download(r.stream, back, &b, 16, sizeof text, NULL),
                   CS_OK);
  assert_int_equal(settle(&r, NULL), CS_OK);
  assert_string_equal(back, text);
  assert_int_equal(a.bytes[7], 0x11);
  assert_int_equal(cs_sdk_stream_table.stream_fill(r.stream, &a, 60, 5, 0, NULL), CS_OUT_OF_RANGE);
  assert_int_equal(cs_sdk_stream_table.stream_copy(r.stream, &a, 0, &strange, 0, 4, NULL),
                   CS_OUT_OF_RANGE);
  rig_close(&r);
}

static void a_semaphore_of_another_device_is_refused(void **state) {
  (void)state;
  rig r, other;
  rig_open(&r, &prepared);
  rig_open(&other, &prepared);
  assert_int_equal(cs_sdk_stream_table.stream_wait(r.stream, other.done, 1, NULL),
                   CS_INVALID_ARGUMENT);
  assert_int_equal(cs_sdk_stream_table.stream_signal(r.stream, other.done, 1, NULL),
                   CS_INVALID_ARGUMENT);
  cs_plugin_program *program = NULL;
  assert_int_equal(cs_sdk_program_table.program_create(&other.device, r.ops, 3, sizeof r.ops[0],
                                                       NULL, &program, NULL),
                   CS_OK);
  assert_int_equal(cs_sdk_program_table.program_launch(r.stream, program, NULL),
                   CS_INVALID_ARGUMENT);
  cs_sdk_program_table.program_destroy(program);
  rig_close(&r);
  rig_close(&other);
}

static void a_prepared_list_runs_once_or_often_and_is_discarded_once(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &prepared);
  const chip_record *record = &r.device.record;
  assert_int_equal(enqueue(&r, NULL), CS_OK);
  assert_int_equal(settle(&r, NULL), CS_OK);
  assert_int_equal(record->n_run, 3);
  assert_int_equal(record->n_replayed, 0);

  cs_plugin_program *program = NULL;
  assert_int_equal(cs_sdk_program_table.program_create(&r.device, r.ops, 2, sizeof r.ops[0], NULL,
                                                       &program, NULL),
                   CS_OK);
  for (int i = 0; i < 4; i++)
    assert_int_equal(cs_sdk_program_table.program_launch(r.stream, program, NULL), CS_OK);
  cs_sdk_program_table.program_destroy(program); /* the stream still has it */
  assert_int_equal(settle(&r, NULL), CS_OK);
  assert_int_equal(record->n_run, 3 + 4 * 2);
  assert_int_equal(record->n_prepared, 2);
  assert_int_equal(record->n_replayed, 1);
  rig_close(&r);
  assert_int_equal(record->n_discarded, 2);
}

static void a_refused_list_is_told_at_once(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &prepared);
  r.ops[1].id = CS_OP_SILU_MUL;
  assert_int_equal(enqueue(&r, NULL), CS_UNSUPPORTED);
  assert_int_equal(settle(&r, NULL), CS_OK); /* and does no harm */
  assert_int_equal(r.device.record.n_run, 0);
  rig_close(&r);
}

static void a_failing_op_poisons_with_its_index_after_a_drain(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &prepared);
  r.device.record.fail_at = 1;
  assert_int_equal(enqueue(&r, NULL), CS_OK);
  cs_error error = CS_ERROR_INIT;
  assert_int_equal(settle(&r, &error), CS_FAILED);
  assert_int_equal(error.op_index, 1);
  assert_int_equal(error.vendor_code, 7);
  assert_int_equal(r.device.record.n_drained, 1);
  rig_close(&r);
  assert_int_equal(r.device.record.n_discarded, 1);
}

static void eager_ops_are_derived_from_programs(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &with_programs);
  const chip_record *record = &r.device.record;
  for (int i = 0; i < 3; i++)
    assert_int_equal(enqueue(&r, NULL), CS_OK);
  assert_int_equal(settle(&r, NULL), CS_OK);
  assert_int_equal(record->n_run, 9);
  assert_int_equal(record->n_created, 3);
  assert_int_equal(record->n_launched, 3);
  rig_close(&r);
  assert_int_equal(record->n_destroyed, 3);
  assert_true(record->n_drained_before_destroy >= 3);
}

static void a_derived_program_is_destroyed_when_its_launch_fails(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &with_programs);
  r.device.record.fail_at = 0;
  assert_int_equal(enqueue(&r, NULL), CS_OK);
  assert_int_equal(settle(&r, NULL), CS_FAILED);
  assert_int_equal(enqueue(&r, NULL), CS_FAILED); /* the poison, told by the launch */
  rig_close(&r);
  assert_int_equal(r.device.record.n_created, 2);
  assert_int_equal(r.device.record.n_destroyed, 2);
}

static void programs_are_derived_from_eager_ops(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &with_eager);
  cs_plugin_program *program = NULL;
  assert_int_equal(cs_sdk_program_table.program_create(&r.device, r.ops, 3, sizeof r.ops[0], NULL,
                                                       &program, NULL),
                   CS_OK);
  memset(r.ops, 0, sizeof r.ops); /* descriptors are copied */
  memset(r.operands, 0, sizeof r.operands);
  for (int i = 0; i < 5; i++)
    assert_int_equal(cs_sdk_program_table.program_launch(r.stream, program, NULL), CS_OK);
  assert_int_equal(settle(&r, NULL), CS_OK);
  cs_sdk_program_table.program_destroy(program);
  assert_int_equal(r.device.record.n_launched, 5);
  assert_int_equal(r.device.record.n_run, 15);
  rig_close(&r);
}

static void ops_are_timed_while_that_is_on(void **state) {
  (void)state;
  rig r;
  cs_op_time times[4];
  uint32_t n = 9;
  rig_open(&r, &prepared);
  for (int i = 0; i < 4; i++)
    times[i] = (cs_op_time){.struct_size = sizeof times[i]};
  assert_int_equal(enqueue(&r, NULL), CS_OK);
  assert_int_equal(settle(&r, NULL), CS_OK);
  cs_sdk_profile_table.stream_profile_enable(r.stream, 1, NULL);
  for (int i = 0; i < 300; i++) /* the log grows */
    assert_int_equal(enqueue(&r, NULL), CS_OK);
  assert_int_equal(settle(&r, NULL), CS_OK);
  cs_sdk_profile_table.stream_profile_enable(r.stream, 0, NULL);
  assert_int_equal(enqueue(&r, NULL), CS_OK);
  assert_int_equal(settle(&r, NULL), CS_OK);
  uint32_t total = 0;
  for (uint64_t last_ns = 0; n > 0; total += n) {
    cs_sdk_profile_table.stream_profile_read(r.stream, times, 4, sizeof times[0], &n, NULL);
    for (uint32_t i = 0; i < n; last_ns = times[i++].end_ns) {
      assert_int_equal(times[i].op_id, CS_OP_ADD);
      assert_true(times[i].begin_ns >= last_ns && times[i].end_ns >= times[i].begin_ns);
    }
  }
  assert_int_equal(total, 900);
  rig_close(&r);
}

static void a_query_from_a_newer_host_is_answered_no(void **state) {
  (void)state;
  rig r;
  rig_open(&r, &prepared);
  cs_op_answer answer = {.struct_size = sizeof answer};
  assert_int_equal(cs_sdk_op_query(&r.device, &r.ops[0], &answer, NULL), CS_OK);
  assert_int_equal(answer.support, CS_SUPPORT_NATIVE);
  r.ops[0].id = CS_OP_LIMIT + 3;
  assert_int_equal(cs_sdk_op_query(&r.device, &r.ops[0], &answer, NULL), CS_OK);
  assert_int_equal(answer.support, CS_SUPPORT_NO);
  assert_string_not_equal(answer.reason, "");
  rig_close(&r);
}

static void operand_checks_say_what_is_wrong(void **state) {
  (void)state;
  char reason[CS_SDK_REASON_BYTES] = "";
  cs_tensor t = {.struct_size = sizeof t,
                 .dtype = CS_DTYPE_F32,
                 .rank = 2,
                 .row_stride_bytes = 32,
                 .dims = {3, 4}};
  const uint64_t f32 = CS_DTYPE_BIT(CS_DTYPE_F32);
  assert_true(cs_sdk_check_tensor(&t, "x", f32, 3, 4, reason));
  assert_true(cs_sdk_check_window(&t, "x", 2 * 32 + 16, reason));
  assert_false(cs_sdk_check_window(&t, "x", 2 * 32 + 15, reason));
  assert_string_equal(reason, "x ends outside its memory");
  assert_false(cs_sdk_check_vector(&t, "x", f32, 12, reason));
  assert_string_equal(reason, "x is not contiguous");
  assert_false(cs_sdk_check_tensor(&t, "x", f32, 4, 4, reason));
  assert_false(cs_sdk_check_tensor(&t, "x", CS_DTYPE_BIT(CS_DTYPE_F16), 3, 4, reason));
  t.row_stride_bytes = 12;
  assert_false(cs_sdk_check_tensor(&t, "x", f32, 3, 4, reason));
  assert_string_equal(reason, "x: rows overlap");
  t.row_stride_bytes = UINT64_MAX / 4 * 4; /* whole elements, and a product that wraps */
  assert_true(cs_sdk_check_tensor(&t, "x", f32, 3, 4, reason));
  assert_false(cs_sdk_check_window(&t, "x", UINT64_MAX, reason));
  t.dims[1] = UINT64_C(1) << 31;
  assert_false(cs_sdk_check_tensor(&t, "x", f32, 3, UINT64_C(1) << 31, reason));
  assert_string_equal(reason, "x: extents out of range");
}

/* Whether kv_gather would be planned, with one thing changed at a time. */
static void caches_are_checked_before_they_are_moved(void **state) {
  (void)state;
  char reason[CS_SDK_REASON_BYTES] = "";
  const uint64_t served = CS_DTYPE_BIT(CS_DTYPE_F16) | CS_DTYPE_BIT(CS_DTYPE_I8);
  const cs_tensor cache = {
      .dtype = CS_DTYPE_F16, .layout = CS_LAYOUT_KV_HEAD_MAJOR, .rank = 4, .dims = {5, 32, 3, 8}};
  const cs_tensor plain = {.dtype = CS_DTYPE_I32, .rank = 1, .dims = {2}};
  cs_tensor t[6] = {plain, plain, cache, cache, plain, plain};
  const cs_op op = {.id = CS_OP_KV_GATHER, .n_operands = 6, .operands = t};
  cs_sdk_kv_move move;
  t[0] = (cs_tensor){.dtype = CS_DTYPE_U8, .rank = 1, .dims = {7 * 3 * 2 * 8 * 2 + 1}};
  t[1].dtype = CS_DTYPE_U64;
  t[1].dims[0] = 1;
  assert_true(cs_sdk_check_kv_move(&op, served, &move, reason));
  assert_int_equal(move.wire_dtype, CS_DTYPE_F16);
  assert_int_equal(move.token_bytes, 3 * 2 * 8 * 2);
  assert_int_equal(move.wire_tokens, 7);
  assert_int_equal(move.k.block_stride, 32 * 3 * 8);
  assert_int_equal(move.k.head_stride, 32 * 8);
  assert_int_equal(move.v.token_stride, 8);
  t[2].dims[1] = t[3].dims[1] = 48;
  assert_false(cs_sdk_check_kv_move(&op, served, &move, reason));
  assert_string_equal(reason, "k_cache: blocks of 48 tokens are not served");
  t[2].dims[1] = t[3].dims[1] = 32;
  t[3].dims[2] = 2;
  assert_false(cs_sdk_check_kv_move(&op, served, &move, reason));
  assert_string_equal(reason, "k_cache and v_cache differ in blocks, heads or dtype");
  t[3] = (cs_tensor){.dtype = CS_DTYPE_NONE};
  assert_true(cs_sdk_check_kv_move(&op, served, &move, reason));
  assert_int_equal(move.v.width, 0);
  assert_int_equal(move.wire_tokens, 14);
  t[2].layout = CS_LAYOUT_KV_HEAD_MINOR;
  assert_false(cs_sdk_check_kv_move(&op, served, &move, reason));
  t[2].layout = CS_LAYOUT_KV_TOKEN_MAJOR;
  t[2].dtype = CS_DTYPE_I8;
  t[2].dims[3] = 6;
  assert_false(cs_sdk_check_kv_move(&op, served, &move, reason));
  assert_string_equal(reason, "k_cache: int8 rows of 6 are not whole words");
}

static void arrays_grow_and_keep_their_bytes(void **state) {
  (void)state;
  void *array = NULL;
  uint64_t capacity = 0;
  assert_true(cs_sdk_grow(&test_host, &array, 0, 10, &capacity));
  assert_true(capacity >= 10);
  memset(array, 0x5a, capacity);
  const uint64_t used = capacity;
  void *const first = array;
  assert_true(cs_sdk_grow(&test_host, &array, used, used, &capacity));
  assert_ptr_equal(array, first);
  assert_true(cs_sdk_grow(&test_host, &array, used, used + 1, &capacity));
  assert_int_equal(capacity, 2 * (used + 1));
  for (uint64_t i = 0; i < used; i++)
    assert_int_equal(((const unsigned char *)array)[i], 0x5a);
  assert_false(cs_sdk_grow(&test_host, &array, used, UINT64_MAX, &capacity));
  assert_int_equal(capacity, 2 * (used + 1));
  test_host.deallocate(test_host.context, array);
}

static void only_files_of_enough_bytes_are_imported(void **state) {
  (void)state;
  int ends[2];
  FILE *file = tmpfile();
  assert_non_null(file);
  const int fd = fileno(file);
  assert_int_equal(ftruncate(fd, 4096), 0);
  assert_int_equal(cs_sdk_check_import(CS_EXTERNAL_FD, fd, 4096, NULL), CS_OK);
  assert_int_equal(cs_sdk_check_import(CS_EXTERNAL_FD, fd, 4097, NULL), CS_INVALID_ARGUMENT);
  assert_int_equal(cs_sdk_check_import(CS_EXTERNAL_FD, fd, 0, NULL), CS_INVALID_ARGUMENT);
  assert_int_equal(cs_sdk_check_import(CS_EXTERNAL_FD + 1, fd, 16, NULL), CS_UNSUPPORTED);
  assert_int_equal(cs_sdk_check_import(CS_EXTERNAL_FD, -1, 16, NULL), CS_INVALID_ARGUMENT);
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(cs_sdk_check_import(CS_EXTERNAL_FD, ends[0], 16, NULL), CS_INVALID_ARGUMENT);
  close(ends[0]);
  close(ends[1]);
  fclose(file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(copies_keep_their_order_and_their_ranges),
      cmocka_unit_test(a_semaphore_of_another_device_is_refused),
      cmocka_unit_test(a_prepared_list_runs_once_or_often_and_is_discarded_once),
      cmocka_unit_test(a_refused_list_is_told_at_once),
      cmocka_unit_test(a_failing_op_poisons_with_its_index_after_a_drain),
      cmocka_unit_test(eager_ops_are_derived_from_programs),
      cmocka_unit_test(a_derived_program_is_destroyed_when_its_launch_fails),
      cmocka_unit_test(programs_are_derived_from_eager_ops),
      cmocka_unit_test(ops_are_timed_while_that_is_on),
      cmocka_unit_test(a_query_from_a_newer_host_is_answered_no),
      cmocka_unit_test(operand_checks_say_what_is_wrong),
      cmocka_unit_test(caches_are_checked_before_they_are_moved),
      cmocka_unit_test(arrays_grow_and_keep_their_bytes),
      cmocka_unit_test(only_files_of_enough_bytes_are_imported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
